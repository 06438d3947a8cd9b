"""Functions compiled by Numba, in messages: the source always, and with it the machine code that there is.

A dispatcher (what ``@njit`` makes) that has crossed a link, or is about to, has ``Specialisations`` in the place of
Numba's file cache. So Numba itself asks for each specialisation before it compiles it, and tells when it has one. What
is asked for here is looked up in three places: what came with the function, Numba's own file cache if the user wants
one, and the cluster, which makes one process compile while the others that need the same wait for its code.

A dispatcher is known everywhere by its *identity*, given where it was made, and the *content* of its function at the
moment (see ``content``): one that uses something else now is another dispatcher elsewhere, with no old code.
"""

import logging
import threading
import uuid
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from . import private
from .content import Content, content_of
from .counting import compilations
from .private import Target, Unshippable
from .private import switch_off as switch_off

_MOST_RECENT = 32  # dispatchers that arrived and stay for the next message although nobody holds them
_log = logging.getLogger("farcall")


class Key(NamedTuple):
    """The name of a specialisation in a cluster."""

    identity: str
    content: Content
    types: str
    target: Target


class Exchange(Protocol):
    """Where the processes of a cluster get each other's specialisations."""

    def get(self, key: Key, wait: bool) -> bytes | None:
        """Return a specialisation, or None: then compile it and ``put`` it. Waits for whoever compiles it, or not."""

    def put(self, key: Key, code: bytes | None) -> None:
        """Hand in a specialisation; None is the news that it cannot be had or sent."""


class _Process:
    """What is known in this process: like Numba's own tables, one for all nodes that live in it."""

    def __init__(self) -> None:
        self.find_exchange: Callable[[], Exchange | None] = lambda: None
        self.dispatchers: weakref.WeakValueDictionary[tuple[str, Content], Any] = weakref.WeakValueDictionary()
        self.recent: deque[Any] = deque(maxlen=_MOST_RECENT)
        self.made_from: weakref.WeakKeyDictionary[Any, dict[Any, Content]] = weakref.WeakKeyDictionary()
        self.lock = threading.Lock()


_here = _Process()


def set_exchange(find: Callable[[], Exchange | None]) -> None:
    """Say how the exchange of the running code is found."""
    _here.find_exchange = find


class Specialisations:
    """The machine code of one dispatcher, in the place of Numba's cache, whose interface this is.

    Numba calls it with its lock held, on whichever thread compiles.
    """

    def __init__(self, dispatcher: Any, identity: str, content: Content | None = None) -> None:
        self.identity = identity
        self.content = content  # of one that came from elsewhere: it does not change
        self.codes: dict[tuple[Content, str], bytes | None] = {}  # by types; None: it cannot be sent
        self.made_from: dict[Any, Content] = _here.made_from.pop(dispatcher, {})  # by types: what Numba holds
        self._dispatcher: Callable[[], Any] = weakref.ref(dispatcher)
        self._inner = private.cache_of(dispatcher)  # Numba's file cache, or nothing
        self._wanted: dict[Any, Key] = {}  # what is being compiled now
        private.refuse_missing_symbols(dispatcher)

    def __repr__(self) -> str:
        return f"<Specialisations of {self._dispatcher()}: {len(self.codes)}>"

    def content_now(self) -> Content:
        """Return the content of the function; code of an earlier one is forgotten."""
        if self.content is not None:
            return self.content
        dispatcher = self._dispatcher()
        content = content_of(dispatcher.py_func, dispatcher.targetoptions)
        if any(each != content for each, _ in list(self.codes)):
            self.codes = {key: code for key, code in list(self.codes.items()) if key[0] == content}
        return content

    def export(self, content: Content) -> dict[str, bytes]:
        """Return the code of all specialisations of this content, by their types."""
        overloads = self._dispatcher().overloads
        missing = [types for types in list(overloads) if self._is_missing(types, content)]
        if missing:
            with private.compiling():
                for types in missing:
                    self.codes[content, str(types)] = self._encode(overloads[types])
        return {types: code for (of, types), code in list(self.codes.items()) if of == content and code is not None}

    def _is_missing(self, types: Any, content: Content) -> bool:
        return self.made_from.get(types, content) == content and (content, str(types)) not in self.codes

    def add(self, content: Content, codes: dict[str, bytes]) -> None:
        """Take in code that was compiled elsewhere, for a target like this one."""
        for types, code in codes.items():
            self.codes.setdefault((content, types), code)

    # What Numba calls

    @property
    def cache_path(self) -> Any:
        return self._inner.cache_path

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return a specialisation that need not be compiled, or None."""
        types = private.types_of(signature)
        content = self.made_from[types] = self.content_now()
        found = self._decode(self.codes.get((content, str(types))), context, types)
        if found is None:
            found = self._inner.load_overload(signature, context)
        exchange = _here.find_exchange()
        if found is not None or exchange is None or not private.is_usable():
            return found
        key = Key(self.identity, content, str(types), private.current_target())
        code = exchange.get(key, wait=not compilations.is_under_way())
        found = self._decode(code, context, types)
        if found is None:
            self._wanted[types] = key
        else:
            self.codes[content, key.types] = code
        return found

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Take note of a specialisation that was compiled here, and let the others have it."""
        self._inner.save_overload(signature, compiled)
        key = self._wanted.pop(private.types_of(signature), None)
        exchange = _here.find_exchange()
        if key is not None and exchange is not None:
            code = self.codes[key.content, key.types] = self._encode(compiled)
            exchange.put(key, code)

    def end(self, types: Any) -> None:
        """Take note that Numba has ended to compile; what it has not compiled, others need not wait for."""
        key = self._wanted.get(types)
        exchange = _here.find_exchange()
        if key is not None and exchange is not None and types not in self._dispatcher().overloads:
            del self._wanted[types]
            exchange.put(key, None)

    def enable(self) -> None:
        self._inner.enable()

    def disable(self) -> None:
        self._inner.disable()

    def flush(self) -> None:
        """Forget everything, because the user has everything compiled afresh."""
        self.codes.clear()
        self._inner.flush()

    def _encode(self, compiled: Any) -> bytes | None:
        """Return a specialisation as bytes, None if it cannot be sent. Numba's lock is held."""
        try:
            return private.encode_specialisation(compiled)
        except Unshippable as error:
            name = getattr(self._dispatcher(), "__qualname__", "a function")
            _log.info("%s%s is compiled again wherever it is called: %s", name, compiled.signature.args, error)
        except Exception as error:
            private.give_up(error)
        return None

    def _decode(self, code: bytes | None, context: Any, types: Any) -> Any:
        """Return the specialisation of some bytes, None if there is none or it must not be used. Likewise."""
        if code is None or not private.is_usable():
            return None
        try:
            return private.decode_specialisation(code, context, types)
        except Unshippable as error:
            _log.info("%s%s is compiled here, again: %s", self._dispatcher(), types, error)
        except Exception as error:
            private.give_up(error)
        return None


def specialisations_of(dispatcher: Any) -> Specialisations:
    """Return the specialisations of a dispatcher, which from now on asks them before it compiles."""
    known = private.cache_of(dispatcher)
    if type(known) is Specialisations:
        return known
    with _here.lock:
        known = private.cache_of(dispatcher)
        if type(known) is not Specialisations:
            known = Specialisations(dispatcher, uuid.uuid4().hex)
            private.set_cache(dispatcher, known)
    return known


def reduce_dispatcher(dispatcher: Any) -> Any:
    """Reduce a dispatcher for a pickle; NotImplemented leaves it to Numba, which sends the source alone."""
    if not private.is_usable():
        return NotImplemented
    try:
        known = specialisations_of(dispatcher)
        content = known.content_now()
        codes = known.export(content)
        target = private.current_target() if codes else ()
        states = private.states_of(dispatcher)
    except Exception as error:
        private.give_up(error)
        return NotImplemented
    _here.dispatchers[known.identity, content] = dispatcher
    return _arrive, (known.identity, content, states, target, codes)


def _arrive(identity: str, content: Content, states: dict[str, Any], target: Target, codes: dict[str, bytes]) -> Any:
    """Return the dispatcher of a message: the one that is here already, or a new one, with the code that came."""
    private.detach(states["py_func"])
    dispatcher = _here.dispatchers.get((identity, content))
    if dispatcher is None:
        made = private.make_dispatcher(states)
        try:
            private.set_cache(made, Specialisations(made, identity, content))
        except Exception as error:
            private.give_up(error)
            return made
        dispatcher = _here.dispatchers.setdefault((identity, content), made)
        _here.recent.append(dispatcher)
    try:
        if codes and private.runs_here(target):
            private.cache_of(dispatcher).add(content, codes)
        private.compile_declared(dispatcher, states)
    except Exception as error:
        private.give_up(error)
    return dispatcher


def add_code(key: Key, code: bytes) -> None:
    """Add a specialisation that was compiled elsewhere to its dispatcher, if that is here."""
    dispatcher = _here.dispatchers.get((key.identity, key.content))
    if dispatcher is not None and private.runs_here(key.target):
        private.cache_of(dispatcher).add(key.content, {key.types: code})


def _note_content(dispatcher: Any, types: Any) -> None:
    """Remember what a function is when it is compiled; Numba's event, before."""
    if private.is_dispatcher(dispatcher) and type(private.cache_of(dispatcher)) is not Specialisations:
        content = content_of(dispatcher.py_func, dispatcher.targetoptions)
        _here.made_from.setdefault(dispatcher, {})[types] = content


def _note_end(dispatcher: Any, types: Any) -> None:
    """Let nobody wait for what could not be compiled; Numba's event, after."""
    if private.is_dispatcher(dispatcher):
        known = private.cache_of(dispatcher)
        if type(known) is Specialisations:
            known.end(types)


compilations.before.append(_note_content)
compilations.after.append(_note_end)
