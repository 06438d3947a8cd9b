"""Every exception of farcall.

FarcallError
├── LaunchError             a worker did not come up; holds what it printed
├── ProcessExited           a worker is gone; also a concurrent.futures BrokenProcessPool
├── SerializationError      something cannot be pickled or unpickled; also a pickle.PicklingError
├── RemoteError             a remote exception that cannot be rebuilt here
├── ChannelClosed           a channel takes and gives no more
├── AuthenticationError     the other side does not know this cluster's token
├── VersionMismatch         two processes run versions that cannot speak to each other
└── FrameError              bytes that are no farcall message
"""

import pickle
from concurrent.futures.process import BrokenProcessPool


class FarcallError(Exception):
    """Base of the errors that farcall itself raises."""


class LaunchError(FarcallError):
    """A worker did not start. The message ends with what it printed before it ended."""


class ProcessExited(FarcallError, BrokenProcessPool):
    """A worker that was needed is gone; ``pid`` says which one and ``reason`` why."""

    def __init__(self, pid: int, reason: str = "for a reason that nobody reported") -> None:
        super().__init__(pid, reason)
        self.pid = pid
        self.reason = reason

    def __str__(self) -> str:
        return f"worker {self.pid} is gone: {self.reason}"


class SerializationError(FarcallError, pickle.PicklingError):
    """A value cannot cross to another process. The link it was meant for stays up."""


class RemoteError(FarcallError):
    """An exception that was raised remotely and cannot be rebuilt here.

    ``kind`` is the qualified name of its class there and ``text`` what it said.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class RemoteTraceback(Exception):
    """The traceback of a remote exception, as text: the ``__cause__`` of that exception here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class ChannelClosed(FarcallError):
    """The channel is closed, and what it still held has been taken."""


class AuthenticationError(FarcallError):
    """The peer did not prove that it knows the cluster's token."""


class VersionMismatch(FarcallError):
    """Two processes run versions that cannot work together; the message names both."""


class FrameError(FarcallError):
    """The bytes that came are no farcall message; the link that carried them is closed."""
