"""Everything a person can get wrong is one line that says what, and what to do; and it costs nothing that is done."""

import json
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest
import tiny_runs
from tiny_runs import TINY, arrays, refused, snapshot

import gpz_jax
from gpz_jax import attack, cuts, models, probe, train, workflow
from gpz_jax.data.sources import load

SIZE = TINY[:4]


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        yield


def digits():
    """Keys of an .npz of the digits as they are."""
    source = load("digits")
    return {key: getattr(source, key) for key in ("train_images", "train_labels", "test_images", "test_labels")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run on an .npz, probed, with its data beside it; not to be changed.

    It is that of the digits, and its .npz holds them: what a run knows its data by are the arrays.
    """
    home = tmp_path_factory.mktemp("home")
    (home / "data").mkdir()
    np.savez(home / "data" / "mine.npz", **digits())
    tiny_runs.trained(home / "run")
    written = json.loads((home / "run" / "config.json").read_text())
    written["config"]["data"] |= {"data": "mine", "data_dir": str(home / "data")}
    tiny_runs.change_json(home / "run" / "config.json", config=written["config"])
    return home


@pytest.fixture
def run(trained):
    """The finished run; whatever a test does to it by a command, nothing of it may have changed."""
    before = snapshot(trained / "run")
    yield trained / "run"
    assert snapshot(trained / "run") == before


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the finished run and its data, to be damaged."""
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy" / "run"


@pytest.fixture
def no_training(monkeypatch):
    """What is refused is refused before anything is trained."""
    monkeypatch.setattr("gpz_jax.training.sweep.fit", lambda *args, **kwargs: pytest.fail("it trained"))


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data", "digit"], "no data set 'digit'.*; did you mean 'digits'"),
        (["--data", "cifar01"], "no data set 'cifar01'.*; did you mean 'cifar10'"),
        (["--data", "../digits"], "not a data set name"),
        (["--aux", "mnits"], "no data set 'mnits'.*; did you mean 'mnist'"),
        (["--aux", "digits"], "cannot be its own auxiliary"),
        (["--model", "cnm"], "unknown model 'cnm'; did you mean 'cnn'"),
        (["--rule", "papper"], "unknown rule 'papper'; did you mean 'paper'"),
        (["--rule", "null", "--null-seeds", "1"], "rule 'null' needs --null-seeds 2 or more, got 1"),
        (["--epoch", "3"], "unknown flag '--epoch'; did you mean '--epochs'"),
        (["--cut", "block_4"], "unknown flag '--cut'"),
        (["--track-every", "1", "--interference", "blok_4"], "unknown cut 'blok_4'; did you mean 'block_4'"),
        (
            ["--track-every", "1", "--interference", "fc", "--interference", "fcc"],
            "unknown cut 'fcc'; did you mean 'fc'",
        ),
        (["--track-evry", "1"], "unknown flag '--track-evry'; did you mean '--track-every'"),
        (["--track-split", "test"], "test.*train.*validation"),
        (["--ledger", "parameter"], "parameter.*feature.*full"),
        (["--augment", "color"], "color.*colour"),
        (["--augment", "colour"], "augmentation 'colour' needs 3 channels, the images have 1"),
        (["stray"], "stray"),
        (["--epochs", "many"], "many"),
        (["--epochs"], "--epochs"),
    ],
)
def test_train_names(capsys, tmp_path, flags, said):
    assert_says(refused(capsys, train.main, *flags, "--run", "r"), said)
    assert not (tmp_path / "r").exists()  # nothing is left in the way of the next try


def assert_says(text, pattern):
    import re

    assert re.search(pattern, text), text
    assert len(text) < 500


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rule", "nul"], "unknown rule 'nul'; did you mean 'null'"),
        (["--splits", "train"], "unknown flag '--splits'; did you mean '--split'"),
        (["--split", "tset"], "tset"),
        (["--null-seeds", "-1"], "--null-seeds must be at least 0, got -1"),
        (["--bootstrap", "0"], "--bootstrap must be at least 1, got 0"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--rule", "null", "--null-seeds", "1"], "rule 'null' needs --null-seeds 2 or more, got 1"),
    ],
)
def test_probe_names_and_numbers(capsys, run, flags, said):
    assert_says(refused(capsys, probe.main, run, *flags), said)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--cut", "block4"], "unknown cut 'block4'; did you mean 'block_4'"),
        (["--cut", "logits", "--cut", "softmax"], "unknown cut 'softmax'"),
        (["--cuts", "logits"], "unknown flag '--cuts'; did you mean '--cut'"),
        (["--aux", "min"], "no data set 'min'.*; did you mean 'mine'"),
        (["--aux", "mine"], "'mine' cannot be its own auxiliary"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--lr", "-1"], "--lr must be a positive number, got -1"),
        (["--lr", "nan"], "--lr must be a positive number, got nan"),
        (["--selection-fraction", "1"], "--selection-fraction must lie between 0 and 1, got 1"),
        (["--decoder-width", "0"], "--decoder-width must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--attack", "likelyhood"], "unknown attack 'likelyhood'; did you mean 'likelihood'"),
        (["--ladder", "--attack", "linear"], "give --ladder .every one. or --attack .those you name., not both"),
        (
            ["--cut", "block_3", "--stages", "mha,se,lsk,msca"],
            "--stages names 4 of them, but the decoder from z .* has 3",
        ),
        (["--stages", "mha,ase"], "unknown .*'ase'.*did you mean 'se'"),
        (["--enrich", "normalise"], "unknown enrichment 'normalise'.*did you mean 'normalize'"),
        (["--cut", "logits", "--top-k", "11"], "--top-k 11: z has 10 entries; give 1 to 10"),
        (["--cut", "block_4", "--top-k", "2"], "--top-k needs a vector of logits, but z has shape"),
        (["--cut", "block_4", "--probabilities"], "--probabilities needs a vector of logits, but z has shape"),
        (["--cut", "block_4", "--tokens", "mean"], "is not a sequence: leave out --tokens mean at this cut"),
        (["--cut", "logits", "--match-params", "7"], "--match-params 7: the nearest decoder .* parameters; give about"),
        (["--defence", "gausian:1"], "unknown defence 'gausian'; did you mean 'gaussian'"),
        (["--defence", "dropout:2"], "dropout:2: give a probability between 0 and 1"),
        (["--tv", "-1"], "--tv must be 0 or more, got -1"),
        (["--patience", "0"], "--patience must be at least 1, got 0"),
        (["--lpips-weights", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_attack_names_and_numbers(capsys, run, flags, said):
    assert_says(refused(capsys, attack.main, run, *flags), said)


# Numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ls", "1"], "--ls must be a finite number below 1, got 1"),
        (["--ls", "1.5"], "--ls must be a finite number below 1, got 1.5"),
        (["--ls", "nan"], "--ls must be a finite number below 1, got nan"),
        (["--ls=-inf"], "--ls must be a finite number below 1, got -inf"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--batch-size", "63"], "--batch-size 63 must be a multiple of the 2 devices"),
        (["--batch-size", "2000"], r"--batch-size 2000 is larger than the training split \(936 images\)"),
        (["--lr", "0"], "--lr must be a positive number, got 0"),
        (["--size", "20"], "--size must be a positive multiple of 16.*got 20"),
        (["--size", "0"], "--size must be a positive multiple of 16.*got 0"),
        (["--width", "0"], "--width must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--validation-fraction", "0"], "--validation-fraction must lie between 0 and 1, got 0"),
        (["--validation-fraction", "0.9", "--auxiliary-fraction", "0.2"], "leaves no train images"),
        (["--warmup-epochs", "3", "--epochs", "3", "--ls", "-0.05"], "--warmup-epochs 3 leaves none of the 3 epochs"),
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--track-every", "0"], "--track-every must be at least 1, got 0"),
        (["--track-every", "-1"], "--track-every must be at least 1, got -1"),
        (["--track-every", "1", "--probe-size", "0"], "--probe-size must be at least 1, got 0"),
        (["--track-every", "1", "--probe-size", "1"], "--probe-size 1 is too small for 10 classes.*--probe-size 20 or"),
        (
            ["--track-every", "5", "--probe-size", "19"],
            "--probe-size 19 .* two images of each, that is --probe-size 20",
        ),
    ],
)
def test_train_numbers(capsys, tmp_path, flags, said):
    assert_says(refused(capsys, train.main, *flags, "--run", "r"), said)
    assert not (tmp_path / "r").exists()


@pytest.mark.thorough
def test_a_diverging_alpha_keeps_the_last_good_epoch(capsys, tmp_path):
    flags = [*SIZE, "--ls=-1e30", "--warmup-epochs", "1", "--epochs", "3", "--run", "r"]
    said = refused(capsys, train.main, *flags)
    assert_says(said, r"not finite at step 7 \(epoch 2, alpha -1e\+30, learning rate 0.01\).*last good epoch.*--ls")
    assert [path.name for path in (tmp_path / "r" / "checkpoints").iterdir()] == ["1"]
    assert workflow.load_run("r").epoch == 1
    lines = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]


@pytest.mark.slow
def test_a_diverging_learning_rate(capsys):
    assert_says(refused(capsys, train.main, *SIZE, "--lr", "1e30", "--epochs", "2", "--run", "r"), "not finite at step")


# Files of data -------------------------------------------------------------------------------------------------------


def npz(tmp_path, **changed):
    """An .npz of the digits with some arrays replaced (None: left out)."""
    (tmp_path / "data").mkdir(exist_ok=True)
    whole = {**arrays(train=300, test=100), **changed}
    np.savez(tmp_path / "data" / "bad.npz", **{key: value for key, value in whole.items() if value is not None})


def refused_data(capsys, tmp_path):
    said = refused(capsys, train.main, "--data", "bad", "--batch-size", "32", "--run", "r")
    assert not (tmp_path / "r").exists()
    return said


def test_file_missing(capsys, tmp_path):
    (tmp_path / "data").mkdir()
    said = refused_data(capsys, tmp_path)
    assert_says(said, r"no data set 'bad': looked for data/bad.npz and the folder data/bad")
    assert_says(
        refused(capsys, train.main, "--data", "bad", "--data-dir", "nowhere"), "data directory nowhere does not exist"
    )
    (tmp_path / "file").touch()
    assert_says(refused(capsys, train.main, "--data", "bad", "--data-dir", "file"), "data directory file is a file")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"these are no images", "bad.npz is not an .npz file"),
        (b"", "bad.npz is not an .npz file"),
        (b"PK\x03\x04 and no more", "bad.npz is truncated"),
        (b"\x93NUMPY\x01\x00", "bad.npz is a single .npy array"),
    ],
)
def test_not_an_npz(capsys, tmp_path, content, said):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bad.npz").write_bytes(content)
    assert_says(refused_data(capsys, tmp_path), said)


def test_a_truncated_npz(capsys, tmp_path):
    npz(tmp_path)
    file = tmp_path / "data" / "bad.npz"
    file.write_bytes(file.read_bytes()[:5000])
    assert_says(refused_data(capsys, tmp_path), "bad.npz is truncated; copy or write it again")


def test_pickles_are_never_loaded(capsys, tmp_path):
    npz(tmp_path, train_images=np.array([{"a": 1}] * 300, dtype=object))
    assert_says(refused_data(capsys, tmp_path), "bad.npz: train_images holds pickled Python objects")


def test_keys_missing(capsys, tmp_path):
    npz(tmp_path, train_labels=None, test_images=None, x_train=np.zeros(3))
    said = refused_data(capsys, tmp_path)
    assert_says(said, "lacks train_labels, test_images or test_data; it holds .*x_train")


GOOD = arrays(train=300, test=100)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train_images": GOOD["train_images"][..., 0]}, r"must have the shape \(N, H, W, C\), found \(300, 8, 8\)"),
        ({"train_images": GOOD["train_images"].astype(np.float32)}, r"floats must lie in \[0, 1\]: divide"),
        ({"train_images": np.full((300, 8, 8, 1), np.nan, np.float32)}, "train_images holds NaN or infinite values"),
        ({"train_images": np.zeros((300, 8, 8, 2), np.uint8)}, "must have 1 or 3 channels, found 2"),
        ({"train_images": np.zeros((300, 1, 8, 8), np.uint8)}, "move the channels last"),
        ({"train_images": np.zeros((300, 9, 8, 1), np.uint8)}, "train_images are 9x8x1 but test_images are 8x8x1"),
        ({"train_images": np.zeros((300, 8, 8, 3), np.uint8)}, "train_images are 8x8x3 but test_images are 8x8x1"),
        ({"train_images": GOOD["train_images"][:0]}, "train_images is empty"),
        ({"train_labels": GOOD["train_labels"] - 1}, "train_labels holds the label -1; number the classes from 0"),
        ({"train_labels": GOOD["train_labels"] / 2}, "train_labels must be integers, found float64"),
        ({"test_labels": GOOD["test_labels"] + 5}, "test_labels holds the label 1[0-4]"),
        ({"train_labels": GOOD["train_labels"][:-1]}, "train_labels has 299 labels for 300 images"),
        ({"train_labels": GOOD["train_labels"] * 2}, "class 1 has no train image"),
        ({"train_labels": GOOD["train_labels"] * 0, "test_labels": GOOD["test_labels"] * 0}, "holds a single class, 0"),
        ({"train_labels": GOOD["train_labels"] + 10**9}, "holds the label 10000000"),
        ({"test_labels": np.minimum(GOOD["test_labels"], 8)}, "class 9 .*no image in the test split"),
        ({"test_labels": np.where(np.arange(100) == 50, 9, np.minimum(GOOD["test_labels"], 8))}, "only 1 image in the"),
        (
            {"train_labels": np.where(np.arange(300) == 50, 9, np.minimum(GOOD["train_labels"], 8))},
            "class 9 .*(no|only 1) image in the .* split",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays(capsys, tmp_path, changed, said):
    npz(tmp_path, **changed)
    text = refused_data(capsys, tmp_path)
    assert_says(text, said)
    assert "bad" in text


def test_tfds_is_not_installed(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    (tmp_path / "data").mkdir()
    said = refused(capsys, train.main, "--data", "mnist", "--run", "r")
    assert_says(said, r"data set 'mnist' is not in data; .*pip install 'gpz-jax\[tfds\]'")


# Cuts that are bypassed ----------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A cut inside the branch of a skip connection, and one behind it."""

    num_classes: int

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(6)(x.mean(axis=(1, 3)))
        x = x + gpz_jax.Tap(name="branch")(nn.relu(nn.Dense(6)(x)))
        return nn.Dense(self.num_classes)(gpz_jax.Tap(name="joined")(x))


@pytest.mark.slow
def test_a_bypassed_cut(capsys, monkeypatch):
    monkeypatch.setitem(models.MODELS, "residual", models.Family(lambda o: Residual(o.num_classes), 64, 64))
    train.main(["--model", "residual", "--size", "16", "--epochs", "1", "--null-seeds", "0", "--run", "r"])
    out = capsys.readouterr().out
    assert "branch (bypassed)" in out
    assert "joined (bypassed)" not in out
    said = refused(capsys, attack.main, "r", "--cut", "joined", "--cut", "branch", "--epochs", "1")
    assert_says(said, "cut 'branch' is bypassed.*valid cuts: joined, logits")
    loaded = workflow.load_run("r")
    images = loaded.splits.test.take()[0][:2]
    with pytest.raises(gpz_jax.UserError, match=r"cut 'branch' is bypassed.*cut where the branches have joined"):
        gpz_jax.split_at(loaded.network, loaded.variables, images, "branch")
    edge, cloud = gpz_jax.split_at(loaded.network, loaded.variables, images, "joined")
    z = edge(loaded.variables, images)
    np.testing.assert_allclose(cloud(loaded.variables, z), loaded.network(loaded.variables, images)[0], rtol=1e-5)


# Run folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ls", "0.1"], r"another configuration: ls 0.3 \(not 0.1\)"),
        (["--width", "8"], r"another configuration: width 4 \(not 8\)"),
        (["--seed", "1", "--lr", "0.5"], r"another configuration: lr 0.01 \(not 0.5\); seed 0 \(not 1\)"),
        (["--epochs", "1"], r"another configuration: epochs 2 \(not 1\)"),
        (["--track-every", "2"], r"another configuration: track-every None \(not 2\)"),
    ],
)
def test_resuming_another_configuration(capsys, trained, run, flags, said):
    data = ["--data", "mine", "--data-dir", trained / "data"]
    assert_says(refused(capsys, train.main, *TINY, *data, "--run", run, "--resume", *flags), said)


@pytest.mark.usefixtures("no_training")
def test_a_folder_that_holds_a_run_is_not_overwritten(capsys, trained, run):
    data = ["--data", "mine", "--data-dir", trained / "data"]
    said = refused(capsys, train.main, *TINY, *data, "--run", run)
    assert_says(said, "already holds a run; continue it with --resume or choose another folder with --run")


@pytest.mark.usefixtures("no_training")
def test_a_folder_that_holds_something_else_is_not_written_to(capsys, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    for flags in ([], ["--resume"]):
        said = refused(capsys, train.main, "--run", "thesis", *flags)
        assert_says(said, "thesis is not empty and holds no config.json, so it is no run folder")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--width", "99"], r"another configuration: --width 4 \(not 99\)"),
        (["--data", "digits"], r"another configuration: --data mine \(not digits\)"),
        (["--model", "vgg19"], r"another configuration: --model cnn \(not vgg19\)"),
        (["--size", "64", "--ls", "0.1"], r"--size 16 \(not 64\); --ls 0.3 \(not 0.1\)"),
    ],
)
@pytest.mark.parametrize("command", [probe, attack])
def test_a_run_that_is_not_what_the_flags_say(capsys, run, command, flags, said):
    assert_says(refused(capsys, command.main, run, *flags), said)


@pytest.mark.parametrize("command", [probe, attack])
def test_no_run_folder(capsys, trained, tmp_path, command):
    (tmp_path / "empty").mkdir()
    assert_says(refused(capsys, command.main, "empty"), "empty is not a run folder.*make one with .*gpz_jax.train")
    assert_says(refused(capsys, command.main, trained / "rum"), "rum is not a run folder.*runs beside it: .*/run")
    (tmp_path / "file").touch()
    assert_says(refused(capsys, command.main, "file"), "file is not a run folder")
    assert_says(refused(capsys, command.main), "(?i)run folder")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "config.json is damaged: no JSON"),
        (b'{"config": {"data"', "config.json is damaged: no JSON"),
        (b"\xff\xfe\x00garbage", "config.json is damaged: no UTF-8"),
        (b"[]", "config.json cannot be read"),
        (b'{"config": 3}', "config.json must be a table, got 3"),
        (b'{"schema_version": 9}', "written by a newer gpz_jax .schema 9; this one reads up to 2.; upgrade gpz_jax"),
        (b'{"config": {}, "fingerprint": "", "num_classes": null, "channels": 1}', "config.json cannot be read"),
        (b'{"config": {}}', "config.json cannot be read.*num_classes"),
        (b'{"config": {"modle": {}}}', "unknown key 'modle'; did you mean 'model'"),
        (b'{"config": {"model": {"width": "wide"}}}', "width must be int, got 'wide'"),
        (b'{"config": {"training": {"ls": 2.0}}, "fingerprint": "", "num_classes": 10, "channels": 1}', "--ls must be"),
    ],
)
def test_a_damaged_config(capsys, copy, content, said):
    (copy / "config.json").write_bytes(content)
    before = snapshot(copy)
    for refuse in (lambda: refused(capsys, probe.main, copy), lambda: refused(capsys, attack.main, copy)):
        assert_says(refuse(), said)
    if not said.startswith("--ls"):
        assert_says(refused(capsys, train.main, *TINY, "--run", copy, "--resume"), said)
    assert snapshot(copy) == before


def test_a_config_of_another_network_than_the_checkpoints(capsys, copy):
    written = json.loads((copy / "config.json").read_text())
    written["config"]["model"]["width"] = 8
    tiny_runs.change_json(copy / "config.json", config=written["config"])
    said = refused(capsys, probe.main, copy, "--data-dir", copy.parent / "data")
    assert_says(said, r"checkpoint of epoch . cannot be read \(.* is float32 .*, by config.json it is float32 ")


def test_a_run_without_checkpoints(capsys, copy):
    shutil.rmtree(copy / "checkpoints")
    said = refused(capsys, probe.main, copy, "--data-dir", copy.parent / "data")
    assert_says(said, "has no checkpoint yet; train it with python -m gpz_jax.train --run .* --resume")


@pytest.mark.parametrize("command", [probe, attack])
def test_damaged_checkpoints(capsys, copy, command):
    for file in (copy / "checkpoints").rglob("*"):
        if file.is_file() and file.stat().st_size > 10_000:
            file.write_bytes(file.read_bytes()[:1000])
    before = snapshot(copy)
    said = refused(capsys, command.main, copy, "--data-dir", copy.parent / "data")
    assert_says(said, "no checkpoint in .* can be read: checkpoint of epoch . cannot be read")
    assert snapshot(copy) == before


def test_data_that_changed_since_training(capsys, copy, trained):
    changed = digits()
    changed["test_images"] = changed["test_images"].copy()
    changed["test_images"][0, 0, 0, 0] ^= 1
    np.savez(copy.parent / "data" / "mine.npz", **changed)
    before = snapshot(copy)
    for main in (probe.main, attack.main):
        said = refused(capsys, main, copy, "--data-dir", copy.parent / "data")
        assert_says(said, "was trained on other images than data set 'mine' in .*/data now holds")
    flags = [*TINY, "--data", "mine", "--data-dir", copy.parent / "data", "--run", copy, "--resume"]
    assert_says(refused(capsys, train.main, *flags), "was trained on other images than --data mine now holds")
    assert snapshot(copy) == before


def test_data_that_are_no_longer_there(capsys, copy):
    said = refused(capsys, probe.main, copy, "--data-dir", "nowhere")
    assert_says(said, "no data set 'mine': the data directory nowhere does not exist")


# Not writable --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("name", ["file", "file/below", "file/below/it"])
def test_a_run_folder_that_cannot_be_made(capsys, tmp_path, name):
    (tmp_path / "file").write_text("mine")
    said = refused(capsys, train.main, *TINY, "--run", name)
    assert_says(said, f"cannot write to folder .*{name}: .*; choose another with --run")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_part_of_the_run_folder_that_cannot_be_made(capsys, copy):
    shutil.rmtree(copy / "probe")
    (copy / "probe").touch()
    said = refused(
        capsys, probe.main, copy, "--data-dir", copy.parent / "data", "--null-seeds", "0", "--bootstrap", "5"
    )
    assert_says(said, "cannot write to folder .*/probe: File exists")


def test_attacks_that_cannot_be_written_are_refused_before_they_are_run(capsys, copy, monkeypatch):
    monkeypatch.setattr("gpz_jax.inversion.decoder_attack.train_decoder", lambda *a, **k: pytest.fail("it attacked"))
    (copy / "attacks").touch()
    said = refused(capsys, attack.main, copy, "--data-dir", copy.parent / "data", "--cut", "logits")
    assert_says(said, "cannot write to folder .*/attacks")


# TOML ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[training\nepochs = 1", r"--config recipe.toml: .*line 1"),
        ("[trainning]\nepochs = 1", "unknown key 'trainning'; did you mean 'training'"),
        ("[training]\nepoch = 1", "unknown key 'epoch'; did you mean 'epochs'"),
        ("[training]\nepochs = 'ten'", r"epochs must be int, got 'ten'"),
        ("[training]\nepochs = true", r"epochs must be int, got True"),
        ("training = 3", r"\[training\] must be a table, got 3"),
        ("[data]\naugment = 'color'", "augment must be one of auto, none, grey, colour, got 'color'"),
        ("[track]\ntrack_evry = 1", r"\[track\]: unknown key 'track_evry'; did you mean 'track_every'"),
        ("[track]\ntrack_every = 0", "--track-every must be at least 1, got 0"),
        ("[track]\ntrack_every = 1\nprobe_size = 19", "--probe-size 19 is too small for 10 classes"),
        ("[track]\ntrack_every = 1\ninterference = ['blok_4']", "unknown cut 'blok_4'; did you mean 'block_4'"),
        ("[track]\nledger = 'all'", "ledger must be one of feature, full, got 'all'"),
        ("[trakc]\ntrack_every = 1", "unknown key 'trakc'; did you mean 'track'"),
        ("[training]\nls = 1", "--ls must be a finite number below 1, got 1"),
        ("[probe]\nrule = ['papper']", "unknown rule 'papper'; did you mean 'paper'"),
    ],
)
def test_toml(capsys, tmp_path, content, said):
    (tmp_path / "recipe.toml").write_text(content)
    assert_says(refused(capsys, train.main, "--config", "recipe.toml", "--run", "r"), said)
    assert not (tmp_path / "r").exists()


@pytest.mark.usefixtures("no_training")
def test_toml_that_is_not_there_or_not_text(capsys, tmp_path):
    assert_says(refused(capsys, train.main, "--config", "nowhere.toml"), "--config nowhere.toml: no such file")
    assert_says(refused(capsys, train.main, "--config", tmp_path), "--config .*: .*directory")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    assert_says(refused(capsys, train.main, "--config", "b.toml"), "--config b.toml: .*decode")
    assert_says(refused(capsys, train.main, "--config"), "--config")


@pytest.mark.parametrize(("command", "table"), [(probe, "probe"), (attack, "attack")])
def test_toml_of_the_other_commands(capsys, run, tmp_path, command, table):
    (tmp_path / "recipe.toml").write_text(f"[{table}]\nsplits = 1")
    said = refused(capsys, command.main, run, "--config", "recipe.toml")
    assert_says(said, f"recipe.toml: \\[{table}\\]: unknown key 'splits'")


# Dead cuts -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dead_cut_costs_no_table(capsys, copy, monkeypatch):
    """Of one image nothing can be said: the table says so, and what reads it afterwards goes on."""
    data = ["--data-dir", str(copy.parent / "data")]
    probe.main([str(copy), *data, "--limit", "1", "--null-seeds", "2", "--bootstrap", "20"])
    out = capsys.readouterr().out
    assert "logits (too few images)" in out
    assert "rule 'null': too few cuts can be compared; left out: 'block_1', 'block_2'" in out
    shutil.rmtree(copy / "probe" / "test.zarr")  # the one of one image is left
    cuts.main([str(copy), *data, "--no-latency"])
    assert "no cut is recommended" in capsys.readouterr().out
