"""The schedule of a map alone: no process, no thread, no clock."""

import heapq
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farcall._pmap.schedule import STRIKES, Policy, Recall, Schedule


def drawing(count):
    """Return a ``draw`` over the first natural numbers."""
    numbers = itertools.count() if count is None else iter(range(count))
    return lambda size: list(itertools.islice(numbers, size))


def orders(schedule, now=0.0):
    """Return all that is to be done now."""
    return list(iter(lambda: schedule.next(now), None))


def batches(schedule, now=0.0):
    """Return the batches that are to be sent now."""
    return [each.batch for each in orders(schedule, now) if not isinstance(each, Recall)]


def started(count, workers, policy=None):
    """Return a schedule whose workers are there."""
    schedule = Schedule(drawing(count), policy or Policy(), count)
    for pid in workers:
        schedule.joined(pid)
    return schedule


def learned(count, workers, seconds, policy=None):
    """Return a schedule that has seen each worker do an item in so many seconds, and the batches sent since."""
    schedule = started(count, workers, policy)
    sent = []
    for batch in batches(schedule):
        schedule.answered(batch.number, len(batch.items), seconds)
    for _ in range(6):
        sent = batches(schedule)
        if len(sent) == 0 or max(len(each.items) for each in sent) * seconds > 0.01:
            break
        for batch in sent:
            schedule.answered(batch.number, len(batch.items), seconds * len(batch.items))
    return schedule, sent


# Sizes


def test_the_first_batches_are_single_items():
    """Nothing is known at first: one item for each worker, and a second one only when an item has been done."""
    schedule = started(100, [2, 3])
    sent = batches(schedule)
    assert [(each.start, len(each.items), each.pid) for each in sent] == [(0, 1, 2), (1, 1, 3)]
    schedule.answered(sent[0].number, 1, 60.0)
    assert [(each.start, len(each.items), each.pid) for each in batches(schedule)] == [(2, 1, 2), (3, 1, 3), (4, 1, 2)]


def test_long_items_travel_alone():
    """A batch does not take longer than it must."""
    _, sent = learned(1000, [2, 3], 60.0)
    assert {len(each.items) for each in sent} == {1}


def test_short_items_travel_in_batches_that_are_worth_their_message():
    """A million items of a microsecond do not go in thousands of batches."""
    schedule, sent = learned(10**6, [2, 3], 1e-6)
    number = 0
    while not schedule.finished:
        for each in sent:
            number += 1
            schedule.answered(each.number, len(each.items), 1e-6 * len(each.items))
        sent = batches(schedule)
    assert number < 150


def test_batches_shrink_towards_the_end():
    """No batch is more than a part of what one worker has still to do, so that they finish together."""
    schedule, sent = learned(10_000, [2, 3], 1e-3)
    left, sizes = 10_000, []
    while sent:
        each = sent.pop(0)
        sizes.append(len(each.items))
        left = 10_000 - each.stop
        schedule.answered(each.number, len(each.items), 1e-3 * len(each.items))
        sent += batches(schedule)
    assert max(sizes) > 50
    assert max(sizes[-5:]) <= 5
    assert left == 0


def test_a_batch_size_that_is_given_is_kept():
    """batch_size= is obeyed."""
    schedule, _ = learned(95, [2, 3], 1e-6, Policy(batch_size=10))
    again = started(95, [2, 3], Policy(batch_size=10))
    sizes = []
    while not again.finished:
        for each in batches(again):
            sizes.append(len(each.items))
            again.answered(each.number, len(each.items), 1.0)
    assert sizes == [10] * 9 + [5]
    assert schedule.workers == [2, 3]


def test_a_window_bounds_what_is_ahead_of_the_consumer():
    """With a window nothing is drawn that the consumer is far from, however long the input."""
    schedule = Schedule(drawing(None), Policy(window=4, most=100), None)
    schedule.joined(2)
    drawn = 0
    for _ in range(200):
        for each in batches(schedule):
            drawn = max(drawn, each.stop)
            schedule.answered(each.number, len(each.items), 1e-6 * len(each.items))
    assert 100 <= drawn <= 400
    schedule.consumed = drawn
    assert batches(schedule) != []


# Giving back


def test_an_idle_worker_has_the_oldest_batch_called_in():
    """When there is nothing to give, who has something that it has not begun gives it back, and it goes elsewhere."""
    schedule = started(8, [2, 3], Policy(batch_size=4))
    first, second = batches(schedule)
    assert schedule.answered(second.number, 4, 4.0) is second
    assert orders(schedule) == [Recall(2)]
    schedule.gave_back(first.number, 1)
    (again,) = batches(schedule)
    assert (again.pid, again.start, again.stop) == (3, 1, 4)
    assert schedule.answered(first.number, 1, 1.0) is not None
    assert orders(schedule) == [Recall(3)]
    schedule.answered(again.number, 3, 1.0)
    assert schedule.finished


def test_an_answer_with_fewer_items_gives_the_others_back():
    """What a batch did not do is done elsewhere."""
    schedule = started(4, [2], Policy(batch_size=4))
    (batch,) = batches(schedule)
    schedule.answered(batch.number, 1, 1.0)
    (rest,) = batches(schedule)
    assert (rest.start, rest.stop, schedule.finished) == (1, 4, False)
    schedule.gave_back(batch.number, 0)  # late news of what is settled
    assert batches(schedule) == []


def test_what_is_not_worth_a_message_is_not_called_in():
    """Microseconds of work stay where they are, unless they turn out to take longer."""
    schedule = started(8, [2, 3], Policy(batch_size=4))
    _, second = batches(schedule, 5.0)
    schedule.answered(second.number, 4, 1e-6)
    assert orders(schedule, 5.0) == []
    assert schedule.next_time() == pytest.approx(5.01)
    assert orders(schedule, 5.01) == [Recall(2)]


def test_who_was_called_in_gets_nothing_until_it_is_idle():
    """A worker with a long item is not given others to wait behind it."""
    schedule = started(16, [2, 3], Policy(batch_size=4))
    first, second = batches(schedule)
    schedule.answered(second.number, 4, 4.0)
    third, fourth = batches(schedule)
    assert [each.pid for each in (first, second, third, fourth)] == [2, 3, 3, 2]
    schedule.answered(third.number, 4, 4.0)
    assert orders(schedule) == [Recall(2)]
    schedule.answered(fourth.number, 0, 0.0)
    schedule.gave_back(first.number, 1)
    assert {each.pid for each in batches(schedule)} == {3}


# Deaths


def run_with_killer(killer, count, workers=STRIKES):
    """Let workers run items of which one kills them; return who is condemned and how many have died."""
    schedule = started(count, [])
    alive = set()
    pids = itertools.count(2)
    condemned, deaths, done = [], 0, []
    while not schedule.finished:
        while len(alive) < workers:
            alive.add(pid := next(pids))
            schedule.joined(pid)
        queue = batches(schedule)
        waiting = {pid: [each for each in schedule._flying.values() if each.pid == pid] for pid in alive}
        assert queue or any(waiting.values())
        for pid, (each, *_) in [(pid, each) for pid, each in waiting.items() if each]:
            if killer in each.items:
                alive.discard(pid)
                deaths += 1
                condemned += schedule.lost(pid)
            else:
                done += each.items
                schedule.answered(each.number, len(each.items), 1e-6 * len(each.items))
    return condemned, deaths, done


@pytest.mark.parametrize(("killer", "count"), [(0, 1), (0, 10), (77, 1000), (99_999, 100_000), (30_000, 100_000)])
def test_three_deaths_find_the_item_that_kills(killer, count):
    """Whatever the batches, the item at which three workers died is named, no other is, and no fourth dies."""
    condemned, deaths, done = run_with_killer(killer, count)
    assert [(each.start, len(each.items), deaths) for each in condemned] == [(killer, 1, STRIKES)]
    assert set(done) == set(range(count)) - {killer}


def test_suspects_run_alone():
    """A batch that was there at a death shares its worker with no other, so that a second death says more."""
    schedule = started(1000, [2], Policy(batch_size=100))
    (batch,) = batches(schedule)
    schedule.answered(batch.number, 100, 1.0)
    first, second = batches(schedule)
    schedule.lost(2)
    schedule.joined(3)
    seen = []
    while not seen or seen[-1].strikes:
        sent = batches(schedule)
        seen += sent[:1]
        assert len(sent) == (1 if sent[0].strikes else 2)
        assert len(sent[0].items) == (10 if sent[0].strikes else 100)
        schedule.answered(sent[0].number, len(sent[0].items), 1.0)
    assert {n for each in seen[:-1] for n in each.items} == {*first.items, *second.items}


def test_nobody_is_blamed_for_a_worker_that_was_removed():
    """A worker that was told to go strikes nobody."""
    schedule = started(10, [2], Policy(batch_size=10))
    for pid in range(2, 10):
        (batch,) = batches(schedule)
        assert (batch.strikes, len(batch.items)) == (0, 10)
        assert schedule.lost(pid, blame=False) == []
        schedule.joined(pid + 1)


def test_late_answers_of_the_dead_are_dropped():
    """The items of a dead worker run again; what it said too late counts for nothing."""
    schedule = started(1, [2])
    (batch,) = batches(schedule)
    schedule.lost(2)
    schedule.joined(3)
    (again,) = batches(schedule)
    assert schedule.answered(batch.number, 1, 1.0) is None
    assert not schedule.finished
    schedule.answered(again.number, 1, 1.0)
    assert batches(schedule) == []
    assert schedule.finished


def test_who_left_finishes_and_gets_nothing_more():
    """A worker that leaves the pool is still answered for; it may even come back."""
    schedule = started(10, [2])
    (first,) = batches(schedule)
    schedule.left(2)
    assert batches(schedule) == []
    schedule.joined(2)
    assert batches(schedule) == []
    assert schedule.answered(first.number, 1, 1.0) is first
    assert len(batches(schedule)) == 2


# Trying again


def test_a_retry_waits_for_its_time():
    """An item that is to be tried at a time is sent then, and the schedule says when to ask."""
    schedule = started(1, [2])
    (batch,) = batches(schedule)
    schedule.answered(batch.number, 1, 1.0)
    schedule.retry(batch, 5.0)
    assert (batches(schedule, 4.9), schedule.next_time(), schedule.finished) == ([], 5.0, False)
    assert batches(schedule, 5.0) == [batch]


def test_a_refused_batch_goes_item_by_item():
    """What could not begin is split, and a single item that is refused is handed back."""
    schedule = started(3, [2, 3], Policy(batch_size=3))
    (batch,) = batches(schedule)
    assert schedule.refused(batch.number) is None
    singles = []
    policy_kept = batches(schedule)
    while policy_kept:
        singles += policy_kept
        for each in policy_kept:
            assert schedule.refused(each.number) is each
        policy_kept = batches(schedule)
    assert [each.start for each in singles] == [0, 1, 2]
    assert schedule.finished


# Everything at once


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1 << 32), count=st.integers(0, 200), size=st.sampled_from([None, 1, 7]))
def test_each_item_is_answered_exactly_once_whatever_happens(seed, count, size):
    """Answers in any order, deaths, joins, leaves, retries, refusals, given back items: each result comes once."""
    schedule, chance = started(count, [2], Policy(batch_size=size)), random.Random(seed)
    pids, now, results = itertools.count(3), 0.0, []
    while not schedule.finished:
        orders(schedule, now)
        now += 1.0
        flying = list(schedule._flying.values())
        event = chance.choice(["answer"] * 6 + ["fail", "die", "refuse", "shorten", "leave", "join"])
        if event == "leave" and schedule.workers:
            schedule.left(schedule.workers[0])
        elif (event == "join" and len(schedule.workers) < 5) or not schedule.workers:
            schedule.joined(next(pids))
        if not flying or event in ("leave", "join"):
            continue
        batch = chance.choice(flying)
        if event == "die":
            results += [each.start for each in schedule.lost(batch.pid)]
        elif event == "refuse":
            refused = schedule.refused(batch.number)
            results += [] if refused is None else [refused.start]
        elif event == "shorten":
            schedule.gave_back(batch.number, chance.randint(0, len(batch.items)))
        else:
            done = chance.randint(0, len(batch.items))
            failed = event == "fail" and done > 0
            schedule.answered(batch.number, done, chance.choice([1e-7, 1e-3, 1.0]))
            results += batch.items[: done - failed]
            if failed:
                schedule.retry(batch.part(done - 1, done), now + 2)
    assert sorted(results) == list(range(count))


def test_a_million_items_on_ten_thousand_workers():
    """A large map ends, answers each item once, and holds no more than is in flight."""
    count, workers = 1_000_000, 10_000
    position = 0

    def draw(size):
        nonlocal position
        first, position = position, min(count, position + size)
        return range(first, position)

    schedule = Schedule(draw, Policy(), count)
    for pid in range(2, workers + 2):
        schedule.joined(pid)
    generator = random.Random(1)
    events, free_at, answered, now = [], [0.0] * (workers + 2), 0, 0.0
    while True:
        for order in orders(schedule, now):
            if isinstance(order, Recall):
                continue
            batch = order.batch
            took = len(batch.items) * generator.uniform(0.5e-3, 1.5e-3)
            free_at[batch.pid] = max(now, free_at[batch.pid]) + took
            heapq.heappush(events, (free_at[batch.pid], batch.number, len(batch.items), took))
        assert schedule.in_flight <= 2 * workers
        if schedule.finished:
            break
        now, number, done, took = heapq.heappop(events)
        assert schedule.answered(number, done, took) is not None
        answered += done
    assert answered == count
    assert not schedule._recallable
    assert not any(schedule._workers[pid].batches for pid in schedule.workers)
