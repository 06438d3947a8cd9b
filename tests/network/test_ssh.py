"""Workers on hosts that OpenSSH reaches: real hosts, each with an sshd of its own."""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import psutil
import pytest
from hosts import Host, Hosts
from waiting import until

import farcall as fc
from farcall._engines.certificates import make_certificate
from farcall._transport.addresses import Dialler
from farcall.testing import EngineSuite

PACKAGE = Path(fc.__file__).parent


@pytest.fixture
def ssh(hosts: Hosts):
    """The options that make the hosts known by their names; afterwards nothing of the test runs on any."""
    yield {"ssh_options": {"-F": str(hosts.ssh_config)}}
    fc.rmprocs(pid for pid in fc.workers() if pid != 1)
    for host in hosts:
        host.wait_until_idle()


@pytest.fixture
def temporary(monkeypatch):
    """A folder for temporary files, in which nothing must remain. Its name is short, as those of sockets must be."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield folder
        assert until(lambda: os.listdir(folder) == [])


def make_program(path: Path, script: str) -> str:
    """Return the path of a program to be run in the place of the interpreter or of a shell."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def name_of(pid: int) -> str:
    return fc.remotecall_fetch(pid, os.uname).nodename


# The engine


class TestSsh(EngineSuite):
    """One host with several workers."""

    @pytest.fixture(autouse=True)
    def host(self, hosts: Hosts, tmp_path: Path):
        self.path = tmp_path / "python"
        self.hosts = hosts

    def make_offer(self):
        offer = super().make_offer()
        self.dial = Dialler(make_certificate(offer.token))
        return offer

    def make_engine(self, count: int, python: str | None = None):
        options = {"ssh_options": {"-F": str(self.hosts.ssh_config)}}
        return fc.engines.SSH([("host1", count)], python=python, options=options)

    def make_broken_engine(self, words: str):
        return self.make_engine(1, make_program(self.path, f"echo first >&2; echo {words} >&2; exit 3"))

    def count_running(self) -> int:
        found = 0
        for pid in self.hosts[0].processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += "farcall._node.worker" in "".join(psutil.Process(pid).cmdline())
        return found

    def test_closing_the_iterator_stops_who_has_arrived(self, workers):
        """Also a worker that has come and that nobody has asked for yet."""
        engine = self.make_engine(2)
        arrivals = engine.launch(self.make_offer())
        workers.add(engine, next(arrivals))
        assert until(lambda: engine._remotes[0]._complete)
        arrivals.close()
        self.wait_until(lambda: self.count_running() == 1, "the other was not stopped")


# What hosts are


@pytest.mark.parametrize(
    "host",
    ["", "-v", "-oProxyCommand=x", "-oProxyCommand=x@host", "a b", "user@", "host:", "h:99999", "a@b:c", "::1"],
)
def test_what_is_no_host(host):
    """What ssh would take for an option or for something else is a ValueError that says how hosts are written."""
    with pytest.raises(ValueError, match=r"is no host: write 'host', 'user@host'.*'user@\[IPv6 address\]:port'"):
        fc.addprocs([host])


@pytest.mark.parametrize(
    ("hosts", "options", "error", "text"),
    [
        ([("host", 0)], {}, ValueError, "0 workers on host: write how many"),
        ([("host", "all")], {}, ValueError, "'all' workers on host: write how many, at least 1, or 'auto'"),
        (["host"], {"threads": 0}, ValueError, "threads=0"),
        ([7], {}, TypeError, r"7 is no host: write 'user@host:port', or \('user@host:port', 2\)"),
        ([("host", 1, 2)], {}, TypeError, "is no host: write"),
        ("user@host:22", {}, TypeError, r"a list of hosts as \['user@host:port'\]"),
        (["host"], {"tunel": True}, TypeError, "tunel: addprocs knows identity_file, known_hosts, tunnel, ssh_options"),
        (2, {"tunnel": True}, TypeError, "tunnel: only a list of hosts is reached by SSH"),
    ],
)
def test_mistakes_are_errors_at_once(hosts, options, error, text):
    """What cannot be meant is refused before anything is started."""
    with pytest.raises(error, match=text):
        fc.addprocs(hosts, **options)


# What runs there


def test_hosts_have_as_many_workers_as_asked(ssh, capfd):
    """A number, "auto" for one on each processor, or one; what they print, also from C, comes here, with their pids."""
    pids = fc.addprocs([("host1", 2), ("host2", "auto"), "host3"], **ssh)
    names = {pid: name_of(pid) for pid in pids}
    counts = {name: list(names.values()).count(name) for name in names.values()}
    assert counts == {"host1": 2, "host2": len(os.sched_getaffinity(0)), "host3": 1}
    first = min(pids)
    assert fc.procs(first) == [pid for pid in pids if names[pid] == names[first]]

    def chatter():
        print("from Python")
        ctypes.CDLL(None).puts(b"from C")
        ctypes.CDLL(None).fflush(None)
        print("an error", file=sys.stderr)

    for pid in pids:
        fc.remotecall_fetch(pid, chatter)
    fc.rmprocs(pids)
    out, err = capfd.readouterr()
    for pid in pids:
        assert [line for line in out.splitlines() if line.startswith(f"From worker {pid}:")] == [
            f"From worker {pid}:\tfrom Python",
            f"From worker {pid}:\tfrom C",
        ]
        assert f"From worker {pid}:\tan error\n" in err


def test_options_take_effect_there(ssh, tmp_path, monkeypatch):
    """python, cwd, env and threads are of the workers there, and settings of this process go along."""
    monkeypatch.setenv("FARCALL_SMALL_RESULT", "77")
    monkeypatch.setenv("FARCALL_IDLE_THREAD", "8")
    python = make_program(tmp_path / "my python", f'BY=me exec {sys.executable} "$@"')
    env = {"MINE": "yes", "OMP_NUM_THREADS": None, "FARCALL_IDLE_THREAD": "9"}
    [pid] = fc.addprocs(["host1"], python=python, cwd=str(tmp_path), env=env, threads=3, **ssh)
    there = fc.remotecall_fetch(pid, lambda: dict(os.environ))
    assert (there["BY"], there["MINE"], there["NUMBA_NUM_THREADS"]) == ("me", "yes", "3")
    assert (there["FARCALL_SMALL_RESULT"], there["FARCALL_IDLE_THREAD"]) == ("77", "9")
    assert "OMP_NUM_THREADS" not in there
    assert fc.remotecall_fetch(pid, os.getcwd) == str(tmp_path)


def test_hosts_start_side_by_side(ssh, tmp_path):
    """No host waits for another one: each of these waits until all have begun."""
    meet = f"touch {tmp_path}/$(hostname).begun; until [ $(ls {tmp_path} | grep -c begun) = 3 ]; do sleep 0.01; done"
    python = make_program(tmp_path / "python", f'{meet}; exec {sys.executable} "$@"')
    assert len(fc.addprocs(["host1", "host2", "host3"], python=python, timeout=20, **ssh)) == 3


@contextlib.contextmanager
def login_shell(host: Host, folder: Path, script: str):
    """Have root's shell on a host run a script when somebody logs in."""
    shell = make_program(folder / "shell", f'{script}\nexec /bin/sh "$@"')
    root, *others = Path("/etc/passwd").read_text().splitlines()
    (folder / "passwd").write_text("\n".join([f"{root.rpartition(':')[0]}:{shell}", *others, ""]))
    host.namespaces.do(f"mount --bind {folder}/passwd /etc/passwd")
    try:
        yield
    finally:
        host.namespaces.do("umount /etc/passwd")


def test_a_shell_may_be_noisy(ssh, hosts, tmp_path):
    """What a login prints, also without an end of line, and what it reads is not in the way."""
    with login_shell(hosts[0], tmp_path, "echo Welcome; echo noise >&2; [ -t 0 ] || printf 'last login: '"):
        [pid] = fc.addprocs(["host1"], **ssh)
        assert name_of(pid) == "host1"


# What is wrong there


def no_python(folder: Path) -> str:
    return "/no/such/python"


def a_folder(folder: Path) -> str:
    return str(folder)


def no_farcall(folder: Path) -> str:
    venv.create(folder / "bare")
    return str(folder / "bare/bin/python")


def another_farcall(folder: Path) -> str:
    """All of farcall but for its version."""
    other = folder / "other/farcall"
    other.mkdir(parents=True)
    for each in PACKAGE.iterdir():
        if each.name not in ("_version.py", "__pycache__"):
            (other / each.name).symlink_to(each)
    (other / "_version.py").write_text('__version__ = "0.0.9"\n')
    return make_program(folder / "python", f'PYTHONPATH={folder}/other exec {sys.executable} "$@"')


def no_agent(folder: Path) -> str:
    return make_program(folder / "python", "echo Welcome")


@pytest.mark.parametrize(
    ("python", "text"),
    [
        (no_python, r"/no/such/python cannot be run there \(.*not found\): name the interpreter there with python="),
        (a_folder, r"cannot be run there \(.*Permission denied\): name the interpreter"),
        (
            no_farcall,
            r"Python there is 3\.\S+ \S+bare/bin/python and cannot run farcall \(.*No module named 'farcall'.*"
            rf"pip install farcall=={fc.__version__} there",
        ),
        (another_farcall, rf"farcall is 0\.0\.9 there .* and {fc.__version__} here: pip install"),
        (no_agent, "ended there at once: exit status 0"),
    ],
)
def test_a_python_that_will_not_do(ssh, tmp_path, python, text):
    """The error names the host, what is there and what to do."""
    with pytest.raises(fc.LaunchError, match=f"^host2: .*{text}"):
        fc.addprocs(["host2"], python=python(tmp_path), **ssh)


def test_a_directory_that_is_not_there(ssh):
    """The error says which, and that it is missing over there."""
    with pytest.raises(fc.LaunchError, match=r"^host1: cwd='/no/such' is no directory there \(No such file"):
        fc.addprocs(["host1"], cwd="/no/such", **ssh)


ALL_BUT_ONE_HANG = """
import os, time
try:
    os.mkdir("first")
except FileExistsError:
    time.sleep(1000)
"""


def test_of_a_host_that_is_late_those_go_on_that_are_there(ssh, tmp_path):
    """With at_least, when the time is over, a worker that has come works on, and one that comes later ends."""
    (tmp_path / "sitecustomize.py").write_text(ALL_BUT_ONE_HANG)
    with pytest.warns(RuntimeWarning, match="host1: timed out: in 4 seconds not all of its workers came up"):
        [pid] = fc.addprocs(
            [("host1", 2)], at_least=1, timeout=4, cwd=str(tmp_path), env={"PYTHONPATH": str(tmp_path)}, **ssh
        )
    assert name_of(pid) == "host1"


def test_dead_hosts(ssh, hosts, temporary):
    """With at_least they are warned of; without, one is an error with what ssh said, and nobody remains anywhere."""
    dead, unknown = "host3:2222", "nobody.invalid"
    text = rf"^{dead}: SSH does not lead there: ssh: connect to host {hosts[2].address} port 2222: Connection refused"
    with pytest.raises(fc.LaunchError, match=text):
        fc.addprocs([("host1", 2), "host2", dead], tunnel=True, **ssh)
    assert fc.workers() == [1]
    for host in hosts:
        host.wait_until_idle()
    with pytest.warns(RuntimeWarning) as warned:
        [pid] = fc.addprocs(["host1", dead, unknown], at_least=1, tunnel=True, **ssh)
    assert name_of(pid) == "host1"
    assert {str(each.message).split()[5] for each in warned} == {f"{dead}:", f"{unknown}:"}
    with pytest.raises(fc.LaunchError, match=r"only 0 of the 1 workers needed came up: nobody\.invalid: .* resolve"):
        fc.addprocs([unknown], at_least=1, **ssh)
    fc.rmprocs(pid)


def test_what_is_missing_here(ssh, monkeypatch):
    """The programs and packages that this takes are named; a tunnel does without a certificate."""
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "cryptography", None)
        without.delitem(sys.modules, "farcall._engines.certificates")
        with pytest.raises(fc.LaunchError, match=r"takes cryptography .*pip install 'farcall\[ssh\]', or tunnel=True"):
            fc.addprocs(["host1"], **ssh)
        [pid] = fc.addprocs(["host1"], tunnel=True, **ssh)
        fc.rmprocs(pid)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(fc.LaunchError, match="the program ssh, which is not here: install OpenSSH's client"):
        fc.addprocs(["host1"], **ssh)


# Keys


def test_a_host_whose_key_is_not_known(ssh, hosts, tmp_path):
    """It is refused with the line that makes it known, which works; or its key is added; another key is refused."""
    host, known = f"root@{hosts[0].address}", tmp_path / "known hosts"
    identity = {"identity_file": str(hosts.identity_file)}
    with pytest.raises(fc.LaunchError, match="Host key verification failed") as refused:
        fc.addprocs([host], known_hosts=str(known), **identity)
    first, line, last = str(refused.value).splitlines()[-3:]
    assert first.startswith("Its key is 256 SHA256:")
    assert first.endswith("add this line to " + str(known).partition(" ")[0] + ":")
    assert line == f"{hosts[0].address} {hosts[0].public_key()}"
    assert 'known_hosts="add"' in last
    known.write_text(f"{line}\n")
    with fc.addprocs([host], known_hosts=str(known), **identity) as [pid]:
        assert name_of(pid) == "host1"

    added = {"known_hosts": "add", "ssh_options": {"UserKnownHostsFile": f'"{known}"', "HashKnownHosts": "no"}}
    known.unlink()
    with fc.addprocs([host], **added, **identity):
        assert known.read_text() == f"{line}\n"
    known.write_text(f"{hosts[0].address} {hosts[1].public_key()}\n")
    with pytest.raises(fc.LaunchError, match=rf"(?s)^{host}: .*IDENTIFICATION HAS CHANGED.*verification failed\.$"):
        fc.addprocs([host], **added, **identity)


@contextlib.contextmanager
def ssh_agent(folder: Path, identity: Path):
    """Yield the socket of an agent of SSH that holds a key."""
    path = folder / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL) as agent:
        try:
            assert until(path.exists)
            environment = os.environ | {"SSH_AUTH_SOCK": str(path)}
            subprocess.run(["ssh-add", "-q", identity], env=environment, check=True)
            yield str(path)
        finally:
            agent.terminate()


def test_ssh_is_configured_as_ever(hosts, tmp_path, temporary, monkeypatch):
    """Names, keys and ways are those of ssh: an alias, a key that its agent holds, another host on the way."""
    config = tmp_path / "config"
    forward = " LocalForward 192.0.2.1:1 here:1\n ExitOnForwardFailure yes\n"  # fails: that address is not ours
    aliases = f"Host big\n HostName {hosts[0].address}\n RemoteCommand false\n{forward}"
    others = f"Host gate\n HostName {hosts[1].address}\nHost *\n User root\n IdentityFile none\n"
    config.write_text(f"{aliases}{others} UserKnownHostsFile {hosts.known_hosts}\n")
    options = {"-F": str(config), "ProxyJump": "gate"}
    with pytest.raises(fc.LaunchError, match="Permission denied"):
        fc.addprocs(["big"], ssh_options=options)
    with ssh_agent(Path(temporary), hosts.identity_file) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        with fc.addprocs(["big"], ssh_options=options, tunnel=True) as [pid]:
            assert name_of(pid) == "host1"
            assert fc.remotecall_fetch(pid, os.getenv, "SSH_CONNECTION").split()[0] == hosts[1].address


# Ends


def test_a_worker_that_is_killed_says_so(ssh, capfd):
    """With the signal that its host has seen; those beside it go on."""
    killed, other = fc.addprocs([("host1", 2)], **ssh)
    with pytest.raises(fc.ProcessExited, match=rf"worker {killed} is gone: killed by signal 9 \(SIGKILL\)$"):
        fc.remotecall_fetch(killed, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert fc.workers() == [other]
    assert name_of(other) == "host1"


MASTER = """
import sys, threading
import farcall as fc

options = {"ssh_options": {"-F": sys.argv[1]}}
direct, tunnelled = *fc.addprocs(["host1"], **options), *fc.addprocs(["host2"], tunnel=True, **options)
fc.remotecall_fetch(direct, fc.everywhere, "pass")
busy = fc.spawnat(tunnelled, lambda: threading.Event().wait(1000))
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_nothing_remains_of_a_master(hosts, temporary, killed):
    """However it ends, also by SIGKILL, its workers do, and no file of a tunnel remains."""
    command = [sys.executable, "-c", MASTER, hosts.ssh_config]
    environment = os.environ | {"TMPDIR": temporary}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as master:
        assert master.stdout.readline() == "ready\n"
        assert hosts[0].processes()
        assert os.listdir(temporary) != []
        if killed:
            master.kill()
        assert master.communicate("\n", timeout=20)[1] == ""
        assert master.returncode == (-signal.SIGKILL if killed else 0)
    for host in hosts:
        host.wait_until_idle()


# Machine files


def test_a_machine_file_says_where_workers_are(tmp_path):
    """Its lines are those of Julia's, and "auto"; a host that is named again has so many more."""
    path = tmp_path / "hosts"
    path.write_text("# ours\n\nme@big:2222\n  3*small # the old one\nauto*[::1]:22\nsmall\nbig\nbig\n")
    hosts = [("me@big:2222", 1), ("small", 4), ("[::1]:22", "auto"), ("big", 2)]
    assert fc.engines.read_machine_file(path) == hosts
    for line in ("big small", "many*big", "-oProxyCommand=x", "2*", "big:x"):
        path.write_text(f"small\n{line} # mine\n")
        with pytest.raises(ValueError, match=rf"hosts, line 2: '{re.escape(line)}' is not of the form \[count\*\]"):
            fc.engines.read_machine_file(path)


def farcall_run(*arguments: object, **environment: str):
    command = [sys.executable, "-m", "farcall", "run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, env=os.environ | environment)


def test_farcall_run_takes_a_machine_file(hosts, path_to_hosts, tmp_path, temporary):
    """The workers are up when the program begins, and nothing is left when it has ended; -p adds local ones.

    With --tunnel a firewall is not in the way.
    """
    (tmp_path / "hosts").write_text("2*host1\nhost2\n")
    program = "import farcall as fc, os; print(*(fc.remotecall_fetch(pid, os.uname).nodename for pid in fc.workers()))"
    environment = {"PATH": path_to_hosts, "TMPDIR": temporary}
    with hosts[1].firewall():
        done = farcall_run("-p", "1", "--machine-file", tmp_path / "hosts", "--tunnel", "-c", program, **environment)
    assert done.stderr == ""
    local, *others = done.stdout.split()
    assert (local, sorted(others)) == (os.uname().nodename, ["host1", "host1", "host2"])
    for host in hosts:
        host.wait_until_idle()


def test_a_machine_file_that_is_not_there(tmp_path):
    """The error is a line."""
    done = farcall_run("--machine-file", tmp_path / "hosts", "-c", "pass")
    assert done.returncode == 2
    assert done.stderr == f"farcall: [Errno 2] No such file or directory: '{tmp_path}/hosts'\n"
