"""Neural Vortex, parameter space: what a training step really did to the within-class radius R_c², and along what.

z depends on the parameters θ and on the statistics s of batch norms. A step goes (θ, s) -> (θ', s'), and to first order
R_c² changes by (2/N_c) Σ d_i·(dz_i/dθ · u) along a direction u (notation: ``contraction.py``):

  correct, wrong   u = -γ times the gradient of the part of the loss that feeds the class's own, the other logits
  optimiser        u = θ' - θ, whatever optimiser made it
  statistics       R_c²(θ', s') - R_c²(θ', s), exact
  realised         R_c²(θ', s') - R_c²(θ, s), exact
  residual         realised - optimiser - statistics: the curvature along the step, O(γ²)

``statistics`` is taken after the parameters have moved, not before: only so is the residual of second order in γ, since
the statistics move by as much however small γ is. Plain SGD has correct + wrong = optimiser.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from gpz_jax.analysis.class_sums import centred, class_means, deviations, flat, warn_of_missing
from gpz_jax.analysis.contraction import residuals
from gpz_jax.errors import UserError
from gpz_jax.taps import TappedNetwork, check_real


class ParameterTerms(NamedTuple):
    """ΔR_c² of one cut in parameter space, ``(K,)`` each, squared units of z; see the head of this file.

    ``correct`` and ``wrong`` are None where the two parts of the gradient were not given.
    """

    correct: Float[Array, " K"] | None
    wrong: Float[Array, " K"] | None
    optimiser: Float[Array, " K"]
    statistics: Float[Array, " K"]
    realised: Float[Array, " K"]
    residual: Float[Array, " K"]


def gradient_parts(
    logits_of: Callable[[Any], Float[Array, "N K"]],
    params: Any,
    labels: Int[Array | np.ndarray, " N"],
    targets: Float[Array, "N K"],
) -> tuple[Any, Any]:
    """The gradient of the mean cross-entropy in the parameters: the part through each image's own logit, and the rest.

    One forward, two backwards. Where the loss has more than the cross-entropy in it (weight decay, say), the optimiser
    term of :func:`parameter_terms` holds what the two parts leave out.

    Args:
      logits_of: params -> logits ``(N, K)`` of the training batch, as the loss sees them (dropout, batch statistics).
      params: θ.
      labels: class of each image, ``(N,)``.
      targets: q, ``(N, K)``.

    Returns:
      ``(correct, wrong)``, pytrees like ``params``; their sum is the gradient.
    """
    logits, pull = jax.vjp(logits_of, params)
    correct, wrong = residuals(logits, jnp.asarray(labels), targets)
    weight = jnp.asarray(1 / len(labels), correct.dtype)
    return pull((correct * weight).astype(logits.dtype))[0], pull((wrong * weight).astype(logits.dtype))[0]


def parameter_terms(
    network: TappedNetwork,
    before: Any,
    after: Any,
    x: Any,
    labels: Int[Array | np.ndarray, " N"],
    parts: tuple[Any, Any] | None = None,
    *,
    num_classes: int,
    step_size: float | Float[Array, ""] = 0.0,
) -> dict[str, ParameterTerms]:
    """What one step of training really did to R_c², and how much of it is of first order in which direction.

    Three tangents through one linearised forward pass (one without ``parts``), and two more forward passes.

    Args:
      network: the tapped network, in evaluation mode; of a Linen or an NNX model.
      before: its variables before the step.
      after: its variables after the step, by whatever optimiser.
      x: the images on which R_c² is measured, ``(N, …)``; not those of the training step, as a rule.
      labels: their classes, ``(N,)``.
      parts: what :func:`gradient_parts` made of the training batch at ``before``; None leaves out their two terms.
      num_classes: K.
      step_size: γ, of the two gradient parts.

    Returns:
      cut name -> :class:`ParameterTerms`. A class with fewer than two images is NaN (and named in one warning).
    """
    warn_of_missing(labels, num_classes)
    found = _parameter_terms(network, before, after, x, jnp.asarray(labels), parts, step_size, num_classes=num_classes)
    return {cut: found[cut] for cut in network.cuts}


@partial(jax.jit, static_argnames=("network", "num_classes"))
def _parameter_terms(network, before, after, x, labels, parts, step_size, *, num_classes) -> dict[str, ParameterTerms]:
    params, rest = split_variables(before)
    moved, statistics = split_variables(after)

    def taps_at(params, rest):
        return network(join_variables(params, rest), x)[1]

    def against(part):
        return jax.tree.map(lambda g: -jnp.asarray(step_size, g.dtype) * g, part)

    taps, push = jax.linearize(lambda params: taps_at(params, rest), params)
    check_real(taps)
    update = jax.tree.map(jnp.subtract, moved, params)
    # One after the other, not vmapped: a batch of tangents took a fifth longer on CPUs, and three times the memory.
    tangents = [push(direction) for direction in (*map(against, parts or ()), update)]
    at_moved = taps_at(moved, rest)
    at_after = taps_at(moved, statistics) if jax.tree.leaves(statistics) else at_moved

    def terms(cut: str) -> ParameterTerms:
        d = deviations(taps[cut], labels, num_classes)
        *of_parts, optimiser = (
            2 * class_means(jnp.sum(d * centred(flat(dz[cut]), labels, num_classes), axis=1), labels, num_classes)
            for dz in tangents
        )
        correct, wrong = of_parts or (None, None)
        by_parameters = _change(d, taps[cut], at_moved[cut], labels, num_classes)
        realised = _change(d, taps[cut], at_after[cut], labels, num_classes)
        return ParameterTerms(correct, wrong, optimiser, realised - by_parameters, realised, by_parameters - optimiser)

    return {cut: terms(cut) for cut in network.cuts}


@partial(jax.jit, static_argnames=("network", "num_classes"))
def realised_change(
    network: TappedNetwork, before: Any, after: Any, x: Any, labels: Int[Array, " N"], *, num_classes: int
) -> dict[str, Float[Array, " K"]]:
    """R_c² at ``after`` less R_c² at ``before``, of every cut and class, by two forward passes; safe in float32."""
    _, old = network(before, x)
    _, new = network(after, x)
    check_real(old)
    return {
        cut: _change(deviations(old[cut], labels, num_classes), old[cut], new[cut], labels, num_classes)
        for cut in network.cuts
    }


def _change(d: Array, old: Array, new: Array, labels: Array, num_classes: int) -> Array:
    """ΔR_c² = (1/N_c) Σ (2 d_i + δ_i)·δ_i, δ the displacements less their class's mean.

    Not as a difference of two radii: it is small beside them, and float32 would lose it. Nor with the mean displacement
    taken off afterwards: biases move all images alike, and by more than they move them apart.
    """
    moved = centred(flat(new) - flat(old), labels, num_classes)
    return class_means(jnp.sum((2 * d + moved) * moved, axis=1), labels, num_classes)


def split_variables(variables: Any) -> tuple[Any, Any]:
    """Parameters, and all else (statistics) that can be counted with, of a Linen or an NNX model."""
    from flax import nnx

    if isinstance(variables, nnx.State):
        params, rest = nnx.split_state(variables, nnx.Param, ...)
        return params, rest
    if "params" not in variables:
        raise UserError("the variables hold no 'params'; give all variables of a Linen model, or the nnx.State of one")
    return variables["params"], {name: value for name, value in variables.items() if name != "params"}


def join_variables(params: Any, rest: Any) -> Any:
    """The variables that :func:`split_variables` split."""
    if isinstance(rest, dict):
        return {"params": params, **rest}
    from flax import nnx

    return nnx.merge_state(params, rest)
