"""Ensembles, on two workers: what comes back, and that nothing depends on who did it."""

import math
import threading

import numpy as np
import pytest
from equations import lorenz
from waiting import until

import farcall as fc
from farcall._wire.compiled.counting import what_was_compiled
from farcall.testing import assert_compiles

ode = fc.ode


@ode.ode_def
def van_der_pol(x, v, *, μ=1.0):
    dx = v
    dv = μ * (1 - x * x) * v - x


PROBLEM = ode.ODEProblem(lorenz, [1.0, 0.0, 0.0], (0.0, 2.0))


def alone(ensemble, **options):
    """Solve an ensemble on the master alone."""
    return ode.solve(ensemble, pool=fc.WorkerPool([1]), **options)


def test_an_ensemble_is_its_problems_solved(cluster):
    """Each trajectory is what solve gives for its problem, to the last bit; its parameters are beside it."""
    values = np.linspace(0, 100, 300)  # more than there are chunks
    solution = ode.solve(ode.EnsembleProblem(PROBLEM, parameters={"ρ": values}), saveat=0.5)
    assert solution.y.shape == (300, 3, 5)
    assert solution["z"].shape == (300, 5)
    assert solution.t.tolist() == [0, 0.5, 1, 1.5, 2]
    assert solution.values["ρ"].tolist() == values.tolist()
    assert solution.success.all()
    assert repr(solution) == "<EnsembleSolution of lorenz: 300 trajectories at 5 times>"
    for index in 0, 117, 299:
        problem = ode.ODEProblem(lorenz, PROBLEM.u0, PROBLEM.tspan, {"ρ": values[index]})
        assert (solution.y[index] == ode.solve(problem, saveat=0.5).y).all()


def test_nothing_is_compiled_on_the_workers(cluster):
    """What was compiled here travels: equations, loop and all; also for a problem that is sent as it is."""
    ensemble = ode.EnsembleProblem(PROBLEM, parameters={"ρ": np.linspace(0, 100, 40)})
    ode.solve(ensemble, pool=fc.WorkerPool([1]))
    with assert_compiles(0):
        ode.solve(ensemble)
        found = fc.remotecall_fetch(2, ode.solve, PROBLEM)
        assert found(1.0).shape == (3,)
        assert {fc.remotecall_fetch(3, lambda: ode.solve(PROBLEM).steps)} == {found.steps}


def test_one_worker_compiles_what_the_master_has_not(cluster):
    """Equations that were never solved here are compiled once in the cluster when two workers need them."""

    @ode.ode_def
    def compiled_by_one(x):
        dx = x

    problem = ode.ODEProblem(compiled_by_one, [1.0], (0.0, 1.0))
    futures = [fc.spawnat(pid, ode.solve, problem) for pid in cluster]
    assert {float(fc.fetch(each)["x"][-1]) for each in futures} == {float(ode.solve(problem)["x"][-1])}
    everywhere = [fc.remotecall_fetch(pid, what_was_compiled)[1] for pid in fc.procs()]
    assert sum(each.startswith("compiled_by_one(") for compiled in everywhere for each in compiled) == 1


def test_arrays_are_broadcast(cluster):
    """Parameters and initial states, all pairs or one by one, give an array with their axes."""
    x, ρ = np.linspace(0.5, 1.5, 3)[:, None], np.array([10.0, 20.0, 28.0, 40.0])
    ensemble = ode.EnsembleProblem(PROBLEM, parameters={"ρ": ρ, "β": 2.0}, u0={"x": x})
    solution = ode.solve(ensemble)
    assert (ensemble.shape, solution.y.shape) == ((3, 4), (3, 4, 3, 1))
    assert (solution.values["x"] == np.broadcast_to(x, (3, 4))).all()
    problem = ode.ODEProblem(lorenz, [1.5, 0, 0], (0.0, 2.0), {"ρ": 20.0, "β": 2.0})
    assert (solution.y[2, 1, :, 0] == ode.solve(problem, saveat=[2.0]).y[:, 0]).all()


def test_seeds_do_not_depend_on_who_draws(cluster):
    """What is drawn depends on the seed and the trajectory's index alone: on one process, on two, of few or of many."""

    def ensemble(count):
        return ode.EnsembleProblem(
            PROBLEM, {"ρ": lambda rng: rng.normal(28, 1)}, {"x": lambda rng: rng.random()}, trajectories=count
        )

    solution, again = ode.solve(ensemble(400), seed=1), alone(ensemble(400), seed=1)
    assert (solution.y == again.y).all()
    assert (alone(ensemble(10), seed=1).y == solution.y[:10]).all()
    assert (ode.solve(ensemble(10), seed=2).values["ρ"] != solution.values["ρ"][:10]).all()
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(1, spawn_key=(7,))))
    assert (solution.values["x"][7], solution.values["ρ"][7]) == (rng.random(), rng.normal(28, 1))
    assert np.unique(solution.values["ρ"]).size == 400
    with pytest.raises(ValueError, match="seed= is for an ensemble that draws"):
        ode.solve(ode.EnsembleProblem(PROBLEM, {"ρ": [1.0]}), seed=1)


def test_a_call_that_solves_can_be_cancelled(cluster):
    """``cancel`` stops compiled equations on the main thread of a worker, of one problem and of a chunk."""
    forever = ode.ODEProblem(lorenz, [1.0, 0.0, 0.0], (0.0, 1e9))
    for problem in forever, ode.EnsembleProblem(forever, {"ρ": [28.0]}):
        future = fc.spawnat(2, solve_to_the_end, problem)
        assert until(lambda: fc.remotecall_fetch(2, is_main_thread_busy))
        assert future.cancel()
        assert until(lambda: not fc.remotecall_fetch(2, is_main_thread_busy))


def solve_to_the_end(problem):
    return ode.solve(
        problem, saveat=[1e9], **({} if isinstance(problem, ode.ODEProblem) else {"pool": fc.WorkerPool([2])})
    )


def is_main_thread_busy():
    return threading.current_thread() is not threading.main_thread()


def test_each_trajectory_has_its_method(cluster):
    """Of an ensemble some may be stiff and some not; LSODA solves those only."""
    problem = ode.ODEProblem(van_der_pol, [2.0, 0.0], (0.0, 500.0))
    solution = ode.solve(ode.EnsembleProblem(problem, {"μ": [0.1, 1.0, 1000.0]}))
    assert solution.stiff.tolist() == [False, False, True]
    single = ode.solve(ode.ODEProblem(van_der_pol, [2.0, 0.0], (0.0, 500.0), {"μ": 1000.0}), saveat=[500.0])
    assert (solution.y[2] == single.y).all()
    assert ode.solve(ode.EnsembleProblem(problem, {"μ": [0.1]}), "LSODA").stiff is None


def test_trajectories_that_end_early(cluster):
    """They are NaN from there on, success is false, ``ended`` says when and why, and one warning counts them."""

    def f(t, y, p):
        return [p[0] * y[0] * y[0]]

    problem = ode.ODEProblem(f, [1.0], (0.0, 1.0), [0.5])
    ensemble = ode.EnsembleProblem(problem, {"p0": [0.5, 2.0, 0.9, 4.0]})
    with pytest.warns(ode.IntegrationWarning, match=r"2 of 4 trajectories of f end before .* p0 = 2 at t = 0\.5"):
        solution = ode.solve(ensemble, saveat=[0.2, 0.4, 1.0])
    assert solution.success.tolist() == [True, False, True, False]
    assert list(solution.ended) == [(1,), (3,)]
    assert solution.ended[3,][0] == pytest.approx(0.25, abs=1e-3)
    assert np.isnan(solution["y0"]).tolist() == [[False] * 3, [False, False, True], [False] * 3, [False, True, True]]
    assert solution["y0"][1, 1] == pytest.approx(1 / (1 - 0.8), rel=1e-4)


def test_errors_of_a_trajectory_name_it(cluster):
    """What the equations raise on a worker is raised here, with the number of the trajectory."""

    def f(t, y, p):
        if p[0] == 300:
            raise ValueError("too large")
        return [-p[0] * y[0]]

    problem = ode.ODEProblem(f, [1.0], (0.0, 1.0), [1.0])
    with pytest.raises(ValueError, match="too large") as caught:
        ode.solve(ode.EnsembleProblem(problem, {"p0": np.arange(500.0)}))
    assert "trajectory 300 of the ensemble" in caught.value.__notes__


def test_what_numba_cannot_compile_runs_on_the_workers_too(cluster):
    """In Python, with the same values."""

    def f(t, y, p):
        return [math.fsum([-p[0] * y[0]])]

    problem = ode.ODEProblem(f, [1.0], (0.0, 1.0), [1.0])
    with pytest.warns(ode.IntegrationWarning, match="Numba cannot compile f"):
        solution = ode.solve(ode.EnsembleProblem(problem, {"p0": [1.0, 2.0]}), saveat=[0.5, 1.0])
    assert solution.stiff is None
    assert solution["y0"] == pytest.approx(np.exp(-np.array([[0.5, 1.0], [1.0, 2.0]])), rel=1e-5)


def test_a_checkpoint_keeps_what_is_done(cluster, tmp_path):
    """The same ensemble is read from the file, another one is refused, also when only the equations are others."""

    def define(factor):
        @ode.ode_def
        def growth(x, *, k=1.0):
            dx = factor * k * x

        return ode.EnsembleProblem(ode.ODEProblem(growth, [1.0], (0.0, 1.0)), {"k": np.linspace(0, 1, 20)})

    path = tmp_path / "growth.fcp"
    ensemble = define(1.0)
    first = ode.solve(ensemble, checkpoint=path)
    assert first["x"][-1, -1] == pytest.approx(math.e, rel=1e-5)
    size = path.stat().st_size
    assert (ode.solve(define(1.0), checkpoint=path).y == first.y).all()
    assert path.stat().st_size == size
    with pytest.raises(ValueError, match="of another map"):
        ode.solve(define(2.0), checkpoint=path)
    with pytest.raises(ValueError, match="of another map"):
        ode.solve(ensemble, checkpoint=path, rtol=1e-3)

    def define_plain(factor):
        problem = ode.ODEProblem(lambda t, y, p: factor * p[0] * y, [1.0], (0.0, 1.0), [1.0])
        return ode.EnsembleProblem(problem, {"p0": np.linspace(0, 1, 20)})

    path = tmp_path / "plain.fcp"
    assert (ode.solve(define_plain(1.0), checkpoint=path).y == ode.solve(define_plain(1.0), checkpoint=path).y).all()
    with pytest.raises(ValueError, match="of another map"):
        ode.solve(define_plain(2.0), checkpoint=path)


def test_progress_counts_trajectories(cluster):
    """A bar goes to the number of trajectories, and knows it from the beginning."""

    class Bar:
        def __init__(self, total):
            bars.append(self)
            self.left = total

        def update(self, count):
            self.left -= count

        def close(self):
            self.closed = True

    bars = []
    ode.solve(ode.EnsembleProblem(PROBLEM, {"ρ": np.linspace(0, 50, 1001)}), progress=Bar)
    assert (bars[0].left, bars[0].closed) == (0, True)


NO_ENSEMBLES = [
    ({"parameters": {"rho": [1.0]}}, "lorenz has no parameter rho: it has σ, ρ, β"),
    ({"u0": {"w": [1.0]}}, "lorenz has no state w"),
    ({"parameters": {"ρ": [1.0, 2.0], "σ": [1.0, 2.0, 3.0]}}, r"these shapes differ: ρ \(2,\), σ \(3,\)"),
    ({"parameters": {"ρ": 1.0}}, "how many trajectories"),
    ({"parameters": {"ρ": lambda rng: 1.0}}, "how many trajectories"),
    ({"parameters": {"ρ": [1.0, math.nan]}}, "write finite numbers"),
    ({"parameters": {"ρ": ["a"]}}, "write finite numbers"),
    ({"trajectories": -1}, "trajectories=-1: write how many"),
]


def test_ensembles_that_are_none(cluster):
    """Wrong names, shapes, numbers and options are errors that name them."""
    for arguments, message in NO_ENSEMBLES:
        with pytest.raises(ValueError, match=message):
            ode.EnsembleProblem(PROBLEM, **arguments)
    with pytest.raises(TypeError, match="made of an ODEProblem"):
        ode.EnsembleProblem(lorenz)
    with pytest.raises(TypeError, match="events= is for one problem"):
        ode.solve(ode.EnsembleProblem(PROBLEM, {"ρ": [1.0]}), events=lambda x: x)
