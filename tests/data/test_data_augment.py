import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from thinned import thinned

from gpz_jax.data.augment import augment, resolve_kind
from gpz_jax.errors import UserError


@pytest.fixture
def images():
    return jnp.asarray(np.random.default_rng(0).random((16, 6, 5, 3)), jnp.float32)


def test_kinds_by_channels():
    assert resolve_kind("auto", 3) == "colour"
    assert resolve_kind("auto", 1) == "none"
    assert resolve_kind("grey", 3) == "grey"
    assert resolve_kind("none", 3) == "none"


def test_bad_kinds(key):
    with pytest.raises(UserError, match="unknown augmentation 'color'; did you mean 'colour'"):
        resolve_kind("color", 3)
    with pytest.raises(UserError, match="'colour' needs 3 channels, the images have 1; use 'grey' or 'none'"):
        resolve_kind("colour", 1)
    with pytest.raises(UserError, match="'colour' needs 3 channels"):
        augment(key, jnp.zeros((2, 3, 3, 1)), kind="colour")


def test_none_returns_the_input_untouched(key):
    wild = jnp.full((2, 3, 3, 1), 7.0)
    assert augment(key, wild, kind="none") is wild
    assert augment(key, wild, kind="auto") is wild


@pytest.mark.parametrize("kind", thinned(["grey", "colour"], ["colour"]))
def test_twins_in_a_batch_part_ways(key, images, kind):
    out = augment(key, jnp.stack([images[0]] * 8), kind=kind)
    for i in range(8):
        for j in range(i):
            assert not jnp.allclose(out[i], out[j], atol=1e-4)


@pytest.mark.parametrize("kind", thinned(["grey", "colour"], ["colour"]))
def test_a_batch_equals_its_images_one_at_a_time(key, images, kind):
    # By hand from dm_pix's public functions, in a Python loop with each image's own key.
    expected = []
    for k, image in zip(jax.random.split(key, len(images)), images, strict=True):
        flip, saturation, hue, brightness, contrast = jax.random.split(k, 5)
        image = image[:, ::-1] if jax.random.bernoulli(flip) else image
        if kind == "colour":
            with jax.numpy_dtype_promotion("standard"):
                image = dm_pix.adjust_saturation(image, jax.random.uniform(saturation, minval=0.8, maxval=1.2))
                image = dm_pix.adjust_hue(image, jax.random.uniform(hue, minval=-0.2, maxval=0.2))
        image = image + jax.random.uniform(brightness, minval=-0.2, maxval=0.2)
        mean = image.mean((0, 1))
        image = mean + jax.random.uniform(contrast, minval=0.8, maxval=1.2) * (image - mean)
        expected.append(np.clip(image, 0, 1))
    np.testing.assert_allclose(augment(key, images, kind=kind), expected, atol=1e-5)


@pytest.mark.parametrize("kind", thinned(["grey", "colour"], ["colour"]))
def test_range_and_jit(key, images, kind):
    extremes = jnp.concatenate([images, jnp.zeros_like(images), jnp.ones_like(images)])
    out = augment(key, extremes, kind=kind)
    assert out.dtype == jnp.float32
    assert out.min() == 0.0  # some were pushed out and clipped
    assert out.max() == 1.0
    jitted = jax.jit(lambda k, x: augment(k, x, kind=kind))(key, extremes)
    np.testing.assert_allclose(jitted, out, atol=1e-5)
    assert not jnp.allclose(augment(jax.random.key(1), extremes, kind=kind), out, atol=1e-3)


def test_half_are_flipped(key):
    # A ramp keeps its direction under brightness and contrast, and shows a flip by its sign.
    ramp = jnp.broadcast_to(jnp.linspace(0.3, 0.7, 8)[None, None, :, None], (2_000, 2, 8, 1))
    out = augment(key, ramp, kind="grey")
    flipped = float((out[:, 0, 0, 0] > out[:, 0, -1, 0]).mean())
    assert abs(flipped - 0.5) < 4 * 0.5 / np.sqrt(2_000)  # four standard errors


def test_brightness_and_contrast_spans(key):
    # Small steps around 0.5 are never clipped, so mean and spread show the two draws exactly.
    checks = jnp.broadcast_to(jnp.array([0.6, 0.4, 0.6, 0.4])[:, None], (2_000, 2, 4, 1))
    out = augment(key, checks, kind="grey")
    shift, factor = out.mean((1, 2, 3)) - 0.5, out.std((1, 2, 3)) / 0.1
    for draws, low, high in ((shift, -0.2, 0.2), (factor, 0.8, 1.2)):
        assert low - 1e-5 <= draws.min() < low + 0.01
        assert high - 0.01 < draws.max() <= high + 1e-5
    assert abs(np.corrcoef(shift, factor)[0, 1]) < 0.1


@pytest.mark.slow
def test_colour_turns_the_hue_and_leaves_grey_pixels_grey(key):
    red = jnp.broadcast_to(jnp.array([0.6, 0.3, 0.3]), (64, 2, 2, 3))
    out = augment(key, red, kind="colour")
    assert float((out.max(-1) - out.min(-1)).min()) > 0.1
    assert len({int(i) for i in out[:, 0, 0].argmax(-1)}) > 1  # within 72 degrees of red, past 60 to green or blue
    grey = augment(key, jnp.full((8, 2, 2, 3), 0.5), kind="colour")
    np.testing.assert_allclose(grey[..., 0], grey[..., 2], atol=1e-6)
