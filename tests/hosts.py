"""Hosts for tests: namespaces of this machine with addresses, names and sshd of their own, and faults between them.

    with Hosts(3) as hosts:
        one, two, three = hosts
        subprocess.run(["ssh", "-F", hosts.ssh_config, one.name, "hostname"])
        with one.partition(): ...

Each host has its own network, host name, process ids, `/dev/shm` and `/run`; it shares the files and the control
groups of this machine. All hosts are ports of one switch, which is a namespace too, so that the firewall of this
machine is not in their way. The test itself is the master: `hosts.master.address`. A master in a namespace of its own
is a host like any other, on which the test runs a program.

Process 1 of each namespace is a shell that reads commands from the test. When the test ends, however it ends, the shell
reads the end of its input, and the kernel kills what lives in the namespace and removes its network. What is left then,
a folder and control groups, carries the process id of the test in its name and goes when hosts are made the next time.
"""

import contextlib
import fcntl
import ipaddress
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from namespaces import KINDS, Namespaces
from waiting import until

PREFIX = "farcall-hosts-"
PROGRAMS = ["bash", "ip", "mount", "nft", "nsenter", "setpriv", "ssh", "ssh-keygen", "sshd", "unshare"]
HIDDEN, GATEWAY = "192.168.0.2", "192.168.0.1"  # what NAT hides, and the router's side of it
WIRE = Path(__file__).parent / "network" / "wire.py"

# A partition drops all but ARP, as a cut far from the host would: then addresses stay known and connections time out.
SWITCH = """
echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
ip link add switch type bridge mcast_snooping 0
ip link set switch up
nft -f - <<'END'
table bridge faults {
    set cut { type ifname; }
    chain in { type filter hook prerouting priority -300; iifname @cut ether type != arp drop; }
    chain out { type filter hook postrouting priority 300; oifname @cut ether type != arp drop; }
}
END
"""

# The rule does nothing but have connections tracked from the first packet, for a firewall that comes later.
HOST = """
echo {name} > /proc/sys/kernel/hostname
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mkdir /run/sshd
mount --bind {folder}/hosts /etc/hosts
ip link set lo up
ip address add {address} dev eth0
ip link set eth0 up
{route}
nft -f - <<'END'
table inet tracked {{
    chain in {{ type filter hook input priority 0; ct state established accept; }}
}}
END
"""

ROUTER = """
echo 1 > /proc/sys/net/ipv4/ip_forward
ip address add {address} dev eth0
ip address add {gateway} dev inside
ip link set eth0 up
ip link set inside up
nft -f - <<'END'
table ip nat {{
    chain in {{ type nat hook prerouting priority -100; iifname eth0 tcp dport 22 dnat to {hidden}; }}
    chain out {{ type nat hook postrouting priority 100; masquerade; }}
}}
table ip filter {{
    chain input {{ type filter hook input priority 0; policy drop; }}
    chain forward {{
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname inside accept
        ct status dnat accept
    }}
}}
END
"""

FIREWALL = """
table inet firewall {{
    chain in {{
        type filter hook input priority 0; policy drop;
        iifname lo accept
        ct state established,related accept
        {allow}
    }}
    chain out {{
        type filter hook output priority 0;
        {refuse}
    }}
}}
"""

# The exchange of keys that costs least: tests log in often.
SSHD = """
ListenAddress {address}
HostKey {folder}/key
PidFile {folder}/pid
AuthorizedKeysFile {identity}.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
MaxStartups 100
KexAlgorithms curve25519-sha256
Subsystem sftp internal-sftp
"""

SSH = """Host *
    User root
    IdentityFile {identity}
    IdentitiesOnly yes
    UserKnownHostsFile {known}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
"""


def missing() -> str:
    """Return what this machine lacks to make hosts, in words; empty if nothing."""
    if os.geteuid() != 0:
        return "root"
    if lacking := [each for each in PROGRAMS if shutil.which(each) is None]:
        return ", ".join(lacking)
    tried = subprocess.run(
        ["unshare", "--fork", *KINDS, "--mount-proc", "bash", "-ec", SWITCH], capture_output=True, text=True
    )
    return f"namespaces with nftables: {tried.stderr}" if tried.returncode else ""


def cpu_groups() -> Path | None:
    """Return the folder of the control groups that limit processors, of either version; None if there is none."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        folder, (kind, _, options) = Path(before.split()[4]), after.split()
        if kind == "cgroup" and "cpu" in options.split(","):
            return folder
        if kind == "cgroup2" and "cpu" in (folder / "cgroup.controllers").read_text().split():
            return folder
    return None


def set_quota(group: Path, quota: float) -> None:
    """Have what is in a control group share this part of one processor."""
    period = max(20_000, int(1_000 / quota) + 1)  # short, so that nobody waits long; the kernel takes 1 ms at least
    allowed = round(quota * period)
    if (group / "cpu.cfs_quota_us").exists():
        (group / "cpu.cfs_period_us").write_text(f"{period}")
        (group / "cpu.cfs_quota_us").write_text(f"{allowed}")
    else:
        (group.parent / "cgroup.subtree_control").write_text("+cpu")
        (group / "cpu.max").write_text(f"{allowed} {period}")


def _started(pid: int | str) -> str:
    """Return when a process started, in the kernel's clock; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _remove_leftovers() -> None:
    """Remove the folders and control groups whose maker is gone."""
    groups = cpu_groups()
    for folder in [Path(tempfile.gettempdir()), *([groups] if groups else [])]:
        for left in folder.glob(f"{PREFIX}*"):
            maker = re.match(rf"{PREFIX}(\d+)-(\d+)-", left.name)
            if maker is None or _started(maker[1]) == maker[2]:
                continue
            if folder == groups:
                _remove_group(left)
            else:
                shutil.rmtree(left, ignore_errors=True)


def _remove_group(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        pass  # somebody else removed it
    except OSError:
        return False  # a process in it is still ending
    return True


@dataclass(frozen=True)
class Master:
    """The side of the test itself: this machine, as the hosts see it."""

    name: str
    address: str


class Host:
    """One host. `name` is its host name, and `address` where others reach it. `Hosts` makes it."""

    def __init__(self, hosts: "Hosts", namespaces: Namespaces, name: str, address: str, gateway: str = "") -> None:
        self.name = name
        self.address = address
        self.own_address = HIDDEN if gateway else address
        self._hosts = hosts
        self.namespaces = namespaces
        self._folder = hosts.folder / name
        self._folder.mkdir()
        (self._folder / "hosts").touch()
        route = f"ip route add default via {gateway}" if gateway else ""
        namespaces.do(HOST.format(name=name, folder=self._folder, address=f"{self.own_address}/24", route=route))
        self._start_sshd()

    def __repr__(self) -> str:
        return f"<Host {self.name} at {self.address}>"

    def run(self, command: Iterable[object], **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command on the host, as root and in the current directory, and return its end and output."""
        options = {"capture_output": True, "text": True, "timeout": 30, **options}
        return subprocess.run(self.namespaces.enter(command), **options)

    def popen(self, command: Iterable[object], **options: Any) -> "subprocess.Popen[str]":
        """Start a command on the host, as root and in the current directory. It is killed with the host."""
        return subprocess.Popen(self.namespaces.enter(command), **{"text": True, **options})

    def processes(self) -> set[int]:
        """Return the processes on the host, numbered as the test sees them, but for those that make it a host."""
        own = {1, self._sshd()}
        return {pid for pid, inside, _ in self.namespaces.processes() if inside not in own}

    def wait_until_idle(self) -> None:
        """Wait until nothing runs on the host."""
        assert until(lambda: not self.processes()), list(self.namespaces.processes())

    @contextlib.contextmanager
    def partition(self) -> Iterator[None]:
        """Drop every packet to and from the host, without a word to either side."""
        ports = f"bridge faults cut {{ {self.name}, {self.name}-slow }}"
        self._hosts.switch.do(f"nft add element {ports}")
        try:
            yield
        finally:
            self._hosts.switch.do(f"nft delete element {ports}")

    @contextlib.contextmanager
    def delay(self, ms: float, loss: float = 0) -> Iterator[None]:
        """Have each packet to and from the host arrive `ms` milliseconds later, and `loss` percent of them never.

        The answer to a packet comes twice that later. A program passes the packets on, for kernels without netem.
        """
        port, slow = self.name, f"{self.name}-slow"
        self._hosts.switch.do(f"""
            ip link add {slow} type veth peer name {port}-wire
            ip link set {port}-wire up
            ip link set dev {port} nomaster
            ip link set dev {slow} master switch up""")
        program = [sys.executable, "-I", "-S", WIRE, port, f"{port}-wire", ms, loss]
        wire = subprocess.Popen(
            self._hosts.switch.enter(program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert wire.stdout is not None
            assert wire.stdout.readline() == "ready\n"
            yield
        finally:
            wire.communicate()  # the end of its input ends it
            self._hosts.switch.do(f"ip link delete {slow}")
            if self.namespaces.are_alive():
                self._hosts.switch.do(f"ip link set dev {port} master switch")

    @contextlib.contextmanager
    def firewall(self, allow: Iterable[int] = (22,), *, reach_master: bool = True) -> Iterator[None]:
        """Drop new connections into the host but for the TCP ports in `allow`; what is established goes on.

        With `reach_master=False` new connections from the host to the master are dropped too.
        """
        ports = ", ".join(map(str, allow))
        rules = FIREWALL.format(
            allow=f"tcp dport {{ {ports} }} accept" if ports else "",
            refuse="" if reach_master else f"ip daddr {self._hosts.master.address} ct state new drop",
        )
        self.namespaces.do(f"nft -f - <<'END'\n{rules}\nEND")
        try:
            yield
        finally:
            if self.namespaces.are_alive():
                self.namespaces.do("nft delete table inet firewall")

    def vanish(self) -> None:
        """Cut the host off and kill everything on it: nobody hears of its end. Only for hosts of `Hosts.another`."""
        self._hosts.switch.do(f"ip link set dev {self.name} down")
        self.namespaces.close()

    def restart_sshd(self) -> None:
        """Cut every SSH connection of the host, and wait until its sshd, with the same number, takes new ones."""
        listener = self._sshd()
        mine = {inside: (pid, name) for pid, inside, name in self.namespaces.processes()}
        connections = [pid for inside, (pid, name) in mine.items() if name == "sshd" and inside != listener]
        for pid in connections:
            with contextlib.suppress(ProcessLookupError):  # it ended with the one before it
                os.kill(pid, signal.SIGKILL)
        assert until(lambda: not any(map(_started, connections)))  # sshd reaps only before it starts anew
        (self._folder / "pid").unlink()
        os.kill(mine[listener][0], signal.SIGHUP)
        self._wait_for_sshd()

    def write_names(self, addresses: dict[str, str]) -> None:
        """Have the host know the others by name."""
        mine = {**addresses, self.name: self.own_address, "localhost": "127.0.0.1"}
        (self._folder / "hosts").write_text("".join(f"{address} {name}\n" for name, address in mine.items()))

    def public_key(self) -> str:
        return " ".join((self._folder / "key.pub").read_text().split()[:2])

    def _start_sshd(self) -> None:
        config = self._folder / "sshd_config"
        _make_key(self._folder / "key")
        address, identity = self.own_address, self._hosts.identity_file
        config.write_text(SSHD.format(address=address, folder=self._folder, identity=identity))
        self.namespaces.do(f"{shutil.which('sshd')} -D -f {config} -E {self._folder}/log >/dev/null 2>&1 &")
        self._wait_for_sshd()

    def _wait_for_sshd(self) -> None:
        """Return when sshd listens: then it writes its number, a line, into a file."""
        log, number = self._folder / "log", self._folder / "pid"
        assert until(lambda: number.exists() and number.read_text().endswith("\n")), log.read_text()

    def _sshd(self) -> int:
        """Return the process of sshd that listens, as it is numbered on the host."""
        return int((self._folder / "pid").read_text())


class Hosts:
    """So many hosts on one switch, from its `with` to the end of that block; iterate over them or take one by number.

    A test that only uses them takes the fixture `hosts`. What lasts for a part of a test only is a `with` block too:
    `another`, `behind_nat` and the faults of `Host`.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._numbers = itertools.count(1)
        self._hosts: list[Host] = []
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> "Hosts":
        _remove_leftovers()
        with contextlib.ExitStack() as undo:
            self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-{_started('self')}-"))
            undo.callback(shutil.rmtree, self.folder)
            self.identity_file = self.folder / "identity"
            self.known_hosts = self.folder / "known_hosts"
            self.ssh_config = self.folder / "ssh_config"
            _make_key(self.identity_file)
            self.switch = Namespaces()
            undo.callback(self.switch.close)
            self.switch.do(SWITCH)
            self._connect_master()
            undo.callback(_ip, f"link delete {self.link}")  # at once; the kernel removes the namespace later
            for _ in range(self._count):
                undo.enter_context(self.another())
            self._closing = undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        for host in self._hosts:
            host.namespaces.close()
        self._closing.close()

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def __getitem__(self, number: int) -> Host:
        return self._hosts[number]

    def __len__(self) -> int:
        return len(self._hosts)

    def __repr__(self) -> str:
        return f"<Hosts: {', '.join(host.name for host in self._hosts)} on {self.link}>"

    @contextlib.contextmanager
    def another(self, name: str | None = None) -> Iterator[Host]:
        """One more host for the block: known to the others, and gone at its end."""
        name, address = self._next(name)
        with contextlib.closing(Namespaces()) as namespaces:
            self._plug(name, namespaces)
            with self._known(Host(self, namespaces, name, address)) as host:
                yield host

    @contextlib.contextmanager
    def behind_nat(self, name: str | None = None) -> Iterator[Host]:
        """One more host for the block, behind a router that forwards only port 22 to it and hides who asks whom.

        `host.address` is the router's. The host can call out, from that address; who calls in comes from the router.
        """
        name, address = self._next(name)
        with contextlib.closing(Namespaces()) as router, contextlib.closing(Namespaces()) as namespaces:
            self._plug(name, router)
            _ip(f"link add inside netns {router.init} type veth peer name eth0 netns {namespaces.init}")
            router.do(ROUTER.format(address=f"{address}/24", gateway=f"{GATEWAY}/24", hidden=HIDDEN))
            with self._known(Host(self, namespaces, name, address, GATEWAY)) as host:
                yield host

    def limit_cpu(self, host: Host, quota: float = 0.1) -> None:
        """Give all that runs on the host, and all that SSH starts there later, this share of one processor together.

        Programs of `host.run` and `host.popen` that start later are not held to it.
        """
        group = self._group(host)
        assert group is not None, "no control groups for processors here"
        group.mkdir(exist_ok=True)
        set_quota(group, quota)
        for pid, _, _ in host.namespaces.processes():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                (group / "cgroup.procs").write_text(str(pid))

    def _plug(self, port: str, namespaces: Namespaces) -> None:
        """Connect eth0 of a namespace with a new port of the switch."""
        _ip(f"link add {port} netns {self.switch.init} type veth peer name eth0 netns {namespaces.init}")
        self.switch.do(f"ip link set dev {port} master switch up")

    def _next(self, name: str | None) -> tuple[str, str]:
        number = next(self._numbers)
        return name or f"host{number}", str(self._network[number + 1])

    @contextlib.contextmanager
    def _known(self, host: Host) -> Iterator[Host]:
        try:
            self._hosts.append(host)
            self._write_names()
            assert until(lambda: _is_reachable(host.address), 20), f"{host} does not answer"
            yield host
        finally:
            host.namespaces.close()
            self._hosts.remove(host)
            self._write_names()
            shutil.rmtree(self.folder / host.name)
            if group := self._group(host):
                assert until(lambda: _remove_group(group)), f"{group} is in use"

    def _connect_master(self) -> None:
        """Take a network that this machine does not use yet. The lock is against others who look at the same time."""
        lock = os.open(tempfile.gettempdir(), os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._network = _unused_network()
            self.link = f"farcall{self._network[0].packed[2]}"
            self.master = Master("master", str(self._network[1]))
            _ip(f"link add {self.link} type veth peer name master netns {self.switch.init}")
            _ip(f"link set {self.link} up addrgenmode none")
            _ip(f"address add {self.master.address}/24 dev {self.link}")
        finally:
            os.close(lock)
        self.switch.do("ip link set dev master master switch up")

    def _group(self, host: Host) -> Path | None:
        groups = cpu_groups()
        return groups and groups / f"{self.folder.name}-{host.name}"

    def _write_names(self) -> None:
        """Write who is where, for the hosts and for ssh."""
        addresses = {self.master.name: self.master.address, **{host.name: host.address for host in self._hosts}}
        for host in self._hosts:
            host.write_names(addresses)
        keys = [f"{host.name},{host.address} {host.public_key()}\n" for host in self._hosts]
        self.known_hosts.write_text("".join(keys))
        aliases = [f"Host {host.name}\n    HostName {host.address}\n" for host in self._hosts]
        options = SSH.format(identity=self.identity_file, known=self.known_hosts)
        self.ssh_config.write_text("".join([*aliases, options]))


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True)


def _is_reachable(address: str) -> bool:
    """Whether this machine knows which interface has an address; ask for it.

    A busy kernel may open the port of a new host on the switch only seconds later.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_packet:
        any_packet.sendto(b"", (address, 9))
    seen = subprocess.run(["ip", "neighbour", "show", "to", address], capture_output=True, text=True, check=True)
    return "lladdr" in seen.stdout


def _make_key(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _unused_network() -> ipaddress.IPv4Network:
    """Return a small private network that no route of this machine leads to."""
    listed = subprocess.run(["ip", "-json", "-4", "route", "show", "table", "all"], capture_output=True, check=True)
    taken = [ipaddress.ip_network(each["dst"]) for each in json.loads(listed.stdout) if each["dst"] != "default"]
    for network in ipaddress.ip_network("10.214.0.0/16").subnets(new_prefix=24):
        if not any(network.overlaps(each) for each in taken):
            return network
    raise RuntimeError("no private network is left in 10.214.0.0/16")
