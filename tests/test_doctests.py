"""The sessions in docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import farcall

MODULES = sorted(
    each.name
    for each in pkgutil.walk_packages(farcall.__path__, "farcall.")
    if not each.name.endswith("__main__") and "testing" not in each.name
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_sessions(cluster, name):
    """Every session in a docstring prints what it says, with workers 2 and 3."""
    assert cluster == [2, 3]
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_sessions():
    """The public calls have one each."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    names = {test.name.rpartition(".")[2] for test in finder.find(importlib.import_module("farcall._remote.calls"))}
    assert {"spawnat", "remotecall_fetch", "remote"} <= {
        test.name.rpartition(".")[2]
        for test in finder.find(importlib.import_module("farcall._remote.calls"))
        if test.examples
    }
    assert "fetch" in names
