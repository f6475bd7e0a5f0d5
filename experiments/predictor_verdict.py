"""The answers of the predictors' study in words, of the networks' JSON files and records (not an experiment)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import predictor_statistics as ps
from common import Row
from predictor_records import MEASURED, PREDICTORS, RULES, YARDSTICK, Record
from predictor_report import COMBINED, TAKEN, Scores, chosen_out_of_sample, order_of, said, scores_of

#: What is left out of the networks that say what a predictor means, where the architecture is as well.
APART = ("data", "family")


def verdict_of(rows: Sequence[Row], records: Sequence[Record], networks: Sequence[Mapping[str, Any]]) -> list[str]:
    """The answer in words."""
    by_name, scores = {row["predictor"]: row for row in rows}, scores_of(records)
    return [
        _of_the_deepest(records, by_name),
        _of_what_is_chosen(records, by_name),
        *_of_the_rules(records, scores, by_name),
        _of_order(by_name),
        _of_order_between(records, scores),
        *_of_the_ratio(records, scores, by_name),
        *_of_the_linear_attack(records, networks),
        f"where a zone begins attackers still get much: {'; '.join(_at_onset(records, rule) for rule in RULES)}",
    ]


# Choosing a cut -------------------------------------------------------------------------------------------------------


def deepest_is_best(records: Sequence[Record]) -> tuple[int, int]:
    """In how many of the choices, one a network and budget, no cut that is allowed leaks less than the deepest."""
    leaks = ps.leaks_of(records, ps.oriented(records, "depth"), "ratio")
    return int(np.sum(leaks[..., 0] <= leaks[..., 1])), leaks[..., 0].size


def _of_the_deepest(records: Sequence[Record], by_name: Mapping[str, Row]) -> str:
    best, choices = deepest_is_best(records)
    return (
        f"what to do within a budget: take the deepest cut allowed. It was the best one in {best} of {choices} choices "
        f"({len(records)} networks, {len(ps.BUDGETS)} budgets): regret {said(by_name['depth'], 'regret_ratio')}, by "
        f"images named {said(by_name['depth'], 'regret_identified')}. Where it is the best in all nothing can beat it; "
        "what is measured can only tie or lose"
    )


def _of_what_is_chosen(records: Sequence[Record], by_name: Mapping[str, Row]) -> str:
    measured = [by_name[name] for name in MEASURED]
    choice = min(measured, key=lambda row: (round(row["regret_ratio"], 6), -order_of(row)))
    taken = [f"{label}: {said(by_name[name], 'regret_ratio')} ({_taken(by_name[name])})"
             for name, (_, label) in TAKEN.items()]  # fmt: skip
    return (
        f"regret of the best predictor that is measured, {choice['label']}: {said(choice, 'regret_ratio')}; of the one "
        + "; ".join(taken)
    )


def _taken(row: Row) -> str:
    """Which predictors were chosen, and for how many data sets."""
    names = [PREDICTORS[one.split(": ")[1]].label for one in row["taken_ratio"].split(", ")]
    return ", ".join(f"{name} for {names.count(name)} of {len(names)}" for name in dict.fromkeys(names))


def _of_the_rules(records: Sequence[Record], scores: Scores, by_name: Mapping[str, Row]) -> list[str]:
    each = {rule: ps.regrets(ps.leaks_of_rule(records, rule, "ratio")) for rule in RULES}
    at_budgets = "; ".join(f"rule {rule!r} {', '.join(f'{v:.2f}' for v in found)}" for rule, found in each.items())
    means = ", ".join(f"rule {rule!r} {said(by_name[rule], 'regret_ratio')}" for rule in RULES)
    duels = [f"rule {rule!r} less what is {label} {_duel(records, scores, rule, among)}"
             for among, label in TAKEN.values() for rule in RULES]  # fmt: skip
    return [
        "regret where a zone begins, of the networks where that is before the logits: "
        + "; ".join(regret_at_onset(records, rule) for rule in RULES),
        f"regret of the rules, mean over the budgets: {means}; budget by budget: {at_budgets}. The small ones are no "
        "merit: where the onset is not allowed yet, or there is none, the deepest cut is taken for it",
        f"the rules against a predictor: regret of {'; '.join(duels)}",
    ]


def regret_at_onset(records: Sequence[Record], rule: str) -> str:
    """A rule's regret at its own choice, in words."""
    leaks = ps.leaks_at_onset(records, rule, "ratio")
    if not len(leaks):
        return f"rule {rule!r} names none"
    found = ps.said(*ps.regret_of(leaks))
    names = [one.name for one in records if ps.begins_before_logits(one, rule)]
    return f"rule {rule!r} {found} ({len(leaks)} of {len(records)} networks; worst: {worst_of(names, leaks)})"


def worst_of(names: Sequence[str], leaks: np.ndarray) -> str:
    """Whose leak is the largest multiple of the best cut's, of ``(names, 1, 2)``; and those whose best leaks none."""
    chosen, best = leaks[:, 0].T
    times = np.divide(chosen, best, out=np.full(len(best), -np.inf), where=best > 0)
    first = int(np.argmax(times))
    found = [f"{names[first]} {times[first]:.2f}"] if times[first] > 1 else []
    found += [f"{name} {c:.2f} for 0" for name, c, b in zip(names, chosen, best, strict=True) if b == 0 and c > 0]
    return ", ".join(found) or "none"


def _duel(records: Sequence[Record], scores: Scores, rule: str, among: Sequence[str]) -> str:
    """Regret of a rule less that of what is chosen out of sample, on the same networks."""
    ours, _ = chosen_out_of_sample(records, scores, "ratio", among)
    theirs = ps.leaks_of_rule(records, rule, "ratio")

    def less(at: np.ndarray) -> float:
        return ps.regret(theirs[at]) - ps.regret(ours[at])

    (low, high), (wide_low, wide_high) = ps.interval(len(records), less), ps.interval_by_data(records, less)
    return (
        f"{less(np.arange(len(records))):+.3f} [{low:+.3f}, {high:+.3f}], data sets resampled "
        f"[{wide_low:+.3f}, {wide_high:+.3f}]"
    )


def _at_onset(records: Sequence[Record], rule: str) -> str:
    """What the best attack is left with where a rule's zone begins."""
    found = ps.ratios_at_onset(records, rule)
    if not len(found):
        return f"rule {rule!r} names no zone"
    return (
        f"at the onset of rule {rule!r} ({len(found)} of {len(records)} networks have a zone) the ratio is "
        f"{ps.said(*ps.mean_of(found))}, from {found.min():.2f} to {found.max():.2f}"
    )


# Order and ratio ------------------------------------------------------------------------------------------------------


def _of_order(by_name: Mapping[str, Row]) -> str:
    best = max((by_name[name] for name in MEASURED), key=order_of)
    names = ("depth", YARDSTICK)
    others = ", ".join(f"{by_name[name]['label']} {said(by_name[name], 'within_ratio')}" for name in names)
    return (
        f"order of a network's cuts: of what is measured without an attack {best['label']} has it best, Spearman "
        f"{said(best, 'within_ratio')}; {others}"
    )


def _of_order_between(records: Sequence[Record], scores: Scores) -> str:
    """The same predictor may have either sign, so that its mean over the depths says little."""
    found = {name: ps.across_at(records, scores[name], "ratio")[0] for name in ("rho", "evidence")}
    words = ", ".join(f"{name} {values[0]:+.2f} at a quarter of the depth and {values[-1]:+.2f} at the logits"
                      for name, values in found.items())  # fmt: skip
    return f"order of networks at equal depth: {words} (Spearman; above 0 as theory has it)"


def _of_the_ratio(records: Sequence[Record], scores: Scores, by_name: Mapping[str, Row]) -> list[str]:
    """How far it is off, by depth, the best and the best known predictor, the linear attack, and by nothing."""
    depth = ps.errors(records, ps.isotonic(records, scores["depth"]))
    more = {name: ps.errors(records, ps.isotonic(records, scores[name])) - depth for name in MEASURED}
    ends = {name: ps.mean_of(each)[1:] for name, each in more.items()}
    alike = [f"{PREDICTORS[n].label} ({_more(more[n])})" for n, (low, high) in ends.items() if low <= 0 <= high]
    best = min(more, key=lambda name: np.mean(more[name]))
    told = dict.fromkeys(("depth", best, "evidence", "rho", YARDSTICK))
    apart = {name: np.mean(ps.errors(records, ps.isotonic(records, scores[name], APART))) for name in told}
    nothing = [np.mean(ps.errors(records, ps.constant(records, keys))) for keys in (("data",), APART)]
    right = np.mean(ps.grades(records, ps.constant(records)))
    return [
        "ratio of a cut as networks on other data sets say it: off by "
        + ", ".join(f"{said(by_name[name], 'error')} by {by_name[name]['label']}" for name in told)
        + f", {nothing[0]:.2f} by a constant. Not told apart from depth: {', '.join(alike) or 'none'}; all together "
        f"{said(by_name[COMBINED], 'error')}, less depth {_more(ps.errors(records, scores[COMBINED]) - depth)}",
        "ratio as networks of other architectures on other data sets say it: off by "
        + ", ".join(f"{value:.2f} by {by_name[name]['label']}" for name, value in apart.items())
        + f", {nothing[1]:.2f} by a constant",
        "grade, by the ratio alone, as other data sets say it: right at "
        + ", ".join(f"{by_name[name]['grade']:.0%} of the cuts by {by_name[name]['label']}" for name in told)
        + f", {right:.0%} by a constant",
    ]


def _more(each: np.ndarray) -> str:
    """A difference, one a network, in words."""
    value, low, high = ps.mean_of(each)
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


# The linear attack ----------------------------------------------------------------------------------------------------


def _of_the_linear_attack(records: Sequence[Record], networks: Sequence[Mapping[str, Any]]) -> list[str]:
    """How far its word, on images that are not attacked, is from what the best of the three got."""
    cuts = [cut["attacks"] for network in networks for cut in network["cuts"]]
    first = np.array([attacks["linear"]["ratio"] <= min(one["ratio"] for one in attacks.values()) for attacks in cuts])
    more = [one.values[YARDSTICK] - one.resistance["ratio"] for one in records]
    logits, more = np.array([each[-1] for each in more]), np.concatenate(more)
    grade = np.mean(ps.grades(records, [one.values[YARDSTICK] for one in records]))
    decoders = [one for attacks in cuts for name, one in attacks.items() if name != "linear"]
    flat = sum(bool(one["flattened"]) for one in decoders)
    return [
        f"ridge error, the linear attack on other images, at its word: off by {np.mean(np.abs(more)):.3f}, at the "
        f"logits by {np.mean(np.abs(logits)):.3f} (mean, with sign: {np.mean(logits):+.3f}); the grade is right at "
        f"{grade:.0%}. It is one of the three attackers, and the best at {np.mean(first):.0%} of the cuts: off by "
        f"{_off(more[first])} there. Where a decoder is the best it is off by {_off(more[~first])}, and the cut looks "
        f"safer than it is at {np.sum(more[~first] > 0)} of {np.sum(~first)}",
        f"decoders were made ready quickly: {flat} of {len(decoders)} had flattened (a last gain under 1 %) after "
        f"{max(one['epochs'] for one in decoders)} epochs or fewer. Stronger ones put the ridge error further off",
    ]


def _off(more: np.ndarray) -> str:
    return f"{np.mean(np.abs(more)):.3f}, up to {np.max(np.abs(more)):.3f}" if len(more) else "nothing"
