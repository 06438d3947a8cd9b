"""One function, a version for each type: farcall's ``timed`` and Numba's compiler.

    python examples/specialise.py

This is Figure 1 of "Julia Distributed Computing in the Cloud" (D. Gannon, 2018) in Python: a function that says nothing
of types is called twice with an integer, then twice with a floating-point number. The first call with a new type
compiles a version for it, which takes a while; the second call uses that version.
"""

import sys

import farcall as fc

try:
    from numba import njit
except ImportError:
    sys.exit("This example needs Numba: pip install 'farcall[all]'")


@njit
def addem(x):
    # do some simple math with x
    x += x * x
    return x


# 1. Here. The line of each call says how long it took, and which part of that was compilation.

for x in (3, 3, 3.0, 3.0):
    print(f"addem({x}) here:")
    print(f"    = {fc.timed(addem, x)}")

print(f"Compiled here for {', '.join(str(types[0]) for types in addem.signatures)}")


# 2. On a worker, where nothing has been called before. The function travels with the call, and with it the versions
#    that are compiled here; what a worker compiled itself, its line would say. The first call imports Numba there.

with fc.addprocs(1) as (worker,):
    for x in (3, 3, 3.0, 3.0):
        print(f"addem({x}) on worker {worker}:")
        print(f"    = {fc.timed(fc.remotecall_fetch, worker, addem, x)}")


# 3. Where did the time of those calls go? A block has the numbers, and prints them as a table.

with fc.addprocs(2) as workers, fc.timed(quiet=True) as t:
    for x in (3, 3, 3.0, 3.0):
        for worker in workers:
            fc.remotecall_fetch(worker, addem, x)
print(t)
