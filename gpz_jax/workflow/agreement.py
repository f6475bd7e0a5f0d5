"""Several processes save, and stop, at one and the same step: whichever of them was told to."""

import math
import time
from typing import Any

import jax
import numpy as np

from gpz_jax import processes
from gpz_jax.interruption import Stop

#: Seconds of steps that pass before the processes ask each other again, and the most steps that may be.
_SECONDS, _STEPS = 1.0, 32


class Agreement:
    """Asked after every step by all processes; they speak with each other about once a second.

    A single process asks nobody. The number of steps until they speak again is worked out by all from the same numbers,
    so that none waits for one that does not come.
    """

    def __init__(self):
        self._wanted, self._left, self._steps = False, 1, 1
        self._since = time.monotonic()

    def due(self, wanted: bool, stop: Stop | None, under_way: Any) -> bool:
        """Whether to save after this step.

        Args:
          wanted: whether this process would, by its clock.
          stop: whether this process was told to stop; told of the others here.
          under_way: arrays that the devices are at work on, which are waited for before the processes speak: two
            programs that are spread over the same devices must not wait for each other.
        """
        if processes.count() == 1:
            return wanted or bool(stop)
        self._wanted |= wanted
        self._left -= 1
        if self._left:
            return False
        jax.block_until_ready(under_way)
        a_step = (time.monotonic() - self._since) / self._steps
        found = processes.gathered(np.array([self._wanted, _number(stop), a_step], np.float32))
        save, number, slowest = found.max(axis=0).tolist()
        self._steps = self._left = max(1, min(_STEPS, math.floor(_SECONDS / max(slowest, 1e-6))))
        self._wanted, self._since = False, time.monotonic()
        _pass_on(stop, number)
        return bool(save) or bool(number)

    def on_signal(self, stop: Stop | None) -> None:
        """Tell each other of signals alone, between epochs."""
        if processes.count() > 1:
            _pass_on(stop, processes.gathered(np.array(_number(stop), np.float32)).max())


def _number(stop: Stop | None) -> float:
    return float(stop.number or 0) if stop is not None else 0.0


def _pass_on(stop: Stop | None, number: float) -> None:
    if stop is not None and number and not stop:
        stop.number = int(number)
