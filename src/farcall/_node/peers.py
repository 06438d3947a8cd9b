"""Who is in the cluster, as far as this process knows. No link, no clock, no lock."""

from dataclasses import dataclass

from .._errors import ProcessExited
from .._types import ProcessId


@dataclass(frozen=True)
class Peer:
    """A process of the cluster. ``address`` is where it can be dialled, empty for one that only dials."""

    pid: ProcessId
    address: str
    host: str
    ospid: int

    def __str__(self) -> str:
        who = "the master" if self.pid == 1 else f"worker {self.pid}"
        return f"{who} ({self.host}), pid {self.ospid}"


class Peers:
    """The members, and why former members left. Process ids are never reused."""

    def __init__(self) -> None:
        self._members: dict[ProcessId, Peer] = {}
        self._exited: dict[ProcessId, str] = {}
        self._withdrawn: dict[ProcessId, float] = {}

    def __repr__(self) -> str:
        return f"<Peers {sorted(self._members)}>"

    def add(self, peer: Peer) -> None:
        """Take in a member; one that has already left stays out, however late the news of its joining."""
        if peer.pid not in self._exited:
            self._members[peer.pid] = peer

    def remove(self, pid: ProcessId, reason: str) -> bool:
        """Take note that a process has left and why; false if that was known. The first reason stands."""
        self._members.pop(pid, None)
        self._withdrawn.pop(pid, None)
        if pid in self._exited:
            return False
        self._exited[pid] = reason
        return True

    def withdraw(self, pid: ProcessId, seconds: float) -> None:
        """Take note that a member does what it has been given, for so long at most, and wants nothing more."""
        if pid in self._members:
            self._withdrawn[pid] = seconds

    def finishes_in(self, pid: ProcessId) -> float:
        """Return how many seconds a member that has withdrawn may go on; 0 if it has not."""
        return self._withdrawn.get(pid, 0.0)

    def get(self, pid: ProcessId) -> Peer:
        """Return a member; ProcessExited if it has left, ValueError if there never was one."""
        peer = self._members.get(pid)
        if peer is not None:
            return peer
        if pid in self._exited:
            raise ProcessExited(pid, self._exited[pid])
        raise ValueError(f"there is no process {pid!r} in this cluster; procs() lists them: {self.pids()}")

    def host(self, pid: ProcessId | None) -> str:
        """Return the host of a member, nothing of one that has left."""
        peer = self._members.get(pid) if pid is not None else None
        return peer.host if peer is not None else ""

    def reason(self, pid: ProcessId) -> str | None:
        """Return why a process left; None if it has not."""
        return self._exited.get(pid)

    def members(self) -> list[Peer]:
        """Return the members."""
        return list(self._members.values())

    def pids(self) -> list[ProcessId]:
        """Return the ids of the members in order."""
        return sorted(self._members)

    def willing(self) -> list[ProcessId]:
        """Return the ids of the members that have not withdrawn, in order."""
        return [pid for pid in self.pids() if pid not in self._withdrawn]

    def takes_work(self, pid: ProcessId) -> bool:
        """Whether a member has not withdrawn; false of one that has left; ValueError if there never was one."""
        if pid not in self._exited:
            self.get(pid)
        return pid in self._members and pid not in self._withdrawn

    def exited(self) -> list[ProcessId]:
        """Return the ids of those who have left, in that order."""
        return list(self._exited)

    def on_host_of(self, pid: ProcessId) -> list[ProcessId]:
        """Return the ids of the members on the same host as a member."""
        host = self.get(pid).host
        return [each for each in self.pids() if self._members[each].host == host]
