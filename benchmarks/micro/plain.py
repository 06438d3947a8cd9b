"""The benchmarks in plain Python, with NumPy where the original has it.

Random numbers are those of generators of the module, whatever the seed, for to make one takes long.
"""

import random

import numpy as np

random.seed(1776)
generator = np.random.default_rng(1776)


def recursion_fibonacci(n, count):
    return sum(fib(n) for _ in range(count))


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def parse_integers(count, seed):
    total = 0
    for _ in range(count):
        number = random.getrandbits(32)
        parsed = int(f"{number:x}", 16)
        if parsed != number:
            return -1
        total += parsed
    return total


def userfunc_mandelbrot(rows, columns):
    times = [escape_time(complex((j - 20) / 10, (i - 10) / 10)) for i in range(rows) for j in range(columns)]
    return sum(times)


def escape_time(z):
    c = z
    for n in range(80):
        if z.real * z.real + z.imag * z.imag > 4:
            return n
        z = z * z + c
    return 80


def recursion_quicksort(n, seed):
    a = generator.random(n)
    quicksort(a, 0, n - 1)
    return a[n // 2] if (a[:-1] <= a[1:]).all() else np.nan


def quicksort(a, lo, hi):
    i, j = lo, hi
    while i < hi:
        pivot = a[(lo + hi) // 2]
        while i <= j:
            while a[i] < pivot:
                i += 1
            while a[j] > pivot:
                j -= 1
            if i <= j:
                a[i], a[j] = a[j], a[i]
                i += 1
                j -= 1
        if lo < j:
            quicksort(a, lo, j)
        lo, j = i, hi


def iteration_pi_sum(times, terms):
    for _ in range(times):
        total = 0.0
        for k in range(1, terms + 1):
            total += 1.0 / (k * k)
    return total


def matrix_statistics(count, seed):
    v, w = np.zeros(count), np.zeros(count)
    for i in range(count):
        a, b, c, d = (generator.standard_normal((5, 5)) for _ in range(4))
        p = np.concatenate((a, b, c, d), axis=1)
        q = np.concatenate((np.concatenate((a, b), axis=1), np.concatenate((c, d), axis=1)), axis=0)
        v[i] = np.trace(np.linalg.matrix_power(p.T @ p, 4))
        w[i] = np.trace(np.linalg.matrix_power(q.T @ q, 4))
    return v.std(ddof=1) / v.mean(), w.std(ddof=1) / w.mean()


def matrix_multiply(n, seed):
    return np.trace(generator.random((n, n)) @ generator.random((n, n)))


def print_to_file(path, count):
    with open(path, "w") as file:
        return sum(file.write(f"{i} {i + 1}\n") for i in range(count))
