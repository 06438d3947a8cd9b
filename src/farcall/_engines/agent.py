"""Workers of another host: what runs there, as the local engine at the end of a pipe.

    python -c "from farcall._engines.agent import main; main()"

Lines of JSON go out on standard output: first which farcall this is; then that a worker listens, what it prints, that
it ended and why. One line of JSON comes in on standard input, which says what to start, then lines that ask to stop a
worker. When the input ends, because whoever wrote it has ended or the way to it has, all workers do. ``remote`` is the
other end.
"""

import base64
import contextlib
import json
import os
import socket
import sys
import threading
from typing import Any

from .._errors import LaunchError
from .._version import __version__
from .base import Launched, Offer
from .local import Local

_DRAINED = 1.0  # seconds that what a worker printed has to come before its end is told; its children may hold the pipe


def main() -> None:
    """Run an agent until its input ends, or its last worker does."""
    out = os.dup(1)
    os.dup2(2, 1)  # whatever else prints here must not come between the lines
    agent = Agent(out)
    agent.say("ready", version=__version__)
    told = sys.stdin.buffer.readline()
    if not told:
        return  # whoever started this does not want it
    try:
        agent.start(json.loads(told))
    except (OSError, ValueError) as error:
        agent.say("failed", text=str(error))
        agent.say("complete")
        os._exit(1)
    for line in sys.stdin.buffer:
        agent.stop(**json.loads(line))
    agent.end()


class Agent:
    """The workers of this host that one master has asked for. Any thread."""

    def __init__(self, out: int) -> None:
        self._out = out
        self._saying = threading.Lock()
        self._lock = threading.Lock()  # guards the two below
        self._workers: dict[int, tuple[Launched, list[threading.Thread]]] = {}
        self._launching = True

    def say(self, what: str, **details: Any) -> None:
        """Tell the master; if that is gone, so are we."""
        data = json.dumps({"what": what, **details}).encode() + b"\n"
        with self._saying:
            try:
                while data:
                    data = data[os.write(self._out, data) :]
            except OSError:
                self.end()

    def start(self, told: dict[str, Any]) -> None:
        """Start the workers."""
        if told["cwd"]:
            _go_to(told["cwd"])
        count = len(os.sched_getaffinity(0)) if told["count"] == "auto" else told["count"]
        certificate = told["certificate"] and tuple(told["certificate"])
        listen = (f"tls:{_find_address()}:0",) if certificate else ("tcp:127.0.0.1:0",)
        offer = Offer(bytes.fromhex(told["token"]), told["timeout"], listen, certificate)
        self._engine = Local(count, threads=told["threads"], env=told["env"])
        self._engine.watch(self._report)
        threading.Thread(target=self._launch, args=(offer,), daemon=True).start()

    def _launch(self, offer: Offer) -> None:
        for number, arrival in enumerate(self._engine.launch(offer)):
            if isinstance(arrival, LaunchError):
                self.say("failed", text=str(arrival))
                continue
            assert arrival.output is not None
            readers = [
                threading.Thread(target=self._pass_on, args=(number, stream, descriptor), daemon=True)
                for stream, descriptor in enumerate(arrival.output)
            ]
            with self._lock:  # who has heard of a worker may ask at once to stop it
                self.say("launched", number=number, address=arrival.address)
                for each in readers:
                    each.start()
                self._workers[number] = arrival, readers
        self.say("complete")
        with self._lock:
            self._launching = False
        self._end_if_idle()

    def _pass_on(self, number: int, stream: int, descriptor: int) -> None:
        while data := os.read(descriptor, 65536):
            self.say("printed", number=number, stream=stream, data=base64.b64encode(data).decode())
        os.close(descriptor)

    def _report(self, worker: Launched, reason: str) -> None:
        """Tell that a worker has ended; the thread that waited for it."""
        with self._lock:
            found = [number for number, (each, _) in self._workers.items() if each is worker]
            readers = [reader for number in found for reader in self._workers[number][1]]
        for reader in readers:
            reader.join(_DRAINED)
        for number in found:
            self.say("exited", number=number, reason=reason)
            with self._lock:
                del self._workers[number]
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        with self._lock:
            idle = not self._workers and not self._launching
        if idle:
            os._exit(0)

    def stop(self, number: int, force: bool) -> None:
        """Ask a worker to end, or end it."""
        with self._lock:
            found = self._workers.get(number)
        if found is not None:
            self._engine.stop(found[0], force=force)

    def end(self) -> None:
        """End all workers and what they have started, and this process; those that are just starting end with it."""
        for worker, _ in list(self._workers.values()):
            with contextlib.suppress(Exception):
                self._engine.stop(worker, force=True)
        os._exit(0)


def _go_to(folder: str) -> None:
    try:
        os.chdir(os.path.expanduser(folder))
    except OSError as error:
        raise OSError(f"cwd={folder!r} is no directory there ({error.strerror})") from None


def _find_address() -> str:
    """Return the address of this host by which SSH was reached, in brackets if it is one of IPv6."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    address = words[2] if len(words) == 4 else socket.gethostbyname(socket.gethostname())
    return f"[{address}]" if ":" in address else address
