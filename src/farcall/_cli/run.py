"""farcall run: a program as ``__main__`` of the master.

The program gets a module of its own, which stays ``sys.modules["__main__"]`` until the very end: what it registers
to run at exit may still send functions to workers. (runpy would restore the former ``__main__``.)
"""

import builtins
import importlib.machinery
import importlib.util
import io
import os
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType, TracebackType
from typing import Any, Literal

import farcall as fc

_INTERRUPTED = 130  # 128 + SIGINT, as shells say it


@dataclass(frozen=True)
class Program:
    """What to run, and what follows it on the command line."""

    kind: Literal["script", "module", "code"]
    what: str
    args: tuple[str, ...]


class _Unrunnable(Exception):
    """There is no such program. ``status`` is what Python itself exits with."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def parse_program(words: Sequence[str]) -> Program:
    """Return the program that the rest of a command line names; ValueError if it is incomplete."""
    first, rest = words[0], tuple(words[1:])
    if not first.startswith(("-m", "-c")):
        return Program("script", first, rest)
    kind: Literal["module", "code"] = "module" if first.startswith("-m") else "code"
    if len(first) > 2:
        return Program(kind, first[2:], rest)
    if not rest:
        raise ValueError(f"what comes after {first} is missing: the {kind} to run")
    return Program(kind, rest[0], rest[1:])


@dataclass(frozen=True)
class Crew:
    """The workers that a program begins with: local ones, and those on the hosts of a machine file."""

    local: int | Literal["auto"] | None = None
    machine_file: str | None = None
    tunnel: bool = False
    threads: int = 1

    def add(self) -> None:
        """Add them. _Unrunnable says in a line why not."""
        if self.local is not None:
            try:
                fc.addprocs(None if self.local == "auto" else self.local, threads=self.threads)
            except fc.LaunchError as error:
                raise _Unrunnable(f"{error}\nfarcall: 'farcall doctor' may say why", 1) from None
        if self.machine_file is not None:
            try:
                hosts = fc.engines.read_machine_file(self.machine_file)
                fc.addprocs(hosts, threads=self.threads, tunnel=self.tunnel)
            except (OSError, ValueError) as error:
                raise _Unrunnable(str(error), 2) from None
            except fc.LaunchError as error:
                raise _Unrunnable(str(error), 1) from None


def run(program: Program, crew: Crew) -> int:
    """Run a program as ``__main__`` and return its exit status; SystemExit passes through.

    The crew is added before. Under ``mpiexec`` it is the ranks but for the first, in which alone the program runs. A
    program that cannot be found is an error of one line, and one that fails has its traceback printed from its own
    first line on.
    """
    try:
        ranks = _find_ranks(crew.threads)
        if ranks is not None and crew != Crew(threads=crew.threads):
            raise _Unrunnable("under mpiexec its other ranks are the workers: leave -p and --machine-file out", 2)
        code, module = _load(program)
        sys.modules["__main__"] = module
        if ranks is not None:
            fc.addprocs(ranks)
        else:
            crew.add()
    except _Unrunnable as error:
        print(f"farcall: {error}", file=sys.stderr)
        return error.status
    except fc.LaunchError as error:
        print(f"farcall: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        return _report(error)
    return _execute(code, vars(module))


def _find_ranks(threads: int) -> fc.engines.Engine | None:
    """Return the engine of ``mpiexec``, if that has started this process and others; in those it does not return."""
    if fc.engines.MPI.count_ranks() == 1:
        return None
    try:
        return fc.engines.MPI(threads=threads)
    except ImportError as error:
        raise _Unrunnable(str(error), 1) from None


def _execute(code: CodeType, namespace: dict[str, Any]) -> int:
    try:
        exec(code, namespace)
    except SystemExit:
        raise
    except BaseException as error:
        return _report(error)
    return 0


def _report(error: BaseException) -> int:
    """Print an error as Python would have, without the frames that led to the program, and return the status."""
    error.__traceback__ = _trim(error.__traceback__)
    sys.excepthook(type(error), error, error.__traceback__)
    return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def _trim(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first frame on that is neither of this module nor of the import system."""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if traceback.tb_frame.f_globals is not globals() and not code.co_filename.startswith("<frozen importlib"):
            break
        traceback = traceback.tb_next
    return traceback


def _load(program: Program) -> tuple[CodeType, ModuleType]:
    """Compile a program; set sys.argv and sys.path as Python would, and return the module that it is to fill."""
    if program.kind == "code":
        _set_path("")
        sys.argv[:] = ["-c", *program.args]
        return compile(program.what, "<string>", "exec", dont_inherit=True), _make_main()
    if program.kind == "module":
        _set_path(os.getcwd())
        sys.argv[:] = ["-m", *program.args]
        spec = _find_module(program.what)
        sys.argv[0] = spec.origin or program.what
        return _load_spec(spec)
    sys.argv[:] = [program.what, *program.args]
    path = os.path.join(os.getcwd(), program.what)  # not normalized: Python does not, either
    return _load_container(path) if os.path.isdir(path) or zipfile.is_zipfile(path) else _load_file(path)


def _load_container(path: str) -> tuple[CodeType, ModuleType]:
    """Load the program of a directory or a zip file."""
    _set_path(path)
    spec = importlib.machinery.PathFinder.find_spec("__main__", [path])
    if spec is None:
        raise _Unrunnable(f"can't find '__main__' module in {path!r}", 1)
    return _load_spec(spec)


def _load_file(path: str) -> tuple[CodeType, ModuleType]:
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError as error:
        raise _Unrunnable(f"can't open file {path!r}: [Errno {error.errno}] {error.strerror}", 2) from None
    _set_path(os.path.dirname(os.path.realpath(path)))
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    module = _make_main(__file__=path, __cached__=None, __loader__=loader)
    return compile(source, path, "exec", dont_inherit=True), module


def _load_spec(spec: ModuleSpec) -> tuple[CodeType, ModuleType]:
    get_code = getattr(spec.loader, "get_code", None)
    code = get_code(spec.name) if get_code is not None else None
    if not isinstance(code, CodeType):
        raise _Unrunnable(f"{spec.name} has no Python code to run", 1)
    return code, _make_main(
        __file__=spec.origin,
        __cached__=spec.cached,
        __loader__=spec.loader,
        __package__=spec.parent,
        __spec__=spec,
    )


def _find_module(name: str) -> ModuleSpec:
    """Return the spec of what ``python -m name`` runs: a module, or the ``__main__`` of a package."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # a package on the way to it was found, and imports what there is not
        spec = None
    if spec is None:
        hint = "; after -m the name has no .py" if name.endswith(".py") else ""
        raise _Unrunnable(f"No module named {name}{hint}", 1)
    if spec.submodule_search_locations is None:
        return spec
    try:
        return _find_module(f"{name}.__main__")
    except _Unrunnable as error:
        raise _Unrunnable(f"{error}; {name!r} is a package and cannot be directly executed", 1) from error


def _make_main(**attributes: Any) -> ModuleType:
    module = ModuleType("__main__")
    vars(module).update(__builtins__=builtins, **attributes)
    if sys.version_info < (3, 14):
        module.__annotations__ = {}
    return module


def _set_path(first: str) -> None:
    """Put the place of the program where Python has put ours, unless Python was told to put none."""
    if not sys.flags.safe_path:
        sys.path[0] = first
