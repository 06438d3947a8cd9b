"""Generic functions of plum, in messages: each process has its own of each, and methods go from the one that made it.

A generic function is known everywhere by its *identity*, given where it is first sent. Its methods that others can
import come with their modules. Those of the program itself go by value with the function, and since they may be
defined again, or use something else than before, with a *version* of them all: where only an older one is known, they
are registered again, in the function that is there, so that whatever calls it sees them.
"""

import operator
import sys
import threading
import uuid
import weakref
from types import FunctionType
from typing import Any, NamedTuple

from .compiled.content import Content, content_of
from .pickles import Parcel, import_from_above
from .uses import goes_by_value

_Method = tuple[Any, tuple[Any, ...], Any, int]  # implementation, types, type of further arguments, precedence
_Seen = tuple[Content | Any, tuple[Any, ...], Any, int]  # the same with the content of the implementation


class _Sent(NamedTuple):
    """The methods of a function that go by value, pickled as long as they are the same, and what they dispatch to."""

    seen: list[_Seen]
    parcel: Parcel
    others: list[Any]


class _Process:
    """The generic functions of this process that were sent or have arrived: plum has one of each, as Numba does."""

    def __init__(self) -> None:
        self.identities: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self.functions: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()  # by identity
        self.versions: dict[str, int] = {}
        self.made: set[str] = set()  # identities that were given here
        self.sent: weakref.WeakKeyDictionary[Any, _Sent] = weakref.WeakKeyDictionary()
        self.others: list[Any] | None = None  # that were met in the methods that are being pickled
        self.lock = threading.RLock()


_here = _Process()


class _Description(NamedTuple):
    """How a process that has not met an identity finds its own function, or makes it."""

    place: tuple[str, str] | None  # module and name, if it can be imported
    is_default: bool  # of plum's own dispatcher, for which a name stands for a function
    module: str
    name: str
    text: str | None


class _State(NamedTuple):
    """What a function consists of; the parcel has its methods, and the class of which it is one itself."""

    identity: str
    version: int
    modules: list[str]
    parcel: Parcel
    others: list[Any]


def reduce_generic(function: Any) -> Any:
    """Reduce a generic function for a pickle. A name in the types of a method that means nothing yet is a NameError."""
    first = function.__wrapped__
    place, is_default = _place(function), _is_default(function)
    description = _Description(place, is_default, first.__module__, function.__qualname__, first.__doc__)
    methods, modules = [_signed(each) for each in function.methods], list[str]()
    methods.sort(key=lambda each: -len(each[1]))  # one with default arguments makes shorter ones: these come later
    if place is not None or is_default:
        modules = sorted({each[0].__module__ for each in methods if _is_of_module(each[0])})
        methods = [each for each in methods if not _is_of_module(each[0])]
    with _here.lock:
        identity = _here.identities.get(function)
        if identity is None:
            identity = uuid.uuid4().hex
            _enter(identity, function)
            _here.made.add(identity)
        if _here.others is not None:  # in a method of another: it goes beside that, lest two go round in circles
            _here.others.append(function)
            return _find, (identity, description)
        sent = _pack(function, methods, identity)
        state = _State(identity, _here.versions[identity], modules, sent.parcel, sent.others)
        return _find, (identity, description), state, None, None, _update


def _pack(function: Any, methods: list[_Method], identity: str) -> _Sent:
    """Pickle methods, unless they are those of the last time. The lock is held."""
    seen = [(_content(implementation), *signature) for implementation, *signature in methods]
    sent = _here.sent.get(function)
    if sent is not None and sent.seen == seen:
        return sent
    _here.others = []
    try:
        parcel = Parcel(([(*each, _annotations(each[0])) for each in methods], _owner(function)))
        others = [each for each in dict.fromkeys(_here.others) if each is not function]
    finally:
        _here.others = None
    sent = _here.sent[function] = _Sent(seen, parcel, others)
    if identity in _here.made:
        _here.versions[identity] += 1
    return sent


def _find(identity: str, description: _Description) -> Any:
    """Return the generic function of an identity as it is here, or a new one without methods."""
    if description.place is not None:
        import_from_above(description.place[0])  # not with the lock: that may take a while
    with _here.lock:
        known = _here.functions.get(identity)
        if description.place is not None:
            function = _named(*description.place)  # another one than before if the module was edited
        else:
            function = known if known is not None else _make(description)
        if function is not known:
            _enter(identity, function)
        return function


def _enter(identity: str, function: Any) -> None:
    _here.identities.setdefault(function, identity)
    _here.functions[identity] = function
    _here.versions[identity] = 0


def _make(description: _Description) -> Any:
    """Return the function that is here already under that name, unless it is another's; or else a new one."""
    import plum

    first = FunctionType(_nothing.__code__, {"__name__": description.module})
    first.__qualname__, first.__doc__ = description.name, description.text
    owner, _, first.__name__ = description.name.rpartition(".")
    if description.is_default:
        function: Any = plum.dispatch.abstract(first)
        if function not in _here.identities:
            return function
    is_in_class = owner and not owner.endswith("<locals>")
    return plum.Function(first, owner=owner if is_in_class else None)


def _nothing(*args: Any) -> None:
    """Stand for a method whose name is that of a generic function."""


def _update(function: Any, state: _State) -> None:
    """Register the methods that came, if they are newer than what is known."""
    from plum import Signature

    for each in state.modules:
        import_from_above(each)
    if _here.versions[state.identity] >= state.version:
        return
    methods, owner = state.parcel.open()
    with _here.lock:
        if _here.versions[state.identity] >= state.version:
            return
        _here.versions[state.identity] = state.version
        if owner is not None:
            function.__wrapped__.__globals__.setdefault(owner.__name__, owner)  # where plum looks for it
        for implementation, types, more, precedence, annotations in methods:
            implementation.__annotations__.update(annotations)
            function.register(implementation, Signature(*types, varargs=more, precedence=precedence))


def _named(module: str, name: str) -> Any:
    return operator.attrgetter(name)(sys.modules[module])


def _is_of_module(implementation: Any) -> bool:
    """Whether a method comes with its module, which others can import."""
    return not goes_by_value(implementation.__module__) and "<locals>" not in implementation.__qualname__


def _place(function: Any) -> tuple[str, str] | None:
    """Return where other processes import a function from, if they can."""
    module, name = function.__module__, function.__qualname__
    try:
        found = module in sys.modules and not goes_by_value(module) and _named(module, name) is function
    except AttributeError:
        return None
    return (module, name) if found else None


def _is_default(function: Any) -> bool:
    from plum import dispatch

    namespaces = (dispatch.functions, *dispatch.classes.values())
    return any(each.get(function.__name__) is function for each in namespaces)


def _owner(function: Any) -> Any:
    try:
        return function.owner
    except KeyError:  # a class that is not there yet, or is a local one
        return None


def _signed(method: Any) -> _Method:
    signature = method.signature
    return method.implementation, tuple(map(_resolved, signature.types)), signature.varargs, signature.precedence


def _annotations(implementation: Any) -> dict[str, Any]:
    """Return the annotations of a method that stand for classes by their names, which mean nothing elsewhere."""
    annotations = getattr(implementation, "__annotations__", {})
    return {name: _resolved(each) for name, each in annotations.items() if _resolved(each) is not each}


def _resolved(kind: Any) -> Any:
    """Return a type, or the one that it stands for, as Beartype has it for a class named in its own body."""
    return kind.__resolved_hint_beartype__ if type(kind).__name__ == "BeartypeForwardRefMetaclass" else kind


def _content(implementation: Any) -> Content | Any:
    plain = getattr(implementation, "py_func", implementation)
    return content_of(plain) if type(plain) is FunctionType else implementation
