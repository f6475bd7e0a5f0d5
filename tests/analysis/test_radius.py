"""The streamed radius against float64, its algebra, its statistics, and the pass over a tapped network."""

import itertools
import sys
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpz_jax import parallel
from gpz_jax.analysis import radius as radius_module
from gpz_jax.analysis.class_sums import FEW
from gpz_jax.analysis.radius import Moments, deviations, empty, measure, merge, radius, scatter, update
from gpz_jax.analysis.shifted_sums import by_gather, by_matmul
from gpz_jax.analysis.zone import bootstrap_rho
from gpz_jax.errors import UserError
from gpz_jax.taps import Tap, tap

add = jax.jit(update)
join = jax.jit(merge)
radii = jax.jit(radius)
shares = jax.jit(scatter)

PADDED = (1, 1000)  # few shapes, so that few are compiled; a batch of 1 is really of one row


def added(moments, z, labels):
    """One batch of any size, padded by garbage that the mask hides."""
    size = next(size for size in PADDED if size >= len(z))
    padding = size - len(z)
    z = np.concatenate([z, np.full((padding, *z.shape[1:]), -3e4, z.dtype)])
    labels = np.concatenate([labels, np.zeros(padding, np.int32)])
    return add(moments, jnp.asarray(z), jnp.asarray(labels), jnp.arange(size) < size - padding)


def streamed(z, labels, num_classes, sizes):
    moments = empty(num_classes, z[0].size)
    starts = np.cumsum([0, *sizes])
    assert starts[-1] == len(z)
    for start, stop in itertools.pairwise(starts):
        moments = added(moments, z[start:stop], labels[start:stop])
    return moments


def clusters(rng, count, num_classes, dimension, *, spread, drift=0.0):
    """Float32 representations with class means near 1e3, unequal classes, and means that move along the stream."""
    weight = np.arange(1, num_classes + 1) / np.arange(1, num_classes + 1).sum()
    labels = np.concatenate([np.repeat(np.arange(num_classes), 2), rng.choice(num_classes, count, p=weight)])
    labels = rng.permutation(labels)[:count].astype(np.int32)
    means = 1e3 + rng.normal(size=(num_classes, dimension))
    z = means[labels] + spread * rng.normal(size=(count, dimension))
    z += drift * np.linspace(0, 1, count)[:, None]
    return z.astype(np.float32), labels


def assert_close(moments, z, labels, num_classes):
    """Radius and ρ to 1e-5 of float64, the accuracy that the probe promises."""
    np.testing.assert_allclose(radii(moments), oracles.radius(z, labels, num_classes), rtol=1e-5)
    within, between, share = oracles.scatter(z, labels)
    found = shares(moments)
    np.testing.assert_allclose(found.within, within, rtol=1e-5)
    np.testing.assert_allclose(found.between, between, rtol=1e-5)
    np.testing.assert_allclose(found.rho, share, rtol=1e-5)
    assert moments.count.tolist() == np.bincount(labels, minlength=num_classes).tolist()


# Accuracy.

MIXED = [1, 1000, 7, 1, 1, 333, 90, 1, 500, 64, 2]


@pytest.mark.parametrize(("dimension", "num_classes"), [(1, 2), (37, 10), (1000, 4)])
@pytest.mark.parametrize(("spread", "drift"), [(7.0, 0.0), (0.01, 0.0), (0.01, 0.5), (1.0, 50.0)])
def test_radius_with_means_near_1000(dimension, num_classes, spread, drift):
    rng = np.random.default_rng(dimension)
    z, labels = clusters(rng, sum(MIXED), num_classes, dimension, spread=spread, drift=drift)
    for sizes in (MIXED, MIXED[::-1], sorted(MIXED), sorted(MIXED, reverse=True)):
        assert_close(streamed(z, labels, num_classes, sizes), z, labels, num_classes)


@pytest.mark.parametrize("arrange", ["one by one", "class after class", "largest first", "shuffled"])
@pytest.mark.parametrize("spread", [3.0, 0.01])
def test_radius_in_any_order(arrange, spread):
    rng = np.random.default_rng(5)
    z, labels = clusters(rng, 1200, 10, 37, spread=spread, drift=spread)
    if arrange == "class after class":
        order = np.argsort(labels, kind="stable")
    elif arrange == "largest first":
        order = np.argsort(-np.linalg.norm(z, axis=1))
    else:
        order = rng.permutation(len(z))
    z, labels = z[order], labels[order]
    sizes = [1] * 1200 if arrange == "one by one" else [1000, 200]
    assert_close(streamed(z, labels, 10, sizes), z, labels, 10)


def test_the_textbook_formula_would_fail_here():
    """E||z||² - ||μ||² in float32 on the same data: the reason for all of the above."""
    z, labels = clusters(np.random.default_rng(0), 1000, 2, 20, spread=0.01)
    one = z[labels == 0]
    naive = np.mean(np.sum(one * one, axis=1)) - np.sum(one.mean(axis=0) ** 2)
    truth = oracles.radius(z, labels, 2)[0]
    assert abs(naive - truth) > truth


def test_bfloat16_representations_are_summed_in_float32():
    z, labels = clusters(np.random.default_rng(1), 1000, 3, 4, spread=20.0)
    z = jnp.asarray(z, jnp.bfloat16)
    moments = add(empty(3, 4), z, jnp.asarray(labels))
    assert {leaf.dtype.name for leaf in moments} == {"int32", "float32"}
    assert_close(moments, np.asarray(z.astype(jnp.float32)), labels, 3)


def test_representations_of_any_rank_are_flattened():
    z, labels = clusters(np.random.default_rng(2), 16, 3, 24, spread=1.0)
    image = add(empty(3, 24), jnp.asarray(z).reshape(16, 2, 3, 4), jnp.asarray(labels))
    flat = add(empty(3, 24), jnp.asarray(z), jnp.asarray(labels))
    for a, b in zip(image, flat, strict=True):
        np.testing.assert_array_equal(a, b)


# Algebra: a commutative monoid under merge, up to rounding.

SAMPLES = 60


@st.composite
def pieces(draw):
    """Data, cut into batches of any sizes (1 among them) in any order."""
    spread = draw(st.sampled_from([0.01, 1.0, 100.0]))
    z, labels = clusters(np.random.default_rng(draw(st.integers(0, 99))), SAMPLES, 3, 4, spread=spread)
    order = np.array(draw(st.permutations(range(SAMPLES))))
    cuts = draw(st.lists(st.integers(1, SAMPLES - 1), unique=True, max_size=12))
    if draw(st.booleans()):
        cuts.append(1)  # a batch of one
    return z, labels, np.split(order, sorted(set(cuts)))


@settings(max_examples=40, deadline=None)
@given(pieces(), st.randoms(use_true_random=False))
def test_merging_any_partition_in_any_tree_order(drawn, random):
    z, labels, parts = drawn
    waiting = [added(empty(3, 4), z[part], labels[part]) for part in parts] + [empty(3, 4)]
    while len(waiting) > 1:
        random.shuffle(waiting)
        waiting.append(join(waiting.pop(), waiting.pop()))
    assert_close(waiting[0], z, labels, 3)


@settings(max_examples=40, deadline=None)
@given(pieces())
def test_streaming_any_partition(drawn):
    z, labels, parts = drawn
    moments = empty(3, 4)
    for part in parts:
        moments = added(moments, z[part], labels[part])
    assert_close(moments, z, labels, 3)


@settings(max_examples=20, deadline=None)
@given(pieces())
def test_merge_is_associative_and_commutative_and_empty_is_its_unit(drawn):
    z, labels, parts = drawn
    a, b, c = (added(empty(3, 4), z[part], labels[part]) for part in np.array_split(np.concatenate(parts), 3))

    def same(one, two):
        assert one.count.tolist() == two.count.tolist()
        np.testing.assert_allclose(radii(one), radii(two), rtol=1e-5)
        np.testing.assert_allclose(shares(one).rho, shares(two).rho, rtol=1e-5)
        np.testing.assert_allclose(one.mean, two.mean, rtol=1e-6)

    same(join(a, b), join(b, a))
    same(join(join(a, b), c), join(a, join(b, c)))
    for unit in (join(a, empty(3, 4)), join(empty(3, 4), a)):
        for got, expected in zip(unit, a, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_merging_sets_of_different_classes():
    z, labels = clusters(np.random.default_rng(3), 90, 3, 4, spread=0.01)
    parts = [added(empty(3, 4), z[labels == c], labels[labels == c]) for c in range(3)]
    assert_close(join(parts[2], join(parts[0], parts[1])), z, labels, 3)


# Classes too small, masks.


def test_classes_of_none_and_of_one_image_have_no_radius():
    z = jnp.array([[1.0], [3.0], [7.0]])
    moments = add(empty(4, 1), z, jnp.array([0, 0, 2]))
    assert moments.count.tolist() == [2, 0, 1, 0]
    for unbiased, expected in ((False, 1.0), (True, 2.0)):
        found = radius(moments, unbiased=unbiased)
        assert found[0] == expected
        assert np.isnan(found[1:]).all()
    within, between, share = oracles.scatter(np.asarray(z), [0, 0, 2])
    np.testing.assert_allclose(scatter(moments), (within, between, share), rtol=1e-6)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0]])
@pytest.mark.parametrize("unbiased", [False, True])
def test_share_is_nan_where_it_means_nothing(labels, unbiased):
    """No class has two images; or nothing varies."""
    z = jnp.array([[1.0], [3.0], [7.0]]) if len(set(labels)) > 1 else jnp.ones((3, 1))
    assert np.isnan(scatter(add(empty(3, 1), z, jnp.array(labels)), unbiased=unbiased).rho)
    assert np.isnan(scatter(empty(3, 1), unbiased=unbiased).rho)


@pytest.mark.parametrize("garbage", [0.0, 1e30, np.inf, np.nan])
def test_masked_rows_do_not_count(garbage):
    z, labels = clusters(np.random.default_rng(4), 40, 3, 4, spread=0.1)
    mask = np.arange(40) % 3 > 0  # the first row is masked too
    dirty = np.where(mask[:, None], z, garbage).astype(np.float32)
    moments = add(empty(3, 4), jnp.asarray(dirty), jnp.asarray(labels), jnp.asarray(mask))
    assert_close(moments, z[mask], labels[mask], 3)


def test_a_batch_masked_as_a_whole_changes_nothing():
    z, labels = clusters(np.random.default_rng(4), 40, 3, 4, spread=0.1)
    before = added(empty(3, 4), z, labels)
    after = add(before, jnp.asarray(z + 1), jnp.asarray(labels), jnp.zeros(40, bool))
    for a, b in zip(after, before, strict=True):
        np.testing.assert_array_equal(a, b)


# Statistics.


def batched_moments(z, labels, num_classes):
    """Moments of many independent small samples ``(T, N, D)`` at once."""
    return jax.jit(jax.vmap(lambda z: update(empty(num_classes, z.shape[1]), z, labels)))(z)


def assert_mean(values, truth):
    values = np.asarray(values, np.float64)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    assert np.all(np.abs(values.mean(axis=0) - truth) < 4 * error), (values.mean(axis=0), truth, error)
    assert np.all(error < 0.02 * np.abs(truth))  # else this could not fail


LABELS = jnp.array([0] * 2 + [1] * 4 + [2] * 9)
TRIALS = 20_000


def gaussians(key, means, spread):
    noise = jax.random.normal(key, (TRIALS, len(LABELS), means.shape[1]))
    return means[LABELS] + jnp.asarray(spread)[LABELS, None] * noise


def test_unbiased_radius_of_small_samples(key):
    count, spread = np.array([2, 4, 9]), np.array([1.0, 2.0, 0.5])
    truth = 3 * spread**2  # D σ²
    moments = batched_moments(gaussians(key, jnp.zeros((3, 3)), jnp.float32(spread)), LABELS, 3)
    assert_mean(jax.vmap(partial(radius, unbiased=True))(moments), truth)
    assert_mean(jax.vmap(radius)(moments), truth * (count - 1) / count)


def test_unbiased_scatter_of_small_samples(key):
    means = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    spread, weight = np.array([1.0, 2.0, 0.5]), np.array([2, 4, 9]) / 15
    within = np.sum(weight * 3 * spread**2)
    between = np.sum(weight * np.sum((means - weight @ means) ** 2, axis=1))
    moments = batched_moments(gaussians(key, jnp.float32(means), jnp.float32(spread)), LABELS, 3)
    found = jax.vmap(partial(scatter, unbiased=True))(moments)
    assert_mean(found.within, within)
    assert_mean(found.between, between)
    plugin = np.asarray(jax.vmap(scatter)(moments).between, np.float64)
    assert plugin.mean() > 1.05 * between  # the noise of the means, which the correction takes away


def test_unbiased_between_is_never_negative(key):
    """Classes that do not differ: the correction may exceed what there is."""
    moments = batched_moments(gaussians(key, jnp.zeros((3, 3)), jnp.ones(3)), LABELS, 3)
    found = jax.vmap(partial(scatter, unbiased=True))(moments)
    assert jnp.min(found.between) == 0
    assert jnp.max(found.rho) == 1
    np.testing.assert_allclose(found.rho, found.within / (found.within + found.between), rtol=1e-6)


@pytest.mark.parametrize("scale", [2.0**-10, 3.7, 1e6])
def test_share_is_free_of_scale(scale):
    z, labels = clusters(np.random.default_rng(6), 100, 3, 4, spread=1.0)
    z = z - np.float32(1e3)
    one = added(empty(3, 4), z, labels)
    other = added(empty(3, 4), z * np.float32(scale), labels)
    np.testing.assert_allclose(shares(other).rho, shares(one).rho, rtol=1e-5)
    np.testing.assert_allclose(radii(other), radii(one) * scale**2, rtol=1e-5)


# Over a network.


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        for n in range(1, 3):
            x = Tap(name=f"block_{n}")(nn.relu(nn.Conv(4 * n, (3, 3), strides=2, name=f"conv_{n}")(x)))
        return nn.Dense(5)(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def probed():
    """A network, 44 images in three batches of 16 (the last padded), and the moments at every cut."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(44, 8, 8, 1)).astype(np.float32)
    labels = np.concatenate([np.arange(10) % 5, rng.integers(0, 5, 34)]).astype(np.int32)
    model = Net()
    variables = jax.jit(model.init)(jax.random.key(0), x[:1])
    network = tap(model, variables, x[:1])
    rows = np.arange(48).reshape(3, 16)
    batches = [(x[part % 44], labels[part % 44], part < 44) for part in rows]
    return network, variables, x, labels, batches


def test_measure_against_the_oracle_at_every_cut(probed):
    network, variables, x, labels, batches = probed
    found = measure(network, variables, iter(batches), 5)
    _, taps = jax.jit(network)(variables, x)
    assert tuple(found) == network.cuts == ("block_1", "block_2", "logits")
    for cut in network.cuts:
        assert isinstance(found[cut], Moments)
        assert_close(found[cut], np.asarray(taps[cut]).reshape(44, -1), labels, 5)


def test_measuring_twice_gives_the_same_numbers(probed):
    network, variables, _, _, batches = probed
    one, two = (measure(network, variables, batches, 5) for _ in range(2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_batches_spread_over_two_devices_give_the_same_moments(probed):
    network, variables, _, _, batches = probed
    mesh = parallel.data_mesh()
    assert mesh.size == 2
    spread = [parallel.shard(batch, mesh) for batch in batches]
    assert len(spread[0][0].sharding.device_set) == 2
    assert spread[0][0].addressable_shards[0].data.shape[0] == 8
    one = measure(network, variables, batches, 5)
    two = measure(network, parallel.replicate(variables, mesh), spread, 5)
    for cut in network.cuts:
        np.testing.assert_array_equal(one[cut].count, two[cut].count)
        np.testing.assert_allclose(radii(one[cut]), radii(two[cut]), rtol=1e-5)
        np.testing.assert_allclose(shares(one[cut]).rho, shares(two[cut]).rho, rtol=1e-5)


def test_deviations_add_up_to_the_share(probed):
    network, variables, x, labels, batches = probed
    moments = measure(network, variables, batches, 5)
    within, total = deviations(network, variables, batches, moments)
    assert within.shape == total.shape == (3, 44)
    _, taps = jax.jit(network)(variables, x)
    for i, cut in enumerate(network.cuts):
        z = np.asarray(taps[cut], np.float64).reshape(44, -1)
        of_class = np.array([z[labels == c].mean(axis=0) for c in range(5)])
        np.testing.assert_allclose(within[i], np.sum((z - of_class[labels]) ** 2, axis=1), rtol=1e-4)
        np.testing.assert_allclose(total[i], np.sum((z - z.mean(axis=0)) ** 2, axis=1), rtol=1e-4)
        np.testing.assert_allclose(within[i].sum() / total[i].sum(), scatter(moments[cut]).rho, rtol=1e-5)


def test_unbiased_deviations(probed):
    network, variables, _, labels, batches = probed
    moments = measure(network, variables, batches, 5)
    plain = deviations(network, variables, batches, moments)
    within, total = deviations(network, variables, batches, moments, unbiased=True)
    count = np.bincount(labels)[labels]
    np.testing.assert_allclose(within, plain[0] * count / (count - 1), rtol=1e-5)
    np.testing.assert_allclose(total, plain[1] * 44 / 43, rtol=1e-5)


def test_many_images_share_groups_and_the_share_stays(probed, monkeypatch):
    network, variables, _, _, batches = probed
    moments = measure(network, variables, batches, 5)
    each = deviations(network, variables, batches, moments)
    monkeypatch.setattr(sys.modules["gpz_jax.analysis.radius"], "GROUPS", 7)
    grouped = deviations(network, variables, batches, moments)
    for groups, images in zip(grouped, each, strict=True):
        assert groups.shape == (3, 7)
        np.testing.assert_allclose(groups.sum(axis=1), images.sum(axis=1), rtol=1e-5)


def test_groups_give_intervals_as_wide_as_images_do(monkeypatch):
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 3, 4000).astype(np.int32)
    x = (labels[:, None] + rng.exponential(size=(4000, 2))).astype(np.float32)
    model = nn.Dense(3)
    variables = model.init(jax.random.key(0), x[:1])
    network, batches = tap(model, variables, x[:1]), [(x, labels, np.ones(4000, bool))]
    moments = measure(network, variables, batches, 3)
    widths = []
    for groups in (4000, 800):
        monkeypatch.setattr(sys.modules["gpz_jax.analysis.radius"], "GROUPS", groups)
        within, total = deviations(network, variables, batches, moments)
        assert within.shape == (1, groups)
        widths.append(bootstrap_rho(within, total, replicates=2000).std())
    assert widths[1] == pytest.approx(widths[0], rel=0.1)  # its standard error is 3 %


def test_there_must_be_images(probed):
    network, variables, *_ = probed
    with pytest.raises(UserError, match="no images"):
        measure(network, variables, [], 5)


def test_a_batch_that_does_not_divide_is_refused_and_not_replicated():
    with pytest.raises(UserError, match=r"^a batch of 5 cannot be spread over 2 devices"):
        parallel.shard(np.arange(5), parallel.data_mesh())


def test_batch_size_must_suit_the_devices():
    mesh = parallel.data_mesh()
    parallel.check_batch_size(4, mesh)
    with pytest.raises(UserError, match=r"^batch_size 5 must be a multiple of the 2 devices"):
        parallel.check_batch_size(5, mesh)


# How batches are added.


@pytest.mark.parametrize("about", [by_gather, by_matmul])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("spread", [20.0, 0.01])
def test_both_ways_to_the_sums_of_a_batch(about, dtype, spread):
    """That of CPUs and that of accelerators, which CPUs take for few classes only; means near 1e3, then near 0."""
    if dtype == jnp.bfloat16 and spread < 1:
        spread = 4.0  # a step of bfloat16 at 1e3
    add_so = jax.jit(partial(radius_module._update, about=about))
    for middle in (0.0, 1000.0):
        z, labels = clusters(np.random.default_rng(3), 1000, 3, 20, spread=spread, drift=spread)
        z = jnp.asarray(z - 1000 + middle, dtype)
        moments, mask = empty(3, 20), jnp.ones(250, bool)
        for part in np.split(np.arange(1000), 4):
            moments = add_so(moments, z[part], jnp.asarray(labels[part]), mask)
        assert_close(moments, np.asarray(z.astype(jnp.float32)), labels, 3)


def test_many_classes_are_measured_likewise():
    """More than ``FEW``, where CPUs index."""
    z, labels = clusters(np.random.default_rng(4), 1000, FEW + 6, 5, spread=1.0)
    assert_close(streamed(z, labels, FEW + 6, [1000]), z, labels, FEW + 6)


def test_batches_of_one_shape_compile_once(probed):
    """Also on several devices, and for variables that lie on none of them yet, as those of null copies."""
    network, variables, _, _, batches = probed
    mesh = parallel.data_mesh()
    spread = [parallel.shard(batch, mesh) for batch in batches]
    programs = (radius_module._add_batch, radius_module._add_deviations)
    before = [program._cache_size() for program in programs]
    for held in (parallel.replicate(variables, mesh), variables, jax.device_get(variables)):
        moments = measure(network, held, spread, 5)
        deviations(network, held, spread, moments)
    made = [program._cache_size() - count for program, count in zip(programs, before, strict=True)]
    assert max(made) <= 1, made
