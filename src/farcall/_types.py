"""Names for the things that every layer speaks of."""

from typing import ParamSpec, TypeAlias, TypeVar

ProcessId: TypeAlias = int  # 1 is the master, workers count from 2, never reused
RefId: TypeAlias = tuple[int, int]  # who asked for the value, and the number of that request there
CallId: TypeAlias = int
Certificate: TypeAlias = tuple[
    str, str, str | None
]  # CA, certificate, key: each a path or PEM; no key: it is in the second

P = ParamSpec("P")
R = TypeVar("R")
