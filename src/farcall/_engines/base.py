"""What an engine must do. ``farcall.testing.EngineSuite`` is the same in tests."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .._errors import LaunchError
from .._types import Certificate


@dataclass(frozen=True)
class Offer:
    """What every worker of one ``addprocs`` is told before it listens. ``token`` must not appear in a command line.

    ``timeout`` is in seconds. ``listen``: where, besides a place that only this machine can reach; with a certificate
    if that is to be over TLS.
    """

    token: bytes
    timeout: float
    listen: tuple[str, ...] = ()
    certificate: Certificate | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Launched:
    """A worker that listens. ``output`` are descriptors to read what it prints (stdout, stderr), closed by the reader.

    The master dials ``address``, which may be several with blanks between, and presents ``certificate`` there; the
    other workers dial ``inner_address``, if that is another. Equal only to itself: ``key`` is the engine's own handle.
    Why it ended is known some seconds after its connection ended, at most ``news_takes``.
    """

    address: str
    output: tuple[int, int] | None = field(default=None, compare=False)
    key: object = field(default=None, repr=False)
    inner_address: str | None = None
    certificate: Certificate | None = field(default=None, repr=False)
    host: str = ""  # as the user calls it, for messages
    news_takes: float = 0.0


class Engine(ABC):
    """Brings workers into being, stops them, and tells when one ends. Any thread."""

    @abstractmethod
    def launch(self, offer: Offer) -> Iterator[Launched | LaunchError]:
        """Start all workers at once and yield each as soon as it listens, or the reason why it never will.

        Closing the iterator early stops those that have not been yielded.
        """

    @abstractmethod
    def stop(self, worker: Launched, *, force: bool) -> None:
        """Ask a worker to end (SIGTERM), or end it (``force``: SIGKILL). Returns at once; a dead worker is no error."""

    @abstractmethod
    def watch(self, on_exit: Callable[[Launched, str], None]) -> None:
        """Have ``on_exit`` called once for each launched worker that ends, with the reason, also if it ended before."""

    # Engines whose workers come and go by themselves

    is_elastic = False
    """Whether its workers are somebody else's, who come and go, and in which ours is a part."""

    def follow(self, on_arrival: Callable[[Launched], None]) -> None:  # noqa: B027
        """Have ``on_arrival`` called with each worker that comes without having been asked for, from now on."""

    def retire(self, worker: Launched) -> None:  # noqa: B027
        """End the whole of a worker, our part of which has been stopped. May block."""

    def close(self) -> None:  # noqa: B027
        """Bring no more workers, and release what the engine holds. Their workers have been stopped."""
