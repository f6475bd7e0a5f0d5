"""What a claim is and what it is judged by: the units' numbers, read and put in words (not an experiment)."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from gpz_jax.presentation import number

#: The paper's two cuts of each network: at the feature level, and at the decision level.
PAIRS = {"ir152": ("block_40", "block_50"), "vgg19": ("layer_30", "layer_39")}

#: Attacks that are made at every attacked cut; curves are of the best of them, so that no cut is tried harder. And
#: those that are tried besides on the paper's two: its better attacker, its enriched z.
EVERYWHERE, STRONGER = ("linear", "deconvolution"), ("attention", "enriched")

#: All cuts of these that the paper gives numbers of.
NAMED = {"ir152": ("block_40", "block_48", "block_49", "block_50"), "vgg19": PAIRS["vgg19"]}

#: What networks are called in words.
CALLED = {
    "ir152": "IR-152", "vgg19": "VGG19", "resnet50": "ResNet-50", "resnet18": "ResNet-18", "vit": "ViT", "cnn": "CNN",
}  # fmt: skip

#: The deepest cut there is.
LAST = "logits"

Record = dict[str, Any]
Records = Mapping[str, Record]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One number of a claim: the paper's, and ours of every seed.

    Attributes:
      what: it is.
      paper: the paper's number, or None.
      values: ours, one a seed.
      kind: "share" lies between 0 and 1 (a relative depth, too); "positive" spans orders of magnitude, so that its
        mean is geometric and its interval that of the logarithms; "exact" is no measurement, so that it has no seed;
        "" is anything else.
      each: what each value is of.
      under: the label distribution, where tables have a column for each; else "".
    """

    what: str
    paper: float | None
    values: tuple[float, ...]
    kind: Literal["", "share", "positive", "exact"] = ""
    each: str = "seed"
    under: str = ""

    @property
    def name(self) -> str:
        """What it is, and under which labels."""
        return f"{self.what}, {self.under}" if self.under else self.what

    @property
    def mean(self) -> float:
        """Of all values; geometric of a positive kind."""
        if not self.values:
            return math.nan
        return math.exp(np.mean(np.log(self.values))) if self.kind == "positive" else float(np.mean(self.values))

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by Student's t; NaN of fewer than two seeds.

        >>> Finding("x", None, (1.0, 2.0, 3.0)).interval
        (-0.484..., 4.484...)
        >>> Finding("x", None, (1.0, 10.0, 100.0), "positive").interval
        (0.0327..., 3051.2...)
        """
        n = len(self.values)
        if n < 2:
            return math.nan, math.nan
        values = np.log(self.values) if self.kind == "positive" else np.array(self.values)
        half = float(stats.t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
        low, high = float(np.mean(values)) - half, float(np.mean(values)) + half
        return (math.exp(low), math.exp(high)) if self.kind == "positive" else (low, high)

    @property
    def said(self) -> str:
        """``mean [low, high], n seeds``; the values where there are fewer than three, or the interval of a share would
        leave what is possible.
        """
        if not self.values:
            return "not measured"
        if self.kind == "exact":
            return number(self.mean)
        count, (low, high) = len(self.values), self.interval
        if count < 3:  # an interval of two would say nothing
            return f"{' and '.join(map(number, self.values))}, {count} {self.each}{'s' * (count > 1)}"
        if self.kind == "share" and low != high and not 0 <= low <= high <= 1:
            return f"{number(self.mean)} ({', '.join(map(number, self.values))}), {count} {self.each}s"
        return f"{number(self.mean)} [{number(low)}, {number(high)}], {count} {self.each}s"


@dataclasses.dataclass(frozen=True)
class Judged:
    """A claim's verdict, a sentence, and what is behind it.

    Attributes:
      verdict: confirmed, partly, refuted or not tested.
      sentence: what came out.
      findings: the numbers.
      parts: of the claim, in words, and whether each holds; None where seeds differ too much to tell.
      seeds: of which every number has one at least; None where nothing varies.
    """

    verdict: str
    sentence: str
    findings: tuple[Finding, ...] = ()
    parts: Mapping[str, bool | None] = dataclasses.field(default_factory=dict)
    seeds: int | None = None

    @property
    def said(self) -> str:
        """The verdict, and of how many seeds it is where those are few."""
        few = {1: ", one seed", 2: ", two seeds"}
        return self.verdict + ("" if self.seeds is None else few.get(self.seeds, ""))


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
      name: short, for ``--rerun``.
      says: the paper, in a sentence.
      units: prefixes of the names of the units that it is judged by.
      judge: the verdict, from the units that there are.
      needs: the data sets of these units, .npz files of --data-dir.
    """

    name: str
    says: str
    units: tuple[str, ...]
    judge: Callable[[Records], Judged]
    needs: tuple[str, ...] = ("cifar10",)

    def records(self, every: Records) -> Records:
        """The units of this claim among all."""
        return {name: record for name, record in every.items() if name.startswith(self.units)}


def seeds_of(records: Records, network: str, data: str = "cifar10", targets: str = "one-hot") -> list[Record]:
    """A network's records, one a seed, in the order of the seeds."""
    found = [
        record
        for record in records.values()
        if (record.get("network"), record.get("data"), record.get("targets")) == (network, data, targets)
    ]
    return sorted(found, key=lambda record: record["seed"])


def row_of(record: Record, cut: str) -> Record:
    """What a record says of a cut."""
    return next(row for row in record["cuts"] if row["cut"] == cut)


def attacked(record: Record) -> list[Record]:
    """The rows of a record that were attacked, in order."""
    return [row for row in record["cuts"] if "attacks" in row]


def is_listed(cut: str) -> bool:
    """Whether a cut is a block or an entry of the paper's list, and nothing that comes behind them."""
    return cut.startswith(("block_", "layer_"))


def best(row: Record, name: str = "ratio", among: Sequence[str] = EVERYWHERE) -> float:
    """A number of the attack of least error on a cut, among those named; NaN where there is none, or no number."""
    attacks = [found for key, found in row.get("attacks", {}).items() if key in among and found["mse"] is not None]
    value = min(attacks, key=lambda found: found["mse"]).get(name) if attacks else None
    return math.nan if value is None else float(value)


def attacked_at(records: Iterable[Record], cuts: Iterable[str], by: Sequence[str] = EVERYWHERE) -> list[Record]:
    """The records in which each of these cuts was attacked by all of these."""

    def made(record: Record) -> set[str]:
        return {row["cut"] for row in attacked(record) if set(by) <= row["attacks"].keys()}

    return [record for record in records if set(cuts) <= made(record)]


def curve_of(record: Record, *, listed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Depth (0 to 1) and the best attack's error over the class mean's, along the attacked cuts.

    ``listed``: along those of the paper's list of blocks or entries alone, without what comes behind them.
    """
    rows = [row for row in attacked(record) if not listed or is_listed(row["cut"])]
    return np.array([row["depth"] for row in rows]), np.array([best(row) for row in rows])


def bend_of(record: Record) -> float:
    """Depth at which the attack's curve, made rising, first passes the middle between its first and highest value."""
    ratio = curve_of(record)[1]
    return depth_of(record, (ratio[0] + ratio.max()) / 2)


def depth_of(record: Record, level: float) -> float:
    """Depth at which the attack's curve, made rising, first passes a level; 1 where it never does."""
    depth, ratio = curve_of(record)
    return float(np.interp(level, np.maximum.accumulate(ratio), depth, right=1.0))


def steepest_share(record: Record) -> float:
    """Share of the curve's whole rise that its steepest step between two attacked cuts takes: 1 is a jump."""
    rising = np.maximum.accumulate(curve_of(record)[1])
    return float(np.diff(rising).max() / (rising[-1] - rising[0])) if rising[-1] > rising[0] else math.nan


def onset_depth(record: Record, rule: str) -> float:
    """Depth of a rule's onset; 1 where it finds no zone."""
    onset = record["zones"].get(rule, {}).get("onset")
    return row_of(record, onset)["depth"] if onset else 1.0


def has_zone(zones: Record) -> bool:
    """Whether rule null finds a zone that begins before the logits."""
    return zones["null"]["onset"] not in (None, LAST)


def finding(
    what: str,
    paper: float | None,
    records: Iterable[Record],
    value: Callable[[Record], float | None],
    kind: Literal["", "share", "positive"] = "",
    under: str = "",
) -> Finding:
    """A number of every record that has it."""
    values = (value(record) for record in records)
    known = tuple(one for one in values if one is not None and math.isfinite(one))
    return Finding(what, paper, known, kind, under=under)


def not_tested(needs: str) -> Judged:
    """The verdict on a claim whose numbers there are not."""
    return Judged("not tested", f"It needs {needs}.")


def exceeds(more: ArrayLike, less: ArrayLike, by: float = 0.0) -> bool | None:
    """Whether the first are larger by so much, each a number a seed: of three seeds or more by Welch's t-test,
    one-sided at 5 % to either side, and None where it does not tell; of fewer, or where no seed differs, by the means.

    >>> exceeds((2, 2.1, 2.2), (1, 1.1, 1.2)), exceeds((1, 1.1, 1.2), (2, 2.1, 2.2)), exceeds((1, 3, 5), (0, 2, 4))
    (True, False, None)
    """
    first, second = np.subtract(more, by), np.asarray(less)
    if min(len(first), len(second)) == 0:
        return None
    larger = bool(first.mean() > second.mean())
    if min(len(first), len(second)) < 3 or np.ptp(first) + np.ptp(second) == 0:
        return larger
    above, below = (first, second) if larger else (second, first)
    ends = ((values.mean(), values.std(ddof=1), len(values)) for values in (above, below))
    told = stats.ttest_ind_from_stats(*next(ends), *next(ends), equal_var=False, alternative="greater")
    return larger if told.pvalue < 0.05 else None


def every(*parts: bool | None) -> bool | None:
    """False where one is, else None where one is."""
    return False if False in parts else None if None in parts else True


def judged(parts: Mapping[str, bool | None], seeds: int | None, sentence: str, findings: Sequence[Finding]) -> Judged:
    """All parts hold: confirmed, of fewer than three seeds partly; some: partly; none, and one does not: refuted; of
    none it can be told: not tested.
    """
    parts = {part: None if holds is None else bool(holds) for part, holds in parts.items()}  # numpy's are not True
    found = list(parts.values())
    if all(found) and (seeds is None or seeds >= 3):
        verdict = "confirmed"
    elif any(found):
        verdict = "partly"
    else:
        verdict = "refuted" if False in found else "not tested"
    return Judged(verdict, sentence, tuple(findings), parts, seeds)
