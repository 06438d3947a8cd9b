"""Engines: where workers come from. ``addprocs`` takes one; ``addprocs(2)`` makes a ``Local``.

``Engine`` is the base of one's own: see docs/engines.md. ``Dask``, ``SSH`` and ``MPI`` are imported when asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._engines.base import Engine as Engine
from ._engines.base import Launched as Launched
from ._engines.base import Offer as Offer
from ._engines.local import Local as Local

if TYPE_CHECKING:
    from ._engines.dask import Dask as Dask
    from ._engines.mpi import MPI as MPI

_EXTRAS = {"Dask": "dask", "MPI": "mpi", "SSH": "ssh"}  # by engine: the extra of the package, and our module


def __getattr__(name: str) -> Any:
    """Import an engine. ImportError, which names the extra to install, if what it speaks to is not there."""
    if name not in _EXTRAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    extra = _EXTRAS[name]
    try:
        return getattr(import_module(f"._engines.{extra}", __package__), name)
    except ImportError as error:
        raise ImportError(f"fc.engines.{name} needs more: pip install 'farcall[{extra}]' ({error})") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXTRAS})
