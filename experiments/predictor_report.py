"""The predictors' table, figure and verdict, of the networks' JSON files (not an experiment)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import predictor_statistics as ps
from common import Row
from predictor_records import PREDICTORS, YARDSTICK, Record

from gpz_jax.atomic import write_text
from gpz_jax.errors import UserError
from gpz_jax.reporting import figures, tables

#: What is put together out of all cheap ones.
COMBINED = "combined"

#: What does best on the other data sets.
TAKEN = "chosen out of sample"

#: Rules of the package, which choose a cut.
RULES = ("paper", "null")

OUTCOMES = ("ratio", "identified")


def scores_of(records: Sequence[Record]) -> dict[str, list[np.ndarray]]:
    """Predictor -> score of every cut of every network; the combination last."""
    found = {name: ps.oriented(records, name) for name in PREDICTORS}
    cheap = [name for name in PREDICTORS if name != YARDSTICK]
    return found | {COMBINED: ps.combined(records, cheap)}


def rows_of(records: Sequence[Record]) -> list[Row]:
    """A row for each predictor, the combination and each rule, best mean correlation with the ratio first."""
    scores = scores_of(records)
    rows = [_row(records, name, made) for name, made in scores.items()]
    rows.sort(key=lambda row: -row["within_ratio"])
    return rows + [_row_of_rule(records, rule) for rule in RULES] + [_row_of_chosen(records, scores)]


def _row(records: Sequence[Record], name: str, scores: list[np.ndarray]) -> Row:
    count = len(records)
    row: Row = {"predictor": name, "label": PREDICTORS[name].label if name in PREDICTORS else "all but ridge"}
    for outcome in OUTCOMES:
        each = ps.within(records, scores, outcome)
        row[f"within_{outcome}"] = float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")
        row[f"within_{outcome}_low"], row[f"within_{outcome}_high"] = ps.interval(
            count, lambda at, each=each: float(np.nanmean(each[at])) if np.isfinite(each[at]).any() else np.nan
        )
        ends = ("", "_low", "_high")
        found = ps.across(records, scores, outcome)
        row |= {f"across_{outcome}{end}": value for end, value in zip(ends, found, strict=True)}
        leaks = ps.leaks_of(records, scores, outcome)
        row |= _regrets(leaks, outcome)
    said = scores if name == COMBINED else ps.isotonic(records, scores)
    for key, of in (("error", ps.errors), ("grade", ps.grades)):
        each = of(records, said)
        row[key] = float(np.mean(each))
        row[f"{key}_low"], row[f"{key}_high"] = ps.interval(count, lambda at, each=each: float(np.mean(each[at])))
    return row


def _regrets(leaks: np.ndarray, outcome: str) -> Row:
    low, high = ps.interval(len(leaks), lambda at: ps.regret(leaks[at]))
    return {f"regret_{outcome}": ps.regret(leaks), f"regret_{outcome}_low": low, f"regret_{outcome}_high": high}


def _row_of_rule(records: Sequence[Record], rule: str) -> Row:
    """Of a rule, whose score is whether a cut lies at or behind the onset."""
    inside = []
    for one in records:
        cuts, onset = len(one.resistance["ratio"]), one.onset[rule]
        inside.append((np.arange(cuts) >= (cuts if onset is None else onset)).astype(float))
    row = _row(records, rule, inside) | {"label": f"rule '{rule}'"}
    for outcome in OUTCOMES:
        row |= _regrets(ps.leaks_of_rule(records, rule, outcome), outcome)
    return row


def _row_of_chosen(records: Sequence[Record], scores: Mapping[str, list[np.ndarray]]) -> Row:
    """Of the cheap predictor of least regret on the other data sets, data set by data set."""
    row: Row = {"predictor": TAKEN, "label": "best of the others"}
    for outcome in OUTCOMES:
        leaks, taken = chosen_out_of_sample(records, scores, outcome)
        row |= _regrets(leaks, outcome) | {f"taken_{outcome}": ", ".join(f"{d}: {name}" for d, name in taken.items())}
    return row


def chosen_out_of_sample(
    records: Sequence[Record], scores: Mapping[str, list[np.ndarray]], outcome: str
) -> tuple[np.ndarray, dict[str, str]]:
    """Leaks of each network's cuts by the cheap predictor of least regret on other data sets, and which that is.

    Of equal regret the one of larger mean correlation within those networks.
    """
    cheap = [name for name in PREDICTORS if name != YARDSTICK]
    leaks = {name: ps.leaks_of(records, scores[name], outcome) for name in cheap}
    orders = {name: ps.within(records, scores[name], outcome) for name in cheap}
    taken, found = {}, np.zeros_like(leaks[cheap[0]])
    for data in dict.fromkeys(one.data for one in records):
        own = np.array([one.data == data for one in records])
        others = ~own if (~own).any() else own
        taken[data] = min(
            cheap, key=lambda name: (round(ps.regret(leaks[name][others]), 6), -np.nanmean(orders[name][others]))
        )
        found[own] = leaks[taken[data]][own]
    return found, taken


def sheet_of(rows: Sequence[Row], records: Sequence[Record]) -> tables.Sheet:
    """The table for people."""

    def with_interval(key: str) -> Any:
        def cell(row: Row) -> str:
            if key not in row or not np.isfinite(row[key]):
                return ""
            return f"{row[key]:.2f} [{row[f'{key}_low']:.2f}, {row[f'{key}_high']:.2f}]"

        return cell

    columns: dict[str, Any] = {
        "predictor": "label",
        "within": with_interval("within_ratio"),
        "across": with_interval("across_ratio"),
        "regret": with_interval("regret_ratio"),
        "error": with_interval("error"),
        "grade": with_interval("grade"),
        "within, iden-\ntified": with_interval("within_identified"),
        "regret, iden-\ntified": with_interval("regret_identified"),
    }
    title = f"What predicts the leak? {len(records)} networks, {len({one.data for one in records})} data sets"
    caption = (
        "within: Spearman over a network's cuts; across: over networks at equal depth; regret: leak at the chosen cut "
        "over the best allowed one's; error, grade: of the ratio as the other data sets say it; 95 % over networks"
    )
    wide = ("within, iden-\ntified", "regret, iden-\ntified")
    return common.sheet_of(title, rows, columns, caption=caption, wide=wide)


def verdict_of(rows: Sequence[Row], records: Sequence[Record]) -> list[str]:
    """The answer in words."""
    by_name = {row["predictor"]: row for row in rows}
    cheap = [row for row in rows if row["predictor"] in PREDICTORS and row["predictor"] != YARDSTICK]
    order, level = max(cheap, key=lambda row: row["within_ratio"]), min(cheap, key=lambda row: row["error"])
    measured = [row for row in cheap if row["predictor"] != "depth"]
    choice = min(measured, key=lambda row: (round(row["regret_ratio"], 6), -row["within_ratio"]))
    ridge, depth, taken = by_name[YARDSTICK], by_name["depth"], by_name[TAKEN]
    constant, as_it_is = ps.constant(records), [one.values[YARDSTICK] for one in records]
    return [
        f"regret: rule 'paper' leaks {_ends(by_name['paper'], 'regret_ratio')} times what the best cut does, "
        f"rule 'null' {_ends(by_name['null'], 'regret_ratio')}, the deepest allowed cut "
        f"{_ends(depth, 'regret_ratio')}, the best predictor that is measured, {choice['label']}, "
        f"{_ends(choice, 'regret_ratio')}",
        f"regret of the predictor that is best on other data sets: {_ends(taken, 'regret_ratio')}; "
        + "; ".join(f"{words} less it {_duel(records, name)}" for name, words in _AGAINST.items()),
        f"of those without an attack {order['label']} orders a network's cuts best: Spearman "
        f"{_ends(order, 'within_ratio')}; depth {_ends(depth, 'within_ratio')}, ridge error "
        f"{_ends(ridge, 'within_ratio')}",
        f"of those without an attack {level['label']} says the ratio best: off by {_ends(level, 'error')}; a constant "
        f"by {np.mean(ps.errors(records, constant)):.2f}, depth by {_ends(depth, 'error')}, ridge error by "
        f"{_ends(ridge, 'error')}, all cheap ones together by {_ends(by_name[COMBINED], 'error')}",
        f"the predictor {level['label']} has the grade right at {level['grade']:.0%} of the cuts of an unknown data "
        f"set, ridge error at {ridge['grade']:.0%}, a constant at {np.mean(ps.grades(records, constant)):.0%}; ridge "
        f"error taken at its word is off by {np.mean(ps.errors(records, as_it_is)):.2f}, right at "
        f"{np.mean(ps.grades(records, as_it_is)):.0%}",
        f"no predictor of the end of leaking: {'; '.join(_at_onset(records, rule) for rule in RULES)}",
    ]


def _at_onset(records: Sequence[Record], rule: str) -> str:
    """What the best attack is left with where a rule's zone begins."""
    found = ps.ratios_at_onset(records, rule)
    if not len(found):
        return f"rule {rule!r} names no zone"
    low, high = ps.interval(len(found), lambda at: float(np.mean(found[at])))
    return (
        f"where the zone of rule {rule!r} begins ({len(found)} of {len(records)} networks) the ratio is "
        f"{np.mean(found):.2f} [{low:.2f}, {high:.2f}], from {found.min():.2f} to {found.max():.2f}"
    )


def _ends(row: Row, key: str) -> str:
    return f"{row[key]:.2f} [{row[f'{key}_low']:.2f}, {row[f'{key}_high']:.2f}]"


#: Whom what is chosen out of sample has to beat.
_AGAINST = {"paper": "rule 'paper'", "null": "rule 'null'", "depth": "the deepest"}


def _duel(records: Sequence[Record], name: str) -> str:
    """Regret of a rule, or of the deepest cut, less that of what is chosen out of sample, on the same networks."""
    scores = scores_of(records)
    ours, _ = chosen_out_of_sample(records, scores, "ratio")
    theirs = ps.leaks_of_rule(records, name, "ratio") if name in RULES else ps.leaks_of(records, scores[name], "ratio")
    low, high = ps.interval(len(records), lambda at: ps.regret(theirs[at]) - ps.regret(ours[at]))
    return f"{ps.regret(theirs) - ps.regret(ours):+.2f} [{low:+.2f}, {high:+.2f}]"


def draw(rows: Sequence[Row], records: Sequence[Record], file: Path) -> None:
    """Correlations, regrets and errors with their intervals, one line a predictor; dashed: the rules and a constant."""
    panels = {
        "within_ratio": "Spearman within networks", "across_ratio": "Spearman across networks, equal depth",
        "regret_ratio": "regret, times the best allowed cut's leak", "error": "error of the ratio, data set left out",
    }  # fmt: skip
    shown = [row for row in rows if "within_ratio" in row][::-1]
    figure, (axes,) = figures.new_figure(1, len(panels), (3.3 * len(panels), 5.2))
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        values, low, high = (np.array([row[k] for row in shown]) for k in (key, f"{key}_low", f"{key}_high"))
        for i, row in enumerate(shown):
            colour = {"depth": "C1", "ridge": "C3", "paper": "C2", "null": "C2"}.get(row["predictor"], "C0")
            if np.isfinite(values[i]):
                axis.plot([low[i], high[i]], [i, i], color=colour, linewidth=1.2)
                axis.plot(values[i], i, "o", color=colour, markersize=4)
        axis.set_title(title, fontsize=8)
        axis.set_yticks(range(len(shown)), [row["label"] for row in shown] if axis is axes[0] else [""] * len(shown))
        axis.set_ylim(-0.7, len(shown) - 0.3)
        axis.tick_params(labelsize=7)
        axis.grid(axis="x", alpha=0.3)
    axes[3].axvline(float(np.mean(ps.errors(records, ps.constant(records)))), color="0.5", linestyle="--", linewidth=1)
    axes[2].axvline(1.0, color="0.5", linestyle="--", linewidth=1)
    figure.savefig(file, dpi=80)


#: Columns of the table.
KEYS = ("within_ratio", "across_ratio", "regret_ratio", "error", "grade", "within_identified", "regret_identified")


def markdown(rows: Sequence[Row]) -> str:
    """The table of docs/findings/predictors.md."""
    lines = [
        "| predictor | within | across | regret | error | grade | within, identified | regret, identified |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [_ends(row, key) if np.isfinite(row.get(key, np.nan)) else "" for key in KEYS]
        lines.append("| " + " | ".join([row["label"].replace("|", "\\|"), *cells]) + " |")
    return "\n".join(lines)


#: Between these two lines of the findings' page lies what is made of the networks.
BEGIN, END = "<!-- made by predictors.py --page: begin -->", "<!-- end -->"


def block_of(networks: Sequence[Mapping[str, Any]], rows: Sequence[Row], records: Sequence[Record]) -> str:
    """What the page says of these networks: how many, the table, the verdict."""
    data, families = (list(dict.fromkeys(getattr(one, name) for one in records)) for name in ("data", "family"))
    seconds = [sum(network["seconds"].values()) for network in networks]
    cuts = sum(len(network["cuts"]) for network in networks)
    head = (
        f"{len(records)} networks ({len(families)} families: {', '.join(families)}; {len(data)} data sets: "
        f"{', '.join(data)}), {cuts} cuts, {3 * cuts} attacks; {np.mean(seconds):.0f} s a network (mean)."
    )
    verdict = "\n".join(f"verdict: {line}" for line in verdict_of(rows, records))
    return f"{BEGIN}\n{head}\n\n{markdown(rows)}\n\n```\n{verdict}\n```\n{END}"


def refresh(page: Path, block: str) -> None:
    """Put a block in the place of the page's. Raises :class:`UserError` for a page without one."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{page} has no line {BEGIN!r} with {END!r} behind it", field="page")
    write_text(page, before + block + after)
