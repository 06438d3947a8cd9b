"""The hosts of the tests are hosts: names, addresses, sshd and faults are real, and nothing of them remains."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hosts import Host, Hosts, cpu_groups, missing
from waiting import until

PORT = 7000
PYTHON = [sys.executable, "-I", "-S", "-c"]
SHORT = 0.25  # seconds in which an answer would have come

ECHO = """
import socketserver, sys, threading

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(self.client_address[0].encode() + b"\\n")
        while data := self.request.recv(100):
            self.request.sendall(data)

server = socketserver.ThreadingTCPServer(("", int(sys.argv[1])), Echo)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
print("listening", flush=True)
sys.stdin.read()
"""

CALL = """
import socket, sys
try:
    print(socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])).makefile().readline().strip())
except OSError as error:
    print(type(error).__name__)
"""

BUSY = """
import time
before, begun = time.process_time(), time.monotonic()
while time.monotonic() < begun + 0.5:
    pass
print((time.process_time() - before) / (time.monotonic() - begun))
print(open("/proc/self/cgroup").read())
"""


@contextlib.contextmanager
def _echo(host: Host | None) -> Iterator[None]:
    """A server on a host, or beside the test, that tells each caller its address and then repeats what it says."""
    command = [*PYTHON, ECHO, str(PORT)]
    command = host.namespaces.enter(command) if host else command
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        yield
        server.communicate()  # the end of its input ends it


def _call(host: Host, address: str, port: int = PORT, timeout: float = 5) -> str:
    """Return what the server told the host about itself, or the name of the exception."""
    return host.run([*PYTHON, CALL, address, port, timeout]).stdout.strip()


@contextlib.contextmanager
def _connection(address: str) -> Iterator[socket.socket]:
    with socket.create_connection((address, PORT), 5) as connection:
        assert connection.recv(100).endswith(b"\n")  # the greeting
        yield connection


def _repeated(connection: socket.socket, said: bytes, timeout: float = 5) -> bytes:
    connection.settimeout(timeout)
    connection.sendall(said)
    return connection.recv(100)


def _ssh(hosts: Hosts, host: Host, *command: str) -> "subprocess.CompletedProcess[str]":
    arguments = ["ssh", "-F", str(hosts.ssh_config), host.name, *command]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)


def _ssh_by_hand(host: Host, **options: object) -> "subprocess.CompletedProcess[str]":
    """Log in without a configuration file and without the keys of whoever runs the tests."""
    options = {"BatchMode": "yes", "GlobalKnownHostsFile": "/dev/null", "IdentitiesOnly": "yes", **options}
    settings = [f"-o{name}={value}" for name, value in options.items()]
    command = ["ssh", "-F", "none", *settings, f"root@{host.address}", "hostname"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)


def test_ssh_leads_into_each_host(hosts: Hosts):
    """The key and the known hosts of the fixture open each host by its address, and its configuration by its name."""
    for host in hosts:
        keys = {"IdentityFile": hosts.identity_file, "UserKnownHostsFile": hosts.known_hosts}
        assert _ssh_by_hand(host, **keys).stdout == f"{host.name}\n"
    assert _ssh(hosts, hosts[1], "hostname").stdout == "host2\n"
    assert len({host.public_key() for host in hosts}) == 3


def test_ssh_refuses_who_is_not_known(hosts: Hosts):
    """A host whose key is not known is not trusted, and who has no key does not come in."""
    stranger = _ssh_by_hand(hosts[0], IdentityFile=hosts.identity_file, UserKnownHostsFile="/dev/null")
    assert "Host key verification failed" in stranger.stderr
    keyless = _ssh_by_hand(hosts[0], IdentityFile="/dev/null", UserKnownHostsFile=hosts.known_hosts)
    assert "Permission denied (publickey)" in keyless.stderr


def test_hosts_reach_each_other(hosts: Hosts):
    """Hosts have addresses of their own, know each other and the master by name, and reach each other by TCP."""
    one, two, three = hosts
    with _echo(two):
        assert _call(one, "host2") == one.address
        assert _call(three, two.address) == three.address
        with _connection(two.address) as connection:
            assert _repeated(connection, b"hello") == b"hello"
    with _echo(None):
        assert _call(three, "master") == three.address
    assert _call(one, two.address) == "ConnectionRefusedError"


def test_hosts_share_neither_memory_nor_numbers_of_processes(hosts: Hosts):
    """What one host puts into shared memory is not on another, and processes are counted anew on each."""
    one, two, _ = hosts
    assert one.run(["touch", "/dev/shm/here"]).returncode == 0
    assert one.run(["rm", "/dev/shm/here"]).returncode == 0
    one.run(["touch", "/dev/shm/here"])
    assert two.run(["rm", "/dev/shm/here"]).returncode == 1
    assert not Path("/dev/shm/here").exists()
    one.run(["rm", "/dev/shm/here"], check=True)
    assert one.run(["cat", "/proc/1/comm"]).stdout == "bash\n"


def test_processes_on_a_host_are_seen(hosts: Hosts):
    """processes() has what runs on a host, also what a connection left behind there, and nothing from elsewhere."""
    one, two, _ = hosts
    one.wait_until_idle()
    assert _ssh(hosts, one, "nohup sleep 1000 >/dev/null 2>&1 &").returncode == 0
    assert until(lambda: [psutil.Process(each).name() for each in one.processes()] == ["sleep"])
    assert two.processes() == set()
    assert one.run(["pkill", "sleep"]).returncode == 0
    one.wait_until_idle()


def test_a_command_ends_with_its_popen(hosts: Hosts):
    """To kill the process of popen kills the command on the host."""
    with hosts[0].popen(["sh", "-c", "echo begun; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sh:
        assert sh.stdout.readline() == "begun\n"
        assert len(hosts[0].processes()) == 1
        sh.kill()
        hosts[0].wait_until_idle()


def test_a_partition_is_silent_and_heals(hosts: Hosts):
    """In a partition nothing arrives and nothing breaks; what was sent meanwhile arrives when it heals."""
    one, two, three = hosts
    with _echo(two), _connection(two.address) as connection:
        with two.partition():
            with pytest.raises(TimeoutError):
                _repeated(connection, b"meanwhile", SHORT)
            with pytest.raises(TimeoutError):
                socket.create_connection((two.address, PORT), SHORT)
            assert _call(one, two.address, timeout=SHORT) == "TimeoutError"
            with _echo(three):
                assert _call(one, three.address) == one.address  # the others go on
            assert _call(two, two.address) == two.address  # and the host itself
        connection.settimeout(10)
        assert connection.recv(100) == b"meanwhile"
        assert _call(one, two.address) == one.address


def test_a_firewall_lets_only_its_ports_through(hosts: Hosts):
    """New connections reach the host on the allowed ports only; what was established goes on, and so do calls out."""
    one, two, _ = hosts
    with _echo(two), _connection(two.address) as connection:
        with two.firewall():
            assert _repeated(connection, b"established") == b"established"
            assert _call(one, two.address, timeout=SHORT) == "TimeoutError"
            assert _ssh(hosts, two, "hostname").stdout == "host2\n"
            with _echo(None):
                assert _call(two, hosts.master.address) == two.address
        assert _call(one, two.address) == one.address
        with two.firewall(allow=[22, PORT]):
            assert _call(one, two.address) == one.address


def test_a_firewall_may_hide_the_master(hosts: Hosts):
    """With reach_master=False the host cannot call the master, which still calls the host."""
    one, two, _ = hosts
    with _echo(None), two.firewall(reach_master=False):
        assert _call(two, hosts.master.address, timeout=SHORT) == "TimeoutError"
        assert _call(one, hosts.master.address) == one.address
        assert _ssh(hosts, two, "hostname").stdout == "host2\n"


def test_nat_hides_a_host(hosts: Hosts):
    """Behind NAT only port 22 leads in, as from the router; calls out come from the router's address."""
    with hosts.behind_nat("hidden") as hidden:
        name, caller, _, called, _ = _ssh(hosts, hidden, "echo $(hostname) $SSH_CONNECTION").stdout.split()
        assert (name, caller, called) == ("hidden", "192.168.0.1", hidden.own_address)
        with _echo(hidden):
            assert _call(hosts[0], hidden.address, timeout=SHORT) == "TimeoutError"
            assert _call(hidden, "hidden") == hidden.own_address
        with _echo(hosts[0]), _echo(None):
            assert _call(hidden, "host1") == hidden.address
            assert _call(hidden, "master") == hidden.address
    assert _ssh(hosts, hidden, "hostname").returncode == 255


def test_delay_holds_packets_back(hosts: Hosts):
    """A question and its answer take twice the delay, on connections old and new, until the delay ends."""
    one, two, _ = hosts
    with _echo(two), _connection(two.address) as connection:
        with two.delay(60):
            begun = time.monotonic()
            assert _repeated(connection, b"slow") == b"slow"
            assert time.monotonic() - begun >= 0.12
            begun = time.monotonic()
            with _connection(two.address):
                assert time.monotonic() - begun >= 0.24  # the handshake, then the greeting
            assert _call(one, two.address) == one.address
        fastest = []
        for _ in range(20):
            begun = time.monotonic()
            assert _repeated(connection, b"fast") == b"fast"
            fastest.append(time.monotonic() - begun)
        assert min(fastest) < 0.12


def test_packets_are_lost(hosts: Hosts):
    """Of many packets about the share that loss says never arrives; TCP brings all bytes through all the same."""
    send = "import socket, sys\nfor _ in range(300):\n socket.socket(2, 2).sendto(b'', (sys.argv[1], int(sys.argv[2])))"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox, hosts[0].delay(0, loss=50):
        inbox.bind((hosts.master.address, 0))
        hosts[0].run([*PYTHON, send, hosts.master.address, inbox.getsockname()[1]], check=True)
        inbox.settimeout(SHORT)
        arrived = 0
        with contextlib.suppress(TimeoutError):
            while True:
                inbox.recv(1)
                arrived += 1
    assert 90 < arrived < 210
    with hosts[0].delay(1, loss=10):
        said = _ssh(hosts, hosts[0], "seq 100000").stdout.split()
    assert said == [str(number) for number in range(1, 100_001)]


def test_a_host_vanishes(hosts: Hosts):
    """Nothing runs on a host that has vanished, and nobody is told: its connections are silent."""
    with hosts.another("doomed") as doomed, _echo(hosts[0]), hosts[0].firewall([PORT]):
        with doomed.popen([*PYTHON, ECHO, PORT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdout.readline() == "listening\n"
            processes = doomed.processes()
            with _connection(doomed.address) as connection, doomed.delay(1), doomed.firewall([PORT]):
                doomed.vanish()
                assert server.wait(5) == -signal.SIGKILL
                with pytest.raises(TimeoutError):
                    _repeated(connection, b"anybody there?", SHORT)
        assert len(processes) == 1
        assert not any(psutil.pid_exists(each) for each in processes)
        assert doomed.processes() == set()
        with pytest.raises(TimeoutError):
            socket.create_connection((doomed.address, PORT), SHORT)
    assert [host.name for host in hosts] == ["host1", "host2", "host3"]


def test_sshd_starts_again(hosts: Hosts):
    """To restart sshd cuts its connections and has new ones accepted."""
    command = ["ssh", "-F", hosts.ssh_config, "host1", "echo begun; cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ssh:
        assert ssh.stdout.readline() == b"begun\n"
        hosts[0].restart_sshd()
        assert ssh.wait(5) == 255
    assert _ssh(hosts, hosts[0], "hostname").stdout == "host1\n"
    hosts[0].wait_until_idle()


def test_a_host_has_its_share_of_a_processor(hosts: Hosts, require: Callable[[object, str], None]):
    """A loop that ssh starts on a limited host gets no more than its share, and the limit goes with the host."""
    groups = cpu_groups()
    require(groups, "control groups for processors")
    with hosts.another() as limited:
        hosts.limit_cpu(limited, quota=0.2)
        limited.restart_sshd()
        (group,) = groups.glob(f"{hosts.folder.name}*")
        share, seen = _ssh(hosts, limited, f"{sys.executable} -I -S -c '{BUSY}'").stdout.split("\n", 1)
        assert 0 < float(share) < 0.4
        assert group.name in seen
    assert not group.exists()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """missing() says what hosts need and this machine lacks."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing() == "bash, ip, mount, nft, nsenter, setpriv, ssh, ssh-keygen, sshd, unshare"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert missing() == "root"


MAKER = """
import json, psutil, sys
sys.path.insert(0, sys.argv[1])
from hosts import Hosts, cpu_groups

with Hosts(2) as hosts, hosts[0].delay(1), hosts.behind_nat(), hosts[0].popen(["setsid", "sleep", "1000"]):
    if groups := cpu_groups():
        hosts.limit_cpu(hosts[0])
    made = [str(each) for each in groups.glob(f"{hosts.folder.name}*")] if groups else []
    processes = [each.pid for each in psutil.Process().children(recursive=True)]
    print(json.dumps([str(hosts.folder), made, hosts.link, processes]), flush=True)
    sys.stdin.read()
"""


@pytest.mark.usefixtures("hosts")  # so that this is left out where hosts cannot be made
def test_nothing_remains_of_a_killed_maker():
    """Killed with SIGKILL, a maker of hosts leaves no process and no network; files and groups go the next time."""
    command = [sys.executable, "-c", MAKER, Path(__file__).parents[1]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as maker:
        folder, groups, link, processes = json.loads(maker.stdout.readline())
        assert len(processes) > 10
        assert Path("/sys/class/net", link).exists()
        maker.kill()
    assert until(lambda: not any(map(psutil.pid_exists, processes)), 10)
    assert until(lambda: not Path("/sys/class/net", link).exists(), 10)
    assert Path(folder).exists()
    with Hosts(1) as again:
        assert again.folder.parent == Path(tempfile.gettempdir()) == Path(folder).parent
        assert not any(Path(each).exists() for each in [folder, *groups])


def test_hosts_leave_nothing(hosts: Hosts):
    """At the end of their block hosts are gone: processes, network, files."""
    with Hosts(1) as others:
        assert others.link != hosts.link
        folder, link, processes = others.folder, others.link, {others[0].namespaces.init, others.switch.init}
        assert _ssh(others, others[0], "hostname").stdout == "host1\n"
    assert not folder.exists()
    assert not Path("/sys/class/net", link).exists()
    assert not any(map(psutil.pid_exists, processes))
