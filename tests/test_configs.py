"""Every recipe in configs/ is one that the commands take, and says how it is run."""

import pathlib

import pytest

from gpz_jax import attack, train
from gpz_jax.config import check_attack, resolve
from gpz_jax.data.sources import TFDS_NAMES
from gpz_jax.flags import parse
from gpz_jax.models import MODELS, build

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").rglob("*.toml"))
NAMES = {*TFDS_NAMES, "digits", "facescrub", "chest_xray"}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_recipe_can_be_run(file):
    settings = parse(
        train.Train, ["--config", str(file)], prog="train", description="", sections=("settings",)
    ).settings
    resolved = resolve(settings)
    m = resolved.model
    build(m.model, num_classes=10, size=resolved.data.size, width=m.width, depth=m.depth, patch=m.patch, heads=m.heads)
    assert resolved.data.data in NAMES
    flags = parse(attack.Attack, ["RUN", "--config", str(file)], prog="attack", description="", sections=("attack",))
    check_attack(flags.attack)
    text = file.read_text()
    assert f"--config {file.relative_to(file.parents[1 + (file.parent.name != 'configs')])}" in text
    assert "@" not in text


def test_every_model_and_data_set_of_the_paper_has_a_recipe():
    names = {file.stem for file in CONFIGS if file.parent.name == "paper"}
    assert names == {*MODELS, *TFDS_NAMES, "facescrub", "chest_xray"}
