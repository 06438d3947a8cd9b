"""Namespaces in which processes live as on a machine of their own; `tests/hosts.py` makes hosts of them."""

import itertools
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

KINDS = ["--net", "--uts", "--ipc", "--mount", "--pid"]


class Namespaces:
    """The namespaces of one host, and process 1 in them: a shell that does what it is told and ends with the test."""

    END = "== done =="

    def __init__(self) -> None:
        self._unshare = subprocess.Popen(
            ["unshare", "--fork", "--kill-child", *KINDS, "--mount-proc", "bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            start_new_session=True,
        )
        self.do(":")
        pid = self._unshare.pid
        self.init = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())

    def do(self, script: str) -> None:
        """Run a script in the shell, wait for its end, and raise with what it said if a command of it failed."""
        assert self._unshare.stdin is not None
        assert self._unshare.stdout is not None
        self._unshare.stdin.write(f"(set -e\n{script}\n) </dev/null\nprintf '\\n%s %s\\n' '{self.END}' $?\n")
        self._unshare.stdin.flush()
        said = list(itertools.takewhile(lambda line: not line.startswith(self.END), self._until_end()))
        if self._status != "0":
            raise RuntimeError(f"{''.join(said).strip()}\nin\n{script}")

    def _until_end(self) -> Iterator[str]:
        assert self._unshare.stdout is not None
        for line in self._unshare.stdout:
            self._status = line.rpartition(" ")[2].strip()
            yield line
        self._status = "the shell ended"

    def enter(self, command: Iterable[object]) -> list[str]:
        """Return the command line that runs a command in these namespaces, in the current directory.

        The command ends with the process of that line, which waits outside.
        """
        inside = ["setpriv", "--pdeathsig", "KILL", "env", f"--chdir={os.getcwd()}"]
        return ["nsenter", f"--target={self.init}", *KINDS, "--", *inside, *map(str, command)]

    def processes(self) -> Iterator[tuple[int, int, str]]:
        """Yield each process that lives here: its number outside, its number here and its program's name."""
        try:
            mine = os.readlink(f"/proc/{self.init}/ns/pid")
        except OSError:
            return  # the host has vanished
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/ns/pid") != mine:
                    continue
                status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            except OSError:
                continue  # it has just ended
            if "Z" not in status["State"]:
                yield int(pid), int(status["NSpid"].split()[-1]), status["Name"].strip()

    def are_alive(self) -> bool:
        return self._unshare.poll() is None

    def close(self) -> None:
        """Kill all that lives here. When this returns it is gone."""
        if self.are_alive():
            os.kill(self.init, signal.SIGKILL)
        self._unshare.communicate()
