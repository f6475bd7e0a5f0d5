"""Numbers for people, and CSV for programs."""

import csv
import io

import numpy as np
import pytest
from rich.console import Console

from gpz_jax import presentation
from gpz_jax.analysis.probe_result import Probe
from gpz_jax.analysis.zone import Zone
from gpz_jax.inversion.results import (
    AttackResult,
    Attempt,
    Floors,
    Intervals,
    LeakedClass,
    LeakedImage,
    Leaks,
    PerImage,
    Scores,
    Training,
)
from gpz_jax.reporting import attack_table, probe_table, tables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.012345, "0.0123"),
        (1234.5, "1.23e+03"),
        (float("nan"), ""),
        (np.float64("nan"), ""),
        (float("inf"), "inf"),
        (-0.5, "-0.5"),
        (7, "7"),
        (np.int64(12345), "12345"),
        (True, "True"),
        (np.bool_(False), "False"),
        ("onset", "onset"),
    ],
)
def test_number(value, text):
    assert presentation.number(value) == text


def test_number_of_digits():
    assert presentation.number(1 / 3, 1) == "0.3"


def test_interval():
    assert presentation.interval(0.123, -4.567) == "[0.12, -4.57]"
    assert presentation.interval(float("nan"), 1.0) == ""
    assert presentation.interval(1.0, float("nan")) == ""


def test_csv_keeps_full_precision_and_leaves_no_partial_file(tmp_path):
    third = 1 / 3
    tables.write_csv([{"cut": "a,b", "x": third}, {"cut": 'c"d', "x": float("nan")}], tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first == {"cut": "a,b", "x": repr(third)}
    assert float(first["x"]) == third
    assert second["cut"] == 'c"d'
    assert np.isnan(float(second["x"]))
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_csv_of_other_keys_is_refused_and_the_old_file_stays(tmp_path):
    tables.write_csv([{"x": 1}], tmp_path / "t.csv")
    with pytest.raises(ValueError, match="y"):
        tables.write_csv([{"x": 1}, {"y": 2}], tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "x\n1\n"


def test_csv_of_no_rows(tmp_path):
    tables.write_csv([], tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().strip() == ""


def probed(**settings):
    numbers, nothing = np.array([1.5, 0.25]), np.full((0, 2), np.nan)
    zone = Zone("paper", ("late",), "late", numbers, numbers, numbers, "it drops")
    return Probe(
        ("early", "late"), ((4, 4, 2), (10,)), np.array([False, True]), np.array([3, 4]), np.ones((2, 2)),
        numbers, numbers, numbers, nothing, nothing, {"paper": zone}, numbers, numbers, numbers, "uint8",
        {"run": "r", "split": "test", "images": 7, "labels": "true", **settings},
    )  # fmt: skip


def shown(table):
    out = io.StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue()


def test_probe_table_marks_bypassed_cuts_and_leaves_missing_numbers_blank():
    text = shown(probe_table.probe_table(probed()))
    assert "early (bypassed)" in text
    assert "late (bypassed)" not in text
    assert "nan" not in text
    assert "zone:" in text
    assert "paper" in text
    late = next(line for line in text.splitlines() if "late" in line)
    assert "onset" in late
    assert "0.25" in late


def test_what_decides_is_shown_and_all_else_with_wide():
    few, many = (shown(probe_table.probe_table(probed(), wide=wide)) for wide in (False, True))
    assert "h feature" not in few.split("with --wide also")[0]
    assert "h feature" in many
    assert "with --wide" not in many


@pytest.mark.parametrize(("labels", "said"), [("predicted", "predicted labels"), ("kmeans", "k-means clusters")])
def test_probe_table_says_which_classes(labels, said):
    assert said in shown(probe_table.probe_table(probed(labels=labels)))


def test_names_with_brackets_are_printed_as_they_are():
    assert "[/red]x[b]" in shown(probe_table.probe_table(probed(run="[/red]x[b]")))


def attempt(name="deconvolution", *, flattened=True, gain=0.0, note="", images=100, mse=0.125):
    leaks = Leaks((LeakedImage(7, 3, 0.125),), (LeakedImage(8, 3, 0.5),), (LeakedClass(4, 2, 0.375),), ())
    return Attempt(
        name, images, Scores(mse, mse, 9.0, 9.0, 0.5, ratio=0.5), Intervals(ratio=(0.4, 0.625)),
        Floors(0.75, 0.25, 0.5), PerImage(*np.full((5, images), mse)), 0.5, leaks,
        Training(np.full(10, 0.1), flattened=flattened, last_gain=gain, note=note), 12345,
    )  # fmt: skip


def attacked(*attempts, cut="logits"):
    return AttackResult(cut, (10,), attempts or (attempt(),))


def test_attack_table_has_the_floors_and_says_whether_the_loss_flattened():
    results = [attacked(attempt(gain=0.002)), attacked(attempt(flattened=False, gain=0.1), cut="[fc]")]
    text = shown(attack_table.attack_table("a [title]", results, wide=True))
    assert "a [title]" in text
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert [row[:2] for row in rows[:2]] == [["logits", "deconvolution"], ["[fc]", "deconvolution"]]
    assert [(row[4], *row[-2:]) for row in rows[:2]] == [
        ("yes", "-0.2 %", ""), ("NO", "-10.0 %", "not converged")
    ]  # fmt: skip
    assert [row[1:4] for row in rows[2:]] == [
        ["class mean", "0.25", "1"], ["label only", "0.5", "2"], ["mean image", "0.75", "3"]
    ]  # fmt: skip
    assert rows[0][3] == "0.5 [0.4, 0.625]"
    assert "12.3 k" in text
    narrow = shown(attack_table.attack_table("t", results))
    assert "12.3 k" not in narrow
    assert "with --wide also: ssim, mse_paper, psnr, psnr_paper," in " ".join(narrow.split())


def test_attack_table_marks_the_best_of_a_ladder():
    attempts = attempt("linear", note="closed form", mse=0.25), attempt(), attempt("likelihood", images=16, mse=0.5)
    text = shown(attack_table.attack_table("t", [attacked(*attempts)]))
    assert "deconvolution *" in text
    assert "likelihood: on the first 16 test images only, compare by /class mean" in " ".join(text.split())
    assert "linear *" not in text
    assert "exact" in text


def test_attack_table_of_a_short_training_says_that_it_is_too_short():
    text = shown(attack_table.attack_table("t", [attacked(attempt(flattened=False, note="under 5 epochs"))]))
    assert "NO under 5 epochs" in " ".join(text.split())


def test_attack_tables_fit_80_characters():
    names = ("linear", "deconvolution", "residual", "attention", "enriched", "likelihood")
    results = [attacked(*(attempt(name, mse=0.00123) for name in names), cut=cut) for cut in ("block_40", "logits")]
    for table in (attack_table.attack_table("t", results), attack_table.leak_table("t", results)):
        text = io.StringIO()
        Console(file=text, width=80).print(table)
        lines = text.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        assert any("block_40" in line for line in lines)
        assert "…" not in text.getvalue()


def test_leak_table_has_the_best_attack_on_each_cut_only():
    weak = attempt("weak", mse=0.5)
    text = shown(attack_table.leak_table("t", [attacked(), attacked(attempt(), weak, cut="fc")]))
    assert text.count("7 (3): 0.125") == 2
    assert text.count("4: 0.375") == 2
    assert "weak" not in text
