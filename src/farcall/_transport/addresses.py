"""Any address: ``unix:…`` and ``tcp:host:port`` (see ``sockets``), ``tls:host:port`` (see ``tls``), or several of them.

A process that listens in several ways has one address, with blanks between the ways and the cheapest first:
``unix:@name tls:10.0.0.5:4711``. Who dials it tries one after the other, which costs nothing where a way does not
lead: nobody listens at a Unix address of another host.
"""

import time
from collections.abc import Callable, Sequence

from .._errors import AuthenticationError
from .._types import Certificate
from .base import Listener, Transport
from .sockets import SocketListener, dial


def listen(address: str | None, certificate: Certificate | None = None, *, advertise: str | None = None) -> Listener:
    """Return a listener at one address, by default at one that only processes of this machine can dial."""
    if address is None or not address.startswith("tls:"):
        return SocketListener(address, advertise=advertise)
    if certificate is None:
        raise ValueError(f"to listen at {address} takes a certificate")
    from .credentials import Credentials  # here, because most processes never speak TLS, which takes long to import
    from .tls import TlsListener

    return TlsListener(Credentials(*certificate), address, advertise=advertise)


def join_addresses(listeners: Sequence[Listener]) -> str:
    """Return the address of a process that listens in all these ways."""
    return " ".join(each.address for each in listeners)


class Dialler:
    """Dials any address, and presents a certificate where that is asked for. Any thread."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        self._diallers: dict[Certificate | None, Callable[[str, float], Transport]] = {None: _dial_openly}
        self._presented: dict[str, Certificate] = {}
        self._default = certificate
        if certificate is not None:
            self._learn(certificate)

    def __repr__(self) -> str:
        return f"<Dialler with {len(self._diallers) - 1} certificates>"

    def present(self, address: str, certificate: Certificate) -> None:
        """Present this certificate at this address from now on. OSError or ValueError if it is none."""
        self._learn(certificate)
        self._presented[address] = certificate

    def _learn(self, certificate: Certificate) -> None:
        if certificate not in self._diallers:
            from .credentials import Credentials
            from .tls import dialler

            self._diallers[certificate] = dialler(Credentials(*certificate))

    def __call__(self, address: str, timeout: float = 10.0) -> Transport:
        """Return a connection. Blocks up to ``timeout`` seconds; OSError and AuthenticationError name the address."""
        dial_one = self._diallers[self._presented.get(address, self._default)]
        deadline = time.monotonic() + timeout
        *others, last = address.split() or [""]
        for each in others:
            try:
                return dial_one(each, max(0.001, deadline - time.monotonic()))
            except OSError:
                pass  # it is on another host, or behind a wall
        return dial_one(last, max(0.001, deadline - time.monotonic()))


def _dial_openly(address: str, timeout: float) -> Transport:
    if not address:
        raise ConnectionRefusedError("it only dials, and cannot be dialled")
    if address.startswith("tls:"):
        raise AuthenticationError(f"{address} asks for a certificate, and this process has none")
    return dial(address, timeout)
