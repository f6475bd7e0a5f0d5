"""Neural Vortex, feature space: how a step of gradient descent on z itself would move the within-class radius R_c².

Notation, beyond that of ``radius.py``: s_i = logits, p_i = softmax(s_i), q_i = soft target, r_i = p_i - q_i the loss
gradient in the logits, J_i = ds_i/dz_i (K x D) at one cut, γ = step size, d_i = z_i - μ_c.

The paper's account: every z_i moves by -γ g_i with g_i = J_i^T r_i. Exactly,

  ΔR_c² = -(2γ/N_c) Σ d_i·g_i + (γ²/N_c) Σ ||g_i - ḡ_c||²
        = correct + wrong + second,      correct: the part of g_i that class c's own logit sends back, r_ic J_i^T e_c

The coefficient of ``correct`` is r_ic = p_ic - 1 + α under label smoothing: it changes sign at p_ic = 1 - α. What a
step of the parameters really does to R_c² is told in ``parameter_space.py``.

Networks run in evaluation mode: with batch statistics the images would not be independent and J_i would mean nothing.
Sums are float32, or float64 where the network's numbers are.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from gpz_jax.analysis.class_sums import (
    centred,
    class_counts,
    class_means,
    deviations,
    of_class,
    one_of_class,
    sum_of_class,
    warn_of_missing,
)
from gpz_jax.errors import UserError
from gpz_jax.taps import TappedNetwork, check_real
from gpz_jax.targets import at_least_float32, check_labels, check_logits


class FeatureTerms(NamedTuple):
    """ΔR_c² of one cut as the feature-space step predicts it, ``(K,)`` each; squared units of z."""

    correct: Float[Array, " K"]
    wrong: Float[Array, " K"]
    second: Float[Array, " K"]


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

    Raises:
      UserError: labels that are no integers, not one an image, or outside 0 … K - 1; targets of another shape; a number
        γ that is not finite.

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
    check_batch(labels, targets, step_size)
    warn_of_missing(labels, targets.shape[1])
    found = _feature_terms(network, variables, x, jnp.asarray(labels), targets, step_size)
    return {cut: found[cut] for cut in network.cuts}


def check_batch(labels: Any, targets: Any, step_size: Any) -> None:
    """Raise :class:`UserError` for labels and targets not of one batch, or a step size that is not finite."""
    if jnp.ndim(labels) != 1 or jnp.ndim(targets) != 2 or len(labels) != len(targets):
        raise UserError(
            f"labels of shape {jnp.shape(labels)} and targets of shape {jnp.shape(targets)}: give (N,) and (N, K)"
        )
    check_labels(labels, targets.shape[1])
    if isinstance(step_size, int | float | np.number) and not math.isfinite(step_size):
        raise UserError(f"step_size must be a finite number, got {step_size:g}", field="step_size")


@partial(jax.jit, static_argnames="network")
def _feature_terms(network, variables, x, labels, targets, step_size) -> dict[str, FeatureTerms]:
    logits, taps, pull = _with_pullback(network, variables, x)
    correct, wrong = (pull(r.astype(logits.dtype)) for r in residuals(logits, labels, targets))
    num_classes = targets.shape[1]
    count = class_counts(labels, num_classes)
    n = jnp.maximum(count, 1)
    # Σ d·g as Σ z·g - N_c μ_c·ḡ_c, and Σ ||g - ḡ||² likewise: sums over classes are K x D, where d and g - ḡ would be
    # two more arrays of N x D. All of them as seen from an image of the class: in a network as initialised the g_i of a
    # class are all but equal, and their squares would cancel.
    of_images, of_means = [], []
    for cut in network.cuts:
        (z, g_correct, g_wrong), sums = zip(
            *(_seen_from_one(of[cut], labels, count) for of in (taps, correct, wrong)), strict=True
        )
        g = g_correct + g_wrong
        of_images.append(jnp.stack([jnp.sum(a * b, axis=1) for a, b in ((z, g_correct), (z, g_wrong), (g, g))]))
        z, g_correct, g_wrong = sums
        g = g_correct + g_wrong
        of_means.append(jnp.stack([jnp.sum(a * b, axis=1) for a, b in ((z, g_correct), (z, g_wrong), (g, g))]))
    of_images = sum_of_class(jnp.concatenate(of_images).T, labels, num_classes).T  # (3 L, K)
    n = n.astype(of_images.dtype)
    products = jnp.where(count > 1, of_images / n - jnp.concatenate(of_means) / n**2, jnp.nan)
    gamma = jnp.asarray(step_size, products.dtype)
    found = {}
    for i, cut in enumerate(network.cuts):
        correct_product, wrong_product, square = products[3 * i : 3 * i + 3]
        second = gamma**2 * jnp.maximum(square, 0)
        found[cut] = FeatureTerms(-2 * gamma * correct_product, -2 * gamma * wrong_product, second)
    return found


def _seen_from_one(values: Array, labels: Array, count: Array) -> tuple[Array, Array]:
    """Values as seen from one of their class, ``(N, D)``, and the sums of these over the classes, ``(K, D)``."""
    rows = values.reshape(len(values), -1)
    one = one_of_class(rows, labels, len(count))
    seen = at_least_float32(rows) - of_class(one, labels)
    if rows.dtype not in (jnp.bfloat16, jnp.float16):
        return seen, sum_of_class(seen, labels, len(count))
    # As they are: their float32 sum is finer than their dtype, and a float32 copy of N x D is not made.
    return seen, sum_of_class(rows, labels, len(count)) - count[:, None].astype(jnp.float32) * at_least_float32(one)


def _with_pullback(network, variables, x) -> tuple[Array, dict[str, Array], Callable[[Array], dict[str, Array]]]:
    """Logits, taps, and the map from a cotangent of the logits to J^T(cotangent) at every cut."""
    logits, shapes = jax.eval_shape(network, variables, x)
    check_logits(logits)
    check_real(shapes)
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
    check_logits(logits)
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
    check_batch(labels, targets, step_size)
    network.check(cut)
    logits, taps = network(variables, x)
    check_logits(logits)
    num_classes = targets.shape[1]
    z = taps[cut]
    check_real({cut: z})
    d = deviations(z, labels, num_classes).reshape(z.shape).astype(z.dtype)
    _, t = jax.jvp(lambda z: network(variables, x, replace={cut: z})[0], (z,), (d,))  # (N, K): all T_{k,i}
    correct, wrong = residuals(logits, labels, targets)
    gamma = jnp.asarray(step_size, correct.dtype)
    return -2 * gamma * class_means((correct + wrong) * at_least_float32(t), labels, num_classes)
