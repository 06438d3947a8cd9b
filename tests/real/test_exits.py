"""Workers that end, and failures that nobody waits for. Each test has workers of its own."""

import gc
import os
import signal
import tempfile
import threading
import time
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from waiting import until

import farcall as fc
from farcall._cluster import shutdown


def fail(text):
    raise ValueError(text)


def test_a_killed_worker_fails_every_waiter_with_the_reason():
    """Each pending call ends within a second with ProcessExited, whose reason names the signal; later ones too."""
    two, three = fc.addprocs(2)
    futures = [fc.spawnat(two, time.sleep, 60) for _ in range(20)]
    relayed = fc.spawnat(three, fc.remotecall_fetch, two, time.sleep, 60)
    assert fc.remotecall_fetch(three, fc.remotecall_fetch, two, fc.myid) == two
    process = fc.remotecall_fetch(two, os.getpid)
    started = time.perf_counter()
    os.kill(process, signal.SIGKILL)
    for future in futures:
        with pytest.raises(fc.ProcessExited, match=r"worker 2 is gone: killed by signal 9 \(SIGKILL\)") as caught:
            future.result()
        assert caught.value.pid == two
    with pytest.raises(fc.ProcessExited, match="signal 9"):
        relayed.result()
    assert time.perf_counter() - started < 1
    assert isinstance(caught.value, BrokenExecutor)
    assert isinstance(caught.value, BrokenProcessPool)
    with pytest.raises(fc.ProcessExited, match="signal 9"):
        fc.remotecall_fetch(two, os.getpid)
    assert fc.workers() == [three]


def test_an_exit_in_a_call_is_told_with_its_status():
    """os._exit in a call ends the worker; the waiter learns the status."""
    (two,) = fc.addprocs(1)
    with pytest.raises(fc.ProcessExited, match="exit status 3"):
        fc.remotecall_fetch(two, os._exit, 3)


def test_a_signal_in_the_midst_of_a_call_is_told_like_any_other():
    """SIGTERM from outside is told by its status also when it strikes in a call, whose error it is not."""
    (two,) = fc.addprocs(1)
    call = fc.spawnat(two, time.sleep, 60)
    os.kill(fc.remotecall_fetch(two, os.getpid), signal.SIGTERM)
    with pytest.raises(fc.ProcessExited, match=r"exit status 143$"):
        call.result(20)


def test_a_worker_that_cannot_start_shows_what_it_printed():
    """LaunchError ends with the captured output; nothing is left."""
    with pytest.raises(fc.LaunchError, match="No such file"):
        fc.addprocs(2, python="/nowhere/python")
    with pytest.raises(fc.LaunchError, match=r"(?s)exit status.*broken on purpose"):
        fc.addprocs(2, env={"PYTHONPATH": _broken_site()})
    assert fc.workers() == [1]


def _broken_site():
    folder = tempfile.mkdtemp()
    with open(os.path.join(folder, "sitecustomize.py"), "w") as file:
        file.write("import os, sys\nprint('broken on purpose', file=sys.stderr, flush=True)\nos._exit(4)\n")
    return folder


def test_remote_do_reports_its_failure(capfd):
    """The error of a call without an answer is printed on the master's stderr."""
    (two,) = fc.addprocs(1)
    fc.remote_do(two, fail, "unseen")
    fc.rmprocs(two)
    assert "ValueError: unseen" in _settled_output(capfd, "unseen")


def test_a_failure_that_nobody_fetched_is_reported_once(capfd):
    """A Future that failed and was dropped unfetched is reported on the master's stderr, once."""
    (two,) = fc.addprocs(1)
    future = fc.spawnat(two, fail, "forgotten")
    while not future.done():
        threading.Event().wait(0.01)
    del future
    text = _settled_output(capfd, "forgotten")
    fetched = fc.spawnat(two, fail, "fetched")
    assert fetched.exception() is not None
    del fetched
    text += _settled_output(capfd, None)
    assert text.count("ValueError: forgotten") == 1
    assert "fetched\n" not in text.replace("fetched the", "")


def _settled_output(capfd, needle):
    """Return what was printed, waiting for a text, or, for none, a moment in which it could have come."""
    text, deadline = "", time.monotonic() + (5 if needle else 0.2)
    while time.monotonic() < deadline and not (needle and needle in text):
        threading.Event().wait(0.02)
        text += capfd.readouterr().err
    return text


LARGE = 100_000  # float64 values: more than rides back with the completion


def values_there():
    from farcall._node.current import current_node

    gc.collect()
    return len(current_node().references.values)


def test_a_large_value_dies_with_its_owner_a_small_one_has_travelled():
    """After the owner's death a small value is here, and a large one that nobody fetched is ProcessExited."""
    (two,) = fc.addprocs(1)
    small, large = fc.spawnat(two, abs, -3), fc.spawnat(two, np.ones, LARGE)
    fc.wait(small)
    fc.wait(large)
    os.kill(fc.remotecall_fetch(two, os.getpid), signal.SIGKILL)
    assert until(lambda: fc.workers() == [1])
    assert small.result() == 3
    with pytest.raises(fc.ProcessExited, match="signal 9"):
        large.result()


def test_a_holder_that_dies_lets_go():
    """The death of the last holder frees a value."""
    two, three = fc.addprocs(2)
    future = fc.wait(fc.spawnat(two, np.ones, LARGE))

    def keep(f):
        import __main__

        __main__.kept = f

    fc.remotecall_fetch(three, keep, future)
    del future
    assert fc.remotecall_fetch(two, values_there) == 1
    os.kill(fc.remotecall_fetch(three, os.getpid), signal.SIGKILL)
    assert until(lambda: fc.remotecall_fetch(two, values_there) == 0)


def _memory_group():
    """Return the directory of a fresh control group of this process's with 200 MB of memory, None if it cannot be."""
    from farcall._engines.local import _control_group

    group = _control_group() / f"farcall-test-{os.getpid()}"
    try:
        group.mkdir()
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (group / name).exists():
                (group / name).write_text(str(200 << 20))
                return group
        group.rmdir()
    except OSError:
        pass
    return None


def test_a_worker_that_the_kernel_kills_for_memory_says_so(require):
    """The reason names the lack of memory when the kernel says so."""
    group = _memory_group()
    require(group, "a control group for memory that can be written")
    assert group is not None
    try:
        (two,) = fc.addprocs(1)
        (group / "cgroup.procs").write_text(str(fc.remotecall_fetch(two, os.getpid)))
        with pytest.raises(fc.ProcessExited, match=r"signal 9 \(SIGKILL\): out of memory"):
            fc.remotecall_fetch(two, lambda: len(bytearray(1 << 30)))
    finally:
        assert until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_a_forked_child_has_no_cluster_and_harms_none():
    """A process forked from the master begins without workers, and its end does not touch the master's."""
    (two,) = fc.addprocs(1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            alone = fc.workers() == [1]
            fc.addprocs(1)
            status = 0 if alone and fc.remotecall_fetch(2, abs, -3) == 3 else 1
            shutdown()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert fc.remotecall_fetch(two, abs, -4) == 4
