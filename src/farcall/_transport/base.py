"""What a transport must do. ``farcall.testing.TransportSuite`` is the same in tests."""

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Transport(ABC):
    """Two directions of bytes between two processes: ordered, complete, without boundaries. Never blocks.

    One thread reads and one thread writes at a time; they may be two.
    """

    @abstractmethod
    def fileno(self) -> int:
        """Return a descriptor that polls readable while bytes or the end have come, writable while some fit."""

    @abstractmethod
    def receive_into(self, buffer: memoryview) -> int:
        """Fill the front of ``buffer`` and return how much came.

        0 is the end, whoever closed. BlockingIOError if nothing has come yet; OSError if the connection broke.
        """

    @abstractmethod
    def send(self, parts: Sequence[bytes | memoryview]) -> int:
        """Take bytes from the front of ``parts`` and return how many, at least one.

        BlockingIOError if none fits now; OSError if the other side is gone.
        """

    @abstractmethod
    def close(self) -> None:
        """Close both directions; the peer reads what was sent, then the end. Closing twice is closing once.

        To close with bytes unread may cost the peer what is still under way (TCP resets the connection).
        """

    # Connections between hosts, one of which may vanish without a word

    def watch_host(self, patience: float) -> bool:
        """Have the system look whether the peer's host answers, and the connection break if it has not for so long.

        In seconds. False if ``is_forsaken`` need not be asked: the peer is on this host, and cannot vanish unnoticed.
        """
        return False

    def is_forsaken(self, patience: float) -> bool:
        """Whether the peer's host has left unanswered for so long what was sent. Any thread."""
        return False

    def break_off(self) -> None:
        """End the connection as if the peer had: who waits for it in any thread wakes. It is still to be closed."""
        self.close()


class Listener(ABC):
    """Where transports begin: a peer that dials ``address`` comes out of ``accept``."""

    address: str

    @abstractmethod
    def fileno(self) -> int:
        """Return a descriptor that polls readable while a peer waits."""

    @abstractmethod
    def accept(self) -> Transport:
        """Return the connection of a peer that waits; BlockingIOError if none does.

        PermissionError if the peer may not connect at all; nothing of it has been read then.
        """

    @abstractmethod
    def close(self) -> None:
        """Accept nobody any more. Closing twice is closing once."""
