"""Frames come out as they went in, however the stream is cut; damage to the stream does no harm."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farcall._errors import FrameError
from farcall._wire import frames
from farcall._wire.frames import (
    ATTACHMENT,
    CHUNK,
    HEADER,
    INLINE,
    MAGIC,
    MAPPED,
    MAXIMUM_ATTACHMENTS,
    REFERENCE,
    SHARED,
    FrameDecoder,
    encode_head,
    encode_small,
)

LIMIT = 4 * CHUNK  # of the decoders that get damaged streams
EDGES = [CHUNK - HEADER.size - 1, CHUNK - HEADER.size, CHUNK - HEADER.size + 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3]


def fill(size, seed):
    """Return bytes in which a shift shows."""
    return (bytes(range(251)) * (size // 251 + 2))[seed % 251 :][:size]


bodies = st.binary(max_size=64) | st.builds(fill, st.sampled_from(EDGES), st.integers(0, 255))
small_bodies = st.binary(max_size=64)
words = st.integers(0, 2**64 - 1)
halves = st.integers(0, 2**32 - 1)


def messages(contents):
    """Return a strategy for what the decoder should give back: head, body, attachments and inline buffers."""
    inline = st.tuples(st.just(INLINE), st.integers(0, 1), contents, words)
    outside = st.tuples(st.sampled_from([SHARED, REFERENCE]), halves, words, words)
    head = st.tuples(st.integers(0, 255), st.integers(0, 255), halves, words)
    return st.builds(make_message, head, contents, st.lists(inline | outside, max_size=4))


def make_message(head, body, parts):
    buffers = tuple(b for kind, _, b, _ in parts if kind == INLINE)
    attachments = tuple((kind, a, len(b) if kind == INLINE else b, c) for kind, a, b, c in parts)
    return (*head, body, attachments, buffers)


def encode(message):
    *head, body, attachments, buffers = message
    return b"".join([encode_head(*head, len(body), attachments), body, *buffers])


def flatten(frame):
    """Return a frame in the form of a message, so that the two can be compared."""
    return (*frame[:4], bytes(frame.body), frame.attachments, tuple(bytes(each) for each in frame.buffers))


def feed(decoder, stream, pieces):
    """Yield the frames of a stream that arrives in pieces of the given sizes, over and over."""
    rest = memoryview(stream)
    for piece in itertools.cycle(pieces):
        if not rest:
            return
        room = decoder.writable()
        assert room.nbytes, "nowhere to read to"
        size = min(piece, len(room), len(rest))
        room[:size] = rest[:size]
        rest = rest[size:]
        decoder.wrote(size)
        while (frame := decoder.next()) is not None:
            yield flatten(frame)


def feed_damaged(stream, pieces):
    """Return the frames that a damaged stream still gives."""
    got = []
    try:
        for frame in feed(FrameDecoder(LIMIT), stream, pieces):
            got.append(frame)  # noqa: PERF402  # what came before the error counts
    except FrameError:
        pass
    return got


pieces = st.lists(st.integers(1, 3 * CHUNK) | st.integers(1, 64), min_size=1, max_size=8)


@settings(deadline=None)
@given(st.lists(messages(bodies), max_size=4), pieces)
def test_frames_survive_any_cutting_of_the_stream(expected, pieces):
    """Any frames, read in any pieces, come out equal and in order, and nothing else does."""
    stream = b"".join(encode(each) for each in expected)
    assert list(feed(FrameDecoder(), stream, pieces)) == expected


@settings(deadline=None, max_examples=50)
@given(st.lists(messages(small_bodies), max_size=5))
def test_frames_survive_single_bytes(expected):
    """Frames whose bytes come one at a time come out equal and in order."""
    stream = b"".join(encode(each) for each in expected)
    assert list(feed(FrameDecoder(), stream, [1])) == expected


@pytest.mark.parametrize("size", EDGES)
def test_frames_at_the_edge_of_a_chunk_survive_single_bytes(size):
    """A frame about as large as a chunk, between small ones, survives a stream of single bytes."""
    small = (1, 0, 2, 3, b"small", (), ())
    expected = [small, (1, 0, 2, 4, fill(size, 5), (), ()), small]
    stream = b"".join(encode(each) for each in expected)
    assert list(feed(FrameDecoder(), stream, [1])) == expected


@pytest.mark.parametrize("size", [MAPPED - 1, MAPPED, MAPPED + 1, 3 * MAPPED])
@pytest.mark.parametrize("pieces", [[1 << 30], [CHUNK - 1], [3, 100_000]])
def test_mapped_bodies_and_buffers_survive(size, pieces):
    """Bodies and buffers around the size from which they are mappings come out equal."""
    attachments = ((INLINE, 1, size, 0), (INLINE, 0, 0, 0), (REFERENCE, 1, 2, 3))
    expected = [(1, 2, 3, 4, fill(size, 1), attachments, (fill(size, 2), b""))] * 2
    stream = b"".join(encode(each) for each in expected)
    assert list(feed(FrameDecoder(), stream, pieces)) == expected


def test_many_small_frames_in_one_chunk_come_out_one_by_one():
    """A chunk full of small frames, the last of them incomplete, gives each of them once."""
    expected = [(1, 0, 0, number, fill(100, number), (), ()) for number in range(2000)]
    stream = b"".join(encode(each) for each in expected)
    assert list(feed(FrameDecoder(), stream, [CHUNK])) == expected


def test_a_frame_without_attachments_has_one_encoding():
    """``encode_small`` and ``encode_head`` write the same header."""
    assert encode_small(1, 2, 3, 4, b"body") == encode_head(1, 2, 3, 4, 4) + b"body"


@pytest.mark.parametrize("size", [1, 100, CHUNK, MAPPED, MAPPED + 5])
def test_buffers_are_writable_and_belong_to_one_frame(size):
    """What is written to the buffers of a frame shows nowhere else, and later frames do not write to them."""
    stream = encode((1, 0, 0, 0, b"", ((INLINE, 0, size, 0),), (fill(size, 9),)))
    decoder = FrameDecoder()
    buffers = []
    for _ in range(2):
        rest = memoryview(stream)
        while rest:
            room = decoder.writable()
            taken = min(len(room), len(rest))
            room[:taken] = rest[:taken]
            decoder.wrote(taken)
            rest = rest[taken:]
            while (frame := decoder.next()) is not None:
                buffers.append(frame.buffers[0])
    first, second = (memoryview(each) for each in buffers)
    first[:] = bytes(size)
    assert bytes(second) == fill(size, 9)


# Damage


def spoil(stream, position, value):
    return stream[:position] + bytes([stream[position] ^ value]) + stream[position + 1 :]


@settings(deadline=None, max_examples=300)
@given(st.lists(messages(small_bodies), min_size=1, max_size=4), st.data(), pieces)
def test_a_changed_byte_harms_nothing_before_it(expected, data, pieces):
    """A stream with a changed byte gives the frames before it, then more frames, a FrameError, or waits for more."""
    stream = b"".join(encode(each) for each in expected)
    position = data.draw(st.integers(0, len(stream) - 1))
    got = feed_damaged(spoil(stream, position, data.draw(st.integers(1, 255))), pieces)
    ends = itertools.accumulate(len(encode(each)) for each in expected)
    whole = sum(end <= position for end in ends)
    assert got[:whole] == expected[:whole]


@settings(deadline=None)
@given(st.lists(messages(bodies), min_size=1, max_size=3), st.data(), pieces)
def test_a_truncated_stream_waits_for_the_rest(expected, data, pieces):
    """A stream that stops gives its whole frames and no error, and goes on when the rest comes."""
    stream = b"".join(encode(each) for each in expected)
    position = data.draw(st.integers(0, len(stream)))
    decoder = FrameDecoder(LIMIT)
    got = list(feed(decoder, stream[:position], pieces))
    assert got == expected[: len(got)]
    assert got + list(feed(decoder, stream[position:], pieces)) == expected


@settings(deadline=None, max_examples=200)
@given(st.lists(messages(small_bodies), min_size=1, max_size=3), st.data(), pieces)
def test_repeated_and_missing_bytes_are_survived(expected, data, pieces):
    """A stream with a slice repeated or left out gives frames, a FrameError, or waits for more."""
    stream = b"".join(encode(each) for each in expected)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(stream))] * 2)))
    ends = itertools.accumulate(len(encode(each)) for each in expected)
    whole = sum(end <= start for end in ends)
    for damaged in (stream[:stop] + stream[start:], stream[:start] + stream[stop:]):
        assert feed_damaged(damaged, pieces)[:whole] == expected[:whole]


numbers = st.sampled_from([0, 1, 2, LIMIT - 1, LIMIT, LIMIT + 1, 2**31, 2**32 - 1]) | halves
headers = st.builds(
    HEADER.pack,
    st.just(MAGIC) | st.binary(min_size=2, max_size=2),
    st.integers(0, 255),
    st.integers(0, 255),
    halves,
    words,
    numbers | words,
    numbers | st.integers(0, 4),
    st.just(0) | halves,
)
entries = st.builds(ATTACHMENT.pack, st.integers(0, 4) | halves, halves, numbers | words, words)


@settings(deadline=None, max_examples=500)
@given(st.lists(headers | entries | st.binary(max_size=100), max_size=6), pieces)
@example([HEADER.pack(MAGIC, 1, 0, 0, 0, 2**63, 0, 0)], [1])
@example([HEADER.pack(MAGIC, 1, 0, 0, 0, 0, MAXIMUM_ATTACHMENTS, 0)], [1])
def test_garbage_is_survived_and_allocates_no_more_than_the_limit(parts, pieces):
    """Whatever bytes come, no buffer is larger than the limit, and FrameError is the only error."""
    sizes = []

    def allocate(size):
        sizes.append(size)
        return bytearray(size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "allocate", allocate)
        feed_damaged(b"".join(parts), pieces)
    assert max(sizes, default=0) <= LIMIT


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(b"GE", 1, 0, 0, 0, 0, 0, 0),
        HEADER.pack(MAGIC, 1, 0, 0, 0, LIMIT + 1, 0, 0),
        HEADER.pack(MAGIC, 1, 0, 0, 0, 0, MAXIMUM_ATTACHMENTS + 1, 0),
        HEADER.pack(MAGIC, 1, 0, 0, 0, 0, 0, 1),
    ],
    ids=["magic", "body", "attachments", "zero"],
)
def test_a_bad_header_is_an_error(header):
    """Wrong magic, a body or a table beyond the limits, and reserved bits are a FrameError at once."""
    with pytest.raises(FrameError, match="not a farcall frame"):
        list(feed(FrameDecoder(LIMIT), header, [len(header)]))


BAD_ATTACHMENTS = [(0, 0, 0, 0), (4, 0, 0, 0), (INLINE, 0, LIMIT + 1, 0), (INLINE, 0, 2**64 - 1, 0)]


@pytest.mark.parametrize("attachment", BAD_ATTACHMENTS)
def test_a_bad_attachment_is_an_error(attachment):
    """An attachment of unknown type, or a buffer beyond the limit, is a FrameError."""
    stream = encode_head(1, 0, 0, 0, 0, (attachment,))
    with pytest.raises(FrameError, match="an attachment of type"):
        list(feed(FrameDecoder(LIMIT), stream, [len(stream)]))


def test_only_next_finds_fault():
    """``wrote`` never fails: a bad attachment that comes after its header is a FrameError of ``next``."""
    decoder = FrameDecoder(LIMIT)
    stream = encode_head(1, 0, 0, 0, 0, ((4, 0, 0, 0),))
    decoder.writable()[: HEADER.size] = stream[: HEADER.size]
    decoder.wrote(HEADER.size)
    assert decoder.next() is None
    decoder.writable()[: ATTACHMENT.size] = stream[HEADER.size :]
    decoder.wrote(ATTACHMENT.size)
    with pytest.raises(FrameError):
        decoder.next()
