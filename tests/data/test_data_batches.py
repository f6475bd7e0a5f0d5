import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gpz_jax.data.batches import denormalise, epoch_order, normalise, num_batches, padded_batches, pixels
from gpz_jax.data.splits import Split
from gpz_jax.errors import UserError


def numbered(n, *, labelled=True, stride=1):
    """A split whose image i holds the number of its place in the source, and so does its label."""
    total = n * stride + 3
    images = np.arange(total, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    order = np.random.default_rng(n).permutation(total)[:n].astype(np.int32)
    return Split(images, np.arange(total, dtype=np.int32) if labelled else None, order)


# Pixels.


def test_pixels_of_equal_size_are_a_division(key):
    images = jax.random.bits(key, (3, 8, 8, 3), jnp.uint8)
    out = pixels(images, 8)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, np.asarray(images, np.float64) / 255, atol=1e-7)


def bilinear(image, size):
    """Half-pixel centres, edges repeated; float64, one axis at a time."""
    for axis in (0, 1):
        n = image.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
        low = np.minimum(at.astype(int), n - 2)
        part = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        image = image.take(low, axis) * (1 - part) + image.take(low + 1, axis) * part
    return image


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 7, 3)])
def test_enlarging_is_bilinear(shape):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    expected = np.stack([bilinear(image / 255, 20) for image in images])
    np.testing.assert_allclose(pixels(images, 20), expected, atol=1e-6)


def test_shrinking_is_antialiased_as_in_pillow():
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    expected = Image.fromarray(image.astype(np.float32)).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(pixels(image[None, ..., None], 16)[0, ..., 0], np.asarray(expected) / 255, atol=1e-5)


def test_pixels_stay_within_0_and_1_and_jit():
    # From 28 to 20 the weights of the interpolation sum to 1.0000005.
    images = np.stack([np.full((28, 28, 3), v, np.uint8) for v in (0, 255)])
    out = jax.jit(lambda x: pixels(x, 20))(images)
    assert out.shape == (2, 20, 20, 3)
    assert float(out.max()) <= 1.0
    np.testing.assert_allclose(out[0], 0)
    np.testing.assert_allclose(out[1], 1, rtol=1e-6)


def test_bad_size():
    with pytest.raises(UserError, match="the image size is 0; it must be at least 1"):
        pixels(np.zeros((1, 2, 2, 1), np.uint8), 0)


# Normalisation.


def test_normalise_by_hand(key):
    x = jax.random.uniform(key, (2, 3, 3, 3))
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2023, 0.1994, 0.2010])
    np.testing.assert_allclose(normalise(x), (np.asarray(x, np.float64) - mean) / std, atol=1e-5)
    np.testing.assert_allclose(normalise(x[..., :1]), 2 * np.asarray(x[..., :1], np.float64) - 1, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_denormalise_undoes_it(key, channels):
    x = jax.random.uniform(key, (2, 3, 3, channels))
    np.testing.assert_allclose(denormalise(normalise(x)), x, atol=1e-6)
    assert normalise(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("function", [normalise, denormalise])
def test_other_channels_have_no_moments(function):
    with pytest.raises(UserError, match="images have 2 channels; 1 or 3 can be normalised"):
        function(jnp.zeros((1, 2, 2, 2)))


# Orders and batches.


def test_epoch_order_is_a_permutation_by_key_and_epoch(key):
    orders = [epoch_order(k, e, 50) for k in (key, jax.random.key(1)) for e in range(3)]
    for order in orders:
        assert order.dtype == jnp.int32
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert len({tuple(order.tolist()) for order in orders}) == 6
    np.testing.assert_array_equal(orders[2], epoch_order(key, 2, 50))


def test_epoch_order_under_jit_with_a_traced_epoch(key):
    jitted = jax.jit(epoch_order, static_argnums=2)
    np.testing.assert_array_equal(jitted(key, jnp.int32(4), 30), epoch_order(key, 4, 30))


@given(n=st.integers(1, 60), batch_size=st.integers(1, 70), labelled=st.booleans(), multiple=st.sampled_from([1, 2, 8]))
def test_every_member_once_in_order_in_batches_of_one_shape(n, batch_size, labelled, multiple):
    split = numbered(n, labelled=labelled, stride=2)
    batches = list(padded_batches(split, batch_size, multiple=multiple))
    size = int(np.ceil(min(n, batch_size) / multiple)) * multiple
    assert len(batches) == int(np.ceil(n / size))
    if multiple == 1:
        assert len(batches) == num_batches(n, batch_size)
    seen = []
    for images, labels, mask in batches:
        assert images.shape == (size, 2, 2, 1)
        assert (images.dtype, labels.dtype, mask.dtype) == (np.uint8, np.int32, np.bool_)
        assert labels.shape == mask.shape == (size,)
        seen.extend(images[mask, 0, 0, 0].tolist())
        assert (images[~mask, 0, 0, 0] == split.indices[0]).all()
        np.testing.assert_array_equal(labels, images[:, 0, 0, 0] if labelled else 0)
        assert (np.diff(mask.astype(int)) <= 0).all()  # padding comes last
    assert seen == split.indices.tolist()
    assert all(mask.all() for _, _, mask in batches[:-1])


def test_a_small_split_is_one_batch_without_padding():
    ((images, labels, mask),) = padded_batches(numbered(5), 128)
    assert images.shape == (5, 2, 2, 1)
    assert mask.all()
    assert labels.tolist() == numbered(5).indices.tolist()


def test_an_empty_split_has_no_batches():
    empty = Split(np.zeros((3, 2, 2, 1), np.uint8), None, np.zeros(0, np.int32))
    assert list(padded_batches(empty, 4)) == []
    assert num_batches(0, 4) == 0


@pytest.mark.parametrize("batch_size", [0, -3])
def test_bad_batch_size_is_told_at_the_call(batch_size):
    with pytest.raises(UserError, match=f"the batch size is {batch_size}; it must be at least 1"):
        padded_batches(numbered(5), batch_size)
