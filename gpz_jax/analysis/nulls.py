"""Null models: untrained copies of a network whose batch norms have seen the data, and nothing else has.

The raw radius falls steeply at some cuts of networks that never learned anything, because a batch norm resets an
accumulated scale or the dimension changes. What training did is what is left beyond such a copy.
"""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpz_jax import parallel
from gpz_jax.errors import UserError
from gpz_jax.taps import TappedNetwork
from gpz_jax.taps.arguments import hashable, values_of


def null_variables(
    model: nn.Module,
    key: Array,
    batches: Iterable[Any],
    *,
    train_argument: str = "train",
    fresh: Callable[[Array], Any] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Fresh variables whose batch-norm statistics are those of the data (a calibrated, untrained network).

    Every batch norm keeps running = m · running + (1 - m) · batch, with a momentum m that only the model knows. Run
    from zeros it returns (1 - m) · batch; run from v, m · v more; the difference gives m and thereby the batch's own
    statistics, which are averaged over the batches. So the result does not depend on m, nor on how many steps a
    running average needs to forget its start.

    Args:
      model: a Linen module with a ``train`` argument (or another, see below) that switches batch norm to batch
        statistics; without a ``batch_stats`` collection the fresh variables are returned as they are.
      key: of the initialisation.
      batches: inputs ``(N, …)`` as the model takes them, or pytrees of them; one is enough, more are averaged.
      train_argument: name of that keyword argument.
      fresh: ``fresh(key)``, the model's fresh variables, where a program for them is at hand already; by default the
        model is asked for them on the first batch.
      **arguments: further ones of the model's ``__call__``, as for :func:`gpz_jax.tap`.

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
    init_key, noise_key = _two_keys(key)
    static = TappedNetwork(
        model, (), arguments=hashable(arguments)
    )  # has a hash even where the model has none: ResNet(stage_sizes=[3, 4])
    variables, sums, count = None, None, 0
    for x in batches:
        if variables is None:
            takes_train = train_argument in inspect.signature(type(model).__call__).parameters
            takes_train = takes_train and train_argument not in arguments
            of_train = train_argument if takes_train else None
            variables = fresh(init_key) if fresh else _init(init_key, x, network=static, train_argument=of_train)
            if "batch_stats" not in variables:
                return dict(variables)
            variables = parallel.beside(variables, x)
        noise = (noise_key, np.uint32(count))
        found = _batch_statistics(variables, x, noise, network=static, train_argument=train_argument)
        sums = parallel.in_turn(found if sums is None else _added(sums, found))
        count += 1
    if variables is None:
        raise UserError("there are no images to calibrate the null model on")
    return {**variables, "batch_stats": _divided(sums, np.float32(count))}


@jax.jit
def _two_keys(key):
    init_key, noise_key = jax.random.split(key)
    return init_key, noise_key


@jax.jit
def _added(a, b):
    return jax.tree.map(jnp.add, a, b)


@jax.jit
def _divided(sums, count):
    return jax.tree.map(lambda s: s / count.astype(s.dtype), sums)


@partial(jax.jit, static_argnames=("network", "train_argument"))
def _init(key, x, *, network, train_argument):
    train: Any = {} if train_argument is None else {train_argument: False}
    return network.model.init(key, x, **values_of(network.arguments), **train)


@partial(jax.jit, static_argnames=("network", "train_argument"))
def _batch_statistics(variables, x, noise, *, network, train_argument):
    key = jax.random.fold_in(*noise)

    def run(value: float):
        stats = jax.tree.map(lambda s: jnp.full_like(s, value), variables["batch_stats"])
        train: Any = {**values_of(network.arguments), train_argument: True}
        values = {**variables, "batch_stats": stats}
        _, new = network.model.apply(values, x, rngs={"dropout": key}, mutable=["batch_stats"], **train)
        return new["batch_stats"]

    far = 2.0**30  # from 1, say, m would drown in the rounding of statistics in the thousands
    near, distant = run(0.0), run(far)
    return jax.tree.map(lambda a, b: a / jnp.maximum(1 - (b - a) / far, 1e-6), near, distant)
