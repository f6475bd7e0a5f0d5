"""What the commands make of data: one line that names the flag, before a run folder is made; notes once a command."""

import numpy as np
import pytest
from picture_folders import folder, noise
from tiny_runs import refused

from gpz_jax import train
from gpz_jax.config import DataConfig
from gpz_jax.errors import UserError
from gpz_jax.settings_files import from_mapping
from gpz_jax.workflow.common import load_data


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()


def leaky():
    images = noise(400, 64, 1).reshape(400, 8, 8, 1)
    labels = np.arange(400) % 4
    parts = {"train_images": images, "train_labels": labels, "test_images": images[:40], "test_labels": labels[:40]}
    np.savez("data/set.npz", **parts)


def test_copies_are_refused_by_the_command_and_allowed_by_its_flag(capsys, tmp_path):
    leaky()
    said = refused(capsys, train.main, "--data", "set", "--run", "r")
    assert said.startswith("40 of the 40 test images of 'set' are others' too: ")
    assert said.endswith("remove the copies, or go on all the same with --allow-copies")
    assert not (tmp_path / "r").exists()
    notes = []
    parts, _ = load_data(DataConfig(data="set", aux=None, allow_copies=True), 0, tell=notes.append)
    assert len(parts.test) == 40
    assert len(notes) == 1


def test_a_folder_of_classes_is_split_for_the_commands(capsys, tmp_path):
    folder(tmp_path / "data/set/train", parts=("x",), train=20)
    (tmp_path / "data/set/train/x").rename(tmp_path / "data/whole")
    said = refused(capsys, train.main, "--data", "whole", "--run", "r")
    assert said.endswith("let a part of every class be held out as test, with --test-fraction 0.2")
    notes = []
    parts, source = load_data(DataConfig(data="whole", aux=None, test_fraction=0.2), 0, tell=notes.append)
    assert [len(part) for part in parts[:4]] == [20, 4, 8, 8]
    assert notes == list(source.notes)
    # The attacker's folder is read whole, whatever the target's is split by.
    folder(tmp_path / "data/theirs", train=9)
    parts, _ = load_data(DataConfig(data="whole", aux="theirs", test_fraction=0.2), 0, tell=notes.append)
    assert len(parts.auxiliary) == 18


@pytest.mark.parametrize("fraction", ["0", "1", "nan", "-0.5"])
def test_fractions_out_of_range(capsys, fraction):
    said = refused(capsys, train.main, "--data", "set", f"--test-fraction={fraction}", "--run", "r")
    assert said.startswith("--test-fraction must lie between 0 and 1, got ")


def test_settings_of_earlier_versions_mean_what_they_did():
    assert from_mapping(DataConfig, {"data": "x"}, where="config.json") == DataConfig(
        data="x", test_fraction=None, allow_copies=False
    )
    with pytest.raises(UserError, match="allow_copies must be bool"):
        from_mapping(DataConfig, {"allow_copies": 1}, where="config.json")
