"""The modules of the master's own program, for workers that lack them; see ``modules`` for the workers' side.

A module is the program's own if it lies neither in the standard library nor where packages are installed. To find out
where it lies nothing is imported here, and none of it is run.

What workers got is remembered, and looked at before each call that goes out: if it has changed since, they are told
first.
"""

import hashlib
import os
import pkgutil
import sys
import threading
import time
from functools import cache
from importlib.machinery import SOURCE_SUFFIXES, ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .current import current_node
from .watch import Watch

if TYPE_CHECKING:
    from .node import Node

_PATIENCE = 0.1  # seconds between two looks at what the kernel does not tell of: edits on another host
_TICK = 20_000_000  # nanoseconds; a file changed again so soon may have the same time
_INSTALLED = {"site-packages", "dist-packages"}

Stamp = tuple[int, int, int] | None  # what changes with a file; None if it has changed so recently that it may not


class Source(NamedTuple):
    """A module of the program: its file and what is in it. A package without a file has a folder and no text."""

    path: str
    text: bytes | None
    is_package: bool


class Refusal(NamedTuple):
    """Why a worker does not get what the master can import: it is compiled, or an installed package."""

    is_compiled: bool
    what: str


Answer = Source | Refusal | None
"""None: the master cannot import it either."""


class _Given:
    """What workers have of a module."""

    def __init__(self, path: str, stamp: Stamp, text: bytes) -> None:
        self.names = {os.path.basename(path), os.path.basename(os.path.realpath(path))}
        self._path = path
        self._stamp = stamp
        self._digest = hashlib.sha256(text).digest()

    def has_changed(self) -> bool:
        """Whether there is another text now. The same text with another date is no change."""
        try:
            stamp = _stamp_of(self._path)
            if stamp is not None and stamp == self._stamp:
                return False
            self._stamp = stamp
            return hashlib.sha256(Path(self._path).read_bytes()).digest() != self._digest
        except OSError:
            return True


class Sources:
    """What the master gives to its workers. Any thread."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._lock = threading.Lock()
        self._watch = Watch()
        self._given: dict[str, _Given] = {}
        self._refused: set[str] = set()
        self._path: list[str] = []  # ``sys.path`` when it was last looked at
        self._due = 0.0  # when to look whatever the kernel says

    def give(self, name: str) -> Answer:
        """Return a module for a worker that lacks it, and remember what it got."""
        if not self._node.config.local_modules or self._node.closed:
            return None
        with self._lock:
            self._node.modules.are_used = True
            spec = _find(name)
            if spec is not None and _is_own(spec) and _is_source(spec):
                try:
                    return self._read(name, spec)
                except OSError:
                    spec = None  # it is gone
            self._refused.add(name)
            self._watch.add(*_own_folders(name))
        if spec is None:
            return None
        return Refusal(True, str(spec.origin)) if _is_own(spec) else Refusal(False, _describe_package(name))

    def _read(self, name: str, spec: ModuleSpec) -> Source:
        folders, path = spec.submodule_search_locations, spec.origin
        if path is None:
            return Source(next(iter(folders or ())), None, True)
        if not os.path.isfile(path):
            data: Any = spec.loader
            return Source(path, data.get_data(path), folders is not None)  # in an archive
        self._watch.add(os.path.dirname(path), os.path.dirname(os.path.realpath(path)))
        stamp, text = _stamp_of(path), Path(path).read_bytes()
        self._given[name] = _Given(path, stamp, text)
        return Source(path, text, folders is not None)

    def look(self) -> None:
        """Have the workers told what has changed since they got it, or exists now."""
        with self._lock:
            files, now = self._watch.stirred(), time.monotonic()
            if files is None or now >= self._due or sys.path != self._path:
                self._due, self._path = now + _PATIENCE, list(sys.path)
                given, refused = list(self._given), list(self._refused)
            elif files:
                stems = {each.partition(".")[0] for each in files}
                given = [name for name, each in self._given.items() if not each.names.isdisjoint(files)]
                refused = [name for name in self._refused if name.rpartition(".")[2] in stems]
            else:
                return
            changed = [name for name in given if self._given[name].has_changed()]
            changed += [name for name in refused if _has_come(name)]
            for name in changed:
                self._given.pop(name, None)
                self._refused.discard(name)
            if changed:
                self._node.modules.announce(changed)

    def close(self) -> None:
        """Look no more."""
        with self._lock:
            self._watch.close()


def give(name: str) -> Answer:
    """Return a module to a worker that asks for it; runs on the master."""
    return current_node().sources.give(name)


def give_data(package: str, path: str) -> bytes | list[str] | None:
    """Return a file of a package of the program's own, or the names in a folder of it; runs on the master."""
    node, spec = current_node(), _find(package)
    if spec is None or not _is_own(spec) or not node.config.local_modules:
        return None
    for folder in spec.submodule_search_locations or ():
        root = os.path.realpath(folder)
        found = os.path.realpath(os.path.join(root, path))
        if os.path.commonpath([root, found]) != root:
            continue
        if os.path.isdir(found):
            return sorted(os.listdir(found))
        if os.path.isfile(found):
            return Path(found).read_bytes()
    return None


# Finding


def _find(name: str) -> ModuleSpec | None:
    """Return where this process has a module from, or would import it from. Nothing is imported for that."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    package = name.rpartition(".")[0]
    if package:
        return _search(name, _folders_of(package))
    for folder in _own_folders(name):
        _finder_of(folder)  # which looks afresh, also when others ask it
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = find(name, None) if find is not None else None
        if spec is not None:
            return spec
    return None


def _folders_of(package: str) -> list[str]:
    """Return where the modules of a package are."""
    found = getattr(sys.modules.get(package), "__path__", None)
    if found is None:
        spec = _find(package)
        found = spec.submodule_search_locations if spec is not None else None
    return list(found or ())


def _search(name: str, folders: list[str]) -> ModuleSpec | None:
    """Return where a module is found in some folders. Unlike ``PathFinder`` it needs no package to be imported."""
    portions: list[str] = []
    for folder in folders:
        finder = _finder_of(folder)
        spec: ModuleSpec | None = finder.find_spec(name) if finder is not None else None
        if spec is not None and spec.loader is not None:
            return spec
        portions += (spec and spec.submodule_search_locations) or ()
    if not portions:
        return None
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = portions
    return spec


def _finder_of(folder: str) -> Any:
    """Return what finds modules in a folder, with nothing remembered: the folder may look as old as it was."""
    finder: Any = pkgutil.get_importer(folder)
    if finder is not None:
        finder.invalidate_caches()
    return finder


def _own_folders(name: str) -> list[str]:
    """Return where a module would have to be to be the program's own."""
    package = name.rpartition(".")[0]
    folders = _folders_of(package) if package else [each or os.getcwd() for each in sys.path]
    return [each for each in folders if not _is_for_packages(each)]


def _has_come(name: str) -> bool:
    """Whether there is a module of the program's own now, where there was none."""
    path = name.rpartition(".")[2]
    places = [os.path.join(folder, path) for folder in _own_folders(name)]
    if not any(os.path.exists(place + end) for place in places for end in ("", *SOURCE_SUFFIXES)):
        return False
    spec = _find(name)
    return spec is not None and _is_own(spec) and _is_source(spec)


def _is_own(spec: ModuleSpec) -> bool:
    """Whether a module belongs to the program, and not to Python or to an installed package."""
    if spec.has_location and spec.origin is not None:
        return not _is_for_packages(spec.origin)
    return not all(_is_for_packages(each) for each in spec.submodule_search_locations or ())


def _is_source(spec: ModuleSpec) -> bool:
    """Whether a module can be sent: it is Python, or a package without a file of its own."""
    if spec.origin is None:
        return spec.submodule_search_locations is not None
    return spec.origin.endswith(tuple(SOURCE_SUFFIXES))


@cache
def _is_for_packages(path: str) -> bool:
    return not _INSTALLED.isdisjoint(Path(path).parts) or os.path.realpath(path).startswith(_standard_library())


@cache
def _standard_library() -> tuple[str, ...]:
    import sysconfig

    found = {os.path.realpath(sysconfig.get_path(each)) for each in ("stdlib", "platstdlib")}
    return tuple(each + os.sep for each in found)


def _stamp_of(path: str) -> Stamp:
    found = os.stat(path)
    if time.time_ns() - found.st_mtime_ns < _TICK:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _describe_package(name: str) -> str:
    """Return what somebody has to install to get an installed module, with its version."""
    from importlib import metadata

    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return "a part of its Python"
    try:
        return f"{top} {metadata.version(top)}"
    except metadata.PackageNotFoundError:  # its package has another name, which takes longer to find
        distribution = next(iter(metadata.packages_distributions().get(top, ())), None)
        return f"{distribution} {metadata.version(distribution)}" if distribution else "no package says that it is its"
