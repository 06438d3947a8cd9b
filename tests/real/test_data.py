"""Large data between real processes: shared memory on one host, the socket elsewhere, nothing left behind."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from waiting import until

import farcall as fc
from farcall._transport import shm

MB = 1 << 20

pytestmark = pytest.mark.on_every_engine


def _node():
    return fc._cluster.master().node


def describe(array):
    """Return what the receiver sees, after writing to it."""
    before = float(array.sum())
    array[0] = -1
    return before, array.flags.writeable, memory_of(array), float(array[0])


def memory_of(array):
    """Return the type of the object that owns the memory of an array."""
    owner = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base.obj if isinstance(owner.base, memoryview) else owner.base
    return type(owner).__name__


@pytest.mark.parametrize("size", [10, 3_000, 50_000, 2 * MB])
@pytest.mark.parametrize("writeable", [True, False])
def test_arrays_arrive_writable_and_private(cluster, size, writeable):
    """Whichever way an array travels, there and back, the receiver may write to it and nobody else sees that."""
    array = np.ones(size)
    array.flags.writeable = writeable
    for _ in range(2):
        total, writable, _, first = fc.remotecall_fetch(cluster[0], describe, array)
        assert (total, writable, first) == (size, True, -1)
        assert array.sum() == size
    result = fc.remotecall_fetch(cluster[0], np.ones, size)
    result[0] = 5
    assert result.sum() == size + 4
    assert fc.remotecall_fetch(cluster[0], np.ones, size).sum() == size


def test_large_arrays_go_through_shared_memory(cluster):
    """On one host a large array is mapped by its receiver, as argument and as result."""
    _, _, base, _ = fc.remotecall_fetch(cluster[0], describe, np.ones(MB))
    assert base == "Mapping"
    assert memory_of(fc.remotecall_fetch(cluster[0], np.ones, MB)) == "Mapping"


def test_segments_are_reused(cluster):
    """When the receiver has let go, the next buffer is written into the same pages."""
    array = np.ones(MB)
    fc.remotecall_fetch(cluster[0], describe, array)
    segments = _node().segments._segments
    assert until(lambda: not any(each.holders for each in segments.values()))
    before = len(segments)
    for _ in range(5):
        fc.remotecall_fetch(cluster[0], describe, array)
        assert until(lambda: not any(each.holders for each in segments.values()))
    assert len(segments) == before


def test_an_array_that_is_kept_keeps_its_memory(cluster):
    """A receiver that keeps an array sees it unchanged however much is sent later."""
    two = cluster[0]
    fc.everywhere("kept = []", pids=two)

    def keep(array):
        kept.append(array)  # noqa: F821

    for value in range(4):
        fc.remotecall_fetch(two, keep, np.full(MB, float(value)))
    for _ in range(4):
        fc.remotecall_fetch(two, describe, np.full(MB, 9.0))
    assert fc.remotecall_fetch(two, eval, "[float(a.mean()) for a in kept]") == [0, 1, 2, 3]


def test_a_read_only_array_is_written_once_for_all_workers(cluster):
    """Eight sends of a read-only array to two workers cost one copy."""
    array = np.ones(2 * MB)
    array.flags.writeable = False
    copies = _node().segments.copies
    for future in [fc.spawnat(pid, describe, array) for pid in cluster * 4]:
        assert future.result()[:2] == (2 * MB, True)
    assert _node().segments.copies == copies + 1


def test_a_view_of_a_writable_array_is_not_taken_for_constant(cluster):
    """A read-only view of memory that can change is copied each time."""
    owner = np.ones(MB)
    view = owner.view()
    view.flags.writeable = False
    assert fc.remotecall_fetch(cluster[0], describe, view)[0] == MB
    owner[0] = 3
    assert fc.remotecall_fetch(cluster[0], describe, view)[0] == MB + 2


def test_more_arrays_than_descriptors(cluster, monkeypatch):
    """Keeping more arrays than files may be open is no trouble: beyond half the limit they are copied."""
    monkeypatch.setattr(shm.resource, "getrlimit", lambda which: (256, 256))
    arrays = [fc.remotecall_fetch(cluster[0], np.full, 20_000, float(i)) for i in range(600)]
    assert [array[-1] for array in arrays] == list(range(600))
    assert {memory_of(array) for array in arrays} == {"Mapping", "mmap"}


def test_many_buffers_in_one_call(cluster):
    """Arrays of all sizes, orders and kinds in one message."""
    arrays = [
        np.arange(n, dtype=kind).reshape(shape, order=order)
        for n, shape in ((0, (0,)), (12, (3, 4)), (60_000, (200, 300)), (MB, (1024, 1024)))
        for kind in ("f8", "i4")
        for order in "CF"
    ]
    back = fc.remotecall_fetch(cluster[0], lambda *given, **named: [*given, named["last"]], *arrays, last=b"x" * MB)
    for sent, received in zip(arrays, back, strict=False):
        np.testing.assert_array_equal(sent, received)
        assert sent.flags.f_contiguous == received.flags.f_contiguous
    assert back[-1] == b"x" * MB


def test_both_directions_at_once(cluster):
    """Large arguments and results of many threads at once neither deadlock nor mix."""
    wrong = []

    def work(value):
        for pid in cluster:
            array = np.full(300_000, float(value))
            if not (fc.remotecall_fetch(pid, lambda a: a + 1, array) == value + 1).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_without_shared_memory_the_socket_serves(cluster, monkeypatch):
    """Where no shared memory is to be had, the same call goes through the socket."""

    def refuse(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shm, "_allocate", refuse)
    monkeypatch.setattr(_node().segments, "_free", [])
    total, writable, base, _ = fc.remotecall_fetch(cluster[0], describe, np.ones(MB))
    assert (total, writable, base) == (MB, True, "mmap")


SMALL_SHM = """
import numpy as np, farcall as fc
with fc.addprocs(2):
    big = np.ones(20_000_000)
    print(fc.remotecall_fetch(2, lambda a: float(a.sum()), big), fc.remotecall_fetch(3, np.ones, 20_000_000).sum())
"""


def test_a_small_dev_shm_is_no_limit(require):
    """With 1 MB in /dev/shm, as in a container, 160 MB arrays travel."""
    require(os.geteuid() == 0 and shutil.which("unshare"), "root and unshare")
    command = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, sys.executable, SMALL_SHM], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("20000000.0 20000000.0\n", "")


def test_a_killed_receiver_gives_the_memory_back():
    """What a dead worker had mapped can be reused at once; a dead owner's arrays stay readable here."""
    (two,) = fc.addprocs(1)
    fc.everywhere("kept = []", pids=two)

    def swap(array):
        kept.append(array)  # noqa: F821
        return array + 1

    result = fc.remotecall_fetch(two, swap, np.ones(MB))
    segments, link = _node().segments._segments, _node().links[two]
    assert any(each.holders[link] for each in segments.values())
    os.kill(fc.remotecall_fetch(two, os.getpid), signal.SIGKILL)
    assert until(lambda: two not in fc.workers())
    assert until(lambda: not any(each.holders[link] for each in segments.values()))
    assert result.sum() == 2 * MB
    result[0] = 0
    del result
    gc.collect()
