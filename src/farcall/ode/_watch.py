"""Watching an integration that runs in C: its progress, Ctrl-C, and errors of the right-hand side."""

import ctypes
import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from . import _compiled as compiled
from ._methods import Vector

_FIRST = 256  # evaluations until the first look
_PERIOD = 0.05  # seconds between looks
_GROWTH = 8  # until the next look there are at most so many times as many evaluations as there were since the last

PARAMETERS = 1  # the place of their address among the pointers

_LOOK = ctypes.CFUNCTYPE(None, ctypes.c_double)


class Watch:
    """What the right-hand side shares with whoever integrates, on whose thread it also looks.

    From time to time the right-hand side calls ``look``, so that Python's code runs: signals are handled, and
    exceptions that they raise, or ``progress(t)`` does, stop the integration; ``check`` raises them again.
    """

    def __init__(self, states: int, parameters: Vector, progress: Callable[[float], object] | None) -> None:
        self.numbers = np.zeros(compiled.STATE + states)
        self.numbers[compiled.LOOK_AT], self.numbers[compiled.JUDGE_AT] = _FIRST, np.inf
        self.numbers[compiled.STATES], self.numbers[compiled.PARAMETERS] = states, parameters.size
        self.parameters = parameters
        self._progress = progress
        self._error: BaseException | None = None
        looks = self._looks()
        next(looks)
        self._look = _LOOK(looks.send)  # kept for as long as its address is in use
        look = ctypes.cast(self._look, ctypes.c_void_p).value
        self.pointers = np.array([self.numbers.ctypes.data, parameters.ctypes.data, look], np.int64)

    def __repr__(self) -> str:
        return f"<Watch: {self.evaluations} evaluations>"

    @property
    def evaluations(self) -> int:
        """How often the right-hand side was evaluated."""
        return int(self.numbers[compiled.COUNT])

    def _looks(self) -> Generator[None, float, None]:
        """Look each time when it is sent a time.

        A generator, because a signal is handled as soon as Python's code goes on: here that is inside of ``try``. At
        the beginning of a function it would be outside, and C knows nobody to raise the exception to.
        """
        looked, then = 0.0, time.perf_counter()
        while True:
            try:
                t = yield
                if self._progress is not None:
                    self._progress(t)
                count, now = float(self.numbers[compiled.COUNT]), time.perf_counter()
                faster = min(_PERIOD / max(now - then, 1e-9), _GROWTH)
                self.numbers[compiled.LOOK_AT] = count + max(1.0, (count - looked) * faster)
                looked, then = count, now
            except GeneratorExit:
                return
            except BaseException as error:
                self._error = error
                self.numbers[compiled.STOPPED] = compiled.INTERRUPTED

    def check(self, rates: Callable[[float, Vector, Vector], Any]) -> None:
        """Raise what has stopped the integration, if anything has; ``rates`` raises once more what it raised."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        if self.numbers[compiled.STOPPED] == compiled.RAISED:
            t = float(self.numbers[compiled.TIME])
            rates(t, self.numbers[compiled.STATE :].copy(), self.parameters)
            raise RuntimeError(f"the right-hand side failed at t = {t:g} when compiled, and does not fail in Python")
