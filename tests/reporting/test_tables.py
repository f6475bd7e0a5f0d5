"""Numbers for people, and CSV for programs."""

import csv
import io

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from gpz_jax import presentation
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


def record(**attributes):
    cuts, nothing = ["early", "late"], [np.nan, np.nan]
    numbers = {
        name: ("cut", [1.5, 0.25])
        for name in ("radius", "radius_per_dimension", "share", "drop", "feature_bound", "decision_bound",
                     "information_ceiling")
    }  # fmt: skip
    nulls = {
        name: ("cut", nothing) for name in ("share_null", "evidence", "evidence_low", "evidence_high", "drop_null")
    }
    return xr.Dataset(
        {
            "shape": ("cut", ["4x4x2", "10"]),
            "dimension": ("cut", [32, 10]),
            "valid": ("cut", [False, True]),
            **numbers,
            **nulls,
            "mark": (("rule", "cut"), [["", "onset"]]),
        },
        coords={"cut": cuts, "rule": ["paper"]},
        attrs={"run": "r", "split": "test", "images": 7, "labels": "true", "quantiser": "uint8", **attributes},
    )


def shown(table):
    out = io.StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue()


def test_probe_table_marks_bypassed_cuts_and_leaves_missing_numbers_blank():
    text = shown(probe_table.probe_table(record()))
    assert "early (bypassed)" in text
    assert "late (bypassed)" not in text
    assert "nan" not in text
    assert "zone: paper" in text
    late = next(line for line in text.splitlines() if "late" in line)
    assert "onset" in late
    assert "0.25" in late


def test_probe_rows_hold_what_the_record_holds():
    early, late = probe_table.probe_rows(record())
    assert (early["cut"], early["D"], early["valid"], early["zone_paper"]) == ("early", 32, False, "")
    assert (late["radius"], late["zone_paper"]) == (0.25, "onset")
    assert np.isnan(late["evidence"])


@pytest.mark.parametrize(("labels", "said"), [("predicted", "predicted labels"), ("kmeans", "k-means clusters")])
def test_probe_table_says_which_classes(labels, said):
    assert said in shown(probe_table.probe_table(record(labels=labels)))


def test_names_with_brackets_are_printed_as_they_are():
    assert "[/red]x[b]" in shown(probe_table.probe_table(record(run="[/red]x[b]")))


def attacked(flattened, gain, **more):
    scores = dict.fromkeys(attack_table.ATTACK_COLUMNS, 0.5)
    floors = {"class_mean": 0.25, "label_only": 0.5, "mean_image": 0.75}
    ends = [{"image": 7, "label": 3, "mse": 0.125}], [{"label": 4, "images": 2, "mse": 0.375}]
    leaks = {f"{end}_{what}": ends[i] for i, what in enumerate(("images", "classes")) for end in ("best", "worst")}
    return {
        "cut": "logits", "dimension": 10, "decoder": "deconvolution", "scores": scores, "floors": floors,
        "flattened": flattened, "last_gain": gain, "selection_loss": [0.1] * 10, "kind": "decoder",
        "decoder_parameters": 12345, "intervals": {"ratio": [0.4, 0.625]}, "prior_collapse": 0.5, "best": True,
        "leaks": leaks, "test_images": 100, **more,
    }  # fmt: skip


def test_attack_table_has_both_floors_and_says_whether_the_loss_flattened():
    text = shown(attack_table.attack_table("a [title]", [attacked(True, 0.002), attacked(False, 0.1, cut="[fc]")]))
    assert "a [title]" in text
    assert "[fc]" in text
    assert "loss flattened?" in text
    assert "yes (last fifth: -0.2 %)" in text
    assert "NO (last fifth: -10.0 %)" in text
    class_mean = next(line for line in text.splitlines() if "floor: class mean" in line)
    mean_image = next(line for line in text.splitlines() if "floor: mean image" in line)
    assert "0.25" in class_mean
    assert class_mean.split("│")[6].strip() == "1"
    assert mean_image.split("│")[6].strip() == "3"
    assert "[0.4, 0.625]" in text
    assert "12.3 k" in text


def test_attack_table_marks_the_best_of_a_ladder():
    rungs = [attacked(True, 0, decoder="linear", kind="linear", best=False), attacked(True, 0.002)]
    rungs.append(attacked(True, 0, decoder="likelihood", kind="likelihood", best=False, test_images=16))
    text = shown(attack_table.attack_table("t", rungs))
    assert "deconvolution *" in text
    assert "likelihood (16 images)" in text
    assert "linear *" not in text
    assert "closed form" in text


def test_leak_table_has_the_best_attack_on_each_cut_only():
    text = shown(
        attack_table.leak_table("t", [attacked(True, 0), attacked(True, 0, cut="fc", decoder="weak", best=False)])
    )
    assert "7 (3): 0.125" in text
    assert "4: 0.375" in text
    assert "weak" not in text
