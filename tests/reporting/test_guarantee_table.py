"""The table under the attacks: errors beside floors, and in words what a floor does not say."""

import io

import numpy as np
import pytest
from rich.console import Console

from gpz_jax.inversion.guarantee_result import Guarantee
from gpz_jax.inversion.results import AttackResult, Attempt, Floors, Intervals, Leaks, PerImage, Scores, Training
from gpz_jax.reporting.guarantee_table import guarantee_table


def result(cut, mse):
    none = np.zeros(0)
    training = Training(np.ones(5), 1, True, 0.0, {}, "")
    scored = Scores(mse=mse), Intervals(), Floors(), PerImage(none, none, none, none, none)
    return AttackResult(cut, (3,), (Attempt("linear", 9, *scored, 1.0, Leaks(), training, 1),))


def printed(results, guarantees, width=200, **style):
    console = Console(file=io.StringIO(), width=width)
    console.print(guarantee_table(results, guarantees, **style))
    return console.file.getvalue()


UNDER = {
    "[red]x": Guarantee("[red]x", 9, 0.1, 0.01, 0.0002, 30.0, 0.5, -5328.2, 0.5, 0.0003, 0.001),
    "fc": Guarantee("fc", 9, 0.1, 0.01, 0.0002, 30.0, 0.5, -100.0, 0.5, 0.0, 0.001),
    "head": Guarantee("head", assumptions=("laplace is no Gaussian noise",)),
}


def test_floors_stand_beside_the_best_error():
    text = printed([result("[red]x", 0.02), result("fc", 0.005), result("head", 0.5), result("gone", 1.0)], UNDER)
    row = next(line for line in text.splitlines() if "[red]x" in line)
    assert [cell.strip() for cell in row.strip().strip("│").split("│")] == [
        "[red]x", "0.02", "0.01 ± 0.0002", "-5328 ± 0.5", "0.0003"
    ]  # fmt: skip
    flat = " ".join(text.split())
    assert "below its floor at fc" in flat
    assert "head: laplace is no Gaussian noise" in flat
    assert "gone" not in flat


@pytest.mark.parametrize("wide", [False, True])
def test_it_fits_80_columns(wide):
    text = printed([result("[red]x", 0.02)], UNDER, 80, wide=wide)
    assert ("with --wide also" in text) != wide
    assert max(map(len, text.splitlines())) <= 80
