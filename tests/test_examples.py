"""Each example runs as its first lines say, on a small problem, and prints what is true."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SAMPLES = 2_400_000  # a multiple of the 240 pieces
FARCALL_RUN = ["-m", "farcall", "run", "-p", "2"]


def run(directory: Path, *words: str, path: Path | None = None) -> str:
    """Return what a program prints; it must succeed, and print nothing on stderr."""
    done = run_any(directory, *words, path=path)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def run_any(directory: Path, *words: str, path: Path | None = None) -> "subprocess.CompletedProcess[str]":
    command = ["env", f"PYTHONPATH={path or ''}", sys.executable, *words]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=55)


def without(directory: Path, package: str) -> Path:
    """Return a directory that hides a package from whoever has it first in sys.path."""
    (directory / "hidden").mkdir()
    (directory / f"hidden/{package}.py").write_text(f"raise ImportError('there is no {package}')\n")
    return directory / "hidden"


def check_table(out: str, counts: list[int]) -> None:
    """The rows are those of the numbers of workers, the same π in each and near π, and its error the true one."""
    rows = re.findall(r"^ +(\d+) +(3\.\d{8}) +(\S+) +([\d.]+) +([\d.]+)$", out, re.MULTILINE)
    assert [int(row[0]) for row in rows] == counts
    assert len({row[1] for row in rows}) == 1
    alone = float(rows[0][3])
    for _, pi, error, seconds, speed in rows:
        assert abs(float(pi) - math.pi) < 6 * 4 * math.sqrt(math.pi / 4 * (1 - math.pi / 4) / SAMPLES)
        assert abs(float(pi) - math.pi) == pytest.approx(float(error), rel=0.06, abs=1e-8)
        check_ratio(alone, float(seconds), float(speed))
        assert 0 < float(seconds) < 30


def check_ratio(alone: float, seconds: float, speed: float) -> None:
    """The speed-up is the ratio of the two times, as exactly as three and two decimals can say."""
    assert (alone - 0.0006) / (seconds + 0.0006) - 0.006 < speed < (alone + 0.0006) / (seconds - 0.0006) + 0.006


def check_figure(path: Path) -> None:
    """The file is a PNG of a good size, with the colours of the figure and not only white."""
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = (imread(path)[..., :3] * 255).round().astype(int)
    assert pixels.shape[0] >= 600
    assert pixels.shape[1] >= 1000
    for colour in (0x18, 0x64, 0xAB), (0xE8, 0x59, 0x0C):
        assert (np.abs(pixels - colour).max(axis=-1) <= 2).sum() > 500
    right = pixels[:, pixels.shape[1] // 2 :]
    assert (np.abs(right - (0x18, 0x64, 0xAB)).max(axis=-1) <= 2).sum() > 500  # the measured line


def test_pi_on_one_and_on_all_workers(tmp_path):
    """Under ``farcall run`` π is the same, and right, on 1 and on all workers, and the figure is written."""
    out = run(tmp_path, *FARCALL_RUN, str(EXAMPLES / "pi.py"), str(SAMPLES), "figure.png")
    assert re.search(r"^Compiled on 2 workers in \d+\.\d s\.$", out, re.MULTILINE)
    check_table(out, [1, 2])
    assert "The figure is in figure.png" in out
    check_figure(tmp_path / "figure.png")


def test_pi_adds_workers_itself(tmp_path):
    """Under plain Python the program adds its workers, and gets the same number as under ``farcall run``."""
    out = run(tmp_path, str(EXAMPLES / "pi.py"), str(SAMPLES))
    workers = int(re.search(r"Compiled on (\d+) workers?", out)[1])
    powers = {2**power for power in range(workers.bit_length())}
    check_table(out, sorted({*powers, workers}))
    check_figure(tmp_path / "speedup.png")


def test_pi_without_matplotlib_says_what_to_install(tmp_path):
    """No matplotlib, no figure, but the rest, and the command that installs it."""
    out = run(tmp_path, *FARCALL_RUN, str(EXAMPLES / "pi.py"), str(SAMPLES), path=without(tmp_path, "matplotlib"))
    check_table(out, [1, 2])
    assert "pip install 'farcall[plot]'" in out
    assert not (tmp_path / "speedup.png").exists()


def test_pi_without_numba_says_what_to_install(tmp_path):
    """No Numba, no numbers: one line with the command that installs it, and status 1."""
    done = run_any(tmp_path, str(EXAMPLES / "pi.py"), path=without(tmp_path, "numba"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "pip install 'farcall[all]'" in done.stderr


@pytest.mark.parametrize(("before", "workers"), [([], [2, 3]), (["-m", "farcall", "run", "-p", "1"], [2, 3, 4])])
def test_coin_walks_through_the_calls(tmp_path, before, workers):
    """Each step prints heads that fair coins give; what the worker prints comes with its number."""
    flips = 300_000
    out = run(tmp_path, *before, str(EXAMPLES / "coin.py"), str(flips))
    check_heads(10_000, re.search(r"^Alone: (\S+) heads in (\S+) flips$", out, re.MULTILINE))
    check_heads(10_000, re.search(r"^Worker 2: (\S+) heads in ([\d,]+) flips", out, re.MULTILINE))
    assert f"Now: processes {[1, *workers]} workers {workers}\n" in out
    assert out.count("From worker 2:\tI am process 2, flipping 10,000 coins\n") == 1
    assert out.count("From worker") == 1
    one = re.search(r"^One worker: (\S+) heads in (\S+) flips, (\S+) s$", out, re.MULTILINE)
    both = re.search(r"^All workers: (\S+) heads in (\S+) flips, (\S+) s, (\S+) times as fast$", out, re.MULTILINE)
    check_heads(flips, one)
    check_heads(flips, both)
    check_ratio(float(one[3]), float(both[3]), float(both[4]))
    assert out.endswith("At the end: processes [1]\n")


def check_heads(flips: int, line: re.Match[str] | None) -> None:
    assert line is not None
    heads, of = (int(each.replace(",", "")) for each in line.groups()[:2])
    assert of == flips
    assert abs(heads - flips / 2) < 6 * math.sqrt(flips) / 2
