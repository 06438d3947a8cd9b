"""The notebooks of examples/notebooks: executed anew, and as they lie there with their outputs."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples/notebooks/in_the_cloud.ipynb"


def read(path):
    """Return the code cells of a notebook."""
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The cells of the notebook, executed anew on two workers; a cell that fails is an error."""
    folder = tmp_path_factory.mktemp("executed")
    homes = {name: str(folder) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")}
    command = [Path(sys.executable).with_name("jupyter-execute"), f"--output={folder / 'executed.ipynb'}", NOTEBOOK]
    done = subprocess.run(command, env=os.environ | homes, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr
    return read(folder / "executed.ipynb")


def value(cell):
    """Return the text of the value of a cell, None if it has none."""
    return next((each.data["text/plain"] for each in cell.outputs if each.output_type == "execute_result"), None)


def printed(cell):
    """Return the lines that appeared under a cell."""
    return "".join(each.text for each in cell.outputs if each.output_type == "stream").splitlines()


def find(cells, text):
    """Return the cell with a text in it, of which there is one."""
    (found,) = [cell for cell in cells if text in cell.source]
    return found


def check(cells):
    """What a cell must have is there: values that are always the same, heads of fair coins, π, lines of workers."""
    for cell, stored in zip(cells, read(NOTEBOOK), strict=True):
        if "same" in cell.metadata.get("tags", ()):
            assert value(cell) is not None
            assert value(cell) == value(stored), cell.source
    calls = [cell for cell in cells if cell.source.startswith("%timed addem")]
    assert ["compilation" in printed(cell)[0] for cell in calls] == [True, False, True, False]
    check_heads(int(value(find(cells, "def count_heads(n)"))), 10_000)
    for heads in re.findall(r"\d+", value(find(cells, "a = %spawnat"))):
        check_heads(int(heads), 10_000)
    for text in ("fc.spawnat(2, count_heads, 10**8)", "halves = ", "fc.pmap(count_heads"):
        check_heads(int(value(find(cells, text))), 10**8)
        assert re.match(r"[\d.]+ m?s \(.*\d+ calls?, ", printed(find(cells, text))[-1])
    pi = float(value(find(cells, "samples, best =")))
    assert abs(pi - math.pi) < 6 * 4 * math.sqrt(math.pi / 4 * (1 - math.pi / 4) / 24_000_000)
    assert sorted(printed(find(cells, "a = %spawnat"))) == [
        "From worker 2:\tI am process 2, flipping 10,000 coins",
        "From worker 3:\tI am process 3, flipping 10,000 coins",
    ]
    heard = [
        re.fullmatch(r"From worker (\d):\tI am process \1 and heard '(.*)'", line)
        for line in printed(find(cells, "def listen"))
    ]
    assert sorted(line[2] for line in heard) == [
        f"hello from {place}" for place in ("Berkeley", "Bloomington", "Boston", "Boulder")
    ]
    assert "image/png" in find(cells, "plt.show()").outputs[-1].data


def check_heads(heads, flips):
    assert abs(heads - flips / 2) < 6 * math.sqrt(flips) / 2


def test_the_notebook_runs(executed):
    """No cell fails, and what is known of the outputs is true."""
    check(executed)


def test_the_notebook_is_kept_as_it_was_executed():
    """It lies there with the outputs of one run from its beginning to its end, and without what GitHub cannot show."""
    cells = read(NOTEBOOK)
    check(cells)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert "widgets" not in nbformat.read(NOTEBOOK, 4).metadata
    assert not any("execution" in cell.metadata for cell in cells)
