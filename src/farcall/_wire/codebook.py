"""What a peer already has: a function crosses a link once, then its number does.

A function that can be imported goes by name. Any other goes by value, with the globals and the captured
variables that it uses, and must be the one that the caller sees now. So for each function the book keeps what it
used, and compares on each call by identity, which is enough for what cannot change: numbers, strings, modules,
functions in the same way. Lists, dicts, sets and arrays of numbers are compared by what is in them while that is
little. A function that uses anything else (more of it, an object, a class of the program itself) is pickled for each
call, as is what is no function, such as a partial or a method; its digest decides whether it crosses again.

The book never keeps alive what a function captured: it holds what cannot change and is small, and weak references.
"""

import hashlib
import sys
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

from . import pickles
from .pickles import Payload
from .uses import Used, Uses, is_importable

INLINE = 16 * 1024  # a function that may change from call to call travels with the first up to this size
_MOST_FUNCTIONS = 4096
_MOST_RECENT = 256


class Shipment(NamedTuple):
    """How a function goes to a peer: under a number, with its pickle for a peer that does not have it yet.

    ``fresh``: unpickle it for each call. ``once``: forget it after this call.
    """

    number: int
    payload: Payload
    fresh: bool = False
    once: bool = False


class _Entry:
    """A function of the book."""

    __slots__ = ("function", "number", "used")

    def __init__(self, function: Callable[[], Any], used: list[Used]) -> None:
        self.function = function  # a weak reference, or returns what a module keeps anyway
        self.number = 0
        self.used = used  # empty for an importable function, which uses nothing of ours


class Codebook:
    """The functions of this process and their numbers. Any thread."""

    def __init__(self, limit: int, warning: int) -> None:
        self._limit = limit
        self._warning = warning
        self._entries: dict[int, _Entry] = {}  # by id of the function
        self._numbers: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # digest: number, size; oldest use first
        self._recent: OrderedDict[bytes, None] = OrderedDict()  # digests of contents that came once; oldest first
        self._next = 0
        self._size = 0
        self._lock = threading.RLock()  # reentrant: a finalizer may run inside
        self.forgotten: list[int] = []  # numbers that no peer needs any more
        self._warned: weakref.WeakSet[Any] = weakref.WeakSet()

    def number_of(self, function: Any) -> int:
        """Return the number of a function that is as it was when it got it; 0 if it must be examined."""
        entry = self._entries.get(id(function))
        if entry is None or entry.function() is not function:
            return 0
        for used in entry.used:
            if not used.is_current():
                return 0
        return entry.number

    def examine(self, function: Any) -> Shipment:
        """Pickle a function and decide how it goes."""
        if is_importable(function):
            return self._enter(function, [], pickles.encode(function))
        plain = getattr(function, "py_func", function)  # Numba's dispatchers stand for a plain function
        uses = Uses(plain) if type(plain) is FunctionType else None
        payload = pickles.encode(function)
        if uses is not None:
            self._warn_if_large(function, uses, payload)
        if payload.references or (uses is None and payload.size > INLINE):
            return self._once(payload)  # what it refers to, or an object has in it, is to stay nowhere after its call
        if uses is not None and not uses.volatile:
            return self._enter(function, uses.used, payload, fresh=uses.mutable)
        digest = _digest(payload)
        if payload.size <= INLINE and self._is_news(digest):
            return self._once(payload)
        return Shipment(self._number(digest, payload.size), payload, fresh=True)

    def _is_news(self, digest: bytes) -> bool:
        """Whether this content has not come lately. What changes from call to call is not worth to be kept."""
        with self._lock:
            if digest in self._numbers or digest in self._recent:
                return False
            self._recent[digest] = None
            if len(self._recent) > _MOST_RECENT:
                self._recent.popitem(last=False)
            return True

    def _once(self, payload: Payload) -> Shipment:
        with self._lock:
            self._next += 1
            return Shipment(self._next, payload, once=True)

    def _enter(self, function: Any, used: list[Used], payload: Payload, fresh: bool = False) -> Shipment:
        key = id(function)

        def forget(gone: Any) -> None:
            entry = self._entries.get(key)
            if entry is not None and entry.function is gone:
                del self._entries[key]

        reference: Callable[[], Any]
        try:
            reference = weakref.ref(function, forget)
        except TypeError:  # no weak references to this kind
            if not is_importable(function):
                return self._once(payload)
            reference = partial(_same, function)  # its module keeps it
        entry = _Entry(reference, used)
        entry.number = self._number(_digest(payload), payload.size)
        self._entries[key] = entry
        return Shipment(entry.number, payload, fresh)

    def _number(self, digest: bytes, size: int) -> int:
        """Return the number of a content, the same as before if it was seen before."""
        with self._lock:
            if digest in self._numbers:
                self._numbers.move_to_end(digest)
                return self._numbers[digest][0]
            self._next += 1
            self._numbers[digest] = self._next, size
            self._size += size
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

    def _warn_if_large(self, function: Any, uses: "Uses", payload: Payload) -> None:
        if payload.size <= self._warning or function in self._warned:
            return
        self._warned.add(function)
        name, size = _largest(uses.captured)
        warnings.warn(
            f"{getattr(function, '__qualname__', function)} captures {payload.size / 1e6:.0f} MB, most of it in "
            f"{name!r} ({size / 1e6:.0f} MB): it is pickled and compared on each call; pass it as an argument, or "
            f"define it on the workers with everywhere",
            stacklevel=_outside(),
        )


def _digest(payload: Payload) -> bytes:
    digest = hashlib.sha256(payload.body)
    for buffer in payload.buffers:
        digest.update(buffer.view)
    return digest.digest()


def _same(value: Any) -> Any:
    return value


def _outside() -> int:
    """Return the stack level of the first caller outside farcall."""
    level, frame = 1, sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("farcall."):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    return level


def _largest(captured: dict[str, Any]) -> tuple[str, int]:
    """Return the captured variable that takes the most bytes, and how many."""
    sizes = {}
    for name, value in captured.items():
        try:
            sizes[name] = pickles.encode(value).size
        except Exception:
            sizes[name] = 0
    return max(sizes.items(), key=lambda each: each[1], default=("its code", 0))
