"""A run made of a file of weights holds just these weights, and is probed and attacked like any other."""

import hashlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import save_file
from thinned import thinned
from tiny_runs import CUTS, TINY, arrays, change_json, refused, snapshot

from gpz_jax import attack, models, probe, runs, train, workflow
from gpz_jax.config import Config, DataConfig, ModelConfig, TrainingConfig
from gpz_jax.models.torch_weights import convert

#: Size and width of TINY, no null models.
IMPORT = (*TINY[:4], "--null-seeds", "0", "--ls", "0.3")


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"):  # optax and dm_pix mix dtypes
        yield


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr("gpz_jax.training.sweep.fit", lambda *args, **kwargs: pytest.fail("it trained"))


def as_released(variables):
    """Variables of our CNN by the names and in the layouts of the release, written out once more."""
    params, stats, weights = variables["params"], variables["batch_stats"], {}
    for n in range(1, 5):
        conv, norm, seen = params[f"conv_{n}"], params[f"norm_{n}"], stats[f"norm_{n}"]
        weights[f"block{n}.0.weight"] = np.einsum("hwio->oihw", conv["kernel"])
        weights[f"block{n}.0.bias"] = conv["bias"]
        weights[f"block{n}.1.weight"], weights[f"block{n}.1.bias"] = norm["scale"], norm["bias"]
        weights[f"block{n}.1.running_mean"], weights[f"block{n}.1.running_var"] = seen["mean"], seen["var"]
        weights[f"block{n}.1.num_batches_tracked"] = np.int64(20)
    matrix = np.asarray(params["head_1"]["kernel"])  # (h w c, out)
    channels = len(params["norm_4"]["scale"])
    side = round((len(matrix) / channels) ** 0.5)
    of_map = matrix.reshape(side, side, channels, -1)
    weights["fc.0.weight"] = np.einsum("hwco->ochw", of_map).reshape(-1, side * side * channels)
    weights["fc.0.bias"] = params["head_1"]["bias"]
    weights["fc.2.weight"], weights["fc.2.bias"] = params["head_2"]["kernel"].T, params["head_2"]["bias"]
    return {key: np.ascontiguousarray(array) for key, array in weights.items()}


@pytest.fixture(scope="module")
def variables():
    """Of the tiny CNN, statistics of the batch norms included: random, none of them zero or one."""
    model = models.build("cnn", num_classes=10, width=4, size=16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
    rng = np.random.default_rng(0)
    random = jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), shapes)
    return {**random, "batch_stats": jax.tree.map(np.abs, random["batch_stats"])}


@pytest.fixture(scope="module")
def home(tmp_path_factory, variables):
    """Weights in a file of the release, and the run that the train command makes of them."""
    home = tmp_path_factory.mktemp("home")
    with jax.numpy_dtype_promotion("standard"), pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr("gpz_jax.training.sweep.fit", lambda *args, **kwargs: pytest.fail("it trained"))
        save_file(as_released(variables), "weights.safetensors")
        train.main([*IMPORT, "--from-torch", "weights.safetensors", "--run", "imported"])
    return home


@pytest.fixture
def copy(home, tmp_path):
    """The imported run and its file, to be damaged."""
    shutil.copy(home / "weights.safetensors", tmp_path)
    return shutil.copytree(home / "imported", tmp_path / "imported")


@pytest.mark.thorough
def test_it_holds_the_weights_of_the_file(home, variables):
    loaded = workflow.load_run(str(home / "imported"))
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    assert loaded.epoch == 0
    images, labels = loaded.splits.test.take()
    hits = np.asarray(jnp.argmax(loaded.network(variables, images)[0], -1)) == labels
    (line,) = runs.read_metrics(loaded.run)
    assert line["test_accuracy"] == pytest.approx(hits.mean(), abs=1e-6)
    assert line["epoch"] == 0
    assert tuple(line["cuts"]) == CUTS
    assert {"validation_accuracy", "validation_loss", "test_loss"} <= line.keys()
    with xr.open_zarr(home / "imported/dynamics.zarr", group="epochs", consolidated=False) as dynamics:
        assert dict(dynamics.sizes) == {"epoch": 1, "cut": 6, "class": 10}
    assert (home / "imported/probe/test.csv").exists()


def test_the_order_behind_the_last_map():
    model = models.build("cnn", num_classes=3, width=2, size=48)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 48, 48, 1)))
    numbers = jax.tree.map(lambda s: np.arange(np.prod(s.shape), dtype=np.float32).reshape(s.shape), shapes)
    jax.tree.map(np.testing.assert_array_equal, convert("cnn", as_released(numbers), shapes), numbers)


def test_where_it_is_from(home):
    file = home / "weights.safetensors"
    settings = json.loads((home / "imported/config.json").read_text())
    expected = {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert settings["from_torch"] == {**expected, "epoch": None, "accuracy": None}
    assert settings["config"]["training"]["ls"] == 0.3


def test_what_a_file_says_of_itself(tmp_path, variables, capsys):
    torch = pytest.importorskip("torch")
    weights = {f"_module.{name}": torch.tensor(array) for name, array in as_released(variables).items()}
    torch.save({"epoch": 12, "model": weights, "best_cl_acc": 0.75}, "released.pth")
    run = workflow.run_from_torch("released.pth", Config(DataConfig(size=16), ModelConfig(width=4)))
    settings = json.loads((run.folder / "config.json").read_text())
    assert settings["from_torch"]["epoch"] == 12
    assert settings["from_torch"]["accuracy"] == 0.75
    said = capsys.readouterr().err
    assert "read released.pth, epoch 12: validation accuracy 0." in said
    assert "; accuracy by the file itself 0.7500" in said
    jax.tree.map(np.testing.assert_array_equal, workflow.load_run(str(run.folder)).variables, variables)


@pytest.mark.slow
@pytest.mark.usefixtures("copy")
def test_it_can_be_probed_and_attacked():
    probe.main(["imported", "--split", "train", "--null-seeds", "0"])
    attack.main(["imported", "--cut", "logits", "--epochs", "1", "--decoder-width", "4"])
    assert (runs.open_run("imported").folder / "attacks/logits-deconvolution/result.json").exists()


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("lost", thinned(["nothing", "all", "half"], ["half"]))
def test_made_anew(copy, capsys, lost):
    before = snapshot(copy)
    if lost == "all":
        shutil.rmtree(copy / "checkpoints")
        (copy / "metrics.jsonl").unlink()
    if lost == "half":
        (copy / "checkpoints/0/measured.json").write_text("{")
    train.main([*IMPORT, "--from-torch", "weights.safetensors", "--run", "imported", "--resume"])
    after = snapshot(copy)
    for name in ("config.json", "metrics.jsonl", "probe/test.csv"):
        assert after[name] == before[name]
    assert workflow.load_run("imported").epoch == 0
    assert "read weights.safetensors: validation accuracy" in capsys.readouterr().err


@pytest.mark.usefixtures("no_training")
def test_other_runs_in_the_folder(copy, variables, capsys):
    before = snapshot(copy)
    again = ("--from-torch", "weights.safetensors", "--run", "imported")
    said = refused(capsys, train.main, *IMPORT, *again)
    assert "imported already holds a run; continue it with --resume" in said
    said = refused(capsys, train.main, *IMPORT, "--run", "imported", "--resume")  # training cannot go on from it
    assert "imported holds weights read from weights.safetensors, no training; probe or attack it" in said
    said = refused(capsys, train.main, *IMPORT[:-1], "0.1", *again, "--resume")
    assert "another configuration: ls 0.3 (not 0.1)" in said
    save_file(as_released(jax.tree.map(np.square, variables)), "other.safetensors")
    said = refused(capsys, train.main, *IMPORT, "--from-torch", "other.safetensors", *again[2:], "--resume")
    assert "imported was made of another file (weights.safetensors, SHA-256" in said
    assert snapshot(copy) == before
    change_json(copy / "config.json", from_torch=None)
    assert "imported holds a trained run" in refused(capsys, train.main, *IMPORT, *again, "--resume")


@pytest.mark.usefixtures("no_training")
def test_without_a_name_and_with_flags_of_training(copy, capsys):
    config = Config(DataConfig(size=16), ModelConfig(width=4), TrainingConfig(ls=0.3, epochs=5, lr=0.1, track_size=50))
    run = workflow.run_from_torch("weights.safetensors", config)
    said = capsys.readouterr().err
    assert run.folder.name == "digits-cnn4-ls0.3-seed0-torch"
    assert "--epochs 5 is not used: weights are read" in said
    assert "--lr 0.1 is not used" in said
    assert said.count("is not used") == 2
    assert "--aux gives the attacker others" in said


@pytest.mark.usefixtures("copy", "no_training")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--width", "5"], "w.safetensors: the weights are not those of this cnn: of another shape block1.0.weight "),
        (["--size", "32"], "of another shape fc.0.weight (50, 32) (not (50, 128)); --model, --width, --depth, --patch"),
        (["--model", "vit", "--width", "8"], "unknown 'block1.0.bias', "),
        (["--model", "resnet50"], "no released PyTorch weights of a model 'resnet50'"),
        (["--data", "three"], "fc.2.bias (10,) (not (3,)); --model, --width, --depth, --patch, --size and the c"),
        (["--from-torch", "none.pth"], "none.pth: no such file"),
        (["--rule", "papper"], "unknown rule 'papper'; did you mean 'paper'"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--from-torhc", "w.pth"], "unknown flag '--from-torhc'; did you mean '--from-torch'?"),
    ],
)
def test_what_does_not_fit_leaves_no_folder(tmp_path, capsys, flags, said):
    (tmp_path / "data").mkdir()
    few = arrays()
    keep = {part: few[f"{part}_labels"] < 3 for part in ("train", "test")}
    np.savez("data/three.npz", **{name: array[keep[name.split("_")[0]]] for name, array in few.items()})
    shutil.copy("weights.safetensors", "w.safetensors")
    start = ("--from-torch", "w.safetensors", *IMPORT)
    assert said in refused(capsys, train.main, *start, *flags, "--run", "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("no_training")
def test_weights_that_overflow_on_the_images(tmp_path, variables, capsys):
    huge = {"fc.2.weight": np.full((10, 50), 3e38, np.float32)}
    save_file(as_released(variables) | huge, "huge.safetensors")
    said = refused(capsys, train.main, *IMPORT, "--from-torch", "huge.safetensors", "--run", "new")
    assert said == "huge.safetensors: the network's loss on these images is not finite"
    assert not (tmp_path / "new").exists()
