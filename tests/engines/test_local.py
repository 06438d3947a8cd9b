"""Processes of this machine: started as they should be, gone when they should be, and never without a word."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import psutil
import pytest
from family import find_children
from waiting import until

from farcall._engines import local
from farcall._engines.base import Launched, Offer
from farcall._engines.local import Local, describe_exit
from farcall._errors import LaunchError
from farcall.testing import EngineSuite

PATIENCE = 20.0  # seconds; a test that needs them has failed
OFFER = Offer(b"token" * 6, PATIENCE)


def make_program(path, source):
    """Return the path of a program to be run in the place of the interpreter."""
    path.write_text(f"#!/bin/sh\n{source}\n")
    path.chmod(0o755)
    return str(path)


def count_children():
    return len(find_children())


class TestLocal(EngineSuite):
    """The engine of every example."""

    @pytest.fixture(autouse=True)
    def directory(self, tmp_path):
        self.path = tmp_path / "python"

    def make_engine(self, count):
        return Local(count)

    def make_broken_engine(self, words):
        return Local(1, python=make_program(self.path, f"echo first >&2; echo {words} >&2; exit 3"))

    def count_running(self):
        return count_children()


# Launching


@pytest.fixture
def launch():
    """Return a function that launches a single worker and returns its process; it is killed after the test."""
    workers = []

    def start(engine):
        (worker,) = engine.launch(OFFER)
        assert isinstance(worker, Launched), worker
        workers.append((engine, worker))
        return psutil.Process(worker.key._process.pid)

    yield start
    for engine, worker in workers:
        engine.stop(worker, force=True)
        for each in worker.output:
            os.close(each)


def test_a_worker_has_this_environment(launch, monkeypatch):
    """Workers see the environment as it is at the launch, but for what ``env`` sets or, with None, removes."""
    monkeypatch.setenv("FARCALL_TEST_KEPT", "kept")
    monkeypatch.setenv("FARCALL_TEST_CHANGED", "before")
    monkeypatch.setenv("FARCALL_TEST_REMOVED", "there")
    process = launch(Local(1, env={"FARCALL_TEST_CHANGED": "after", "FARCALL_TEST_REMOVED": None, "UNKNOWN": None}))
    environment = process.environ()
    assert environment["FARCALL_TEST_KEPT"] == "kept"
    assert environment["FARCALL_TEST_CHANGED"] == "after"
    assert "FARCALL_TEST_REMOVED" not in environment


def test_numeric_libraries_are_told_how_many_threads_to_use(launch):
    """``threads`` is what OpenMP, OpenBLAS, MKL and Numba find, unless ``env`` says otherwise."""
    environment = launch(Local(1, threads=3, env={"MKL_NUM_THREADS": "7"})).environ()
    assert {environment[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")} == {"3"}
    assert environment["MKL_NUM_THREADS"] == "7"


@pytest.mark.parametrize("given", [False, True])
def test_a_worker_runs_where_it_is_told(launch, tmp_path, monkeypatch, given):
    """Workers run in ``cwd``, or in the directory of this process at the launch."""
    if not given:
        monkeypatch.chdir(tmp_path)
    assert launch(Local(1, cwd=str(tmp_path) if given else None)).cwd() == str(tmp_path)


def test_a_worker_gets_the_warnings_and_options_of_this_interpreter(launch, monkeypatch):
    """``-W`` and ``-X`` go on to the workers."""
    monkeypatch.setattr(sys, "warnoptions", ["error::SyntaxWarning"])
    monkeypatch.setattr(sys, "_xoptions", {"utf8": True, "importtime": True})
    command = launch(Local(1)).cmdline()
    assert "-Werror::SyntaxWarning" in command
    assert "-Xutf8" in command
    assert "-Ximporttime" not in command


def test_options_of_this_interpreter_keep_their_values(launch, monkeypatch):
    """``-X name=value`` goes on as it is: without its value it may be an error."""
    monkeypatch.setattr(sys, "_xoptions", {"int_max_str_digits": "5000"})
    assert "-Xint_max_str_digits=5000" in launch(Local(1)).cmdline()


def test_a_worker_leads_a_session_of_its_own(launch):
    """Ctrl-C in the terminal does not reach workers: it is the master's to handle."""
    process = launch(Local(1))
    assert os.getsid(process.pid) == process.pid


def test_no_workers_are_no_error():
    """An engine of no workers launches none."""
    assert list(Local(0).launch(OFFER)) == []


@pytest.mark.parametrize("options", [{"count": -1}, {"count": 1, "threads": 0}])
def test_impossible_numbers_are_value_errors(options):
    """Fewer than no workers, or less than one thread each, are ValueErrors at once."""
    with pytest.raises(ValueError, match=r"-1|threads=0"):
        Local(**options)


def test_an_interpreter_that_is_not_there_is_named():
    """A command that cannot be started is a LaunchError that names it."""
    (error,) = Local(1, python="/nowhere/python").launch(OFFER)
    assert isinstance(error, LaunchError)
    assert "cannot start /nowhere/python" in str(error)


def test_a_worker_that_takes_too_long_is_given_up(tmp_path):
    """A worker that does not listen in time is a LaunchError, and is killed."""
    engine = Local(2, python=make_program(tmp_path / "python", "exec sleep 60"))
    errors = list(engine.launch(Offer(b"token", 0.05)))
    assert [str(each) for each in errors] == ["a worker did not start within 0.05 seconds"] * 2
    assert until(lambda: count_children() == 0)


def open_descriptors():
    """Return the descriptors of this process, without that of the listing itself."""
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


@pytest.mark.parametrize("env", [{"NAME": 1}, {"NA=ME": "1"}, {"NAME": "nul\0"}], ids=["type", "name", "nul"])
def test_an_environment_that_cannot_be_is_an_error_at_once(env, monkeypatch):
    """A worker that cannot be started, whatever the reason, is an error that gives it, and takes no time."""
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    before = open_descriptors()
    try:
        with pytest.raises((LaunchError, TypeError, ValueError)) as caught:
            raise next(Local(1, env=env).launch(Offer(b"token", 0.1)))
        assert "did not start within" not in str(caught.value)
    finally:
        for each in open_descriptors() - before:
            os.close(each)


@pytest.mark.parametrize("size", [60_000, 1_000_000])
def test_a_worker_may_print_much_before_it_fails(tmp_path, size):
    """Of a worker that printed very much before it failed, the end is shown, and not all."""
    source = f"head -c {size} /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1"
    (error,) = Local(1, python=make_program(tmp_path / "python", source)).launch(OFFER)
    assert str(error).endswith("the end")
    assert len(str(error)) < 40_000


def test_closing_the_iterator_leaves_no_descriptors():
    """A worker that listens when the iterator is closed, and was not yielded, is ended and its output closed."""
    before = open_descriptors()
    engine = Local(2)
    arrivals = engine.launch(OFFER)
    worker = next(arrivals)
    came = arrivals.gi_frame.f_locals["arrivals"]
    assert until(lambda: came.qsize() == 1)
    arrivals.close()
    engine.stop(worker, force=True)
    for each in worker.output:
        os.close(each)
    assert until(lambda: count_children() == 0)
    try:
        assert until(lambda: open_descriptors() == before)  # the thread that watched it is about to close its own
    finally:
        for each in open_descriptors() - before:
            os.close(each)


# Ending


def end_of(engine, act):
    """Launch a worker, act on its process, and return why it ended."""
    (worker,) = engine.launch(OFFER)
    reasons = []
    engine.watch(lambda ended, reason: reasons.append(reason))
    act(worker)
    assert until(lambda: reasons)
    for each in worker.output:
        os.close(each)
    return reasons[0]


def test_the_reason_of_an_exit_is_the_systems():
    """A worker killed by somebody else says by which signal; one killed by us says so."""
    engine = Local(1)
    assert (
        end_of(engine, lambda worker: engine.stop(worker, force=True))
        == "killed by signal 9 (SIGKILL), sent by farcall"
    )
    engine = Local(1)
    killed = end_of(engine, lambda worker: os.kill(worker.key._process.pid, signal.SIGABRT))
    assert killed == "killed by signal 6 (SIGABRT)"


MASTER = """
    import time
    from farcall._engines.base import Offer
    from farcall._engines.local import Local

    (worker,) = Local(1).launch(Offer(b"token", 60))
    print(worker.key._process.pid, flush=True)
    time.sleep(60)
"""


def test_workers_die_with_their_master():
    """A master that is killed takes its workers along, without a word to them."""
    environment = {**os.environ, "PYTHONPATH": str(Path(local.__file__).parents[2])}
    command = [sys.executable, "-c", textwrap.dedent(MASTER)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as master:
        worker = psutil.Process(int(master.stdout.readline()))
        assert worker.is_running()
        master.kill()
    assert until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


DESCRIPTIONS = [
    (0, None, False, "exit status 0"),
    (3, None, False, "exit status 3"),
    (3, signal.SIGTERM, True, "exit status 3"),
    (-9, None, False, "killed by signal 9 (SIGKILL)"),
    (-9, None, True, "killed by signal 9 (SIGKILL): out of memory"),
    (-9, signal.SIGTERM, True, "killed by signal 9 (SIGKILL): out of memory"),
    (-9, signal.SIGKILL, True, "killed by signal 9 (SIGKILL), sent by farcall"),
    (-15, signal.SIGTERM, False, "killed by signal 15 (SIGTERM), sent by farcall"),
    (-15, None, True, "killed by signal 15 (SIGTERM)"),
    (-11, signal.SIGTERM, True, "killed by signal 11 (SIGSEGV)"),
    (-63, None, False, "killed by signal 63 (unknown signal)"),
]


@pytest.mark.parametrize(("code", "sent", "out_of_memory", "words"), DESCRIPTIONS)
def test_exits_are_described(code, sent, out_of_memory, words):
    """Each way to end has its words: a status, a signal, whose it was, and whether memory ran out."""
    assert describe_exit(code, sent, out_of_memory) == words


# Out of memory


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return a function that makes a file of the system's, and have the engine see no other."""
    monkeypatch.setattr(local, "Path", lambda *parts: tmp_path.joinpath(*[part.lstrip("/") for part in parts]))

    def write(path, text):
        place = tmp_path / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    return write


EVENTS = "low 0\nhigh 0\nmax 7\noom 5\noom_kill 3\noom_group_kill 1\n"


def test_kills_are_counted_in_a_control_group_of_version_2(system):
    """The count is that of our control group, and not the host's."""
    system("/proc/self/cgroup", "0::/user.slice/some.scope\n")
    system("/sys/fs/cgroup/user.slice/some.scope/memory.events", EVENTS)
    system("/proc/vmstat", "oom_kill 99\n")
    assert local._count_out_of_memory_kills() == 3


@pytest.mark.parametrize("where", ["group", "host"])
def test_kills_are_counted_in_a_control_group_of_version_1(system, where):
    """The memory controller of version 1 knows only its own group, so the host is asked, too: either counts."""
    group, host = "/sys/fs/cgroup/memory/some/group/memory.oom_control", "/proc/vmstat"
    system("/proc/self/cgroup", "5:cpu,cpuacct:/c\n4:memory:/some/group\n0::/\n")
    system(group, "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    system(host, "nr_free_pages 1\noom_kill 4\n")
    before = local._count_out_of_memory_kills()
    system(group if where == "group" else host, "oom_kill 5\n")
    assert local._count_out_of_memory_kills() > before


def test_kills_are_counted_on_the_host_otherwise(system):
    """Where the control group does not tell, the host does."""
    system("/proc/self/cgroup", "0::/group\n")
    system("/proc/vmstat", "nr_free_pages 1\noom_kill 4\n")
    assert local._count_out_of_memory_kills() == 4


@pytest.mark.parametrize("events", ["", "low 0\n", "oom_kill", "oom_kill many\n"])
def test_a_file_that_makes_no_sense_counts_nothing(system, events):
    """A file of the system's in another form is no error."""
    system("/proc/self/cgroup", "0::/group\n")
    system("/sys/fs/cgroup/group/memory.events", events)
    assert local._count_out_of_memory_kills() == 0


def test_kills_of_which_nobody_tells_are_none(system):
    """A system without these files has killed nobody that we know of."""
    assert local._count_out_of_memory_kills() == 0


def test_a_colon_in_the_name_of_a_control_group_is_part_of_it(system):
    """Names of control groups are anything, colons included."""
    system("/proc/self/cgroup", "0::/a:b\n")
    system("/sys/fs/cgroup/a:b/memory.events", EVENTS)
    assert local._count_out_of_memory_kills() == 3
