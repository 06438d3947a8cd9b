"""What a function takes along when it is pickled by value, and which functions and classes are."""

import builtins
import dis
import operator
import sys
import weakref
from collections.abc import Callable, Iterator, Set
from importlib.machinery import EXTENSION_SUFFIXES
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import cloudpickle

_SCALARS = (int, float, complex, bool, type(None), type(...), range)
MISSING = object()
_FEW = 64  # items of a container that are compared for each call
_SMALL = 4096  # bytes of an array that are

Look = tuple[Any, Any, Any]  # how to look, at what, and what was there: a value, or a weak reference to it


class Used:
    """What one function used when it was pickled, so that a change is noticed.

    It keeps nothing alive but what is small and can never change, not even the function.
    """

    __slots__ = ("_code", "_counts", "_function", "_snapshots", "_strong", "_weak")

    def __init__(self, function: FunctionType) -> None:
        self._function = weakref.ref(function)
        self._code = function.__code__
        self._counts = _counts(function)
        self._strong: list[Look] = []
        self._weak: list[Look] = []
        self._snapshots: list[tuple[Any, Any, _Snapshot]] = []

    def add(self, look: Callable[[FunctionType, Any], Any], what: Any, value: Any, fixed: bool) -> None:
        """Remember what was there."""
        if fixed:
            self._strong.append((look, what, value))
        else:
            self._weak.append((look, what, weakref.ref(value)))

    def add_snapshot(self, look: Callable[[FunctionType, Any], Any], what: Any, snapshot: "_Snapshot") -> None:
        """Remember what was in something that was there."""
        self._snapshots.append((look, what, snapshot))

    def is_current(self) -> bool:
        """Whether the function still uses the same."""
        function = self._function()
        if function is None or function.__code__ is not self._code or _counts(function) != self._counts:
            return False
        for look, what, value in self._strong:
            if look(function, what) is not value:
                return False
        for look, what, reference in self._weak:
            value = reference()
            if value is None or look(function, what) is not value:
                return False
        return not self._snapshots or all(each.is_of(look(function, what)) for look, what, each in self._snapshots)


class _Snapshot:
    """What was in a container of a few fixed values, or in a small array of numbers."""

    __slots__ = ("_container", "_content")

    def __init__(self, container: Any, content: tuple[Any, ...] | bytes) -> None:
        self._container = id(container)  # two that are alike are not the same if the function changes one of them
        self._content = content

    def is_of(self, value: Any) -> bool:
        """Whether a value is the one of which this was made, unchanged."""
        if id(value) != self._container:
            return False
        content, now = self._content, _content_of(value)
        if type(content) is bytes:
            return now == content
        return type(now) is tuple and len(now) == len(content) and all(map(operator.is_, now, content))


def _take_snapshot(value: Any) -> _Snapshot | None:
    """Return a snapshot of what can change and be compared soon, None of anything else."""
    content = _content_of(value)
    if content is None or (type(content) is tuple and not all(map(_is_fixed, content))):
        return None
    return _Snapshot(value, content)


def _content_of(value: Any) -> tuple[Any, ...] | bytes | None:
    kind = type(value)
    if kind is list or kind is set:
        return tuple(value) if len(value) <= _FEW else None
    if kind is dict:
        return (*value, *value.values()) if len(value) <= _FEW else None
    numpy = sys.modules.get("numpy")
    if numpy is not None and kind is numpy.ndarray and value.nbytes <= _SMALL and value.dtype.kind in "biufc":
        data: bytes = value.tobytes()
        return f"{value.dtype.str} {value.shape} ".encode() + data
    return None


def _counts(function: FunctionType) -> tuple[int, int, int]:
    """Return how many defaults, keyword defaults and attributes a function has."""
    defaults, named = function.__defaults__, function.__kwdefaults__
    return len(defaults) if defaults else 0, len(named) if named else 0, len(function.__dict__)


def _global(function: FunctionType, name: str) -> Any:
    return function.__globals__.get(name, MISSING)


def _cell(function: FunctionType, index: int) -> Any:
    assert function.__closure__ is not None
    try:
        return function.__closure__[index].cell_contents
    except ValueError:
        return MISSING


def _default(function: FunctionType, index: int) -> Any:
    return function.__defaults__[index] if function.__defaults__ else MISSING


def _named_default(function: FunctionType, name: str) -> Any:
    return function.__kwdefaults__.get(name, MISSING) if function.__kwdefaults__ else MISSING


def _attribute(function: FunctionType, name: str) -> Any:
    return function.__dict__.get(name, MISSING)


class Uses:
    """Everything that a function pickled by value takes along, found by walking its code."""

    def __init__(self, function: FunctionType) -> None:
        self.used: list[Used] = []  # by each function that is reached
        self.volatile = False  # something may change unnoticed
        self.mutable = False  # a call may change something for the next
        self.unresolved_in: list[dict[str, Any]] = []  # namespaces that lack a name
        self.captured: dict[str, Any] = {}
        self._seen: list[FunctionType] = []
        self._walk(function)

    def _walk(self, function: FunctionType) -> None:
        if any(function is each for each in self._seen):
            return
        self._seen.append(function)
        used = Used(function)
        self.used.append(used)
        code = function.__code__
        first = code.co_argcount - len(function.__defaults__ or ())
        for index in range(len(function.__defaults__ or ())):
            self._note(function, used, _default, index, code.co_varnames[first + index])
        for name in function.__kwdefaults__ or ():
            self._note(function, used, _named_default, name, name)
        for name in function.__dict__:
            self._note(function, used, _attribute, name, name)
        for index, name in enumerate(code.co_freevars):
            self._note(function, used, _cell, index, name)
        for name, stored in global_names(code):
            self.mutable |= stored
            if name not in function.__globals__ and not hasattr(builtins, name):
                self.unresolved_in.append(function.__globals__)
            self._note(function, used, _global, name, name)

    def _note(self, function: FunctionType, used: Used, look: Any, what: Any, name: str) -> None:
        """Remember one thing that is used; what can change unnoticed is volatile."""
        value = look(function, what)
        if value is MISSING or _is_fixed(value):
            used.add(look, what, value, True)
            return
        self.captured[name] = value
        plain = getattr(value, "py_func", value)
        if type(plain) is FunctionType:
            self._walk(plain)
        elif not is_constant_array(value):
            self.mutable = True
            snapshot = _take_snapshot(value)
            if snapshot is not None:
                used.add_snapshot(look, what, snapshot)
            else:
                self.volatile = True
            return
        used.add(look, what, value, False)


def _is_fixed(value: Any) -> bool:
    """Whether a value is small and can never change, so that its identity stands for it."""
    if isinstance(value, _SCALARS):
        return type(value) in _SCALARS
    if type(value) in (str, bytes):
        return len(value) <= 4096
    if type(value) in (tuple, frozenset):
        return len(value) <= 256 and all(_is_fixed(each) for each in value)
    if type(value) is ModuleType:
        return sys.modules.get(value.__name__) is value and not goes_by_value(value.__name__)
    return is_importable(value)


def is_importable(value: Any) -> bool:
    """Whether another process gets this function or class by importing its module."""
    if isinstance(value, (FunctionType, BuiltinFunctionType, type)):
        module_name = getattr(value, "__module__", None) or "builtins"
    elif is_ufunc(value):
        module_name = home_of(value)
    elif isinstance(value, _METHODS):
        module_name = value.__objclass__.__module__
    elif _is_its_name(value):
        module_name = value.__module__
    else:
        return False
    if module_name == "__main__" or getattr(value, "__self__", None).__class__ not in (type(None), ModuleType):
        return False
    found: Any = sys.modules.get(module_name)
    for name in getattr(value, "__qualname__", getattr(value, "__name__", "")).split("."):
        found = getattr(found, name, None)
    return found is value and not goes_by_value(module_name)


_METHODS = (MethodDescriptorType, WrapperDescriptorType)  # of types written in C


def _is_its_name(value: Any) -> bool:
    """Whether an object is pickled as its name, such as functions of NumPy's and what ``functools.cache`` returns."""
    if not callable(value) or hasattr(value, "py_func") or type(getattr(value, "__qualname__", None)) is not str:
        return False
    try:
        return isinstance(value.__reduce_ex__(4), str)
    except Exception:
        return False


def is_ufunc(value: Any) -> bool:
    """Whether this is one of NumPy's universal functions."""
    return type(value).__name__ == "ufunc"


_homes: dict[Any, str] = {}


def home_of(ufunc: Any) -> str:
    """Return the module where a ufunc is to be found, which it does not know itself; "builtins" if there is none."""
    if ufunc not in _homes:
        name, modules = ufunc.__name__, list(sys.modules.items())
        found = [each for each, module in modules if getattr(module, "__dict__", {}).get(name) is ufunc]
        if not found:
            return "builtins"
        _homes[ufunc] = min(found, key=_strangeness)
    return _homes[ufunc]


def _strangeness(module_name: str) -> tuple[bool, bool]:
    """Return what is least for the module that others have a ufunc from: NumPy, or the extension that made it."""
    path = getattr(sys.modules[module_name], "__file__", None) or ""
    return module_name != "numpy", not path.endswith(tuple(EXTENSION_SUFFIXES))


_names_of_code: "weakref.WeakKeyDictionary[CodeType, list[tuple[str, bool]]]" = weakref.WeakKeyDictionary()


def global_names(code: CodeType) -> list[tuple[str, bool]]:
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


_from_master: set[str] = set()


def set_from_master(module_name: str) -> None:
    """Have what a module defines go by name although it cannot be found here: it came from the master."""
    _from_master.add(module_name)
    _by_value[module_name] = False


def is_from_master(module_name: str | None) -> bool:
    """Whether a module came from the master."""
    return module_name in _from_master


def forget_heirs(modules: Set[str]) -> None:
    """Have classes that come by value be made anew the next time if they derive from classes of these modules."""
    known = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID
    for identity, each in list(known.items()):
        if not modules.isdisjoint(base.__module__ for base in (*each.__mro__, *type(each).__mro__)):
            known.pop(identity, None)


def is_former(value: Any) -> bool:
    """Whether this is a class of the master's whose module is, or will be, imported anew: it goes by name still."""
    return (
        isinstance(value, type)
        and is_from_master(value.__module__)
        and "<locals>" not in value.__qualname__
        and not is_importable(value)
    )


def _can_be_found(top: str) -> bool:
    if top in sys.builtin_module_names:
        return True
    ours = "farcall."  # who would ask the master, or waits for one import
    finders = [getattr(each, "find_spec", None) for each in sys.meta_path if not type(each).__module__.startswith(ours)]
    try:
        return any(find is not None and find(top, None) is not None for find in finders)
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
