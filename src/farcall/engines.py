"""Engines: where workers come from. ``addprocs`` takes one; ``addprocs(2)`` makes a ``Local``.

``Engine`` is the base of one's own, which ``Exits`` helps to write: see docs/engines.md. ``Dask``, ``Kubernetes``,
``MPI`` and ``SSH`` are imported when asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._engines.base import Engine as Engine
from ._engines.base import Launched as Launched
from ._engines.base import Offer as Offer
from ._engines.exits import Exits as Exits
from ._engines.local import Local as Local

if TYPE_CHECKING:
    from ._engines.dask import Dask as Dask
    from ._engines.kubernetes import Kubernetes as Kubernetes
    from ._engines.mpi import MPI as MPI
    from ._engines.ssh import SSH as SSH
    from ._engines.ssh import read_machine_file as read_machine_file

_LAZY = {  # by name: our module, and the extra that it needs, if any
    "Dask": "dask",
    "Kubernetes": "kubernetes",
    "MPI": "mpi",
    "SSH": "ssh",
    "read_machine_file": "ssh",
}


def __getattr__(name: str) -> Any:
    """Import an engine. ImportError, which names the extra to install, if what it speaks to is not there."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"._engines.{_LAZY[name]}", __package__), name)
    except ImportError as error:
        raise ImportError(f"fc.engines.{name} needs more: pip install 'farcall[{_LAZY[name]}]' ({error})") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
