"""The attacker's training loop: a decoder learns to rebuild images from what the edge half sends.

The attacker can query the edge half (it owns images and sees their z) and knows the shapes of z and x. It trains on
the auxiliary split, picks its best epoch on a part of it held out, and is scored on test images that neither it nor
the classifier has trained on.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Float

from gpz_jax import parallel
from gpz_jax.data.batches import epoch_order
from gpz_jax.data.flat_rows import FlatRows
from gpz_jax.errors import UserError
from gpz_jax.inversion import metrics
from gpz_jax.inversion.decoder import Decoder
from gpz_jax.inversion.protocol import Progress, Target, images_of, pieces, receive, send, silent
from gpz_jax.taps.batch_axis import batch_size

#: The attack has flattened when its best selection loss fell by less than this share over the last fifth of it.
FLAT = 0.01

#: Steps that are asked of the device ahead of time at most: whoever asks the attack to stop waits for these.
AHEAD = 32

#: What the edge sends for the attacker's images is asked for once and kept on the device up to this many bytes; beyond
#: that it is asked for again at every step, which costs a forward pass of the edge but no memory.
KEPT_BYTES = 2**30


class State(NamedTuple):
    """All that changes while the decoder trains."""

    params: Any
    batch_stats: Any
    optimiser: Any
    plateau: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The decoder's variables."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class Course(NamedTuple):
    """How far a training is, as one pytree: what is saved where it is left.

    Attributes:
      state: of the decoder.
      best: its variables after the best epoch so far.
      best_epoch: that epoch, from 1.
      losses: the selection loss after every epoch, float32 ``(epochs,)``; NaN where none was taken yet.
      epoch: epochs done.
      step: steps done of the next.
    """

    state: State
    best: dict[str, Any]
    best_epoch: Array
    losses: Array
    epoch: Array
    step: Array

    @staticmethod
    def begin(state: State, epochs: int, target: Target) -> "Course":
        """Before the first step."""
        zero, losses = np.zeros((), np.int32), np.full(epochs, np.nan, np.float32)
        counts: Any = parallel.replicate((zero, losses, zero, zero), target.mesh)
        return Course(state, _copied(state.variables), *counts)

    def after_step(self, state: State, index: int) -> "Course":
        """With step number ``index`` of the epoch taken; waits for the device now and then, as a stop has to."""
        if index % AHEAD == 0:
            jax.block_until_ready(state)
        return self._replace(state=state, step=_like(self.step, index + 1))

    def after_epoch(self, loss: float) -> "Course":
        """With an epoch ended, whose selection loss this is."""
        done, known = int(self.epoch), parallel.fetch(self.losses)
        changed = {"epoch": _like(self.epoch, done + 1), "step": _like(self.step, 0)}
        if not done or loss < np.min(known[:done]):
            changed |= {"best": _copied(self.state.variables), "best_epoch": _like(self.best_epoch, done + 1)}
        losses = known.copy()
        losses[done] = loss
        state = self.state._replace(plateau=_tell_plateau(self.state.plateau, np.float32(loss)))
        return self._replace(state=state, losses=_like(self.losses, losses), **changed)

    def is_over(self, steps_left: int, patience: int | None) -> bool:
        """Whether no step is left, or no epoch was better than the best for as many as the patience says."""
        done = int(self.epoch)
        return steps_left <= 0 or (patience is not None and done > 0 and done - int(self.best_epoch) >= patience)


def _like(old: Array, value: Any) -> Array:
    """A value in the place and dtype of another."""
    return parallel.as_lies(np.asarray(value, old.dtype), old)


@jax.jit
def _copied(tree: Any) -> Any:
    """Arrays of their own: a step donates those of the state."""
    return jax.tree.map(jnp.copy, tree)


class Trained(NamedTuple):
    """A decoder that is ready.

    Attributes:
      decoder: the decoder module.
      variables: its variables after the best epoch.
      epoch: the best epoch by the selection loss.
      selection_loss: per-element MSE on the selection images after every epoch, ``(epochs,)``.
      flattened: whether the best selection loss had all but stopped falling (see ``FLAT``).
      last_gain: by what share it still fell over the last fifth of the epochs.
    """

    decoder: Decoder
    variables: dict[str, Any]
    epoch: int
    selection_loss: np.ndarray
    flattened: bool
    last_gain: float


def _optimiser(lr: float) -> optax.GradientTransformation:
    return optax.adam(lr)


def _plateau() -> optax.GradientTransformationExtraArgs:
    return optax.contrib.reduce_on_plateau(factor=0.5, patience=5)


@partial(jax.jit, static_argnames=("edge", "decoder", "batch_size", "lr", "mesh"), donate_argnames="state")
def attack_step(
    state, target_variables, images, sent, order, index, key, reference, *, edge, decoder, batch_size, lr, mesh
):
    """One step of the decoder on batch ``index``: least squares in pixels, un-normalised, in [0, 1].

    ``sent`` is what the edge sends for all ``images``, before its defence, or None to ask it here: ``(N, …)`` both, or
    better :class:`FlatRows` of them; ``key`` that of the epoch, for the edge's noise and the decoder's dropout.
    """
    batch = jax.lax.dynamic_slice(order, (index * batch_size,), (batch_size,))
    batch = jax.lax.with_sharding_constraint(batch, jax.NamedSharding(mesh, PartitionSpec("data")))
    x = edge.pixels(images[batch])
    z = edge.send(target_variables, images[batch]) if sent is None else sent[batch]
    noise, dropout = jax.random.split(jax.random.fold_in(key, index))
    z = edge.receive(z, noise, reference)

    def loss_of(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        x_hat, changed = decoder.apply(variables, z, train=True, mutable=["batch_stats"], rngs={"dropout": dropout})
        return jnp.mean((x_hat - x) ** 2), changed["batch_stats"]

    (_, batch_stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # inside optax: float ** int32
        updates, optimiser = _optimiser(lr).update(gradient, state.optimiser, state.params)
    updates = optax.tree.scale(state.plateau.scale, updates)
    return State(optax.apply_updates(state.params, updates), batch_stats, optimiser, state.plateau)


@partial(jax.jit, static_argnames="decoder")
def decode(variables, z, *, decoder):
    """Reconstructions of what is received, ``(N, H, W, C)`` in [0, 1]."""
    return decoder.apply(variables, z, train=False)


@partial(jax.jit, static_argnames="decoder")
def _init(key, z, *, decoder):
    return decoder.init(key, z, train=False)


@partial(jax.jit, static_argnames="lr", donate_argnames="variables")
def _state_of(variables, *, lr):
    optimiser = _optimiser(lr).init(variables["params"])
    return State(variables["params"], variables["batch_stats"], optimiser, _plateau().init({}))


@jax.jit
def _keys_of(key):
    """Of the decoder, of its order of images, of the edge's noise, and of that on the selection images."""
    init_key, order_key = jax.random.split(key)
    # Apart from the other two, so that a decoder without noise trains as it always has.
    return init_key, order_key, *(jax.random.fold_in(order_key, i) for i in (1, 2))


@jax.jit
def _tell_plateau(plateau, loss):
    with jax.numpy_dtype_promotion("standard"):
        return _plateau().update({}, plateau, value=loss)[1]


class _Images(NamedTuple):
    """The attacker's images on the device, and what the edge sends for them (None where it is asked at every step)."""

    fit: Any
    sent: Any | None
    selection: np.ndarray
    sent_selection: list[Array] | None


def train_decoder(target: Target, decoder: Decoder, *, progress: Progress = silent) -> Trained:
    """Train a decoder from z to images.

    Everything follows from the target's key: the decoder's initialisation, its order of images, the part of them that
    is kept for selection, and the noise of a defended edge.

    Args:
      target: what is attacked, the attacker's images, and the settings: epochs, patience, steps, batch size, learning
        rate, share of the images kept for selection.
      decoder: for z and images of the target's shapes.
      progress: told after every epoch.

    Raises:
      UserError: too few auxiliary images for one batch; a loss that is not finite.
    """
    settings = target.settings
    init_key, order_key, noise_key, selection_key = _keys_of(target.key)
    state, images = _begin(target, decoder, init_key)
    batch_size = _batch_size(target, len(images.fit))
    steps = len(images.fit) // batch_size
    edge = target.edge if images.sent is None else target.edge.receiver
    most = settings.epochs * steps if settings.steps is None else min(settings.steps, settings.epochs * steps)
    begin = Course.begin(state, settings.epochs, target)
    course = target.pause.recall("decoder", begin) or begin
    with target.pause.watched():
        while not course.is_over(most - int(course.epoch) * steps, settings.patience):
            epoch = int(course.epoch)
            order, epoch_key = epoch_order(order_key, epoch, len(images.fit)), jax.random.fold_in(noise_key, epoch)
            for index in range(int(course.step), min(steps, most - epoch * steps)):
                state = attack_step(
                    course.state, target.variables, images.fit, images.sent, order, np.int32(index), epoch_key,
                    target.reference, edge=edge, decoder=decoder, batch_size=batch_size, lr=settings.lr,
                    mesh=target.mesh,
                )  # fmt: skip
                course = course.after_step(state, index)
                if target.pause.due(course):
                    target.pause.save("decoder", course)
            loss = _selection_loss(target, decoder, course.state.variables, images, selection_key)
            if not np.isfinite(loss):
                raise UserError(
                    f"the attack on {target.cut} diverged in epoch {epoch + 1}: its loss is not finite; lower lr (now "
                    f"{settings.lr:g})",
                    field="lr",
                )
            course = course.after_epoch(loss)
            progress(epoch + 1, settings.epochs, f"mse {loss:.4f}")
        target.pause.save("decoder", course)  # so that scoring it can be gone on with alone
    losses = parallel.fetch(course.losses).astype(np.float64)[: int(course.epoch)]
    gain = last_gain(losses)
    return Trained(decoder, course.best, int(course.best_epoch), losses, gain < FLAT, gain)


def _batch_size(target: Target, count: int) -> int:
    devices = target.mesh.size
    return max(devices, min(target.settings.batch_size, count) // devices * devices)


def _begin(target: Target, decoder: Decoder, key: Array) -> tuple[State, _Images]:
    """A fresh decoder, and the attacker's images with what the edge sends for them if that can be kept."""
    fit, selection = target.fit_and_selection()
    if len(fit) < max(2, target.mesh.size):
        raise UserError(
            f"the attacker has {batch_size(target.auxiliary)} images, too few to train on; raise auxiliary_fraction",
            field="auxiliary_fraction",
        )
    variables = _init(key, np.zeros((2, *target.z_shape), np.float32), decoder=decoder)
    state = _state_of(variables, lr=target.settings.lr)
    state, images = parallel.replicate((state, FlatRows.of(fit)), target.mesh)
    if 4 * math.prod(target.z_shape) * (batch_size(target.auxiliary) or 0) > KEPT_BYTES:
        return state, _Images(images, None, selection, None)
    sent_selection = [z for _, z, _ in target.sent(selection, "selection")]
    whole = [parallel.in_turn(parallel.everywhere(z, target.mesh))[:count] for _, z, count in target.sent(fit, "fit")]
    sent = parallel.replicate(FlatRows.of(jnp.concatenate(whole)), target.mesh)
    return state, _Images(images, sent, selection, sent_selection)


def _selection_loss(target: Target, decoder: Decoder, variables: Any, images: _Images, key: Array) -> float:
    """Mean mse on the images that the attacker has kept to choose its best epoch on."""
    errors = []
    for i, (piece, count) in enumerate(pieces(images.selection, mesh=target.mesh)):
        kept = images.sent_selection
        z = send(target.variables, piece, edge=target.edge) if kept is None else kept[i]
        z = receive(z, jax.random.fold_in(key, i), target.reference, edge=target.edge.receiver)
        pair = images_of(piece, pixels=target.edge.pixels), decode(variables, z, decoder=decoder)
        errors.append(parallel.fetch(metrics.mse(*parallel.first(pair, count, target.mesh))))
    return float(np.mean(np.concatenate(errors)))


def last_gain(losses: Float[np.ndarray, " E"]) -> float:
    """By what share the best loss still fell over the last fifth of the epochs; 1 if there were fewer than five.

    Example:
      >>> round(last_gain(np.array([1.0, 0.5, 0.4, 0.4, 0.3])), 3)
      0.25
    """
    if len(losses) < 5:
        return 1.0
    best = np.minimum.accumulate(losses)
    before = best[-(len(losses) // 5) - 1]
    return float((before - best[-1]) / before) if before > 0 else 0.0
