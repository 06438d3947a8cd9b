"""What the processes of a cluster say to each other.

Seven kinds of message, each one frame; ``call`` is the number that the caller gave to a call, and with the
caller's pid the name of the value that the call makes (RefId). Messages of one link are handled in their order.

CALL     target = number of the function, flags = what is wanted back; body = pickle of ``args``, or of
         ``(args, kwargs)`` with KEYWORDS. PROMPT: run it where it is read, in the order of the messages.
         TIMED: the answer's body ends with four durations, of which ``_node.metering`` has the meaning.
         CELL: the body ends with the number of the cell of a notebook that caused it.
RESULT   target = VALUE, ERROR or STORED (the value stays with its owner until it is fetched).
DEFINE   target = number of a function, body = its pickle; FRESH: unpickle it again for every call, because
         it carries state that a call may change.
FORGET   target = number of a function that will not be called again. A function that changes from call to
         call is defined, called and forgotten each time. 0: body = names of modules that have changed at the
         master, call = the number of these news; what was imported from there is imported anew by later calls.
CANCEL   interrupt the call, and the calls that it made.
HOLD     body = HOLDING records (creator, number, holder, change): who holds a reference to a value that
         the receiver owns. Sent before the message that carries the reference.
RELEASE  body = numbers of shared segments that the sender no longer maps.
"""

from struct import Struct

from .frames import Body, encode_small

CALL, RESULT, DEFINE, FORGET, CANCEL, HOLD, RELEASE = range(1, 8)

WANT_VALUE, WANT_FUTURE, WANT_NOTHING = 0, 1, 2
WANTS = 3  # mask
KEYWORDS = 4
PROMPT = 8
TIMED = 16
CELL = 32
FRESH = 1

VALUE, ERROR, STORED = 0, 1, 2

HOLDING = Struct("<QQQq")
SEGMENT = Struct("<Q")
_CELL = Struct("<Q")


def encode_forget(number: int) -> bytes:
    """Return the message that frees a number of a function."""
    return encode_small(FORGET, 0, number, 0, b"")


def encode_changed(number: int, modules: list[str]) -> bytes:
    """Return the message that says which modules of the master have changed."""
    return encode_small(FORGET, 0, 0, number, "\n".join(modules).encode())


def decode_changed(body: bytes) -> list[str]:
    """Return the names of the modules."""
    return body.decode().split("\n")


def encode_cell(cell: int) -> bytes:
    """Return what a call ends with that a cell of a notebook has caused."""
    return _CELL.pack(cell)


def decode_cell(body: Body) -> int:
    """Return the cell that a call ends with."""
    cell: int = _CELL.unpack_from(body, len(body) - _CELL.size)[0]
    return cell


def encode_cancel(call: int) -> bytes:
    """Return the message that interrupts a call."""
    return encode_small(CANCEL, 0, 0, call, b"")


def encode_hold(changes: list[tuple[int, int, int, int]]) -> bytes:
    """Return the message that changes who holds which references."""
    return encode_small(HOLD, 0, 0, 0, b"".join([HOLDING.pack(*each) for each in changes]))


def decode_hold(body: bytes) -> list[tuple[int, int, int, int]]:
    """Return the (creator, number, holder, change) of each record."""
    return list(HOLDING.iter_unpack(body))


def encode_release(segments: list[int]) -> bytes:
    """Return the message that gives shared segments back to their owner."""
    return encode_small(RELEASE, 0, 0, 0, b"".join([SEGMENT.pack(each) for each in segments]))


def decode_release(body: bytes) -> list[int]:
    """Return the numbers of the segments."""
    return [segment for (segment,) in SEGMENT.iter_unpack(body)]
