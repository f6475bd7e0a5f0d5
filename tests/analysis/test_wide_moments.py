"""Moments that would fill a device are dealt to all of them along D, and come to the same numbers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gpz_jax
from gpz_jax import memory, parallel
from gpz_jax.analysis import wide_moments
from gpz_jax.analysis.radius import deviations, measure, summarise


class Narrowing(nn.Module):
    """Cuts of 48, 12 and 3 numbers: two devices do not divide the last."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(48, name="wide")(x))
        return nn.Dense(3, name="head")(nn.Dense(12, name="narrow")(x))


@pytest.fixture(scope="module", params=[3, pytest.param(70, marks=pytest.mark.slow)])  # CPUs index with many classes
def given(request):
    rng = np.random.default_rng(0)
    x = (1000 + rng.normal(size=(64, 6))).astype(np.float32)
    labels = rng.integers(min(request.param, 8), size=64).astype(np.int32)
    variables = Narrowing().init(jax.random.key(0), x[:2])
    mesh = parallel.data_mesh()
    batches = [parallel.shard((x[i : i + 16], labels[i : i + 16], np.ones(16, bool)), mesh) for i in range(0, 64, 16)]
    return gpz_jax.tap(Narrowing(), variables, x[:2]), variables, batches, request.param


def found(network, variables, batches, classes):
    moments = measure(network, variables, batches, classes)
    sums = deviations(network, variables, batches, moments)
    return moments, jax.device_get(summarise(moments)), sums


@pytest.mark.thorough
def test_dealt_moments_are_those_of_every_device(given, monkeypatch):
    whole, summary, sums = found(*given)
    assert all(m.origin.is_fully_replicated for m in whole.values())
    monkeypatch.setattr(wide_moments, "WHOLE", 0.0)
    dealt, *others = found(*given)
    for cut, width in {"wide": 24, "narrow": 6, "head": 3}.items():
        for array in (dealt[cut].origin, dealt[cut].offset):
            assert {shard.data.shape[1] for shard in array.addressable_shards} == {width}
            assert len(array.sharding.device_set) == 2
        for name in ("count", "origin", "offset", "scatter"):
            mine, theirs = (jax.device_get(getattr(m[cut], name)) for m in (dealt, whole))
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=2e-6 * np.abs(theirs).max())
    for mine, theirs in zip(jax.tree.leaves(others), jax.tree.leaves([summary, sums]), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4)


def test_they_are_dealt_where_they_would_fill_a_device(monkeypatch):
    mesh, one = parallel.data_mesh(), jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    monkeypatch.setattr(memory, "available", lambda: 2 * 8 * 8 * 5 * 100)  # of both devices, who share it
    assert not wide_moments.are_dealt(5, 100, mesh)
    assert wide_moments.are_dealt(5, 101, mesh)
    assert not wide_moments.are_dealt(5, 10**9, one)
    assert not wide_moments.are_dealt(5, 10**9, None)


@pytest.mark.slow
def test_a_probe_is_the_same(given, monkeypatch):
    network, variables, batches, classes = given
    ask = {"nulls": [jax.tree.map(jnp.zeros_like, variables)], "key": jax.random.key(0), "bootstrap": 20}
    one = gpz_jax.probe_network(network, variables, batches, classes, **ask)
    monkeypatch.setattr(wide_moments, "WHOLE", 0.0)
    two = gpz_jax.probe_network(network, variables, batches, classes, **ask)
    for name in ("radius", "within", "rho", "feature_bound", "information_ceiling"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-4)
