"""Values to bytes and back.

Plain values go through ``pickle`` alone; everything else through ``cloudpickle``, which sends by value what the
other side cannot import. Large buffers stay out of the pickle and are never copied here. References to values
of other processes leave the pickle too, as attachments, so that whoever carries the message knows of them
although he cannot read it.
"""

import copyreg
import importlib
import io
import operator
import pickle
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, ClassVar, NamedTuple

import cloudpickle

from .._errors import SerializationError
from .compiled.counting import when_imported
from .compiled.private import is_dispatcher
from .compiled.shipping import reduce_dispatcher
from .foreign import is_foreign, reduce_foreign
from .uses import Uses, goes_by_value, home_of, is_constant_array, is_former, is_importable, is_ufunc

PROTOCOL = 5
OUT_OF_BAND = 16 * 1024  # smaller buffers are cheaper inside the pickle
_NAMES_SOMETHING = pickle.STACK_GLOBAL  # without this byte nothing in a pickle is imported

_PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})
_FEW = 16  # items of a container that are looked at one by one

Reference = tuple[int, int, int]  # owner, creator, number


class Buffer(NamedTuple):
    """Memory that leaves the pickle. ``constant`` is its owner if nobody can write to it, else None."""

    view: memoryview
    by_index: bool = False
    constant: Any = None


class Payload(NamedTuple):
    """A pickled value, its large buffers and the references in it."""

    body: bytes
    buffers: tuple[Buffer, ...] = ()
    references: tuple[Reference, ...] = ()

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return len(self.body) + sum(len(each.view) for each in self.buffers)


_NO_ARGUMENTS = Payload(pickle.dumps((), PROTOCOL))
_NONE = Payload(pickle.dumps(None, PROTOCOL))


class TooLarge(Exception):
    """The value is larger than the limit that ``encode`` was given."""


class Unopened(BaseException):
    """What something in a pickle stands for cannot be had: ``decode`` raises ``error``, as it is."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class _Context(threading.local):
    """What the pickle under way in this thread has attached (encoding) or finds attached (decoding)."""

    references: list[Reference] | None = None
    indexed: list[Buffer] | None = None
    buffers: Sequence[Any] | None = None
    holds: Sequence[Any] | None = None


_context = _Context()


def attach_reference(owner: int, creator: int, number: int) -> int:
    """Attach a reference to the message being pickled and return its index, for ``attached_hold``."""
    if _context.references is None:
        raise SerializationError(
            "a reference to a remote value travels only as an argument, a result or a captured variable of a "
            "farcall call; to keep the value itself, pickle fetch(reference)"
        )
    _context.references.append((owner, creator, number))
    return len(_context.references) - 1


def attached_hold(index: int) -> Any:
    """Return the hold on a reference of the message being unpickled."""
    assert _context.holds is not None
    return _context.holds[index]


class Parcel:
    """A value that crosses without being opened on the way: pickled once, unpickled by whoever wants it.

    In between it can be sent on, as often as needed, by processes that lack its classes.
    """

    __slots__ = ("_content", "_payload")

    def __init__(self, value: object) -> None:
        self._payload: Payload | None = encode(value)
        self._content: tuple[Any, list[Any], list[Any], list[Any]] | None = None  # as it arrived

    def open(self, copy: Callable[[Any], Any] | None = None) -> Any:
        """Return the value. One that is to be opened again gives no memory away: ``copy`` copies a buffer."""
        assert self._content is not None
        body, buffers, indexed, holds = self._content
        if copy is not None:
            buffers, indexed = [copy(each) for each in buffers], [copy(each) for each in indexed]
        return decode(body, buffers, indexed, holds)

    def __reduce__(self) -> Any:
        payload = self._payload if self._payload is not None else self._pack_again()
        references, buffers = _context.references, _context.indexed
        assert references is not None
        assert buffers is not None
        first = len(buffers), len(references)
        buffers += [Buffer(each.view, True, each.constant) for each in payload.buffers]
        references += payload.references
        kinds = bytes(each.by_index for each in payload.buffers)
        return _arrived, (payload.body, kinds, len(payload.references), first)

    def _pack_again(self) -> Payload:
        assert self._content is not None
        body, buffers, indexed, holds = self._content
        if None in buffers or None in indexed:
            raise SerializationError("its shared memory is gone")
        views = [Buffer(memoryview(each)) for each in buffers] + [Buffer(memoryview(each), True) for each in indexed]
        return Payload(body, tuple(views), tuple((each.owner, each.creator, each.number) for each in holds))


def _arrived(body: bytes, kinds: bytes, references: int, first: tuple[int, int]) -> Parcel:
    memory = (_context.buffers or ())[first[0] : first[0] + len(kinds)]
    parcel = Parcel.__new__(Parcel)
    parcel._payload = None
    parcel._content = (
        body,
        [each for each, by_index in zip(memory, kinds, strict=True) if not by_index],
        [each for each, by_index in zip(memory, kinds, strict=True) if by_index],
        list((_context.holds or ())[first[1] : first[1] + references]),
    )
    return parcel


def is_plain(value: object) -> bool:
    """Whether ``pickle`` alone can do it: nothing in it could be a function or a class of the user's."""
    return type(value) in _PLAIN


class _Numbers:
    """The types of NumPy's numbers and arrays, once it has been imported."""

    scalars: frozenset[type] = frozenset()
    array: Any = None


def _note_numpy(numpy: Any) -> None:
    _Numbers.scalars = frozenset({numpy.dtype(each).type for each in "?bhilqBHILQefdFD"})
    _Numbers.array = numpy.ndarray


when_imported("numpy", _note_numpy)


def _is_data(value: Any, levels: int = 2) -> bool:
    """Whether it is numbers, text, arrays of numbers that may be written, or containers of few of these.

    ``pickle`` alone does that, much more quickly than it asks us about each type that a pickle names.
    """
    kind = type(value)
    if kind in _PLAIN or kind in _Numbers.scalars:
        return True
    if kind is _Numbers.array:
        dtype = value.dtype
        return dtype.kind in "biufc" and dtype.metadata is None and value.flags.writeable
    if kind is dict:
        value = (*value, *value.values())
    elif kind is not tuple and kind is not list:
        return False
    if not levels or len(value) > _FEW:
        return False
    return all(_is_data(each, levels - 1) for each in value)


def encode(value: object, limit: int | None = None) -> Payload:
    """Return the pickle of a value; TooLarge if it has more than ``limit`` bytes.

    What cannot be pickled is a SerializationError that names it.
    """
    if value is None:
        return _NONE
    if type(value) in _PLAIN:
        return _check_size(Payload(pickle.dumps(value, PROTOCOL)), limit)
    if _is_data(value):
        buffers: list[Buffer] = []
        body = pickle.dumps(value, PROTOCOL, buffer_callback=_keep_large(buffers, limit))
        return _check_size(Payload(body, tuple(buffers)), limit)
    outer = _context.references, _context.indexed
    _context.references, _context.indexed = [], []
    try:
        return _encode_any(value, limit)
    except (TooLarge, SerializationError):
        raise
    except Exception as error:
        raise SerializationError(f"{_describe(value)} cannot be pickled: {type(error).__name__}: {error}") from error
    except SystemExit as error:
        raise SerializationError(f"{_describe(value)} cannot be pickled: it raised SystemExit({error})") from error
    finally:
        _context.references, _context.indexed = outer


class MainNames(dict[str, Any]):
    """The globals of a function whose sender lacked a name: it is looked up in ``__main__`` where it runs."""

    find: Callable[[], dict[str, Any]] = staticmethod(lambda: sys.modules["__main__"].__dict__)

    def __missing__(self, name: str) -> Any:
        return MainNames.find()[name]


def set_main(find: Callable[[], dict[str, Any]]) -> None:
    """Say how ``__main__`` of the running code is found."""
    MainNames.find = staticmethod(find)


def encode_arguments(args: tuple[Any, ...]) -> Payload:
    """Return the pickle of positional arguments; the quickest way if they are all plain."""
    if not args:
        return _NO_ARGUMENTS
    for each in args:
        if type(each) not in _PLAIN:
            return encode(args)
    return Payload(pickle.dumps(args, PROTOCOL))


def _encode_any(value: object, limit: int | None) -> Payload:
    buffers: list[Buffer] = []
    file = io.BytesIO() if limit is None else _Capped(limit)
    pickler = _Pickler(file, protocol=PROTOCOL, buffer_callback=_keep_large(buffers, limit))
    pickler.dump(value)
    assert _context.references is not None
    assert _context.indexed is not None
    payload = Payload(file.getvalue(), (*buffers, *_context.indexed), tuple(_context.references))
    return _check_size(payload, limit)


def _keep_large(buffers: list[Buffer], limit: int | None) -> Callable[[pickle.PickleBuffer], bool]:
    """Return what takes large buffers out of a pickle; TooLarge if they have more than ``limit`` bytes together."""
    total = 0

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        nonlocal total
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND:
            return True
        total += raw.nbytes
        if limit is not None and total > limit:
            raise TooLarge
        buffers.append(Buffer(raw))
        return False

    return keep_inside


def _check_size(payload: Payload, limit: int | None) -> Payload:
    if limit is not None and payload.size > limit:
        raise TooLarge
    return payload


class _Capped(io.BytesIO):
    """A file that refuses to grow past its limit, so that a large value is given up early."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._limit:
            raise TooLarge
        return super().write(data)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table: ClassVar[Any] = cloudpickle.Pickler.dispatch_table.new_child()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._registered = cloudpickle.list_registry_pickle_by_value()  # modules, by the user or by us

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is FunctionType or kind is type:
            if is_importable(obj) and not self._registered:
                return NotImplemented  # it goes by name: nobody needs to look once more
        elif kind is _Numbers.array:
            return NotImplemented if obj.flags.writeable or obj.dtype.hasobject else _reduce_read_only(obj)
        elif is_dispatcher(obj):
            return reduce_dispatcher(obj)
        elif is_foreign(obj):
            reduced = reduce_foreign(obj)
            return reduced if reduced is not NotImplemented else super().reducer_override(obj)
        elif kind is ModuleType:
            if not goes_by_value(obj.__name__) and obj.__name__ in sys.modules:
                return import_from_above, (obj.__name__,)
        elif is_ufunc(obj) and is_importable(obj):
            return _import_named, (home_of(obj), obj.__name__)
        elif isinstance(obj, BaseException) and _is_enriched(kind):
            return obj.__reduce_ex__(PROTOCOL)
        if isinstance(obj, (type, FunctionType)):
            goes_by_value(obj.__module__)
            if is_former(obj):
                return _import_named, (obj.__module__, obj.__qualname__)
            if isinstance(obj, FunctionType) and id(obj.__globals__) not in self.globals_ref:
                self._seed_namespaces(obj)
        return super().reducer_override(obj)

    def _seed_namespaces(self, function: FunctionType) -> None:
        """Have names that are missing here be looked up where the function arrives."""
        for namespace in Uses(function).unresolved_in:
            if id(namespace) not in self.globals_ref:
                self.globals_ref[id(namespace)] = MainNames()  # cloudpickle fills in what the functions of it use


def import_from_above(name: str) -> ModuleType:
    """Import a module, its packages first, and return it.

    Python itself does not wait for a package that another thread is importing: the module runs with half of that, which
    often is an error in both.
    """
    parts = name.split(".")
    for count in range(1, len(parts)):
        importlib.import_module(".".join(parts[:count]))
    return importlib.import_module(name)


def _import_named(module: str, name: str) -> Any:
    return operator.attrgetter(name)(import_from_above(module))


def _is_enriched(kind: type[BaseException]) -> bool:
    """Whether tblib, which comes with Dask, has exceptions pickled with all that hangs on them, and some come apart."""
    return getattr(copyreg.dispatch_table.get(kind), "__module__", None) == "tblib.pickling_support"


def set_reducer(kind: type, reduce: Callable[[Any], Any]) -> None:
    """Have objects of exactly this type pickled in another way, by what ``__reduce__`` would return."""
    _Pickler.dispatch_table[kind] = reduce


def _send_generic_functions(plum: Any) -> None:
    from .generic import reduce_generic  # which pickles methods itself

    kind = getattr(plum, "Function", None)
    if kind is not None:  # else it is another module of that name
        set_reducer(kind, reduce_generic)


when_imported("plum", _send_generic_functions)


def _reduce_read_only(array: Any) -> Any:
    """Reduce an array that must not be written here and may be where it arrives: there it is a copy."""
    if array.nbytes < OUT_OF_BAND or not (array.flags.c_contiguous or array.flags.f_contiguous):
        return array.copy(order="K").__reduce_ex__(PROTOCOL)
    order = "C" if array.flags.c_contiguous else "F"
    flat = array.reshape(-1, order=order)  # a view; its memory is this array's
    assert _context.indexed is not None
    constant = array if is_constant_array(array) else None
    _context.indexed.append(Buffer(memoryview(flat.view("u1")), True, constant))
    return _rebuild_array, (len(_context.indexed) - 1, array.dtype, array.shape, order)


def _rebuild_array(index: int, dtype: Any, shape: tuple[int, ...], order: str) -> Any:
    import numpy

    assert _context.buffers is not None
    if _context.buffers[index] is None:
        raise ValueError("its shared memory is gone")
    array: Any = numpy.ndarray(shape, dtype, _context.buffers[index], order=order)  # type: ignore[arg-type]
    return array


class _Unpickler(pickle.Unpickler):
    """Imports what is needed so that threads of this process can do it at the same time."""

    def find_class(self, module: str, name: str) -> Any:
        if module not in sys.modules:
            import_from_above(module)
        return super().find_class(module, name)


def _load(body: Any, buffers: Sequence[Any] = ()) -> Any:
    if type(body) is bytes and _NAMES_SOMETHING not in body:
        return pickle.loads(body, buffers=buffers)
    return _Unpickler(io.BytesIO(body), buffers=buffers).load()


def decode(body: Any, buffers: Sequence[Any] = (), indexed: Sequence[Any] = (), holds: Sequence[Any] = ()) -> Any:
    """Return the value of a pickle. Whatever goes wrong, SystemExit included, is a SerializationError.

    Only what a value in it stands for has errors of its own, see ``Unopened``.
    """
    outer = _context.buffers, _context.holds
    _context.buffers, _context.holds = indexed, holds
    try:
        return _load(body, buffers)
    except Unopened as unopened:
        lacking = unopened.error  # raised below: here it would have what carried it in its context
    except (Exception, SystemExit) as error:
        raise SerializationError(f"it cannot be unpickled: {type(error).__name__}: {error}") from error
    finally:
        _context.buffers, _context.holds = outer
    raise lacking


def decode_plain(body: Any) -> Any:
    """Return the value of a pickle without attachments."""
    try:
        return _load(body)
    except (Exception, SystemExit) as error:
        raise SerializationError(f"it cannot be unpickled: {type(error).__name__}: {error}") from error


def _describe(value: object) -> str:
    """Return a short name of a value for an error message; never fails."""
    items: Iterable[object] = value if isinstance(value, tuple) and len(value) <= 3 else (value,)
    names = []
    for each in items:
        inner = each if isinstance(each, tuple) else (each,)
        names += [_type_name(part) for part in inner]
    return "a value among (" + ", ".join(names) + ")" if len(names) > 1 else "a value of type " + "".join(names)


def _type_name(value: object) -> str:
    if isinstance(value, (FunctionType, BuiltinFunctionType, type)):
        return value.__qualname__
    return type(value).__qualname__
