"""Prices of cuts: the paper's shares, sums worked out by hand, XLA's own count, halves that compute the network."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from gpz_jax.analysis import latency
from gpz_jax.analysis.latency import time_halves, time_pieces
from gpz_jax.analysis.price import BYTES, peak_memory, price_cuts
from gpz_jax.analysis.program import section, trace
from gpz_jax.errors import UserError
from gpz_jax.models import build
from gpz_jax.taps import Tap, split_at, tap, valid_cuts
from gpz_jax.taps_nnx import tap_nnx
from gpz_jax.training.classifier import Prepare


def shaped(model, *shape, cuts=None):
    """A tapped network with shapes for variables and input."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    return tap(model, variables, x, cuts=cuts), variables, x


def zoo(name, *, size=64, batch=1, **options):
    return shaped(build(name, num_classes=10, size=size, **options), batch, size, size, 3)


def filled(shapes, seed=0):
    """Numbers for shapes, positive where they may be variances."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.1, 0.4, s.shape), s.dtype), shapes)


def by_cut(prices):
    return {price.cut: price for price in prices}


# The paper's networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total", "edges"),
    [
        pytest.param(
            "vgg19",
            45_250_378,
            {
                "layer_18": (1_146_688, 2.53),
                "layer_26": (2_328_384, 5.15),
                "layer_30": (3_509_568, 7.76),
                "layer_39": (10_592_064, 23.41),
            },
            marks=pytest.mark.slow,
        ),
        ("vit", 1_230_474, {"block_2": (435_840, 35.42)}),
    ],
)
def test_the_papers_shares(name, total, edges):
    prices = price_cuts(*zoo(name))
    assert prices[-1].cut == "logits"
    assert (prices[-1].edge_parameters, prices[-1].cloud_parameters, prices[-1].cloud_flops) == (total, 0, 0)
    assert all(price.valid for price in prices)
    assert {price.edge_parameters + price.cloud_parameters for price in prices} == {total}
    assert {price.edge_flops + price.cloud_flops for price in prices} == {prices[-1].edge_flops}
    for kind in ("edge_parameters", "edge_flops", "edge_memory"):
        grown = [getattr(price, kind) for price in prices]
        assert grown == sorted(grown)
    found = by_cut(prices)
    shares = {cut: (found[cut].edge_parameters, round(100 * found[cut].edge_parameters / total, 2)) for cut in edges}
    assert shares == edges
    if name == "vgg19":  # the payload halves where the paper says
        assert [found[cut].values for cut in ("layer_26", "layer_30")] == [65_536, 32_768]
        assert [found["layer_30"].payload(dtype) for dtype in BYTES] == [131_072, 65_536, 32_768]


def test_flops_payload_and_memory_are_the_batchs_and_parameters_are_not():
    one, three = (by_cut(price_cuts(*zoo("cnn", size=16, width=4, batch=n)))["block_2"] for n in (1, 3))
    assert (three.shape, three.values, three.edge_parameters) == (one.shape, one.values, one.edge_parameters)
    assert three.payload("uint8") == 3 * one.payload("uint8") == 3 * 4 * 4 * 8
    # What is done once for all images: 1 / sqrt(variance + eps) x scale of both batch norms, eps and product counted.
    assert three.edge_flops - one.edge_flops == 2 * (one.edge_flops - 2 * (4 + 8))
    assert three.edge_memory - one.edge_memory == 2 * (one.edge_memory - 2 * 4 * 4)  # two rows of 4 floats at its peak


# Cuts that are bypassed, or alias one another ------------------------------------------------------------------------


@jax.custom_vjp
def scaled(x):
    return 2 * x


scaled.defvjp(lambda x: (scaled(x), None), lambda _, g: (g,))


class Branched(nn.Module):
    """A residual branch and layers whose outputs pass through calls with inner jaxprs."""

    @nn.compact
    def __call__(self, x):
        h = nn.gelu(nn.Dense(8, name="stem")(x))
        h = h + nn.Dense(8, name="branch")(nn.relu(h))
        h = nn.Dense(6, name="trunk")(jax.checkpoint(jnp.tanh)(h))
        return nn.Dense(3, name="head")(scaled(jax.nn.log_softmax(h)))


class Marked(nn.Module):
    """Marks on the input, twice on one value, on a value that goes on beside the mark, and on one that nobody reads."""

    @nn.compact
    def __call__(self, x):
        x = Tap(name="input")(x)
        h = nn.Dense(8, name="stem")(x)
        h = Tap(name="again")(Tap(name="once")(h))
        beside = Tap(name="beside")(h)
        h = h + nn.Dense(8, name="branch")(beside)  # the very variable that the mark has for value
        Tap(name="unread")(nn.Dense(4, name="lost")(h))
        return nn.Dense(3, name="head")(Tap(name="late")(h))


def test_a_residual_branch_is_bypassed_and_its_halves_overlap():
    network, variables, x = shaped(Branched(), 2, 5, cuts=["stem", "branch", "trunk"])
    prices = by_cut(price_cuts(network, variables, x))
    assert {cut: price.valid for cut, price in prices.items()} == valid_cuts(network, variables, x)
    assert not prices["branch"].valid
    total = prices["logits"]
    stem, branch, trunk, head = 5 * 8 + 8, 8 * 8 + 8, 8 * 6 + 6, 6 * 3 + 3
    assert total.edge_parameters == stem + branch + trunk + head
    assert (prices["branch"].edge_parameters, prices["branch"].cloud_parameters) == (
        stem + branch,
        stem + trunk + head,
    )
    assert prices["branch"].edge_flops + prices["branch"].cloud_flops > total.edge_flops
    assert prices["trunk"].edge_flops + prices["trunk"].cloud_flops == total.edge_flops
    assert (prices["trunk"].edge_parameters, prices["trunk"].cloud_parameters) == (stem + branch + trunk, head)


def test_marks_on_one_value_are_told_apart_as_replacing_them_tells():
    network, variables, x = shaped(Marked(), 2, 5)
    assert network.cuts == ("input", "once", "again", "beside", "unread", "late", "logits")
    prices = by_cut(price_cuts(network, variables, x))
    assert {cut: price.valid for cut, price in prices.items()} == valid_cuts(network, variables, x)
    assert {cut for cut, price in prices.items() if not price.valid} == {"beside", "unread"}
    stem, branch, head = 5 * 8 + 8, 8 * 8 + 8, 8 * 3 + 3
    edges = {cut: (price.edge_parameters, price.cloud_parameters) for cut, price in prices.items()}
    assert edges == {
        "input": (0, stem + branch + head),
        "once": (stem, branch + head),
        "again": (stem, branch + head),
        "beside": (stem, stem + branch + head),
        "unread": (stem + branch + 8 * 4 + 4, stem + branch + head),
        "late": (stem + branch, head),
        "logits": (stem + branch + head, 0),
    }
    assert (prices["input"].edge_flops, prices["input"].edge_memory) == (0, 2 * 5 * 4)
    assert prices["once"].edge_flops == prices["again"].edge_flops == prices["beside"].edge_flops


def test_parameters_of_an_nnx_model_are_its_params():
    rngs = nnx.Rngs(0)
    layers = nnx.Linear(5, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
    model = nnx.Sequential(*layers, nnx.Linear(4, 3, rngs=rngs))
    x = jnp.ones((2, 5))
    first, norm, *_, last = price_cuts(*tap_nnx(model, x), x)
    assert (first.edge_parameters, first.cloud_parameters) == (24, 8 + 15)
    assert (norm.edge_parameters, last.edge_parameters) == (32, 47)


def test_nothing_of_the_network_is_computed_and_real_arrays_price_as_shapes_do():
    network, variables, x = shaped(Branched(), 2, 5)
    assert price_cuts(network, filled(variables), filled(x)) == price_cuts(network, variables, x)


# The halves compute the network --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tapped",
    [
        lambda: shaped(Branched(), 2, 5, cuts=["stem", "trunk"]),
        lambda: shaped(Marked(), 2, 5),
        pytest.param(lambda: zoo("vit", size=16, width=8, depth=0.17, heads=2), marks=pytest.mark.slow),
    ],
    ids=["branched", "marked", "vit"],
)
def test_sections_compute_what_the_network_computes(tapped):
    network, variables, x = tapped()
    traced = trace(network, variables, x)
    variables, x = filled(variables), filled(x, seed=1)
    logits, taps = jax.jit(network)(variables, x)
    values = dict(zip(traced.jaxpr.invars, [*traced.constants, *jax.tree.leaves(variables), x], strict=True))
    values |= {traced.z[cut]: taps[cut] for cut in network.cuts}

    def run(start, end):
        jaxpr = section(traced, start, end).jaxpr
        return jax.jit(jaxpr_as_fun(ClosedJaxpr(jaxpr, [])))(*(values[v] for v in jaxpr.invars))[0]

    valid = [cut for cut, good in valid_cuts(network, variables, x).items() if good]
    for before, cut in itertools.pairwise([None, *valid]):
        np.testing.assert_allclose(run(None, cut), taps[cut], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(run(before, cut), taps[cut], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(run(cut, "logits"), logits, rtol=1e-5, atol=1e-6)


def test_the_edge_begins_with_the_images_as_they_are_sent_in():
    network, variables, _ = zoo("cnn", size=16, width=4)
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.uint8)
    prepared = by_cut(price_cuts(network.after(Prepare(16)), variables, images))["block_1"]
    bare = by_cut(price_cuts(network, variables, jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)))["block_1"]
    assert prepared.edge_flops > bare.edge_flops + 16 * 16 * 3  # resized and normalised, a FLOP a value at least
    assert (prepared.edge_parameters, prepared.cloud_flops) == (bare.edge_parameters, bare.cloud_flops)


# FLOPs ---------------------------------------------------------------------------------------------------------------


class Convolution(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = Tap(name="convolved")(nn.Conv(8, (3, 3), padding=1, use_bias=False)(x))
        return nn.Dense(5)(nn.relu(x).reshape(x.shape[0], -1))


def test_flops_by_hand():
    convolved, logits = price_cuts(*shaped(Convolution(), 2, 6, 6, 4))
    inside = 3 * 6 - 2  # of the 3 x 6 products of a row with its kernel, 2 fall on the padding
    assert convolved.edge_flops == 2 * 2 * inside**2 * 4 * 8
    assert convolved.cloud_flops == 2 * (6 * 6 * 8) + 2 * 2 * (6 * 6 * 8) * 5 + 2 * 5  # relu, product, bias
    assert logits.edge_flops == convolved.edge_flops + convolved.cloud_flops


@pytest.mark.parametrize(
    ("name", "options", "cuts"),
    [
        ("cnn", {"width": 4}, ["block_1", "block_4"]),
        pytest.param("resnet18", {"width": 4, "depth": 0.5}, ["block_1", "block_3"], marks=pytest.mark.slow),
        pytest.param("vit", {"width": 8, "depth": 0.34, "heads": 2}, ["block_1"], marks=pytest.mark.slow),
    ],
)
def test_flops_are_near_those_of_the_compiled_halves(name, options, cuts):
    network, variables, x = zoo(name, size=16, **options)
    prices = by_cut(price_cuts(network, variables, x))
    whole = jax.jit(lambda v, x: network(v, x)[0]).lower(variables, x).cost_analysis()["flops"]
    assert prices["logits"].edge_flops == pytest.approx(whole, rel=1e-6)  # XLA adds up in float32
    for cut in cuts:
        edge, cloud = split_at(network, variables, x, cut)
        z = jax.eval_shape(edge, variables, x)
        compiled = [edge.lower(variables, x).compile(), cloud.lower(variables, z).compile()]
        found = [half.cost_analysis()["flops"] for half in compiled]
        assert [prices[cut].edge_flops, prices[cut].cloud_flops] == pytest.approx(found, rel=0.05)


class Rolled(nn.Module):
    """Seven equal layers, as a scan or one after the other."""

    scanned: bool

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.ones, (4, 4))
        step = jax.jit(lambda x: jnp.tanh(x @ w) + x)  # a call inside the loop
        if self.scanned:
            x, _ = jax.lax.scan(lambda x, _: (step(x), None), x, None, length=7)
        else:
            for _ in range(7):
                x = step(x)
        return nn.Dense(3)(x)


def test_a_scan_costs_what_its_steps_cost():
    scanned, unrolled = (price_cuts(*shaped(Rolled(scanned), 2, 4))[-1] for scanned in (True, False))
    assert scanned.edge_flops == unrolled.edge_flops == 7 * (2 * 2 * 4 * 4 + 2 * 4) + 2 * (2 * 4 * 3 + 3)
    one = 2 * 4 * 4  # bytes of x, of x W, its tanh, their sum
    assert unrolled.edge_memory == 3 * one
    assert scanned.edge_memory == (2 + 1 + 2) * one  # the scan's ends, its step's result, and two inside the step


def test_operations_of_several_results_are_priced():
    class Largest(nn.Module):
        @nn.compact
        def __call__(self, x):
            values, _ = jax.lax.top_k(nn.Dense(6)(x), 2)
            return nn.Dense(3)(values)

    first, *_, last = price_cuts(*shaped(Largest(), 1, 4))
    assert first.cut == "Dense_0"
    assert last.edge_flops - first.edge_flops == first.cloud_flops
    assert 2 * 2 * 3 + 3 <= first.cloud_flops <= 2 * 2 * 3 + 3 + 6 * 6  # XLA's price of a sort of 6 is its own


# Memory --------------------------------------------------------------------------------------------------------------


def test_peak_memory_of_a_chain_by_hand():
    def chain(x, w):
        a = x + x  # 100 floats; x is read once more below
        b = a * x  # x, a and b at once: 300
        c = b.reshape(10, 10) @ w  # b as a square, and 20 floats: 120, or 200 while it is laid out
        return jnp.sum(c)

    jaxpr = jax.make_jaxpr(chain)(jnp.ones(100, jnp.float32), jnp.ones((10, 2), jnp.float32)).jaxpr
    x, w = jaxpr.invars
    assert peak_memory(jaxpr, [x]) == 4 * 300
    assert peak_memory(jaxpr, [x, w]) == 4 * 320  # w counts as an activation if it is one
    assert peak_memory(jaxpr) == 4 * 200
    two = jax.make_jaxpr(lambda x: (x + 1, x * 2))(jnp.ones(100, jnp.float32)).jaxpr
    assert peak_memory(two, two.invars) == 4 * 300  # a result is held to the end
    assert peak_memory(jax.make_jaxpr(lambda x: x)(jnp.ones(7, jnp.float32)).jaxpr) == 0


def test_memory_of_the_edge_holds_what_a_skip_connection_keeps():
    def peak(skip):
        class Net(nn.Module):
            @nn.compact
            def __call__(self, x):
                h = x
                for i in range(3):
                    h = nn.Dense(50, use_bias=False, name=f"dense_{i}")(h)
                return nn.Dense(2, name="head")(Tap(name="late")(x + h if skip else h))

        return by_cut(price_cuts(*shaped(Net(), 1, 50)))["late"].edge_memory

    assert (peak(False), peak(True)) == (4 * 100, 4 * 150)


def test_memory_counts_bytes_of_each_dtype():
    jaxpr = jax.make_jaxpr(lambda x: x.astype(jnp.bfloat16))(jnp.ones(8, jnp.uint8)).jaxpr
    assert peak_memory(jaxpr, jaxpr.invars) == 8 + 16


# Latency -------------------------------------------------------------------------------------------------------------


class Equal(nn.Module):
    """Five layers of one shape."""

    @nn.compact
    def __call__(self, x):
        for i in range(4):
            x = Tap(name=f"cut_{i}")(nn.relu(nn.Dense(4, name=f"dense_{i}")(x)))
        return nn.relu(nn.Dense(4, name="dense_4")(x))


class Clock:
    """``time.perf_counter`` whose differences are given."""

    def __init__(self, *durations):
        self.now, self.durations, self.started = 0.0, list(durations), False

    def __call__(self):
        self.started = not self.started
        self.now += 0 if self.started else self.durations.pop(0)
        return self.now


def test_latency_is_a_sum_of_medians_without_the_warm_up(monkeypatch):
    network, variables, x = shaped(Equal(), 1, 4)
    traced = trace(network, variables, x)
    runs = [[1, 2, 4, 8, 16], [1, 20, 4, 8, 16], [10, 2, 4, 8, 160]]
    clock = Clock(*[1000] * 5, *itertools.chain(*runs))
    monkeypatch.setattr(latency.time, "perf_counter", clock)
    compiled, told, jit = [], [], jax.jit
    monkeypatch.setattr(jax, "jit", lambda f: compiled.append(f) or jit(f))
    timed = time_pieces(traced, filled(variables), filled(x), repeats=3, on_piece=lambda: told.append(1))
    assert timed == {
        "cut_0": (1, 30), "cut_1": (3, 28), "cut_2": (7, 24), "cut_3": (15, 16), "logits": (31, 0)
    }  # fmt: skip
    assert clock.durations == []
    assert len(compiled) == 1  # the five pieces are of one shape
    assert len(told) == 5 + 3


def test_latency_of_whole_halves(monkeypatch):
    network, variables, x = shaped(Equal(), 1, 4)
    traced = trace(network, variables, x)
    monkeypatch.setattr(latency.time, "perf_counter", Clock(1000, 5, 3, 4, 2000, 9, 7, 70, 1000, 6))
    assert time_halves(traced, filled(variables), filled(x), "cut_1", repeats=3) == (4, 9)
    assert time_halves(traced, filled(variables), filled(x), "logits", repeats=1) == (6, 0)


def test_only_valid_cuts_are_timed_and_equal_values_cost_nothing():
    network, variables, x = shaped(Marked(), 2, 5)
    traced = trace(network, variables, x)
    variables, x = filled(variables), filled(x)
    timed = time_pieces(traced, variables, x, repeats=2)
    assert list(timed) == ["input", "once", "again", "late", "logits"]
    assert timed["input"].edge == timed["logits"].cloud == 0
    assert timed["once"] == timed["again"]
    assert len({round(edge + cloud, 9) for edge, cloud in timed.values()}) == 1
    with pytest.raises(UserError, match="cut 'beside' is bypassed"):
        time_halves(traced, variables, x, "beside")
    for timing in (time_pieces, lambda *a, **k: time_halves(*a, "once", **k)):
        with pytest.raises(UserError, match="repeats must be at least 1, got 0"):
            timing(traced, variables, x, repeats=0)


def test_a_run_spread_over_devices_is_timed_on_one():
    network, variables, x = shaped(Equal(), 2, 4)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(filled(variables), jax.NamedSharding(mesh, jax.P()))
    traced = trace(network, spread, x)
    assert {frozenset(value.devices()) for value in latency._values(traced, spread, filled(x)).values()} == {
        frozenset(jax.devices()[:1])
    }
    assert math.isfinite(time_pieces(traced, spread, filled(x), repeats=1)["logits"].edge)
