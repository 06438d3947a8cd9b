"""A value lives exactly as long as somebody may still ask for it."""

from collections import Counter, deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from farcall._node.refs import Holders

OWNER = 1
REF = (2, 7)


@pytest.fixture
def holders():
    """Return a table with one reference, held by process 2."""
    table = Holders()
    assert table.create(REF, holder=2)
    return table


def test_a_reference_begins_with_its_creator(holders):
    """A new reference is held by the process that asked for the value."""
    assert REF in holders
    assert len(holders) == 1


def test_the_last_holder_frees_the_reference(holders):
    """A reference becomes free when its last holder lets go, and not before."""
    assert not holders.change(REF, 3, +1)
    assert not holders.change(REF, 2, -1)
    assert REF in holders
    assert holders.change(REF, 3, -1)
    assert REF not in holders


def test_each_message_counts(holders):
    """A process that got a reference twice lets go of it twice."""
    holders.change(REF, 2, +1)
    assert not holders.change(REF, 2, -1)
    assert holders.change(REF, 2, -1)


def test_a_drop_may_overtake_its_add(holders):
    """The news that a process let go may come before the news that it held; the sender's claim bridges the gap."""
    assert not holders.change(REF, 3, -1)
    assert not holders.change(REF, 3, +1)
    assert REF in holders
    assert holders.change(REF, 2, -1)


def test_a_count_below_zero_keeps_the_value(holders):
    """While an add is under way that a drop has overtaken, the value is not free."""
    holders.change(REF, 3, -1)
    assert not holders.change(REF, 2, -1)
    assert REF in holders
    assert holders.change(REF, 3, +1)


def test_a_dead_holder_lets_go_of_everything(holders):
    """When a process is gone its claims are gone, and what only it held is free."""
    holders.create((2, 8), holder=2)
    holders.create((3, 9), holder=3)
    holders.change((2, 8), 3, +1)
    assert holders.lose(2) == [REF]
    assert sorted(holders.lose(3)) == [(2, 8), (3, 9)]
    assert len(holders) == 0


def test_news_about_the_dead_change_nothing(holders):
    """A process that is gone holds nothing, however late an add for it arrives, and begins nothing."""
    holders.change(REF, 3, +1)
    assert holders.lose(2) == []
    assert not holders.change(REF, 2, +1)
    assert not holders.create((2, 8), holder=2)
    assert (2, 8) not in holders
    assert holders.change(REF, 3, -1)


def test_late_news_of_what_is_gone_leave_nothing(holders):
    """News of a reference that was freed keep nothing once both halves of them have come."""
    assert holders.change(REF, 2, -1)
    holders.change(REF, 3, +1)
    holders.change(REF, 3, -1)
    assert REF not in holders


def test_losing_twice_is_losing_once(holders):
    """A process that is lost again has nothing left to free."""
    assert holders.lose(2) == [REF]
    assert holders.lose(2) == []
    assert holders.lose(99) == []


def test_a_drop_may_overtake_the_call_that_makes_the_value():
    """Process 2 makes a value here and passes it to 3, whose drop comes first: in the end the value is free."""
    holders = Holders()
    holders.change(REF, 3, -1)  # over the link from 3
    holders.create(REF, holder=2)  # over the link from 2, as the rest
    holders.change(REF, 3, +1)
    assert holders.change(REF, 2, -1)


def test_repr_counts_references(holders):
    """The status line says how many references are held."""
    assert repr(holders) == "<Holders [1 references]>"


PROCESSES = (1, 2, 3, 4)
processes = st.sampled_from(PROCESSES)
others = st.sampled_from(PROCESSES[1:])


class Lifetime(RuleBasedStateMachine):
    """Processes pass references around over links of different speed, let go, and die.

    What is simulated is what ``References`` does: whoever sends a reference first tells the owner that the
    receiver will hold it; whoever got one tells the owner when it lets go. The call that makes a value is a message
    like others. A link delivers in order, and the owner takes note of a death after all that the dead process has
    sent it. Two links have no order between them.
    """

    def __init__(self):
        super().__init__()
        self.holders = Holders()
        self.created = 0
        self.claims = Counter()  # by process and reference
        self.links = {}  # by sender and receiver: what is under way
        self.dead = set()
        self.lost = set()  # those of the dead whom the owner knows to be dead

    # What the processes do

    def post(self, sender, receiver, item):
        self.links.setdefault((sender, receiver), deque()).append(item)

    def tell_owner(self, sender, ref, holder, by):
        if sender == OWNER:
            self.note(ref, holder, by)
        else:
            self.post(sender, OWNER, ("change", ref, holder, by))

    def note(self, ref, holder, by):
        """Have the owner take note of a change; freeing must be reported exactly when it happens."""
        there = ref in self.holders
        assert self.holders.change(ref, holder, by) == (there and ref not in self.holders)

    def held(self):
        return sorted(claim for claim, count in self.claims.items() if count > 0)

    @rule(holder=processes)
    def create(self, holder):
        if holder in self.dead:
            return
        self.created += 1
        ref = (holder, self.created)
        self.claims[holder, ref] += 1
        if holder == OWNER:
            assert self.holders.create(ref, holder)
        else:
            self.post(holder, OWNER, ("create", ref))

    @precondition(lambda self: self.held())
    @rule(data=st.data(), receiver=processes)
    def send(self, data, receiver):
        sender, ref = data.draw(st.sampled_from(self.held()))
        if sender != receiver:
            self.tell_owner(sender, ref, receiver, +1)
            self.post(sender, receiver, ("message", ref))

    @precondition(lambda self: self.held())
    @rule(data=st.data())
    def drop(self, data):
        holder, ref = data.draw(st.sampled_from(self.held()))
        self.claims[holder, ref] -= 1
        self.tell_owner(holder, ref, holder, -1)

    @rule(process=others)
    def die(self, process):
        self.dead.add(process)
        for claim in self.held():
            if claim[0] == process:
                del self.claims[claim]

    @precondition(lambda self: self.busy())
    @rule(data=st.data())
    def deliver(self, data):
        self.deliver_next(data.draw(st.sampled_from(self.busy())))

    @precondition(lambda self: self.ready_to_lose())
    @rule(data=st.data())
    def lose(self, data):
        self.lose_one(data.draw(st.sampled_from(self.ready_to_lose())))

    # What that means

    def busy(self):
        return sorted(link for link, items in self.links.items() if items)

    def deliver_next(self, link):
        kind, ref, *change = self.links[link].popleft()
        if kind == "change":
            self.note(ref, *change)
        elif kind == "create":
            assert self.holders.create(ref, link[0])
        elif link[1] not in self.dead:
            self.claims[link[1], ref] += 1

    def ready_to_lose(self):
        return sorted(each for each in self.dead - self.lost if not self.links.get((each, OWNER)))

    def lose_one(self, process):
        before = set(self.refs())
        freed = self.holders.lose(process)
        self.lost.add(process)
        assert sorted(freed) == sorted(before - set(self.refs()))

    def refs(self):
        return [ref for ref in self.all_refs() if ref in self.holders]

    def all_refs(self):
        return [(holder, number) for number in range(1, self.created + 1) for holder in PROCESSES]

    def needed(self):
        """Return the references to what is there that a living process holds or is about to get."""
        refs = {ref for _, ref in self.held()}
        for (_, receiver), items in self.links.items():
            if receiver not in self.dead:
                refs |= {item[1] for item in items if item[0] == "message"}
        return refs - {item[1] for items in self.links.values() for item in items if item[0] == "create"}

    @invariant()
    def what_is_needed_lives(self):
        assert self.needed() <= set(self.refs())

    def settle(self):
        """Let everything arrive, deaths included."""
        while self.busy():
            self.deliver_next(self.busy()[0])
        for process in self.ready_to_lose():
            self.lose_one(process)

    def teardown(self):
        """When all is quiet exactly what somebody holds is there; when everybody has let go, nothing is."""
        self.settle()
        assert set(self.refs()) == {ref for _, ref in self.held()}
        while self.held():
            holder, ref = self.held()[0]
            self.claims[holder, ref] -= 1
            self.tell_owner(holder, ref, holder, -1)
        self.settle()
        assert len(self.holders) == 0


TestLifetime = Lifetime.TestCase
TestLifetime.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
