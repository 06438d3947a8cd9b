"""Ranks of an MPI job: rank 0 is the master, the others are its workers.

MPI is used to meet, and not after that: messages go as they always do, and programs may use MPI for their own.

``mpiexec`` takes a rank that ends before the others for a failure, and ends the whole job. So the process of a worker
that has left the cluster goes on, idle, until the master says that the job is done; then all end together. The master
says so, and hears that a worker has left, on a connection of its own to each rank: its leash.
"""

import atexit
import contextlib
import fcntl
import importlib
import os
import secrets
import selectors
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NoReturn

from .._errors import LaunchError
from .base import Engine, Launched, Offer
from .exits import Exits
from .local import THREAD_VARIABLES, main_path

_WORKER = "farcall._node.rank"  # what runs in a rank, which an engine never sees from the inside
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")  # Open MPI; MPICH, Intel MPI, Slurm; Slurm with PMIx
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")

_KNOWN, _LAUNCH, _ASK, _FORCE, _FINISH = b"K", b"L", b"A", b"F", b"E"  # what the master says on a leash
_KEY = 16  # bytes by which it knows who is at the other end
_PATIENCE = 1.0  # seconds that a worker has to leave when it must, and a rank to end
_REACH = 5.0  # seconds to connect to one address of the master
_ABORT = 10.0  # seconds in which mpiexec finds that the master is dead, and ends the job
_LOOPBACK = "127.0.0.1"
_SIOCGIFADDR = 0x8915


class MPI(Engine):
    """The other ranks of this job. Make it in every rank, once: in rank 0 it is the engine.

    In any other rank this call does not return: it serves the master, and exits with the job. ``threads`` is how many
    threads the numeric libraries of each worker use, where its environment does not say. LaunchError without
    ``mpiexec``, or if that is of another MPI than mpi4py.
    """

    _made: ClassVar[bool] = False

    def __init__(self, *, threads: int = 1) -> None:
        if MPI._made:
            raise LaunchError("fc.engines.MPI() is made once in a job, and has been: its ranks are workers, or were")
        self._job = _Job()
        MPI._made = True
        if self._job.rank > 0:
            _Follower(self._job).serve()
        self._threads = threads
        self._exits = Exits()
        self._workers: list[Launched] = []
        self._left: set[Launched] = set()
        self._closed = False
        self._process = os.getpid()
        self._leashes = self._job.accept_ranks()
        atexit.register(self._close_unless_launched)

    def __repr__(self) -> str:
        return f"<MPI: {len(self._leashes)} ranks for workers>"

    @staticmethod
    def count_ranks() -> int:
        """Return how many ranks ``mpiexec`` has started, as the environment says; 1 without it."""
        if not any(name in os.environ for name in _RANKS):
            return 1
        return next((int(os.environ[name]) for name in _SIZES if name in os.environ), 1)

    def launch(self, offer: Offer) -> Iterator[Launched | LaunchError]:
        if self._workers:
            raise LaunchError(f"{self!r} has brought them already")
        for leash in self._leashes:
            leash.sendall(_LAUNCH)
        path = [each or os.getcwd() for each in sys.path]
        told = {"token": offer.token.hex(), "timeout": offer.timeout, "path": path, "main": main_path()}
        self._job.world.bcast({**told, "threads": self._threads})
        _, *addresses = self._job.world.gather(None)
        for address, leash, host in zip(addresses, self._leashes, self._job.hosts[1:], strict=True):
            self._workers.append(Launched(address, key=leash, host=host))
        threading.Thread(target=self._tend, name="farcall-mpi", daemon=True).start()
        waiting = list(self._workers)
        try:
            while waiting:
                yield waiting.pop(0)
        finally:
            for worker in waiting:
                self.stop(worker, force=True)

    def stop(self, worker: Launched, *, force: bool) -> None:
        assert isinstance(worker.key, socket.socket)
        with contextlib.suppress(OSError):  # its process is gone
            worker.key.sendall(_FORCE if force else _ASK)
        if force:
            late = threading.Timer(_PATIENCE, self._exits.report, [worker, "it does not answer"])
            late.daemon = True
            late.start()

    def watch(self, on_exit: Callable[[Launched, str], None]) -> None:
        self._exits.watch(on_exit)

    def close(self) -> None:
        """Let all ranks end, as this one is about to. If one of them cannot, MPI ends the job, with status 1."""
        if self._closed or os.getpid() != self._process:
            return
        self._closed = True
        for leash in self._leashes:
            with leash, contextlib.suppress(OSError):  # its process is gone
                leash.sendall(_FINISH)
        busy = [rank for rank, worker in enumerate(self._workers, 1) if worker not in self._left]
        if busy:
            sys.stderr.write(f"farcall: ranks {busy} run code that cannot be interrupted, so MPI ends the job\n")
            self._job.abort()

    def _close_unless_launched(self) -> None:
        if not self._workers:  # else the cluster does, when the workers have left it
            self.close()

    def _tend(self) -> None:
        """Hear who leaves, or whose process ends: the other end of the leash is closed."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                assert isinstance(worker.key, socket.socket)
                selector.register(worker.key, selectors.EVENT_READ, worker)
            while selector.get_map():
                for key, _ in selector.select():
                    selector.unregister(key.fileobj)
                    self._left.add(key.data)
                    self._exits.report(key.data, "its process ended, mpiexec knows how")


class _Follower:
    """Any rank but the first: a worker on the leash of the master."""

    def __init__(self, job: "_Job") -> None:
        self._job = job
        self._finished = threading.Event()

    def serve(self) -> NoReturn:
        """Serve the master, wait for the end of the job, and exit with it. What goes wrong here ends the job."""
        try:
            self._leash = self._job.reach_master()
            if self._leash.recv(1) == _LAUNCH:
                self._be_worker(self._job.world.bcast(None))
            self._leash.close()
        except Exception:
            traceback.print_exc()
            self._job.abort()
        sys.exit(0)

    def _be_worker(self, told: dict[str, Any]) -> None:
        for name in THREAD_VARIABLES:
            os.environ.setdefault(name, str(told["threads"]))
        told["path"] = list(dict.fromkeys([*told["path"], *sys.path]))  # Python may be in another place here
        told["listen"] = [f"tcp:{self._leash.getsockname()[0]}:0"] if self._job.spans_hosts else []
        worker = importlib.import_module(_WORKER).Rank(told, self._say_goodbye)
        self._job.world.gather(worker.address)
        threading.Thread(target=self._heed, args=[worker], name="farcall-mpi", daemon=True).start()
        worker.serve()
        self._finished.wait()

    def _say_goodbye(self) -> None:
        with contextlib.suppress(OSError):  # the master is gone
            self._leash.shutdown(socket.SHUT_WR)

    def _heed(self, worker: Any) -> None:
        """Do what the master says, until the end of this process."""
        while command := self._leash.recv(1):
            if command == _ASK:
                worker.interrupt()
            elif command == _FORCE:
                worker.end()
            elif command == _FINISH:
                self._finished.set()
                time.sleep(_PATIENCE)  # in which the main thread ends the process, unless it still runs user code
                self._job.mpi.Finalize()
                time.sleep(_PATIENCE)  # MPICH may take an end at once for a failure, as the others still finalize
                os._exit(0)
        time.sleep(_ABORT)
        os._exit(1)


class _Job:
    """What MPI is used for."""

    def __init__(self) -> None:
        self.mpi = _import_mpi()
        self.world = self.mpi.COMM_WORLD.Dup()  # so that no message of the program's is taken for one of ours
        self.rank: int = self.world.Get_rank()
        self.hosts: list[str] = self.world.allgather(socket.gethostname())
        self.spans_hosts = len(set(self.hosts)) > 1

    def accept_ranks(self) -> list[socket.socket]:
        """Return a leash for each other rank, in order; in rank 0."""
        with socket.create_server(("" if self.spans_hosts else _LOOPBACK, 0), backlog=len(self.hosts)) as listener:
            hosts = _own_hosts() if self.spans_hosts else [_LOOPBACK]
            self.world.bcast((hosts, listener.getsockname()[1]))
            _, *keys = self.world.gather(None)
            found: dict[bytes, socket.socket] = {}
            while len(found) < len(keys):
                connection, _ = listener.accept()
                key = _receive_key(connection)
                if key in keys:
                    connection.sendall(_KNOWN)
                    found[key] = connection
                else:
                    connection.close()
        return [found[key] for key in keys]

    def reach_master(self) -> socket.socket:
        """Return the other end of a leash; in any rank but 0."""
        hosts, port = self.world.bcast(None)
        key = secrets.token_bytes(_KEY)
        self.world.gather(key)
        for host in hosts:
            with contextlib.suppress(OSError):
                leash = socket.create_connection((host, port), _REACH)
                leash.sendall(key)
                if leash.recv(1) == _KNOWN:
                    leash.settimeout(None)
                    return leash
        here, there = self.hosts[self.rank], self.hosts[0]
        raise LaunchError(f"rank {self.rank} on {here} does not reach rank 0 on {there} at {hosts}, port {port}")

    def abort(self) -> NoReturn:
        """End all ranks at once, with status 1."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the user's, and perhaps closed
                stream.flush()
        self.mpi.COMM_WORLD.Abort(1)
        os._exit(1)


def _import_mpi() -> Any:
    """Return MPI, in use; LaunchError if this process is no rank of its."""
    try:
        from mpi4py import MPI as mpi
    except ImportError as error:
        raise ImportError(f"fc.engines.MPI needs mpi4py: pip install 'farcall[mpi]' ({error})") from error
    if mpi.COMM_WORLD.Get_size() > 1 or (MPI.count_ranks() == 1 and any(name in os.environ for name in _RANKS)):
        return mpi
    if MPI.count_ranks() == 1:
        raise LaunchError("no MPI job here: start the program with mpiexec -n 5 farcall run program.py")
    library = mpi.Get_library_version().split("\n")[0]
    raise LaunchError(f"mpiexec has started {MPI.count_ranks()} ranks, but not for mpi4py, which uses {library}")


def _own_hosts() -> list[str]:
    """Return the addresses at which other hosts may reach this one."""
    hosts = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it is down, or has no address
                packed = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                hosts.append(socket.inet_ntoa(packed[20:24]))
    return [each for each in hosts if not each.startswith("127.")]


def _receive_key(connection: socket.socket) -> bytes:
    """Return what somebody who has connected says first; nothing if that takes too long."""
    connection.settimeout(_PATIENCE)
    with contextlib.suppress(OSError), connection.makefile("rb") as stream:
        key = stream.read(_KEY)
        connection.settimeout(None)
        return key
    return b""
