"""Maps whose workers die, leave and join while they run."""

import operator
import os
import signal
import threading

import pytest
from waiting import until

import farcall as fc


def double(x):
    return 2 * x


def test_alone_the_master_does_it():
    """Without workers a map runs here, with the same results and the same errors."""
    assert fc.pmap(double, range(100)) == list(range(0, 200, 2))
    assert set(fc.pmap(lambda _: os.getpid(), range(10))) == {os.getpid()}
    assert list(fc.imap(double, range(10))) == list(range(0, 20, 2))
    assert fc.pmapreduce(str, operator.add, range(10)) == "0123456789"
    with pytest.raises(ZeroDivisionError) as caught:
        fc.pmap(lambda x: 1 // x, [1, 0])
    assert "item 1 of the map" in caught.value.__notes__
    assert fc.pmap(lambda x: fc.pmap(double, range(x)), range(4)) == [[], [0], [0, 2], [0, 2, 4]]


class Marks:
    """A directory in which items leave marks, so that a test knows how far a map is."""

    def __init__(self, path):
        self.path = path

    def make(self, name):
        (self.path / str(name)).touch()

    def wait(self, name):
        while not (self.path / str(name)).exists():
            threading.Event().wait(0.002)

    def count(self):
        return len(list(self.path.iterdir()))


def meanwhile(action):
    """Start something on a thread of its own."""
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def all_heard(capfd, deaths):
    """Return whether the deaths are printed, which may be after the map has ended."""
    heard = []
    return until(lambda: heard.append(capfd.readouterr().err) or "".join(heard).count("is gone") == deaths)


def process_of(pid):
    return fc.remotecall_fetch(pid, os.getpid)


@pytest.mark.parametrize("size", [None, 1, 50])
def test_the_items_of_a_killed_worker_run_elsewhere(tmp_path, size, capfd):
    """kill -9 in the middle of a map: every result is there, once, and in its place."""
    marks, pids = Marks(tmp_path), fc.addprocs(3)
    processes = [process_of(pid) for pid in pids]

    def work(n):
        if n == 100:
            marks.make("middle")
            marks.wait("killed")
        return n, os.getpid()

    def kill():
        assert until(lambda: marks.count())
        os.kill(processes[0], signal.SIGKILL)
        os.kill(processes[1], signal.SIGKILL)
        marks.make("killed")

    thread = meanwhile(kill)
    results = fc.pmap(work, range(2000), batch_size=size)
    thread.join()
    assert [n for n, _ in results] == list(range(2000))
    assert results[-1][1] == processes[2]
    assert all_heard(capfd, 2)
    assert fc.workers() == [pids[2]]


def test_an_item_that_kills_three_workers_is_named(capfd):
    """Three deaths are enough: the item fails with ProcessExited, and the cluster lives."""
    pids = fc.addprocs(4)

    def work(n):
        if n == 33:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    with pytest.raises(fc.ProcessExited, match="SIGKILL") as caught:
        fc.pmap(work, range(500))
    assert "item 33 of the map" in caught.value.__notes__
    assert all_heard(capfd, 3)
    assert len(fc.workers()) == 1
    assert caught.value.pid in pids


def test_on_error_sees_the_dead(capfd):
    """on_error gets the ProcessExited of an item that kills, which is not tried again; the others are done."""
    fc.addprocs(4)

    def work(n):
        if n == 33:
            os._exit(7)
        return n

    results = fc.pmap(work, range(200), on_error=str, retry_delays=[0, 0])
    assert "exit status 7" in results.pop(33)
    assert results == [n for n in range(200) if n != 33]
    assert all_heard(capfd, 3)
    assert len(fc.workers()) == 1


def test_without_workers_a_map_ends(capfd):
    """When the last worker is gone the map fails with its ProcessExited; the master does not take over."""
    fc.addprocs(2)
    here = os.getpid()

    def work(n):
        if n == 3:
            assert os.getpid() != here
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    with pytest.raises(fc.ProcessExited, match="SIGKILL") as caught:
        fc.pmap(work, range(100))
    assert any("last worker" in each for each in caught.value.__notes__)
    assert all_heard(capfd, 2)


def test_workers_that_join_get_work_at_once(tmp_path):
    """A map goes on with the workers that join while it runs."""
    marks = Marks(tmp_path)
    fc.addprocs(1)

    def work(n):
        marks.make(fc.myid())
        if fc.myid() == 2:
            marks.wait(3)
        return fc.myid()

    def join():
        assert until(lambda: marks.count())
        fc.addprocs(1)

    thread = meanwhile(join)
    assert set(fc.pmap(work, range(50), batch_size=1)) == {2, 3}
    thread.join()


def test_workers_that_join_a_map_of_the_master_alone_relieve_it(tmp_path):
    """A map that began without workers goes on with those that come."""
    marks = Marks(tmp_path)

    def work(n):
        marks.make(fc.myid())
        if fc.myid() == 1:
            marks.wait(2)
        return fc.myid()

    def join():
        assert until(lambda: marks.count())
        fc.addprocs(1)

    thread = meanwhile(join)
    results = fc.pmap(work, range(50), batch_size=1)
    thread.join()
    assert set(results) == {1, 2}
    assert results[-1] == 2


def test_a_worker_that_is_put_into_the_pool_is_used(tmp_path):
    """A pool may grow while it is mapped over."""
    marks, (two, three) = Marks(tmp_path), fc.addprocs(2)
    pool = fc.WorkerPool([two])

    def work(n):
        marks.make(fc.myid())
        if fc.myid() == two:
            marks.wait(three)
        return fc.myid()

    def grow():
        assert until(lambda: marks.count())
        pool.put(three)

    thread = meanwhile(grow)
    assert set(fc.pmap(work, range(50), batch_size=1, pool=pool)) == {two, three}
    thread.join()


def test_workers_that_are_removed_blame_nobody(tmp_path):
    """rmprocs in the middle of a map: what the workers had runs elsewhere, and no item is blamed."""
    marks, pids = Marks(tmp_path), fc.addprocs(4)

    def work(n):
        if n == 0:
            marks.make(f"0.{fc.myid()}")
            if marks.count() <= 3:
                marks.wait("never")
        return n

    def remove():
        for count in range(1, 4):
            assert until(lambda count=count: marks.count() == count, 20)
            (last,) = [int(each.name[2:]) for each in tmp_path.iterdir() if int(each.name[2:]) in fc.workers()]
            fc.rmprocs(last)

    thread = meanwhile(remove)
    assert fc.pmap(work, range(50)) == list(range(50))
    thread.join()
    assert len(fc.workers()) == 1
    assert set(fc.workers()) < set(pids)


def test_a_reduction_survives_a_death(tmp_path, capfd):
    """pmapreduce has every item in the result once, whoever dies."""
    marks, pids = Marks(tmp_path), fc.addprocs(2)

    def work(n):
        if n == 500:
            marks.make("middle")
            marks.wait("killed")
        return str(n)

    def kill():
        assert until(lambda: marks.count())
        os.kill(victim, signal.SIGKILL)
        marks.make("killed")

    victim = process_of(pids[0])
    thread = meanwhile(kill)
    assert fc.pmapreduce(work, operator.add, range(1000)) == "".join(map(str, range(1000)))
    thread.join()
    assert all_heard(capfd, 1)
