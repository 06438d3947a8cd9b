"""Maps over real workers: what they return, for which inputs, and what they leave behind."""

import gc
import itertools
import operator
import os
import threading
import time

import numpy as np
import pytest
from waiting import until

import farcall as fc
from farcall._node.current import current_node

pytestmark = pytest.mark.on_every_engine


def double(x):
    return 2 * x


def references_here():
    gc.collect()  # of a worker: a cycle may hold one
    return len(current_node().references.values)


# Inputs


@pytest.mark.parametrize(
    "make",
    [
        lambda: [3, 1, 2],
        lambda: range(1000),
        lambda: range(10, -10, -3),
        lambda: "héllo",
        lambda: b"bytes",
        lambda: (n * n for n in range(100)),
        lambda: {"a": 1, "b": 2},
        lambda: {"a": 1, "b": 2}.items(),
        lambda: {5},
        lambda: np.arange(50),
        lambda: np.arange(50.0).reshape(10, 5),
        lambda: np.array(["x", None, 3], dtype=object),
        lambda: [],
        lambda: iter(()),
        lambda: range(0),
        lambda: np.zeros((0, 3)),
        lambda: itertools.islice(itertools.count(), 5000),
    ],
)
def test_a_map_is_map(cluster, make):
    """pmap takes what map takes, and returns in a list what it yields, whatever it is and however long."""
    expected = list(map(repr, make()))
    assert fc.pmap(repr, make()) == expected
    assert list(fc.imap(repr, make())) == expected
    assert sorted(fc.imap(repr, make(), ordered=False)) == sorted(expected)


def test_several_iterables_end_with_the_shortest(cluster):
    """Iterables are zipped, infinite ones too, and the function gets an argument of each."""
    assert fc.pmap(pow, [2, 3, 4], itertools.count(1)) == [2, 9, 64]
    assert fc.pmap(lambda *args: args, "ab", range(9), np.arange(3)) == [("a", 0, 0), ("b", 1, 1)]
    assert fc.pmap(max, [1, 2], []) == []
    with pytest.raises(TypeError, match="nothing to map over"):
        fc.pmap(double)


def test_rows_of_an_array_arrive_as_arrays_of_ones_own(cluster):
    """An item of an array is a row, which f may write to."""

    def spoil(row):
        row += 1
        return row

    array = np.zeros((20, 3000))
    assert np.array_equal(fc.pmap(spoil, array), array + 1)
    assert not array.any()


@pytest.mark.parametrize("size", [1, 3, 100, 10_000])
def test_the_batch_size_does_not_show(cluster, size):
    """Results are the same whatever travels together."""
    assert fc.pmap(double, range(500), batch_size=size) == list(range(0, 1000, 2))


def test_wrong_options_are_named(cluster):
    """An option that there is not, or that makes no sense, is an error that says what to write."""
    with pytest.raises(TypeError, match=r"no option 'chunksize'; it has pool, batch_size.*partial"):
        fc.pmap(double, [1], chunksize=3)
    with pytest.raises(TypeError, match=r"WorkerPool\(pids\)"):
        fc.pmap(double, [1], pool=[2])
    with pytest.raises(ValueError, match="batch_size=0"):
        fc.pmap(double, [1], batch_size=0)
    with pytest.raises(ValueError, match="timeout=0"):
        fc.pmap(double, [1], timeout=0)
    with pytest.raises(ValueError, match="retry_delays"):
        fc.pmap(double, [1], retry_delays=[-1])
    with pytest.raises(TypeError, match="cannot be called"):
        fc.pmap([1], double)


# Where


def test_a_pool_says_who_works(cluster):
    """Only the members of a pool are used."""
    _, three = cluster
    assert set(fc.pmap(lambda _: fc.myid(), range(50), pool=fc.WorkerPool([three]))) == {three}
    assert set(fc.pmap(lambda _: fc.myid(), range(50), pool=fc.WorkerPool([1]))) == {1}
    with pytest.raises(RuntimeError, match="no workers"):
        fc.pmap(double, [1], pool=fc.WorkerPool([]))


def test_both_workers_work(cluster):
    """Two items that wait for each other run at the same time."""

    def meet(name, other, directory):
        open(os.path.join(directory, name), "x").close()
        while not os.path.exists(os.path.join(directory, other)):
            time.sleep(0.001)
        return fc.myid()

    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        assert set(fc.pmap(meet, "ab", "ba", [directory] * 2)) == set(cluster)


def test_a_worker_runs_one_item_at_a_time(cluster):
    """Two batches are with a worker, and one runs."""

    def alone(_):
        me = threading.current_thread()
        here = vars(current_node()).setdefault("test_inside", [])
        here.append(me)
        time.sleep(0.002)
        assert here == [me]
        here.pop()

    fc.pmap(alone, range(100), batch_size=1)


@pytest.mark.needs_main_thread
def test_items_run_on_the_main_thread(cluster):
    """What insists on the main thread of its process can be mapped, after the first batch too."""

    def where(_):
        time.sleep(0.002)
        return threading.current_thread() is threading.main_thread()

    assert sum(fc.pmap(where, range(100))) > 80  # a batch that finds it still busy with an answer begins elsewhere


@pytest.mark.needs_main_thread
def test_items_move_to_the_main_thread_when_it_is_free(cluster, tmp_path):
    """A map that finds the main thread busy runs on another one, and moves when it can."""

    def occupy():
        (tmp_path / "busy").touch()
        while not (tmp_path / "enough").exists():
            time.sleep(0.001)

    def where(n):
        time.sleep(0.002)
        if n == 20:
            (tmp_path / "enough").touch()
        return threading.current_thread() is threading.main_thread()

    occupied = fc.spawnat(cluster[0], occupy)
    assert until((tmp_path / "busy").exists)
    on_main = fc.pmap(where, range(200), pool=fc.WorkerPool(cluster[:1]), batch_size=1)
    fc.fetch(occupied)
    assert not any(on_main[:20])
    assert on_main[100:].count(True) >= 90  # now and then an item finds the main thread busy with its own arrival


def test_maps_run_beside_each_other(cluster):
    """Threads map at the same time, on the same workers."""
    results = {}

    def run(factor):
        results[factor] = fc.pmap(lambda x: factor * x, range(2000))

    threads = [threading.Thread(target=run, args=(factor,)) for factor in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert results == {factor: [factor * x for x in range(2000)] for factor in range(4)}


def test_coroutine_functions_can_be_mapped(cluster):
    """An async function runs on the worker's event loop, and its errors are errors."""

    async def slowly(x):
        import asyncio

        await asyncio.sleep(0.001)
        return 10 // x

    assert fc.pmap(slowly, [1, 2, 5]) == [10, 5, 2]
    with pytest.raises(ZeroDivisionError):
        fc.pmap(slowly, [1, 0, 5])
    assert fc.pmap(slowly, [1, 0], on_error=str) == [10, "integer division or modulo by zero"]


def test_the_function_crosses_once(cluster):
    """A function goes to each worker once per map, however many batches there are, not with each of them."""

    class Counted:
        def __getstate__(self):
            pickled.append(1)
            return {}

        def __call__(self, x):
            return x

    pickled = []
    assert fc.pmap(Counted(), range(100), batch_size=1) == list(range(100))
    assert len(pickled) <= 2 * len(cluster)


# Nesting


def test_a_map_inside_a_map(cluster):
    """Maps nest, from workers too, deeper than there are workers, and end."""

    def inner(x, depth):
        return sum(fc.pmap(inner, range(3), [depth - 1] * 3)) + x if depth else x

    def plain(x, depth):
        return sum(plain(y, depth - 1) for y in range(3)) + x if depth else x

    assert fc.pmap(inner, range(4), [3] * 4) == [plain(x, 3) for x in range(4)]
    assert fc.remotecall_fetch(cluster[0], fc.pmap, abs, [-1, 2]) == [1, 2]
    assert fc.remotecall_fetch(cluster[0], lambda: fc.pmapreduce(abs, operator.add, range(-5, 5))) == 25


def test_a_worker_maps_over_its_own_process(cluster):
    """A map on a worker whose pool is itself runs there."""

    def alone():
        return fc.pmap(lambda _: fc.myid(), range(20), pool=fc.WorkerPool([fc.myid()]))

    assert fc.remotecall_fetch(cluster[0], alone) == [cluster[0]] * 20


# Reducing


def test_a_reduction_keeps_the_order_of_the_items(cluster):
    """pmapreduce combines in index order: what does not commute comes out right."""
    assert fc.pmapreduce(str, operator.add, range(5000)) == "".join(map(str, range(5000)))
    assert fc.pmapreduce(lambda x: [x], operator.add, "abc") == ["a", "b", "c"]


@pytest.mark.parametrize("op", [operator.add, operator.mul, min, max, np.add, np.maximum, lambda a, b: a + b])
def test_any_operation_reduces(cluster, op):
    """Operators, min and max, ufuncs, functions."""
    import functools

    numbers = [int(n) for n in np.random.default_rng(1).integers(1, 5, 300)]
    assert fc.pmapreduce(int, op, numbers) == functools.reduce(op, numbers)


def test_arrays_reduce(cluster):
    """Values may be arrays."""
    total = fc.pmapreduce(lambda n: np.full(5000, n), np.add, range(100))
    assert np.array_equal(total, np.full(5000, 4950))


def test_a_reduction_of_nothing(cluster):
    """Without items it is init, or a TypeError; init comes first."""
    assert fc.pmapreduce(abs, operator.add, [], init=7) == 7
    with pytest.raises(TypeError, match="init="):
        fc.pmapreduce(abs, operator.add, [])
    assert fc.pmapreduce(str, operator.add, "bc", init="a") == "abc"
    assert fc.pmapreduce(abs, operator.add, [-5]) == 5


def test_a_reduction_fails_as_a_map_does(cluster):
    """An error of f or of op is raised with the item that it came at; StopIteration is an error like another."""
    with pytest.raises(ZeroDivisionError) as caught:
        fc.pmapreduce(lambda x: 1 // x, operator.add, [2, 1, 0])
    assert "item 2 of the map" in caught.value.__notes__
    with pytest.raises(TypeError):
        fc.pmapreduce(lambda x: x, operator.add, [1, "a", 2, "b"])

    def stop(x):
        if x == 5:
            raise StopIteration
        return x

    with pytest.raises(RuntimeError, match="raised StopIteration"):
        fc.pmapreduce(stop, operator.add, range(10))


def test_foreach_runs_everything_and_returns_nothing(cluster, tmp_path):
    """pforeach has each item done once, and waits for all."""

    def leave(n):
        (tmp_path / str(n)).touch(exist_ok=False)

    assert fc.pforeach(leave, range(200)) is None
    assert sorted(int(each.name) for each in tmp_path.iterdir()) == list(range(200))


# Afterwards


def test_a_map_leaves_nothing_on_the_workers(cluster):
    """When a map has ended, well or not, the workers have forgotten it."""

    def held():
        return [fc.remotecall_fetch(pid, references_here) for pid in cluster]

    fc.pmap(double, range(100))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            fc.pmap(lambda x: 1 // x, [1, 0])
    stream = fc.imap(double, itertools.count())
    next(stream)
    stream.close()
    del stream
    assert until(lambda: not any(held()))
