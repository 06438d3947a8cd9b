"""Functions on their way to real processes: always the code and the values that the caller sees now."""

import functools
import gc
import importlib
import subprocess
import sys
import threading
import types
import weakref

import numpy as np
import pytest

import farcall as fc

pytestmark = pytest.mark.on_every_engine


def _node():
    return fc._cluster.master().node


def test_globals_are_those_of_the_moment(cluster):
    """A function sees its globals as they are at each call, rebound or changed in place."""
    two = cluster[0]
    program = {"__name__": "__main__"}
    exec("factor = 2; table = {}\ndef scale(x): return factor * x\ndef look_up(key): return table.get(key)", program)
    scale, look_up = program["scale"], program["look_up"]
    assert fc.remotecall_fetch(two, scale, 5) == 10
    program["factor"] = 3
    assert fc.remotecall_fetch(two, scale, 5) == 15
    assert fc.remotecall_fetch(two, look_up, "a") is None
    program["table"]["a"] = 7
    assert fc.remotecall_fetch(two, look_up, "a") == 7


def test_captured_variables_are_those_of_the_moment(cluster):
    """A closure sees what it captured as it is at each call; what a call changes stays in that call."""
    two = cluster[0]
    n, items = 1, [1]

    def read():
        return n, list(items)

    def grow():
        items.append(99)
        return len(items)

    assert fc.remotecall_fetch(two, read) == (1, [1])
    n = 2
    items.append(5)
    assert fc.remotecall_fetch(two, read) == (2, [1, 5])
    assert [fc.remotecall_fetch(two, grow) for _ in range(3)] == [3, 3, 3]
    assert items == [1, 5]


def test_a_redefined_function_is_the_new_one(cluster):
    """Running a definition again, as in a notebook, is seen at once, also through functions that call it."""
    two = cluster[0]
    namespace = {"__name__": "__main__"}
    exec("def inner(): return 'old'\ndef outer(): return inner()", namespace)
    outer = namespace["outer"]
    assert fc.remotecall_fetch(two, outer) == "old"
    exec("def inner(): return 'new'", namespace)
    assert fc.remotecall_fetch(two, outer) == "new"
    outer.__code__ = (lambda: "newest").__code__
    assert fc.remotecall_fetch(two, outer) == "newest"


def test_an_unchanged_function_crosses_a_link_once(cluster):
    """The second call sends a number, not the function; a redefinition with the same content sends nothing either."""
    two = cluster[0]
    link = _node().links[two]
    namespace = {"__name__": "__main__"}
    exec("def f(x): return x + 1", namespace)
    before = len(link.known)
    for _ in range(3):
        assert fc.remotecall_fetch(two, namespace["f"], 1) == 2
    assert len(link.known) == before + 1
    exec("def f(x): return x + 1", namespace)
    assert fc.remotecall_fetch(two, namespace["f"], 1) == 2
    assert len(link.known) == before + 1


def test_large_captured_data_crosses_once_per_content(cluster):
    """A captured array is sent again only when its content has changed, and each call gets a private, writable one."""
    two = cluster[0]
    data = np.arange(300_000.0)

    def total():
        value = float(data.sum())
        data[:] = 0  # private to this call
        return value

    pool = _node().segments
    expected = float(data.sum())
    assert fc.remotecall_fetch(two, total) == expected
    copies = pool.copies
    for _ in range(3):
        assert fc.remotecall_fetch(two, total) == expected
    assert pool.copies == copies
    data[0] = 1_000
    assert fc.remotecall_fetch(two, total) == expected + 1_000
    assert pool.copies == copies + 1


def test_a_large_capture_is_warned_of_by_name(cluster):
    """A closure over more than 10 MB is named, with the variable."""
    big = np.zeros(2_000_000)
    small = 1

    def use():
        return big[0] + small

    with pytest.warns(UserWarning, match=r"use captures 16 MB.*'big'"):
        assert fc.remotecall_fetch(cluster[0], use) == 1


def test_the_codebook_keeps_nothing_alive(cluster):
    """What a function captured dies with the function here, although it was sent."""

    class Thing:
        pass

    thing = Thing()
    alive = weakref.ref(thing)

    def use(thing=thing):
        return 1

    assert fc.remotecall_fetch(cluster[0], use) == 1
    del use, thing
    gc.collect()
    assert alive() is None


def test_names_that_the_sender_lacks_resolve_on_the_worker(cluster):
    """A global that is unknown here is looked up in the worker's __main__, when it is used."""
    two = cluster[0]
    fc.everywhere("only_there = 41", pids=two)
    namespace = {"__name__": "__main__"}
    exec("def use(): return only_there + 1", namespace)
    assert fc.remotecall_fetch(two, namespace["use"]) == 42
    fc.everywhere("only_there = 1", pids=two)
    assert fc.remotecall_fetch(two, namespace["use"]) == 2
    with pytest.raises(NameError, match="only_there"):
        fc.remotecall_fetch(cluster[1], namespace["use"])


def test_modules_that_workers_cannot_import_travel(cluster):
    """A module made by hand, and this test module, are pickled by value."""
    module = types.ModuleType("made_by_hand")
    sys.modules["made_by_hand"] = module
    try:
        exec("def helper(x): return x * 3\ndef f(x): return helper(x) + 1", module.__dict__)
        assert fc.remotecall_fetch(cluster[0], module.f, 4) == 13
    finally:
        del sys.modules["made_by_hand"]


def test_importable_functions_go_by_name(cluster):
    """A library's function is imported there, not copied."""
    assert fc.remotecall_fetch(cluster[0], lambda f: f is __import__("functools").reduce, functools.reduce)
    assert fc.remotecall_fetch(cluster[0], importlib.import_module, "json").__name__ == "json"


def test_everywhere_defines_runs_and_imports(cluster):
    """A function is defined in every __main__, code is run there, a module is imported and bound there."""

    @fc.everywhere
    def triple(x):
        return 3 * x

    assert triple(2) == 6
    fc.everywhere("import math as m; tau = 2 * m.pi")
    fc.everywhere(importlib.import_module("collections.abc"))
    for pid in fc.procs():
        assert fc.remotecall_fetch(pid, eval, "triple(5)") == 15
        assert round(fc.remotecall_fetch(pid, eval, "tau"), 2) == 6.28
        assert fc.remotecall_fetch(pid, eval, "collections.__name__") == "collections"


def test_everywhere_with_one_pid_returns_the_value(cluster):
    """With one pid the value of the last expression is returned and the error raised as it is."""
    assert fc.everywhere("x = 6\nx * 7", pids=cluster[0]) == 42
    assert fc.everywhere("x = 6", pids=cluster[0]) is None
    with pytest.raises(ZeroDivisionError):
        fc.everywhere("1 / 0", pids=cluster[0])
    with pytest.raises(SyntaxError):
        fc.everywhere("1 +")


def test_everywhere_collects_errors(cluster):
    """Errors from several processes come as one ExceptionGroup."""
    with pytest.raises(ExceptionGroup) as caught:
        fc.everywhere("import farcall; 1 / (farcall.myid() - 1) / (farcall.myid() - 3)")
    assert len(caught.value.exceptions) == 2
    assert caught.group_contains(ZeroDivisionError)


def test_everywhere_of_nonsense_is_a_type_error(cluster):
    """What is no function, code or module is named."""
    with pytest.raises(TypeError, match="int"):
        fc.everywhere(3)


def test_numba_functions_travel(cluster):
    """A jitted function is called on a worker as any other, by number after the first time."""
    numba = pytest.importorskip("numba")

    @numba.njit
    def square(x):
        return x * x

    link = _node().links[cluster[0]]
    assert fc.remotecall_fetch(cluster[0], square, 12) == 144
    known = len(link.known)
    assert fc.remotecall_fetch(cluster[0], square, 13) == 169
    assert len(link.known) == known


PROGRAM = """
import farcall as fc
fc.addprocs(1)
class Point:
    def __init__(self, x): self.x = x
def move(p): return Point(p.x + 1)
p = fc.remotecall_fetch(2, move, Point(1))
assert isinstance(p, Point) and p.x == 2
assert fc.remotecall_fetch(2, lambda: Point(5).x) == 5
print("fine")
"""


@pytest.mark.parametrize("how", ["script", "-c", "stdin"])
def test_programs_without_a_main_guard(tmp_path, how):
    """A plain program works without ``if __name__`` guards: as a script, with -c, from standard input."""
    if how == "script":
        (tmp_path / "program.py").write_text(PROGRAM)
        command, text = [sys.executable, tmp_path / "program.py"], None
    else:
        command, text = ([sys.executable, "-c", PROGRAM], None) if how == "-c" else ([sys.executable], PROGRAM)
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def test_threads_of_the_program_may_call(cluster):
    """A thread that farcall did not start calls as the main thread does."""
    values = []
    thread = threading.Thread(target=lambda: values.append(fc.remotecall_fetch(cluster[0], abs, -8)))
    thread.start()
    thread.join()
    assert values == [8]
