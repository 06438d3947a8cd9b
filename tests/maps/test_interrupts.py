"""Ctrl-C during a map, and maps inside calls that are cancelled."""

import os
import signal
import subprocess
import sys
import time

import pytest
from waiting import until

import farcall as fc

PROGRAM = """
import os, sys, time
import farcall as fc
directory = sys.argv[1]
def leave(name):
    open(os.path.join(directory, name), "w").close()
def work(n):
    try:
        leave(f"begun {n}")
        BODY
    finally:
        leave(f"ended {n}")
def run():
    MAP
if __name__ == "__main__":
    pids = fc.addprocs(2)
    try:
        run()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print(fc.workers() == pids, fc.pmap(abs, [-1, -2]), flush=True)
    sys.stdin.readline()
"""
BODIES = {
    "sleep": "time.sleep(60)",
    "compute": "x = 0\n        while True: x += 1",
    "nested": "fc.pmap(time.sleep, [60, 60])",
}
MAPS = {
    "pmap": "fc.pmap(work, range(20))",
    "imap": "list(fc.imap(work, range(20)))",
    "pforeach": "fc.pforeach(work, range(20))",
    "retries": "fc.pmap(work, range(20), on_error=str, retry_delays=[0, 0])",
}


@pytest.mark.parametrize(
    ("body", "kind"),
    [("sleep", "pmap"), ("compute", "pmap"), ("nested", "pmap"), ("sleep", "imap"), ("sleep", "pforeach"),
     ("sleep", "retries")],
)  # fmt: skip
def test_ctrl_c_cancels_a_map_everywhere_and_keeps_the_cluster(tmp_path, body, kind):
    """One Ctrl-C: the items end, the map raises KeyboardInterrupt, and the same workers do the next map."""
    program = PROGRAM.replace("BODY", BODIES[body]).replace("MAP", MAPS[kind])
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert until(lambda: len(list(tmp_path.iterdir())) == 2, 30)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert until(lambda: len(list(tmp_path.glob("ended *"))) == 2)
        assert process.stdout.readline() == "True [1, 2]\n"
        assert len(list(tmp_path.glob("begun *"))) == 2
        process.communicate("\n", timeout=30)
    assert process.returncode == 0


def test_cancelling_a_call_cancels_the_map_in_it(cluster, tmp_path):
    """A map that a call makes ends with that call, on every worker."""

    def work(n):
        try:
            (tmp_path / f"begun {n}").touch()
            while True:  # the main thread of one worker waits for the map, and only that can be woken from sleep
                time.sleep(0.005)
        finally:
            (tmp_path / f"ended {n}").touch()

    def outer():
        fc.pmap(work, range(10))

    future = fc.spawnat(cluster[0], outer)
    assert until(lambda: len(list(tmp_path.glob("begun *"))) == 2)
    assert future.cancel()
    assert until(lambda: len(list(tmp_path.glob("ended *"))) == 2)
    assert len(list(tmp_path.glob("begun *"))) == 2
    assert fc.pmap(abs, [-1]) == [1]


def test_an_interrupt_leaves_nothing_behind(cluster):
    """After many maps that were cancelled at any moment the workers answer, and nothing runs there."""
    me = os.getpid()

    def busy(n):
        return sum(range(n))

    interrupted = 0
    for delay in range(40):
        signal.setitimer(signal.ITIMER_REAL, 0.0005 * (delay + 1))
        previous = signal.signal(signal.SIGALRM, lambda number, frame: os.kill(me, signal.SIGINT))
        try:
            fc.pmap(busy, range(20_000))
            while signal.getitimer(signal.ITIMER_REAL)[0]:
                pass
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
    assert interrupted > 10
    assert until(lambda: not any(fc.remotecall_fetch(pid, calls_under_way) for pid in cluster))
    assert fc.pmap(busy, range(100)) == [busy(n) for n in range(100)]


def calls_under_way():
    from farcall._node.current import current_node

    return sum(len(link.running) for link in current_node().reader.links) - 1
