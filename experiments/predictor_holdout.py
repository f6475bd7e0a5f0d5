"""Networks that the predictors' study did not use, those of claims.py, held against what it found (not an experiment).

They are larger, have up to 55 cuts, and were attacked at every third of these by a linear map and one decoder; those
under LS+ and LS- at the last ones alone, so that they are left out. What was measured of them is less: depth, D, R_c²,
rho, evidence and drop. Several are seeds of one architecture on one data set: intervals are of resampled groups.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import predictor_statistics as ps
from claim_numbers import EVERYWHERE
from common import Row
from predictor_records import PREDICTORS, RULES, YARDSTICK, Record
from predictor_report import said, sheets_of_means, with_ends
from predictor_verdict import Answer, of_onsets, worst_of

from gpz_jax.errors import UserError
from gpz_jax.json_files import read_json
from gpz_jax.reporting import tables

#: Attacked cuts, at least, of a network that is taken.
LEAST = 5

#: Networks that are alike in these are not independent.
GROUPS = ("family", "data")

#: By what a cut is chosen there, and what says its ratio.
CHOICES, SAYS = ("depth", "evidence", "rho", "within", "dimension", "drop"), ("depth", "evidence", "rho")


def read(given: str | Path | None) -> list[Record]:
    """The networks of a folder of claims.py, on one-hot targets, that were attacked at enough cuts, in the order of
    their names; of no folder, none.
    """
    if given is None:
        return []
    folder = Path(given)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; --held-out names one that holds results of claims.py", field="held_out")
    networks = [read_json(file) for file in sorted(folder.glob("*.json"))]
    return [record_of(one) for one in networks if _is_taken(one)]


def _is_taken(network: Mapping[str, Any]) -> bool:
    return "zones" in network and network["targets"] == "one-hot" and len(_candidates(network)) >= LEAST


def _candidates(network: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The valid cuts that were attacked, in order; the logits always are, and are the last."""
    return [cut for cut in network["cuts"] if cut["valid"] and _attacks(cut)]


def _attacks(cut: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The attacks that every attacked cut has, so that none is tried harder."""
    made = cut.get("attacks", {})
    return [made[name] for name in EVERYWHERE if name in made and made[name]["ratio"] is not None]


def record_of(network: Mapping[str, Any]) -> Record:
    """A network's JSON as arrays; what was not measured is NaN.

    Candidates are the attacked cuts, depth the place of a cut among all of its network's, 0 to 1. A zone that begins at
    a cut between two candidates begins at the next one here, which leaks no more: that favours the rule. Drops are from
    the cut before, attacked or not. The ridge error is the linear attack's on the very images that are attacked.
    """
    cuts, names = _candidates(network), [cut["cut"] for cut in network["cuts"]]
    values = {name: np.full(len(cuts), np.nan) for name in PREDICTORS}
    for name in ("depth", "dimension"):
        values[name] = np.array([cut[name] for cut in cuts], float)
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
    """A row for each predictor that was measured there, the linear attack and each rule; none where there are none.

    Args:
      held: the networks that were held out.
      records: the study's own, which say what a predictor means.
    """
    if not held:
        return []
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
        row |= with_ends(key, *ps.regret_of(found, ps.groups_of(held, *GROUPS)))
    of_data = ps.groups_of(held, "data")
    means = np.array([whole[places].mean(axis=0) for places in of_data])
    return row | {"worst": worst_of([held[places[0]].data for places in of_data], means)}


def _told(held: Sequence[Record], records: Sequence[Record], name: str) -> list[np.ndarray]:
    """The ratio of the cuts of the networks that were held out, as the study's own say it."""
    ratios = np.concatenate([one.resistance["ratio"] for one in records])
    say = ps.isotonic_map(np.concatenate(ps.oriented(records, name)), ratios)
    return [say(score) for score in ps.oriented(held, name)]


def _error(held: Sequence[Record], told: Sequence[np.ndarray]) -> Row:
    each = ps.errors(held, told)
    groups = ps.groups_of(held, *GROUPS)
    means = {f"{held[at[0]].family} on {held[at[0]].data}": float(np.mean(each[at])) for at in groups}
    worst = max(means, key=lambda kind: means[kind])
    most = max(float(np.max(np.abs(v - one.resistance["ratio"]))) for one, v in zip(held, told, strict=True))
    return with_ends("error", *ps.mean_of(each, groups)) | {
        "error_worst": f"{worst} {means[worst]:.2f}; a cut {most:.2f}"
    }


def sheets_of(rows: Sequence[Row], held: Sequence[Record], wide: bool) -> list[tables.Sheet]:
    """Tables for people, as those of the study's own networks; none where nothing was held out."""
    if not held:
        return []
    keys = {"regret": "regret", "regret, all\nbut the logits": "whole", "error": "error"}
    caption = "regret: as above, over the attacked cuts; error: of the ratio, predicted from the networks above"
    behind = {"held out, with intervals, 95 % over groups (one architecture on one data set)": keys}
    found = sheets_of_means(f"Held out: {what(held)}", rows, keys, caption, behind if wide else {})
    if wide:
        columns: dict[str, Any] = {
            "predictor": "label",
            "data sets of most regret": lambda row: row["worst"].replace(", ", ",\n"),
            "most error": lambda row: row.get("error_worst", "").replace("; ", ";\n"),
        }
        caption = "regret: all cuts but the logits; 0.5 for 0: so much leaks where the best cut leaks nothing"
        found.append(common.sheet_of("held out, at worst", rows, columns, caption=caption))
    return found


def answers_of(rows: Sequence[Row], held: Sequence[Record]) -> list[Answer]:
    """What the networks that were held out say, in words; nothing where there are none."""
    if not held:
        return []
    by_name = {row["predictor"]: row for row in rows}
    whole = ", ".join(f"{by_name[name]['label']} {said(by_name[name], 'whole')}" for name in (*SAYS, *RULES))
    worst = "; ".join(f"{by_name[name]['label']} {by_name[name]['worst']}" for name in (*SAYS, *RULES))
    return [
        Answer(f"held out, regret, all cuts but the logits allowed, {len(held)} networks", whole,
               f"Worst data sets: {worst}"),
        of_onsets("held out, regret where a zone begins, logits excluded", held, GROUPS),
        Answer(
            "held out, ratio predicted from the study's own networks",
            "off by "
            + ", ".join(f"{said(by_name[name], 'error')} by {by_name[name]['label']}" for name in (*SAYS, YARDSTICK)),
        ),
    ]  # fmt: skip


def what(held: Sequence[Record]) -> str:
    """How many networks, in how many groups, of which families, on which data sets."""
    groups = len(ps.groups_of(held, *GROUPS))
    families, data = (dict.fromkeys(getattr(one, key) for one in held) for key in ("family", "data"))
    return f"{len(held)} networks in {groups} groups ({', '.join(families)}; {len(data)} data sets: {', '.join(data)})"
