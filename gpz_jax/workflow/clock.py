"""How often long epochs are saved within: ``--checkpoint-every 500`` (steps) or ``10min``."""

import re
import time
from typing import NamedTuple

from gpz_jax.errors import UserError


class Every(NamedTuple):
    """So many steps, or seconds; the other is None."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Every":
        """Read what was asked for: a number of steps, or of minutes with ``min`` behind it.

        Raises:
          UserError: it is neither.

        Example:
          >>> Every.parse("500"), Every.parse("10min")
          (Every(steps=500, seconds=None), Every(steps=None, seconds=600.0))
        """
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(min|)", text.strip())
        number = float(found[1]) if found else 0.0
        if found is None or number <= 0 or (not found[2] and "." in found[1]):
            raise UserError(
                f"checkpoint_every {text!r}: give a number of steps, as 500, or of minutes, as 10min",
                field="checkpoint_every",
            )
        return cls(seconds=60 * number) if found[2] else cls(steps=int(number))


class Clock:
    """Counts the steps or the time since training was last saved."""

    def __init__(self, every: Every | None):
        self._every = every or Every()
        self.restart()

    def restart(self) -> None:
        """Everything is saved now."""
        self._steps, self._since = 0, time.monotonic()

    def step(self) -> bool:
        """A step was taken; returns whether it is time to save."""
        self._steps += 1
        steps, seconds = self._every
        by_time = seconds is not None and time.monotonic() - self._since >= seconds
        return by_time or (steps is not None and self._steps >= steps)
