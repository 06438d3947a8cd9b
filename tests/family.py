"""The processes that came from this one, but for those of a fixture that says that they are its own; who runs."""

from pathlib import Path

import psutil


def find_children(*, recursive: bool = False) -> list[psutil.Process]:
    """Return them; those that live longer than a test have NOT_OF_THIS_TEST in their environment."""
    return [each for each in psutil.Process().children(recursive=recursive) if not _is_foreign(each)]


def _is_foreign(process: psutil.Process) -> bool:
    try:
        return "NOT_OF_THIS_TEST" in process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def count_switches(process: int | str, thread: int | str = "*") -> int:
    """Return how often the threads of a process, or one of them, have gone to sleep or had to wait."""
    texts = [each.read_text() for each in Path(f"/proc/{process}/task").glob(f"{thread}/status")]
    return sum(int(line.split()[1]) for text in texts for line in text.splitlines() if "ctxt_switches" in line)
