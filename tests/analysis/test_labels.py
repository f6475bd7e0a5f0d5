"""Classes from predictions and from clusters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpz_jax.analysis.labels import cluster_labels, predicted_labels
from gpz_jax.errors import UserError
from gpz_jax.taps import Tap, tap


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        z = Tap(name="z")(nn.relu(nn.Dense(6)(x)))
        return nn.Dense(3)(z)


@pytest.fixture(scope="module")
def blobs():
    """A network, 50 points in three far blobs of 10, 15 and 25, and which blob each is of."""
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.repeat([0, 1, 2], [10, 15, 25]))
    x = (30 * np.eye(4)[truth] + rng.normal(size=(50, 4))).astype(np.float32)
    variables = Net().init(jax.random.key(4), x)
    return tap(Net(), variables, x), variables, x, truth


def batches_of(x, size):
    """Batches of one size, the last padded; their labels are nonsense, since none are to be looked at."""
    for start in range(0, len(x), size):
        rows = np.arange(start, start + size)
        yield x[rows % len(x)], np.full(size, -7, np.int32), rows < len(x)


@pytest.mark.parametrize("size", [50, 16, 1])
def test_predicted_labels(blobs, size):
    network, variables, x, _ = blobs
    found = predicted_labels(network, variables, batches_of(x, size))
    np.testing.assert_array_equal(found, jnp.argmax(Net().apply(variables, x), axis=1))
    assert found.dtype == np.int32
    assert len(set(found.tolist())) > 1


@pytest.mark.parametrize("size", [50, 16, 1])
def test_clusters_find_the_blobs(blobs, size):
    network, variables, x, truth = blobs
    passes = []

    def batches():
        passes.append(1)
        return batches_of(x, size)

    found = cluster_labels(network, variables, batches, 3, cut="z")
    assert len(passes) == 2
    assert found.shape == (50,)
    assert found.dtype == np.int32
    assert set(found.tolist()) == {0, 1, 2}
    assert len(set(zip(found.tolist(), truth.tolist(), strict=True))) == 3  # the same partition, names aside


def test_clusters_follow_from_the_seed(blobs):
    network, variables, x, _ = blobs
    one, two, other = (
        cluster_labels(network, variables, lambda: batches_of(x, 16), 6, cut="z", seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, two)
    assert np.any(one != other)


def test_clusters_that_cannot_be(blobs):
    network, variables, x, _ = blobs
    with pytest.raises(UserError, match="unknown cut 'zz'; did you mean 'z'"):
        cluster_labels(network, variables, lambda: batches_of(x, 16), 3, cut="zz")
    with pytest.raises(UserError, match="3 images cannot form 4 clusters; give more images"):
        cluster_labels(network, variables, lambda: batches_of(x[:3], 2), 4, cut="z")


def test_no_images_is_said(blobs):
    network, variables, _, _ = blobs
    with pytest.raises(UserError, match="no images to predict labels for"):
        predicted_labels(network, variables, [])
