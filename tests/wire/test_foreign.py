"""C functions, libraries and types of ctypes go by name."""

import ctypes
import errno
import re

import numpy as np
import pytest
from numba import njit

import farcall as fc
from farcall._errors import SerializationError
from farcall._wire import pickles
from farcall.testing import assert_compiles

LIBM = "libm.so.6"


def cross(value):
    payload = pickles.encode(value)
    return pickles.decode(payload.body, [bytearray(each.view) for each in payload.buffers])


def hypot(library=None):
    """Return C's hypot, declared."""
    function = (library or ctypes.CDLL(LIBM)).hypot
    function.argtypes, function.restype = [ctypes.c_double, ctypes.c_double], ctypes.c_double
    return function


def refuse_negative(result, function, arguments):
    if result < 0:
        raise ValueError(f"{function.__name__}{arguments} is negative")
    return result


def test_a_function_runs_elsewhere_as_declared(cluster):
    """As what is called, as an argument, captured, and sent on from there; and its library, with all declarations."""
    function = hypot()
    library = ctypes.CDLL(LIBM)
    hypot(library)
    assert fc.remotecall_fetch(2, function, 3, 4) == 5.0
    assert fc.remotecall_fetch(2, lambda: function(3, 4)) == 5.0
    assert fc.remotecall_fetch(2, lambda: fc.remotecall_fetch(3, function, 3, 4)) == 5.0
    assert fc.remotecall_fetch(2, lambda: library.hypot(3, 4)) == 5.0
    assert fc.remotecall_fetch(2, lambda f: f, function)(3, 4) == 5.0


def test_in_a_compiled_function_it_is_compiled_on_each_process(cluster):
    """Its address is in the code, which so stays where it was made; the source goes, and the name."""
    function = hypot()

    @njit
    def twice(x):
        return 2 * function(x, x)

    here = twice(1.0)
    with assert_compiles(1):
        assert [fc.remotecall_fetch(2, twice, 1.0) for _ in range(2)] == [here, here]

    @njit
    def apply(f, x):
        return f(x, x)

    here = apply(function, 1.0)
    with assert_compiles(0):  # the address is an argument
        assert fc.remotecall_fetch(2, apply, function, 1.0) == here


def test_declarations_cross():
    """Types of arguments and of the value, checks of errors, errno, and the kind of the library."""
    function = hypot(ctypes.PyDLL(LIBM, use_errno=True))
    function.errcheck = refuse_negative
    crossed = cross(function)
    assert (crossed.argtypes, crossed.restype, crossed.__name__) == ([ctypes.c_double] * 2, ctypes.c_double, "hypot")
    assert crossed.errcheck.__name__ == "refuse_negative"
    library = crossed._objects["0"]
    assert type(library) is ctypes.PyDLL
    process = cross(ctypes.CDLL(None, use_errno=True))
    assert process.chdir(b"/not/there") == -1
    assert ctypes.get_errno() == errno.ENOENT


@pytest.mark.parametrize(
    "kind",
    [
        ctypes.c_double,
        ctypes.POINTER(ctypes.c_double),
        ctypes.POINTER(ctypes.POINTER(ctypes.c_char)),
        ctypes.c_double * 3,
        ctypes.POINTER(ctypes.c_int32) * 2,
        ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p),
        np.ctypeslib.ndpointer(np.float64, ndim=2, flags="C_CONTIGUOUS"),
        np.ctypeslib.ndpointer(np.int32, shape=(3,)),
    ],
)
def test_types_cross(kind):
    """Those that ctypes and NumPy make on demand are the same ones afterwards."""
    assert cross(kind) is kind


def test_a_library_that_is_not_there_is_an_error_that_names_it(tmp_path, monkeypatch):
    """It says that the file must be on the host. A relative path is meant from the directory of the sender."""
    library = ctypes.CDLL(LIBM)
    monkeypatch.setattr(library, "_name", "./libm.so")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SerializationError, match=re.escape(f"must be on each host: {tmp_path}/libm.so: cannot open")):
        cross(library)


def test_an_address_alone_does_not_travel():
    """A callback, or a function made of a number, is an error that says what to write."""
    callback = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)
    for each in (callback, type(callback)(ctypes.cast(callback, ctypes.c_void_p).value)):
        with pytest.raises(SerializationError, match="is an address, which means nothing in another process"):
            pickles.encode(lambda each=each: each())
