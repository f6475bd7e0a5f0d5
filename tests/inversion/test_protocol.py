"""What an attacker may know, and what it is asked: the same for every attack."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpz_jax.config import AttackSettings
from gpz_jax.defences import Reference, parse
from gpz_jax.errors import UserError
from gpz_jax.inversion.ladder import ATTACKS
from gpz_jax.inversion.protocol import Edge, Target, pieces, received, seed_of
from gpz_jax.taps import tap


class Half(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="flat")(x.reshape(len(x), -1))
        return nn.Dense(3)(x)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((300, 4, 4, 1), np.float32)


@pytest.fixture(scope="module")
def network(images):
    variables = Half().init(jax.random.key(0), images[:2])
    return tap(Half(), variables, images[:2]), variables


def target(network, auxiliary, cut="logits", **more):
    tapped, variables = network
    edge = {name: more.pop(name) for name in ("defence", "probabilities", "top_k") if name in more}
    return Target(Edge(tapped, cut, **edge), variables, auxiliary, jax.random.key(7), **more)


def test_what_an_attacker_receives_of_logits():
    logits = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    got = received(jnp.asarray(logits), probabilities=True, top_k=None)
    np.testing.assert_allclose(got, np.log(p), atol=1e-5)
    for probabilities in (False, True):  # the truncation of one is that of the other: they differ by a shift
        got = np.asarray(received(jnp.asarray(logits), probabilities=probabilities, top_k=2))
        for row, given in zip(got, logits, strict=True):
            first, second = np.argsort(given)[::-1][:2]
            want = np.zeros(6)
            want[first] = given[first] - given[second]
            np.testing.assert_allclose(row, want, atol=1e-5)
    same = jnp.zeros((1, 4))
    assert int(jnp.sum(received(same + jnp.arange(4.0), probabilities=False, top_k=4) > 0)) == 3


def test_shapes_and_seed_are_those_of_the_network_and_the_key(network, images):
    found = target(network, images, "flat")
    assert (found.z_shape, found.x_shape, found.seed, found.cut) == ((6,), (4, 4, 1), 7, "flat")
    assert seed_of(jax.random.key(2**31 + 5)) == 2**31 + 5


def test_batches_drop_padding_and_keep_the_order(network, images):
    tapped, variables = network
    found = list(target(network, images).batches(images, jax.random.key(0)))
    assert [len(x) for x, _ in found] == [256, 44]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), images)
    z = np.concatenate([z for _, z in found])
    np.testing.assert_allclose(z, tapped(variables, images)[0], rtol=1e-4, atol=1e-5)
    assert [len(piece) for piece, _ in pieces(images)] == [256, 256]


def test_a_defended_edge_draws_anew_for_every_key(network, images):
    reference = Reference(*jnp.float32([-1, 1, 1]))
    noisy = target(network, images, defence=parse("gaussian:1"), reference=reference)
    (_, one), (_, again), (_, other) = (next(noisy.batches(images, jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert float(jnp.abs(one - other).min()) > 0


def test_selection_and_fit_are_disjoint_parts_of_a_seeded_shuffle(network, images):
    found = target(network, images, settings=AttackSettings(selection_fraction=0.1))
    fit, selection = found.fit_and_selection()
    order = np.random.default_rng(7).permutation(300)
    np.testing.assert_array_equal(selection, images[order[:30]])
    np.testing.assert_array_equal(fit, images[order[30:]])


@pytest.mark.parametrize(
    ("cut", "more", "said"),
    [
        ("logits", {"top_k": 0}, "top_k 0: z has 3 entries; give 1 to 3"),
        ("logits", {"top_k": 4}, "top_k 4: z has 3 entries"),
    ],
)
def test_what_cannot_be_received_is_refused(network, images, cut, more, said):
    with pytest.raises(UserError, match=said):
        target(network, images, cut, **more).check()


def test_only_a_vector_can_be_cut_down(images):
    model = nn.Sequential([nn.Conv(2, (3, 3)), lambda x: x.mean((1, 2))])
    variables = model.init(jax.random.key(0), images[:2])
    network = tap(model, variables, images[:2]), variables
    for more, said in (({"top_k": 1}, "top_k"), ({"probabilities": True}, "probabilities")):
        with pytest.raises(UserError, match=rf"{said} needs a vector of logits, but z has shape \(4, 4, 2\)"):
            target(network, images, "layers_0", **more).check()


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "linear"])
def test_attacks_that_rebuild_images_say_so_where_there_are_none(network, images, name):
    with pytest.raises(UserError, match=rf"'{name}' rebuilds images .* attack them with 'linear', or give pixels"):
        ATTACKS[name].check(target(network, images, images=False))


def test_the_likelihood_attack_needs_the_network_from_images(network, images):
    with pytest.raises(UserError, match="takes the network's gradient by the image: give white_box"):
        ATTACKS["likelihood"].check(target(network, images))
