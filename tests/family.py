"""The processes that came from this one, but for those of a fixture that says that they are its own."""

import psutil


def find_children(*, recursive: bool = False) -> list[psutil.Process]:
    """Return them; those that live longer than a test have NOT_OF_THIS_TEST in their environment."""
    return [each for each in psutil.Process().children(recursive=recursive) if not _is_foreign(each)]


def _is_foreign(process: psutil.Process) -> bool:
    try:
        return "NOT_OF_THIS_TEST" in process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
