"""Attacks, floors and guarantees on two devices are those of one, within rounding, whatever divides."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import gpz_jax
from gpz_jax import parallel
from gpz_jax.analysis.nulls import null_variables
from gpz_jax.config import AttackSettings
from gpz_jax.defences import parse
from gpz_jax.inversion import floors, linear, protocol
from gpz_jax.inversion.attacking import exam_for, target_for
from gpz_jax.inversion.dealt_rows import Dealt
from gpz_jax.inversion.guarantees import guarantees_at
from gpz_jax.inversion.ladder import ATTACKS
from gpz_jax.inversion.likelihood import invert
from gpz_jax.inversion.metrics import as_pixels

KEY = jax.random.key(3)
SETTINGS = AttackSettings(
    epochs=2, decoder_width=4, batch_size=16, steps=6, likelihood_images=5, selection_fraction=0.15
)


class Small(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3, 3), (2, 2), name="conv")(x))
        return nn.Dense(3, name="head")(x.reshape(len(x), -1))


@functools.cache
def mesh_of(devices):
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


@pytest.fixture(scope="module")
def images():
    """301 images: a batch of 256, and one that two devices do not divide."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=301).astype(np.int32)
    return (rng.random((301, 8, 8, 1)) * 0.5 + 0.2 * labels[:, None, None, None]).astype(np.float32), labels


@pytest.fixture(scope="module")
def small(images):
    variables = Small().init(jax.random.key(0), images[0][:2])
    return gpz_jax.tap(Small(), variables, images[0][:2]), variables


@pytest.fixture
def given_devices(monkeypatch):
    """A function of a module's whose last argument's devices are noted."""

    def note(module, name):
        seen, function = [], getattr(module, name)

        def noted(*given, **more):
            seen.append(
                [len(leaf.sharding.device_set) for leaf in jax.tree.leaves(given) if isinstance(leaf, jax.Array)]
            )
            return function(*given, **more)

        monkeypatch.setattr(module, name, noted)
        return seen

    return note


def close(one, two, tolerance=1e-5):
    np.testing.assert_allclose(parallel.fetch(one), parallel.fetch(two), rtol=tolerance, atol=tolerance)


@pytest.mark.thorough
def test_attacks_on_two_devices_are_those_on_one(small, images):
    """The linear, a decoder, and the likelihood attack that begins where the better of both ended."""
    x, labels = images
    one, two = (
        gpz_jax.attack_cut(
            *small, "conv", (x[:270], labels[:270]), (x[270:], labels[270:]),
            attacks=("linear", "deconvolution", "likelihood"), key=KEY, settings=SETTINGS, defence="gaussian:0.3",
            mesh=mesh_of(devices),
        )
        for devices in (1, 2)
    )  # fmt: skip
    for attempt in one.attempts:
        other = two[attempt.attack]
        # Adam divides by what is nearly nothing in a trained decoder's first steps.
        tolerance = 1e-3 if attempt.attack == "deconvolution" else 2e-5
        assert other.test_images == attempt.test_images
        for of in ("scores", "floors"):
            close(*(np.array(list(getattr(a, of)._asdict().values()), float) for a in (attempt, other)), tolerance)
        close(attempt.reconstructions, other.reconstructions, tolerance)
        close(attempt.per_image.mse, other.per_image.mse, tolerance)
        close(attempt.training.losses, other.training.losses, tolerance)
        mine, theirs = ((a.accuracy, a.identified.top1) for a in (attempt, other))
        assert mine == pytest.approx(theirs, nan_ok=True)


def test_floors_and_predictions_on_two_devices_are_those_on_one(small, images):
    x, labels = images
    one, two = (
        exam_for(*small, x[:130], (x[130:], None), (x[:131], labels[:131]), pixels=as_pixels, mesh=mesh_of(devices))
        for devices in (1, 2)
    )
    np.testing.assert_array_equal(one.predicted, two.predicted)
    for mine, theirs in zip(one.guesses, two.guesses, strict=True):
        close(mine, theirs, 1e-6)
    for chunk in (7, 64, 1024):
        close(floors.class_means(x, labels, 3), floors.class_means(x, labels, 3, chunk=chunk, mesh=mesh_of(2)), 1e-6)


def test_guarantees_on_two_devices_are_those_on_one(small, images):
    x, labels = images
    one, two = (
        guarantees_at(
            *small, "head", (x[:77], labels[:77]), noise=0.1, key=KEY, probes=2, batch=32, mesh=mesh_of(devices)
        )
        for devices in (1, 2)
    )
    for name in ("mse_floor", "mse_floor_se", "information", "information_se", "nats", "mse_entropy"):
        assert getattr(one, name) == pytest.approx(getattr(two, name), rel=1e-4), name


def test_what_runs_over_images_is_spread(small, images, given_devices):
    x, _ = images
    seen = given_devices(protocol, "send")
    target = target_for(
        *small, "conv", x, x, key=KEY, pixels=as_pixels, white_box=None, settings=SETTINGS, mesh=mesh_of(2)
    )
    batches = list(target.batches(x, KEY))
    assert seen == [[2] * 5] * 2  # two kernels, two biases, the images
    assert [z.addressable_shards[0].data.shape[0] for _, z in batches] == [128, 45]  # 45 are on both
    fitted = ATTACKS["linear"].fit(target)
    assert fitted.reconstruct(batches[0][1], None).x.addressable_shards[0].data.shape == (128, 8, 8, 1)


@pytest.mark.parametrize("defence", ["gaussian:1", "laplace:1+dropout:0.5"])
def test_noise_depends_on_the_key_and_the_image_alone(small, images, defence, monkeypatch):
    x, _ = images
    received = []
    for devices, count in ((1, 301), (2, 301), (2, 259)):
        target = target_for(
            *small, "conv", x, x, key=KEY, pixels=as_pixels, white_box=None, settings=SETTINGS, defence=defence,
            mesh=mesh_of(devices),
        )  # fmt: skip
        received.append(np.concatenate([parallel.fetch(z) for _, z in target.batches(x[:count], KEY)]))
    close(received[0], received[1])
    close(received[1][:259], received[2])


@pytest.mark.parametrize("dimension", [5, 40])
def test_a_regression_on_dealt_rows_is_that_on_rows(dimension, monkeypatch):
    rng, mesh = np.random.default_rng(0), mesh_of(2)
    z, x = rng.normal(size=(31, dimension)).astype(np.float32), rng.random((31, 6)).astype(np.float32)
    monkeypatch.setattr(linear, "BLOCK", 4)
    monkeypatch.setattr(linear, "MOST", 26)

    def dealt(array):
        parts = [array[:10], array[10:20], array[20:]]
        return Dealt.of([(parallel.spread(part, mesh), len(part)) for part in parts], mesh)

    one = linear.fit_best(z, x, z[:9], x[:9])
    two = linear.fit_best(dealt(z), dealt(x), dealt(z[:9]), dealt(x[:9]))
    assert one[1] == two[1]
    assert list(one[2].values()) == pytest.approx(list(two[2].values()), rel=1e-3)
    for mine, theirs in zip(jax.tree.leaves(one[0]), jax.tree.leaves(two[0]), strict=True):
        close(mine, theirs, 1e-4)
    np.testing.assert_array_equal(dealt(z).whole(), z)


def test_an_inversion_of_three_on_two_devices_is_that_on_one():
    def send(scale, x):
        return scale * x

    x = jnp.asarray(np.random.default_rng(0).random((3, 2, 2, 1)), jnp.float32)
    one, two = (
        invert(send, 3.0, 3 * x, (2, 2, 1), key=KEY, steps=20, restarts=2, tv=0.1, mesh=mesh)
        for mesh in (None, mesh_of(2))
    )
    for mine, theirs in zip(one, two, strict=True):
        close(mine, theirs)


def test_a_null_model_is_calibrated_alike_on_two_devices():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, train=True):
            return nn.BatchNorm(use_running_average=not train)(nn.Dense(3)(x))

    x = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    one = null_variables(Normed(), KEY, [x])
    two = null_variables(Normed(), KEY, [parallel.shard(x, mesh_of(2))])
    jax.tree.map(close, one, two)


def test_a_defence_is_measured_alike_on_two_devices(small, images):
    references = [
        target_for(*small, "conv", images[0], images[0], key=KEY, pixels=as_pixels, white_box=None, settings=SETTINGS,
                   defence=parse("gaussian:1"), mesh=mesh_of(devices)).reference
        for devices in (1, 2)
    ]  # fmt: skip
    close(*(np.array(jax.device_get(reference)) for reference in references), 1e-6)
