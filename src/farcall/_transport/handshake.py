"""The first bytes of a connection: who are you, and do we speak the same language?

    dialler   FARCALL1, 32 random bytes
    listener  FARCALL1, 32 random bytes, its proof
    dialler   its proof
    both      a JSON object each (4 bytes of length): versions, identity
    both      another: what of the first they could use

A proof is HMAC-SHA256 under the cluster's token over the role and both random numbers, so neither a replayed nor
a reflected one is worth anything. Until the proof is checked only bytes of fixed number are read, within a time
limit; nothing of the handshake is ever unpickled.
"""

import hmac
import json
import secrets
import select
import time
from collections.abc import Generator
from typing import Any

from .._errors import AuthenticationError, VersionMismatch
from .base import Transport

MAGIC = b"FARCALL1"
NONCE = 32
PROOF = 32
LONGEST_HELLO = 64 * 1024

Hello = dict[str, Any]
Steps = Generator[bytes | int, bytes, Hello]  # yields bytes to send or a number of bytes to be sent in


def dialler_steps(token: bytes, hello: Hello) -> Steps:
    """The dialler's side, without I/O. Returns the listener's hello."""
    mine = secrets.token_bytes(NONCE)
    yield MAGIC + mine
    answer = yield len(MAGIC) + NONCE + PROOF
    _check_magic(answer)
    theirs = answer[len(MAGIC) : len(MAGIC) + NONCE]
    _check_proof(answer[len(MAGIC) + NONCE :], token, b"listener", mine, theirs)
    yield _prove(token, b"dialler", mine, theirs)
    return (yield from _exchange(hello))


def listener_steps(token: bytes, hello: Hello) -> Steps:
    """The listener's side, without I/O. Returns the dialler's hello."""
    greeting = yield len(MAGIC) + NONCE
    _check_magic(greeting)
    theirs = greeting[len(MAGIC) :]
    mine = secrets.token_bytes(NONCE)
    yield MAGIC + mine + _prove(token, b"listener", theirs, mine)
    _check_proof((yield PROOF), token, b"dialler", theirs, mine)
    return (yield from _exchange(hello))


def _prove(token: bytes, role: bytes, dialler: bytes, listener: bytes) -> bytes:
    return hmac.digest(token, role + dialler + listener, "sha256")


def _check_proof(proof: bytes, token: bytes, role: bytes, dialler: bytes, listener: bytes) -> None:
    if not hmac.compare_digest(proof, _prove(token, role, dialler, listener)):
        raise AuthenticationError(f"the {role.decode()} does not know this cluster's token")


def _check_magic(data: bytes) -> None:
    if not data.startswith(MAGIC):
        raise AuthenticationError(f"the peer does not speak farcall's protocol: {data[: len(MAGIC)]!r}")


def _exchange(hello: Hello) -> Steps:
    data = json.dumps(hello).encode()
    yield len(data).to_bytes(4, "big") + data
    size = int.from_bytes((yield 4), "big")
    if size > LONGEST_HELLO:
        raise AuthenticationError(f"the peer announces a hello of {size} bytes")
    answer: Hello = json.loads((yield size))
    _check_versions(hello["versions"], answer["versions"])
    return answer


def _check_versions(mine: dict[str, str], theirs: dict[str, str]) -> None:
    """Raise VersionMismatch with both values unless all that both have are equal."""
    different = [
        f"{name} is {mine[name]} here and {theirs[name]} there"
        for name in mine
        if name in theirs and mine[name] and theirs[name] and mine[name] != theirs[name]
    ]
    if different:
        raise VersionMismatch("; ".join(different) + ": install the same on both sides")


def perform(transport: Transport, steps: Steps, timeout: float) -> Hello:
    """Run a side of the handshake. Blocks; an error closes the connection.

    AuthenticationError also when the peer hangs up or takes longer than ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    try:
        request = next(steps)
        while True:
            try:
                if isinstance(request, bytes):
                    _send_all(transport, request, deadline)
                    request = steps.send(b"")
                else:
                    request = steps.send(_receive_exactly(transport, request, deadline))
            except StopIteration as end:
                hello: Hello = end.value
                return hello
    except BaseException as error:
        transport.close()
        if isinstance(error, PermissionError):  # a certificate that was not accepted, in words for the user
            raise AuthenticationError(error.strerror) from None
        if isinstance(error, (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)):
            raise AuthenticationError(f"the handshake did not complete: {error!r}") from error
        raise


def exchange_flag(transport: Transport, flag: bool, timeout: float) -> bool:
    """Tell the peer one bit and return its own."""
    deadline = time.monotonic() + timeout
    try:
        _send_all(transport, b"1" if flag else b"0", deadline)
        return _receive_exactly(transport, 1, deadline) == b"1"
    except OSError as error:
        transport.close()
        raise AuthenticationError(f"the handshake did not complete: {error!r}") from error


def _wait_for(transport: Transport, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(transport.fileno(), event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise TimeoutError("the peer took too long")


def _send_all(transport: Transport, data: bytes, deadline: float) -> None:
    while data:
        try:
            data = data[transport.send([data]) :]
        except BlockingIOError:
            _wait_for(transport, select.POLLOUT, deadline)


def _receive_exactly(transport: Transport, size: int, deadline: float) -> bytes:
    """Return exactly ``size`` bytes and leave what follows, which belongs to the first message."""
    data = bytearray(size)
    view = memoryview(data)
    while len(view):
        try:
            got = transport.receive_into(view)
        except BlockingIOError:
            _wait_for(transport, select.POLLIN, deadline)
            continue
        if not got:
            raise ConnectionResetError("the peer hung up")
        view = view[got:]
    return bytes(data)
