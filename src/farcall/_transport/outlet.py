"""Encrypted bytes on their way into a socket.

A record that is encrypted must leave as it is: unlike plain bytes it cannot be taken back when the socket has room
for half of it only. So what does not fit is kept here and counts as sent, like what lies in the socket's own buffer,
and a thread sees to it that it leaves when there is room, whether or not anybody sends again.
"""

import select
import socket
import threading
import time
from collections import deque

_LINGER = 1.0  # seconds for which the thread stays: to start one costs more than to wake it
_FAREWELL = 30.0  # seconds after ``close`` for a peer that does not read, then it loses the rest


class Outlet:
    """The way into a non-blocking socket, which it closes in the end. All but ``close`` is called with ``lock`` held.

    The lock is reentrant because a finalizer may send at any point of any thread, even in the midst of these lines.
    """

    def __init__(self, connection: socket.socket, lock: "threading.RLock") -> None:
        self._socket = connection
        self._lock = lock
        self.waiting: deque[bytes | memoryview] = deque()
        self._pushing = False  # by the thread that holds the lock
        self._pusher: threading.Thread | None = None
        self._bell = threading.Event()  # there is something for it to do
        self._deadline: float | None = None  # once closed: until when the rest may leave

    def put(self, data: bytes) -> None:
        """Send bytes behind those that wait; what does not fit waits. OSError if the connection broke."""
        if self.waiting or self._pushing:
            self.waiting.append(data)
            self.push()
        else:
            self._pushing = True
            try:  # what ``push`` would do, for bytes that are alone and fit, as they nearly always are and do
                sent = self._socket.send(data)
                if sent < len(data):
                    self.waiting.appendleft(memoryview(data)[sent:])
            except BlockingIOError:
                self.waiting.appendleft(data)
            finally:
                self._pushing = False
        if self.waiting:
            self._call_pusher()

    def push(self) -> None:
        """Send what waits as far as it fits. OSError if the connection broke."""
        if self._pushing:
            return  # we are a finalizer inside of the loop below or of ``put``: what we have appended leaves later
        self._pushing = True
        try:
            while self.waiting:
                first = self.waiting[0]
                sent = self._socket.send(first)
                if sent < len(first):
                    self.waiting[0] = memoryview(first)[sent:]
                else:
                    self.waiting.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self.waiting.clear()
            raise
        finally:
            self._pushing = False

    def close(self, last: bytes) -> None:
        """Send the last bytes and close the socket, now or when all has left."""
        with self._lock:
            if self._deadline is not None:
                return
            self._deadline = time.monotonic() + _FAREWELL
            try:
                self.put(last)
            except OSError:
                pass  # the peer is gone
            if not self.waiting:
                self._close_socket()
            self._bell.set()

    def _close_socket(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already, by the peer or here
        self._socket.close()

    def _call_pusher(self) -> None:
        self._bell.set()
        if self._pusher is None:
            poll = select.poll()
            poll.register(self._socket.fileno(), select.POLLOUT)  # here, where it is surely open
            self._pusher = threading.Thread(target=self._push_behind, args=[poll], name="farcall-tls", daemon=True)
            self._pusher.start()

    def _push_behind(self, poll: select.poll) -> None:
        """Send what waits whenever there is room, until nothing has been left to do for a while."""
        while True:
            with self._lock:
                waits = self._push_quietly()
                if self._deadline is not None and (not waits or time.monotonic() > self._deadline):
                    self._close_socket()
                    return
            if waits:
                poll.poll(1000)  # looks at the deadline now and then
            elif not self._bell.wait(_LINGER):
                with self._lock:
                    if not self._bell.is_set():
                        self._pusher = None
                        return

    def _push_quietly(self) -> bool:
        """Send what fits, and return whether something still waits."""
        try:
            self.push()
        except OSError:
            pass  # the next who sends or reads will find it
        if not self.waiting:
            self._bell.clear()
        return bool(self.waiting)
