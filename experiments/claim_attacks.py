"""Claims of what attackers get, judged from the units' numbers alone (not an experiment)."""

from collections.abc import Callable

import numpy as np
from claim_numbers import (
    EVERYWHERE,
    PAIRS,
    STRONGER,
    Judged,
    Record,
    Records,
    attacked,
    attacked_at,
    bend_of,
    best,
    curve_of,
    exceeds,
    finding,
    is_listed,
    judged,
    not_tested,
    onset_depth,
    row_of,
    seeds_of,
    steepest_share,
)
from targets import PAPER

from gpz_jax.presentation import number


def main_table(records: Records) -> Judged:
    """The error at a decision-level cut over that at a feature-level one, as large as the paper's; and a jump."""
    ir, vgg = (attacked_at(seeds_of(records, name), PAIRS[name]) for name in PAIRS)
    if not (ir and vgg):
        return not_tested("IR-152 and VGG19 on CIFAR-10")

    def over(record: Record, deep: str, shallow: str) -> float:
        return best(row_of(record, deep), "mse") / best(row_of(record, shallow), "mse")

    def level(cut: str) -> Callable[[Record], float]:
        return lambda record: best(row_of(record, cut), "mse_paper")

    gaps = (
        finding("IR-152: MSE at block 50 over block 40", _gap("ir152"), ir, lambda r: over(r, "block_50", "block_40")),
        finding("VGG19: MSE at entry 39 over entry 30", _gap("vgg19"), vgg, lambda r: over(r, "layer_39", "layer_30")),
    )
    levels = tuple(
        finding(f"{name} {cut}: MSE, the paper's convention", paper, of, level(cut))
        for name, of, cut, paper in (
            (name, of, *pair)
            for name, key, of in (("IR-152", "ir152", ir), ("VGG19", "vgg19", vgg))
            for pair in zip(PAIRS[key], PAPER[key], strict=True)
        )
    )
    jumps = (
        finding("IR-152: share of the curve's rise in its steepest step (a jump: 1)", None, ir, steepest_share),
        finding("VGG19: the same share", None, vgg, steepest_share),
    )
    bends = (
        finding("IR-152: relative depth of the bend", None, ir, bend_of),
        finding("VGG19: relative depth of the bend", None, vgg, bend_of),
    )
    at = tuple(
        finding(f"{name}: share of the rise that lies between the paper's cuts", None, of, _share_in_pair)
        for name, of in (("IR-152", ir), ("VGG19", vgg))
    )
    networks = ("IR-152", "VGG19")
    parts = {
        f"{name}: as many times as the paper's": gap.mean >= (gap.paper or 0)
        for name, gap in zip(networks, gaps, strict=True)
    } | {
        f"{name}: a jump (more than half of the curve's rise in one step) between the paper's cuts": jump.mean > 0.5
        and there.mean > 0.5
        for name, jump, there in zip(networks, jumps, at, strict=True)
    }
    places = [" and ".join(dict.fromkeys(_steepest_between(record) for record in found)) for found in (ir, vgg)]
    among = [" and ".join(dict.fromkeys(_steepest_between(one, listed=True) for one in found)) for found in (ir, vgg)]
    sentence = (
        f"The error grows to {number(gaps[0].mean, 2)} and {number(gaps[1].mean, 2)} times between the paper's cuts "
        f"(the paper: {number(gaps[0].paper or 0, 2)} and {number(gaps[1].paper or 0, 2)}). The steepest step between "
        f"attacked cuts is {places[0]} in IR-152 and {places[1]} in VGG19, with {100 * jumps[0].mean:.0f} and "
        f"{100 * jumps[1].mean:.0f} % of the curve's rise; between blocks alone it is {among[0]} and {among[1]}. "
        f"Between the paper's cuts lie {100 * at[0].mean:.0f} and {100 * at[1].mean:.0f} %."
    )
    return judged(parts, min(len(ir), len(vgg)), sentence, (*gaps, *levels, *jumps, *at, *bends))


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


def delay(records: Records) -> Judged:
    """The attack's curve bends later in networks with residual connections, and least in the ViT."""
    of = {name: seeds_of(records, name) for name in ("vgg19", "resnet50", "ir152", "vit")}
    if not all(of.values()):
        return not_tested(f"{', '.join(name for name, found in of.items() if not found)} on CIFAR-10")
    bends = {name: finding(f"{name}: relative depth of the bend", None, found, bend_of) for name, found in of.items()}
    ends = {
        name: finding(f"{name}: error over the class mean's at the last block", None, found, _at_last_block)
        for name, found in of.items()
    }
    views = tuple(
        finding(f"vit: relative depth of rule null's onset, view {view}", None, of["vit"], _onset_by_view(view))
        for view in ("tokens", "mean", "first")
        if all("views" in record for record in of["vit"])
    )
    parts = {
        f"{name} bends later than vgg19": exceeds(bends[name].values, bends["vgg19"].values)
        for name in ("resnet50", "ir152")
    }
    parts["at its last block the vit leaves less than half of vgg19's error"] = exceeds(
        [value / 2 for value in ends["vgg19"].values], ends["vit"].values
    )
    said = ", ".join(f"{name} {number(bend.mean, 2)}" for name, bend in bends.items())
    at_end = ", ".join(f"{name} {number(end.mean, 2)}" for name, end in ends.items())
    sentence = (
        f"The curve bends at relative depth {said}; behind the last block (the last that was attacked: "
        f"{', '.join(_last_block(found[0])['cut'] for found in of.values())}) the error over the class mean's is "
        f"{at_end}."
    )
    if views:
        by_view = ", ".join(number(one.mean, 2) for one in views)
        sentence += (
            f" Rule null sees a zone of the ViT from depth {by_view} by its tokens, their mean, the class token."
        )
    return judged(parts, min(map(len, of.values())), sentence, (*bends.values(), *ends.values(), *views))


def _onset_by_view(view: str) -> Callable[[Record], float]:
    return lambda record: onset_depth(record, "null", view)


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
        "by rule paper": lambda record: onset_depth(record, "paper"),
        "by rule null": lambda record: onset_depth(record, "null"),
        "by the attack's curve": bend_of,
    }
    findings, said = [], []
    parts: dict[str, bool | None] = {}
    for way, value in ways.items():
        three = [finding(f"{data}: relative depth {way}", None, found, value) for data, found in of.items()]
        face, cifar, kmnist = three
        parts[f"earlier on FaceScrub {way}"] = exceeds(cifar.values, face.values)
        parts[f"later on KMNIST {way}"] = exceeds(kmnist.values, cifar.values)
        other = [finding(f"{data}: relative depth {way}", None, found, value) for data, found in besides.items()]
        further = [f"{data} {number(one.mean, 2)}" for data, one in zip(besides, other, strict=True)]
        said.append(
            f"{way} {number(face.mean, 2)}, {number(cifar.mean, 2)}, {number(kmnist.mean, 2)}"
            + (f" ({', '.join(further)})" if further else "")
        )
        findings += three + other
    few = number(np.mean([record["auxiliary"] for record in of["facescrub20"]]))
    sentence = (
        f"VGG19 on FaceScrub, CIFAR-10 and KMNIST: the zone begins at relative depth {'; '.join(said)}. Of FaceScrub's "
        f"twenty people the attacker has {few} images, and the network names "
        f"{_accuracy(of['facescrub20'])} % of the test images rightly; {_by_linear(of['facescrub20'])}. Attacked cuts "
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

    def errors(record: Record, attacker: str) -> tuple[float, float]:
        shallow, deep = (row_of(record, cut) for cut in PAIRS[record["network"]])
        return tuple(best(row, "mse", ATTACKERS[attacker]) for row in (shallow, deep))  # pyright: ignore

    def share(attacker: str) -> Callable[[Record], float]:
        return lambda record: 1 - errors(record, attacker)[0] / errors(record, attacker)[1]

    times = {
        name: finding(
            f"{name}: MSE at {PAIRS[name][1]} over {PAIRS[name][0]}, best attacker", paper, found, _times(errors)
        )
        for (name, found), paper in zip(of.items(), (4.0, None), strict=True)
    }
    shares = {
        (name, attacker): finding(
            f"{name}: 1 - MSE({PAIRS[name][0]})/MSE({PAIRS[name][1]}), {attacker}", 0.66, found, share(attacker)
        )
        for name, found in of.items()
        for attacker in ATTACKERS
    }
    mean = {attacker: float(np.mean([shares[name, attacker].mean for name in PAIRS])) for attacker in ATTACKERS}
    parts = {
        "IR-152's error is four times as large": times["ir152"].mean >= 4,
        "66 % of it is gained on average, the best attacker at each cut": mean["best"] >= 0.66,
        "as much with attention, and with enriched z": all(mean[attacker] >= 0.66 for attacker in STRONGER),
    }
    said = "; ".join(
        f"{name}: {number(times[name].mean, 2)} times, {100 * shares[name, 'best'].mean:.0f} % with the best attacker "
        f"at each cut, {100 * shares[name, 'plain'].mean:.0f} % with the plain decoder"
        for name in PAIRS
    )
    sentence = (
        f"Error at the decision level over that at the feature level, and the part of it that is gained: {said}. By "
        f"the paper's own table its plain decoder gains {100 - 100 / _gap('ir152'):.0f} % at IR-152, "
        f"{number(_gap('ir152'), 2)} times, and {100 - 100 / _gap('vgg19'):.0f} % at VGG19. Of IR-152 "
        f"{_by_linear(of['ir152'])}, so that what its decoders gain says little."
    )
    return judged(parts, min(map(len, of.values())), sentence, (*times.values(), *shares.values()))


def _times(errors: Callable[[Record, str], tuple[float, float]]) -> Callable[[Record], float]:
    return lambda record: errors(record, "best")[1] / errors(record, "best")[0]


def drop_locates(records: Records) -> Judged:
    """The cut at which R_c² drops most lies where the attack's curve rises most."""
    named = {(r["network"], r["data"]): [] for r in records.values() if len(r.get("cuts", ())) > 2}
    for record in records.values():
        if (record.get("network"), record.get("data")) in named and len(attacked(record)) > 3:
            named[record["network"], record["data"]].append(record)
    of = {key: found for key, found in named.items() if found}
    if not of:
        return not_tested("a network whose curve of attacks is known")
    far = [
        finding(f"{name} on {data}: depth between the largest drop and the steepest rise", None, found, _distance)
        for (name, data), found in of.items()
    ]

    def mean(value: Callable[[Record], float]) -> float:
        """Over seeds, then over networks."""
        return float(np.mean([np.mean([value(record) for record in found]) for found in of.values()]))

    inside, chance, among = mean(_in_steepest), mean(_chance), mean(lambda record: _in_steepest(record, listed=True))
    distance, guess = mean(_distance), mean(_distance_by_chance)
    sentence = (
        f"The largest drop of R_c² lies in the steepest step of the attack's curve in {100 * inside:.0f} % of "
        f"{len(of)} networks (mean over their seeds; of a cut drawn by lot {100 * chance:.0f} %), in that between "
        f"blocks alone in {100 * among:.0f} %; between the two lie {number(distance, 2)} of the depth on average (by "
        f"lot: {number(guess, 2)}). What a cut chosen by it costs: [which number predicts](predictors.md)."
    )
    parts = {
        "in the steepest step in more than half of the networks": inside > 0.5,
        "half as far from it as a cut drawn by lot, or less": distance < 0.5 * guess,
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
