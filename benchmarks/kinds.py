"""Kinds of functions that people compile with Numba: each a factory of a new function, with arguments for it.

The benchmark of shipped machine code times all of them, and a test calls them all on workers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, objmode, prange, typed, types, vectorize


@dataclass(frozen=True)
class Kind:
    """A kind of function. ``compiles``: how often Numba compiles on a worker although the code was shipped."""

    name: str
    make: Callable[[], Callable[..., Any]]
    args: Callable[[], tuple[Any, ...]]
    compiles: int = 0

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


KINDS: list[Kind] = []


def kind(name, *args, compiles=0):
    """Register a factory; an argument that can be called is made anew for each call."""

    def register(make):
        KINDS.append(Kind(name, make, lambda: tuple(each() if callable(each) else each for each in args), compiles))
        return make

    return register


@kind("scalar", 3.0)
def scalar():
    @njit
    def f(x):
        return x * x + 1.0

    return f


@kind("array", lambda: np.arange(1000.0))
def array():
    @njit
    def f(x):
        total = 0.0
        for each in x:
            total += each * each
        return total

    return f


@kind("calls another", 1000)
def calls_another():
    @njit
    def half(x):
        return x / 2

    @njit
    def f(n):
        return sum([half(i) for i in range(n)])

    return f


@kind("closure", 2.0)
def closure():
    scale, table = 3, np.arange(100.0)

    @njit
    def f(x):
        return x * scale + table.sum()

    return f


@kind("parallel", lambda: np.arange(10_000.0))
def parallel():
    @njit(parallel=True)
    def f(x):
        total = 0.0
        for i in prange(len(x)):
            total += x[i]
        return total

    return f


@kind("fastmath", lambda: np.arange(1000.0))
def fastmath():
    @njit(fastmath=True)
    def f(x):
        return np.sqrt(x).sum()

    return f


@kind("recursion", 15)
def recursion():
    @njit
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    return fib


@kind("mutual recursion", 10)
def mutual_recursion():
    @njit
    def is_even(n):
        return True if n == 0 else is_odd(n - 1)

    @njit
    def is_odd(n):
        return False if n == 0 else is_even(n - 1)

    return is_even


@kind("linear algebra", lambda: np.eye(3) + 1, lambda: np.arange(3.0))
def linear_algebra():
    @njit
    def f(a, b):
        return np.linalg.solve(a, b)

    return f


@kind("typed list", 10)
def typed_list():
    @njit
    def f(n):
        made = typed.List.empty_list(types.int64)
        for i in range(n):
            made.append(i)
        return made[n // 2]

    return f


@kind("dictionary of strings", 10)
def dictionary():
    @njit
    def f(n):
        counts = {"a": 0, "b": 0}
        for i in range(n):
            counts["a" if i % 2 else "b"] += i
        return counts["a"]

    return f


@kind("strings", "many words in a line")
def strings():
    @njit
    def f(text):
        return " ".join([word.upper() for word in text.split(" ")])

    return f


@kind("exception", 3)
def exception():
    @njit
    def f(n):
        if n < 0:
            raise ValueError("negative", n)
        return n

    return f


@kind("generator", 10)
def generator():
    @njit
    def squares(n):
        for i in range(n):
            yield i * i

    @njit
    def f(n):
        total = 0
        for each in squares(n):
            total += each
        return total

    return f


@kind("complex and tuple", 1 + 2j, (1, 2.5))
def complex_and_tuple():
    @njit
    def f(z, pair):
        return z * pair[1], abs(z), pair[0]

    return f


@kind("any number of arguments", 1, 2.0, 3)
def any_number():
    @njit
    def f(*args):
        return len(args) + args[0]

    return f


@kind("defaults", 1)
def defaults():
    @njit
    def f(x, y=2, z=3.0):
        return x + y + z

    return f


@kind("random", 3)
def random():
    @njit
    def f(seed):
        np.random.seed(seed)
        return np.random.random()

    return f


@kind("generator argument", lambda: np.random.default_rng(3))
def generator_argument():
    @njit
    def f(rng):
        return rng.random()

    return f


@kind("C function by name", 2.0)
def c_function():
    cosh = types.ExternalFunction("cosh", types.float64(types.float64))

    @njit
    def f(x):
        return cosh(x)

    return f


@kind("structured array", lambda: np.ones(3, dtype=[("a", "f8"), ("b", "i4")]))
def structured_array():
    @njit
    def f(rows):
        return rows["a"].sum() + rows[0]["b"]

    return f


@kind("ufunc", lambda: np.arange(5.0))
def ufunc():
    @vectorize(["float64(float64)"])
    def double(x):
        return 2 * x

    @njit
    def f(x):
        return double(x).sum()

    return f


@kind("declared types", 4)
def declared():
    @njit("int64(int64)")
    def f(n):
        return n * n

    return f


@kind("object mode block", 4, compiles=1)
def object_mode():
    @njit
    def f(n):
        with objmode(text="unicode_type"):
            text = str(n)
        return text

    return f
