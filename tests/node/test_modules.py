"""Modules from the master: what is forgotten together, and a process that several masters use."""

import ast
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from farcall._config import Config
from farcall._node.modules import affected, imported_names
from farcall._node.node import Node
from farcall._node.sources import Source
from farcall._node.watch import Watch
from farcall._remote.calls import run_code
from farcall._transport.addresses import Dialler

# What is forgotten together

names = st.sampled_from(["a", "b", "c", "d", "e", "f"])


@given(st.sets(names), st.dictionaries(names, st.frozensets(names)))
def test_whatever_uses_a_changed_module_is_affected(changed, uses):
    """Affected is the least set with what has changed and with each module that imports one of the set."""
    gone = affected(changed, uses)
    assert changed & uses.keys() <= gone <= uses.keys()
    assert all(name in gone for name in uses if uses[name] & (gone | changed))
    for name in gone - changed:
        assert uses[name] & (gone | changed)
        without = gone - {name}
        assert any(uses[each] & (without | changed) for each in gone - without)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", {"p"}),
        ("import x.y", {"p", "x", "x.y"}),
        ("def f():\n    from x import y", {"p", "x", "x.y"}),
        ("from . import y", {"p", "p.y"}),
        ("from .z import *", {"p", "p.z", "p.z.*"}),
        ("from ...out import y", {"p"}),
    ],
)
def test_what_a_module_imports(source, expected):
    """Imports count wherever they are; a module uses the packages that it is in, and all on the way to a module."""
    assert imported_names(ast.parse(source), "p.m", is_package=False) == expected
    assert imported_names(ast.parse(""), "p", is_package=True) == {"p"}


# What has happened in folders


def test_the_kernel_says_what_has_happened(tmp_path):
    """A watch names what was written, made or moved, once; of a folder that is made anew it knows anything may be."""
    folder, watch = tmp_path / "folder", Watch()
    folder.mkdir()
    watch.add(str(folder))
    assert watch.stirred() == set()
    (folder / "a.py").write_text("")
    (folder / "b").mkdir()
    assert watch.stirred() == {"a.py", "b"}
    assert watch.stirred() == set()
    shutil.rmtree(folder)
    folder.mkdir()
    assert watch.stirred() is None
    (folder / "c.py").write_text("")
    assert "c.py" in watch.stirred()
    watch.close()


def test_where_the_kernel_cannot_be_asked_anything_may_have_happened(tmp_path):
    """Without inotify a watch never says that nothing has happened."""
    watch = Watch()
    watch._library = object()
    watch.add(str(tmp_path / "nothing"))
    assert watch.stirred() == set()
    watch.add(str(tmp_path))
    assert watch.stirred() is None
    watch.close()


# Several masters

HOST = """
import sys
from farcall._node.guest import Guest
for line in sys.stdin:
    print(Guest(bytes.fromhex(line), [], None, 60.0, lambda reason: None).address, flush=True)
"""


@pytest.fixture
def masters():
    """Two masters with worker 2 each, in one process."""
    command = [sys.executable, "-c", HOST]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
        nodes = []
        for token in (b"1" * 32, b"2" * 32):
            node = Node(1, token, Config(), dial=Dialler())
            host.stdin.write(f"{token.hex()}\n")
            host.stdin.flush()
            node.peers.add(node.connections.connect(host.stdout.readline().strip(), 2))
            nodes.append(node)
        yield nodes
        for node in nodes:
            node.close()
        host.kill()


def test_masters_with_modules_of_one_name(masters, tmp_path, monkeypatch):
    """A module of one master's is not used as another's that differs; the same text is shared."""
    monkeypatch.syspath_prepend(tmp_path)
    one, two = masters
    (tmp_path / "own_module.py").write_text("who = 'one'\n")
    (tmp_path / "same_module.py").write_text("who = 'both'\n")
    give = two.sources.give
    other = Source("/elsewhere/own_module.py", b"who = 'two'\n", False)
    monkeypatch.setattr(two.sources, "give", lambda name: other if name == "own_module" else give(name))
    assert one.ask(2, run_code, "import own_module, same_module\nown_module.who") == "one"
    assert two.ask(2, run_code, "import same_module\nsame_module.who") == "both"
    with pytest.raises(
        ImportError, match=r"'own_module': .*/own_module.py of another master is imported in this process"
    ):
        two.ask(2, run_code, "import own_module\nown_module.who")
    with pytest.raises(ImportError, match="another master"):
        two.ask(2, run_code, "from own_module import who")
    assert one.ask(2, run_code, "from own_module import who\nwho") == "one"
    one.close()
    assert until(lambda: two.ask(2, run_code, "'own_module' not in __import__('sys').modules"))
    assert two.ask(2, run_code, "import own_module\nown_module.who") == "two"
    assert two.ask(2, run_code, "'same_module' in __import__('sys').modules")


BESIDE = """
import threading

found = []

def look():
    try:
        import guests_module
    except ImportError as error:
        found.append(str(error))

thread = threading.Thread(target=look)
thread.start()
thread.join()
"""


def test_the_host_is_left_alone(masters, tmp_path, monkeypatch):
    """What a process does that is not one of our calls imports nothing from a master."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "guests_module.py").write_text("")
    masters[0].ask(2, run_code, BESIDE)
    assert masters[0].ask(2, run_code, "found") == ["No module named 'guests_module'"]
    assert masters[0].ask(2, run_code, "import guests_module") is None
