"""All that the networks' JSON files say, and what docs/findings/predictors.md says of it (not an experiment)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import predictor_holdout as holdout
import predictor_report as report
import predictor_statistics as ps
from common import Outcome, Row
from predictor_records import PREDICTORS, RULES, Record, record_of
from predictor_report import said
from predictor_verdict import Answer, answers_of, onset_of

from gpz_jax.atomic import write_text
from gpz_jax.errors import UserError

#: Between these two lines of the findings' page lies what is made of the networks.
BEGIN, END = "<!-- made by predictors.py --page: begin -->", "<!-- end -->"

#: Predictors whose regret is shown budget by budget.
SHOWN = ("depth", "evidence", "rho")


#: What part of the work the seconds of a network go to; whatever is not named here, to the other predictors.
PARTS = {
    "training": "training", "probe": "probe", "linear": "linear attack and ridge error",
    "ridge": "linear attack and ridge error", "deconvolution": "decoders", "residual": "decoders",
}  # fmt: skip


class Study(NamedTuple):
    """All that is found, for the terminal and for the page.

    Attributes:
      networks: as their JSON files have them.
      records: the same as arrays.
      rows: of the table of predictors.
      held: networks that were held out.
      held_rows: of the table of these.
      answers: in words, of both.
    """

    networks: Sequence[Mapping[str, Any]]
    records: Sequence[Record]
    rows: Sequence[Row]
    held: Sequence[Record]
    held_rows: Sequence[Row]
    answers: Sequence[Answer]

    def outcome(self, wide: bool = False) -> Outcome:
        """For the terminal and table.csv; ``wide``: with the tables of intervals."""
        rows = [{"networks": "the study's"} | row for row in self.rows]
        rows += [{"networks": "held out"} | row for row in self.held_rows]
        sheets = report.sheets_of(self.rows, self.records, wide)
        sheets += holdout.sheets_of(self.held_rows, self.held, wide)
        return Outcome(rows, sheets, [one.line for one in self.answers if one.shown])


def study_of(networks: Sequence[Mapping[str, Any]], held: Sequence[Record]) -> Study:
    """Compute everything, once."""
    records = [record_of(network) for network in networks]
    rows, held_rows = report.rows_of(records), holdout.rows_of(held, records)
    answers = [*answers_of(rows, records, networks), *holdout.answers_of(held_rows, held)]
    return Study(networks, records, rows, held, held_rows, answers)


def block_of(study: Study, listed: int) -> str:
    """What the page says of a study, and of how many networks the list has."""
    records, held = study.records, study.held
    parts = [
        _head(study.networks, records, listed),
        of_predictors(study.rows),
        "### Where a zone begins\n\nLeak where a rule's zone begins over leak at the best cut but the logits, of the "
        "networks whose zone begins before the logits.",
        of_onsets(records, held),
        "### Budget by budget\n\nRegret by the ratio, where a budget is a share of the cuts or of the parameters.",
        of_budgets(records),
        "### Between networks\n\nSpearman's correlation over networks of predictor and ratio at the cuts nearest to a "
        "relative depth; above 0: as theory has it.",
        of_depths(records),
        "### By images named\n\nThe same of the largest share of images that an attack names (*identified*), in place "
        "of the ratio.",
        of_identified(study.rows),
        *([_head_of_held(held), of_held(study.held_rows)] if held else []),
        "### In words",
        "\n".join(f"- **{one.about}:** {_escaped('. '.join(filter(None, one[1:3])))}." for one in study.answers),
    ]
    return "\n\n".join([BEGIN, *parts, END])


def _head(networks: Sequence[Mapping[str, Any]], records: Sequence[Record], listed: int) -> str:
    """How many networks, cuts and images there are, and what each part took."""
    data, families = (list(dict.fromkeys(getattr(one, name) for one in records)) for name in ("data", "family"))
    cuts = [cut for network in networks for cut in network["cuts"]]
    attacks = sum(len(cut["attacks"]) for cut in cuts)
    taken: dict[str, float] = {}
    for network in networks:
        for part, seconds in network["seconds"].items():
            name = PARTS.get(part, "other predictors (guarantees, sending z, scoring and prices, ...)")
            taken[name] = taken.get(name, 0) + seconds / len(cuts)
    images: dict[str, list[str]] = {}
    for network in networks:
        own = network["images"]
        words = (
            f"{own['auxiliary']:,} auxiliary, {own['attacked']} attacked, {own['held_out']} for the ridge error, "
            f"{own['probed']} for the others, {own['fitted']} training images for the linear probe"
        )
        images.setdefault(words, []).append(network["config"]["data"])
    dealt = "; ".join(f"{', '.join(dict.fromkeys(names))}: {words}" for words, names in images.items())
    no_bound = sum(cut["mse_entropy"] == 0 for cut in cuts)
    return (
        f"{len(records)} of {listed} networks ({len(families)} families: {', '.join(families)}; {len(data)} data sets: "
        f"{', '.join(data)}), {len(cuts)} cuts, {attacks} attacks.\n\n"
        f"Seconds a cut: {', '.join(f'{part} {seconds:.1f}' for part, seconds in taken.items())}. What is done once a "
        "network, such as its training, is divided by its cuts.\n\n"
        f"Images: {dealt}.\n\n"
        f"The bound on the error that follows from H(X|Z) is 0 to double precision at {no_bound} of {len(cuts)} cuts."
    )


def of_predictors(rows: Sequence[Row]) -> str:
    """The table of all predictors."""
    keys = {"within": "within_ratio", "across": "across_ratio", "regret": "regret_ratio", "error": "error",
            "grade": "grade"}  # fmt: skip
    return _of_rows(rows, keys)


def of_identified(rows: Sequence[Row]) -> str:
    """The same by images named."""
    return _of_rows(rows, {"within": "within_identified", "regret": "regret_identified"})


def _of_rows(rows: Sequence[Row], keys: Mapping[str, str]) -> str:
    return _table(["predictor", *keys], [[row["label"], *(said(row, key) for key in keys.values())] for row in rows])


def of_onsets(records: Sequence[Record], held: Sequence[Record]) -> str:
    """What it costs to cut where a zone begins, on both kinds of networks."""
    kinds: dict[str, tuple[Sequence[Record], Sequence[str]]] = {"small networks": (records, ("name",))}
    if held:
        kinds["networks that the study did not use"] = (held, holdout.GROUPS)
    lines = [[f"rule '{rule}'", *(onset_of(of, rule, groups)[0] for of, groups in kinds.values())] for rule in RULES]
    return _table(["cut by", *kinds], lines)


def of_budgets(records: Sequence[Record]) -> str:
    """Regret by the ratio, budget by budget, where these are shares of the cuts and where of the parameters."""
    shares = {"cuts": ps.BUDGETS, "parameters": ps.PARAMETERS}
    head = [f"{kind} {share * 100:.0f} %" for kind, found in shares.items() for share in found]
    lines = []
    for name in SHOWN:
        scores = ps.oriented(records, name)
        found = [ps.leaks_of(records, scores, "ratio", budgets) for budgets in (ps.by_cuts, ps.by_parameters)]
        lines.append([PREDICTORS[name].label, *_numbers(*found)])
    for rule in RULES:
        found = [ps.leaks_of_rule(records, rule, "ratio", budgets) for budgets in (ps.by_cuts, ps.by_parameters)]
        lines.append([f"rule '{rule}'", *_numbers(*found)])
    return _table(["chosen by", *head], lines)


def _numbers(*leaks: np.ndarray) -> list[str]:
    return [f"{value:.2f}" for found in leaks for value in ps.regrets(found)]


def of_depths(records: Sequence[Record]) -> str:
    """Correlation over networks at each relative depth, of everything that is measured."""
    lines = []
    for name, predictor in PREDICTORS.items():
        found, drawn = ps.across_at(records, ps.oriented(records, name), "ratio")
        cells = [ps.said(value, *ps.ends(drawn[:, i])) if np.isfinite(value) else "" for i, value in enumerate(found)]
        lines.append([predictor.label, *cells])
    heads = ["1/4 of the depth", "1/2", "3/4", "logits"]
    return _table(["predictor", *heads], [line for line in lines if any(line[1:])])


def _head_of_held(held: Sequence[Record]) -> str:
    return (
        "### Networks that the study did not use\n\n"
        f"{holdout.what(held)} of [the paper, claim by claim](claims.md), {sum(one.cuts for one in held)} attacked "
        "cuts; only those on one-hot labels, since those under LS+ and LS- were attacked at the last cuts alone. Seeds "
        "of one architecture on one data set are a group: brackets are 95 % over resampled groups.\n\n"
        "Budgets are shares of the attacked cuts; *all* allows every one but the logits. *0.5 for 0*: so much leaks "
        "where the best cut leaks nothing. A zone that begins between two attacked cuts is taken to begin at the next "
        "one, which favours the rules. What a predictor says of the ratio is what it means on the small networks. "
        "Depth is a cut's true relative depth, its place among all cuts of its network; on the small ones, among six. "
        "The linear attack is one of the two attackers, on the same images: it is near the best partly by construction."
    )


def of_held(rows: Sequence[Row]) -> str:
    """The table of the networks that were held out."""
    lines = [
        [row["label"], said(row, "regret"), said(row, "whole"), row["worst"], said(row, "error"),
         row.get("error_worst", "")]
        for row in rows
    ]  # fmt: skip
    head = ["chosen by", "regret", "regret, all", "worst data sets, all", "error of the ratio", "error at worst"]
    return _table(head, lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [head, ["---"] * len(head), *([_escaped(cell) for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def refresh(page: Path, block: str) -> None:
    """Put a block in the place of the page's. Raises :class:`UserError` for a page without one."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{page} has no line {BEGIN!r} with {END!r} behind it", field="page")
    write_text(page, before + block + after)
