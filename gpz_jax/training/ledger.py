"""The ledger of a training run: for every so many steps, what moved R_c² of every cut, on a fixed probe batch.

Nothing is fetched from the device while steps run: what a step gave is kept there until a chunk of them is written.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gpz_jax import runs
from gpz_jax.analysis import contraction
from gpz_jax.taps import TappedNetwork
from gpz_jax.targets import soft_targets
from gpz_jax.training import classifier
from gpz_jax.training.classifier import Recipe, State


class Tracked(NamedTuple):
    """What is tracked, and how; hashable, so that it is a static argument.

    Attributes:
      network: the tapped network, from uint8 images.
      recipe: of the run.
      full: whether the parameters' terms are wanted.
      interference: cuts at which the class x class interference is wanted.
    """

    network: TappedNetwork
    recipe: Recipe
    full: bool
    interference: tuple[str, ...]

    @property
    def variables(self) -> tuple[str, ...]:
        """Variables of the record."""
        return tuple(name for name in runs.VARIABLES if self.full or name not in runs.PARAMETER_TERMS)


@partial(jax.jit, static_argnames=("tracked", "mesh"))
def enter(
    before: State,
    batch: tuple[Any, ...],
    after: State,
    images: Array,
    labels: Array,
    *,
    tracked: Tracked,
    mesh: Mesh,
) -> dict[str, Array]:
    """One row of the ledger.

    Args:
      before: the state before the step (its optimiser is not looked at).
      batch: what ``classifier.train_step`` was given between: images, labels, order, index, alpha, key.
      after: the state after it.
      images: the probe batch, uint8 ``(N, h, w, C)``.
      labels: its classes, ``(N,)``.
      tracked: what is wanted.
      mesh: devices.

    Returns:
      name -> array, those of :data:`runs.VARIABLES` but the bound and the numbers of the step: ``(L, K)``,
      ``(L,)``, ``(K,)`` or as the table says.
    """
    network, recipe, num_classes = tracked.network, tracked.recipe, tracked.recipe.num_classes
    train_images, train_labels, order, index, alpha, key = batch
    step_size = recipe.lr * before.plateau.scale
    targets = soft_targets(labels, num_classes, alpha)
    where = contraction.readings(network, before.variables, images, labels, targets)
    feature = contraction.feature_terms(network, before.variables, images, labels, targets, step_size=step_size)
    pulls = [
        contraction.interference(network, before.variables, images, labels, targets, cut=cut, step_size=step_size)
        for cut in tracked.interference
    ]

    def stack(of_cut: Mapping[str, Array]) -> Array:
        return jnp.stack([of_cut[cut] for cut in network.cuts])

    def columns(terms: Mapping[str, Any]) -> dict[str, Array]:
        names = terms[network.cuts[0]]._fields
        return {name: stack({cut: getattr(terms[cut], name) for cut in network.cuts}) for name in names}

    row = {
        "radius": stack(where.radius),
        "within": stack(where.within),
        "rho": stack(where.rho),
        **{f"feature_{name}": column for name, column in columns(feature).items()},
        "coefficient": where.coefficient,
        "past_flip": where.past_flip,
        "output_entropy": where.entropy,
        "accuracy": where.accuracy,
        "loss": where.loss,
        "interference": jnp.stack(pulls),
        "alpha": alpha,
        "step_size": step_size,
    }
    if not tracked.full:
        change = contraction.realised_change(
            network, before.variables, after.variables, images, labels, num_classes=num_classes
        )
        return {**row, "realised": stack(change)}
    seen, y, dropout_key = classifier.training_batch(
        before.step, train_images, train_labels, order, index, key, recipe=recipe, mesh=mesh
    )
    parts = contraction.gradient_parts(
        lambda params: classifier.training_logits(params, before.batch_stats, seen, dropout_key, recipe=recipe)[0],
        before.params,
        y,
        soft_targets(y, num_classes, alpha),
    )
    moved = columns(
        contraction.parameter_terms(
            network, before.variables, after.variables, images, labels, parts,
            num_classes=num_classes, step_size=step_size,
        )
    )  # fmt: skip
    for name in ("correct", "wrong"):
        moved[f"parameter_{name}"] = moved.pop(name)
    return {**row, **moved}


class Ledger:
    """Rows on their way to the record: kept on the device, written a chunk at a time."""

    def __init__(self, record: runs.StepRecord, tracked: Tracked, probe: tuple[Any, Any], mesh: Mesh):
        self.tracked, self.probe, self.mesh = tracked, probe, mesh
        self._record = record
        self._pending: list[tuple[int, int, dict[str, Array]]] = []

    def note(self, epoch: int, step: int, before: State, batch: tuple[Any, ...], after: State) -> None:
        """Enter a step; an ``on_update`` of ``classifier.fit``."""
        self.add(epoch, step, enter(before, batch, after, *self.probe, tracked=self.tracked, mesh=self.mesh))

    def add(self, epoch: int, step: int, row: dict[str, Array]) -> None:
        """Take a row that :func:`enter` gave."""
        if self.mesh.size > 1 and jax.default_backend() == "cpu":
            # The next step would run beside it, and two programs spread over the CPU backend's devices can each hold
            # the threads that the other waits for (see training/together.py).
            jax.block_until_ready(row)
        self._pending.append((epoch, step, row))
        if len(self._pending) == runs.CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        if not self._pending:
            return
        epochs, steps, rows = zip(*self._pending, strict=True)
        self._pending = []
        rows = jax.device_get(rows)
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        self._record.append({**stacked, "epoch": np.array(epochs), "step": np.array(steps)})
