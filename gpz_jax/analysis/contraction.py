"""Neural Vortex: what moves the within-class radius R_c² in one training step, at every cut, for every class.

Notation, beyond that of ``radius.py``: s_i = logits, p_i = softmax(s_i), q_i = soft target, r_i = p_i - q_i the loss
gradient in the logits, J_i = ds_i/dz_i (K x D) at one cut, γ = step size, d_i = z_i - μ_c.

Feature space, the paper's account. Every z_i moves by -γ g_i with g_i = J_i^T r_i. Exactly,

  ΔR_c² = -(2γ/N_c) Σ d_i·g_i + (γ²/N_c) Σ ||g_i - ḡ_c||²
        = correct + wrong + second,      correct: the part of g_i that class c's own logit sends back, r_ic J_i^T e_c

The coefficient of ``correct`` is r_ic = p_ic - 1 + α under label smoothing: it changes sign at p_ic = 1 - α.

Parameter space, what really happens: z depends on the parameters θ and on the statistics s of batch norms. A step goes
(θ, s) -> (θ', s'), and to first order R_c² changes by (2/N_c) Σ d_i·(dz_i/dθ · u) along a direction u:

  correct, wrong   u = -γ times the gradient of the part of the loss that feeds the class's own, the other logits
  optimiser        u = θ' - θ, whatever optimiser made it
  statistics       R_c²(θ', s') - R_c²(θ', s), exact
  realised         R_c²(θ', s') - R_c²(θ, s), exact
  residual         realised - optimiser - statistics: the curvature along the step, O(γ²)

``statistics`` is taken after the parameters have moved, not before: only so is the residual of second order in γ, since
the statistics move by as much however small γ is. Plain SGD has correct + wrong = optimiser.

Networks run in evaluation mode: with batch statistics the images would not be independent and J_i would mean nothing.
Sums are float32, or float64 where the network's numbers are.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float, Int

from gpz_jax.errors import UserError
from gpz_jax.taps import TappedNetwork
from gpz_jax.targets import at_least_float32, cross_entropy, output_entropy


class FeatureTerms(NamedTuple):
    """ΔR_c² of one cut as the feature-space step predicts it, ``(K,)`` each; squared units of z."""

    correct: Float[Array, " K"]
    wrong: Float[Array, " K"]
    second: Float[Array, " K"]


class ParameterTerms(NamedTuple):
    """ΔR_c² of one cut in parameter space, ``(K,)`` each, squared units of z; see the head of this file."""

    correct: Float[Array, " K"]
    wrong: Float[Array, " K"]
    optimiser: Float[Array, " K"]
    statistics: Float[Array, " K"]
    realised: Float[Array, " K"]
    residual: Float[Array, " K"]


class Readings(NamedTuple):
    """Where a network stands on a batch, class by class ``(K,)``; cuts by name.

    Attributes:
      radius: R_c² of every cut.
      within: W of every cut, scalars.
      rho: ρ = W/(W + B) of every cut, scalars.
      coefficient: mean correct-class coefficient p_c - q_c.
      past_flip: share of images with p_c > q_c, that is p_c > 1 - α: those whose correct-class term has changed sign.
      entropy: mean output entropy H(p), nats.
      accuracy: share of images whose largest logit is their class's.
      loss: mean cross-entropy against the targets, nats.
    """

    radius: dict[str, Float[Array, " K"]]
    within: dict[str, Float[Array, ""]]
    rho: dict[str, Float[Array, ""]]
    coefficient: Float[Array, " K"]
    past_flip: Float[Array, " K"]
    entropy: Float[Array, " K"]
    accuracy: Float[Array, " K"]
    loss: Float[Array, " K"]


def residuals(
    logits: Float[Array, "N K"], labels: Int[Array, " N"], targets: Float[Array, "N K"]
) -> tuple[Float[Array, "N K"], Float[Array, "N K"]]:
    """The loss gradient in the logits, p - q, as its entry at the class's own logit and its entries at the others.

    Args:
      logits: ``(N, K)``.
      labels: class of each image, ``(N,)``.
      targets: q, ``(N, K)``, each row summing to 1 (``targets.soft_targets``).

    Returns:
      ``(correct, wrong)``, ``(N, K)`` each, zero elsewhere; their sum is p - q.

    Example:
      >>> correct, wrong = residuals(jnp.zeros((1, 2)), jnp.array([0]), jnp.array([[0.75, 0.25]]))
      >>> correct.tolist(), wrong.tolist()
      ([[-0.25, 0.0]], [[0.0, 0.25]])
    """
    difference = jax.nn.softmax(at_least_float32(logits)) - targets
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
    return jnp.where(own, difference, 0), jnp.where(own, 0, difference)


def feature_terms(
    network: TappedNetwork,
    variables: Any,
    x: Any,
    labels: Int[Array | np.ndarray, " N"],
    targets: Float[Array, "N K"],
    *,
    step_size: float | Float[Array, ""],
) -> dict[str, FeatureTerms]:
    """``correct``, ``wrong`` and ``second`` of every cut and class, from one forward and two activation backwards.

    The gradient in an offset added at every cut is J^T(cotangent) there, so p - q pulled back in its two parts gives
    both g's of all cuts at once: the cost knows neither K nor the number of cuts, and no J is ever formed.

    Args:
      network: the tapped network, in evaluation mode.
      variables: its variables.
      x: a batch, ``(N, …)``.
      labels: class of each image, ``(N,)``.
      targets: q, ``(N, K)``.
      step_size: γ.

    Returns:
      cut name -> :class:`FeatureTerms`. A class with fewer than two images is NaN (and named in one warning).

    Example:
      >>> import flax.linen as nn
      >>> from gpz_jax.taps import tap
      >>> from gpz_jax.targets import soft_targets
      >>> model, x, y = nn.Dense(2), jnp.array([[1.0], [3.0], [0.0], [1.0]]), jnp.array([0, 0, 1, 1])
      >>> variables = {"params": {"kernel": jnp.array([[1.0, -1.0]]), "bias": jnp.zeros(2)}}
      >>> terms = feature_terms(tap(model, variables, x), variables, x, y, soft_targets(y, 2, 0.0), step_size=0.1)
      >>> [round(value, 4) for value in terms["logits"].correct.tolist()]
      [-0.0117, -0.019]
    """
    warn_of_missing(labels, targets.shape[1])
    found = _feature_terms(network, variables, x, jnp.asarray(labels), targets, step_size)
    return {cut: found[cut] for cut in network.cuts}


@partial(jax.jit, static_argnames="network")
def _feature_terms(network, variables, x, labels, targets, step_size) -> dict[str, FeatureTerms]:
    logits, taps, pull = _with_pullback(network, variables, x)
    correct, wrong = (pull(r.astype(logits.dtype)) for r in residuals(logits, labels, targets))
    num_classes = targets.shape[1]
    count = _count(labels, num_classes)
    n = jnp.maximum(count, 1)
    sums = partial(jax.ops.segment_sum, segment_ids=labels, num_segments=num_classes)

    # Σ d·g as Σ z·g - N_c μ_c·ḡ_c, and Σ ||g - ḡ||² likewise: sums over classes are K x D, where d and g - ḡ would be
    # two more arrays of N x D. All of them as seen from an image of the class: in a network as initialised the g_i of a
    # class are all but equal, and their squares would cancel.
    first = jnp.argmax(labels == jnp.arange(num_classes, dtype=labels.dtype)[:, None], axis=1)[labels]

    def seen_from_first(values: Array) -> Array:
        return _flat(values) - _flat(values)[first]

    of_images, of_means = [], []
    for cut in network.cuts:
        z, g_correct, g_wrong = (seen_from_first(of[cut]) for of in (taps, correct, wrong))
        g = g_correct + g_wrong
        of_images.append(jnp.stack([jnp.sum(a * b, axis=1) for a, b in ((z, g_correct), (z, g_wrong), (g, g))]))
        z, g_correct, g_wrong = sums(z), sums(g_correct), sums(g_wrong)
        g = g_correct + g_wrong
        of_means.append(jnp.stack([jnp.sum(a * b, axis=1) for a, b in ((z, g_correct), (z, g_wrong), (g, g))]))
    of_images = sums(jnp.concatenate(of_images).T).T  # (3 L, K)
    n = n.astype(of_images.dtype)
    products = jnp.where(count > 1, of_images / n - jnp.concatenate(of_means) / n**2, jnp.nan)
    gamma = jnp.asarray(step_size, products.dtype)
    found = {}
    for i, cut in enumerate(network.cuts):
        correct_product, wrong_product, square = products[3 * i : 3 * i + 3]
        second = gamma**2 * jnp.maximum(square, 0)
        found[cut] = FeatureTerms(-2 * gamma * correct_product, -2 * gamma * wrong_product, second)
    return found


def _with_pullback(network, variables, x) -> tuple[Array, dict[str, Array], Callable[[Array], dict[str, Array]]]:
    """Logits, taps, and the map from a cotangent of the logits to J^T(cotangent) at every cut."""
    _, shapes = jax.eval_shape(network, variables, x)
    offset = {cut: jnp.zeros(shapes[cut].shape, shapes[cut].dtype) for cut in network.cuts}
    logits, pull, taps = jax.vjp(lambda offset: network(variables, x, offset=offset), offset, has_aux=True)
    return logits, taps, lambda cotangent: pull(cotangent)[0]


def feature_terms_by_jacobian(
    network: TappedNetwork,
    variables: Any,
    x: Any,
    labels: Int[Array, " N"],
    targets: Float[Array, "N K"],
    *,
    step_size: float,
) -> dict[str, FeatureTerms]:
    """:func:`feature_terms` by its definition: every J_i in full, by ``vmap(jacrev)`` of the cloud half at each cut.

    The reference implementation, for small cases: it holds N x K x D numbers a cut and runs K backwards for each.
    """
    logits, taps = network(variables, x)
    correct, wrong = residuals(logits, labels, targets)
    num_classes, found = targets.shape[1], {}
    for cut in network.cuts:

        def jacobian(x, z, cut=cut):
            return jax.jacrev(lambda z: network(variables, x[None], replace={cut: z[None]})[0][0])(z)

        j = at_least_float32(jax.vmap(jacobian)(x, taps[cut])).reshape(len(x), num_classes, -1)  # (N, K, D)
        d = deviations(taps[cut], labels, num_classes)
        t = jnp.einsum("nd,nkd->nk", d, j)  # T_{k,i}
        g = centred(jnp.einsum("nk,nkd->nd", correct + wrong, j), labels, num_classes)
        per_class = partial(class_means, labels=labels, num_classes=num_classes)
        found[cut] = FeatureTerms(
            -2 * step_size * per_class(jnp.sum(correct * t, axis=1)),
            -2 * step_size * per_class(jnp.sum(wrong * t, axis=1)),
            step_size**2 * per_class(jnp.sum(g * g, axis=1)),
        )
    return found


def interference(
    network: TappedNetwork,
    variables: Any,
    x: Any,
    labels: Int[Array, " N"],
    targets: Float[Array, "N K"],
    *,
    cut: str,
    step_size: float | Float[Array, ""],
) -> Float[Array, "K K"]:
    """Which logit pulls which class: the first-order feature-space ΔR_c², split over the logits k.

      M[c, k] = -(2γ/N_c) Σ_{i in c} (p_ik - q_ik) T_{k,i},    T_{k,i} = d_i · J_i^T e_k

    All T_{k,i} at one cut come from a single ``jvp`` of the cloud half along d. The diagonal is ``correct``, the rest
    of a row sums to ``wrong``.

    Args:
      network: the tapped network, in evaluation mode.
      variables: its variables.
      x: a batch, ``(N, …)``.
      labels: class of each image, ``(N,)``.
      targets: q, ``(N, K)``.
      cut: where.
      step_size: γ.

    Returns:
      M, ``(K, K)``; rows of classes with fewer than two images are NaN.

    Raises:
      UserError: a cut that the network does not have.

    Example:
      >>> import flax.linen as nn
      >>> from gpz_jax.taps import tap
      >>> model, x, y = nn.Dense(2), jnp.array([[1.0], [3.0], [0.0], [1.0]]), jnp.array([0, 0, 1, 1])
      >>> variables = {"params": {"kernel": jnp.array([[1.0, -1.0]]), "bias": jnp.zeros(2)}}
      >>> m = interference(tap(model, variables, x), variables, x, y, jnp.eye(2)[y], cut="logits", step_size=0.1)
      >>> np.asarray(m).round(4)
      array([[-0.0117, -0.0117],
             [-0.019 , -0.019 ]], dtype=float32)
    """
    network.check(cut)
    logits, taps = network(variables, x)
    num_classes = targets.shape[1]
    z = taps[cut]
    d = deviations(z, labels, num_classes).reshape(z.shape).astype(z.dtype)
    _, t = jax.jvp(lambda z: network(variables, x, replace={cut: z})[0], (z,), (d,))  # (N, K): all T_{k,i}
    correct, wrong = residuals(logits, labels, targets)
    gamma = jnp.asarray(step_size, correct.dtype)
    return -2 * gamma * class_means((correct + wrong) * at_least_float32(t), labels, num_classes)


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
    rho = jnp.asarray(1 / len(labels), correct.dtype)
    return pull((correct * rho).astype(logits.dtype))[0], pull((wrong * rho).astype(logits.dtype))[0]


def parameter_terms(
    network: TappedNetwork,
    before: Any,
    after: Any,
    x: Any,
    labels: Int[Array | np.ndarray, " N"],
    parts: tuple[Any, Any],
    *,
    num_classes: int,
    step_size: float | Float[Array, ""],
) -> dict[str, ParameterTerms]:
    """What one step of training really did to R_c², and how much of it is of first order in which direction.

    Three tangents through one linearised forward pass, and two more forward passes.

    Args:
      network: the tapped network, in evaluation mode; of a Linen or an NNX model.
      before: its variables before the step.
      after: its variables after the step, by whatever optimiser.
      x: the images on which R_c² is measured, ``(N, …)``; not those of the training step, as a rule.
      labels: their classes, ``(N,)``.
      parts: what :func:`gradient_parts` made of the training batch at ``before``.
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
    params, rest = _split(before)
    moved, statistics = _split(after)

    def taps_at(params, rest):
        return network(_join(params, rest), x)[1]

    def against(part):
        return jax.tree.map(lambda g: -jnp.asarray(step_size, g.dtype) * g, part)

    taps, push = jax.linearize(lambda params: taps_at(params, rest), params)
    update = jax.tree.map(jnp.subtract, moved, params)
    # One after the other, not vmapped: a batch of tangents took a fifth longer on CPUs, and three times the memory.
    tangents = [push(direction) for direction in (*map(against, parts), update)]
    at_moved = taps_at(moved, rest)
    at_after = taps_at(moved, statistics) if jax.tree.leaves(statistics) else at_moved

    def terms(cut: str) -> ParameterTerms:
        d = deviations(taps[cut], labels, num_classes)
        correct, wrong, optimiser = (
            2 * class_means(jnp.sum(d * centred(_flat(dz[cut]), labels, num_classes), axis=1), labels, num_classes)
            for dz in tangents
        )
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
    return {
        cut: _change(deviations(old[cut], labels, num_classes), old[cut], new[cut], labels, num_classes)
        for cut in network.cuts
    }


def _change(d: Array, old: Array, new: Array, labels: Array, num_classes: int) -> Array:
    """ΔR_c² = (1/N_c) Σ (2 d_i + δ_i)·δ_i, δ the displacements less their class's mean.

    Not as a difference of two radii: it is small beside them, and float32 would lose it. Nor with the mean displacement
    taken off afterwards: biases move all images alike, and by more than they move them apart.
    """
    moved = centred(_flat(new) - _flat(old), labels, num_classes)
    return class_means(jnp.sum((2 * d + moved) * moved, axis=1), labels, num_classes)


@partial(jax.jit, static_argnames="network")
def readings(
    network: TappedNetwork,
    variables: Any,
    x: Any,
    labels: Int[Array, " N"],
    targets: Float[Array, "N K"],
) -> Readings:
    """Where the network stands on a batch: R_c², W and ρ of every cut, and what its outputs say. One forward pass.

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
    num_classes = targets.shape[1]
    count = _count(labels, num_classes)
    radius, within, rho = {}, {}, {}
    for cut in network.cuts:
        z = _flat(taps[cut])
        d = deviations(z, labels, num_classes)
        squares = jnp.sum(d * d, axis=1)
        radius[cut] = class_means(squares, labels, num_classes)
        within[cut] = jnp.mean(squares)
        total = jnp.mean(jnp.sum(jnp.square(z - jnp.mean(z, axis=0)), axis=1))
        rho[cut] = within[cut] / total
    p = jax.nn.softmax(at_least_float32(logits))
    own = jnp.take_along_axis(p - targets, labels[:, None], axis=1)[:, 0]  # p_c - q_c
    hits = (jnp.argmax(logits, axis=1).astype(labels.dtype) == labels).astype(p.dtype)
    outputs = [own, (own > 0).astype(p.dtype), output_entropy(logits), hits, cross_entropy(logits, targets)]
    sums = jax.ops.segment_sum(jnp.stack(outputs, axis=1), labels, num_segments=num_classes)
    means = jnp.where(count[:, None] > 0, sums / jnp.maximum(count, 1)[:, None].astype(sums.dtype), jnp.nan)
    return Readings(radius, within, rho, *means.T)


# Sums over classes ---------------------------------------------------------------------------------------------------
# By segment_sum, not by a matmul with the one-hot labels: its cost does not grow with K, and it rounds as float32 on
# every device.


def _count(labels: Array, num_classes: int) -> Array:
    return jax.ops.segment_sum(jnp.ones_like(labels), labels, num_segments=num_classes)


def class_means(values: Float[Array, "N ..."], labels: Int[Array, " N"], num_classes: int) -> Float[Array, "K ..."]:
    """(1/N_c) Σ_{i in c} of ``values``, ``(K, …)``; NaN for a class with fewer than two images.

    Example:
      >>> class_means(jnp.array([1.0, 3.0, 5.0]), jnp.array([0, 0, 1]), 2).tolist()
      [2.0, nan]
    """
    count = _count(labels, num_classes).reshape(-1, *[1] * (values.ndim - 1))
    sums = jax.ops.segment_sum(values, labels, num_segments=num_classes)
    return jnp.where(count > 1, sums / jnp.maximum(count, 1).astype(sums.dtype), jnp.nan)


def centred(values: Float[Array, "N D"], labels: Int[Array, " N"], num_classes: int) -> Float[Array, "N D"]:
    """``values`` less their class's mean.

    Example:
      >>> centred(jnp.array([[1.0], [3.0], [5.0]]), jnp.array([0, 0, 1]), 2).tolist()
      [[-1.0], [1.0], [0.0]]
    """
    count = jnp.maximum(_count(labels, num_classes), 1).astype(values.dtype)
    sums = jax.ops.segment_sum(values, labels, num_segments=num_classes)
    return values - (sums / count[:, None])[labels]


def deviations(z: Float[Array, "N ..."], labels: Int[Array, " N"], num_classes: int) -> Float[Array, "N D"]:
    """d_i = z_i - μ_c of representations of any shape, ``(N, D)``, at least float32."""
    # Twice: the mean of large z is itself rounded, and what is left of it would meet the common part of all g_i.
    return centred(centred(_flat(z), labels, num_classes), labels, num_classes)


def _flat(z: Array) -> Array:
    return at_least_float32(z.reshape(z.shape[0], -1))


# Variables and labels ------------------------------------------------------------------------------------------------


def _split(variables: Any) -> tuple[Any, Any]:
    """Parameters, and all else (statistics) that can be counted with, of a Linen or an NNX model."""
    from flax import nnx

    if isinstance(variables, nnx.State):
        params, rest = nnx.split_state(variables, nnx.Param, ...)
        return params, rest
    if "params" not in variables:
        raise UserError("the variables hold no 'params'; give all variables of a Linen model, or the nnx.State of one")
    return variables["params"], {name: value for name, value in variables.items() if name != "params"}


def _join(params: Any, rest: Any) -> Any:
    if isinstance(rest, dict):
        return {"params": params, **rest}
    from flax import nnx

    return nnx.merge_state(params, rest)


def missing_classes(labels: Int[Array | np.ndarray, " N"], num_classes: int) -> str | None:
    """One line on the classes with fewer than two images, with their counts; None if there are none.

    Example:
      >>> missing_classes(np.array([0, 0, 1]), 3)
      'class 1 has 1 image, class 2 has 0 images: a radius needs two, their terms are NaN'
    """
    count = np.bincount(np.asarray(labels), minlength=num_classes)
    few = [f"class {c} has {n} image{'' if n == 1 else 's'}" for c, n in enumerate(count) if n < 2]
    if not few:
        return None
    listed = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
    return f"{listed}: a radius needs two, their terms are NaN"


def warn_of_missing(labels: Int[Array | np.ndarray, " N"], num_classes: int) -> None:
    """Warn once of :func:`missing_classes`, unless the labels are traced and cannot be looked at.

    Raises:
      UserError: labels outside 0 … K - 1.
    """
    if isinstance(labels, Tracer):
        return
    labels = np.asarray(labels)
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise UserError(
            f"labels run from {labels.min()} to {labels.max()}; of {num_classes} classes they must lie in 0 to "
            f"{num_classes - 1}"
        )
    if said := missing_classes(labels, num_classes):
        warnings.warn(said, stacklevel=3)
