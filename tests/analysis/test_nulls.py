"""Null models: the statistics are those of the data, whatever the model's momentum, and nothing else is learned."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from gpz_jax.analysis.nulls import null_variables
from gpz_jax.errors import UserError
from gpz_jax.taps import tap


class Normed(nn.Module):
    """Two batch norms, the second behind what the first makes; dropout behind both."""

    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, *, train=False):
        for n in (1, 2):
            x = nn.Conv(4, (3, 3), name=f"conv_{n}")(x)
            x = nn.BatchNorm(not train, momentum=self.momentum, name=f"norm_{n}")(x)
            x = nn.relu(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(3)(x.mean(axis=(1, 2)))


@pytest.fixture(scope="module")
def batches():
    keys = jax.random.split(jax.random.key(1), 3)
    return [2 + (n + 1) * jax.random.normal(key, (16, 6, 6, 1)) for n, key in enumerate(keys)]


def own_statistics(model, variables, x):
    """Mean and variance over the batch of what enters each norm, from a forward pass in training mode."""
    _, state = model.apply(
        variables, x, train=True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: isinstance(module, nn.Conv),
    )  # fmt: skip
    into = {f"norm_{n}": np.float64(state["intermediates"][f"conv_{n}"]["__call__"][0]) for n in (1, 2)}
    return {name: {"mean": z.mean(axis=(0, 1, 2)), "var": z.var(axis=(0, 1, 2))} for name, z in into.items()}


def assert_statistics(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), dict(found), expected)


@pytest.mark.parametrize("momentum", [0.9, 0.99, 0.999])
def test_statistics_are_the_batchs_own(batches, momentum):
    model = Normed(momentum)
    variables = null_variables(model, jax.random.key(0), batches[:1])
    assert_statistics(variables["batch_stats"], own_statistics(model, variables, batches[0]))


@pytest.mark.parametrize("scale", [1e-2, 2550.0])
def test_statistics_of_inputs_of_any_scale(batches, scale):
    """Pixels from 0 to 255, say, where the statistics are far from the 1 that running averages start from."""
    model = Normed(0.99)
    variables = null_variables(model, jax.random.key(0), [scale * batches[0]])
    assert_statistics(variables["batch_stats"], own_statistics(model, variables, scale * batches[0]))


def test_several_batches_are_averaged(batches):
    model = Normed()
    variables = null_variables(model, jax.random.key(0), iter(batches))
    each = [own_statistics(model, variables, x) for x in batches]
    assert_statistics(variables["batch_stats"], jax.tree.map(lambda *s: np.mean(s, axis=0), *each))


def test_normalised_activations_of_the_calibration_batch(batches):
    variables = null_variables(Normed(0.99), jax.random.key(0), batches[:1])
    network = tap(Normed(0.99), variables, batches[0], cuts=["norm_*"], train=False)
    _, taps = network(variables, batches[0])
    for cut in ("norm_1", "norm_2"):
        np.testing.assert_allclose(taps[cut].mean(axis=(0, 1, 2)), 0, atol=1e-3)
        np.testing.assert_allclose(taps[cut].var(axis=(0, 1, 2)), 1, atol=1e-3)


def test_parameters_are_fresh_ones_of_the_key(batches):
    one, two, other = (null_variables(Normed(), jax.random.key(seed), batches[:1]) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    kernels = [v["params"]["conv_1"]["kernel"] for v in (one, other)]
    assert not np.allclose(*kernels)
    again = null_variables(Normed(), jax.random.key(0), batches)  # the data change the statistics alone
    jax.tree.map(np.testing.assert_array_equal, one["params"], again["params"])


def test_a_model_without_batch_norm_is_only_initialised(batches):
    model = nn.Dense(3)
    variables = null_variables(model, jax.random.key(0), batches[:1])
    assert set(variables) == {"params"}
    assert variables["params"]["kernel"].shape == (1, 3)


def test_a_model_without_a_hash(batches):
    class Staged(nn.Module):
        widths: list

        @nn.compact
        def __call__(self, x, *, train=False):
            for width in self.widths:
                x = nn.BatchNorm(not train)(nn.Dense(width)(x))
            return x.mean(axis=(1, 2))

    variables = null_variables(Staged([2, 3]), jax.random.key(0), batches[:1])
    assert variables["batch_stats"]["BatchNorm_1"]["var"].shape == (3,)


def test_another_name_of_the_argument(batches):
    class Other(nn.Module):
        @nn.compact
        def __call__(self, x, *, training=False):
            return nn.BatchNorm(not training)(x)

    x = batches[0]
    variables = null_variables(Other(), jax.random.key(0), [x], train_argument="training")
    np.testing.assert_allclose(variables["batch_stats"]["BatchNorm_0"]["mean"], [x.mean()], rtol=1e-4)


def test_there_must_be_a_batch():
    with pytest.raises(UserError, match="no images to calibrate the null model on"):
        null_variables(Normed(), jax.random.key(0), [])


def test_a_model_whose_train_argument_has_no_default(key):
    class Strict(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.BatchNorm(use_running_average=not train)(nn.Dense(3)(x))

    x = jax.random.normal(key, (64, 5)) + 3
    variables = null_variables(Strict(), key, [x])
    out = Strict().apply(variables, x, train=False)
    np.testing.assert_allclose(np.mean(out, axis=0), 0, atol=1e-5)
