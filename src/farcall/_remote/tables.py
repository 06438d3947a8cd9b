"""What a notebook shows of processes, of a Future and of a channel: a small table."""

import math
from collections.abc import Iterable, Sequence
from html import escape

from .._node.node import Node
from .._types import ProcessId
from .census import take_census

_COLOURS = {
    "this process": "#1c7ed6",
    "idle": "#adb5bd",
    "busy": "#2b8a3e",
    "ready": "#2b8a3e",
    "open": "#2b8a3e",
    "pending": "#f08c00",
    "cancelled": "#adb5bd",
    "closed": "#adb5bd",
}
_ALARM = "#e03131"
_LONGEST = 80  # characters of a value


def show_processes(node: Node, pids: Iterable[ProcessId]) -> str:
    """Return how processes are; a row for each."""
    names = ("process", "host", "state", "calls", "CPU", "memory")
    rows = [
        (
            f"{each.pid} (master)" if each.pid == 1 else str(each.pid),
            escape(each.host),
            _dotted(each.state),
            "" if each.calls is None else str(each.calls),
            "" if each.processors is None else f"{100 * each.processors:.0f} %",
            "" if each.memory is None else f"{each.memory / 1e6:,.0f} MB",
        )
        for each in take_census(node, pids)
    ]
    return _table(names, rows)


def show_future(where: ProcessId | None, host: str, state: str, value: str) -> str:
    """Return where a Future's value is or will be, how far that is, and what is known of it here."""
    place = "none yet" if where is None else str(where)
    return _table(("process", "host", "Future", "value"), [(place, escape(host), _dotted(state), _shorten(value))])


def show_channel(place: tuple[ProcessId, str], state: str, kind: str, count: int, capacity: float) -> str:
    """Return where a channel lives, process and host, what it takes, and how full it is."""
    pid, host = place
    full = f"{count}" if capacity == math.inf else f"{count}/{int(capacity)}"
    if 0 < capacity < math.inf:
        full += f' <progress value="{count}" max="{int(capacity)}"></progress>'
    names = ("process", "host", "RemoteChannel", "items", "of type")
    return _table(names, [(str(pid), escape(host), _dotted(state), full, escape(kind))])


def _shorten(text: str) -> str:
    return escape(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…")


def _dotted(state: str) -> str:
    return f'<span style="color: {_COLOURS.get(state, _ALARM)}">●</span> {escape(state)}'


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(_cell("th", each) for each in names)
    body = "".join(f"<tr>{''.join(_cell('td', each) for each in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(kind: str, content: str) -> str:
    return f'<{kind} style="text-align: left">{content}</{kind}>'
