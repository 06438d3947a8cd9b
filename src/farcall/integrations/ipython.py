"""A notebook on a cluster: magics, and what workers print appears in the cell whose call printed it."""

import ast
import functools
import itertools
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import (
    Magics,
    line_cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
    output_can_be_silenced,
)

from .. import Future, everywhere, spawnat, timed
from .._cluster import master

_MOST_CELLS = 1000  # whose calls may still print
_PATIENCE = 0.5  # seconds to wait until what has been printed is shown


def load(shell: Any) -> None:
    """Give the magics to a shell, and if it is a notebook have what workers print appear where it belongs."""
    shell.register_magics(FarcallMagics)
    streams = sys.stdout, sys.stderr
    if not all(isinstance(getattr(each, "_parent_header", None), ContextVar) for each in streams):
        return
    cells, mirror = master().node.cells, master().mirror
    if not cells.are_used:
        notebook = Notebook(shell, streams)
        cells.find, cells.enter, cells.are_used = notebook.find, notebook.enter, True
        cells.catch_up = functools.partial(mirror.catch_up, _PATIENCE)
        shell.events.register("pre_run_cell", begin_cell)
        shell.events.register("post_run_cell", finish_cell)


def begin_cell(info: object) -> None:
    """Stand before the handler of SIGINT that the kernel has made for this cell: no message is to be cut in two."""
    master().node.reader.interrupts.guard()


def finish_cell(result: object) -> None:
    """Have what has been printed until now appear before the cell is over: what comes then, not every program shows."""
    master().node.cells.catch_up()


class Notebook:
    """The cells of a notebook. Any thread.

    The kernel sends each message with the header of the request that it belongs to, its parent, and keeps the one of
    the running cell in a context variable of each of its streams. (Since 7.4 there is ``set_thread_parent``, which
    sets it, too.) Where that has no value, in a thread that somebody started, each version has a rule of its own.
    """

    def __init__(self, shell: Any, streams: tuple[Any, ...]) -> None:
        self._shell = shell
        self._streams = streams
        self._count = itertools.count(1)
        self._numbers: dict[str, int] = {}
        self._headers: dict[int, dict[str, Any]] = {}

    def find(self) -> int:
        """Return the number of the cell for which this thread works, 0 outside of all."""
        header = self._streams[0].parent_header
        name = header.get("msg_id")
        if name is None:
            return 0
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers.setdefault(name, next(self._count))
            self._headers[number] = header
            for old in list(self._numbers)[:-_MOST_CELLS]:
                self._headers.pop(self._numbers.pop(old, 0), None)
        return number

    def enter(self, cell: int) -> None:
        """Have what this thread prints appear in a cell, in the one that runs if it is not known."""
        header = self._headers.get(cell)
        if header is None:
            header = self._shell.get_parent().get("header", {})
        for stream in self._streams:
            stream._parent_header.set(header)


@magics_class
class FarcallMagics(Magics):
    """``%%everywhere``, ``%spawnat`` and ``%timed``."""

    shell: Any

    @no_var_expand
    @line_cell_magic
    def everywhere(self, line: str, cell: str | None = None) -> Any:
        """Run Python code in every process, now and on workers that join later: in this one, too.

        %everywhere import numpy as np

        %%everywhere
        def f(x):
            return np.sqrt(x)

        With process ids (``%%everywhere 2``, ``%%everywhere 2, 3``, ``%%everywhere fc.workers()``) only there, and only
        now; with one id the value of the last line is returned. The function ``farcall.everywhere`` does the same.
        """
        if cell is None:
            return everywhere(line)
        try:
            pids = compile(line.strip() or "None", "<pids>", "eval")
        except SyntaxError:
            raise UsageError("%%everywhere: processes as Python writes them, such as %%everywhere 2, 3") from None
        return everywhere(cell, pids=eval(pids, self.shell.user_ns))

    @needs_local_scope
    @no_var_expand
    @line_magic
    def spawnat(self, line: str, local_ns: dict[str, Any] | None = None) -> Future[Any]:
        """Start an expression on another process and return its Future at once.

        f = %spawnat 2 heads(10_000)

        The first word says where: a process id, ``any``, or what gives one, such as ``pid`` or ``pool``. The expression
        sees the names of this notebook as they are now, and those that it lacks as they are over there.
        """
        where, *rest = line.split(maxsplit=1)[:2] or [""]
        if not rest:
            raise UsageError("%spawnat: first where, then what to run there: %spawnat 2 heads(10_000)")
        expression = rest[0]
        compile(expression, "<spawnat>", "eval")
        names = self.shell.user_ns
        if local_ns is not None and local_ns is not names:
            names = {**names, **local_ns}
        function = eval(f"lambda: (\n{expression}\n)", names)
        return spawnat("any" if where == "any" else eval(where, names), function)

    @output_can_be_silenced
    @needs_local_scope
    @no_var_expand
    @line_cell_magic
    def timed(self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None) -> Any:
        """Run code, print where its time went, and return the value of its last line.

        %timed fc.pmap(f, range(100))

        See ``farcall.timed``, which does this for blocks, calls and functions.
        """
        if cell is not None and line.strip():
            raise UsageError("%%timed: the code begins on the next line")
        run = self._compile(self.shell.transform_cell(line if cell is None else cell))
        with timed():
            return run(self.shell.user_ns, local_ns)

    def _compile(self, source: str) -> Callable[..., Any]:
        """Return what runs code in given namespaces and returns the value of its last line if that is an expression."""
        compiler = self.shell.compile
        name = compiler.cache(source, self.shell.execution_count)  # so that tracebacks show its lines
        body = compiler.ast_parse(source, name).body
        has_value = body and isinstance(body[-1], ast.Expr)
        last = ast.Expression(body.pop().value if has_value else ast.Constant(None))
        ast.fix_missing_locations(last)
        statements, value = compiler(ast.Module(body, []), name, "exec"), compiler(last, name, "eval")

        def run(*names: Any) -> Any:
            exec(statements, *names)
            return eval(value, *names)

        return run
