"""TLS 1.3 over TCP, with a certificate on both sides (see ``credentials``). Addresses: ``tls:host:port``.

The handshake of TLS happens when the listener's end is read for the first time, within the time limit of whoever
reads; a listener only accepts. Until it is over nothing that the peer says reaches anybody.

OpenSSL works on memory here, not on the socket: it takes what one system call has brought, however many records that
is, and what it gives leaves in one call. Two promises of ``Transport`` shape the rest.

- What ``send`` has taken arrives, and what it has not taken is not on its way: see ``outlet``.
- The descriptor polls readable while there are bytes. A record is decrypted as a whole, so if it holds more than the
  reader has room for, its last encrypted byte is left in the socket until the rest has been read. If there is room
  for more than a record, no more is taken from the socket than what surely fits.
"""

import contextlib
import errno
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence

from .._errors import AuthenticationError
from .base import Listener, Transport
from .credentials import Credentials
from .outlet import Outlet
from .sockets import SocketListener, connect, dial, is_forsaken, make_prompt, watch_host

_PLAIN = 1 << 14  # bytes that a record holds at most
_RECORD = _PLAIN + 5 + 256  # and its length when encrypted
_BATCH = 1 << 17  # bytes that are decrypted, or encrypted, together


class TlsTransport(Transport):
    """One end of a TLS connection. Any OSError that it raises but BlockingIOError is final.

    PermissionError: one of the two sides does not accept the certificate of the other, or the peer speaks no TLS.
    """

    def __init__(self, connection: socket.socket, credentials: Credentials, *, listening: bool) -> None:
        self._socket = make_prompt(connection)
        self._credentials = credentials
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = credentials.listening if listening else credentials.dialling
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=listening)
        # Guards what OpenSSL knows of the connection: encrypting and decrypting must take turns.
        self._lock = threading.RLock()
        self._outlet = Outlet(connection, self._lock)
        self._established = False
        self._closed = False
        # The reader's.
        self._encrypted = memoryview(bytearray(_BATCH))
        self._left = memoryview(b"")  # decrypted and not yet read; if not empty, its last byte is still in the socket
        self._flows = False  # established, and neither anything left nor the end
        self._began = False  # the peer has said anything at all
        self._heard = False  # the peer has sent us something, so it accepts us
        self._ended = False
        self._failure: OSError | None = None

    def fileno(self) -> int:
        return -1 if self._closed else self._socket.fileno()

    def shake_hands(self, timeout: float) -> None:
        """Block until both sides know each other. OSError, PermissionError, TimeoutError after some seconds."""
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        while not self._established:
            try:
                self._read_ahead()
                if self._ended and not self._established:
                    raise ConnectionResetError(errno.ECONNRESET, "the peer hung up before the handshake of TLS")
            except BlockingIOError:
                left = deadline - time.monotonic()
                if not self._established and (left <= 0 or not poll.poll(left * 1000)):
                    raise TimeoutError(errno.ETIMEDOUT, "the peer took too long for the handshake of TLS") from None

    # Reading

    def receive_into(self, buffer: memoryview) -> int:
        room = len(buffer) - _RECORD  # what is decrypted next may begin with a record of which most is here already
        if room < _RECORD or not self._flows:
            return self._receive_little(buffer)
        while self._flows:
            size = self._socket.recv_into(self._encrypted, room if room < _BATCH else _BATCH)
            got = self._decrypt(size, buffer)
            if got:
                return got
        return self._receive_little(buffer)  # nothing any more

    def _receive_little(self, buffer: memoryview) -> int:
        """Receive into a buffer that may be too small for what comes, or during the handshake, or at the end."""
        if self._closed:
            return 0
        if not self._left:
            self._read_ahead()
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        if size and not self._left:
            self._drop(1)
        self._flows = self._established and not (self._left or self._ended)
        return size

    def _read_ahead(self) -> None:
        """Go on with the handshake, then decrypt a little, see ``_left``; at the end nothing."""
        while not self._is_over():
            if not self._established:
                self._advance()
            size = self._socket.recv_into(self._encrypted, _RECORD, socket.MSG_PEEK)
            room = memoryview(bytearray(2 * _RECORD))
            shaking = not self._established
            got = self._decrypt(size, room)
            self._left = room[:got]
            self._drop(size - bool(got))
            if got:
                return
            if shaking and not self._is_over():
                raise BlockingIOError  # a mouthful at a time, so that the time limit is looked at

    def _drop(self, size: int) -> None:
        """Take bytes out of the socket that are known already."""
        while size:
            size -= self._socket.recv_into(self._encrypted, size) or size  # 0: it has none any more

    def _is_over(self) -> bool:
        if self._failure is not None:
            raise self._failure
        return self._ended

    def _decrypt(self, size: int, room: memoryview) -> int:
        """Decrypt the first ``size`` of ``_encrypted`` and return how much came of it; ``room`` is there for all.

        No byte at all is the end of the socket.
        """
        if not size:
            return self._break_off()
        self._began = True
        done = 0
        with self._lock:
            self._incoming.write(self._encrypted[:size])
            if not self._established and not self._advance():
                return 0
            try:
                while self._incoming.pending:  # asking is cheaper than SSLWantReadError; each time it is a whole record
                    got: int = self._tls.read(_RECORD, room[done:] if done else room)  # type: ignore[assignment]
                    if not got:
                        self._end()
                        break
                    done += got
            except ssl.SSLWantReadError:
                pass  # the rest of a record has not come yet
            except ssl.SSLError as error:
                self._end(error)
            if self._outgoing.pending:  # what TLS itself has to say, such as an alert
                self._put_quietly()
        if done:
            self._heard = True
        return done

    def _break_off(self) -> int:
        """Let the connection have broken: without a farewell its end may be the work of anybody.

        0 if nothing has ever come, which is nobody's loss.
        """
        if self._began:
            what = "without a farewell" if self._established else "during the handshake"
            raise ConnectionResetError(errno.ECONNRESET, f"the peer ended the TLS connection {what}")
        self._ended, self._flows = True, False
        return 0

    def _advance(self) -> bool:
        """Go on with the handshake as far as what has come allows, and return whether it is over."""
        with self._lock:
            try:
                self._tls.do_handshake()
                self._established = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                self._end(error)
            self._put_quietly()
        return self._established

    def _end(self, error: ssl.SSLError | None = None) -> None:
        """Let nothing come any more: the peer has said farewell, or TLS has failed."""
        self._ended, self._flows = True, False
        if error is not None and self._heard:
            self._failure = ConnectionResetError(errno.ECONNRESET, f"TLS failed: {error.reason}")
        elif error is not None:
            self._failure = PermissionError(errno.EACCES, self._credentials.explain(error))
        try:
            self._socket.shutdown(socket.SHUT_RD)  # polls readable from now on
        except OSError:
            pass  # the connection is no more

    def _put_quietly(self) -> None:
        try:
            self._outlet.put(self._outgoing.read())
        except OSError:
            pass  # the peer is gone, which reading will find

    # Writing

    def send(self, parts: Sequence[bytes | memoryview]) -> int:
        """Do what ``Transport`` says; before the handshake, which reading brings about, nothing fits."""
        with self._lock:
            if self._closed or not self._established or self._outlet.waiting:
                self._make_room()
            if len(parts) == 1 and 0 < len(parts[0]) <= _BATCH:
                size = self._tls.write(parts[0])
            else:
                size = self._encrypt(parts)
            self._outlet.put(self._outgoing.read())
            return size

    def _make_room(self) -> None:
        """Have bytes leave that wait; BlockingIOError if some of them still do."""
        if self._closed:
            raise BrokenPipeError(errno.EPIPE, "the connection is closed")
        if not self._established:
            self._is_over()
            raise BlockingIOError
        self._outlet.push()
        if self._outlet.waiting:
            raise BlockingIOError

    def _encrypt(self, parts: Sequence[bytes | memoryview]) -> int:
        """Encrypt the front of some parts and return how much: small ones together, large ones where they are."""
        left = _BATCH
        small: list[bytes | memoryview] = []
        for part in parts:
            piece = part if len(part) <= left else memoryview(part)[:left]
            left -= len(piece)
            if len(piece) < _PLAIN:
                small.append(piece)
            else:
                self._write_together(small)
                small.clear()
                self._tls.write(piece)
            if not left:
                break
        self._write_together(small)
        return _BATCH - left

    def _write_together(self, parts: Sequence[bytes | memoryview]) -> None:
        data = b"".join(parts)
        if data:
            self._tls.write(data)

    def watch_host(self, patience: float) -> bool:
        return watch_host(self._socket, patience)

    def is_forsaken(self, patience: float) -> bool:
        return is_forsaken(self._socket, patience)

    def break_off(self) -> None:
        with contextlib.suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed, self._flows = True, False
            try:
                self._tls.unwrap()
            except (ssl.SSLError, ValueError):
                pass  # it has said farewell and does not wait for the answer; or there was nobody to say it to
            self._outlet.close(self._outgoing.read())


class TlsListener(Listener):
    """A listening socket for ``tls:host:port``; ``advertise`` as in ``SocketListener``.

    Whoever knocks is accepted; who he is comes out when his connection is read.
    """

    def __init__(self, credentials: Credentials, address: str, *, advertise: str | None = None) -> None:
        _check(address)
        self._credentials = credentials
        self._inner = SocketListener(address, advertise=advertise, stream="tls")
        self.address = self._inner.address

    def fileno(self) -> int:
        return self._inner.fileno()

    def accept(self) -> TlsTransport:
        return TlsTransport(self._inner.accept_socket(), self._credentials, listening=True)

    def close(self) -> None:
        self._inner.close()


def dialler(credentials: Credentials) -> Callable[[str, float], Transport]:
    """Return ``sockets.dial`` that knows ``tls:host:port`` too, and returns when the listener has shown who it is.

    AuthenticationError if it is none of us. Whether it accepts us is known when something of it has been read.
    """

    def dial_securely(address: str, timeout: float = 10.0) -> Transport:
        if not address.startswith("tls:"):
            return dial(address, timeout)
        deadline = time.monotonic() + timeout
        transport = TlsTransport(connect(address, timeout, "tls"), credentials, listening=False)
        try:
            transport.shake_hands(deadline - time.monotonic())
        except BaseException as error:
            transport.close()
            if isinstance(error, PermissionError):
                raise AuthenticationError(f"{address}: {error.strerror}") from None
            if isinstance(error, OSError):
                raise OSError(error.errno, f"cannot connect to {address}: {error.strerror}") from error
            raise
        return transport

    return dial_securely


def _check(address: str) -> None:
    if not address.startswith("tls:"):
        raise ValueError(f"{address!r} is no address for TLS; write tls:host:port, with port 0 for a free one")
