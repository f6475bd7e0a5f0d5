"""What lies under the attack curve, as a table: shown beside the attacks, never mixed into what is said of a cut."""

from collections.abc import Mapping, Sequence

from gpz_jax.inversion.guarantee_result import Guarantee
from gpz_jax.inversion.results import AttackResult
from gpz_jax.presentation import number
from gpz_jax.reporting.tables import Column, Sheet

CAPTION = (
    "mse floor, unbiased: 1/dFIL; no attacker who is unbiased does better, trained ones are biased and may. "
    "H(X|Z) >=: nats of the image that z leaves open, at the resolution of a byte, of a density and so often below 0: "
    "only cuts can be compared by it; mse from it: of any attacker. "
    "Both as if z were sent as uint8, its rounding Gaussian noise; H(X|Z) and the mse from it are estimates, as if the "
    "images of a class were Gaussian"
)


def guarantee_table(
    results: Sequence[AttackResult], guarantees: Mapping[str, Guarantee], *, wide: bool = False
) -> Sheet:
    """The best attack's error at every cut, and what lies under it.

    Args:
      results: one a cut; those without a guarantee are left out.
      guarantees: by cut.
      wide: show also what z tells, and the noise that this rests on.
    """
    results = [result for result in results if result.cut in guarantees]
    rows = [guarantees[result.cut] for result in results]
    best = [result.best.scores.mse for result in results]
    return Sheet(
        "under the attacks: two estimates that need none",
        [
            Column("cut", [result.cut for result in results], words=True),
            Column("best\nmse", [number(mse) for mse in best]),
            Column("mse floor,\nunbiased", [_with_error(one.mse_floor, one.mse_floor_se) for one in rows]),
            Column("H(X|Z) >=", [_with_error(one.nats, one.nats_se, 4) for one in rows]),
            Column("mse from it", [number(one.mse_entropy) for one in rows]),
            Column("I(X;Z) <=", [_with_error(one.information, one.information_se, 4) for one in rows], wide=True),
            Column("noise", [number(one.noise) for one in rows], wide=True),
        ],
        _caption(rows, best),
        wide,
    )


def _with_error(value: float, error: float, digits: int = 3) -> str:
    found = number(value, digits)
    return f"{found} ± {number(error, 2)}" if found and number(error) else found


def _caption(rows: Sequence[Guarantee], best: Sequence[float]) -> str:
    said = CAPTION
    below = [one.cut for one, mse in zip(rows, best, strict=True) if mse < one.mse_floor]
    if below:
        said += f"; below its floor at {', '.join(below)}: the best attack there is biased, and the floor not its own"
    why: dict[str, list[str]] = {}
    for one in rows:
        if not one.images:
            why.setdefault("; ".join(one.assumptions), []).append(one.cut)
    return said + "".join(f"; {', '.join(cuts)}: {words}" for words, cuts in why.items())
