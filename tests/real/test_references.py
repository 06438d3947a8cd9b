"""Values on their owners: how long they live, and who may fetch them."""

import gc
import time

import numpy as np
import pytest
from waiting import until

import farcall as fc

LARGE = 100_000  # float64 values: more than rides back with the completion

pytestmark = pytest.mark.on_every_engine


def values_there():
    """Return how many values live on this process."""
    from farcall._node.current import current_node

    gc.collect()
    return len(current_node().references.values)


def _free(pid, at_most):
    return until(lambda: fc.remotecall_fetch(pid, values_there) <= at_most)


def test_a_large_value_stays_until_it_is_fetched(cluster):
    """It lives on its owner, is fetched once, and is freed there then."""
    two = cluster[0]
    assert _free(two, 0)
    future = fc.spawnat(two, np.ones, LARGE)
    fc.wait(future)
    assert fc.remotecall_fetch(two, values_there) == 1
    assert future.result().sum() == LARGE
    assert _free(two, 0)
    assert future.result().sum() == LARGE


def test_a_small_value_rides_back(cluster):
    """The completion brings it, so nothing stays with the owner."""
    two = cluster[0]
    futures = [fc.spawnat(two, abs, -i) for i in range(500)]
    fc.wait(futures[-1])
    assert _free(two, 0)
    assert [future.result() for future in futures] == list(range(500))


def test_a_dropped_future_frees_its_value(cluster):
    """The last holder letting go frees the value, also when the reference is lost in a cycle."""
    two = cluster[0]
    future = fc.spawnat(two, np.ones, LARGE)
    fc.wait(future)
    del future
    assert _free(two, 0)
    cycle = {"future": fc.spawnat(two, np.ones, LARGE)}
    cycle["self"] = cycle
    fc.wait(cycle["future"])
    assert fc.remotecall_fetch(two, values_there) == 1
    del cycle
    gc.collect()
    assert _free(two, 0)


def test_a_future_passed_on_is_fetched_from_its_owner(cluster):
    """Passing a Future passes the reference; any process fetches it from its owner, before or after it is done."""
    two, three = cluster
    done = fc.wait(fc.spawnat(two, np.ones, LARGE))
    late = fc.spawnat(two, lambda: (time.sleep(0.2), np.ones(LARGE))[1])
    for future in (done, late):
        assert fc.remotecall_fetch(three, lambda f: (f.where, float(fc.fetch(f).sum())), future) == (two, LARGE)
    del done, late, future
    assert _free(two, 0)


def test_a_passed_future_keeps_the_value_alive(cluster):
    """The value lives while another process holds the reference, and no longer."""
    two, three = cluster
    future = fc.wait(fc.spawnat(two, np.ones, LARGE))

    fc.everywhere("kept = []", pids=three)
    fc.remotecall_fetch(three, lambda f: kept.append(f), future)  # noqa: F821
    del future
    gc.collect()
    for _ in range(50):
        assert fc.remotecall_fetch(two, values_there) == 1
    assert fc.remotecall_fetch(three, eval, "float(kept[0].result().sum())") == LARGE
    fc.everywhere("del kept", pids=three)
    assert _free(two, 0)


def test_a_closure_with_a_future_keeps_it_only_while_it_lives(cluster):
    """A function that captured a Future was sent, but the codebook holds no reference."""
    two, three = cluster
    future = fc.wait(fc.spawnat(two, np.ones, LARGE))

    def use():
        return float(future.result().sum())

    assert fc.remotecall_fetch(three, use) == LARGE
    use = future = None  # what the function captured goes too
    gc.collect()
    assert _free(two, 0)


def test_a_reference_in_a_message_that_cannot_be_read_is_released(cluster):
    """References in a payload that fails to unpickle do not keep their values alive."""
    two, three = cluster
    future = fc.wait(fc.spawnat(two, np.ones, LARGE))

    class Poison:
        def __reduce__(self):
            return _explode, ()

    with pytest.raises(fc.SerializationError):
        fc.remotecall_fetch(three, len, [future, Poison()])
    del future
    assert _free(two, 0)


def _explode():
    raise RuntimeError("unreadable")


def test_a_future_may_be_passed_on_at_once(cluster):
    """However soon a Future is passed on, and however quickly its value comes, nobody finds it gone."""
    two, three = cluster
    for _ in range(300):
        text = fc.spawnat(three, str.upper, "abc")
        assert fc.fetch(fc.spawnat(two, lambda value: fc.fetch(value), text)) == "ABC"
    del text
    assert _free(three, 0)


def test_futures_of_this_process_can_be_passed(cluster):
    """A Future of a call to oneself is fetched from here by others."""
    here = fc.spawnat(1, lambda: [1, 2, 3])
    assert fc.remotecall_fetch(cluster[0], lambda f: (f.where, fc.fetch(f)), here) == (1, [1, 2, 3])
    failed = fc.spawnat(1, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fc.remotecall_fetch(cluster[0], lambda f: fc.fetch(f), failed)


def test_results_that_are_futures(cluster):
    """A call may return a Future of another worker."""
    two, three = cluster
    inner = fc.remotecall_fetch(two, lambda: fc.spawnat(three, np.ones, LARGE))
    assert inner.where == three
    assert inner.result().sum() == LARGE
    del inner
    assert _free(three, 0)


def test_isready_asks_the_owner(cluster):
    """isready of a passed Future is the owner's word."""
    two, three = cluster
    slow = fc.spawnat(two, time.sleep, 0.3)
    assert fc.remotecall_fetch(three, fc.isready, slow) is False
    fc.wait(slow)
    assert fc.remotecall_fetch(three, fc.isready, slow) is True


def test_references_travel_only_in_calls(cluster):
    """Pickling a pending Future to anywhere else is an error that says so."""
    import pickle

    future = fc.spawnat(cluster[0], time.sleep, 0.2)
    with pytest.raises(fc.SerializationError, match="farcall call"):
        pickle.dumps(future)
    future.result()
