"""Networks that the predictors' study did not use, those of claims.py, held against what it found (not an experiment).

They are larger, have up to 55 cuts, and were attacked at every third of these (under smoothed labels at the last ones
alone) by a linear map and one decoder. What was measured of them is less: depth, D, R_c², rho, evidence and drop.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import predictor_statistics as ps
from claim_numbers import EVERYWHERE
from common import Outcome, Row
from predictor_records import PREDICTORS, RULES, YARDSTICK, Record
from predictor_report import said, with_ends
from predictor_verdict import regret_at_onset, worst_of

from gpz_jax.errors import UserError
from gpz_jax.json_files import read_json
from gpz_jax.reporting import tables

#: Attacked cuts, at least, of a network that is taken.
LEAST = 5

#: By what a cut is chosen there, and what says its ratio.
CHOICES, SAYS = ("depth", "evidence", "rho", "within", "dimension", "drop"), ("depth", "evidence", "rho")


def read(given: str | Path | None) -> list[Record]:
    """The networks of a folder of claims.py that were attacked at enough cuts, in the order of their names; of no
    folder, none.
    """
    if given is None:
        return []
    folder = Path(given)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; --held-out names one that holds results of claims.py", field="held_out")
    networks = [read_json(file) for file in sorted(folder.glob("*.json"))]
    return [record_of(one) for one in networks if "zones" in one and len(_candidates(one)) >= LEAST]


def _candidates(network: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The valid cuts that were attacked, in order; the logits always are, and are the last."""
    return [cut for cut in network["cuts"] if cut["valid"] and _attacks(cut)]


def _attacks(cut: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The attacks that every attacked cut has, so that none is tried harder."""
    made = cut.get("attacks", {})
    return [made[name] for name in EVERYWHERE if name in made and made[name]["ratio"] is not None]


def record_of(network: Mapping[str, Any]) -> Record:
    """A network's JSON as arrays; what was not measured is NaN.

    Candidates are the attacked cuts, depth the place among them. A zone that begins at a cut between two of them begins
    at the next one here, which leaks no more: that favours the rule. Drops are from the cut before, attacked or not.
    The ridge error is the linear attack's on the very images that are attacked.
    """
    cuts, names = _candidates(network), [cut["cut"] for cut in network["cuts"]]
    values = {name: np.full(len(cuts), np.nan) for name in PREDICTORS}
    values["depth"] = np.linspace(0, 1, len(cuts))
    values["dimension"] = np.array([cut["dimension"] for cut in cuts], float)
    for name in ("within", "rho", "evidence", "drop"):
        values[name] = np.array([cut["test"][name] for cut in cuts], float)  # null is NaN
    values["within_per_dimension"] = values["within"] / values["dimension"]
    values[YARDSTICK] = np.array([cut["attacks"]["linear"]["ratio"] for cut in cuts], float)
    resistance = {
        "ratio": np.array([min(one["ratio"] for one in _attacks(cut)) for cut in cuts]),
        "identified": np.array([1 - max(one["identified"] for one in _attacks(cut)) for cut in cuts]),
    }
    places = np.array([names.index(cut["cut"]) for cut in cuts])
    onset = {}
    for rule in RULES:
        named = network["zones"][rule]["onset"]
        onset[rule] = None if named is None else int(np.searchsorted(places, names.index(named)))
    shares = np.full(len(cuts), np.nan)
    return Record(network["unit"], network["data"], network["network"], values, resistance, onset, shares)


def rows_of(held: Sequence[Record], records: Sequence[Record]) -> list[Row]:
    """A row for each predictor that was measured there, the linear attack and each rule.

    Args:
      held: the networks that were held out.
      records: the study's own, which say what a predictor means.
    """
    rows = []
    for name in (*CHOICES, YARDSTICK):
        scores = ps.oriented(held, name)
        label = "linear attack, same images" if name == YARDSTICK else PREDICTORS[name].label
        row = {"predictor": name, "label": label} | _regrets(
            held, ps.leaks_of(held, scores, "ratio"), ps.leaks_of(held, scores, "ratio", ps.whole)
        )
        if name in SAYS:
            row |= _error(held, _told(held, records, name))
        elif name == YARDSTICK:
            row |= _error(held, [one.values[name] for one in held])
        rows.append(row)
    for rule in RULES:
        found = (ps.leaks_of_rule(held, rule, "ratio", budgets) for budgets in (ps.by_cuts, ps.whole))
        rows.append({"predictor": rule, "label": f"rule '{rule}'"} | _regrets(held, *found))
    return rows


def _regrets(held: Sequence[Record], leaks: np.ndarray, whole: np.ndarray) -> Row:
    row: Row = {}
    for key, found in (("regret", leaks), ("whole", whole)):
        row |= with_ends(key, *ps.regret_of(found))
    data = np.array([one.data for one in held])
    names = list(dict.fromkeys(data))
    means = np.array([whole[data == name].mean(axis=0) for name in names])
    return row | {"worst": worst_of(names, means)}


def _told(held: Sequence[Record], records: Sequence[Record], name: str) -> list[np.ndarray]:
    """The ratio of the cuts of the networks that were held out, as the study's own say it."""
    ratios = np.concatenate([one.resistance["ratio"] for one in records])
    say = ps.isotonic_map(np.concatenate(ps.oriented(records, name)), ratios)
    return [say(score) for score in ps.oriented(held, name)]


def _error(held: Sequence[Record], told: Sequence[np.ndarray]) -> Row:
    each = ps.errors(held, told)
    kinds = np.array([f"{one.family} on {one.data}" for one in held])
    means = {kind: float(np.mean(each[kinds == kind])) for kind in kinds}
    worst = max(means, key=lambda kind: means[kind])
    most = max(float(np.max(np.abs(v - one.resistance["ratio"]))) for one, v in zip(held, told, strict=True))
    return with_ends("error", *ps.mean_of(each)) | {"error_worst": f"{worst} {means[worst]:.2f}; a cut {most:.2f}"}


def outcome(held: Sequence[Record], records: Sequence[Record]) -> Outcome:
    """Rows, a table and a verdict; all empty where nothing was held out."""
    if not held:
        return Outcome([], [], [])
    rows = rows_of(held, records)
    return Outcome(rows, [_sheet_of(rows, held)], _verdict_of(rows, held))


def _sheet_of(rows: Sequence[Row], held: Sequence[Record]) -> tables.Sheet:
    columns: dict[str, Any] = {
        "predictor": "label",
        "regret": lambda row: said(row, "regret"),
        "regret, all\nbut the logits": lambda row: said(row, "whole"),
        "worst data sets": "worst",
        "error": lambda row: said(row, "error"),
        "error at worst": "error_worst",
    }
    return common.sheet_of(f"Held out: {what(held)}", rows, columns, wide=("worst data sets", "error at worst"))


def _verdict_of(rows: Sequence[Row], held: Sequence[Record]) -> list[str]:
    """What the networks that were held out say, in words."""
    by_name = {row["predictor"]: row for row in rows}
    whole = ", ".join(f"{by_name[name]['label']} {said(by_name[name], 'whole')}" for name in (*SAYS, *RULES))
    return [
        f"held out, {len(held)} networks, all cuts but the logits allowed: regret of {whole}",
        "held out, where a zone begins before the logits: regret of "
        + "; ".join(regret_at_onset(held, rule) for rule in RULES),
        "held out, the ratio as the study's own networks say it: off by "
        + ", ".join(f"{said(by_name[name], 'error')} by {by_name[name]['label']}" for name in (*SAYS, YARDSTICK)),
    ]


def what(held: Sequence[Record]) -> str:
    """How many networks, of which families, on which data sets."""
    families, data = (dict.fromkeys(getattr(one, key) for one in held) for key in ("family", "data"))
    return f"{len(held)} networks ({', '.join(families)}; {len(data)} data sets: {', '.join(data)})"
