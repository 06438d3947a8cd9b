"""The micro-benchmarks: all versions give right answers, and a wrong one would be noticed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NUMBER = r" +(\d+\.\d+)"


@pytest.fixture(autouse=True)
def gcc(require):
    require(shutil.which("gcc"), "gcc, which compiles the version in C")


def run(directory: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run a copy of the benchmarks, once each and without Julia."""
    command = [sys.executable, "-W", "error", "-m", "micro", "--rounds", "1", *options]
    environment = os.environ | {"JULIA": "", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=55)


def test_all_answers_are_right_and_the_same_in_c_and_numba(tmp_path):
    """Each benchmark runs in C, Numba and Python, and the table and the figure have all of them."""
    figure = tmp_path / "figure.png"
    done = run(BENCHMARKS, "--figure", str(figure))
    assert done.stderr == ""
    assert done.returncode == 0
    rows = re.findall(rf"^(\w+_\w+){NUMBER}{NUMBER}{NUMBER}{NUMBER} +\d+$", done.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == re.findall(r"^(\w+): Numba over C ", done.stdout, re.MULTILINE)
    assert len(rows) == 8
    assert {row[2] for row in rows} == {"1.00"}
    product = 1.0
    for row in rows:
        product *= float(row[3])
    mean = re.search(rf"^geometric mean +1\.00{NUMBER}{NUMBER}$", done.stdout, re.MULTILINE)
    assert mean is not None
    assert float(mean[1]) == pytest.approx(product ** (1 / 8), abs=0.02)
    assert figure.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


NUMPY = """
import math, micro, tempfile
import numpy as np
from micro.native import Native
from farcall.random import rand, randn, xoshiro

rng = xoshiro(3)
a, b = (np.array([rand(rng) for _ in range(900)]).reshape(30, 30) for _ in range(2))
rng, v, w = xoshiro(3), [], []
for _ in range(20):
    a_to_d = [np.array([randn(rng) for _ in range(25)]).reshape(5, 5) for _ in range(4)]
    for found, x in (v, np.hstack(a_to_d)), (w, np.block([a_to_d[:2], a_to_d[2:]])):
        found.append(np.trace(np.linalg.matrix_power(x.T @ x, 4)))
with tempfile.TemporaryDirectory() as directory:
    native = Native(directory)
    assert math.isclose(native.matrix_multiply(30, 3), np.trace(a @ b), rel_tol=1e-12)
    expected = [np.std(each, ddof=1) / np.mean(each) for each in (v, w)]
    assert np.allclose(native.matrix_statistics(20, 3), expected, rtol=1e-9, atol=0), expected
"""


def test_the_matrices_of_c_are_those_of_numpy():
    """C's products and statistics, with which Numba's are compared, are what NumPy computes from the same numbers."""
    done = subprocess.run([sys.executable, "-c", NUMPY], cwd=BENCHMARKS, capture_output=True, text=True, timeout=55)
    assert done.stderr == ""
    assert done.returncode == 0


# What is wrong where, and what is said about it.
WRONG = {
    "recursion_fibonacci": ("micro.c", "fib(n - 2)", "fib(n - 3)", "in C returned"),
    "iteration_pi_sum": ("compiled.py", "(1, terms + 1)", "(1, terms)", "in Numba returned"),
    "recursion_quicksort": ("plain.py", "if lo < j:", "if lo + 9 < j:", "in CPython returned nan"),
    "matrix_multiply": ("micro.c", "multiply(0, n, n, n, a, b, c)", "multiply(1, n, n, n, a, b, c)", "in C, but"),
    "print_to_file": ("compiled.py", "(i, i + 1)", "(i + 1, i)", "in Numba wrote something else"),
}


@pytest.mark.parametrize("benchmark_name", WRONG)
def test_a_wrong_answer_ends_the_run(tmp_path, benchmark_name):
    """Who computes something else is named, and no table is printed."""
    file, right, wrong, message = WRONG[benchmark_name]
    shutil.copytree(BENCHMARKS, tmp_path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    source = tmp_path / "benchmarks/micro" / file
    text = source.read_text()
    assert right in text
    source.write_text(text.replace(right, wrong))
    done = run(tmp_path / "benchmarks", "--only", benchmark_name)
    assert done.returncode == 1
    assert re.fullmatch(f"{benchmark_name} .*{message}.*\n", done.stderr)
    assert "geometric mean" not in done.stdout
