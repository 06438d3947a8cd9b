"""How good channels are: ``python benchmarks/channels.py`` prints each quantity, its goal, and whether that is met.

Times are ratios to a baseline measured in the same run, in turns; each counts with its median over the rounds.
"""

import argparse
import multiprocessing
import os
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from baselines import RawEcho, clock, interleave, mean_time, placed
from peers import IN_FLIGHT, MESSAGE, PEERS, QUEUES, installed, measure
from report import Row, at_most, bandwidth, run

import farcall as fc

_CAPACITY = 1000
_ITEMS = 50_000
_ARRAYS = 50
_ARRAY = 1_000_000  # float64s: 8 MB


def there_and_back(channel: "fc.RemoteChannel[int]", count: int) -> float:
    """Return the seconds that a put and a take need, the mean of so many."""
    return mean_time(lambda: (channel.put(1), channel.take()), count)


def measure_latency(rounds: int) -> Iterator[Row]:
    """Yield what a put and a take need when the channel lives in another process, with a core for each of the two."""
    first, *_, last = sorted(os.sched_getaffinity(0)) * 2
    with fc.addprocs(1) as [worker], RawEcho(MESSAGE) as echo:
        ours, theirs = fc.RemoteChannel[int](), fc.RemoteChannel[int](pid=worker)
        others = [fc.remotecall_fetch(worker, os.getpid), echo.process.pid]
        with placed((os.getpid(), {first}), *[(each, {last}) for each in others]):
            there_and_back(theirs, 500)
            raw, from_master, from_worker = interleave(
                rounds,
                lambda: mean_time(echo, 1000),
                lambda: there_and_back(theirs, 1000),
                lambda: fc.remotecall_fetch(worker, there_and_back, ours, 1000),
            )
    yield at_most("put and take from another process, the channel on a worker; over a raw echo", from_master, raw, 3)
    yield at_most("put and take from another process, the channel on the master; over a raw echo", from_worker, raw, 3)


# Streams


def produce(channel: "fc.RemoteChannel[int]", count: int) -> None:
    """Put numbers into a channel, one after the other, and close it."""
    for number in range(count):
        channel.put(number)
    channel.close()


def consume(channel: "fc.RemoteChannel[int]") -> int:
    """Take what comes until the channel is closed, see that it is in order, and return how much it was."""
    count = 0
    for number in channel:
        assert number == count
        count += 1
    return count


def stream(owner: int, producer: int, consumer: int) -> float:
    """Return the seconds per item of a stream from one process to another through a channel in a third, or so."""
    channel = fc.RemoteChannel[int](_CAPACITY, pid=owner)
    started = clock()
    putting = fc.spawnat(producer, produce, channel, _ITEMS)
    if consumer == fc.myid():
        assert consume(channel) == _ITEMS
    else:
        assert fc.fetch(fc.spawnat(consumer, consume, channel)) == _ITEMS
    fc.fetch(putting)
    return (clock() - started) / _ITEMS


def _produce_for_queue(queue: "multiprocessing.Queue[int]") -> None:
    for number in range(_ITEMS):
        queue.put(number)


def stream_of_queue() -> float:
    """Return the seconds per item of the same stream through a ``multiprocessing.Queue``."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue(_CAPACITY)
    producer = context.Process(target=_produce_for_queue, args=(queue,))
    started = clock()
    producer.start()
    for number in range(_ITEMS):
        assert queue.get() == number
    elapsed = clock() - started
    producer.join()
    return elapsed / _ITEMS


def measure_streams(rounds: int) -> Iterator[Row]:
    """Yield the items per second of one producer and one consumer, over those of ``multiprocessing.Queue``."""
    layouts = {
        "from a worker to the channel's own process": (1, 2, 1),
        "from the channel's own process to a worker": (2, 2, 3),
        "from a worker to another, the channel on that one": (3, 2, 3),
        "from a worker to another, the channel on the master": (1, 2, 3),
    }
    with fc.addprocs(2) as workers:
        names = {1: 1, 2: workers[0], 3: workers[1]}
        measurements: list[Callable[[], float]] = [
            partial(stream, *[names[each] for each in layout]) for layout in layouts.values()
        ]
        queue, *ours = interleave(rounds, stream_of_queue, *measurements)
    for name, seconds in zip(layouts, ours, strict=True):
        goal = name.endswith("own process")
        met = seconds <= queue or seconds <= 1e-5
        yield Row(
            f"items streamed {name}; over multiprocessing.Queue",
            f"{queue / seconds:5.2f} ({1 / seconds:,.0f} over {1 / queue:,.0f}/s)",
            "≥ 1 or 100,000/s" if goal else "",
            met if goal else None,
        )


def produce_arrays(channel: "fc.RemoteChannel[np.ndarray]", count: int) -> None:
    """Put an array again and again."""
    array = np.random.default_rng(1).random(_ARRAY)
    for _ in range(count):
        channel.put(array)


def stream_arrays(worker: int) -> float:
    """Return the seconds per array of a stream from a worker to the channel's own process."""
    channel = fc.RemoteChannel[np.ndarray](4)
    producer = fc.spawnat(worker, produce_arrays, channel, _ARRAYS)
    channel.take()
    started = clock()
    for _ in range(_ARRAYS - 1):
        channel.take()
    elapsed = clock() - started
    fc.fetch(producer)
    return elapsed / (_ARRAYS - 1)


def measure_arrays(rounds: int) -> Iterator[Row]:
    """Yield how quickly arrays stream, over a copy in memory."""
    array = np.random.default_rng(1).random(_ARRAY)
    target = np.zeros(_ARRAY)
    with fc.addprocs(1) as [worker]:
        copy, ours = interleave(
            rounds, lambda: mean_time(lambda: np.copyto(target, array), 50), lambda: stream_arrays(worker)
        )
    yield bandwidth("8 MB arrays streamed, delivered; bytes/s over memcpy", array.nbytes, ours, copy, 0.5)


def measure_peers(rounds: int) -> Iterator[Row]:
    """Yield the same by other libraries, each in a process of its own."""
    for name in installed(QUEUES):
        title = PEERS[name].title
        try:
            times = measure(name, max(3, rounds // 3))
        except RuntimeError as error:
            yield Row(title, f"failed: {error}")
            continue
        yield at_most(f"{title}: one put and get, over a raw echo on two cores", times.call, times.echo)
        yield at_most(f"{title}: {IN_FLIGHT} puts, then as many gets, each pair", times.in_flight, times.echo)


GROUPS: dict[str, Callable[[int], Iterator[Row]]] = {
    "latency": measure_latency,
    "streams": measure_streams,
    "arrays": measure_arrays,
    "peers": measure_peers,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="over which medians are taken (9)")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP", help=str([*GROUPS]))
    arguments = parser.parse_args()
    run(row for group in arguments.only for row in GROUPS[group](arguments.rounds))


if __name__ == "__main__":
    main()
