"""farcall: the programming model of Julia's ``Distributed``, for Python, at the speed of the socket."""

import importlib as _importlib
import logging as _logging
import typing as _typing

from . import engines as engines
from ._cluster import Procs as Procs
from ._cluster import addprocs as addprocs
from ._cluster import interrupt as interrupt
from ._cluster import nprocs as nprocs
from ._cluster import nworkers as nworkers
from ._cluster import procs as procs
from ._cluster import rmprocs as rmprocs
from ._cluster import workers as workers
from ._errors import AuthenticationError as AuthenticationError
from ._errors import ChannelClosed as ChannelClosed
from ._errors import FarcallError as FarcallError
from ._errors import LaunchError as LaunchError
from ._errors import ProcessExited as ProcessExited
from ._errors import RemoteError as RemoteError
from ._errors import SerializationError as SerializationError
from ._errors import VersionMismatch as VersionMismatch
from ._pmap import imap as imap
from ._pmap import pforeach as pforeach
from ._pmap import pmap as pmap
from ._pmap import pmapreduce as pmapreduce
from ._pool import WorkerPool as WorkerPool
from ._pool import default_worker_pool as default_worker_pool
from ._remote.calls import everywhere as everywhere
from ._remote.calls import fetch as fetch
from ._remote.calls import isready as isready
from ._remote.calls import myid as myid
from ._remote.calls import remote as remote
from ._remote.calls import remote_do as remote_do
from ._remote.calls import remotecall_fetch as remotecall_fetch
from ._remote.calls import spawnat as spawnat
from ._remote.calls import wait as wait
from ._remote.channel import RemoteChannel as RemoteChannel
from ._remote.future import Future as Future
from ._timed import Timed as Timed
from ._timed import timed as timed
from ._trace import trace as trace
from ._version import __version__ as __version__
from .integrations import load_ipython_extension as load_ipython_extension

if _typing.TYPE_CHECKING:
    from . import ode as ode

_LAZY = ["ode"]  # packages that need more than farcall does


def __getattr__(name: str) -> _typing.Any:
    """Import a package when it is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _importlib.import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


_logging.getLogger("farcall").addHandler(_logging.NullHandler())
