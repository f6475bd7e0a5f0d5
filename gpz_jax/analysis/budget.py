"""What a cut may cost and may leak, and which cuts keep within it. Rows are those of ``cuts.csv``."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpz_jax.errors import UserError
from gpz_jax.presentation import number


class Limit(NamedTuple):
    """The most, or the least, that a column of the table may be.

    Attributes:
      key: the column.
      bound: what it is held against.
      flag: as it was given.
      words: for what a cut has there, with a place for the number.
      least: whether the bound is the least; what was not measured then misses it.
      leak: whether it limits what a cut leaks, not what it costs.
    """

    key: str
    bound: float
    flag: str
    words: str
    least: bool = False
    leak: bool = False

    def missed(self, row: dict[str, Any]) -> bool:
        """Whether the row is beyond it; what has not been measured is not beyond a cost."""
        value = row.get(self.key, math.nan)
        if math.isnan(value):
            return self.leak
        return value < self.bound if self.least else value > self.bound

    def miss(self, row: dict[str, Any]) -> str:
        """By how much a row misses it, in words: "12,345 edge parameters (--budget-params 5000)"."""
        value = row.get(self.key, math.nan)
        had = "not measured" if math.isnan(value) else self.words.format(value)
        return f"{had} ({self.flag})"

    def factor(self, row: dict[str, Any]) -> float:
        """How many times the bound a row is, 1 or less if it keeps it; infinite where nothing was measured."""
        value = row.get(self.key, math.nan)
        if math.isnan(value):
            return math.inf if self.leak else 1.0
        low, high = (value, self.bound) if self.least else (self.bound, value)
        return high / low if low > 0 else math.inf if high > 0 else 1.0


def parse_parameters(text: str, total: int) -> float:
    """A number of parameters from "5000000", "5_000_000", "5e6", or "10%" of ``total``.

    Raises:
      UserError: anything else, less than 1 parameter, or more than 100%.

    Example:
      >>> parse_parameters("10%", 50), parse_parameters("1_000", 50), parse_parameters("2e3", 50)
      (5.0, 1000.0, 2000.0)
    """
    is_share = text.endswith("%")
    try:
        most = total * float(text[:-1]) / 100 if is_share else float(text)
    except ValueError:
        most = math.nan
    if is_share and most > total:
        raise UserError(f"budget_params is {text}; a share of the parameters is 100% at most", field="budget_params")
    if not (most >= 1 and math.isfinite(most)):
        meant = f" (for a share: {100 * most:g}%)" if 0 < most < 1 and not is_share else ""
        raise UserError(
            f"budget_params must be 1 parameter or more, or such a share as 10%, got {text!r}{meant}",
            field="budget_params",
        )
    return most


def hold(rows: Sequence[dict[str, Any]], limits: Sequence[Limit]) -> bool:
    """Hold every row against what it may cost; say whether a valid one keeps within that. Marks ``within_budget``."""
    costs = [limit for limit in limits if not limit.leak]
    for row in rows:
        row["within_budget"] = not any(limit.missed(row) for limit in costs)
    return any(row["valid"] and row["within_budget"] for row in rows)


def allowed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cuts that may be taken, in order: valid, within the budget (:func:`hold`), with work left for the cloud.

    >>> row = {"valid": True, "within_budget": True}
    >>> [row["cut"] for row in allowed([row | {"cut": "fc"}, row | {"cut": "logits", "cloud_flops": 0.0}])]
    ['fc']
    """
    return [row for row in rows if row["valid"] and row["within_budget"] and row.get("cloud_flops", 1)]


def deepest_within(rows: Sequence[dict[str, Any]]) -> str | None:
    """The cut to begin with where nothing was attacked: the deepest one within the budget.

    Whoever sees z at a cut can compute z at every later one, so that no ideal attacker gets more from a deeper cut. On
    36 small networks attackers got no more either: of the cuts that a budget allows the deepest leaked least in 144 of
    144 choices (regret 1.00: its leak over that of the best one allowed). The cut where a zone begins leaked 1.21 times
    what the best cut but the logits does by rule paper, 1.35 times by rule null. Over larger networks, which were held
    out, the regret of the deepest is near 1, though not on every data set. It is the least bad cut, not a safe one: how
    much leaks this does not say, that takes an attack.

    Args:
      rows: of the cuts in order, held against what they may cost (:func:`hold`).

    Returns:
      Its name: the last of those that are valid, within the budget and leave the cloud something to do; None where
      there is none. Source: ``experiments/predictors.py``, docs/findings/predictors.md.

    Example:
      >>> row = {"valid": True, "within_budget": True, "cloud_flops": 1e6}
      >>> deepest_within([row | {"cut": "a"}, row | {"cut": "b"}, row | {"cut": "logits", "cloud_flops": 0.0}])
      'b'
      >>> deepest_within([row | {"cut": "a", "within_budget": False}])
    """
    inside = allowed(rows)
    return inside[-1]["cut"] if inside else None


class NearMiss(NamedTuple):
    """A valid cut that misses a limit, and what it misses, in words."""

    cut: str
    verdict: str
    misses: tuple[str, ...]


def near_misses(rows: Sequence[dict[str, Any]], limits: Sequence[Limit], count: int = 5) -> list[NearMiss]:
    """The valid cuts that miss fewest limits, and by the smallest factor, nearest first.

    Args:
      rows: what cuts cost and leak.
      limits: budgets and limits of leaks.
      count: how many, at most.

    Example:
      >>> limit = Limit("edge_parameters", 10, "--budget-params 10", "{:,} edge parameters")
      >>> rows = [{"cut": cut, "valid": True, "edge_parameters": n} for cut, n in (("a", 50), ("b", 20), ("c", 5))]
      >>> [(near.cut, *near.misses) for near in near_misses(rows, [limit])]
      [('b', '20 edge parameters (--budget-params 10)'), ('a', '50 edge parameters (--budget-params 10)')]
    """

    def far(row: dict[str, Any]) -> tuple[int, float]:
        missed = [limit for limit in limits if limit.missed(row)]
        return len(missed), max((limit.factor(row) for limit in missed), default=1.0)

    useful = (row for row in rows if row["valid"] and row.get("cloud_flops", 1))
    missing = sorted((row for row in useful if far(row)[0]), key=far)
    return [
        NearMiss(
            row["cut"],
            str(row.get("verdict") or "not attacked"),
            tuple(limit.miss(row) for limit in limits if limit.missed(row)),
        )
        for row in missing[:count]
    ]


def parse_share(text: str, field: str) -> float:
    """A share in (0, 1] from "0.1" or "10%". Raises :class:`UserError` for anything else.

    >>> parse_share("10%", "max_identified"), parse_share("0.5", "max_identified")
    (0.1, 0.5)
    """
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise UserError(f"{field} must be a share in (0, 1], such as 0.1 or 10%, got {text!r}", field=field)
    return share


def least_ratio(value: float) -> Limit:
    """The least mse over the class-mean floor's that the best attack must be left with.

    Raises:
      UserError: not in (0, 2].
    """
    if not 0 < value <= 2:
        raise UserError(f"min_ratio must lie in (0, 2], got {value:g}", field="min_ratio")
    said = f"--min-ratio {number(value)}"
    return Limit("ratio", value, said, "{:.3g} of the class-mean floor", least=True, leak=True)


def most_identified(text: str) -> Limit:
    """The largest share of images that reconstructions may name; as :func:`parse_share`."""
    share = parse_share(text, "max_identified")
    return Limit("identified", share, f"--max-identified {text}", "{:.3g} of the images named", leak=True)
