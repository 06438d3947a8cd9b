"""What Numba compiled in this process: how often, what, and how long each thread waited for it.

It listens to Numba's documented event ``numba:compile`` from the moment at which Numba is imported.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

_MOST_REMEMBERED = 1000


class _Thread(threading.local):
    """What this thread has compiled. ``depth``: compiling one function may compile those that it calls."""

    depth = 0
    began = 0.0
    count = 0
    seconds = 0.0


class Compilations:
    """What was compiled in this process since Numba was imported, or since farcall was, if that was later."""

    def __init__(self) -> None:
        self.count = 0
        self.latest: deque[str] = deque(maxlen=_MOST_REMEMBERED)  # "f(int64, float64)"
        self.before: list[Callable[[Any, tuple[Any, ...]], None]] = []  # told of each dispatcher and argument types
        self.after: list[Callable[[Any, tuple[Any, ...]], None]] = []  # ... when it has ended, well or not
        self._thread = _Thread()

    def of_this_thread(self) -> tuple[int, float]:
        """Return how many specialisations this thread has begun to compile, and its seconds in the compiler."""
        return self._thread.count, self._thread.seconds

    def is_under_way(self) -> bool:
        """Whether this thread is compiling something."""
        return self._thread.depth > 0

    def began(self, event: Any) -> None:
        """Take note that a compilation begins. Its thread, which holds Numba's lock."""
        thread = self._thread
        if thread.depth == 0:
            thread.began = time.perf_counter()
        thread.depth += 1
        thread.count += 1
        dispatcher, args = event.data["dispatcher"], tuple(event.data["args"])
        self.count += 1
        self.latest.append(f"{getattr(dispatcher, '__name__', dispatcher)}({', '.join(map(str, args))})")
        for notice in self.before:
            notice(dispatcher, args)

    def ended(self, event: Any) -> None:
        """Take note that a compilation has ended, well or not."""
        thread = self._thread
        for notice in self.after:
            notice(event.data["dispatcher"], tuple(event.data["args"]))
        thread.depth -= 1
        if thread.depth == 0:
            thread.seconds += time.perf_counter() - thread.began


compilations = Compilations()  # of this process: Numba's compiler is one per process, whatever nodes there are


def what_was_compiled() -> tuple[int, list[str]]:
    """Return how many specialisations this process has begun to compile, and the names of the latest."""
    return compilations.count, list(compilations.latest)


def _listen(event: Any) -> None:
    class Listener(event.Listener):  # type: ignore[misc]
        def on_start(self, what: Any) -> None:
            compilations.began(what)

        def on_end(self, what: Any) -> None:
            compilations.ended(what)

    event.register("numba:compile", Listener())


def when_imported(name: str, act: Callable[[Any], None]) -> None:
    """Call a function with a module as soon as it has been imported: now, or after its import."""
    module = sys.modules.get(name)
    if module is not None:
        act(module)
    else:
        sys.meta_path.insert(0, _Finder(name, act))


class _Finder(MetaPathFinder):
    """Waits for the import of one module, which it leaves to the others."""

    def __init__(self, name: str, act: Callable[[Any], None]) -> None:
        self._name = name
        self._act = act

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Return what the next ones find. Some only ask where a module is, so we stay until it has been imported."""
        if name != self._name or self not in sys.meta_path:
            return None
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        found = (each.find_spec(name, path, target) for each in others)
        spec = next((each for each in found if each is not None), None)
        loader: Any = spec.loader if spec is not None else None
        if loader is not None:
            execute = loader.exec_module

            def execute_and_act(module: Any) -> None:
                execute(module)
                if module.__name__ == self._name and self in sys.meta_path:  # some loaders are those of many modules
                    sys.meta_path.remove(self)
                    self._act(module)

            loader.exec_module = execute_and_act
        return spec


when_imported("numba.core.event", _listen)
