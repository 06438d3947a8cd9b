"""Solving one problem: what is saved, events, errors, interrupts and what cannot be done."""

import itertools
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings

import cloudpickle
import numpy as np
import pytest
from waiting import until

import farcall as fc

ode = fc.ode


@ode.ode_def
def oscillator(x, v, *, k=1.0):
    dx = v
    dv = -k * x


def oscillation(end=10.0, start=0.0):
    return ode.ODEProblem(oscillator, [1.0, 0.0], (start, end))


@ode.ode_def
def explosion(x):
    dx = x * x


@ode.ode_def
def failing(t, x):
    dx = math.nan if t > 0.5 else -x


def is_cold(t, y, p):
    if y[0] < p[0]:
        raise ValueError("too cold")
    return [-y[0]]


# What is saved


@pytest.mark.parametrize("method", [None, "DOP853", "BDF", "Radau", "LSODA"])
def test_saveat(method):
    """The states at the times that were asked for, and no others, forwards and backwards."""
    for saveat in [10], [0], [0, 10], [2.5], [0, 1e-9, 5], np.linspace(0, 10, 401), np.linspace(1, 9, 5):
        for start, end, times in (0.0, 10.0, saveat), (10.0, 0.0, np.flip(saveat)):
            solution = ode.solve(oscillation(end, start), method, rtol=1e-9, atol=1e-9, saveat=times)
            assert solution.t.tolist() == list(times)
            np.testing.assert_allclose(solution["x"], np.cos(solution.t - start), atol=1e-6)


def test_saveat_at_a_distance():
    """A number is the distance between two times; the end is always one of them."""
    for start, end, distance, times in (
        (0.0, 1.0, 0.25, [0, 0.25, 0.5, 0.75, 1]),
        (0.0, 1.0, 0.4, [0, 0.4, 0.8, 1]),
        (1.0, 0.0, 0.5, [1, 0.5, 0]),
        (0.0, 0.3, 0.1, [0, 0.1, 0.2, 0.3]),
        (0.0, 1.0, 5, [0, 1]),
    ):
        assert ode.solve(oscillation(end, start), saveat=distance).t == pytest.approx(times, abs=1e-15)


def test_all_steps_are_saved_without_saveat():
    """Then it is known in between too, at one time or at many, but not outside, nor where times were asked for."""
    solution = ode.solve(oscillation())
    assert (solution.t[0], solution.t[-1], solution.t.size) == (0.0, 10.0, solution.steps + 1)
    assert solution(math.pi) == pytest.approx([-1.0, 0.0], abs=1e-4)
    assert solution([[1.0, 2.0], [3.0, 4.0]]).shape == (2, 2, 2)
    with pytest.raises(ValueError, match=r"known from t = 0 to 10, and was asked for 10\.5"):
        solution(10.5)
    with pytest.raises(ValueError, match="leave out saveat="):
        ode.solve(oscillation(), saveat=1.0)(0.5)
    assert ode.solve(oscillation(0.0)).t.tolist() == [0.0]


def test_options_that_are_none():
    """What cannot be meant is an error that says what can."""
    for options, message in (
        ({"method": "Euler"}, "write one of RK23, RK45"),
        ({"rtol": -1}, "rtol=-1"),
        ({"rtol": 0}, "write a number above 0"),
        ({"atol": [1, 2, 3]}, "one for each of the 2 states"),
        ({"saveat": [5.0, 1.0]}, "one after the other"),
        ({"saveat": [11.0]}, "times from 0 to 10"),
        ({"saveat": -1}, "the distance between two times"),
        ({"saveat": "now"}, "saveat='now'"),
        ({"atol": "low"}, "atol='low'"),
        ({"events": lambda z: z}, "takes x, v, k, t, by these names, not z"),
    ):
        with pytest.raises(ValueError, match=message):
            ode.solve(oscillation(), **options)
    with pytest.raises(TypeError, match="seed= is for an EnsembleProblem"):
        ode.solve(oscillation(), seed=1)
    with pytest.raises(TypeError, match="takes an ODEProblem"):
        ode.solve(oscillator)
    with pytest.raises(TypeError, match="events=3: write a function"):
        ode.solve(oscillation(), events=3)


def test_tolerances_may_differ_by_state():
    """A number for each state bounds the error of each."""
    loose = ode.solve(oscillation(), atol=[1e-3, 1e-3], rtol=[1e-10])
    tight = ode.solve(oscillation(), atol=[1e-12, 1e-3], rtol=[1e-10, 1e-3])
    assert loose.steps < tight.steps


def test_a_solution_says_what_it_is(tmp_path):
    """Its repr is a status line, its HTML a table, and a pickle has all of it, also what is between the steps."""
    solution = ode.solve(oscillation())
    assert repr(solution) == f"<Solution of oscillator: {solution.steps} steps of Vern7 (not stiff) to t = 10>"
    assert solution.evaluations >= 10 * solution.steps
    table = solution._repr_html_()
    assert "<td>Vern7 (not stiff)</td>" in table
    assert f"{solution.evaluations:,} evaluations" in table
    again = pickle.loads(cloudpickle.dumps(solution))
    assert repr(again) == repr(solution)
    assert (again(np.linspace(0, 10, 99)) == solution(np.linspace(0, 10, 99))).all()


# Stiff or not


def test_stiffness_that_begins_late_is_found():
    """A flame is not stiff until it burns, and very much so from then on."""

    @ode.ode_def
    def flame(r):
        dr = r * r - r**3

    problem = ode.ODEProblem(flame, [1e-5], (0.0, 2e5))
    solution = ode.solve(problem)
    assert (solution.method, solution.stiff, solution.success) == ("LSODA", True, True)
    assert solution.evaluations < ode.solve(problem, "Vern7").evaluations / 4
    assert solution["r"][-1] == pytest.approx(1.0, abs=1e-5)


def test_long_problems_that_are_not_stiff_stay_with_the_explicit_method():
    """That a problem takes very many steps does not make it stiff."""
    for rtol in 1e-3, 1e-6, 1e-10:
        solution = ode.solve(oscillation(20_000.0), rtol=rtol, saveat=[20_000.0])
        assert (solution.method, solution.stiff) == ("Vern7", False)
        assert solution.steps > 10_000


# Events


@ode.ode_def
def ball(height, velocity, *, g=10.0):
    dheight = velocity
    dvelocity = -g


def ground(height):
    return height


ground.terminal, ground.direction = True, -1


@pytest.mark.parametrize("method", [None, "Vern7", "Radau"])
def test_an_event_can_end_a_solution(method):
    """A terminal event is found to the last digits, and is its end; that is success."""
    problem = ode.ODEProblem(ball, [20.0, 0.0], (0.0, 1e6))
    solution = ode.solve(problem, method, events=ground)
    assert solution.success
    assert "event" in solution.message
    assert solution.t[-1] == pytest.approx(2.0, rel=1e-8)
    assert solution.t_events[0] == pytest.approx([2.0], rel=1e-8)
    assert solution.y_events[0] == pytest.approx(np.array([[0.0, -20.0]]), abs=1e-6)
    assert solution(1.0) == pytest.approx([15.0, -10.0], rel=1e-6)


def test_events_are_found_in_their_direction():
    """Zeros from below, from above and both, of states, parameters and time by their names, or of t, y and p."""

    def rising(v, k, t):
        return v * k + 0 * t

    def falling(v):
        return v

    def never(x):
        return x - 5

    rising.direction, falling.direction = 1, -1
    solution = ode.solve(oscillation(10.0), rtol=1e-9, events=[rising, falling, lambda x: x, never])
    assert solution.t_events[0] == pytest.approx([math.pi, 3 * math.pi], abs=1e-6)
    assert solution.t_events[1] == pytest.approx([0.0, 2 * math.pi], abs=1e-6)
    assert solution.t_events[2] == pytest.approx([math.pi / 2, 3 * math.pi / 2, 5 * math.pi / 2], abs=1e-6)
    assert [each.shape for each in solution.y_events] == [(2, 2), (2, 2), (3, 2), (0, 2)]

    problem = ode.ODEProblem(is_cold, [1.0], (0.0, 1.0), 0.1)
    solution = ode.solve(problem, events=[lambda t, y: t - 0.25, lambda t, y, p: y[0] - 1 + p[0]], saveat=0.5)
    assert solution.t.tolist() == [0, 0.5, 1]
    assert solution.t_events[0] == pytest.approx([0.25])
    assert solution.t_events[1] == pytest.approx([-math.log(0.9)], abs=1e-5)


# What goes wrong


@pytest.mark.parametrize("method", [None, "Vern7", "DOP853", "LSODA", "BDF", "Radau"])
def test_a_solution_that_ends_early_warns_and_says_why(method):
    """The part that is there is kept, finite and in order, success is false, and a warning names time and reason."""
    problem = ode.ODEProblem(explosion, [1.0], (0.0, 2.0))
    with pytest.warns(ode.IntegrationWarning, match=r"explosion ends at t = (1|0\.99)\S*, before 2: "):
        solution = ode.solve(problem, method)
    assert not solution.success
    assert "which is not its end" in repr(solution)
    assert np.isfinite(solution.y).all()
    assert (np.diff(solution.t) >= 0).all()
    assert solution.t[-1] == pytest.approx(1.0, abs=1e-4)
    early = solution.t < 0.9
    np.testing.assert_allclose(solution["x"][early], 1 / (1 - solution.t[early]), rtol=1e-3)
    with pytest.raises(ValueError, match="this solution is not known"):
        solution(0.5)


@pytest.mark.parametrize("method", [None, "DOP853", "LSODA", "Radau"])
def test_what_is_no_number_ends_a_solution(method):
    """A right-hand side that becomes NaN is no silent NaN in the solution, with events neither."""
    for events in (), [lambda x: x - 5]:
        with pytest.warns(ode.IntegrationWarning, match="failing ends at t = 0"):
            solution = ode.solve(ode.ODEProblem(failing, [1.0], (0.0, 1.0)), method, events=events)
        assert np.isfinite(solution.y).all()
        assert solution.t[-1] <= 0.51


def test_errors_of_the_equations_are_raised_as_they_are():
    """An exception in compiled equations has its type, its text and the user's line, with events too."""
    problem = ode.ODEProblem(is_cold, [1.0], (0.0, 1.0), 0.8)
    for options in {}, {"method": "LSODA"}, {"events": lambda t, y: y[0]}:
        with pytest.raises(ValueError, match="too cold") as caught:
            ode.solve(problem, **options)
        assert caught.traceback[-1].name == "is_cold"

    def g(t, y):
        return [y[0]]

    with pytest.raises(ValueError, match="g returns 1 derivatives of 2 states"):
        ode.solve(ode.ODEProblem(g, [1.0, 2.0], (0.0, 1.0)))


def test_complex_states_are_refused():
    """They are not made real in silence: the error says what to write."""
    with pytest.warns(ode.IntegrationWarning, match="cannot compile"), pytest.raises(TypeError, match="real and imag"):
        ode.solve(ode.ODEProblem(lambda t, y: np.array([1j * y[0]]), [1.0], (0.0, 1.0)))


def test_what_numba_cannot_compile_is_evaluated_by_python():
    """A warning says so, and why; the solution is right all the same."""
    seen = []

    def f(t, y):
        seen.append(y)
        return [math.fsum(-y)]

    problem = ode.ODEProblem(f, [1.0], (0.0, 1.0))
    with pytest.warns(ode.IntegrationWarning, match="Numba cannot compile f, so Python evaluates it.*: .*seen"):
        solution = ode.solve(problem)
    assert (solution.method, solution.stiff) == ("LSODA", None)
    assert solution["y0"][-1] == pytest.approx(math.exp(-1), rel=1e-5)
    assert len(seen) == solution.evaluations
    assert not any(np.shares_memory(first, second) for first, second in itertools.pairwise(seen))


# Ctrl-C and progress


def test_ctrl_c_interrupts_compiled_equations():
    """KeyboardInterrupt comes out of solve at once, though no Python runs there, and the next solve is undisturbed."""
    ode.solve(oscillation())
    main, here = threading.main_thread(), os.getpid()
    started = threading.Event()

    def interrupt():
        started.wait()
        until(lambda: time.process_time() > began + 0.2)
        signal.pthread_kill(main.ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.process_time()
    started.set()
    with pytest.raises(KeyboardInterrupt):
        ode.solve(oscillation(1e9), saveat=[1e9])
    assert os.getpid() == here
    thread.join()
    assert time.process_time() - began < 5
    assert ode.solve(oscillation()).success


def test_progress_is_told_in_hundredths():
    """A bar of the user's goes to 100 of 100 once, however often the method was changed."""

    class Bar:
        def __init__(self, total):
            self.total, self.done, self.calls = total, 0, 0
            bars.append(self)

        def update(self, count):
            assert count > 0
            self.done += count
            self.calls += 1

        def close(self):
            self.closed = True

    bars = []
    ode.solve(oscillation(20_000.0), saveat=[20_000.0], progress=Bar)
    assert (bars[0].total, bars[0].closed) == (100, True)
    assert bars[0].calls >= 2
    assert bars[0].done == 100


# Without some of what it needs


def run_without(tmp_path, *packages):
    """Return what a program prints where some packages cannot be imported."""
    for package in packages:
        (tmp_path / f"{package}.py").write_text(f"raise ImportError('there is no {package}')\n")
    (tmp_path / "program.py").write_text(
        "import farcall as fc\n"
        "@fc.ode.ode_def\n"
        "def decay(x, *, k=1.0):\n"
        "    dx = -k * x\n"
        "problem = fc.ode.ODEProblem(decay, [1.0], (0.0, 1.0))\n"
        "solution = fc.ode.solve(problem)\n"
        "print(solution.method, round(float(solution(0.5)[0]), 4))\n"
        "print(fc.ode.solve(problem, events=lambda x: x - 0.5).t_events[0].round(3))\n"
        "print(fc.ode.solve(fc.ode.EnsembleProblem(problem, {'k': [1.0, 2.0]}))['x'].round(4).tolist())\n"
        "print(fc.ode.solve(problem, 'Vern7'))\n"
    )
    command = [sys.executable, "-W", "error", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("packages", [["CyRK"], ["CyRK", "numba"]])
def test_without_cyrk_it_is_scipy(tmp_path, packages):
    """Where there is no CyRK, or no Numba either, SciPy's LSODA does it, and methods of CyRK's say where they are."""
    lines, errors = run_without(tmp_path, *packages)
    assert lines == ["LSODA 0.6065", "[0.693]", "[[0.3679], [0.1353]]"]
    assert "Vern7 is a method of CyRK's: pip install 'farcall[ode]'" in errors


def test_importing_farcall_does_not_import_it():
    """``fc.ode`` is imported when it is asked for."""
    code = "import farcall as fc, sys; print('numpy' in sys.modules, 'ode' in dir(fc), fc.ode.solve.__name__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "False True solve\n"


def test_solving_warns_of_nothing_else():
    """No other warning comes out of a solve, whatever the method."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in (None, "RK23", "LSODA"):
            assert ode.solve(oscillation(), method).success
