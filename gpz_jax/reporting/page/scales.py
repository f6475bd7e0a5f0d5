"""Where a number lies on an axis, and which numbers are written beside it."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from gpz_jax.presentation import number

#: A number of a person or of a program.
Real = float | int


#: Numbers nearer to 0 than this are drawn as 0: beyond, a float has no digits left to tell ticks apart.
TINY = 1e-290


class Scale(NamedTuple):
    """From ``low`` to ``high``, at pixels ``start`` to ``stop``."""

    low: Real
    high: Real
    start: Real
    stop: Real
    log: bool = False

    def place(self, value: Real) -> Real:
        """The pixel of a value; values beyond the ends lie on them.

        >>> Scale(0, 10, 100, 0).place(2.5), Scale(1, 100, 0, 10, log=True).place(10)
        (75.0, 5.0)
        """
        value = min(max(value, self.low), self.high)
        low, high = (math.log10(end) if self.log else end for end in (self.low, self.high))
        at = math.log10(value) if self.log else value
        return self.start + (self.stop - self.start) * (at - low) / (high - low)

    @property
    def ticks(self) -> list[tuple[Real, str]]:
        """``(pixel, text)`` of three to six round numbers."""
        values = _decades(self.low, self.high) if self.log else _round_numbers(self.low, self.high)
        return [(self.place(value), _short(value)) for value in values]


def scale_for(values: Iterable[Real], start: Real, stop: Real, *, log: bool = False) -> Scale:
    """A scale that holds all finite values, from 0 if they are not negative; logarithmic if asked for and possible.

    >>> scale_for([0.2, 0.9, float("nan")], 0, 10)[:2]
    (0.0, 1.0)
    >>> scale_for([3, 200], 0, 10, log=True)[:2]
    (1.0, 1000.0)
    """
    found = [float(value) if abs(value) > TINY else 0.0 for value in values if math.isfinite(value)]
    positive = [value for value in found if value > 0]
    if log and positive:
        low, high = 10.0 ** math.floor(math.log10(min(positive))), 10.0 ** math.ceil(math.log10(max(positive)))
        return Scale(low, high if high > low else 10 * low, start, stop, log=True)
    low, high = min([0.0, *found]), max([0.0, *found])
    step = _step(high - low or 1.0)
    low, high = math.floor(round(low / step, 9)) * step, math.ceil(round(high / step, 9)) * step
    return Scale(low, high if high > low else low + 1.0, start, stop)


def _step(span: Real) -> Real:
    """1, 2 or 5 times a power of ten, about four to a span."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= 5)


def _round_numbers(low: Real, high: Real) -> list[Real]:
    step = _step(high - low)
    return [float(f"{i * step:.12g}") for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _decades(low: Real, high: Real) -> list[Real]:
    first, last = round(math.log10(low)), round(math.log10(high))
    return [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first) / 4)))]


def _short(value: Real) -> str:
    """A tick's text: 10⁴ beyond what is read at a glance.

    >>> _short(0.25), _short(1e5), _short(200.0)
    ('0.25', '10⁵', '200')
    """
    power = math.log10(abs(value)) if value else 0.0
    if (power >= 4 or power < -3) and power == round(power) and value > 0:
        return "10" + str(round(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{value:g}" if abs(value) < 1e4 else number(value)
