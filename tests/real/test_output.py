"""What workers print, as the person at the master sees it."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import pexpect
import pytest

import farcall as fc


def run(code):
    """Run a program and return its output and errors."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=50)
    return done.stdout, done.stderr


def test_lines_are_labelled_and_none_is_lost_at_exit():
    """Each line comes with its worker, in order, also those printed just before the end."""
    out, err = run("""
        import farcall as fc
        fc.addprocs(1)
        def work():
            for i in range(2000):
                print("line", i)
            print("last, without its end", end="")
        fc.remotecall_fetch(2, work)
    """)
    expected = [f"From worker 2:\tline {i}" for i in range(2000)] + ["From worker 2:\tlast, without its end"]
    assert out.splitlines() == expected
    assert err == ""


def test_output_from_c_and_from_children(capfd):
    """What C code, a subprocess and a raw descriptor print arrives too, and at once."""
    (two,) = fc.addprocs(1, env={"PYTHONUNBUFFERED": None})

    def work():
        import ctypes
        import subprocess

        ctypes.CDLL(None).puts(b"from C")
        subprocess.run(["echo", "from a child"], check=True)
        os.write(1, b"from a descriptor\n")
        os.write(2, b"to stderr\n")

    fc.remotecall_fetch(two, work)
    out, err = _read_count(capfd, 3)  # while the worker lives: what C prints does not wait for its exit
    fc.rmprocs(two)
    err += _read(capfd, "to stderr")[1] if "to stderr" not in err else ""
    assert [line for line in out.splitlines() if line] == [
        f"From worker 2:\t{text}" for text in ("from C", "from a child", "from a descriptor")
    ]
    assert "From worker 2:\tto stderr\n" in err


def _read(capfd, needle):
    deadline, out, err = time.monotonic() + 5, "", ""
    while time.monotonic() < deadline and needle not in out + err:
        threading.Event().wait(0.02)
        more = capfd.readouterr()
        out, err = out + more.out, err + more.err
    return out, err


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)", "ctypes.string_at(0)"])
def test_nothing_is_lost_at_a_crash(capfd, end):
    """What was printed before a worker died is shown, and a segmentation fault shows where it was."""
    (two,) = fc.addprocs(1)

    def work():
        for i in range(100):
            print("step", i)
        exec(f"import os, signal, ctypes\n{end}")

    with pytest.raises(fc.ProcessExited):
        fc.remotecall_fetch(two, work)
    out, err = _read(capfd, "step 99")
    assert [line for line in out.splitlines() if "step" in line] == [f"From worker 2:\tstep {i}" for i in range(100)]
    if "string_at" in end:
        assert "Segmentation fault" in err + _read(capfd, "Segmentation fault")[1]


def test_lines_of_many_threads_are_whole(capfd):
    """Concurrent calls print whole lines, however print takes them apart."""
    pids = fc.addprocs(2)

    def work(name):
        for i in range(100):
            print(name, i, "x" * 30, name, sep="-")

    futures = [fc.spawnat(pid, work, f"t{k}") for pid in pids for k in range(8)]
    for future in futures:
        future.result()
    fc.rmprocs(pids)
    out, _ = _read_count(capfd, 1600)
    lines = out.splitlines()
    assert sorted(lines) == sorted(
        f"From worker {pid}:\tt{k}-{i}-{'x' * 30}-t{k}" for pid in pids for k in range(8) for i in range(100)
    )


def _read_count(capfd, count):
    deadline, out, err = time.monotonic() + 5, "", ""
    while time.monotonic() < deadline and out.count("\n") < count:
        threading.Event().wait(0.02)
        more = capfd.readouterr()
        out, err = out + more.out, err + more.err
    return out, err


def test_output_follows_the_masters_sys_stdout():
    """The lines go to what sys.stdout is at that moment."""
    out, _ = run("""
        import io, sys, time, contextlib
        import farcall as fc
        fc.addprocs(1)
        catcher = io.StringIO()
        with contextlib.redirect_stdout(catcher):
            fc.remotecall_fetch(2, print, "caught")
            while "caught" not in catcher.getvalue():
                time.sleep(0.01)
        print(repr(catcher.getvalue()))
    """)
    assert out == r"'From worker 2:\tcaught\n'" + "\n"


def test_the_interactive_interpreter():
    """In the REPL calls of functions typed there work, Ctrl-C ends a call and keeps the cluster, exit ends all."""
    child = pexpect.spawn(sys.executable, ["-q"], encoding="utf-8", timeout=20)
    child.expect(">>> ")
    for line, answer in (
        ("import farcall as fc, os, time", None),
        ("fc.addprocs(1)", r"\[2\]"),
        ("f = lambda x: x + 1", None),
        ("fc.remotecall_fetch(2, f, 41)", "42"),
        ("fc.remote_do(2, print, 'hi there')", "From worker 2:\thi there"),
    ):
        child.sendline(line)
        if answer:
            child.expect(answer)
        child.sendline("'next'")  # what a worker prints may come before or after a prompt
        child.expect("\r\n'next'\r\n>>> ")
    child.sendline("fc.remotecall_fetch(2, time.sleep, 60)")
    threading.Event().wait(0.5)
    child.sendintr()
    child.expect("KeyboardInterrupt")
    child.expect(">>> ")
    child.sendline("fc.remotecall_fetch(2, f, 1)")
    child.expect("2")
    child.expect(">>> ")
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_ipython():
    """In IPython functions defined at the prompt travel, and redefining one is seen at once."""
    child = pexpect.spawn(
        sys.executable,
        ["-m", "IPython", "--simple-prompt", "--no-banner", "--colors=nocolor"],
        encoding="utf-8",
        timeout=30,
    )
    child.expect("In \\[1\\]: ")
    for number, (line, answer) in enumerate(
        (
            ("import farcall as fc; fc.addprocs(1)", r"\[2\]"),
            ("f = lambda: 'first'", None),
            ("fc.remotecall_fetch(2, f)", "'first'"),
            ("f = lambda: 'second'", None),
            ("g = lambda: f()", None),
            ("fc.remotecall_fetch(2, g)", "'second'"),
        ),
        start=2,
    ):
        child.sendline(line)
        if answer:
            child.expect(answer)
        child.expect(f"In \\[{number}\\]: ")
    child.sendline("exit")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


NOTEBOOK = r"""
from jupyter_client.manager import start_new_kernel

def cell(code):
    shown = []
    answer = client.execute_interactive(code, timeout=30, output_hook=shown.append)
    assert answer["content"]["status"] == "ok", answer["content"]
    return "".join(message["content"]["text"] for message in shown if message["msg_type"] == "stream")

def check(found, expected):
    assert found == expected, (found, expected)

kernel, client = start_new_kernel()
try:
    check(cell("import farcall as fc, time; print(fc.addprocs(1))"), "[2]\n")
    check(cell("def f(x):\n    print('seen', x)\n    return 'one'"), "")
    shown = cell("value = fc.remotecall_fetch(2, f, 5); time.sleep(0.5); print(value)")
    check(sorted(shown.splitlines()), ["From worker 2:\tseen 5", "one"])
    check(cell("def f(x):\n    return 'two'\nprint(fc.remotecall_fetch(2, f, 6))"), "two\n")
    check(cell("fc.remote_do(2, print, 'later'); time.sleep(0.3)"), "From worker 2:\tlater\n")
finally:
    client.stop_channels()
    kernel.shutdown_kernel(now=False)
print("fine")
"""


def test_a_jupyter_kernel():
    """In a notebook calls work cell by cell, and what workers print appears in the cell that is running."""
    pytest.importorskip("jupyter_client")
    out, err = run(NOTEBOOK)
    assert out == "fine\n", err
