"""What every transport and every listener must do, as tests."""

import itertools
import random
import select
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import pytest

from .._transport.base import Listener, Transport

PATIENCE = 20.0  # seconds; a test that needs them has failed
_CHUNK = 1 << 16
_ENDLESS = 1 << 28  # bytes that no transport holds on their way

Pair = tuple[Transport, Transport]


def is_ready(descriptor: int, event: int, timeout: float = 0.0) -> bool:
    """Return whether a descriptor polls readable (POLLIN) or writable (POLLOUT) within some seconds."""
    poll = select.poll()
    poll.register(descriptor, event)
    return any(found & event for _, found in poll.poll(timeout * 1000))


def send_all(transport: Transport, data: bytes) -> None:
    """Send every byte, waiting for room as ``fileno`` tells."""
    rest = memoryview(data)
    deadline = time.monotonic() + PATIENCE
    while rest:
        try:
            rest = rest[transport.send([rest[:_CHUNK]]) :]
        except BlockingIOError:
            is_ready(transport.fileno(), select.POLLOUT, PATIENCE)
            assert time.monotonic() < deadline, "there is never any room"


def receive(transport: Transport, size: int, room: int = _CHUNK) -> bytes:
    """Return what comes, ``size`` bytes or what there is before the end, waiting for it as ``fileno`` tells."""
    data = bytearray()
    buffer = memoryview(bytearray(room))
    while len(data) < size:
        try:
            got = transport.receive_into(buffer[: size - len(data)])
        except BlockingIOError:
            assert is_ready(transport.fileno(), select.POLLIN, PATIENCE), f"only {len(data)} of {size} bytes came"
            continue
        if not got:
            break
        data += buffer[:got]
    return bytes(data)


def receive_rest(transport: Transport) -> bytes:
    """Return what comes before the end, or before the connection breaks."""
    data = bytearray()
    buffer = memoryview(bytearray(_CHUNK))
    while True:
        try:
            got = transport.receive_into(buffer)
        except BlockingIOError:
            assert is_ready(transport.fileno(), select.POLLIN, PATIENCE), "the end does not come"
            continue
        except OSError:
            return bytes(data)
        if not got:
            return bytes(data)
        data += buffer[:got]


def fill(transport: Transport) -> bytes:
    """Send until nothing fits, and return what was sent."""
    sent = bytearray()
    while len(sent) < _ENDLESS:
        data = bytes([len(sent) % 251]) * _CHUNK
        try:
            sent += data[: transport.send([data])]
        except BlockingIOError:
            return bytes(sent)
    raise AssertionError("it takes bytes without end")


def run_together(*functions: Callable[[], object]) -> None:
    """Run functions in threads at the same time, wait for all, and raise an error that one of them raised."""
    errors: list[BaseException] = []

    def run(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in functions]
    for each in threads:
        each.start()
    for each in threads:
        each.join(2 * PATIENCE)
    if errors:
        raise errors[0]
    assert not any(each.is_alive() for each in threads), "a thread is blocked"


def make_bytes(size: int, seed: int) -> bytes:
    """Return bytes in which a missing, doubled or misplaced piece shows."""
    return random.Random(seed).randbytes(size)


def carry(sender: Transport, receiver: Transport, data: bytes) -> bytes:
    """Send every byte, receive as many, and return what came."""
    came: list[bytes] = []
    run_together(lambda: send_all(sender, data), lambda: came.append(receive(receiver, len(data))))
    return came[0]


def is_over(transport: Transport) -> bool:
    """Return whether reading finds the end, or that the connection broke."""
    try:
        return transport.receive_into(memoryview(bytearray(10))) == 0
    except BlockingIOError:
        return False
    except OSError:
        return True


def refuses_to_send(transport: Transport) -> bool:
    """Return whether sending fails for good, and not for lack of room."""
    try:
        transport.send([b"x" * 1000])
    except BlockingIOError:
        is_ready(transport.fileno(), select.POLLOUT, 0.1)
        return False
    except OSError:
        return True
    return False


class TransportSuite(ABC):
    """The guarantees of ``Transport``. Subclasses say how to make two connected ones."""

    volume = 4 << 20  # bytes of the tests that send much; a slow transport may have less

    @abstractmethod
    def connect(self) -> Pair:
        """Return the two ends of a fresh connection."""

    @pytest.fixture
    def pair(self) -> Iterator[Pair]:
        """Two connected transports, closed after the test."""
        one, other = self.connect()
        yield one, other
        one.close()
        other.close()

    # Bytes

    def test_bytes_arrive_in_order(self, pair: Pair) -> None:
        """What is sent arrives once and in order, in both directions."""
        for sender, receiver in (pair, pair[::-1]):
            for data in (b"a", b"bcd", make_bytes(1000, 7)):
                assert carry(sender, receiver, data) == data

    def test_messages_have_no_boundaries(self, pair: Pair) -> None:
        """Bytes that were sent apart can be read together, and the other way round."""
        one, other = pair
        for data in (b"ab", b"cd", b"ef"):
            send_all(one, data)
        assert receive(other, 6, room=1) == b"abcdef"
        send_all(one, b"ghi")
        assert receive(other, 2) == b"gh"
        assert receive(other, 1) == b"i"

    def test_what_is_returned_as_sent_is_what_was_taken(self, pair: Pair) -> None:
        """``send`` takes bytes from the front and returns how many: those arrive, and no others."""
        one, other = pair
        data = make_bytes(1 << 20, 1)
        count = one.send([data])
        assert 1 <= count <= len(data)
        assert receive(other, count) == data[:count]
        with pytest.raises(BlockingIOError):
            other.receive_into(memoryview(bytearray(1)))

    def test_a_message_may_have_many_parts(self, pair: Pair) -> None:
        """``send`` takes any number of parts, bytes and memoryviews, long, short and empty."""
        one, other = pair
        data = make_bytes(min(self.volume, 100_000), 2)
        cuts = [*range(3000), *range(3000, len(data), 5000), len(data)]
        parts: list[bytes | memoryview] = []
        for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
            parts += [data[start:stop] if number % 2 else memoryview(data)[start:stop], b""]
        came: list[bytes] = []
        run_together(lambda: self._send_parts(one, parts), lambda: came.append(receive(other, len(data))))
        assert came == [data]

    def _send_parts(self, transport: Transport, parts: Sequence[bytes | memoryview]) -> None:
        """Send parts as a link does: all that is left, each time."""
        rest = list(parts)
        while rest:
            try:
                sent = transport.send(rest)
            except BlockingIOError:
                is_ready(transport.fileno(), select.POLLOUT, PATIENCE)
                continue
            assert sent >= 1, "send must take something or raise BlockingIOError"
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if sent:
                rest[0] = rest[0][sent:]

    def test_reading_touches_the_front_only(self, pair: Pair) -> None:
        """``receive_into`` fills the front of its buffer and leaves the rest alone."""
        one, other = pair
        send_all(one, b"abc")
        buffer = bytearray(b"........")
        done = 0
        while done < 3:
            assert is_ready(other.fileno(), select.POLLIN, PATIENCE)
            done += other.receive_into(memoryview(buffer)[done:])
        assert buffer == b"abc....."

    def test_megabytes_cross_in_both_directions_at_once(self, pair: Pair) -> None:
        """Nothing is lost or swapped while both ends send and receive much, each in two threads."""
        one, other = pair
        there, back = make_bytes(self.volume, 3), make_bytes(self.volume, 4)
        came: dict[str, bytes] = {}
        run_together(
            lambda: came.update(there=carry(one, other, there)), lambda: came.update(back=carry(other, one, back))
        )
        assert came["there"] == there
        assert came["back"] == back

    # Nothing blocks

    def test_nothing_to_read_is_said_at_once(self, pair: Pair) -> None:
        """``receive_into`` is a BlockingIOError while nothing has come, at first and later."""
        one, other = pair
        with pytest.raises(BlockingIOError):
            other.receive_into(memoryview(bytearray(10)))
        send_all(one, b"abc")
        receive(other, 3)
        with pytest.raises(BlockingIOError):
            other.receive_into(memoryview(bytearray(10)))

    def test_no_room_is_said_at_once(self, pair: Pair) -> None:
        """``send`` is a BlockingIOError when nothing fits; what was taken before arrives, and then there is room."""
        one, other = pair
        sent = fill(one)
        assert receive(other, len(sent)) == sent
        assert is_ready(one.fileno(), select.POLLOUT, PATIENCE)
        assert one.send([b"x"]) == 1
        assert receive(other, 1) == b"x"

    # What the descriptor says

    def test_the_descriptor_polls_readable_while_there_are_bytes(self, pair: Pair) -> None:
        """``fileno`` polls readable from the arrival of bytes until the last of them is read."""
        one, other = pair
        assert not is_ready(other.fileno(), select.POLLIN)
        send_all(one, b"ab")
        assert is_ready(other.fileno(), select.POLLIN, PATIENCE)
        assert receive(other, 1) == b"a"
        assert is_ready(other.fileno(), select.POLLIN, PATIENCE)
        assert receive(other, 1) == b"b"
        assert not is_ready(other.fileno(), select.POLLIN)

    def test_the_descriptor_polls_readable_at_the_end(self, pair: Pair) -> None:
        """``fileno`` polls readable when the other side has closed, and goes on to."""
        one, other = pair
        one.close()
        assert is_ready(other.fileno(), select.POLLIN, PATIENCE)
        assert receive_rest(other) == b""
        assert is_ready(other.fileno(), select.POLLIN)

    def test_the_descriptor_polls_writable_while_there_is_room(self, pair: Pair) -> None:
        """``fileno`` of a fresh connection polls writable."""
        for each in pair:
            assert is_ready(each.fileno(), select.POLLOUT, PATIENCE)

    def test_the_descriptor_stays_the_same(self, pair: Pair) -> None:
        """``fileno`` of a connection is one descriptor as long as that lives, and no other connection's."""
        one, other = pair
        before = one.fileno(), other.fileno()
        send_all(one, b"x")
        receive(other, 1)
        assert (one.fileno(), other.fileno()) == before
        assert before[0] != before[1]

    # The end

    def test_the_peer_reads_what_was_sent_and_then_the_end(self, pair: Pair) -> None:
        """Closing loses nothing: the peer reads every byte, then 0, and 0 again."""
        one, other = pair
        sent = fill(one)
        one.close()
        assert receive_rest(other) == sent
        for _ in range(3):
            assert other.receive_into(memoryview(bytearray(10))) == 0

    def test_closing_twice_is_closing_once(self, pair: Pair) -> None:
        """``close`` may be called again, on both ends, in any order."""
        one, other = pair
        for each in (one, one, other, one, other):
            each.close()

    def test_sending_to_one_that_is_gone_fails(self, pair: Pair) -> None:
        """After the peer has closed, ``send`` is an OSError, at once or after some bytes, and stays one."""
        one, other = pair
        other.close()
        deadline = time.monotonic() + PATIENCE
        while not refuses_to_send(one):
            assert time.monotonic() < deadline, "it takes bytes for one that is gone"
        assert refuses_to_send(one)

    def test_a_closed_transport_neither_sends_nor_waits(self, pair: Pair) -> None:
        """After ``close``, here, ``send`` is an OSError and reading finds the end or an OSError; neither waits."""
        one, _ = pair
        one.close()
        assert refuses_to_send(one)
        assert is_over(one)

    def test_closing_with_bytes_unread_ends_the_connection(self, pair: Pair) -> None:
        """What the peer still reads of one that closed without reading is the beginning of what was sent."""
        one, other = pair
        send_all(other, b"unread")
        assert is_ready(one.fileno(), select.POLLIN, PATIENCE)
        sent = fill(one)
        one.close()
        assert sent.startswith(receive_rest(other))
        assert is_over(other)

    def test_connections_are_independent(self, pair: Pair) -> None:
        """Closing one connection leaves another alone."""
        one, other = self.connect()
        pair[0].close()
        send_all(one, b"alive")
        assert receive(other, 5) == b"alive"
        one.close()
        other.close()


class ListenerSuite(ABC):
    """The guarantees of ``Listener``. Subclasses say how to listen, and how a peer dials."""

    @abstractmethod
    def listen(self) -> Listener:
        """Return a fresh listener."""

    @abstractmethod
    def dial(self, address: str) -> Transport:
        """Return the dialler's end of a connection to a listener; OSError if nobody listens."""

    @pytest.fixture
    def listener(self) -> Iterator[Listener]:
        """A listener, closed after the test."""
        each = self.listen()
        yield each
        each.close()

    def accept(self, listener: Listener) -> Transport:
        """Return the connection of the next peer, which has dialled."""
        assert is_ready(listener.fileno(), select.POLLIN, PATIENCE), "nobody seems to wait"
        return listener.accept()

    def test_who_dials_is_accepted(self, listener: Listener) -> None:
        """A peer that dials the address comes out of ``accept``, and both ends are connected."""
        dialled = self.dial(listener.address)
        accepted = self.accept(listener)
        send_all(dialled, b"there")
        send_all(accepted, b"back")
        assert receive(accepted, 5) == b"there"
        assert receive(dialled, 4) == b"back"
        dialled.close()
        accepted.close()

    def test_nobody_waits(self, listener: Listener) -> None:
        """``accept`` is a BlockingIOError while nobody waits, at first and later."""
        with pytest.raises(BlockingIOError):
            listener.accept()
        dialled = self.dial(listener.address)
        self.accept(listener).close()
        with pytest.raises(BlockingIOError):
            listener.accept()
        dialled.close()

    def test_the_descriptor_polls_readable_while_a_peer_waits(self, listener: Listener) -> None:
        """``fileno`` polls readable from the time a peer dials until the last one is accepted."""
        assert not is_ready(listener.fileno(), select.POLLIN)
        dialled = [self.dial(listener.address) for _ in range(2)]
        accepted = [self.accept(listener) for _ in range(2)]
        assert not is_ready(listener.fileno(), select.POLLIN)
        for each in (*dialled, *accepted):
            each.close()

    def test_each_peer_has_a_connection_of_its_own(self, listener: Listener) -> None:
        """What one peer sends arrives on its connection and no other."""
        dialled = [self.dial(listener.address) for _ in range(5)]
        accepted = [self.accept(listener) for _ in range(5)]
        for number, each in enumerate(dialled):
            send_all(each, bytes([number]))
        heard = [receive(each, 1)[0] for each in accepted]
        assert sorted(heard) == [0, 1, 2, 3, 4]
        for number, each in zip(heard, accepted, strict=True):
            send_all(each, bytes([number]))
        assert [receive(each, 1)[0] for each in dialled] == [0, 1, 2, 3, 4]
        for each in (*dialled, *accepted):
            each.close()

    def test_a_peer_that_has_gone_again_does_no_harm(self, listener: Listener) -> None:
        """A peer that hangs up before it is accepted is a connection that has ended, or nobody."""
        self.dial(listener.address).close()
        try:
            accepted = self.accept(listener)
        except OSError:
            return
        assert receive(accepted, 1) == b""
        accepted.close()

    def test_listeners_have_addresses_of_their_own(self, listener: Listener) -> None:
        """Two listeners have two addresses, and who dials one does not come out of the other."""
        other = self.listen()
        assert other.address != listener.address
        dialled = self.dial(other.address)
        assert not is_ready(listener.fileno(), select.POLLIN)
        self.accept(other).close()
        dialled.close()
        other.close()

    def test_a_closed_listener_accepts_nobody(self, listener: Listener) -> None:
        """After ``close`` nobody can dial, and closing again is no error."""
        listener.close()
        listener.close()
        with pytest.raises(OSError, match=r"."):
            self.dial(listener.address)

    def test_connections_outlive_their_listener(self, listener: Listener) -> None:
        """Closing a listener leaves the connections alone that came from it."""
        dialled = self.dial(listener.address)
        accepted = self.accept(listener)
        listener.close()
        send_all(accepted, b"alive")
        assert receive(dialled, 5) == b"alive"
        dialled.close()
        accepted.close()

    def test_who_still_waits_is_sent_away(self, listener: Listener) -> None:
        """A peer that was not accepted when the listener closed finds the end of its connection."""
        dialled = self.dial(listener.address)
        listener.close()
        assert is_ready(dialled.fileno(), select.POLLIN, PATIENCE)
        assert is_over(dialled)
        dialled.close()
