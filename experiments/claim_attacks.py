"""Claims of what attackers get, judged from the units' numbers alone (not an experiment)."""

from collections.abc import Callable, Mapping

import numpy as np
from claim_numbers import (
    CALLED,
    EVERYWHERE,
    PAIRS,
    STRONGER,
    Finding,
    Judged,
    Record,
    Records,
    attacked,
    attacked_at,
    bend_of,
    best,
    curve_of,
    depth_of,
    every,
    exceeds,
    finding,
    has_zone,
    is_listed,
    judged,
    not_tested,
    onset_depth,
    row_of,
    seeds_of,
    steepest_share,
)
from targets import PAPER

from gpz_jax.inversion.verdict import PARTLY_RATIO, READABLE_RATIO
from gpz_jax.presentation import number


def main_table(records: Records) -> Judged:
    """More error at a decision-level cut than at a feature-level one, as many times as in the paper; a jump there."""
    of = {name: attacked_at(seeds_of(records, name), PAIRS[name]) for name in PAIRS}
    if not all(of.values()):
        return not_tested("IR-152 and VGG19 on CIFAR-10")

    def level(cut: str) -> Callable[[Record], float]:
        return lambda record: best(row_of(record, cut), "mse_paper")

    gaps: dict[str, Finding] = {}
    findings: list[Finding] = []
    parts: dict[str, bool | None] = {}
    over, told = [], []
    for network, found in of.items():
        name, (shallow, deep) = CALLED[network], PAIRS[network]
        errors = [
            finding(f"{name} {cut}: MSE, the paper's convention", paper, found, level(cut))
            for cut, paper in zip(PAIRS[network], PAPER[network], strict=True)
        ]
        gaps[network] = finding(
            f"{name}: MSE at {deep} over {shallow}", _gap(network), found,
            lambda r, a=level(shallow), b=level(deep): b(r) / a(r),
        )  # fmt: skip
        findings += [
            gaps[network], *errors,
            finding(f"{name}: share of the curve's rise in its steepest step", None, found, steepest_share, "share"),
            finding(f"{name}: share of the rise between the paper's cuts", None, found, _share_in_pair, "share"),
        ]  # fmt: skip
        there = np.mean([_lies_between(record, PAIRS[network]) for record in found])
        parts |= {
            f"{name}: more error at {deep} than at {shallow}": exceeds(errors[1].values, errors[0].values),
            f"{name}: as many times as the paper's": gaps[network].mean >= _gap(network),
            f"{name}: the steepest step between blocks lies between the two, in most seeds": bool(there > 0.5),
        }
        over += [
            f"{one.mean / paper:.1f} at {cut}"
            for one, paper, cut in zip(errors, PAPER[network], PAIRS[network], strict=True)
        ]
        told.append(_said_of_steps(network, found))
    sentence = (
        f"The error grows to {' and '.join(number(gap.mean, 2) for gap in gaps.values())} times between the paper's "
        f"cuts (the paper: {' and '.join(number(_gap(network), 2) for network in gaps)}). {'; '.join(told)}. These "
        f"attackers' errors are so many times the paper's: {', '.join(over)}."
    )
    return judged(parts, min(map(len, of.values())), sentence, findings)


def _said_of_steps(network: str, records: list[Record]) -> str:
    """Where a network's curve rises most, along all attacked cuts and along blocks alone, and what lies in the pair."""
    along, among = (
        " and ".join(dict.fromkeys(_steepest_between(record, listed=listed) for record in records))
        for listed in (False, True)
    )
    steep, there = (100 * np.mean([value(record) for record in records]) for value in (steepest_share, _share_in_pair))
    return (
        f"{CALLED[network]} rises most from {along}, by {steep:.0f} % of its whole rise, between blocks alone from "
        f"{among}; between the paper's cuts lie {there:.0f} %"
    )


def _lies_between(record: Record, pair: tuple[str, str]) -> bool:
    """Whether the steepest step between blocks lies between two cuts."""
    (low, high), ends = _steepest(record, listed=True), [row_of(record, cut)["depth"] for cut in pair]
    return ends[0] <= low and high <= ends[1]


def _gap(network: str) -> float:
    """How many times the paper's error at its feature-level cut that at its decision-level one is."""
    shallow, deep = PAPER[network]
    return deep / shallow


def _steepest_between(record: Record, *, listed: bool = False) -> str:
    low, high = _steepest(record, listed=listed)
    names = {row["depth"]: row["cut"] for row in attacked(record)}
    return f"{names[low]} to {names[high]}"


def _share_in_pair(record: Record) -> float:
    ratio = np.maximum.accumulate(curve_of(record)[1])
    shallow, deep = (best(row_of(record, cut)) for cut in PAIRS[record["network"]])
    return (deep - shallow) / float(ratio[-1] - ratio[0])


#: With skip connections, and without.
RESIDUAL, PLAIN = ("resnet18", "resnet50", "ir152"), ("vgg19", "cnn")

#: What "later" may mean: three ways to say where along its cuts a network begins to resist.
LATER: dict[str, Callable[[Record], float]] = {
    "the curve's bend": bend_of,
    f"an error above {READABLE_RATIO} of the class mean's (no longer readable)": lambda r: depth_of(r, READABLE_RATIO),
    f"an error above {PARTLY_RATIO} of the class mean's (traces)": lambda r: depth_of(r, PARTLY_RATIO),
}


def delay(records: Records) -> Judged:
    """Networks with skip connections begin to resist later than those without, and a ViT nowhere."""
    of = {name: found for name in (*PLAIN, *RESIDUAL, "vit") if (found := seeds_of(records, name))}
    if missing := [name for name in ("vgg19", "ir152", "vit") if name not in of]:
        return not_tested(f"{', '.join(missing)} on CIFAR-10")
    plain = [name for name in PLAIN if name in of]
    depths = {
        (name, way): finding(f"{CALLED[name]}: relative depth of {way}", None, found, value, "share")
        for way, value in LATER.items()
        for name, found in of.items()
    }
    ends = {
        name: finding(f"{CALLED[name]}: error over the class mean's at its last block", None, found, _at_last_block)
        for name, found in of.items()
    }
    parts: dict[str, bool | None] = {
        f"{CALLED[name]}, later than {' and '.join(CALLED[other] for other in plain)}: {way}": every(
            *(exceeds(depths[name, way].values, depths[other, way].values) for other in plain)
        )
        for name in RESIDUAL
        if name in of
        for way in LATER
    }
    vit = of["vit"]
    jump = finding("ViT: share of the curve's rise in its steepest step", None, vit, steepest_share, "share")
    named = {view: sum(has_zone(one["views"][view]) for one in vit) for view in VIEWS}
    parts |= {
        "ViT: readable at its last block": ends["vit"].mean <= READABLE_RATIO,
        "ViT: rule null names no zone before the logits, by any view": not any(named.values()),
        "ViT: no step of its curve takes more than half of the rise": jump.mean <= 0.5,
    }
    said = "; ".join(
        f"{way}: {', '.join(f'{CALLED[name]} {number(depths[name, way].mean, 2)}' for name in of)}" for way in LATER
    )
    steps = " and ".join(dict.fromkeys(_steepest_between(one) for one in vit))
    sentence = (
        f"Relative depth of {said}. Behind its last block the ViT leaves {number(ends['vit'].mean, 2)} of the class "
        f"mean's error; {100 * jump.mean:.0f} % of its rise is the step from {steps}. Rule null names a zone before "
        f"the logits in {', '.join(f'{named[v]} of {len(vit)} runs by {words}' for v, words in VIEWS.items())}. No "
        "network here differs from another by its skip connections alone."
    )
    return judged(parts, min(map(len, of.values())), sentence, (*depths.values(), *ends.values(), jump))


#: Views of a ViT's tokens, in words.
VIEWS = {"tokens": "its tokens", "mean": "their mean", "first": "the class token"}


def _at_last_block(record: Record) -> float:
    """The error over the class mean's at the deepest attacked cut that is a block or an entry of the paper's list."""
    return best(_last_block(record))


def _last_block(record: Record) -> Record:
    return [row for row in attacked(record) if is_listed(row["cut"])][-1]


def data_moves(records: Records) -> Judged:
    """On FaceScrub the zone begins earlier than on CIFAR-10, on KMNIST later: by rules, and by the attack's curve."""
    of = {data: seeds_of(records, "vgg19", data) for data in ("facescrub20", "cifar10", "kmnist")}
    if not all(of.values()):
        return not_tested(f"VGG19 on {', '.join(name for name, found in of.items() if not found)}")
    besides = {data: found for data in ("lfw", "chest_xray") if (found := seeds_of(records, "vgg19", data))}
    ways = {
        "by rule paper (its largest drop)": lambda record: onset_depth(record, "paper"),
        "by rule null": lambda record: onset_depth(record, "null"),
        "by the attack's curve": bend_of,
    }
    findings, said, last = [], [], []
    parts: dict[str, bool | None] = {}
    for way, value in ways.items():
        three, other = (
            [finding(f"{data}: relative depth {way}", None, found, value, "share") for data, found in some.items()]
            for some in (of, besides)
        )
        face, cifar, kmnist = three
        parts[f"earlier on FaceScrub {way}"] = exceeds(cifar.values, face.values)
        if min(cifar.mean, kmnist.mean) < 1:
            parts[f"later on KMNIST {way}"] = exceeds(kmnist.values, cifar.values)
        else:
            last.append(way)
        further = [f"{data} {number(one.mean, 2)}" for data, one in zip(besides, other, strict=True)]
        said.append(
            f"{way} {number(face.mean, 2)}, {number(cifar.mean, 2)}, {number(kmnist.mean, 2)}"
            + (f" ({', '.join(further)})" if further else "")
        )
        findings += three + other
    few = number(np.mean([record["auxiliary"] for record in of["facescrub20"]]))
    sentence = (
        f"VGG19 on FaceScrub, CIFAR-10 and KMNIST: it turns at relative depth {'; '.join(said)}. "
        + (
            f"{' and '.join(last).capitalize()} it is the last cut on KMNIST and CIFAR-10: not to be told. "
            * bool(last)
        )
        + "Of FaceScrub's "
        f"twenty people the attacker has {few} images, and the network's accuracy is "
        f"{_accuracy(of['facescrub20'])} %; {_by_linear(of['facescrub20'])}. Attacked cuts "
        f"lie {number(np.mean(np.diff(curve_of(of['cifar10'][0])[0])), 2)} apart on average."
    )
    return judged(parts, min(map(len, of.values())), sentence, findings)


def _by_linear(records: list[Record]) -> str:
    """At how many cuts no decoder does better than the linear map."""
    rows = [row for record in records for row in attacked(record)]
    ahead = sum(best(row, "mse", ("linear",)) <= best(row, "mse", tuple(row["attacks"])) for row in rows)
    each = f"{len(rows)} attacked cuts" + (f", {len(records)} seeds together," if len(records) > 1 else "")
    return f"at {ahead} of {each} no decoder does better than the linear map"


def _accuracy(records: list[Record]) -> str:
    return f"{100 * np.mean([record['accuracy'] for record in records]):.0f}"


#: Who attacks: the plain decoder, one with attention, one on enriched z, and the best of these and the linear map.
ATTACKERS = {"plain": ("deconvolution",), **{name: (name,) for name in STRONGER}, "best": EVERYWHERE + STRONGER}


def advantage(records: Records) -> Judged:
    """The error at the decision level is four times that at the feature level, 66 % of it whoever attacks."""
    of = {name: attacked_at(seeds_of(records, name), PAIRS[name], ATTACKERS["best"]) for name in PAIRS}
    if not all(of.values()):
        return not_tested("IR-152 and VGG19 on CIFAR-10, attacked by the stronger attackers too")

    def gained(record: Record, attacker: str) -> float:
        """Of the error at the decision-level cut the part by which it is above that at the feature-level one."""
        shallow, deep = (best(row_of(record, cut), "mse", ATTACKERS[attacker]) for cut in PAIRS[record["network"]])
        return 1 - shallow / deep

    times = {
        name: finding(
            f"{CALLED[name]}: MSE at {PAIRS[name][1]} over {PAIRS[name][0]}, best attacker", paper, found,
            lambda record: 1 / (1 - gained(record, "best")),
        )
        for (name, found), paper in zip(of.items(), (4.0, None), strict=True)
    }  # fmt: skip
    shares = {
        (name, attacker): finding(
            f"{CALLED[name]}: 1 - MSE({PAIRS[name][0]})/MSE({PAIRS[name][1]}), {attacker}",
            1 - 1 / _gap(name) if attacker == "plain" else None, found, lambda r, a=attacker: gained(r, a),
        )
        for name, found in of.items()
        for attacker in ATTACKERS
    }  # fmt: skip
    means = {
        attacker: Finding(
            f"mean of both: 1 - MSE/MSE, {attacker}", 0.66 if attacker == "best" else None,
            tuple(np.mean(list(zip(*(shares[name, attacker].values for name in of), strict=False)), axis=1).tolist()),
        )
        for attacker in ATTACKERS
    }  # fmt: skip
    parts: Mapping[str, bool | None] = {
        "IR-152's error is four times as large": times["ir152"].mean >= 4,
        "66 % of it is gained on average, the best attacker at each cut": means["best"].mean >= 0.66,
    } | {
        f"it stays {how}: three quarters or more of the plain decoder's gain": means[attacker].mean
        >= 0.75 * means["plain"].mean
        for attacker, how in zip(STRONGER, ("with attention", "on enriched z"), strict=True)
    }
    said = "; ".join(
        f"{CALLED[name]}: {number(times[name].mean, 2)} times, {100 * shares[name, 'best'].mean:.0f} % with the best "
        f"attacker at each cut, {100 * shares[name, 'plain'].mean:.0f} % with the plain decoder"
        for name in PAIRS
    )
    sentence = (
        f"Error at the decision level over that at the feature level, and the part of it that is gained: {said}; on "
        f"average {', '.join(f'{name} {100 * mean.mean:.0f} %' for name, mean in means.items())}. By the paper's own "
        f"table its plain decoder gains {100 - 100 / _gap('ir152'):.0f} % at IR-152, {number(_gap('ir152'), 2)} "
        f"times, and {100 - 100 / _gap('vgg19'):.0f} % at VGG19. Of IR-152 {_by_linear(of['ir152'])}, so that what "
        "its decoders gain says little."
    )
    findings = (*times.values(), *means.values(), *shares.values())
    return judged(parts, min(map(len, of.values())), sentence, findings)


def drop_locates(records: Records) -> Judged:
    """The cut at which R_c² drops most lies where the attack's curve rises most."""
    of: dict[tuple[str, str], list[Record]] = {}
    for record in records.values():
        if len(attacked(record)) > 3:
            of.setdefault((record["network"], record["data"]), []).append(record)
    if not of:
        return not_tested("a network whose curve of attacks is known")
    far = [
        finding(
            f"{CALLED[name]} on {data}: depth between the largest drop and the steepest rise", None, found, _distance
        )
        for (name, data), found in of.items()
    ]

    def mean(value: Callable[[Record], float]) -> float:
        """Over seeds, then over networks."""
        return float(np.mean([np.mean([value(record) for record in found]) for found in of.values()]))

    inside, chance, among = mean(_in_steepest), mean(_chance), mean(lambda record: _in_steepest(record, listed=True))
    distance, guess = mean(_distance), mean(_distance_by_chance)
    sentence = (
        f"The largest drop of R_c² lies in the steepest step of the attack's curve in {100 * inside:.0f} % of "
        f"{len(of)} networks ({sum(name == 'vgg19' for name, _ in of)} of them VGG19; mean over their seeds; of a cut "
        f"drawn at random {100 * chance:.0f} %), in that between "
        f"blocks alone in {100 * among:.0f} %; between the two lie {number(distance, 2)} of the depth on average (at "
        f"random: {number(guess, 2)}). What a cut chosen by it costs: docs/findings/predictors.md."
    )
    parts = {
        "in the steepest step in more than half of the networks": inside > 0.5,
        "half as far from it as a cut drawn at random, or less": distance < 0.5 * guess,
    }
    return judged(parts, min(map(len, of.values())), sentence, far)


def _steepest(record: Record, *, listed: bool = False) -> tuple[float, float]:
    """Depths between which the attack's curve, made rising, rises most; ``listed`` as in :func:`curve_of`."""
    depth, ratio = curve_of(record, listed=listed)
    at = int(np.argmax(np.diff(np.maximum.accumulate(ratio))))
    return float(depth[at]), float(depth[at + 1])


def _drops(record: Record) -> list[tuple[float, float]]:
    """Depth, and the share of R_c² that is lost since the cut before, of every cut that may be taken."""
    rows = [row for row in record["cuts"] if row["valid"] and row["test"].get("drop") is not None]
    return [(row["depth"], row["test"]["drop"]) for row in rows]


def _largest_drop(record: Record) -> float:
    return max(_drops(record), key=lambda pair: pair[1])[0]


def _distance(record: Record) -> float:
    return abs(_largest_drop(record) - float(np.mean(_steepest(record))))


def _distance_by_chance(record: Record) -> float:
    return float(np.mean([abs(depth - np.mean(_steepest(record))) for depth, _ in _drops(record)]))


def _in_steepest(record: Record, *, listed: bool = False) -> bool:
    low, high = _steepest(record, listed=listed)
    return low < _largest_drop(record) <= high


def _chance(record: Record) -> float:
    low, high = _steepest(record)
    return float(np.mean([low < depth <= high for depth, _ in _drops(record)]))
