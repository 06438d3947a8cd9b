"""Names for the things that every layer speaks of."""

from typing import ParamSpec, TypeAlias, TypeVar

ProcessId: TypeAlias = int  # 1 is the master, workers count from 2, never reused
RefId: TypeAlias = tuple[int, int]  # who asked for the value, and the number of that request there
CallId: TypeAlias = int

P = ParamSpec("P")
R = TypeVar("R")
