"""What ``farcall.engines`` offers, and the engine of its document."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import farcall as fc

LAZY = {"Dask": "dask", "MPI": "mpi", "SSH": "ssh"}
DOCUMENT = Path(__file__).parents[2] / "docs" / "engines.md"


def read_document():
    """Return what the document defines, without the lines that use it: those tests/test_docs.py runs."""
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    namespace = {"__name__": "document"}
    exec("\n".join(block for block in blocks if "class " in block), namespace)
    return namespace


TestBehind = read_document()["TestBehind"]  # the suite of farcall.testing, over the engine there


def test_engines_are_imported_when_they_are_asked_for():
    """``import farcall`` brings the base of engines and loads none of those that speak to something else."""
    code = """
import sys, farcall as fc
engines = fc.engines.Engine, fc.engines.Launched, fc.engines.Offer, fc.engines.Exits, fc.engines.Local
print([name for name in ("dask", "mpi", "ssh") if f"farcall._engines.{name}" in sys.modules])
print(sorted({"Dask", "MPI", "SSH"} & set(dir(fc.engines))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n['Dask', 'MPI', 'SSH']\n", "")


@pytest.mark.parametrize("name", LAZY)
def test_each_engine_is_one(name):
    """What is asked for is an engine, and says what it is."""
    engine = getattr(fc.engines, name)
    assert issubclass(engine, fc.engines.Engine)
    assert engine.__name__ == name
    assert engine.__doc__


@pytest.mark.parametrize(("name", "extra"), LAZY.items())
def test_an_engine_whose_package_is_missing_names_the_extra(monkeypatch, name, extra):
    """The error of the import says what to install, also when asked for by ``from``."""
    monkeypatch.setitem(sys.modules, f"farcall._engines.{extra}", None)
    with pytest.raises(ImportError, match=rf"fc.engines.{name} needs more: pip install 'farcall\[{extra}\]'"):
        getattr(fc.engines, name)
    with pytest.raises(ImportError, match=rf"farcall\[{extra}\]"):
        exec(f"from farcall.engines import {name}")


def test_other_names_are_attribute_errors():
    """There are no other engines."""
    with pytest.raises(AttributeError, match="has no attribute 'Ray'"):
        fc.engines.Ray
