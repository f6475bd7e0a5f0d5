"""Drawings as paths: the figure that is aligned along the cuts, and plots of curves. Colours are the style sheet's."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from gpz_jax.reporting.page.contents import Plot
from gpz_jax.reporting.page.scales import Real, Scale, scale_for

#: Looks (colour, dash, marker) that the style sheet tells apart; more series begin anew.
LOOKS = 8

#: Points of a curve, at most.
POINTS = 160


class Series(NamedTuple):
    """One number a cut.

    Attributes:
      name: of the series.
      y: the numbers; NaN where there is none.
      look: which of :data:`LOOKS`.
      ends: (low, high) of every interval, or empty.
      kind: "line" (with markers), "dots" or "bars".
      faint: drawn behind the others.
    """

    name: str
    y: Sequence[Real]
    look: int = 0
    ends: Sequence[tuple[Real, Real]] = ()
    kind: str = "line"
    faint: bool = False


class Panel(NamedTuple):
    """Series over the cuts, under a title; ``guides``: values that are drawn across, and what they mean."""

    title: str
    series: tuple[Series, ...]
    log: bool = False
    guides: tuple[tuple[Real, str], ...] = ()


class Mark(NamedTuple):
    """A path, the classes that colour it, and what a pointer over it is told."""

    d: str
    classes: str
    told: str = ""


class Frame(NamedTuple):
    """A panel, drawn: pixels of its edges, ticks ``(pixel, text)`` of y and x, guides, and the marks in it."""

    title: str
    left: Real
    right: Real
    top: Real
    bottom: Real
    ticks: list[tuple[Real, str]]
    guides: list[tuple[Real, str]]
    marks: list[Mark]
    below: Sequence[tuple[Real, str]] = ()
    upright: tuple[Real, str] | None = None


class Column(NamedTuple):
    """A cut's share of the width."""

    name: str
    label: str
    x: Real
    middle: Real
    width: Real


class Drawing(NamedTuple):
    """A figure: its size, the columns of the cuts (none for plots), and its panels."""

    width: int
    height: int
    columns: list[Column]
    frames: list[Frame]
    slanted: bool = False


LEFT, RIGHT, PANEL, GAP, HEAD = 44, 10, 92, 16, 30


def aligned(panels: Sequence[Panel], cuts: Sequence[str], width: int) -> Drawing:
    """Panels one above the other, every cut at the same place in all of them.

    Args:
      panels: with one number a cut in every series.
      cuts: their names.
      width: pixels; each cut gets at least 22 of them.
    """
    width = max(width, LEFT + RIGHT + 22 * len(cuts))
    each = (width - LEFT - RIGHT) / max(len(cuts), 1)
    longest = max(map(len, cuts), default=0)
    slanted = longest * 7.2 > each
    room = 18 + (min(longest, 24) * 5.2 if slanted else 0)
    columns = [
        Column(
            cut, cut if len(cut) <= 24 else cut[:23] + "…", _r(LEFT + i * each), _r(LEFT + (i + 0.5) * each), _r(each)
        )
        for i, cut in enumerate(cuts)
    ]
    middles = [column.middle for column in columns]
    frames, top = [], 0.0
    for panel in panels:
        frames.append(_frame(panel, cuts, middles, (LEFT, width - RIGHT, top + HEAD, top + HEAD + PANEL)))
        top += HEAD + PANEL + GAP
    return Drawing(width, math.ceil(top - GAP + room + 6), columns, frames, slanted)


def _frame(panel: Panel, cuts: Sequence[str], x: Sequence[Real], box: tuple[Real, Real, Real, Real]) -> Frame:
    left, right, top, bottom = box
    values = [value for one in panel.series for value in (*one.y, *itertools.chain(*one.ends))]
    scale = scale_for([*values, *(value for value, _ in panel.guides)], bottom, top, log=panel.log)
    marks = []
    bars = [one for one in panel.series if one.kind == "bars"]
    for one in sorted(panel.series, key=lambda one: not one.faint):
        if one.kind == "bars":
            each = 0.6 * (right - left) / max(len(x), 1)
            marks += _bars(one, cuts, x, scale, each / len(bars), bars.index(one) * each / len(bars) - each / 2)
        else:
            marks += _line(one, cuts, x, scale)
    guides = [(_r(scale.place(value)), text) for value, text in panel.guides]
    ticks = [(_r(at), text) for at, text in scale.ticks]
    return Frame(panel.title, left, right, top, bottom, ticks, guides, marks)


def _told(one: Series, cut: str, i: int) -> str:
    said = f"{one.name}, {cut}: {one.y[i]:.3g}"
    if one.ends and all(map(math.isfinite, one.ends[i])):
        said += f" [{one.ends[i][0]:.3g}, {one.ends[i][1]:.3g}]"
    return said


def _line(one: Series, cuts: Sequence[str], x: Sequence[Real], scale: Scale) -> list[Mark]:
    classes = f"look{one.look % LOOKS}" + (" faint" if one.faint else "")
    drawn = [i for i, value in enumerate(one.y) if math.isfinite(value) and (value > 0 or not scale.log)]
    points = [(x[i], scale.place(one.y[i])) for i in drawn]
    marks = [Mark(_path(points), f"line {classes}")] if one.kind == "line" and len(points) > 1 else []
    for i, point in zip(drawn, points, strict=True):
        if one.ends and all(map(math.isfinite, one.ends[i])):
            low, high = (_r(scale.place(end)) for end in one.ends[i])
            marks.append(Mark(f"M{_r(x[i])} {low}V{high}", f"whisker {classes}"))
        marks.append(
            Mark(marker(one.look, *point, 3.2 if one.faint else 4), f"marker {classes}", _told(one, cuts[i], i))
        )
    return marks


def _bars(one: Series, cuts: Sequence[str], x: Sequence[Real], scale: Scale, width: Real, shift: Real) -> list[Mark]:
    foot = scale.start
    return [
        Mark(
            f"M{_r(x[i] + shift)} {_r(foot)}V{_r(scale.place(value))}h{_r(width * 0.92)}V{_r(foot)}z",
            f"bar look{one.look % LOOKS}",
            _told(one, cuts[i], i),
        )
        for i, value in enumerate(one.y)
        if math.isfinite(value) and (value > 0 or not scale.log)
    ]


def marker(look: int, x: Real, y: Real, size: Real) -> str:
    """A circle, square, diamond or triangle, so that looks differ without colour.

    >>> marker(1, 10, 10, 2)
    'M8 8h4v4h-4z'
    """
    r, d = _r(size), _r(1.3 * size)
    shapes = (
        f"M{_r(x - r)} {_r(y)}a{r} {r} 0 1 0 {_r(2 * r)} 0a{r} {r} 0 1 0 {_r(-2 * r)} 0z",
        f"M{_r(x - r)} {_r(y - r)}h{_r(2 * r)}v{_r(2 * r)}h{_r(-2 * r)}z",
        f"M{_r(x)} {_r(y - 1.3 * r)}l{d} {d}l-{d} {d}l-{d} -{d}z",
        f"M{_r(x)} {_r(y - 1.2 * r)}l{_r(1.2 * r)} {_r(2.2 * r)}h{_r(-2.4 * r)}z",
    )
    return shapes[look % 4]


def plotted(plot: Plot, width: int = 340, height: int = 180) -> Drawing:
    """Curves over a numeric axis, thinned to :data:`POINTS` points each."""
    box = (LEFT, width - RIGHT, 12, height - 26)
    xs = [value for line in plot.lines for value in line.x]
    low, high = (min(xs), max(xs)) if xs else (0.0, 1.0)
    across = Scale(low, high if high > low else low + 1.0, box[0], box[1])
    scale = _tight(scale_for([y for line in plot.lines for y in line.y], box[3], box[2], log=plot.log), plot)
    marks = []
    for look, line in enumerate(plot.lines):
        points = [
            (across.place(x), scale.place(y))
            for x, y in _thinned(line.x, line.y)
            if math.isfinite(y) and (y > 0 or not scale.log)
        ]
        if points:
            marks.append(Mark(_path(points), f"line look{look % LOOKS}", line.name))
    below = [(_r(at), text) for at, text in across.ticks]
    upright = None
    if plot.marked is not None and low <= plot.marked[0] <= high:
        upright = (_r(across.place(plot.marked[0])), plot.marked[1])
    ticks = [(_r(at), text) for at, text in scale.ticks]
    frame = Frame("", *box, ticks, [], marks, below, upright)
    return Drawing(width, height, [], [frame])


def _tight(scale: Scale, plot: Plot) -> Scale:
    """The scale from the least value on, where 0 is far from all of them."""
    found = [value for line in plot.lines for value in line.y if math.isfinite(value)]
    low, high = min(found, default=0.0), max(found, default=0.0)
    if scale.log or low <= 0 or high - low > 0.5 * high or high == low:
        return scale
    moved = scale_for([value - low for value in found], scale.start, scale.stop)
    step = (moved.high - moved.low) / 4
    first = math.floor(low / step) * step
    return scale._replace(low=first, high=max(scale.high, first + step))


def _thinned(x: Sequence[Real], y: Sequence[Real]) -> list[tuple[Real, Real]]:
    """Means of neighbours, where there are more points than pixels."""
    width = max(1, math.ceil(len(x) / POINTS))
    return [
        (sum(x[i : i + width]) / len(x[i : i + width]), sum(y[i : i + width]) / len(y[i : i + width]))
        for i in range(0, len(x), width)
    ]


def _path(points: Sequence[tuple[Real, Real]]) -> str:
    return "M" + "L".join(f"{_r(x)} {_r(y)}" for x, y in points)


def _r(value: Real) -> Real:
    """A pixel to a tenth; whole where it is."""
    value = round(value, 1)
    return int(value) if value == int(value) else value
