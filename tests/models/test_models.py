"""Names, shapes and sizes of the target models, frozen."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpz_jax.errors import UserError
from gpz_jax.models import CNN, MODELS, build
from gpz_jax.models.layers import max_pool_2x2
from gpz_jax.taps import tap, tap_shapes, valid_cuts


def abstract(model, size, channels):
    x = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), x), x


@pytest.mark.parametrize(("channels", "num_classes", "expected"), [(3, 10, 1_963_056), (1, 2, 1_633_696)])
def test_parameters_of_the_papers_network(channels, num_classes, expected):
    variables, _ = abstract(build("cnn", num_classes=num_classes, width=64, size=64), 64, channels)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == expected


def test_cuts_of_the_cnn():
    """Renaming or moving one breaks run folders and scripts: change this list only on purpose."""
    model = build("cnn", num_classes=10, width=64, size=64)
    variables, x = abstract(model, 64, 3)
    network = tap(model, variables, x)
    assert network.cuts == ("block_1", "block_2", "block_3", "block_4", "fc", "logits")
    assert tap_shapes(network, variables, x) == {
        "block_1": (32, 32, 64),
        "block_2": (16, 16, 128),
        "block_3": (8, 8, 256),
        "block_4": (4, 4, 512),
        "fc": (50,),
        "logits": (10,),
    }
    assert all(valid_cuts(network, variables, x).values())


@pytest.fixture(scope="module")
def small():
    model = build("cnn", num_classes=3, width=4, size=16)
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.normal(size=(8, 16, 16, 1)))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    # Random, but without compiling the initialisation, which takes longer than all tests of it.
    variables = jax.tree.map(
        lambda s: jnp.float32(rng.uniform(0.1, 0.4, s.shape) * rng.choice([-1, 1], s.shape)), shapes
    )
    return model, {**variables, "batch_stats": jax.tree.map(jnp.abs, variables["batch_stats"])}, x


def test_dropout_and_batch_statistics_are_for_training_only(small):
    model, variables, x = small
    assert jax.eval_shape(model.apply, variables, x).shape == (8, 3)  # asks for no key

    @jax.jit
    def trained(key):
        return model.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    one, other = trained(jax.random.key(1)), trained(jax.random.key(2))
    assert not np.allclose(one[0], other[0])
    assert not np.allclose(one[1]["batch_stats"]["norm_1"]["mean"], variables["batch_stats"]["norm_1"]["mean"])


def test_bfloat16_is_for_the_convolutions_alone(small, key):
    wide, variables, x = small
    narrow = build("cnn", num_classes=3, width=4, size=16, dtype="bfloat16")
    fresh = jax.eval_shape(narrow.init, key, x)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(fresh)} == {"float32"}

    def trained(variables):
        return narrow.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    logits, changed = jax.eval_shape(trained, variables)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(changed)} == {"float32"}
    logits, taps = jax.jit(tap(narrow, variables, x))(variables, x)
    assert [taps[cut].dtype.name for cut in ("block_1", "block_4", "fc")] == ["bfloat16", "bfloat16", "float32"]
    np.testing.assert_allclose(logits, jax.jit(wide.apply)(variables, x), atol=0.05)


def test_max_pool(key):
    shape = (2, 4, 6, 3)
    x = jax.random.permutation(key, jnp.arange(math.prod(shape), dtype=jnp.float32)).reshape(shape)  # no ties
    ours, theirs = max_pool_2x2, lambda x: nn.max_pool(x, (2, 2), (2, 2))
    np.testing.assert_array_equal(ours(x), theirs(x))
    weight = jnp.arange(1.0, 1.0 + ours(x).size).reshape(ours(x).shape)
    gradients = [jax.grad(lambda x, f=f: jnp.sum(weight * f(x)))(x) for f in (ours, theirs)]
    np.testing.assert_array_equal(*gradients)


def test_build_is_the_table():
    assert build("cnn", num_classes=7, width=3, size=48) == CNN(7, 3)
    assert list(MODELS) == ["cnn", "resnet18", "resnet50", "vgg16", "vgg19", "ir50", "ir100", "ir152", "vit"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "cmn"}, "unknown model 'cmn'; did you mean 'cnn'"),
        ({"name": "transformer"}, "unknown model 'transformer'; known: cnn"),
        ({"size": 40}, "--size must be a positive multiple of 16.*got 40"),
        ({"size": 0}, "--size .* got 0"),
        ({"size": -16}, "--size .* got -16"),
        ({"width": 0}, "--width must be at least 1, got 0"),
    ],
)
def test_impossible_models(changed, message):
    with pytest.raises(UserError, match=message):
        build(**{"name": "cnn", "num_classes": 10, "width": 16, "size": 32, **changed})
