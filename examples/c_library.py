"""C called directly: from Python on a worker, and by name from a compiled function that travels.

    python examples/c_library.py

Thirteen atoms that attract each other arrange themselves as an icosahedron, one of them in its middle. How large is it?
The potential of two atoms is a C function, in the package lennard_jones beside this program, which compiles it.
"""

import sys
import time

import numpy as np

import farcall as fc

try:
    import lennard_jones
    from numba import njit
except ImportError as error:
    sys.exit(f"This example needs Numba and cffi ({error}): pip install 'farcall[jit]' cffi")


def icosahedron(radius):
    """Return the coordinates of thirteen atoms, one of them in the middle."""
    golden = (1 + 5**0.5) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    corners = np.array([np.roll(each, turn) for each in corners for turn in range(3)])
    return np.vstack([np.zeros(3), radius / np.hypot(1, golden) * corners])


# 1. Each process imports the package, those that join later too; so each has the library.

fc.addprocs(2)
fc.everywhere(lennard_jones)
atoms = icosahedron(1.1)


# 2. From Python on a worker.

print(f"By ctypes on worker 2: {fc.remotecall_fetch(2, lennard_jones.energy, atoms):.6f}")
print(f"By cffi on worker 3:   {fc.remotecall_fetch(3, lennard_jones.energy_by_cffi, atoms):.6f}")


# 3. By its name from a function that is compiled here, and whose machine code travels: workers compile nothing.

pair = lennard_jones.pair


@njit
def energies(radii, atoms):
    """Return the energies of the atoms when they are scaled by each of the radii."""
    found = np.zeros(len(radii))
    for k in range(len(radii)):
        for i in range(len(atoms)):
            for j in range(i):
                found[k] += pair(radii[k] ** 2 * ((atoms[i] - atoms[j]) ** 2).sum())
    return found


print(f"By Numba here:         {energies(np.ones(1), atoms)[0]:.6f}")
radii = np.linspace(1.0, 1.2, 20_001)
found = np.concatenate(fc.pmap(energies, np.array_split(radii, 4), [icosahedron(1.0)] * 4))
print(f"Lowest of {len(radii):,}, on all workers: {found.min():.6f} at a radius of {radii[found.argmin()]:.5f}")


# 4. What does a call of C cost?


def call_from_python(n):
    return sum(lennard_jones.library.lj_pair(1.0 + i) for i in range(n))


@njit
def call_from_compiled(n):
    total = 0.0
    for i in range(n):
        total += pair(1.0 + i)
    return total


def nanoseconds(f, n):
    """Return how long each of n calls takes where this runs."""
    f(1)
    started = time.perf_counter()
    f(n)
    return (time.perf_counter() - started) / n * 1e9


for f, n in (call_from_python, 100_000), (call_from_compiled, 10_000_000):
    print(f"{f.__name__}: {fc.remotecall_fetch(2, nanoseconds, f, n):.1f} ns per call on worker 2")
