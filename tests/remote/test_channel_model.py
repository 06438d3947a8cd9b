"""RemoteChannel beside a model of it: any sequence of operations, on nodes of one process over the memory transport.

Operations that block are Futures. After each step everything must come to where the model says it is.
"""

import math

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from in_one_process import Nodes
from waiting import until

from farcall import ChannelClosed, ProcessExited, RemoteChannel
from farcall._remote import account as account_module
from farcall._remote import queue as queue_module

HELD: list = []
LEASES: dict = {}


def hold(channel):
    HELD.append(channel)


def begin_lease(channel, name):
    LEASES[name] = channel.lease()
    return next_lease(name)


def next_lease(name):
    item = next(LEASES[name], "the end")
    return item, LEASES[name].deliveries


def end_lease(name, done):
    error = None if done else ValueError()
    LEASES.pop(name).__exit__(type(error) if error else None, error, None)


class Waiting:
    """An operation that has begun, and what it waits for."""

    def __init__(self, future, pid, item=None, lease=None):
        self.future = future
        self.pid = pid
        self.item = item
        self.lease = lease


class ChannelMachine(RuleBasedStateMachine):
    """The model is a list of [place, item, deliveries], who waits for what in order, and who leases what."""

    def __init__(self):
        super().__init__()
        self.quick = queue_module._ALONE, account_module._QUICK
        queue_module._ALONE, account_module._QUICK = 0, 60.0
        self.nodes, self.alive, self.owner = None, [], 0
        self.count = self.names = 0
        self.forget()

    def forget(self):
        """Begin with an empty model."""
        self.items, self.leases = [], {}
        self.putters, self.takers, self.peekers = [], [], []
        self.ends = []  # (future, value or kind of error) of what must have ended
        self.closed = False

    @initialize(capacity=st.sampled_from([0, 1, 3, 20, math.inf]), owner=st.sampled_from([1, 2]))
    def begin(self, capacity, owner):
        self.capacity, self.owner = capacity, owner
        self.nodes, self.alive = Nodes(5), [1, 2, 3, 4, 5]
        with self.nodes.being(1):
            self.channel = RemoteChannel(capacity, pid=owner)
        for pid in self.alive:
            self.nodes.run(pid, hold, self.channel)
        ref = self.channel._hold.creator, self.channel._hold.number
        self.queue = self.nodes[owner].references.values[ref].value.queue

    def teardown(self):
        queue_module._ALONE, account_module._QUICK = self.quick
        self.end()

    def end(self):
        HELD.clear()
        LEASES.clear()
        if self.nodes is not None:
            del self.channel
            for each in (*self.putters, *self.takers, *self.peekers):
                each.future.cancel()
            self.nodes.__exit__()
            self.nodes = self.queue = None

    # The model

    def advance(self):
        while True:
            if self.takers and self.items:
                taker, first = self.takers.pop(0), self.items.pop(0)
                if taker.lease is not None:
                    first[2] += 1
                    self.leases[taker.lease] = taker.pid, first
                self.ends.append((taker.future, (first[1], first[2]) if taker.lease is not None else first[1]))
            elif (
                self.putters
                and not self.closed
                and (len(self.items) < self.capacity or (self.capacity == 0 and self.takers))
            ):
                putter = self.putters.pop(0)
                self.append(putter.item)
                self.ends.append((putter.future, None))
            else:
                break
        visible = self.items[0][1] if self.items else self.putters[0].item if self.putters else None
        if visible is not None:
            self.ends += [(each.future, visible) for each in self.peekers]
            self.peekers.clear()
        if self.closed:
            self.refuse()

    def append(self, item):
        self.count += 1
        self.items.append([self.count, item, 0])

    def refuse(self):
        self.ends += [(each.future, ChannelClosed) for each in self.putters]
        self.putters.clear()
        if self.items:
            return
        self.ends += [(each.future, ChannelClosed) for each in self.peekers]
        self.peekers.clear()
        for each in list(self.takers):
            if each.lease is None or not self.leases:
                self.takers.remove(each)
                self.ends.append((each.future, ChannelClosed if each.lease is None else ("the end", 0)))

    def give_back(self, name):
        self.items.append(self.leases.pop(name)[1])
        self.items.sort()

    def settle(self):
        """Check that what the model says becomes true, and that nothing else has happened."""
        self.advance()
        for future, expected in self.ends:
            if isinstance(expected, type):
                assert isinstance(future.exception(5), expected)
            else:
                value = future.result(5)
                assert value == expected or value[0] == expected[0] == "the end"
        self.ends.clear()
        queue = self.queue
        state = len(self.takers), len(self.putters), len(self.peekers), len(self.items), len(self.leases)
        now = ()

        def is_settled():
            nonlocal now
            waiting = len(queue._takers), len(queue._putters), len(queue._peekers)
            now = *waiting, len(queue), queue._leased
            return now == state

        assert until(is_settled), f"takers, putters, peekers, items, leases: {now} instead of {state}"
        assert not any(each.future.done() for each in (*self.takers, *self.putters, *self.peekers))

    # Operations

    pids = st.integers(0, 4)

    def node(self, index):
        return self.alive[index % len(self.alive)]

    def spawn(self, index, function, *args):
        pid = self.node(index)
        return self.nodes.spawn(pid, function, *args), pid

    @rule(index=pids, plain=st.booleans())
    def put(self, index, plain):
        item = self.count * 1000 + len(self.putters)
        item = item if plain else (item,)
        self.putters.append(Waiting(*self.spawn(index, self.channel.put, item), item=item))
        self.settle()

    @rule(index=pids, count=st.integers(2, 6))
    def put_several(self, index, count):
        for _ in range(count):
            self.put(index, True)

    @rule(index=pids)
    def take(self, index):
        self.takers.append(Waiting(*self.spawn(index, self.channel.take)))
        self.settle()

    @rule(index=pids, count=st.integers(2, 4))
    def take_several(self, index, count):
        for _ in range(count):
            self.take(index)

    @rule(index=pids)
    def peek(self, index):
        self.peekers.append(Waiting(*self.spawn(index, self.channel.peek)))
        self.settle()

    @rule(index=pids, what=st.sampled_from(["take", "peek", "put", "lease"]))
    def time_out(self, index, what):
        """An operation that has timed out has not happened."""
        full = self.capacity != 0 and len(self.items) < self.capacity
        if self.closed or (full or self.takers or self.peekers if what == "put" else self.items or self.putters):
            return
        operations = {
            "take": (self.channel.take, 0.01),
            "peek": (self.channel.peek, 0.01),
            "put": (self.channel.put, "never", 0.01),
            "lease": (lambda channel: next(channel.lease(0.01)), self.channel),
        }
        self.ends.append((self.spawn(index, *operations[what])[0], TimeoutError))
        self.settle()

    @precondition(lambda self: self.takers or self.putters or self.peekers)
    @rule(data=st.data(), all=st.booleans())
    def cancel(self, data, all):
        """One that was cancelled, alone or with all others, has not happened either."""
        waiting = [*self.takers, *self.putters, *self.peekers]
        chosen = waiting if all else [waiting[data.draw(st.integers(0, len(waiting) - 1))]]
        for each in chosen:
            assert each.future.cancel()
            for those in (self.takers, self.putters, self.peekers):
                if each in those:
                    those.remove(each)
        self.settle()

    @rule(index=pids)
    def lease(self, index):
        self.names += 1
        name = self.names
        self.takers.append(Waiting(*self.spawn(index, begin_lease, self.channel, name), lease=name))
        self.settle()

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), how=st.sampled_from(["next", "break", "raise"]))
    def go_on(self, data, how):
        """An iteration asks for its next item, is left normally, or by an exception."""
        name = data.draw(st.sampled_from(sorted(self.leases)))
        pid = self.leases[name][0]
        if how == "next":
            del self.leases[name]
            self.takers.append(Waiting(self.nodes.spawn(pid, next_lease, name), pid, lease=name))
        else:
            self.ends.append((self.nodes.spawn(pid, end_lease, name, how == "break"), None))
            if how == "break":
                del self.leases[name]
            else:
                self.give_back(name)
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule(index=pids, seldom=st.integers(0, 4))
    def close(self, index, seldom):
        if not seldom:
            self.closed = True
            self.ends.append((self.spawn(index, self.channel.close)[0], None))
            self.settle()

    @precondition(lambda self: len(self.alive) > 3)
    @rule(seldom=st.integers(0, 2))
    def die(self, seldom):
        """What a dead process had returns; what waited there has failed; nobody else notices."""
        if seldom:
            return
        pid = self.alive.pop()
        for those in (self.takers, self.putters, self.peekers):
            self.ends += [(each.future, ProcessExited) for each in those if each.pid == pid]
            those[:] = [each for each in those if each.pid != pid]
        for name in [name for name, (holder, _) in self.leases.items() if holder == pid]:
            self.give_back(name)
        self.nodes.kill(pid)
        self.settle()

    @precondition(lambda self: self.owner == 2 and len(self.alive) == 3)
    @rule(seldom=st.integers(0, 3))
    def owner_dies(self, seldom):
        """Whoever waits for a channel whose owner has died gets ProcessExited, and so does who comes later."""
        if seldom:
            return
        waiting = [each for each in (*self.takers, *self.putters, *self.peekers) if each.pid != 2]
        self.nodes.kill(2)
        for each in waiting:
            assert isinstance(each.future.exception(5), ProcessExited)
        for pid in (1, 3):
            for operation in (self.channel.peek, self.channel.isopen, self.channel.close):
                assert isinstance(self.nodes.spawn(pid, operation).exception(5), ProcessExited)
        self.end()
        self.forget()
        self.begin(3, 1)


TestChannel = ChannelMachine.TestCase
TestChannel.settings = settings(max_examples=20, stateful_step_count=30, deadline=None, derandomize=True)
