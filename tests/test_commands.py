"""The three commands as a person runs them: what they print, what they write, and that the two agree."""

import csv
import errno
import json
import re
import shutil

import jax
import numpy as np
import pytest
import tiny_runs
import xarray as xr
from PIL import Image
from tiny_runs import CUTS, arrays

from gpz_jax import attack, probe, train, workflow
from gpz_jax.config import DataConfig
from gpz_jax.data.sources import load
from gpz_jax.training import classifier

ONE_EPOCH = ("--size", "16", "--width", "4", "--epochs", "1", "--null-seeds", "0")
HEADS = ("cut", "D", "R_c^2", "rho", "evidence", "zone: paper", "zone: null")


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    with jax.numpy_dtype_promotion("standard"):  # optax and dm_pix mix dtypes
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def trained(home):
    return tiny_runs.trained(home / "run")


@pytest.fixture(scope="module")
def run(home, trained):
    """The trained run, not to be changed."""
    return home / "run"


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def settings(folder):
    return json.loads((folder / "config.json").read_text())["config"]


def table_rows(text):
    """Cells of the rows of the table that a command printed, by their first cell."""
    lines = [line for line in text.splitlines() if line.lstrip().startswith("│")]
    cells = [[cell.strip() for cell in line.strip().strip("│").split("│")] for line in lines]
    return {row[0]: row for row in cells}


def attack_tables(text):
    """Rows of the tables that the attack command prints: the scores by attack or floor, the leak list by cut."""
    scores, leaks = text.partition("under the attacks")[0].split("leak list")
    lines = [line.strip().strip("│").split("│") for line in scores.splitlines() if line.lstrip().startswith("│")]
    return {row[1].strip().removesuffix(" *"): [c.strip() for c in row] for row in lines}, table_rows(leaks)


def table_heads(text):
    head = text[: text.index("┡")]  # of the first table, of one line or several
    lines = [line.strip().strip("┃").split("┃") for line in head.splitlines() if line.lstrip().startswith("┃")]
    return tuple(" ".join(part.strip() for part in parts).strip() for parts in zip(*lines, strict=True))


def assert_png(file):
    with Image.open(file) as image:
        image.load()
        assert image.format == "PNG"


def assert_csv_equals_zarr(folder, name):
    with (folder / "probe" / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    with xr.open_zarr(folder / "probe" / f"{name}.zarr") as record:
        record.load()
    assert [row["cut"] for row in rows] == list(record.cut.values)
    numbers = [
        key for key in rows[0] if key not in ("cut", "shape", "dimension", "valid") and not key.startswith("zone_")
    ]
    assert len(numbers) >= 12
    for row in rows:
        at = record.sel(cut=row["cut"])
        assert int(row["dimension"]) == at.dimension
        assert row["shape"] == at["shape"]
        for key in numbers:
            np.testing.assert_array_equal(float(row[key]), float(at[key].mean()), err_msg=key)
        for rule in record.rule.values:
            assert row[f"zone_{rule}"] == at.zone.sel(rule=rule)
    return rows, record


# Train ---------------------------------------------------------------------------------------------------------------


def test_train_prints_the_table_of_every_cut(run, trained):
    assert table_heads(trained.stdout) == HEADS
    rows = table_rows(trained.stdout)
    assert tuple(rows) == CUTS
    assert rows["block_1"][1] == "256"
    assert rows["logits"][1] == "10"
    assert all(cell for cell in rows["fc"][:5])  # every measured number is there
    assert "rule 'paper':" in trained.stdout
    assert "rule 'null':" in trained.stdout
    assert "test accuracy 0." in trained.stderr
    assert "python -m gpz_jax.attack run" in trained.stderr
    assert all(line.startswith("gpz: ") for line in trained.stderr.splitlines()), trained.stderr


def test_train_writes_the_run_folder(run):
    written = json.loads((run / "config.json").read_text())
    assert written["config"]["training"]["ls"] == 0.3
    assert set(written["versions"]) >= {"jax", "flax", "optax", "orbax-checkpoint", "numpy"}
    assert len(written["fingerprint"]) == 64
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert [set(line["cuts"]) for line in lines] == [set(CUTS)] * 2
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["1", "2"]
    assert_png(run / "figures" / "training.png")
    assert_png(run / "figures" / "probe-test.png")
    assert not list(run.rglob("*.partial"))
    assert not list(run.rglob("*.pkl"))


def test_dynamics_say_what_metrics_say(run):
    with xr.open_zarr(run / "dynamics.zarr", group="epochs", consolidated=False) as dynamics:
        dynamics.load()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert dict(dynamics.sizes) == {"epoch": 2, "cut": 6, "class": 10}
    assert tuple(dynamics.cut.values) == CUTS
    assert dynamics.train_loss.values.tolist() == [line["train_loss"] for line in lines]
    for cut in CUTS:
        expected = [line["cuts"][cut]["radius"] for line in lines]
        np.testing.assert_array_equal(dynamics.radius.sel(cut=cut), expected)
    # Measured on balanced classes: R_c^2 over classes is near the one over images.
    np.testing.assert_allclose(dynamics.radius.mean("class"), dynamics.within, rtol=0.1)


def test_dynamics_open_as_a_tree(run):
    """A run without a ledger too: a reader need not know which it has."""
    with xr.open_datatree(run / "dynamics.zarr", engine="zarr", consolidated=False) as tree:
        assert list(tree.children) == ["epochs"]
        assert dict(tree["epochs"].sizes) == {"epoch": 2, "cut": 6, "class": 10}


def test_csv_equals_zarr_and_the_printed_table(run, trained):
    rows, record = assert_csv_equals_zarr(run, "test")
    printed = table_rows(trained.stdout)
    for row in rows:
        assert printed[row["cut"]][2] == f"{float(row['within']):.3g}"
        assert printed[row["cut"]][3] == f"{float(row['rho']):.3g}"
    assert dict(record.sizes) == {"cut": 6, "class": 10, "null": 2, "rule": 2}
    assert record.attrs["images"] == 359
    assert int(record["count"].sum()) == 359
    weights = record["count"] / 359
    np.testing.assert_allclose((record.radius * weights).sum("class"), record.within, rtol=1e-4)
    np.testing.assert_allclose(record.within / (record.within + record.between), record.rho, rtol=1e-4)


@pytest.mark.slow
def test_without_run_the_name_is_readable_and_free(tmp_path, capsys):
    flags = (*ONE_EPOCH, "--ls", "0.3")
    train.main([*flags])
    train.main([*flags])
    name = "digits-cnn4-ls0.3-seed0"
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [name, f"{name}-2"]
    assert table_rows(capsys.readouterr().out)["logits"][4] == ""  # no null model
    before = tiny_runs.snapshot(tmp_path / "runs" / name / "checkpoints")
    train.main([*flags, "--resume"])  # the one of that name, not a third
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert tiny_runs.snapshot(tmp_path / "runs" / name / "checkpoints") == before


@pytest.mark.slow
def test_flags_win_over_the_file_over_the_defaults(tmp_path):
    (tmp_path / "recipe.toml").write_text(
        "seed = 3\n[data]\nsize = 16\n[model]\nwidth = 4\n[training]\nepochs = 1\ntrack_size = 500\nls = 0.1\n"
        "[probe]\nnull_seeds = 0\nrule = ['paper']\n[attack]\nepochs = 1\n"
    )
    train.main(["--config", "recipe.toml", "--ls", "0.2", "--run", "r"])
    found = settings(tmp_path / "r")
    assert (found["training"]["ls"], found["training"]["track_size"], found["training"]["epochs"]) == (0.2, 500, 1)
    assert (found["model"]["width"], found["seed"]) == (4, 3)
    assert found["training"]["batch_size"] == 128  # the default
    assert found["model"]["dtype"] == "float32"  # 'auto', worked out
    with xr.open_zarr(tmp_path / "r" / "probe" / "test.zarr") as record:
        assert list(record.rule.values) == ["paper"]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("train", "--data --data-dir --aux --model --width --size --ls --epochs --batch-size --lr --seed --run --resume"
                  " --config --warmup-epochs --null-seeds --rule"),
        ("probe", "--data --data-dir --model --width --size --ls --seed --config --split --limit --labels --unbiased"
                  " --null-seeds --rule --bootstrap --quantiser"),
        ("attack", "--data --data-dir --aux --model --width --size --ls --epochs --batch-size --lr --seed --resume"
                   " --config --cut --decoder-width"),
    ],
)  # fmt: skip
def test_help_teaches(name, flags, tmp_path):
    said = tiny_runs.command(name, "--help", cwd=tmp_path)
    assert said.returncode == 0
    assert said.stderr == ""
    words = said.stdout.split()
    assert [flag for flag in flags.split() if flag not in words] == []
    assert f"python -m gpz_jax.{name} " in said.stdout.split("Examples:")[1]


# Probe ---------------------------------------------------------------------------------------------------------------


def test_probe_as_a_process(home, run):
    said = tiny_runs.command("probe", "run", "--split", "train", "--null-seeds", "2", "--bootstrap", "20", cwd=home)
    assert said.returncode == 0, said.stderr
    assert table_heads(said.stdout) == HEADS
    assert tuple(table_rows(said.stdout)) == CUTS
    assert "936 train images" in said.stdout
    assert_csv_equals_zarr(run, "train")
    assert_png(run / "figures" / "probe-train.png")


QUICK = ("--null-seeds", "0", "--bootstrap", "20")


@pytest.mark.parametrize("labels", [pytest.param("predicted", marks=pytest.mark.slow), "kmeans"])
def test_probe_under_other_labels(copy, capsys, labels):
    probe.main([str(copy), "--labels", labels, *QUICK])
    assert {"predicted": "predicted labels", "kmeans": "k-means clusters"}[labels] in capsys.readouterr().out
    _, other = assert_csv_equals_zarr(copy, f"test-{labels}")
    _, true = assert_csv_equals_zarr(copy, "test")
    assert int(other["count"].sum()) == 359
    assert not np.array_equal(other.rho, true.rho)
    if labels == "predicted":
        loaded = workflow.load_run(str(copy))
        logits, _ = loaded.network(loaded.variables, loaded.splits.test.take()[0])
        np.testing.assert_array_equal(other["count"], np.bincount(np.argmax(logits, axis=1), minlength=10))


@pytest.mark.slow
def test_probe_unbiased_and_limited(copy):
    probe.main([str(copy), "--unbiased", "--limit", "300", *QUICK])
    unbiased = assert_csv_equals_zarr(copy, "test-limit300-unbiased")[1]
    probe.main([str(copy), "--limit", "300", *QUICK])
    biased = assert_csv_equals_zarr(copy, "test-limit300")[1]
    assert unbiased.attrs["images"] == biased.attrs["images"] == 300
    count = biased["count"]
    np.testing.assert_allclose(unbiased.radius, biased.radius * count / (count - 1), rtol=1e-4)


@pytest.mark.slow
def test_probe_of_so_few_images_that_classes_are_missing(copy, capsys):
    probe.main([str(copy), "--limit", "4", *QUICK])
    out = capsys.readouterr().out
    assert not any("nan" in cell for cells in table_rows(out).values() for cell in cells)
    assert "left out: " in out  # by the rule, which says that it is for rho being none
    record = assert_csv_equals_zarr(copy, "test-limit4")[1]
    assert int(record["count"].sum()) == 4
    assert np.isfinite(record.within).all()


def test_probe_without_null_models_by_one_rule(copy, capsys):
    probe.main([str(copy), "--null-seeds", "0", "--rule", "paper"])
    out = capsys.readouterr().out
    assert "rule 'null'" not in out
    rows = table_rows(out)
    assert len(rows["logits"]) == len(HEADS) - 1
    assert rows["logits"][4] == ""  # evidence


@pytest.mark.slow
def test_probe_of_every_split(copy):
    sizes = {}
    for split in ("validation", "auxiliary", "full"):
        probe.main([str(copy), "--split", split, *QUICK])
        sizes[split] = assert_csv_equals_zarr(copy, split)[1].attrs["images"]
    assert sizes == {"validation": 143, "auxiliary": 359, "full": 1438}


@pytest.mark.slow
def test_probe_twice_is_the_same_and_another_seed_is_not(copy):
    def found(*flags):
        probe.main([str(copy), "--null-seeds", "2", "--bootstrap", "20", *flags])
        return (copy / "probe" / "test.csv").read_text()

    first = found()
    assert found() == first
    assert found("--seed", "1") != first


# Attack --------------------------------------------------------------------------------------------------------------

SHORT = ("--epochs", "5", "--decoder-width", "4")


@pytest.fixture(scope="module")
def attack_said(run, tmp_path_factory):
    """A run attacked at one cut: its folder and what was said."""
    home = tmp_path_factory.mktemp("attacked")
    shutil.copytree(run, home / "run")
    said = tiny_runs.command("attack", "run", "--cut", "logits", *SHORT, cwd=home)
    assert said.returncode == 0, said.stderr
    return home / "run", said


@pytest.fixture(scope="module")
def attacked(attack_said):
    """The attacked run, not to be changed."""
    return attack_said[0]


def test_attack_as_a_process(attack_said):
    run, said = attack_said
    assert table_heads(said.stdout) == ("cut", "attack", "mse", "/class mean", "identi- fied", "loss flat?")
    rows, _ = attack_tables(said.stdout)
    assert tuple(rows) == ("deconvolution", "linear", "class mean", "label only", "mean image")
    assert rows["deconvolution"][-1] in ("yes", "NO")
    assert rows["linear"][-1] == "exact"
    assert re.search(
        r"^logits (leaks: [a-z]+\. By (linear|deconvolution): mse|: not tested enough; )", said.stdout, re.M
    )
    assert re.search(r"gpz: deconvolution on logits: mse 0\.\d+, [\d.]+ of the class-mean floor, \d+ s\n", said.stderr)
    assert (
        "python -m gpz_jax.inversion.lpips_weights lpips_alex.npz; then --lpips-weights lpips_alex.npz" in said.stderr
    )
    folder = run / "attacks" / "logits-deconvolution"
    assert {path.name for path in folder.iterdir()} == {
        "best.png", "parameters", "reconstructions.npz", "reconstructions.png", "result.json", "scores.csv", "worst.png"
    }  # fmt: skip
    assert_png(run / "figures" / "attacks.png")
    with (folder / "scores.csv").open() as file:
        scores = list(csv.DictReader(file))
    assert len(scores) == 359
    result = json.loads((folder / "result.json").read_text())
    mse = np.mean([float(score["mse"]) for score in scores])
    np.testing.assert_allclose(mse, result["scores"]["mse"], rtol=1e-6)
    assert rows["deconvolution"][2] == f"{mse:.3g}"
    np.testing.assert_allclose(mse / result["floors"]["class_mean"], result["scores"]["ratio"], rtol=1e-6)
    # The floors are those of the data: computed here from the images alone.
    assert 0.02 < result["floors"]["class_mean"] < result["floors"]["mean_image"] < 0.15
    low, high = result["intervals"]["mse"]
    assert low < mse < high
    ordered = sorted(scores, key=lambda score: float(score["mse"]))
    assert [entry["image"] for entry in result["leaks"]["best_images"]] == [int(s["image"]) for s in ordered[:5]]
    assert [entry["image"] for entry in result["leaks"]["worst_images"]] == [int(s["image"]) for s in ordered[:-6:-1]]

    floor = json.loads((run / "attacks" / "guarantees.json").read_text())["cuts"]["logits"]
    assert floor["images"] == 359
    assert 0 < floor["mse_floor"] < mse
    assert 0 <= floor["mse_entropy"] < mse
    under = table_rows(said.stdout.partition("under the attacks")[2])["logits"]
    assert under[1] in (rows["linear"][2], rows["deconvolution"][2])
    assert under[2].startswith(f"{floor['mse_floor']:.3g} ± ")


def test_attack_with_the_same_settings_is_not_run_again(attack_said, tmp_path, capsys):
    run = shutil.copytree(attack_said[0], tmp_path / "run")
    folder = run / "attacks" / "logits-deconvolution"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    kept = (run / "attacks" / "guarantees.json").stat().st_mtime_ns
    attack.main([str(run), "--cut", "logits", *SHORT, "--resume"])
    again = capsys.readouterr()
    assert (run / "attacks" / "guarantees.json").stat().st_mtime_ns == kept
    assert "deconvolution on logits: already done, read from" in again.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert attack_tables(again.out) == attack_tables(attack_said[1].stdout)


class Attacked(Exception):
    """The decoder would be trained now."""


def assert_attacked_again(attacked, tmp_path, monkeypatch, *flags):
    """``--resume`` with other flags attacks again; that it begins to is enough."""

    def begun(*args, **options):
        raise Attacked

    monkeypatch.setattr("gpz_jax.inversion.decoder_attack.train_decoder", begun)
    folder = shutil.copytree(attacked, tmp_path / "again")
    with pytest.raises(Attacked):
        attack.main([str(folder), "--cut", "logits", *SHORT, "--resume", *flags])


def test_attack_with_another_seed_is_run_again(attacked, tmp_path, monkeypatch):
    assert_attacked_again(attacked, tmp_path, monkeypatch, "--seed", "5")


@pytest.mark.slow
def test_attack_with_other_images_as_many_is_run_again(attacked, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "other.npz", **arrays(train=359))
    assert_attacked_again(attacked, tmp_path, monkeypatch, "--aux", "other", "--data-dir", "data")


def test_a_damaged_guarantee_is_said_and_replaced(attacked, tmp_path, capsys):
    spoilt = shutil.copytree(attacked, tmp_path / "spoilt")
    file = spoilt / "attacks" / "guarantees.json"
    file.write_text('{"cuts": [')
    attack.main([str(spoilt), "--cut", "logits", *SHORT, "--resume"])
    said = capsys.readouterr()
    assert "guarantees.json is damaged: no JSON at line 1, column 11; it is made anew" in said.err
    assert "already done" in said.err
    assert "mse floor" in said.out
    assert json.loads(file.read_text()) == json.loads((attacked / "attacks" / "guarantees.json").read_text())


def test_a_damaged_attack_is_run_again(attacked, tmp_path, monkeypatch):
    spoilt = shutil.copytree(attacked, tmp_path / "spoilt")
    file = spoilt / "attacks" / "logits-deconvolution" / "reconstructions.npz"
    file.write_bytes(file.read_bytes()[:50])
    assert_attacked_again(spoilt, tmp_path, monkeypatch)


@pytest.mark.slow
def test_an_attack_that_is_killed_while_it_is_scored_is_not_taken_for_finished(attacked, tmp_path, monkeypatch):
    folder = shutil.copytree(attacked, tmp_path / "killed")
    result = folder / "attacks" / "logits-deconvolution" / "result.json"
    assert result.exists()

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("gpz_jax.runs.attacks.save_tree", killed)
    with pytest.raises(SystemExit) as stop:
        attack.main([str(folder), "--cut", "logits", *SHORT, "--seed", "5"])
    assert stop.value.code == 130
    assert not result.exists()


# Other data ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_npz_data_set_and_another_as_the_attackers_images(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    names = ["[red]x", "<script>", *(f"class {c}" for c in range(2, 10))]
    np.savez(tmp_path / "data" / "mine.npz", **arrays(), class_names=np.array(names))
    np.savez(tmp_path / "data" / "theirs.npz", **arrays(train=359, channels=3))
    train.main(["--data", "mine", *ONE_EPOCH, "--run", "r"])
    assert json.loads((tmp_path / "r" / "config.json").read_text())["class_names"] == names
    assert "359 test images" in capsys.readouterr().out
    assert settings(tmp_path / "r")["data"]["data"] == "mine"
    attack.main(["r", "--aux", "theirs", "--cut", "logits", "--epochs", "1", "--decoder-width", "4"])
    said = capsys.readouterr()
    assert "auxiliary 'theirs' converted from 3 to 1 channels" in said.err
    assert "attacked with 359 auxiliary images" in said.out
    leaks = " ".join(attack_tables(said.out)[1]["logits"])
    assert sum(name in leaks for name in names) >= 2
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    probe.main(["r", "--null-seeds", "0", "--data-dir", "elsewhere", "--data", "mine", "--width", "4"])
    assert_csv_equals_zarr(tmp_path / "r", "test")


def test_training_with_the_attackers_images_from_elsewhere_uses_all_of_its_own(tmp_path):
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "theirs.npz", **arrays(train=150))
    dealt, source = workflow.load_data(DataConfig(aux="theirs", data_dir="data"), seed=0)
    assert len(dealt.train) + len(dealt.validation) == len(source.train_images)
    assert len(dealt.auxiliary) == 150


@pytest.mark.slow
def test_a_folder_of_images(tmp_path, capsys):
    digits = load("digits")
    for split, images, labels in (
        ("train", digits.train_images, digits.train_labels),
        ("test", digits.test_images, digits.test_labels),
    ):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / "data" / "written" / split / f"class {label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(folder / f"{i}.png")
    train.main(["--data", "written", *ONE_EPOCH, "--run", "r"])
    probe.main(["r", "--null-seeds", "0", "--split", "full"])
    assert "1438 full images" in capsys.readouterr().out
    assert_csv_equals_zarr(tmp_path / "r", "full")


@pytest.mark.slow
def test_colour_is_augmented_and_attacked(tmp_path, capsys, monkeypatch):
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "coloured.npz", **arrays(train=200, test=50, channels=3, side=16))
    kinds, honest = [], classifier.augment
    monkeypatch.setattr(
        classifier, "augment", lambda key, images, *, kind: kinds.append(kind) or honest(key, images, kind=kind)
    )
    train.main(["--data", "coloured", *ONE_EPOCH, "--batch-size", "32", "--run", "r"])
    assert kinds == ["colour"]  # by default, in the one trace of the step
    attack.main(["r", "--cut", "logits", "--epochs", "1", "--decoder-width", "2"])
    with np.load(tmp_path / "r" / "attacks" / "logits-deconvolution" / "reconstructions.npz") as shown:
        assert shown["originals"].shape == shown["reconstructions"].shape == (50, 16, 16, 3)
    assert "class mean" in capsys.readouterr().out


def test_a_disk_that_fails_is_one_line(attacked, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(attacked, tmp_path / "full")

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device", "scores.csv")

    monkeypatch.setattr("gpz_jax.runs.attacks.save_tree", full)
    with pytest.raises(SystemExit) as stop:
        attack.main([str(folder), "--cut", "logits", "--attack", "linear", "--seed", "5"])
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == ("gpz: error: No space left on device: scores.csv; what was finished before is kept")
