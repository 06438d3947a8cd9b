"""Each example runs as its first lines say, on a small problem, and prints what is true."""

import contextlib
import importlib.util
import itertools
import math
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

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
    # Unbuffered, print writes a line and its end separately, and the line of a worker may come between.
    command = ["/usr/bin/env", "-u", "PYTHONUNBUFFERED", f"PYTHONPATH={path or ''}", sys.executable, *words]
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


def test_specialise_compiles_a_version_for_each_type(tmp_path):
    """Here the first call of each type compiles, and the second does not; the worker's values are the same."""
    out = run(tmp_path, str(EXAMPLES / "specialise.py"))
    here, there = out.split("Compiled here for int64, float64\n")
    pattern = r"^addem\((\S+)\) {}:\n[\d.]+ (?:s|ms|us)(.*)\n    = (\S+)$"
    lines = re.findall(pattern.format("here"), here, re.MULTILINE)
    assert [(x, value, "% compilation" in rest) for x, rest, value in lines] == [
        ("3", "12", True),
        ("3", "12", False),
        ("3.0", "12.0", True),
        ("3.0", "12.0", False),
    ]
    lines = re.findall(pattern.format("on worker 2"), there, re.MULTILINE)
    assert [(x, value, "1 call, " in rest) for x, rest, value in lines] == [
        (x, value, True) for x, value in (("3", "12"), ("3", "12"), ("3.0", "12.0"), ("3.0", "12.0"))
    ]
    assert re.search(r"^[\d.]+ (s|ms) \(.*8 calls, ", there, re.MULTILINE)
    assert re.findall(r"^  addem +([34]) +4 ", there, re.MULTILINE) == ["3", "4"]


def test_listeners_hear_every_message_once(tmp_path):
    """Each message is printed by one of the workers, in the order of sending on each, and each worker stops once."""
    out = run(tmp_path, *FARCALL_RUN, str(EXAMPLES / "listener.py"))
    places = ["Bloomington", "Boston", "Berkeley", "Boulder", "Baltimore", "Brisbane"]
    heard = re.findall(r"^From worker (\d):\tI am process (\d) and heard 'hello from (\w+)'$", out, re.MULTILINE)
    assert sorted(place for _, _, place in heard) == sorted(places)
    assert all(line == pid for line, pid, _ in heard)
    for pid in "23":
        mine = [places.index(place) for _, by, place in heard if by == pid]
        assert mine == sorted(mine)
        assert out.count(f"From worker {pid}:\tI am process {pid} and stop\n") == 1
    assert out.count("From worker") == len(places) + 2
    assert "Heard by all: 6 messages\n" in out


TABLE_SERVICE = EXAMPLES / "table_service.py"


@pytest.fixture(scope="module")
def table_service() -> ModuleType:
    """The functions of the example, to be called one by one."""
    spec = importlib.util.spec_from_file_location("table_service", TABLE_SERVICE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def azurite(require, monkeypatch):
    """Azurite in the PATH: one that is there, or that which .ci/run installs into the repository."""
    installed = EXAMPLES.parent / ".cache/azurite/node_modules/.bin"
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{installed}")
    require(shutil.which("azurite-table"), "the program azurite-table of the npm package azurite")


def check_service(out: str, workers: int, service: str, count: int) -> None:
    """The throughput is the ratio of its numbers, and every message is stored once."""
    assert f"{workers} workers store {count} results in {service}.\n" in out
    messages, seconds, speed = re.search(r"^(\S+) messages in (\S+) s: (\S+) messages/s$", out, re.MULTILINE).groups()
    assert int(messages) == count
    exact, rounded = float(seconds), float(speed.replace(",", ""))
    assert count / (exact + 0.0006) - 0.6 < rounded < count / (exact - 0.0006) + 0.6
    assert out.endswith(f"Read back: {count} rows: every message is stored exactly once.\n")


def check_kills(done: "subprocess.CompletedProcess[str]", kills: int) -> None:
    """So many workers were killed, at most one message of each was delivered again, and nothing else went wrong."""
    gone = r"farcall: worker \d+ is gone: killed by signal 9 \(SIGKILL\)\n"
    assert re.fullmatch(f"({gone}){{{kills}}}", done.stderr)
    assert done.returncode == 0
    killed, again = re.search(r"^Workers killed: (\d+); messages delivered again: (\d+)$", done.stdout, re.M).groups()
    assert int(killed) == kills
    assert int(again) <= kills


def test_table_service_stores_every_message_once(tmp_path):
    """By default ten workers fill a table of SQLite, no message is delivered twice, and no file is left."""
    out = run(tmp_path, str(TABLE_SERVICE), "--messages", "500")
    check_service(out, 10, "sqlite", 500)
    assert "Workers killed: 0; messages delivered again: 0\n" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [10, 2])
def test_table_service_is_complete_when_workers_are_killed(tmp_path, workers):
    """A third of the workers, at least one, die half-way by SIGKILL, and what they had is stored by the others."""
    done = run_any(tmp_path, str(TABLE_SERVICE), str(workers), "--messages", "500", "--kill")
    check_kills(done, max(1, workers // 3))
    check_service(done.stdout, workers, "sqlite", 500)


def test_table_service_with_azure_tables(tmp_path, azurite):
    """The same against Azurite, which the example starts and stops."""
    done = run_any(tmp_path, str(TABLE_SERVICE), "4", "--messages", "200", "--service", "azure", "--kill")
    check_kills(done, 1)
    check_service(done.stdout, 4, "azure", 200)
    assert list(tmp_path.iterdir()) == []


def test_table_service_with_a_connection_string(tmp_path, azurite, table_service):
    """In a service that is there already the table stays, under the printed name; nothing is delivered twice."""
    with table_service.azurite() as connection:
        words = ["2", "--messages", "20", "--service", "azure", "--connection", connection]
        out = run(tmp_path, str(TABLE_SERVICE), *words)
        check_service(out, 2, "azure", 20)
        name = re.search(r"^The table is (\w+)\.$", out, re.MULTILINE)[1]
        with contextlib.closing(table_service.AzureTable(connection, name)) as table:
            assert sorted(table.rows()) == [(seed, table_service.count_heads(seed), 1) for seed in range(20)]


def test_table_service_finds_every_fault(table_service):
    """A result that is missing, doubled, foreign or wrong is found; a complete table has no fault."""
    right = [(seed, table_service.count_heads(seed), 1) for seed in range(5)]
    foreign = (5, table_service.count_heads(5), 1)
    assert table_service.find_fault(right[::-1], 5) == ""
    assert table_service.find_fault(right[1:], 5) == "missing: 1, too many: 0"
    assert table_service.find_fault([*right, right[0]], 5) == "missing: 0, too many: 1"
    assert table_service.find_fault([*right, foreign], 5) == "missing: 0, too many: 1"
    assert table_service.find_fault([*right[1:], (0, -1, 1)], 5) == "missing: 1, too many: 1"


def test_table_service_without_the_package_for_azure(tmp_path):
    """No azure-data-tables: one line with the command that installs it, and status 1."""
    done = run_any(tmp_path, str(TABLE_SERVICE), "--service", "azure", path=without(tmp_path, "azure"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "pip install 'farcall[azure]'" in done.stderr


def test_table_service_without_azurite(tmp_path, monkeypatch):
    """No emulator in the PATH: one line with the command that installs it, and status 1."""
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run_any(tmp_path, str(TABLE_SERVICE), "--service", "azure")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "npm install --global azurite" in done.stderr


@pytest.fixture
def compiler(require, monkeypatch, tmp_path):
    """A C compiler, and a cache of the user's in which nothing is compiled yet."""
    require(shutil.which("cc"), "the program cc, a C compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_c_library_is_called_in_every_way(tmp_path, compiler):
    """By ctypes, cffi and Numba the energy is the same, and the lowest one is that of the literature."""
    out = run(tmp_path, str(EXAMPLES / "c_library.py"))
    energies = re.findall(r"^By (ctypes|cffi|Numba) .*: +(-\d+\.\d{6})$", out, re.MULTILINE)
    assert [way for way, _ in energies] == ["ctypes", "cffi", "Numba"]
    assert len({energy for _, energy in energies}) == 1
    assert "\nLowest of 20,001, on all workers: -44.326801 at a radius of 1.08184\n" in out  # Hoare and Pal, 1971
    python, compiled = map(float, re.findall(r"^call_from_\w+: (\S+) ns per call on worker 2$", out, re.MULTILINE))
    assert 0 < compiled < python


PACKAGE_OF_THE_MASTER = f"""
import sys
import numpy as np
import farcall as fc

fc.addprocs(1, env={{"XDG_CACHE_HOME": "there"}})
sys.path.append({str(EXAMPLES)!r})  # the worker has begun without it, as one on another host has
import lennard_jones
print(fc.remotecall_fetch(2, lennard_jones.energy_by_cffi, 2.0 ** (1 / 6) / 2.0**0.5 * np.eye(3)))
print(fc.everywhere("import lennard_jones; lennard_jones.path", pids=2))
"""


def test_a_library_as_a_package_comes_from_the_master(tmp_path, compiler):
    """A worker that lacks package and library gets the C source, and compiles it for itself."""
    energy, path = run(tmp_path, "-c", PACKAGE_OF_THE_MASTER).split()
    assert float(energy) == pytest.approx(-3.0)
    assert path.startswith("there/")
    assert sorted(each.parts[-3] for each in tmp_path.rglob("*.so")) == ["cache", "there"]


def test_dispatch_finds_the_method_for_each_pair(tmp_path):
    """The numbers of pairs are those of plain loops; methods are added, and replaced, on all workers."""
    draw = random.Random(2018)
    circles = [(draw.random(), draw.random()) for _ in range(300)]
    corners = [(draw.random(), draw.random()) for _ in range(300)]
    of_circles = sum(math.dist(a, b) <= 0.04 for a, b in itertools.combinations(circles, 2))
    of_boxes = sum(abs(a[0] - b[0]) <= 0.04 and abs(a[1] - b[1]) <= 0.04 for a, b in itertools.combinations(corners, 2))
    nearest = (
        ((x, y), [min(max(z, low), low + 0.04) for z, low in zip((x, y), b, strict=True)])
        for x, y in circles
        for b in corners
    )
    mixed = sum(math.dist(centre, point) <= 0.02 for centre, point in nearest)
    out = run(tmp_path, str(EXAMPLES / "dispatch.py"))
    expected = rf"""{of_circles} pairs of circles touch, {of_boxes} pairs of boxes
A circle and a box: NotFoundLookupError on worker [23]
{of_circles + of_boxes + mixed} pairs of circles and boxes
{of_circles} pairs of circles fewer
Worker 4 knows 4 methods, I know 4
It says True
"""
    assert re.fullmatch(expected, out)


def test_linear_algebra_here_and_there(tmp_path):
    """What workers compute is right, and each line has its times; Poisson's equation gives what it does in theory."""
    out = run(tmp_path, str(EXAMPLES / "linear_algebra.py"), "200")
    rows = re.findall(r"^(\w[\w ]+\w) +([\d.]+) s +([\d.]+) s +([\d.]+) s$", out, re.MULTILINE)
    assert [row[0] for row in rows] == ["inverse", "product with transpose", "singular value decomposition"]
    assert all(0 <= float(transfer) < float(there) + 0.001 for _, _, there, transfer in rows)
    errors = re.findall(r"= (\de[-+]\d\d)\b|up to (\de[-+]\d\d) of", out)
    assert len(errors) == 4
    assert all(float("".join(each)) < 1e-10 for each in errors)
    assert re.search(r"^Singular values on worker \d: from \d+\.\d down to \S+$", out, re.MULTILINE)
    assert re.search(r"^\d+ condition numbers: [\d.]+ s here, [\d.]+ s on \d+ workers$", out, re.MULTILINE)
    assert "Poisson: 2,401 unknowns, 11,809 numbers; the highest point is u = 0.0736" in out  # 0.07367 in the limit
    assert re.search(r"^Solved with the factors on worker \d in [\d.]+ ms\n$", out, re.MULTILINE)


def test_lorenz_draws_the_attractor(tmp_path):
    """The figure has the trajectory, the method is the explicit one, and chaos begins where it is known to begin."""
    out = run(tmp_path, *FARCALL_RUN, str(EXAMPLES / "lorenz.py"), "figure.png")
    assert re.search(r"^<Solution of lorenz: 2,\d{3} steps of Vern7 \(not stiff\) to t = 100>$", out, re.MULTILINE)
    assert re.search(r"^2,001 trajectories on 2 workers in \d+\.\d s, compiling included$", out, re.MULTILINE)
    threshold = re.search(r"^At t = 80 it has come to rest for all ρ up to (\d+\.\d)$", out, re.MULTILINE)
    assert 20 < float(threshold[1]) < 24.74  # above, the two points of rest are unstable
    from matplotlib.image import imread

    pixels = (imread(tmp_path / "figure.png")[..., :3] * 255).round().astype(int)
    assert (np.abs(pixels - (0x18, 0x64, 0xAB)).max(axis=-1) <= 2).sum() > 5000
