"""Only those who know the token get in, only equals go on, and nothing of a stranger is believed."""

import errno
import json
import pickle
import secrets
import select
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farcall._errors import AuthenticationError, VersionMismatch
from farcall._transport.handshake import (
    LONGEST_HELLO,
    MAGIC,
    NONCE,
    PROOF,
    dialler_steps,
    exchange_flag,
    listener_steps,
    perform,
)
from farcall._transport.memory import memory_pair

TOKEN = b"t" * 32
PATIENCE = 10.0  # seconds; a test that needs them has failed
GREETING = len(MAGIC) + NONCE
DIALLER = {"versions": {"farcall": "1", "numpy": "2"}, "me": 1}
LISTENER = {"versions": {"farcall": "1", "numpy": "2"}, "me": 2}
SIDES = {"dialler": (dialler_steps, DIALLER), "listener": (listener_steps, LISTENER)}


class Side:
    """One side of a handshake, on a thread of its own. ``outcome`` is the other's hello, or the error."""

    def __init__(self, name, transport, *, token=TOKEN, hello=None, timeout=PATIENCE):
        steps, usual = SIDES[name]
        self._steps = steps(token, hello or usual)
        self._transport = transport
        self._timeout = timeout
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            self._outcome = perform(self._transport, self._steps, self._timeout)
        except Exception as error:
            self._outcome = error

    def outcome(self):
        self._thread.join(2 * PATIENCE)
        assert not self._thread.is_alive()
        return self._outcome


class Stranger:
    """The other end of a connection, in the hands of somebody who says what he likes."""

    def __init__(self, transport):
        self._transport = transport
        self.heard = b""

    def say(self, data):
        while data:
            data = data[self._transport.send([data]) :]

    def hear(self, size):
        """Return the next bytes, less than ``size`` if the connection ends before."""
        data = b""
        buffer = bytearray(size)
        while len(data) < size:
            try:
                got = self._transport.receive_into(memoryview(buffer)[: size - len(data)])
            except BlockingIOError:
                self.wait()
                continue
            if not got:
                break
            data += buffer[:got]
        self.heard += data
        return data

    def wait(self):
        poll = select.poll()
        poll.register(self._transport.fileno(), select.POLLIN)
        assert poll.poll(PATIENCE * 1000), "nothing came"


@pytest.fixture
def ends():
    """Return the two ends of a connection; the first is the dialler's."""
    pair = memory_pair()
    yield pair
    for each in pair:
        each.close()


def shake(ends, **options):
    """Let two sides shake hands and return both outcomes; the options are the dialler's."""
    sides = Side("dialler", ends[0], **options), Side("listener", ends[1])
    return [each.outcome() for each in sides]


# Success


def test_both_sides_get_the_hello_of_the_other(ends):
    """Who knows the token learns what the other says of itself."""
    assert shake(ends) == [LISTENER, DIALLER]


@pytest.mark.parametrize(("capacity", "piece"), [(1 << 20, 1), (200, 3)])
def test_a_handshake_may_come_in_pieces(capacity, piece):
    """Nothing depends on how the bytes are cut."""
    ends = memory_pair(capacity=capacity, piece=piece)
    assert shake(ends) == [LISTENER, DIALLER]
    for each in ends:
        each.close()


def test_what_follows_the_handshake_is_left_alone(ends):
    """Bytes that come right behind the handshake belong to the first message."""
    listener = Side("listener", ends[1])
    perform(ends[0], dialler_steps(TOKEN, DIALLER), PATIENCE)
    ends[0].send([b"first message"])
    assert listener.outcome() == DIALLER
    buffer = bytearray(100)
    assert ends[1].receive_into(memoryview(buffer)) == 13
    assert buffer[:13] == b"first message"


def test_a_long_hello_within_the_limit_crosses(ends):
    """A hello may be as long as the limit says."""
    long = {**DIALLER, "padding": "x" * (LONGEST_HELLO - 200)}
    assert shake(ends, hello=long) == [LISTENER, long]


# The token


def test_a_wrong_token_is_noticed_on_both_sides(ends):
    """Who has another token is an AuthenticationError on both sides, and both connections end."""
    errors = shake(ends, token=b"x" * 32)
    assert [type(each) for each in errors] == [AuthenticationError] * 2
    assert "the listener does not know this cluster's token" in str(errors[0])
    for each in ends:
        assert each.receive_into(memoryview(bytearray(1))) == 0


def test_a_dialler_that_guesses_is_refused(ends):
    """A listener refuses who answers its challenge with anything but the proof."""
    listener, stranger = Side("listener", ends[1]), Stranger(ends[0])
    stranger.say(MAGIC + secrets.token_bytes(NONCE))
    stranger.hear(GREETING + PROOF)
    stranger.say(secrets.token_bytes(PROOF))
    with pytest.raises(AuthenticationError, match="the dialler does not know this cluster's token"):
        raise listener.outcome()
    assert stranger.hear(1) == b""


def test_a_reflected_proof_is_worth_nothing(ends):
    """A listener that is sent its own proof back refuses it: a proof is bound to the role."""
    listener, stranger = Side("listener", ends[1]), Stranger(ends[0])
    stranger.say(MAGIC + secrets.token_bytes(NONCE))
    answer = stranger.hear(GREETING + PROOF)
    stranger.say(answer[GREETING:])
    with pytest.raises(AuthenticationError, match="the dialler does not know"):
        raise listener.outcome()


def test_a_reflected_challenge_is_worth_nothing(ends):
    """A stranger that has a listener answer the challenge of that same cluster's dialler gets no proof for it.

    It plays listener to one and dialler to the other with the first one's random bytes, as a dialler; then what it
    got as a listener's proof is one over its own greeting, and it has none for its part as a dialler.
    """
    others = memory_pair()
    dialler, listener = Side("dialler", ends[0]), Side("listener", others[1])
    to_dialler, to_listener = Stranger(ends[1]), Stranger(others[0])
    greeting = to_dialler.hear(GREETING)
    to_listener.say(greeting)
    answer = to_listener.hear(GREETING + PROOF)
    to_dialler.say(greeting + answer[GREETING:])  # with the dialler's own random bytes for the listener's
    with pytest.raises(AuthenticationError, match="the listener does not know"):
        raise dialler.outcome()
    to_listener.say(answer[GREETING:])
    with pytest.raises(AuthenticationError, match="the dialler does not know"):
        raise listener.outcome()
    for each in others:
        each.close()


class Recorder:
    """A transport that takes note of what is sent through it."""

    def __init__(self, inner):
        self.inner = inner
        self.sent = b""
        self.fileno, self.receive_into, self.close = inner.fileno, inner.receive_into, inner.close

    def send(self, parts):
        count = self.inner.send(parts)
        self.sent += b"".join(parts)[:count]
        return count


@pytest.mark.parametrize("name", ["dialler", "listener"])
def test_a_replayed_conversation_is_worth_nothing(ends, name):
    """Who has overheard a whole handshake and says the same again is refused."""
    recorders = {"dialler": Recorder(ends[0]), "listener": Recorder(ends[1])}
    first = [Side(each, recorder) for each, recorder in recorders.items()]
    assert [each.outcome() for each in first] == [LISTENER, DIALLER]
    mine, theirs = memory_pair()
    other = {"dialler": "listener", "listener": "dialler"}[name]
    victim = Side(other, theirs)
    mine.send([recorders[name].sent])
    with pytest.raises(AuthenticationError, match=f"the {name} does not know"):
        raise victim.outcome()
    mine.close()


def test_random_bytes_are_fresh(ends):
    """No two greetings are alike, so no proof is ever asked for twice."""
    greetings = {next(dialler_steps(TOKEN, DIALLER)) for _ in range(100)}
    assert len(greetings) == 100


@pytest.mark.parametrize("name", SIDES)
def test_the_token_is_never_sent(ends, name):
    """What crosses the connection does not contain the token, nor anything of it."""
    recorders = [Recorder(each) for each in ends]
    token = secrets.token_bytes(32)
    sides = [Side(each, recorder, token=token) for each, recorder in zip(SIDES, recorders, strict=True)]
    assert [each.outcome() for each in sides] == [LISTENER, DIALLER]
    for each in recorders:
        assert not any(token[start : start + 8] in each.sent for start in range(24))


def test_a_peer_whom_the_transport_refuses_is_named_in_its_words(ends):
    """Where the transport itself asks who the peer is, its refusal is an AuthenticationError with nothing around it."""

    class Strict:
        def receive_into(self, buffer):
            raise PermissionError(errno.EACCES, "the peer's certificate has expired")

        def __getattr__(self, name):
            return getattr(ends[1], name)

    with pytest.raises(AuthenticationError, match=r"^the peer's certificate has expired$") as caught:
        perform(Strict(), listener_steps(TOKEN, LISTENER), PATIENCE)
    assert caught.value.__cause__ is None


# Versions


def test_different_versions_are_named_with_both_values_on_both_sides(ends):
    """A version that differs is a VersionMismatch here and there, each with both values in its own order."""
    errors = shake(ends, hello={"versions": {"farcall": "1", "numpy": "3"}})
    assert [type(each) for each in errors] == [VersionMismatch] * 2
    assert "numpy is 3 here and 2 there" in str(errors[0])
    assert "numpy is 2 here and 3 there" in str(errors[1])


def test_every_difference_is_named(ends):
    """All versions that differ are named at once."""
    errors = shake(ends, hello={"versions": {"farcall": "9", "numpy": "3"}})
    assert "farcall is 9 here and 1 there; numpy is 3 here and 2 there" in str(errors[0])


@pytest.mark.parametrize("versions", [{"farcall": "1", "numpy": ""}, {"farcall": "1"}, {"farcall": "1", "new": "5"}])
def test_what_only_one_side_has_is_no_mismatch(ends, versions):
    """A version that one side does not have, or does not know of, is not compared."""
    hello = {"versions": versions}
    assert shake(ends, hello=hello) == [LISTENER, hello]


# Strangers


@pytest.mark.parametrize("name", SIDES)
def test_a_silent_peer_is_given_up(ends, name):
    """A peer that says nothing is an AuthenticationError when the time is over."""
    started = time.monotonic()
    side = Side(name, ends[0], timeout=0.05)
    with pytest.raises(AuthenticationError, match="the peer took too long"):
        raise side.outcome()
    assert time.monotonic() - started < PATIENCE
    assert ends[1].receive_into(memoryview(bytearray(1 << 10))) in (0, GREETING)


def test_a_slow_peer_does_not_buy_time_with_single_bytes(ends):
    """The limit is on the whole handshake, so a peer that sends a byte now and then is given up as well."""
    listener, stranger = Side("listener", ends[1], timeout=0.1), Stranger(ends[0])
    deadline = time.monotonic() + PATIENCE
    said = 0
    while listener._thread.is_alive() and time.monotonic() < deadline:
        if said < GREETING - 1:
            stranger.say(MAGIC[said : said + 1] or b"x")
            said += 1
        listener._thread.join(0.02)
    with pytest.raises(AuthenticationError, match="the peer took too long"):
        raise listener.outcome()


def test_a_peer_that_does_not_read_is_given_up():
    """A peer that takes no bytes is given up when the time is over."""
    ends = memory_pair(capacity=1)
    with pytest.raises(AuthenticationError, match="the peer took too long"):
        perform(ends[0], dialler_steps(TOKEN, DIALLER), 0.05)
    ends[1].close()


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("said", [b"", MAGIC, MAGIC + b"x" * (NONCE - 1)])
def test_a_peer_that_hangs_up_is_an_error(ends, name, said):
    """A connection that ends in the middle is an AuthenticationError."""
    side, stranger = Side(name, ends[0]), Stranger(ends[1])
    stranger.say(said)
    ends[1].close()
    with pytest.raises(AuthenticationError, match="did not complete"):
        raise side.outcome()


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"FARCALL2", bytes(8)])
def test_another_protocol_is_named(ends, name, garbage):
    """A peer that speaks something else is an AuthenticationError that shows how it began."""
    side, stranger = Side(name, ends[0]), Stranger(ends[1])
    stranger.say(garbage.ljust(GREETING + PROOF, b"."))
    with pytest.raises(AuthenticationError, match=r"does not speak farcall's protocol: b'"):
        raise side.outcome()


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(list(SIDES)), st.binary(max_size=200), st.booleans())
def test_garbage_is_an_authentication_error(name, garbage, polite):
    """Whatever a stranger says, with or without the magic word, he is refused and told nothing but proofs."""
    ends = memory_pair()
    side, stranger = Side(name, ends[0]), Stranger(ends[1])
    stranger.say((MAGIC if polite else b"") + garbage)
    ends[1].close()
    assert isinstance(side.outcome(), AuthenticationError)
    assert b"versions" not in stranger.heard


def authenticate(ends):
    """Return a stranger that has, as a dialler, proved to know the token, and the listener that believes it."""
    listener, stranger = Side("listener", ends[1]), Stranger(ends[0])
    steps = dialler_steps(TOKEN, DIALLER)
    stranger.say(next(steps))
    assert steps.send(b"") == GREETING + PROOF
    stranger.say(steps.send(stranger.hear(GREETING + PROOF)))
    return stranger, listener


def test_an_oversized_hello_is_refused(ends):
    """A hello that is announced as too long is refused before any of it is read."""
    stranger, listener = authenticate(ends)
    stranger.say((LONGEST_HELLO + 1).to_bytes(4, "big"))
    with pytest.raises(AuthenticationError, match=f"a hello of {LONGEST_HELLO + 1} bytes"):
        raise listener.outcome()


HELLOS = [b"", b"{", b"\xff\xfe", b"null", b"[]", b"5", b'"versions"', b"{}", b'{"versions": 5}', b'{"versions": null}']
DEEP = pytest.param(b"[" * 60_000, id="deep")  # the parser gives up by depth


@pytest.mark.parametrize("hello", [*HELLOS, DEEP])
def test_a_hello_that_makes_no_sense_is_refused(ends, hello):
    """Also of those who know the token only a hello in order is accepted; the rest is an AuthenticationError."""
    stranger, listener = authenticate(ends)
    stranger.say(len(hello).to_bytes(4, "big") + hello)
    with pytest.raises(AuthenticationError):
        raise listener.outcome()
    stranger.hear(1000)
    assert stranger.hear(1) == b"", "the connection was not closed"


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("something was unpickled",)


def test_nothing_is_unpickled(ends, monkeypatch):
    """Neither before a peer is authenticated nor while it is, is anything unpickled that it sent."""
    bomb = pickle.dumps(Bomb())

    def fail(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for name in ("loads", "load", "Unpickler", "_loads", "_load", "_Unpickler"):
        monkeypatch.setattr(pickle, name, fail)
    assert shake(ends) == [LISTENER, DIALLER]
    for data in (bomb, MAGIC + bomb.ljust(NONCE, b".")):
        mine, theirs = memory_pair()
        listener, stranger = Side("listener", theirs), Stranger(mine)
        stranger.say(data.ljust(1000, b"."))
        assert isinstance(listener.outcome(), AuthenticationError)
        mine.close()
    pair = memory_pair()
    stranger, listener = authenticate(pair)
    stranger.say(len(bomb).to_bytes(4, "big") + bomb)
    assert isinstance(listener.outcome(), AuthenticationError)
    pair[0].close()


def test_before_the_proof_only_fixed_numbers_of_bytes_are_read():
    """Until a peer has proved that it knows the token, nothing it says decides how much is read."""
    listener = listener_steps(TOKEN, LISTENER)
    dialler = dialler_steps(TOKEN, DIALLER)
    greeting = next(dialler)
    assert (next(listener), dialler.send(b"")) == (GREETING, GREETING + PROOF)
    answer = listener.send(greeting)
    assert listener.send(b"") == PROOF
    assert len(dialler.send(answer)) == PROOF


# One bit more


@pytest.mark.parametrize("mine", [False, True])
@pytest.mark.parametrize("theirs", [False, True])
def test_both_sides_learn_a_flag(ends, mine, theirs):
    """``exchange_flag`` tells each side what the other one gave."""
    got = []
    thread = threading.Thread(target=lambda: got.append(exchange_flag(ends[1], theirs, PATIENCE)))
    thread.start()
    assert exchange_flag(ends[0], mine, PATIENCE) is theirs
    thread.join(PATIENCE)
    assert got == [mine]


def test_a_flag_that_does_not_come_is_an_error(ends):
    """A peer that says nothing, or hangs up, is an AuthenticationError, and the connection is closed."""
    with pytest.raises(AuthenticationError, match="took too long"):
        exchange_flag(ends[0], True, 0.02)
    assert ends[1].receive_into(memoryview(bytearray(1))) == 1
    assert ends[1].receive_into(memoryview(bytearray(1))) == 0
    with pytest.raises(AuthenticationError):
        exchange_flag(ends[1], True, PATIENCE)


def test_a_hello_is_json(ends):
    """What crosses after the proofs is JSON that anybody can read."""
    stranger, listener = authenticate(ends)
    size = int.from_bytes(stranger.hear(4), "big")
    assert json.loads(stranger.hear(size)) == LISTENER
    ends[0].close()
    assert isinstance(listener.outcome(), AuthenticationError)
