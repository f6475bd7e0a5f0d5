"""Names, shapes and sizes of the target models, frozen."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from thinned import thinned

from gpz_jax.errors import UserError
from gpz_jax.models import CNN, MODELS, build
from gpz_jax.models.layers import PReLU, average_pool_4x4, conv, max_pool_2x2
from gpz_jax.taps import tap, tap_shapes, valid_cuts


def abstract(model, size, channels):
    x = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), x), x


def parameters(name, *, channels=3, num_classes=10):
    width = MODELS[name].paper_width
    variables, _ = abstract(build(name, num_classes=num_classes, width=width, size=64), 64, channels)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


#: At 64x64x3, K = 10. The release has no ResNet-50, IR-50 or IR-100: those counts are ours, frozen.
PARAMETERS = {
    "cnn": 1_963_056,
    "cnn6": 4_755_274,  # by hand: 555,328 in convolutions, 8192 x 512 + 512, 512 x 10 + 10
    "resnet18": 11_189_322,
    "resnet50": 23_582_282,
    "vgg16": 39_938_122,
    "vgg19": 45_250_378,
    "ir50": 34_929_354,
    "ir100": 56_484_170,
    "ir152": 62_091_978,
    "vit": 1_230_474,
}


@pytest.mark.parametrize("name", thinned(list(MODELS), ["cnn", "vgg19", "resnet18", "ir50", "vit"]))
def test_parameters_of_the_papers_networks(name):
    assert parameters(name) == PARAMETERS[name]


def test_parameters_of_the_cnn_for_grey_images_of_two_classes():
    assert parameters("cnn", channels=1, num_classes=2) == 1_633_696


def numbered(prefix, *shapes):
    return {f"{prefix}_{n}": shape for n, shape in enumerate(shapes, start=1)}


def vgg_layers(*convolutions):
    side, shapes = 64, []
    for count, channels in zip(convolutions, (64, 128, 256, 512, 512), strict=True):
        shapes += [(side, side, channels)] * (3 * count)  # convolution, batch norm, ReLU
        side //= 2
        shapes += [(side, side, channels)]  # pool
    return {**numbered("layer", *shapes), "fc_1": (4096,), "fc_2": (4096,)}


def ir_blocks(*units):
    stages = [[(64 >> s, 64 >> s, 32 << s)] * count for s, count in enumerate(units, start=1)]
    return {**numbered("block", (64, 64, 64), *itertools.chain(*stages)), "embedding": (512,)}


#: Names and shapes, in order. Renaming or moving one breaks run folders and scripts: change this only on purpose.
CUTS = {
    "cnn": {**numbered("block", (32, 32, 64), (16, 16, 128), (8, 8, 256), (4, 4, 512)), "fc": (50,)},
    "cnn6": {
        f"{name}{stage}{i}": (side := 64 >> (stage if name == "pool" else stage - 1), side, channels)
        for stage, channels in ((1, 64), (2, 128), (3, 128))
        for name, i in (("conv", "1"), ("ReLU", "1"), ("conv", "2"), ("ReLU", "2"), ("pool", ""))
    }
    | {"fc1": (512,)},
    "resnet18": numbered(
        "block",
        *3 * [(64, 64, 64)],  # the stem and the first stage
        *2 * [(32, 32, 128)],
        *2 * [(16, 16, 256)],
        *2 * [(8, 8, 512)],
        (2048,),
    ),
    "resnet50": numbered(
        "block",
        (64, 64, 64),
        *3 * [(64, 64, 256)],
        *4 * [(32, 32, 512)],
        *6 * [(16, 16, 1024)],
        *3 * [(8, 8, 2048)],
        (8192,),
    ),
    "vgg16": vgg_layers(2, 2, 3, 3, 3),
    "vgg19": vgg_layers(2, 2, 4, 4, 4),
    "ir50": ir_blocks(3, 4, 14, 3),
    "ir100": ir_blocks(3, 13, 30, 3),
    "ir152": ir_blocks(3, 8, 36, 3),
    "vit": {**numbered("block", *6 * [(257, 128)]), "class_token": (128,)},
}


@pytest.mark.parametrize("name", thinned(list(MODELS), ["cnn", "vgg19", "resnet18", "vit"]))
def test_cuts(name):
    model = build(name, num_classes=10, width=MODELS[name].paper_width, size=64)
    variables, x = abstract(model, 64, 3)
    network = tap(model, variables, x)
    assert tap_shapes(network, variables, x) == {**CUTS[name], "logits": (10,)}
    assert network.cuts == (*CUTS[name], "logits")


def test_entries_that_the_paper_counts():
    """Block 49 of IR-152 is the first at 4x4; VGG19 has 53 layers, VGG16 44; ResNet-18 ten entries."""
    blocks = list(CUTS["ir152"].values())
    assert blocks[48] == (4, 4, 512)
    assert blocks[47] == (8, 8, 256)
    assert [len(CUTS[name]) for name in ("ir152", "vgg19", "vgg16", "resnet18")] == [52, 55, 46, 10]
    values = [math.prod(CUTS["vgg19"][f"layer_{n}"]) for n in (26, 30)]
    assert values == [65_536, 32_768]


TINY = [(name, 32 if name == "vit" else 4) for name in MODELS]


@pytest.mark.parametrize(("name", "width"), thinned(TINY, [("cnn", 4), ("resnet50", 4), ("ir50", 4), ("vit", 32)]))
def test_every_cut_of_a_sibling_is_valid(name, width):
    """Nothing bypasses a cut of ours; also at the smallest size, one channel, and few layers."""
    model = build(name, num_classes=3, width=width, size=16, depth=1.0 if name.startswith("cnn") else 0.25)
    variables, x = abstract(model, 16, 1)
    network = tap(model, variables, x)
    assert all(valid_cuts(network, variables, x).values())
    assert tap_shapes(network, variables, x)["logits"] == (3,)


@pytest.mark.parametrize("size", thinned([16, 48, 80], [48]))
@pytest.mark.parametrize(("name", "width"), thinned(TINY, [("cnn", 4), ("resnet18", 4), ("vit", 32)]))
def test_every_multiple_of_16_is_a_size(name, width, size):
    variables, x = abstract(build(name, num_classes=3, width=width, size=size), size, 1)
    assert jax.eval_shape(build(name, num_classes=3, width=width, size=size).apply, variables, x).shape == (2, 3)


def test_depth_is_a_factor_on_every_stage():
    assert build("ir152", num_classes=3, width=4, size=16, depth=0.25).stages == (1, 2, 9, 1)
    assert build("vgg19", num_classes=3, width=4, size=16, depth=0.5).stages == (1, 1, 2, 2, 2)
    assert build("vit", num_classes=3, width=8, size=16, depth=2.0).blocks == 12
    assert build("resnet50", num_classes=3, width=4, size=16, depth=0.1).stages == (1, 1, 1, 1)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16", "ir50", "vit"])
def test_bfloat16_is_for_convolutions_and_attention_alone(name, key):
    width = dict(TINY)[name]
    depth = 0.25

    def trained(variables, x):
        model = build(name, num_classes=3, width=width, size=16, depth=depth, dtype="bfloat16")
        return model.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    model = build(name, num_classes=3, width=width, size=16, depth=depth, dtype="bfloat16")
    variables, x = abstract(model, 16, 1)
    logits, changed = jax.eval_shape(trained, variables, x)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, changed, logits))} == {"float32"}
    _, taps = jax.eval_shape(tap(model, variables, x), variables, x)
    first, last = next(iter(CUTS[name])), "logits"
    assert [taps[first].dtype.name, taps[last].dtype.name] == ["bfloat16", "float32"]


@pytest.mark.slow
def test_initialisation_is_pytorchs():
    """Kernels and biases fill ±1/sqrt(fan_in); Xavier in IR's trunk; zeros and 0.02 at the ViT's input."""

    def initialised(name, **options):
        model = build(name, num_classes=3, size=16, **options)
        return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))["params"]

    cnn = initialised("cnn", width=32)
    for layer, fan_in in (("conv_2", 9 * 32), ("head_1", 256)):
        for leaf in ("kernel", "bias"):
            found = np.abs(cnn[layer][leaf]) * math.sqrt(fan_in)
            assert 0.85 < found.max() <= 1, (layer, leaf)
    ir = initialised("ir50", width=8, depth=0.1)
    xavier = math.sqrt(6 / (9 * 8 + 9 * 8))
    assert 0.95 * xavier < np.abs(ir["unit_2"]["conv_1"]["kernel"]).max() <= xavier
    assert set(np.unique(ir["unit_2"]["prelu"]["negative_slope"])) == {0.25}
    vit = initialised("vit", width=32, depth=0.1)
    assert np.all(vit["first_token"] == 0)
    assert np.std(vit["positions"]) == pytest.approx(0.02, rel=0.1)
    joint = math.sqrt(6 / (3 * 32 + 32))  # Xavier of the joint (3d, d) matrix of query, key and value
    assert 0.95 * joint < np.abs(vit["transformer_1"]["attention"]["query"]["kernel"]).max() <= joint


def test_prelu_and_pools(key):
    x = jax.random.normal(key, (2, 5, 7, 3))
    slope = jnp.array([0.25, 0.5, -1.0])
    found = PReLU().apply({"params": {"negative_slope": slope}}, x)
    np.testing.assert_allclose(found, np.maximum(x, 0) + np.asarray(slope) * np.minimum(x, 0), rtol=1e-6)
    np.testing.assert_array_equal(max_pool_2x2(x), nn.max_pool(x, (2, 2), (2, 2)))  # the odd row and column are dropped
    np.testing.assert_array_equal(max_pool_2x2(x[:, :1, :1]), x[:, :1, :1])
    wide = jax.random.normal(key, (2, 9, 8, 3))
    windows = np.asarray(wide)[:, :8].reshape(2, 2, 4, 2, 4, 3)
    np.testing.assert_allclose(average_pool_4x4(wide), windows.mean(axis=(2, 4)), atol=1e-6)
    np.testing.assert_allclose(average_pool_4x4(x[:, :2, :2]), x[:, :2, :2].mean(axis=(1, 2), keepdims=True), atol=1e-6)


class Convolved(nn.Module):
    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x):
        return conv(x, 5, name="conv", dtype=x.dtype, kernel=self.kernel, stride=self.stride, bias=True)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_convolution_is_jaxs_with_its_gradients(kernel, stride, dtype, key):
    ours = Convolved(kernel, stride)
    theirs = nn.Conv(5, (kernel, kernel), strides=stride, padding=kernel // 2, dtype=dtype)
    x = jax.random.normal(key, (2, 7, 6, 3), dtype)
    parameters = ours.init(key, x)["params"]["conv"]

    def of(apply):
        def loss(parameters, x):
            y = apply(parameters, x)
            return jnp.float32(jnp.sin(y)).sum(), y

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(parameters, x)

    found = of(lambda parameters, x: ours.apply({"params": {"conv": parameters}}, x))
    wanted = of(lambda parameters, x: theirs.apply({"params": parameters}, x))
    tolerance = 1e-5 if dtype == "float32" else 0.05
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=tolerance, atol=tolerance)


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
    assert list(MODELS) == ["cnn", "cnn6", "resnet18", "resnet50", "vgg16", "vgg19", "ir50", "ir100", "ir152", "vit"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "cmn"}, "unknown model 'cmn'; did you mean 'cnn'"),
        ({"name": "transformer"}, "unknown model 'transformer'; known: cnn, cnn6, resnet18"),
        ({"name": "vgg", "width": 64}, "unknown model 'vgg'; did you mean 'vgg1"),
        ({"depth": 0.5}, "`depth` 0.5: the cnn has one depth"),
        ({"name": "ir50", "depth": 0.0}, "depth must be a positive factor .* got 0"),
        ({"name": "ir50", "depth": float("nan")}, "depth must be a positive factor .* got nan"),
        ({"name": "vit", "patch": 5}, "patch 5 must divide size 32"),
        ({"name": "vit", "patch": 0}, "patch 0 must divide"),
        ({"name": "vit", "width": 20}, "heads 8 must divide width 20"),
        ({"size": 40}, "size must be a positive multiple of 16.*got 40"),
        ({"size": 0}, "size .* got 0"),
        ({"size": -16}, "size .* got -16"),
        ({"width": 0}, "width must be at least 1, got 0"),
    ],
)
def test_impossible_models(changed, message):
    with pytest.raises(UserError, match=message):
        build(**{"name": "cnn", "num_classes": 10, "width": 16, "size": 32, **changed})
