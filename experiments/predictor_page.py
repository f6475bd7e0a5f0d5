"""What docs/findings/predictors.md says of the networks' JSON files, as markdown (not an experiment)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import predictor_holdout
import predictor_statistics as ps
import predictor_verdict
from common import Row
from predictor_records import PREDICTORS, RULES, Record
from predictor_report import said

from gpz_jax.atomic import write_text
from gpz_jax.errors import UserError

#: Between these two lines of the findings' page lies what is made of the networks.
BEGIN, END = "<!-- made by predictors.py --page: begin -->", "<!-- end -->"

#: Predictors whose regret is shown budget by budget.
SHOWN = ("depth", "evidence", "rho")


def block_of(
    networks: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    records: Sequence[Record],
    held: Sequence[Record],
    listed: int,
) -> str:
    """What the page says of these networks, of those that were held out, and of how many the list has."""
    further = predictor_holdout.outcome(held, records)
    verdict = [*predictor_verdict.verdict_of(rows, records, networks), *further.verdict]
    parts = [
        _head(networks, records, listed),
        of_predictors(rows),
        "### Budget by budget\n\nRegret by the ratio, where a budget is a share of the cuts or of the parameters.",
        of_budgets(records),
        "### Between networks\n\nSpearman's correlation over networks of predictor and ratio at the cuts nearest to a "
        "relative depth; above 0: as theory has it.",
        of_depths(records),
        *([_head_of_held(held), of_held(further.rows)] if held else []),
        "### In words",
        "\n".join("- **{}:**{}".format(*_escaped(line).split(":", 1)) for line in verdict),
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
            taken[part] = taken.get(part, 0) + seconds / len(cuts)
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
        f"Seconds a cut: {', '.join(f'{part} {seconds:.1f}' for part, seconds in taken.items())}. (What is done once a "
        "network is divided by its cuts.)\n\n"
        f"Images: {dealt}.\n\n"
        f"The bound on the error that follows from H(X|Z) is 0 to double precision at {no_bound} of {len(cuts)} cuts."
    )


def of_predictors(rows: Sequence[Row]) -> str:
    """The table of all predictors."""
    keys = {
        "within": "within_ratio", "across": "across_ratio", "regret": "regret_ratio",
        "regret at onset": "regret_at_onset_ratio", "error": "error", "grade": "grade",
        "within, identified": "within_identified", "regret, identified": "regret_identified",
    }  # fmt: skip
    return _table(["predictor", *keys], [[row["label"], *(said(row, key) for key in keys.values())] for row in rows])


def of_budgets(records: Sequence[Record]) -> str:
    """Regret by the ratio, budget by budget, where these are shares of the cuts and where of the parameters."""
    shares = {"cuts": ps.BUDGETS, "parameters": ps.PARAMETERS}
    head = [f"{share:.0%} of the {kind}" for kind, found in shares.items() for share in found]
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
        f"{predictor_holdout.what(held)} of [the paper, claim by claim](claims.md), {sum(one.cuts for one in held)} "
        "attacked cuts. Budgets are shares of these; *all* allows every one but the logits. *0.5 for 0*: so much leaks "
        "where the best cut leaks nothing. A zone that begins between two attacked cuts is taken to begin at the next "
        "one, which favours the rules. What a predictor says of the ratio is what it means on the networks above. The "
        "linear attack is one of the two attackers, on the same images: it is near the best partly by construction."
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
