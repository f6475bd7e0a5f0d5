"""What is drawn along the cuts: attacks, ρ, evidence, R_c², guarantees and price, a series a run or an attack."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gpz_jax.inversion.guarantee_result import Guarantee
from gpz_jax.inversion.verdict import READABLE_RATIO
from gpz_jax.reporting.page.charts import Panel, Series
from gpz_jax.reporting.page.contents import NAN, Contents, CutRecord, RunRecord

#: Look of what things are held against: untrained copies, the label alone.
REFERENCE = 7

#: Attacks of one run that get a series of their own.
ATTACKS = 5


class Key(NamedTuple):
    """A line of the legend."""

    look: int
    text: str


def legend(contents: Contents) -> list[Key]:
    """What the looks of :func:`panels` stand for."""
    run, *others = contents.runs
    if others:
        return [Key(i % REFERENCE, run.name) for i, run in enumerate(contents.runs)]
    keys = [Key(0, "this run: the strongest attack on each cut, the trained network")]
    keys += [Key(1 + i, attack) for i, attack in enumerate(_attacks(run))]
    return [*keys, Key(REFERENCE, "untrained copies and their spread; the label alone")]


def _share(cut: CutRecord) -> float:
    return cut.cost.edge_share if cut.cost else NAN


def _bytes(cut: CutRecord) -> float:
    return float(cut.cost.payload["uint8"]) if cut.cost else NAN


def panels(contents: Contents) -> list[Panel]:
    """Those panels for which there is a number, from what attacks got to what cuts cost."""
    runs, alone = contents.runs, len(contents.runs) == 1
    error = [_ratio(run, i) for i, run in enumerate(runs)]
    named = [_named(run, i) for i, run in enumerate(runs)]
    rho = [_series(run, i, lambda cut: cut.probed.rho if cut.probed else NAN) for i, run in enumerate(runs)]
    if alone:
        error += _of_attacks(runs[0])
        named += [_series(runs[0], REFERENCE, _chance, name="by the label alone")._replace(kind="dots", faint=True)]
        rho += [_copies(runs[0])]
    guides = ((1.0, "label alone"), (READABLE_RATIO, "readable below"))
    bytes_of_image = ((float(runs[0].image_bytes), "the image itself"),) if runs[0].image_bytes else ()
    found = [
        Panel("Error, as a share of the class-mean floor", tuple(error), guides=guides),
        Panel("Images named by their reconstruction, share", tuple(named)),
        Panel("ρ, share of the variance within classes", tuple(rho)),
        Panel("Evidence against untrained copies, nats", tuple(_evidence(run, i) for i, run in enumerate(runs))),
        Panel("R_c², within-class radius", _all(runs, lambda cut: cut.probed.within if cut.probed else NAN), log=True),
        Panel("Guarantee: least mse, unbiased", _guaranteed(runs, "mse_floor"), log=True),
        Panel("Guarantee: H(X|Z) at least, nats", _guaranteed(runs, "nats")),
        Panel("Price: the edge's share of all parameters", _bars(runs, _share)),
        Panel("Price: bytes sent for one image, as uint8", _sent(runs), log=True, guides=bytes_of_image),
    ]
    return [panel for panel in found if any(math.isfinite(value) for one in panel.series for value in one.y)]


def _series(run: RunRecord, look: int, of: Callable[[CutRecord], float], *, name: str = "") -> Series:
    return Series(name or run.name, [of(cut) for cut in run.cuts], look % (REFERENCE + 1))


def _all(runs: Sequence[RunRecord], of: Callable[[CutRecord], float]) -> tuple[Series, ...]:
    return tuple(_series(run, i % REFERENCE, of) for i, run in enumerate(runs))


def _ratio(run: RunRecord, look: int) -> Series:
    ends = [cut.attempts[0].intervals.ratio if cut.attempts else (NAN, NAN) for cut in run.cuts]
    of_best = _series(run, look % REFERENCE, lambda cut: cut.attempts[0].scores.ratio if cut.attempts else NAN)
    return of_best._replace(ends=ends)


def _named(run: RunRecord, look: int) -> Series:
    ends = []
    for cut in run.cuts:
        found = [a.identified for a in cut.attempts if a.identified.images]
        ends.append(max(found, key=lambda one: one.top1).top1_interval if found else (NAN, NAN))
    return _series(run, look % REFERENCE, lambda cut: cut.named)._replace(ends=ends)


def _attacks(run: RunRecord) -> list[str]:
    """Names of the attacks that were made on most cuts."""
    made = [attempt.attack for cut in run.cuts for attempt in cut.attempts]
    return sorted(dict.fromkeys(made), key=lambda name: -made.count(name))[:ATTACKS]


def _of_attacks(run: RunRecord) -> list[Series]:
    def of(cut: CutRecord, attack: str) -> float:
        return next((a.scores.ratio for a in cut.attempts if a.attack == attack), NAN)

    return [
        Series(attack, [of(cut, attack) for cut in run.cuts], 1 + i, kind="dots", faint=True)
        for i, attack in enumerate(_attacks(run))
    ]


def _chance(cut: CutRecord) -> float:
    return max((a.identified.chance_label for a in cut.attempts if a.identified.images), default=NAN)


def _copies(run: RunRecord) -> Series:
    nulls = [cut.probed.rho_null if cut.probed else () for cut in run.cuts]
    means = [sum(copies) / len(copies) if copies else NAN for copies in nulls]
    ends = [(min(copies), max(copies)) if copies else (NAN, NAN) for copies in nulls]
    return Series("untrained copies", means, REFERENCE, ends, kind="dots", faint=True)


def _evidence(run: RunRecord, look: int) -> Series:
    ends = [(cut.probed.low, cut.probed.high) if cut.probed else (NAN, NAN) for cut in run.cuts]
    return _series(run, look % REFERENCE, lambda cut: cut.probed.evidence if cut.probed else NAN)._replace(ends=ends)


def _guaranteed(runs: Sequence[RunRecord], name: str) -> tuple[Series, ...]:
    return _all(runs, lambda cut: getattr(cut.guarantee or Guarantee(cut.name), name))


def _bars(runs: Sequence[RunRecord], of: Callable[[CutRecord], float]) -> tuple[Series, ...]:
    """Of the first run alone where all runs cost the same."""
    every = _all(runs, of)
    alike = all(repr(one.y) == repr(every[0].y) for one in every)
    return tuple(one._replace(kind="bars") for one in (every[:1] if alike else every))


def _sent(runs: Sequence[RunRecord]) -> tuple[Series, ...]:
    return tuple(one._replace(kind="line") for one in _bars(runs, _bytes))
