"""attacks/ on disk: what is written is read again, records of 0.1.0 too, and table.csv forgets nothing."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import tiny_runs

from gpz_jax import runs
from gpz_jax.atomic import make_folder
from gpz_jax.errors import UserError
from gpz_jax.inversion.results import (
    Answers,
    AttackResult,
    Attempt,
    Floors,
    Intervals,
    LeakedClass,
    LeakedImage,
    Leaks,
    PerImage,
    Pictures,
    Scores,
    Training,
)

ASKED = {"seed": 0, "cut": "fc", "attack": {"name": "linear"}, "pictures": 2, "after": ("x",)}


def attempt(name="linear", mse=(0.25, 0.5, 0.75), **more):
    mse = np.array(mse)
    per_image = PerImage(np.arange(len(mse)), mse, mse + 1, mse + 2, mse + 3, psnr=-10 * np.log10(mse))
    leaks = Leaks((LeakedImage(0, 0, 0.25),), (LeakedImage(2, 2, 0.75),), (LeakedClass(0, 1, 0.25),), ())
    pictures = Pictures(np.zeros((2, 4, 4, 1), np.float32), np.ones((2, 4, 4, 1), np.float32))
    return Attempt(
        name, len(mse), Scores(mse=float(mse.mean()), psnr=3.5, psnr_paper=3.0, ratio=0.5), Intervals(mse=(0.25, 0.75)),
        Floors(1.5, 2.5, 3.5), per_image, 0.75, leaks, Training(np.array([0.5, 0.25]), 2, False, 0.5, {"width": 4}), 12,
        {"w": np.arange(3.0)}, pictures, **more,
    )  # fmt: skip


def write(home, found, cut="fc", asked=ASKED):
    folder = make_folder(runs.attack_folder(home, cut, found.attack))
    runs.write_attempt(folder, AttackResult(cut, (8,), (found,), answers=Answers(0.9, 0.1, 4), auxiliary=30), asked)
    return folder


def assert_equal(one, two):
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if field.name not in ("parameters", "training", "per_image", "first", "best_inverted", "worst_inverted"):
            assert a == b or repr(a) == repr(b), field.name  # nan is nan
    for a, b in ((one.per_image, two.per_image), (one.first, two.first)):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    assert repr(one.training) == repr(two.training)


def test_an_attempt_is_read_as_it_was_written(tmp_path):
    found = attempt(accuracy=0.5, accuracy_undefended=0.75)
    folder = write(tmp_path, found)
    assert {path.name for path in folder.iterdir()} == {
        "parameters", "reconstructions.npz", "result.json", "scores.csv"
    }  # fmt: skip
    assert json.loads((folder / "result.json").read_text())["schema_version"] == runs.SCHEMA_VERSION
    assert_equal(runs.read_attempt(folder, ASKED), found)
    (result,) = runs.read_results(tmp_path, lambda file, why: pytest.fail(why))
    assert (result.answers, result.auxiliary) == (Answers(0.9, 0.1, 4), 30)


def test_other_settings_and_damage_are_not_read(tmp_path):
    folder = write(tmp_path, attempt())
    for name, value in (("seed", 1), ("attack", {"name": "linear", "depth": [1]}), ("after", ()), ("lr", 0.1)):
        assert runs.read_attempt(folder, {**ASKED, name: value}) is None, name
    (folder / "scores.csv").write_text("image,label,mse\n0,zero,0.5\n")
    assert runs.read_attempt(folder, ASKED) is None
    runs.forget_attempt(folder)
    assert runs.read_attempt(folder, ASKED) is None
    assert not (folder / "parameters").exists()


def test_a_newer_record_is_refused_by_name(tmp_path):
    folder = write(tmp_path, attempt())
    written = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**written, "schema_version": 99}))
    with pytest.raises(UserError, match=r"result.json was written by a newer gpz_jax \(schema 99; .* upgrade"):
        runs.read_attempt(folder, ASKED)
    problems = []
    assert runs.read_results(tmp_path, lambda file, why: problems.append(why)) == []
    assert "newer gpz_jax" in problems[0]


#: What gpz_jax 0.1.0 wrote of a residual decoder, with lists cut short.
OLD = {
    "cut": "fc", "shape": [8], "dimension": 8, "decoder": "residual-se", "kind": "decoder", "decoder_parameters": 12,
    "scores": {"mse": 0.5, "psnr": 3.5, "psnr_paper": 3.0, "ratio": 0.5}, "intervals": {"mse": [0.25, 0.75]},
    "floors": {"mean_image": 1.5, "class_mean": 2.5, "label_only": 3.5}, "prior_collapse": 0.75,
    "leaks": {
        "best_images": [{"image": 0, "position": 0, "label": 0, "mse": 0.25}],
        "worst_images": [{"image": 2, "position": 2, "label": 2, "mse": 0.75}],
        "best_classes": [{"label": 0, "images": 1, "mse": 0.25}], "worst_classes": [],
    },
    "mse_first": 0.5, "best_epoch": 2, "selection_loss": [0.5, 0.25], "flattened": False, "last_gain": 0.5,
    "chosen": {"width": 4}, "test_images": 3,
    "asked": {
        "seed": 0, "auxiliary": "ab", "epoch_of_victim": 7, "shown": 10, "lpips": False, "cut": "fc", "epochs": 4,
        "patience": None, "likelihood_images": 64, "defence": "none",
        "rung": {
            "name": "residual", "kind": "decoder", "trunk": "residual", "depth": [1], "stages": "se", "enrich": "",
        },
    },
}  # fmt: skip


@pytest.fixture
def old(tmp_path):
    folder = write(tmp_path, attempt("residual-se"))
    (folder / "reconstructions.npz").rename(folder / "shown.npz")
    (folder / "parameters").rename(folder / "decoder")
    (folder / "result.json").write_text(json.dumps(OLD))
    return folder


def test_a_record_of_0_1_0_is_read_in_the_words_of_now(old):
    own = {"name": "residual-se", "trunk": "residual", "depth": (1,), "stages": "se", "enrich": ""}
    asked = {"seed": 0, "auxiliary": "ab", "epoch_of_run": 7, "pictures": 64, "lpips": False, "cut": "fc", "epochs": 4}
    found = runs.read_attempt(old, {**asked, "attack": own})
    assert (found.attack, found.parameter_count, found.training.note) == ("residual-se", 12, "under 5 epochs")
    assert found.reconstructions.shape == (2, 4, 4, 1)
    assert found.leaks.best_images == (LeakedImage(0, 0, 0.25),)
    assert runs.read_attempt(old, {**asked, "attack": {**own, "depth": (2,)}}) is None
    assert runs.read_attempt(old, {**asked, "epochs": 5, "attack": own}) is None
    assert [result.best.attack for result in runs.read_results(old.parent, none)] == ["residual-se"]


def test_what_replaces_a_record_of_0_1_0_leaves_nothing_of_it(old):
    runs.write_attempt(old, AttackResult("fc", (8,), (attempt("residual-se"),)), ASKED)
    assert not (old / "shown.npz").exists()
    assert not (old / "decoder").exists()


def none(file, why):
    pytest.fail(why)


def table(home):
    with (home / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_table_keeps_the_rows_of_earlier_calls(tmp_path):
    linear, residual = attempt("linear"), attempt("residual", mse=(0.1, 0.2, 0.3))
    for cut, found in (("logits", linear), ("fc", residual), ("a/b", linear)):
        write(tmp_path, found, cut)
    assert runs.write_table(tmp_path, [AttackResult("logits", (8,), (linear,))], none) == 2
    assert {(row["cut"], row["attack"]) for row in table(tmp_path)} == {
        ("logits", "linear"), ("a/b", "linear"), ("fc", "residual")
    }  # fmt: skip
    better = attempt("linear", mse=(0.01, 0.02, 0.03), accuracy=0.5, accuracy_undefended=0.75)
    write(tmp_path, better, "fc")
    assert runs.write_table(tmp_path, [AttackResult("fc", (8,), (better,))], none) == 3
    rows = [(row["cut"], row["attack"], row["best"], row["accuracy"]) for row in table(tmp_path)]
    assert rows == [
        ("fc", "linear", "True", "0.5"), ("fc", "residual", "False", ""),
        ("a/b", "linear", "True", ""), ("logits", "linear", "True", ""),
    ]  # fmt: skip


def test_the_best_of_a_cut_is_by_the_images_that_all_attacks_saw(tmp_path):
    # The first image is hard: the one that saw it alone did better on it.
    all_images, few = attempt("linear", mse=(0.9, 0.1, 0.1)), attempt("likelihood", mse=(0.8,))
    for found in (all_images, few):
        write(tmp_path, found)
    runs.write_table(tmp_path, [AttackResult("fc", (8,), (all_images, few))], none)
    assert [row["best"] for row in table(tmp_path)] == ["False", "True"]


def test_a_damaged_neighbour_is_left_out_of_the_table_and_named(tmp_path):
    found, problems = attempt(), []
    write(tmp_path, found)
    (write(tmp_path, found, "logits") / "result.json").write_text("{")
    results = [AttackResult("fc", (8,), (found,))]
    assert runs.write_table(tmp_path, results, lambda file, why: problems.append(why)) == 0
    assert len(table(tmp_path)) == 1
    assert problems == [f"{tmp_path}/logits-linear/result.json is damaged: no JSON at line 1, column 2"]


def test_an_attack_without_its_result_is_named(tmp_path):
    for name in ("linear", "residual"):
        folder = write(tmp_path, attempt(name))
    (folder / "result.json").unlink()
    told = []
    (result,) = runs.read_results(tmp_path, lambda file, why: told.append(why))
    assert [one.attack for one in result.attempts] == ["linear"]
    assert told == [f"{folder} holds no finished attack (no result.json)"]


def test_both_ends_of_the_leak_list_keep_their_pictures(tmp_path):
    ends = {
        name: Pictures(np.full((1, 4, 4, 1), value), np.zeros((1, 4, 4, 1)))
        for name, value in (("best_inverted", 0.25), ("worst_inverted", 0.75))
    }
    folder = write(tmp_path, dataclasses.replace(attempt(), **ends))
    for name, pictures in ends.items():
        for read, kept in zip(getattr(runs.read_attempt(folder, ASKED), name), pictures, strict=True):
            np.testing.assert_array_equal(read, kept)
    first = attempt().first._asdict()
    np.savez(folder / "reconstructions.npz", **first)  # as 0.1.0, which sealed nothing
    tiny_runs.change_json(folder / "result.json", files={})
    assert not len(runs.read_attempt(folder, ASKED).best_inverted.originals)


@pytest.mark.parametrize("damage", ["scores.csv", "reconstructions.npz", "result.json"])
@pytest.mark.parametrize("kept", [0, 1, 200])
def test_files_that_were_cut_short_are_told_of(tmp_path, damage, kept):
    folder = write(tmp_path, attempt())
    write(tmp_path, attempt("deconvolution"))
    (folder / damage).write_bytes((folder / damage).read_bytes()[:kept])
    told = []
    (result,) = runs.read_results(tmp_path, lambda file, why: told.append(why))
    if kept < 200 or damage != "scores.csv":
        assert [a.attack for a in result.attempts] == ["deconvolution"]
        assert len(told) == 1
