"""The settings of a process, each from one FARCALL_* variable of its environment, read once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Config:
    """Sizes in bytes, times in seconds. The variable of ``small_result`` is FARCALL_SMALL_RESULT."""

    small_result: int = 64 * 1024
    """A result up to this size travels with the completion of its Future; a larger one stays with its owner."""

    shared_minimum: int = 128 * 1024
    """From this size on a buffer goes to another process of the same host through shared memory."""

    shared_pool: int = 1 << 30
    """Free shared memory kept for reuse. More saves page faults, less saves memory."""

    definition_limit: int = 256 << 20
    """What functions with large captured data may occupy on each worker before the oldest are forgotten."""

    machine_code: int = 64 << 20
    """What the master keeps of the machine code that Numba made anywhere in the cluster; 0: none travels."""

    local_modules: int = 1
    """1: workers get the modules that they lack from the master, when they import them; 0: they do not. Read there."""

    capture_warning: int = 10 << 20
    """A function that captures more than this is named in a warning."""

    spin: float = 100e-6
    """How long to poll a socket that was just busy before sleeping on it; 0 never polls."""

    worker_timeout: float = 60.0
    """How long a started worker waits for its master, and addprocs for its workers."""

    handshake_timeout: float = 10.0
    """How long an unauthenticated connection may stay open."""

    drain: float = 10.0
    """How long a Dask worker that closes goes on with the calls that it has. Read there."""

    heartbeat: float = 10.0
    """How long a host may leave unanswered what it was sent before it counts as dead."""

    frame_limit: int = 1 << 38
    """The largest buffer that a peer may announce."""

    idle_thread: float = 10.0
    """How long a thread that ran a call waits for another before it ends."""


def _numeric(kind: object, text: str) -> Any:
    return int(text) if kind is int else float(text)


def read_config(environ: Mapping[str, str] = os.environ) -> Config:
    """Return the settings of an environment; a value that is no number is a ValueError that names it."""
    values: dict[str, Any] = {}
    for field in fields(Config):
        name = f"FARCALL_{field.name.upper()}"
        text = environ.get(name)
        if text is None:
            continue
        try:
            values[field.name] = _numeric(field.type, text)
        except ValueError:
            raise ValueError(f"{name}={text!r} is not a number") from None
    return Config(**values)
