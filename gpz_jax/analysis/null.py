"""Null models: untrained copies of a network whose batch norms have seen the data, and nothing else has.

The raw radius falls steeply at some layers of networks that never learned anything, because a batch norm resets an
accumulated scale or the dimension changes. What training did is what is left beyond such a copy.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gpz_jax.errors import UserError


def null_variables(
    model: nn.Module, key: Array, batches: Iterable[Array], *, train_argument: str = "train"
) -> dict[str, Any]:
    """Fresh variables whose batch-norm statistics are those of the data (a calibrated, untrained network).

    Every batch norm keeps running = m · running + (1 - m) · batch, with a momentum m that only the model knows. Run
    from zeros it returns (1 - m) · batch; run from ones, m more; the difference gives m and thereby the batch's own
    statistics, which are averaged over the batches. So the result does not depend on m, nor on how many steps a
    running average needs to forget its start.

    Args:
      model: a Linen module with a ``train`` argument (or another, see below) that switches batch norm to batch
        statistics; without a ``batch_stats`` collection the fresh variables are returned as they are.
      key: of the initialisation.
      batches: inputs ``(N, …)`` as the model takes them; one is enough, more are averaged.
      train_argument: name of that keyword argument.

    Returns:
      The variables, with ``batch_stats`` calibrated.

    Example:
      >>> class Normed(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, train=False):
      ...         return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> null_variables(Normed(), jax.random.key(0), [x])["batch_stats"]["BatchNorm_0"]["mean"].round(4).tolist()
      [2.0]
    """
    init_key, noise_key = jax.random.split(key)
    variables, sums, count = None, None, 0
    for x in batches:
        if variables is None:
            variables = _init(init_key, x, model=model)
            if "batch_stats" not in variables:
                return dict(variables)
        noise = jax.random.fold_in(noise_key, count)
        found = _batch_statistics(variables, x, noise, model=model, train_argument=train_argument)
        sums = found if sums is None else jax.tree.map(jnp.add, sums, found)
        count += 1
    if variables is None:
        raise UserError("there are no images to calibrate the null model on")
    return {**variables, "batch_stats": jax.tree.map(lambda s: s / count, sums)}


@partial(jax.jit, static_argnames="model")
def _init(key, x, *, model):
    return model.init(key, x)


@partial(jax.jit, static_argnames=("model", "train_argument"))
def _batch_statistics(variables, x, key, *, model, train_argument):
    def run(value: float):
        stats = jax.tree.map(lambda s: jnp.full_like(s, value), variables["batch_stats"])
        train: Any = {train_argument: True}
        values = {**variables, "batch_stats": stats}
        _, new = model.apply(values, x, rngs={"dropout": key}, mutable=["batch_stats"], **train)
        return new["batch_stats"]

    zeros, ones = run(0.0), run(1.0)
    return jax.tree.map(lambda a, b: a / jnp.maximum(1 - (b - a), 1e-6), zeros, ones)
