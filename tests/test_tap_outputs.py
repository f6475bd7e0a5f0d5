"""What modules return: several arrays, transformed modules, paths visited more than once, axes that are no batch."""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from thinned import thinned

from gpz_jax.errors import UserError
from gpz_jax.taps import split_at, tap, valid_cuts
from gpz_jax.taps_nnx import tap_nnx

pytestmark = pytest.mark.filterwarnings("ignore:the default cuts leave out")


@pytest.fixture(scope="module")
def vector():
    return jax.random.normal(jax.random.key(1), (5, 4))


def tapped(model, x, **options):
    variables = model.init(jax.random.key(0), x)
    return tap(model, variables, x, **options), variables


def check_halves(network, variables, x):
    """All cuts are valid, an offset moves what follows, and both halves together are the whole."""
    assert all(valid_cuts(network, variables, x).values())
    logits, taps = network(variables, x)
    for cut in network.cuts:
        edge, cloud = split_at(network, variables, x, cut)
        np.testing.assert_allclose(edge(variables, x), taps[cut], atol=1e-6)
        np.testing.assert_allclose(cloud(variables, taps[cut]), logits, atol=1e-5)
        moved, _ = network(variables, x, offset={cut: jnp.ones_like(taps[cut])})
        assert jnp.abs(moved - logits).max() > 1e-3


# More than one array.


@flax.struct.dataclass
class Known:
    scores: Any
    mask: Any = None


@dataclasses.dataclass(frozen=True)
class Unknown:
    """No pytree of JAX's."""

    scores: Any
    name: str = "plain"


def returning(how, h):
    return {
        "tuple": lambda: (h, None, h.sum()),
        "dict": lambda: {"hidden": h, "loss": h.sum()},
        "nested": lambda: ({"all": [h]}, 3),
        "struct": lambda: Known(h),
        "dataclass": lambda: Unknown(h),
        "count_first": lambda: (jnp.argmax(h, 1, keepdims=True), h),
    }[how]()


SUFFIX = {
    "tuple": "[0]",
    "dict": '["hidden"]',
    "nested": '[0]["all"][0]',
    "struct": ".scores",
    "dataclass": ".scores",
    "count_first": "[1]",
}


class Returns(nn.Module):
    how: str

    @nn.compact
    def __call__(self, x):
        return returning(self.how, nn.tanh(nn.Dense(6, name="dense")(x)))


class Taking(nn.Module):
    how: str

    @nn.compact
    def __call__(self, x):
        out = Returns(self.how, name="block")(x)
        h = next(leaf for leaf in jax.tree.leaves(getattr(out, "scores", out)) if jnp.shape(leaf) == (len(x), 6))
        return nn.Dense(3, name="head")(h)


@pytest.mark.parametrize("how", SUFFIX)
def test_each_array_has_a_name_and_the_first_real_one_is_a_cut(vector, how):
    network, variables = tapped(Taking(how), vector)
    assert network.cuts == (f"block{SUFFIX[how]}", "head", "logits")
    check_halves(network, variables, vector)
    for asked in (f"block{SUFFIX[how]}", f"bl*{SUFFIX[how]}", "bl*", f"block{SUFFIX[how]}".replace('"', "'")):
        assert tap(Taking(how), variables, vector, cuts=[asked]).cuts == (f"block{SUFFIX[how]}", "logits")


class Branches(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="left")(x), {"right": nn.Dense(3, name="right")(x)}


@pytest.mark.parametrize(("output", "expected"), [(lambda out: out[0], "left"), (lambda out: out[1]["right"], "right")])
def test_output_picks_the_logits(vector, output, expected):
    network, variables = tapped(Branches(), vector, output=output)
    logits, taps = jax.jit(network)(variables, vector)
    np.testing.assert_array_equal(logits, taps[expected])
    moved, _ = network(variables, vector, offset={"logits": jnp.ones((5, 3))})
    np.testing.assert_allclose(moved, logits + 1, atol=1e-6)
    assert hash(network) == hash(tap(Branches(), variables, vector, output=output))


def test_without_output_the_choices_are_named(vector):
    with pytest.raises(UserError, match=r'say which of out\[0\], out\[1\]\["right"\] they are: output=lambda out: '):
        tapped(Branches(), vector)


def test_nnx_takes_output_and_tuples_too(vector):
    class Pair(nnx.Module):
        def __init__(self, rngs):
            self.body, self.head = nnx.LSTMCell(4, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            carry = (jnp.zeros_like(x), jnp.zeros_like(x))
            _, y = self.body(carry, x)
            return {"scores": self.head(y)}

    network, variables = tap_nnx(Pair(nnx.Rngs(0)), vector, output=lambda out: out["scores"])
    assert network.cuts == ("body[1]", "head", "logits")  # and not the carry, which is not read
    check_halves(network, variables, vector)


class Body(nn.Module):
    """As bodies of language models do: what else they have to give stands before what the head reads."""

    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Dense(6, name="dense")(x))
        return {"cache": nn.Dense(6, name="keys")(x), "hidden": h, "ids": jnp.argmax(h, 1, keepdims=True)}


class Headed(nn.Module):
    key: str = "hidden"

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(Body(name="body")(x)[self.key].astype(jnp.float32))


@pytest.mark.parametrize("cuts", [None, ["body*"]])
def test_of_several_arrays_the_one_that_is_read_is_the_cut(vector, cuts):
    network, variables = tapped(Headed(), vector, cuts=cuts)
    assert network.cuts[0] == 'body["hidden"]'
    assert cuts or [one.name for one in network.left_out] == ['body["cache"]']
    check_halves(network, variables, vector)
    network, variables = tapped(Headed("ids"), vector)  # reads the whole numbers
    assert network.cuts[0] == 'body["cache"]'


# Transformed modules: one cut each, as a whole.


class Cell(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.tanh(nn.Dense(x.shape[-1], name="dense")(x))


class Step(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return Cell(name="cell")(x), None


class Decorated(nn.Module):
    @nn.remat
    @nn.compact
    def __call__(self, x):
        return x + nn.tanh(nn.Dense(x.shape[-1], name="dense")(x))


class Given(nn.Module):
    """Transformed modules in a list of the user's own, made outside."""

    layers: Any

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class InSetup(nn.Module):
    how: str

    def setup(self):
        self.stem, self.head = nn.Dense(6), nn.Dense(3)
        scan = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        self.block = {
            "remat": lambda: nn.remat(Cell)(),
            "jit": lambda: nn.jit(Cell)(),
            "both": lambda: nn.jit(nn.remat(Cell))(),
            "vmap": lambda: nn.vmap(Cell, variable_axes={"params": None}, split_rngs={"params": False})(),
            "scan": lambda: nn.scan(Step, length=2, **scan)(),
            "decorated": Decorated,
            "given": lambda: Given([nn.remat(Cell)(), nn.remat(Cell)()]),
        }[self.how]()

    def __call__(self, x):
        x = self.stem(x)
        out = self.block(x, None) if self.how == "scan" else self.block(x)
        return self.head(out[0] if self.how == "scan" else out)


@pytest.mark.parametrize(
    "how", thinned(["remat", "jit", "both", "vmap", "scan", "decorated", "given"], ["both", "scan"])
)
def test_a_transformed_module_is_a_cut_as_a_whole(vector, how):
    model = InSetup(how)
    network, variables = tapped(model, vector)
    assert network.cuts == ("stem", "block[0]" if how == "scan" else "block", "head", "logits")
    np.testing.assert_allclose(network(variables, vector)[0], model.apply(variables, vector), atol=1e-6)
    check_halves(network, variables, vector)
    if how == "given":
        deeper = tap(model, variables, vector, cuts=["block/*"])
        assert deeper.cuts == ("block/layers_0", "block/layers_1", "logits")
    else:
        with pytest.raises(UserError, match="lies inside"):
            tap(model, variables, vector, cuts=["block/**/dense"])


def test_the_users_own_transformed_class_stays_as_it_is(vector):
    transformed = nn.remat(Cell)
    before, mine = dict(vars(transformed)), transformed(name="cell")
    network, _ = tapped(nn.Sequential([mine, nn.Dense(3)]), vector)
    assert network.cuts == ("layers_0", "layers_1", "logits")
    assert type(mine) is transformed
    assert dict(vars(transformed)) == before


# One library within the other.


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(True, name="norm")(Cell(name="cell")(x))


class NormedNnx(nnx.Module):
    def __init__(self, width, rngs):
        self.cells = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(width, use_running_average=True, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.cells[1](nnx.relu(self.cells[0](x))))


def to_nnx(module, x):
    return nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(x)


class WithLinen(nnx.Module):
    def __init__(self, x):
        self.body, self.head = to_nnx(Normed(), x), nnx.Linear(4, 3, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.head(self.body(self.body(x)))


def test_linen_within_nnx(vector):
    network, variables = tap_nnx(WithLinen(vector), vector)
    assert network.cuts == ("body", "body:2", "head", "logits")
    cuts = ("body/cell", "body", "body/cell:2", "body/norm:2", "body:2")
    network, variables = tap_nnx(WithLinen(vector), vector, cuts=cuts)
    assert network.cuts == (*cuts, "logits")
    check_halves(network, variables, vector)
    with jax.checking_leaks():
        jax.jit(network)(variables, vector)


def test_nnx_within_linen(vector):
    body = nnx.bridge.ToLinen(NormedNnx, args=(4,))
    model = nn.Sequential([body, nn.tanh, body, nn.Dense(3)])
    network, variables = tapped(model, vector)
    assert network.cuts == ("layers_0", "layers_0:2", "layers_3", "logits")
    cuts = ("layers_0/cells/0", "layers_0", "layers_0/cells/1:2", "layers_0/norm:2", "layers_0:2")
    network = tap(model, variables, vector, cuts=cuts)
    assert network.cuts == (*cuts, "logits")
    np.testing.assert_allclose(network(variables, vector)[0], model.apply(variables, vector), atol=1e-6)
    check_halves(network, variables, vector)
    assert body.nnx_class is NormedNnx


@pytest.mark.slow
def test_a_model_that_is_a_bridge_has_the_cuts_of_the_model_within(vector):
    network, variables = tap_nnx(to_nnx(nn.Sequential([Normed(), nn.Dense(3)]), vector), vector)
    assert network.cuts == ("layers_0", "layers_1", "logits")
    check_halves(network, variables, vector)
    network, variables = tapped(nnx.bridge.ToLinen(NormedNnx, args=(4,)), vector)
    assert network.cuts == ("cells/0", "cells/1", "norm", "logits")
    check_halves(network, variables, vector)
    within_within = nnx.bridge.ToLinen(WithLinen, args=(vector,), skip_rng=True)
    network, variables = tapped(within_within, vector, cuts=["body/cell", "body/norm:2", "head"])
    check_halves(network, variables, vector)


# A path that is visited more than once in a pass.


class Base(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(x.shape[-1], name="dense")(x)


class Squared(Base):
    def __call__(self, x):
        return super().__call__(x) ** 2


class Sharing(nn.Module):
    """Has the path of the module inside it."""

    inner: nn.Module

    def setup(self):
        nn.share_scope(self, self.inner)

    def __call__(self, x):
        return 3 * self.inner(x)


class Teacher(nn.Module):
    """Applies another model within, whose layers have the names of its own."""

    @nn.compact
    def __call__(self, x):
        frozen = nn.Sequential([nn.Dense(4), nn.tanh])
        params = {"layers_0": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}}
        x = nn.Dense(4, name="layers_0")(x)
        return x + frozen.apply({"params": params}, x)


@pytest.mark.parametrize("inner", [Squared(), Sharing(Base()), Teacher()])
def test_the_outermost_output_is_the_cut(vector, inner):
    model = nn.Sequential([nn.Dense(4), inner, nn.Dense(3)])
    network, variables = tapped(model, vector)
    assert network.cuts == ("layers_0", "layers_1", "layers_2", "logits")
    check_halves(network, variables, vector)
    _, kept = model.apply(variables, vector, capture_intermediates=True)
    outermost = kept["intermediates"]["layers_1"]["__call__"][-1]
    np.testing.assert_allclose(network(variables, vector)[1]["layers_1"], outermost, atol=1e-6)


@pytest.mark.parametrize("model", [Squared(), Teacher(), Sharing(Base())])
def test_so_it_is_for_the_model_itself(vector, model):
    network, variables = tapped(model, vector)
    logits, _ = network(variables, vector)
    np.testing.assert_allclose(logits, model.apply(variables, vector), atol=1e-6)
    moved, _ = network(variables, vector, offset={"logits": jnp.ones_like(logits)})
    np.testing.assert_allclose(moved, logits + 1, atol=1e-6)
    assert len(network.cuts) == 2  # and its own layer


# Axis 0 that is no batch.


class Patches(nn.Module):
    """Images in pieces, and the pieces' axis first."""

    how: str

    @nn.compact
    def __call__(self, x):
        n = len(x)
        if self.how == "pieces":
            return nn.Dense(3, name="head")(nn.Dense(4, name="odd")(x.reshape(-1, 2)).reshape(n, -1))
        if self.how == "time":  # as long as the batch is large, by chance
            return nn.Dense(3, name="head")(nn.Dense(4, name="odd")(jnp.moveaxis(x, 1, 0)).mean(0))
        table = nn.Embed(n if self.how == "never" else 5, 10, name="odd")(jnp.arange(5))  # positions
        return nn.Dense(3, name="head")((x + table).mean(1))


@pytest.mark.parametrize("how", ["pieces", "time", "table"])
def test_an_axis_that_does_not_follow_the_batch_is_refused_and_left_out(how):
    x = jnp.ones((5, 5, 10))
    variables = Patches(how).init(jax.random.key(0), x)
    with pytest.warns(UserWarning, match=r"default cuts leave out odd \(axis 0 of its"):
        network = tap(Patches(how), variables, x)
    assert network.cuts == ("head", "logits")
    assert [one.name for one in network.left_out] == ["odd"]
    with pytest.raises(UserError, match=r"cut 'odd' is not one array with a batch axis.*axis 0 of its"):
        tap(Patches(how), variables, x, cuts=["odd"])


def test_logits_without_a_batch_axis_are_refused():
    class Flat(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x).mean(0, keepdims=True).repeat(5, axis=0)

    with pytest.raises(UserError, match="the logits have no batch axis: axis 0 of its"):
        tapped(Flat(), jnp.ones((5, 4)))


class Counting(nn.Module):
    """A layer of whole numbers before one of real numbers."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.Embed(9, 4, name="embed")(Codes(name="codes")(x)).sum(1))


class Codes(nn.Module):
    def __call__(self, x):
        return jnp.clip(x, 0, 8).astype(jnp.int32)


def test_whole_numbers_are_left_out_and_the_name_that_includes_them_is_said(vector):
    variables = Counting().init(jax.random.key(0), vector)
    with pytest.warns(UserWarning, match=r"leave out codes \(int32 numbers; cuts=\['codes'\] includes it\)"):
        network = tap(Counting(), variables, vector)
    assert network.cuts == ("embed", "head", "logits")
    asked = tap(Counting(), variables, vector, cuts=["codes"])
    check = split_at(asked, variables, vector, "codes")
    np.testing.assert_allclose(
        check[1](variables, check[0](variables, vector)), network(variables, vector)[0], atol=1e-6
    )
