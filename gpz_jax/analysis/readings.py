"""Where a network stands on a batch: R_c², W, B and ρ of every cut, and what its outputs say, class by class."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from gpz_jax.analysis.class_sums import class_counts, class_means, deviations, flat, sum_of_class
from gpz_jax.taps import TappedNetwork, check_real
from gpz_jax.targets import at_least_float32, check_logits, cross_entropy, output_entropy


class Readings(NamedTuple):
    """Where a network stands on a batch, class by class ``(K,)``; cuts by name.

    Attributes:
      radius: R_c² of every cut.
      within: W of every cut, scalars.
      between: B of every cut, scalars.
      rho: ρ = W/(W + B) of every cut, scalars.
      coefficient: mean correct-class coefficient p_c - q_c.
      past_flip: share of images with p_c > q_c, that is p_c > 1 - α: those whose correct-class term has changed sign.
      entropy: mean output entropy H(p), nats.
      accuracy: share of images whose largest logit is their class's.
      loss: mean cross-entropy against the targets, nats.
    """

    radius: dict[str, Float[Array, " K"]]
    within: dict[str, Float[Array, ""]]
    between: dict[str, Float[Array, ""]]
    rho: dict[str, Float[Array, ""]]
    coefficient: Float[Array, " K"]
    past_flip: Float[Array, " K"]
    entropy: Float[Array, " K"]
    accuracy: Float[Array, " K"]
    loss: Float[Array, " K"]


@partial(jax.jit, static_argnames="network")
def readings(
    network: TappedNetwork,
    variables: Any,
    x: Any,
    labels: Int[Array, " N"],
    targets: Float[Array, "N K"],
) -> Readings:
    """Where the network stands on a batch: R_c², W, B and ρ of every cut, and what its outputs say. One forward pass.

    Args:
      network: the tapped network, in evaluation mode.
      variables: its variables.
      x: a batch, ``(N, …)``.
      labels: class of each image, ``(N,)``.
      targets: q, ``(N, K)``.

    Returns:
      :class:`Readings`; a class with fewer than two images is NaN in the radius, one without images everywhere.
    """
    logits, taps = network(variables, x)
    check_logits(logits)
    check_real(taps)
    num_classes = targets.shape[1]
    count = class_counts(labels, num_classes)
    radius, within, between, rho = {}, {}, {}, {}
    for cut in network.cuts:
        z = flat(taps[cut])
        d = deviations(z, labels, num_classes)
        squares = jnp.sum(d * d, axis=1)
        radius[cut] = class_means(squares, labels, num_classes)
        within[cut] = jnp.mean(squares)
        total = jnp.mean(jnp.sum(jnp.square(z - jnp.mean(z, axis=0)), axis=1))
        between[cut] = jnp.maximum(total - within[cut], 0)
        rho[cut] = within[cut] / total
    p = jax.nn.softmax(at_least_float32(logits))
    own = jnp.take_along_axis(p - targets, labels[:, None], axis=1)[:, 0]  # p_c - q_c
    hits = (jnp.argmax(logits, axis=1).astype(labels.dtype) == labels).astype(p.dtype)
    outputs = [own, (own > 0).astype(p.dtype), output_entropy(logits), hits, cross_entropy(logits, targets)]
    sums = sum_of_class(jnp.stack(outputs, axis=1), labels, num_classes)
    means = jnp.where(count[:, None] > 0, sums / jnp.maximum(count, 1)[:, None].astype(sums.dtype), jnp.nan)
    return Readings(radius, within, between, rho, *means.T)
