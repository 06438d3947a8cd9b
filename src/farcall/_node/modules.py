"""Modules that a worker lacks, and gets from the master when they are imported; see ``sources`` for the master's side.

A finder behind all others asks the master. It waits on the thread that imports, where the interpreter holds a lock of
all imports of the process; that is released meanwhile, for whoever must read the answer may be waiting for it.

News of modules that have changed at the master go from process to process, ahead of the next call on each link: so
whoever is called has heard what its caller has. Nothing happens at first: what runs goes on with what it has. The
next call that begins has the modules forgotten, with all that use them, and whoever needs them imports them anew.
"""

import _imp
import ast
import contextlib
import importlib
import linecache
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import decode_source, find_spec, resolve_name
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from .._errors import ProcessExited
from .._wire.messages import WANT_VALUE, encode_changed
from .._wire.uses import forget_heirs, set_from_master
from .callee import Callee
from .current import current_call, find_node, main_namespace, shielded
from .link import Link
from .prompt import await_outcome, post_promptly
from .reader import Reader
from .slots import Slot
from .sources import Answer, Refusal, Source, give, give_data

if TYPE_CHECKING:
    from .node import Node

# What a stack shows. It is only looked at when a module is missing, so that nothing has to be noted on other ways.
_READING = {Reader._drain.__code__, Reader._read_until.__code__}
_RUNNING = Callee.execute.__code__
_PROBING = find_spec.__code__


class Modules(MetaPathFinder):
    """What a node has from its master. Any thread."""

    def __init__(self, node: "Node") -> None:
        self.are_used = False  # there may be something to say to others before a call
        self.news: deque[list[str]] = deque()  # names of what has changed; the next call that begins sees to it
        self._node = node
        self._process = os.getpid()  # one that is forked from it has the connections, and must leave them alone
        self._told: list[bytes] = []  # all news so far, as messages
        self._heard: set[int] = set()  # their numbers
        self._telling = threading.Lock()
        self._loaders: dict[str, Loader] = {}
        self._missing: dict[str, Refusal | None] = {}  # what the master does not give
        self._forgotten: dict[str, ModuleType] = {}  # what something may still be bound to
        self._forgetting = threading.Lock()

    # Importing

    def begin(self) -> None:
        """Let this process import, in calls of this node, what the master has."""
        sys.meta_path.append(self)
        for other in _others(self):
            for loader in list(other._loaders.values()):
                loader.guard()

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Return where a module is at the master. What must be installed here is an error that says so."""
        if not self._may_ask() or not self._may_have(name):
            return None
        told, answer = len(self._told), self._ask(name)
        if isinstance(answer, Refusal) and not _is_probe():
            raise self._error(name, answer)
        if not isinstance(answer, Source):
            return None
        loader = Loader(self, name, answer, told)
        spec = ModuleSpec(name, loader, origin=answer.path, is_package=answer.is_package)
        spec.has_location = answer.text is not None
        if answer.is_package:  # no folder of this host: other finders must not look into one
            spec.submodule_search_locations = [f"process-1:{answer.path}"]
        return spec

    def invalidate_caches(self) -> None:
        """Ask again for what the master did not have."""
        self._missing.clear()

    def _may_ask(self) -> bool:
        """Whether the running code is of this node, and may wait. In a guest only calls are, not its host."""
        call, node = current_call.get(), self._node
        if os.getpid() != self._process or (call is None and node.main is not None):
            return False
        return find_node() is node and 1 in node.links and not node.closed and not _is_reading()

    def _may_have(self, name: str) -> bool:
        """Whether a module may come from the master: a package that is installed here is not mixed with another."""
        above = sys.modules.get(name.rpartition(".")[0])
        loader = _loader_of(above)
        if isinstance(loader, Loader):
            self.claim(loader)
            return True
        return above is None or getattr(above, "__file__", None) is None

    def _ask(self, name: str) -> Answer:
        if name in self._missing:
            return self._missing[name]
        told = len(self._told)
        try:
            answer: Answer = self.ask_master(give, name)
        except (ProcessExited, OSError):
            return None
        if not isinstance(answer, Source):
            self._missing[name] = answer
            if told != len(self._told):
                self._missing.pop(name, None)
        return answer

    def ask_master(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function on the master and return its value; others may import while this thread waits in a finder."""
        node, slot = self._node, Slot()
        with shielded():
            link, number = node.start(1, slot, function, args, {}, WANT_VALUE)
            try:
                with _others_import():
                    await_outcome(node, slot, link, None)
            except BaseException:
                node.cancel(link, number)
                raise
            return node.open_slot(slot)

    def _error(self, name: str, refusal: Refusal) -> ImportError:
        here = self._node.describe()
        if refusal.is_compiled:
            text = (
                f"{name!r} does not come from the master, where it is compiled ({refusal.what}): install it on {here}"
            )
            return ImportError(text, name=name)
        text = f"No module named {name!r} on {here}: the master has it installed ({refusal.what}), install it there too"
        return ModuleNotFoundError(text, name=name)

    def register(self, loader: "Loader") -> None:
        """Take note of a module that is about to run. What has changed since it came comes again."""
        name = loader.name
        set_from_master(name)
        self._loaders[name] = loader
        if _others(self):
            loader.guard()
        while loader.told != len(self._told):
            loader.told = len(self._told)
            answer = self._ask(name)
            if not isinstance(answer, Source):
                raise ModuleNotFoundError(f"No module named {name!r}: the master has it no more", name=name)
            loader.source = answer

    def claim(self, loader: "Loader") -> None:
        """Use a module that is in this process already: another master's is as good if it has the same text."""
        if self in loader.users or not self._may_ask():
            return
        name = loader.name
        answer = self._ask(name)
        if not isinstance(answer, Source) or answer.text != loader.source.text:
            where = f"{loader.source.path} of another master is imported in this process under that name"
            raise ImportError(f"{name!r}: {where}; name yours otherwise, or use another worker", name=name)
        loader.users.add(self)
        self._loaders[name] = loader

    # News

    def announce(self, changed: list[str]) -> None:
        """Have all processes know that modules have changed here, or exist now; the master, one thread at a time."""
        number = len(self._told) + 1
        self._heard.add(number)
        self._told.append(encode_changed(number, changed))

    def tell(self, number: int, changed: list[str]) -> None:
        """Take note that modules have changed at the master, or exist now; the thread that reads."""
        if number in self._heard:
            return
        self._heard.add(number)
        self._told.append(encode_changed(number, changed))
        for name in changed:
            self._missing.pop(name, None)
        self.news.append(changed)
        self.are_used = True

    def precede(self, link: Link) -> None:
        """Tell a peer what it has not heard yet, before a call is sent to it. Does not wait."""
        if self._node.pid == 1:
            self._node.sources.look()
        if link.heard == len(self._told):
            return
        with self._telling:
            news = self._told[link.heard :]
            for frame in news:
                post_promptly(self._node, link, frame)
            link.known = set()  # functions that the peer has imported must be imported anew
            link.heard += len(news)

    # Forgetting

    def catch_up(self) -> None:
        """Forget what has changed, and what uses it; in a call that begins, before anything of it is unpickled."""
        with self._forgetting:
            while self.news:
                count = len(self.news)
                changed = {name for names in list(self.news)[:count] for name in names}
                gone = affected(changed, {name: each.uses() for name, each in list(self._loaders.items())})
                for name in gone:
                    self._forget(name)
                forget_heirs(gone)
                self._bind_anew()
                self._forgotten.clear()
                for _ in range(count):
                    self.news.popleft()

    def _forget(self, name: str) -> None:
        loader, module = self._loaders.pop(name), sys.modules.get(name)
        if module is None or _loader_of(module) not in (loader, None):
            return
        with contextlib.suppress(Exception):
            importlib.import_module(name)  # which waits while another thread imports it
        sys.modules.pop(name, None)
        self._forgotten[name] = module

    def _bind_anew(self) -> None:
        """Import again what is forgotten and still bound in ``__main__``, or in packages that are not forgotten."""
        main = main_namespace()
        functions = [each for each in list(main.values()) if isinstance(each, FunctionType)]
        namespaces = [main, *(each.__globals__ for each in functions)]
        packages = {name.rpartition(".")[0] for name in self._forgotten} & self._loaders.keys()
        namespaces += [vars(sys.modules[each]) for each in packages if each in sys.modules]
        for namespace in namespaces:
            for name, value in list(namespace.items()):
                new = self._find_anew(value)
                if new is not value:
                    namespace[name] = new

    def _find_anew(self, value: Any) -> Any:
        """Return what a module, class or function is now; whatever is not forgotten is as it was."""
        if isinstance(value, _Unavailable):
            return value.find()
        if not isinstance(value, (ModuleType, FunctionType, type)):
            return value
        name: str = value.__name__
        if isinstance(value, ModuleType):
            return _Unavailable(name, "").find() if self._forgotten.get(name) is value else value
        old = self._forgotten.get(value.__module__)
        if not isinstance(old, ModuleType) or vars(old).get(name) is not value:
            return value
        return _Unavailable(value.__module__, name).find()

    def close(self) -> None:
        """Import nothing more, and leave nothing in a process that goes on."""
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)
        for name, loader in list(self._loaders.items()):
            loader.users.discard(self)
            if not loader.users and _loader_of(sys.modules.get(name)) is loader:
                del sys.modules[name]


class Loader(InspectLoader):
    """Runs a module of the master's."""

    def __init__(self, modules: Modules, name: str, source: Source, told: int) -> None:
        self.modules = modules
        self.name = name
        self.source = source
        self.told = told
        self.users = weakref.WeakSet([modules])  # and other nodes of this process
        self._uses: Set[str] | None = None

    def is_package(self, fullname: str) -> bool:
        return self.source.is_package

    def get_source(self, fullname: str) -> str:
        return decode_source(self.source.text or b"")

    def get_code(self, fullname: str) -> CodeType:
        """Return the code as it is now at the master, and let tracebacks know its lines."""
        self.modules.register(self)
        text, path = self.source.text, self.source.path
        code = compile(text or b"", path, "exec", dont_inherit=True)
        if text is not None:
            lines = decode_source(text).splitlines(keepends=True)
            linecache.cache[path] = len(text), None, lines, path
        return code

    def uses(self) -> Set[str]:
        """Return the names of what this module imports; of one that cannot be run, nothing."""
        if self._uses is None:
            try:
                tree = ast.parse(self.source.text or b"")
            except (SyntaxError, ValueError):
                tree = ast.Module([], [])
            self._uses = imported_names(tree, self.name, self.source.is_package)
        return self._uses

    def get_data(self, path: str) -> bytes:
        """Return a file of this package."""
        inside = os.path.relpath(path, os.path.dirname(self.source.path))
        found = self.modules.ask_master(give_data, self.name, inside)
        if not isinstance(found, bytes):
            raise FileNotFoundError(f"{path} is no file of the package {self.name} at the master")
        return found

    def get_resource_reader(self, fullname: str) -> Any:
        """Return what reads the data of this package."""
        from .resources import Reader, Resource

        return Reader(Resource(lambda package, path: self.modules.ask_master(give_data, package, path), fullname))

    def guard(self) -> None:
        """See to it that no node of this process uses this module as its own that has another."""
        module = sys.modules.get(self.name)
        if type(module) is ModuleType and _loader_of(module) is self:
            module.__class__ = _Guarded


class _Guarded(ModuleType):
    """A module of one master's in a process that several masters use."""

    def __getattribute__(self, name: str) -> Any:
        call = current_call.get()
        if call is not None and not name.startswith("__"):
            call.node.modules.claim(_loader_of(self))
        return super().__getattribute__(name)


class _Unavailable:
    """What stays bound where a module, or something in it, could not be imported anew: using it is an error."""

    def __init__(self, module: str, name: str) -> None:
        self._place = module, name
        self._error: BaseException = ImportError()

    def find(self) -> Any:
        """Return what this stands for if it can be had now, else this."""
        module, name = self._place
        try:
            found = importlib.import_module(module)
            return getattr(found, name) if name else found
        except (Exception, SystemExit) as error:
            self._error = error
            return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise self._error


def affected(changed: Iterable[str], uses: Mapping[str, Set[str]]) -> set[str]:
    """Return which modules have changed or use what has. ``uses`` says for each what it imports."""
    gone = set(changed)
    while more := {name for name, used in uses.items() if name not in gone and not gone.isdisjoint(used)}:
        gone |= more
    return gone & uses.keys()


def imported_names(tree: ast.AST, name: str, is_package: bool) -> Set[str]:
    """Return what a module may import, wherever in it: names of modules, and of packages that these are in.

    Among them are names that are no modules, of ``from package import name``.
    """
    package = name if is_package else name.rpartition(".")[0]
    found = {package}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            with contextlib.suppress(ImportError):  # it leads out of the package
                above = resolve_name("." * node.level + (node.module or ""), package)
                found.update(f"{above}.{each.name}" for each in node.names)
    return {
        ".".join(parts[:count]) for parts in (each.split(".") for each in found) for count in range(1, len(parts) + 1)
    }


def _loader_of(module: Any) -> Any:
    return getattr(getattr(module, "__spec__", None), "loader", None)


def _others(modules: Modules) -> list[Modules]:
    """Return what other nodes of this process have from their masters."""
    return [each for each in sys.meta_path if isinstance(each, Modules) and each is not modules]


def _is_reading() -> bool:
    """Whether this thread is reading messages, outside of any call: then nobody would read the answer."""
    for code in _callers():
        if code is _RUNNING:
            return False
        if code in _READING:
            return True
    return False


def _is_probe() -> bool:
    """Whether somebody only wants to know whether there is such a module."""
    return any(code is _PROBING for _, code in zip(range(6), _callers(), strict=False))


def _callers() -> Iterator[CodeType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


@contextlib.contextmanager
def _others_import() -> Iterator[None]:
    """Let other threads import while this one waits in a finder."""
    held = 0
    with contextlib.suppress(RuntimeError):
        while True:
            _imp.release_lock()
            held += 1
    try:
        yield
    finally:
        for _ in range(held):
            _imp.acquire_lock()
