"""The tests of test_taps.py that NNX answers in its own way: copies, modes, lists, transformations, state."""

import gc
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gpz_jax.analysis.radius import measure, summarise
from gpz_jax.errors import UserError
from gpz_jax.taps import split_at, tap, tap_shapes, valid_cuts
from gpz_jax.taps_nnx import tap_nnx


class MLP(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.List([nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 5, rngs=rngs)])
        self.after = nnx.Linear(5, 3, rngs=rngs)  # in the alphabet before "hidden", in the computation after it

    def __call__(self, x):
        for layer in self.hidden:
            x = nnx.tanh(layer(x))
        return self.after(x)


class CNN(nnx.Module):
    """Batch norm and dropout: two modes, and a random stream among its state."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 3, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(48, 3, rngs=rngs)

    def __call__(self, x):
        x = self.drop(nnx.relu(self.norm(self.conv(x))))
        return self.head(x.reshape(len(x), -1))


class Block(nnx.Module):
    """A residual block."""

    def __init__(self, width, rngs):
        self.dense = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        return x + nnx.tanh(self.dense(x))


class JittedBlock(Block):
    @nnx.jit
    def __call__(self, x):
        return x + nnx.tanh(self.dense(x))


def stacked(length, width):
    """Blocks in one, as nnx.scan takes them."""
    return nnx.vmap(lambda key: Block(width, nnx.Rngs(key)))(jax.random.split(jax.random.key(7), length))


class RematBlock(Block):
    @nnx.remat
    def __call__(self, x):
        return super().__call__(x)


class Transformed(nnx.Module):
    """A stem, one or two residual blocks under some transformation, a head."""

    def __init__(self, how, rngs):
        self.how = how
        self.stem = nnx.Linear(4, 6, rngs=rngs)
        self.block = {"scan": lambda: stacked(2, 6), "jitted": lambda: JittedBlock(6, rngs)}.get(
            how, lambda: (RematBlock if how == "rematted" else Block)(6, rngs)
        )()
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        run = {
            "plain": lambda block, x: block(x),
            "jitted": lambda block, x: block(x),
            "rematted": lambda block, x: block(x),
            "unbound": nnx.remat(Block.__call__),
            "remat": nnx.remat(lambda block, x: block(x)),
            "jit": nnx.jit(lambda block, x: block(x)),
            "vmap": nnx.vmap(lambda block, x: block(x), in_axes=(None, 0)),
            "checkpoint": lambda block, x: jax.checkpoint(block)(x),
            "scan": nnx.scan(lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry),
        }[self.how]
        return self.head(run(self.block, self.stem(x)))


@pytest.fixture(scope="module")
def image():
    return jax.random.normal(jax.random.key(1), (5, 8, 8, 1))


@pytest.fixture(scope="module")
def vector():
    return jax.random.normal(jax.random.key(1), (5, 4))


@pytest.fixture(scope="module")
def trained(image):
    """A CNN in training mode whose batch norm has seen something."""
    model = CNN(nnx.Rngs(0))
    for _ in range(3):
        model(3 * image + 1)
    assert not model.norm.use_running_average
    assert not model.drop.deterministic
    return model


def on_host(state):
    """Its arrays, keys of random streams as numbers."""

    def numbers(a):
        return np.array(jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a)

    return [numbers(a) for a in jax.tree.leaves(state)]


# Read.


def test_taps_are_what_the_layers_return(vector):
    model = MLP(nnx.Rngs(0))
    network, variables = tap_nnx(model, vector)
    logits, taps = jax.jit(network)(variables, vector)
    first = model.hidden[0](vector)
    second = model.hidden[1](nnx.tanh(first))
    assert network.cuts == ("hidden/0", "hidden/1", "after", "logits")
    np.testing.assert_allclose(taps["hidden/0"], first, atol=1e-6)
    np.testing.assert_allclose(taps["hidden/1"], second, atol=1e-6)
    np.testing.assert_allclose(logits, model(vector), atol=1e-6)
    np.testing.assert_array_equal(logits, taps["after"])
    np.testing.assert_array_equal(logits, taps["logits"])


class LinenCNN(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(3, (3, 3), strides=2, name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        x = nn.Dropout(0.5, deterministic=not train, name="drop")(x)
        return nn.Dense(3, name="head")(x.reshape(len(x), -1))


def test_linen_with_the_same_weights_has_the_same_taps_and_gradients(image, trained):
    collections = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    theirs = {name: nnx.to_pure_dict(nnx.state(trained, kind)) for name, kind in collections.items()}
    linen = tap(LinenCNN(), theirs, image, train=False)
    network, ours = tap_nnx(trained, image)
    assert network.cuts == linen.cuts == ("conv", "norm", "drop", "head", "logits")
    assert tap_shapes(network, ours, image) == tap_shapes(linen, theirs, image)
    zero = jax.tree.map(jnp.zeros_like, linen(theirs, image)[1])

    def gradients(network, variables):
        def loss(offset):
            logits, taps = network(variables, image, offset=offset)
            return jnp.sum(jnp.sin(logits)), taps

        return jax.jit(jax.grad(loss, has_aux=True))(zero)

    for one, other in zip(gradients(network, ours), gradients(linen, theirs), strict=True):
        for cut in network.cuts:
            np.testing.assert_allclose(one[cut], other[cut], atol=1e-6)
            assert jnp.abs(one[cut]).max() > 1e-3


# Modes, and what is left as it was.


def test_the_network_runs_in_evaluation_mode_and_the_model_stays_in_training(image, trained):
    before = on_host(nnx.state(trained))
    classes = [type(module) for _, module in nnx.iter_modules(trained)]
    attributes = [sorted(vars(module)) for _, module in nnx.iter_modules(trained)]
    network, variables = tap_nnx(trained, image)
    given = on_host(variables)
    logits, taps = network(variables, image)
    jitted, _ = jax.jit(network)(variables, image)
    np.testing.assert_array_equal(logits, network(variables, image)[0])
    np.testing.assert_allclose(logits, jitted, atol=1e-6)
    np.testing.assert_array_equal(taps["drop"], nnx.relu(taps["norm"]))  # nothing dropped
    jax.tree.map(np.testing.assert_array_equal, given, on_host(variables))
    jax.tree.map(np.testing.assert_array_equal, before, on_host(nnx.state(trained)))
    assert [type(module) for _, module in nnx.iter_modules(trained)] == classes
    assert [sorted(vars(module)) for _, module in nnx.iter_modules(trained)] == attributes
    assert not trained.norm.use_running_average
    assert not trained.drop.deterministic
    still = nnx.clone(trained)
    assert jnp.abs(still(image) - logits).max() > 0.1  # so training mode differs, as it should
    still = nnx.clone(trained)
    still.eval()
    np.testing.assert_allclose(logits, still(image), atol=1e-6)


class Counting(nnx.Module):
    """Writes to its own state at every call, in any mode."""

    def __init__(self, rngs):
        self.dense, self.calls = nnx.Linear(4, 3, rngs=rngs), nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.calls[...] += 1.0
        return self.dense(x) * self.calls[...]


def test_what_a_model_writes_goes_nowhere(vector):
    model = Counting(nnx.Rngs(0))
    network, variables = tap_nnx(model, vector)
    first, _ = network(variables, vector)
    again, _ = network(variables, vector)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(jax.jit(network)(variables, vector)[0], first, atol=1e-6)
    assert float(variables["calls"][...]) == float(model.calls[...]) == 0
    np.testing.assert_array_equal(model(vector), first)
    assert float(model.calls[...]) == 1
    assert float(variables["calls"][...]) == 0  # nor does what the model does later reach the variables
    twice, _ = network(nnx.state(model), vector)  # but its state of now can be asked for
    np.testing.assert_allclose(twice, 2 * first, atol=1e-6)


# Nudge.


def test_the_gradient_of_an_offset_is_that_at_the_cut(vector):
    """All cuts in one backward pass, against the chain rule by hand."""
    model = MLP(nnx.Rngs(0))
    network, variables = tap_nnx(model, vector)
    logits, taps = network(variables, vector)
    v = jax.random.normal(jax.random.key(2), logits.shape)
    zero = jax.tree.map(jnp.zeros_like, taps)
    found = jax.grad(lambda offset: jnp.sum(v * network(variables, vector, offset=offset)[0]))(zero)
    second = (v @ model.after.kernel[...].T) * (1 - jnp.tanh(taps["hidden/1"]) ** 2)
    first = (second @ model.hidden[1].kernel[...].T) * (1 - jnp.tanh(taps["hidden/0"]) ** 2)
    for cut, expected in {"hidden/0": first, "hidden/1": second, "after": v, "logits": v}.items():
        np.testing.assert_allclose(found[cut], expected, atol=1e-5)
        assert jnp.abs(expected).max() > 0.1


def test_gradients_in_the_parameters_leave_the_random_streams_aside(image, trained):
    network, variables = tap_nnx(trained, image)
    params, rest = nnx.split_state(variables, nnx.Param, ...)
    with pytest.raises(TypeError, match="grad requires real- or complex-valued inputs"):
        jax.grad(lambda variables: jnp.sum(network(variables, image)[0]))(variables)
    loss = jax.jit(lambda params: jnp.sum(network(nnx.merge_state(params, rest), image)[0] ** 2))
    found = jax.grad(loss)(params)
    model = nnx.clone(trained)
    model.eval()
    expected = nnx.grad(lambda model: jnp.sum(model(image) ** 2))(model)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)
    assert all(np.abs(a).max() > 0.1 for a in on_host(expected))


# Replace, and the two halves.


def test_replace_comes_before_offset(vector):
    network, variables = tap_nnx(MLP(nnx.Rngs(0)), vector)
    z = jnp.full((5, 6), 0.5)
    logits, taps = network(variables, vector, replace={"hidden/0": z}, offset={"hidden/0": z})
    assert jnp.all(taps["hidden/0"] == 1.0)
    np.testing.assert_array_equal(logits, network(variables, 0 * vector, replace={"hidden/0": 2 * z})[0])


@pytest.mark.parametrize("cut", ["conv", "drop", "logits"])
def test_cloud_of_edge_is_the_model(image, trained, cut):
    network, variables = tap_nnx(trained, image)
    edge, cloud = split_at(network, variables, image, cut)
    logits, taps = network(variables, image)
    z = edge(variables, image)
    np.testing.assert_allclose(z, taps[cut], atol=1e-6)
    np.testing.assert_allclose(cloud(variables, z), logits, atol=1e-5)
    assert cloud(variables, z[:2]).shape == (2, 3)  # any number of images


def test_each_half_holds_only_its_own_parameters(vector):
    network, variables = tap_nnx(MLP(nnx.Rngs(0)), vector)
    edge, cloud = split_at(network, variables, vector, "hidden/0")

    def poisoned(*paths):
        def spoil(path, variable):
            return jax.tree.map(lambda a: a * jnp.nan, variable) if path[:-1] in paths else variable

        return nnx.map_state(spoil, variables)

    ours, theirs = poisoned(("hidden", 0)), poisoned(("hidden", 1), ("after",))
    z = edge(theirs, vector)
    assert jnp.isfinite(z).all()
    assert jnp.isfinite(cloud(ours, z)).all()
    assert jnp.isnan(edge(ours, vector)).any()  # so the poison works
    assert jnp.isnan(cloud(theirs, z)).any()


# Validity.


def test_a_residual_branch_is_bypassed_and_the_trunk_is_not(vector):
    model = Transformed("plain", nnx.Rngs(0))
    network, variables = tap_nnx(model, vector, cuts=["**"])
    assert valid_cuts(network, variables, vector) == {
        "stem": True, "block/dense": False, "block": True, "head": True, "logits": True,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"cut 'block/dense' is bypassed.*skip connection"):
        split_at(network, variables, vector, "block/dense")


# Names and order.


class Containers(nnx.Module):
    def __init__(self, rngs):
        def dense(outputs=4):
            return nnx.Linear(4, outputs, rngs=rngs)

        self.plain = nnx.data([dense(), dense()])  # a Python list
        self.named = nnx.Dict(first=dense(), second=dense())
        self.many = nnx.List([dense() for _ in range(11)])
        self.stack = nnx.Sequential(Block(4, rngs), nnx.tanh)
        self.head = dense(3)

    def __call__(self, x):
        for layer in (*self.many, *self.named.values(), *self.plain, self.stack):
            x = layer(x)
        return self.head(x)


CHILDREN = (*(f"many/{n}" for n in range(11)), "named/first", "named/second", "plain/0", "plain/1", "stack", "head")


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [
        (None, CHILDREN),
        (["named/*"], ("named/first", "named/second")),
        (["**dense", "many/1*"], ("many/1", "many/10", "stack/layers/0/dense")),
        (["stack*"], ("stack",)),  # one level
        (["stack**"], ("stack/layers/0/dense", "stack/layers/0", "stack")),
        (["head", "plain/0"], ("plain/0", "head")),  # as computed, not as asked for
        ([], ()),
    ],
)
def test_lists_and_dicts_and_globs(vector, cuts, expected):
    model = Containers(nnx.Rngs(0))
    network, variables = tap_nnx(model, vector, cuts=cuts)
    assert network.cuts == (*expected, "logits")
    logits, taps = network(variables, vector)
    assert tuple(taps) == network.cuts
    np.testing.assert_array_equal(logits, model(vector))


class Shared(nnx.Module):
    """One module under three paths, called three times."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs)] * 2)
        self.again = self.layers[0]
        self.logits = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        for layer in (*self.layers, self.again):
            x = nnx.relu(layer(x))
        return self.logits(x) / 2.0


def test_a_shared_module_goes_by_its_first_path_and_its_calls_are_numbered(vector):
    model = Shared(nnx.Rngs(0))
    network, variables = tap_nnx(model, vector)
    assert network.cuts == ("again", "again:2", "again:3", "logits:2", "logits")
    logits, taps = network(variables, vector)
    np.testing.assert_array_equal(logits, model(vector))
    np.testing.assert_array_equal(taps["logits:2"], 2 * logits)
    np.testing.assert_array_equal(taps["again:2"], model.again(nnx.relu(model.again(vector))))
    replaced, _ = network(variables, vector, replace={"again:2": jnp.zeros((5, 4))})
    np.testing.assert_array_equal(replaced, model.logits(nnx.relu(model.again(jnp.zeros((5, 4))))) / 2)
    assert len(jax.tree.leaves(variables)) == 4  # and the state holds it once


class Steps(nnx.Dict):
    """A container that can be called."""

    def __call__(self, x):
        for step in self.values():
            x = step(x)
        return x


class Scaled(nnx.Module):
    def __call__(self, x, *, rngs):
        return x * rngs


def test_modules_that_look_at_themselves_see_nothing_new(vector):
    """nnx.Dict lists its own attributes; nnx.Sequential gives ``rngs`` to those layers whose signature has it."""
    rngs = nnx.Rngs(0)
    steps = Steps(one=nnx.Linear(4, 6, rngs=rngs), two=nnx.Linear(6, 3, rngs=rngs))
    model = nnx.Sequential(steps, Scaled())
    network, variables = tap_nnx(model, vector, cuts=["**"], rngs=2.0)
    assert network.cuts == ("layers/0/one", "layers/0/two", "layers/0", "layers/1", "logits")
    np.testing.assert_array_equal(network(variables, vector)[0], 2 * steps(vector))


def test_unknown_cuts_suggest_the_nearest(vector):
    model = MLP(nnx.Rngs(0))
    network, variables = tap_nnx(model, vector)
    with pytest.raises(UserError, match="unknown cut 'hiden/0'; did you mean 'hidden/0'"):
        tap_nnx(model, vector, cuts=["hiden/0"])
    for use in ("offset", "replace"):
        with pytest.raises(UserError, match="unknown cut 'hidden/2'; did you mean 'hidden/"):
            network(variables, vector, **{use: {"hidden/2": jnp.zeros(1)}})
    with pytest.raises(UserError, match="unknown cut 'zzz'; known: hidden/0, hidden/1, after, logits"):
        network.check("zzz")


# What cannot be tapped.


@pytest.mark.parametrize("how", ["scan", "remat", "unbound", "rematted", "jit", "jitted", "vmap", "checkpoint"])
def test_inside_a_transformation_a_cut_is_refused_and_around_it_all_is_right(vector, how):
    model = Transformed(how, nnx.Rngs(0))
    with pytest.raises(UserError, match=r"cut '\*/dense' lies inside nn.scan, nn.remat or another inner trace"):
        tap_nnx(model, vector, cuts=["*/dense"])
    network, variables = tap_nnx(model, vector, cuts=["stem", "head"])
    logits, taps = network(variables, vector)
    np.testing.assert_allclose(logits, model(vector), atol=1e-6)
    assert all(valid_cuts(network, variables, vector).values())
    _, cloud = split_at(network, variables, vector, "stem")
    np.testing.assert_allclose(cloud(variables, taps["stem"]), logits, atol=1e-6)

    def by_hand(z):
        kernels, biases = model.block.dense.kernel[...], model.block.dense.bias[...]
        for kernel, bias in zip(kernels.reshape(-1, 6, 6), biases.reshape(-1, 6), strict=True):
            z = z + jnp.tanh(z @ kernel + bias)
        return jnp.sum(jnp.sin(z @ model.head.kernel[...] + model.head.bias[...]))

    found = jax.grad(lambda o: jnp.sum(jnp.sin(network(variables, vector, offset={"stem": o})[0])))(jnp.zeros((5, 6)))
    np.testing.assert_allclose(found, jax.grad(by_hand)(taps["stem"]), atol=1e-5)


@pytest.mark.parametrize("how", ["remat", "unbound"])
def test_a_block_whose_call_lies_in_a_function_under_remat_is_said_to_be_left_out(vector, how):
    model = Transformed(how, nnx.Rngs(0))
    with pytest.warns(UserWarning, match="leave out block .called inside a transformation"):
        tap_nnx(model, vector)
    with pytest.raises(UserError, match=r"cut 'block' lies inside .* transform the module's class or __call__"):
        tap_nnx(model, vector, cuts="block")


@pytest.mark.parametrize("how", ["jitted", "rematted"])
def test_a_block_that_transforms_its_own_call_can_itself_be_cut(vector, how):
    network, variables = tap_nnx(Transformed(how, nnx.Rngs(0)), vector)
    assert network.cuts == ("stem", "block", "head", "logits")
    z = jnp.ones((5, 6))
    moved, taps = network(variables, vector, replace={"block": z})
    np.testing.assert_array_equal(taps["block"], z)
    assert jnp.abs(moved - network(variables, vector)[0]).max() > 0.1


def test_no_activation_is_kept_by_the_caches_of_inner_transformations(vector):
    with pytest.warns(UserWarning, match="leave out block .called inside a transformation"):
        network, variables = tap_nnx(Transformed("jit", nnx.Rngs(0)), vector)
    kept = weakref.ref(network(variables, vector)[1]["stem"])
    gc.collect()
    assert kept() is None
    with jax.checking_leaks():
        jax.jit(network)(variables, vector)


class Odd(nnx.Module):
    def __init__(self, rngs):
        self.pair, self.head = Pair(), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, *, returns="logits"):
        logits = self.head(sum(self.pair(x)))
        return {"logits": logits, "tuple": (logits, x), "flat": logits.sum(axis=1)}[returns]


class Pair(nnx.Module):
    def __call__(self, x):
        return x, x


def test_outputs_that_are_not_one_array_are_no_cuts(vector):
    network, variables = tap_nnx(Odd(nnx.Rngs(0)), vector)
    assert network.cuts == ("pair[0]", "head", "logits")
    assert [one.name for one in network.left_out] == ["pair[1]"]
    assert network(variables, vector)[0].shape == (5, 3)
    with pytest.raises(UserError, match="cut 'pair' is not one array with a batch axis"):
        tap_nnx(Odd(nnx.Rngs(0)), vector, cuts=["pair"])


@pytest.mark.parametrize("returns", ["tuple", "flat"])
def test_the_model_must_return_its_logits(vector, returns):  # and arguments reach it
    with pytest.raises(UserError, match=r"must return the logits as one array \(N, K\); wrap it"):
        tap_nnx(Odd(nnx.Rngs(0)), vector, returns=returns)


def test_a_linen_model_is_sent_to_tap(vector):
    with pytest.raises(UserError, match=r"takes a flax\.nnx\.Module, not Dense; for Flax Linen there is tap"):
        tap_nnx(nn.Dense(3), vector)


# As a static argument, and with all that takes a network.


def test_equal_networks_share_one_compilation(image, trained):
    traces = []

    def count(network, variables, x):
        traces.append(network)
        return network(variables, x)[0]

    jitted = jax.jit(count, static_argnums=0)
    one, variables = tap_nnx(trained, image)
    still = nnx.clone(trained)
    still.eval()
    two, _ = tap_nnx(still, image)  # whichever mode the model is in
    other, fresh = tap_nnx(CNN(nnx.Rngs(5)), image)  # and whatever its weights
    assert one == two == other
    assert len({hash(one), hash(two), hash(other)}) == 1
    first = jitted(one, variables, image)
    np.testing.assert_array_equal(first, jitted(two, variables, image))
    assert jnp.abs(first - jitted(other, fresh, image)).max() > 0.01
    assert len(traces) == 1
    jitted(tap_nnx(trained, image, cuts=["conv"])[0], variables, image)
    assert len(traces) == 2


def test_a_model_without_a_hash_can_be_a_static_argument(vector):
    """As nnx.GraphDef has none where the model keeps a list of numbers."""

    class Listed(MLP):
        def __init__(self, rngs, widths):
            super().__init__(rngs)
            self.widths = widths

    one, variables = tap_nnx(Listed(nnx.Rngs(0), [6, 5]), vector)
    two, _ = tap_nnx(Listed(nnx.Rngs(0), [5, 6]), vector)
    jitted = jax.jit(lambda network, x: network(variables, x)[0], static_argnums=0)
    np.testing.assert_allclose(jitted(one, vector), one(variables, vector)[0], atol=1e-6)
    assert one != two


def test_shapes_will_do(image):
    twin = nnx.eval_shape(lambda: CNN(nnx.Rngs(0)))
    network, variables = tap_nnx(twin, jax.ShapeDtypeStruct(image.shape, image.dtype))
    assert network == tap_nnx(CNN(nnx.Rngs(0)), image)[0]
    assert tap_shapes(network, variables, image) == {
        "conv": (4, 4, 3), "norm": (4, 4, 3), "drop": (4, 4, 3), "head": (3,), "logits": (3,),
    }  # fmt: skip
    assert all(valid_cuts(network, variables, image).values())


def test_after_prepares_the_input(vector):
    network, variables = tap_nnx(MLP(nnx.Rngs(0)), vector)
    behind = network.after(jnp.tanh)
    np.testing.assert_array_equal(behind(variables, vector)[0], network(variables, jnp.tanh(vector))[0])
    assert behind.cuts == network.cuts


def test_the_radius_of_every_cut(image, trained):
    network, variables = tap_nnx(trained, image)
    labels, mask = np.array([0, 1, 0, 1, 0]), np.array([True, True, True, True, False])
    moments = measure(network, variables, [(image, labels, mask), (image + 1, labels, mask)], 2)
    summary = summarise(moments)
    assert tuple(moments) == network.cuts
    for cut in network.cuts:
        z = np.concatenate([network(variables, x)[1][cut][:4] for x in (image, image + 1)]).reshape(8, -1)
        for c in range(2):
            mine = z[c::2]
            expected = np.sum((mine - mine.mean(axis=0)) ** 2) / len(mine)
            np.testing.assert_allclose(summary[cut].radius[c], expected, rtol=1e-4)
