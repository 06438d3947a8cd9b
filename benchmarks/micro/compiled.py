"""The benchmarks in Numba, as one writes them who knows it: the code of ``plain.py``, and what C does by C's means.

``error_model="numpy"`` has a division by zero give inf, as C has it, where Python raises: that spares a test.
Nothing here is compiled with ``fastmath``, nor is C.
"""

import math
import os

import numpy as np
from numba import njit

from farcall.random import next64, rand, randn, xoshiro

from .libc import fclose, fopen, fprintf, multiply, sprintf

compiled = njit(error_model="numpy")


@compiled
def recursion_fibonacci(n, count):
    total = 0
    for each in np.full(count, n):  # from memory, so that the calls are not made into one
        total += fib(each)
    return total


@compiled
def fib(n):
    # gcc puts calls of fib into fib; LLVM does not. Functions within a function are put where they are called, so
    # that these are the two next generations, and only every third is a call.
    def grandchild(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    def child(n):
        return n if n < 2 else grandchild(n - 1) + grandchild(n - 2)

    return n if n < 2 else child(n - 1) + child(n - 2)


@compiled
def parse_integers(count, seed):
    rng = xoshiro(seed)
    text = np.empty(11, np.uint8)
    total = 0
    for _ in range(count):
        number = np.uint32(next64(rng) >> np.uint64(32))
        sprintf(text.ctypes.data, "%x", (number,))
        parsed = parse(text, 16)
        if parsed != number:
            return -1
        total += parsed
    return total


@compiled
def parse(text, base):
    number = 0
    for byte in text:
        if byte == 0:
            break
        if ord("0") <= byte <= ord("9"):
            digit = byte - ord("0")
        elif ord("A") <= byte <= ord("Z"):
            digit = byte - ord("A") + 10
        elif ord("a") <= byte <= ord("z"):
            digit = byte - ord("a") + 10
        else:
            return -1
        if digit >= base:
            return -1
        number = number * base + digit
    return number


@compiled
def userfunc_mandelbrot(rows, columns):
    times = np.empty((rows, columns), np.int32)
    for i in range(rows):
        for j in range(columns):
            times[i, j] = escape_time(complex((j - 20) / 10, (i - 10) / 10))
    return times.sum()


@compiled
def escape_time(z):
    c = z
    for n in range(80):
        if z.real * z.real + z.imag * z.imag > 4:
            return n
        z = z * z + c
    return 80


@compiled
def random_array(rng, n):
    a = np.empty(n)
    for i in range(n):
        a[i] = rand(rng)
    return a


@compiled
def recursion_quicksort(n, seed):
    a = random_array(xoshiro(seed), n)
    quicksort(a, 0, n - 1)
    for i in range(1, n):
        if a[i - 1] > a[i]:
            return np.nan  # not sorted
    return a[n // 2]


@compiled
def quicksort(a, lo, hi):
    i, j = lo, hi
    while i < hi:
        pivot = a[np.uint64((lo + hi) // 2)]  # an unsigned index cannot count from the end, which spares a test
        while i <= j:
            while a[np.uint64(i)] < pivot:
                i += 1
            while a[np.uint64(j)] > pivot:
                j -= 1
            if i <= j:
                a[np.uint64(i)], a[np.uint64(j)] = a[np.uint64(j)], a[np.uint64(i)]
                i += 1
                j -= 1
        if lo < j:
            quicksort(a, lo, j)
        lo, j = i, hi


@compiled
def iteration_pi_sum(times, terms):
    total = 0.0
    for _ in range(times):
        total = 0.0
        for k in range(1, terms + 1):
            total += 1.0 / (k * k)
    return total


@compiled
def matrix_statistics(count, seed):
    rng = xoshiro(seed)
    v, w = np.empty(count), np.empty(count)
    parts, p, q = np.empty((4, 5, 5)), np.empty((5, 20)), np.empty((10, 10))
    work, more = np.empty(400), np.empty(400)
    for i in range(count):
        for each in range(parts.size):
            parts.flat[each] = randn(rng)
        for row in range(5):
            for column in range(5):
                for part in range(4):  # P = [a b c d], Q = [a b; c d]
                    x = parts[part, row, column]
                    p[row, part * 5 + column] = x
                    q[part // 2 * 5 + row, part % 2 * 5 + column] = x
        v[i] = trace_of_power(p, work, more)
        w[i] = trace_of_power(q, work, more)
    return variation(v), variation(w)


@compiled
def trace_of_power(a, b, c):
    """Return the trace of (a'a)^4; ``b`` and ``c`` are memory to work in."""
    m, n = a.shape
    multiply(True, n, n, m, a, a, b)
    multiply(False, n, n, n, b, b, c)
    multiply(False, n, n, n, c, c, b)
    trace = 0.0
    for i in range(n):
        trace += b[i * n + i]
    return trace


@compiled
def variation(v):
    """Return the standard deviation over the mean."""
    total = squares = 0.0
    for each in v:
        total += each
        squares += each * each
    return math.sqrt(v.size * (v.size * squares - total * total) / ((v.size - 1.0) * total * total))


@compiled
def matrix_multiply(n, seed):
    rng = xoshiro(seed)
    a, b, c = random_array(rng, n * n), random_array(rng, n * n), np.empty(n * n)
    multiply(False, n, n, n, a, b, c)
    trace = 0.0
    for i in range(n):
        trace += c[i * n + i]
    return trace


def print_to_file(path, count):
    return print_lines(*(np.frombuffer(os.fsencode(each) + b"\0", np.uint8) for each in (path, "w")), count)


@compiled
def print_lines(path, mode, count):
    file = fopen(path.ctypes.data, mode.ctypes.data)
    if file == 0:
        return -1
    written = 0
    for i in range(count):
        written += fprintf(file, "%ld %ld\n", (i, i + 1))
    return written if fclose(file) == 0 else -1
