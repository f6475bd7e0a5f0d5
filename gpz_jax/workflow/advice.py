"""Which cut to take, in words: only one whose verdict can be shown, and never one that can be read."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpz_jax.analysis.budget import Limit, allowed
from gpz_jax.inversion.verdict import LEAKS, READABLE, leak_rank, ruled_out

#: Attacks that a verdict asks for, beside the linear one, which every call makes.
ENOUGH = "--attack deconvolution --attack residual"


#: What to do before there are attacks, and why. A test holds it against experiments/results/predictors.
TRUST = (
    "the deepest is the least bad cut, not a safe one: whoever sees z at a cut can compute every later one, and "
    "attackers got least from it; a cut where a zone begins leaks 1.21 (rule paper) or 1.35 times (rule null) what the "
    "best one does. How much leaks no probe says: attack it. The linear attack, which takes seconds, is off the best "
    "attacker's ratio (1: as safe as the class alone) by 0.02 on average, by 0.05 at the logits, and where it errs it "
    "nearly always makes a cut look safer than it is (36 small networks, docs/findings/predictors.md)"
)


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

    Less leak is what :func:`~gpz_jax.inversion.verdict.leak_rank` says. Whoever sees z at a cut can compute z at every
    later one, so a cut is ruled out where it, or one behind it, can be read or misses a limit of leaks. Not recommended
    either: what leaks where no decoder had converged, and what leaves the cloud nothing to do.

    Args:
      rows: of the cuts in order, held against what they may cost (:func:`~gpz_jax.analysis.budget.hold`), with their
        verdicts.
      limits: budgets and limits of leaks.
      run: the run's folder, for the commands in the words.

    Example:
      >>> row = {"valid": True, "within_budget": True, "identified_within": 0.2, "ratio": 0.9}
      >>> rows = [{**row, "cut": "a", "verdict": "leaks: readable"},
      ...         {**row, "cut": "b", "verdict": "leaks: traces", "sentence": "b leaks: traces. By linear: …"}]
      >>> for line in recommend(rows, [], run="RUN").words:
      ...     print(line)
      recommended cut: b. b leaks: traces. By linear: …
      ruled out, since they or a cut behind them give away too much: a
    """
    flags = " and ".join(limit.flag for limit in limits)
    within = f" within {flags}" if flags else ""
    valid = [row for row in rows if row["valid"]]
    without = next((row for row in valid if row["verdict"] == "no verdict"), None)
    if without is not None:
        return Advice(None, (f"no cut is recommended. {without['sentence']}",))
    leaks = [limit for limit in limits if limit.leak]
    out = _ruled_out(valid, leaks)
    inside = allowed(rows)
    left = [row for row in inside if row["cut"] not in out]
    good = [row for row in left if _leak(row) is not None and not any(limit.missed(row) for limit in leaks)]
    untested = [row for row in left if row not in good]
    ruled = ", ".join(row["cut"] for row in inside if row["cut"] in out)
    told = (f"ruled out, since they or a cut behind them give away too much: {ruled}",) if ruled else ()
    if good:
        best = min(good, key=lambda row: _leak(row) or ())
        others = ", ".join(row["cut"] for row in untested)
        told += (f"not tested enough to be compared with it: {others}",) if others else ()
        return Advice(best["cut"], (f"recommended cut{within}: {best['cut']}. {best['sentence']}", *told))
    if untested:
        return _untested(untested[-1]["cut"], within, told, run)
    if not inside:
        told = ("what is within leaves the cloud nothing to do",) if any(row["within_budget"] for row in valid) else ()
        return Advice(None, (f"no cut is recommended: none is{within or ' valid'}.", *told))
    return Advice(None, (f"no cut is recommended: none{within} keeps back enough.", *told))


def _ruled_out(valid: Sequence[dict[str, Any]], leaks: Sequence[Limit]) -> set[str]:
    """The cuts that can be read or miss a limit, as far as that was measured, and all before them."""

    def too_much(row: dict[str, Any]) -> bool:
        missed = (limit.missed(row) for limit in leaks if not math.isnan(row.get(limit.key, math.nan)))
        return any(missed) or row["verdict"] == f"{LEAKS}: {READABLE}"

    found = ruled_out([too_much(row) for row in valid])
    return {row["cut"] for row, out in zip(valid, found, strict=True) if out}


def _leak(row: dict[str, Any]) -> tuple[int, float, float] | None:
    within, ratio = row.get("identified_within", math.nan), row.get("ratio", math.nan)
    return leak_rank(row["verdict"], within, ratio, row.get("missing", ""))


def _untested(first: str, within: str, told: tuple[str, ...], run: str) -> Advice:
    """Where attacks are missing: the command for the cut to begin with, the deepest one
    (:func:`~gpz_jax.analysis.budget.deepest_within`).
    """
    command = f"python -m gpz_jax.attack {run} --cut {first} {ENOUGH}"
    return Advice(
        None,
        (
            f"no cut is recommended: none{within} that could be has been tested enough.",
            *told,
            f"Begin with {first}, the deepest of them: {command}",
            TRUST,
        ),
        first,
    )


def words_on_payload(rows: Sequence[dict[str, Any]], payload: str, image: int, first: str | None = None) -> str:
    """Which valid cuts send more than the image itself, if any do.

    Args:
      rows: of the cuts.
      payload: how z is sent.
      image: bytes of the batch of images.
      first: the cut that was named; if it is one of them, how many times the image, and which cut is not.
    """
    valid = {row["cut"]: row[f"payload_{payload}"] for row in rows if row["valid"]}
    larger = [cut for cut, size in valid.items() if size > image]
    if not larger:
        return ""
    listed = ", ".join(larger[:6]) + (f" and {len(larger) - 6} more" if len(larger) > 6 else "")
    said = f"more to send than the image itself ({image:,} bytes), as {payload}: {listed}"
    if first not in larger:
        return said
    # The logits leave the cloud nothing to do.
    smaller = [
        row["cut"] for row in rows if row["cut"] in valid and row["cut"] not in larger and row.get("cloud_flops", 1)
    ]
    return (
        f"{first} sends {valid[first]:,} bytes as {payload}, {valid[first] / image:.2g} times the image itself; of the "
        f"cuts that leave the cloud something to do the first that sends no more is {(*smaller, 'none')[0]}. {said}"
    )
