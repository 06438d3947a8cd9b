"""A worker of Dask without a nanny that closes in order when it is told to stop, as orchestrators do.

``dask worker --no-nanny --preload farcall.integrations.dask_worker tcp://scheduler:8786``

Without this such a worker hangs up on the scheduler at the signal, as if it had crashed, and what Dask holds there is
lost. One with a nanny has ten seconds.
"""

import asyncio
import contextlib
import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Have SIGTERM close the worker: its data moves, its plugins end, ours among them. Once more ends it at once."""
    loop = asyncio.get_running_loop()
    closing: list[asyncio.Task[None]] = []  # asyncio itself does not keep a task alive

    def begin() -> None:
        loop.remove_signal_handler(signal.SIGTERM)
        closing.append(loop.create_task(_leave(worker)))

    loop.add_signal_handler(signal.SIGTERM, begin)


async def _leave(worker: Any) -> None:
    with contextlib.suppress(OSError):  # the scheduler is gone
        await worker.scheduler.retire_workers(workers=[worker.address], close_workers=False, remove=False)
    await worker.close(reason="it was told to stop")
