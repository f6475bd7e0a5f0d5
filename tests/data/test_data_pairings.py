"""The attacker's images by default: the paper's pairing where it is at hand, and nothing is fetched for it."""

import numpy as np
import pytest

from gpz_jax.config import DataConfig
from gpz_jax.data.pairings import PAIRINGS, resolve_auxiliary


def tiny(folder, *names):
    images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 0, 1])
    for name in names:
        arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
        np.savez(folder / f"{name}.npz", **arrays)


@pytest.mark.parametrize(
    ("target", "there", "chosen"),
    [
        ("mnist", ["kmnist"], "kmnist"),
        ("kmnist", ["emnist_letters", "mnist"], "mnist"),
        ("kmnist", ["emnist_letters"], "emnist_letters"),
        ("facescrub", ["celeb_a"], "celeb_a"),
        ("mnist", ["emnist_letters"], None),
        ("cifar10", ["mnist", "celeb_a"], None),
        ("chest_xray", ["celeb_a"], None),
        ("digits", ["mnist"], None),
    ],
)
def test_the_papers_pairing_if_it_is_there(tmp_path, target, there, chosen):
    tiny(tmp_path, *there)
    data, said = resolve_auxiliary(DataConfig(data=target, data_dir=str(tmp_path)))
    assert data.aux == chosen
    assert ("as in the paper" in said) == (chosen is not None)
    assert bool(said) == (target in PAIRINGS)
    assert resolve_auxiliary(data) == (data, "")  # a resolved choice stays, whatever appears in the folder later


def test_what_the_user_asks_for_is_taken(tmp_path):
    tiny(tmp_path, "kmnist")
    folder = str(tmp_path)
    held_out, said = resolve_auxiliary(DataConfig(data="mnist", data_dir=folder, aux="held-out"))
    assert (held_out.aux, said) == (None, "")
    other = DataConfig(data="mnist", data_dir=folder, aux="emnist_letters")
    assert resolve_auxiliary(other) == (other, "")


def test_a_missing_pairing_is_said(tmp_path):
    _, said = resolve_auxiliary(DataConfig(data="kmnist", data_dir=str(tmp_path)))
    assert said.endswith(f"(the paper's, mnist or emnist_letters, is not in {tmp_path})")
    (tmp_path / "mnist" / "train").mkdir(parents=True)  # a folder of images serves as well
    assert resolve_auxiliary(DataConfig(data="kmnist", data_dir=str(tmp_path)))[0].aux == "mnist"
