"""What ``generator.h``, the random numbers of the benchmarks in C, needs from Python."""

import ctypes

from farcall.random import _normal


def set_tables(library: ctypes.CDLL) -> None:
    """Give a library that includes ``generator.h`` the tables of the ziggurat."""
    pointers = [each.ctypes.data_as(ctypes.c_void_p) for each in (_normal.STEP, _normal.SURE, _normal.DENSITY)]
    library.set_tables(*pointers, ctypes.c_double(_normal.TAIL))
