"""A notebook in JupyterLab in a browser: ``python tests/lab.py docs/notebook.png`` takes a picture of it."""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
from playwright.sync_api import Locator, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")  # Debian's
CELLS = [
    "%load_ext farcall\nimport farcall as fc\n\nfc.addprocs(2)",
    "%%everywhere\nimport random\nimport farcall as fc\n\ndef count_heads(n):\n"
    '    print(f"I am process {fc.myid()}, flipping {n:,} coins")\n'
    "    return sum(random.random() < 0.5 for _ in range(n))",
    "future = %spawnat 2 count_heads(1_000_000)\nfuture",
    "%timed sum(fc.pmap(count_heads, [6_000_000] * 8))",
    "future = %spawnat 3 count_heads(3_000_000)\nfc.workers()",
]
_PATIENCE = 40_000  # milliseconds for anything to appear
_FLAGS = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-sync"]


class Lab:
    """A page with a notebook, whose kernel is ready."""

    def __init__(self, page: Page) -> None:
        self._page = page
        page.set_default_timeout(_PATIENCE)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()

    def run_all(self) -> None:
        """Have all cells run, without waiting for any."""
        cells = self._page.locator(".jp-CodeCell")
        cells.first.locator(".cm-content").click()
        for _ in range(cells.count()):
            self._page.keyboard.press("Shift+Enter")

    def output(self, cell: int) -> Locator:
        """Return what a cell shows, the first having number 0."""
        return self._page.locator(".jp-CodeCell").nth(cell).locator(".jp-Cell-outputArea")

    def prompt(self, cell: int) -> Locator:
        """Return the mark of a cell: ``[*]:`` as long as it runs, then its number."""
        return self._page.locator(".jp-CodeCell").nth(cell).locator(".jp-InputArea-prompt")

    def wait_for(self, cell: int) -> None:
        """Wait until a cell has run."""
        self.prompt(cell).get_by_text(f"[{cell + 1}]:").wait_for()

    def take_picture(self, path: Path) -> None:
        """Write what the notebook looks like as a PNG."""
        self._page.mouse.move(0, 0)
        self._page.locator(".jp-NotebookPanel").screenshot(path=path)


@contextmanager
def open_lab(folder: Path, cells: Sequence[str]) -> Iterator[Lab]:
    """Start JupyterLab, which keeps its files in a folder, and open a new notebook in it. All ends with the block."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    nbformat.write(notebook, folder / "coins.ipynb")
    flags = [f"--{each}" for each in _FLAGS]
    with (
        _server(folder) as (address, token),
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=flags) as browser,
    ):
        page = browser.new_page(viewport={"width": 1000, "height": 1085})
        page.goto(f"{address}/doc/tree/coins.ipynb?token={token}")
        yield Lab(page)


@contextmanager
def _server(folder: Path) -> Iterator[tuple[str, str]]:
    """Run the server on a free port of this machine."""
    settings = folder / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    homes = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR", "LAB_WORKSPACES_DIR")
    environment = {f"JUPYTER{'' if each.startswith('LAB') else '_'}{each}": str(folder / each) for each in homes}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "IPYTHONDIR": str(folder)}
    token, port = secrets.token_hex(), _free_port()
    options = ["--allow-root", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    options += [f"--ServerApp.root_dir={folder}", "--IdentityProvider.token", token]
    log = folder / "log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "jupyterlab", *options]
        process = subprocess.Popen(command, env=os.environ | environment, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 30
        while not _listens(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
        yield f"http://127.0.0.1:{port}", token
    finally:
        process.terminate()  # which ends its kernels
        process.wait(30)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        time.sleep(0.05)
        return False
    return True


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made, open_lab(Path(made), CELLS) as lab:
        lab.run_all()
        lab.wait_for(len(CELLS) - 1)
        lab.take_picture(Path(sys.argv[1]))
