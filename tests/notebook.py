"""A Jupyter kernel for tests, and what each cell that it ran has shown."""

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from family import count_switches
from jupyter_client import BlockingKernelClient, KernelManager
from jupyter_core.utils import ensure_event_loop
from waiting import until

_PATIENCE = 30.0  # seconds for a cell


class Cell:
    """A cell that has been sent to the kernel. What comes for it later is added."""

    def __init__(self) -> None:
        self.done = False
        self.messages: list[tuple[str, dict[str, Any]]] = []

    def stream(self, name: str = "stdout") -> list[str]:
        """Return the lines that appeared on a stream."""
        texts = [content["text"] for kind, content in self.messages if kind == "stream" and content["name"] == name]
        return "".join(texts).splitlines()

    @property
    def value(self) -> str | None:
        """The text of its value, None without one."""
        data = self.shown("execute_result")
        return data[-1]["text/plain"] if data else None

    @property
    def html(self) -> str:
        """The value as the notebook shows it."""
        return self.shown("execute_result")[-1]["text/html"]

    @property
    def error(self) -> str | None:
        """The name and text of the exception that ended it, None if it ran to its end."""
        found = [f"{content['ename']}: {content['evalue']}" for kind, content in self.messages if kind == "error"]
        return found[-1] if found else None

    def shown(self, kind: str = "display_data") -> list[dict[str, Any]]:
        """Return the data of each message of a kind, by their formats."""
        return [content["data"] for each, content in self.messages if each == kind]


class Notebook:
    """A kernel that runs cells. One thread."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self._manager = manager
        self._client = client
        self._cells: dict[str, Cell] = {}

    def begin(self, code: str) -> Cell:
        """Send a cell to the kernel."""
        cell = self._cells[self._client.execute(code)] = Cell()
        return cell

    def run(self, code: str) -> Cell:
        """Run a cell to its end."""
        cell = self.begin(code)
        self.read_until(lambda: cell.done)
        return cell

    def read_until(self, condition: Callable[[], object]) -> None:
        """Take in what the kernel sends until a condition holds."""
        while not condition():
            try:
                self._take(self._client.get_iopub_msg(timeout=_PATIENCE))
            except queue.Empty:
                raise TimeoutError(f"nothing comes from the kernel; until now: {self._cells}") from None

    def _take(self, message: dict[str, Any]) -> None:
        cell = self._cells.get(message["parent_header"].get("msg_id", ""))
        if cell is None:
            return
        kind, content = message["msg_type"], message["content"]
        cell.messages.append((kind, content))
        cell.done |= kind == "status" and content["execution_state"] == "idle"

    def interrupt(self) -> None:
        """Do what the button with the square does, once the cell has come to where it waits."""
        assert until(self._is_waiting)
        self._manager.interrupt_kernel()

    def _is_waiting(self) -> bool:
        """Whether the main thread of the kernel sleeps, and goes on to."""
        process = self._manager.provisioner.pid
        before = count_switches(process, process)
        threading.Event().wait(0.05)
        return count_switches(process, process) == before


@contextmanager
def open_notebook(folder: Path) -> Iterator[Notebook]:
    """Start a kernel that keeps its files in a folder; it ends with the block."""
    homes = {name: str(folder) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")}
    manager = KernelManager(transport="ipc", connection_file=str(folder / "kernel.json"))
    manager.start_kernel(cwd=str(folder), env=os.environ | homes)
    try:
        client = manager.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=_PATIENCE)
            yield Notebook(manager, client)
        finally:
            client.stop_channels()
    finally:
        manager.shutdown_kernel()
        ensure_event_loop().close()  # jupyter_client's, which it would keep
        asyncio.set_event_loop(None)
