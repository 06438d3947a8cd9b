"""The figure: how much faster than CPython, and how near to C."""

from pathlib import Path
from typing import TYPE_CHECKING

from farcall.plots import BLUE, GREY, INK, ORANGE, STYLE, unframe

if TYPE_CHECKING:
    from .measure import Measured
    from .tasks import Task

COLOURS = {"C": GREY, "Numba": BLUE, "Julia": ORANGE}


def draw(measured: "Measured", tasks: "list[Task]", path: Path) -> None:
    """Write the figure, as a PNG."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("No figure: matplotlib is missing; install it with: pip install 'farcall[plot]'")
        return
    plt.rcParams.update(STYLE)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 6.4), layout="constrained", sharey=True, width_ratios=(3, 2)
    )
    draw_speed_ups(left, measured, tasks)
    draw_ratios(right, measured, tasks)
    for axes in left, right:
        unframe(axes, grid="x")
        axes.spines["left"].set_visible(False)
    figure.savefig(path, dpi=160)
    plt.close(figure)
    print(f"The figure is in {path}")


def draw_speed_ups(axes, measured, tasks):
    """Draw the time of CPython over that of the others, as bars."""
    for language, offsets in rows_of(measured, tasks, 0.8):
        speed_ups = [measured.best(task, "CPython") / measured.best(task, language) for task in tasks]
        height = 0.74 / (len(measured.languages) - 1)
        beyond = [each - 1 for each in speed_ups]
        axes.barh(offsets, beyond, height, left=1, color=COLOURS[language], label=language)
        for offset, speed_up in zip(offsets, speed_ups, strict=True):
            label(axes, f"{speed_up:.0f}×" if speed_up >= 9.95 else f"{speed_up:.1f}×", max(1, speed_up), offset)
    axes.set_yticks(range(len(tasks)), [task.name for task in tasks])
    axes.invert_yaxis()
    scale(axes, (0.3, 1, 3, 10, 30, 100), 1.35)
    axes.set(title="Speed-up over CPython", xlabel="times as fast as CPython, logarithmic")
    axes.legend(loc="lower right")


def draw_ratios(axes, measured, tasks):
    """Draw the time over that of C, as points."""
    for language, offsets in rows_of(measured, tasks, 0.8):
        if language == "C":
            continue
        ratios = [measured.ratio(task, language) for task in tasks]
        axes.plot(ratios, offsets, "o", color=COLOURS[language], markersize=8)
        for offset, ratio in zip(offsets, ratios, strict=True):
            label(axes, f"{ratio:.2f}", ratio, offset, 7 if ratio >= 0.995 else -7)
    for row, task in enumerate(tasks):
        axes.plot([task.goal] * 2, [row - 0.36, row + 0.36], color=GREY, linewidth=1.5, zorder=0)
    above = {"xytext": (0, 3), "textcoords": "offset points", "fontsize": 9, "color": INK}
    axes.annotate("goal for Numba", (tasks[0].goal, -0.36), **above, ha="center")
    scale(axes, (0.5, 1, 2, 4, 8), 1.5)
    mean = measured.mean(tasks, "Numba")
    axes.set(title=f"Time over C's; Numba's mean {mean:.2f}", xlabel="time as a multiple of C's, logarithmic")


def rows_of(measured, tasks, height):
    """Yield each language and where it is in the rows of the tasks, one under the other."""
    languages = [each for each in COLOURS if each in measured.languages]
    for place, language in enumerate(languages):
        middle = (place - (len(languages) - 1) / 2) * height / len(languages)
        yield language, [row + middle for row in range(len(tasks))]


def label(axes, text, x, y, gap=4):
    """Write a number beside what it belongs to: on its right, or with a negative gap on its left."""
    place = {"xytext": (gap, 0), "textcoords": "offset points", "ha": "left" if gap > 0 else "right"}
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    axes.annotate(text, (x, y), **place, va="center_baseline", fontsize=9, color=INK, bbox=behind)


def scale(axes, ticks, margin):
    """Make the axis of the numbers logarithmic, with room for the labels, and draw the line of what all is over."""
    axes.set_xscale("log")
    lowest, highest = axes.dataLim.intervalx
    axes.set_xlim(min(0.8, lowest / 1.35), highest * margin)
    axes.set_xticks([each for each in ticks if min(0.8, lowest / 1.35) <= each <= highest * margin])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.axvline(1, color=INK, linewidth=1)
