"""The public functions, as Python calls them and as Numba compiles a call of them.

They are ordinary functions with an overload, rather than dispatchers: so they have a name to be pickled by, and a
user's function that draws does not take their code and tables along to a worker that has to compile it.
"""

from collections.abc import Callable
from operator import index
from typing import Any

import numpy as np
from numba import errors, types
from numba.extending import overload

from . import _kernels
from ._kernels import State, below, seed_state
from ._normal import randn as _randn

_WORD = 1 << 64
_HALF = 1 << 63
_TOP = np.uint64(_HALF)
_INLINED: Any = {"forceinline": True}  # see _kernels.inlined
_NO_STATE = "rng must be what xoshiro(seed, task) returned: a writable array of four np.uint64"
_NO_SEED = "seed and task must be whole numbers from 0 to 2**64 - 1"
_NO_RANGE = "randint needs -2**63 <= low < high <= 2**63"


def xoshiro(seed: int, task: int = 0) -> State:
    """Return a generator for a task: its state, an array of four ``np.uint64``.

    The state is a function of the two numbers, which are from 0 to 2⁶⁴ - 1, and no two pairs have the same. With task
    0 it is the one that the authors of xoshiro256++ recommend for a seed, four numbers of splitmix64. A task that is
    not 0 goes through splitmix64's mixing function; what comes out is added, without carries, to the seed, and to the
    last two words of the state. Streams that begin at hashed places are independent statistically: nobody has proved
    that they do not overlap, but they lie on a circle of 2²⁵⁶ numbers. ``jump`` gives streams that provably do not.

    The array is all there is: it can be copied, pickled and sent. A compiled function must get it as an argument,
    since Numba takes global arrays for constants. ``ValueError`` if a number is out of range.

    Blackman and Vigna, "Scrambled linear pseudorandom number generators" (2021), https://prng.di.unimi.it

    >>> rng = xoshiro(seed=1, task=7)
    >>> rand(rng)
    0.4225911964304879
    """
    return _seeded(np.empty(4, np.uint64), seed, task)


def reseed(rng: State, seed: int, task: int = 0) -> None:
    """Make a generator the one that ``xoshiro(seed, task)`` returns, in place: a loop over tasks allocates nothing.

    >>> rng = xoshiro(1)
    >>> reseed(rng, 2, task=3)
    >>> rng.tolist() == xoshiro(2, task=3).tolist()
    True
    """
    _seeded(_checked(rng), seed, task)


def next64(rng: State) -> int:
    """Return the next 64 random bits: a whole number from [0, 2⁶⁴), which is a ``uint64`` in compiled code.

    >>> hex(next64(xoshiro(0)))
    '0x53175d61490b23df'
    """
    return int(_kernels.next64(_checked(rng)))


def rand(rng: State) -> float:
    """Return a random number from [0, 1), a multiple of 2⁻⁵³, each as likely.

    >>> rand(xoshiro(0))
    0.3245752680314067
    """
    return _kernels.rand(_checked(rng))


def randbool(rng: State) -> bool:
    """Return True or False, each as likely: what ``rand(rng) >= 0.5`` would be, in less time.

    >>> randbool(xoshiro(0))
    False
    """
    return _kernels.randbool(_checked(rng))


def randn(rng: State) -> float:
    """Return a random number of the standard normal distribution, from the ziggurat of Marsaglia and Tsang (2000).

    >>> randn(xoshiro(0))
    0.5417520554792655
    """
    return _randn(_checked(rng))


def randint(rng: State, low: int, high: int) -> int:
    """Return a random whole number from [low, high), each as likely (Lemire, 2019); an ``int64`` in compiled code.

    ``high`` may be 2⁶³, so that all of ``int64`` can be drawn. ``ValueError`` unless -2⁶³ ≤ low < high ≤ 2⁶³.

    >>> randint(xoshiro(0), 1, 7)
    2
    """
    low, high = index(low), index(high)
    if not -_HALF <= low < high <= _HALF:
        raise ValueError(f"{_NO_RANGE}, not {low} and {high}")
    return low + int(below(_checked(rng), np.uint64((high - low) % _WORD)))


def jump(rng: State) -> None:
    """Move on by 2¹²⁸ numbers.

    The states after no jump, one, two, … of the same generator begin streams that do not overlap, if nobody draws
    more than 2¹²⁸ from any.

    >>> rng = xoshiro(0)
    >>> jump(rng)
    >>> hex(next64(rng))
    '0x2107d23f5380538b'
    """
    _kernels.jump(_checked(rng))


def _seeded(rng: State, seed: int, task: int) -> State:
    seed, task = index(seed), index(task)
    if not (0 <= seed < _WORD and 0 <= task < _WORD):
        raise ValueError(f"{_NO_SEED}, not {seed} and {task}")
    seed_state(rng, np.uint64(seed), np.uint64(task))
    return rng


def _checked(rng: State) -> State:
    """Return what a kernel can work on; a kernel does not look at the length, and would compile for other types."""
    if not isinstance(rng, np.ndarray) or rng.dtype != np.uint64 or rng.shape != (4,) or not rng.flags.writeable:
        raise TypeError(_NO_STATE)
    return rng


# How Numba compiles a call


def _check_types(rng: Any, *numbers: Any) -> None:
    """Refuse, when a call is compiled, what is no state or no whole number."""
    if not isinstance(rng, types.Array) or rng.dtype != types.uint64 or rng.ndim != 1:
        raise errors.TypingError(_NO_STATE)
    if not rng.mutable:
        raise errors.TypingError(f"{_NO_STATE}; pass it as an argument, for Numba takes global arrays for constants")
    for each in numbers:
        if not isinstance(each, (types.Integer, types.Omitted, int)):
            raise errors.TypingError(f"seeds, tasks and bounds must be whole numbers, not {each}")


def _compile_as(public: Callable[[State], Any], kernel: Callable[[State], Any]) -> None:
    """Have a kernel run where compiled code calls a public function."""

    @overload(public, jit_options=_INLINED)
    def type_call(rng: Any) -> Callable[..., Any]:
        _check_types(rng)

        def compiled(rng: Any) -> Any:
            return kernel(rng)

        return compiled


_compile_as(next64, _kernels.next64)
_compile_as(rand, _kernels.rand)
_compile_as(randbool, _kernels.randbool)
_compile_as(randn, _randn)
_compile_as(jump, _kernels.jump)


@overload(xoshiro)
def _type_xoshiro(seed: Any, task: Any = 0) -> Callable[..., Any]:
    def compiled(seed: Any, task: Any = 0) -> Any:
        rng = np.empty(4, np.uint64)
        reseed(rng, seed, task)
        return rng

    return compiled


@overload(reseed)
def _type_reseed(rng: Any, seed: Any, task: Any = 0) -> Callable[..., Any]:
    _check_types(rng, seed, task)

    def compiled(rng: Any, seed: Any, task: Any = 0) -> Any:
        if seed < 0 or task < 0:
            raise ValueError(_NO_SEED)
        seed_state(rng, np.uint64(seed), np.uint64(task))

    return compiled


@overload(randint, jit_options=_INLINED)
def _type_randint(rng: Any, low: Any, high: Any) -> Callable[..., Any]:
    _check_types(rng, low, high)

    def compiled(rng: Any, low: Any, high: Any) -> Any:
        if low >= high or (high > 0 and np.uint64(high) > _TOP):
            raise ValueError(_NO_RANGE)
        start = np.uint64(low)
        return np.int64(start + below(rng, np.uint64(high) - start))

    return compiled
