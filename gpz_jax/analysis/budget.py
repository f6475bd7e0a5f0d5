"""What a cut may cost, and which of those that cost no more is the most private. Rows are those of ``cuts.csv``."""

import math
from typing import Any, NamedTuple

from gpz_jax.errors import UserError
from gpz_jax.presentation import number


class Limit(NamedTuple):
    """The most that a column of the table may be; ``flag`` as it was given, ``words`` for what a cut costs there."""

    key: str
    most: float
    flag: str
    words: str


def parse_parameters(text: str, total: int) -> float:
    """A number of parameters from "5000000", "5_000_000", "5e6", or "10%" of ``total``.

    Raises:
      UserError: anything else, or less than 1 parameter.

    Example:
      >>> parse_parameters("10%", 50), parse_parameters("1_000", 50), parse_parameters("2e3", 50)
      (5.0, 1000.0, 2000.0)
    """
    try:
        most = total * float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        most = math.nan
    if not (most >= 1 and math.isfinite(most)):
        raise UserError(
            f"budget_params must be a number of parameters or a share such as 10%, got {text!r}", field="budget_params"
        )
    return most


def hold(rows: list[dict[str, Any]], limits: list[Limit], name: str) -> None:
    """Hold every row against the limits. Raises :class:`UserError` with the closest cut if no valid one is within."""
    for row in rows:
        row["within_budget"] = not any(row[limit.key] > limit.most for limit in limits)
    valid = [row for row in rows if row["valid"]]
    if not any(row["within_budget"] for row in valid):
        closest = min(valid, key=lambda row: max(row[limit.key] / limit.most for limit in limits))
        costs = " and ".join(limit.words.format(closest[limit.key]) for limit in limits)
        flags = " and ".join(limit.flag for limit in limits)
        raise UserError(f"no cut of {name} is within {flags}: the closest is {closest['cut']!r}, with {costs}")


def recommend(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """The cut with the best privacy among the valid rows within budget, and the criterion in words.

    The highest attack ratio where any was attacked; else the lowest rho in the null rule's zone; else the lowest rho;
    else, where nothing was measured, the deepest.

    Args:
      rows: what :class:`Priced` holds; at least one valid row within budget.

    Example:
      >>> row = {"valid": True, "within_budget": True}
      >>> recommend([{**row, "cut": "a", "ratio": 0.2}, {**row, "cut": "b", "ratio": 0.9}, {**row, "cut": "c"}])
      ('b', 'attack: the highest ratio to the class-mean floor, 0.9, of the attacked cuts, 2 of 3')
    """
    inside = [row for row in rows if row["valid"] and row["within_budget"]]
    attacked = [row for row in inside if math.isfinite(row.get("ratio", math.nan))]
    if attacked:
        best = max(attacked, key=lambda row: row["ratio"])
        criterion = f"attack: the highest ratio to the class-mean floor, {number(best['ratio'])}"
        return best["cut"], f"{criterion}, of the attacked cuts, {len(attacked)} of {len(inside)}"
    probed = [row for row in inside if math.isfinite(row.get("rho", math.nan))]
    zone = [row for row in probed if row.get("zone_null")]
    if probed:
        best = min(zone or probed, key=lambda row: row["rho"])
        where = ", in the null rule's zone" if zone else f"; none of {len(inside)} cuts lies in the null rule's zone"
        return best["cut"], f"probe: the lowest rho, {number(best['rho'])}{where}"
    return inside[-1]["cut"], f"depth: the deepest of {len(inside)}; neither probed nor attacked"
