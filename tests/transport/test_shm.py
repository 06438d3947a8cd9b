"""Large buffers cross a host by being mapped: written once, private to each receiver, and given back."""

import contextlib
import errno
import gc
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from farcall._transport import shm
from farcall._transport.shm import Mapping, Probe, SegmentPool, can_read, map_segment

SIZE = 300_000
PATIENCE = 20.0  # seconds; a test that needs them has failed


@pytest.fixture
def pool():
    each = SegmentPool(limit=1 << 30)
    yield each
    each.close()


def share(pool, content, receiver="receiver", constant=None):
    return pool.share(memoryview(content), constant, receiver)


def map_here(segment, size=SIZE, on_release=lambda: None):
    """Map a segment as another process of this host would."""
    return map_segment(os.getpid(), segment.descriptor, size, on_release)


def fill(seed, size=SIZE):
    return (bytes(range(251)) * (size // 251 + 2))[seed : seed + size]


def open_descriptors():
    """Return the descriptors of this process and what they are, without that of the listing itself."""
    names = os.listdir("/proc/self/fd")
    return {name: os.readlink(f"/proc/self/fd/{name}") for name in names if os.path.lexists(f"/proc/self/fd/{name}")}


# Another process

RECEIVER = """
    import sys
    from farcall._transport.shm import map_segment

    process, descriptor, size = map(int, sys.argv[1:])
    mapping = map_segment(process, descriptor, size, lambda: print("released", flush=True))
    print(sum(mapping[:]), flush=True)
    mapping[:5] = b"mine!"
    print(mapping[:5].decode(), flush=True)
    sys.stdin.readline()
    print(sum(mapping[5:]), flush=True)
    del mapping
    print("end", flush=True)
"""


@pytest.fixture
def receive():
    """Return a function that has another process map a segment; it says what it sees, line by line."""
    started = []

    def start(segment, size=SIZE):
        environment = {**os.environ, "PYTHONPATH": str(Path(shm.__file__).parents[2])}
        numbers = [str(each) for each in (os.getpid(), segment.descriptor, size)]
        command = [sys.executable, "-c", textwrap.dedent(RECEIVER), *numbers]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        started.append(process)
        return process

    yield start
    for each in started:
        each.kill()
        each.communicate()


def read_line(process):
    return process.stdout.readline().strip()


def test_a_buffer_crosses_to_another_process(pool, receive):
    """Another process of the host sees the content, has it for itself, and says when it needs it no more."""
    content = fill(1)
    segment = share(pool, content)
    process = receive(segment)
    assert read_line(process) == str(sum(content))
    assert read_line(process) == "mine!"
    assert os.pread(segment.descriptor, SIZE, 0) == content
    process.stdin.write("go on\n")
    process.stdin.flush()
    assert read_line(process) == str(sum(content[5:]))
    assert read_line(process) == "released"
    assert read_line(process) == "end"


def test_receivers_do_not_see_each_other(pool, receive):
    """What one receiver writes no other one sees."""
    content = fill(2)
    segment = share(pool, content)
    for process in (receive(segment), receive(segment)):
        assert read_line(process) == str(sum(content))
        assert read_line(process) == "mine!"


def test_a_mapping_outlives_the_segment(pool, receive):
    """A receiver keeps what it has mapped although the sender has given the memory back."""
    content = fill(3)
    process = receive(share(pool, content))
    assert read_line(process) == str(sum(content))
    pool.close()
    process.stdin.write("go on\n")
    process.stdin.flush()
    assert read_line(process) == "mine!"
    assert read_line(process) == str(sum(content[5:]))


# Mappings


def test_a_mapping_is_private_and_writable(pool):
    """An array on a mapping can be written to, and the segment stays as it is."""
    content = fill(4)
    segment = share(pool, content)
    array = np.frombuffer(map_here(segment), "u1")
    assert array.flags.writeable
    array[:] = 0
    assert os.pread(segment.descriptor, SIZE, 0) == content


def test_a_mapping_says_when_its_last_array_is_gone(pool):
    """``on_release`` is called once, when nothing uses the memory any more."""
    released = []
    array = np.frombuffer(map_here(share(pool, fill(5)), on_release=lambda: released.append(1)), "u1")
    view = array[10:]
    del array
    gc.collect()
    assert not released
    del view
    gc.collect()
    assert released == [1]


def test_another_view_of_a_segment_begins_anew(pool):
    """``again`` shows the segment without what was written to the first mapping, which it keeps alive."""
    released = []
    content = fill(6)
    mapping = map_here(share(pool, content), on_release=lambda: released.append(1))
    mapping[:5] = b"mine!"
    other = mapping.again()
    assert other[:] == content
    del mapping
    gc.collect()
    assert not released
    del other
    gc.collect()
    assert released == [1]


def test_what_is_gone_cannot_be_mapped(pool):
    """A segment that its owner has closed, or a size that it does not have, is an OSError or a ValueError."""
    segment = share(pool, fill(7))
    with pytest.raises(ValueError, match="greater than"):
        map_here(segment, size=segment.capacity + 1)
    pool.close()
    with pytest.raises(OSError, match="No such file"):
        map_here(segment)


# The pool


def test_a_released_segment_is_used_again(pool):
    """What nobody holds any more is filled again: the same memory, with the new content."""
    first = share(pool, fill(1))
    pool.release(first.number, "receiver")
    second = share(pool, fill(2))
    assert second is first
    assert map_here(second)[:] == fill(2)
    assert pool.copies == 2


def test_a_held_segment_is_not_used_again(pool):
    """As long as somebody holds a segment its content stays."""
    first = share(pool, fill(1))
    second = share(pool, fill(2))
    assert second is not first
    pool.release(second.number, "receiver")
    third = share(pool, fill(3))
    assert third is second
    assert map_here(first)[:] == fill(1)


def test_a_segment_is_free_when_its_last_holder_lets_go(pool):
    """Each share counts, for each receiver."""
    constant = np.zeros(SIZE, "u1")
    for receiver in ("one", "one", "two"):
        segment = share(pool, constant, receiver, constant)
    del constant
    gc.collect()
    for receiver in ("one", "two"):
        pool.release(segment.number, receiver)
        assert share(pool, fill(1)) is not segment
    pool.release(segment.number, "one")
    assert share(pool, fill(1)) is segment


def test_late_and_unknown_releases_change_nothing(pool):
    """A release of what is not held, or not known, is no error and frees nothing twice."""
    first = share(pool, fill(1))
    for number, receiver in [(99, "receiver"), (first.number, "somebody"), *[(first.number, "receiver")] * 3]:
        pool.release(number, receiver)
    assert share(pool, fill(2)) is first
    assert share(pool, fill(3)) is not first


def test_sizes_fit_roughly(pool):
    """A buffer goes into the smallest segment that holds it, and not into one that is far too large."""
    large, small = share(pool, fill(1, 2_000_000)), share(pool, fill(1, 300_000))
    for each in (large, small):
        pool.release(each.number, "receiver")
    assert share(pool, fill(2, 250_000)) is small
    tiny = share(pool, fill(3, 200_000))
    assert tiny is not large
    assert share(pool, fill(4, 1_900_000)) is large


def test_a_shorter_content_ends_where_it_ends(pool):
    """A segment that held more before shows a receiver no more than the new content."""
    segment = share(pool, fill(1, 300_000))
    pool.release(segment.number, "receiver")
    assert share(pool, fill(2, 260_000)) is segment
    assert map_here(segment, 260_000)[:] == fill(2, 260_000)


def test_a_lost_receiver_lets_go_of_everything(pool):
    """When a receiver is gone its segments are free, and those of others are not."""
    mine, both = share(pool, fill(1), "one"), share(pool, fill(2), "one")
    both.holders["two"] += 1
    pool.lose("one")
    assert share(pool, fill(3), "two") is mine
    assert share(pool, fill(4), "two") is not both
    pool.lose("nobody")


def test_free_memory_is_kept_up_to_the_limit():
    """What nobody holds is given back to the system beyond the limit, the oldest first."""
    pool = SegmentPool(limit=1_000_000)
    segments = [share(pool, fill(number)) for number in range(5)]
    before = len(open_descriptors())
    for each in segments:
        pool.release(each.number, "receiver")
    assert sum(each.capacity for each in pool._free) <= 1_000_000
    assert len(open_descriptors()) == before - 2
    assert share(pool, fill(9)) in segments[2:]
    pool.close()


# Constants


def make_constant():
    array = np.frombuffer(fill(1), "u1")
    return array, memoryview(array)


def test_a_constant_is_written_once_for_all_receivers(pool):
    """Memory that cannot change is copied once, however many receive it and however often."""
    constant, view = make_constant()
    segments = {pool.share(view, constant, receiver).number for receiver in range(10) for _ in range(2)}
    assert len(segments) == 1
    assert pool.copies == 1


def test_a_constant_stays_while_it_lives(pool):
    """The segment of a constant is kept though nobody holds it: it may be sent again."""
    constant, view = make_constant()
    segment = pool.share(view, constant, "receiver")
    pool.release(segment.number, "receiver")
    assert share(pool, fill(2)) is not segment
    assert pool.share(view, constant, "other") is segment
    assert pool.copies == 2


def test_a_constant_that_is_gone_frees_its_segment(pool):
    """When the owner of the memory is gone, and the receivers have let go, the segment is used again."""
    constant, view = make_constant()
    segment = pool.share(view, constant, "receiver")
    del constant, view
    gc.collect()
    assert share(pool, fill(2)) is not segment
    pool.release(segment.number, "receiver")
    assert share(pool, fill(3)) is segment


def test_constants_are_told_apart(pool):
    """Two constants have two segments, and what is no constant is written each time."""
    one, other = make_constant(), make_constant()
    assert pool.share(one[1], one[0], "receiver") is not pool.share(other[1], other[0], "receiver")
    assert pool.share(one[1], None, "receiver") is not pool.share(one[1], None, "receiver")
    assert pool.copies == 4


def share_at_once(pool, receivers, monkeypatch):
    """Have a thread for each receiver share one new constant, all at once; the constant is gone at the end."""
    constant, view = make_constant()
    everybody, write = threading.Barrier(len(receivers)), os.pwrite

    def write_with_the_others(*arguments):
        with contextlib.suppress(threading.BrokenBarrierError):  # the others may be made to wait
            everybody.wait(0.5)
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", write_with_the_others)
    segments = []
    threads = [
        threading.Thread(target=lambda each=each: segments.append(pool.share(view, constant, each)))
        for each in receivers
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    return segments


def test_threads_that_share_one_constant_at_once_lose_no_memory(pool, monkeypatch):
    """When two threads send the same new constant at the same time, all its memory is free in the end."""
    segments = share_at_once(pool, "ab", monkeypatch)
    gc.collect()
    for segment in segments:
        for receiver in "ab":
            pool.release(segment.number, receiver)
    assert [each.holders for each in pool._segments.values() if each.holders] == []


# No memory


def no_memory(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["memfd_create", "ftruncate", "pwrite"])
def test_no_memory_is_no_segment(pool, monkeypatch, name):
    """When the system has no memory ``share`` returns None, nothing stays open, and later there may be some."""
    before = open_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, name, no_memory)
        assert share(pool, fill(1)) is None
        assert share(pool, fill(1), constant=np.zeros(1)) is None
    assert open_descriptors() == before
    assert map_here(share(pool, fill(2)))[:] == fill(2)


def test_no_memory_for_a_free_segment_is_no_segment(pool, monkeypatch):
    """A segment that was free and could not be written is not offered again."""
    first = share(pool, fill(1))
    pool.release(first.number, "receiver")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", no_memory)
        assert share(pool, fill(2) + b"more than has pages") is None
    pool.release(first.number, "receiver")
    second = share(pool, fill(3))
    assert second is not first
    assert map_here(second)[:] == fill(3)


def test_writes_that_take_a_part_go_on(pool, monkeypatch):
    """The system may write less than it is asked to; the rest follows."""
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, place: write(descriptor, data[:70_000], place))
    assert map_here(share(pool, fill(1)))[:] == fill(1)


# The end


def test_closing_leaves_no_descriptors():
    """``close`` gives everything back, held or free; closing again and late releases are no error."""
    before = open_descriptors()
    pool = SegmentPool(limit=1 << 30)
    constant, view = make_constant()
    held, free = share(pool, fill(1)), share(pool, fill(2))
    pool.share(view, constant, "receiver")
    pool.release(free.number, "receiver")
    assert len(open_descriptors()) == len(before) + 3
    pool.close()
    pool.close()
    assert open_descriptors() == before
    pool.release(held.number, "receiver")
    pool.lose("receiver")
    del constant, view
    gc.collect()
    assert open_descriptors() == before


def test_threads_share_one_pool(pool):
    """Whatever threads fill and release at once, no receiver ever sees the content of another."""
    wrong = []

    def work(seed):
        for number in range(30):
            content = fill(seed + number, 200_000 + seed)
            segment = share(pool, content, seed)
            if map_here(segment, len(content))[:] != content:
                wrong.append((seed, number))
            pool.release(segment.number, seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    assert not wrong
    assert len(pool._free) == len(pool._segments) <= 4


# The probe


def test_a_probe_is_read_on_its_host():
    """Who can read the secret through /proc shares this host; a wrong secret or descriptor says no."""
    probe = Probe()
    assert can_read(os.getpid(), probe.descriptor, probe.secret)
    assert not can_read(os.getpid(), probe.descriptor, b"x" * 16)
    assert not can_read(os.getpid(), probe.descriptor, probe.secret[:8])
    assert not can_read(os.getpid(), -1, probe.secret)
    assert not can_read(1 << 30, probe.descriptor, probe.secret)
    pipe, writer = os.pipe()  # what the numbers of a process of another host may mean here
    os.write(writer, probe.secret)
    assert not can_read(os.getpid(), pipe, probe.secret)
    assert os.read(pipe, 100) == probe.secret
    os.close(writer)
    assert not can_read(os.getpid(), pipe, probe.secret)
    os.close(pipe)
    descriptor = probe.descriptor
    probe.close()
    probe.close()
    assert not can_read(os.getpid(), descriptor, probe.secret)


def test_probes_have_secrets_of_their_own():
    """No two probes have one secret."""
    one, other = Probe(), Probe()
    assert one.secret != other.secret
    one.close()
    other.close()


@pytest.mark.parametrize("name", ["memfd_create", "pwrite"])
def test_a_probe_without_memory_is_read_by_nobody(monkeypatch, name):
    """Where memory cannot be shared nobody is told that it can, and nothing stays open."""
    before = open_descriptors()
    monkeypatch.setattr(os, name, no_memory)
    probe = Probe()
    assert probe.descriptor == -1
    assert not can_read(os.getpid(), probe.descriptor, probe.secret)
    assert open_descriptors() == before


def test_mappings_free_their_memory(pool):
    """A mapping that is gone leaves no descriptor and no mapping behind."""
    segment = share(pool, fill(1))
    before = open_descriptors()
    mappings = [map_here(segment) for _ in range(5)]
    assert all(type(each) is Mapping for each in mappings)
    mappings.clear()
    gc.collect()
    assert open_descriptors() == before
