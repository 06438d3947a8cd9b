"""Who compiles a specialisation, and who gets its code: the table of the master, without processes or clocks."""

from types import SimpleNamespace

import pytest

from farcall._node.machine_code import PATIENCE, Codes
from farcall._wire.compiled.shipping import Key

F = Key("f", b"1", "(int64,)", ("x86",))
G = Key("g", b"1", "(int64,)", ("x86",))


def asker(pid, number=1):
    return SimpleNamespace(pid=pid, number=number)


@pytest.fixture
def codes():
    return Codes(limit=100)


def test_the_first_compiles_and_the_others_wait_for_its_code(codes):
    """One process gets the task at once; who asks later is answered with the code when it is there."""
    first, second, third = asker(2), asker(3), asker(4)
    assert codes.ask(F, first, True, 0) == [(first, None)]
    assert codes.ask(F, second, True, 1) == []
    assert codes.ask(F, third, True, 2) == []
    assert codes.put(F, b"code") == [(second, b"code"), (third, b"code")]


def test_what_is_known_is_answered_at_once(codes):
    """Nobody waits for code that is there, and nobody compiles it again."""
    codes.put(F, b"code")
    late = asker(5)
    assert codes.ask(F, late, True, 0) == [(late, b"code")]


def test_who_compiles_something_never_waits(codes):
    """A process that needs code in the midst of compiling gets what is known, or compiles it too."""
    codes.ask(F, asker(2), True, 0)
    nested = asker(3)
    assert codes.ask(F, nested, False, 1) == [(nested, None)]
    assert codes.ask(G, nested, False, 1) == [(nested, None)]
    waiting = asker(2)
    assert codes.ask(G, waiting, True, 2) == []  # others wait for what it compiles
    assert codes.put(G, b"g") == [(waiting, b"g")]


def test_when_the_compiling_process_dies_the_next_one_compiles(codes):
    """The task goes to whoever waited longest; the others go on waiting."""
    second, third = asker(3), asker(4)
    codes.ask(F, asker(2), True, 0)
    codes.ask(F, second, True, 0)
    codes.ask(F, third, True, 0)
    assert codes.lose(2, 1) == [(second, None)]
    assert codes.put(F, b"code") == [(third, b"code")]


def test_a_waiter_that_dies_is_forgotten(codes):
    """Its place is not given the task, and it is answered nothing."""
    codes.ask(F, asker(2), True, 0)
    codes.ask(F, asker(3), True, 0)
    assert codes.lose(3, 1) == []
    assert codes.lose(2, 1) == []
    next_one = asker(4)
    assert codes.ask(F, next_one, True, 2) == [(next_one, None)]


def test_a_waiter_that_gives_up_is_forgotten(codes):
    """It alone, not another call of its process."""
    codes.ask(F, asker(2), True, 0)
    codes.ask(F, asker(3, 1), True, 0)
    other = asker(3, 2)
    codes.ask(F, other, True, 0)
    assert codes.withdraw(F, 3, 1, 1) == []
    assert codes.put(F, b"code") == [(other, b"code")]


def test_who_has_the_task_can_give_it_back(codes):
    """An interrupted process passes its task on; withdrawing what is not asked for does nothing."""
    codes.ask(F, asker(2), True, 0)
    second = asker(3)
    codes.ask(F, second, True, 0)
    assert codes.withdraw(F, 2, 9, 1) == [(second, None)]
    assert codes.withdraw(G, 2, 9, 1) == []


def test_what_cannot_be_sent_is_compiled_by_everybody_at_once(codes):
    """Whoever waits is released, and nobody waits for it again, until somebody has it after all."""
    first, second = asker(3), asker(4)
    codes.ask(F, asker(2), True, 0)
    codes.ask(F, first, True, 0)
    codes.ask(F, second, True, 0)
    assert codes.put(F, None) == [(first, None), (second, None)]
    late = asker(5)
    assert codes.ask(F, late, True, 1) == [(late, None)]
    assert codes.put(F, b"code") == []
    assert codes.ask(F, late, True, 1) == [(late, b"code")]


def test_a_task_that_lasts_too_long_is_given_again(codes):
    """A process that hangs holds up others for a limited time; they still get its code if it comes."""
    waiting, late = asker(3), asker(4)
    codes.ask(F, asker(2), True, 0)
    codes.ask(F, waiting, True, 1)
    assert codes.ask(F, late, True, PATIENCE + 1) == [(late, None)]
    assert codes.put(F, b"code") == [(waiting, b"code")]


def test_a_process_that_asks_again_for_its_own_task_gets_it(codes):
    """Its last attempt has ended without news, so it must not wait for itself."""
    again = asker(2, 2)
    codes.ask(F, asker(2, 1), True, 0)
    assert codes.ask(F, again, True, 1) == [(again, None)]


def test_the_oldest_code_makes_room(codes):
    """Memory is bounded; what was asked for lately stays."""
    first, second, third = (Key(name, b"1", "()", ()) for name in "abc")
    codes.put(first, b"x" * 40)
    codes.put(second, b"x" * 40)
    codes.ask(first, asker(2), True, 0)
    codes.put(third, b"x" * 40)
    known = asker(3)
    assert codes.ask(first, known, True, 0) == [(known, b"x" * 40)]
    assert codes.ask(second, known, True, 0) == [(known, None)]
    assert repr(codes) == "<Codes: 2 of 80 bytes, 1 being compiled>"
