"""Claims of training, of what reconstructions show, and of prices, judged from the units' numbers alone (not an
experiment).
"""

import itertools
from collections.abc import Callable

import numpy as np
from claim_numbers import (
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
    """LS+ shrinks R_c² at the logits and costs no accuracy; LS- does the opposite."""
    networks = [name for name in ("cnn", "vgg19", "ir152") if {"one-hot", "LS+"} <= set(_by_targets(records, name))]
    if not networks:
        return not_tested("a network under one-hot labels and LS+")
    findings: list[Finding] = []
    parts: dict[str, bool | None] = {}
    said, seeds = [], []
    for name in networks:
        of = _by_targets(records, name)
        found = {
            what: {targets: finding(f"{name}, {targets}: {what}", None, some, value) for targets, some in of.items()}
            for what, value in _SMOOTHED.items()
        }
        findings += [one for every in found.values() for one in every.values()]
        radius, accuracy, rho = (found[what] for what in (_RADIUS, _ACCURACY, _RHO))
        # Of logarithms: R_c² under LS- differs by orders of magnitude from seed to seed.
        order = [np.log(radius[targets].values) for targets in ("LS+", "one-hot", "LS-") if targets in of]
        parts[f"{name}: least R_c² under LS+{', most under LS-' * ('LS-' in of)}"] = every(
            *(exceeds(after, before) for before, after in itertools.pairwise(order))
        )
        parts[f"{name}: LS+ costs less than 1 % of accuracy"] = exceeds(
            accuracy["LS+"].values, accuracy["one-hot"].values, -0.01
        )
        others = "".join(f", {number(one.mean)} {targets}" for targets, one in radius.items() if targets != "LS+")
        others += "" if "LS-" in of else " (LS- not measured)"
        said.append(
            f"{name}: R_c² on test images {number(radius['LS+'].mean)} under LS+{others}; its share of the scatter, "
            f"rho, {number(rho['LS+'].mean)} against {number(rho['one-hot'].mean)} one-hot; accuracy "
            f"{number(accuracy['LS+'].mean)} against {number(accuracy['one-hot'].mean)}"
        )
        seeds += map(len, of.values())
    return judged(parts, min(seeds), "; ".join(said) + ".", findings)


def _by_targets(records: Records, network: str) -> dict[str, list[Record]]:
    """Label distribution -> the network's records under it, of those that there are."""
    found = {targets: seeds_of(records, network, targets=targets) for targets in ALPHAS}
    return {targets: some for targets, some in found.items() if some}


_ACCURACY, _RADIUS, _RHO = "accuracy", "R_c² at the logits, test", "rho at the logits, test"

_SMOOTHED: dict[str, Callable[[Record], float]] = {
    _ACCURACY: lambda record: record["accuracy"],
    _RADIUS: lambda record: row_of(record, "logits")["test"]["within"],
    "R_c² at the logits, train": lambda record: row_of(record, "logits")["train"]["within"],
    _RHO: lambda record: row_of(record, "logits")["test"]["rho"],
    "rho at the logits, train": lambda record: row_of(record, "logits")["train"]["rho"],
    "error over the class mean's at the logits": lambda record: best(row_of(record, "logits")),
    "share of images identified from the logits": lambda record: best(row_of(record, "logits"), "identified"),
}


def edge_cost(records: Records) -> Judged:
    """VGG19 reaches the zone with 2.5 % of its parameters, IR-152 with 78 %; 26 -> 30 halves what is sent."""
    record = records.get("prices")
    if record is None:
        return not_tested("the prices of the full networks")
    vgg, ir = ({row["cut"]: row for row in record[name]} for name in ("vgg19", "ir152"))
    later = tuple(b / a for a, b in zip(vgg["layer_26"]["ms"], vgg["layer_30"]["ms"], strict=True))
    payload = vgg["layer_30"]["values"] / vgg["layer_26"]["values"]
    findings = (
        Finding("IR-152: share of the parameters up to block 49", 0.78, (ir["block_49"]["share"],), exact=True),
        Finding("VGG19: share up to entry 30", 0.025, (vgg["layer_30"]["share"],), exact=True),
        Finding("VGG19: share up to entry 18", None, (vgg["layer_18"]["share"],), exact=True),
        Finding("VGG19: numbers sent at 30 over 26", 0.5, (payload,), exact=True),
        Finding(
            "VGG19: edge FLOP at 30 over 26", None, (vgg["layer_30"]["flops"] / vgg["layer_26"]["flops"],), exact=True
        ),
        Finding("VGG19: edge milliseconds at 30 over 26", 1.0, later, each="timing"),
    )
    share = findings[0].mean
    whole = vgg["layer_30"]["parameters"] / 0.025 / 1e6
    parts = {
        "IR-152 has 78 % up to block 49": abs(share - 0.78) < 0.01,
        "VGG19 has 2.5 % up to entry 30": abs(findings[1].mean - 0.025) < 0.005,
        "26 -> 30 halves what is sent": payload == 0.5,
        "26 -> 30 takes less than 10 % more time": findings[5].mean < 1.1,
    }
    sentence = (
        f"IR-152 holds {100 * share:.1f} % up to block 49, and 26 -> 30 halves what VGG19 sends, for "
        f"{100 * (findings[5].mean - 1):.0f} % more time at the edge and {100 * (findings[4].mean - 1):.0f} % more "
        f"FLOP. VGG19 holds {100 * findings[1].mean:.1f} % up to entry 30: the paper's 2.5 % fits entry 18 of this "
        f"network ({100 * findings[2].mean:.1f} %), or entry 30 of one whose head is so large that it has {whole:.0f} "
        "M parameters in all."
    )
    # Shapes have no seed: nothing is held back for want of one.
    return judged(parts, None, sentence, findings)


def vortex(records: Records) -> Judged:
    """Under LS+ the coefficient changes sign, the output's entropy rises, and R_c² and the bound on z fall."""
    both = ("one-hot", "LS+")
    networks = [n for n in ("vgg19", "ir152") if all(seeds_of(records, n, "mnist", targets) for targets in both)]
    if not networks:
        return not_tested("VGG19 or IR-152 with a ledger, one-hot and under LS+")
    of = {(name, targets): seeds_of(records, name, "mnist", targets) for name in networks for targets in both}
    findings: dict[tuple[str, str, str], Finding] = {}
    for (name, targets), found in of.items():
        for what, value in _OF_LEDGER.items():
            findings[name, targets, what] = finding(f"{name}, {targets}: {what}", None, found, value)
    parts: dict[str, bool | None] = {}
    said = []
    for name in networks:
        smoothed, plain = (
            {what: findings[name, targets, what].mean for what in _OF_LEDGER} for targets in ("LS+", "one-hot")
        )
        seeds = {(what, targets): findings[name, targets, what].values for what in _OF_LEDGER for targets in both}
        turned = sum(record["turn"] is not None for record in of[name, "LS+"])
        parts |= {
            f"{name}: the sign changes": turned == len(of[name, "LS+"]),
            f"{name}: R_c² falls": exceeds([1.0] * len(of[name, "LS+"]), seeds[_GROWTH, "LS+"]),
            f"{name}: more entropy than one-hot": exceeds(seeds[_ENTROPY, "LS+"], seeds[_ENTROPY, "one-hot"]),
            f"{name}: a lower bound than one-hot": exceeds(seeds[_BOUND, "one-hot"], seeds[_BOUND, "LS+"]),
            f"{name}: the two terms predict the change of R_c² to a factor of two": 0.5 < smoothed[_PREDICTED] < 2,
        }
        said.append(
            f"{name}, LS+ (one-hot in brackets): the mean coefficient turns positive in {turned} of "
            f"{len(of[name, 'LS+'])} runs, in whose second half {100 * smoothed[_PAST]:.0f} % of the images are past "
            f"the turn; at the end the output's entropy is {number(smoothed[_ENTROPY], 2)} nats "
            f"({number(plain[_ENTROPY], 2)}) and the bound on z {number(smoothed[_BOUND])} nats "
            f"({number(plain[_BOUND])}); in the second half R_c² shrinks to {number(smoothed[_GROWTH], 2)} of what it "
            f"was ({number(plain[_GROWTH], 2)}), and the paper's two terms sum to "
            f"{number(smoothed[_PREDICTED], 2)} of that change"
        )
    return judged(parts, min(map(len, of.values())), "; ".join(said) + ".", tuple(findings.values()))


def _last(record: Record) -> Record:
    """The cut before the logits."""
    return record["cuts"][-2]


_PAST = "share of images with p_c > 1 - alpha, second half"
_GROWTH = "R_c² before the logits, end over middle"
_ENTROPY = "entropy of the output, nats"
_BOUND = "decision bound before the logits, nats"
_PREDICTED = "what the paper's two terms predict of the change, over what came of it"

_OF_LEDGER: dict[str, Callable[[Record], float]] = {
    _PAST: lambda record: record["past_flip"],
    _GROWTH: lambda record: _last(record)["radius_last"] / _last(record)["radius_first"],
    _ENTROPY: lambda record: record["output_entropy"],
    _BOUND: lambda record: _last(record)["decision_bound"],
    _PREDICTED: lambda record: (_last(record)["correct"] + _last(record)["wrong"]) / _last(record)["realised"],
}


def drift(records: Records) -> Judged:
    """Beyond the zone an attacker with digits draws "0", one with letters "D"."""
    found = [record for name, record in sorted(records.items()) if name.startswith("drift")]
    sets = {row["auxiliary"] for record in found for row in record["rows"] if row["level"] == "decision"}
    if not {"mnist", "emnist_letters"} <= sets:
        return not_tested("a network of KMNIST, attacked with MNIST and with EMNIST letters")
    findings, said = [], []
    parts: dict[str, bool] = {}
    for auxiliary, expected in (("mnist", "0"), ("emnist_letters", "D")):
        rows = [row for record in found for row in record["rows"] if _is(row, "decision", auxiliary)]
        shares = {
            what: Finding(
                f"{auxiliary}: share of {what} named {expected!r}", None, tuple(row[what]["share"] for row in rows)
            )
            for what in ("reconstructions", "originals")
        }
        collapse = Finding(
            f"{auxiliary}: variance of the reconstructions over the originals'",
            None,
            tuple(row["prior_collapse"] for row in rows),
        )
        findings += [*shares.values(), collapse]
        commonest = [row["reconstructions"]["commonest"] for row in rows]
        often = shares["reconstructions"].mean
        parts[f"{auxiliary}: more than half are {expected!r}, and more than of the originals"] = (
            often > 0.5 and often > shares["originals"].mean
        )
        said.append(
            f"{100 * shares['reconstructions'].mean:.0f} % of what the attacker with {auxiliary} draws is named "
            f"{expected!r} ({100 * shares['originals'].mean:.0f} % of the originals); the commonest name is "
            f"{', '.join(sorted(set(commonest)))}"
        )
    own = [row["identified"] for record in found for row in record["rows"] if _is(row, "decision", "held-out")]
    if own:
        said.append(
            f"of an attacker who has KMNIST itself {100 * sum(own) / len(own):.0f} % of the reconstructions at that "
            "cut still tell which image it was, so that this is no cut beyond which nothing is left"
        )
    return judged(parts, len(found), "; ".join(said) + ".", findings)


def _is(row: Record, level: str, auxiliary: str) -> bool:
    return (row["level"], row["auxiliary"]) == (level, auxiliary)
