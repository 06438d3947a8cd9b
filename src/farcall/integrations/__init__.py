"""farcall beside other libraries: a module for each, which nothing imports unless the user does."""

from typing import Any


def load_ipython_extension(shell: Any) -> None:
    """Give IPython and Jupyter farcall's magics; what ``%load_ext farcall`` calls.

    ``%%everywhere``, ``%spawnat`` and ``%timed``; and in a notebook what a worker prints appears in the cell that made
    the call. Loading it again changes nothing.
    """
    from .ipython import load

    load(shell)
