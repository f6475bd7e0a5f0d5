import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpz_jax.defences import NONE, Defence, Reference, apply, parse, reference
from gpz_jax.errors import UserError

POSITIVE = st.floats(1e-30, 1e30)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["gaussian", "laplace"]), POSITIVE),
    st.tuples(st.just("dropout"), st.floats(0, 1, exclude_min=True, exclude_max=True)),
    st.tuples(st.just("topk"), st.floats(0, 1, exclude_min=True)),
    st.just(("uint8", 256.0)),
)
UNIT = Reference(jnp.float32(-4), jnp.float32(4), jnp.float32(2))


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=4).map(tuple))
def test_text_and_back(steps):
    defence = Defence(steps)
    assert parse(str(defence)) == defence
    assert hash(parse(str(defence))) == hash(defence)


def test_nothing_is_none(key):
    assert parse("") == parse(" none ") == NONE == Defence()
    assert str(NONE) == "none"
    assert not NONE.random
    z = jax.random.normal(key, (3, 4))
    np.testing.assert_array_equal(apply(NONE, z, key, UNIT), z)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gausian:0.5", "unknown defence 'gausian'; did you mean 'gaussian'?"),
        ("uint8+none", "unknown defence 'none'"),
        ("gaussian:1+", "unknown defence ''"),
        ("gaussian", "'gaussian': its strength is missing; give a noise-to-spread ratio above 0, such as gaussian:0.5"),
        ("topk:", "'topk:': its strength is missing"),
        ("laplace:much", "'laplace:much': 'much' is not a number"),
        ("gaussian:0", "gaussian:0: give a noise-to-spread ratio above 0"),
        ("gaussian:inf", "gaussian:inf: give"),
        ("laplace:nan", "laplace:nan: give"),
        ("dropout:1", "dropout:1: give a probability between 0 and 1"),
        ("dropout:0", "dropout:0: give a probability"),
        ("topk:1.5", "topk:1.5: give a share of the units above 0 and at most 1"),
        ("uint8:8", "'uint8:8': uint8 takes no strength"),
    ],
)
def test_nonsense_is_named(text, message):
    with pytest.raises(UserError) as caught:
        parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_noise_has_the_standard_deviation_asked_for(key, name):
    z = jax.random.uniform(key, (200, 500))
    noise = np.asarray(apply(parse(f"{name}:0.25"), z, key, UNIT) - z, np.float64)
    np.testing.assert_allclose(noise.std(), 0.25 * 2, rtol=0.02)
    np.testing.assert_allclose(noise.mean(), 0, atol=0.01)
    excess = (noise**4).mean() / noise.var() ** 2 - 3  # 0 for a Gaussian, 3 for Laplace
    np.testing.assert_allclose(excess, 0 if name == "gaussian" else 3, atol=0.5)


def test_dropout_by_its_definition(key):
    z = 1 + jax.random.uniform(key, (200, 500))
    sent = np.asarray(apply(parse("dropout:0.3"), z, key, UNIT))
    np.testing.assert_allclose((sent == 0).mean(), 0.3, atol=0.01)
    np.testing.assert_allclose(sent[sent != 0], np.asarray(z / 0.7)[sent != 0], rtol=1e-6)
    np.testing.assert_allclose(sent.mean(), np.asarray(z).mean(), rtol=0.01)


@pytest.mark.parametrize(("share", "kept"), [(0.01, 1), (0.25, 3), (0.5, 6), (1.0, 12)])
def test_topk_keeps_exactly_so_many(key, share, kept):
    z = jax.random.normal(key, (5, 2, 3, 2))
    sent = np.asarray(apply(parse(f"topk:{share}"), z, key, UNIT)).reshape(5, 12)
    flat = np.asarray(z).reshape(5, 12)
    for row, original in zip(sent, flat, strict=True):
        largest = np.argsort(-np.abs(original))[:kept]
        assert set(np.flatnonzero(row)) == set(largest)
        np.testing.assert_array_equal(row[largest], original[largest])
    ties = np.asarray(apply(parse(f"topk:{share}"), jnp.ones((5, 12)), key, UNIT))
    assert ((ties != 0).sum(1) == kept).all()


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(1e-2, 1e3), st.integers(0, 2**31 - 1))
def test_rounding_is_off_by_half_a_step_at_most(low, width, seed):
    z = jnp.asarray(np.random.default_rng(seed).uniform(low, low + width, size=(4, 32)), jnp.float32)
    reference = Reference(jnp.float32(low), jnp.float32(low + width), jnp.float32(1))
    sent = apply(parse("uint8"), z, jax.random.key(0), reference)
    rounding = 1e-6 * (abs(low) + width)
    assert float(jnp.abs(sent - z).max()) <= width / 255 / 2 + rounding
    np.testing.assert_allclose(apply(parse("uint8"), sent, jax.random.key(0), reference), sent, atol=rounding)


def test_rounding_clips_and_has_256_levels(key):
    z = jnp.linspace(-8.0, 8.0, 5000).reshape(1, -1)
    sent = np.asarray(apply(parse("uint8"), z, key, UNIT))
    assert len(np.unique(sent)) == 256
    np.testing.assert_allclose([sent.min(), sent.max()], [-4, 4], atol=1e-5)
    dead = Reference(jnp.float32(3), jnp.float32(3), jnp.float32(0))
    np.testing.assert_array_equal(apply(parse("uint8"), z, key, dead), 3)


def test_applied_in_order(key):
    z = jnp.asarray([[9.0, 0.5, -3.0, 1.0]])
    keep_then_round = apply(parse("topk:0.25+uint8"), z, key, UNIT)
    round_then_keep = apply(parse("uint8+topk:0.25"), z, key, UNIT)
    np.testing.assert_allclose(keep_then_round, [[4, 0, 0, 0]], atol=8 / 255 / 2 + 1e-6)
    assert (np.asarray(keep_then_round)[0, 1:] != 0).all(), "0 is between two levels of [-4, 4]"
    np.testing.assert_allclose(round_then_keep, [[4, 0, 0, 0]], atol=1e-6)


def test_steps_draw_apart_and_a_key_draws_once(key):
    z = jnp.zeros((4, 1000))
    draw = jax.jit(apply, static_argnums=0)
    once, twice = (draw(parse(text), z, key, UNIT) for text in ("gaussian:1", "gaussian:1+gaussian:1"))
    np.testing.assert_array_equal(once, draw(parse("gaussian:1.0"), z, key, UNIT))
    np.testing.assert_allclose(np.std(twice), 2 * np.sqrt(2), rtol=0.05)  # 4 if both drew the same
    assert (once != draw(parse("gaussian:1"), z, jax.random.key(1), UNIT)).mean() > 0.9
    assert [parse(t).random for t in ("gaussian:1", "uint8+dropout:0.5", "topk:0.5+uint8")] == [True, True, False]


def test_bfloat16_leaves_as_float32(key):
    z = jnp.ones((2, 3, 4), jnp.bfloat16)
    for text in ("none", "gaussian:1", "laplace:1", "dropout:0.5", "topk:0.5", "uint8"):
        sent = apply(parse(text), z, key, UNIT)
        assert (sent.shape, sent.dtype) == (z.shape, jnp.float32)


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_reference_is_streamed(key, mean):
    rng = np.random.default_rng(0)
    z = (mean + rng.normal(size=(50, 3, 4)) * rng.uniform(0.5, 2, size=(3, 4))).astype(np.float32)
    got = reference(jnp.asarray(part) for part in (z[:20], z[20:40], z[40:40], z[40:]))
    exact = z.astype(np.float64)
    np.testing.assert_array_equal([got.low, got.high], [z.min(), z.max()])
    np.testing.assert_allclose(got.scale, exact.std(), rtol=1e-4)


def test_reference_needs_images_and_numbers():
    with pytest.raises(UserError, match="no images"):
        reference([])
    with pytest.raises(UserError, match="not finite"):
        reference([jnp.array([[1.0, jnp.nan]])])
