"""What waits for the import of a module, such as Numba's or NumPy's."""

import importlib.util
import sys

import pytest

from farcall._wire.compiled.counting import when_imported


@pytest.fixture
def name(tmp_path, monkeypatch):
    """The name of a module that nobody has imported yet."""
    (tmp_path / "waited_for.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", sys.meta_path.copy())
    yield "waited_for"
    sys.modules.pop("waited_for", None)


def test_it_hears_of_the_import_once(name):
    """After the module has run; and at once of a module that is there already."""
    heard = []
    when_imported(name, lambda module: heard.append(module.value))
    assert heard == []
    module = importlib.import_module(name)
    assert heard == [1]
    importlib.reload(module)
    assert heard == [1]
    when_imported(name, lambda module: heard.append(module.value))
    assert heard == [1, 1]


def test_a_search_is_no_import(name):
    """Some only ask where a module is."""
    heard = []
    when_imported(name, heard.append)
    assert importlib.util.find_spec(name) is not None
    assert heard == []
    module = importlib.import_module(name)
    assert heard == [module]


def test_several_may_wait(name):
    """Each hears of it."""
    heard = []
    for number in range(3):
        when_imported(name, lambda module, number=number: heard.append(number))
    importlib.util.find_spec(name)
    importlib.import_module(name)
    assert sorted(heard) == [0, 1, 2]
