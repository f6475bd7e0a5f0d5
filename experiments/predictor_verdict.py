"""The answers of the predictors' study in words, of the networks' JSON files and records (not an experiment)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import predictor_statistics as ps
from common import Row
from predictor_records import MEASURED, PREDICTORS, RULES, YARDSTICK, Record
from predictor_report import COMBINED, TAKEN, Scores, chosen_out_of_sample, order_of, said, scores_of

#: What is left out of the networks that say what a predictor means, where the architecture is as well.
APART = ("data", "family")


class Answer(NamedTuple):
    """An answer in words.

    Attributes:
      about: what it answers.
      words: what decides, short enough for a terminal.
      more: what the page says behind it.
      shown: whether the terminal shows it at all.
    """

    about: str
    words: str
    more: str = ""
    shown: bool = True

    @property
    def line(self) -> str:
        """For the terminal."""
        return f"{self.about}: {self.words}"


def answers_of(rows: Sequence[Row], records: Sequence[Record], networks: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """The answers of the study's own networks."""
    by_name, scores = {row["predictor"]: row for row in rows}, scores_of(records)
    return [
        _of_the_deepest(records, by_name),
        of_onsets("regret where a zone begins, logits excluded", records),
        _of_ratios_at_onset(records),
        _of_what_is_chosen(by_name),
        *_of_the_rules(records, scores, by_name),
        _of_order(by_name),
        _of_order_between(records, scores),
        *_of_the_ratio(records, scores, by_name),
        _of_the_linear_attack(records, networks),
        _of_the_decoders(networks),
    ]


# Choosing a cut -------------------------------------------------------------------------------------------------------


def deepest_is_best(records: Sequence[Record]) -> tuple[int, int]:
    """In how many of the choices, one a network and budget, no cut that is allowed leaks less than the deepest."""
    leaks = ps.leaks_of(records, ps.oriented(records, "depth"), "ratio")
    return int(np.sum(leaks[..., 0] <= leaks[..., 1])), leaks[..., 0].size


def _of_the_deepest(records: Sequence[Record], by_name: Mapping[str, Row]) -> Answer:
    best, choices = deepest_is_best(records)
    return Answer(
        "what to do within a budget",
        f"take the deepest cut allowed, the least bad one: it leaked least in {best} of {choices} choices "
        f"({len(records)} networks, {len(ps.BUDGETS)} budgets each), regret {said(by_name['depth'], 'regret_ratio')}. "
        "It need not be safe: attack it",
        f"Regret by images named {said(by_name['depth'], 'regret_identified')}. Nothing can beat what is best in every "
        "choice; what is measured can only tie or lose",
    )


def of_onsets(about: str, records: Sequence[Record], groups: Sequence[str] = ("name",)) -> Answer:
    """What it costs to cut where a zone begins, of the networks where that is before the logits.

    Args:
      about: what it answers.
      records: the networks.
      groups: networks that are alike in these are resampled together.
    """
    found = {rule: onset_of(records, rule, groups) for rule in RULES}
    worst = "; ".join(f"rule {rule!r} {worst}" for rule, (_, worst) in found.items() if worst)
    words = ", ".join(f"rule {rule!r} {words}" for rule, (words, _) in found.items())
    return Answer(about, words, f"Worst networks: {worst}" if worst else "")


def onset_of(records: Sequence[Record], rule: str, groups: Sequence[str]) -> tuple[str, str]:
    """A rule's regret at its own choice, and at which networks it is worst, in words."""
    own = [one for one in records if ps.begins_before_logits(one, rule)]
    if not own:
        return "names none", ""
    leaks = ps.leaks_at_onset(own, rule, "ratio")
    found = ps.said(*ps.regret_of(leaks, ps.groups_of(own, *groups)))
    return f"{found} ({len(own)} of {len(records)} networks)", worst_of([one.name for one in own], leaks)


def _of_what_is_chosen(by_name: Mapping[str, Row]) -> Answer:
    measured = [by_name[name] for name in MEASURED]
    choice = min(measured, key=lambda row: (round(row["regret_ratio"], 6), -order_of(row)))
    taken = [f"{_LONG[name]} {said(by_name[name], 'regret_ratio')} ({_taken(by_name[name])})" for name in TAKEN]
    return Answer(
        "regret of what is measured",
        f"the best, {choice['label']}, {said(choice, 'regret_ratio')}; " + "; ".join(taken),
        shown=False,
    )


#: Labels of what is chosen out of sample, for a sentence.
_LONG = {
    "chosen": "what is chosen on the other data sets",
    "chosen_measured": "what is chosen on the other data sets with depth left out",
}


def _taken(row: Row) -> str:
    """Which predictors were chosen, and for how many data sets."""
    names = [PREDICTORS[one.split(": ")[1]].label for one in row["taken_ratio"].split(", ")]
    return ", ".join(f"{name} for {names.count(name)} of {len(names)}" for name in dict.fromkeys(names))


def _of_the_rules(records: Sequence[Record], scores: Scores, by_name: Mapping[str, Row]) -> list[Answer]:
    each = {rule: ps.regrets(ps.leaks_of_rule(records, rule, "ratio")) for rule in RULES}
    at_budgets = "; ".join(f"rule {rule!r} {', '.join(f'{v:.2f}' for v in found)}" for rule, found in each.items())
    means = ", ".join(f"rule {rule!r} {said(by_name[rule], 'regret_ratio')}" for rule in RULES)
    duels = [f"rule {rule!r} minus that of {_LONG[name]} {_duel(records, scores, rule, among)}"
             for name, (among, _) in TAKEN.items() for rule in RULES]  # fmt: skip
    return [
        Answer(
            "regret of the rules, mean over the budgets",
            f"{means}; budget by budget: {at_budgets}",
            "The small ones are no merit: where the onset is not allowed yet, or there is none, the deepest cut is "
            "taken for it",
            shown=False,
        ),
        Answer("the rules against a predictor", f"regret of {'; '.join(duels)}", shown=False),
    ]


def worst_of(names: Sequence[str], leaks: np.ndarray) -> str:
    """Whose leak is the largest multiple of the best cut's, of ``(names, 1, 2)``; and those whose best leaks none."""
    chosen, best = leaks[:, 0].T
    times = np.divide(chosen, best, out=np.full(len(best), -np.inf), where=best > 0)
    first = int(np.argmax(times))
    found = [f"{names[first]} {times[first]:.2f}"] if times[first] > 1 else []
    found += [f"{name} {c:.2f} for 0" for name, c, b in zip(names, chosen, best, strict=True) if b == 0 and c > 0]
    return ", ".join(found) or "none"


def _duel(records: Sequence[Record], scores: Scores, rule: str, among: Sequence[str]) -> str:
    """Regret of a rule minus that of what is chosen out of sample, on the same networks."""
    ours, _ = chosen_out_of_sample(records, scores, "ratio", among)
    theirs = ps.leaks_of_rule(records, rule, "ratio")

    def minus(at: np.ndarray) -> float:
        return ps.regret(theirs[at]) - ps.regret(ours[at])

    (low, high), (wide_low, wide_high) = (
        ps.interval(of, minus) for of in (len(records), ps.groups_of(records, "data"))
    )
    return (
        f"{minus(np.arange(len(records))):+.3f} [{low:+.3f}, {high:+.3f}], data sets resampled "
        f"[{wide_low:+.3f}, {wide_high:+.3f}]"
    )


def _of_ratios_at_onset(records: Sequence[Record]) -> Answer:
    """What the best attack is left with where a zone begins."""
    words = []
    for rule in RULES:
        found = ps.ratios_at_onset(records, rule)
        words.append(
            f"rule {rule!r} {ps.said(*ps.mean_of(found))}, from {found.min():.2f} to {found.max():.2f} "
            f"({len(found)} of {len(records)} networks have a zone)"
            if len(found)
            else f"rule {rule!r} names no zone"
        )
    return Answer("ratio where a zone begins (1: as safe as the class alone)", "; ".join(words))


# Order and ratio ------------------------------------------------------------------------------------------------------


def _of_order(by_name: Mapping[str, Row]) -> Answer:
    best = max((by_name[name] for name in MEASURED), key=order_of)
    names = ("depth", YARDSTICK)
    others = ", ".join(f"{by_name[name]['label']} {said(by_name[name], 'within_ratio')}" for name in names)
    return Answer(
        "order of a network's cuts, Spearman",
        f"{others}; the best of what is measured without an attack: {best['label']} {said(best, 'within_ratio')}",
    )


def _of_order_between(records: Sequence[Record], scores: Scores) -> Answer:
    """The same predictor may have either sign, so that its mean over the depths says little."""
    found = {name: ps.across_at(records, scores[name], "ratio")[0] for name in ("rho", "evidence")}
    words = ", ".join(f"{name} {values[0]:+.2f} at a quarter of the depth and {values[-1]:+.2f} at the logits"
                      for name, values in found.items())  # fmt: skip
    return Answer("order of networks at equal depth", f"{words} (Spearman; above 0 as theory has it)", shown=False)


def _of_the_ratio(records: Sequence[Record], scores: Scores, by_name: Mapping[str, Row]) -> list[Answer]:
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
        Answer(
            "ratio of a cut, predicted from the other data sets",
            "off by "
            + ", ".join(f"{said(by_name[name], 'error')} by {by_name[name]['label']}" for name in told)
            + f", {nothing[0]:.2f} by a constant",
            f"Not told apart from depth: {', '.join(alike) or 'none'}; all together "
            f"{said(by_name[COMBINED], 'error')}, minus depth "
            f"{_more(ps.errors(records, scores[COMBINED]) - depth)}",
        ),
        Answer(
            "ratio, predicted from other architectures on other data sets",
            "off by "
            + ", ".join(f"{value:.2f} by {by_name[name]['label']}" for name, value in apart.items())
            + f", {nothing[1]:.2f} by a constant",
            shown=False,
        ),
        Answer(
            "grade, by the ratio alone, predicted from the other data sets",
            "right at "
            + ", ".join(f"{by_name[name]['grade']:.0%} of the cuts by {by_name[name]['label']}" for name in told)
            + f", {right:.0%} by a constant",
            shown=False,
        ),
    ]


def _more(each: np.ndarray) -> str:
    """A difference, one a network, in words."""
    value, low, high = ps.mean_of(each)
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


# The linear attack ----------------------------------------------------------------------------------------------------


def _of_the_linear_attack(records: Sequence[Record], networks: Sequence[Mapping[str, Any]]) -> Answer:
    """How far the ratio it is left with, on images that are not attacked, is from that of the best of the three."""
    cuts = [cut["attacks"] for network in networks for cut in network["cuts"]]
    first = np.array([attacks["linear"]["ratio"] <= min(one["ratio"] for one in attacks.values()) for attacks in cuts])
    more = [one.values[YARDSTICK] - one.resistance["ratio"] for one in records]
    logits, more = np.array([each[-1] for each in more]), np.concatenate(more)
    grade = np.mean(ps.grades(records, [one.values[YARDSTICK] for one in records]))
    return Answer(
        "ridge error (the linear attack on other images) taken as it is for the ratio",
        f"off by {np.mean(np.abs(more)):.3f}, at the logits by {np.mean(np.abs(logits)):.3f}; where a decoder is the "
        f"best attacker the cut looks safer than it is at {np.sum(more[~first] > 0)} of {np.sum(~first)}",
        f"Mean difference at the logits {np.mean(logits):+.3f} (above 0: safer than it is); "
        f"the grade is right at {grade:.0%}. It is one of the three "
        f"attackers, and the best at {np.mean(first):.0%} of the cuts: off by {_off(more[first])} there. Where a "
        f"decoder is the best it is off by {_off(more[~first])}",
    )


def _of_the_decoders(networks: Sequence[Mapping[str, Any]]) -> Answer:
    """How far they were trained."""
    attacks = [cut["attacks"] for network in networks for cut in network["cuts"]]
    decoders = [one for made in attacks for name, one in made.items() if name != "linear"]
    late = sum(not one["flattened"] for one in decoders)
    return Answer(
        "decoders",
        f"trained for {max(one['epochs'] for one in decoders)} epochs at most; the loss of {late} of {len(decoders)} "
        "had not flattened by then (a last gain under 1 %). Stronger ones could put the ridge error further off",
        shown=False,
    )


def _off(more: np.ndarray) -> str:
    return f"{np.mean(np.abs(more)):.3f}, up to {np.max(np.abs(more)):.3f}" if len(more) else "nothing"
