"""Soft targets q (one-hot, LS+ and LS-) and their cross-entropy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer
from jaxtyping import Float, Int

from gpz_jax.errors import UserError


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x`` in the dtype that sums are taken in: float32 for anything narrower, float64 stays.

    Example:
      >>> at_least_float32(jnp.ones(2, jnp.bfloat16)).dtype
      dtype('float32')
    """
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def check_labels(labels: Int[Array | np.ndarray, "..."], num_classes: int) -> None:
    """Raise :class:`UserError` for labels outside 0 … K - 1, unless they are traced and cannot be looked at.

    >>> check_labels(np.array([1, 2, 3]), 3)
    Traceback (most recent call last):
    ...
    gpz_jax.errors.UserError: labels run from 1 to 3; of 3 classes they must lie in 0 to 2: subtract 1 if they count ...
    """
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise UserError(f"labels of dtype {labels.dtype}: give integers, 0 to {num_classes - 1}")
    if isinstance(labels, Tracer) or not np.size(labels):
        return
    labels = np.asarray(labels)  # on the host, also inside a jit that they are constants of
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < num_classes:
        from_one = low == 1 and high == num_classes
        raise UserError(
            f"labels run from {low} to {high}; of {num_classes} classes they must lie in 0 to {num_classes - 1}"
            + (": subtract 1 if they count from 1" if from_one else "")
        )


def check_logits(logits: Any) -> None:
    """Raise :class:`UserError` unless the logits, or their shapes, are ``(N, K)``, one class an input.

    >>> check_logits(jnp.zeros((2, 5, 3)))
    Traceback (most recent call last):
    ...
    gpz_jax.errors.UserError: the logits have shape (2, 5, 3), as of a sequence; this needs (N, K): pick the logits ...
    """
    if logits.ndim != 2:
        raise UserError(
            f"the logits have shape {logits.shape}, as of a sequence; this needs (N, K): pick the logits of one token "
            "with tap(…, output=lambda out: out[:, 0])"
        )


def check_alpha(alpha: Any) -> None:
    """Raise :class:`UserError` for a smoothing that is no finite number below 1, unless it is an array on a device.

    >>> check_alpha(1.0)
    Traceback (most recent call last):
    ...
    gpz_jax.errors.UserError: alpha must be a finite number below 1, got 1
    """
    if isinstance(alpha, int | float | np.number | np.ndarray) and not np.all(np.isfinite(alpha) & (alpha < 1)):
        raise UserError(f"alpha must be a finite number below 1, got {np.max(alpha):g}")


def soft_targets(
    labels: Int[Array | np.ndarray, " N"], num_classes: int, alpha: float | Float[Array, ""]
) -> Float[Array, "N K"]:
    """Label smoothing as the paper means it: q_c = 1 - α for the true class c, q_k = α/(K - 1) for the others.

    α = 0 is one-hot, α > 0 is LS+, α < 0 is LS- (reverse smoothing: q_c > 1, q_k < 0); the targets always sum to 1.
    The loss gradient in the logits is p - q, so the correct-class coefficient is p_c - 1 + α: it changes sign at
    p_c = 1 - α. ``optax.smooth_labels`` spreads α over all K classes (q_c = 1 - α + α/K) and is *not* this.

    Args:
      labels: class of each image, ``(N,)``, in 0 … K - 1.
      num_classes: K, at least 2.
      alpha: α < 1; may be traced.

    Returns:
      q, ``(N, K)``, float32 (float64 if α is: a Python number under ``jax.enable_x64``).

    Raises:
      UserError: labels outside 0 … K - 1, which would give targets of 0 or of no class, where they are not traced;
        labels that are no integers; fewer than two classes; a number α of 1 or more, or not finite.

    Example:
      >>> soft_targets(jnp.array([1]), 4, 0.3).tolist()
      [[0.10000000149011612, 0.699999988079071, 0.10000000149011612, 0.10000000149011612]]
    """
    if num_classes < 2:
        raise UserError(f"soft targets of {num_classes} classes: give at least 2", field="num_classes")
    check_labels(labels, num_classes)
    check_alpha(alpha)
    alpha = jnp.asarray(alpha, getattr(alpha, "dtype", jnp.result_type(float)))
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=alpha.dtype)
    return one_hot * (1 - alpha) + (1 - one_hot) * (alpha / (num_classes - 1))


def cross_entropy(logits: Float[Array, "N K"], targets: Float[Array, "N K"]) -> Float[Array, " N"]:
    """-Σ_k q_k ln p_k per image, nats. For α < 0 it has no lower bound: the logits can grow without limit.

    Example:
      >>> q = soft_targets(jnp.array([0]), 2, 0.0)
      >>> round(float(cross_entropy(jnp.zeros((1, 2)), q)[0]), 4)  # ln 2
      0.6931
    """
    return optax.softmax_cross_entropy(at_least_float32(logits), targets)


def output_entropy(logits: Float[Array, "N K"]) -> Float[Array, " N"]:
    """H(p) = -Σ_k p_k ln p_k of the softmax output per image, nats.

    Example:
      >>> round(float(output_entropy(jnp.zeros((1, 10)))[0]), 4)  # ln 10
      2.3026
    """
    log_p = jax.nn.log_softmax(at_least_float32(logits))
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
