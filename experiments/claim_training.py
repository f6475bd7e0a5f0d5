"""Claims of training, of what reconstructions show, and of prices, judged from the units' numbers alone (not an
experiment).
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from claim_numbers import (
    CALLED,
    LAST,
    PAIRS,
    Finding,
    Judged,
    Record,
    Records,
    best,
    every,
    exceeds,
    finding,
    judged,
    not_tested,
    row_of,
    seeds_of,
)
from common import ALPHAS

from gpz_jax.presentation import number


def smoothing(records: Records) -> Judged:
    """LS+ shrinks R_c² at the decision level, which resists more, and costs no accuracy; LS- does the opposite."""
    networks = [name for name in ("cnn", "vgg19", "ir152") if {"one-hot", "LS+"} <= set(_by_targets(records, name))]
    if not networks:
        return not_tested("a network under one-hot labels and LS+")
    findings: list[Finding] = []
    parts: dict[str, bool | None] = {}
    over: dict[str, list[str]] = {what: [] for what in _SAID}  # LS+ over one-hot, cut by cut
    kept = []
    for network in networks:
        of, name = _by_targets(records, network), CALLED[network]
        accuracy = {
            targets: finding(f"{name}: accuracy", None, some, lambda record: record["accuracy"], "share", targets)
            for targets, some in of.items()
        }
        findings += accuracy.values()
        for cut in (*(PAIRS[network][1:] if network in PAIRS else ()), "logits"):
            found = {what: _of_cut(f"{name}, {cut}", what, cut, of) for what in _OF_CUT}
            findings += [one for each in found.values() for one in each.values()]
            radius, error = found["R_c², test"], found["error over the class mean's"]
            # Of logarithms: R_c² under LS- differs by orders of magnitude from seed to seed.
            order = [np.log(radius[targets].values) for targets in ("LS+", "one-hot", "LS-") if targets in of]
            parts[f"{name}, {cut}: least R_c² under LS+{', most under LS-' * ('LS-' in of)}"] = every(
                *(exceeds(after, before) for before, after in itertools.pairwise(order))
            )
            parts[f"{name}, {cut}: more error under LS+ than one-hot"] = exceeds(
                error["LS+"].values, error["one-hot"].values
            )
            for what, said in over.items():
                ratio = found[what]["LS+"].mean / found[what]["one-hot"].mean
                said.append(f"{number(ratio)} ({name}, {cut})")
        parts[f"{name}: LS+ costs less than one point of accuracy"] = exceeds(
            accuracy["LS+"].values, accuracy["one-hot"].values, -0.01
        )
        kept.append(f"{name} {number(accuracy['LS+'].mean)} ({number(accuracy['one-hot'].mean)})")
    ratios = "; ".join(f"{what} {', '.join(said)}" for what, said in over.items())
    sentence = f"Under LS+, as a multiple of what it is one-hot: {ratios}. Accuracy (one-hot): {', '.join(kept)}."
    return judged(parts, min(len(one.values) for one in findings), sentence, findings)


def _by_targets(records: Records, network: str) -> dict[str, list[Record]]:
    """Label distribution -> the network's records under it, of those that there are."""
    found = {targets: seeds_of(records, network, targets=targets) for targets in ("LS+", "one-hot", "LS-")}
    return {targets: some for targets, some in found.items() if some}


def _of_cut(of_what: str, what: str, cut: str, of: dict[str, list[Record]]) -> dict[str, Finding]:
    """A number of a cut under every label distribution."""
    value, kind = _OF_CUT[what]
    return {
        targets: finding(f"{of_what}: {what}", None, some, lambda record: value(row_of(record, cut)), kind, targets)
        for targets, some in of.items()
    }


#: What is looked at of a cut.
_OF_CUT: dict[str, tuple[Callable[[Record], float | None], Any]] = {
    "R_c², test": (lambda row: row["test"]["within"], "positive"),
    "R_c², train": (lambda row: row["train"]["within"], "positive"),
    "rho, test": (lambda row: row["test"]["rho"], "share"),
    "rho, train": (lambda row: row["train"]["rho"], "share"),
    "error over the class mean's": (best, ""),
    "share of images identified": (lambda row: best(row, "identified"), "share"),
}

#: What of it is said in words.
_SAID = ("R_c², test", "rho, test", "error over the class mean's")


def edge_cost(records: Records) -> Judged:
    """VGG19 reaches the zone with 2.5 % of its parameters, IR-152 with 78 %; 26 -> 30 halves what is sent."""
    record = records.get("prices")
    if record is None:
        return not_tested("the prices of the full networks")
    vgg, ir = ({row["cut"]: row for row in record[name]} for name in ("vgg19", "ir152"))

    def exact(what: str, value: float, paper: float | None = None) -> Finding:
        return Finding(what, paper, (value,), "exact")

    def over(key: str) -> float:
        return vgg["layer_30"][key] / vgg["layer_26"][key]

    times = tuple(b / a for a, b in zip(vgg["layer_26"]["ms"], vgg["layer_30"]["ms"], strict=True))
    late = Finding("VGG19: edge milliseconds at 30 over 26", None, times, each="timing")
    findings = (
        exact("IR-152: share of the parameters up to block 49", ir["block_49"]["share"], 0.78),
        exact("IR-152: up to block 50, the decision level of main-table", ir["block_50"]["share"]),
        exact("VGG19: up to entry 30", vgg["layer_30"]["share"], 0.025),
        exact("VGG19: up to entry 18", vgg["layer_18"]["share"]),
        exact("VGG19: up to entry 39, the decision level of main-table", vgg["layer_39"]["share"]),
        exact("VGG19: numbers sent at 30 over 26", over("values"), 0.5),
        exact("VGG19: edge FLOP at 30 over 26", over("flops")),
        late,
    )
    parts = {
        "IR-152 has 78 % up to block 49": abs(ir["block_49"]["share"] - 0.78) < 0.01,
        "VGG19 has 2.5 % up to entry 30": abs(vgg["layer_30"]["share"] - 0.025) < 0.005,
        "26 -> 30 halves what is sent": over("values") == 0.5,
        "26 -> 30 takes less than 10 % more time": late.mean < 1.1,
    }
    sentence = (
        f"IR-152 holds {100 * ir['block_49']['share']:.1f} % up to block 49, and 26 -> 30 halves what VGG19 sends, for "
        f"{100 * (late.mean - 1):.1f} % more time at the edge (the line at 10 % is ours: the paper says almost none) "
        f"and {100 * (over('flops') - 1):.1f} % more FLOP. VGG19 holds {100 * vgg['layer_30']['share']:.1f} % up to "
        f"entry 30: the paper's 2.5 % fits entry 18 of this network ({100 * vgg['layer_18']['share']:.1f} %), or entry "
        f"30 of one whose head is so large that it has {vgg['layer_30']['parameters'] / 0.025 / 1e6:.0f} M parameters "
        f"in all. Up to entry 39, where main-table has its decision level, it is "
        f"{100 * vgg['layer_39']['share']:.1f} %."
    )
    # Shapes have no seed: nothing is held back for want of one.
    return judged(parts, None, sentence, findings)


def vortex(records: Records) -> Judged:
    """Under LS+ the coefficient changes sign; the output's entropy rises, R_c² and z's bound fall, by two terms."""
    both = ("one-hot", "LS+")
    networks = [n for n in ("vgg19", "ir152") if all(seeds_of(records, n, "mnist", targets) for targets in both)]
    if not networks:
        return not_tested("VGG19 or IR-152 with a ledger, one-hot and under LS+")
    of = {(name, targets): seeds_of(records, name, "mnist", targets) for name in networks for targets in both}
    findings = {
        (name, targets, what): finding(f"{CALLED[name]}: {what}", None, found, *_OF_LEDGER[what], targets)
        for (name, targets), found in of.items()
        for what in _OF_LEDGER
    }
    parts: dict[str, bool | None] = {}
    said = []
    for name in networks:
        smoothed, plain = (
            {what: findings[name, targets, what] for what in _OF_LEDGER} for targets in ("LS+", "one-hot")
        )
        turns, called = [record["turn"] for record in of[name, "LS+"]], CALLED[name]
        parts |= {
            f"{called}: the sign changes": None not in turns,
            f"{called}: R_c² falls by a larger part than one-hot": exceeds(
                np.log(plain[_GROWTH].values), np.log(smoothed[_GROWTH].values)
            ),
            f"{called}: more entropy of the output than one-hot": exceeds(
                smoothed[_ENTROPY].values, plain[_ENTROPY].values
            ),
            f"{called}: a smaller bound on z's entropy than one-hot": exceeds(
                plain[_BOUND].values, smoothed[_BOUND].values
            ),
            f"{called}: the two terms have the sign of what R_c² does, more often than half the time": exceeds(
                smoothed[_SIGN].values, [0.5] * len(smoothed[_SIGN].values)
            ),
            f"{called}: the two terms are a tenth of what R_c² does or more": smoothed[_PREDICTED].mean >= 0.1,
        }
        said.append(
            f"{called} under LS+ (one-hot in brackets): the mean coefficient first turns positive at step "
            f"{', '.join(map(str, turns))}; of the second half's images {100 * smoothed[_PAST].mean:.0f} % are past "
            f"the turn; in that half R_c² shrinks to {number(smoothed[_GROWTH].mean, 2)} of what it was "
            f"({number(plain[_GROWTH].mean, 2)}); at the end the output's entropy is "
            f"{number(smoothed[_ENTROPY].mean, 2)} nats ({number(plain[_ENTROPY].mean, 2)}; of the smoothed target "
            f"itself {number(_entropy_of_targets(), 3)}) and the bound on z {number(smoothed[_BOUND].mean)} nats "
            f"({number(plain[_BOUND].mean)}); the paper's two terms have the sign of the change at "
            f"{100 * smoothed[_SIGN].mean:.0f} % of the recorded steps, and sum to "
            f"{number(smoothed[_PREDICTED].mean, 2)} of the change there"
        )
    return judged(parts, min(map(len, of.values())), "; ".join(said) + ".", tuple(findings.values()))


def _entropy_of_targets(classes: int = 10) -> float:
    """Nats of the soft targets of LS+: 1 - alpha for the right class, alpha/(K - 1) for each other one."""
    alpha = ALPHAS["LS+"]
    return float(-(1 - alpha) * np.log(1 - alpha) - alpha * np.log(alpha / (classes - 1)))


def _last(record: Record) -> Record:
    """The cut before the logits."""
    return record["cuts"][-2]


_PAST = "share of images with p_c > 1 - alpha, second half"
_GROWTH = "R_c² before the logits, end over middle"
_ENTROPY = "entropy of the output, nats"
_BOUND = "decision bound before the logits, nats"
_SIGN = "share of recorded steps at which the paper's two terms have the sign of the change, second half"
_PREDICTED = "what the two terms sum to over what came of it, at the recorded steps"

_OF_LEDGER: dict[str, tuple[Callable[[Record], float], Any]] = {
    _PAST: (lambda record: record["past_flip"], "share"),
    _GROWTH: (lambda record: _last(record)["radius_last"] / _last(record)["radius_first"], "positive"),
    _ENTROPY: (lambda record: record["output_entropy"], ""),
    _BOUND: (lambda record: _last(record)["decision_bound"], ""),
    _SIGN: (lambda record: _last(record)["same_sign"], "share"),
    _PREDICTED: (lambda record: (_last(record)["correct"] + _last(record)["wrong"]) / _last(record)["realised"], ""),
}


def drift(records: Records) -> Judged:
    """Beyond the zone what an attacker with digits draws drifts to "0", with letters to "D"."""
    found = [record for name, record in sorted(records.items()) if name.startswith("drift")]
    levels = [{row["level"] for row in record["rows"]} for record in found]
    level = LAST if found and all(LAST in of for of in levels) else "decision"
    sets = {row["auxiliary"] for record in found for row in record["rows"] if row["level"] == level}
    if not {"mnist", "emnist_letters"} <= sets:
        return not_tested("a network of KMNIST, attacked with MNIST and with EMNIST letters")
    cut = " and ".join({row["cut"]: None for record in found for row in record["rows"] if row["level"] == level})
    findings, said = [], []
    parts: dict[str, bool | None] = {}
    for auxiliary, expected in (("mnist", "0"), ("emnist_letters", "D")):
        rows = [row for record in found for row in record["rows"] if _is(row, level, auxiliary)]
        drawn, true = (
            finding(
                f"{cut}, {auxiliary}: share of {what} classified as {expected!r}",
                None,
                rows,
                lambda r, w=what: r[w]["share"],
                "share",
            )
            for what in ("reconstructions", "originals")
        )
        collapse = f"{cut}, {auxiliary}: variance of the reconstructions over the originals'"
        findings += [drawn, true, finding(collapse, None, rows, lambda row: row["prior_collapse"])]
        parts |= {
            f"{auxiliary}: more are classified as {expected!r} than of the originals": exceeds(
                drawn.values, true.values
            ),
            f"{auxiliary}: {expected!r} is the commonest class, in most seeds": bool(
                np.mean([row["reconstructions"]["commonest"] == expected for row in rows]) > 0.5
            ),
        }
        names = {what: sorted({row[what]["commonest"] for row in rows}) for what in ("reconstructions", "originals")}
        said.append(
            f"{100 * drawn.mean:.1f} % of what the attacker with {auxiliary} draws is classified as {expected!r}, of "
            f"the originals {100 * true.mean:.1f} %; the commonest class is {', '.join(names['reconstructions'])}, of "
            f"the originals {', '.join(names['originals'])}"
        )
    own: dict[str, list[float]] = {}
    for row in (row for record in found for row in record["rows"]):
        if row["auxiliary"] == "held-out" and row["level"] != "feature":
            own.setdefault(row["cut"], []).append(row["identified"])
    if own:
        shares = ", ".join(f"{100 * sum(each) / len(each):.0f} % at {name}" for name, each in own.items())
        said.append(f"of the images that an attacker with KMNIST itself rebuilds are identified {shares}")
    return judged(parts, len(found), f"At {cut}: {'; '.join(said)}.", findings)


def _is(row: Record, level: str, auxiliary: str) -> bool:
    return (row["level"], row["auxiliary"]) == (level, auxiliary)
