"""The classifier's loop: it learns, it counts right, and it is the same on one device and on two."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs  # noqa: F401  (shares compiled programs between processes)
from jax.sharding import AxisType

from gpz_jax import memory, parallel
from gpz_jax.config import Config, DataConfig, ModelConfig, TrainingConfig, resolve
from gpz_jax.data.batches import epoch_order, normalise, pixels
from gpz_jax.data.sources import load
from gpz_jax.data.splits import Split, make_splits
from gpz_jax.errors import UserError
from gpz_jax.training import classifier, sweep


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        yield


CONFIG = resolve(
    Config(
        data=DataConfig(size=16),
        model=ModelConfig(width=4, dtype="float32"),
        training=TrainingConfig(epochs=2),
    )
)
RECIPE = classifier.recipe_for(CONFIG, 10, 1)


def mesh_of(devices):
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


@pytest.fixture(scope="module")
def parts():
    return make_splits(load("digits"), seed=0)


def fresh():
    return classifier.init_state(jax.random.key(0), RECIPE, 1)


def some_steps(train, mesh, steps=3):
    images, labels = parallel.replicate(train.take(), mesh)
    state, totals = parallel.replicate((fresh(), classifier.Totals.zero()), mesh)
    order = epoch_order(jax.random.key(1), 0, len(train))
    for index in range(steps):
        state, totals = classifier.train_step(
            state, totals, images, labels, order, jnp.int32(index), jnp.float32(0.3), jax.random.key(2),
            recipe=RECIPE, mesh=mesh,
        )  # fmt: skip
    return jax.device_get((state, totals))


def fit(config, parts, mesh, kept):
    return sweep.fit(
        [fresh()],
        recipe=classifier.recipe_for(config, 10, 1),
        configs=[config],
        train=[parts.train],
        validation=[parts.validation],
        mesh=mesh,
        after_epoch=lambda epoch, states, measured: kept.append((epoch, *measured)),
    )


def training(**changed):
    return dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, **changed))


def test_loss_falls_and_accuracy_rises_on_digits(parts):
    kept = []
    fit(training(epochs=6), parts, mesh_of(2), kept)
    assert [epoch for epoch, _ in kept] == [1, 2, 3, 4, 5, 6]
    first, *_, last = (measured for _, measured in kept)
    assert last["train_loss"] < 0.6 * first["train_loss"]
    assert last["validation_accuracy"] > 0.5  # chance is 0.1
    assert set(first) >= {"alpha", "lr", "gradient_norm", "train_output_entropy", "validation_output_entropy"}


@pytest.mark.parametrize("alpha", [0.0, 0.3, -0.05])
def test_evaluate_equals_a_plain_computation(parts, alpha):
    state = fresh()
    mesh = mesh_of(2)
    found = classifier.evaluate(state.variables, parts.test, alpha, recipe=RECIPE, mesh=mesh)

    images, labels = parts.test.take()
    x = normalise(pixels(images, 16))
    logits = np.asarray(RECIPE.model.apply(state.variables, x, train=False), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    q = np.full(log_p.shape, alpha / 9)
    q[np.arange(len(q)), labels] = 1 - alpha
    assert len(labels) % 256  # the last batch is padded
    np.testing.assert_allclose(found["loss"], -(q * log_p).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], (logits.argmax(1) == labels).mean(), rtol=1e-6)
    np.testing.assert_allclose(found["output_entropy"], -(np.exp(log_p) * log_p).sum(1).mean(), rtol=1e-5)


def test_padding_does_not_count(parts):
    test, mesh = parts.test, mesh_of(2)
    state = fresh()

    def sums(members):
        part = Split(test.images, test.labels, members)
        means = classifier.evaluate(state.variables, part, 0.0, recipe=RECIPE, mesh=mesh)
        return {name: value * len(members) for name, value in means.items()}

    whole = sums(test.indices[:300])  # one full batch and one padded with 212 copies of the first image
    parts_of_it = [sums(test.indices[:256]), sums(test.indices[256:300])]
    for name, value in whole.items():
        np.testing.assert_allclose(value, sum(part[name] for part in parts_of_it), rtol=1e-5)


@pytest.mark.slow
def test_one_device_and_two_give_the_same_state(parts):
    one, two = some_steps(parts.train, mesh_of(1)), some_steps(parts.train, mesh_of(2))
    compared = 0
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(two), strict=True):
        name = jax.tree_util.keystr(path)
        # A bias before a batch norm has gradient 0, which Adam turns into steps of lr by the sign of its rounding; the
        # batch norm takes it out again with its mean.
        if ("conv" in name and "bias" in name) or ("norm" in name and "mean" in name):
            continue
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=name)
        compared += 1
    assert compared > 40


def test_train_step_is_deterministic_and_changes_everything_it_should(parts):
    first, again = (some_steps(parts.train, mesh_of(2), steps=2)[0] for _ in range(2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    begun = jax.device_get(fresh())
    assert first.step == 2
    for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(begun.params), strict=True):
        assert np.any(a != b)


def test_the_first_bad_step_is_named_and_no_state_after_it_is_handed_on(parts):
    kept = []
    config = training(ls=-1e30, warmup_epochs=1)
    steps = len(parts.train) // 128
    with pytest.raises(UserError, match=rf"not finite at step {steps} \(epoch 2, alpha -1e\+30.*warmup_epochs"):
        fit(config, parts, mesh_of(2), kept)
    assert [epoch for epoch, _ in kept] == [1]
    assert np.isfinite(kept[0][1]["validation_loss"])


def test_an_update_that_only_the_validation_loss_shows_to_be_bad_is_found(parts, monkeypatch):
    honest = classifier.evaluate
    spoilt = lambda *args, **options: {**honest(*args, **options), "loss": float("nan")}  # noqa: E731
    monkeypatch.setattr(classifier, "evaluate", spoilt)
    kept = []
    with pytest.raises(UserError, match=f"not finite at step {len(parts.train) // 128 - 1} "):
        fit(CONFIG, parts, mesh_of(2), kept)
    assert not kept


def test_colour_is_augmented_by_default_and_grey_is_not():
    assert classifier.recipe_for(CONFIG, 10, 3).augment == "colour"
    assert classifier.recipe_for(CONFIG, 10, 1).augment == "none"


def test_batch_sizes_that_cannot_be(parts):
    with pytest.raises(UserError, match=r"^batch_size 63 must be a multiple of the 2 devices"):
        fit(training(batch_size=63), parts, mesh_of(2), [])
    with pytest.raises(UserError, match=rf"^batch_size 1024 is larger than the training split \({len(parts.train)} "):
        fit(training(batch_size=1024), parts, mesh_of(2), [])


def test_alpha_is_zero_while_warming_up_and_the_plateau_starts_afresh(parts):
    kept = []
    fit(training(ls=-0.05, epochs=3, warmup_epochs=2), parts, mesh_of(2), kept)
    assert [measured["alpha"] for _, measured in kept] == [0.0, 0.0, -0.05]


# How many images are measured at a time.


def test_a_cpu_measures_256_images_and_less_where_memory_is_short(monkeypatch):
    classifier.measured_batch.cache_clear()
    assert classifier.measured_batch(RECIPE, 1, mesh_of(1)) == classifier.measured_batch(RECIPE, 1, mesh_of(2)) == 256
    for there in (2 * 2**20, 2**20):
        classifier.measured_batch.cache_clear()
        monkeypatch.setattr(memory, "available", lambda there=there: there)
        found = classifier.measured_batch(RECIPE, 1, mesh_of(2))
        assert found < 256
        assert found % 2 == 0
    classifier.measured_batch.cache_clear()
    monkeypatch.setattr(memory, "available", lambda: 2**16)
    with pytest.raises(UserError, match=r"one image at all cuts, .* numbers wide, and the means of 10 classes need"):
        classifier.measured_batch(RECIPE, 1, mesh_of(2))
    classifier.measured_batch.cache_clear()


def test_a_split_that_does_not_divide_is_evaluated_alike_on_one_device_and_two(parts):
    odd = Split(parts.test.images, parts.test.labels, parts.test.indices[:45])
    one, two = (
        classifier.evaluate(parallel.replicate(fresh().variables, mesh), odd, 0.3, recipe=RECIPE, mesh=mesh)
        for mesh in (mesh_of(1), mesh_of(2))
    )
    assert one == pytest.approx(two, rel=1e-6)
