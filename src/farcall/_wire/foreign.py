"""C functions of ctypes, their libraries and types, in messages: by name, because an address is of one process only.

A library is opened again where it arrives, under the name or path that it was opened with, and a function is looked
up in it; what was declared of functions (``argtypes``, ``restype``, ``errcheck``) goes along.
"""

import ctypes
import operator
import os
import sys
from _ctypes import CFuncPtr, _Pointer
from ctypes import CDLL
from typing import Any

from .uses import is_importable

_KINDS = frozenset({"ctypes", "_ctypes"})  # modules of the classes of libraries, functions and types
_CDECL = 1
_USE_ERRNO = 8

Declared = tuple[Any, Any, Any]  # argtypes, restype, errcheck


def is_foreign(value: object) -> bool:
    """Whether this is a library, function or type of ctypes."""
    return type(value).__module__ in _KINDS


def reduce_foreign(value: Any) -> Any:
    """Reduce what ``is_foreign`` for a pickle; NotImplemented leaves it to others. TypeError for an address alone."""
    if isinstance(value, CDLL):
        functions = {name: _declared(each) for name, each in vars(value).items() if isinstance(each, CFuncPtr)}
        return _open, (*_named(value), functions)
    if isinstance(value, CFuncPtr):
        library = (value._objects or {}).get("0")
        name = getattr(value, "__name__", None)
        if not isinstance(library, CDLL) or name is None:
            raise TypeError(
                "this C function is an address, which means nothing in another process: take it from its library by "
                "its name, ctypes.CDLL('library.so').name, or make it in a module, which every process imports"
            )
        return _find, (*_named(library), name, _declared(value))
    return _reduce_type(value) if isinstance(value, type) and not is_importable(value) else NotImplemented


def _named(library: CDLL) -> tuple[type[CDLL], str | None, bool]:
    """Return how to open a library in another process."""
    name = library._name
    if name is not None and os.sep in name:
        name = os.path.abspath(name)
    return type(library), name, bool(library._FuncPtr._flags_ & _USE_ERRNO)


def _declared(function: Any) -> Declared:
    return function.argtypes, function.restype, function.errcheck


def _open(kind: type[CDLL], name: str | None, use_errno: bool, functions: dict[str, Declared]) -> CDLL:
    try:
        library = kind(name, use_errno=use_errno)
    except OSError as error:
        raise OSError(f"a C library goes by its name and must be on each host: {error}") from None
    for each, (argtypes, restype, errcheck) in functions.items():
        function = getattr(library, each)
        function.argtypes, function.restype = argtypes, restype
        if errcheck is not None:
            function.errcheck = errcheck
    return library


def _find(kind: type[CDLL], name: str | None, use_errno: bool, function: str, declared: Declared) -> Any:
    return getattr(_open(kind, name, use_errno, {function: declared}), function)


def _reduce_type(kind: Any) -> Any:
    """Reduce a type that ctypes made on demand, or NumPy's ``ndpointer``."""
    if issubclass(kind, _Pointer):
        return ctypes.POINTER, (kind._type_,)
    if issubclass(kind, ctypes.Array):
        return operator.mul, (kind._type_, kind._length_)
    if issubclass(kind, CFuncPtr) and kind._flags_ == _CDECL:
        return ctypes.CFUNCTYPE, (kind._restype_, *kind._argtypes_)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, ctypes.c_void_p) and hasattr(kind, "_dtype_"):
        return numpy.ctypeslib.ndpointer, (kind._dtype_, kind._ndim_, kind._shape_, kind._flags_)
    return NotImplemented
