"""One style for the figures of farcall: of its examples, its benchmarks and ``farcall.ode``.

    import matplotlib.pyplot as plt
    from farcall import plots

    with plt.rc_context(plots.STYLE):
        figure, axes = plt.subplots(layout="constrained")
        axes.plot([1, 2, 4], [1, 1.9, 3.7], color=plots.BLUE)
        plots.unframe(axes)

This imports nothing; what it is for needs matplotlib (``pip install 'farcall[plot]'``).
"""

from typing import Any

INK, GREY, BLUE, LIGHT_BLUE, ORANGE = "#1f2933", "#9aa5b1", "#1864ab", "#4dabf7", "#e8590c"
COLOURS = (BLUE, ORANGE, "#2b8a3e", "#862e9c", LIGHT_BLUE, "#c92a2a", "#5c940d", GREY)

STYLE: dict[str, Any] = {
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "grid.color": "#e1e5ea",
    "legend.framealpha": 1,
    "legend.edgecolor": "none",
}
"""Settings of matplotlib's, for ``rc_context`` or ``rcParams.update``."""


def unframe(axes: Any, *, grid: str = "both") -> None:
    """Draw axes with a light grid behind the data, of ``"x"``, ``"y"`` or both, and without ticks and a frame."""
    axes.grid(axis=grid)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, which="both")
    axes.spines[["top", "right"]].set_visible(False)
