"""Which cut to take, in words: only one whose verdict can be shown, and never one that can be read."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpz_jax.analysis.budget import Limit
from gpz_jax.inversion.verdict import leak_rank
from gpz_jax.presentation import number


class Advice(NamedTuple):
    """What to do.

    Attributes:
      choice: the recommended cut; None if there is none.
      words: sentences that say why, or what is missing.
      test_first: the cut to attack next, where nothing can be recommended for want of attacks; else "".
    """

    choice: str | None
    words: tuple[str, ...]
    test_first: str = ""


def recommend(rows: Sequence[dict[str, Any]], limits: Sequence[Limit], *, run: str) -> Advice:
    """The cut that leaks least among those that keep the limits and have a verdict.

    Less leak is what :func:`~gpz_jax.inversion.verdict.leak_rank` says. What can be read is not recommended at all.

    Args:
      rows: of the cuts, held against what they may cost (:func:`~gpz_jax.analysis.budget.hold`), with their verdicts.
      limits: budgets and limits of leaks.
      run: the run's folder, for the commands in the words.

    Example:
      >>> row = {"valid": True, "within_budget": True, "identified_within": 0.2, "ratio": 0.9}
      >>> rows = [{**row, "cut": "a", "verdict": "leaks: readable"},
      ...         {**row, "cut": "b", "verdict": "leaks: traces", "sentence": "b leaks: traces. By linear: …"}]
      >>> recommend(rows, [], run="RUN").words[0]
      'recommended cut: b. b leaks: traces. By linear: …'
    """
    flags = " and ".join(limit.flag for limit in limits)
    within = f" within {flags}" if flags else ""
    valid = [row for row in rows if row["valid"]]
    inside = [row for row in valid if row["within_budget"]]
    without = next((row for row in valid if row["verdict"] == "no verdict"), None)
    if without is not None:
        return Advice(None, (f"no cut is recommended. {without['sentence']}",))
    leaks = [limit for limit in limits if limit.leak]
    good = [(_leak(row), row) for row in inside if not any(limit.missed(row) for limit in leaks)]
    good = [(leak, row) for leak, row in good if leak is not None]
    if good:
        _, best = min(good, key=lambda pair: pair[0])
        others = f"The verdicts of {len(good)} of the {len(inside)} cuts{within} allow it; this one leaks least."
        told = (f"recommended cut{within}: {best['cut']}. {best['sentence']}", *([others] if len(inside) > 1 else []))
        return Advice(best["cut"], told)
    untested = [row for row in inside if row["verdict"] == "not tested enough"]
    if not inside:
        return Advice(None, (f"no cut is recommended: none is{within or ' valid'}.",))
    if not untested:
        return Advice(None, (f"no cut is recommended: none{within} keeps back enough.",))
    return _untested(untested, within, run)


def _leak(row: dict[str, Any]) -> tuple[int, float, float] | None:
    return leak_rank(row["verdict"], row.get("identified_within", math.nan), row.get("ratio", math.nan))


def _untested(untested: list[dict[str, Any]], within: str, run: str) -> Advice:
    """Where attacks are missing: which cut to begin with, and the command."""
    probed = [row for row in untested if math.isfinite(row.get("rho", math.nan))]
    zone = [row for row in probed if row.get("zone_null")]
    if probed:
        first = min(zone or probed, key=lambda row: row["rho"])
        why = f"the lowest rho, {number(first['rho'])}" + (", in the null rule's zone" if zone else "")
    else:
        first, why = untested[-1], "the deepest; it was not probed"
    return Advice(
        None,
        (
            f"no cut is recommended: none{within} has been tested enough.",
            f"Begin with {first['cut']} ({why}): python -m gpz_jax.attack {run} --cut {first['cut']} --ladder",
        ),
        first["cut"],
    )


def words_on_payload(rows: Sequence[dict[str, Any]], payload: str, image: int) -> str:
    """Which valid cuts send more than the image itself, if any do.

    Args:
      rows: of the cuts.
      payload: how z is sent.
      image: bytes of the batch of images.
    """
    larger = [row["cut"] for row in rows if row["valid"] and row[f"payload_{payload}"] > image]
    if not larger:
        return ""
    named = ", ".join(larger[:6]) + (f" and {len(larger) - 6} more" if len(larger) > 6 else "")
    return f"more to send than the image itself ({image:,} bytes), as {payload}: {named}"
