"""Workers as processes: how they come, what they see, how they go, and that nothing is left of them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import psutil
import pytest
from family import count_switches, find_children
from waiting import until

import farcall as fc
from farcall._cluster import shutdown


def _gone(process):
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


def test_alone_the_master_is_the_worker():
    """Without workers programs run serially: workers() is [1]."""
    assert (fc.procs(), fc.workers(), fc.nprocs(), fc.nworkers(), fc.myid()) == ([1], [1], 1, 1, 1)


def test_alone_calls_run_here():
    """Programs run unchanged without workers: the master is every place that a call can go to."""
    assert [fc.fetch(fc.spawnat(pid, abs, -pid)) for pid in fc.workers()] == [1]
    assert fc.remotecall_fetch("any", fc.myid) == 1
    assert fc.fetch(fc.spawnat(fc.default_worker_pool(), fc.myid)) == 1
    fc.everywhere("alone_before = 7")
    (two,) = fc.addprocs(1)
    assert fc.remotecall_fetch(two, eval, "__import__('__main__').alone_before") == 7
    assert fc.default_worker_pool().workers() == [two]


def test_ids_count_from_two_and_are_never_reused():
    """The master is 1, workers count from 2, and an id that is gone does not come back."""
    assert fc.addprocs(2) == [2, 3]
    fc.rmprocs(2)
    assert fc.addprocs(1) == [4]
    assert fc.procs() == [1, 3, 4]
    assert (fc.workers(), fc.nprocs(), fc.nworkers()) == ([3, 4], 3, 2)
    assert fc.remotecall_fetch(3, fc.procs) == [1, 3, 4]
    assert fc.remotecall_fetch(4, fc.workers) == [3, 4]
    assert fc.procs(3) == [1, 3, 4]
    with pytest.raises(fc.ProcessExited, match="worker 2 is gone: it was removed"):
        fc.spawnat(2, abs, 1)
    with pytest.raises(ValueError, match="no process 9"):
        fc.rmprocs(9)


def test_procs_removes_its_workers_at_the_end_of_its_block():
    """addprocs in a with block."""
    with fc.addprocs(2) as pids:
        processes = [fc.remotecall_fetch(pid, os.getpid) for pid in pids]
    assert fc.workers() == [1]
    assert all(_gone(process) for process in processes)


def test_workers_see_what_the_master_sees(tmp_path, monkeypatch):
    """sys.path, the directory, the environment and the warning flags are those of the moment of addprocs."""
    (tmp_path / "only_here.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FARCALL_TEST", "seen")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "warnoptions", ["error::BytesWarning"])
    (two,) = fc.addprocs(1)
    assert fc.remotecall_fetch(two, lambda: __import__("only_here").answer) == 42
    assert fc.remotecall_fetch(two, os.environ.get, "FARCALL_TEST") == "seen"
    assert fc.remotecall_fetch(two, os.getcwd) == str(tmp_path)
    assert fc.remotecall_fetch(two, lambda: sys.warnoptions) == ["error::BytesWarning"]
    assert fc.remotecall_fetch(two, lambda: sys.executable) == sys.executable


def test_options_of_local_workers(tmp_path):
    """threads, env, cwd and python are those of the workers."""
    (two,) = fc.addprocs(1, threads=3, env={"A": "b", "HOME": None}, cwd=str(tmp_path), python=sys.executable)
    environment = fc.remotecall_fetch(two, dict, os.environ) and fc.remotecall_fetch(two, lambda: dict(os.environ))
    assert environment["OMP_NUM_THREADS"] == environment["NUMBA_NUM_THREADS"] == "3"
    assert environment["A"] == "b"
    assert "HOME" not in environment
    assert fc.remotecall_fetch(two, os.getcwd) == str(tmp_path)


def test_bad_options_are_named():
    """A wrong count or option is an error that names it, and nothing is started."""
    with pytest.raises(ValueError, match="-1"):
        fc.addprocs(-1)
    with pytest.raises(ValueError, match="threads=0"):
        fc.addprocs(1, threads=0)
    with pytest.raises(TypeError, match="'many'"):
        fc.addprocs("many")
    assert fc.addprocs(0) == []


def test_only_the_master_adds_and_removes(cluster_of_one):
    """addprocs and rmprocs elsewhere are RuntimeErrors that say so."""
    for function in (fc.addprocs, fc.rmprocs, fc.interrupt):
        with pytest.raises(RuntimeError, match="only process 1 can add and remove workers"):
            fc.remotecall_fetch(cluster_of_one, function, 1)


@pytest.fixture
def cluster_of_one():
    (pid,) = fc.addprocs(1)
    return pid


def test_with_at_least_the_rest_go_on(tmp_path):
    """Failures are warned of when enough workers come up, and an error when too few do."""
    flag = tmp_path / "first"
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        f"import os\ntry:\n    os.close(os.open({str(flag)!r}, os.O_CREAT | os.O_EXCL))\n"
        "except FileExistsError:\n    pass\nelse:\n    print('unlucky', flush=True)\n    os._exit(5)\n"
    )
    with pytest.warns(RuntimeWarning, match=r"(?s)exit status 5.*unlucky"):
        assert len(fc.addprocs(3, at_least=2, env={"PYTHONPATH": str(site)})) == 2
    flag.unlink()
    with pytest.raises(fc.LaunchError, match="only 1 of the 2 workers"):
        fc.addprocs(2, at_least=2, env={"PYTHONPATH": str(site)})
    assert fc.nworkers() == 2


def test_rmprocs_waits_as_long_as_asked(cluster_of_one):
    """waitfor=0 returns at once; past waitfor it is a TimeoutError, and the removal goes on."""
    future = fc.spawnat(cluster_of_one, time.sleep, 60)
    process = find_children()[0].pid
    with pytest.raises(TimeoutError, match=r"\[2\].*goes on"):
        fc.rmprocs(cluster_of_one, waitfor=0.05)
    done = fc.rmprocs(cluster_of_one, waitfor=0)
    assert done.result(20) is None
    with pytest.raises(fc.ProcessExited, match="removed"):
        future.result()
    assert _gone(process)


def test_process_one_is_not_removed(cluster_of_one):
    """rmprocs(1) is warned of and has no effect."""
    with pytest.warns(RuntimeWarning, match="process 1"):
        fc.rmprocs(1)
    assert fc.procs() == [1, cluster_of_one]


def test_later_workers_are_told_what_was_done_everywhere():
    """everywhere is repeated on workers that join later, unless it failed or named pids."""
    fc.addprocs(1)
    fc.everywhere("early = 1")
    fc.everywhere("only_two = 1", pids=[2])
    with pytest.raises(ExceptionGroup):
        fc.everywhere("half = 1; 1 / 0")

    @fc.everywhere
    def late(x):
        return x + early  # noqa: F821

    (three,) = fc.addprocs(1)
    assert fc.remotecall_fetch(three, eval, "__import__('__main__').late(1)") == 2
    for name in ("only_two", "half"):
        assert not fc.remotecall_fetch(three, eval, f"hasattr(__import__('__main__'), {name!r})")


def test_addprocs_from_a_thread():
    """Workers added by a thread outlive that thread."""
    thread = threading.Thread(target=fc.addprocs, args=(1,))
    thread.start()
    thread.join()
    threading.Event().wait(0.2)
    assert fc.remotecall_fetch(2, abs, -1) == 1


MASTER = """
import os, sys, time, threading
import farcall as fc
fc.addprocs(2)
print(*(fc.remotecall_fetch(pid, os.getpid) for pid in fc.workers()), flush=True)
{work}
"""


@pytest.mark.parametrize(
    "work",
    [
        "sys.stdin.read()",
        "fc.remotecall_fetch(2, time.sleep, 60)",
        "fc.remotecall_fetch(2, exec, 'while True: pass')",
        "fc.remotecall_fetch(2, lambda: __import__('ctypes').PyDLL(None).sleep(60))",
    ],
    ids=["idle", "sleeping", "spinning", "in C, holding the GIL"],
)
def test_workers_die_with_a_killed_master(work):
    """kill -9 of the master ends its workers, whatever they do, and leaves no process."""
    with subprocess.Popen(
        [sys.executable, "-c", MASTER.format(work=work)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as master:
        processes = [int(each) for each in master.stdout.readline().split()]
        threading.Event().wait(0.1)
        master.kill()
    assert len(processes) == 2
    assert until(lambda: all(_gone(process) for process in processes))


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "1 / 0", "fc.spawnat(2, time.sleep, 60)"])
def test_a_master_that_ends_takes_its_workers_along(end):
    """However the program ends its workers end, and it does not wait for those that are busy."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MASTER.format(work=end)], capture_output=True, text=True, timeout=30)
    assert time.perf_counter() - started < 8
    processes = [int(each) for each in done.stdout.split()]
    assert all(_gone(process) for process in processes)
    assert done.returncode == {"sys.exit(3)": 3, "1 / 0": 1}.get(end, 0)


def test_an_unused_worker_gives_up(tmp_path):
    """A worker to which no master connects ends by itself."""
    read, write = os.pipe()
    command = "import sys; from farcall._node.worker import main; main()"
    told = json.dumps({"token": "00" * 32, "timeout": 0.3, "path": sys.path, "main": None})
    with subprocess.Popen(
        [sys.executable, "-c", command, str(write), str(os.getpid())],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[write],
        text=True,
    ) as worker:
        os.close(write)
        _, errors = worker.communicate(told + "\n", timeout=20)
    os.close(read)
    assert worker.returncode == 1
    assert "no master connected within 0.3 seconds" in errors


IDLE = """
import os, sys
import farcall as fc
fc.addprocs(2)
print(os.getpid(), *(fc.remotecall_fetch(pid, os.getpid) for pid in fc.workers()), flush=True)
sys.stdin.read()
"""


def test_an_idle_cluster_sleeps():
    """Soon after the last call no thread of any process runs any more."""

    def is_silent(seconds):
        before = [count_switches(each) for each in processes]
        threading.Event().wait(seconds)
        return [count_switches(each) for each in processes] == before

    command = [sys.executable, "-c", IDLE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as master:
        processes = master.stdout.readline().split()
        assert len(processes) == 3
        assert until(lambda: is_silent(0.2))
        assert is_silent(1.5)
        master.stdin.close()


def test_the_master_can_begin_again():
    """After shutdown the next addprocs begins a new cluster."""
    fc.addprocs(1)
    shutdown()
    assert fc.workers() == [1]
    assert fc.addprocs(1) == [2]


def test_warnings_flags_do_not_break_workers():
    """A master run with -W error has workers."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = subprocess.run(
            [sys.executable, "-Werror", "-X", "dev", "-c", MASTER.format(work="")], capture_output=True, text=True
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_trace_shows_every_process(tmp_path):
    """The file has the calls of every process, with arrows from where they were sent; and recording ends."""
    fc.addprocs(2)
    path = tmp_path / "run.json"
    few = [1]

    def count():
        return len(few)

    with fc.trace(path):
        assert [fc.remotecall_fetch(2, count) for _ in range(2)] == [1, 1]
        fc.remotecall_fetch(2, fc.remotecall_fetch, 3, time.sleep, 0.05)
        fc.addprocs(1)
        fc.remotecall_fetch(4, abs, -1)
    rows = json.loads(path.read_text())["traceEvents"]
    runs = {(row["pid"], row["name"]): row for row in rows if row.get("cat") == "run"}
    assert runs[3, "sleep"]["dur"] >= 50_000
    assert runs[2, "remotecall_fetch"]["dur"] >= runs[3, "sleep"]["dur"]
    assert (4, "abs") in runs
    assert (2, count.__qualname__) in runs
    assert runs[3, "sleep"]["ts"] >= runs[2, "remotecall_fetch"]["ts"]
    sent = {row["id"] for row in rows if row["ph"] == "s"}
    ended = {row["id"] for row in rows if row["ph"] == "f"}
    assert len(sent & ended) >= 3
    assert any(row.get("cat") == "wait" and row["pid"] == 1 and row["dur"] >= 50_000 for row in rows)
    assert all(row["args"]["bytes"] > 0 for row in rows if row.get("cat") == "send")
    assert fc._cluster.master().node.trace is None
    assert fc.remotecall_fetch(2, lambda: __import__("farcall")._node.current.current_node().trace) is None


def test_signals_to_an_idle_worker_leave_it_alone(cluster_of_one):
    """SIGINT, as from a terminal, does not end a worker; SIGTERM does, and the reason says so."""
    process = fc.remotecall_fetch(cluster_of_one, os.getpid)
    os.kill(process, signal.SIGINT)
    assert fc.remotecall_fetch(cluster_of_one, os.getpid) == process
    os.kill(process, signal.SIGTERM)
    assert until(lambda: fc.workers() == [1])
    with pytest.raises(fc.ProcessExited, match=r"exit status 143|SIGTERM"):
        fc.remotecall_fetch(cluster_of_one, abs, 1)


def test_a_block_that_is_never_left_does_not_keep_the_program():
    """A generator that stops inside ``with addprocs()`` is ended after the cluster, and the program ends."""
    code = """
import farcall as fc

def measure():
    with fc.addprocs(1) as (worker,):
        yield fc.remotecall_fetch(worker, fc.myid)

if __name__ == "__main__":
    generator = measure()
    print(next(generator))
    raise BrokenPipeError
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=40)
    assert done.stdout == "2\n"
    assert "BrokenPipeError" in done.stderr
