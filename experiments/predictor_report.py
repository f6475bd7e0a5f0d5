"""The predictors' table and figure, of the networks' records (not an experiment)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import common
import numpy as np
import predictor_statistics as ps
from common import Row
from predictor_records import CHEAP, MEASURED, PREDICTORS, RULES, Record

from gpz_jax.reporting import figures, tables

#: What is put together out of all cheap ones.
COMBINED = "combined"

#: What does best on the other data sets: among which, and its label.
TAKEN = {
    "chosen": (CHEAP, "chosen on the other data sets"),
    "chosen_measured": (MEASURED, "the same, depth left out"),
}

OUTCOMES = ("ratio", "identified")

#: Below the figure.
CAPTION = (
    "orange: depth; red: ridge error, an attack itself; green: rules; blue: other predictors. "
    "Dashed: no regret (1.0), and the error of a constant"
)

Scores = Mapping[str, list[np.ndarray]]


def scores_of(records: Sequence[Record]) -> dict[str, list[np.ndarray]]:
    """Predictor -> score of every cut of every network; the combination last."""
    found = {name: ps.oriented(records, name) for name in PREDICTORS}
    return found | {COMBINED: ps.combined(records, CHEAP)}


def rows_of(records: Sequence[Record]) -> list[Row]:
    """A row for each predictor and the combination, best mean correlation with the ratio first; then the rules, and
    what is chosen on other data sets.
    """
    scores = scores_of(records)
    rows = [_row(records, name, made) for name, made in scores.items()]
    rows.sort(key=lambda row: -order_of(row))
    rows += [_row_of_rule(records, rule) for rule in RULES]
    return rows + [_row_of_chosen(records, scores, name) for name in TAKEN]


def _row(records: Sequence[Record], name: str, scores: list[np.ndarray]) -> Row:
    row: Row = {"predictor": name, "label": PREDICTORS[name].label if name in PREDICTORS else "all together"}
    for outcome in OUTCOMES:
        each = ps.within(records, scores, outcome)
        found = ps.interval(len(records), lambda at, each=each: float(ps.mean_of_known(each[at])))
        row |= with_ends(f"within_{outcome}", float(ps.mean_of_known(each)), *found)
        row |= with_ends(f"across_{outcome}", *ps.across(records, scores, outcome))
        row |= with_ends(f"regret_{outcome}", *ps.regret_of(ps.leaks_of(records, scores, outcome)))
    said = scores if name == COMBINED else ps.isotonic(records, scores)
    for key, of in (("error", ps.errors), ("grade", ps.grades)):
        row |= with_ends(key, *ps.mean_of(of(records, said)))
    return row


def order_of(row: Row) -> float:
    """How well a network's cuts are ordered by the ratio; -1 where no network has three cuts of which it is known."""
    return float(np.nan_to_num(row["within_ratio"], nan=-1))


def with_ends(key: str, value: float, low: float, high: float) -> Row:
    """A number with the ends of its interval, as entries of a row."""
    return {key: value, f"{key}_low": low, f"{key}_high": high}


def _row_of_rule(records: Sequence[Record], rule: str) -> Row:
    """Of a rule, whose score is whether a cut lies at or behind the onset."""
    inside = []
    for one in records:
        onset = one.onset[rule]
        inside.append((np.arange(one.cuts) >= (one.cuts if onset is None else onset)).astype(float))
    row = _row(records, rule, inside) | {"label": f"rule '{rule}'"}
    for outcome in OUTCOMES:
        row |= with_ends(f"regret_{outcome}", *ps.regret_of(ps.leaks_of_rule(records, rule, outcome)))
        leaks = ps.leaks_at_onset(records, rule, outcome)
        row["onsets"] = len(leaks)
        if len(leaks):
            row |= with_ends(f"regret_at_onset_{outcome}", *ps.regret_of(leaks))
    return row


def _row_of_chosen(records: Sequence[Record], scores: Scores, name: str) -> Row:
    """Of the predictor of least regret on the other data sets, data set by data set."""
    among, label = TAKEN[name]
    row: Row = {"predictor": name, "label": label}
    for outcome in OUTCOMES:
        leaks, taken = chosen_out_of_sample(records, scores, outcome, among)
        row |= with_ends(f"regret_{outcome}", *ps.regret_of(leaks))
        row[f"taken_{outcome}"] = ", ".join(f"{data}: {one}" for data, one in taken.items())
    return row


def chosen_out_of_sample(
    records: Sequence[Record], scores: Scores, outcome: str, among: Sequence[str]
) -> tuple[np.ndarray, dict[str, str]]:
    """Leaks of each network's cuts by the predictor of least regret on other data sets, and which that is.

    Of equal regret the one of larger mean correlation within those networks.
    """
    leaks = {name: ps.leaks_of(records, scores[name], outcome) for name in among}
    orders = {name: np.nan_to_num(ps.within(records, scores[name], outcome), nan=-1) for name in among}
    taken, found = {}, np.zeros_like(leaks[among[0]])
    for data in dict.fromkeys(one.data for one in records):
        own = np.array([one.data == data for one in records])
        others = ~own if (~own).any() else own
        taken[data] = min(
            among, key=lambda name: (round(ps.regret(leaks[name][others]), 6), -np.mean(orders[name][others]))
        )
        found[own] = leaks[taken[data]][own]
    return found, taken


def sheets_of(rows: Sequence[Row], records: Sequence[Record], wide: bool) -> list[tables.Sheet]:
    """The tables for people, none wider than a terminal: means, and where ``wide``, the same with intervals."""
    title = f"What predicts the leak? {len(records)} networks, {len({one.data for one in records})} data sets"
    caption = (
        "within: Spearman over a network's cuts; across: over networks at equal depth; regret: leak at the chosen cut "
        "over the best allowed one's, mean over budgets; error, grade: of the ratio, predicted from the other data sets"
    )
    orders = {"within": "within_ratio", "across": "across_ratio", "regret": "regret_ratio"}
    ratios = {"error": "error", "grade": "grade"}
    identified = {"within": "within_identified", "regret": "regret_identified"}
    behind = {"with intervals, 95 % over networks": orders, "the ratio, with intervals": ratios,
              "by images named, with intervals": identified}  # fmt: skip
    return sheets_of_means(title, rows, orders | ratios, caption, behind if wide else {})


def sheets_of_means(
    title: str, rows: Sequence[Row], keys: Mapping[str, str], caption: str, behind: Mapping[str, Mapping[str, str]]
) -> list[tables.Sheet]:
    """A table of means, and others with intervals: all in one would leave no room for the names.

    Args:
      title: of the first.
      rows: of all.
      keys: head -> number of a row.
      caption: of the first.
      behind: title -> the columns of another one, as ``keys``.
    """
    means = {head: lambda row, key=key: said(row, key).partition(" ")[0] for head, key in keys.items()}
    caption += "" if behind else "; --wide: further tables, with intervals"
    found = [common.sheet_of(title, rows, {"predictor": "label"} | means, caption=caption)]
    for name, columns in behind.items():
        cells = {head: lambda row, key=key: said(row, key) for head, key in columns.items()}
        found.append(common.sheet_of(name, rows, {"predictor": "label"} | cells))
    return found


def said(row: Row, key: str) -> str:
    """A number of a row with its interval; nothing where it has none."""
    known = key in row and np.isfinite(row[key])
    return ps.said(row[key], row[f"{key}_low"], row[f"{key}_high"]) if known else ""


def draw(rows: Sequence[Row], records: Sequence[Record], file: Path) -> None:
    """Correlations, regrets and errors with their intervals, one line a predictor; what colours mean stands below."""
    panels = {
        "within_ratio": "Spearman within networks", "across_ratio": "Spearman across networks, equal depth",
        "regret_ratio": "regret, times the best allowed cut's leak", "error": "error of the ratio, data set left out",
    }  # fmt: skip
    shown = [row for row in rows if "within_ratio" in row][::-1]
    figure, (axes,) = figures.new_figure(1, len(panels), (3.3 * len(panels), 5.4))
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
    figure.supxlabel(CAPTION, fontsize=8)
    figure.savefig(file, dpi=80)
