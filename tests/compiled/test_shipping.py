"""Machine code that travels: compiled once in the cluster, and always the code that the user sees now."""

import functools
import importlib.util
import logging
import operator
import os
import subprocess
import sys
import types as python_types
from pathlib import Path

import numba
import numpy as np
import pytest
from numba import njit, types, vectorize
from waiting import until

import farcall as fc
from farcall._wire import pickles
from farcall._wire.compiled import private
from farcall._wire.compiled.counting import what_was_compiled
from farcall.testing import assert_compiles

ROOT = Path(fc.__file__).parents[2]


def load_kinds():
    spec = importlib.util.spec_from_file_location("kinds", ROOT / "benchmarks" / "kinds.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["kinds"] = module
    spec.loader.exec_module(module)
    return module.KINDS


def make(source, **names):
    """Return f of a source, as a notebook would define it."""
    namespace = {"__name__": "__main__", "np": np, "njit": njit, **names}
    exec(source, namespace)
    return namespace["f"]


def adder(amount):
    @njit
    def f(x):
        return x + amount

    return f


def compiled_on(pid):
    return fc.remotecall_fetch(pid, what_was_compiled)[0]


# What travels


@pytest.mark.parametrize("kind", load_kinds(), ids=str)
def test_what_is_compiled_here_is_not_compiled_there(cluster, kind):
    """Every kind of function that people compile runs on a worker with the code that was made here."""
    f = kind.make()
    here = f(*kind.args())
    with assert_compiles(kind.compiles):
        there = fc.remotecall_fetch(2, f, *kind.args())
    np.testing.assert_array_equal(there, here)


def test_every_specialisation_travels(cluster):
    """Those that there are when a function first goes, and those that are compiled later."""
    f = adder(1)
    f(1), f(1.0)
    with assert_compiles(0):
        assert fc.remotecall_fetch(2, f, 2) == 3
        assert fc.remotecall_fetch(2, f, 2.5) == 3.5
    f(1j)
    with assert_compiles(0):
        assert fc.remotecall_fetch(2, f, 2j) == 1 + 2j


def test_what_a_worker_compiles_the_others_need_not(cluster):
    """A specialisation that is first needed on a worker comes back: for other workers, and for this process."""
    f = adder(2)
    with assert_compiles(1):
        assert fc.remotecall_fetch(2, f, 1) == 3
        assert fc.remotecall_fetch(3, f, 1) == 3
        assert f(1) == 3


def test_a_worker_that_joins_later_compiles_nothing(cluster):
    """Also if this process never called the function."""
    f = adder(3)
    fc.remotecall_fetch(2, f, 1)
    with fc.addprocs(1) as late, assert_compiles(0):
        assert fc.remotecall_fetch(late[0], f, 1) == 4


def test_workers_that_need_the_same_at_once_compile_it_once(cluster):
    """One compiles, the others wait for it."""
    f = make("@njit\ndef g(x):\n    return x[0]\n@njit\ndef f(x):\n    return g(x) + g(x[::-1])")
    with assert_compiles(3):  # f, and g for both kinds of arrays
        futures = [fc.spawnat(pid, f, np.arange(3.0)) for pid in cluster * 3]
        assert [fc.fetch(each) for each in futures] == [2.0] * 6


@pytest.mark.parametrize(
    "call",
    [
        lambda f: fc.fetch(fc.spawnat(2, lambda: f(1))),
        lambda f: fc.fetch(fc.spawnat(2, functools.partial(f, 1))),
        lambda f: fc.fetch(fc.spawnat(2, map, f, [1])) and fc.pmap(f, [1, 1, 1])[0],
        lambda f: fc.pmap(lambda x: f(x), [1, 1, 1])[0],
        lambda f: fc.fetch(fc.spawnat(2, lambda functions: functions["f"](1), {"f": f})),
        lambda f: fc.fetch(fc.spawnat(2, lambda: fc.fetch(fc.spawnat(3, f, 1)))),
    ],
)
def test_it_travels_wherever_a_function_does(cluster, call):
    """In closures, partials, arguments and maps, and from worker to worker."""
    f = adder(4)
    f(1)
    with assert_compiles(0):
        assert call(f) == 5


def test_everywhere_defines_it_with_its_code(cluster):
    """Also on workers that join later."""
    f = adder(5)
    f.__name__ = "added_five"
    f(1)
    fc.everywhere(f)
    with fc.addprocs(1) as late, assert_compiles(0):
        for pid in [*cluster, *late]:
            assert fc.remotecall_fetch(pid, eval, "added_five(1)") == 6
    del sys.modules["__main__"].added_five


def test_a_function_that_comes_home_is_itself(cluster):
    """A dispatcher that returns is the one that left; elsewhere, too, there is one of each."""
    f = adder(6)
    assert fc.remotecall_fetch(2, lambda: f) is f
    assert fc.remotecall_fetch(2, lambda g, h: g is h, f, fc.fetch(fc.spawnat(3, lambda: f)))


def test_declared_types_are_the_only_ones(cluster):
    """A function that was declared with its types takes no others there either."""
    f = njit("int64(int64)")(lambda x: x + 1)
    with assert_compiles(0):
        assert fc.remotecall_fetch(2, f, 1) == 2
    with pytest.raises(TypeError, match="No matching definition"):
        fc.remotecall_fetch(2, f, np.arange(2))


def test_a_small_specialisation_is_small():
    """At most 20 kB on the wire, source and all."""
    f = adder(7)
    f(1)
    assert pickles.encode(f).size <= 20_000


# Always the code that the user sees now


def test_a_function_defined_again_is_another(cluster):
    """Under the same name, on the same lines."""
    source = "@njit\ndef f(x):\n    return x * {}"
    for factor in (2, 3):
        f = make(source.format(factor))
        assert f(7) == 7 * factor
        assert fc.remotecall_fetch(2, f, 7) == 7 * factor


def test_what_it_calls_may_be_defined_again(cluster):
    """Whatever was compiled before, here or there, a call sees what its function would see now."""
    namespace = {"njit": njit, "__name__": "__main__"}
    exec("@njit\ndef f(x):\n    return g(x)", namespace)
    f = namespace["f"]
    for amount in (1, 2):
        exec(f"@njit\ndef g(x):\n    return x + {amount}", namespace)
        assert fc.remotecall_fetch(2, f, 1) == 1 + amount
        assert fc.remotecall_fetch(3, f, 1) == 1 + amount
    f(1)
    exec("@njit\ndef g(x):\n    return x + 3", namespace)
    assert fc.remotecall_fetch(2, f, 1) == 4


def test_captured_values_are_those_of_the_call(cluster):
    """Closures of one function differ, and a global or an array may change between calls."""
    fs = [adder(amount) for amount in (1, 2, 3)]
    assert [fc.remotecall_fetch(2, f, 1) for f in fs] == [2, 3, 4]
    namespace = {"njit": njit, "table": np.zeros(3), "offset": 1, "__name__": "__main__"}
    exec("@njit\ndef f(i):\n    return table[i] + offset", namespace)
    f = namespace["f"]
    assert fc.remotecall_fetch(2, f, 1) == 1
    namespace["offset"] = 2
    assert fc.remotecall_fetch(2, f, 1) == 2
    namespace["table"][1] = 5
    assert fc.remotecall_fetch(2, f, 1) == 7
    with assert_compiles(0):
        assert fc.remotecall_fetch(2, f, 1) == 7


def test_a_module_that_exists_only_here(cluster):
    """A function of a module that no worker can import goes with its code all the same."""
    module = python_types.ModuleType("made_by_hand")
    sys.modules["made_by_hand"] = module
    try:
        exec("from numba import njit\n@njit\ndef f(x):\n    print('x is', x)\n    return x + 1", module.__dict__)
        module.f(1)
        with assert_compiles(0):
            assert fc.remotecall_fetch(2, module.f, 1) == 2
    finally:
        del sys.modules["made_by_hand"]


def test_a_module_on_disk(tmp_path, monkeypatch):
    """So does one of a module that the worker finds by itself: what runs is what this process has imported."""
    (tmp_path / "on_disk.py").write_text("from numba import njit\n@njit\ndef f(x):\n    return x + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    on_disk = importlib.import_module("on_disk")
    on_disk.f(1)
    (tmp_path / "on_disk.py").write_text("f = None\n")
    with fc.addprocs(1) as [pid], assert_compiles(0):
        assert fc.remotecall_fetch(pid, on_disk.f, 1) == 2


def test_a_file_cache_goes_on_working(tmp_path, monkeypatch):
    """cache=True keeps its files here, also for a function that was sent; it is not needed there."""
    (tmp_path / "cached.py").write_text("from numba import njit\n@njit(cache=True)\ndef f(x):\n    return x + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    cached = importlib.import_module("cached")
    with fc.addprocs(1) as [pid]:
        pickles.encode(cached.f)
        cached.f(1)
        assert sum(cached.f.stats.cache_misses.values()) == 1
        assert list((tmp_path / "__pycache__").glob("*.nbc"))
        with assert_compiles(0):
            assert fc.remotecall_fetch(pid, cached.f, 1) == 2
    again = (
        "import cached; from farcall._wire import pickles; pickles.encode(cached.f)\n"
        "print(cached.f(1), sum(cached.f.stats.cache_hits.values()))"
    )
    command, path = [sys.executable, "-c", again], {"PYTHONPATH": f"{tmp_path}:{ROOT / 'src'}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True, env=os.environ | path)
    assert done.stdout.split() == ["2", "1"]


# What cannot travel is compiled again, and is right


def test_large_captured_arrays(cluster, caplog):
    """Numba builds the address of an array over 1 MB into the code: it is compiled again, and the log says why."""
    table = np.arange(300_000.0)

    @njit
    def f(i):
        return table[i]

    f(1)
    with caplog.at_level(logging.INFO, "farcall"), assert_compiles(1):
        assert fc.remotecall_fetch(2, f, 12345) == 12345.0
    assert "f(int64,) is compiled again wherever it is called: the address of a large array" in caplog.text


OBJECT_MODE = """
import farcall as fc
from numba import jit, njit, objmode
helper = 5
def double(x):
    return 2 * x
@jit(forceobj=True)
def f(x):
    return [helper, double(x)]
@njit
def g(x):
    with objmode(y="int64"):
        y = double(x) + helper
    return y
@njit
def h(x):
    return g(x)
if __name__ == "__main__":
    fc.addprocs(2)
    print(fc.remotecall_fetch(2, g, 1), fc.remotecall_fetch(2, f, 1), fc.remotecall_fetch(2, h, 1))
    print(f(1), g(1), h(1))
    print(fc.remotecall_fetch(3, g, 1), fc.remotecall_fetch(3, f, 1), fc.remotecall_fetch(3, h, 1))
"""


def test_object_mode(tmp_path):
    """What runs as Python finds the globals of its function, compiled here or there."""
    (tmp_path / "program.py").write_text(OBJECT_MODE)
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.splitlines() == ["7 [5, 2] 7", "[5, 2] 7 7", "7 [5, 2] 7"]
    assert done.stderr == ""


def test_recursion_of_a_function_from_a_module_that_is_not_there():
    """It is compiled there as well as anywhere."""
    with fc.addprocs(1) as [pid]:
        for source in (
            "@njit\ndef f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)",
            "@njit\ndef g(n):\n    return f(n - 1)\n@njit\ndef f(n):\n    return n if n < 2 else g(n) + f(n - 2)",
        ):
            f = make(source, __name__="not_there")
            assert fc.remotecall_fetch(pid, f, 10) == 55
            assert f(10) == 55  # with the code that was made there
            with fc.addprocs(1) as [late], assert_compiles(0):
                assert fc.remotecall_fetch(late, f, 10) == 55


def test_half_of_a_mutual_recursion(cluster):
    """Code that is of no use without other code is not called: the function is compiled."""
    source = (
        "@njit\ndef odd(n):\n    return False if n == 0 else f(n - 1)\n"
        "@njit\ndef f(n):\n    return True if n == 0 else odd(n - 1)"
    )
    f = make(source)
    assert f(4)
    odd = f.py_func.__globals__["odd"]
    assert odd.overloads
    assert fc.remotecall_fetch(2, odd, 4) is False
    assert fc.remotecall_fetch(2, f, 4) is True


def provide(symbol):
    """Let compiled code of this process find a C function that doubles its argument."""
    import ctypes

    from llvmlite import binding

    callback = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(lambda x: 2 * x)
    binding.add_symbol(symbol, ctypes.cast(callback, ctypes.c_void_p).value)
    sys.modules["__main__"].__dict__.setdefault("provided", []).append(callback)  # for good, as a library is


def load(code, signature):
    context = numba.core.registry.cpu_target.target_context
    with private.compiling():
        private.decode_specialisation(code, context, signature)


def test_a_c_function_that_is_not_there_ends_no_process(cluster):
    """LLVM and Numba end a process whose code lacks a symbol: code that comes is refused, what is compiled an error."""
    provide("only_here")
    only_here = types.ExternalFunction("only_here", types.float64(types.float64))

    @njit
    def f(x):
        return only_here(x)

    @njit
    def g(x):
        return f(x) + 1

    assert g(1.5) == 4.0
    code = private.encode_specialisation(f.overloads[(types.float64,)])
    with pytest.raises(private.Unshippable, match="it calls only_here, which is not in this process"):
        fc.remotecall_fetch(2, load, code, (types.float64,))
    with pytest.raises(private.Unshippable, match="it is for the types"):
        fc.remotecall_fetch(2, load, code, (types.float32,))
    for each in (f, g, f):
        with pytest.raises(ImportError, match=r"C function 'only_here' is not in .*fc\.everywhere") as caught:
            fc.remotecall_fetch(2, each, 1.5)
        assert caught.value.name == "only_here"
    fc.remotecall_fetch(2, provide, "only_here")
    with assert_compiles(0):
        assert fc.remotecall_fetch(2, g, 1.5) == 4.0


ADDRESS = """
import ctypes
from numba import types
from numba.extending import intrinsic
from llvmlite import ir

ADDRESS = ctypes.cast(ctypes.CDLL(None).labs, ctypes.c_void_p).value

@intrinsic
def call_at(typing_context, address, x):
    def generate(context, builder, signature, args):
        function = ir.FunctionType(ir.IntType(64), [ir.IntType(64)])
        return builder.call(builder.inttoptr(args[0], function.as_pointer()), [args[1]])
    return types.int64(types.uintp, types.int64), generate
"""


def test_addresses_of_a_module_stay_where_they_are(cluster, tmp_path, monkeypatch, caplog):
    """A number of a module that is an address here is another one there, so the function is compiled again."""
    (tmp_path / "addresses_of_c.py").write_text(ADDRESS)
    monkeypatch.syspath_prepend(tmp_path)
    addresses = importlib.import_module("addresses_of_c")

    @njit
    def f(x):
        return addresses.call_at(addresses.ADDRESS, x)

    assert f(-3) == 3
    with caplog.at_level(logging.INFO, "farcall"), assert_compiles(1):
        assert fc.remotecall_fetch(2, f, -3) == 3
    assert "a number in its code is an address of this process" in caplog.text


def test_ufuncs_travel_as_source(cluster):
    """@vectorize functions are compiled again, and work."""

    @vectorize
    def double(x):
        return 2 * x

    double(np.arange(3))
    assert list(fc.remotecall_fetch(2, double, np.arange(3))) == [0, 2, 4]


# Wrong code is worse than slow code

TARGET = ("1", "0.60", "0.50", "cpython-311", "x86_64-linux", "znver3", "+avx,+avx2,-avx512f")


@pytest.mark.parametrize(
    ("theirs", "runs"),
    [
        (TARGET, True),
        ((*TARGET[:5], "skylake", TARGET[6]), True),
        ((*TARGET[:5], "generic", "+avx,-sse4a"), True),
        ((*TARGET[:5], "znver4", "+avx,+avx2,+avx512f"), False),
        *[((*TARGET[:i], "other", *TARGET[i + 1 :]), False) for i in range(5)],
    ],
)
def test_code_for_another_target_is_not_loaded(monkeypatch, theirs, runs):
    """Versions and triple are the same, and the CPU has everything that the code may use."""
    monkeypatch.setattr(private, "current_target", lambda: TARGET)
    assert private.runs_here(theirs) is runs


def test_workers_with_another_cpu():
    """A worker whose CPU has less compiles for itself, once for all of its kind; its code runs here."""
    f = adder(8)
    f(1)
    less = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"}
    with fc.addprocs(2, env=less) as [first, second]:
        with assert_compiles(1):
            assert fc.remotecall_fetch(first, f, 1) == 9
            assert fc.remotecall_fetch(second, f, 1) == 9
        g = adder(9)
        with assert_compiles(1):
            assert fc.remotecall_fetch(first, g, 1) == 10
            assert g(1) == 10


COLLISION = """
import itertools
import numpy as np
from numba import njit
from numba.core.bytecode import FunctionIdentity
import farcall as fc
FunctionIdentity._unique_ids = itertools.count(7)
@njit
def f(n):
    return np.ones(n, np.{})
f(1)
"""


def test_two_processes_that_give_two_functions_one_name():
    """Symbols that collide get their constants mixed up; so the code that comes second is compiled again."""
    program = COLLISION.format("int32") + (
        "if __name__ == '__main__':\n"
        "    fc.addprocs(1)\n"
        f"    fc.remotecall_fetch(2, exec, {COLLISION.format('complex128')!r})\n"
        "    print(f(2).dtype, fc.remotecall_fetch(2, f, 2).dtype, fc.remotecall_fetch(2, eval, 'f(2)').dtype)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.split() == ["int32", "int32", "complex128"]


def test_symbols_hardly_ever_collide(cluster):
    """Two processes number their functions from different places."""

    def first_number():
        from numba.core.bytecode import FunctionIdentity

        return next(FunctionIdentity._unique_ids)

    numbers = [fc.remotecall_fetch(pid, first_number) for pid in (1, *cluster)]
    assert min(abs(one - other) for one in numbers for other in numbers if one != other) > 1000


# A Numba of the future


@pytest.fixture
def unknown_numba(monkeypatch):
    """What this process knows of Numba is to be forgotten after the test."""
    monkeypatch.setattr(private, "_warned", [])


@pytest.mark.parametrize("name", ["_reduce", "_final_module"])
def test_a_numba_that_lacks_a_name_compiles_everywhere(cluster, monkeypatch, unknown_numba, name):
    """One warning, and everything works, with the source alone."""
    f, g = adder(10), adder(11)
    f(1), g(1)
    if name == "_reduce":
        monkeypatch.delattr("numba.core.compiler.CompileResult._reduce")
    else:
        for each in (f, g):
            del next(iter(each.overloads.values())).library._final_module
    with pytest.warns(RuntimeWarning, match=r"cannot send the machine code of Numba .* \(AttributeError") as caught:
        values = fc.remotecall_fetch(2, f, 1), fc.remotecall_fetch(2, g, 1)
    assert values == (11, 12)
    assert len([each for each in caught if each.category is RuntimeWarning]) == 1


def test_a_numba_that_cannot_load_compiles(unknown_numba, monkeypatch):
    """So does the side that code comes to."""
    f = adder(12)
    f(1)
    with fc.addprocs(1) as [pid]:
        fc.remotecall_fetch(pid, exec, "from numba.core.compiler import CompileResult; del CompileResult._rebuild")
        with assert_compiles(1):
            assert fc.remotecall_fetch(pid, f, 1) == 13


def test_it_can_be_switched_off():
    """FARCALL_MACHINE_CODE=0: every process compiles for itself."""
    f = adder(13)
    f(1)
    with fc.addprocs(1, env={"FARCALL_MACHINE_CODE": "0"}) as [pid], assert_compiles(1):
        assert fc.remotecall_fetch(pid, f, 1) == 14


# Deaths and interrupts while somebody compiles

SLOW = """
import os
from numba.extending import overload

def wait(x):
    pass

@overload(wait)
def type_wait(x):
    with open(os.environ["NEWS"], "w") as news:
        news.write(f"{os.getpid()}\\n")
    with open(os.environ["GATE"]) as gate:  # until somebody opens it to write, and closes it
        gate.read()
    return lambda x: x
"""


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """A module of a function that takes as long to compile as the test wants, and its two named pipes."""
    (tmp_path / "slow.py").write_text(SLOW)
    for name in ("NEWS", "GATE"):
        os.mkfifo(tmp_path / name)
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("slow"), tmp_path / "NEWS", tmp_path / "GATE"
    sys.modules.pop("slow", None)


def open_gate(gate):
    with open(gate, "w"):
        pass


def waiters():
    from farcall._node.current import find_node

    return sum(len(task.waiting) for task in find_node().library._codes._tasks.values())


def test_when_the_compiling_worker_dies_another_compiles(slow):
    """Whoever waited for its code goes on."""
    module, news, gate = slow
    with fc.addprocs(2) as pids:
        f = make("@njit\ndef f(x):\n    return wait(x)", wait=module.wait)
        futures = [fc.spawnat(pid, f, 1) for pid in pids]
        compiling = int(news.read_text())
        assert until(lambda: waiters() == 1)
        os.kill(compiling, 9)
        assert int(news.read_text()) != compiling
        open_gate(gate)
        outcomes = [each.exception() for each in futures]
    assert [type(each) for each in outcomes if each is not None] == [fc.ProcessExited]


def test_waiting_for_code_can_be_interrupted(slow):
    """A call that waits for the code of another process is cancelled like any other, and the worker goes on."""
    module, news, gate = slow
    with fc.addprocs(2) as pids:
        f = make("@njit\ndef f(x):\n    return wait(x)", wait=module.wait)
        first = fc.spawnat(pids[0], f, 1)
        news.read_text()
        second = fc.spawnat(pids[1], f, 1)
        assert until(lambda: waiters() == 1)
        assert second.cancel()
        assert until(lambda: waiters() == 0)
        assert fc.remotecall_fetch(pids[1], adder(14), 1) == 15
        open_gate(gate)
        assert first.result() == 1
        with assert_compiles(0):
            assert fc.remotecall_fetch(pids[1], f, 2) == 2


# Counting


def test_assert_compiles_says_what_was_compiled(cluster):
    """Where, which function, for which types."""
    f = adder(15)
    with pytest.raises(AssertionError) as caught, assert_compiles(0):
        assert (f(1), fc.remotecall_fetch(2, f, 1.5)) == (16, 16.5)
    said = str(caught.value)
    assert said.startswith("0 compilations were expected and 2 happened")
    assert "f(int64) on the master" in said
    assert "f(float64) on worker 2" in said
    with pytest.raises(AssertionError, match="1 compilations were expected and 0 happened"), assert_compiles(1):
        f(2)


def test_assert_compiles_lets_errors_through(cluster):
    """An error in the block is not hidden by a wrong count; a senseless count is refused."""
    with pytest.raises(ZeroDivisionError), assert_compiles(5):
        operator.truediv(1, 0)
    with pytest.raises(ValueError, match="how many compilations"):
        assert_compiles(-1)


def test_assert_compiles_knows_what_it_cannot_know(cluster):
    """A worker that ended took its count along."""
    pids = fc.addprocs(1)
    with pytest.raises(AssertionError, match=f"worker {pids[0]} has ended"), assert_compiles(0):
        fc.rmprocs(pids)
    with pytest.raises(AssertionError, match="has ended"), assert_compiles(0), fc.addprocs(1):
        pass
    with assert_compiles(1):
        late = fc.addprocs(1)
        assert fc.remotecall_fetch(late[0], adder(16), 1) == 17
    fc.rmprocs(late)


def test_numba_counts_also_where_a_worker_imports_it_itself(cluster):
    """Functions of modules that a worker imports are compiled there, and count."""
    before = compiled_on(3)
    fc.remotecall_fetch(3, exec, "import numba\nnumba.njit(lambda x: x + 1)(1)")
    assert compiled_on(3) == before + 1
