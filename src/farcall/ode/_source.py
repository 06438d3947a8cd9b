"""Reading a definition of differential equations: its source becomes a function that returns the derivatives.

What is wrong with it is a SyntaxError that shows the line. It is the user's own text that is compiled, line numbers and
all, so that errors of Numba's name the user's lines, and sums are summed as they were written.
"""

import ast
import builtins
import inspect
import linecache
import textwrap
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any, NamedTuple, NoReturn

TIME = "t"  # an argument of this name is no state


class Definition(NamedTuple):
    """What a definition says. ``function`` takes all arguments by position and returns the derivatives."""

    function: FunctionType
    arguments: tuple[str, ...]  # the states, and perhaps the time among them
    parameters: tuple[str, ...]


def read_definition(function: Callable[..., Any]) -> Definition:
    """Return what a function defines whose positional arguments are the states x, and which assigns each dx."""
    if not isinstance(function, FunctionType):
        raise TypeError(f"ode_def takes a function written with def, and {function!r} is none")
    tree = _parse(function)
    return _Reader(tree, function).read()


def _parse(function: FunctionType) -> ast.FunctionDef:
    """Return the tree of a function, with the line numbers that it has in its file."""
    try:
        source = textwrap.dedent("".join(inspect.getsourcelines(function)[0]))
    except OSError:
        raise OSError(
            f"the source of {function.__qualname__} cannot be found, which ode_def reads: define it in a file or in a "
            f"notebook, or write a function f(t, y, p) that returns the derivatives and give it to ODEProblem as it is"
        ) from None
    try:
        tree = ast.parse(source).body[0]
    except SyntaxError:
        tree = ast.Pass()
    if not isinstance(tree, ast.FunctionDef):
        raise TypeError(f"ode_def takes a function written with def, and {function.__qualname__} is none")
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)
    return tree


class _Reader:
    """One definition, while it is read."""

    def __init__(self, tree: ast.FunctionDef, function: FunctionType) -> None:
        self._tree = tree
        self._function = function
        arguments = tree.args
        self._positional = [*arguments.posonlyargs, *arguments.args]
        self._states = [each.arg for each in self._positional if each.arg != TIME]
        self._parameters = [each.arg for each in arguments.kwonlyargs]
        self._nodes = list(_own_nodes(tree.body))
        self._bound = {name for node in self._nodes for name in _bound_by(node)}
        names = [each for each in reversed(self._nodes) if isinstance(each, ast.Name)]
        self._stored = {each.id: each for each in names if isinstance(each.ctx, ast.Store)}
        self._loaded = {each.id: each for each in names if isinstance(each.ctx, ast.Load)}
        every = [each for each in ast.walk(tree) if isinstance(each, ast.Name)]
        self._used = {each.id for each in every if isinstance(each.ctx, ast.Load)}

    def read(self) -> Definition:
        self._check_arguments()
        self._check_body()
        for state in self._states:
            self._check_derivative(state)
        self._check_names()
        return Definition(self._compile(), tuple(each.arg for each in self._positional), tuple(self._parameters))

    def _refuse(self, node: ast.AST, message: str) -> NoReturn:
        name, line = self._function.__code__.co_filename, getattr(node, "lineno", self._tree.lineno)
        raise SyntaxError(f"{self._tree.name}: {message}", (name, line, None, linecache.getline(name, line) or None))

    def _check_arguments(self) -> None:
        arguments = self._tree.args
        for each in (arguments.vararg, arguments.kwarg):
            if each is not None:
                self._refuse(each, f"write each state and each parameter by its name, in the place of *{each.arg}")
        if arguments.defaults:
            name = self._positional[-1].arg
            self._refuse(self._tree, f"{name} has a default, so it looks like a parameter: write def …(…, *, {name}=…)")
        if not self._states:
            self._refuse(self._tree, "it has no state: write one positional argument for each")

    def _check_body(self) -> None:
        for each in self._nodes:
            if isinstance(each, ast.Return):
                self._refuse(each, "nothing is returned from it: the derivatives are what is assigned to dx, dy, …")
            if isinstance(each, (ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal)):
                self._refuse(each, "only numbers are computed in it, from the states and parameters")

    def _check_derivative(self, state: str) -> None:
        derivative = f"d{state}"
        if derivative in self._states:
            if derivative in self._stored:
                self._refuse(self._stored[derivative], f"{derivative} is a state, so it is given, and not assigned")
        elif derivative not in self._stored:
            unused = "" if state in self._used else f", or delete {state}, which is used nowhere"
            self._refuse(self._tree, f"the derivative of {state} is missing: write {derivative} = …{unused}")

    def _check_names(self) -> None:
        given = {*self._states, *self._parameters, TIME}
        for name, node in self._stored.items():
            if name in given:
                self._refuse(node, f"{name} is given, and not assigned: write another name")
            if name not in self._used and name[1:] not in self._states and name != "_":
                states = ", ".join(self._states)
                self._refuse(node, f"{name} is used nowhere, and is no derivative of a state: these are {states}")
        if TIME not in [each.arg for each in self._positional]:
            given.discard(TIME)
        code, around = self._function.__code__, self._function.__globals__
        known = {*given, *self._stored, *self._bound, *code.co_freevars}
        for name, node in self._loaded.items():
            if name not in known and name not in around and not hasattr(builtins, name):
                self._refuse(node, f"{name} is no state, no parameter, and no name that is known here")

    def _compile(self) -> FunctionType:
        """Return the function, with the derivatives as its value and all arguments by position."""
        tree, code = self._tree, self._function.__code__
        arguments = ", ".join(each.arg for each in (*self._positional, *tree.args.kwonlyargs))
        derivatives = "".join(f"d{state}, " for state in self._states)
        frame = f"def around({', '.join(code.co_freevars)}):\n def {tree.name}({arguments}):\n  return ({derivatives})"
        module = ast.increment_lineno(ast.parse(frame), tree.lineno - 1)
        outer: Any = module.body[0]
        outer.body[0].body[:0] = tree.body
        made = _code_of(tree.name, compile(module, code.co_filename, "exec"))
        cells = dict(zip(code.co_freevars, self._function.__closure__ or (), strict=True))
        function = FunctionType(
            made, self._function.__globals__, tree.name, None, tuple(cells[each] for each in made.co_freevars)
        )
        function.__qualname__ = self._function.__qualname__
        return function


def _own_nodes(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Yield all nodes of a body but those of functions in it, in the order of the text."""
    pending: list[ast.AST] = list(reversed(body))
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            pending += reversed(list(ast.iter_child_nodes(node)))


def _bound_by(node: ast.AST) -> list[str]:
    """Return the names that a statement binds in other ways than by assignment."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(each.asname or each.name).partition(".")[0] for each in node.names]
    return [node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else []


def _code_of(name: str, code: CodeType) -> CodeType:
    """Return the code of the inner one of two functions."""
    outer = next(each for each in code.co_consts if isinstance(each, CodeType))
    return next(each for each in outer.co_consts if isinstance(each, CodeType) and each.co_name == name)
