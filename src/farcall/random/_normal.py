"""Normally distributed numbers, by the ziggurat.

Half the bell exp(-x²/2) is covered by 256 layers of equal area: 255 rectangles, each from 0 to EDGE x_i, and at the
bottom a rectangle to x_1 with the tail beyond. Nearly every point of a layer has another layer above or below it that
shows that it is under the curve, so 98.8% of all numbers cost a draw, a product and a comparison. The others are
decided by the curve itself, and the tail is drawn exactly, so the numbers have the normal distribution as far as
53 bits can tell.

G. Marsaglia and W. W. Tsang, "The ziggurat method for generating random variables", Journal of Statistical Software 5
(2000); the tail: G. Marsaglia, "Generating a variable from the tail of the normal distribution", Technometrics 6
(1964). Layer, sign and size come from separate bits of one draw, as J. A. Doornik asks for ("An improved ziggurat
method to generate normal random samples", 2005).
"""

import math

import numpy as np
from numpy.typing import NDArray

from ._kernels import State, called, inlined, next64, rand

LAYERS = 256
TAIL = 3.654152885361009  # x_1, for which the layers end at the peak: a test checks it

_LAYER_BITS = np.uint64(LAYERS - 1)
_SIZE = 2.0**52  # of the integer that is drawn for x, which has 52 bits and a sign
_SIZE_SHIFT = np.int64(11)


def edges() -> list[float]:
    """Return where each layer ends, the tail made a part of the bottom one, and 0 for the peak."""
    density = math.exp(-TAIL * TAIL / 2)
    area = TAIL * density + math.sqrt(math.pi / 2) * math.erfc(TAIL / math.sqrt(2))
    found = [area / density, TAIL]
    while len(found) < LAYERS:
        density += area / found[-1]
        found.append(math.sqrt(-2 * math.log(density)))
    return [*found, 0.0]


def _tables() -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the steps of x in each layer, the integers that need no look at the curve, and the curve at each edge."""
    x = np.array(edges())
    return x[:-1] / _SIZE, (x[1:] / x[:-1] * _SIZE).astype(np.int64), np.exp(-x * x / 2)


STEP, SURE, DENSITY = _tables()  # 6 kB, which every caller's machine code holds


@inlined
def randn(rng: State) -> float:
    """Return a number of the standard normal distribution."""
    while True:
        bits = next64(rng)
        layer = bits & _LAYER_BITS
        size = np.int64(bits) >> _SIZE_SHIFT
        x: float = size * STEP[layer]
        if abs(size) < SURE[layer]:
            return x
        if layer == 0:
            return _tail(rng, x < 0)
        low, high = DENSITY[layer], DENSITY[layer + np.uint64(1)]
        if low + rand(rng) * (high - low) < math.exp(-x * x / 2):
            return x


@called
def _tail(rng: State, negative: bool) -> float:
    """Return a number beyond the bottom layer's rectangle."""
    while True:
        beyond = -math.log(1.0 - rand(rng)) / TAIL
        if -2.0 * math.log(1.0 - rand(rng)) > beyond * beyond:
            return -TAIL - beyond if negative else TAIL + beyond
