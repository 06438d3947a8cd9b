"""Modules of the program on workers that cannot see them: imported from the master, and the new one once edited."""

import dataclasses
import functools
import inspect
import itertools
import os
import pkgutil
import sys
import threading
import time
import zipfile
from importlib import import_module, metadata
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec, spec_from_file_location

import pytest
from waiting import until

import farcall as fc
from farcall._node.guest_output import show
from farcall._node.prompt import operate
from farcall._node.slots import Slot

_numbers = itertools.count()


def _node():
    return fc._cluster.master().node


class Project:
    """A folder that the master can import from and the workers do not know; each has packages of its own name."""

    def __init__(self, folder):
        self.folder = folder
        self.name = f"project_{next(_numbers)}"

    def write(self, path, text):
        """Write a file; in its path and text P stands for the name of this project."""
        file = self.folder / path.replace("P", self.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("P", self.name))
        return file

    def load(self, name="P"):
        return import_module(name.replace("P", self.name))

    def on(self, pid, code):
        """Return the value of the last line of some code, run in ``__main__`` of a worker."""
        return fc.everywhere(code.replace("P", self.name), pids=pid)


@pytest.fixture
def project(cluster, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return Project(tmp_path)


@pytest.fixture
def questions(monkeypatch):
    """The names of the modules that workers ask for."""
    asked, give = [], _node().sources.give
    monkeypatch.setattr(_node().sources, "give", lambda name: asked.append(name) or give(name))
    return asked


# Importing


def test_what_the_master_can_import_the_workers_can(project, cluster):
    """Packages, with __init__ and without, relative imports, cycles: all as at the master, with files and lines."""
    project.write("P/__init__.py", "from .one import f\nfrom P_spaces.inner import deep\n")
    project.write(
        "P/one.py", "from . import two\nfrom .sub.leaf import leaf\ndef f(x):\n    return two.g(x) + leaf()\n"
    )
    project.write("P/two.py", "import P.one as one\ndef g(x):\n    return x / one.half\n")
    project.write("P/sub/__init__.py", "")
    project.write("P/sub/leaf.py", "from .. import one\nfrom ..two import g\none.half = 2\ndef leaf(): return 0.5\n")
    deep = project.write("P_spaces/inner/deep.py", "class Deep:\n    pass\n")
    package = project.load()
    for pid in cluster:
        assert fc.remotecall_fetch(pid, package.f, 3) == 2.0
        assert fc.remotecall_fetch(pid, lambda: package.deep.__file__) == str(deep)
        assert type(fc.remotecall_fetch(pid, package.deep.Deep)) is package.deep.Deep
    assert fc.remotecall_fetch(cluster[0], lambda: fc.remotecall_fetch(cluster[1], package.f, 1)) == 1.0
    assert fc.remotecall_fetch(cluster[0], inspect.getsource, package.f) == inspect.getsource(package.f)
    with pytest.raises(TypeError) as caught:
        fc.remotecall_fetch(cluster[0], package.f, None)
    assert f'{project.name}/two.py", line 3, in g\n    return x / one.half' in str(caught.value.__cause__)


def test_archives_and_editable_installs(project, cluster, monkeypatch):
    """A module comes from wherever the master's finders find it: an archive, or a folder that only they know."""
    with zipfile.ZipFile(project.folder / "archive.zip", "w") as archive:
        archive.writestr(f"{project.name}_zip/__init__.py", "def f():\n    from . import leaf\n    return leaf.value\n")
        archive.writestr(f"{project.name}_zip/leaf.py", "value = 'zipped'\n")
    monkeypatch.syspath_prepend(project.folder / "archive.zip")
    file, name = project.write("hidden/module.py", "class Thing: pass\n"), f"{project.name}_editable"

    class Finder:
        @staticmethod
        def find_spec(asked, path=None, target=None):
            return spec_from_file_location(name, file) if asked == name else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert fc.remotecall_fetch(cluster[0], project.load("P_zip").f) == "zipped"
    thing = project.load("P_editable").Thing
    assert type(fc.remotecall_fetch(cluster[0], thing)) is thing


def test_nothing_runs_at_the_master(project, cluster):
    """A worker gets a module that the master has never imported, and the master does not run any of it."""
    project.write("P/__init__.py", "import farcall\nassert farcall.myid() != 1\n")
    project.write("P/inner/leaf.py", "import farcall\nwhere = farcall.myid()\n")
    assert project.on(cluster[0], "import P.inner.leaf\nP.inner.leaf.where") == cluster[0]
    assert project.name not in sys.modules


def test_many_calls_at_once_import_a_module_once(project, cluster, questions):
    """However many calls need a module at the same time, a worker asks for it and runs it once."""
    project.write("P.py", "import sys\nsys.P = getattr(sys, 'P', 0) + 1\ndef runs(): return sys.P\n")
    futures = [fc.spawnat(cluster[0], functools.partial(project.load().runs)) for _ in range(30)]
    assert {fc.fetch(each) for each in futures} == {1}
    assert questions == [project.name]


def test_while_an_import_waits_others_may_import(project, cluster, monkeypatch):
    """A thread that waits for the master holds up no other import, and can be interrupted."""
    project.write("P.py", "")
    asked, gate, give = threading.Event(), threading.Event(), _node().sources.give
    monkeypatch.setattr(_node().sources, "give", lambda name: asked.set() or (gate.wait(30) and give(name)))
    waiting = fc.spawnat(cluster[0], import_module, project.name)
    assert asked.wait(10)
    assert project.on(cluster[0], "import mailbox\nmailbox.__name__") == "mailbox"
    asked.clear()
    assert waiting.cancel()
    again = fc.spawnat(cluster[0], eval, f"__import__({project.name!r}).__name__")
    assert asked.wait(10)
    gate.set()
    assert fc.fetch(again) == project.name


def test_data_of_packages(project, cluster):
    """importlib.resources and pkgutil.get_data read the files of a package of the master's, and nothing outside it."""
    project.write("P/__init__.py", "")
    project.write("P/data/table.txt", "1 2 3\n")
    project.write("secret.txt", "")

    def read(name):
        from importlib.resources import as_file, files

        data = files(name).joinpath("data")
        with as_file(data / "table.txt") as path:
            copied = path.read_bytes()
        names = [each.name for each in data.iterdir()]
        outside = (files(name) / ".." / "secret.txt").is_file()
        return data.joinpath("table.txt").read_text(), copied, names, data.is_dir(), outside

    project.on(cluster[0], "import P")
    text = b"1 2 3\n"
    assert fc.remotecall_fetch(cluster[0], read, project.name) == (text.decode(), text, ["table.txt"], True, False)
    assert fc.remotecall_fetch(cluster[0], pkgutil.get_data, project.name, "data/table.txt") == text
    with pytest.raises(FileNotFoundError, match="no file of the package"):
        fc.remotecall_fetch(cluster[0], pkgutil.get_data, project.name, "nothing.txt")


def test_numbas_file_cache_goes_by_the_text(project, cluster):
    """``cache=True`` works in a module whose file is not there, and no other text's code is ever loaded for it."""
    project.on(cluster[0], f"import os\nos.environ['NUMBA_CACHE_DIR'] = {str(project.folder / 'numba')!r}")
    source = "import os\nos.unlink(__file__)\nfrom numba import njit\n@njit(cache=True)\ndef f(): return {}\n"
    for value in (1, 2, 2):
        project.write("P.py", source.format(value))
        assert project.on(cluster[0], "import P\nP.f()") == value


# What does not come


def test_a_compiled_module_is_refused(project, cluster):
    """A compiled module is an ImportError that says where it is and what to do; so a fallback in Python works."""
    compiled = project.write(f"P_fast{EXTENSION_SUFFIXES[0]}", "")
    project.write("P.py", "try:\n    import P_fast\nexcept ImportError as error:\n    why = str(error)\n")
    why = project.on(cluster[0], "import P\nP.why")
    assert f"'{project.name}_fast' does not come from the master, where it is compiled ({compiled}): install" in why
    assert f"on worker {cluster[0]} (" in why


def test_an_installed_package_must_be_installed_there(project, cluster, monkeypatch):
    """What the master has among its packages is not sent: the error names it, its version and the worker."""
    monkeypatch.syspath_prepend(project.folder / "site-packages")
    project.write("site-packages/P.py", "")
    project.write("site-packages/P_dist-4.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: P-dist\nVersion: 4.2\n")
    project.write("site-packages/P_dist-4.2.dist-info/top_level.txt", "P\n")
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {project.name: [f"{project.name}-dist"]})
    with pytest.raises(ModuleNotFoundError, match=r"on worker \d .*installed \(\w+-dist 4.2\), install it") as caught:
        project.on(cluster[0], "import P")
    assert caught.value.name == project.name
    assert fc.remotecall_fetch(cluster[0], find_spec, project.name) is None


def test_what_the_worker_has_is_not_mixed(project, cluster):
    """A package that the worker finds by itself stays as it is there; nothing is added to it from the master."""
    project.write("P/__init__.py", "")
    project.write("P/more.py", "")
    other = Project(project.folder / "other")
    other.name = project.name
    other.write("P/__init__.py", "here = True\n")
    project.on(cluster[0], f"import sys\nsys.path.insert(0, {str(other.folder)!r})")
    assert project.on(cluster[0], "import P\nP.here")
    with pytest.raises(ModuleNotFoundError, match="more"):
        project.on(cluster[0], "import P.more")
    project.on(cluster[0], "import sys\nsys.path.pop(0)")


OPTIONAL = """
def has():
    try:
        import P_extra
        return P_extra.there
    except ImportError:
        return False
"""


def test_a_module_that_is_made_later_is_found(project, cluster, questions):
    """An optional import that fails costs one question, until the master has the module; then it succeeds."""
    project.write("P.py", OPTIONAL)
    assert [fc.remotecall_fetch(cluster[0], project.load().has) for _ in range(5)] == [False] * 5
    assert questions == [project.name, f"{project.name}_extra"]
    date = project.folder.stat().st_mtime_ns
    project.write("P_extra.py", "there = True")
    os.utime(project.folder, ns=(date, date))  # as if it had been made in the same tick of the clock
    assert fc.remotecall_fetch(cluster[0], project.load().has)


def test_operations_do_not_import(project, cluster):
    """What would wait on the thread that reads is an ordinary error, and the connection goes on."""
    project.write("P.py", "class Word(str): pass\n")
    slot = Slot()
    link, _ = operate(_node(), cluster[0], slot, show, "stdout", project.load().Word())
    _node().reader.wait(slot, link)
    with pytest.raises(fc.SerializationError, match="No module named"):
        _node().open_slot(slot)
    assert fc.remotecall_fetch(cluster[0], project.load().Word, "x") == "x"


def test_a_forked_process_leaves_the_connections_alone(project, cluster):
    """A process that a worker has forked imports what is there, and does not ask."""
    project.write("P.py", "")

    def fork(name):
        child = os.fork()
        if child == 0:
            try:
                import_module(name)
            except ModuleNotFoundError:
                os._exit(7)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert fc.remotecall_fetch(cluster[0], fork, project.name) == 7
    project.on(cluster[0], "import P")


def test_the_setting(project, cluster, monkeypatch):
    """With FARCALL_LOCAL_MODULES=0 at the master nothing comes from it."""
    monkeypatch.setattr(_node(), "config", dataclasses.replace(_node().config, local_modules=0))
    project.write("P.py", "")
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        project.on(cluster[0], "import P")


# Editing


def _version_of(module):
    return module.Thing().version()


HOWS = {
    "by name": lambda pid, module: fc.remotecall_fetch(pid, module.version),
    "by lambda": lambda pid, module: fc.remotecall_fetch(pid, lambda: module.version()),
    "by an heir": lambda pid, module: fc.remotecall_fetch(pid, lambda heir: heir.version(), heir_of(module)()),
    "by an heir, again": lambda pid, module: HOWS["by an heir"](pid, module),
    "as argument": lambda pid, module: fc.remotecall_fetch(pid, _version_of, module),
    "spawnat": lambda pid, module: fc.fetch(fc.spawnat(pid, module.version)),
    "pmap": lambda pid, module: fc.pmap(lambda _: module.version(), [0], pool=fc.WorkerPool([pid]))[0],
    "remote_do": lambda pid, module: _done(pid, module),
    "an item": lambda pid, module: _taken(pid, module),
    "from a worker": lambda pid, module: fc.remotecall_fetch(
        next(each for each in fc.workers() if each != pid), fc.remotecall_fetch, pid, module.version
    ),
    "from a worker, again": lambda pid, module: HOWS["from a worker"](pid, module),
    "everywhere, a module": lambda pid, module: fc.everywhere(f"{module.__name__}.version()", pids=pid),
    "everywhere, a name": lambda pid, module: fc.everywhere("bound()", pids=pid),
    "everywhere, a function": lambda pid, module: fc.everywhere("ask_module()", pids=pid),
}


@functools.cache
def heir_of(module):
    return type("Heir", (module.Thing,), {"__module__": "__main__"})


def _done(pid, module):
    channel = fc.RemoteChannel()
    fc.remote_do(pid, lambda: channel.put(module.version()))
    return channel.take(timeout=10)


def _taken(pid, module):
    channel = fc.RemoteChannel(pid=pid)
    channel.put(module.Thing())
    return fc.remotecall_fetch(pid, lambda: channel.take().version())


def test_an_edited_module_is_the_new_one_in_the_next_call(project, cluster):
    """However a function gets to the worker, the call after an edit runs the new text, also of what its module uses."""
    pid = cluster[0]
    project.write("P/__init__.py", "from .one import Thing, version\n")
    project.write(
        "P/one.py",
        "from .two import number\ndef version(): return number\nclass Thing:\n    def version(self): return number\n",
    )
    project.write("P/two.py", "number = 0\n")
    package = project.load()
    fc.everywhere(package, pids=[pid])
    project.on(pid, "from P import version as bound")
    fc.everywhere(_ask_module(package), pids=[pid])
    for number, (how, ask) in enumerate(HOWS.items()):
        project.write("P/two.py", f"number = {number + 1}\n")
        assert ask(pid, package) == number + 1, how


def _ask_module(package):
    namespace = {"__name__": "__main__", "package": package}
    exec("def ask_module(): return package.Thing().version()", namespace)
    return namespace["ask_module"]


def test_an_edit_within_a_tick_of_the_clock_is_seen(project, cluster):
    """A file that has just been written is read again even if its size and its date are the same."""
    soon = time.time_ns() + 10**10
    for value in (1, 2):
        os.utime(project.write("P.py", f"value = {value}"), ns=(soon, soon))
        assert project.on(cluster[0], "import P\nP.value") == value


def test_an_edit_on_the_way_is_not_lost(project, cluster, monkeypatch):
    """A module that is edited while its text is on the way to a worker is the new one there."""
    project.write("P.py", "value = 1")
    sources, give = _node().sources, _node().sources.give

    def edit_and_give(name):
        answer = give(name)
        if answer.text == b"value = 1":
            project.write("P.py", "value = 2")
            fc.remotecall_fetch(cluster[0], abs, 0)
        return answer

    monkeypatch.setattr(sources, "give", edit_and_give)
    assert project.on(cluster[0], "import P\nP.value") == 2


def test_what_an_edit_does_not_touch_stays(project, cluster, questions):
    """Modules that do not use what was edited keep their state; a file that is written again as it was is no edit."""
    project.write("P_state.py", "import P_base\nitems = []\n")
    project.write("P_base.py", "")
    project.write("P_user.py", "import P_base, P_edited\n")
    project.write("P_edited.py", "value = 1\n")
    project.on(cluster[0], "import P_state, P_user\nP_state.items.append(1)")
    project.write("P_edited.py", "value = 1\n")
    project.on(cluster[0], "0")
    del questions[:]
    project.write("P_edited.py", "value = 2\n")
    assert project.on(cluster[0], "P_user.P_edited.value, P_state.items") == (2, [1])
    assert sorted(questions) == [f"{project.name}_edited", f"{project.name}_user"]


GATED = """
version = {}

class Thing:
    def __init__(self):
        self.version = version

def run(gate):
    gate.take()
    return Thing()
"""


def test_an_edited_module_is_the_new_one_in_its_package(project, cluster):
    """Who reaches a module through its package, without importing it, gets the new one from a package that stays."""
    project.write("P/__init__.py", "")
    project.write("P/leaf.py", "value = 1")
    project.write("P_reader.py", "import P\ndef read(): return P.leaf.value\n")
    assert project.on(cluster[0], "import P.leaf, P_reader\nP_reader.read()") == 1
    project.write("P/leaf.py", "value = 2")
    assert project.on(cluster[0], "P_reader.read()") == 2


def test_a_call_under_way_keeps_what_it_has(project, cluster):
    """A call goes on with the module that it has while that is edited, and what it returns is of the master's class."""
    project.write("P.py", GATED.format(1))
    module, gate = project.load(), fc.RemoteChannel()
    under_way = fc.spawnat(cluster[0], module.run, gate)
    assert until(lambda: project.name in fc.remotecall_fetch(cluster[0], lambda: list(sys.modules)))
    project.write("P.py", GATED.format(2))
    assert fc.remotecall_fetch(cluster[0], module.Thing).version == 2
    gate.put(None)
    thing = fc.fetch(under_way)
    assert thing.version == 1
    assert type(thing) is module.Thing


def test_a_syntax_error_is_that_calls_error(project, cluster):
    """A module that cannot be run is the error of each call that uses it, until it is edited again."""
    project.write("P.py", "def f(): return 1\n")
    f = project.load().f
    assert fc.remotecall_fetch(cluster[0], f) == 1
    project.on(cluster[0], "import P\nfrom P import f")
    project.write("P.py", "def f(: return 2\n")
    for _ in range(2):
        with pytest.raises(fc.SerializationError, match=rf"SyntaxError: .*{project.name}.py, line 1"):
            fc.remotecall_fetch(cluster[0], f)
    for code in ("P.f()", "f()"):
        with pytest.raises(SyntaxError, match=f"{project.name}.py"):
            project.on(cluster[0], code)
    project.write("P.py", "def f(): return 3\n")
    assert fc.remotecall_fetch(cluster[0], f) == 3
    assert project.on(cluster[0], "P.f(), f()") == (3, 3)


def test_a_removed_module_is_gone(project, cluster):
    """A module that the master has no more is not there any more, until it is back."""
    file = project.write("P.py", "value = 1")
    project.on(cluster[0], "import P")
    file.unlink()
    for code in ("import P", "P.value"):
        with pytest.raises(ModuleNotFoundError, match=project.name):
            project.on(cluster[0], code)
    project.write("P.py", "value = 2")
    assert project.on(cluster[0], "P.value") == 2
