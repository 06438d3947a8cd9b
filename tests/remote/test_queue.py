"""The queue behind a channel, with no process around it: events go in, instructions come out."""

import math
from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from farcall._remote import queue as queue_module
from farcall._remote.queue import Accept, Lend, Queue, Recall, Refuse, Show


class Asker:
    """Who waits; equal to nothing but itself, as the real one."""

    numbers = iter(range(1, 1 << 62))

    def __init__(self, pid=1):
        self.pid = pid
        self.number = next(self.numbers)
        self.key = pid, self.number

    def __repr__(self):
        return f"{self.pid}.{self.number}"


def told(todo):
    """Return instructions as plain tuples that begin with a verb."""
    plain = []
    for each in todo:
        if isinstance(each, Accept):
            plain.append(("accept", each.asker, each.credits))
        elif isinstance(each, Lend):
            plain.append(("lend", each.asker, [entry.item for entry in each.entries]))
        elif isinstance(each, Show):
            plain.append(("show", each.asker, each.item))
        elif isinstance(each, Refuse):
            plain.append(("closed" if each.closed else "withdrawn", each.asker))
        else:
            assert isinstance(each, Recall)
            plain.append(("recall", each.pid))
    return plain


def filled(capacity, *items):
    """Return a queue with some items, put by process 9."""
    queue = Queue(capacity)
    for item in items:
        asker = Asker(9)
        assert told(queue.put(asker, item)) == [("accept", asker, 0)]
    return queue


def get(queue, pid=1, **options):
    """Take an item that is there, confirm it, and return it."""
    asker = Asker(pid)
    ((verb, who, (item,)),) = told(queue.take(asker, **options))
    assert (verb, who) == ("lend", asker)
    assert told(queue.confirm(asker.key)) == []
    return item


def trusted(queue, pid=1):
    """Have a process take so often in a row that it may get several items at once."""
    for _ in range(queue_module._ALONE + 2):
        queue.append("warm")
        assert get(queue, pid) == "warm"


def lend_several(queue, pid, count):
    """Have a process be lent some items at once; return its asker."""
    trusted(queue, pid)
    items = [f"item {i}" for i in range(count)]
    for item in items:
        queue.append(item)
    asker = Asker(pid)
    assert told(queue.take(asker, most=count)) == [("lend", asker, items)]
    return asker


# Order and fairness


def test_items_come_out_in_the_order_in_which_they_went_in():
    """First in, first out."""
    queue = filled(math.inf, *range(10))
    assert [get(queue, pid=1 + i % 3) for i in range(10)] == list(range(10))


def test_who_waits_longest_gets_the_next_item():
    """Takers are served in the order in which they came."""
    queue, askers = Queue(1), [Asker(1 + i % 3) for i in range(6)]
    for asker in askers:
        assert told(queue.take(asker)) == []
    for i, asker in enumerate(askers):
        putter = Asker(9)
        assert told(queue.put(putter, i)) == [("accept", putter, 0), ("lend", asker, [i])]
        queue.confirm(asker.key)


def test_who_waits_longest_may_put_next():
    """Putters are served in the order in which they came."""
    queue, askers = filled(1, "first"), [Asker(1 + i % 3) for i in range(6)]
    for asker in askers:
        assert told(queue.put(asker, asker)) == []
    for asker in askers:
        taker = Asker()
        queue.take(taker)
        assert told(queue.confirm(taker.key)) == [("accept", asker, 0)]
    assert get(queue) is askers[-1]


def test_a_taker_that_waits_comes_before_one_that_comes_now():
    """Nobody overtakes: the quick ways are closed while anybody waits."""
    queue = Queue(3)
    assert queue.is_idle()
    queue.take(Asker())
    assert not queue.is_idle()
    queue = filled(1, "full")
    queue.put(Asker(), "waits")
    assert not queue.is_idle()
    queue = Queue(1)
    queue.peek(Asker())
    assert not queue.is_idle()
    queue = Queue(1)
    queue.close()
    assert not queue.is_idle()


# Capacity


@pytest.mark.parametrize("capacity", [1, 2, 7])
def test_no_more_goes_in_than_the_capacity(capacity):
    """The next put waits until an item is in its consumer's hands, not only until it has left."""
    queue = filled(capacity, *range(capacity))
    putter, taker = Asker(2), Asker(3)
    assert not queue.has_room()
    assert told(queue.put(putter, "more")) == []
    assert told(queue.take(taker)) == [("lend", taker, [0])]
    assert len(queue) == capacity
    assert told(queue.confirm(taker.key)) == [("accept", putter, 0)]
    assert len(queue) == capacity


def test_an_unbounded_queue_takes_everything():
    """math.inf is never full."""
    queue = filled(math.inf, *range(10_000))
    assert len(queue) == 10_000
    assert queue.has_room()


def test_a_rendezvous_is_a_put_and_a_take_at_once():
    """With capacity 0 a put waits for a taker and a taker for a put; neither is there before."""
    queue, putter, taker = Queue(0), Asker(2), Asker(3)
    assert not queue.isready()
    assert told(queue.put(putter, "item")) == []
    assert queue.isready()
    assert len(queue) == 0
    assert told(queue.take(taker)) == [("accept", putter, 0), ("lend", taker, ["item"])]
    queue.confirm(taker.key)
    assert told(queue.take(taker)) == []
    assert queue.has_room()
    assert told(queue.put(putter, "next")) == [("accept", putter, 0), ("lend", taker, ["next"])]


def test_what_a_rendezvous_returns_goes_to_the_next_taker():
    """An item that comes back to a queue of capacity 0 is taken before any new one."""
    queue, putter, taker, other = Queue(0), Asker(2), Asker(3), Asker(4)
    queue.take(taker)
    queue.put(putter, "old")
    assert told(queue.put(putter, "new")) == []
    assert told(queue.withdraw(taker.key)) == []
    assert len(queue) == 1
    assert told(queue.take(other)) == [("lend", other, ["old"])]


def test_leases_make_room():
    """A leased item is with its consumer, so it takes no place; if it returns there may be one too many."""
    queue, lease = filled(1, "a"), Asker(1)
    queue.take(lease, lease=True)
    assert queue.has_room()
    assert len(queue) == 0
    queue.put(Asker(2), "b")
    assert told(queue.withdraw(lease.key)) == []
    assert len(queue) == 2
    assert not queue.has_room()
    assert [get(queue), get(queue)] == ["a", "b"]


# Credits


def test_credits_are_places_kept_free():
    """A producer gets at most half of the room that is left, and nobody else may use it; deposits need no answer."""
    queue, quick, other = Queue(10), Asker(1), Asker(2)
    assert told(queue.put(quick, 0, wish=100)) == [("accept", quick, 4)]
    for i in range(5):
        queue.put(other, i)
    assert not queue.has_room()
    for i in range(4):
        assert told(queue.deposit(1, i)) == []
    assert len(queue) == 10


def test_credits_are_no_more_than_wished_for():
    """Nor less, where there is no bound."""
    queue, asker = Queue(math.inf), Asker(1)
    assert told(queue.put(asker, 0, wish=7)) == [("accept", asker, 7)]
    assert told(queue.put(asker, 0, wish=0)) == [("accept", asker, 0)]


def test_no_credits_while_another_waits():
    """Who waits for room comes before a producer that wants more of it."""
    queue, gone, first, second = Queue(20), Asker(9), Asker(1), Asker(2)
    assert told(queue.put(gone, 0, wish=100)) == [("accept", gone, 9)]
    for i in range(10):
        queue.append(i)
    queue.put(first, "a", wish=10)
    queue.put(second, "b")
    assert told(queue.lose(9)) == [("accept", first, 0), ("accept", second, 0)]


def test_credits_are_recalled_when_another_waits():
    """Once for each grant; the producer returns what it has not used, and who waits gets in."""
    queue, quick, other, third = Queue(4), Asker(1), Asker(2), Asker(3)
    assert told(queue.put(quick, "a", wish=100)) == [("accept", quick, 1)]
    queue.put(other, "b")
    queue.put(other, "c")
    assert told(queue.put(other, "d")) == [("recall", 1)]
    assert told(queue.put(third, "e")) == []
    assert told(queue.give_back(1, (), 0)) == [], "the rest is on its way, and is not asked for again"
    assert told(queue.give_back(1, (), 1)) == [("accept", other, 0)]


def test_a_grant_after_a_recall_is_recalled_too():
    """What a producer gets later is asked for when somebody waits again."""
    queue, quick, other, taker = Queue(3), Asker(1), Asker(2), Asker(3)
    for _ in range(3):
        assert told(queue.put(quick, "a", wish=1)) == [("accept", quick, 1)]
        queue.put(other, "b")
        waiting = Asker(2)
        assert told(queue.put(waiting, "c")) == [("recall", 1)]
        assert told(queue.give_back(1, (), 1)) == [("accept", waiting, 0)]
        for _ in range(3):
            queue.take(taker)
            queue.confirm(taker.key)


def test_a_deposit_on_its_way_finds_its_place():
    """Closing waits for those who have credits; what they have sent by then is in."""
    queue, quick, closer = Queue(10), Asker(1), Asker(2)
    queue.put(quick, 0, wish=2)
    assert told(queue.close(closer)) == [("recall", 1)]
    assert told(queue.put(quick, "late")) == [("closed", quick)]
    assert told(queue.deposit(1, 1)) == []
    assert told(queue.give_back(1, (), 1)) == [("accept", closer, 0)]
    assert [get(queue), get(queue)] == [0, 1]


def test_the_credits_of_a_dead_producer_are_free():
    """With its process its places go, and who waited for them gets in."""
    queue, quick, other = Queue(4), Asker(1), Asker(2)
    queue.put(quick, "a", wish=1)
    for _ in range(2):
        queue.put(other, "b")
    queue.put(other, "c")
    assert told(queue.lose(1)) == [("accept", other, 0)]
    assert queue.involved() == set()


# Several at once


def test_several_go_only_to_who_takes_alone_and_wants_them():
    """A process beside which others take, a lease, or a take that wishes for one item gets one."""
    queue = filled(math.inf, *range(100))
    for i in range(2 * queue_module._ALONE):
        assert get(queue, pid=1 + i % 2, most=10) == i
    queue = Queue(math.inf)
    trusted(queue)
    for i in range(50):
        queue.append(i)
    assert get(queue, most=1) == 0
    assert get(queue, most=10, lease=True) == 1
    assert get(queue, pid=2) == 2
    assert get(queue, most=10) == 3


def test_several_go_only_to_the_last_who_waits():
    """Of two takers of one process the first gets one item, so that the second gets one too."""
    queue, lease, first, second = Queue(math.inf), [Asker(2) for _ in range(3)], Asker(1), Asker(1)
    for i, each in enumerate(lease):
        queue.append(i)
        queue.take(each, lease=True)
    for _ in range(queue_module._ALONE + 2):
        queue.append("warm")
        get(queue)
    queue.take(first, most=10)
    queue.take(second, most=10)
    assert told(queue.lose(2)) == [("lend", first, [0]), ("lend", second, [1, 2])]


def test_what_was_lent_several_at_once_is_confirmed_one_by_one():
    """Each by its number, in whatever order threads have them in hand; each is confirmed once."""
    queue = Queue(math.inf)
    asker = lend_several(queue, 1, 4)
    assert queue.isready(), "another could have them"
    for place, left in ((0, 3), (2, 2), (2, 2), (7, 2), (1, 1), (3, 0), (3, 0)):
        assert told(queue.confirm(asker.key, place)) == []
        assert len(queue) == left
        assert queue.several == left
    assert queue.involved() == set()


@pytest.mark.parametrize("event", ["take", "lease", "peek"])
def test_what_is_not_handed_out_is_recalled_for_another(event):
    """Once; nobody gets anything before it has come back, so that all see one order."""
    queue = Queue(math.inf)
    asker, other = lend_several(queue, 1, 4), Asker(2)
    queue.append("later")
    events = {"take": queue.take, "lease": lambda who: queue.take(who, lease=True), "peek": queue.peek}
    assert told(events[event](other)) == [("recall", 1)]
    assert told(queue.take(Asker(3))) == []
    assert told(queue.confirm(asker.key, 0)) == []
    assert told(queue.give_back(1, (), 0)) == [], "the rest is in hands, and is not asked for again"
    assert told(queue.give_back(1, [(asker.number, 2), (asker.number, 3)], 0)) == []
    todo = told(queue.confirm(asker.key, 1))
    assert (("show", other, "item 3") if event == "peek" else ("lend", other, ["item 2"])) in todo


def test_returned_items_have_their_old_places():
    """Whatever comes back, in whatever order, stands where it stood."""
    queue = Queue(math.inf)
    first, second = Asker(1), Asker(2)
    for i in range(4):
        queue.append(i)
    queue.take(first)
    queue.take(second)
    for key in (second.key, first.key):
        assert told(queue.withdraw(key)) == []
    assert [entry.item for entry in queue.entries] == [0, 1, 2, 3]
    assert [get(queue) for _ in range(4)] == [0, 1, 2, 3]
    several = lend_several(queue, 3, 4)
    queue.append("behind")
    queue.give_back(3, [(several.number, 1), (several.number, 3), (several.number, 2)], 0)
    assert [entry.item for entry in queue.entries] == ["item 1", "item 2", "item 3", "behind"]


def test_an_entry_that_was_taken_out_can_be_restored():
    """The quick way out of the queue has a way back, to the old place, and wakes who waits."""
    queue, taker = filled(5, "a", "b"), Asker()
    entry = queue.entries.popleft()
    assert told(queue.restore(entry)) == []
    assert [get(queue), get(queue)] == ["a", "b"]
    entry = filled(1, "x").entries.popleft()
    queue.take(taker)
    assert told(queue.restore(entry)) == [("lend", taker, ["x"])]


# Who gives up, and who dies


@pytest.mark.parametrize("event", ["put", "take", "peek"])
def test_who_withdraws_leaves_nothing_behind(event):
    """It is refused, and what comes later is for others."""
    queue, asker, other = filled(1, "full"), Asker(1), Asker(2)
    if event == "put":
        assert told(queue.put(asker, "never")) == []
        assert told(queue.withdraw(asker.key)) == [("withdrawn", asker)]
        assert [get(queue), len(queue)] == ["full", 0]
        return
    assert get(queue) == "full"
    assert told({"take": queue.take, "peek": queue.peek}[event](asker)) == []
    assert told(queue.withdraw(asker.key)) == [("withdrawn", asker)]
    assert told(queue.withdraw(asker.key)) == []
    assert told(queue.put(other, "item")) == [("accept", other, 0)]
    assert get(queue) == "item"


def test_a_closer_that_withdraws_is_not_answered():
    """The queue stays closed."""
    queue, quick, closer = Queue(10), Asker(1), Asker(2)
    queue.put(quick, 0, wish=2)
    queue.close(closer)
    queue.withdraw(closer.key)
    assert told(queue.give_back(1, (), 2)) == []
    assert not queue.isopen


def test_the_loan_of_who_withdraws_goes_to_the_next():
    """An answer that crossed the withdrawal is void: the item goes to who waits, with one delivery more."""
    queue, asker, other = filled(5, "item"), Asker(1), Asker(2)
    queue.take(asker)
    queue.take(other)
    assert told(queue.withdraw(asker.key)) == [("lend", other, ["item"])]
    assert told(queue.confirm(asker.key)) == [], "its confirmation comes too late and confirms nothing"
    assert len(queue) == 1
    queue.confirm(other.key)
    assert len(queue) == 0


def test_a_dead_process_waits_no_more_and_returns_everything():
    """Its puts, takes, peeks and closes are forgotten; its loans return in order and go to who waits."""
    queue = Queue(math.inf)
    dead = lend_several(queue, 1, 3)
    queue.take(Asker(1))
    queue.peek(Asker(1))
    other = Asker(2)
    queue.take(other)
    assert told(queue.lose(1)) == [("lend", other, ["item 0"])]
    assert queue.involved() == {2}
    assert told(queue.confirm(dead.key)) == []
    queue.confirm(other.key)
    assert [get(queue), get(queue)] == ["item 1", "item 2"]
    full, late = filled(1, "full"), Asker(1)
    full.put(late, "never")
    full.lose(1)
    assert [get(full), len(full)] == ["full", 0]
    closing = Queue(9)
    closing.put(Asker(3), 0, wish=2)
    closing.close(late)
    closing.lose(1)
    assert told(closing.lose(3)) == []


# Looking


def test_a_peek_sees_the_first_item_and_leaves_it():
    """At once or as soon as there is one, all who look; blindly means without the item."""
    queue, first, second, blind = Queue(1), Asker(1), Asker(2), Asker(3)
    queue.peek(first)
    queue.peek(second)
    queue.peek(blind, blindly=True)
    putter = Asker(9)
    shows = [("show", first, "item"), ("show", second, "item"), ("show", blind, None)]
    assert told(queue.put(putter, "item")) == [("accept", putter, 0), *shows]
    assert told(queue.peek(first)) == [("show", first, "item")]
    assert get(queue) == "item"
    rendezvous = Queue(0)
    assert told(rendezvous.put(putter, "item")) == []
    assert told(rendezvous.peek(first)) == [("show", first, "item")]


def test_a_taker_comes_before_a_peeker():
    """An item that somebody waits to take is not shown."""
    queue, peeker, taker = Queue(1), Asker(1), Asker(2)
    queue.peek(peeker)
    queue.take(taker)
    putter = Asker(9)
    assert told(queue.put(putter, "item")) == [("accept", putter, 0), ("lend", taker, ["item"])]


# Leases and deliveries


def test_each_delivery_is_counted():
    """An entry knows how often it has been handed out."""
    queue = filled(1, "item")
    for number in range(1, 5):
        lease = Asker(number)
        (lend,) = queue.take(lease, lease=True)
        assert lend.lease
        assert [entry.deliveries for entry in lend.entries] == [number]
        queue.withdraw(lease.key)


def test_what_comes_back_unseen_was_not_delivered():
    """An item that a consumer was sent among several, and has returned, is delivered for the first time."""
    queue, lease = Queue(math.inf), Asker(2)
    several = lend_several(queue, 1, 2)
    queue.take(lease, lease=True)
    queue.confirm(several.key)
    (lend,) = queue.give_back(1, [(several.number, 1)], 0)
    assert [entry.deliveries for entry in lend.entries] == [1]


def test_a_lease_that_is_done_is_gone():
    """Confirmed, it returns no more, whatever becomes of its process."""
    queue, lease = filled(1, "item"), Asker(1)
    queue.take(lease, lease=True)
    assert told(queue.confirm(lease.key)) == []
    assert told(queue.lose(1)) == []
    assert len(queue) == 0


# Closing


def test_closing_lets_nothing_in_and_everything_out():
    """Who waits to put is refused, what is in can be taken, then takers and peekers are refused."""
    queue, putter, closer = filled(1, "last"), Asker(1), Asker(2)
    queue.put(putter, "never")
    assert told(queue.close(closer)) == [("closed", putter), ("accept", closer, 0)]
    assert told(queue.put(putter, "no")) == [("closed", putter)]
    assert get(queue) == "last"
    taker, peeker = Asker(3), Asker(3)
    assert told(queue.take(taker)) == [("closed", taker)]
    assert told(queue.peek(peeker)) == [("closed", peeker)]
    assert told(queue.close(closer)) == [("accept", closer, 0)]


def test_closing_ends_every_wait():
    """Takers, leases and peekers of an empty queue are refused at once."""
    queue, askers = Queue(1), [Asker(1), Asker(2), Asker(3)]
    queue.take(askers[0])
    queue.take(askers[1], lease=True)
    queue.peek(askers[2])
    assert sorted(told(queue.close()), key=lambda each: each[1].pid) == [("closed", each) for each in askers]


@pytest.mark.parametrize("lease", [False, True])
def test_takers_wait_for_what_may_come_back(lease):
    """Of a closed queue: for an item that is not yet in its consumer's hands, and a lease also for leases."""
    queue, first, second = filled(1, "item"), Asker(1), Asker(2)
    queue.take(first, lease=lease)
    queue.close()
    if lease:
        plain = Asker(3)
        assert told(queue.take(plain)) == [("closed", plain)], "a take does not wait for leases"
    assert told(queue.take(second, lease=True)) == []
    assert told(queue.withdraw(first.key)) == [("lend", second, ["item"])]
    third = Asker(3)
    assert told(queue.take(third, lease=True)) == []
    assert told(queue.confirm(second.key)) == [("closed", third)]


def test_takers_wait_for_credits_of_a_closed_queue():
    """A deposit that is on its way is still delivered."""
    queue, quick, taker = Queue(10), Asker(1), Asker(2)
    queue.put(quick, 0, wish=2)
    assert get(queue) == 0
    queue.close()
    assert told(queue.take(taker)) == []
    assert told(queue.deposit(1, 1)) == [("lend", taker, [1])]
    queue.confirm(taker.key)
    assert told(queue.take(taker)) == []
    assert told(queue.give_back(1, (), 1)) == [("closed", taker)]


def test_a_queue_describes_itself():
    """repr is a status line."""
    queue = filled(3, "a")
    assert repr(queue) == "<Queue: 1/3, open>"
    queue.close()
    assert repr(queue) == "<Queue: 1/3, closed>"


# Everything at once


class Laws(RuleBasedStateMachine):
    """A queue under any sequence of events, beside a model that knows where every item must be.

    Each instruction is checked when it comes: that it is due, and to whom. Then nobody may wait without a reason.
    """

    pids = st.integers(1, 4)

    def __init__(self):
        super().__init__()
        self.queue = None
        self.inside = []  # (place, item), in order
        self.out = {}  # (key, number in the loan) -> (place, item)
        self.leases = set()  # keys
        self.loans = {}  # key -> number of items at the beginning
        self.recalled = set()  # keys
        self.gone = Counter()
        self.accepted = 0
        self.items = 0
        self.putters, self.takers, self.peekers, self.closers = [], [], [], []
        self.credits = Counter()
        self.granted = set()  # pids that were given credits and not asked for them
        self.closed = False
        self.returned = 0  # items that have come back: so many there may be too many
        self.alone = queue_module._ALONE
        queue_module._ALONE = 0

    def teardown(self):
        queue_module._ALONE = self.alone

    # The model

    def several(self):
        return {key for key, _ in self.out if key not in self.leases and self.loans[key] > 1}

    def ahead(self):
        return [each for each in self.out if each[0] not in self.leases]

    def occupied(self):
        return len(self.inside) + len(self.ahead()) + sum(self.credits.values())

    def bring_back(self, *each):
        for one in each:
            self.inside.append(self.out.pop(one))
            self.returned += 1
        self.inside.sort()

    def lower_credits(self, pid, count):
        self.credits[pid] -= count
        if not self.credits[pid]:
            self.granted.discard(pid)

    def obey(self, todo):
        """Check each instruction against the model, and do it there."""
        for each in todo:
            getattr(self, f"obey_{type(each).__name__.lower()}")(each)
        self.check()

    def obey_accept(self, accept):
        if self.closers and accept.asker is self.closers[0]:
            assert self.closed
            assert not sum(self.credits.values())
            del self.closers[0]
            return
        asker, item, wish = self.putters.pop(0)
        assert accept.asker is asker, "putters in the order of coming"
        assert not self.closed
        if self.capacity == 0:
            assert self.takers
        else:
            assert self.occupied() < self.capacity, "no more than the capacity"
        self.accept(item)
        assert 0 <= accept.credits <= wish
        if accept.credits:
            assert not self.putters, "no credits while another waits"
            self.credits[asker.pid] += accept.credits
            self.granted.add(asker.pid)
            assert self.occupied() <= self.capacity

    def accept(self, item):
        self.accepted += 1
        self.inside.append((self.accepted, item))

    def obey_lend(self, lend):
        asker, most, lease = self.takers.pop(0)
        assert lend.asker is asker, "takers in the order of coming"
        assert not self.several(), "nothing is lent before everything that could be recalled is known to be in hands"
        assert lend.lease is lease
        assert 1 <= len(lend.entries) <= (1 if lease else most)
        if len(lend.entries) > 1:
            assert not self.takers, "one for each as long as several wait"
        expected, self.inside = self.inside[: len(lend.entries)], self.inside[len(lend.entries) :]
        assert [entry.item for entry in lend.entries] == [item for _, item in expected], "in order"
        for number, each in enumerate(expected):
            self.out[asker.key, number] = each
        self.loans[asker.key] = len(expected)
        if lease:
            self.leases.add(asker.key)

    def obey_show(self, show):
        (blindly,) = [blindly for asker, blindly in self.peekers if asker is show.asker]
        self.peekers = [each for each in self.peekers if each[0] is not show.asker]
        assert not self.several()
        if self.inside or blindly:
            assert blindly or show.item == self.inside[0][1]
        else:
            assert self.capacity == 0
            assert show.item == self.putters[0][1]

    def obey_refuse(self, refuse):
        for waiting in (self.putters, self.takers, self.peekers):
            for each in waiting:
                if each[0] is refuse.asker:
                    waiting.remove(each)
                    assert refuse.closed
                    assert self.closed
                    if waiting is self.putters:
                        return
                    assert not [*self.inside, *self.ahead(), *(+self.credits)], "not drained yet"
                    assert not (waiting is self.takers and each[2] and self.out), "a lease may come back"
                    return
        raise AssertionError(f"{refuse} is for nobody")

    def obey_recall(self, recall):
        loans = {key for key in self.several() if key[0] == recall.pid} - self.recalled
        assert loans or recall.pid in self.granted, "nobody is asked twice for the same"
        self.recalled |= loans
        self.granted.discard(recall.pid)

    def check(self):
        """Nobody waits while something could be done; nothing is lost or doubled."""
        queue = self.queue
        assert len(queue) == len(self.inside) + len(self.ahead())
        assert queue.isopen is not self.closed
        busy = self.several()
        if self.takers or self.peekers:
            assert not self.inside or busy
            assert busy <= self.recalled, "what others wait for is recalled"
            assert not (self.capacity == 0 and self.putters and not busy), "a rendezvous brings them together"
        if self.putters:
            assert self.capacity == 0 or self.occupied() >= self.capacity
            assert not self.granted
        if self.closed:
            assert not self.putters
            assert not self.granted
            assert not (self.closers and not sum(self.credits.values()))
        if self.capacity:
            assert self.occupied() <= self.capacity + self.returned
        assert self.accepted == len(self.inside) + len(self.out) + sum(self.gone.values())
        assert max(self.gone.values(), default=1) == 1
        waiting = [each[0] for each in (*self.putters, *self.takers, *self.peekers)] + self.closers
        holders = {key[0] for key, _ in self.out} | set(+self.credits)
        assert queue.involved() == {asker.pid for asker in waiting} | holders

    # Events

    @precondition(lambda self: self.queue is None)
    @rule(capacity=st.sampled_from([0, 1, 2, 5, math.inf]))
    def begin(self, capacity):
        self.capacity = capacity
        self.queue = Queue(capacity)

    begun = precondition(lambda self: self.queue is not None)

    @begun
    @rule(pid=pids, wish=st.sampled_from([0, 0, 1, 8]))
    def put(self, pid, wish):
        self.items += 1
        asker = Asker(pid)
        if not self.closed:
            self.putters.append((asker, self.items, wish))
            self.obey(self.queue.put(asker, self.items, wish))
        else:
            assert told(self.queue.put(asker, self.items, wish)) == [("closed", asker)]

    @begun
    @rule(pid=pids, most=st.sampled_from([1, 4, 4]), lease=st.sampled_from([False, False, True]))
    def take(self, pid, most, lease):
        asker = Asker(pid)
        self.takers.append((asker, most, lease))
        self.obey(self.queue.take(asker, most, lease))

    @begun
    @rule(pid=pids, blindly=st.booleans())
    def peek(self, pid, blindly):
        asker = Asker(pid)
        self.peekers.append((asker, blindly))
        self.obey(self.queue.peek(asker, blindly))

    @precondition(lambda self: +self.credits)
    @rule(data=st.data())
    def deposit(self, data):
        pid = data.draw(st.sampled_from(sorted(+self.credits)))
        self.lower_credits(pid, 1)
        self.items += 1
        self.accept(self.items)
        self.obey(self.queue.deposit(pid, self.items))

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def confirm(self, data):
        key, number = data.draw(st.sampled_from(sorted(self.out)))
        self.gone[self.out.pop((key, number))[1]] += 1
        self.obey(self.queue.confirm(key, number))

    @precondition(lambda self: self.several() or +self.credits)
    @rule(data=st.data(), all=st.booleans())
    def give_back(self, data, all):
        pid = data.draw(st.sampled_from(sorted({key[0] for key in self.several()} | set(+self.credits))))
        names = sorted(each for each in self.out if each[0][0] == pid and each[0] in self.several() and each[1])
        credits = self.credits[pid]
        if not all:
            names = names[data.draw(st.integers(0, len(names))) :]
            credits = data.draw(st.integers(0, credits))
        self.bring_back(*names)
        self.lower_credits(pid, credits)
        self.obey(self.queue.give_back(pid, [(key[1], number) for key, number in names], credits))

    @begun
    @rule(data=st.data())
    def withdraw(self, data):
        waiting = [each[0].key for each in (*self.putters, *self.takers, *self.peekers)]
        waiting += [asker.key for asker in self.closers]
        keys = sorted({*waiting, *(key for key, _ in self.out), (1, 0)})
        key = data.draw(st.sampled_from(keys))
        todo = self.queue.withdraw(key)
        for each in (self.putters, self.takers, self.peekers):
            for one in [one for one in each if one[0].key == key]:
                each.remove(one)
                assert told(todo[:1]) == [("withdrawn", one[0])]
                del todo[0]
        self.closers = [asker for asker in self.closers if asker.key != key]
        self.bring_back(*[each for each in self.out if each[0] == key])
        self.obey(todo)

    @begun
    @rule(pid=pids)
    def lose(self, pid):
        for each in (self.putters, self.takers, self.peekers):
            each[:] = [one for one in each if one[0].pid != pid]
        self.closers = [asker for asker in self.closers if asker.pid != pid]
        self.lower_credits(pid, self.credits[pid])
        self.bring_back(*[each for each in self.out if each[0][0] == pid])
        self.obey(self.queue.lose(pid))

    @begun
    @rule(pid=pids, seldom=st.integers(0, 5))
    def close(self, pid, seldom):
        if seldom and not self.closed:
            return
        self.closed = True
        asker = Asker(pid)
        self.closers.append(asker)
        self.obey(self.queue.close(asker))

    @invariant()
    def everything_can_still_be_had(self):
        """At any moment: if all loans end and all credits return, takers get every item, in order."""
        if self.queue is not None and not self.takers and not self.several() and not self.peekers:
            assert [entry.item for entry in self.queue.entries] == [item for _, item in self.inside]


TestLaws = Laws.TestCase
TestLaws.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)
