"""Dask's futures as places, arguments and results of calls, on the workers of a real Dask cluster."""

import itertools
import time

import dask.array as da
import dask.bag as db
import distributed
import numpy as np
import pytest
from dask._task_spec import Alias
from waiting import until

import farcall as fc
from farcall.integrations.dask import as_dask, chunks

pytestmark = pytest.mark.parametrize("cluster", ["dask"], indirect=True, scope="module")
LARGE = 200_000  # float64 values: far more than any message of ours


@pytest.fixture(scope="module")
def client(dask, cluster):
    """A client for what the tests do, which goes before it is looked what is left."""
    with distributed.Client(dask.address, set_as_default=False) as made:
        yield made


@pytest.fixture
def array(client):
    """The futures of the chunks of an array."""
    return list(itertools.chain.from_iterable(chunks(client.persist(two_rows()))))


def two_rows():
    """Return an array of two rows of three chunks each."""
    return da.arange(6 * LARGE, chunks=LARGE).reshape(2, 3 * LARGE).rechunk((1, LARGE)) + 0.5


def keys_in_memory(client):
    """Return the keys of all data that Dask's workers have."""
    return set().union(*client.run(lambda dask_worker: list(dask_worker.data)).values())


def place_of(array):
    return fc.myid(), id(array)


def refuse():
    raise ZeroDivisionError("no")


# Where


def test_a_call_goes_where_the_data_is_and_gets_the_very_object(client, array):
    """A Dask future is a place and its value: the call runs in the process that has it, without a copy."""
    there = [fc.remotecall_fetch(each, place_of, each) for each in array]
    objects = [client.submit(id, each).result() for each in array]
    assert [identity for _, identity in there] == objects
    assert {pid for pid, _ in there} == {2, 3}


def test_a_future_that_is_not_computed_yet_is_waited_for(client, cluster, tmp_path):
    """spawnat returns at once; other calls go on, whether it is a place or an argument; a cancelled call is gone."""

    def compute_late():
        while not (tmp_path / "go").exists():
            time.sleep(0.01)
        return 21

    late = client.submit(compute_late)
    calls = [fc.spawnat(where, lambda n: 2 * n, late) for where in (late, *cluster)]
    given_up = fc.spawnat(2, abs, late)
    assert calls[0].where is None
    assert [fc.remotecall_fetch(pid, abs, -1) for pid in cluster] == [1, 1]
    assert not any(each.done() for each in calls)
    assert given_up.cancel()
    assert until(lambda: fc.remotecall_fetch(2, calls_that_run) == 2)  # the other one, and this
    (tmp_path / "go").touch()
    assert [each.result(10) for each in calls] == [42, 42, 42]


def calls_that_run():
    from farcall._node.current import current_node

    return sum(len(link.running) for link in current_node().reader.links)


def test_data_of_another_cluster_has_no_process(cluster):
    """As a place it is a ValueError that says what to write; as an argument it comes all the same."""
    with distributed.Client(processes=False, dashboard_address=":0", set_as_default=False) as other:
        future = other.submit(pow, 2, 10)
        with pytest.raises(ValueError, match=r"is on inproc://.*, where no process is ours: addprocs\(client\)"):
            fc.remotecall_fetch(future, abs, 1)
        assert fc.remotecall_fetch(2, abs, future) == 1024


def test_the_error_of_a_task_is_the_error_of_the_call(client, cluster):
    """Of a place, of an argument, of an item of a map; a cancelled future is CancelledError."""
    failed = client.submit(refuse)
    for call in (
        lambda: fc.remotecall_fetch(failed, abs, 1),
        lambda: fc.remotecall_fetch(2, abs, failed),
        lambda: fc.pmap(abs, [1, failed]),
    ):
        with pytest.raises(ZeroDivisionError, match="no"):
            call()
    cancelled = client.submit(pow, 3, 3)
    cancelled.cancel()
    with pytest.raises(distributed.CancelledError):
        fc.remotecall_fetch(cancelled, abs, 1)


# As an argument


def test_a_future_is_its_value_at_any_depth(array):
    """In lists, dicts, keywords, closures and batches; twice the same future is twice the same object."""

    def look(first, rest, *, last):
        assert first is rest[0]
        return [float(each[0, 0]) for each in (first, *rest[1]["more"], last, captured)]

    captured = array[4]
    seen = fc.remotecall_fetch(2, look, array[0], [array[0], {"more": array[1:3]}], last=array[3])
    assert seen == [k * LARGE + 0.5 for k in range(5)]
    assert fc.pmap(np.min, array) == [k * LARGE + 0.5 for k in range(6)]


def test_data_that_is_elsewhere_comes_from_worker_to_worker(dask, client, array):
    """It passes neither the master nor Dask's scheduler."""
    pid, _ = fc.remotecall_fetch(array[0], place_of, array[0])
    there, here = dask.address_of(pid), dask.address_of(5 - pid)
    with fc.timed(quiet=True) as spent:
        fc.remotecall_fetch(5 - pid, np.sum, array[0])
    assert spent.bytes_out + spent.bytes_in < 10_000
    log = client.run(lambda dask_worker: list(dask_worker.transfer_outgoing_log), workers=[there])[there]
    assert any(each["who"] == here and array[0].key in each["keys"] for each in log)


def test_what_nobody_holds_any_more_lives_until_it_has_arrived(client, cluster):
    """The future of an argument may be dropped at once, and then nothing is left of it."""
    calls = [fc.spawnat(pid, np.sum, client.submit(np.full, LARGE, pid, pure=False)) for pid in cluster * 5]
    assert [each.result(20) for each in calls] == [pid * LARGE for pid in cluster * 5]
    assert until(lambda: not any(str(key).startswith("full") for key in keys_in_memory(client)))


def test_a_future_in_a_channel_is_its_value_where_it_is_taken(array):
    """On a worker; at home it is a future again."""
    channel = fc.RemoteChannel(3, pid=2)
    channel.put(array[0])
    assert fc.remotecall_fetch(3, lambda: float(channel.take()[0, 0])) == 0.5
    channel.put(array[1])
    assert channel.take().key == array[1].key


def test_a_process_in_no_dask_worker_gets_it_from_who_sent_it(array):
    """Workers of several kinds may work on the same data."""
    with fc.addprocs(1) as (plain,):
        assert fc.remotecall_fetch(plain, np.min, array[2]) == 2 * LARGE + 0.5


# As a result


def test_as_dask_hands_a_value_over_where_it_is(client, cluster):
    """Dask's tasks use the very object, whose memory is freed with the last future of it."""
    call = fc.spawnat(3, np.ones, LARGE)
    future = as_dask(call, client)
    identity = fc.remotecall_fetch(call, lambda value: id(fc.fetch(value)), call)
    assert client.submit(id, future).result(10) == identity
    assert fc.remotecall_fetch(future, place_of, future) == (3, identity)
    key = future.key
    del call
    assert key in keys_in_memory(client)
    assert client.submit(np.sum, future).result(10) == LARGE
    del future
    assert until(lambda: key not in keys_in_memory(client))


def test_small_values_too_can_be_handed_over(client, cluster):
    """Those that have come here with the answer go back."""
    values = [{"n": 1}, 7, np.arange(3)]
    for value in values:
        future = as_dask(fc.spawnat(2, lambda each: each, value), client)
        assert str(future.result(10)) == str(value)


def test_what_cannot_be_handed_over(client, cluster):
    """A failed call raises its error; a value outside the cluster of the client is an error that says what to do."""
    with pytest.raises(ZeroDivisionError):
        as_dask(fc.spawnat(2, refuse), client)
    with pytest.raises(TypeError, match=r"process 1, which is in no worker of Dask: use client\.scatter"):
        as_dask(fc.spawnat(1, abs, -3), client)
    with (
        distributed.Client(processes=False, dashboard_address=":0", set_as_default=False) as other,
        pytest.raises(ValueError, match="give another client="),
    ):
        as_dask(fc.spawnat(2, abs, -3), other)


# Collections


def test_chunks_are_nested_as_the_blocks_are(client, array):
    """Of an array row by row, of a bag one after another; they are the futures that the collection holds."""
    persisted, bag = client.persist([two_rows(), db.from_sequence(range(10), npartitions=5)])
    assert [[float(fc.remotecall_fetch(each, np.min, each)) for each in row] for row in chunks(persisted)] == [
        [0.5, LARGE + 0.5, 2 * LARGE + 0.5],
        [3 * LARGE + 0.5, 4 * LARGE + 0.5, 5 * LARGE + 0.5],
    ]
    assert fc.pmap(list, chunks(bag)) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    futures = chunks(bag)
    aliases = {("alias", n): Alias(("alias", n), each.key) for n, each in enumerate(futures)}
    assert chunks(db.Bag(aliases | {each.key: each for each in futures}, "alias", 5)) == futures  # as of a dataframe


def test_chunks_are_of_what_is_persisted(cluster):
    """Else it is an error that says what to write."""
    with pytest.raises(ValueError, match=r"collection = collection\.persist\(\)"):
        chunks(two_rows())
    with pytest.raises(TypeError, match="not of list"):
        chunks([1, 2])
