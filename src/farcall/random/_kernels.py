"""What is compiled: the generator xoshiro256++, its seeding by splitmix64, and uniform numbers.

The state is an array of four 64-bit words. A loop that draws keeps them in registers, as long as it writes to no
other array and calls nothing: what it draws with is compiled into it, and LLVM then moves the words out of the loop.

Every constant that meets a word is a ``np.uint64``: with a plain integer, which is signed, Numba would make the
result a floating-point number.

Both algorithms are in the public domain: D. Blackman and S. Vigna, "Scrambled linear pseudorandom number generators",
ACM Transactions on Mathematical Software 47 (2021), and https://prng.di.unimi.it.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

State: TypeAlias = NDArray[np.uint64]
Function = TypeVar("Function", bound=Callable[..., Any])

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the golden ratio, by which splitmix64 advances
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_JUMP = np.array([0x180EC6D33CFD0ABA, 0xD5A61266F0C9392C, 0xA9582618E03FC9AA, 0x39ABDC4529B1661C], np.uint64)
_ULP = 2.0**-53

_0, _1 = np.uint64(0), np.uint64(1)
_11, _17, _19, _23, _27, _30 = (np.uint64(each) for each in (11, 17, 19, 23, 27, 30))
_31, _41, _45 = (np.uint64(each) for each in (31, 41, 45))


def inlined(function: Function) -> Function:
    """Have Numba compile a function into each loop that calls it.

    The state must not be seen by a call: it would be in memory then, and counted, and a number cost many times as much.
    """
    return cast(Function, njit(error_model="numpy", forceinline=True)(function))


def called(function: Function) -> Function:
    """Have Numba compile a function that is called seldom, or does much, once."""
    return cast(Function, njit(error_model="numpy", forceinline=False)(function))


@inlined
def next64(rng: State) -> np.uint64:
    """Return the next 64 bits.

    The words are moved on first and the result made of the old ones: in this order LLVM schedules the loop that draws
    two numbers 6% better.
    """
    s0, s1, s2, s3 = rng[0], rng[1], rng[2], rng[3]
    first, last = s0, s3
    shifted = s1 << _17
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    rng[0] = s0
    rng[1] = s1
    rng[2] = s2 ^ shifted
    rng[3] = (s3 << _45) | (s3 >> _19)
    total: np.uint64 = first + last
    result: np.uint64 = ((total << _23) | (total >> _41)) + first
    return result


@inlined
def rand(rng: State) -> float:
    """Return a multiple of 2⁻⁵³ from [0, 1)."""
    return (next64(rng) >> _11) * _ULP


@inlined
def randbool(rng: State) -> bool:
    """Return the highest bit."""
    return bool(np.int64(next64(rng)) < 0)


@inlined
def _mix(z: np.uint64) -> np.uint64:
    """Return what splitmix64 makes of its counter: one-to-one, and 0 for 0."""
    z = (z ^ (z >> _30)) * _MIX_1
    z = (z ^ (z >> _27)) * _MIX_2
    return z ^ (z >> _31)


@called
def seed_state(rng: State, seed: np.uint64, task: np.uint64) -> None:
    """Set the state to the one of a seed and a task.

    No two pairs share a state, for each step can be undone: the first word gives the counter, hence the second and
    the third give ``key``, hence the task, and with the counter the seed. Nor are all words zero, since ``_mix`` is
    zero in one place only.
    """
    key = _mix(task)
    counter = seed ^ key
    for word in range(4):
        counter += _GAMMA
        rng[word] = _mix(counter)
    rng[2] ^= key
    rng[3] ^= key


@called
def jump(rng: State) -> None:
    """Move on by 2¹²⁸ numbers: apply the polynomial of the reference implementation."""
    s0 = s1 = s2 = s3 = _0
    for word in range(4):
        for bit in range(64):
            if (_JUMP[word] >> np.uint64(bit)) & _1 != _0:
                s0 ^= rng[0]
                s1 ^= rng[1]
                s2 ^= rng[2]
                s3 ^= rng[3]
            next64(rng)
    rng[0], rng[1], rng[2], rng[3] = s0, s1, s2, s3


def _type_high_product(typing: Any, left: Any, right: Any) -> Any:
    """Return the upper half of the product of two words, which Numba has no type for but processors an instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*[builder.zext(each, wide) for each in arguments])
        return builder.trunc(builder.lshr(product, wide(64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


_high_product: Any = intrinsic(_type_high_product)


@inlined
def below(rng: State, width: np.uint64) -> np.uint64:
    """Return a whole number from [0, width), each as likely; a width of 0 means 2⁶⁴.

    D. Lemire, "Fast random integer generation in an interval", ACM Transactions on Modeling and Computer Simulation
    29 (2019): the upper half of bits × width is the number, and those products are drawn again whose lower half is
    among the first 2⁶⁴ mod width, which some numbers have one of too many.
    """
    bits = next64(rng)
    if width == _0:
        return bits
    low = bits * width
    if low < width:
        surplus = (_0 - width) % width
        while low < surplus:
            bits = next64(rng)
            low = bits * width
    number: np.uint64 = _high_product(bits, width)
    return number
