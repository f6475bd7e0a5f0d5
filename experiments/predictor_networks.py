"""The networks on which predictors are held against attacks (not an experiment): which they are, where they are cut.

Every data set has every family once, with label distribution and seed dealt round: so that a prefix of the list is
balanced too, and a data set can be left out with all that is particular to it.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import ALPHAS

from gpz_jax.atomic import replacing
from gpz_jax.config import AttackSettings, Config, DataConfig, ModelConfig, TrainingConfig
from gpz_jax.errors import did_you_mean


class Family(NamedTuple):
    """An architecture as it is trained here, and its candidate cuts."""

    model: ModelConfig
    training: TrainingConfig
    cuts: tuple[str, ...]


#: Narrow siblings that train in a minute on two cores; their cuts are spread over the depth, the logits last.
FAMILIES = {
    "cnn": Family(
        ModelConfig(model="cnn", width=8),
        TrainingConfig(epochs=16),
        ("block_1", "block_2", "block_3", "block_4", "fc", "logits"),
    ),
    "resnet18": Family(
        ModelConfig(model="resnet18", width=8),
        TrainingConfig(epochs=10, lr=0.003),
        ("block_3", "block_5", "block_7", "block_9", "block_10", "logits"),
    ),
    "vgg16": Family(
        ModelConfig(model="vgg16", width=8),
        TrainingConfig(epochs=16, lr=0.001),
        ("layer_7", "layer_14", "layer_24", "layer_34", "fc_2", "logits"),
    ),
    "vit": Family(
        ModelConfig(model="vit", width=32, patch=4, heads=4),
        TrainingConfig(epochs=16, lr=0.001),
        ("block_1", "block_2", "block_4", "block_6", "class_token", "logits"),
    ),
    "ir50": Family(
        ModelConfig(model="ir50", width=8, depth=0.5),
        TrainingConfig(epochs=10, lr=0.003),
        ("block_3", "block_5", "block_8", "block_14", "embedding", "logits"),
    ),
    "cnn6": Family(
        ModelConfig(model="cnn6", width=8),
        TrainingConfig(epochs=16, lr=0.002),
        ("ReLU12", "pool1", "pool2", "pool3", "fc1", "logits"),
    ),
}

#: Data sets; CIFAR-10 is the JPEG-compressed half of shared/data, letters are A to J of EMNIST: ten classes as in the
#: others, so that their networks are the same programs. The last is dealt out behind all the others.
DATA = ("kmnist", "cifar10", "chest_xray", "letters", "mnist")
LAST = "digits"

#: Side of the images: thousands of attackers' steps a network have to fit into minutes of two cores.
SIDE = 16


@dataclasses.dataclass(frozen=True)
class Network:
    """One network of the list."""

    name: str
    family: Family
    config: Config


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured of each network.

    Attributes:
      networks: the list, in the order in which they are measured.
      attack: how attackers are made ready.
      attacked: test images that are attacked, at most; never more than half of all.
      probed: further test images on which the predictors are measured, at most.
      fitted: training images on which linear probes are fitted, at most.
      slopes: images and jvps an image behind dFIL.
    """

    networks: tuple[Network, ...]
    attack: AttackSettings
    attacked: int = 300
    probed: int = 600
    fitted: int = 600
    slopes: tuple[int, int] = (64, 4)


def _network(data: str, family: str, targets: str, seed: int, data_dir: str) -> Network:
    made = FAMILIES[family]
    images = DataConfig(
        data=data, data_dir=data_dir, aux="held-out", size=SIDE, train_limit=None if data == "digits" else 4000,
        auxiliary_fraction=0.375, augment="none",
    )  # fmt: skip
    training = dataclasses.replace(made.training, ls=ALPHAS[targets], track_size=200)
    name = f"{data}-{family}-{targets}-seed{seed}"
    return Network(name, made, Config(data=images, model=made.model, training=training, seed=seed))


def _dealt(data_dir: str, letters_dir: str) -> tuple[Network, ...]:
    """All pairs of data set and family, in rounds in which every data set comes once, each with another family."""
    families = list(FAMILIES)
    pairs = [(i, turn) for turn in range(len(families)) for i in range(len(DATA))]
    pairs += [(len(DATA), turn) for turn in range(len(families))]
    return tuple(
        _network(
            (*DATA, LAST)[i], families[(i + turn) % len(families)], _targets(i, turn), turn,
            letters_dir if (*DATA, LAST)[i] == "letters" else data_dir,
        )
        for i, turn in pairs
    )  # fmt: skip


def _targets(data: int, turn: int) -> str:
    """Of the six networks of a data set: three one-hot, two LS+, one LS-."""
    return ("one-hot", "LS+", "one-hot", "LS-", "one-hot", "LS+")[(data + 2 * turn + turn // 3) % 6]


def write_letters(data_dir: str, folder: Path) -> None:
    """A to J of DATA_DIR/emnist_letters.npz as the data set ``letters`` in a folder, unless it lies there."""
    file, source = folder / "letters.npz", Path(data_dir) / "emnist_letters.npz"
    if file.is_file() or not source.is_file():
        return
    with np.load(source, allow_pickle=False) as found:
        parts = {name: found[name] for name in ("train_images", "train_labels", "test_images", "test_labels")}
    kept = {part: parts[f"{part}_labels"] < 10 for part in ("train", "test")}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial, partial.open("wb") as opened:
        np.savez(opened, **{name: value[kept[name.partition("_")[0]]] for name, value in parts.items()})


def hint(name: str, names: Sequence[str]) -> str:
    """The nearest of the names, to be appended to an error; where none is near some of them, for the list is long.

    >>> hint("zzz", ["a", "b", "c", "d"])
    '; there are 4, such as a, b, c'
    """
    if difflib.get_close_matches(name, names, n=1):
        return did_you_mean(name, names)
    return f"; there are {len(names)}, such as {', '.join(names[:3])}"


def size_of(size: str, data_dir: str, out: Path) -> Size:
    """The networks of that size; "paper" is the laptop's, for the question is one of many small networks."""
    if size == "tiny":
        tiny = tuple(
            dataclasses.replace(
                made := _network("digits", "cnn", targets, seed, data_dir),
                family=made.family._replace(cuts=("block_2", "block_4", "logits")),
                config=dataclasses.replace(
                    made.config, model=ModelConfig(model="cnn", width=4), training=TrainingConfig(epochs=1, ls=ls)
                ),
            )
            for seed, (targets, ls) in enumerate((("one-hot", 0.0), ("LS+", 0.3)))
        )
        settings = AttackSettings(epochs=1, steps=2, decoder_width=2)
        return Size(tiny, settings, attacked=40, probed=100, fitted=100, slopes=(4, 1))
    letters = out / "data"
    write_letters(data_dir, letters)
    return Size(_dealt(data_dir, str(letters)), AttackSettings(epochs=16, patience=4, decoder_width=8))
