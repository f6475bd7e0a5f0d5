"""Classifiers that name reconstructions, for aux_shift.py (not an experiment)."""

import dataclasses
from collections.abc import Mapping

import common
import jax.numpy as jnp
import numpy as np
from common import Row
from targets import TargetFlags

from gpz_jax.config import Config, DataConfig, ModelConfig, TrainingConfig

#: The attacker's sets: what their classes are called, and the name that all reconstructions should get.
AUXILIARY = {"held-out": ("", ""), "mnist": ("0123456789", "0"), "emnist_letters": ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "D")}
TINY = {"held-out": ("", ""), "negatives": ("0123456789", "0")}


WHAT = ("reconstructions", "originals")


def auxiliary_of(flags: TargetFlags) -> dict[str, tuple[str, str]]:
    """The attacker's sets at a size."""
    return TINY if flags.size == "tiny" else AUXILIARY


def named(flags: TargetFlags, auxiliary: str, images: np.ndarray) -> np.ndarray:
    """How often a small CNN, trained on the attacker's set, gives each class to images ``(N, H, W, C)`` in [0, 1]."""
    tiny = flags.size == "tiny"
    data = DataConfig(data=auxiliary, data_dir=flags.data_dir, aux="held-out", size=32, train_limit=10_000)
    data = dataclasses.replace(data, size=16, train_limit=None) if tiny else data
    training = TrainingConfig(epochs=1) if tiny else TrainingConfig(epochs=8, lr=0.003)
    config = Config(data=data, model=ModelConfig(model="cnn", width=4 if tiny else 16), training=training)
    classifier = common.train(config, f"{flags.runs}/names-{auxiliary}")
    as_sent = jnp.asarray(np.round(255 * images).astype(np.uint8))
    logits = [np.asarray(classifier.logits(as_sent[i : i + 256])) for i in range(0, len(images), 256)]
    return np.bincount(np.concatenate(logits).argmax(axis=1), minlength=logits[0].shape[1])


def histograms(flags: TargetFlags, row: Row) -> tuple[list[Row], list[str]]:
    """Bars of the names in a row's ``counts`` (empty without), and the verdict; the commonest go into the row.

    The row gets ``reconstructions`` and ``originals``, the three commonest names of each with their fractions.
    """
    classes, expected = auxiliary_of(flags)[row["auxiliary"]]
    where, bars, said = f"{row['network']}, {row['cut']} ({row['level']}), {row['auxiliary']}", [], []
    for what, counts in row.pop("counts", {}).items():
        fractions = dict(zip(classes, counts / counts.sum(), strict=False))
        row[what] = ", ".join(f"{name} {100 * fractions[name]:.0f} %" for name in commonest(fractions, 3))
        bars += [{"where": where, "images": what, "name": name, "fraction": f} for name, f in fractions.items()]
        said.append(f"{100 * fractions[expected]:.0f} % of the {what}")
    if not said:
        return [], []
    top = row["reconstructions"].split()[0]
    return bars, [f"{where}: named {expected!r} are {' and '.join(said)}; the commonest name is {top!r}"]


def commonest(fractions: Mapping[str, float], count: int) -> list[str]:
    """The commonest names."""
    return sorted(fractions, key=lambda name: -fractions[name])[:count]
