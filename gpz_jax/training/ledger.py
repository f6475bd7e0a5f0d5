"""The ledger of a training run: for every so many steps, what moved R_c² of every cut, on a fixed probe batch.

Nothing is fetched from the device while steps run: what a step gave is kept there until a chunk of them is written.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.sharding import Mesh

from gpz_jax import parallel, processes, runs
from gpz_jax.analysis.parameter_space import gradient_parts
from gpz_jax.taps import TappedNetwork
from gpz_jax.targets import soft_targets
from gpz_jax.training import classifier
from gpz_jax.training.classifier import Recipe, State
from gpz_jax.training.step_row import PendingRows, step_row


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
def row_of(
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
    recipe, num_classes = tracked.recipe, tracked.recipe.num_classes
    *_, alpha, _ = batch
    step_size = recipe.lr * before.plateau.scale
    row = step_row(
        tracked.network, before.variables, after.variables, images, labels,
        soft_targets(labels, num_classes, alpha), step_size,
        parts_of_step(before, batch, recipe=recipe, mesh=mesh) if tracked.full else None,
        num_classes=num_classes, full=tracked.full, interference_cuts=tracked.interference,
    )  # fmt: skip
    return {**row, "alpha": alpha, "step_size": step_size}


def parts_of_step(before: State, batch: tuple[Any, ...], *, recipe: Recipe, mesh: Mesh) -> tuple[Any, Any]:
    """``gradient_parts`` of the training batch as the step saw it: its augmentation, dropout and targets."""
    images, labels, order, index, alpha, key = batch
    seen, y, dropout_key = classifier.training_batch(
        before.step, images, labels, order, index, key, recipe=recipe, mesh=mesh
    )

    def logits_of(params):
        return classifier.training_logits(params, before.batch_stats, seen, dropout_key, recipe=recipe)[0]

    return gradient_parts(logits_of, before.params, y, soft_targets(y, recipe.num_classes, alpha))


class Ledger:
    """Rows on their way to the record: kept on the device, written a chunk at a time; the record is process 0's."""

    def __init__(self, record: runs.StepRecord | None, tracked: Tracked, probe: tuple[Any, Any], mesh: Mesh):
        self.tracked, self.probe, self.mesh = tracked, probe, mesh
        self._record = record
        self._pending = PendingRows()

    def append(self, epoch: int, step: int, row: dict[str, Array]) -> None:
        """Add a row that :func:`row_of` gave."""
        row = parallel.in_turn(row)  # the next step would run beside it
        self._pending.append({**row, "epoch": epoch, "step": step})
        if len(self._pending) == runs.CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        if rows := self._pending.take():
            record = self._record
            processes.led(lambda: None if record is None else record.append(rows))
