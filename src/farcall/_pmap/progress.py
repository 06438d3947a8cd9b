"""How far a map has come, shown by tqdm or by anything like it."""

import contextlib
import sys
import threading
import time
import warnings
from typing import Any

_DELAY = 1.0  # seconds; a map that is done by then shows nothing unless it was asked to
_MANY = 100_000  # items; from there on a bar says 250k


class Progress:
    """A bar, or nothing.

    ``wanted`` None shows a bar where somebody may be looking and tqdm is installed, if there is time to look; True
    shows one always, False never. Anything else is a bar of the caller's, whose ``update(n)`` is called and which the
    caller closes, or what makes one, called with ``total=``, such as ``tqdm.rich.tqdm``.
    """

    def __init__(self, wanted: Any, total: int | None, name: str, unit: str = "item") -> None:
        self._bar: Any = None
        self._ours = True
        self._done = 0
        self._failures = 0
        self._began = time.monotonic()
        self._later = (total, name, unit) if wanted is None and is_somebody_looking() else None
        if wanted is True:
            self._bar = _open_bar(total, name, unit)
        elif wanted is not None and wanted is not False:
            self._ours = not hasattr(wanted, "update") or isinstance(wanted, type)
            self._bar = wanted(total=total) if self._ours else wanted

    def __repr__(self) -> str:
        return f"<Progress {self._bar!r}>"

    @property
    def is_wanted(self) -> bool:
        """Whether there is a bar, or may be one later."""
        return self._bar is not None or self._later is not None

    def advance(self, count: int, failures: int) -> None:
        """So many items more are done, and so many have failed in all."""
        self._done += count
        if self._later is not None and time.monotonic() - self._began > _DELAY:
            self._open_late(*self._later)
            self._later, count = None, self._done
        if self._bar is None or (not count and failures == self._failures):
            return
        if failures != self._failures:
            self._failures = failures
            if hasattr(self._bar, "set_postfix"):
                self._bar.set_postfix(failures=failures, refresh=False)
        self._bar.update(count)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None and self._ours:
            self._bar.close()
        self._bar = self._later = None

    def _open_late(self, total: int | None, name: str, unit: str) -> None:
        """Open the bar that is worth its time now, as if it had been there from the beginning."""
        with contextlib.suppress(ImportError):
            self._bar = _open_bar(total, name, unit)
            elapsed = time.monotonic() - self._began
            self._bar.start_t -= elapsed
            self._bar.last_print_t -= elapsed  # from which the rate follows


def is_somebody_looking() -> bool:
    """Whether this is a terminal or a notebook, and its main thread: others would write across its lines."""
    if threading.current_thread() is not threading.main_thread():
        return False
    if "ipykernel" in sys.modules and "IPython" in sys.modules:
        return sys.modules["IPython"].get_ipython() is not None
    return sys.stderr is not None and sys.stderr.isatty()


def _open_bar(total: int | None, name: str, unit: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a notebook without ipywidgets gets a bar of text, and no lecture
            from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("progress=True draws with tqdm: pip install 'farcall[progress]'") from None
    scale = total is None or total >= _MANY
    return tqdm(total=total, desc=name, unit=unit, unit_scale=scale, dynamic_ncols=True)
