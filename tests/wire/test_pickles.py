"""Values arrive equal; what cannot travel is an error that names it."""

import concurrent.futures
import contextlib
import gc
import importlib
import pickle
import sys
import textwrap
import threading
import types
import weakref
from collections import OrderedDict

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import until

from farcall._errors import SerializationError
from farcall._wire import pickles
from farcall._wire.pickles import OUT_OF_BAND, TooLarge


def cross(payload, holds=()):
    """Return the value of a payload whose buffers arrived as a frame's do: writable, in memory of their own."""
    inside = [bytearray(each.view) for each in payload.buffers if not each.by_index]
    indexed = [bytearray(each.view) for each in payload.buffers if each.by_index]
    return pickles.decode(payload.body, inside, indexed, holds)


def make_module(name, source, monkeypatch):
    """Return a module made by hand, which no other process could import."""
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(source, module.__dict__)
    return module


@contextlib.contextmanager
def elsewhere(*names):
    """Be a process that does not have some modules; its ``__main__`` is empty."""
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
        yield


class Reference:
    """A value that lives elsewhere: it travels as an attachment and arrives as whatever holds it there."""

    def __init__(self, *where):
        self.where = where

    def __reduce__(self):
        return pickles.attached_hold, (pickles.attach_reference(*self.where),)


class Failing:
    """A value whose pickling raises."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


def explode(error):
    """Rebuild a value of ``Explosive``, or rather fail to."""
    raise error


class Explosive(Failing):
    """A value whose unpickling raises."""

    def __reduce__(self):
        return explode, (self.error,)


# Plain values

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary()
nested = st.recursive(
    plain,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(nested)
def test_builtin_values_arrive_equal(value):
    """Numbers, strings, bytes, None and containers of them arrive with their types and values."""
    arrived = cross(pickles.encode(value))
    assert type(arrived) is type(value)
    assert repr(arrived) == repr(value)


@settings(deadline=None, max_examples=50)
@given(st.lists(nested, max_size=3).map(tuple))
def test_arguments_arrive_equal(args):
    """``encode_arguments`` gives what ``encode`` gives, whichever way it takes."""
    assert repr(cross(pickles.encode_arguments(args))) == repr(args)


@given(plain)
def test_plain_values_need_no_attachments(value):
    """``is_plain`` is true of what ``pickle`` alone can do, and ``decode_plain`` undoes it."""
    assert pickles.is_plain(value)
    payload = pickles.encode(value)
    assert not payload.buffers
    assert not payload.references
    assert repr(pickles.decode_plain(payload.body)) == repr(value)


@pytest.mark.parametrize("value", [(), [], {}, range(3), len, int, ValueError()])
def test_what_may_hold_anything_is_not_plain(value):
    """A container, a function or an object is not plain, even if it is empty."""
    assert not pickles.is_plain(value)


# Arrays

DTYPES = [
    "?", "i1", "<u4", ">i8", "f2", "<f8", ">c16", "S5", "S0", "<U3", "M8[s]", "m8[Y]", "V7",
    [("place", ">i2"), ("name", "U3"), ("point", "f8", (2, 2))],
]  # fmt: skip
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def make_array(dtype, shape):
    """Return a fresh array in which a shift shows."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    return np.ndarray(shape, dtype, (bytes(range(251)) * (size // 251 + 1))).copy()


def bend(array, how):
    """Return the same array, or one of the same values, that lies differently in memory."""
    if how == "fortran":
        return np.asfortranarray(array)
    if how == "transposed":
        return array.T
    if how == "strided":
        return array[..., ::-2] if array.ndim else array
    if how == "broadcast":
        return np.broadcast_to(array, (2, *array.shape))
    return array


@settings(deadline=None)
@given(
    st.sampled_from(DTYPES),
    shapes,
    st.sampled_from(["plain", "fortran", "transposed", "strided", "broadcast"]),
    st.booleans(),
    st.booleans(),
)
def test_arrays_arrive_equal_writable_and_apart(dtype, shape, how, large, read_only):
    """An array of any type, shape and order, writable or not, arrives equal, writable, in memory of its own."""
    array = bend(make_array(dtype, (OUT_OF_BAND, *shape[:2]) if large else shape), how)
    if read_only or how == "broadcast":
        array.flags.writeable = False
    before = array.tobytes()
    arrived = cross(pickles.encode(array))
    assert arrived.shape == array.shape
    assert arrived.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")  # NumPy may make it native
    same = arrived if arrived.dtype == array.dtype else arrived.astype(array.dtype)
    assert same.tobytes() == before
    assert arrived.flags.writeable
    arrived[...] = np.zeros((), array.dtype)
    assert array.tobytes() == before


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("read_only", [False, True])
def test_order_survives(order, read_only):
    """An array arrives in the order, C or Fortran, in which it was sent."""
    array = np.asarray(np.arange(60_000.0).reshape(200, 300), order=order)
    array.flags.writeable = not read_only
    arrived = cross(pickles.encode(array))
    assert (arrived.flags.c_contiguous, arrived.flags.f_contiguous) == (order == "C", order == "F")
    assert np.array_equal(arrived, array)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("read_only", [False, True])
def test_large_arrays_are_not_copied(order, read_only):
    """The buffer of a large array is the memory of that array, and its pickle is small."""
    array = np.asarray(np.arange(60_000.0).reshape(200, 300), order=order)
    array.flags.writeable = not read_only
    payload = pickles.encode({"data": array})
    (buffer,) = payload.buffers
    assert np.shares_memory(np.frombuffer(buffer.view, "u1"), array)
    assert buffer.view.nbytes == array.nbytes
    assert len(payload.body) < 1000
    assert payload.size == len(payload.body) + array.nbytes


@pytest.mark.parametrize("read_only", [False, True])
def test_small_arrays_stay_in_the_pickle(read_only):
    """A small buffer travels in the pickle, which is cheaper."""
    array = np.arange(OUT_OF_BAND // 8 - 1)
    array.flags.writeable = not read_only
    assert not pickles.encode(array).buffers


@pytest.mark.parametrize(
    "value",
    [
        np.arange(3.0),
        np.zeros((300, 100)),
        np.float64(1.5),
        np.int8(1),
        (np.arange(3), [1, 2], {"a": np.zeros(3), "b": None}),
    ],
)
def test_data_takes_the_quick_way(value, monkeypatch):
    """Numbers, arrays and few of them in containers are pickled by C alone, and arrive as they were."""
    with monkeypatch.context() as patched:
        patched.setattr(pickles, "_Pickler", None)
        payload = pickles.encode(value)
    np.testing.assert_equal(pickles.decode(payload.body, [each.view for each in payload.buffers]), value)


class Tag(np.ndarray):
    """An array that is not NumPy's."""


@pytest.mark.parametrize(
    "value",
    [
        np.array([lambda: 1], dtype=object),
        np.zeros(1, [("function", object)]),
        np.zeros(3).view(Tag),
        [[[lambda: 1]]],
        {"a": lambda: 1},
        {("a", (lambda: 1,)): 1},
        [*range(16), lambda: 1],
    ],
)
def test_what_may_hold_anything_takes_the_other_way(value, monkeypatch):
    """Whatever holds it, and however deep."""
    monkeypatch.setattr(pickles, "_Pickler", None)
    with pytest.raises(SerializationError, match="NoneType"):
        pickles.encode(value)


def test_many_arrays_keep_their_places():
    """Writable and read-only arrays in one message each get their own buffer."""
    sent = [np.full(OUT_OF_BAND + number, number, "u1") for number in range(6)]
    for each in sent[::2]:
        each.flags.writeable = False
    arrived = cross(pickles.encode(sent))
    assert all(np.array_equal(one, other) for one, other in zip(sent, arrived, strict=True))


def test_object_arrays_arrive_equal():
    """An array of Python objects travels like a list of them, read-only or not."""
    array = np.array([1, "two", None] * 10_000, dtype=object)
    array.flags.writeable = False
    arrived = cross(pickles.encode(array))
    assert arrived.tolist() == array.tolist()
    assert arrived.flags.writeable


@pytest.mark.parametrize("kind", [np.recarray, np.matrix])
def test_subclasses_of_arrays_arrive_writable(kind):
    """A read-only array of a subclass arrives as that subclass, equal and writable."""
    array = np.zeros((300, 300), [("a", "i4")] if kind is np.recarray else "f8").view(kind)
    array.flags.writeable = False
    arrived = cross(pickles.encode(array))
    assert type(arrived) is kind
    assert np.array_equal(arrived, array)
    assert arrived.flags.writeable


def read_only(array):
    array.flags.writeable = False
    return array


def test_constant_arrays_are_known():
    """An array is constant if neither it nor what it is a view of can be written to."""
    owner = np.arange(10.0)
    view = read_only(owner[2:])
    assert not pickles.is_constant_array(view)
    assert pickles.is_constant_array(np.frombuffer(b"12345678"))
    assert not pickles.is_constant_array(read_only(np.frombuffer(bytearray(8))))
    assert not pickles.is_constant_array(read_only(np.array([None])))
    assert not pickles.is_constant_array(read_only(np.zeros(1).view(np.recarray)))
    assert not pickles.is_constant_array([1.0])
    read_only(owner)
    assert pickles.is_constant_array(owner)
    assert pickles.is_constant_array(view)


def test_the_buffer_of_a_constant_array_names_its_owner():
    """Only a buffer that nobody can write to says whose it is, so that it need not be sent twice."""
    constant = read_only(np.arange(OUT_OF_BAND))
    writable_below = read_only(np.arange(OUT_OF_BAND)[:])
    (first,) = pickles.encode(constant).buffers
    (second,) = pickles.encode(writable_below).buffers
    assert first.constant is constant
    assert second.constant is None


def test_a_lost_buffer_is_an_error():
    """A read-only array whose shared segment could not be mapped is an error, not an array of garbage."""
    payload = pickles.encode(read_only(np.arange(OUT_OF_BAND)))
    with pytest.raises(SerializationError):
        pickles.decode(payload.body, [], [None])


# Functions, classes and modules

CLOSURE = """
base = 100
def helper(x): return base + x
def make(y):
    def inner(x): return helper(x) + y
    return inner
class Point:
    scale = 2
    def __init__(self, x): self.x = x
    def scaled(self): return self.x * self.scale + base
double = lambda x: 2 * x
"""


@pytest.mark.parametrize("name", ["__main__", "made_by_hand", "made_by_hand.part"])
def test_functions_of_modules_that_nobody_can_import_go_by_value(name, monkeypatch):
    """Functions, lambdas and closures of such modules arrive whole, with the globals that they use."""
    module = make_module(name, CLOSURE, monkeypatch)
    payload = pickles.encode((module.helper, module.double, module.make(10)))
    with elsewhere(name):
        helper, double, inner = cross(payload)
        assert (helper(1), double(4), inner(1)) == (101, 8, 111)


@pytest.mark.parametrize("name", ["__main__", "made_by_hand"])
def test_classes_of_modules_that_nobody_can_import_go_by_value(name, monkeypatch):
    """A class and its instances arrive although the class cannot be imported."""
    module = make_module(name, CLOSURE, monkeypatch)
    payload = pickles.encode([module.Point, module.Point(3)])
    with elsewhere(name):
        kind, point = cross(payload)
        assert type(point) is kind
        assert point.scaled() == 106


def test_modules_made_by_hand_go_by_value(monkeypatch):
    """A function that uses a module made by hand takes it along, as it takes a function of that module."""
    make_module("made_by_hand_too", CLOSURE, monkeypatch)
    user = make_module("__main__", "import made_by_hand_too\ndef f(x): return made_by_hand_too.helper(x)", monkeypatch)
    payload = pickles.encode(user.f)
    with elsewhere("made_by_hand_too"):
        assert cross(payload)(1) == 101


@pytest.mark.parametrize("value", [len, np.sin, pickle.Pickler, contextlib.suppress, OrderedDict.fromkeys])
def test_importable_things_go_by_name(value):
    """What can be imported arrives as what is imported there, and its pickle is small."""
    payload = pickles.encode(value)
    assert cross(payload) == value
    assert len(payload.body) < 200


def test_modules_that_the_user_registers_go_by_value():
    """With ``cloudpickle.register_pickle_by_value``, although they can be imported."""
    assert len(pickles.encode(textwrap.dedent).body) < 100
    cloudpickle.register_pickle_by_value(textwrap)
    try:
        assert len(pickles.encode([textwrap.dedent]).body) > 1000
    finally:
        cloudpickle.unregister_pickle_by_value(textwrap)


def test_modules_are_told_apart_once():
    """A module goes by value if no finder knows it; a package that is installed never does."""
    assert pickles.goes_by_value("__main__")
    assert not pickles.goes_by_value("numpy.linalg")
    assert not pickles.goes_by_value("sys")
    assert not pickles.goes_by_value("a_module_that_is_nowhere")


# References


def test_references_leave_the_pickle():
    """References become attachments in their order, and arrive as whatever holds them there."""
    payload = pickles.encode([Reference(2, 1, 7), Reference(3, 1, 8)])
    assert payload.references == ((2, 1, 7), (3, 1, 8))
    assert cross(payload, holds=("first", "second")) == ["first", "second"]


def test_a_reference_travels_only_in_a_message():
    """Pickling a reference by other means is a SerializationError that says what to do instead."""
    with pytest.raises(SerializationError, match=r"fetch\(reference\)"):
        pickle.dumps(Reference(2, 1, 7))


def test_a_failed_message_leaves_nothing_behind():
    """After a message that could not be pickled, a reference outside a message is still an error."""
    with pytest.raises(SerializationError):
        pickles.encode([Reference(2, 1, 7), Failing(ValueError())])
    with pytest.raises(SerializationError, match=r"fetch\(reference\)"):
        pickle.dumps(Reference(2, 1, 7))


class Envelope:
    """A value that holds another message, pickled when it is pickled and unpickled when it is."""

    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        return open_envelope, (pickles.encode(self.content),)


def open_envelope(payload):
    return cross(payload, holds=("inner",))


def test_a_message_inside_a_message_keeps_its_own_attachments():
    """Pickling a message while another is being pickled mixes up neither's references nor buffers."""
    array = read_only(np.arange(OUT_OF_BAND))
    sent = [Reference(2, 1, 7), Envelope([Reference(9, 9, 9), 2 * array]), Reference(3, 1, 8), array]
    payload = pickles.encode(sent)
    assert payload.references == ((2, 1, 7), (3, 1, 8))
    first, (inner, twice), second, same = cross(payload, holds=("first", "second"))
    assert (first, inner, second) == ("first", "inner", "second")
    assert np.array_equal(twice, 2 * array)
    assert np.array_equal(same, array)


# What cannot travel


class Unpicklable:
    def __reduce__(self):
        raise TypeError("I stay here")


UNPICKLABLE = [
    (threading.Lock(), "lock"),
    ((1, threading.Lock()), "int, lock"),
    (((1, Unpicklable()), {"key": 2}), "Unpicklable"),
    ({"key": [Unpicklable()]}, "I stay here"),
    ((each for each in ()), "generator"),
]


@pytest.mark.parametrize(("value", "words"), UNPICKLABLE, ids=[words for _, words in UNPICKLABLE])
def test_what_cannot_be_pickled_is_named(value, words):
    """A value that cannot be pickled is a SerializationError, also a PicklingError, that names its type."""
    with pytest.raises(SerializationError, match=words) as caught:
        pickles.encode(value)
    assert isinstance(caught.value, pickle.PicklingError)
    assert caught.value.__cause__ is not None


class Evasive:
    """An object that answers every question with itself, as proxies do."""

    def __call__(self):
        return self

    def __getattr__(self, name):
        return self

    def __reduce_ex__(self, protocol):
        raise TypeError("cannot be pickled")


def test_naming_a_value_never_fails():
    """Also a proxy, which answers anything to anybody, is a SerializationError."""
    with pytest.raises(SerializationError):
        pickles.encode(Evasive())


def test_recursion_without_end_is_an_error():
    """A value nested too deep for pickle is a SerializationError."""
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(SerializationError):
        pickles.encode(value)
    while value:
        value = value.pop()  # a recursive free would be as deep


@pytest.mark.parametrize("error", [SystemExit(3), ValueError("no"), MemoryError()])
@pytest.mark.parametrize("kind", [Failing, Explosive])
def test_errors_of_pickling_are_errors_of_the_value(error, kind):
    """Whatever a value raises while it is pickled or unpickled, SystemExit included, is a SerializationError."""
    with pytest.raises(SerializationError, match=type(error).__name__):
        cross(pickles.encode(kind(error)))


def test_plain_bodies_fail_as_others_do():
    """What ``decode_plain`` cannot unpickle, SystemExit included, is a SerializationError."""
    for body in (b"", b"garbage", pickle.dumps(Explosive(SystemExit()))):
        with pytest.raises(SerializationError):
            pickles.decode_plain(body)


@pytest.mark.parametrize("kind", [Failing, Explosive])
def test_an_interrupt_is_no_error_of_the_value(kind):
    """Ctrl-C while pickling or unpickling stays what it is."""
    with pytest.raises(KeyboardInterrupt):
        cross(pickles.encode(kind(KeyboardInterrupt())))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_a_serialization_error(body):
    """Bytes that are no pickle are a SerializationError or, by chance, a value."""
    with contextlib.suppress(SerializationError):
        pickles.decode(body)


# Limits


@pytest.mark.parametrize(
    "value",
    ["x" * 1000, [0] * 1000, [b"x" * 100_000], np.zeros(1000), np.zeros(100_000), read_only(np.zeros(100_000))],
    ids=["plain", "list", "bytes", "array", "buffer", "constant"],
)
def test_what_exceeds_the_limit_is_too_large(value):
    """A payload larger than the limit is TooLarge, wherever its bytes are; one as large as the limit is not."""
    size = pickles.encode(value).size
    assert pickles.encode(value, limit=size).size == size
    for limit in (0, 100, size - 1):
        with pytest.raises(TooLarge):
            pickles.encode(value, limit=limit)


@pytest.mark.parametrize("large", [b"x" * 100_000, np.zeros(100_000)], ids=["bytes", "buffer"])
def test_a_large_value_is_given_up_early(large):
    """What comes behind the point where the limit is passed is not pickled any more."""
    with pytest.raises(TooLarge):
        pickles.encode([large, Failing(ValueError())], limit=1000)


def test_a_payload_keeps_its_buffers_alive_and_nothing_else_does():
    """The memory of a large array is held by its payload, and freed with it."""
    array = np.zeros(OUT_OF_BAND)
    gone = weakref.ref(array)
    payload = pickles.encode(array)
    del array
    assert gone() is not None
    del payload
    gc.collect()
    assert gone() is None


PACKAGE = {
    "__init__.py": "import gate\ngate.wait()\nvalue = 1\nfrom .part import thing\ndef top(): return thing()\n",
    "part.py": "from . import value\ndef thing(): return value\n",
}


@pytest.mark.parametrize("what", ["thing", "module"])
def test_threads_may_import_a_package_from_both_ends(tmp_path, monkeypatch, what):
    """While one unpickles what is in a package, and imports it, another one wants a module of it: it gets the whole."""
    gate, go, waiting = types.ModuleType("gate"), threading.Event(), []
    gate.wait = lambda: waiting.append(threading.get_ident()) or go.wait()
    monkeypatch.setitem(sys.modules, "gate", gate)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"from_both_ends_{what}"
    (tmp_path / name).mkdir()
    for file, text in PACKAGE.items():
        (tmp_path / name / file).write_text(text)
    go.set()
    package = importlib.import_module(name)
    payloads = [pickles.encode(each) for each in (package.top, package.thing if what == "thing" else package.part)]
    go.clear()

    def is_blocked():
        frames = sys._current_frames()
        return any(frames[each.ident].f_code.co_filename.startswith("<frozen importlib") for each in threads._threads)

    with elsewhere(name, f"{name}.part"), concurrent.futures.ThreadPoolExecutor(2) as threads:
        first = threads.submit(cross, payloads[0])
        try:
            assert until(lambda: len(waiting) == 2)
            second = threads.submit(cross, payloads[1])
            assert until(is_blocked)
        finally:
            go.set()
        assert first.result()() == 1
        assert getattr(second.result(), "thing", second.result())() == 1
