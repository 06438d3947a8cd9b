"""The Lorenz attractor: Figure 3 of the document that began farcall, and for which ρ there is one.

    farcall run -p 2 examples/lorenz.py [lorenz.png] [lorenz.gif]

The equations are written as in a book, and compiled. ``solve`` finds out by itself that they are not stiff. The
figure is the trajectory; the film, if a name for one is given, is how it comes about, and takes half a minute. Then the
same problem is solved for two thousand values of ρ, on all workers: for small ones the motion dies down.
"""

import sys
import time

import farcall as fc

try:
    import numpy as np

    ode = fc.ode
except ImportError as error:
    sys.exit(f"{error}: this example needs more; install it with: pip install 'farcall[all]'")


@ode.ode_def
def lorenz(x, y, z, *, σ=10.0, ρ=28.0, β=8 / 3):
    """Convection: σ, ρ and β are the numbers of Prandtl and of Rayleigh, and the shape of the cell."""
    dx = σ * (y - x)
    dy = x * (ρ - z) - y
    dz = x * y - β * z


def draw(solution, path):
    """Write the figure."""
    try:
        axes = solution.plot()
    except ImportError as error:
        print(f"No figure: {error}")
        return
    axes.set_title("The Lorenz attractor: σ = 10, ρ = 28, β = 8/3", pad=0)
    axes.figure.savefig(path, dpi=120)
    print(f"The figure is in {path}")


def find_threshold(problem):
    """Print up to which ρ the motion dies down, and how long the workers took to find out."""
    sweep = ode.EnsembleProblem(problem, parameters={"ρ": np.linspace(1, 41, 2001)})
    started = time.perf_counter()
    solution = ode.solve(sweep, saveat=np.linspace(80, 100, 201), progress=False)
    seconds = time.perf_counter() - started
    moves = np.ptp(solution["z"], axis=-1) > 1
    count, workers = moves.size, fc.nworkers()
    print(
        f"{count:,} trajectories on {workers} worker{'s' if workers > 1 else ''} in {seconds:.1f} s, compiling included"
    )
    print(f"At t = 80 it has come to rest for all ρ up to {solution.values['ρ'][moves].min():.1f}")


def main():
    figure = sys.argv[1] if len(sys.argv) > 1 else "lorenz.png"
    problem = ode.ODEProblem(lorenz, [1.0, 0.0, 0.0], (0.0, 100.0))
    solution = ode.solve(problem)
    print(solution)
    draw(solution, figure)
    if len(sys.argv) > 2:
        solution.animate(sys.argv[2])
        print(f"The film is in {sys.argv[2]}")
    find_threshold(problem)


if __name__ == "__main__":
    main()
