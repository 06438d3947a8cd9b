"""addprocs, rmprocs and the list of members: the only place where launching meets messaging."""

import atexit
import contextlib
import os
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from ._config import read_config
from ._engines.base import Engine, Launched, Offer
from ._engines.local import Local
from ._errors import LaunchError, ProcessExited
from ._node.current import current_node, find_node, set_node_maker, set_process_node
from ._node.node import Node
from ._node.output import Mirror
from ._node.peers import Peer
from ._node.prompt import Asker, notify
from ._node.worker import leave
from ._remote.calls import run_on
from ._remote.future import Future
from ._transport.addresses import Dialler
from ._types import ProcessId

if TYPE_CHECKING:
    from ._engines.ssh import SshOptions

_ASKED = 2.0  # seconds that a worker has to leave by itself, and as long again after SIGTERM
_AT_EXIT = 0.5  # the same when the master exits, which waits for nobody who is busy
_NOT_MASTER = "only process 1 can add and remove workers"


class Procs(list[ProcessId]):
    """The ids of processes, and a ``with`` block that removes them at its end. A notebook shows how they are.

    Of a cluster whose workers come and go, those go too that have come since, and no more come.
    """

    engine: Engine | None = None

    def __reduce__(self) -> Any:
        return Procs, (list(self),)

    def __enter__(self) -> "Procs":
        return self

    def _repr_html_(self) -> str | None:
        """Return how these processes are, a table for a notebook. Waits half a second at most for their answers."""
        from ._remote.tables import show_processes  # only notebooks need it

        node = find_node()
        return None if node is None else show_processes(node, self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        cluster = _Master.cluster
        if cluster is None:
            return  # at the end of the interpreter it is gone before the block, and must not begin anew
        present = procs()
        leaving = [pid for pid in self if pid in present]
        if leaving:
            rmprocs(*leaving)
        if self.engine is not None and self.engine.is_elastic:
            cluster.let_go(self.engine)


class Cluster:
    """The master's side: which engine runs which worker, and how they join and leave. Any thread."""

    def __init__(self) -> None:
        self.token = secrets.token_bytes(32)
        self._dial = Dialler()
        self.node = Node(1, self.token, read_config(), dial=self._dial)
        self.mirror = Mirror(self.node.cells.begin)
        self.node.on_output = self.mirror.put
        self.node.on_exit = self._exited
        self._records = threading.Lock()  # guards the two tables of ends below
        self._next_pid = 2
        self._engines: dict[ProcessId, tuple[Engine, Launched]] = {}
        self._pids: dict[int, ProcessId] = {}  # by id of the Launched record
        self._early: dict[int, str] = {}  # why workers ended before they had joined
        self._watched: list[Engine] = []
        self._removing: set[ProcessId] = set()
        self._retiring: set[ProcessId] = set()

    def add(self, engine: Engine, timeout: float, at_least: int | None) -> Procs:
        """Launch workers and have them join; see ``addprocs``."""
        added, failures = Procs(), list[Exception]()
        added.engine = engine
        self._watch(engine)
        arrivals = engine.launch(Offer(self.token, timeout))
        try:
            for arrival in arrivals:
                if isinstance(arrival, LaunchError):
                    failures.append(arrival)
                else:
                    self._try_join(engine, arrival, timeout, added, failures)
                if failures and at_least is None:
                    raise failures[0]
            if failures and len(added) < (at_least or 0):
                raise LaunchError(f"only {len(added)} of the {at_least} workers needed came up: {failures[0]}")
        except BaseException:
            arrivals.close()  # type: ignore[attr-defined]
            self.remove(added, waitfor=None)
            if engine.is_elastic:
                self.let_go(engine)
            raise
        for failure in failures:
            warnings.warn(f"going on without a worker: {failure}", RuntimeWarning, stacklevel=4)
        added.sort()
        return added

    def _try_join(
        self, engine: Engine, worker: Launched, timeout: float, added: Procs, failures: list[Exception]
    ) -> None:
        try:
            added.append(self._join(engine, worker, timeout))
        except KeyboardInterrupt:
            engine.stop(worker, force=True)
            raise
        except Exception as error:
            engine.stop(worker, force=True)
            at = f" on {worker.host}" if worker.host else ""
            failures.append(LaunchError(f"a worker started{at} but could not join: {error}"))

    def _join(self, engine: Engine, worker: Launched, timeout: float) -> ProcessId:
        """Give a worker an id, connect to it, introduce it to the others, and repeat what was done everywhere."""
        with self.node.joining:
            pid, self._next_pid = self._next_pid, self._next_pid + 1
            node = self.node
            if worker.output is not None:
                self.mirror.add(pid, worker.output)
            if worker.certificate is not None:
                self._dial.present(worker.address, worker.certificate)
            peer = node.connections.connect(worker.address, pid, timeout)
            if worker.inner_address is not None:
                peer = replace(peer, address=worker.inner_address)
            others = node.peers.members()
            self._engines[pid] = engine, worker
            if worker.news_takes:
                node.news_takes[pid] = worker.news_takes
            with self._records:
                self._pids[id(worker)] = pid
                early = self._early.pop(id(worker), None)
            if early is not None:
                node.exited(pid, early)
            try:
                node.ask(pid, admit, [_pack(each) for each in (*others, peer)])
                for action in list(node.journal):
                    run_on(node, [pid], action)
                run_on(node, [each.pid for each in others if each.pid != 1], (admit, [_pack(peer)]))
            except BaseException:
                self._removing.add(pid)
                raise
            node.peers.add(peer)
            node.changed()
            for each in others:  # who left while this one joined, of which it was not told
                reason = node.peers.reason(each.pid)
                if reason is not None:
                    node.tell(pid, dismiss, each.pid, reason)
            return pid

    def find(self, keys: Collection[object]) -> ProcessId | None:
        """Return a worker that its engine knows by one of these keys, None if there is none."""
        workers = list(self._engines.items())
        return next((pid for pid, (_, worker) in workers if worker.key in keys), None)

    def _watch(self, engine: Engine) -> None:
        if not any(engine is each for each in self._watched):
            self._watched.append(engine)
            engine.watch(self._ended)
            engine.follow(lambda worker: self.node.pool.run(self._join_late, engine, worker))

    def _join_late(self, engine: Engine, worker: Launched) -> None:
        """Have a worker join that nobody waits for."""
        failures = list[Exception]()
        if any(engine is each for each in self._watched):
            self._try_join(engine, worker, self.node.config.worker_timeout, Procs(), failures)
        for failure in failures:
            _report(str(failure))

    def let_go(self, engine: Engine) -> None:
        """Remove what workers an engine has, and want no more from it."""
        self._watched = [each for each in self._watched if each is not engine]
        mine = [pid for pid, (each, _) in list(self._engines.items()) if each is engine]
        if mine:
            self.remove(mine, waitfor=None)
        engine.close()

    def _ended(self, worker: Launched, reason: str) -> None:
        """A process has ended, says its engine."""
        with self._records:
            pid = self._pids.get(id(worker))
            if pid is None:
                self._early[id(worker)] = reason
        if pid is not None:
            self.mirror.drain(pid)
            self.node.exited(pid, "it was removed" if pid in self._removing else reason)

    def _exited(self, pid: ProcessId, reason: str) -> None:
        """A worker is gone: the others must know."""
        engine_and_worker = self._engines.pop(pid, None)
        if engine_and_worker is not None and pid not in self._removing:
            if not self.node.closed:
                _report(f"worker {pid} is gone: {reason}")
            engine_and_worker[0].stop(engine_and_worker[1], force=True)  # it may only be out of reach
        for other in self.node.peers.pids():
            if other != 1:
                with contextlib.suppress(Exception):
                    self.node.tell(other, dismiss, pid, reason)

    def remove(self, pids: Iterable[ProcessId], waitfor: float | None) -> Future[None]:
        """Have workers leave: ask, then SIGTERM, then SIGKILL. See ``rmprocs``."""
        leaving = [pid for pid in dict.fromkeys(pids) if pid in self._engines]
        done = Future[None](self.node, 1)
        thread = threading.Thread(target=self._remove, args=(leaving, _ASKED, done), name="farcall-remove", daemon=True)
        self._removing.update(leaving)
        thread.start()
        if waitfor is None or waitfor > 0:
            try:
                done.result(waitfor)
            except TimeoutError:
                raise TimeoutError(f"workers {leaving} did not leave within {waitfor} s; the removal goes on") from None
        return done

    def retire(self, pids: Iterable[ProcessId]) -> None:
        """Have the engines end more than our part of some workers, when that has left."""
        for pid in pids:
            engine = self._engines[pid][0] if pid in self._engines else None
            if engine is not None and not engine.is_elastic:
                raise ValueError(f"worker {pid} is not one of a Dask cluster, which could retire it")
        self._retiring.update(pids)

    def _remove(self, pids: list[ProcessId], patience: float, done: Future[None] | None) -> None:
        left = {pid: self._engines[pid] for pid in pids if pid in self._engines}
        for pid in left:
            with contextlib.suppress(Exception):
                self.node.tell(pid, leave)
        for force in (False, True):
            if self._all_gone(left, patience):
                break
            for pid, (engine, worker) in left.items():
                if self.node.peers.reason(pid) is None:
                    engine.stop(worker, force=force)
        self._all_gone(left, 10.0)
        for pid, (engine, worker) in left.items():
            if pid in self._retiring:
                with contextlib.suppress(Exception):  # what it is part of is gone
                    engine.retire(worker)
        if done is not None:
            done.finish(None, None)

    def _all_gone(self, pids: Iterable[ProcessId], patience: float) -> bool:
        deadline = time.monotonic() + patience
        with self.node.members_changed:
            return self.node.members_changed.wait_for(
                lambda: all(self.node.peers.reason(pid) is not None for pid in pids),
                max(0.0, deadline - time.monotonic()),
            )

    def close(self) -> None:
        """Remove all workers, print what they left, and stop."""
        self.node.leaving = True
        self._removing.update(self._engines)
        self._remove(list(self._engines), _AT_EXIT, None)
        for engine in self._watched:
            engine.close()
        self.mirror.close(1.0)
        self.node.close()


def _report(what: str) -> None:
    # One write: ``print`` makes two, and other threads write too.
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr is closed: go on
        sys.stderr.write(f"farcall: {what}\n")
        sys.stderr.flush()


def _pack(peer: Peer) -> tuple[Any, ...]:
    return peer.pid, peer.address, peer.host, peer.ospid


def admit(peers: list[tuple[Any, ...]]) -> None:
    """Take in members; runs on workers."""
    node = current_node()
    for each in peers:
        node.peers.add(Peer(*each))
    node.changed()


def dismiss(pid: ProcessId, reason: str) -> None:
    """Take note that a member is gone; runs on workers."""
    current_node().exited(pid, reason)


class _Master:
    """The cluster of this process, made by the first ``addprocs``."""

    cluster: Cluster | None = None
    inherited: ClassVar[list[Cluster]] = []  # of the process that this one was forked from
    lock = threading.Lock()


def master() -> Cluster:
    """Return the cluster of this process; RuntimeError in a worker."""
    node = find_node()
    if node is not None and node.pid != 1:
        raise RuntimeError(_NOT_MASTER)
    with _Master.lock:
        if _Master.cluster is None:
            _Master.cluster = Cluster()
            set_process_node(_Master.cluster.node)
            _Master.cluster.node.reader.interrupts.guard()
            atexit.register(shutdown)
            os.register_at_fork(after_in_child=_forget_cluster)
        return _Master.cluster


set_node_maker(lambda: master().node)


def shutdown() -> None:
    """Remove all workers and leave nothing behind; the next ``addprocs`` begins anew. Runs at exit."""
    with _Master.lock:
        cluster, _Master.cluster = _Master.cluster, None
    if cluster is not None:
        atexit.unregister(shutdown)
        cluster.close()
        set_process_node(None)


def _forget_cluster() -> None:
    """Begin without a cluster in a process forked from the master, whose links these are.

    They stay open here, untouched: to close them would end them there too.
    """
    cluster, _Master.cluster = _Master.cluster, None
    if cluster is not None:
        _Master.inherited.append(cluster)
        cluster.node.closed = True
        atexit.unregister(shutdown)
        set_process_node(None)
    _Master.lock = threading.Lock()


# Public


def addprocs(
    what: Any = None,
    /,
    *,
    threads: int = 1,
    env: Mapping[str, str | None] | None = None,
    cwd: str | None = None,
    python: str | None = None,
    timeout: float | None = None,
    at_least: int | None = None,
    **ssh: "Unpack[SshOptions]",
) -> Procs:
    """Start workers and return their ids, in a list that is also a context manager which removes them.

    ``what`` is how many processes of this machine to start (as many as there are processors by default); or a Dask
    cluster: the address of its scheduler, a ``distributed.Client`` or a ``Cluster``, each of whose workers, also of
    those that come later, then has a process of ours inside; or a list of hosts that SSH reaches, each "user@host:port"
    alone or in a pair with how many workers, or "auto", one for each of its processors; or an engine that brings
    others.

    Local workers see ``sys.path``, the working directory and the environment as they are now; ``env`` overrides
    variables (None removes one), ``cwd`` the directory, ``python`` the interpreter, ``threads`` is how many threads
    NumPy, Numba and their like use in each. On other hosts ``python`` is by default this interpreter's path, if it is
    there, and python3 else; ``cwd`` the home directory; ``identity_file``, ``known_hosts`` (a file, or "add"),
    ``tunnel`` (all goes through SSH) and ``ssh_options`` are for them alone.

    Blocks until the workers answer, at most ``timeout`` seconds (60, or
    FARCALL_WORKER_TIMEOUT). One that cannot start is a ``LaunchError`` with what it printed, and the others are
    removed again; with ``at_least=k`` the rest go on if they are k, and the failures are warned of. Only process 1
    may call this. Julia: the same name.
    """
    cluster = master()
    starter = "what starts the cluster's workers" if _is_dask(what) else f"{type(what).__name__}(...) itself"
    if _is_dask(what):
        what = _dask(what)
    if isinstance(what, bool) or not isinstance(what, (int, Engine, list, tuple, type(None))):
        kinds = "how many local workers to start, a list of hosts as ['user@host:port'], a Dask cluster, or an engine"
        raise TypeError(f"addprocs({what!r}): write {kinds}")
    if isinstance(what, (list, tuple)):
        from ._engines.ssh import SSH  # as lazily as Dask: most programs start local workers only

        engine: Engine = SSH(what, threads=threads, env=env or {}, cwd=cwd, python=python, options=ssh)
    elif ssh:
        raise TypeError(f"{', '.join(ssh)}: only a list of hosts is reached by SSH")
    elif isinstance(what, Engine):
        given = {"threads": None if threads == 1 else threads, "env": env, "cwd": cwd, "python": python}
        unwanted = [name for name, value in given.items() if value is not None]
        if unwanted:
            raise TypeError(f"{', '.join(unwanted)}: give these to {starter}")
        engine = what
    else:
        count = len(os.sched_getaffinity(0)) if what is None else what
        engine = Local(count, threads=threads, env=env or {}, cwd=cwd, python=python)
    return cluster.add(engine, cluster.node.config.worker_timeout if timeout is None else timeout, at_least)


def _is_dask(what: object) -> bool:
    """Whether this is the address of a Dask scheduler, or a client or cluster of Dask's."""
    dask: Any = sys.modules.get("distributed")
    if isinstance(what, str):
        return ":" in what and "@" not in what
    return dask is not None and isinstance(what, (dask.Client, dask.deploy.Cluster))


def _dask(cluster: Any) -> Engine:
    try:
        from ._engines.dask import Dask
    except ImportError as error:
        raise ImportError(f"workers of a Dask cluster need Dask: pip install 'farcall[dask]' ({error})") from error
    atexit.unregister(shutdown)
    atexit.register(shutdown)  # before Dask ends what it has started
    return Dask(cluster)


def rmprocs(*pids: ProcessId | Iterable[ProcessId], waitfor: float | None = None, retire: bool = False) -> Future[None]:
    """Remove workers; return a Future that is done when they are gone.

    Blocks until then; ``waitfor=0`` returns at once; after ``waitfor`` seconds it is a ``TimeoutError``, and the
    removal goes on. A worker is asked to end, which it does when its main thread is free, then gets SIGTERM, then
    SIGKILL. Calls under way there end with ``ProcessExited``. A worker that is gone already is no error, an id
    that never was is a ``ValueError``, and process 1 stays. A worker of a Dask cluster ends, and Dask's worker in which
    it was goes on, unless ``retire=True`` has Dask close that too. Only process 1 may call this. Julia: the same name.
    """
    flat = [pid for each in pids for pid in ([each] if isinstance(each, int) else each)]
    cluster = master()
    if 1 in flat:
        warnings.warn("process 1 is the master and is not removed", RuntimeWarning, stacklevel=2)
    leaving = [pid for pid in flat if pid != 1]
    for pid in leaving:
        with contextlib.suppress(ProcessExited):
            cluster.node.peers.get(pid)
    if retire:
        cluster.retire(leaving)
    return cluster.remove(leaving, waitfor)


def procs(pid: ProcessId | None = None) -> Procs:
    """Return the ids of all processes, or of those on the same host as one. Julia: the same name."""
    node = find_node()
    if node is None:
        if pid not in (None, 1):
            raise ValueError(f"there is no process {pid!r} in this cluster; procs() lists them: [1]")
        return Procs([1])
    return Procs(node.peers.pids() if pid is None else node.peers.on_host_of(pid))


def workers() -> Procs:
    """Return the ids of the workers; ``[1]`` when the master is alone, so that programs run unchanged serially."""
    return Procs([pid for pid in procs() if pid != 1] or [1])


def nprocs() -> int:
    """Return how many processes there are, the master included. Julia: the same name."""
    return len(procs())


def nworkers() -> int:
    """Return how many workers there are; 1 when the master is alone. Julia: the same name."""
    return len(workers())


def interrupt(*pids: ProcessId | Iterable[ProcessId]) -> None:
    """Interrupt the calls under way on workers, on all by default: each raises KeyboardInterrupt there.

    Idle workers are left alone. Returns at once. Only process 1 may call this. Julia: the same name.
    """
    flat = [pid for each in pids for pid in ([each] if isinstance(each, int) else each)]
    node = master().node
    for pid in flat or workers():
        if pid != 1:
            notify(node, pid, interrupt_calls)


def interrupt_calls(node: Node, asker: Asker) -> None:
    """Interrupt every call that has come to this process until now; an operation."""
    for link in list(node.reader.links):
        for call in list(link.running.values()):
            node.pool.run(call.interrupt)
