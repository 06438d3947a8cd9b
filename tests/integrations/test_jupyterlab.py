"""JupyterLab in Chromium: what a person sees."""

import pytest
from lab import CELLS, CHROMIUM, open_lab


@pytest.fixture
def lab(require, tmp_path):
    """A notebook in a browser, whose cells are told to run. Its kernel has workers, so it ends with the test."""
    require(CHROMIUM.exists(), "Debian's package chromium")
    with open_lab(tmp_path, CELLS) as opened:
        opened.run_all()
        yield opened


def test_a_person_sees_what_happens(lab, tmp_path):
    """A table of workers; what they print under the cell that made them; a bar while the map runs; its value."""
    processes = lab.output(0).locator("tbody tr")
    processes.nth(1).wait_for()
    assert [each.split()[0] for each in processes.all_inner_texts()] == ["2", "3"]
    lab.output(2).get_by_text("From worker 2:\tI am process 2, flipping 1,000,000 coins").wait_for()
    bar = lab.output(3).locator(".widget-hbox")
    bar.wait_for()
    assert lab.prompt(3).inner_text() == "[*]:"
    lab.wait_for(3)
    assert "8/8" in bar.inner_text()
    assert lab.output(3).inner_text().count("From worker") == 8
    lab.output(4).get_by_text("busy").wait_for()
    lab.take_picture(tmp_path / "notebook.png")
    assert (tmp_path / "notebook.png").stat().st_size > 10_000
