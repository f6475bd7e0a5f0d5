"""Tokens: what of them is measured, padding that does not count, and labels a token, against numpy in float64."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gpz_jax
from gpz_jax.analysis import views
from gpz_jax.errors import UserError

N, T, C, K = 24, 5, 4, 3
RNG = np.random.default_rng(0)
X = {"ids": RNG.integers(0, 16, (N, T)), "mask": (np.arange(T) < RNG.integers(1, T + 1, (N, 1))).astype(np.int32)}
LABELS = np.arange(N) % K


class Text(nn.Module):
    """Embedded words, a layer on each, their mean over what is no padding, and a class."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(C, name="block")(nn.Embed(16, C, name="embed")(x["ids"]))
        real = x["mask"][..., None].astype(h.dtype)
        return nn.Dense(K, name="head")(nn.Dense(C, name="pooler")((h * real).sum(1)))


class Tagger(nn.Module):
    """A class a word."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(K, name="head")(nn.Dense(C, name="block")(nn.Embed(16, C, name="embed")(x["ids"])))


def tapped(model, x=X):
    variables = model.init(jax.random.key(0), x)
    return gpz_jax.tap(model, variables, x), variables


NETWORK, VARIABLES = tapped(Text())
BLOCK = np.asarray(NETWORK(VARIABLES, X)[1]["block"], np.float64)


def oracle(z, labels):
    """R_c² of every class, of rows of any shape."""
    z = z.reshape(len(labels), -1)
    return np.array([np.mean(np.sum((z[labels == c] - z[labels == c].mean(0)) ** 2, axis=1)) for c in range(K)])


def radius_at(cut, x=X, labels=LABELS, network=NETWORK, variables=VARIABLES, **view):
    return gpz_jax.radius(gpz_jax.measure(network, variables, [(x, labels)], K, **view)[cut])


REAL = X["mask"][..., None]
EXPECTED = {
    ("tokens", None): BLOCK,
    ("tokens", "mask"): BLOCK * REAL,
    ("mean", None): BLOCK.mean(1),
    ("mean", "mask"): (BLOCK * REAL).sum(1) / REAL.sum(1),
    ("first", None): BLOCK[:, 0],
    ("first", "mask"): BLOCK[:, 0],
}


@pytest.mark.parametrize(("view", "token_mask"), EXPECTED)
def test_radius_of_a_view_is_numpys(view, token_mask):
    found = radius_at("block", view=view, token_mask=token_mask)
    np.testing.assert_allclose(found, oracle(EXPECTED[view, token_mask], LABELS), rtol=1e-5)
    # A cut without tokens is measured as it is.
    np.testing.assert_allclose(radius_at("pooler", view=view, token_mask=token_mask), radius_at("pooler"), rtol=1e-6)


@pytest.mark.parametrize("view", ["tokens", "mean"])
def test_what_stands_in_padding_does_not_count(view):
    changed = {**X, "ids": np.where(X["mask"], X["ids"], (X["ids"] + 5) % 16)}
    there, then = (radius_at("block", x, view=view, token_mask="mask") for x in (X, changed))
    np.testing.assert_array_equal(there, then)
    assert not np.allclose(radius_at("block", view=view), radius_at("block", changed, view=view))


def last_word(z, x):
    return z[np.arange(len(z)), x["mask"].sum(1) - 1] if z.ndim == 3 else z


def test_a_view_of_ones_own():
    last = BLOCK[np.arange(N), X["mask"].sum(1) - 1]
    np.testing.assert_allclose(radius_at("block", view=last_word), oracle(last, LABELS), rtol=1e-5)


@pytest.mark.thorough
def test_a_class_a_token():
    network, variables = tapped(Tagger())
    labels = (X["ids"] + np.arange(T)) % K
    z = np.asarray(network(variables, X)[1]["block"], np.float64)
    rows, classes, real = z.reshape(-1, C), labels.reshape(-1), X["mask"].reshape(-1) > 0
    found = gpz_jax.measure(network, variables, [(X, labels)], K)["block"]
    np.testing.assert_allclose(gpz_jax.radius(found), oracle(rows, classes), rtol=1e-5)
    masked = gpz_jax.measure(network, variables, [(X, labels, X["mask"] > 0)], K)
    np.testing.assert_allclose(gpz_jax.radius(masked["block"]), oracle(rows[real], classes[real]), rtol=1e-5)
    # The padding's labels are what other libraries put there; token_mask leaves it out as the mask does.
    padded = np.where(X["mask"], labels, -100)
    named = gpz_jax.measure(network, variables, [(X, padded)], K, token_mask="mask")
    np.testing.assert_array_equal(gpz_jax.radius(named["block"]), gpz_jax.radius(masked["block"]))
    again = gpz_jax.deviations(network, variables, [(X, padded)], named, token_mask="mask")
    within, total = gpz_jax.deviations(network, variables, [(X, labels, X["mask"] > 0)], masked)
    np.testing.assert_array_equal(again, (within, total))
    assert within.shape == (len(network.cuts), N)  # a sequence is resampled whole
    rho = [float(gpz_jax.scatter(masked[cut]).rho) for cut in network.cuts]
    np.testing.assert_allclose(within.sum(1) / total.sum(1), rho, rtol=1e-4)
    probe = gpz_jax.probe_network(network, variables, [(X, labels)], K, key=jax.random.key(0), bootstrap=5)
    assert probe.shapes[1] == (C,)
    assert probe.count.sum() == N * T


@pytest.mark.slow
def test_probe_of_a_view():
    nulls = [gpz_jax.null_variables(Text(), jax.random.key(seed), [X]) for seed in (1, 2)]

    def probe(view):
        halves = zip(*(np.split(a, 2) for a in (X["ids"], X["mask"], LABELS)), strict=True)
        batches = [({"ids": ids, "mask": mask}, labels) for ids, mask, labels in halves]
        return gpz_jax.probe_network(
            NETWORK, VARIABLES, batches, K, nulls=nulls, key=jax.random.key(0), bootstrap=20, view=view,
            token_mask="mask", public="mask",
        )  # fmt: skip

    tokens, mean = probe("tokens"), probe("mean")
    at = NETWORK.cuts.index("block")
    assert tokens.valid.all()
    assert (tokens.shapes[at], mean.shapes[at]) == ((T, C), (C,))
    np.testing.assert_allclose(mean.radius[at], oracle(EXPECTED["mean", "mask"], LABELS), rtol=1e-5)
    of_null = gpz_jax.measure(NETWORK, nulls[1], [(X, LABELS)], K, view="mean", token_mask="mask")["block"]
    np.testing.assert_allclose(mean.rho_null[1, at], gpz_jax.scatter(of_null).rho, rtol=1e-5)
    assert tokens.sentences[0].startswith("all 5 tokens are measured at 'block', one vector at 'pooler': R_c^2 falls")
    assert all(sentence.startswith("rule ") for sentence in mean.sentences)
    assert "view 'mean'" in repr(mean)
    assert dict(mean.to_xarray().attrs)["view"] == "mean"
    assert dict(mean.to_xarray().attrs)["token_mask"] == "mask"


def refused(**changed):
    how = {"network": NETWORK, "variables": VARIABLES, "x": X, "labels": LABELS} | changed
    network, variables, x, labels = (how.pop(name) for name in ("network", "variables", "x", "labels"))
    batches = x if isinstance(x, list) else [(x, labels)]
    with pytest.raises(UserError) as stop:
        gpz_jax.measure(network, variables, batches, K, **how)
    return str(stop.value)


def test_what_does_not_fit_is_refused():
    longer = {name: np.concatenate([a, a[:, :2]], axis=1) for name, a in X.items()}
    assert refused(view="means") == "unknown view 'means'; did you mean 'mean'?"
    assert "token_mask names 'masks', which the input does not have; did you mean 'mask'?" in refused(
        token_mask="masks"
    )
    assert "it must keep axis 0" in refused(view=lambda z, x: z.reshape(-1))
    assert refused(x=[(X, LABELS), (longer, LABELS)]).startswith(
        "ids has rows of shape (7,) and dtype int32, those before (5,) and int32: give batches of one kind; pad "
        "sequences to one length"
    )
    assert "a batch has the arrays ids, those before ids, mask" in refused(x=[(X, LABELS), ({"ids": X["ids"]}, LABELS)])
    assert "labels run from 1 to 3; of 3 classes they must lie in 0 to 2: subtract 1" in refused(labels=LABELS + 1)
    assert "of one-hot rows the argmax" in refused(labels=np.eye(K, dtype=int)[LABELS])
    assert "labels are float32, not integers" in refused(labels=np.eye(K, dtype=np.float32)[LABELS])


def test_labels_of_a_sequence():
    network, variables = tapped(Tagger())
    tagger = {"network": network, "variables": variables}
    assert "the logits have a class for each of 5 tokens, and labels have shape (24,): give labels (24, 5)" in refused(
        **tagger
    )
    tags = X["ids"] % K
    assert "labels has shape (24, 5) for 24 images" in refused(labels=tags)
    assert "view 'mean' has no tokens left" in refused(**tagger, labels=tags, view="mean")
    first = gpz_jax.tap(Tagger(), variables, X, cuts="block", output=lambda out: out[:, 0])
    gpz_jax.measure(first, variables, [(X, LABELS)], K)


def test_tokens_that_are_lost_on_the_way():
    class Shorter(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Embed(16, C, name="embed")(x["ids"])
            return nn.Dense(K)(nn.Dense(C, name="pair")(h[:, :4].reshape(len(h), 2, -1)))

    network, variables = tapped(Shorter())
    said = refused(network=network, variables=variables, labels=np.zeros((N, 2), int))
    assert "cut 'embed' of (24, 5, 4) has not so many: leave it out of cuts=" in said
    less = dataclasses.replace(network, cuts=("pair", "logits"))
    gpz_jax.measure(less, variables, [(X, np.tile([0, 1], (N, 1)))], K)


def test_changes():
    assert views.changes({"conv": (4, 4, 2), "fc": (8,), "logits": (3,)}) is None
    assert "'block', one vector at 'logits'" in str(views.changes({"block": (4, 2), "logits": (3,)}))
    assert jnp.shape(views.View("first").of("a", jnp.ones((2, 3)), None)) == (2, 3)
