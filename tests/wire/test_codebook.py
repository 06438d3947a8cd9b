"""A function crosses a link once, and is nevertheless always the one that the caller sees."""

import fnmatch
import functools
import gc
import os.path
import sys
import threading
import types
import warnings
import weakref

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from farcall._errors import SerializationError
from farcall._wire import codebook, pickles
from farcall._wire.codebook import INLINE, Codebook

MEGABYTE = 1 << 20


def open_payload(payload):
    """Return what a payload holds, in memory of its own, as a peer does."""
    inside = [bytearray(each.view) for each in payload.buffers if not each.by_index]
    indexed = [bytearray(each.view) for each in payload.buffers if each.by_index]
    return pickles.decode(payload.body, inside, indexed)


class Peer:
    """The other side of a link: it has what was defined there, and calls it."""

    def __init__(self, book):
        self.book = book
        self.definitions = {}
        self.crossed = 0

    def function(self, function):
        """Return what a call of the function would run there."""
        number = self.book.number_of(function)
        if number in self.definitions:
            return self.definitions[number]()
        shipment = self.book.examine(function)
        if shipment.number not in self.definitions:
            self.crossed += 1
            self._define(shipment)
        found = self.definitions[shipment.number]()
        if shipment.once:
            del self.definitions[shipment.number]
        while self.book.forgotten:
            del self.definitions[self.book.forgotten.pop()]
        return found

    def _define(self, shipment):
        if shipment.fresh:
            self.definitions[shipment.number] = lambda: open_payload(shipment.payload)
        else:
            function = open_payload(shipment.payload)
            self.definitions[shipment.number] = lambda: function

    def call(self, function, *args):
        return self.function(function)(*args)


@pytest.fixture
def book():
    return Codebook(limit=100 * MEGABYTE, warning=100 * MEGABYTE)


@pytest.fixture
def peer(book):
    return Peer(book)


def define(source, **names):
    """Return the namespace of a program that consists of this source."""
    namespace = {"__name__": "__main__", **names}
    exec(source, namespace)
    return namespace


def read_only(array):
    array.flags.writeable = False
    return array


# Current

PROGRAM = """
number = 1
table = (1, 2)
def leaf(): return number
def helper(): return 10 * leaf()
def f(extra=0): return helper(), number, table, extra
"""


def test_an_unchanged_function_crosses_once(book, peer):
    """While nothing changes a function keeps its number, and need not be looked into."""
    f = define(PROGRAM)["f"]
    assert book.number_of(f) == 0
    assert peer.call(f) == f()
    number = book.number_of(f)
    assert number != 0
    assert [book.number_of(f) for _ in range(3)] == [number] * 3
    assert book.examine(f).number == number
    assert [peer.call(f) for _ in range(3)] == [f()] * 3
    assert peer.crossed == 1


def test_two_functions_have_two_numbers(book):
    """Functions with different content have different numbers."""
    one, other = define(PROGRAM), define(PROGRAM, unused=0)
    other["number"] = 2
    assert book.examine(one["f"]).number != book.examine(other["f"]).number


CHANGES = {
    "global number": "number = 5000",
    "global tuple": "table = (3, 4)",
    "global becomes a list": "table = [1, 2]",
    "helper": "def helper(): return 7",
    "helper of the helper": "def leaf(): return 7 * number",
    "code": "f.__code__ = (lambda extra: number).__code__",
    "code of the helper": "leaf.__code__ = (lambda: 7).__code__",
    "default": "f.__defaults__ = (5,)",
    "helper becomes a builtin": "helper = int",
    "helper becomes a class": "class helper:\n    def __eq__(self, other): return str(self)[:9] == str(other)[:9]",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changes_are_seen(peer, change):
    """A call sees globals, helpers, defaults and code as they are at that moment."""
    namespace = define(PROGRAM)
    peer.call(namespace["f"])
    exec(change, namespace)
    assert peer.call(namespace["f"]) == namespace["f"]()
    assert peer.call(namespace["f"]) == namespace["f"]()


def test_defaults_of_keywords_are_seen(peer):
    """A call sees the default of a keyword-only argument as it is at that moment."""
    f = define("def f(*, more=0): return more")["f"]
    assert peer.call(f) == 0
    f.__kwdefaults__["more"] = 1
    assert peer.call(f) == 1
    f.__kwdefaults__ = {"more": 2}
    assert peer.call(f) == 2


def test_a_function_with_a_keyword_default_crosses_once(peer):
    """A keyword-only argument with a default of a fixed kind is no reason to cross again."""
    f = define("def f(*, more=0): return more")["f"]
    assert [peer.call(f) for _ in range(3)] == [0, 0, 0]
    assert peer.crossed == 1


def test_a_deleted_global_is_seen(peer):
    """A name that the sender deletes is missing at the peer, too."""
    namespace = define("def f(): return number", number=1)
    assert peer.call(namespace["f"]) == 1
    del namespace["number"]
    with pytest.raises(NameError):
        peer.call(namespace["f"])


def test_a_global_that_hides_a_builtin_is_seen(peer):
    """A name that was a builtin when the function crossed is looked at again."""
    namespace = define("def f(): return abs(-1)")
    assert peer.call(namespace["f"]) == 1
    namespace["abs"] = str
    assert peer.call(namespace["f"]) == "-1"


def test_a_captured_variable_that_changes_is_seen(peer):
    """A closure crosses again when the variable that it captured has changed."""

    def make():
        count = 0

        def increase():
            nonlocal count
            count += 1

        return increase, lambda: count

    increase, read = make()
    assert peer.call(read) == 0
    increase()
    assert peer.call(read) == 1


CONTAINERS = {
    "list": ("x = [1]", "x.append(2)"),
    "large list": (f"x = list(range({INLINE}))", "x[7] = 'changed'"),
    "dict": ("x = {}", "x['key'] = 1"),
    "array": ("import numpy; x = numpy.zeros(3)", "x[1] = 5"),
    "large array": (f"import numpy; x = numpy.zeros({INLINE})", "x[1] = 5"),
    "tuple with a list": ("x = ([],)", "x[0].append(1)"),
    "object": ("class X: y = 1\nx = X()\n", "x.y = 2"),
    "class": ("class x: y = 1\n", "x.y = 2"),
    "method of a class": ("class x:\n    def y(self=0): return 1", "x.y = lambda self=0: 2"),
}


@pytest.mark.parametrize(("before", "change"), CONTAINERS.values(), ids=CONTAINERS.keys())
def test_captured_objects_are_seen_as_they_are(peer, before, change):
    """What can change unnoticed is looked at for each call."""
    source = "def f(): return str(x if not hasattr(x, 'y') else x.y() if callable(x.y) else x.y)[:200]"
    namespace = define(f"{before}\n{source}")
    assert peer.call(namespace["f"]) == namespace["f"]()
    exec(change, namespace)
    assert peer.call(namespace["f"]) == namespace["f"]()


def test_constant_arrays_are_compared_by_identity(book, peer):
    """A function that captures a constant array crosses once, and again when the name means another array."""
    namespace = define("def f(): return data.sum()", data=read_only(np.ones(INLINE)))
    assert peer.call(namespace["f"]) == INLINE
    assert book.number_of(namespace["f"]) != 0
    assert peer.call(namespace["f"]) == INLINE
    assert peer.crossed == 1
    namespace["data"] = read_only(np.zeros(INLINE))
    assert peer.call(namespace["f"]) == 0


def test_a_constant_array_replaced_by_none_is_seen(peer):
    """A name that meant a constant array, since freed, and now means None, means None at the peer."""
    namespace = define("def f(): return data is None", data=read_only(np.ones(10)))
    assert peer.call(namespace["f"]) is False
    namespace["data"] = None
    assert peer.call(namespace["f"]) is True


@pytest.mark.parametrize("before", ["f.calls = 1", ""], ids=["changed", "added"])
def test_attributes_of_functions_are_seen(peer, before):
    """A function that uses its own attributes finds them as they are."""
    namespace = define(f"def f(): return getattr(f, 'calls', 0)\n{before}")
    peer.call(namespace["f"])
    namespace["f"].calls = 5
    assert peer.call(namespace["f"]) == 5


def test_attributes_of_a_module_made_by_hand_are_seen(peer, monkeypatch):
    """A module that goes by value, because nobody can import it, is seen as it is."""
    module = types.ModuleType("made_by_hand_for_the_codebook")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("x = 1\ndef read(): return x", module.__dict__)
    assert pickles.goes_by_value(module.__name__)
    f = define("def f(): return module.x", module=module)["f"]
    assert peer.call(f) == 1
    module.x = 2
    assert peer.call(f) == 2


class Program(RuleBasedStateMachine):
    """Somebody works in a notebook: defines, redefines, mutates, calls; the peer is never behind."""

    def __init__(self):
        super().__init__()
        self.names = define(PROGRAM + "shared = [1]\ndef g(): return f(), len(shared), sorted(shared)")
        self.peer = Peer(Codebook(limit=20_000, warning=100 * MEGABYTE))

    @rule(
        change=st.sampled_from([each for name, each in CHANGES.items() if "class" not in name and "code" not in name])
    )
    def change(self, change):
        exec(change, self.names)

    @rule(number=st.integers(0, 2) | st.integers())
    def rebind(self, number):
        self.names["number"] = number

    @rule(number=st.integers(0, 3000))
    def mutate(self, number):
        self.names["shared"].extend(range(number))

    @rule()
    def begin_anew(self):
        exec(PROGRAM, self.names)
        self.names["shared"] = [1]

    @rule(name=st.sampled_from(["f", "g", "helper", "leaf"]))
    def call(self, name):
        function = self.names[name]
        assert self.peer.call(function) == function()

    @invariant()
    def nothing_is_lost(self):
        known = {entry.number for entry in self.peer.book._entries.values()}
        assert known <= self.peer.definitions.keys()


TestProgram = Program.TestCase
TestProgram.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


# By name


@pytest.mark.parametrize("function", [os.path.join, len, np.linalg.norm, np.sin, types.SimpleNamespace, str.upper])
def test_importable_functions_go_by_name(book, function):
    """What can be imported crosses as its name, whatever it uses."""
    payload = book.examine(function).payload
    assert len(payload.body) < 200
    assert open_payload(payload) is function


@pytest.mark.parametrize(
    ("function", "value"),
    [(os.path.basename, "b"), (np.sum, 3.0), (np.sqrt, 2.0), (str.upper, "b"), (fnmatch._compile_pattern, "*")],
    ids=str,
)
def test_an_importable_function_crosses_once(peer, function, value):
    """A function that goes by name keeps its number, of whatever kind it is."""
    for _ in range(3):
        assert peer.call(function, value) == function(value)
    assert peer.crossed == 1
    assert peer.book.number_of(function) in peer.definitions


def test_a_function_that_hides_behind_a_name_goes_by_value(peer):
    """A function whose name means another function in its module is not that one."""
    impostor = define("def f(): return 'impostor'")["f"]
    impostor.__module__, impostor.__qualname__ = "os.path", "join"
    assert not codebook.is_importable(impostor)
    assert peer.call(impostor) == "impostor"


@pytest.mark.parametrize("value", [[].append, functools.partial(len), lambda: 0, 5, "len", threading.Lock().acquire])
def test_what_has_no_name_in_a_module_is_not_importable(value):
    """Bound methods, partials, lambdas and values that are no functions do not go by name."""
    assert not codebook.is_importable(value)


# Names that the sender does not have


@pytest.fixture
def elsewhere(monkeypatch):
    """Return the ``__main__`` of another process."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    return main


def test_unresolved_names_mean_what_they_mean_in_main_there(peer, elsewhere):
    """A name that the sender does not have is looked up in ``__main__`` of the process where the function runs."""
    f = define("def helper(): return known, missing\ndef f(): return helper(), missing", known=1)["f"]
    elsewhere.missing = 2
    elsewhere.known = "not this one"
    assert peer.call(f) == ((1, 2), 2)
    elsewhere.missing = 3
    assert peer.call(f) == ((1, 3), 3)


def test_a_name_that_nobody_has_is_a_name_error(peer, elsewhere):
    """A name that is missing on both sides is a NameError, when it is used."""
    with pytest.raises(NameError, match="missing"):
        peer.call(define("def f(): return missing")["f"])


def test_builtins_are_not_looked_up_in_main(peer, elsewhere):
    """A builtin is the builtin, unless the sender's program says otherwise."""
    elsewhere.len = "not this one"
    assert peer.call(define("def f(): return len([]), missing", missing=1)["f"]) == (0, 1)


def test_a_name_that_the_sender_gets_later_is_the_senders(peer, elsewhere):
    """A name is looked up here first, at each call."""
    namespace = define("def f(): return name")
    elsewhere.name = "there"
    assert peer.call(namespace["f"]) == "there"
    namespace["name"] = "here"
    assert peer.call(namespace["f"]) == "here"


def test_a_function_that_came_from_elsewhere_can_go_on(peer, elsewhere):
    """A function with unresolved names can be passed on by the process that got it."""
    received = peer.function(define("def f(): return missing")["f"])
    elsewhere.missing = 2
    assert peer.call(received) == 2
    assert peer.call(received) == 2


# Once, and fresh


class Callable:
    def __init__(self, value):
        self.value = value

    def __call__(self):
        return self.value

    def method(self):
        return self.value


@pytest.mark.parametrize(
    "make",
    [lambda: functools.partial(pow, 2, 3), lambda: Callable(8), lambda: Callable(8).method, lambda: [8].pop],
    ids=["partial", "callable", "method", "builtin method"],
)
def test_what_is_no_function_is_looked_at_for_each_call(book, peer, make):
    """Objects that can be called may change between calls; what is as it was is kept from its second call on."""
    function = make()
    pickles.encode(function)  # a class is given ``__slotnames__`` when something of it is pickled first
    first, second, third = (book.examine(function) for _ in range(3))
    assert (first.once, second.once, second.fresh) == (True, False, True)
    assert second.number == third.number
    assert book.number_of(function) == 0
    assert [peer.call(make()) for _ in range(3)] == [8, 8, 8]


FEW = {
    "list": ("data = [1, 'a', (2, 3)]", "data.append(4)", "data.pop()"),
    "list, same length": ("data = [1, 2]", "data[0] = 3", "data[1] = 5"),
    "dict": ("data = {'a': 1}", "data['a'] = 2", "del data['a']"),
    "set": ("data = {1, 2}", "data.add(3)", "data.clear()"),
    "array": ("data = np.arange(3.0)", "data[1] = 7", "data.shape = 1, 3"),
    "array, its type": ("data = np.zeros(2)", "data.dtype = 'i8'", "data = data.astype('f4')"),
    "equal ones": ("data = [1]", "data = [True]", "data = [1.0]"),
    "one for the other": ("data = [1]", "data = [1]", "data = (1,)"),
    "too many": ("data = [0]", "data.extend(range(1000))", "data.append(lambda: 1)"),
}


@pytest.mark.parametrize(("before", "x", "y"), FEW.values(), ids=FEW.keys())
def test_little_is_compared_and_not_pickled(peer, before, x, y):
    """While few values that a function captures are as they were nothing is pickled; any change is seen."""
    namespace = define(f"{before}\ndef f(): return repr(data)[:50]", np=np)
    for change in ("pass", x, y):
        exec(change, namespace)
        for _ in range(2):
            assert peer.call(namespace["f"]) == namespace["f"]()
        if len(namespace["data"]) < 9:
            assert peer.book.number_of(namespace["f"]) in peer.definitions


def test_functions_in_a_container_are_not_compared(peer):
    """What they use may change."""
    namespace = define("k = 1\ndata = [lambda: k]\ndef f(): return data[0]()")
    assert peer.call(namespace["f"]) == 1
    namespace["k"] = 2
    assert peer.call(namespace["f"]) == 2


@pytest.mark.parametrize("data", ["[1]", "{0: 1}", "np.ones(1)"])
def test_each_call_begins_with_what_was_captured(peer, data):
    """What a call does to a few values that were captured, the next one does not see."""
    f = define(f"data = {data}\ndef f():\n    data[0] += 1\n    return data[0]", np=np)["f"]
    assert [peer.call(f) for _ in range(3)] == [2, 2, 2]
    assert peer.crossed == 1


def test_what_two_functions_of_a_call_share_stays_shared(peer):
    """Two lists that were one are two from then on, also for a function that changes one of them."""
    namespace = define("a = b = [1]\ndef f():\n    a.append(2)\n    return len(b)")
    assert peer.call(namespace["f"]) == 2
    namespace["b"] = [1]
    assert peer.call(namespace["f"]) == 1


def test_a_large_object_stays_nowhere_after_its_call(peer):
    """Its methods take it along each time."""
    method = Callable([0] * INLINE).method
    assert [len(peer.call(method)) for _ in range(3)] == [INLINE] * 3
    assert not peer.definitions


def test_a_bound_method_sees_its_object_as_it_is(peer):
    """A method runs with the object as it is at each call."""
    thing = Callable(1)
    assert peer.call(thing.method) == 1
    thing.value = 2
    assert peer.call(thing.method) == 2


class Reference:
    def __reduce__(self):
        return pickles.attached_hold, (pickles.attach_reference(2, 1, 7),)


@pytest.mark.parametrize("size", [0, 2 * INLINE])
def test_a_function_that_captures_a_reference_crosses_for_each_call(book, size):
    """A reference in a function lives as long as its message, whatever else the function captures."""
    shipment = book.examine(define("def f(): return reference, data", reference=Reference(), data=[0] * size)["f"])
    assert shipment.once
    assert shipment.payload.references == ((2, 1, 7),)


def test_what_a_function_does_to_its_state_is_undone_for_the_next_call(peer):
    """A function that changes what it captured changes a copy, and the next call begins with the sender's."""
    f = define(f"data = [0] * {2 * INLINE}\ndef f():\n    data.append(1)\n    return len(data)")["f"]
    assert [peer.call(f) for _ in range(3)] == [2 * INLINE + 1] * 3
    assert peer.crossed == 1


@pytest.mark.parametrize("padding", [0, 2 * INLINE])
def test_a_function_that_assigns_to_globals_begins_with_the_senders(peer, padding):
    """``global x; x = …`` changes nothing that a later call sees, whether or not the function is large."""
    source = f"x = 0\npadding = 'x' * {padding}\ndef f():\n    global x\n    x = x + 1\n    return x, len(padding)"
    namespace = define(source)
    assert [peer.call(namespace["f"]) for _ in range(3)] == [(1, padding)] * 3
    namespace["x"] = 10
    assert peer.call(namespace["f"]) == (11, padding)


def test_large_unchanged_state_crosses_once(book, peer):
    """A function with large state that might change is compared for each call, and crosses when it has changed."""
    namespace = define("def f(): return len(data)", data=["x"] * INLINE)
    for _ in range(3):
        assert peer.call(namespace["f"]) == INLINE
    assert peer.crossed == 1
    assert book.number_of(namespace["f"]) == 0
    namespace["data"].append("y")
    assert peer.call(namespace["f"]) == INLINE + 1
    namespace["data"].pop()
    assert peer.call(namespace["f"]) == INLINE
    assert peer.crossed == 2


def test_a_value_that_cannot_be_pickled_is_named(book):
    """A function that captures what cannot travel is a SerializationError, and the book goes on."""
    namespace = define("def f(): return lock", lock=threading.Lock())
    with pytest.raises(SerializationError, match="f cannot be pickled"):
        book.examine(namespace["f"])
    namespace["lock"] = 1
    assert open_payload(book.examine(namespace["f"]).payload)() == 1


# What the book keeps


def make_with_helper():
    def helper():
        return 1

    return (lambda: helper()), helper


def make_with_constant():
    constant = read_only(np.ones(10))
    return (lambda: constant), constant


def make_with_object():
    thing = Callable(1)
    return (lambda: thing), thing


def make_with_large_object():
    thing = Callable(list(range(INLINE)))
    return (lambda: thing), thing


def make_with_default():
    thing = Callable(1)
    return (lambda thing=thing: thing), thing


def make_with_attribute():
    def function():
        return 1

    function.thing = Callable(1)
    return function, function.thing


def make_recursive():
    thing = read_only(np.ones(10))

    def walk(n):
        return thing if n == 0 else walk(n - 1)

    return walk, thing


MAKERS = [
    make_with_helper,
    make_with_constant,
    make_with_object,
    make_with_large_object,
    make_with_default,
    make_with_attribute,
    make_recursive,
]


@pytest.mark.parametrize("make", MAKERS)
def test_the_book_keeps_nothing_alive(book, make):
    """Neither a function nor what it captured lives longer because the book has looked at it."""
    function, captured = make()
    gone = weakref.ref(function), weakref.ref(captured)
    book.examine(function)
    book.number_of(function)
    del function, captured
    gc.collect()
    assert [each() for each in gone] == [None, None]
    assert not book._entries


def test_the_book_lets_go_of_what_a_function_captured_before(book):
    """What a living function used to capture is freed when the function has something else instead."""
    namespace = define("def f(): return helper()\ndef helper(): return 1")
    gone = weakref.ref(namespace["helper"])
    book.examine(namespace["f"])
    exec("def helper(): return 2", namespace)
    gc.collect()
    assert gone() is None
    assert open_payload(book.examine(namespace["f"]).payload)() == 2


def test_a_function_that_changes_often_costs_no_memory(book):
    """Looking at a function again adds nothing to what the process keeps."""
    namespace = define("def f(): return number", number=-1)
    book.examine(namespace["f"])
    before = len(weakref.finalize._registry)
    for number in range(100):
        namespace["number"] = number
        book.examine(namespace["f"])
    assert len(weakref.finalize._registry) <= before + 1


def test_what_exceeds_the_limit_is_forgotten_oldest_first():
    """When the definitions of a peer exceed the limit the oldest are forgotten, and cross again when called again."""
    book = Codebook(limit=5 * INLINE, warning=MEGABYTE)
    peer = Peer(book)
    programs = [define("def f(): return data[0]", data=[number] + [0] * INLINE) for number in range(4)]
    size = book.examine(programs[0]["f"]).payload.size
    assert 5 * INLINE < 3 * size < 2 * 5 * INLINE
    for number, each in enumerate(programs):
        assert peer.call(each["f"]) == number
    assert len(peer.definitions) == 5 * INLINE // size
    assert peer.crossed == 4
    assert peer.call(programs[3]["f"]) == 3
    assert peer.crossed == 4
    assert peer.call(programs[0]["f"]) == 0
    assert peer.crossed == 5


def test_more_functions_than_the_limit_are_forgotten(monkeypatch):
    """The number of functions is limited, too; one that is forgotten here is forgotten there."""
    monkeypatch.setattr(codebook, "_MOST_FUNCTIONS", 3)
    book = Codebook(limit=MEGABYTE, warning=MEGABYTE)
    functions = [define("def f(): return number", number=number)["f"] for number in range(4)]
    first, *_, last = [book.examine(each).number for each in functions]
    assert book.forgotten == [first]
    assert book.number_of(functions[0]) == 0
    assert book.number_of(functions[3]) == last
    assert book.examine(functions[0]).number > last


def test_one_function_may_exceed_the_limit():
    """A function larger than all the limit crosses and is kept until the next one comes."""
    book = Codebook(limit=1, warning=MEGABYTE)
    f, g = define(PROGRAM)["f"], define("def g(): return 1")["g"]
    book.examine(f)
    assert book.number_of(f) != 0
    assert not book.forgotten
    book.examine(g)
    assert len(book.forgotten) == 1
    assert book.number_of(f) == 0


def test_numbers_are_never_reused(book):
    """Each content has a number of its own, also after others were forgotten or crossed once."""
    book = Codebook(limit=1, warning=MEGABYTE)
    numbers = []
    for number in range(5):
        numbers.append(book.examine(define("def f(): return number", number=number)["f"]).number)
        numbers.append(book.examine(functools.partial(len)).number)
    assert len(set(numbers)) == 10
    assert 0 not in numbers


def test_threads_agree_on_numbers(book):
    """Threads that look at one function at once give it one number, and those of others are different."""
    functions = [define("def f(): return number", number=number)["f"] for number in range(20)]
    found = []
    start = threading.Barrier(4)

    def examine():
        start.wait()
        found.append([book.examine(each).number for each in functions])

    threads = [threading.Thread(target=examine) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == [found[0]] * 4
    assert len(set(found[0])) == 20


# Warnings


def test_a_large_capture_is_named():
    """A function that captures much is named in one warning, with the variable, where it is called."""
    book = Codebook(limit=MEGABYTE, warning=100_000)
    namespace = define("def f(): return small, large", small=[1], large=bytearray(1_000_000))
    with pytest.warns(UserWarning, match=r"f captures 1 MB, most of it in 'large' \(1 MB\)") as caught:
        book.examine(namespace["f"])
    assert caught[0].filename == __file__
    book.examine(namespace["f"])  # once is enough


def test_a_small_capture_is_not_worth_a_warning():
    """A function that captures little is not mentioned."""
    book = Codebook(limit=MEGABYTE, warning=100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        book.examine(define("def f(): return data", data=bytearray(90_000))["f"])
