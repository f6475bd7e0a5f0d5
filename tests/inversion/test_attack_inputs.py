"""Attacks on networks whose inputs are dicts: what is rebuilt, what the cloud may know, what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gpz_jax
from gpz_jax.errors import UserError
from gpz_jax.taps.batch_axis import rows_of

RNG = np.random.default_rng(0)
N, T, F, WORDS = 80, 4, 3, 6
X = {
    "signal": RNG.normal(size=(N, T, F)).astype(np.float32),
    "mask": (np.arange(T) < RNG.integers(1, T + 1, (N, 1))).astype(np.float32),
}
IDS = {"ids": RNG.integers(0, WORDS, (N, T)).astype(np.int32), "mask": X["mask"]}
KEY = jax.random.key(0)


class Signal(nn.Module):
    """A layer on each step, their masked sum, a class."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(8, name="block")(x["signal"])
        return nn.Dense(3, name="head")((h * x["mask"][..., None]).sum(1))


class Words(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Embed(WORDS, 8, name="embed")(x["ids"])
        return nn.Dense(3, name="head")((h * x["mask"][..., None]).sum(1))


class Alone(nn.Module):
    """:class:`Signal` without a mask, of an array."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.Dense(8, name="block")(x).sum(1))


class Wrapped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.Dense(8, name="block")(x["signal"]).sum(1))


def tapped(model, x):
    variables = model.init(KEY, x)
    return gpz_jax.tap(model, variables, x), variables


def halves(x):
    return [rows_of(x, slice(0, 60)), rows_of(x, slice(60, N))]


def one_hot(x):
    return jax.nn.one_hot(x["ids"], WORDS)


@pytest.mark.thorough
def test_the_private_array_is_rebuilt():
    network, variables = tapped(Signal(), X)
    found = gpz_jax.attack_cut(network, variables, "block", *halves(X), public="mask", key=KEY)
    assert found.best.reconstructions.shape == (20, T, F)
    np.testing.assert_allclose(found.best.reconstructions, X["signal"][60:], atol=1e-2)  # the layer is one to one
    assert found.best.scores.ratio < 1e-3


def test_an_array_in_a_dict_is_attacked_as_the_array():
    x = X["signal"]
    network, variables = tapped(Alone(), x)
    wrapped, _ = tapped(Wrapped(), {"signal": x})
    alone = gpz_jax.attack_cut(network, variables, "block", *halves(x), key=KEY).best
    inside = gpz_jax.attack_cut(wrapped, variables, "block", *halves({"signal": x}), key=KEY).best
    np.testing.assert_array_equal(alone.reconstructions, inside.reconstructions)
    assert (alone.scores.mse, alone.scores.ratio) == (inside.scores.mse, inside.scores.ratio)


def test_words_are_rebuilt_as_what_pixels_makes_of_them():
    network, variables = tapped(Words(), IDS)
    found = gpz_jax.attack_cut(network, variables, "embed", *halves(IDS), public="mask", pixels=one_hot, key=KEY)
    np.testing.assert_array_equal(found.best.reconstructions.argmax(-1), IDS["ids"][60:])


@pytest.mark.slow
def test_few_sentences_are_enough_where_all_places_share_the_map():
    """One map from all tokens to all words has more entries than examples; one from a token to its word has not."""
    rng = np.random.default_rng(1)
    x = {"ids": rng.integers(0, WORDS, (60, 30)).astype(np.int32), "mask": np.ones((60, 30), np.float32)}
    network, variables = tapped(Words(), x)
    parts = [rows_of(x, part) for part in (slice(0, 40), slice(40, 60))]
    found = gpz_jax.attack_cut(network, variables, "embed", *parts, public="mask", pixels=one_hot, key=KEY)
    assert found.best.training.chosen["shared"]
    np.testing.assert_array_equal(found.best.reconstructions.argmax(-1), parts[1]["ids"])
    assert found.best.parameter_count < 30 * WORDS * 8 * WORDS


def test_places_that_differ_do_not_share_the_map():
    """Each step is scaled by a factor of its own, which no shared map undoes."""

    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Dense(8, name="block")(x * jnp.array([1.0, -2.0, 4.0, -8.0])[:, None])
            return nn.Dense(3)(h.sum(1))

    x = np.asarray(X["signal"])
    network, variables = tapped(Scaled(), x)
    found = gpz_jax.attack_cut(network, variables, "block", *halves(x), key=KEY)
    assert not found.best.training.chosen["shared"]
    assert found.best.scores.ratio < 0.01


@pytest.mark.parametrize(
    ("x", "how", "said"),
    [
        (X, {}, "which numbers of mask, signal are to be rebuilt? give pixels="),
        (X, {"public": "*"}, "which numbers of a wholly public input are to be rebuilt?"),
        (X, {"pixels": lambda x: x["signal"]}, "cut 'block' is bypassed: the logits know the input by another way"),
        (X, {"public": "masks"}, "public names 'masks', which the input does not have; did you mean 'mask'?"),
        ({**X, "mask": X["mask"][:70]}, {"public": "mask"}, "signal of auxiliary has 70 rows, not 60"),
        (
            {**X, "signal": X["signal"] * np.nan},
            {"public": "mask"},
            "signal of auxiliary has values that are not finite",
        ),
    ],
)
def test_what_is_refused(x, how, said):
    network, variables = tapped(Signal(), X)
    auxiliary = jax.tree.map(lambda leaf: leaf[:70] if len(leaf) == N else leaf[:60], x)
    with pytest.raises(UserError) as stop:
        gpz_jax.attack_cut(network, variables, "block", auxiliary, halves(X)[1], key=KEY, **how)
    assert said in str(stop.value)


def test_inputs_that_differ_in_kind():
    network, variables = tapped(Signal(), X)
    auxiliary, test = halves(X)
    changed = {**test, "mask": test["mask"].astype(np.float16)}
    with pytest.raises(UserError, match=r"test of shape mask \(4,\) float16, signal .* but auxiliary of mask \(4,\) f"):
        gpz_jax.attack_cut(network, variables, "block", auxiliary, changed, public="mask", key=KEY)


def test_logits_of_a_sequence_are_refused():
    class Tagger(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.Dense(8, name="block")(x))

    network, variables = tapped(Tagger(), X["signal"])
    with pytest.raises(UserError, match=r"the logits have shape \(2, 4, 3\), as of a sequence; this needs \(N, K\)"):
        gpz_jax.attack_cut(network, variables, "block", *halves(X["signal"]), key=KEY)
    with pytest.raises(UserError, match="as of a sequence"):
        gpz_jax.feature_terms(
            network, variables, jnp.asarray(X["signal"]), jnp.arange(N) % 3, jnp.ones((N, 3)) / 3, step_size=0.1
        )
