"""The benchmarks in C, compiled by gcc when they are first asked for, and called through ctypes."""

import ctypes
import os
import shutil
import subprocess
from ctypes import c_char_p, c_double, c_int, c_int64, c_uint64
from pathlib import Path

import numpy as np
from generator import set_tables
from numpy.ctypeslib import ndpointer

# As the original compiles: for any processor of this kind, and with the arithmetic of IEEE 754. Numba keeps to the
# second also, but compiles for the processor at hand.
FLAGS = ("-std=c99", "-O3")

_SIGNATURES = {
    "recursion_fibonacci": (c_int64, c_int, c_int),
    "parse_integers": (c_int64, c_int, c_uint64),
    "userfunc_mandelbrot": (c_int64, c_int, c_int),
    "recursion_quicksort": (c_double, c_int, c_uint64),
    "iteration_pi_sum": (c_double, c_int, c_int),
    "matrix_statistics": (None, c_int, c_uint64, ndpointer(np.float64)),
    "matrix_multiply": (c_double, c_int, c_uint64),
    "print_to_file": (c_int64, c_char_p, c_int),
}


class MissingProgram(Exception):
    """What is needed to compile is not on this machine."""


def openblas() -> Path:
    """Return the library that NumPy multiplies matrices with, which C and Numba call too."""
    for path in Path(np.__file__).parents[1].glob("numpy.libs/libscipy_openblas64_*.so"):
        return path
    raise MissingProgram("NumPy has no OpenBLAS of its own here; take the one that pip installs: pip install numpy")


def compiler() -> str:
    """Return the first line of what gcc says about itself."""
    if shutil.which("gcc") is None:
        raise MissingProgram("there is no gcc, which compiles the version in C: apt-get install gcc libc6-dev")
    return subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


class Native:
    """The functions of ``micro.c``, compiled into a directory."""

    def __init__(self, directory: str) -> None:
        blas, target = openblas(), f"{directory}/micro.so"
        source = Path(__file__).with_name("micro.c")
        paths = ["-o", target, str(source), str(blas), f"-Wl,-rpath,{blas.parent}", "-lm"]
        subprocess.run(["gcc", *FLAGS, "-Wall", "-Wextra", "-shared", "-fPIC", *paths], check=True)
        self._library = ctypes.CDLL(target)
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, getattr(self, f"_{name}", function))
        set_tables(self._library)

    def _matrix_statistics(self, count: int, seed: int) -> tuple[float, float]:
        result = np.empty(2)
        self._library.matrix_statistics(count, seed, result)
        return result[0], result[1]

    def _print_to_file(self, path: str, count: int) -> int:
        return self._library.print_to_file(os.fsencode(path), count)
