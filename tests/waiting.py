"""Waiting in tests: for a condition, with a limit, and never longer than it takes."""

import threading
import time
from collections.abc import Callable


def until(condition: Callable[[], object], timeout: float = 5.0) -> bool:
    """Return whether a condition becomes true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.005)
    return True
