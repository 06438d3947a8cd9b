"""The options of a map."""

import inspect
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypedDict, TypeVar

from .._pool import WorkerPool
from .checkpoint import Checkpoint
from .inputs import Source

F = TypeVar("F", bound=Callable[..., Any])


class MapOptions(TypedDict, total=False):
    """What ``pmap`` and ``imap`` take by name."""

    pool: WorkerPool | None
    batch_size: int | None
    on_error: Callable[[Exception], Any] | None
    retry_delays: Iterable[float]
    retry_check: Callable[[Exception], object] | None
    timeout: float | None
    seed: Any
    checkpoint: str | os.PathLike[str] | None
    progress: Any


@dataclass(frozen=True)
class Options:
    """The same, checked."""

    pool: WorkerPool | None = None
    batch_size: int | None = None
    on_error: Callable[[Exception], Any] | None = None
    retry_delays: tuple[float, ...] = ()
    retry_check: Callable[[Exception], object] | None = None
    timeout: float | None = None
    seed: Any = None
    checkpoint: str | os.PathLike[str] | None = None
    progress: Any = None

    def __post_init__(self) -> None:
        if self.pool is not None and not isinstance(self.pool, WorkerPool):
            raise TypeError(f"pool={self.pool!r}: write pool=WorkerPool(pids)")
        if self.batch_size is not None and (type(self.batch_size) is not int or self.batch_size < 1):
            raise ValueError(f"batch_size={self.batch_size!r}: write how many items, at least 1, or leave it out")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout={self.timeout!r}: write how many seconds an item may take, or leave it out")
        if any(not delay >= 0 or math.isinf(delay) for delay in self.retry_delays):
            raise ValueError(f"retry_delays={self.retry_delays!r}: write a list of seconds, one for each new try")

    def open_journal(self, function: Callable[..., Any], source: Source) -> Checkpoint | None:
        """Return the checkpoint, open, if there is to be one."""
        if self.checkpoint is None:
            return None
        return Checkpoint(self.checkpoint, function, source.size, self.seed)


def read_options(options: MapOptions) -> Options:
    """Return options as they were written, checked; an unknown one is a TypeError that lists the others."""
    known = [field.name for field in fields(Options)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(
            f"a map has no option {unknown[0]!r}; it has {', '.join(known)}. "
            f"To give the function arguments by name, write functools.partial(f, {unknown[0]}=…)"
        )
    given: dict[str, Any] = dict(options)
    return Options(**given | {"retry_delays": tuple(given.get("retry_delays", ()))})


def shows_options(function: F) -> F:
    """Have ``help`` and editors show the options of a function that ends with ``**options``."""
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    for field in fields(Options):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        parameters.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default))
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return function
