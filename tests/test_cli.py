"""The command line, run for real."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import farcall as fc
from farcall._engines.base import Engine, Launched, Offer

MARK = "FARCALL_TEST_MARK"  # a variable that workers inherit, so that they can be found when their master is gone
PYTHON = [sys.executable]
FARCALL = [sys.executable, "-m", "farcall"]

Run = subprocess.CompletedProcess[str]


def outlives(mark: str, patience: float = 5.0) -> list[str]:
    """Return the command lines of the processes that bear a mark and do not end in time, and end them."""
    left = []
    for entry in Path("/proc").iterdir():
        try:
            marked = entry.name.isdigit() and f"{MARK}={mark}\0".encode() in (entry / "environ").read_bytes()
            if marked and not ends(int(entry.name), patience):
                left.append((entry / "cmdline").read_text())
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue  # it has ended, or is not ours
    return left


def ends(process: int, patience: float) -> bool:
    """Whether a process ends in time."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], patience)[0])
    finally:
        os.close(descriptor)


@pytest.fixture
def mark() -> Iterator[str]:
    """A mark for processes, none of which may outlive the test."""
    name = uuid.uuid4().hex
    yield name
    assert outlives(name) == []


@pytest.fixture
def run(mark: str, tmp_path: Path) -> Callable[..., Run]:
    """Run a command to its end in the test's directory; none of its processes may outlive it."""

    def run(command: list[str], *args: str, **environment: str) -> Run:
        done = subprocess.run(
            [*command, *args],
            cwd=tmp_path,
            env={**os.environ, MARK: mark, **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=50,
        )
        assert outlives(mark) == []
        return done

    return run


# farcall run: the program


SHOW = """
import sys
def function(): pass
class Local: pass
print(__name__, globals().get("__file__"), __package__, __doc__, sys.argv, sys.path[0], sorted(globals()))
print(__spec__ and (__spec__.name, __spec__.origin), __loader__.__class__, __builtins__)
print(sys.modules["__main__"].function is function, function.__module__, Local.__module__)
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with the same program as script, module, package, directory and zip file."""
    for name in ("show.py", "package/__main__.py", "package/module.py", "directory/__main__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SHOW)
    (tmp_path / "package/__init__.py").write_text("print('the package is imported as', __name__)")
    (tmp_path / "package/link.py").symlink_to("../show.py")
    with zipfile.ZipFile(tmp_path / "show.zip", "w") as archive:
        archive.writestr("__main__.py", SHOW)
    return tmp_path


@pytest.mark.parametrize(
    "program",
    [
        ("show.py", "-p", "7", "--threads", "9", "-h", "--", "-m", "-c", "x"),
        ("./show.py",),
        ("package/../show.py",),
        ("package/module.py",),
        ("package/link.py", "x"),
        ("directory", "x"),
        ("show.zip", "x"),
        ("-m", "show", "x", "-p", "7"),
        ("-mshow", "-m", "x"),
        ("-m", "package", "--help"),
        ("-m", "package.module"),
        ("-c", SHOW.replace("__loader__.__class__, ", ""), "x", "-c", "y"),
    ],
    ids=lambda program: " ".join(program)[:20],
)
def test_a_program_sees_what_it_sees_under_python(run, programs, program):
    """A program run by farcall finds the __main__, sys.argv and sys.path[0] that Python gives it."""
    expected, found = run(PYTHON, *program), run([*FARCALL, "run"], *program)
    assert expected.returncode == 0, expected.stderr
    assert (found.stdout, found.stderr, found.returncode) == (expected.stdout, expected.stderr, 0)


@pytest.mark.parametrize(
    "text",
    [
        "import sys; sys.exit(3)",
        "import sys; sys.exit('a text for stderr')",
        "import sys; sys.exit()",
        "raise SystemExit({'not': 'a number'})",
        "import os; os._exit(7)",
        "def inner():\n    1 / 0\ntry:\n    inner()\nexcept ZeroDivisionError as error:\n    raise OSError from error",
        "raise ExceptionGroup('several', [ValueError(1), OSError(2)])",
        "import sys; sys.excepthook = lambda *error: print('my hook:', error[1]); 1 / 0",
        "a syntax = = error",
        "import broken",
    ],
)
def test_the_end_of_a_program_is_what_it_is_under_python(run, tmp_path, text):
    """The exit status, and the traceback, without a frame of farcall's, are those of Python."""
    (tmp_path / "broken.py").write_text("\n\nraise RuntimeError('while being imported')\n")
    (tmp_path / "program.py").write_text(text)
    expected, found = run(PYTHON, "program.py"), run([*FARCALL, "run"], "program.py")
    assert (found.stdout, found.stderr, found.returncode) == (expected.stdout, expected.stderr, expected.returncode)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (["nowhere.py"], "can't open file '{}/nowhere.py': [Errno 2] No such file or directory"),
        (["."], "can't find '__main__' module in '{}"),
        (["-m", "nowhere"], "No module named nowhere"),
        (["-m", "json.nowhere"], "No module named json.nowhere"),
        (["-m", "json"], "No module named json.__main__; 'json' is a package and cannot be directly executed"),
        (["-m", "json.tool.nowhere"], "No module named json.tool.nowhere"),
        (["-m", "string.py"], "No module named string.py; after -m the name has no .py"),
    ],
    ids=str,
)
def test_a_program_that_is_not_there_is_an_error_of_one_line(run, programs, program, words):
    """The status is Python's, the words too where they are good ones, and no workers are started for it."""
    expected, found = run(PYTHON, *program), run([*FARCALL, "run", "-p", "1"], *program, FARCALL_WORKER_TIMEOUT="0.001")
    assert found.stderr.startswith("farcall: " + words.format(programs))
    assert found.stderr.count("\n") == 1
    assert found.returncode == expected.returncode


def test_a_module_that_imports_what_is_missing_says_so(run, tmp_path):
    """A failing import inside the program is not taken for a missing program."""
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer/__init__.py").write_text("import nowhere\n")
    found = run([*FARCALL, "run"], "-m", "outer.inner")
    assert found.returncode == 1
    assert found.stderr.splitlines()[1:3] == [
        f'  File "{tmp_path}/outer/__init__.py", line 1, in <module>',
        "    import nowhere",
    ]
    assert found.stderr.endswith("ModuleNotFoundError: No module named 'nowhere'\n")


# farcall run: the workers


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "[1]"),
        (["-p", "2"], "[2, 3]"),
        (["-p2"], "[2, 3]"),
        (["-p", "auto"], str([2 + each for each in range(len(os.sched_getaffinity(0)))])),
    ],
    ids=str,
)
def test_workers_are_up_before_the_program_begins(run, options, expected):
    """-p N adds N workers, -p auto one per usable core, and without -p there are none."""
    done = run([*FARCALL, "run", *options], "-c", "import farcall as fc; print(fc.workers())")
    assert (done.stdout, done.stderr, done.returncode) == (f"{expected}\n", "", 0)


def test_threads_are_those_of_each_worker(run):
    """--threads sets the threads of numeric libraries in the workers, 1 by default."""
    code = "import farcall as fc; print(fc.remotecall_fetch(2, eval, \"__import__('os').environ['OMP_NUM_THREADS']\"))"
    assert run([*FARCALL, "run", "-p", "1", "--threads", "3"], "-c", code).stdout == "3\n"
    assert run([*FARCALL, "run", "-p", "1"], "-c", code).stdout == "1\n"


PROGRAM = """
import atexit, sys
import farcall as fc
import neighbour

factor = 5

class Pair:
    def __init__(self, left, right):
        self.left, self.right = left, right

def scaled(pair):
    return pair.left * factor + pair.right, fc.myid(), neighbour.NAME

@atexit.register
def at_exit():
    global factor
    factor = 7
    print("at exit", fc.remotecall_fetch(3, scaled, Pair(1, 2)), sys.modules["__main__"].scaled is scaled)

print(fc.remotecall_fetch(2, scaled, Pair(1, 2)))
print(isinstance(fc.remotecall_fetch(2, lambda: Pair(1, 2)), Pair))
"""


def test_functions_and_classes_of_the_program_work_on_workers(run, tmp_path):
    """What a program defines reaches workers, who find its directory in sys.path, also when it is at its exit."""
    (tmp_path / "place").mkdir()
    (tmp_path / "place/neighbour.py").write_text("NAME = 'next door'\n")
    (tmp_path / "place/program.py").write_text(PROGRAM)
    done = run([*FARCALL, "run", "-p", "2"], "place/program.py")
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["(7, 2, 'next door')", "True", "at exit (9, 3, 'next door') True"]


def test_a_failing_program_takes_its_workers_with_it(run):
    """The status of a program that fails, or leaves at once, is its own; the ``run`` fixture sees that all are gone."""
    assert run([*FARCALL, "run", "-p", "2"], "-c", "1 / 0").returncode == 1
    assert run([*FARCALL, "run", "-p", "2"], "-c", "import os; os._exit(7)").returncode == 7


def test_workers_that_do_not_start_are_an_error_that_says_where_to_look(run):
    """Without its workers the program does not begin."""
    done = run([*FARCALL, "run", "-p", "1"], "-c", "print('begun')", FARCALL_WORKER_TIMEOUT="0.001")
    assert (done.stdout, done.returncode) == ("", 1)
    assert "did not start within" in done.stderr
    assert "farcall doctor" in done.stderr
    assert "Traceback" not in done.stderr


BUSY = """
import os, time
import farcall as fc
try:
    future = fc.spawnat(3, time.sleep, 1000)
    print("begun", *[fc.remotecall_fetch(each, os.getpid) for each in fc.workers()], flush=True)
    fc.remotecall_fetch(2, time.sleep, 1000)
finally:
    print("finally", flush=True)
"""


@pytest.mark.parametrize(
    ("number", "status", "rest", "error"),
    [
        (signal.SIGINT, 130, "finally\n", "KeyboardInterrupt\n"),
        (signal.SIGTERM, -signal.SIGTERM, "", ""),
        (signal.SIGKILL, -signal.SIGKILL, "", ""),
    ],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_a_signal_ends_all(mark, number, status, rest, error):
    """Ctrl-C unwinds the program and ends it with status 130; no signal to the master leaves a worker behind."""
    process = subprocess.Popen(
        [*FARCALL, "run", "-p", "2", "-c", BUSY],
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    begun, *workers = process.stdout.readline().split()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (begun, out, process.returncode) == ("begun", rest, status)
    assert len(workers) == 2
    assert all(ends(int(worker), 5) for worker in workers)
    assert err.endswith(error)
    assert bool(err) is bool(error)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "command"),
        (["run"], "which program"),
        (["run", "-p", "2"], "which program"),
        (["run", "-p", "0", "x.py"], "'0' is not a whole number from 1 on"),
        (["run", "-p", "many", "x.py"], "'many' is not a whole number"),
        (["run", "--threads", "2", "x.py"], "give -p"),
        (["run", "--tunnel", "-p", "2", "x.py"], "--tunnel is about the hosts of a machine file: give --machine-file"),
        (["run", "-p", "2", "-m"], "the module to run"),
        (["run", "--bogus", "x.py"], "unrecognized arguments: --bogus"),
    ],
    ids=str,
)
def test_a_wrong_command_line_is_an_error_that_says_what_is_wrong(run, arguments, expected):
    """Status 2 and a usage, as argparse has it."""
    done = run(FARCALL, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: farcall")
    assert expected in done.stderr


def test_help_is_quick(run):
    """--help lists the commands and imports neither their modules nor NumPy."""
    code = (
        "import sys, farcall._cli\ntry:\n    farcall._cli.main(['--help'])\nexcept SystemExit as end:\n"
        "    print(end.code, [each for each in sys.modules if each.startswith('farcall._cli.') or each == 'numpy'])"
    )
    done = run(PYTHON, "-c", code)
    assert done.stdout.endswith("0 []\n")
    assert all(f"    {command} " in done.stdout for command in ("run", "doctor", "worker"))


# farcall doctor


def test_doctor_prints_what_it_found_and_measured(run):
    """On a machine where all is well the status is 0, and every number is a sensible one."""
    done = run([*FARCALL, "doctor"])
    lines = dict(re.findall(r"^  (.+?)  +(.*)$", done.stdout, re.MULTILINE))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\nall is well\n")
    assert lines["farcall"] == f"{fc.__version__} {Path(fc.__file__).parent}"
    assert lines["cores usable"].startswith(f"{len(os.sched_getaffinity(0))} of ")
    assert lines["memfd"] == "yes"
    assert lines["shared memory"] == "works"
    assert 0.01 < float(lines["start"].removesuffix(" s")) < 30
    assert 5 < int(lines["call"].removesuffix(" microseconds")) < 100_000
    assert all(0.01 < float(lines[f"80 MB {name}"].removesuffix(" GB/s")) < 1000 for name in ("argument", "result"))
    assert {"python", "cloudpickle", "numpy", "numba", "memory", "open files", "processes", "/dev/shm"} <= set(lines)


def test_doctor_says_what_to_do_about_a_limit(run):
    """A limit that is too low is a problem with its remedy, and the status is 1."""
    done = run(["sh", "-c", 'ulimit -n 100; exec "$@"', "sh", *FARCALL, "doctor"])
    assert done.returncode == 1
    assert "problem: only 100 files may be open, which is enough for few workers: ulimit -n 4096\n" in done.stdout
    assert "all is well" not in done.stdout


def test_doctor_says_what_to_do_when_no_worker_starts(run):
    """A worker that does not start is a problem, not a traceback."""
    done = run([*FARCALL, "doctor"], FARCALL_WORKER_TIMEOUT="0.001")
    assert done.returncode == 1
    assert "problem: a worker did not start" in done.stdout
    assert "what to do: " in done.stdout
    assert done.stderr == ""


# farcall worker


def test_worker_help_says_who_starts_it(run):
    """The help names the offer, and says that addprocs does it."""
    done = run([*FARCALL, "worker", "--help"])
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("addprocs", "JSON", "token", "READY", "PARENT"))


class ByHand(Engine):
    """One worker, started with the command."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.process: subprocess.Popen[bytes] | None = None
        self.watcher: threading.Thread | None = None

    def launch(self, offer: Offer) -> Iterator[Launched]:
        told = {"token": offer.token.hex(), "timeout": offer.timeout, "path": sys.path, "main": None}
        ready, ready_writer = os.pipe()
        command = [*FARCALL, "worker", str(ready_writer), str(os.getpid())]
        environment = {**os.environ, MARK: self.mark}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[ready_writer], env=environment, start_new_session=True
        )
        os.close(ready_writer)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told).encode() + b"\n")
        self.process.stdin.close()
        with os.fdopen(ready) as line:
            worker = Launched(line.readline().strip())
        self.watcher = threading.Thread(target=self.wait, args=[worker])
        self.watcher.start()
        yield worker

    def wait(self, worker: Launched) -> None:
        assert self.process is not None
        self.on_exit(worker, f"exit status {self.process.wait()}")

    def stop(self, worker: Launched, *, force: bool) -> None:
        assert self.process is not None
        self.process.kill() if force else self.process.terminate()

    def watch(self, on_exit: Callable[[Launched, str], None]) -> None:
        self.on_exit = on_exit


def test_a_worker_started_by_hand_is_a_worker(mark):
    """Told a token and a timeout, ``farcall worker`` listens, serves whoever knows the token, and leaves when asked."""
    engine = ByHand(mark)
    with fc.addprocs(engine) as (pid,):
        assert fc.remotecall_fetch(pid, os.getpid) == engine.process.pid
    engine.watcher.join(10)
    assert engine.process.returncode == 0


def test_a_worker_that_nobody_wants_ends(mark):
    """A worker to which no master connects in time ends by itself, with status 1, and says so."""
    ready, ready_writer = os.pipe()
    done = subprocess.run(
        [*FARCALL, "worker", str(ready_writer), str(os.getpid())],
        input=json.dumps({"token": "00" * 32, "timeout": 0.2, "path": sys.path, "main": None}) + "\n",
        pass_fds=[ready_writer],
        env={**os.environ, MARK: mark},
        capture_output=True,
        text=True,
        timeout=30,
    )
    os.close(ready_writer)
    with os.fdopen(ready) as line:
        assert line.read().endswith("\n")
    assert done.returncode == 1
    assert "no master connected within 0.2 seconds" in done.stderr
