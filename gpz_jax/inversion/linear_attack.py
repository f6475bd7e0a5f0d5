"""The lowest honest attack: the linear map from z to the input, solved and not trained; it takes any numbers."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gpz_jax import parallel
from gpz_jax.inversion import linear
from gpz_jax.inversion.dealt_rows import Dealt
from gpz_jax.inversion.protocol import Attack, Fitted, Part, Progress, Reconstruction, Target, silent
from gpz_jax.inversion.results import Attempt, Training
from gpz_jax.taps.batch_axis import batch_size, rows_of

#: Inputs of the attacker that the map is fitted on, at most: they and their representations are held at once.
MOST = 16_384


@dataclasses.dataclass(frozen=True)
class LinearAttack(Attack):
    """Ridge regression in closed form (``linear.py``); its penalty is chosen on the attacker's held-out inputs.

    Of tokens ``(T, C)`` from which as many rows ``(T, F)`` are to be rebuilt, words or steps of a signal, there are two
    maps: one from all tokens to all rows, and one from a token to its row that all places share, which has T times the
    examples and a T-th of the width. The one of less held-out error is taken.
    """

    name: str = "linear"

    uses: ClassVar[tuple[str, ...]] = ("selection_fraction",)

    def fit(self, target: Target, *, best: Attempt | None = None, progress: Progress = silent) -> Fitted:
        """Solve for the map."""
        fit, selection = target.fit_and_selection()
        whole, key = (batch_size(fit) or 0) <= MOST, jax.random.fold_in(target.key, 3)
        fit = rows_of(fit, slice(MOST))
        parts: tuple[tuple[Any, Part | None], ...] = ((fit, "fit" if whole else None), (selection, "selection"))
        pairs = [_received(target, x, jax.random.fold_in(key, i), part) for i, (x, part) in enumerate(parts)]
        mesh = target.mesh
        z_shape, shape = target.z_shape, target.x_shape
        tokens = len(z_shape) == len(shape) == 2 and z_shape[0] == shape[0]
        found = {}
        for shared in (False, True) if tokens else (False,):
            z, x, z_selection, x_selection = (_table(batches, shared, mesh) for pair in pairs for batches in pair)
            found[shared] = linear.fit_best(z, x, z_selection, x_selection, clip=target.images)
        shared = min(found, key=lambda shared: min(found[shared][2].values()))
        ridge, penalty, errors = found[shared]

        def reconstruct(z: Array, start: Array | None = None) -> Reconstruction:
            flat = _rows(parallel.spread(z, mesh), shared)
            x = ridge.pixels(flat) if target.images else ridge(flat)
            return Reconstruction(parallel.first(x.reshape(-1, *shape), len(z), mesh))

        chosen = {"penalty": penalty, "images": batch_size(fit), **({"shared": shared} if tokens else {})}
        return Fitted(
            reconstruct,
            Training(np.array(list(errors.values())), chosen=chosen, note="closed form"),
            {name: value for name, value in ridge._asdict().items() if value is not None},
            sum(leaf.size for leaf in jax.tree.leaves(ridge)),
        )


def _received(target: Target, x: Any, key: Array, part: Part | None) -> tuple[list[Array], list[Array]]:
    """What is received of inputs, and what is to be rebuilt, ``(N, …)`` each; batch by batch on several devices."""
    originals, z = map(list, zip(*target.batches(x, key, part), strict=True))
    if target.mesh.size > 1:
        return z, originals
    return [jnp.concatenate(z)], [jnp.concatenate(originals)]


def _table(batches: list[Array], shared: bool, mesh: Mesh) -> Array | Dealt:
    """What is regressed, a row an input or a row a token; see :func:`_rows`."""
    if mesh.size == 1:
        return _rows(batches[0], shared)
    each = batches[0].shape[1] if shared else 1
    return Dealt.of([(_rows(parallel.spread(batch, mesh), shared), each * len(batch)) for batch in batches], mesh)


def _rows(array: Array, shared: bool) -> Array:
    """A row an input, or where places share the map a row a token."""
    return array.reshape(-1, array.shape[-1]) if shared else array.reshape(len(array), -1)
