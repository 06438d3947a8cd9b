"""Workers of another host: this end of the pipe whose other end is an agent (see ``agent``)."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._errors import LaunchError
from .._types import Certificate
from .._version import __version__
from .base import Launched
from .exits import Exits
from .local import describe_exit

_MARK = b"farcall agent: "
_MOST_SAID = 16 * 1024  # characters of what a host has said that fails, kept for the error

# What runs there: it says first which Python it is, in words that any understands, and then is the agent.
BOOT = (
    f'import sys; sys.stdout.write("{_MARK.decode()}%s %s\\n" % (sys.version.split()[0], sys.executable)); '
    "sys.stdout.flush(); from farcall._engines.agent import main; main()"
)


class Way(ABC):
    """How a host is reached."""

    host: str
    certificate: Certificate | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return the command line that runs ``BOOT`` there, with its standard input and output leading here."""

    @abstractmethod
    def reach(self, address: str) -> tuple[str, str | None]:
        """Return where to dial a worker that listens at an address there, and where the other workers do, if elsewhere.

        OSError if it cannot be dialled from here, with what to do about it.
        """

    @abstractmethod
    def explain(self, said: str, code: int, arrived: bool) -> str:
        """Return why the way did not lead there, or ended, in words for the user.

        ``said`` is what the command wrote to its standard error, ``code`` how it ended, ``arrived`` whether an agent
        was there.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what belongs to the way, whose command has ended."""


class Remote:
    """The workers of one host, and a thread that hears from them."""

    def __init__(self, way: Way, told: Mapping[str, Any], arrive: Callable[["Arrival"], None], exits: Exits) -> None:
        self.host = way.host
        self.has_yielded = False  # a worker, which may be in use
        self._wanted = True  # what has not arrived yet
        self._arriving = threading.Lock()  # whoever wants no more has all that has arrived
        self._way = way
        self._told = told
        self._arrive = arrive
        self._exits = exits
        self._workers: dict[int, Launched] = {}
        self._printing: dict[int, tuple[int, int]] = {}  # descriptors to which what they print goes
        self._complete = False
        self._python = ""  # its version and place, as soon as they are known
        self._is_ready = False
        self._said = ""
        self._writing = threading.Lock()
        self._process = subprocess.Popen(
            way.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is the master's to handle
        )
        threading.Thread(target=self._run, name="farcall-host", daemon=True).start()

    def __repr__(self) -> str:
        return f"<Remote {self.host}: {len(self._workers)} workers>"

    @property
    def lack(self) -> str:
        """What has not happened yet."""
        return "not all of its workers came up" if self._is_ready else "SSH led to no farcall there"

    def stop(self, number: int, *, force: bool) -> None:
        """Have a worker asked to end, or ended. Returns at once."""
        self._write({"number": number, "force": force})

    def want_no_more(self) -> None:
        """Have workers that have not arrived yet end, and all if none has been yielded."""
        with self._arriving:
            self._wanted = False
        if not self.has_yielded:
            self.end()

    def begin_to_end(self) -> None:
        """Have all workers there end. Returns at once."""
        self._wanted = False
        assert self._process.stdin is not None
        with self._writing:
            self._process.stdin.close()

    def end(self, patience: float = 0.0) -> None:
        """Have all workers there end, and if the host does not say within some seconds that they have, let it go."""
        self.begin_to_end()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)

    def _write(self, line: Mapping[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        stdin = self._process.stdin
        assert stdin is not None
        with self._writing, contextlib.suppress(OSError, ValueError):  # it has ended, or we have closed
            while data:
                data = data[os.write(stdin.fileno(), data) :]  # past the buffer: nothing is in it when it is closed

    # The thread's

    def _run(self) -> None:
        errors = threading.Thread(target=self._listen, name="farcall-host", daemon=True)
        errors.start()
        with self._process as process:  # closes its ends, and waits
            assert process.stdout is not None
            for line in process.stdout:
                if self._python:
                    self._hear(line)
                else:  # what comes before, maybe without an end of its line, the shell there prints
                    self._python = line.partition(_MARK)[2].decode(errors="replace").strip()
            errors.join()
        self._lost(self._explain(process.returncode))
        self._way.close()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said = (self._said + line.decode(errors="replace"))[-_MOST_SAID:]

    def _hear(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            self._said += line.decode(errors="replace")  # it is no agent's: something there speaks for it
            return
        match message:
            case {"what": "ready", "version": version}:
                self._tell(version)
            case {"what": "launched", "number": number, "address": address}:
                self._launched(number, address)
            case {"what": "printed", "number": number, "stream": stream, "data": data}:
                self._print(number, stream, base64.b64decode(data))
            case {"what": "exited", "number": number, "reason": reason}:
                self._ended(number, reason)
            case {"what": "failed", "text": text}:
                self._fail(text)
            case {"what": "complete"}:
                self._complete = True
                self._arrive((self, None))

    def _tell(self, version: str) -> None:
        """Tell the agent what to start, which only one that understands it may hear."""
        if version == __version__:
            self._is_ready = True
            self._write(self._told)
            return
        self._fail(f"farcall is {version} there ({self._python}) and {__version__} here: {self._how_to_install()}")
        self._complete = True
        self._arrive((self, None))
        self.begin_to_end()

    def _launched(self, number: int, address: str) -> None:
        try:
            outer, inner = self._way.reach(address)
        except OSError as error:
            self._fail(str(error))
            self._wanted = False
        with self._arriving:
            if not self._wanted:
                self.stop(number, force=True)
                return
            out, out_writer = os.pipe()
            err, err_writer = os.pipe()
            self._printing[number] = out_writer, err_writer
            worker = Launched(outer, (out, err), (self, number), inner, self._way.certificate, self.host)
            self._workers[number] = worker
            self._arrive((self, worker))

    def _fail(self, why: str) -> None:
        self._arrive((self, LaunchError(f"{self.host}: {why}")))

    def _print(self, number: int, stream: int, data: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody reads it
            while data and number in self._printing:
                data = data[os.write(self._printing[number][stream], data) :]

    def _ended(self, number: int, reason: str) -> None:
        for descriptor in self._printing.pop(number, ()):
            os.close(descriptor)
        worker = self._workers.pop(number, None)
        if worker is not None:
            self._exits.report(worker, reason)

    def _explain(self, code: int) -> str:
        """Return why nothing comes any more."""
        said = self._said.strip()
        if self._python and not self._is_ready:
            last = said.splitlines()[-1] if said else describe_exit(code, None, False)
            here = f"here: Python {sys.version.split()[0]} and farcall {__version__}"
            return f"Python there is {self._python} and cannot run farcall ({last}; {here}): {self._how_to_install()}"
        return self._way.explain(said, code, self._is_ready)

    def _how_to_install(self) -> str:
        return f"pip install farcall=={__version__} there, or name another interpreter with python="

    def _lost(self, reason: str) -> None:
        """Take note that nothing comes from there any more."""
        if not self._complete:
            self._fail(reason)
            self._arrive((self, None))
        for number in list(self._workers):
            self._ended(number, reason)


Arrival = tuple[Remote, Launched | LaunchError | None]  # None: this was all of the host
