"""``%load_ext farcall``, in a real kernel and in IPython."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TALK = r"""
import subprocess, sys

gate = fc.RemoteChannel(1)

def talk():
    gate.take()
    subprocess.run(["echo", "from a program"])
    print("from Python")
    print("to stderr", file=sys.stderr)
    fc.remotecall_fetch(3, print, "nested")
    fc.remotecall_fetch(1, print, "back home\n", end="")  # in one piece, between whose halves no line can come
"""
WORK = """
def work(n):
    try:
        print("begun", n)
        while True:
            pass
    finally:
        print("finally", n)
"""


def test_output_appears_in_the_cell_that_caused_it(notebook):
    """What a call prints, in whichever process and way, comes to its cell, also when another cell runs."""
    notebook.run(TALK)
    first = notebook.run("talking = fc.spawnat(2, talk)")
    second = notebook.run("print('mine')\nfc.remotecall_fetch(3, print, 'me too')\ngate.put(1)\nfc.wait(talking);")
    assert second.stream() == ["mine", "From worker 3:\tme too"]
    assert second.stream("stderr") == []
    words = ["From worker 2:\tfrom Python", "From worker 2:\tfrom a program", "From worker 3:\tnested", "back home"]
    assert sorted(first.stream()) == sorted(words)
    assert first.stream("stderr") == ["From worker 2:\tto stderr"]


def test_output_of_a_map_appears_in_its_cell(notebook):
    """Also while another cell makes calls and maps on the same workers."""
    notebook.run("import threading\ngate = fc.RemoteChannel(1)\ndef say(n):\n    gate.take()\n    print('item', n)")
    # In a call to the master itself the map goes on when the cell is over; a thread has no cell of its own.
    first = notebook.run("mapping = fc.spawnat(1, fc.pmap, say, range(4), batch_size=2)")
    second = notebook.run("for n in range(4):\n    fc.pmap(print, 'ab')\n    gate.put(n)\nfc.wait(mapping);")
    assert sorted(line.partition("\t")[2] for line in first.stream()) == ["item 0", "item 1", "item 2", "item 3"]
    assert sorted(line.partition("\t")[2] for line in second.stream()) == list("aaaabbbb")


def test_a_call_that_waits_for_a_worker_prints_in_its_cell(notebook):
    """Of a pool without a free worker too, and what goes wrong in a call that nobody waits for."""
    first = notebook.run("pool = fc.WorkerPool([3])\ntaken = pool.take()\nqueued = fc.spawnat(pool, print, 'queued')")
    second = notebook.run("fc.remote_do(3, int, 'x')\nlost = fc.spawnat(1, print, 'on the master')\nfc.wait(lost);")
    third = notebook.run("pool.put(taken)\nfc.wait(queued);")
    notebook.read_until(lambda: second.stream("stderr"))
    assert (first.stream(), second.stream(), third.stream()) == (["From worker 3:\tqueued"], ["on the master"], [])
    assert "ValueError: invalid literal" in second.stream("stderr")[-1]


def test_what_a_call_printed_comes_before_its_value(notebook):
    """What the cell prints when it has the value comes after, and never into a line of the worker."""
    for code in "fc.remotecall_fetch(2, print, 'it')", "fc.fetch(fc.spawnat(3, print, 'it'))", "fc.pmap(print, ['it'])":
        cell = notebook.run(f"for _ in range(30):\n    {code}\n    print('here')")
        assert [line.partition("\t")[2] or line for line in cell.stream()] == ["it", "here"] * 30


def test_what_a_call_printed_is_there_when_its_cell_is_over(notebook):
    """A program that executes notebooks stops to listen at the end of a cell: by then every line has come."""
    cell = notebook.run("def count(n):\n    for i in range(n): print(i)\nfc.remotecall_fetch(3, count, 3000)")
    assert cell.stream() == [f"From worker 3:\t{i}" for i in range(3000)]


def test_output_of_dask_workers_appears_in_the_cell_that_caused_it(notebook, dask):
    """What calls print there comes in messages, with the cell."""
    notebook.run(f"{TALK}\npids = fc.addprocs({dask.address!r})")
    first = notebook.run("talking = fc.spawnat(pids[0], talk)")
    second = notebook.run(
        "fc.remotecall_fetch(pids[1], print, 'mine')\ngate.put(1)\nfc.wait(talking)\nfc.rmprocs(pids);"
    )
    assert [line.partition("\t")[2] for line in second.stream()] == ["mine"]
    assert {line.partition("\t")[2] for line in first.stream()} >= {"from Python", "nested"}


def test_everywhere(notebook):
    """A cell runs in every process, or in those that are named; of one it has the value."""
    notebook.run("%%everywhere\nimport math\ndef area(r):\n    return math.pi * r * r")
    assert notebook.run("[round(fc.remotecall_fetch(p, lambda: area(2)), 2) for p in fc.procs()]").value == str(
        [12.57] * 3
    )
    assert notebook.run("%%everywhere 3\nwhere = fc.myid()\nwhere").error.startswith("NameError: name 'fc'")
    notebook.run("%everywhere import farcall as fc")
    assert notebook.run("%%everywhere 3\nwhere = fc.myid()\nwhere").value == "3"
    assert notebook.run("%%everywhere fc.workers()\nwhere = 10 * fc.myid()").value is None
    assert notebook.run("fc.pmap(lambda p: fc.remotecall_fetch(p, eval, 'where'), [2, 3])").value == "[20, 30]"
    assert notebook.run("'where' in globals()").value == "False"
    assert "%%everywhere 2, 3" in notebook.run("%%everywhere 2 3\n1").stream("stderr")[0]


def test_spawnat(notebook):
    """The magic starts an expression with the names of this notebook, and of a function, and gives its Future."""
    assert notebook.run("n = 20\nf = %spawnat 3 len({n}) + n + fc.myid()\nfc.fetch(f), f.where").value == "(24, 3)"
    code = "def inside(pid, x):\n    f = %spawnat pid x * n\n    return f.where, fc.fetch(f)\ninside(2, 3)"
    assert notebook.run(code).value == "(2, 60)"
    assert notebook.run("f = %spawnat any fc.myid()\nfc.fetch(f) == f.where > 1").value == "True"
    assert "%spawnat 2 heads(10_000)" in notebook.run("%spawnat 2").stream("stderr")[0]
    assert notebook.run("%spawnat 2 x = 3").error.startswith("SyntaxError")


def test_timed(notebook):
    """The magics print the line, return the value of the last line, and bind what they define."""
    line = r"[\d.]+ (s|ms|us)( \(.*1 calls?, .* out, .* in\))?"
    cell = notebook.run("value = %timed fc.remotecall_fetch(2, pow, 2, 5)\nvalue")
    assert re.fullmatch(line, "".join(cell.stream()))
    assert cell.value == "32"
    cell = notebook.run("%%timed\nbase = 3\nfc.remotecall_fetch(2, pow, base, 2)")
    assert re.fullmatch(line, "".join(cell.stream()))
    assert (cell.value, notebook.run("%timed base += 1").value, notebook.run("base").value) == ("9", None, "4")
    assert notebook.run("%timed base;").value is None
    failed = notebook.run("%%timed\nbase\n1 / 0")
    assert failed.error == "ZeroDivisionError: division by zero"
    assert " until ZeroDivisionError" in failed.stream()[0]


def test_a_notebook_shows_tables(notebook):
    """What addprocs, procs and workers return is a list, and in a notebook a table; so are Futures and channels."""
    shown = notebook.run("fc.procs()")
    assert shown.value == "[1, 2, 3]"
    assert shown.html.count("<tr>") == 4
    assert "<table>" in notebook.run("%spawnat 2 5").html
    assert "<table>" in notebook.run("fc.RemoteChannel(3)").html


WAYS = [
    ("fc.pmap(work, range(4))", 2),
    ("fc.fetch(fc.spawnat(2, work, 7))", 1),
    ("f = %spawnat 3 work(8)\nf.result()", 1),
    ("fc.remotecall_fetch(2, work, 9)", 1),
]


@pytest.mark.parametrize(("code", "calls"), WAYS)
def test_interrupting_the_kernel_cancels_the_work_and_keeps_the_cluster(notebook, code, calls):
    """The calls that run are interrupted where they are, what they print at last is in the cell, and workers go on."""
    notebook.run(WORK)
    cell = notebook.begin(code)
    notebook.read_until(lambda: len(cell.stream()) == calls)
    notebook.interrupt()
    notebook.read_until(lambda: cell.done and len(cell.stream()) == 2 * calls)
    assert cell.error.startswith("KeyboardInterrupt")
    begun, ended = cell.stream()[:calls], cell.stream()[calls:]
    assert sorted(line.replace("begun", "finally") for line in begun) == sorted(ended)
    assert notebook.run("fc.pmap(abs, range(-3, 0)), fc.workers()").value == "([3, 2, 1], [2, 3])"


def test_an_interrupt_never_cuts_a_message_in_two(notebook):
    """The kernel makes a handler for each cell; ours stands before it from the first line of the cell on."""
    for _ in range(2):
        cell = notebook.run("import signal\nsignal.getsignal(signal.SIGINT).__qualname__")
        assert cell.value == "'InterruptGuard._handle'"
    assert notebook.run("await fc.spawnat(2, abs, -1), signal.getsignal(signal.SIGINT).__qualname__").value == (
        "(1, 'InterruptGuard._handle')"
    )


def widgets(cell):
    return [data for data in cell.shown() if "application/vnd.jupyter.widget-view+json" in data]


def test_a_map_that_takes_a_while_shows_a_widget(notebook):
    """It counts to the end; what is done at once shows nothing, and without ipywidgets the bar is of text."""
    notebook.run("import sys, time\nsys.modules['ipywidgets'] = None")
    text = notebook.run("fc.pmap(abs, range(10), progress=True);")
    assert widgets(text) == []
    assert "abs: 100%" in "".join(text.stream("stderr"))
    assert "Warning" not in "".join(text.stream("stderr"))
    notebook.run("for name in [*sys.modules]:\n    if name.startswith(('tqdm', 'ipywidgets')): del sys.modules[name]")
    assert notebook.run("fc.pmap(abs, range(10));").shown() == []
    bar = notebook.run("fc.pmap(time.sleep, [0.06] * 40, batch_size=1);")
    assert len(widgets(bar)) == 1
    said = [content["data"].get("state", {}).get("value") for kind, content in bar.messages if kind == "comm_msg"]
    assert any("40/40" in str(each) for each in said)


def test_the_cells_of_the_page_run(notebook):
    """Each cell of docs/notebook.md does; what a call prints appears under the one that the page names."""
    page = (Path(__file__).parents[2] / "docs/notebook.md").read_text()
    cells = [notebook.run(code) for code in re.findall(r"^```ipython\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]
    assert [cell.error for cell in cells] == [None] * 5
    assert cells[3].stream() == [f"From worker 2:\tstep {i}" for i in range(3)]
    assert cells[4].stream() == []
    notebook.run("fc.rmprocs([pid for pid in fc.workers() if pid > 3]);")


def test_without_a_notebook():
    """IPython in a terminal has the magics, and prints what workers print."""
    code = "%load_ext farcall\nimport farcall as fc\nfc.addprocs(1);\nf = %spawnat 2 print('hello')\ndone = fc.wait(f)"
    command = [sys.executable, "-m", "IPython", "--quick", "--colors=nocolor", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.stdout == "From worker 2:\thello\n", done.stderr
