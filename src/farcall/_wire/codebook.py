"""What a peer already has: a function crosses a link once, then its number does.

A function that can be imported goes by name. Any other goes by value, with the globals and the captured
variables that it uses, and must be the one that the caller sees now. So for each function the book keeps what it
used, and compares on each call by identity, which is enough for what cannot change: numbers, strings, modules,
functions in the same way. A function that uses anything else (a list, an array, an object, a class of the
program itself) is pickled for each call; if that is large, its digest decides whether it crosses again.

The book never keeps alive what a function captured: it holds what cannot change and is small, and weak references.
"""

import builtins
import dis
import hashlib
import sys
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from . import pickles
from .pickles import Payload

INLINE = 16 * 1024  # a function that changes from call to call travels with each call up to this size
_MOST_FUNCTIONS = 4096
_SCALARS = (int, float, complex, bool, type(None), type(...), range)
_MISSING = object()


class Shipment(NamedTuple):
    """How a function goes to a peer: under a number, with its pickle for a peer that does not have it yet.

    ``fresh``: unpickle it for each call. ``once``: forget it after this call.
    """

    number: int
    payload: Payload
    fresh: bool = False
    once: bool = False


class _Entry:
    """A function of the book: what it used, to be compared on each call."""

    __slots__ = ("_codes", "_strong", "_weak", "function", "number")

    def __init__(self, function: Any, uses: "_Uses | None") -> None:
        self.function = weakref.ref(function)
        self.number = 0
        self._strong = uses.strong if uses else []
        self._weak = uses.weak if uses else []
        self._codes = [(weakref.ref(each), each.__code__) for each in uses.functions] if uses else []

    def is_current(self) -> bool:
        """Whether the function still uses what it used when it was pickled."""
        for place, name, value in self._strong:
            if _look_up(place, name) is not value:
                return False
        for place, name, reference in self._weak:
            if _look_up(place, name) is not reference():
                return False
        return all(getattr(function(), "__code__", None) is code for function, code in self._codes)


def _look_up(place: Any, name: Any) -> Any:
    """Return what a name (in a namespace) or a cell (no name) or an attribute (a function and its name) holds now."""
    if type(place) is dict:
        return place.get(name, _MISSING)
    if type(place) is CellType:
        try:
            return place.cell_contents
        except ValueError:
            return _MISSING
    function = place()
    return getattr(function, name, _MISSING) if function is not None else _MISSING


class Codebook:
    """The functions of this process and their numbers. Any thread."""

    def __init__(self, limit: int, warning: int) -> None:
        self._limit = limit
        self._warning = warning
        self._entries: dict[int, _Entry] = {}  # by id of the function
        self._numbers: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # digest: number, size; oldest use first
        self._next = 0
        self._size = 0
        self._lock = threading.RLock()  # reentrant: a finalizer may run inside
        self.forgotten: list[int] = []  # numbers that no peer needs any more
        self._warned: weakref.WeakSet[Any] = weakref.WeakSet()

    def number_of(self, function: Any) -> int:
        """Return the number of a function that is as it was when it got it; 0 if it must be examined."""
        entry = self._entries.get(id(function))
        if entry is not None and entry.function() is function and entry.is_current():
            return entry.number
        return 0

    def examine(self, function: Any) -> Shipment:
        """Pickle a function and decide how it goes."""
        if is_importable(function):
            return self._enter(function, None, pickles.encode(function))
        plain = getattr(function, "py_func", function)  # Numba's dispatchers stand for a plain function
        if type(plain) is not FunctionType:
            return self._once(pickles.encode(function))
        uses = _Uses(plain)
        payload = pickles.encode_function(function, uses.unresolved_in)
        self._warn_if_large(function, uses, payload)
        if payload.references or (uses.volatile and payload.size <= INLINE):
            return self._once(payload)  # small, or the book must not keep what it refers to alive
        if uses.volatile:
            return Shipment(self._number(payload), payload, fresh=True)
        return self._enter(function, uses, payload)

    def _once(self, payload: Payload) -> Shipment:
        with self._lock:
            self._next += 1
            return Shipment(self._next, payload, once=True)

    def _enter(self, function: Any, uses: "_Uses | None", payload: Payload) -> Shipment:
        try:
            entry = _Entry(function, uses)
            key = id(function)
            weakref.finalize(function, self._entries.pop, key, None).atexit = False
        except TypeError:  # no weak references to this kind, no book-keeping
            return self._once(payload)
        entry.number = self._number(payload)
        self._entries[key] = entry
        return Shipment(entry.number, payload)

    def _number(self, payload: Payload) -> int:
        """Return the number of a content, the same as before if it was seen before."""
        digest = hashlib.sha256(payload.body)
        for buffer in payload.buffers:
            digest.update(buffer.view)
        key = digest.digest()
        with self._lock:
            if key in self._numbers:
                self._numbers.move_to_end(key)
                return self._numbers[key][0]
            self._next += 1
            self._numbers[key] = self._next, payload.size
            self._size += payload.size
            while len(self._numbers) > 1 and (self._size > self._limit or len(self._numbers) > _MOST_FUNCTIONS):
                self._forget_oldest()
            return self._next

    def _forget_oldest(self) -> None:
        _, (number, size) = self._numbers.popitem(last=False)
        self._size -= size
        self.forgotten.append(number)
        for key, entry in list(self._entries.items()):
            if entry.number == number:
                del self._entries[key]

    def _warn_if_large(self, function: Any, uses: "_Uses", payload: Payload) -> None:
        if payload.size <= self._warning or function in self._warned:
            return
        self._warned.add(function)
        name, size = uses.largest()
        warnings.warn(
            f"{getattr(function, '__qualname__', function)} captures {payload.size / 1e6:.0f} MB, most of it in "
            f"{name!r} ({size / 1e6:.0f} MB): it is pickled and compared on each call; pass it as an argument, or "
            f"define it on the workers with everywhere",
            stacklevel=_outside(),
        )


def _outside() -> int:
    """Return the stack level of the first caller outside farcall."""
    level, frame = 1, sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("farcall."):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    return level


class _Uses:
    """Everything that a function pickled by value takes along, found by walking its code."""

    def __init__(self, function: FunctionType) -> None:
        self.strong: list[tuple[Any, Any, Any]] = []  # place, name, value
        self.weak: list[tuple[Any, Any, weakref.ref[Any]]] = []
        self.functions: list[FunctionType] = []
        self.volatile = False
        self.unresolved_in: list[dict[str, Any]] = []  # namespaces that lack a name
        self._captured: dict[str, Any] = {}
        self._walk(function)

    def largest(self) -> tuple[str, int]:
        """Return the captured variable that takes the most bytes, and how many."""
        sizes = {}
        for name, value in self._captured.items():
            try:
                sizes[name] = pickles.encode(value).size
            except Exception:
                sizes[name] = 0
        return max(sizes.items(), key=lambda each: each[1], default=("its code", 0))

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
            self._note(cell, name, _look_up(cell, name))
        for name, stored in _global_names(function.__code__):
            self.volatile |= stored
            value = function.__globals__.get(name, _MISSING)
            if value is _MISSING and not hasattr(builtins, name):
                self.unresolved_in.append(function.__globals__)
            self._note(function.__globals__, name, value)

    def _note(self, place: Any, name: str, value: Any) -> None:
        """Remember one thing that is used, so that a change is noticed; what can change unnoticed is volatile."""
        if value is _MISSING or _is_fixed(value):
            self.strong.append((place, name, value))
            return
        self._captured[name] = value
        plain = getattr(value, "py_func", value)
        if type(plain) is FunctionType:
            self._walk(plain)
        elif not pickles.is_constant_array(value):
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
    return found is value and not pickles.goes_by_value(module_name)


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
