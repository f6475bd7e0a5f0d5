"""Read, nudge, replace; names and order; validity; the two halves. On models that know nothing of us as well."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpz_jax.errors import UserError
from gpz_jax.taps import Tap, split_at, tap, tap_shapes, valid_cuts


class Net(nn.Module):
    """Marks its cuts."""

    @nn.compact
    def __call__(self, x):
        x = Tap(name="block_1")(nn.tanh(nn.Conv(4, (3, 3), strides=2, name="conv_1")(x)))
        x = Tap(name="block_2")(nn.tanh(nn.Conv(6, (3, 3), strides=2, name="conv_2")(x)))
        x = nn.tanh(nn.Dense(7, name="head_1")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="head_2")(x)


class Block(nn.Module):
    """A residual block with a tap in its branch."""

    @nn.compact
    def __call__(self, x):
        branch = Tap(name="branch")(nn.relu(nn.Dense(6, name="dense")(x)))
        return x + branch


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = Tap(name="stem")(nn.Dense(6)(x))
        x = Tap(name="trunk_1")(Block()(x))
        x = Tap(name="trunk_2")(Block()(x))
        return nn.Dense(3)(x)


class Concatenating(nn.Module):
    """As a DenseNet does."""

    @nn.compact
    def __call__(self, x):
        x = Tap(name="stem")(nn.Dense(6)(x))
        new = Tap(name="new")(nn.relu(nn.Dense(4)(x)))
        x = Tap(name="joined")(jnp.concatenate([x, new], axis=-1))
        Tap(name="side")(nn.Dense(2)(x))  # leads nowhere
        return nn.Dense(3)(x)


def tapped(model, x, **options):
    variables = model.init(jax.random.key(0), x)
    return tap(model, variables, x, **options), variables


@pytest.fixture(scope="module")
def image():
    return jax.random.normal(jax.random.key(1), (5, 8, 8, 1))


@pytest.fixture(scope="module")
def vector():
    return jax.random.normal(jax.random.key(1), (5, 4))


# Read.


def test_taps_are_the_intermediates(image):
    network, variables = tapped(Net(), image, cuts=["conv_*", "block_*", "head_1"])
    logits, taps = jax.jit(network)(variables, image)
    expected, state = Net().apply(variables, image, capture_intermediates=True)
    assert network.cuts == ("conv_1", "block_1", "conv_2", "block_2", "head_1", "logits")
    for cut in network.cuts[:-1]:
        np.testing.assert_allclose(taps[cut], state["intermediates"][cut]["__call__"][0], atol=1e-6)
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    np.testing.assert_array_equal(logits, taps["logits"])


def test_the_variables_are_only_read(image):
    network, variables = tapped(Net(), image)
    before = jax.tree.map(np.array, variables)
    network(variables, image)
    jax.tree.map(np.testing.assert_array_equal, before, variables)


def test_arguments_reach_the_model():
    class Switch(nn.Module):
        @nn.compact
        def __call__(self, x, *, train, factor=1):
            return nn.Dense(3)(x) * (100.0 if train else 1.0) * factor

    x = jnp.ones((2, 4))
    variables = Switch().init(jax.random.key(0), x, train=False)
    for train in (False, True):
        network = tap(Switch(), variables, x, train=train, factor=2)
        np.testing.assert_array_equal(network(variables, x)[0], Switch().apply(variables, x, train=train, factor=2))


# Nudge.


def test_no_offset_and_a_zero_offset_change_nothing(image):
    network, variables = tapped(Net(), image)
    logits, taps = network(variables, image)
    zero = {cut: jnp.zeros_like(taps[cut]) for cut in network.cuts}
    for offset in ({}, zero):
        again, _ = network(variables, image, offset=offset)
        np.testing.assert_array_equal(logits, again)


def test_the_gradient_of_an_offset_is_that_at_the_cut(image):
    """All cuts in one backward pass, against the Jacobian of the cloud half: J^T v, image by image."""
    network, variables = tapped(Net(), image)
    logits, taps = network(variables, image)
    v = jax.random.normal(jax.random.key(2), logits.shape)
    zero = {cut: jnp.zeros_like(taps[cut]) for cut in network.cuts}
    gradients = jax.grad(lambda offset: jnp.sum(v * network(variables, image, offset=offset)[0]))(zero)
    for cut in network.cuts:
        _, cloud = split_at(network, variables, image, cut)
        jacobian = jax.vmap(jax.jacrev(lambda z, cloud=cloud: cloud(variables, z[None])[0]))(taps[cut])
        np.testing.assert_allclose(gradients[cut], jnp.einsum("nk,nk...->n...", v, jacobian), atol=1e-5)
        assert jnp.abs(gradients[cut]).max() > 1e-2


def test_an_offset_adds_to_the_tap_and_to_what_follows(image):
    network, variables = tapped(Net(), image)
    _, taps = network(variables, image)
    _, cloud = split_at(network, variables, image, "block_2")
    logits, nudged = network(variables, image, offset={"block_2": jnp.ones_like(taps["block_2"])})
    np.testing.assert_allclose(nudged["block_2"], taps["block_2"] + 1)
    np.testing.assert_array_equal(nudged["block_1"], taps["block_1"])
    np.testing.assert_allclose(logits, cloud(variables, taps["block_2"] + 1), atol=1e-5)


# Replace, and the two halves.


def test_replace_comes_before_offset(image):
    network, variables = tapped(Net(), image)
    z = jnp.full_like(network(variables, image)[1]["block_1"], 2.0)
    logits, taps = network(variables, image, replace={"block_1": z}, offset={"block_1": z})
    assert jnp.all(taps["block_1"] == 4.0)
    np.testing.assert_allclose(logits, network(variables, 0 * image, replace={"block_1": 2 * z})[0], atol=1e-6)


@pytest.mark.parametrize("cut", ["block_1", "block_2", "logits"])
def test_cloud_of_edge_is_the_model(image, cut):
    network, variables = tapped(Net(), image)
    edge, cloud = split_at(network, variables, image, cut)
    z = edge(variables, image)
    # Both as one program: what is not compiled together rounds otherwise.
    whole = jax.jit(lambda variables, x: network(variables, x)[1][cut])
    np.testing.assert_array_equal(z, whole(variables, image))
    np.testing.assert_allclose(cloud(variables, z), Net().apply(variables, image), atol=1e-6)
    assert cloud(variables, z[:2]).shape == (2, 3)  # any number of images


def poisoned(variables, names):
    """NaN in the parameters of these layers."""
    factor = {name: jnp.nan if name in names else 1.0 for name in variables["params"]}
    return {"params": {n: jax.tree.map(lambda a, n=n: a * factor[n], p) for n, p in variables["params"].items()}}


def test_each_half_holds_only_its_own_parameters(image):
    network, variables = tapped(Net(), image)
    edge, cloud = split_at(network, variables, image, "block_1")
    ours, theirs = ["conv_1"], ["conv_2", "head_1", "head_2"]
    z = edge(poisoned(variables, theirs), image)
    assert jnp.isfinite(z).all()
    assert jnp.isfinite(cloud(poisoned(variables, ours), z)).all()
    assert jnp.isnan(edge(poisoned(variables, ours), image)).any()  # so the poison works
    assert jnp.isnan(cloud(poisoned(variables, theirs), z)).any()


def test_the_halves_cost_what_the_whole_costs(image):
    network, variables = tapped(Net(), image)
    edge, cloud = split_at(network, variables, image, "block_1")

    def flops(f, *args):
        return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]

    whole = flops(lambda v, x: network(v, x)[0], variables, image)
    first, second = flops(edge, variables, image), flops(cloud, variables, edge(variables, image))
    assert 0 < first < 0.6 * whole
    assert first + second == pytest.approx(whole, rel=0.02)


# Names and order.


def test_marks_come_first_then_direct_children(vector):
    marked, _ = tapped(Residual(), vector)
    assert marked.cuts == ("stem", "branch", "trunk_1", "branch:2", "trunk_2", "logits")
    plain, _ = tapped(nn.Sequential([nn.Dense(6), nn.relu, Plain(), nn.Dense(3)]), vector)
    assert plain.cuts == ("layers_0", "layers_2", "layers_3", "logits")


class Plain(nn.Module):
    """A module that does not know of taps, with two levels below it."""

    @nn.compact
    def __call__(self, x):
        return nn.Sequential([nn.tanh], name="stack")(nn.Dense(6, name="dense")(x))


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [
        (["layers_1/dense"], ("layers_1/dense",)),
        (["*/dense"], ("layers_0/dense", "layers_1/dense")),
        (["layers_1*"], ("layers_1",)),  # one level
        (["layers_1**"], ("layers_1/dense", "layers_1/stack", "layers_1")),
        (["**/dense", "**/stack"], ("layers_0/dense", "layers_0/stack", "layers_1/dense", "layers_1/stack")),
        (["layers_[12]"], ("layers_1", "layers_2")),
        ("layers_1", ("layers_1",)),  # one name
        (["layers_1", "layers_0"], ("layers_0", "layers_1")),  # as computed, not as asked for
        (["layers_0", "layers_?"], ("layers_0", "layers_1", "layers_2")),
        (["logits"], ()),
        ([], ()),
    ],
)
def test_any_module_path_or_glob_is_a_cut(vector, cuts, expected):
    network, variables = tapped(nn.Sequential([Plain(), Plain(), nn.Dense(3)]), vector, cuts=cuts)
    assert network.cuts == (*expected, "logits")
    assert set(network(variables, vector)[1]) == set(network.cuts)


def test_order_is_that_of_computation_even_through_jit(vector):
    model = nn.Sequential([nn.Dense(6) for _ in range(11)] + [nn.Dense(3)])
    network, variables = tapped(model, vector)
    assert network.cuts == (*(f"layers_{n}" for n in range(12)), "logits")
    _, taps = jax.jit(network)(variables, vector)
    assert tuple(taps) != network.cuts  # a dict comes back sorted: why the order lives in the tuple
    assert tuple(tap_shapes(network, variables, vector)) == network.cuts
    assert tuple(valid_cuts(network, variables, vector)) == network.cuts


class Shared(nn.Module):
    def setup(self):
        self.dense, self.head = nn.Dense(4), nn.Dense(3)

    def __call__(self, x):
        return self.head(self.dense(nn.relu(self.dense(nn.relu(self.dense(x))))))


def test_a_module_called_more_than_once_has_numbered_cuts(vector):
    network, variables = tapped(Shared(), vector)
    assert network.cuts == ("dense", "dense:2", "dense:3", "head", "logits")
    _, taps = network(variables, vector)
    bound = Shared().bind(variables)
    np.testing.assert_allclose(taps["dense:2"], bound.dense(nn.relu(bound.dense(vector))), atol=1e-6)
    logits, _ = network(variables, vector, replace={"dense:2": jnp.zeros((5, 4))})
    np.testing.assert_allclose(logits, bound.head(bound.dense(jnp.zeros((5, 4)))), atol=1e-6)
    _, again = network(variables, vector)  # the count starts afresh
    np.testing.assert_array_equal(again["dense:2"], taps["dense:2"])


def test_logits_are_what_the_model_returns_even_if_a_layer_has_that_name(vector):
    class Tempered(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="logits")(x) / 10.0

    network, variables = tapped(Tempered(), vector)
    assert network.cuts == ("logits:2", "logits")
    logits, taps = network(variables, vector, offset={"logits": jnp.ones((5, 3))})
    np.testing.assert_allclose(logits, Tempered().apply(variables, vector) + 1, atol=1e-6)
    np.testing.assert_allclose(taps["logits:2"], 10 * (logits - 1), atol=1e-5)


def test_shapes(image):
    network, variables = tapped(Net(), image)
    expected = {"block_1": (4, 4, 4), "block_2": (2, 2, 6), "logits": (3,)}
    assert tap_shapes(network, variables, image) == expected
    abstract = jax.eval_shape(lambda: (variables, image))  # nothing is computed, so shapes will do
    assert tap_shapes(network, *abstract) == expected
    assert tap(Net(), *abstract) == network


# Validity.


def test_a_residual_branch_is_bypassed_and_the_trunk_is_not(vector):
    network, variables = tapped(Residual(), vector)
    assert valid_cuts(network, variables, vector) == {
        "stem": True, "branch": False, "trunk_1": True, "branch:2": False, "trunk_2": True, "logits": True,
    }  # fmt: skip


def test_concatenation_bypasses_and_a_dead_end_is_no_cut(vector):
    network, variables = tapped(Concatenating(), vector)
    assert valid_cuts(network, *jax.eval_shape(lambda: (variables, vector))) == {
        "stem": True, "new": False, "joined": True, "side": False, "logits": True,
    }  # fmt: skip


def test_validity_is_true_to_the_numbers(vector):
    """At a valid cut the logits follow z alone; at a bypassed one x still moves them."""
    network, variables = tapped(Residual(), vector)
    _, taps = network(variables, vector)
    for cut, valid in valid_cuts(network, variables, vector).items():
        logits, _ = network(variables, vector + 1, replace={cut: taps[cut]})
        assert np.allclose(logits, Residual().apply(variables, vector), atol=1e-5) == valid


def test_a_bypassed_cut_cannot_be_split(vector):
    network, variables = tapped(Residual(), vector)
    with pytest.raises(UserError, match=r"cut 'branch' is bypassed.*skip connection"):
        split_at(network, variables, vector, "branch")
    with pytest.raises(UserError, match="unknown cut 'trunk1'; did you mean 'trunk_1'"):
        split_at(network, variables, vector, "trunk1")


# What cannot be tapped.


class Cell(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(6, name="dense")(x)), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="stem")(x)
        cells = nn.scan(Cell, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = cells(name="cells")(x, None)
        return nn.Dense(3, name="head")(x)


class Rematerialised(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="stem")(x)
        return nn.Dense(3, name="head")(nn.remat(Block)(name="block")(x))


@pytest.mark.parametrize("model", [Scanned(), Rematerialised()])
def test_a_cut_inside_scan_or_remat_is_refused(vector, model):
    with pytest.raises(UserError, match=r"cut '\*/dense' lies inside nn.scan, nn.remat or another inner trace"):
        tapped(model, vector, cuts=["*/dense"])


@pytest.mark.parametrize("model", [Scanned(), Rematerialised()])
def test_around_scan_and_remat_cuts_are_fine(vector, model):
    network, variables = tapped(model, vector, cuts=["stem", "head"])
    assert network.cuts == ("stem", "head", "logits")
    assert all(valid_cuts(network, variables, vector).values())
    _, cloud = split_at(network, variables, vector, "stem")
    logits, taps = network(variables, vector)
    np.testing.assert_allclose(cloud(variables, taps["stem"]), logits, atol=1e-6)


@pytest.mark.parametrize("model", [Scanned(), Rematerialised()])
def test_values_and_gradients_pass_through_scan_and_remat(vector, model):
    network, variables = tapped(model, vector, cuts=["stem", "head"])
    logits, taps = network(variables, vector)
    np.testing.assert_allclose(logits, model.apply(variables, vector), atol=1e-6)

    def by_hand(z):
        params = variables["params"]
        if "block" in params:
            z = z + nn.relu(z @ params["block"]["dense"]["kernel"] + params["block"]["dense"]["bias"])
        else:
            cells = params["cells"]["dense"]
            for kernel, bias in zip(cells["kernel"], cells["bias"], strict=True):
                z = jnp.tanh(z @ kernel + bias)
        return jnp.sum(jnp.sin(z @ params["head"]["kernel"] + params["head"]["bias"]))

    zero = jax.tree.map(jnp.zeros_like, taps)
    found = jax.grad(lambda offset: jnp.sum(jnp.sin(network(variables, vector, offset=offset)[0])))(zero)
    np.testing.assert_allclose(found["stem"], jax.grad(by_hand)(taps["stem"]), atol=1e-5)
    np.testing.assert_allclose(found["head"], jnp.cos(logits), atol=1e-6)


def test_marks_inside_remat_are_refused_too(vector):
    with pytest.raises(UserError, match=r"mark 'branch' lies inside nn\.scan, nn\.remat"):
        tapped(Rematerialised(), vector)


class Odd(nn.Module):
    """Modules whose outputs are not one array with a batch axis, and the logits if asked not to be either."""

    returns: str = "logits"

    @nn.compact
    def __call__(self, x):
        x, _ = Two(name="two")(x)
        x = x + Constant(name="constant")()
        logits = nn.Dense(3, name="head")(x)
        return {"logits": logits, "tuple": (logits, x), "dict": {"logits": logits}, "flat": logits.sum(axis=1)}[
            self.returns
        ]


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(6, name="dense")(x), x


class Constant(nn.Module):
    @nn.compact
    def __call__(self):
        return jnp.float32(1)


def test_outputs_that_are_not_one_array_are_no_cuts(vector):
    with pytest.warns(UserWarning, match=r"the default cuts leave out constant \(its shape is \(\)\)$"):
        network, variables = tapped(Odd(), vector)
    assert network.cuts == ("two[0]", "head", "logits")
    assert tapped(Odd(), vector, cuts=["**"])[0].cuts == ("two/dense", "two[0]", "head", "logits")
    for name in ("two", "constant"):
        with pytest.raises(UserError, match=f"cut '{name}' is not one array with a batch axis"):
            tap(Odd(), variables, vector, cuts=[name])


@pytest.mark.parametrize("returns", ["tuple", "dict", "flat"])
def test_the_model_must_return_its_logits(vector, returns):
    with pytest.raises(UserError, match=r"must return the logits as one array \(N, K\); wrap it"):
        tapped(Odd(returns), vector)


def test_unknown_cuts_suggest_the_nearest(image):
    network, variables = tapped(Net(), image)
    with pytest.raises(UserError, match="unknown cut 'block3'; did you mean 'block_"):
        tap(Net(), variables, image, cuts=["block3"])
    for use in ("offset", "replace"):
        with pytest.raises(UserError, match="unknown cut 'blok_1'; did you mean 'block_1'"):
            network(variables, image, **{use: {"blok_1": jnp.zeros(1)}})
    with pytest.raises(UserError, match="unknown cut 'zzz'; known: block_1, block_2, logits"):
        network.check("zzz")
    assert network.check("block_1") == "block_1"


# As a static argument, behind a preparation.


def test_equal_networks_share_one_compilation(image):
    traces = []

    def count(network, variables, x):
        traces.append(network)
        return network(variables, x)[0]

    jitted = jax.jit(count, static_argnums=0)
    one, variables = tapped(Net(), image)
    two, _ = tapped(Net(), image)
    assert one == two
    assert hash(one) == hash(two)
    jitted(one, variables, image)
    jitted(two, variables, image)
    assert len(traces) == 1
    jitted(tap(Net(), variables, image, cuts=["block_1"]), variables, image)
    assert len(traces) == 2


def test_a_model_without_a_hash_can_be_a_static_argument(vector):
    """Linen modules with a list or a dict among their attributes have none, nn.Sequential([…]) for one."""
    one, variables = tapped(nn.Sequential([nn.Dense(4), nn.Dense(3)]), vector)
    two, _ = tapped(nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(3)]), vector)
    with pytest.raises(TypeError, match="hash"):
        hash(one.model)
    jitted = jax.jit(lambda network, x: network(variables, x)[0], static_argnums=0)
    np.testing.assert_allclose(jitted(one, vector), one(variables, vector)[0], atol=1e-6)
    assert one != two


def double(x):
    return 2 * x


def test_after_prepares_the_input(image):
    network, variables = tapped(Net(), image)
    behind = network.after(jnp.tanh)
    np.testing.assert_array_equal(behind(variables, image)[0], network(variables, jnp.tanh(image))[0])
    twice = behind.after(double)  # the last one said is the first one done
    np.testing.assert_allclose(twice(variables, image)[0], network(variables, jnp.tanh(2 * image))[0], atol=1e-6)
    assert network.after(double) == network.after(double)
    assert twice.cuts == network.cuts


def test_after_may_change_shape_and_dtype(image):
    network, variables = tapped(Net(), image)

    def unpack(bits):
        return bits.reshape(-1, 8, 8, 1).astype(jnp.float32)

    packed = jax.ShapeDtypeStruct((5, 64), jnp.uint8)
    behind = network.after(unpack)
    assert all(valid_cuts(behind, variables, packed).values())
    edge, cloud = split_at(behind, variables, packed, "block_1")
    x = jax.random.randint(jax.random.key(3), (5, 64), 0, 255).astype(jnp.uint8)
    np.testing.assert_allclose(
        cloud(variables, edge(variables, x)), Net().apply(variables, unpack(x)), rtol=1e-4, atol=1e-5
    )
