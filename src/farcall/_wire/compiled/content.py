"""The content of a compiled function: a digest of everything that its machine code was made from.

Numba builds globals and captured variables into the code as they are when it compiles. So code belongs to a
content, and where a function has another content now, its old code does not travel with it.
"""

import hashlib
import inspect
import itertools
import sys
import weakref
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from ..uses import MISSING, global_names

_SCALARS = (int, float, complex, bool, str, bytes, type(None), type(...), range)

Content = bytes


def content_of(function: FunctionType, options: object = None) -> Content:
    """Return the digest of a function, of what it uses, and of the options it is compiled with."""
    digest = hashlib.sha256(repr(options).encode())
    for part in _function(function, {}):
        digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    return digest.digest()


def _function(function: FunctionType, seen: dict[int, int]) -> Iterator[Any]:
    """Yield what a function consists of; one that was met before is its number, so that recursion ends."""
    if id(function) in seen:
        yield "met", seen[id(function)]
        return
    seen[id(function)] = len(seen)
    yield from _code(function.__code__)
    for default in (*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())):
        yield from _value(default, seen)
    for cell in function.__closure__ or ():
        try:
            yield from _value(cell.cell_contents, seen)
        except ValueError:
            yield "empty"
    for name, _ in global_names(function.__code__):
        yield name
        yield from _value(function.__globals__.get(name, MISSING), seen)


def _code(code: CodeType) -> Iterator[Any]:
    yield code.co_code
    flags = code.co_flags & ~inspect.CO_OPTIMIZED  # which Numba takes away when a profiler sees the function called
    yield code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, flags
    yield code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            yield type(constant), constant


def _value(value: Any, seen: dict[int, int]) -> Iterator[Any]:
    plain = getattr(value, "py_func", value)
    numpy = sys.modules.get("numpy")
    if value is MISSING:
        yield "missing"
    elif type(plain) is FunctionType:
        yield "compiled" if plain is not value else "plain", repr(getattr(value, "targetoptions", None))
        yield from _function(plain, seen)
    elif type(value) in _SCALARS or (numpy is not None and isinstance(value, numpy.generic)):
        yield type(value), value
    elif type(value) in (tuple, list):
        yield type(value), len(value)
        for each in value:
            yield from _value(each, seen)
    elif isinstance(value, (ModuleType, BuiltinFunctionType)):
        yield type(value), getattr(value, "__module__", None), value.__name__
    elif numpy is not None and type(value) is numpy.ndarray and not value.dtype.hasobject:
        yield value.dtype.descr, value.shape, value.strides, value.flags.writeable
        yield value.tobytes()
    else:
        yield from _anything(value)


_numbers: "weakref.WeakKeyDictionary[Any, int]" = weakref.WeakKeyDictionary()
_next = itertools.count()


def _anything(value: Any) -> Iterator[Any]:
    """Yield what stands for a value: its pickle, or the number of what is no data: a class, a type of Numba's, a ufunc.

    The latter change their pickles as they are used.
    """
    try:
        if isinstance(value, type) or callable(value):
            yield _numbers.setdefault(value, next(_next))
        else:
            yield cloudpickle.dumps(value)
    except Exception:  # it has no weak references, or no pickle: it is only equal to itself
        yield type(value), id(value)
