"""Outcomes of calls to payloads and back.

An error crosses in two parts: four strings that always arrive (its class, its text, its traceback, where it
happened), and the exception itself, which may be impossible to pickle here or to rebuild there.
"""

import io
import logging
import pickle
import sys
import traceback
from typing import Any

from .._errors import RemoteError, RemoteTraceback
from .._wire import pickles
from .._wire.pickles import Payload

_OURS = ("farcall._node", "farcall._wire")


def encode_error(error: BaseException, where: str) -> Payload:
    """Return an exception with its traceback as a payload; never fails."""
    trimmed = error.__traceback__
    while trimmed is not None and str(trimmed.tb_frame.f_globals.get("__name__")).startswith(_OURS):
        trimmed = trimmed.tb_next
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = str(error)
    except Exception as broken:
        text = f"<its text cannot be had: {broken!r}>"
    try:
        printed = "".join(traceback.format_exception(kind, error, trimmed or error.__traceback__))
    except Exception:
        printed = f"{name}: {text}\n"
    strings = pickle.dumps((name, text, printed, where), pickles.PROTOCOL)
    try:
        payload = pickles.encode(error)
    except Exception:
        return Payload(strings)
    return payload._replace(body=strings + payload.body)


def decode_error(body: Any, parts: tuple[Any, Any, Any]) -> BaseException:
    """Return the exception of a payload, with a note that says where it was raised; never fails.

    One that cannot be rebuilt is a RemoteError.
    """
    file = io.BytesIO(body)
    name, text, printed, where = pickle.load(file)
    error: BaseException
    rest = file.read()
    try:
        error = pickles.decode(rest, *parts) if rest else RemoteError(name, text)
    except Exception:  # of what the exception refers to, too
        error = RemoteError(name, text)
    if not isinstance(error, BaseException):
        error = RemoteError(name, text)
    note = f"on {where}"
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
    error.__cause__ = RemoteTraceback(printed.rstrip())
    return error


def print_failure(body: bytes) -> None:
    """Print and log an error that no caller waits for; runs on the master."""
    _, _, printed, where = pickle.load(io.BytesIO(body))
    logging.getLogger("farcall").error("a call failed on %s\n%s", where, printed.rstrip())
    sys.stderr.write(f"farcall: a call failed on {where}\n{printed.rstrip()}\n")  # one write: see ``Cluster._exited``
    sys.stderr.flush()
