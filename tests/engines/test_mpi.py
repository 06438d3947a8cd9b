"""Ranks of mpiexec as workers: the real program, of MPICH, and of Open MPI where their ways part."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from waiting import until

from farcall.engines import MPI

PYTHON = [sys.executable, "-W", "error"]
FARCALL_RUN = [*PYTHON, "-m", "farcall", "run"]
MPICH = {"mpiexec": str(Path(sys.executable).with_name("mpiexec")), "options": [], "environment": {}}
OPEN_MPI = {
    "mpiexec": shutil.which("mpiexec.openmpi"),
    "options": ["--oversubscribe"],
    "environment": {
        "MPI4PY_MPIABI": "openmpi",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    },
}
HURRY = """
import farcall as fc
fc.everywhere("import farcall._engines.mpi as mpi, farcall._cluster as cluster")
fc.everywhere("mpi._PATIENCE = 0.2; cluster._AT_EXIT = 0.2")
"""


def end_of(command, **environment):
    """Run a command to its end."""
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=50)


def mpiexec(count, command, *arguments, mpi=MPICH):
    """Run a command in so many ranks to the end of all."""
    launch = [mpi["mpiexec"], *mpi["options"], "-n", str(count)]
    return end_of([*launch, *command, *arguments], **mpi["environment"])


def run(count, program, *arguments, **options):
    """Run a program under ``farcall run`` in so many ranks."""
    return mpiexec(count, FARCALL_RUN, "-c", program, *arguments, **options)


# Working


LIFE = """
import os, sys, threading, time
import farcall as fc, psutil

print(sys.argv[1:], fc.procs(), len({fc.remotecall_fetch(pid, os.getpid) for pid in fc.procs()}))
fc.remotecall_fetch(3, print, "hello")
fc.remotecall_fetch(3, print, "hello", file=sys.stderr)
print(fc.remotecall_fetch(2, fc.remotecall_fetch, 4, lambda: (fc.myid(), os.environ["OMP_NUM_THREADS"])))
print(fc.remotecall_fetch(2, lambda: threading.current_thread() is threading.main_thread()))

def total():
    from mpi4py import MPI
    return MPI.COMM_WORLD.allreduce(fc.myid())

futures = [fc.spawnat(pid, total) for pid in fc.workers()]
print(total(), [fc.fetch(each) for each in futures])
try:
    fc.engines.MPI()
except fc.LaunchError as error:
    print(error)
removed = psutil.Process(fc.remotecall_fetch(2, os.getpid))
fc.rmprocs(2)
print(fc.workers(), removed.cpu_percent(0.5) < 5)
try:
    fc.remotecall_fetch(2, fc.myid)
except fc.ProcessExited as error:
    print(error)
print(fc.pmap(abs, [-1, -2, -3]))
stuck = fc.spawnat(3, time.sleep, 1000)
"""
LIVED = """\
['an argument'] [1, 2, 3, 4] 4
From worker 3:	hello
(4, '1')
True
10 [10, 10, 10]
fc.engines.MPI() is made once in a job, and has been: its ranks are workers, or were
[3, 4] True
worker 2 is gone: it was removed
[1, 2, 3]
"""


@pytest.mark.parametrize("mpi", [MPICH, OPEN_MPI], ids=["MPICH", "OpenMPI"])
def test_the_ranks_but_the_first_are_workers(mpi, require):
    """``mpiexec -n 4 farcall run`` runs the program once, with three workers, which are whole ones.

    They call each other, print in the master, run on their main threads, and use MPI for themselves. One that is
    removed leaves at once and is idle from then on; the rest go on. A call under way at the end holds up nothing.
    """
    require(mpi["mpiexec"], "mpiexec of Open MPI (openmpi-bin)")
    done = run(4, LIFE, "an argument", mpi=mpi)
    assert sorted(done.stdout.splitlines()) == sorted(LIVED.splitlines()), done.stderr
    assert done.stderr == "From worker 3:\thello\n"
    assert done.returncode == 0


def test_the_status_of_the_program_is_that_of_the_job():
    """``mpiexec`` ends as the program does, and what is wrong with a program is said once."""
    done = run(3, "import sys; sys.exit(3)")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    done = mpiexec(3, FARCALL_RUN, "nowhere.py")
    assert done.returncode == 2
    assert done.stderr.count("can't open file") == 1


PLAIN = """
import farcall as fc
with fc.addprocs(fc.engines.MPI()) as pids:
    print(pids, fc.pmap(abs, [-1]))
print(fc.workers())
"""


@pytest.mark.parametrize(("count", "pids"), [(3, "[2, 3]"), (1, "[]")])
def test_a_program_may_add_the_ranks_itself(count, pids):
    """In a program that all ranks run, addprocs(MPI()) gives the first its workers, and the others go no further."""
    done = mpiexec(count, [*PYTHON, "-c", PLAIN])
    assert (done.stdout, done.stderr, done.returncode) == (f"{pids} [1]\n[1]\n", "", 0)


def test_ranks_that_nobody_launches_end():
    """A first rank that fails between MPI() and addprocs lets the others end, with its own status."""
    done = mpiexec(3, [*PYTHON, "-c", "import farcall as fc; fc.addprocs(fc.engines.MPI(), cwd='/')"])
    assert done.returncode == 1
    assert done.stderr.count("TypeError: cwd: give these to MPI(...) itself") == 1


# Ending


STUBBORN = """
def go_on():
    import threading
    while True:
        try:
            threading.Event().wait(0.01)
        except BaseException:
            pass
fc.spawnat(2, go_on)
"""
DEAF = "fc.spawnat(2, lambda: __import__('ctypes').PyDLL(None).sleep(1000))\n"
WAIT = "import time; time.sleep(0.3)\n"


def test_a_call_that_does_not_end_does_not_hold_up_the_job(require):
    """The end of the program is that of a worker, too, whose code catches all by which it is asked to end."""
    require(OPEN_MPI["mpiexec"], "mpiexec of Open MPI (openmpi-bin)")
    done = run(3, HURRY + STUBBORN, mpi=OPEN_MPI)
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_call_that_cannot_even_be_asked_ends_with_an_abort():
    """A worker that never lets Python run cannot take part in the end, so MPI ends the job, with status 1."""
    done = run(3, HURRY + DEAF + WAIT)
    assert "farcall: ranks [1] run code that cannot be interrupted, so MPI ends the job\n" in done.stderr
    assert done.returncode == 1


KILL = """
import os, sys
import farcall as fc
print(*[fc.remotecall_fetch(pid, os.getpid) for pid in fc.procs()], flush=True)
fc.remotecall_fetch(int(sys.argv[1]), lambda: os.kill(os.getpid(), 9))
"""


@pytest.mark.parametrize("victim", ["1", "3"])
def test_a_killed_rank_takes_the_job_along(victim):
    """As MPI has it: if a worker or the master is killed, ``mpiexec`` ends the others and says so by its status."""
    done = run(3, KILL, victim)
    assert done.returncode != 0
    processes = [int(each) for each in done.stdout.splitlines()[0].split()]
    assert len(processes) == 3
    assert not [each for each in processes if not until(lambda each=each: not is_running(each))]


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# Several hosts


SPREAD = """
import socket
import farcall as fc
print([fc.remotecall_fetch(pid, socket.gethostname) for pid in fc.procs()])
print(fc.remotecall_fetch(2, fc.remotecall_fetch, 4, fc.myid), fc.remotecall_fetch(4, fc.remotecall_fetch, 2, fc.myid))
fc.rmprocs(4)
print(fc.remotecall_fetch(3, fc.myid))
"""


def test_ranks_may_be_on_several_hosts(hosts, tmp_path):
    """Workers reach each other and the master over the network, wherever ``mpiexec`` puts them."""
    one, two, _ = hosts
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {hosts.ssh_config} "$@"\n')
    ssh.chmod(0o755)
    spread = [MPICH["mpiexec"], "-launcher-exec", str(ssh), "-hosts", f"{one.name}:2,{two.name}:2", "-n", "4"]
    done = one.run([*spread, *FARCALL_RUN, "-c", SPREAD])
    assert done.stdout == f"{[one.name, one.name, two.name, two.name]}\n4 2\n3\n", done.stderr
    assert (done.stderr, done.returncode) == ("", 0)


# Mistakes


def test_without_mpiexec_the_error_says_what_to_write():
    """A program that is no rank is told how to become one."""
    done = end_of([*PYTHON, "-c", "import farcall as fc; fc.engines.MPI()"])
    assert done.stderr.endswith(
        "LaunchError: no MPI job here: start the program with mpiexec -n 5 farcall run program.py\n"
    )


def test_an_mpiexec_of_another_mpi_is_named():
    """Ranks that do not know of each other are an error and not so many programs."""
    command = [sys.executable, "-W", "ignore", "-m", "farcall", "run", "-c", "print('begun')"]
    done = end_of(command, OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="3")
    assert (done.stdout, done.returncode) == ("", 1)
    assert "mpiexec has started 3 ranks, but not for mpi4py, which uses MPICH" in done.stderr


def test_without_mpi4py_the_extra_is_named(tmp_path):
    """Under ``mpiexec`` mpi4py is needed, and the error is one line that says how to get it."""
    (tmp_path / "mpi4py.py").write_text("raise ImportError('it is hidden')")
    done = end_of([*FARCALL_RUN, "-c", "1"], PMI_RANK="0", PMI_SIZE="3", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "farcall: fc.engines.MPI needs mpi4py: pip install 'farcall[mpi]' (it is hidden)\n"


def test_local_workers_are_not_mixed_with_ranks():
    """``-p`` under ``mpiexec`` is an error, said once."""
    done = mpiexec(2, FARCALL_RUN, "-p", "2", "-c", "print('begun')")
    assert (done.stdout, done.returncode) == ("", 2)
    (line,) = done.stderr.splitlines()
    assert line.startswith("farcall: under mpiexec its other ranks are the workers: leave -p ")


ENVIRONMENTS = [
    ({}, 1),
    ({"OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4", "SLURM_STEP_NUM_TASKS": "2"}, 4),
    ({"PMI_RANK": "3", "PMI_SIZE": "5"}, 5),
    ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "7"}, 7),
    ({"PMI_RANK": "0", "PMI_SIZE": "1"}, 1),
    ({"SLURM_STEP_NUM_TASKS": "7", "SLURM_PROCID": "0"}, 1),
]


@pytest.mark.parametrize(("environment", "count"), ENVIRONMENTS, ids=str)
def test_the_environment_says_how_many_ranks_there_are(monkeypatch, environment, count):
    """Open MPI, MPICH and Slurm say it in variables of their own; a batch script of Slurm's is no rank."""
    for name in [name for name in os.environ if name.startswith(("OMPI_", "PMI", "SLURM_"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert MPI.count_ranks() == count
