"""Flip coins alone, then on workers: farcall in one page.

    python examples/coin.py [flips]

This is the walk-through of "Julia Distributed Computing in the Cloud" (D. Gannon, 2018), step by step, in Python.
"""

import random
import sys
import time

import farcall as fc

flips = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10_000_000


# 1. Alone: a function that flips a coin n times and counts the heads.


def count_heads(n):
    heads = 0
    for _ in range(n):
        heads += random.random() < 0.5
    return heads


print(f"Alone: {count_heads(10_000)} heads in 10,000 flips")


# 2. Two workers: new Python processes on this machine. Everybody has a number, and ours is 1.

print(f"Before: processes {fc.procs()} workers {fc.workers()}")
fc.addprocs(2)
print(f"Now: processes {fc.procs()} workers {fc.workers()}")


# 3. Everywhere: defined here and on each worker, as it is in Julia. (A function that is only passed to a call needs
#    no such thing: it travels with the call.) What a worker prints appears here, after its number.


@fc.everywhere
def count_heads_aloud(n):
    print(f"I am process {fc.myid()}, flipping {n:,} coins")
    return count_heads(n)


# 4. One worker: spawnat starts the call and returns a Future at once; fetch waits for its value.

future = fc.spawnat(2, count_heads_aloud, 10_000)
print(f"Worker 2: {fc.fetch(future)} heads in 10,000 flips")


# 5. How long does it take? All flips on one worker ...

started = time.perf_counter()
heads = fc.fetch(fc.spawnat(2, count_heads, flips))
one = time.perf_counter() - started
print(f"One worker: {heads:,} heads in {flips:,} flips, {one:.3f} s")


# 6. ... and a share of them on each: a list of Futures, all started before the first is waited for.

workers = fc.workers()
share = flips // len(workers)
started = time.perf_counter()
futures = [fc.spawnat(worker, count_heads, share) for worker in workers]
heads = sum(fc.fetch(future) for future in futures)
all_ = time.perf_counter() - started
print(f"All workers: {heads:,} heads in {share * len(workers):,} flips, {all_:.3f} s, {one / all_:.2f} times as fast")


# 7. The workers end with this program; rmprocs ends them now.

fc.rmprocs(workers)
print(f"At the end: processes {fc.procs()}")
