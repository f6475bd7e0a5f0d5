"""The attacker's images by default: the paper's pairing where it is at hand, and nothing is fetched for it."""

import json

import jax
import numpy as np
import pytest
import tiny_runs

from gpz_jax import workflow
from gpz_jax.config import Config, DataConfig, ModelConfig, TrainingConfig
from gpz_jax.data.pairings import PAIRINGS, resolve_auxiliary
from gpz_jax.errors import UserError


def tiny(folder, *names, **more):
    images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 0, 1])
    for name in names:
        arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
        np.savez(folder / f"{name}.npz", **arrays, **more)


@pytest.mark.parametrize(
    ("target", "there", "chosen"),
    [
        ("mnist", ["kmnist", "kmnist10k"], "kmnist"),
        ("mnist", ["kmnist10k"], "kmnist10k"),
        ("kmnist", ["emnist_letters", "mnist"], "mnist"),
        ("kmnist", ["emnist_letters"], "emnist_letters"),
        ("kmnist10k", ["emnist_letters"], "emnist_letters"),
        ("facescrub", ["celeb_a"], "celeb_a"),
        ("facescrub20_32", ["celeb_a"], "celeb_a"),
        ("lfw", ["lfw_aux"], "lfw_aux"),
        ("lfw_id64", ["lfw_aux64", "lfw_aux"], "lfw_aux64"),
        ("mnist", ["emnist_letters"], None),
        ("mnist", [], None),
        ("cifar10", ["mnist", "celeb_a"], None),
        ("chest_xray", ["celeb_a"], None),
        ("chest_xray64", ["celeb_a"], None),
        ("digits", ["mnist"], None),
    ],
)
def test_the_pairing_if_it_is_there(tmp_path, target, there, chosen):
    tiny(tmp_path, *there)
    data, said = resolve_auxiliary(DataConfig(data=target, data_dir=str(tmp_path)))
    assert data.aux == chosen
    assert (f"{chosen!r}, the pairing of {target!r}" in said) == (chosen is not None)
    assert bool(said) == (target in PAIRINGS)
    assert resolve_auxiliary(data) == (data, "")  # a resolved choice stays, whatever appears in the folder later


def test_no_data_set_is_paired_with_itself():
    for target, theirs in PAIRINGS.items():
        assert target not in theirs


@pytest.mark.parametrize("held_out", ["held-out", "none"])
def test_what_the_user_asks_for_is_taken(tmp_path, held_out):
    tiny(tmp_path, "kmnist")
    folder = str(tmp_path)
    data, said = resolve_auxiliary(DataConfig(data="mnist", data_dir=folder, aux=held_out))
    assert (data.aux, said) == (None, "")
    other = DataConfig(data="mnist", data_dir=folder, aux="emnist_letters")
    assert resolve_auxiliary(other) == (other, "")


def test_a_missing_pairing_is_said(tmp_path):
    _, said = resolve_auxiliary(DataConfig(data="kmnist", data_dir=str(tmp_path)))
    assert said.endswith(f"(its pairing, mnist or emnist_letters, is not in {tmp_path})")
    (tmp_path / "mnist" / "train").mkdir(parents=True)  # a folder of images serves as well
    assert resolve_auxiliary(DataConfig(data="kmnist", data_dir=str(tmp_path)))[0].aux == "mnist"


def test_images_that_the_data_set_brings_come_before_its_pairing(tmp_path):
    tiny(tmp_path, "kmnist")
    tiny(tmp_path, "mnist", auxiliary_data=np.ones((2, 2, 2, 1), np.uint8))
    data, said = resolve_auxiliary(DataConfig(data="mnist", data_dir=str(tmp_path)))
    assert data.aux is None
    assert said == f"the attacker's images: those that {tmp_path / 'mnist.npz'} brings"


# In runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "mnist.npz", **tiny_runs.arrays())
    with jax.numpy_dtype_promotion("standard"):  # optax and dm_pix mix dtypes
        yield tmp_path


def trained(*, resume=False):
    config = Config(DataConfig(data="mnist", size=16), ModelConfig(width=4), TrainingConfig(epochs=1))
    return workflow.train_run(config, folder="r", resume=resume)


def pairing_arrives(home):
    digits = tiny_runs.arrays(train=150)
    np.savez(home / "data" / "kmnist.npz", **digits | {"train_images": digits["train_images"] // 2})


def auxiliary_of(run):
    return json.loads((run / "config.json").read_text())["config"]["data"]["aux"]


@pytest.mark.slow
def test_a_run_keeps_the_choice_that_it_began_with(home, capsys):
    trained()
    pairing_arrives(home)
    trained(resume=True)
    assert auxiliary_of(home / "r") is None
    assert len(workflow.load_run("r").splits.auxiliary) == 359
    assert "'kmnist'" not in capsys.readouterr().err
    loaded = workflow.load_run("r", aux="auto")
    assert "gpz: the attacker's images: 'kmnist', the pairing of 'mnist'" in capsys.readouterr().err
    assert len(loaded.splits.auxiliary) == 150
    assert len(loaded.splits.train) == 936  # the target's own are what they were
    held_out = workflow.load_run("r", aux="held-out").splits
    np.testing.assert_array_equal(held_out.auxiliary.indices, workflow.load_run("r").splits.auxiliary.indices)
    with pytest.raises(UserError, match="'mnist' cannot be its own auxiliary"):
        workflow.load_run("r", aux="mnist")


@pytest.mark.slow
def test_a_run_that_held_nothing_out_has_nothing_to_give_to_the_attacker(home, capsys):
    pairing_arrives(home)
    trained()
    assert capsys.readouterr().err.count("the attacker's images: 'kmnist'") == 1
    assert auxiliary_of(home / "r") == "kmnist"
    assert len(workflow.load_run("r").splits.auxiliary) == 150
    with pytest.raises(UserError) as error:
        workflow.load_run("r", aux="held-out")
    assert str(error.value) == (
        "no part of 'mnist' was held out in training (the attacker's images were 'kmnist'), so the attacker would hold "
        "the target's own; train a run with --aux held-out"
    )
