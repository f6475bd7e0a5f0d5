"""Attacks that are left at any step and gone on with end bit for bit where those end that never were."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpz_jax.config import AttackSettings
from gpz_jax.data.batches import Pixels
from gpz_jax.inversion import decoder_training, likelihood
from gpz_jax.inversion.decoder import Decoder
from gpz_jax.inversion.pause import NEVER, Pause
from gpz_jax.inversion.protocol import Edge, Target
from gpz_jax.taps import tap

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
#: Of the 20 images 16 to fit on: two steps an epoch.
SETTINGS = AttackSettings(epochs=3, batch_size=8, lr=1e-2)


@pytest.fixture(autouse=True, scope="module")
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        yield


class Left(Exception):
    """The attack was left where it is."""


class LeavesAt(Pause):
    """Saves, in memory, and leaves when it is asked for that time; gone on with, it never leaves again."""

    def __init__(self, asked):
        self.asked, self.kept = asked, {}

    def due(self, under_way=None):
        self.asked -= 1
        return not self.asked

    def save(self, piece, tree):
        self.kept[piece] = jax.tree.map(np.array, tree)  # copies: the next step donates what it is given
        if not self.asked:
            self.asked = -1
            raise Left

    def recall(self, piece, like):
        kept = self.kept.get(piece)
        return kept and jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), kept, like)


def assert_left_and_gone_on_with(attack, asked):
    """Left at that step and gone on with, the attack gives what it gives without a pause."""
    whole, pause = attack(NEVER), LeavesAt(asked)
    with pytest.raises(Left):
        attack(pause)
    for (path, x), y in zip(jax.tree.leaves_with_path(whole), jax.tree.leaves(attack(pause)), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


class Flat(nn.Module):
    """What is attacked: one dense layer."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(6, name="fc")(x.reshape(len(x), -1).astype(jnp.float32) / 255)


class Drawn(Decoder):
    """A decoder of one layer with all that a state holds: statistics, and chance at every step."""

    @nn.compact
    def __call__(self, z, *, train):
        z = nn.BatchNorm(use_running_average=not train)(z)
        z = nn.Dropout(0.3, deterministic=not train)(z)
        return nn.sigmoid(nn.Dense(64)(z)).reshape(-1, 8, 8, 1)


@pytest.fixture(scope="module")
def decoder_attack():
    variables = Flat().init(jax.random.key(0), IMAGES[:2])
    edge = Edge(tap(Flat(), variables, IMAGES[:2]), "fc", pixels=Pixels(8))

    def attack(pause):
        target = Target(edge, variables, IMAGES, jax.random.key(1), SETTINGS, pause=pause)
        trained = decoder_training.train_decoder(target, Drawn(z_shape=(6,), x_shape=(8, 8, 1)))
        return trained.variables, trained.epoch, trained.selection_loss

    return attack


@pytest.mark.parametrize("step", [1, 2, 5])  # in an epoch, at the end of one, after some
def test_a_decoder(decoder_attack, step):
    assert_left_and_gone_on_with(decoder_attack, step)


def test_a_decoder_that_is_trained_is_kept_until_it_is_scored(decoder_attack):
    pause = LeavesAt(100)
    trained = decoder_attack(pause)
    assert int(pause.kept["decoder"].epoch) == SETTINGS.epochs
    pause.asked = 1  # so that any step would be left at
    for x, y in zip(jax.tree.leaves(trained), jax.tree.leaves(decoder_attack(pause)), strict=True):
        np.testing.assert_array_equal(x, y)


def linear(matrix, x):
    return x.reshape(len(x), -1) @ matrix


@pytest.mark.parametrize("step", [7, 20, 33])  # in the first restart, at its end, in the second
def test_maximum_likelihood(step):
    matrix = jax.random.normal(jax.random.key(0), (64, 6))
    z = linear(matrix, jnp.asarray(IMAGES[:3], jnp.float32) / 255)

    def attack(pause):
        return likelihood.invert(
            linear, matrix, z, (8, 8, 1), key=jax.random.key(1), steps=20, restarts=2, tv=0.1, pause=pause
        )

    assert_left_and_gone_on_with(attack, step)
