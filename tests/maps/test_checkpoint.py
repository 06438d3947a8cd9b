"""checkpoint=: finished items are on disk, and the same call later does only the rest."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from waiting import until

import farcall as fc
from farcall._pmap.checkpoint import describe_map

PROGRAM = """
import os, sys, time
import farcall as fc
done, go = sys.argv[1:]
def work(n, rng):
    with open(done, "a") as file:
        file.write(f"{n}\\n")
    while n == 60 and not os.path.exists(go):
        time.sleep(0.002)
    return n, rng.random()
if __name__ == "__main__":
    fc.addprocs(2)
    results = fc.pmap(work, range(100), checkpoint=done + ".fcp", seed=1, batch_size=5)
    print(len(results), hash(tuple(results)))
"""


def lines(path):
    return path.read_text().split() if path.exists() else []


def test_a_killed_master_goes_on_where_it_was(tmp_path):
    """kill -9 in the middle; the same program computes only the rest, and its result is the same."""
    program, done, go = tmp_path / "program.py", tmp_path / "done", tmp_path / "go"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(done), str(go)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
        assert until(lambda: len(set(lines(done))) > 80, 30)
        first.kill()
    before = lines(done)
    go.touch()
    second = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    after = lines(done)[len(before) :]
    assert set(before) | set(after) == {str(n) for n in range(100)}
    assert 0 < len(after) <= 40
    assert len(set(after) & set(before)) <= 20  # what was in hand: two batches on each of two workers
    for each in (done, tmp_path / "done.fcp"):
        each.unlink()
    third = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert second.stdout == third.stdout
    assert second.stdout.startswith("100 ")


class Counter:
    """A function that leaves a line for each item that it does."""

    def __init__(self, path):
        self.path = path

    def __call__(self, x):
        with open(self.path, "a") as file:
            file.write("x\n")
        if isinstance(x, str) and x == "bad":
            raise ValueError("bad item")
        return x


def test_the_same_call_again_does_nothing(cluster, tmp_path):
    """All results come from the file, whatever they are, in a stream too."""
    work, path = Counter(tmp_path / "done"), tmp_path / "run.fcp"
    items = [1, "two", None, [3, {"x": 4}], np.arange(5000.0), lambda x: x + 1]
    first = fc.pmap(work, items, checkpoint=path)
    again = fc.pmap(work, items, checkpoint=path)
    stream = list(fc.imap(work, items, checkpoint=str(path)))
    assert len(lines(tmp_path / "done")) == 6
    for results in (first, again, stream):
        assert repr(results[:5]) == repr(items[:5])
        assert results[5](1) == 2


def test_only_what_failed_runs_again(cluster, tmp_path):
    """A map that an error ended goes on: the finished items are kept, replaced ones are not."""
    work, path = Counter(tmp_path / "done"), tmp_path / "run.fcp"
    items = [*range(50), "bad", *range(51, 60)]
    results = fc.pmap(work, items, checkpoint=path, on_error=lambda error: "replaced", batch_size=3)
    assert results[50] == "replaced"
    before = len(lines(tmp_path / "done"))
    with pytest.raises(ValueError, match="bad item"):
        fc.pmap(work, items, checkpoint=path)
    assert len(lines(tmp_path / "done")) == before + 1


def test_an_endless_stream_goes_on(cluster, tmp_path):
    """A stream that was left begins with the results that it had."""
    import itertools

    work, path = Counter(tmp_path / "done"), tmp_path / "run.fcp"
    stream = fc.imap(work, itertools.count(), checkpoint=path, batch_size=4)
    assert list(itertools.islice(stream, 100)) == list(range(100))
    stream.close()
    before = len(lines(tmp_path / "done"))
    again = fc.imap(work, itertools.count(), checkpoint=path, batch_size=4)
    assert list(itertools.islice(again, 100)) == list(range(100))
    again.close()
    assert len(lines(tmp_path / "done")) <= before + 50


@pytest.mark.parametrize("cut", [1, 5, 20, 60])
def test_a_torn_last_record_is_dropped(cluster, tmp_path, cut):
    """A file that was cut short anywhere gives what is whole, and goes on."""
    work, path = Counter(tmp_path / "done"), tmp_path / "run.fcp"
    fc.pmap(work, range(10), checkpoint=path, batch_size=2)
    size = path.stat().st_size
    os.truncate(path, size - cut)
    assert fc.pmap(work, range(10), checkpoint=path) == list(range(10))
    assert len(lines(tmp_path / "done")) in (12, 14)
    assert fc.pmap(work, range(10), checkpoint=path) == list(range(10))
    assert len(lines(tmp_path / "done")) in (12, 14)


@pytest.mark.parametrize("size", [0, 5, 21, 30])
def test_a_file_that_ends_in_its_head_begins_anew(cluster, tmp_path, size):
    """A master that was killed at once leaves a head without an end, which is no obstacle."""
    path = tmp_path / "run.fcp"
    fc.pmap(abs, range(10), checkpoint=path)
    os.truncate(path, size)
    assert fc.pmap(abs, range(10), checkpoint=path) == list(range(10))
    assert fc.pmap(abs, range(10), checkpoint=path) == list(range(10))


# Other maps


def refusals(tmp_path, first, second):
    """Return what a checkpoint of one call says to another."""
    path = tmp_path / "run.fcp"
    (f, items, options), (g, others, changed) = first, second
    fc.pmap(f, *items, checkpoint=path, **options)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is of another map") as caught:
        fc.pmap(g, *others, checkpoint=path, **changed)
    assert path.read_bytes() == before
    return str(caught.value)


def add(x, y=1):
    return x + y


def test_another_function_is_refused_by_name(cluster, tmp_path):
    """The names of both functions are told, and nothing is overwritten."""
    text = refusals(tmp_path, (abs, [range(5)], {}), (add, [range(5)], {}))
    assert "the function was builtins.abs, and is " in text
    assert text.count(f"{add.__module__}.add") == 1


def test_other_code_is_refused(cluster, tmp_path):
    """A function that was changed, or captures another value, is another function."""

    def make(step, source="lambda x: x + step"):
        return eval(source, {"__name__": __name__}, {}) if source != "lambda x: x + step" else lambda x: x + step

    assert "code" in refusals(tmp_path, (make(1), [range(5)], {}), (make(2), [range(5)], {}))


def test_other_inputs_are_refused_with_the_item(cluster, tmp_path):
    """The first item that differs is named."""
    text = refusals(tmp_path, (abs, [[1, 2, 3, 4]], {}), (abs, [[1, 2, -3, 4]], {}))
    assert "item 2 was another one than it is now, which is -3" in text


def test_more_or_fewer_inputs_are_refused(cluster, tmp_path):
    """So is another number of items, also where it shows only at the end."""
    assert "number of items was 4, and is 5" in refusals(tmp_path, (abs, [range(4)], {}), (abs, [range(5)], {}))
    (tmp_path / "run.fcp").unlink()
    text = refusals(tmp_path, (abs, [iter(range(4))], {}), (abs, [iter(range(3))], {}))
    assert "only 3 items now" in text


def test_another_seed_is_refused(cluster, tmp_path):
    """The seed belongs to the map."""

    def draw(x, rng):
        return rng.random()

    assert "the seed was 1, and is 2" in refusals(tmp_path, (draw, ["ab"], {"seed": 1}), (draw, ["ab"], {"seed": 2}))


def test_what_is_no_checkpoint_is_not_overwritten(cluster, tmp_path):
    """A file of another kind is refused and stays as it is."""
    path = tmp_path / "thesis.tex"
    path.write_text("three years of work")
    with pytest.raises(ValueError, match="is no checkpoint of farcall"):
        fc.pmap(abs, range(3), checkpoint=path)
    assert path.read_text() == "three years of work"


def test_one_map_at_a_time(cluster, tmp_path):
    """Two maps do not write to one checkpoint."""
    path, stream = tmp_path / "run.fcp", fc.imap(abs, range(1000), checkpoint=tmp_path / "run.fcp")
    next(stream)
    with pytest.raises(ValueError, match="under way"):
        fc.pmap(abs, range(1000), checkpoint=path)
    list(stream)
    assert fc.pmap(abs, range(1000), checkpoint=path) == list(range(1000))


def test_moving_a_function_does_not_change_it():
    """Line numbers and names of files do not count; code, defaults, captured values and used functions do."""

    def described(source, **names):
        namespace = {"__name__": "some_module", **names}
        exec(textwrap.dedent(source), namespace)
        return list(describe_map(namespace["f"], 3, None).values())

    source = "def g(x): return x + k\ndef f(x, y=2): return [g(z) for z in range(x)]"
    same = described(source, k=1)
    assert described("\n\n\n# a comment\n" + source, k=1) == same
    assert described(source, k=2) != same
    assert described(source.replace("x + k", "x - k"), k=1) != same
    assert described(source.replace("y=2", "y=3"), k=1) != same
    assert described(source.replace("range(x)", "range(x + 1)"), k=1) != same
    assert describe_map(print, 3, None) != describe_map(abs, 3, None)
