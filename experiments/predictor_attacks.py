"""Attacks on what a network has sent, for the predictors (not an experiment): the network is not needed again.

An attacker of the linear map or a decoder sees images and their z, and nothing of the network. So z is handed over in
one array with its image, to a network that does nothing: then the programs of an attack are the same for all networks
that send as much, and are compiled once for all of them.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from common import json_number
from predictor_networks import Size

from gpz_jax.inversion import attacking
from gpz_jax.inversion.ladder import attacks_of
from gpz_jax.inversion.protocol import Attack, Fitted, Progress, Target, silent
from gpz_jax.inversion.results import Attempt
from gpz_jax.inversion.scoring import Exam
from gpz_jax.taps import LOGITS, TappedNetwork

#: Beside the linear one: the two that a verdict asks for.
DECODERS = ("deconvolution", "residual")


class Clock:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add the time that the block takes."""
        begun = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - begun, 2)


@dataclasses.dataclass(frozen=True)
class Parties:
    """Who has which images, pairs of bytes and labels; no two of them share one."""

    fitted: tuple[np.ndarray, np.ndarray]
    held_out: tuple[np.ndarray, np.ndarray]
    auxiliary: tuple[np.ndarray, np.ndarray]
    attacked: tuple[np.ndarray, np.ndarray]
    probed: tuple[np.ndarray, np.ndarray]


class PassedOn(nn.Module):
    """The network of a cut whose z is known: it passes z on, which lies behind the pixels of each image.

    Attributes:
      numbers: of the pixels.
      shape: of one z.
    """

    numbers: int
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """What was sent, ``(N, *shape)``."""
        return x[:, self.numbers :].reshape(len(x), *self.shape)


class PixelsOf(NamedTuple):
    """The images of the inputs of :class:`PassedOn`, ``(N, *shape)``."""

    shape: tuple[int, ...]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pixels in [0, 1]."""
        return x[:, : math.prod(self.shape)].reshape(len(x), *self.shape)


def beside(images: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Images in [0, 1] and their z in one array, ``(N, numbers of both)``."""
    return np.concatenate([images.reshape(len(images), -1), z.reshape(len(z), -1)], axis=1).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class _Ready(Attack):
    """An attack that is ready, to be scored on several sets of images."""

    fitted: Fitted | None = None

    def fit(self, target: Target, *, best: Attempt | None = None, progress: Progress = silent) -> Fitted:
        """As it is."""
        assert self.fitted is not None
        return self.fitted


def attacked_through(
    z: Mapping[str, np.ndarray],
    images: Mapping[str, np.ndarray],
    exams: Mapping[str, Exam],
    size: Size,
    seed: int,
    clock: Clock,
) -> dict[str, Any]:
    """The ridge error on images that are not attacked, and what every attack on z got of those that are.

    Args:
      z: party -> what is sent of its images.
      images: party -> those images, in [0, 1].
      exams: "attacked" and "held_out" -> what attacks on them are scored with.
      size: how attackers are made ready.
      seed: of the attackers.
      clock: takes their seconds.
    """
    inputs = {name: beside(images[name], sent) for name, sent in z.items()}
    shape = images["attacked"].shape[1:]
    network = TappedNetwork(PassedOn(math.prod(shape), z["attacked"].shape[1:]), (LOGITS,))
    target = attacking.target_for(
        network, {}, LOGITS, inputs["auxiliary"], inputs["fitted"], key=jax.random.key(seed), pixels=PixelsOf(shape),
        white_box=None, settings=size.attack,
    )  # fmt: skip
    own = {part: exam._replace(x=inputs[part]) for part, exam in exams.items()}
    found, ridge = {}, math.nan
    for attack in attacks_of(("linear", *DECODERS), size.attack):
        with clock.of(attack.name):
            ready = _Ready(attack.name, attack.fit(target))
            found[attack.name] = _outcome(attacking.make_attempt(target, ready, own["attacked"], keep=0))
        if attack.name == "linear":
            with clock.of("ridge"):
                ridge = attacking.make_attempt(target, ready, own["held_out"], keep=0).scores.ratio
    return {"ridge": json_number(ridge), "attacks": found}


def _outcome(attempt: Attempt) -> dict[str, Any]:
    """What an attack got."""
    row = attempt.row()
    names = ("mse", "ratio", "ratio_low", "ratio_high", "ssim", "identified", "identified_within", "chance",
             "chance_label", "chance_within", "floor_mean_image", "floor_class_mean", "floor_label_only",
             "prior_collapse", "flattened", "last_gain", "parameters")  # fmt: skip
    epochs = len(attempt.training.losses) if attempt.training.best_epoch else 0
    return {name: json_number(row[name]) for name in names if name in row} | {"epochs": epochs}
