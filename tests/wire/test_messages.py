"""What one process says, another understands."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farcall._wire import messages
from farcall._wire.frames import FrameDecoder

words = st.integers(0, 2**64 - 1)
changes = st.integers(-(2**63), 2**63 - 1)


def receive(stream):
    """Return the only frame of a stream."""
    decoder = FrameDecoder()
    decoder.writable()[: len(stream)] = stream
    decoder.wrote(len(stream))
    frame = decoder.next()
    assert decoder.next() is None
    return frame


@given(st.lists(st.tuples(words, words, words, changes), max_size=50))
def test_holds_arrive_as_sent(records):
    """``decode_hold`` undoes ``encode_hold``: creators, numbers, holders and signed changes, in order."""
    frame = receive(messages.encode_hold(records))
    assert frame.kind == messages.HOLD
    assert messages.decode_hold(frame.body) == records


@given(words, st.lists(st.text("ab_é.", min_size=1), min_size=1, max_size=50))
def test_changed_modules_arrive_as_sent(number, names):
    """``decode_changed`` undoes ``encode_changed``; the number of a function is never that of this message."""
    frame = receive(messages.encode_changed(number, names))
    assert (frame.kind, frame.target, frame.call) == (messages.FORGET, 0, number)
    assert messages.decode_changed(bytes(frame.body)) == names


@given(st.lists(words, max_size=50))
def test_releases_arrive_as_sent(segments):
    """``decode_release`` undoes ``encode_release``, in order."""
    frame = receive(messages.encode_release(segments))
    assert frame.kind == messages.RELEASE
    assert messages.decode_release(frame.body) == segments


@given(st.integers(0, 2**32 - 1))
def test_a_forgotten_function_is_named_by_the_target(number):
    """``encode_forget`` says which number is free."""
    frame = receive(messages.encode_forget(number))
    assert (frame.kind, frame.target, bytes(frame.body)) == (messages.FORGET, number, b"")


@given(words)
def test_a_cancelled_call_is_named_by_its_number(call):
    """``encode_cancel`` says which call to interrupt."""
    frame = receive(messages.encode_cancel(call))
    assert (frame.kind, frame.call, bytes(frame.body)) == (messages.CANCEL, call, b"")


def test_kinds_and_flags_cannot_be_confused():
    """Seven kinds have seven numbers, none of them 0, and what is wanted back leaves the other flags alone."""
    kinds = [messages.CALL, messages.RESULT, messages.DEFINE, messages.FORGET, messages.CANCEL]
    kinds += [messages.HOLD, messages.RELEASE]
    assert len({*kinds, 0}) == 8
    wants = [messages.WANT_VALUE, messages.WANT_FUTURE, messages.WANT_NOTHING]
    for want in wants:
        assert (want | messages.KEYWORDS) & messages.WANTS == want
    assert len(set(wants)) == 3


@pytest.mark.parametrize("decode", [messages.decode_hold, messages.decode_release])
def test_a_body_of_the_wrong_length_is_an_error(decode):
    """Records that are cut short are not guessed at."""
    with pytest.raises(struct.error):
        decode(b"123")
