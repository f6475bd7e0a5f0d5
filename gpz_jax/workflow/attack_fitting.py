"""Each rung of the ladder made ready at one cut: a ridge regression, a trained decoder, or the likelihood attack."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gpz_jax.config import AttackConfig
from gpz_jax.data.batches import normalise, padded_batches, pixels
from gpz_jax.data.splits import Split
from gpz_jax.defences import Reference
from gpz_jax.errors import UserError
from gpz_jax.inversion import decoder_training, likelihood, linear, metrics
from gpz_jax.inversion.decoder import received
from gpz_jax.inversion.decoder_training import Edge
from gpz_jax.inversion.ladder import Rung, decoder_of
from gpz_jax.taps import TappedNetwork

#: Images of the attacker that the linear rung is fitted on, at most: its pixels and representations are held at once.
LINEAR_IMAGES = 16_384

#: Steps of the likelihood attack where none are given.
LIKELIHOOD_STEPS = 500

#: Weights of the total variation among which the likelihood attack chooses, and on how many of the attacker's images.
TV = (0.0, 0.1, 1.0, 10.0, 100.0)
TV_IMAGES = 16

#: First rate of the likelihood attack, in pixels a step: from noise, and from another attacker's reconstructions. From
#: these at 0.1 it ended further from the images than it began (IR-152 sibling, CIFAR-10, block_12, 16 images, 300
#: steps, weight 1: mse 0.0231 -> 0.0250), at 0.02 nearer (0.0203).
RATE = {"noise": 0.1, "start": 0.02}


class Target(NamedTuple):
    """What is attacked, and with which images.

    Attributes:
      edge: what the attacker can query.
      variables: of the network.
      auxiliary: the attacker's images.
      size: their side in pixels, once resized for the network.
      reference: what the edge's defence is measured against; None if it has none.
      seed: of the attacker.
      mesh: devices.
    """

    edge: Edge
    variables: Any
    auxiliary: Split
    size: int
    reference: Reference | None
    seed: int
    mesh: Mesh

    @property
    def x_shape(self) -> tuple[int, int, int]:
        """Shape of a reconstruction."""
        return self.size, self.size, self.auxiliary.images.shape[-1]


class Fitted(NamedTuple):
    """An attacker that is ready.

    Attributes:
      reconstruct: split -> (originals, reconstructions) batch by batch, in order.
      parameters: how many numbers were fitted.
      tree: those numbers, to be saved; None if there are none.
      selection_loss: mse on the selection images: after every epoch, for every penalty, or the one there is.
      best_epoch: the epoch that was taken; 0 where there were none.
      flattened: whether more of the same effort promised nothing.
      last_gain: by what share the loss still fell over the last fifth of the effort.
      chosen: what was chosen on the selection images, for the record.
    """

    reconstruct: Callable[[Split], Iterator[tuple[Array, Array]]]
    parameters: int
    tree: Any
    selection_loss: np.ndarray
    best_epoch: int
    flattened: bool
    last_gain: float
    chosen: dict[str, Any]


def check_rung(rung: Rung, target: Target, options: AttackConfig) -> None:
    """Raise :class:`UserError` for what cannot be built at this cut, before anything is trained."""
    z = decoder_training.z_shape(target.edge, target.variables, target.auxiliary)
    if rung.kind == "decoder":
        decoder_of(rung, options, z.shape[1:], target.x_shape)
    else:  # for its checks of top_k and probabilities
        decoder_of(rung, dataclasses.replace(options, match_params=None, tokens="all"), z.shape[1:], target.x_shape)


def fit_decoder(rung: Rung, target: Target, options: AttackConfig, *, on_epoch: Callable[[int, float], None]) -> Fitted:
    """Train the rung's decoder."""
    z = decoder_training.z_shape(target.edge, target.variables, target.auxiliary)
    trained = decoder_training.train_attacker(
        target.edge, target.variables, target.auxiliary,
        attack=options, size=target.size, seed=target.seed, mesh=target.mesh, reference=target.reference,
        decoder=decoder_of(rung, options, z.shape[1:], target.x_shape), on_epoch=on_epoch,
    )  # fmt: skip
    return Fitted(
        partial(
            decoder_training.reconstruct, target.edge, target.variables, trained.decoder, trained.variables,
            size=target.size, key=_test_key(target), reference=target.reference,
        ),
        sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"])),
        trained.variables,
        trained.selection_loss,
        trained.epoch,
        bool(trained.flattened),
        trained.last_gain,
        {"width": trained.decoder.width, "epochs": len(trained.selection_loss)},
    )  # fmt: skip


def fit_linear(target: Target, options: AttackConfig) -> Fitted:
    """Fit the ridge regression in closed form; its penalty is chosen on the selection images."""
    fit, selection = decoder_training.fit_and_selection(target.auxiliary, options.selection_fraction, target.seed)
    fit = dataclasses.replace(fit, indices=fit.indices[:LINEAR_IMAGES])
    key = jax.random.fold_in(jax.random.key(target.seed), 3)
    known, unseen = (
        _sent_and_pixels(target, options, split, jax.random.fold_in(key, i)) for i, split in enumerate((fit, selection))
    )
    ridge, penalty, errors = linear.fit_best(*known, *unseen)

    def reconstruct(split: Split) -> Iterator[tuple[Array, Array]]:
        for x, z in _batches(target, options, split, _test_key(target)):
            yield x, ridge.pixels(z.reshape(len(z), -1)).reshape(x.shape)

    return Fitted(
        reconstruct,
        sum(leaf.size for leaf in jax.tree.leaves(ridge)),
        ridge._asdict() if ridge.basis is not None else {k: v for k, v in ridge._asdict().items() if k != "basis"},
        np.array(list(errors.values())),
        0,
        True,
        0.0,
        {"penalty": penalty, "images": len(fit)},
    )


def fit_likelihood(
    target: Target, options: AttackConfig, *, start: np.ndarray | None, on_step: Callable[[int], None]
) -> Fitted:
    """Make the likelihood attack ready; its weight of the total variation is chosen on selection images.

    Args:
      target: what is attacked.
      options: steps, restarts, tv.
      start: reconstructions of the test images by another attacker, where it begins; None: ``restarts`` times from
        noise.
      on_step: called as steps are done on the test images.
    """
    steps = options.steps or LIKELIHOOD_STEPS
    send = _Send(
        dataclasses.replace(target.edge.network, prepare=normalise),
        target.edge.cut,
        options.probabilities,
        options.top_k,
    )
    invert = partial(likelihood.invert, send, target.variables, x_shape=target.x_shape, steps=steps)
    _, selection = decoder_training.fit_and_selection(target.auxiliary, options.selection_fraction, target.seed)
    few = dataclasses.replace(selection, indices=selection.indices[:TV_IMAGES])
    key = jax.random.fold_in(jax.random.key(target.seed), 4)
    ((x, z),) = _batches(target, options, few, key)
    errors = {}
    for tv in TV if options.tv is None else (options.tv,):
        errors[tv] = float(np.mean(np.asarray(metrics.mse(x, invert(z=z, key=key, tv=tv, lr=RATE["noise"]).x))))
    if not np.isfinite(list(errors.values())).any():
        raise UserError(f"the likelihood attack on {target.edge.cut} found no finite image")
    tv = min(errors, key=lambda tv: errors[tv])
    state: dict[str, Any] = {"settled": True, "gain": 0.0}

    def reconstruct(split: Split) -> Iterator[tuple[Array, Array]]:
        at = 0
        for x, z in _batches(target, options, split, _test_key(target)):
            first = None if start is None or len(start) < at + len(x) else jnp.asarray(start[at : at + len(x)])
            if first is None:
                found = invert(z=z, key=key, tv=tv, lr=RATE["noise"], restarts=options.restarts, on_step=on_step)
            else:
                found = invert(z=z, key=key, tv=tv, lr=RATE["start"], start=first, on_step=on_step)
            state["settled"] &= bool(found.settled)
            state["gain"] = max(state["gain"], decoder_training.last_gain(np.asarray(found.history)))
            at += len(x)
            yield x, found.x

    begin = "noise" if start is None else "reconstructions of the best rung so far"
    chosen = {"tv": tv, "steps": steps, "start": begin, "state": state}
    return Fitted(reconstruct, 0, None, np.array([errors[tv]]), 0, True, 0.0, chosen)


@dataclasses.dataclass(frozen=True)
class _Send:
    """(variables, pixels) -> what the attacker receives; hashable, so that its steps are compiled once."""

    network: TappedNetwork
    cut: str
    probabilities: bool
    top_k: int | None

    def __call__(self, variables: Any, x: Array) -> Array:
        z = self.network(variables, x)[1][self.cut].astype(jnp.float32)
        return received(z, probabilities=self.probabilities, top_k=self.top_k)


def _test_key(target: Target) -> Array:
    """Key of the noise that the edge draws when it is attacked."""
    return jax.random.fold_in(jax.random.key(target.seed), 5)


@partial(jax.jit, static_argnames=("edge", "size", "probabilities", "top_k"))
def _received(variables, images, key, reference, *, edge, size, probabilities, top_k):
    z = edge.defend(edge.send(variables, images), key, reference)
    return pixels(images, size), received(z, probabilities=probabilities, top_k=top_k)


def _batches(target: Target, options: AttackConfig, split: Split, key: Array) -> Iterator[tuple[Array, Array]]:
    """(pixels, what the attacker receives of them) batch by batch, padding removed."""
    for i, (images, _, mask) in enumerate(padded_batches(split, 256)):
        x, z = _received(
            target.variables, images, jax.random.fold_in(key, i), target.reference,
            edge=target.edge, size=target.size, probabilities=options.probabilities, top_k=options.top_k,
        )  # fmt: skip
        yield x[mask], z[mask]


def _sent_and_pixels(target: Target, options: AttackConfig, split: Split, key: Array) -> tuple[Array, Array]:
    pairs = [(z.reshape(len(z), -1), x.reshape(len(x), -1)) for x, z in _batches(target, options, split, key)]
    z, x = (jnp.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    return z, x
