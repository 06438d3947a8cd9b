"""Workers on a list of hosts, which OpenSSH reaches: with its configuration, agent, jump hosts and known hosts.

One connection of SSH to each host leads to an agent there, which starts the workers and ends with the connection.
Messages do not go through it: they go over TLS, or, with ``tunnel``, through ports that SSH forwards.
"""

import contextlib
import os
import queue
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict, cast

from .._config import read_config
from .._errors import LaunchError
from .._types import Certificate
from .base import Engine, Launched, Offer
from .exits import Exits
from .local import describe_exit
from .remote import BOOT, Arrival, Remote, Way

Count: TypeAlias = int | Literal["auto"]
Hosts: TypeAlias = Sequence[str | tuple[str, Count]]

_HOST = re.compile(
    r"(?:(?P<user>[^@\s-][^@\s]*)@)?(?:\[(?P<six>[0-9a-fA-F:.%\w]+)\]|(?P<name>[^\s:@\[\]-][^\s:@\[\]]*))(?::(?P<port>\d+))?"
)
_CONNECTED = 20.0  # seconds that the beginning of a connection takes at most, if it begins at all
_NO_WAY = 255  # what ssh ends with for reasons of its own
_NOT_RUN = 126, 127  # what a shell ends with if a program may not be run, or is not there
_END = 2.0  # seconds that a host has to say that its workers have ended
_ASIDE = 3.0  # seconds to find out something for an error message


class SshOptions(TypedDict, total=False):
    """What ``addprocs`` takes for hosts besides what it takes for workers of this machine."""

    identity_file: str | os.PathLike[str]
    """A private key. Default: what the agent has, and what the configuration of SSH names."""
    known_hosts: str | os.PathLike[str]
    """A file of host keys; or "add": keys of hosts that are not known yet are added, changed ones refused."""
    tunnel: bool
    """Whether all goes through SSH: for hosts of which only its port can be reached, in either direction."""
    ssh_options: Mapping[str, str]
    """Further options of ssh, as in its configuration: {"ProxyJump": "gateway"}."""


@dataclass(frozen=True)
class SSH(Engine):
    """``hosts``: each "user@host:port", alone or with how many workers, or "auto": one for each of its processors.

    ``python`` is the interpreter there (this one's path if there is one, else python3), which must have farcall;
    ``cwd`` a directory there (the home directory); ``env`` overrides variables there. ``options`` see ``SshOptions``.
    """

    hosts: Hosts
    threads: int = 1
    env: Mapping[str, str | None] = field(default_factory=dict)
    cwd: str | None = None
    python: str | None = None
    options: SshOptions = field(default_factory=SshOptions)
    _exits: Exits = field(default_factory=Exits, init=False, repr=False, compare=False)
    _remotes: list[Remote] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads={self.threads}: each worker needs at least one")
        for host, count in self._counts():
            _parse(host)
            if count != "auto" and (not isinstance(count, int) or count < 1):
                raise ValueError(f"{count!r} workers on {host}: write how many, at least 1, or 'auto'")
        unknown = set(self.options) - set(SshOptions.__annotations__)
        if unknown:
            raise TypeError(f"{', '.join(sorted(unknown))}: addprocs knows {', '.join(SshOptions.__annotations__)}")

    def launch(self, offer: Offer) -> Iterator[Launched | LaunchError]:
        deadline = time.monotonic() + offer.timeout
        arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        waiting = set[Remote]()
        try:
            for each in self._begin(offer, arrivals.put):
                waiting.add(each)
            while waiting:
                try:
                    remote, arrival = arrivals.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    remote = waiting.pop()
                    remote.want_no_more()
                    yield LaunchError(f"{remote.host}: timed out: in {offer.timeout:g} seconds {remote.lack}")
                    continue
                if arrival is None:
                    waiting.discard(remote)
                elif remote in waiting:
                    remote.has_yielded |= isinstance(arrival, Launched)
                    yield arrival
                else:
                    self._discard(arrival)
        finally:
            for each in waiting:
                each.want_no_more()
            while not arrivals.empty():
                self._discard(arrivals.get()[1])

    def stop(self, worker: Launched, *, force: bool) -> None:
        remote, number = cast("tuple[Remote, int]", worker.key)
        remote.stop(number, force=force)

    def watch(self, on_exit: Callable[[Launched, str], None]) -> None:
        self._exits.watch(on_exit)

    def close(self) -> None:
        for remote in self._remotes:
            remote.begin_to_end()
        deadline = time.monotonic() + _END
        while self._remotes:
            self._remotes.pop().end(max(0.0, deadline - time.monotonic()))

    def _counts(self) -> list[tuple[str, Count]]:
        """Return the hosts with how many workers each; TypeError if they are written otherwise."""
        found: list[tuple[str, Count]] = []
        for each in self.hosts:
            match each:
                case str():
                    found.append((each, 1))
                case (str() as host, count):
                    found.append((host, count))
                case _:
                    raise TypeError(f"{each!r} is no host: write 'user@host:port', or ('user@host:port', 2)")
        return found

    def _begin(self, offer: Offer, arrive: Callable[[Arrival], None]) -> Iterator[Remote]:
        """Have all hosts start their workers, as fast as they are asked for."""
        if shutil.which("ssh") is None:
            raise LaunchError("hosts are reached by the program ssh, which is not here: install OpenSSH's client")
        tunnel = self.options.get("tunnel", False)
        certificate = None if tunnel else _make_certificate(offer.token)
        settings = {name: value for name, value in os.environ.items() if name.startswith("FARCALL_")}
        for host, count in self._counts():
            told = {
                "token": offer.token.hex(),
                "timeout": offer.timeout,
                "count": count,
                "threads": self.threads,
                "env": settings | dict(self.env),
                "cwd": self.cwd,
                "certificate": certificate,
            }
            options = self._ssh(offer.timeout)
            way = _Tunnel(host, self.python, options) if tunnel else _Direct(host, self.python, options, certificate)
            self._remotes.append(Remote(way, told, arrive, self._exits))
            yield self._remotes[-1]

    def _discard(self, arrival: Launched | LaunchError | None) -> None:
        """End what has arrived and nobody wants."""
        if isinstance(arrival, Launched):
            self.stop(arrival, force=True)
            for descriptor in arrival.output or ():
                os.close(descriptor)

    def _ssh(self, timeout: float) -> list[str]:
        """Return the command up to the host. What the user says comes first: the first value of an option counts."""
        command = ["ssh", "-T"]
        for name, value in self.options.get("ssh_options", {}).items():
            command += [name, *filter(None, [value])] if name.startswith("-") else ["-o", f"{name}={value}"]
        known = self.options.get("known_hosts", "")
        defaults: dict[str, object] = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "accept-new" if known == "add" else "yes",
            "ConnectTimeout": max(1, round(min(_CONNECTED, timeout * 0.8))),
            "ServerAliveInterval": max(1, round(read_config().heartbeat / 3)),
            "ServerAliveCountMax": 2,
            # What the user's configuration may ask for when he logs in himself. A connection that is there is used.
            "ControlMaster": "no",
            "ClearAllForwardings": "yes",
            "RemoteCommand": "none",
        }
        if known not in ("", "add"):
            defaults["UserKnownHostsFile"] = _quote(known)
        if "identity_file" in self.options:
            defaults |= {"IdentityFile": _quote(self.options["identity_file"]), "IdentitiesOnly": "yes"}
        return command + [word for name, value in defaults.items() for word in ("-o", f"{name}={value}")]


def read_machine_file(path: str | os.PathLike[str]) -> list[tuple[str, Count]]:
    """Return the hosts of a machine file, for ``addprocs``; a host that is named again has so many more workers.

    A line is ``[count*][user@]host[:port]``, where the count is a number or "auto", and a comment begins with #.
    OSError if there is no such file, ValueError for a line that is none. Julia: ``--machine-file``.
    """
    hosts: dict[str, Count] = {}
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        count, _, host = entry.rpartition("*")
        try:
            _parse(host)
            more = "auto" if count == "auto" else int(count or 1)
        except ValueError:
            form = "[count*][user@]host[:port]"
            raise ValueError(f"{path}, line {number}: {entry!r} is not of the form {form}") from None
        before = hosts.get(host, 0)
        hosts[host] = "auto" if "auto" in (more, before) else int(before) + int(more)
    return list(hosts.items())


def _parse(host: str) -> list[str]:
    """Return what ssh is told of a host; ValueError if it is none."""
    found = _HOST.fullmatch(host)
    if found is None or not 0 < int(found["port"] or 22) < 65536:
        raise ValueError(
            f"{host!r} is no host: write 'host', 'user@host', 'user@host:port' or 'user@[IPv6 address]:port'"
        )
    name = found["name"] or found["six"]
    port = ["-p", found["port"]] if found["port"] else []
    return [*port, "--", f"{found['user']}@{name}" if found["user"] else name]


def _quote(path: str | os.PathLike[str]) -> str:
    """Return a path as the configuration of SSH has it, which may have blanks and no variables in it."""
    escaped = str(path).replace("%", "%%")
    return f'"{escaped}"'


def _make_certificate(token: bytes) -> Certificate:
    try:
        from .certificates import make_certificate
    except ImportError as error:
        how = "pip install 'farcall[ssh]', or tunnel=True, which needs none"
        raise LaunchError(f"links over TLS take a certificate, and that takes cryptography ({error}): {how}") from None
    return make_certificate(token)


class _Ssh(Way):
    """What both ways have in common: a command of ssh."""

    def __init__(self, host: str, python: str | None, options: list[str], certificate: Certificate | None) -> None:
        self.host = host
        self.certificate = certificate
        self._python = python
        self._options = options

    def command(self) -> Sequence[str]:
        """Have a shell that everybody has find Python: the user's own may be any."""
        if self._python is None:
            find = f'P={shlex.quote(sys.executable)}; [ -x "$P" ] || P=python3'
        else:
            find = f"P={shlex.quote(self._python.removeprefix('~/'))}"  # it is the home directory where this runs
        script = f'{find}; exec "$P" -c {shlex.quote(BOOT)}'
        return [*self._options, *_parse(self.host), f"exec sh -c {shlex.quote(script)}"]

    def explain(self, said: str, code: int, arrived: bool) -> str:
        last = said.splitlines()[-1] if said else describe_exit(code, None, False)
        if arrived:
            return f"the SSH connection to {self.host} ended: {last}"
        if code in _NOT_RUN:
            return f"{self._python or 'python3'} cannot be run there ({last}): name the interpreter there with python="
        if code != _NO_WAY:
            return f"{self._python or 'Python'} ended there at once: {said or last}"
        if "Host key verification failed" in said and "HAS CHANGED" not in said:
            return f"{said}\n{self._show_key()}"
        return f"SSH does not lead there: {said or last}"

    def _show_key(self) -> str:
        """Return how to make the key of the host known. It is asked for as it will be, say through another host."""
        with tempfile.TemporaryDirectory(prefix="farcall-") as folder:
            found = Path(folder, "known_hosts")
            options = {
                "StrictHostKeyChecking": "accept-new",
                "UserKnownHostsFile": found,
                "GlobalKnownHostsFile": "/dev/null",
                "HashKnownHosts": "no",
                "PreferredAuthentications": "none",
            }
            words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
            command = ["ssh", *words, *self._options[1:], *_parse(self.host), "true"]
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASIDE, check=False)
            if not found.exists():
                return "Log in once by hand, with ssh, to have the keys of all hosts on the way known."
            finger = subprocess.run(["ssh-keygen", "-lf", found], capture_output=True, text=True, check=False).stdout
            line = found.read_text().strip()
        return (
            f"Its key is {finger.strip()}. If that is right, add this line to {self._find_known_hosts()}:\n{line}\n"
            'or have it added: addprocs(..., known_hosts="add"), which still refuses a key that has changed.'
        )

    def _find_known_hosts(self) -> str:
        """Return the file of host keys that ssh adds to."""
        command = [*self._options, "-G", *_parse(self.host)]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        found = re.search(r"^userknownhostsfile (\S+)", shown, re.MULTILINE)
        return found[1] if found else "~/.ssh/known_hosts"


class _Direct(_Ssh):
    """Messages go straight to the workers."""

    _is_reachable = False

    def reach(self, address: str) -> tuple[str, str | None]:
        if not self._is_reachable:
            _, _, port = address.rpartition(" tls:")
            host, _, number = port.rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(number)), _ASIDE).close()
            except OSError as error:
                how = "addprocs(..., tunnel=True) has all go through SSH"
                raise OSError(
                    f"its workers listen at {port}, which cannot be reached from here ({error}): {how}"
                ) from None
            self._is_reachable = True
        return address, None

    def close(self) -> None:
        pass


class _Tunnel(_Ssh):
    """All goes through the connection of SSH, which forwards a socket of ours to each worker.

    The socket lies in a folder of its own, which a shell removes when ssh has ended, also if we end before it.
    """

    def __init__(self, host: str, python: str | None, options: list[str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="farcall-"))
        control = {"ControlMaster": "yes", "ControlPath": _quote(f"{self._folder}/control"), "ControlPersist": "no"}
        words = [word for name, value in control.items() for word in ("-o", f"{name}={value}")]
        super().__init__(host, python, [options[0], *words, *options[1:]], None)

    def command(self) -> Sequence[str]:
        script = 'folder=$1; shift; "$@"; status=$?; rm -rf "$folder"; exit $status'
        return ["sh", "-c", script, "sh", str(self._folder), *super().command()]

    def reach(self, address: str) -> tuple[str, str | None]:
        inner, _, port = address.partition(" tcp:")
        outer = self._folder / port.rpartition(":")[2]
        control = ["ssh", "-S", f"{self._folder}/control", "-F", "none", "-O", "forward", "-L", f"{outer}:{port}"]
        done = subprocess.run([*control, *_parse(self.host)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"SSH forwards no port: {done.stderr.strip()}")
        return f"unix:{outer}", inner

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
