"""Figures of solutions: what is drawn over what, and films."""

import itertools

import matplotlib
import numpy as np
import pytest
from equations import lorenz
from PIL import Image

import farcall as fc
from farcall import plots

matplotlib.use("Agg")
from matplotlib import pyplot

ode = fc.ode


@pytest.fixture(scope="module")
def solution(tmp_path_factory):
    pyplot.figure().text(0, 0, "a").figure.savefig(
        tmp_path_factory.mktemp("fonts") / "a.png"
    )  # matplotlib keeps them open
    return ode.solve(ode.ODEProblem(lorenz, [1.0, 0.0, 0.0], (0.0, 5.0)))


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def test_what_is_drawn_over_what(solution):
    """Names are axes, one alone is drawn over time; without names three states are drawn in three dimensions."""
    for names, labels in (
        ([], ("x", "y", "z")),
        (["x", "y", "z"], ("x", "y", "z")),
        (["y"], ("t", "y")),
        (["x", "z"], ("x", "z")),
        (["t"], ("t", "x, y, z")),
    ):
        axes = solution.plot(*names)
        found = [axes.get_xlabel(), axes.get_ylabel(), *([axes.get_zlabel()] if len(labels) == 3 else [])]
        assert tuple(found) == labels
        assert axes.get_title(loc="left") == "lorenz" or axes.get_title() == "lorenz"
    assert [each.get_text() for each in axes.get_legend().get_texts()] == ["x", "y", "z"]
    with pytest.raises(ValueError, match="lorenz has no state w"):
        solution.plot("w")
    with pytest.raises(ValueError, match="three dimensions at most"):
        solution.plot("t", "x", "y", "z")


def test_curves_are_smooth_and_true(solution):
    """Between the steps the curve is the solution; where times were asked for it is what was saved."""
    x, z = solution.plot("x", "z").lines[0].get_data()
    assert len(x) > 5 * solution.steps
    times = np.linspace(0, 5, 7)
    at_times = solution(times)
    assert min(np.hypot(x - at_times[0, 3], z - at_times[2, 3])) < 0.5
    saved = ode.solve(solution.problem, saveat=times)
    assert (saved.plot("x").lines[0].get_ydata() == saved["x"]).all()


def test_the_user_s_axes_and_settings_are_left_alone(solution):
    """It draws on axes that are given, and changes no settings of matplotlib's."""
    _, axes = pyplot.subplots()
    with matplotlib.rc_context({"font.size": 17.0}):
        assert solution.plot("x", axes=axes) is axes
        solution.plot()
        assert matplotlib.rcParams["font.size"] == 17.0
    assert set(plots.STYLE) <= set(matplotlib.rcParams)


def test_a_film(solution, tmp_path):
    """A GIF of so many frames, in each of which there is more of the curve than in the one before."""
    solution.animate(tmp_path / "lorenz.gif", seconds=1, frames_per_second=4)
    with Image.open(tmp_path / "lorenz.gif") as film:
        assert film.n_frames == 4
        assert film.info["duration"] == 250
        frames = []
        for number in range(4):
            film.seek(number)
            frames.append(np.asarray(film.convert("RGB")))
    blue = [((each[..., 2] > 130) & (each[..., 0] < 120)).sum() for each in frames]
    assert all(first < second for first, second in itertools.pairwise(blue))
    assert pyplot.get_fignums() == []
