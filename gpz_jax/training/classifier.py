"""The classifier's training step, and what comes before and after an epoch of them: pure functions of a state.

The loop that calls them is ``sweep.fit``.
"""

import math
from functools import lru_cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from gpz_jax import memory, parallel
from gpz_jax.analysis import wide_moments
from gpz_jax.config import Config, TrainingConfig
from gpz_jax.data.augment import augment, resolve_kind
from gpz_jax.data.batches import normalise, padded_batches, pixels
from gpz_jax.data.flat_rows import Images, rows_at
from gpz_jax.data.splits import Split
from gpz_jax.errors import UserError
from gpz_jax.models import build
from gpz_jax.presentation import quantity
from gpz_jax.taps import TappedNetwork, tap
from gpz_jax.targets import cross_entropy, output_entropy, soft_targets


class Prepare(NamedTuple):
    """uint8 images ``(N, h, w, C)`` -> normalised network input ``(N, size, size, C)``."""

    size: int

    def __call__(self, images: Any) -> Array:
        """Resize, scale to [0, 1] and normalise."""
        return normalise(pixels(images, self.size))


class Recipe(NamedTuple):
    """What a training step is compiled for; hashable, so that runs of one recipe share their compiled steps."""

    model: nn.Module
    num_classes: int
    size: int
    augment: str
    batch_size: int
    lr: float
    patience: int


class State(NamedTuple):
    """All that changes in training, as one pytree: what a checkpoint holds."""

    params: Any
    batch_stats: Any
    optimiser: Any
    plateau: Any
    step: Array

    @property
    def variables(self) -> dict[str, Any]:
        """The model's variables."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def recipe_for(config: Config, num_classes: int, channels: int) -> Recipe:
    """The recipe that a resolved configuration asks for. Raises :class:`UserError` for an impossible model."""
    model = build(
        config.model.model,
        num_classes=num_classes,
        size=config.data.size,
        width=config.model.width,
        dtype=config.model.dtype,
        depth=config.model.depth,
        patch=config.model.patch,
        heads=config.model.heads,
    )
    t = config.training
    kind = resolve_kind(config.data.augment, channels)
    return Recipe(model, num_classes, config.data.size, kind, t.batch_size, t.lr, t.patience)


def abstract_variables(recipe: Recipe, channels: int) -> Any:
    """Shapes and dtypes of the model's variables."""
    x = jax.ShapeDtypeStruct((2, recipe.size, recipe.size, channels), jnp.float32)
    return jax.eval_shape(recipe.model.init, jax.eval_shape(jax.random.key, 0), x)


def network_for(recipe: Recipe, channels: int) -> TappedNetwork:
    """The recipe's model as a tapped network from uint8 images, in evaluation mode."""
    x = jax.ShapeDtypeStruct((2, recipe.size, recipe.size, channels), jnp.float32)
    return tap(recipe.model, abstract_variables(recipe, channels), x, train=False).after(Prepare(recipe.size))


def optimiser_for(recipe: Recipe) -> optax.GradientTransformation:
    """The release's optimiser: Adam with b1 = 0.5 and amsgrad."""
    return optax.amsgrad(recipe.lr, b1=0.5, b2=0.999)


def _plateau(recipe: Recipe) -> optax.GradientTransformationExtraArgs:
    return optax.contrib.reduce_on_plateau(factor=0.5, patience=recipe.patience)


@partial(jax.jit, static_argnames=("model", "size", "channels"))
def init_variables(key: Array, model: nn.Module, size: int, channels: int) -> Any:
    """Fresh variables; a function of the key alone. A program of its own, which untrained copies share."""
    return model.init(key, jnp.zeros((1, size, size, channels), jnp.float32))


def init_state(key: Array, recipe: Recipe, channels: int) -> State:
    """A fresh state; a function of the key alone."""
    return _state_of(init_variables(key, recipe.model, recipe.size, channels), recipe=recipe)


@partial(jax.jit, static_argnames="recipe", donate_argnames="variables")
def _state_of(variables: Any, *, recipe: Recipe) -> State:
    params = variables["params"]
    return State(
        params,
        variables.get("batch_stats", {}),
        optimiser_for(recipe).init(params),
        _plateau(recipe).init({}),
        jnp.zeros((), jnp.int32),
    )


class Totals(NamedTuple):
    """Sums over the images of an epoch, kept on the device until the epoch ends."""

    loss: Array
    correct: Array
    entropy: Array
    images: Array
    gradient_norm: Array
    first_bad_step: Array  # -1 while every loss is finite

    @staticmethod
    def zero() -> "Totals":
        """No images yet."""
        # On the host, where making one compiles nothing.
        zeros: Any = (np.zeros((), np.float32) for _ in range(5))
        loss, correct, entropy, images, norm = zeros
        bad: Any = np.full((), -1, np.int32)
        return Totals(loss, correct, entropy, images, norm, bad)

    def means(self) -> dict[str, float]:
        """Loss (nats), accuracy and output entropy (nats) per image, as Python numbers."""
        count = max(float(self.images), 1.0)
        return {
            "loss": float(self.loss) / count,
            "accuracy": float(self.correct) / count,
            "output_entropy": float(self.entropy) / count,
        }


def _measure(totals: Totals, logits: Array, losses: Array, labels: Array, mask: Array) -> Totals:
    keep = mask.astype(jnp.float32)
    hits = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return totals._replace(
        loss=totals.loss + jnp.sum(losses * keep),
        correct=totals.correct + jnp.sum(hits * keep),
        entropy=totals.entropy + jnp.sum(output_entropy(logits) * keep),
        images=totals.images + jnp.sum(keep),
    )


def training_batch(
    step: Array,
    images: Images,
    labels: Array,
    order: Array,
    index: Array,
    key: Array,
    *,
    recipe: Recipe,
    mesh: Mesh,
) -> tuple[Array, Array, Array]:
    """Batch ``index`` as step number ``step`` sees it: augmented network input, labels, and the key of its dropout."""
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, step))
    batch = jax.lax.dynamic_slice(order, (index * recipe.batch_size,), (recipe.batch_size,))
    batch = jax.lax.with_sharding_constraint(batch, jax.NamedSharding(mesh, PartitionSpec("data")))
    seen = augment(augment_key, pixels(rows_at(images, batch, mesh), recipe.size), kind=recipe.augment)
    return normalise(seen), labels[batch], dropout_key


def training_logits(
    params: Any, batch_stats: Any, x: Array, dropout_key: Array, *, recipe: Recipe
) -> tuple[Array, Any]:
    """Logits in training mode, and the batch-norm statistics after them."""
    logits, changed = recipe.model.apply(
        {"params": params, "batch_stats": batch_stats},
        x,
        train=True,
        rngs={"dropout": dropout_key},
        mutable=["batch_stats"],
    )
    return logits, changed.get("batch_stats", {})


@partial(jax.jit, static_argnames=("recipe", "mesh"), donate_argnames=("state", "totals"))
def train_step(
    state: State,
    totals: Totals,
    images: Images,
    labels: Array,
    order: Array,
    index: Array,
    alpha: Array,
    key: Array,
    *,
    recipe: Recipe,
    mesh: Mesh,
) -> tuple[State, Totals]:
    """One optimiser step on batch ``index`` of the epoch's ``order``.

    Args:
      state: parameters, statistics, optimiser.
      totals: the epoch's sums so far.
      images: all training images, uint8 ``(N, h, w, C)``, or what a feed of ``placements`` gives; of
        :class:`FlatRows` none but the batch's are touched.
      labels: their classes, int32 ``(N,)``.
      order: the epoch's permutation of ``0 … N - 1``.
      index: number of the batch in the epoch.
      alpha: label smoothing α of this epoch.
      key: of the run's noise; the step's own key is folded from it and the step number.
      recipe: what to compile for.
      mesh: devices to spread the batch over.
    """
    seen, y, dropout_key = training_batch(state.step, images, labels, order, index, key, recipe=recipe, mesh=mesh)

    def loss_of(params):
        logits, batch_stats = training_logits(params, state.batch_stats, seen, dropout_key, recipe=recipe)
        losses = cross_entropy(logits, soft_targets(y, recipe.num_classes, alpha))
        return jnp.mean(losses), (losses, logits, batch_stats)

    (loss, (losses, logits, batch_stats)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, optimiser = optimiser_for(recipe).update(gradient, state.optimiser, state.params)
    updates = optax.tree.scale(state.plateau.scale, updates)
    norm = optax.tree.norm(gradient)
    bad = ~(jnp.isfinite(loss) & jnp.isfinite(norm)) & (totals.first_bad_step < 0)
    totals = _measure(totals, logits, losses, y, jnp.ones_like(y, bool))._replace(
        gradient_norm=totals.gradient_norm + norm,
        first_bad_step=jnp.where(bad, state.step, totals.first_bad_step),
    )
    state = State(optax.apply_updates(state.params, updates), batch_stats, optimiser, state.plateau, state.step + 1)
    return state, totals


@partial(jax.jit, static_argnames=("recipe",), donate_argnames="totals")
def _evaluate_batch(variables, totals, images, labels, mask, alpha, *, recipe):
    logits = recipe.model.apply(variables, Prepare(recipe.size)(images), train=False)
    losses = cross_entropy(logits, soft_targets(labels, recipe.num_classes, alpha))
    return _measure(totals, logits, losses, labels, mask)


#: Images a device at most; of a CPU's devices, which share its memory, all together. More is no faster.
MOST = 256

#: Bytes held for each byte of an activation at a cut (what convolutions lay out anew, and what lies between cuts), and
#: arrays of K x D in float32 that a record of moments takes while a batch is added to it.
COPIES, RECORDS = 4, 4


@lru_cache(maxsize=64)
def measured_batch(recipe: Recipe, channels: int, mesh: Mesh, there: int | None = None) -> int:
    """Images a batch, over all devices, when the network of a recipe is evaluated or probed at every cut.

    Args:
      recipe: of the run.
      channels: of an image.
      mesh: devices.
      there: bytes of memory that a device has; by default what the devices of this machine have.

    Raises:
      UserError: not even one image fits beside the moments of every cut.
    """
    variables = abstract_variables(recipe, channels)
    example = jax.ShapeDtypeStruct((1, recipe.size, recipe.size, channels), np.uint8)
    taps = jax.eval_shape(network_for(recipe, channels), variables, example)[1].values()
    of_image = COPIES * sum(math.prod(z.shape) * jnp.dtype(z.dtype).itemsize for z in taps)
    width = sum(math.prod(z.shape) for z in taps)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))
    there = memory.of_one(mesh) if there is None else there
    dealt = mesh.size if wide_moments.are_dealt(recipe.num_classes, width, mesh, there) else 1
    held = 4 * (RECORDS * recipe.num_classes * width // dealt + parameters)
    shared = mesh.size if mesh.devices.flat[0].platform == "cpu" else 1
    images = memory.images_a_device(of_image, held, there, -(-MOST // shared))
    if not images:
        raise UserError(
            f"one image at all cuts, {quantity(width)} numbers wide, and the means of {recipe.num_classes} classes need"
            f" {quantity(held + of_image, 1024)}B of memory a device, there are "
            f"{quantity(there, 1024)}B; give a smaller width or size",
            field=("width", "size"),
        )
    return images * mesh.size


def evaluate(variables: Any, split: Split, alpha: float, *, recipe: Recipe, mesh: Mesh) -> dict[str, float]:
    """Loss against the smoothed targets (nats), accuracy and output entropy (nats) over a whole split."""
    totals = parallel.replicate(Totals.zero(), mesh)
    for batch in padded_batches(split, measured_batch(recipe, split.images.shape[-1], mesh), multiple=mesh.size):
        images, labels, mask = parallel.shard(batch, mesh)
        totals = _evaluate_batch(variables, totals, images, labels, mask, np.float32(alpha), recipe=recipe)
    return totals.means()


def check_batch_size(batch_size: int, images: int, mesh: Mesh) -> None:
    """Raise :class:`UserError` unless the batch can be filled, and spread evenly over the devices."""
    parallel.check_batch_size(batch_size, mesh)
    if batch_size > images:
        raise UserError(
            f"batch_size {batch_size} is larger than the training split ({images} images); give at most that",
            field="batch_size",
        )


@jax.jit
def _are_finite(params: Any) -> Array:
    # Not left to the loss: on CPUs XLA's max(NaN, 0) is 0, so that a ReLU can hide what came before it.
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))


@partial(jax.jit, static_argnames="recipe")
def _after_epoch(plateau: Any, loss: Array, restart: Array, *, recipe: Recipe) -> Any:
    """Tell the plateau rule the validation loss; start it afresh where the objective changes."""
    rule = _plateau(recipe)
    fresh = rule.init({})
    plateau = jax.tree.map(lambda new, old: jnp.where(restart, new, old), fresh, plateau)
    return rule.update({}, plateau, value=loss)[1]


def alpha_of(training: TrainingConfig, epoch: int) -> float:
    """Label smoothing in force in an epoch (counted from 0): none while warming up."""
    return 0.0 if epoch < (training.warmup_epochs or 0) else training.ls


def keys_of(seed: int) -> tuple[Array, Array]:
    """Keys of a run's order of images, and of its noise (augmentation and dropout)."""
    return _two_keys(jax.random.key(seed))


@jax.jit
def _two_keys(key: Array) -> tuple[Array, Array]:
    return jax.random.fold_in(key, 1), jax.random.fold_in(key, 2)


def end_epoch(
    state: State,
    totals: Totals,
    epoch: int,
    *,
    recipe: Recipe,
    config: Config,
    validation: Split,
    steps: int,
    mesh: Mesh,
) -> tuple[State, dict[str, float]]:
    """What follows the last step of an epoch (counted from 0): validation, and the plateau rule.

    Args:
      state: after that step.
      totals: sums of the epoch.
      epoch: its number.
      recipe: compiled shape of the run.
      config: resolved configuration.
      validation: images for the plateau rule.
      steps: how many the epoch had.
      mesh: devices.

    Returns:
      The state that the next epoch begins with, and what the epoch measured.

    Raises:
      UserError: a loss, or a parameter, is not finite; names the step.
    """
    t, alpha = config.training, alpha_of(config.training, epoch)
    held_out = evaluate(state.variables, validation, alpha, recipe=recipe, mesh=mesh)
    bad = int(totals.first_bad_step)
    if bad < 0 and not (math.isfinite(held_out["loss"]) and _are_finite(state.params)):
        bad = int(state.step) - 1  # the update of the last step did it, after its loss was taken
    if bad >= 0:
        raise UserError(
            f"the loss is not finite at step {bad} (epoch {epoch + 1}, alpha {alpha:g}, learning rate {t.lr:g}); "
            "the checkpoint of the last good epoch is kept: lower lr, bring ls closer to 0 or lengthen warmup_epochs",
            field=("lr", "ls", "warmup_epochs"),
        )
    warmup, scale = t.warmup_epochs or 0, float(state.plateau.scale)
    plateau = _after_epoch(state.plateau, np.float32(held_out["loss"]), np.bool_(epoch == warmup > 0), recipe=recipe)
    measured = {
        "alpha": alpha,
        "lr": t.lr * scale,
        "gradient_norm": float(totals.gradient_norm) / steps,
        **{f"train_{name}": value for name, value in totals.means().items()},
        **{f"validation_{name}": value for name, value in held_out.items()},
    }
    return state._replace(plateau=plateau), measured
