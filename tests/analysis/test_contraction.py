"""Neural Vortex: fast against plain, against formulae worked out by hand, and against steps that are really taken.

Where a claim is exact or is about a limit, the network runs in float64: the library's own models cast to float32
within, so those networks are written here. What float32 costs is measured beside it.
"""

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from thinned import thinned

from gpz_jax.analysis.class_sums import missing_classes
from gpz_jax.analysis.contraction import feature_terms, feature_terms_by_jacobian, interference, residuals
from gpz_jax.analysis.parameter_space import ParameterTerms, gradient_parts, parameter_terms, realised_change
from gpz_jax.analysis.radius import measure, summarise
from gpz_jax.analysis.readings import readings
from gpz_jax.errors import UserError
from gpz_jax.models import build
from gpz_jax.taps import Tap, TappedNetwork, tap
from gpz_jax.taps_nnx import tap_nnx
from gpz_jax.targets import cross_entropy, soft_targets

ALPHAS = [0.0, 0.3, -0.05]
GAMMA = 0.1
LABELS = np.random.default_rng(0).permutation([0] * 2 + [1] * 5 + [2] * 3 + [3] * 6).astype(np.int32)
N, K = len(LABELS), 4
IMAGES = np.random.default_rng(1).normal(size=(N, 16, 16, 1))

by_jacobian = jax.jit(feature_terms_by_jacobian, static_argnames=("network", "step_size"))


@partial(jax.jit, static_argnames="network")
def matrices(network, variables, x, labels, targets):
    """:func:`interference` at every cut, compiled together."""
    return {cut: interference(network, variables, x, labels, targets, cut=cut, step_size=GAMMA) for cut in network.cuts}


@partial(jax.jit, static_argnames=("network", "cut"))
def jacobians(network, variables, x, cut):
    """All J_i at one cut, ``(N, K, …)``: images do not mix, so the sum of the logits over images has them all."""
    _, taps = network(variables, x)
    j = jax.jacrev(lambda z: jnp.sum(network(variables, x, replace={cut: z})[0], axis=0))(taps[cut])
    return jnp.moveaxis(j, 0, 1)


run = jax.jit(lambda variables, x, network: network(variables, x), static_argnames="network")


def assert_close(found, expected, tolerance, message=""):
    """Relative to the largest of them: a class whose terms nearly cancel is no more accurate than the others."""
    size = np.max(np.abs(expected), initial=0)
    assert np.isfinite(size), message  # two NaN would agree
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * size, err_msg=message)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


# Networks -------------------------------------------------------------------------------------------------------------


def batch_norm(x, train, **kwargs):
    # Flax's norms promote to float32 at least, which strict promotion takes for mixing that with float64.
    norm = nn.BatchNorm(not train, momentum=0.9, param_dtype=x.dtype, force_float32_reductions=False, **kwargs)
    return norm(x)


def layer_norm(x, **kwargs):
    return nn.LayerNorm(param_dtype=x.dtype, force_float32_reductions=False, **kwargs)(x)


class Convolutional(nn.Module):
    """Batch norm and a nonlinearity after each of two convolutions."""

    nonlinear: Callable = nn.relu

    @nn.compact
    def __call__(self, x, train=False):
        for n in (1, 2):
            x = nn.Conv(3, (3, 3), strides=3, name=f"conv_{n}")(x)
            x = batch_norm(x, train, name=f"norm_{n}")
            x = Tap(name=f"block_{n}")(self.nonlinear(x))
        return nn.Dense(K, name="head")(x.reshape(len(x), -1))


class Residual(nn.Module):
    """A tap within the residual branch, which the skip connection bypasses, and taps around it."""

    @nn.compact
    def __call__(self, x, train=False):
        x = Tap(name="stem")(nn.relu(nn.Conv(3, (3, 3), strides=4, name="conv_1")(x)))
        branch = batch_norm(nn.Conv(3, (3, 3), name="conv_2")(x), train, name="norm")
        x = Tap(name="sum")(nn.relu(x + Tap(name="branch")(branch)))
        return nn.Dense(K, name="head")(jnp.mean(x, axis=(1, 2)))


class Attentive(nn.Module):
    """Patches, a class token, attention and a layer norm before it."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (8, 8), strides=8, name="patches")(x).reshape(len(x), -1, 6)
        first = self.param("first_token", nn.initializers.zeros_init(), (1, 1, 6))
        x = Tap(name="tokens")(jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, 6)), x], axis=1))
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(layer_norm(x, name="norm_1"))
        x = x + nn.Dense(6, name="mlp")(nn.gelu(layer_norm(x, name="norm_2")))
        x = Tap(name="class_token")(Tap(name="block")(x)[:, 0])
        return nn.Dense(K, name="head")(x)


class Case(NamedTuple):
    network: TappedNetwork
    variables: Any
    x: Any
    labels: Any

    def targets(self, alpha):
        return soft_targets(self.labels, K, jnp.asarray(alpha, self.x.dtype))

    def given(self, alpha):
        """The arguments that all terms of feature space share."""
        return self.network, self.variables, self.x, self.labels, self.targets(alpha)


def filled(shapes, dtype, seed):
    """Variables of these shapes, none of them trivial: biases and running statistics are not 0 and 1 either."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name, noise = path[-1].key, rng.normal(size=leaf.shape)
        if name == "var":
            value = np.exp(noise / 2)
        elif name == "scale":
            value = 1 + 0.2 * noise
        elif name == "kernel":  # of size 1 at the output; an attention's output kernel takes heads and features in
            value = noise * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            value = 0.3 * noise
        return jnp.asarray(value, dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def case_of(model, x, dtype, *, cuts=None, seed=2):
    variables = filled(shapes_of(model, x), dtype, seed)
    x = jnp.asarray(x, dtype)
    return Case(tap(model, variables, x, cuts=cuts), variables, x, jnp.asarray(LABELS))


def shapes_of(model, x):
    with jax.enable_x64(False):  # initialisers differ in what they make of float64, and strict promotion minds
        return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(x.shape, jnp.float32))


EXACT = {
    "convolutional": Convolutional(),
    "residual": Residual(),
    "attentive": Attentive(),
    "smooth": Convolutional(nn.silu),
}


@cache
def exact(name):
    """In float64."""
    with jax.enable_x64(True):
        return case_of(EXACT[name], IMAGES, jnp.float64)


LIBRARY = {  # with the cuts that are worth their compiling
    "cnn": (partial(build, "cnn", width=2), ["block_1", "block_4", "fc"]),
    "resnet18": (partial(build, "resnet18", width=2, depth=0.25), ["block_2", "block_5", "block_6"]),
    "vit": (partial(build, "vit", width=8, heads=2, patch=8, depth=0.17), None),
}


@cache
def library(name):
    """In float32."""
    model, cuts = LIBRARY[name]
    return case_of(model(num_classes=K, size=16), IMAGES, jnp.float32, cuts=cuts)


@cache
def small(dtype=jnp.float32):
    """In float32 or less, and quickly compiled."""
    return case_of(Residual(), IMAGES, dtype)


# Feature space: the fast way, the definition, and the single jvp ------------------------------------------------------


def assert_three_ways_agree(case, alpha, tolerance):
    fast = feature_terms(*case.given(alpha), step_size=GAMMA)
    plain = by_jacobian(*case.given(alpha), step_size=GAMMA)
    pulls = matrices(*case.given(alpha))
    assert tuple(fast) == case.network.cuts
    for cut, terms in fast.items():
        for name, found, expected in zip(terms._fields, terms, plain[cut], strict=True):
            assert found.dtype == case.x.dtype
            assert_close(found, expected, tolerance, f"{cut} {name}")
        own = np.diag(pulls[cut])
        assert_close(own, terms.correct, tolerance, cut)
        assert_close(np.sum(pulls[cut], axis=1) - own, terms.wrong, tolerance, cut)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", thinned(["convolutional", "residual", "attentive"], ["residual"]))
def test_three_ways_agree_in_float64(name, alpha):
    assert_three_ways_agree(exact(name), alpha, 1e-9)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", thinned(list(LIBRARY), []))
def test_three_ways_agree_in_float32(name, alpha):
    assert_three_ways_agree(library(name), alpha, 1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("alpha", ALPHAS)
def test_against_finite_loops(alpha):
    """J_i from one more route than the library's, everything after it in NumPy."""
    case = exact("residual")
    logits, taps = run(case.variables, case.x, case.network)
    q = oracles.soft_targets(LABELS, K, alpha)
    fast = feature_terms(*case.given(alpha), step_size=GAMMA)
    pulls = matrices(*case.given(alpha))
    for cut in case.network.cuts:
        j = jacobians(case.network, case.variables, case.x, cut)
        *expected, matrix = oracles.feature_terms(taps[cut], j, logits, q, LABELS, GAMMA)
        for found, terms in zip(fast[cut], expected, strict=True):
            assert_close(found, terms, 1e-9, cut)
        assert_close(pulls[cut], matrix, 1e-9, cut)


@cache
def untrained():
    """As initialised, where training starts: all images get nearly the same logits, so that all g_i of a class are
    nearly the same. Sums that count on their common part to cancel have little left.
    """
    case = library("cnn")
    return case._replace(variables=jax.jit(case.network.model.init)(jax.random.key(0), case.x))


@pytest.mark.thorough
@pytest.mark.parametrize("way", thinned(["fast", "by jacobian", "single jvp"], ["fast"]))
def test_an_untrained_network_in_float32(way):
    case = untrained()
    logits, taps = run(case.variables, case.x, case.network)
    if way == "fast":
        found = feature_terms(*case.given(0.0), step_size=GAMMA)
    elif way == "by jacobian":
        found = by_jacobian(*case.given(0.0), step_size=GAMMA)
    else:
        found = {cut: (np.diag(m), np.sum(m, axis=1) - np.diag(m)) for cut, m in matrices(*case.given(0.0)).items()}
    for cut in case.network.cuts[1:]:
        j = jacobians(case.network, case.variables, case.x, cut)
        expected = oracles.feature_terms(taps[cut], j, logits, np.eye(K)[LABELS], LABELS, GAMMA)
        for name, term, truth in zip(("correct", "wrong", "second"), found[cut], expected, strict=False):
            # Known to 3e-4, no better: the g_i differ by a thousandth of themselves, and are themselves rounded.
            assert_close(term, truth, 1e-3, f"{cut} {name}")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["convolutional", "attentive"])
def test_moving_z_against_its_gradient_does_exactly_this(name):
    """R_c² of z_i - γ g_i less R_c² of z_i is correct + wrong + second: nothing is left out, however large γ is."""
    case, gamma = exact(name), 2.0
    _, taps = run(case.variables, case.x, case.network)
    terms = feature_terms(*case.given(0.3), step_size=gamma)

    def loss(z, cut):
        logits, _ = case.network(case.variables, case.x, replace={cut: z})
        return jnp.sum(cross_entropy(logits, case.targets(0.3)))

    for cut in case.network.cuts:
        z = taps[cut]
        moved = z - gamma * jax.jit(jax.grad(loss), static_argnums=1)(z, cut)
        change = oracles.radius(moved, LABELS, K) - oracles.radius(z, LABELS, K)
        assert_close(sum(terms[cut]), change, 1e-9, cut)
        assert np.all(np.asarray(terms[cut].second) > 1e-6 * np.abs(change))  # else this could not see it


# A linear network, by hand --------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """z = x A, s = z B."""

    @nn.compact
    def __call__(self, x):
        z = Tap(name="edge")(nn.Dense(3, use_bias=False, name="first")(x))
        return nn.Dense(K, use_bias=False, name="second")(z)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_linear_network_by_hand(alpha):
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(3, K))
    x, train_x = rng.normal(size=(N, 5)), rng.normal(size=(9, 5))
    train_labels = np.array([0, 1, 2, 3, 3, 2, 1, 0, 0])

    def split(r, labels):
        own = np.eye(K)[labels]
        return r * own, r * (1 - own)

    def average(values):  # over the images of each class
        return np.array([values[c == LABELS].mean(axis=0) for c in range(K)])

    def dot(u, v):
        return np.sum(u * v, axis=1)

    z, s = x @ a, x @ a @ b
    d = {"edge": z - average(z)[LABELS], "logits": s - average(s)[LABELS]}
    r_correct, r_wrong = split(oracles.softmax(s) - oracles.soft_targets(LABELS, K, alpha), LABELS)

    # Feature space. J_i = B^T at the edge and 1 at the logits: g_i = B r_i, and r_i.
    g_correct, g_wrong = {"edge": r_correct @ b.T, "logits": r_correct}, {"edge": r_wrong @ b.T, "logits": r_wrong}
    model = Linear()

    def variables(a, b):
        return {"params": {"first": {"kernel": jnp.asarray(a)}, "second": {"kernel": jnp.asarray(b)}}}

    network = tap(model, variables(a, b), jnp.asarray(x))
    targets = soft_targets(jnp.asarray(LABELS), K, jnp.asarray(alpha, float))
    feature = feature_terms(network, variables(a, b), jnp.asarray(x), LABELS, targets, step_size=GAMMA)
    for cut in ("edge", "logits"):
        g = g_correct[cut] + g_wrong[cut]
        assert_close(feature[cut].correct, -2 * GAMMA * average(dot(d[cut], g_correct[cut])), 1e-12, cut)
        assert_close(feature[cut].wrong, -2 * GAMMA * average(dot(d[cut], g_wrong[cut])), 1e-12, cut)
        off_mean = g - average(g)[LABELS]
        assert_close(feature[cut].second, GAMMA**2 * average(dot(off_mean, off_mean)), 1e-12, cut)

    # Parameter space. With n training images x', r' their p' - q':  dA = -(γ/n) x'^T r' B^T,  dB = -(γ/n) z'^T r'.
    def against(r):
        return -GAMMA / len(train_x) * train_x.T @ r @ b.T, -GAMMA / len(train_x) * (train_x @ a).T @ r

    def moves(da, db):  # dz_i = x_i dA,  ds_i = x_i dA B + z_i dB
        return {"edge": x @ da, "logits": x @ da @ b + z @ db}

    train_targets = oracles.soft_targets(train_labels, K, alpha)
    of_correct, of_wrong = split(oracles.softmax(train_x @ a @ b) - train_targets, train_labels)
    by_correct, by_wrong = moves(*against(of_correct)), moves(*against(of_wrong))

    # A step that is not SGD's, so that the optimiser's term is its own.
    da, db = 0.3 * rng.normal(size=a.shape), 0.3 * rng.normal(size=b.shape)
    by_step = moves(da, db)
    beyond = {"edge": np.zeros_like(z), "logits": x @ da @ db}  # what the network adds to dz_i in second order

    before, after = variables(a, b), variables(a + da, b + db)
    parts = gradient_parts(
        lambda params: model.apply({"params": params}, jnp.asarray(train_x)),
        before["params"],
        jnp.asarray(train_labels),
        jnp.asarray(train_targets),
    )
    found = parameter_terms(network, before, after, jnp.asarray(x), LABELS, parts, num_classes=K, step_size=GAMMA)
    for cut in ("edge", "logits"):
        move = by_step[cut] + beyond[cut]
        move = move - average(move)[LABELS]
        quadratic = 2 * average(dot(d[cut], beyond[cut])) + average(dot(move, move))
        optimiser = 2 * average(dot(d[cut], by_step[cut]))
        assert_close(found[cut].correct, 2 * average(dot(d[cut], by_correct[cut])), 1e-12, cut)
        assert_close(found[cut].wrong, 2 * average(dot(d[cut], by_wrong[cut])), 1e-12, cut)
        assert_close(found[cut].optimiser, optimiser, 1e-12, cut)
        np.testing.assert_array_equal(found[cut].statistics, 0)  # there are none
        assert_close(found[cut].realised, optimiser + quadratic, 1e-12, cut)
        assert_close(found[cut].residual, quadratic, 1e-11, cut)  # what is left of two larger numbers


# Steps really taken ---------------------------------------------------------------------------------------------------

OPTIMISERS = {
    "sgd": optax.sgd,
    "momentum and decay": lambda lr: optax.chain(optax.add_decayed_weights(0.01), optax.sgd(lr, momentum=0.9)),
    "amsgrad": optax.amsgrad,
}
STEPS = 1e-3 * 2.0 ** -np.arange(5)


@partial(jax.jit, static_argnames="model")
def training_gradients(params, statistics, x, labels, targets, *, model):
    """Both parts of the gradient as training sees it, with the batch's own statistics, and where those then are."""
    _, new = model.apply({"params": params, "batch_stats": statistics}, x, train=True, mutable=["batch_stats"])

    def logits_of(params):
        values = {"params": params, "batch_stats": statistics}
        return model.apply(values, x, train=True, mutable=["batch_stats"])[0]

    return gradient_parts(logits_of, params, labels, targets), new["batch_stats"]


class Taken(NamedTuple):
    """One step of some size: the terms; and R_c² of every cut by NumPy before it, at θ' with the old statistics, at θ
    with the new ones, after it, and at θ ± 0.01 (θ' - θ).
    """

    terms: dict[str, ParameterTerms]
    start: dict
    moved: dict
    renewed: dict
    end: dict
    ahead: dict
    behind: dict


@cache
def taken(optimiser):
    """Steps of every size from one point, after three steps that fill the optimiser's state."""
    with jax.enable_x64(True):
        case = exact("smooth")
        model, transform = case.network.model, OPTIMISERS[optimiser]
        rng = np.random.default_rng(4)
        x, labels = jnp.asarray(1 + 2 * rng.normal(size=(12, *case.x.shape[1:]))), jnp.asarray(np.arange(12) % K)
        gradients = partial(training_gradients, x=x, labels=labels, targets=soft_targets(labels, K, 0.3), model=model)
        whole = partial(jax.tree.map, jnp.add)

        @jax.jit
        def update(grad, state, params, lr):
            with jax.numpy_dtype_promotion("standard"):  # optax raises Python numbers to the power of its count
                return transform(lr).update(grad, state, params)

        params, statistics = case.variables["params"], case.variables["batch_stats"]
        state = transform(1.0).init(params)
        for _ in range(3):
            parts, statistics = gradients(params, statistics)
            step, state = update(whole(*parts), state, params, 0.01)
            params = optax.apply_updates(params, step)
        parts, new_statistics = gradients(params, statistics)

        def at(params, statistics):
            return {"params": params, "batch_stats": statistics}

        def radii(params, statistics):
            _, taps = run(at(params, statistics), case.x, case.network)
            return {cut: oracles.radius(taps[cut], LABELS, K) for cut in case.network.cuts}

        found = []
        for lr in STEPS:
            step, _ = update(whole(*parts), state, params, lr)
            after = optax.apply_updates(params, step)
            terms = parameter_terms(
                case.network, at(params, statistics), at(after, new_statistics), case.x, LABELS, parts,
                num_classes=K, step_size=lr,
            )  # fmt: skip
            terms = jax.tree.map(np.asarray, terms)  # tests look at them when float64 is off again
            ahead, behind = (jax.tree.map(lambda p, s, h=h: p + h * s, params, step) for h in (0.01, -0.01))
            found.append(
                Taken(
                    terms,
                    radii(params, statistics),
                    radii(after, statistics),
                    radii(params, new_statistics),
                    radii(after, new_statistics),
                    radii(ahead, statistics),
                    radii(behind, statistics),
                )
            )
        return case.network.cuts, found


def order_of(errors):
    """The power of the step's size with which errors (one a size, over classes) fall."""
    return np.polyfit(np.log(STEPS), np.log([np.linalg.norm(e) for e in errors]), 1)[0]


@pytest.mark.thorough
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_what_a_step_did(optimiser):
    """Realised and statistics are differences of radii, the optimiser's term is a derivative along the step."""
    cuts, steps = taken(optimiser)
    for step in steps:
        for cut in cuts:
            terms = step.terms[cut]
            assert {term.dtype.name for term in terms} == {"float64"}
            size = np.max(step.start[cut])
            np.testing.assert_allclose(terms.realised, step.end[cut] - step.start[cut], atol=1e-12 * size)
            np.testing.assert_allclose(terms.statistics, step.end[cut] - step.moved[cut], atol=1e-12 * size)
            # Central difference: its error is of third order in a hundredth of the step.
            along = (step.ahead[cut] - step.behind[cut]) / 0.02
            np.testing.assert_allclose(terms.optimiser, along, rtol=1e-6, atol=1e-11 * size)
            total = terms.optimiser + terms.statistics + terms.residual
            np.testing.assert_allclose(terms.realised, total, rtol=0, atol=1e-13 * size)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_the_residual_is_of_second_order(optimiser):
    cuts, steps = taken(optimiser)
    for cut in cuts:
        assert order_of([step.terms[cut].residual for step in steps]) == pytest.approx(2, abs=0.1)
        assert order_of([step.terms[cut].optimiser for step in steps]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_statistics_before_the_parameters_would_leave_first_order(optimiser):
    """Why they come after: how much the statistics do depends on θ, and they move as far however small the step is."""
    cuts, steps = taken(optimiser)
    for cut in cuts:
        first = [step.renewed[cut] - step.start[cut] for step in steps]
        left = [s.terms[cut].realised - s.terms[cut].optimiser - f for s, f in zip(steps, first, strict=True)]
        assert order_of(left) == pytest.approx(1, abs=0.1)
        moved = [np.linalg.norm(step.terms[cut].statistics) for step in steps]
        assert moved[-1] == pytest.approx(moved[0], rel=0.05)
        assert moved[-1] > 10 * np.linalg.norm(steps[-1].terms[cut].optimiser)


def test_sgd_is_correct_and_wrong_and_nothing_else():
    cuts, steps = taken("sgd")
    for step in steps:
        for cut in cuts:
            terms = step.terms[cut]
            assert_close(terms.correct + terms.wrong, terms.optimiser, 1e-9, cut)


@pytest.mark.parametrize("optimiser", ["momentum and decay", "amsgrad"])
def test_other_optimisers_are_more(optimiser):
    cuts, steps = taken(optimiser)
    for cut in cuts:
        terms = steps[0].terms[cut]
        assert np.linalg.norm(terms.optimiser - terms.correct - terms.wrong) > 0.1 * np.linalg.norm(terms.optimiser)


@pytest.mark.usefixtures("x64")
def test_the_parts_of_the_gradient():
    """Their sum is the gradient of the loss; each is that of the loss with the other logits' share held fixed."""
    case = exact("smooth")
    targets, params = case.targets(-0.05), case.variables["params"]

    def logits_of(params):
        return case.network({**case.variables, "params": params}, case.x)[0]

    correct, wrong = jax.jit(lambda p: gradient_parts(logits_of, p, case.labels, targets))(params)
    own = jnp.eye(K)[case.labels]

    def loss(params, let_through):
        s = logits_of(params)
        return jnp.mean(cross_entropy(s * let_through + jax.lax.stop_gradient(s) * (1 - let_through), targets))

    of = jax.jit(jax.grad(loss))
    for found, let_through in ((correct, own), (wrong, 1 - own), (jax.tree.map(jnp.add, correct, wrong), own * 0 + 1)):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(of(params, let_through)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-14)


# Where a network stands -----------------------------------------------------------------------------------------------


def assert_readings(case, alpha, tolerance):
    """Every reading by its definition; returns those of the single images."""
    logits, taps = jax.tree.map(np.asarray, run(case.variables, case.x, case.network))
    found = readings(*case.given(alpha))
    assert set(found.radius) == set(found.within) == set(found.rho) == set(case.network.cuts)
    for cut in case.network.cuts:
        within, between, rho = oracles.scatter(taps[cut], LABELS)
        np.testing.assert_allclose(found.radius[cut], oracles.radius(taps[cut], LABELS, K), rtol=tolerance)
        np.testing.assert_allclose(found.within[cut], within, rtol=tolerance)
        np.testing.assert_allclose(found.rho[cut], rho, rtol=tolerance)
        np.testing.assert_allclose(found.between[cut], between, rtol=10 * tolerance)

    p, q = oracles.softmax(logits), oracles.soft_targets(LABELS, K, alpha)
    own = p[np.arange(N), LABELS]
    of_images = {
        "coefficient": own - 1 + alpha,
        "past_flip": own > 1 - alpha,
        "entropy": oracles.entropy(logits),
        "accuracy": np.argmax(logits, axis=1) == LABELS,
        "loss": oracles.cross_entropy(logits, q),
    }
    for name, values in of_images.items():
        expected = [np.mean(values[c == LABELS]) for c in range(K)]
        assert_close(getattr(found, name), expected, tolerance, name)
    return of_images


@pytest.mark.parametrize("alpha", ALPHAS)
def test_readings(alpha):
    of_images = assert_readings(small(), alpha, 1e-5)
    assert 0 < np.mean(of_images["accuracy"]) < 1
    assert (0 < np.mean(of_images["past_flip"]) < 1) == (alpha == 0.3)  # elsewhere q_c is out of reach


@pytest.mark.usefixtures("x64")
def test_readings_in_float64():
    assert_readings(exact("residual"), 0.3, 1e-12)


def test_readings_are_those_of_the_streamed_probe():
    case = small()
    found = readings(*case.given(0.0))
    streamed = summarise(measure(case.network, case.variables, [(case.x, case.labels, jnp.ones(N, bool))], K))
    for cut in case.network.cuts:
        np.testing.assert_allclose(found.radius[cut], streamed[cut].radius, rtol=1e-5)
        np.testing.assert_allclose(found.within[cut], streamed[cut].within, rtol=1e-5)
        np.testing.assert_allclose(found.rho[cut], streamed[cut].rho, rtol=1e-5)


class Stretched(nn.Module):
    """z = x stretch + shift, and logits that are some of them."""

    @nn.compact
    def __call__(self, x):
        stretch = self.param("stretch", nn.initializers.ones_init(), (1,))
        shift = self.param("shift", nn.initializers.zeros_init(), (1,))
        return Tap(name="z")(x * stretch + shift)[:, :K]


class Stretch(NamedTuple):
    """One move of a :class:`Stretched`, and R_c² at z before and after, from its own float32 z but in float64."""

    network: TappedNetwork
    x: Any
    before: Any
    after: Any
    start: Any
    end: Any


def stretched(mean, shift, stretch):
    """Images around ``mean``, shifted in common and stretched a little, by way of the parameters."""
    x = jnp.asarray(mean + np.random.default_rng(5).normal(size=(N, 400)), jnp.float32)
    before, after = (
        {"params": {"stretch": jnp.full(1, a, jnp.float32), "shift": jnp.full(1, b, jnp.float32)}}
        # stretched about the mean, so that only ``shift`` moves that
        for a, b in ((1, 0), (1 + stretch, shift - mean * stretch))
    )
    network = tap(Stretched(), before, x)
    start, end = (oracles.radius(run(v, x, network)[1]["z"], LABELS, K) for v in (before, after))
    return Stretch(network, x, before, after, start, end)


def test_realised_change_is_the_difference_of_radii():
    case = exact("smooth")
    with jax.enable_x64(True):
        after = filled(case.variables, jnp.float64, 6)
        found = realised_change(case.network, case.variables, after, case.x, case.labels, num_classes=K)
        start, end = (run(v, case.x, case.network)[1] for v in (case.variables, after))
        for cut in case.network.cuts:
            change = oracles.radius(end[cut], LABELS, K) - oracles.radius(start[cut], LABELS, K)
            assert_close(found[cut], change, 1e-12, cut)


@pytest.mark.parametrize(("mean", "stretch"), [(0, 1e-6), (1e3, 1e-4)])
def test_realised_change_sees_what_a_difference_in_float32_loses(mean, stretch):
    case = stretched(mean, 0, stretch)
    change = case.end - case.start
    targets = jnp.eye(K)[LABELS]
    start, end = (readings(case.network, v, case.x, jnp.asarray(LABELS), targets).radius["z"] for v in case[2:4])
    found = realised_change(case.network, case.before, case.after, case.x, jnp.asarray(LABELS), num_classes=K)["z"]
    assert_close(found, change, 1e-4)
    assert np.max(np.abs((end - start) - change)) > 10 * np.max(np.abs(found - change))
    if mean == 0:
        assert np.max(np.abs((end - start) - change)) > 0.01 * np.max(change)


@pytest.mark.parametrize(("mean", "shift", "stretch"), [(0, 10, 1e-3), (1e3, 1, 1e-3)])
def test_what_all_images_do_together_does_not_drown_what_they_do_apart(mean, shift, stretch):
    """A step moves biases and batch-norm means, and with them all z_i alike: that part of the moves changes nothing."""
    case = stretched(mean, shift, stretch)
    labels, nothing = jnp.asarray(LABELS), jax.tree.map(jnp.zeros_like, case.before["params"])
    change = realised_change(case.network, case.before, case.after, case.x, labels, num_classes=K)["z"]
    terms = parameter_terms(
        case.network, case.before, case.after, case.x, LABELS, (nothing, nothing), num_classes=K, step_size=1.0
    )["z"]
    update = jax.tree.map(lambda new, old: np.float64(new - old), case.after["params"], case.before["params"])
    moves = np.float64(case.x) * update["stretch"] + update["shift"]
    assert_close(terms.optimiser, oracles.first_order(case.x, moves, LABELS, K), 1e-4)
    assert_close(change, case.end - case.start, 1e-4)
    assert_close(terms.realised, case.end - case.start, 1e-4)


# NNX ------------------------------------------------------------------------------------------------------------------


class OfLinen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.BatchNorm(True, name="norm")(nn.Dense(6, name="first")(x)))
        return nn.Dense(K, name="second")(nn.Dropout(0.5, deterministic=True, name="drop")(x))


class OfNNX(nnx.Module):
    """The same; its state also holds keys and counters, which nothing can be differentiated by."""

    def __init__(self, rngs):
        self.first = nnx.Linear(5, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Linear(6, K, rngs=rngs)

    def __call__(self, x):
        return self.second(self.drop(nnx.tanh(self.norm(self.first(x)))))


@pytest.mark.slow
def test_an_nnx_model_has_the_terms_of_its_linen_twin():
    rng = np.random.default_rng(7)
    x = jnp.asarray(rng.normal(size=(N, 5)), jnp.float32)
    theirs, state = tap_nnx(OfNNX(nnx.Rngs(0)), x, cuts=["first", "norm", "drop"])
    params, statistics, rest = nnx.split_state(state, nnx.Param, nnx.BatchStat, ...)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
    statistics = jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.5, 2, s.shape), s.dtype), statistics)
    assert jax.tree.leaves(rest)
    labels, targets = jnp.asarray(LABELS), soft_targets(jnp.asarray(LABELS), K, 0.3)

    def twin(params, statistics):
        return {"params": nnx.to_pure_dict(params), "batch_stats": nnx.to_pure_dict(statistics)}

    ours = tap(OfLinen(), twin(params, statistics), x, cuts=["first", "norm", "drop"])
    assert ours.cuts == theirs.cuts

    def terms(network, join, linen):
        """Of both spaces, from one SGD step on other images, in which the statistics move too."""
        seen = jnp.roll(x, 1, axis=0) + 0.5

        def logits_of(params):
            return network(join(params, statistics), seen)[0]

        at = nnx.to_pure_dict(params) if linen else params
        parts = jax.jit(lambda p: gradient_parts(logits_of, p, labels, targets))(at)
        moved = jax.tree.map(lambda p, a, b: p - GAMMA * (a + b), at, *parts)
        renewed = jax.tree.map(lambda s: 0.9 * s + 0.1, statistics)
        before, after = join(at, statistics), join(moved, renewed)
        feature = feature_terms(network, before, x, labels, targets, step_size=GAMMA)
        return feature, parameter_terms(network, before, after, x, labels, parts, num_classes=K, step_size=GAMMA)

    of_nnx = terms(theirs, lambda p, s: nnx.merge_state(p, s, rest), linen=False)
    of_linen = terms(ours, lambda p, s: {"params": p, "batch_stats": nnx.to_pure_dict(s)}, linen=True)
    for found, expected in zip(of_nnx, of_linen, strict=True):
        for cut in ours.cuts:
            for name, a, b in zip(found[cut]._fields, found[cut], expected[cut], strict=True):
                assert_close(a, np.asarray(b), 1e-5, f"{cut} {name}")
    assert np.all(of_nnx[1]["norm"].statistics != 0)
    np.testing.assert_array_equal(of_nnx[1]["first"].statistics, 0)  # before the batch norm


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize(("left", "images"), [(0, "0 images"), (1, "1 image")])
def test_a_class_of_none_or_one_is_nan_and_named_once(left, images):
    case = small()
    few = np.flatnonzero(LABELS == 2)[left:]
    labels = LABELS.copy()
    labels[few] = 3  # as many images as before, so that nothing is compiled anew
    parts = (jax.tree.map(jnp.ones_like, case.variables["params"]),) * 2
    after = jax.tree.map(lambda v: v + 0.01, case.variables)
    targets = soft_targets(jnp.asarray(labels), K, 0.3)
    with pytest.warns(UserWarning, match="class 2") as feature_warnings:
        feature = feature_terms(case.network, case.variables, case.x, labels, targets, step_size=GAMMA)
    with pytest.warns(UserWarning, match="class 2") as parameter_warnings:
        parameter = parameter_terms(
            case.network, case.variables, after, case.x, labels, parts, num_classes=K, step_size=GAMMA
        )
    for caught in (feature_warnings, parameter_warnings):
        said = f"class 2 has {images}: a radius needs two, their terms are NaN"
        assert [str(warning.message) for warning in caught] == [said]
    pulls = matrices(case.network, case.variables, case.x, jnp.asarray(labels), targets)
    where = readings(case.network, case.variables, case.x, jnp.asarray(labels), targets)
    change = realised_change(case.network, case.variables, after, case.x, jnp.asarray(labels), num_classes=K)
    for cut in case.network.cuts:
        for term in (*feature[cut], *parameter[cut], where.radius[cut], change[cut], np.sum(pulls[cut], axis=1)):
            assert np.isnan(term).tolist() == [False, False, True, False]
        assert np.isfinite(where.rho[cut])
    for outputs in where[4:]:
        assert np.isnan(outputs).tolist() == [False, False, left == 0, False]


def test_there_is_no_warning_of_traced_labels():
    """As when the ledger compiles all of it into one function; then it is for the caller to say it beforehand."""
    case, labels = exact("smooth"), np.zeros(N, np.int32)
    assert missing_classes(labels, 8).startswith("class 1 has 0 images, class 2 has 0 images")
    assert missing_classes(labels, 8).endswith(
        "class 5 has 0 images and 2 more: a radius needs two, their terms are NaN"
    )
    assert missing_classes(LABELS, K) is None
    with warnings.catch_warnings(), jax.enable_x64(True):
        warnings.simplefilter("error")
        terms = jax.eval_shape(
            lambda labels: feature_terms(
                case.network, case.variables, case.x, labels, case.targets(0.0), step_size=GAMMA
            ),
            jnp.asarray(labels),
        )
    assert terms["logits"].second.shape == (K,)


def test_a_cut_that_the_network_does_not_have():
    case = exact("smooth")
    with jax.enable_x64(True), pytest.raises(UserError, match="unknown cut 'blok_2'; did you mean 'block_2'") as raised:
        interference(*case.given(0.0), cut="blok_2", step_size=GAMMA)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("what", ["no parameters", "parameters alone"])
def test_variables_without_params(what):
    case = exact("smooth")
    with jax.enable_x64(True):
        bad = {"batch_stats": case.variables["batch_stats"]} if what == "no parameters" else case.variables["params"]
        parts = (case.variables["params"],) * 2
        for before, after in ((bad, case.variables), (case.variables, bad)):
            with pytest.raises(UserError, match="the variables hold no 'params'; give all variables") as raised:
                parameter_terms(case.network, before, after, case.x, LABELS, parts, num_classes=K, step_size=GAMMA)
            assert len(str(raised.value).splitlines()) == 1


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.tanh(nn.Dense(6, name="dense")(x)), None


class Wrapped(nn.Module):
    how: Callable

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="stem")(x)
        x, _ = self.how(Inner)(name="cells")(x, None)
        return nn.Dense(K, name="head")(x)


SCANNED = partial(nn.scan, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)


@pytest.mark.parametrize("how", thinned({"remat": nn.remat, "scan": SCANNED}, ["scan"]))
def test_within_remat_and_scan_there_are_no_terms_but_around_them_there_are(how):
    x = IMAGES.reshape(N, -1)[:, :5]
    with jax.enable_x64(True):
        model = Wrapped(how)
        variables, x = filled(shapes_of(model, x), jnp.float64, 8), jnp.asarray(x)
        with pytest.raises(
            UserError, match=r"cut 'cells/dense' lies inside nn.scan, nn.remat .* outside of it"
        ) as said:
            tap(model, variables, x, cuts=["cells/dense"])
        assert len(str(said.value).splitlines()) == 1
        case = case_of(model, x, jnp.float64, cuts=["stem"])
        assert_three_ways_agree(case, 0.3, 1e-9)


# Properties -----------------------------------------------------------------------------------------------------------

few_examples = settings(max_examples=15, deadline=None)


@few_examples
@given(st.permutations(range(N)))
def test_the_order_of_the_images_does_not_matter(order):
    order = np.array(order)
    case = exact("smooth")
    with jax.enable_x64(True):
        other = case._replace(x=case.x[order], labels=case.labels[order])
        parts, after = _some_step(case)
        for of in (
            lambda case: feature_terms(*case.given(0.3), step_size=GAMMA),
            lambda case: parameter_terms(
                case.network, case.variables, after, case.x, case.labels, parts, num_classes=K, step_size=GAMMA
            ),
        ):
            for a, b in zip(jax.tree.leaves(of(case)), jax.tree.leaves(of(other)), strict=True):
                assert_close(a, b, 1e-12)


def _some_step(case):
    """Parts of a gradient and variables after a step, neither of them from training."""
    parts = tuple(filled(case.variables["params"], jnp.float64, seed) for seed in (10, 11))
    return parts, jax.tree.map(lambda v: 1.1 * v, case.variables)


@few_examples
@given(st.floats(1e-6, 10), st.sampled_from(ALPHAS))
def test_first_order_is_linear_and_second_quadratic_in_the_step_size(gamma, alpha):
    case = exact("smooth")
    with jax.enable_x64(True):
        parts, after = _some_step(case)

        def of(step_size):
            parameter = parameter_terms(
                case.network, case.variables, after, case.x, LABELS, parts, num_classes=K, step_size=step_size
            )
            return feature_terms(*case.given(alpha), step_size=step_size), parameter

        for one, other in zip(of(1.0), of(gamma), strict=True):
            for cut in case.network.cuts:
                for name, a, b in zip(one[cut]._fields, one[cut], other[cut], strict=True):
                    # What the step did to R_c² is done, whatever γ is said to be.
                    power = {"correct": 1, "wrong": 1, "second": 2}.get(name, 0)
                    assert_close(b, np.asarray(a) * gamma**power, 1e-12, f"{cut} {name}")


@pytest.mark.usefixtures("x64")
def test_images_that_come_twice_change_nothing():
    case = exact("smooth")
    twice = case._replace(x=jnp.concatenate([case.x] * 2), labels=jnp.concatenate([case.labels] * 2))
    one, two = (feature_terms(*c.given(0.3), step_size=GAMMA) for c in (case, twice))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert_close(a, b, 1e-12)


@few_examples
@given(st.integers(0, 999), st.sampled_from([1e-3, 1.0, 100.0]), st.floats(-0.5, 0.9))
def test_residuals_sum_to_p_less_q_and_to_nothing(seed, scale, alpha):
    rng = np.random.default_rng(seed)
    logits, labels = scale * rng.normal(size=(6, 5)), rng.integers(0, 5, 6)
    q = oracles.soft_targets(labels, 5, alpha)
    with jax.enable_x64(True):
        correct, wrong = residuals(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(q))
    correct, wrong, own = np.asarray(correct), np.asarray(wrong), np.eye(5, dtype=bool)[labels]
    np.testing.assert_allclose(correct + wrong, oracles.softmax(logits) - q, atol=1e-12)
    np.testing.assert_allclose(np.sum(correct + wrong, axis=1), 0, atol=1e-12)
    assert np.all(correct[~own] == 0)
    assert np.all(wrong[own] == 0)


# bfloat16 -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_librarys_bfloat16_network_has_float32_terms():
    """Its head is float32 all the same, and so are the terms of cuts that are bfloat16."""
    case = library("cnn")
    model = build("cnn", num_classes=K, size=16, width=2, dtype="bfloat16")
    case = case._replace(network=tap(model, case.variables, case.x, cuts=["block_1", "fc"]))
    assert run(case.variables, case.x, case.network)[1]["block_1"].dtype == jnp.bfloat16
    for leaf in jax.tree.leaves(feature_terms(*case.given(0.3), step_size=GAMMA)):
        assert leaf.dtype == jnp.float32
        assert np.all(np.isfinite(leaf))


@pytest.mark.slow
def test_a_network_that_is_bfloat16_to_the_end_has_float32_terms():
    exactly = small()
    case = small(jnp.bfloat16)
    case = case._replace(variables=jax.tree.map(lambda a: a.astype(jnp.bfloat16), exactly.variables))
    targets = exactly.targets(0.3)

    @partial(jax.jit, static_argnames="network")
    def everything(network, variables, x):
        params = variables["params"]
        parts = gradient_parts(
            lambda params: network({**variables, "params": params}, x)[0], params, case.labels, targets
        )
        after = {**variables, "params": jax.tree.map(lambda p, a, b: p - (a + b).astype(p.dtype), params, *parts)}
        given = (network, variables, x, case.labels, targets)
        terms = feature_terms(*given, step_size=GAMMA)
        moved = parameter_terms(network, variables, after, x, case.labels, parts, num_classes=K, step_size=1.0)
        return terms, moved, interference(*given, cut="sum", step_size=GAMMA), readings(*given)

    assert {a.dtype.name for a in run(case.variables, case.x, case.network)[1].values()} == {"bfloat16"}
    found = everything(case.network, case.variables, case.x)
    for leaf in jax.tree.leaves(found):
        assert leaf.dtype == jnp.float32
        assert np.all(np.isfinite(leaf))
    wide = feature_terms(*exactly.given(0.3), step_size=GAMMA)
    for cut in case.network.cuts:  # 8 bits of mantissa a number: the terms are still those
        for name, a, b in zip(wide[cut]._fields, found[0][cut], wide[cut], strict=True):
            assert_close(a, np.asarray(b), 0.1, f"{cut} {name}")


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_no_class_has_are_refused(label):
    case = small()
    labels = np.array(LABELS)
    labels[0] = label
    with pytest.raises(UserError, match=r"labels run from .* of 3 classes they must lie in 0 to 2"):
        feature_terms(
            case.network,
            case.variables,
            case.x,
            labels,
            soft_targets(jnp.zeros(len(labels), int), 3, 0.0),
            step_size=0.1,
        )
