"""The attacker's training loop: a decoder learns to rebuild images from what the edge half sends.

The attacker can query the edge half (it owns images and sees their z) and knows the shapes of z and x. It trains on
the auxiliary split, picks its best epoch on a part of it held out, and is scored on test images that neither it nor
the classifier has trained on.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float

from gpz_jax import defences, parallel
from gpz_jax.config import AttackConfig
from gpz_jax.data.batches import epoch_order, padded_batches, pixels
from gpz_jax.data.splits import Split
from gpz_jax.defences import NONE, Defence, Reference
from gpz_jax.errors import UserError
from gpz_jax.inversion import metrics
from gpz_jax.inversion.decoder import Decoder, decoder_for
from gpz_jax.taps import TappedNetwork

#: The attack has flattened when its best selection loss fell by less than this share over the last fifth of it.
FLAT = 0.01

#: What the edge sends for the attacker's images is asked for once and kept on the device up to this many bytes; beyond
#: that it is asked for again at every step, which costs a forward pass of the edge but no memory.
KEPT_BYTES = 2**30


class Edge(NamedTuple):
    """What the attacker can query: ``edge.send(variables, images) -> z``. Hashable, so that steps are compiled once.

    Attributes:
      network: the tapped network, from uint8 images.
      cut: where z is taken.
      defence: what the edge does to z before it is sent.
    """

    network: TappedNetwork
    cut: str
    defence: Defence = NONE

    def send(self, variables: Any, images: Any) -> Array:
        """The representation before any defence, float32 ``(N, …)``."""
        return self.network(variables, images)[1][self.cut].astype(jnp.float32)

    def defend(self, z: Array, key: Array, reference: Reference | None) -> Array:
        """What goes over the wire of it: noise is drawn anew at every call, as it is for every query."""
        if not self.defence.steps:
            return z
        assert reference is not None  # else the edge would send z bare while its name says otherwise
        return defences.apply(self.defence, z, key, reference)


class Attacker(NamedTuple):
    """All that changes while the decoder trains."""

    params: Any
    batch_stats: Any
    optimiser: Any
    plateau: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The decoder's variables."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class Trained(NamedTuple):
    """A finished attack.

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


@partial(
    jax.jit,
    static_argnames=("edge", "decoder", "size", "batch_size", "lr", "mesh"),
    donate_argnames="attacker",
)
def attack_step(
    attacker,
    target_variables,
    images,
    sent,
    order,
    index,
    key,
    reference,
    *,
    edge,
    decoder,
    size,
    batch_size,
    lr,
    mesh,
):
    """One step of the decoder on batch ``index``: least squares in pixels, un-normalised, in [0, 1].

    ``sent`` is what the edge sends for all ``images``, before its defence, or None to ask it here; ``key`` that of the
    epoch, for the edge's noise and the decoder's dropout.
    """
    batch = jax.lax.dynamic_slice(order, (index * batch_size,), (batch_size,))
    batch = jax.lax.with_sharding_constraint(batch, jax.NamedSharding(mesh, PartitionSpec("data")))
    x = pixels(images[batch], size)
    z = edge.send(target_variables, images[batch]) if sent is None else sent[batch]
    noise, dropout = jax.random.split(jax.random.fold_in(key, index))
    z = edge.defend(z, noise, reference)

    def loss_of(params):
        variables = {"params": params, "batch_stats": attacker.batch_stats}
        x_hat, changed = decoder.apply(variables, z, train=True, mutable=["batch_stats"], rngs={"dropout": dropout})
        return jnp.mean((x_hat - x) ** 2), changed["batch_stats"]

    (_, batch_stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(attacker.params)
    updates, optimiser = _optimiser(lr).update(gradient, attacker.optimiser, attacker.params)
    updates = optax.tree.scale(attacker.plateau.scale, updates)
    return Attacker(optax.apply_updates(attacker.params, updates), batch_stats, optimiser, attacker.plateau)


@partial(jax.jit, static_argnames="decoder")
def _init(key, z, *, decoder):
    return decoder.init(key, z, train=False)


@partial(jax.jit, static_argnames="edge")
def send_batch(target_variables, images, *, edge):
    """What the edge has for a batch of images, before its defence."""
    return edge.send(target_variables, images)


@partial(jax.jit, static_argnames=("edge", "decoder", "size"))
def _reconstruct_batch(variables, images, z, key, reference, *, edge, decoder, size):
    return pixels(images, size), decoder.apply(variables, edge.defend(z, key, reference), train=False)


@jax.jit
def _tell_plateau(plateau, loss):
    return _plateau().update({}, plateau, value=loss)[1]


def train_attacker(
    edge: Edge,
    target_variables: Any,
    auxiliary: Split,
    *,
    attack: AttackConfig,
    size: int,
    seed: int,
    mesh: Mesh,
    decoder: Decoder | None = None,
    reference: Reference | None = None,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Trained:
    """Train a decoder for one cut.

    Args:
      edge: what the attacker can query.
      target_variables: the classifier's variables.
      auxiliary: the attacker's images; a seeded part of them is kept for selection.
      attack: epochs, patience, steps, batch size, learning rate, decoder width, share kept for selection.
      size: side of the images in pixels.
      seed: of the decoder's initialisation, its order of images and the selection part.
      mesh: devices.
      decoder: the decoder to train; a deconvolution of ``attack``'s width by default.
      reference: what the edge's defence is measured against; None if it has none.
      on_epoch: called with (epoch, selection loss), for progress bars.

    Raises:
      UserError: too few auxiliary images for one batch; a loss that is not finite.
    """
    fit, selection = fit_and_selection(auxiliary, attack.selection_fraction, seed)
    devices = mesh.size
    if len(fit) < max(2, devices):
        raise UserError(f"the attacker has {len(auxiliary)} images, too few to train on; raise --auxiliary-fraction")
    batch_size = max(devices, min(attack.batch_size, len(fit)) // devices * devices)

    init_key, order_key = jax.random.split(jax.random.key(seed))
    # Apart from the other two, so that a decoder without noise trains as it always has.
    noise_key, selection_key = (jax.random.fold_in(order_key, i) for i in (1, 2))
    z = z_shape(edge, target_variables, auxiliary)
    if decoder is None:
        decoder = decoder_for(z.shape[1:], (size, size, auxiliary.images.shape[-1]), width=attack.decoder_width)
    variables = _init(init_key, jnp.zeros(z.shape, jnp.float32), decoder=decoder)
    attacker = Attacker(
        variables["params"],
        variables["batch_stats"],
        _optimiser(attack.lr).init(variables["params"]),
        _plateau().init({}),
    )
    attacker, images = parallel.replicate((attacker, fit.take()[0]), mesh)
    sent, sent_selection = None, None
    if 4 * math.prod(z.shape[1:]) * len(auxiliary) <= KEPT_BYTES:
        sent_selection = sent_batches(edge, target_variables, selection)
        sent = parallel.replicate(jnp.concatenate(sent_batches(edge, target_variables, fit))[: len(fit)], mesh)
    losses: list[float] = []
    best: dict[str, Any] = {}
    steps_left = math.inf if attack.steps is None else attack.steps
    for epoch in range(attack.epochs):
        order, epoch_key = epoch_order(order_key, epoch, len(fit)), jax.random.fold_in(noise_key, epoch)
        for index in range(int(min(len(fit) // batch_size, steps_left))):
            attacker = attack_step(
                attacker, target_variables, images, sent, order, jnp.int32(index), epoch_key, reference,
                edge=edge, decoder=decoder, size=size, batch_size=batch_size, lr=attack.lr, mesh=mesh,
            )  # fmt: skip
        steps_left -= len(fit) // batch_size
        pairs = reconstruct(
            edge, target_variables, decoder, attacker.variables, selection,
            size=size, sent=sent_selection, key=selection_key, reference=reference,
        )  # fmt: skip
        loss = float(np.mean(np.concatenate([np.asarray(metrics.mse(x, x_hat)) for x, x_hat in pairs])))
        if not np.isfinite(loss):
            raise UserError(
                f"the attack on {edge.cut} diverged in epoch {epoch + 1}: its loss is not finite; lower --lr "
                f"(now {attack.lr:g})"
            )
        if not losses or loss < min(losses):
            best = {"epoch": epoch + 1, "variables": jax.tree.map(jnp.copy, attacker.variables)}
        losses.append(loss)
        attacker = attacker._replace(plateau=_tell_plateau(attacker.plateau, jnp.float32(loss)))
        on_epoch(epoch + 1, loss)
        if steps_left <= 0 or (attack.patience is not None and epoch + 1 - best["epoch"] >= attack.patience):
            break
    gain = last_gain(np.array(losses))
    return Trained(decoder, best["variables"], best["epoch"], np.array(losses), gain < FLAT, gain)


def fit_and_selection(auxiliary: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """The attacker's images to train on, and those on which it chooses: the first ``fraction`` of a seeded shuffle."""
    shuffled = np.random.default_rng(seed).permutation(auxiliary.indices)
    held = max(1, round(fraction * len(shuffled)))
    return Split(auxiliary.images, None, shuffled[held:]), Split(auxiliary.images, None, shuffled[:held])


def z_shape(edge: Edge, target_variables: Any, split: Split) -> jax.ShapeDtypeStruct:
    """Shape of what the edge sends for two images of a split; nothing is computed."""
    example = jax.ShapeDtypeStruct((2, *split.images.shape[1:]), jnp.uint8)
    return jax.eval_shape(edge.send, target_variables, example)


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


def sent_batches(edge: Edge, target_variables: Any, split: Split) -> list[Array]:
    """What the edge sends for a split, ``(256, …)`` a batch, the last one padded; kept on the device."""
    return [send_batch(target_variables, images, edge=edge) for images, _, _ in padded_batches(split, 256)]


def reconstruct(
    edge: Edge,
    target_variables: Any,
    decoder: Decoder,
    variables: Any,
    split: Split,
    *,
    size: int,
    sent: list[Array] | None = None,
    key: Array | None = None,
    reference: Reference | None = None,
):
    """Yield (originals, reconstructions) batch by batch, float32 pixels ``(n, size, size, C)``, padding removed.

    ``sent`` is what :func:`sent_batches` gave for this split, if it is at hand; ``key`` and ``reference`` are for the
    edge's defence, if it has one.
    """
    key = jax.random.key(0) if key is None else key
    for i, (images, _, mask) in enumerate(padded_batches(split, 256)):
        z = send_batch(target_variables, images, edge=edge) if sent is None else sent[i]
        noise = jax.random.fold_in(key, i)
        x, x_hat = _reconstruct_batch(variables, images, z, noise, reference, edge=edge, decoder=decoder, size=size)
        yield x[mask], x_hat[mask]
