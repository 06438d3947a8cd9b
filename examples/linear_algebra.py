"""Linear algebra and sparse matrices with NumPy and SciPy: here, on a worker, and on all of them.

    python examples/linear_algebra.py [size]

This is the second part of "Julia Distributed Computing in the Cloud" (D. Gannon, 2018) in Python, and what becomes of
it with workers: an inverse, a product, a singular value decomposition, and the solution of a sparse system.
"""

import os
import sys

import farcall as fc

try:
    import numpy as np
    from scipy import sparse
    from scipy.sparse.linalg import splu, spsolve
except ImportError as error:
    sys.exit(f"This example needs NumPy and SciPy ({error}): pip install numpy scipy")

size = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
cores = len(os.sched_getaffinity(0))
rng = np.random.default_rng(2018)


# 1. Here, with all the threads of this machine, and on a worker which has as many. Nothing needs to be defined there:
#    NumPy's functions go by name, others with what they use, and matrices through shared memory.


def times_transpose(m):
    return m @ m.T  # symmetric


def quickest(f, *args):
    """Return the value of a call, and the times of the quickest of three: the first one waits for libraries to load."""
    timings = []
    for _ in range(3):
        with fc.timed(quiet=True) as t:
            value = f(*args)
        timings.append(t)
    return value, min(timings, key=lambda each: each.seconds)


M = rng.random((size, size))
C = times_transpose(M)
print(f"{size} x {size}, {cores} threads      here  on a worker  of which transfer")
found = []
with fc.addprocs(1, threads=cores) as (worker,):
    for name, f, a in (
        ("inverse", np.linalg.inv, M),
        ("product with transpose", times_transpose, M),
        ("singular value decomposition", np.linalg.svd, C),
    ):
        _, here = quickest(f, a)
        value, there = quickest(fc.remotecall_fetch, worker, f, a)
        (call,) = there.remote
        print(f"{name:<28} {here.seconds:6.3f} s  {there.seconds:9.3f} s  {call.transfer + call.answer:14.3f} s")
        found.append(value)

N, C, Q = found
print(f"|M N - 1| = {np.abs(M @ N - np.eye(size)).max():.0e}, |C - C'| = {np.abs(C - C.T).max():.0e},", end=" ")
print(f"|U S V' - C| / |C| = {np.abs((Q.U * Q.S) @ Q.Vh - C).max() / C.max():.0e}")


# 2. What a call returns stays where it was computed until it is fetched. A Future as an argument is fetched where the
#    call runs, so here only the singular values travel.


def singular_values(future):
    return np.linalg.svd(fc.fetch(future), compute_uv=False)


workers = fc.addprocs(cores)  # with one thread each, the default: as many threads as processors, and no more
product = fc.spawnat(workers[0], times_transpose, M)
values = fc.remotecall_fetch(product, singular_values, product)
print(f"Singular values on worker {product.where}: from {values[0]:.1f} down to {values[-1]:.2g}")
error = np.abs(values - np.linalg.svd(M, compute_uv=False) ** 2).max() / values[0]
print(f"They are the squares of those of M, up to {error:.0e} of the largest")


# 3. Many matrices: each worker takes one after the other, with a thread of its own.


def condition(seed):
    return np.linalg.cond(np.random.default_rng(seed).standard_normal((size // 4, size // 4)))


seeds = range(16 * cores)
alone, here = quickest(lambda: [condition(seed) for seed in seeds])
conditions, there = quickest(fc.pmap, condition, seeds)
assert np.allclose(alone, conditions)
print(f"{len(seeds)} condition numbers: {here.seconds:.3f} s here, {there.seconds:.3f} s on {cores} workers")


# 4. A sparse system: Poisson's equation -Δu = 1 on a square whose edge is 0, by finite differences.


def laplacian(n):
    """Return -Δ on n x n points inside the unit square."""
    line = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    one = sparse.eye_array(n)
    return ((n + 1) ** 2 * (sparse.kron(line, one) + sparse.kron(one, line))).tocsc()


A = laplacian(size // 8 * 2 - 1)
b = np.ones(A.shape[0])
u = fc.remotecall_fetch("any", spsolve, A, b)
print(f"Poisson: {len(b):,} unknowns, {A.nnz:,} numbers; the highest point is u = {u.max():.6f}")


# 5. A factorisation that no pickle can hold stays where it is, and calls go there.


def solve(factors, b):
    return fc.fetch(factors).solve(b)


factors = fc.spawnat("any", splu, A)
fc.wait(factors)
again, t = quickest(fc.remotecall_fetch, factors, solve, factors, b)
assert np.allclose(again, u)
print(f"Solved with the factors on worker {factors.where} in {1000 * t.seconds:.1f} ms")
