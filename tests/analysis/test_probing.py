"""probe_network: NumPy says the same, batches may be cut anyhow, and what does not fit is one line."""

import dataclasses
import math

import flax.linen as nn
import jax
import numpy as np
import pytest

import gpz_jax
from gpz_jax.errors import UserError

K, KEY = 3, jax.random.key(0)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(K, name="head")(nn.relu(nn.Dense(6, name="body")(x)))


X = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
Y = np.arange(30) % K
VARIABLES = Net().init(KEY, X)
NETWORK = gpz_jax.tap(Net(), VARIABLES, X, cuts=["body"])
NULLS = [Net().init(jax.random.key(seed), X) for seed in (1, 2, 3)]


def probe(batches=((X, Y),), num_classes=K, **options):
    return gpz_jax.probe_network(NETWORK, VARIABLES, list(batches), num_classes, **{"key": KEY, **options})


def test_radius_within_between_and_rho_are_numpys():
    found, (_, taps) = probe(nulls=NULLS), NETWORK(VARIABLES, X)
    for i, cut in enumerate(NETWORK.cuts):
        z = np.asarray(taps[cut], np.float64)
        radius = np.array([((z[c == Y] - z[c == Y].mean(0)) ** 2).sum(1).mean() for c in range(K)])
        between = np.mean([((z[c == Y].mean(0) - z.mean(0)) ** 2).sum() for c in range(K)])
        np.testing.assert_allclose(found.radius[i], radius, rtol=1e-5)
        np.testing.assert_allclose(found.within[i], radius.mean(), rtol=1e-5)
        np.testing.assert_allclose(found.between[i], between, rtol=1e-5)
        np.testing.assert_allclose(found.rho[i], radius.mean() / (radius.mean() + between), rtol=1e-5)
        evidence = np.log(found.rho_null[:, i]).mean() - np.log(found.rho[i])
        np.testing.assert_allclose(found.zones["null"].evidence[i], evidence, rtol=1e-5)
    assert found.rho_null.shape == (3, 2)
    assert set(found.zones) == {"paper", "null"}


def test_a_function_of_batches_cut_anyhow_gives_the_same():
    mask = np.array([True] * 14 + [False] * 2)
    parts = [(X[:16], Y[:16], mask), (X[14:], Y[14:], np.ones(16, bool))]
    once, twice = probe(), gpz_jax.probe_network(NETWORK, VARIABLES, lambda: iter(parts), K, key=KEY)
    np.testing.assert_allclose(twice.radius, once.radius, rtol=1e-5)
    assert twice.count.tolist() == once.count.tolist() == [10, 10, 10]


def test_what_a_person_looks_at():
    found = probe(nulls=NULLS)
    assert max(map(len, repr(found).splitlines())) <= 80
    assert "<table>" in found._repr_html_()
    record = found.to_xarray()
    assert dict(record.sizes) == {"cut": 2, "class": K, "null": 3, "rule": 2}
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.radius = None


@pytest.mark.parametrize(
    ("batches", "options", "words"),
    [
        ([], {}, "no images to probe"),
        ([(X, Y.astype(float))], {}, "labels are float64, not integers"),
        ([(X, Y + 1)], {}, "labels run from 1 to 3; of 3 classes they must lie in 0 to 2"),
        ([(X, -Y)], {}, "labels run from -2 to 0; of 3 classes"),
        ([(X, Y[:7])], {}, r"labels has shape \(7,\) for 30 images"),
        ([(X, Y, np.ones(7, bool))], {}, r"mask has shape \(7,\) for 30 images"),
        ([(X, Y, np.ones(30))], {}, "mask is float64, not bool"),
        ([(X, Y), (X[:, :4], Y)], {}, "give batches of one kind"),
        ([(X[:, :4], Y)], {}, "the network cannot be run on x of shape"),
        ([(X, Y)], {"rules": ["papper"]}, "unknown rule 'papper'; did you mean 'paper'?"),
        ([(X, Y)], {"rules": ["null"], "nulls": NULLS[:1]}, "rule 'null' needs two untrained copies or more, got 1"),
        ([(X, Y)], {"nulls": [{"params": {}}, {"params": {}}]}, "null 0 is not a copy of the network"),
        ([(X, Y)], {"bootstrap": 0}, "bootstrap must be at least 1, got 0"),
        ([(X, Y)], {"quantiser": "int3"}, "int3"),
        ([(X, Y)], {"num_classes": 0}, "num_classes must be at least 1"),
    ],
)
def test_what_does_not_fit_is_one_line(batches, options, words):
    with pytest.raises(UserError, match=words) as raised:
        probe(batches, **options)
    assert "\n" not in str(raised.value)


def test_batches_that_can_be_read_once_only_are_refused():
    with pytest.raises(UserError, match="batches is a generator, which can be read only once"):
        gpz_jax.probe_network(NETWORK, VARIABLES, (batch for batch in [(X, Y)]), K, key=KEY)


def test_batches_that_change_between_readings_are_refused():
    sizes = iter([30, 20])
    with pytest.raises(UserError, match="gave 30 images at first and 20 when read again"):
        gpz_jax.probe_network(NETWORK, VARIABLES, lambda: [(X[:n], Y[:n]) for n in [next(sizes)]], K, key=KEY)


# Dead cuts ----------------------------------------------------------------------------------------------------------


def with_head(value):
    """The network's variables with another bias of the head, the untrained copies as they are."""
    return {"params": {**VARIABLES["params"], "head": {**VARIABLES["params"]["head"], "bias": np.full(K, value)}}}


def test_a_cut_that_is_not_finite_costs_no_other(recwarn):
    whole = probe(nulls=NULLS)
    found = gpz_jax.probe_network(NETWORK, with_head(np.float32(np.nan)), [(X, Y)], K, key=KEY, nulls=NULLS)
    assert found.dead == {"logits": "not finite"}
    assert found.marked == ["body", "logits (not finite)"]
    np.testing.assert_array_equal(found.radius[0], whole.radius[0])
    assert "left out: 'logits' (R_c² is nan)" in found.zones["null"].reason
    assert "logits (not finite)" in repr(found)
    found.to_xarray()
    assert math.isnan(found.rows()[1]["rho"])
    assert not recwarn.list


@pytest.mark.parametrize(("images", "why"), [(1, "too few images"), (3, "too few images"), (30, "constant")])
def test_images_that_say_nothing(images, why):
    x = np.ones((images, 5), np.float32)
    found = probe([(x, Y[:images])], nulls=NULLS)
    assert found.dead == {"body": why, "logits": why}
    assert all("too few cuts can be compared" in zone.reason for zone in found.zones.values())
