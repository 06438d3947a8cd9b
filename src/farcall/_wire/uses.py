"""What a function takes along when it is pickled by value, and which functions and classes are."""

import builtins
import dis
import sys
import weakref
from collections.abc import Iterator
from importlib.machinery import FrozenImporter, PathFinder
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

_SCALARS = (int, float, complex, bool, type(None), type(...), range)
MISSING = object()


def look_up(place: Any, name: Any) -> Any:
    """Return what a name (in a namespace) or a cell (no name) or an attribute (a function and its name) holds now."""
    if type(place) is dict:
        return place.get(name, MISSING)
    if type(place) is CellType:
        try:
            return place.cell_contents
        except ValueError:
            return MISSING
    function = place()
    return getattr(function, name, MISSING) if function is not None else MISSING


class Uses:
    """Everything that a function pickled by value takes along, found by walking its code."""

    def __init__(self, function: FunctionType) -> None:
        self.strong: list[tuple[Any, Any, Any]] = []  # place, name, value
        self.weak: list[tuple[Any, Any, weakref.ref[Any]]] = []
        self.functions: list[FunctionType] = []
        self.volatile = False
        self.unresolved_in: list[dict[str, Any]] = []  # namespaces that lack a name
        self.captured: dict[str, Any] = {}
        self._walk(function)

    def _walk(self, function: FunctionType) -> None:
        if function in self.functions:
            return
        self.functions.append(function)
        attributes = weakref.ref(function)
        for name in ("__defaults__", "__kwdefaults__"):
            value = getattr(function, name)
            self.strong.append((attributes, name, value)) if value is None else self._note(attributes, name, value)
        for name, value in vars(function).items():
            self._note(attributes, name, value)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self._note(cell, name, look_up(cell, name))
        for name, stored in _global_names(function.__code__):
            self.volatile |= stored
            value = function.__globals__.get(name, MISSING)
            if value is MISSING and not hasattr(builtins, name):
                self.unresolved_in.append(function.__globals__)
            self._note(function.__globals__, name, value)

    def _note(self, place: Any, name: str, value: Any) -> None:
        """Remember one thing that is used, so that a change is noticed; what can change unnoticed is volatile."""
        if value is MISSING or _is_fixed(value):
            self.strong.append((place, name, value))
            return
        self.captured[name] = value
        plain = getattr(value, "py_func", value)
        if type(plain) is FunctionType:
            self._walk(plain)
        elif not is_constant_array(value):
            self.volatile = True
            return
        self.weak.append((place, name, weakref.ref(value)))


def _is_fixed(value: Any) -> bool:
    """Whether a value is small and can never change, so that its identity stands for it."""
    if isinstance(value, _SCALARS):
        return type(value) in _SCALARS
    if type(value) in (str, bytes):
        return len(value) <= 4096
    if type(value) in (tuple, frozenset):
        return len(value) <= 256 and all(_is_fixed(each) for each in value)
    return (type(value) is ModuleType and value.__name__ in sys.modules) or is_importable(value)


def is_importable(value: Any) -> bool:
    """Whether another process gets this function or class by importing its module."""
    if not isinstance(value, (FunctionType, BuiltinFunctionType, type)) and type(value).__name__ != "ufunc":
        return False
    module_name = getattr(value, "__module__", None) or "builtins"
    if module_name == "__main__" or getattr(value, "__self__", None).__class__ not in (type(None), ModuleType):
        return False
    found: Any = sys.modules.get(module_name)
    for name in getattr(value, "__qualname__", getattr(value, "__name__", "")).split("."):
        found = getattr(found, name, None)
    return found is value and not goes_by_value(module_name)


_names_of_code: "weakref.WeakKeyDictionary[CodeType, list[tuple[str, bool]]]" = weakref.WeakKeyDictionary()


def _global_names(code: CodeType) -> list[tuple[str, bool]]:
    """Return the global names that code uses, inner functions included, and whether it assigns to them."""
    known = _names_of_code.get(code)
    if known is None:
        known = _names_of_code[code] = list(dict(sorted(_find_global_names(code))).items())
    return known


def _find_global_names(code: CodeType) -> Iterator[tuple[str, bool]]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"):
            yield instruction.argval, instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _find_global_names(constant)


_by_value: dict[str, bool] = {"__main__": True}  # by module; what Python can find stays findable


def goes_by_value(module_name: str) -> bool:
    """Whether what a module defines must be pickled by value, because no worker could import the module.

    Such are ``__main__``, modules made by hand, and the test modules of ``pytest --import-mode=importlib``.
    """
    known = _by_value.get(module_name)
    if known is not None:
        return known
    module = sys.modules.get(module_name)
    result = module is not None and not _can_be_found(module_name.partition(".")[0])
    _by_value[module_name] = result
    if result:
        cloudpickle.register_pickle_by_value(module)
    return result


def _can_be_found(top: str) -> bool:
    if top in sys.builtin_module_names:
        return True
    try:
        return any(finder.find_spec(top) is not None for finder in (PathFinder, FrozenImporter))
    except (ImportError, ValueError):
        return True


def is_constant_array(array: Any) -> bool:
    """Whether this is a NumPy array whose memory is read-only, and not a view of something writable.

    Such an array is taken at its word: it is not looked at again, so nobody may make it writable for a while.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None or type(array) is not numpy.ndarray or array.dtype.hasobject:
        return False
    base = array
    while type(base) is numpy.ndarray:
        if base.flags.writeable:
            return False
        base = base.base
    return base is None or type(base) is bytes
