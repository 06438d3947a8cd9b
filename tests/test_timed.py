"""timed without workers: the forms that it is written in, what it counts here, and its text."""

import asyncio
import functools
import gc
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO

import pytest
from waiting import until

import farcall as fc
from farcall._node.current import current_node
from farcall._node.metering import Stopwatch, TimedCall
from farcall._timed import _duration, _line, _size, _table
from farcall._wire.frames import Frame
from farcall._wire.messages import ERROR, RESULT, VALUE
from farcall._wire.pickles import Payload

LINE = re.compile(r"(\w+: )?[\d.]+ (s|ms|us)( until \w+)?( \(.*\))?\n")


def double(x):
    return 2 * x


def seven():
    return 7


# Forms


def test_timed_of_a_function_returns_its_value(capsys):
    """timed(f, *args, **kwargs) returns what f returns and prints one line; f may take no arguments."""
    assert fc.timed(double, 21) == 42
    assert fc.timed(dict, a=1, quiet=2) == {"a": 1, "quiet": 2}
    assert fc.timed(seven) == 7
    out = capsys.readouterr().out
    assert len(LINE.findall(out)) == out.count("\n") == 3


def test_a_block_prints_when_it_ends(capsys):
    """A with block prints one line at its end, and its object has the numbers then."""
    with fc.timed() as t:
        assert repr(t) == "<Timed: running>"
        time.sleep(0.01)
        assert capsys.readouterr().out == ""
    assert LINE.fullmatch(capsys.readouterr().out)
    assert t.seconds >= 0.01
    assert (t.calls, t.messages_out, t.messages_in, t.bytes_out, t.bytes_in) == (0, 0, 0, 0, 0)
    assert (t.remote, t.totals) == ([], [])
    assert repr(t) == f"<Timed: {t}>"


def test_an_exception_passes_and_is_named(capsys):
    """A block that an exception leaves prints its line with the exception's name, and lets it pass."""
    with pytest.raises(ZeroDivisionError), fc.timed():
        1 / 0
    with pytest.raises(ValueError):
        fc.timed(int, "x")
    first, second = capsys.readouterr().out.splitlines(keepends=True)
    assert LINE.fullmatch(first)[3] == " until ZeroDivisionError"
    assert LINE.fullmatch(second)[3] == " until ValueError"


def test_quiet_prints_nothing(capsys):
    """timed(quiet=True) takes the time and prints nothing."""
    with fc.timed(quiet=True) as t:
        pass

    @fc.timed(quiet=True)
    def nine():
        return 9

    assert nine() == 9
    assert t.seconds > 0
    assert capsys.readouterr().out == ""


def test_a_line_goes_to_the_current_stdout(capsys):
    """The line goes where sys.stdout leads at the end of the block; to nowhere if there is none."""
    file = StringIO()
    with redirect_stdout(file), fc.timed():
        pass
    with redirect_stdout(None), fc.timed():
        pass
    assert LINE.fullmatch(file.getvalue())
    assert capsys.readouterr().out == ""


def test_wrong_uses_are_errors_that_teach():
    """What is no function, an unknown option, and a second block on the same object are errors; nothing is printed."""
    with pytest.raises(TypeError, match="takes a function and its arguments, not int"):
        fc.timed(3)
    with pytest.raises(TypeError, match=r"one option, quiet.*timed\(f, \*args"):
        fc.timed(file=None)
    with fc.timed(quiet=True) as t:
        pass
    with pytest.raises(RuntimeError, match=r"write timed\(\) again"), t:
        pass


# Decorators


@fc.timed
def at_module_level():
    return "module"


@fc.timed
def with_arguments(x, *, y=1):
    """Add."""
    return x + y


class Owner:
    @fc.timed
    def method(self):
        return self

    @staticmethod
    @fc.timed
    def function():
        return "static"


def test_a_decorated_function_prints_a_line_per_call(capsys):
    """@timed returns a function that does as before, keeps its name and prints a line with it for each call."""
    owner = Owner()
    assert at_module_level() == "module"
    assert with_arguments(1, y=2) == 3
    assert with_arguments.__doc__ == "Add."
    assert owner.method() is owner
    assert Owner.function() == "static"
    names = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["at_module_level", "with_arguments", "Owner.method", "Owner.function"]


def test_a_decorator_is_told_from_a_call(capsys):
    """Where a function is being defined, timed decorates it, also among other decorators and in a loop."""
    for number in range(2):

        @fc.timed
        def plain():
            return number  # noqa: B023

        @fc.timed
        @functools.lru_cache
        def cached():
            return number  # noqa: B023

        @functools.lru_cache
        @fc.timed
        def inside(
            x=1,
            y=2,
        ):
            return number  # noqa: B023

        assert (plain(), cached(), inside()) == (number, number, number)
    assert capsys.readouterr().out.count("plain: ") == 2


@pytest.mark.parametrize(
    "header",
    [
        "def f():",
        "async def f():",
        pytest.param(
            "def f[T]():",
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters came with Python 3.12"),
        ),
    ],
)
def test_a_decorator_works_in_a_cell(header):
    """A function defined by code without a file is decorated, not called; one with type parameters too."""
    namespace = {"fc": fc}
    exec(compile(f"@fc.timed\n{header}\n    return 7\n", "<cell>", "exec"), namespace)
    assert callable(namespace["f"])
    namespace["f"].__wrapped__  # so it has been wrapped


def test_everything_else_is_a_call():
    """Wherever else timed(f) is written it calls f: in the function that defines f, and in f itself."""

    def local(deep=False):
        return "called" if deep else fc.timed(functools.partial(local, True))

    def recursive(again=[True]):  # noqa: B006
        return fc.timed(recursive) if again.pop() else "called"

    recursive.__defaults__ = ([False, True],)
    calls = [
        fc.timed(local),
        fc.timed(recursive),
        fc.timed(lambda: "called"),
        fc.timed(
            lambda: "called",
        ),
        fc.timed("CALLED".lower),
        functools.partial(fc.timed, local)(),
        next(map(fc.timed, [local])),
        [fc.timed(each) for each in (local,)][0],  # noqa: RUF015
        fc.timed(fc.timed, local),
        eval("fc.timed(local)", {"fc": fc, "local": local}),
    ]
    assert calls == ["called"] * len(calls)


def test_with_parentheses_anything_is_decorated(capsys):
    """timed() is a decorator for whatever can be called, wherever it is written."""

    @fc.timed()
    def six():
        return 6

    assert six() == 6
    assert fc.timed()(seven)() == 7
    assert fc.timed()(functools.partial(double, 4))() == 8
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["six", "seven", "partial"]


def test_a_decorated_coroutine_is_timed_to_its_end(capsys):
    """The line of an async function comes when it has ended, not when it was called."""

    @fc.timed
    async def nap():
        await asyncio.sleep(0.01)
        assert capsys.readouterr().out == ""
        return "rested"

    assert asyncio.run(nap()) == "rested"
    assert LINE.fullmatch(capsys.readouterr().out)[1] == "nap: "


# What is counted


def test_collections_are_counted():
    """Garbage collection in a block shows, and no more than there was; also when the block begins or ends in one."""
    with fc.timed(quiet=True) as t:
        started = time.perf_counter()
        gc.collect()
        took = time.perf_counter() - started
    assert 0 < t.gc <= took
    inside: list[fc.Timed] = []

    class Loop:
        def __del__(self):
            with fc.timed(quiet=True) as t:
                time.sleep(0.01)
            inside.append(t)

    loop = Loop()
    loop.itself = loop
    del loop
    with fc.timed(quiet=True) as outer:
        gc.collect()
    assert 0.01 <= inside[0].gc <= outer.gc <= outer.seconds
    with fc.timed(quiet=True) as after:
        pass
    assert after.gc <= after.seconds


INTERRUPTED = """
import gc, signal
import farcall as fc

def raise_in_time(number, frame):
    raise TimeoutError

signal.signal(signal.SIGALRM, raise_in_time)
objects = [[] for _ in range(2_000_000)]
try:
    with fc.timed(quiet=True):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        gc.collect()
        while True:
            pass
except TimeoutError:
    print("raised")
"""


def test_an_interrupt_during_a_collection_is_not_lost():
    """What a signal raises while garbage is collected is raised behind it, not in a callback, which would lose it."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("raised\n", "")


def compiled():
    """Return a function of Numba's that has not been compiled."""
    from numba import njit

    return njit(lambda x: x + 1)


def test_compilation_here_is_counted():
    """What this thread compiles in the block shows, in seconds and specialisations; a second call compiles nothing."""
    f = compiled()
    with fc.timed(quiet=True) as first:
        f(1)
        f(1.0)
    with fc.timed(quiet=True) as second:
        f(1)
    assert 0 < first.compilation < first.seconds
    assert first.compilations >= 2
    assert re.search(r"\(\d+% compilation", _line(first))
    assert (second.compilation, second.compilations) == (0, 0)
    assert "compilation" not in _line(second)


def test_another_threads_compilation_is_its_own():
    """A block counts what its own thread compiles, not what others do meanwhile."""
    with fc.timed(quiet=True) as t:
        compiler = threading.Thread(target=compiled(), args=(1,))
        compiler.start()
        compiler.join()
    assert (t.compilation, t.compilations) == (0, 0)


def test_processor_time_is_counted():
    """The processor time is that which the process took."""
    with fc.timed(quiet=True) as t:
        before = time.process_time()
        while time.process_time() < before + 0.01:
            pass
    assert t.cpu >= 0.01


def test_blocks_nest():
    """A block counts what the blocks inside it count, and goes on when these have ended."""
    f, g = compiled(), compiled()
    with fc.timed(quiet=True) as outer:
        with fc.timed(quiet=True) as inner:
            f(1)
            fc.remotecall_fetch(1, seven)
        g(1)
        fc.remotecall_fetch(1, seven)
        assert (inner.calls, outer.calls) == (1, 2)
    assert 0 < inner.compilation < outer.compilation
    assert inner.seconds < outer.seconds
    assert fc.remotecall_fetch(1, seven) == 7
    assert (inner.calls, outer.calls) == (1, 2)


def test_a_call_to_oneself_is_counted():
    """A call to this process counts, with the time that it ran and without a message."""
    with fc.timed(quiet=True) as t:
        waited = fc.remotecall_fetch(1, nap)
        fc.fetch(fc.spawnat(1, nap))
        with pytest.raises(ZeroDivisionError):
            fc.fetch(fc.spawnat(1, divmod, 1, 0))
        with pytest.raises(ZeroDivisionError):
            fc.remotecall_fetch(1, divmod, 1, 0)
        assert fc.fetch(fc.spawnat(1, async_nap)) >= 0.02
    assert (t.calls, t.messages_out, t.messages_in) == (5, 0, 0)
    assert [call.state for call in t.remote] == ["done", "done", "failed", "failed", "done"]
    assert t.remote[0].run >= waited
    assert all(each.run >= 0.02 for each in (t.remote[1], t.remote[4]))
    assert {call.where for call in t.remote} == {1}


def nap():
    """Wait, and return for how long."""
    started = time.perf_counter()
    threading.Event().wait(0.02)
    return time.perf_counter() - started


async def async_nap():
    started = time.perf_counter()
    await asyncio.sleep(0.02)
    return time.perf_counter() - started


def test_a_coroutine_here_compiles_nothing_that_its_thread_did_before():
    """What other calls compiled on the threads that begin and end a coroutine is not the coroutine's."""
    fc.fetch(fc.spawnat(1, compiled(), 1))
    assert until(lambda: current_node().pool._free)
    release = threading.Event()

    async def occupy():
        return fc.spawnat(1, release.wait)  # on the thread that began this one, so that another ends it

    with fc.timed(quiet=True) as t:
        waiting = fc.fetch(fc.spawnat(1, occupy))
    release.set()
    assert fc.fetch(waiting)
    assert t.remote[0].compilation == 0


@pytest.mark.parametrize("kind", [bytes, bytearray], ids=lambda kind: kind.__name__)
def test_the_times_are_taken_off_an_answer(kind):
    """An answer is what it was before its times were put at its end, and its call has these."""
    watch = Stopwatch()
    watch.take_up()
    watch.begin()
    watch.end()
    body = watch.append_to(Payload(b"the answer")).body
    call = TimedCall(_Nobody(), double, 2)
    frame = Frame(RESULT, 0, VALUE, 7, kind(body))
    assert call.settle(frame) == frame._replace(body=b"the answer")
    assert (call.bytes_in, call.state, call.queue, call.run) == (10, "done", watch.queue, watch.run)
    assert call.answer > 0


def test_a_call_that_never_began_ran_for_no_time():
    """The answer to a call that no thread has taken up says that it did not run, and was pickled in a moment."""
    call = TimedCall(_Nobody(), double, 2)
    call.settle(Frame(RESULT, 0, ERROR, 7, Stopwatch().append_to(Payload(b"")).body))
    assert (call.state, call.run, call.compilation) == ("failed", 0, 0)
    assert call.answer <= call.seconds


def test_compilation_of_a_call_to_oneself_is_its_own():
    """What a call to this process compiles on another thread is in its own time, and in no worker's."""
    f = compiled()
    with fc.timed(quiet=True) as t:
        fc.fetch(fc.spawnat(1, f, 1))
    assert 0 < t.remote[0].compilation < t.seconds
    assert t.compilation == 0
    assert "compilation" not in _line(t)


# Text


class _Nobody:
    outer = None

    def count(self, *what):
        pass

    count_sent = count_ended = count


def call_of(function: Callable[..., object], where: int, state: str = "done", **parts: float) -> TimedCall:
    """Return a call that took so long."""
    call = TimedCall(_Nobody(), function, where)
    call.state = state
    for name, seconds in parts.items():
        setattr(call, name, seconds)
    call.seconds = sum(parts.values())
    return call


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 us"),
        (1.234e-6, "1.23 us"),
        (999.4e-6, "999 us"),
        (999.6e-6, "1 ms"),
        (0.04123, "41.2 ms"),
        (0.0999, "99.9 ms"),
        (0.09996, "0.100 s"),
        (0.41234, "0.412 s"),
        (1234.5678, "1234.568 s"),
    ],
)
def test_times_have_the_unit_that_suits_them(seconds, text):
    """Seconds from a tenth on, else three digits of milliseconds or microseconds."""
    assert _duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (412, "412 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1234, "1.2 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (80_000_000, "80.0 MB"),
        (1_500_000_000, "1.5 GB"),
        (2_000_000_000_000, "2000.0 GB"),
    ],
)
def test_sizes_have_the_unit_that_suits_them(size, text):
    """Bytes up to a thousand, then one decimal of kB, MB or GB."""
    assert _size(size) == text


def test_the_line_has_what_there_was():
    """The line leaves out what is nothing, and names compilation here apart from that on workers."""
    t = fc.Timed()
    t.seconds = 0.412
    assert _line(t) == "0.412 s"
    t.gc = 0.002
    assert _line(t) == "0.412 s"
    t.calls = 1
    assert _line(t) == "0.412 s (1 call)"
    t.calls, t.bytes_out, t.bytes_in = 2, 1200, 412
    t.compilation = 0.93 * 0.412
    assert _line(t) == "0.412 s (93% compilation, 2 calls, 1.2 kB out, 412 B in)"
    t.compilation, t.gc = 0.0, 0.1
    for where, seconds in ((2, 0.1), (2, 0.1), (3, 0.1)):
        t.count_ended(call_of(double, where, compilation=seconds), None)
    assert _line(t).startswith("0.412 s (49% compilation on workers, 24% garbage collection, 2 calls, ")


def test_the_table_has_a_row_for_each_function_and_process():
    """Ten thousand calls of a function on a process are one row of sums, with how many gave no value."""
    t = fc.Timed()
    t.seconds = 1.0
    for number in range(10_100):
        call = call_of(double, 2, queue=1e-6, transfer=2e-6, run=1e-5)
        t.count_sent(call, None)
        if number:
            t.count_ended(call, None)
    lost = call_of(seven, 3, "lost", transfer=0.5)
    t.count_sent(lost, None)
    t.count_ended(lost, None)
    line, *table = str(t).splitlines()
    assert line == "1.000 s (10101 calls)"
    assert table == [
        "  function  process  calls    total    queue  transfer  compilation      run  answer",
        "  double          2  10100  0.131 s  10.1 ms   20.2 ms            -  0.101 s       -  1 pending",
        "  seven           3      1  0.500 s        -   0.500 s            -        -       -  1 lost",
    ]
    assert len(t.remote) == 10_000
    assert _table([]) == []
    assert [repr(each) for each in t.totals] == ["<10100 x double on 2: 0.131287 s>", "<1 x seven on 3: 0.500000 s>"]
    assert repr(lost) == "<seven on 3: lost, 0.500000 s>"
