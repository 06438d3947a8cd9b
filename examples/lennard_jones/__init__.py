"""A C library as a package of one's program: whoever imports it has the library, compiled there if need be.

Workers on other hosts, which have neither this package nor the library, get the text and the C source from the master.
"""

import ctypes
import hashlib
import os
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

import cffi
import numpy as np
from numba import types


def build(source):
    """Return the path of the library of a C source, which this host's compiler makes once for all its processes."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lennard_jones"
    library = folder / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch, "library.so")
            command = ["cc", "-O3", "-shared", "-fPIC", "-x", "c", "-", "-o", str(made)]
            subprocess.run(command, input=source, text=True, check=True)
            made.rename(library)  # whole, whoever else is compiling it
    return library


path = build(resources.files(__name__).joinpath("lennard_jones.c").read_text())


# For calls from Python: ctypes, or cffi, which reads C's own declarations. Functions of a package go by its name, so
# that each process calls the C function of its own library.

library = ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)  # global: compiled code finds its functions by their names
library.lj_energy.argtypes = [np.ctypeslib.ndpointer(np.float64, ndim=2, flags="C_CONTIGUOUS"), ctypes.c_size_t]
library.lj_energy.restype = ctypes.c_double
library.lj_pair.argtypes, library.lj_pair.restype = [ctypes.c_double], ctypes.c_double


def energy(atoms):
    return library.lj_energy(atoms, len(atoms))


ffi = cffi.FFI()
ffi.cdef("double lj_energy(const double *x, size_t n);")
library_of_cffi = ffi.dlopen(str(path))


def energy_by_cffi(atoms):
    return library_of_cffi.lj_energy(ffi.from_buffer("double[]", atoms), len(atoms))


# For calls from functions that Numba compiles: nothing but the name is in their code.

pair = types.ExternalFunction("lj_pair", types.float64(types.float64))
