"""The ladder as a person runs it: every attack, what is kept of it, a kill in its middle, defences and null models."""

import csv
import json
import shutil
import warnings

import jax
import numpy as np
import pytest
import tiny_runs
from orbax.checkpoint import v1 as ocp
from tiny_runs import TINY

from gpz_jax import attack, workflow
from gpz_jax.config import AttackConfig
from gpz_jax.data.batches import pixels
from gpz_jax.inversion.ladder import LADDER
from gpz_jax.inversion.likelihood_attack import LikelihoodAttack

NAMES = [attack.name for attack in LADDER]
SHORT = ("--epochs", "1", "--decoder-width", "2", "--steps", "3", "--likelihood-images", "12", "--restarts", "1",
         "--tv", "0")  # fmt: skip


pytestmark = pytest.mark.slow  # in sum; CI runs them in a step of their own


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.delenv("GPZ_LPIPS", raising=False)
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("ladder")


@pytest.fixture(scope="module")
def run(home):
    said = tiny_runs.command("train", *TINY, "--run", "run", cwd=home)
    assert said.returncode == 0, said.stderr
    return home / "run"


#: Of the ladder, the attacks that compile fast; all of it is climbed by the slow test below.
SOME = ("linear", "deconvolution", "likelihood")
CLIMB = ("--cut", "block_3", *(flag for name in SOME for flag in ("--attack", name)), *SHORT)


@pytest.fixture(scope="module")
def climbed(home, run):
    """Some of the ladder at one cut, as a process."""
    said = tiny_runs.command("attack", "run", *CLIMB, cwd=home)
    assert said.returncode == 0, said.stderr
    return said


def result_of(run, name, home="attacks"):
    return json.loads((run / home / name / "result.json").read_text())


def mse_of_first(run, name, count=12):
    with (run / "attacks" / name / "scores.csv").open() as file:
        return np.mean([float(row["mse"]) for row in list(csv.DictReader(file))[:count]])


def test_every_attack_is_made_and_the_best_scores_the_cut(run, climbed):
    results = {name: result_of(run, f"block_3-{name}") for name in SOME}
    with (run / "attacks" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["attack"] for row in rows] == list(SOME)
    best = min(SOME, key=lambda name: mse_of_first(run, f"block_3-{name}"))
    assert [row["attack"] for row in rows if row["best"] == "True"] == [best]
    marked = [line for line in climbed.stdout.splitlines() if f"{best} *" in line]
    assert len(marked) == 1
    assert next(line for line in climbed.stdout.splitlines() if "linear" in line).rstrip("│ ").endswith("exact")
    assert {result["test_images"] for result in results.values()} == {359, 12}
    assert results["likelihood"]["test_images"] == 12
    assert results["likelihood"]["parameters"] == 0
    assert results["linear"]["parameters"] == 64 * 256 + 64 + 256  # z is 2x2x16, x 16x16; and two means
    assert (run / "figures" / "attacks-block_3.png").is_file()


def test_the_linear_attack_is_scored_as_numpy_scores_it(run, climbed):
    """Its error on the first test images, from its saved coefficients and nothing else of ours but the edge."""
    loaded = workflow.load_run(str(run))
    images = loaded.splits.test.take()[0][:12]
    z = np.asarray(loaded.network(loaded.variables, images)[1]["block_3"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Orbax warns that the devices are those that it was saved from
        kept = ocp.load(str(run / "attacks" / "block_3-linear" / "parameters"))
    flat = z.reshape(12, -1).astype(np.float64) - kept["z_mean"]
    x_hat = np.clip(kept["x_mean"] + flat @ kept["coefficients"], 0, 1)
    x = np.asarray(pixels(images, 16)).reshape(12, -1)
    np.testing.assert_allclose(np.mean((x - x_hat) ** 2), mse_of_first(run, "block_3-linear"), rtol=1e-4)


def killed(*_, **__):
    raise KeyboardInterrupt


def test_a_killed_ladder_loses_the_attack_under_way_only(run, climbed, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(run, tmp_path / "killed")
    for name in SOME[1:]:
        shutil.rmtree(folder / "attacks" / f"block_3-{name}")
    (kept,) = (folder / "attacks").glob("*/result.json")
    before = kept.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(LikelihoodAttack, "fit", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            attack.main([str(folder), *CLIMB, "--resume"])
    said = capsys.readouterr().err
    assert [name for name in SOME if f"{name} on block_3: already done" in said] == ["linear"]
    attack.main([str(folder), *CLIMB, "--resume"])
    said = capsys.readouterr().err
    assert [name for name in SOME if f"{name} on block_3: already done" in said] == ["linear", "deconvolution"]
    assert kept.stat().st_mtime_ns == before
    for name in SOME:
        want, got = result_of(run, f"block_3-{name}"), result_of(folder, f"block_3-{name}")
        assert got["scores"] == pytest.approx(want["scores"], rel=1e-4), name


def test_other_settings_of_an_attack_make_it_again_and_only_that_attack(run, climbed, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "other")
    capsys.readouterr()
    attack.main([str(folder), *CLIMB[:-1], "0.5", "--resume"])  # --tv
    said = capsys.readouterr().err
    assert [name for name in SOME if f"{name} on block_3: already done" in said] == ["linear", "deconvolution"]


def test_a_likelihood_attack_from_noise_does_not_pass_for_one_after_others(run, climbed, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "alone")
    attack.main([str(folder), "--cut", "block_3", "--attack", "likelihood", *SHORT, "--resume"])
    said = capsys.readouterr().err
    assert "likelihood on block_3: already done" not in said
    assert result_of(folder, "block_3-likelihood")["chosen"]["start"] == "noise"
    assert result_of(run, "block_3-likelihood")["chosen"]["start"] != "noise"


def test_the_whole_ladder(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "whole")
    attack.main([str(folder), "--cut", "block_3", "--ladder", *SHORT])
    said = capsys.readouterr().out
    assert {path.name for path in (folder / "attacks").iterdir()} >= {f"block_3-{name}" for name in NAMES}
    assert all(name in said for name in NAMES)


def test_a_defended_edge_is_attacked_apart_and_its_accuracy_said(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "defended")
    flags = [str(folder), "--cut", "block_4", "--attack", "linear", *SHORT]
    attack.main([*flags, "--defence", "none"])
    attack.main([*flags, "--defence", "gaussian:100"])
    said = capsys.readouterr()
    assert "block_4: test accuracy 0." in said.err
    assert "behind gaussian:100: attacked" in " ".join(said.out.split())
    bare = result_of(folder, "block_4-linear")
    drowned = result_of(folder, "block_4-linear", "attacks-gaussian100.0")
    assert "accuracy" not in bare
    assert drowned["accuracy"] < 0.25
    assert drowned["accuracy_undefended"] > drowned["accuracy"]
    assert drowned["scores"]["mse"] > 1.5 * bare["scores"]["mse"]
    assert drowned["scores"]["mse"] > 0.8 * drowned["floors"]["mean_image"]  # nothing comes through


def test_quantising_to_bytes_costs_nothing(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "bytes")
    loaded = workflow.load_run(str(folder))
    options = AttackConfig(cut=("block_4",), attack=("linear",), likelihood_images=12, defence="uint8")
    (result,) = workflow.attack_run(loaded, options)
    assert abs(result.best.accuracy - result.best.accuracy_undefended) < 0.02


def test_the_null_model_is_attacked_apart_and_is_another(run, climbed, tmp_path):
    folder = shutil.copytree(run, tmp_path / "null")
    loaded = workflow.load_run(str(folder))
    options = AttackConfig(cut=("logits",), attack=("linear",), likelihood_images=12)
    (trained,) = workflow.attack_run(loaded, options)
    (null,) = workflow.attack_run(loaded, AttackConfig(**{**vars(options), "null": True}), guarantees=False)
    assert [(folder / home / "guarantees.json").is_file() for home in ("attacks", "attacks-null")] == [True, False]
    assert (folder / "attacks-null" / "logits-linear" / "result.json").is_file()
    assert null.floors == trained.floors  # those of the images and the trained classifier
    assert null.best.scores.mse != trained.best.scores.mse


def test_what_is_sent_of_the_logits_can_be_cut_down(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "top")
    loaded = workflow.load_run(str(folder))
    errors = []
    for top_k in (None, 1):
        options = AttackConfig(cut=("logits",), attack=("linear",), top_k=top_k, likelihood_images=12)
        (result,) = workflow.attack_run(loaded, options)
        errors.append(result.best.scores.mse)
    assert errors[0] < errors[1]  # one entry, and that set to 0: the mean image, all but


def test_attacks_with_other_images_can_stand_beside_the_first(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "into")
    attack.main([str(folder), "--cut", "logits", "--attack", "linear", "--into", "mine", *SHORT])
    assert (folder / "attacks-mine" / "logits-linear" / "result.json").is_file()
    assert "attacks-mine.png" in capsys.readouterr().err


def test_help_names_the_flags(capsys):
    with pytest.raises(SystemExit):
        attack.main(["--help"])
    said = capsys.readouterr().out
    for flag in ("--ladder", "--stages", "--enrich", "--match-params", "--defence", "--null", "--lpips-weights"):
        assert flag in said
