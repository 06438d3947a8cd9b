"""Waiting in tests: for a condition, with a limit, and never longer than it takes."""

import gc
import threading
import time
from collections.abc import Callable


def until(condition: Callable[[], object], timeout: float = 5.0) -> bool:
    """Return whether a condition becomes true in time.

    What takes long may wait for a finalizer in a cycle, such as an error that a test has caught, and Python looks for
    cycles the less often the more objects there are: so they are looked for after a while.
    """
    deadline, patience = time.monotonic() + timeout, time.monotonic() + timeout / 10
    while not condition():
        now = time.monotonic()
        if now > deadline:
            return False
        if now > patience:
            gc.collect()
            patience = now + timeout / 10
        threading.Event().wait(0.005)
    return True
