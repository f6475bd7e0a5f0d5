"""The attack that trains nothing and holds the edge half: it fits an image to each z (``likelihood.py``)."""

import dataclasses
import zlib
from functools import partial
from typing import Any, ClassVar

import jax
import numpy as np
from jax import Array

from gpz_jax import parallel
from gpz_jax.config import AttackSettings
from gpz_jax.errors import UserError
from gpz_jax.inversion import likelihood, metrics
from gpz_jax.inversion.decoder_training import last_gain
from gpz_jax.inversion.protocol import (
    Attack,
    Edge,
    Fitted,
    Progress,
    Reconstruction,
    Target,
    check_images,
    received,
    silent,
)
from gpz_jax.inversion.results import Attempt, Training

#: Steps where none are given.
STEPS = 500

#: Weights of the total variation among which it chooses, and on how many of the attacker's images.
TV = (0.0, 0.1, 1.0, 10.0, 100.0)
TV_IMAGES = 16

#: First rate, in pixels a step: from noise, and from another attack's reconstructions. From these at 0.1 it ended
#: further from the images than it began (IR-152 sibling, CIFAR-10, block_12, 16 images, 300 steps, weight 1: mse
#: 0.0231 -> 0.0250), at 0.02 nearer (0.0203).
RATE = {"noise": 0.1, "start": 0.02}


@dataclasses.dataclass(frozen=True)
class LikelihoodAttack(Attack):
    """Maximum likelihood over images; its weight of the total variation is chosen on the attacker's held-out images."""

    name: str = "likelihood"

    follows: ClassVar[bool] = True
    uses: ClassVar[tuple[str, ...]] = ("steps", "restarts", "tv", "likelihood_images", "selection_fraction")

    def check(self, target: Target) -> None:
        """Raise :class:`UserError` where no images are rebuilt, or the network is not known from images."""
        check_images(self.name, target)
        if target.white_box is None:
            raise UserError(
                f"the attack {self.name!r} takes the network's gradient by the image: give white_box, the tapped "
                "network from images in [0, 1]"
            )

    def test_images(self, settings: AttackSettings) -> int | None:
        """So many, for each image is a long optimisation of its own."""
        return settings.likelihood_images

    def fit(self, target: Target, *, best: Attempt | None = None, progress: Progress = silent) -> Fitted:
        """Choose the weight of the total variation, and be ready."""
        settings, key = target.settings, jax.random.fold_in(target.key, 4)
        steps = settings.steps or STEPS
        assert target.white_box is not None  # checked
        ask = _Ask(target.edge._replace(network=target.white_box))
        invert = partial(
            likelihood.invert, ask, target.variables, x_shape=target.x_shape, steps=steps, key=key,
            pause=target.pause, mesh=target.mesh,
        )  # fmt: skip
        _, selection = target.fit_and_selection()
        ((x, z),) = target.batches(selection[:TV_IMAGES], key)
        errors = {}
        for tv in TV if settings.tv is None else (settings.tv,):
            found = invert(z=z, tv=tv, lr=RATE["noise"], piece=f"tv-{tv:g}")
            errors[tv] = float(np.mean(parallel.fetch(metrics.mse(x, found.x))))
        if not np.isfinite(list(errors.values())).any():
            raise UserError(f"the likelihood attack on {target.cut} found no finite image")
        tv = min(errors, key=lambda tv: errors[tv])

        def reconstruct(z: Array, start: Array | None = None) -> Reconstruction:
            total = steps * (settings.restarts if start is None else 1)
            found = invert(
                z=z,
                tv=tv,
                lr=RATE["noise" if start is None else "start"],
                restarts=settings.restarts if start is None else 1,
                start=start,
                on_step=lambda done: progress(done, total, ""),
                piece=f"images-{zlib.crc32(parallel.fetch(z).tobytes()):08x}",
            )
            return Reconstruction(found.x, bool(found.settled), last_gain(found.history))

        begin = "noise" if best is None else "reconstructions of the best attack so far"
        chosen = {"tv": tv, "steps": steps, "start": begin}
        return Fitted(reconstruct, Training(np.array([errors[tv]]), chosen=chosen))


@dataclasses.dataclass(frozen=True)
class _Ask:
    """(variables, pixels) -> what the attacker receives, but for noise; hashable, so that steps are compiled once."""

    edge: Edge

    def __call__(self, variables: Any, x: Array) -> Array:
        z = self.edge.send(variables, x)
        return received(z, probabilities=self.edge.probabilities, top_k=self.edge.top_k)
