"""Multiple dispatch: generic functions, whose methods are chosen by the types of all arguments, here and on workers.

    python examples/dispatch.py

Which of many shapes touch each other? How two shapes touch depends on both: there is a method for each pair of types.
"""
# ruff: noqa: F811

import math
import random
import sys
from dataclasses import dataclass
from functools import partial

import farcall as fc

try:
    from plum import dispatch
except ImportError:
    sys.exit("This example needs plum: pip install 'farcall[dispatch]'")


@dataclass(frozen=True)
class Circle:
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Box:
    left: float
    bottom: float
    right: float
    top: float


# 1. A function of two methods. ``everywhere`` has each process know them, as ``@everywhere`` does in Julia.

fc.addprocs(2)


@fc.everywhere
@dispatch
def touch(a: Circle, b: Circle):
    return math.hypot(a.x - b.x, a.y - b.y) <= a.radius + b.radius


@fc.everywhere
@dispatch
def touch(a: Box, b: Box):
    return a.left <= b.right and b.left <= a.right and a.bottom <= b.top and b.bottom <= a.top


def count_touching(shapes, i):
    return sum(touch(shapes[i], shapes[j]) for j in range(i))


def count_all(shapes):
    """Return how many pairs touch each other, counted on all workers."""
    return sum(fc.pmap(partial(count_touching, shapes), range(len(shapes))))


draw = random.Random(2018)
circles = [Circle(draw.random(), draw.random(), 0.02) for _ in range(300)]
boxes = [Box(x, y, x + 0.04, y + 0.04) for x, y in [(draw.random(), draw.random()) for _ in range(300)]]
print(f"{count_all(circles)} pairs of circles touch, {count_all(boxes)} pairs of boxes")


# 2. Both kinds together: no method takes a circle and a box. The error, which a worker raises, lists those there are.

try:
    count_all(circles + boxes)
except LookupError as error:
    print(f"A circle and a box: {type(error).__name__} {error.__notes__[0].partition(' (')[0]}")


# 3. So here are two more. They join the others, on all workers.


@fc.everywhere
@dispatch
def touch(a: Circle, b: Box):
    x, y = max(b.left, min(a.x, b.right)), max(b.bottom, min(a.y, b.top))  # the point of the box that is nearest
    return math.hypot(a.x - x, a.y - y) <= a.radius


@fc.everywhere
@dispatch
def touch(a: Box, b: Circle):
    return touch(b, a)


both = count_all(circles + boxes)
print(f"{both} pairs of circles and boxes")


# 4. A method that is defined again takes the place of the one before, here and there: circles around one point only.


@fc.everywhere
@dispatch
def touch(a: Circle, b: Circle):
    return (a.x, a.y) == (b.x, b.y)


print(f"{both - count_all(circles + boxes)} pairs of circles fewer")


# 5. A worker that joins later has them all.

(late,) = fc.addprocs(1)
print(f"Worker {late} knows {fc.everywhere('len(touch.methods)', pids=late)} methods, I know {len(touch.methods)}")
print(f"It says {fc.remotecall_fetch(late, touch, Box(0, 0, 1, 1), Circle(0.5, 1.5, 0.6))}")
