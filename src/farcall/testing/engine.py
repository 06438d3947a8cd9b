"""What every engine must do, as tests."""

import contextlib
import os
import secrets
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .._engines.base import Engine, Launched, Offer
from .._errors import LaunchError
from .._transport.addresses import Dialler
from .._transport.base import Transport

WORDS = "these are my last words"


class Exits:
    """Takes note of who ended and why; give ``note`` to ``Engine.watch``."""

    def __init__(self) -> None:
        self.seen: list[tuple[Launched, str]] = []
        self._news = threading.Condition()

    def note(self, worker: Launched, reason: str) -> None:
        with self._news:
            self.seen.append((worker, reason))
            self._news.notify_all()

    def of(self, worker: Launched) -> list[str]:
        """Return the reasons that were given for the end of one worker."""
        return [reason for each, reason in self.seen if each is worker]

    def wait_for(self, *workers: Launched, patience: float) -> None:
        """Wait until the end of each worker has been reported."""
        with self._news:
            all_came = self._news.wait_for(lambda: all(self.of(each) for each in workers), patience)
        assert all_came, f"of {len(workers)} exits only {len(self.seen)} were reported"


class Workers:
    """The workers of one test, which it need not end."""

    def __init__(self) -> None:
        self._launched: list[tuple[Engine, Launched]] = []

    def launch(self, engine: Engine, offer: Offer) -> list[Launched]:
        """Return all workers of an engine once they listen."""
        workers = []
        for arrival in engine.launch(offer):
            assert isinstance(arrival, Launched), arrival
            self.add(engine, arrival)
            workers.append(arrival)
        return workers

    def add(self, engine: Engine, worker: Launched) -> None:
        """Have a worker ended after the test."""
        self._launched.append((engine, worker))

    def end(self) -> None:
        """End all workers, and read no more of what they print."""
        for engine, worker in self._launched:
            engine.stop(worker, force=True)
            for descriptor in worker.output or ():
                os.close(descriptor)


class EngineSuite(ABC):
    """The guarantees of ``Engine``. Subclasses say how to make engines, and how to look at their workers."""

    patience = 30.0  # seconds that a worker takes to start or to end; a test that needs them has failed

    @abstractmethod
    def make_engine(self, count: int) -> Engine:
        """Return an engine that will launch some workers."""

    @abstractmethod
    def make_broken_engine(self, words: str) -> Engine:
        """Return an engine of one worker that prints some words and ends before it listens."""

    def dial(self, address: str) -> Transport:
        """Return a connection to a worker; OSError if it does not listen."""
        return Dialler()(address)

    @abstractmethod
    def count_running(self) -> int:
        """Return how many workers of engines of these tests are running."""

    @pytest.fixture
    def workers(self) -> Iterator[Workers]:
        """Nobody yet; who is launched with this is ended after the test."""
        before, those = self.count_running(), Workers()
        yield those
        those.end()
        self.wait_until(lambda: self.count_running() <= before, "a worker does not end")

    def make_offer(self) -> Offer:
        """Return what workers are told."""
        return Offer(secrets.token_bytes(32), self.patience)

    def wait_until(self, condition: Callable[[], bool], complaint: str) -> None:
        """Wait until a condition is true that cannot be waited for."""
        deadline = time.monotonic() + self.patience
        while not condition():
            assert time.monotonic() < deadline, complaint
            threading.Event().wait(0.01)

    def listens(self, worker: Launched) -> bool:
        """Return whether a worker can be dialled."""
        try:
            self.dial(worker.address).close()
        except OSError:
            return False
        return True

    # Launching

    def test_workers_listen(self, workers: Workers) -> None:
        """Each worker comes once, and listens at an address of its own when it comes."""
        both = workers.launch(self.make_engine(2), self.make_offer())
        assert len({each.address for each in both}) == 2
        for each in both:
            assert self.listens(each)

    @pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
    def test_the_token_is_on_no_command_line(self, workers: Workers) -> None:
        """Workers are told the token in a way that other users of the machine cannot see."""
        offer = self.make_offer()
        workers.launch(self.make_engine(1), offer)
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                lines.append(path.read_bytes())
        assert not any(offer.token in each or offer.token.hex().encode() in each for each in lines)

    def test_a_worker_that_cannot_start_says_why(self) -> None:
        """A worker that never listens is yielded as a LaunchError that ends with what it printed."""
        (arrival,) = self.make_broken_engine(WORDS).launch(self.make_offer())
        assert isinstance(arrival, LaunchError)
        assert str(arrival).endswith(WORDS)

    def test_closing_the_iterator_stops_the_rest(self, workers: Workers) -> None:
        """Whoever stops listening to ``launch`` has the workers that have come, and no others."""
        engine, before = self.make_engine(3), self.count_running()
        arrivals = engine.launch(self.make_offer())
        worker = next(arrivals)
        assert isinstance(worker, Launched)
        workers.add(engine, worker)
        arrivals.close()  # type: ignore[attr-defined]
        self.wait_until(lambda: self.count_running() <= before + 1, "the rest were not stopped")
        assert self.listens(worker)

    # Ending

    @pytest.mark.parametrize("force", [False, True])
    def test_stopping_ends_a_worker(self, workers: Workers, force: bool) -> None:
        """``stop`` ends an idle worker, gently or by force, and no other."""
        engine, exits = self.make_engine(2), Exits()
        engine.watch(exits.note)
        first, second = workers.launch(engine, self.make_offer())
        engine.stop(first, force=force)
        exits.wait_for(first, patience=self.patience)
        assert not self.listens(first)
        assert self.listens(second)
        assert not exits.of(second)

    def test_stopping_what_has_ended_is_no_error(self, workers: Workers) -> None:
        """``stop`` of a dead worker does nothing, however often."""
        engine, exits = self.make_engine(1), Exits()
        engine.watch(exits.note)
        (worker,) = workers.launch(engine, self.make_offer())
        for force in (True, False, True):
            engine.stop(worker, force=force)
            exits.wait_for(worker, patience=self.patience)
        assert len(exits.seen) == 1

    def test_each_exit_is_reported_once_to_each_watcher(self, workers: Workers) -> None:
        """Every watcher hears of every worker that ends, once, with the reason in words."""
        engine, watchers = self.make_engine(2), [Exits(), Exits()]
        for each in watchers:
            engine.watch(each.note)
        both = workers.launch(engine, self.make_offer())
        for worker in both:
            engine.stop(worker, force=True)
        for each in watchers:
            each.wait_for(*both, patience=self.patience)
        for each in watchers:
            assert len(each.seen) == 2
            assert all(reason.strip() for _, reason in each.seen)
        assert sorted(watchers[0].seen, key=str) == sorted(watchers[1].seen, key=str)

    def test_who_watches_late_hears_of_earlier_exits(self, workers: Workers) -> None:
        """A watcher hears of a worker that had ended before it began to watch."""
        engine, early, late = self.make_engine(1), Exits(), Exits()
        engine.watch(early.note)
        (worker,) = workers.launch(engine, self.make_offer())
        engine.stop(worker, force=True)
        early.wait_for(worker, patience=self.patience)
        engine.watch(late.note)
        late.wait_for(worker, patience=self.patience)
        assert late.seen == early.seen

    def test_a_worker_that_was_not_asked_to_end_is_not_reported(self, workers: Workers) -> None:
        """As long as workers live nobody hears of an exit."""
        engine, exits = self.make_engine(1), Exits()
        engine.watch(exits.note)
        (worker,) = workers.launch(engine, self.make_offer())
        assert self.listens(worker)
        assert not exits.seen

    def test_output_ends_with_its_worker(self, workers: Workers) -> None:
        """What a worker prints can be read to its end, if the engine hands it out at all."""
        engine = self.make_engine(1)
        (worker,) = workers.launch(engine, self.make_offer())
        if worker.output is None:
            pytest.skip("this engine keeps the output of its workers")
        engine.stop(worker, force=True)
        for descriptor in worker.output:
            os.set_blocking(descriptor, True)
            while os.read(descriptor, 1 << 16):
                pass
