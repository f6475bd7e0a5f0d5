"""The paper's claims, each judged from the units' numbers alone (not an experiment): no network, no images.

A verdict follows from the numbers by the rule in its function: confirmed, partly, refuted or not tested.
Intervals are 95 % by Student's t over seeds; of one seed there is none, and a claim is then at most partly confirmed.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from common import ALPHAS
from scipy import stats

from gpz_jax.presentation import number

Record = dict[str, Any]
Records = Mapping[str, Record]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One number of a claim: the paper's, and ours of every seed.

    Attributes:
      what: it is.
      paper: the paper's number, or None.
      values: ours, one a seed.
      exact: whether it is no measurement, so that it has no seed.
    """

    what: str
    paper: float | None
    values: tuple[float, ...]
    exact: bool = False

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by Student's t; NaN of fewer than two seeds.

        >>> Finding("x", None, (1.0, 2.0, 3.0)).interval
        (-0.484..., 4.484...)
        """
        n = len(self.values)
        if n < 2:
            return math.nan, math.nan
        half = float(stats.t.ppf(0.975, n - 1)) * float(np.std(self.values, ddof=1)) / math.sqrt(n)
        return self.mean - half, self.mean + half

    @property
    def said(self) -> str:
        """``mean [low, high], n seeds``."""
        if not self.values:
            return "not measured"
        if self.exact:
            return number(self.mean)
        low, high = self.interval
        between = "" if math.isnan(low) else f" [{number(low)}, {number(high)}]"
        return f"{number(self.mean)}{between}, {len(self.values)} seed{'s' if len(self.values) > 1 else ''}"


@dataclasses.dataclass(frozen=True)
class Judged:
    """A claim's verdict, a sentence, and the numbers behind it."""

    verdict: str
    sentence: str
    findings: tuple[Finding, ...]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
      name: short, for ``--rerun``.
      says: the paper, in a sentence.
      units: prefixes of the names of the units that it is judged by.
      judge: the verdict, from the units that there are.
    """

    name: str
    says: str
    units: tuple[str, ...]
    judge: Callable[[Records], Judged]

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


def best(row: Record, name: str = "ratio") -> float:
    """A number of the attack of least error on a cut."""
    attack = min(row["attacks"].values(), key=lambda found: found["mse"])
    return float(attack[name])


def curve_of(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Depth (0 to 1) and the best attack's error over the class mean's, along the attacked cuts."""
    rows = attacked(record)
    return np.array([row["depth"] for row in rows]), np.array([best(row) for row in rows])


def bend_of(record: Record) -> float:
    """Depth at which the attack's curve, made rising, first passes the middle between its first and highest value."""
    depth, ratio = curve_of(record)
    rising = np.maximum.accumulate(ratio)
    return float(np.interp((rising[0] + rising[-1]) / 2, rising, depth))


def steepest_share(record: Record) -> float:
    """Share of the curve's whole rise that its steepest step between two attacked cuts takes: 1 is a jump."""
    rising = np.maximum.accumulate(curve_of(record)[1])
    return float(np.diff(rising).max() / (rising[-1] - rising[0])) if rising[-1] > rising[0] else math.nan


def onset_depth(record: Record, rule: str) -> float:
    """Depth of a rule's onset; 1 where it finds no zone."""
    onset = record["zones"].get(rule, {}).get("onset")
    return row_of(record, onset)["depth"] if onset else 1.0


def finding(what: str, paper: float | None, records: Iterable[Record], value: Callable[[Record], float]) -> Finding:
    """A number of every record."""
    return Finding(what, paper, tuple(value(record) for record in records))


def _not_tested(needs: str) -> Judged:
    return Judged("not tested", f"It needs {needs}.", ())


def _verdict(confirmed: Sequence[bool], seeds: int) -> str:
    """All parts hold: confirmed, of one seed partly; some: partly; none: refuted."""
    if not any(confirmed):
        return "refuted"
    return "confirmed" if all(confirmed) and seeds > 1 else "partly"


def main_table(records: Records) -> Judged:
    """The error at a decision-level cut over that at a feature-level one, as large as the paper's; and a jump."""
    ir, vgg = seeds_of(records, "ir152"), seeds_of(records, "vgg19")
    if not (ir and vgg):
        return _not_tested("IR-152 and VGG19 on CIFAR-10")

    def over(record: Record, deep: str, shallow: str) -> float:
        return best(row_of(record, deep), "mse") / best(row_of(record, shallow), "mse")

    def level(cut: str) -> Callable[[Record], float]:
        return lambda record: best(row_of(record, cut), "mse_paper")

    gaps = (
        finding("IR-152: MSE at block 50 over block 40", 0.057 / 0.018, ir, lambda r: over(r, "block_50", "block_40")),
        finding("VGG19: MSE at entry 39 over entry 30", 0.137 / 0.066, vgg, lambda r: over(r, "layer_39", "layer_30")),
    )
    levels = tuple(
        finding(f"{name} {cut}: MSE, the paper's convention", paper, of, level(cut))
        for name, of, cut, paper in (
            ("IR-152", ir, "block_40", 0.018),
            ("IR-152", ir, "block_50", 0.057),
            ("VGG19", vgg, "layer_30", 0.066),
            ("VGG19", vgg, "layer_39", 0.137),
        )
    )
    jumps = (
        finding("IR-152: share of the curve's rise in its steepest step (a jump: 1)", None, ir, steepest_share),
        finding("VGG19: the same", None, vgg, steepest_share),
    )
    holds = [_reaches(gap) for gap in gaps] + [jump.mean > 0.5 for jump in jumps]
    sentence = (
        f"The error grows by {number(gaps[0].mean, 2)} and {number(gaps[1].mean, 2)} between the paper's cuts "
        f"(the paper: {number(gaps[0].paper or 0, 2)} and {number(gaps[1].paper or 0, 2)}); the steepest of the steps "
        f"between attacked cuts takes {100 * jumps[0].mean:.0f} and {100 * jumps[1].mean:.0f} % of the curve's rise, "
        f"so it {'is a jump' if jumps[0].mean > 0.5 and jumps[1].mean > 0.5 else 'is no single jump'}."
    )
    return Judged(_verdict(holds, min(len(ir), len(vgg))), sentence, (*gaps, *levels, *jumps))


def _reaches(found: Finding) -> bool:
    """Whether the paper's number lies within or below our interval; of one seed, below our number."""
    high = found.interval[1]
    return (found.mean if math.isnan(high) else high) >= (found.paper or 0)


def delay(records: Records) -> Judged:
    """The attack's curve bends later in networks with residual connections, and least in the ViT."""
    of = {name: seeds_of(records, name) for name in ("vgg19", "resnet50", "ir152", "vit")}
    if not all(of.values()):
        return _not_tested(f"{', '.join(name for name, found in of.items() if not found)} on CIFAR-10")
    bends = {name: finding(f"{name}: relative depth of the bend", None, found, bend_of) for name, found in of.items()}
    ends = {
        name: finding(f"{name}: error over the class mean's at the last block", None, found, _at_last_block)
        for name, found in of.items()
    }
    later = [bends[name].mean > bends["vgg19"].mean for name in ("resnet50", "ir152")]
    none = [ends["vit"].mean < 0.5 * ends["vgg19"].mean]
    said = ", ".join(f"{name} {number(bend.mean, 2)}" for name, bend in bends.items())
    at_end = ", ".join(f"{name} {number(end.mean, 2)}" for name, end in ends.items())
    sentence = (
        f"The curve bends at relative depth {said}; behind the last block the error over the class mean's is {at_end}."
    )
    return Judged(
        _verdict([*later, *none], min(map(len, of.values()))), sentence, (*bends.values(), *ends.values())
    )  # fmt: skip


def _at_last_block(record: Record) -> float:
    """The error over the class mean's at the deepest attacked cut that is a block or an entry of the paper's list."""
    rows = [row for row in attacked(record) if row["cut"].startswith(("block_", "layer_"))]
    return best(rows[-1])


def data_moves(records: Records) -> Judged:
    """On FaceScrub the zone begins earlier than on CIFAR-10, on KMNIST later: by rules, and by the attack's curve."""
    of = {data: seeds_of(records, "vgg19", data) for data in ("facescrub20", "cifar10", "kmnist")}
    if not all(of.values()):
        return _not_tested(f"VGG19 on {', '.join(name for name, found in of.items() if not found)}")
    ways = {
        "by rule paper": lambda record: onset_depth(record, "paper"),
        "by rule null": lambda record: onset_depth(record, "null"),
        "by the attack's curve": bend_of,
    }
    findings, holds, said = [], [], []
    for way, value in ways.items():
        three = [finding(f"{data}: relative depth {way}", None, found, value) for data, found in of.items()]
        face, cifar, kmnist = (one.mean for one in three)
        holds += [face < cifar, cifar < kmnist]
        said.append(f"{way} {number(face, 2)}, {number(cifar, 2)}, {number(kmnist, 2)}")
        findings += three
    sentence = f"VGG19 on FaceScrub, CIFAR-10 and KMNIST: the zone begins at relative depth {'; '.join(said)}."
    return Judged(_verdict(holds, min(map(len, of.values()))), sentence, tuple(findings))


def smoothing(records: Records) -> Judged:
    """LS+ shrinks R_c² at the logits and costs no accuracy; LS- does the opposite."""
    networks = [name for name in ("cnn", "vgg19", "ir152") if _all_targets(records, name)]
    if not networks:
        return _not_tested("a network under all three label distributions")
    findings: list[Finding] = []
    holds: list[bool] = []
    said = []
    for name in networks:
        of = {targets: seeds_of(records, name, targets=targets) for targets in ALPHAS}
        for what, value in (
            ("accuracy", lambda record: record["accuracy"]),
            ("R_c² at the logits, test", lambda record: row_of(record, "logits")["test"]["within"]),
            ("R_c² at the logits, train", lambda record: row_of(record, "logits")["train"]["within"]),
            ("rho at the logits, test", lambda record: row_of(record, "logits")["test"]["rho"]),
            ("rho at the logits, train", lambda record: row_of(record, "logits")["train"]["rho"]),
            ("error over the class mean's at the logits", lambda record: best(row_of(record, "logits"))),
        ):
            findings += [finding(f"{name}, {targets}: {what}", None, found, value) for targets, found in of.items()]
        mean = {one.what: one.mean for one in findings}
        radius = [mean[f"{name}, {targets}: R_c² at the logits, test"] for targets in ("LS+", "one-hot", "LS-")]
        accuracy = [mean[f"{name}, {targets}: accuracy"] for targets in ("LS+", "one-hot")]
        rho = [mean[f"{name}, {targets}: rho at the logits, test"] for targets in ("LS+", "one-hot")]
        holds += [radius[0] < radius[1] < radius[2], accuracy[0] > accuracy[1] - 0.01, rho[0] < rho[1]]
        said.append(
            f"{name}: R_c² on test images {number(radius[0])} under LS+, {number(radius[1])} one-hot, "
            f"{number(radius[2])} LS-; its share of the scatter, rho, {number(rho[0])} and {number(rho[1])}; accuracy "
            f"{number(accuracy[0])} and {number(accuracy[1])}"
        )
    seeds = min(len(seeds_of(records, name, targets=targets)) for name in networks for targets in ALPHAS)
    return Judged(_verdict(holds, seeds), "; ".join(said) + ".", tuple(findings))


def _all_targets(records: Records, network: str) -> bool:
    return all(seeds_of(records, network, targets=targets) for targets in ALPHAS)


def edge_cost(records: Records) -> Judged:
    """VGG19 reaches the zone with 2.5 % of its parameters, IR-152 with 78 %; 26 -> 30 halves what is sent."""
    record = records.get("prices")
    if record is None:
        return _not_tested("the prices of the full networks")
    vgg, ir = ({row["cut"]: row for row in record[name]} for name in ("vgg19", "ir152"))
    payload = vgg["layer_30"]["values"] / vgg["layer_26"]["values"]
    findings = (
        Finding("IR-152: share of the parameters up to block 49", 0.78, (ir["block_49"]["share"],), exact=True),
        Finding("VGG19: share up to entry 30", 0.025, (vgg["layer_30"]["share"],), exact=True),
        Finding("VGG19: share up to entry 18", None, (vgg["layer_18"]["share"],), exact=True),
        Finding(
            "VGG19: numbers sent at 30 over 26",
            0.5,
            (vgg["layer_30"]["values"] / vgg["layer_26"]["values"],),
            exact=True,
        ),
        Finding("VGG19: edge milliseconds at 30 over 26", 1.0, (vgg["layer_30"]["ms"] / vgg["layer_26"]["ms"],)),
    )
    share = findings[0].mean
    holds = [abs(share - 0.78) < 0.01, abs(findings[1].mean - 0.025) < 0.005, payload == 0.5]
    sentence = (
        f"IR-152 holds {100 * share:.1f} % up to block 49, and 26 -> 30 halves what VGG19 sends, for "
        f"{100 * (findings[4].mean - 1):.0f} % more time at the edge. VGG19 holds {100 * findings[1].mean:.1f} % up to "
        f"entry 30: the paper's 2.5 % fits entry 18 of this network ({100 * findings[2].mean:.1f} %), or entry 30 of a "
        "VGG19 with another head, of 139.6 M parameters."
    )
    return Judged(
        _verdict(holds, seeds=2), sentence, findings
    )  # shapes have no seed: nothing is held back for want of one


#: In the order of the paper.
CLAIMS = (
    Claim(
        "main-table",
        "Decision-level cuts resist: IR-152's error is 3.2 times as large at block 50 as at 40, VGG19's 2.1 times at "
        "39 as at 30, and it jumps there.",
        ("ir152-cifar10-one-hot", "vgg19-cifar10-one-hot"),
        main_table,
    ),
    Claim(
        "residual-delay",
        "Residual connections delay the zone, and a ViT has none.",
        tuple(f"{name}-cifar10-one-hot" for name in ("vgg19", "resnet50", "ir152", "vit")),
        delay,
    ),
    Claim(
        "data-moves",
        "The data set moves the zone: earlier on FaceScrub, later on KMNIST.",
        ("vgg19-facescrub20-one-hot", "vgg19-cifar10-one-hot", "vgg19-kmnist-one-hot"),
        data_moves,
    ),
    Claim(
        "label-smoothing",
        "LS+ contracts R_c² at the decision level and costs no accuracy; LS- does the opposite.",
        tuple(f"{name}-cifar10-{targets}" for name in ("cnn", "vgg19", "ir152") for targets in ALPHAS),
        smoothing,
    ),
    Claim(
        "edge-cost",
        "VGG19 reaches the zone with 2.5 % of its parameters at the edge, IR-152 with over 78 %; from 26 to 30 VGG19 "
        "sends half, at almost no latency.",
        ("prices",),
        edge_cost,
    ),
)
