"""Figures of solutions, drawn with matplotlib in the style of the project."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import plots
from ._equations import find_name
from ._methods import Vector

if TYPE_CHECKING:
    from ._solution import Solution

_PER_STEP = 12  # points that are drawn of each step
_MOST = 50_000  # points of a figure
_MOST_IN_FILM = 8_000  # which are drawn again in each frame
_TIME = "t"


def plot(solution: "Solution", names: Sequence[str], axes: Any) -> Any:
    """Draw what the names say on axes, new ones if there are none, and return these."""
    chosen = _read_names(solution, names)
    pyplot = _import_pyplot()
    with pyplot.rc_context(plots.STYLE):
        if axes is None:
            dimensions = {"projection": "3d"} if len(chosen) == 3 else {}
            size = (7, 6) if len(chosen) == 3 else (8, 4.8)
            _, axes = pyplot.subplots(figsize=size, layout="constrained", subplot_kw=dimensions)
        if chosen == [_TIME]:
            _plot_all(solution, axes)
        else:
            _, values = _sample(solution, chosen)
            axes.plot(*values, color=plots.BLUE, linewidth=0.7 if len(chosen) == 3 else 1.5)
            _label(axes, chosen)
        axes.set_title(solution.problem.equations.name, pad=0 if len(chosen) == 3 else None)
    return axes


def _plot_all(solution: "Solution", axes: Any) -> None:
    states = solution.problem.states
    t, values = _sample(solution, states)
    for row, (name, each) in enumerate(zip(states, values, strict=True)):
        axes.plot(t, each, color=plots.COLOURS[row % len(plots.COLOURS)], linewidth=1.5, label=name)
    _label(axes, [_TIME, ", ".join(states) if len(states) <= 8 else "states"])
    if 1 < len(states) <= 8:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def animate(solution: "Solution", path: Any, names: Sequence[str], seconds: float, frames_per_second: int) -> None:
    """Write the film in which the curve grows, and in three dimensions turns a little."""
    chosen = _read_names(solution, names)
    if chosen == [_TIME]:
        chosen = [_TIME, solution.problem.states[0]]
    pyplot = _import_pyplot()
    from matplotlib.animation import FuncAnimation

    t, values = _sample(solution, chosen, _MOST_IN_FILM)
    with pyplot.rc_context(plots.STYLE):
        axes = plot(solution, chosen, None)
        figure, line = axes.figure, axes.lines[0]
        (head,) = axes.plot(*(each[:1] for each in values), "o", color=plots.ORANGE, markersize=6)
        frames = max(2, round(seconds * frames_per_second))
        moments = np.linspace(solution.t[0], solution.t[-1], frames)

        def show(frame: int) -> None:
            end = int(np.searchsorted(np.abs(t - t[0]), abs(moments[frame] - t[0]), side="right"))
            for artist, part in ((line, slice(0, end)), (head, slice(end - 1, end))):
                _set_data(artist, [each[part] for each in values])
            axes.set_title(f"{solution.problem.equations.name}, t = {moments[frame]:.3g}")
            if len(chosen) == 3:
                axes.view_init(azim=-60 + 40 * frame / frames)

        try:
            writer = "pillow" if str(path).endswith(".gif") else None  # else as the settings of matplotlib say
            FuncAnimation(figure, show, frames=frames).save(path, writer=writer, fps=frames_per_second, dpi=80)
        finally:
            pyplot.close(figure)


def _set_data(artist: Any, values: Sequence[Vector]) -> None:
    if len(values) == 3:
        artist.set_data_3d(*values)
    else:
        artist.set_data(*values)


def _read_names(solution: "Solution", names: Sequence[str]) -> list[str]:
    """Return what is drawn over what: one name alone is drawn over time."""
    states = solution.problem.states
    if not names:
        return list(states) if len(states) == 3 else [_TIME]
    known = (*states, _TIME)
    chosen = [find_name(each, known, solution.problem.equations.name, "state") for each in names]
    if len(chosen) > 3:
        raise ValueError(f"a figure has three dimensions at most, and {len(chosen)} were asked for")
    return [_TIME, *chosen] if len(chosen) == 1 and chosen != [_TIME] else chosen


def _sample(solution: "Solution", names: Sequence[str], most: int = _MOST) -> tuple[Vector, list[Vector]]:
    """Return times that are close enough for a smooth curve, and the values of each name."""
    t, y = solution.t, solution.y
    if solution.is_continuous:
        parts = min(_PER_STEP, max(1, most // t.size))
        inner = t[:-1, None] + np.diff(t)[:, None] * np.arange(parts) / parts
        t = np.append(inner.ravel(), t[-1])
        y = solution(t)
    states = solution.problem.states
    return t, [t if name == _TIME else y[states.index(name)] for name in names]


def _label(axes: Any, names: Sequence[str]) -> None:
    for name, put in zip(names, ("set_xlabel", "set_ylabel", "set_zlabel"), strict=False):
        getattr(axes, put)(name)
    if len(names) < 3:
        plots.unframe(axes)


def _import_pyplot() -> Any:
    try:
        import matplotlib.pyplot as pyplot
    except ImportError as error:
        raise ImportError("figures are drawn with matplotlib: pip install 'farcall[plot]'") from error
    return pyplot
