"""The lowest honest attack: the linear map from z to the input, solved and not trained; it takes any numbers."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpz_jax.inversion import linear
from gpz_jax.inversion.protocol import Attack, Fitted, Progress, Reconstruction, Target, silent
from gpz_jax.inversion.results import Attempt, Training
from gpz_jax.taps.batch_axis import batch_size, rows_of

#: Inputs of the attacker that the map is fitted on, at most: they and their representations are held at once.
MOST = 16_384


@dataclasses.dataclass(frozen=True)
class LinearAttack(Attack):
    """Ridge regression in closed form (``linear.py``); its penalty is chosen on the attacker's held-out inputs."""

    name: str = "linear"

    uses: ClassVar[tuple[str, ...]] = ("selection_fraction",)

    def fit(self, target: Target, *, best: Attempt | None = None, progress: Progress = silent) -> Fitted:
        """Solve for the map."""
        fit, selection = target.fit_and_selection()
        fit, key = rows_of(fit, slice(MOST)), jax.random.fold_in(target.key, 3)
        known, unseen = (_flat(target, x, jax.random.fold_in(key, i)) for i, x in enumerate((fit, selection)))
        ridge, penalty, errors = linear.fit_best(*known, *unseen, clip=target.images)
        shape = target.x_shape

        def reconstruct(z: Array, start: Array | None = None) -> Reconstruction:
            flat = z.reshape(len(z), -1)
            x = ridge.pixels(flat) if target.images else ridge(flat)
            return Reconstruction(x.reshape(len(z), *shape))

        return Fitted(
            reconstruct,
            Training(
                np.array(list(errors.values())),
                chosen={"penalty": penalty, "images": batch_size(fit)},
                note="closed form",
            ),
            {name: value for name, value in ridge._asdict().items() if value is not None},
            sum(leaf.size for leaf in jax.tree.leaves(ridge)),
        )


def _flat(target: Target, x: Any, key: Array) -> tuple[Array, Array]:
    """What is received of inputs, and what is to be rebuilt, ``(N, …)`` each as rows."""
    pairs = [(z.reshape(len(z), -1), x.reshape(len(x), -1)) for x, z in target.batches(x, key)]
    z, x_rows = (jnp.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    return z, x_rows
