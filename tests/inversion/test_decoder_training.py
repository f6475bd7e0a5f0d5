"""The attacker's loop: it beats the floor, picks on its own images, and knows nothing of what it attacks."""

import ast
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs  # noqa: F401  (shares compiled programs between processes)

from gpz_jax import parallel
from gpz_jax.config import AttackSettings, Config, DataConfig, ModelConfig, TrainingConfig, resolve
from gpz_jax.data.batches import Pixels
from gpz_jax.data.sources import load
from gpz_jax.data.splits import make_splits
from gpz_jax.errors import UserError
from gpz_jax.inversion import decoder_training
from gpz_jax.inversion.decoder import decoder_for
from gpz_jax.inversion.protocol import Edge, Target, images_of
from gpz_jax.taps import tap
from gpz_jax.training import classifier


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        yield


CONFIG = resolve(Config(data=DataConfig(size=16), model=ModelConfig(width=4, dtype="float32"),
                        training=TrainingConfig(epochs=1)))  # fmt: skip
RECIPE = classifier.recipe_for(CONFIG, 10, 1)
NETWORK = classifier.network_for(RECIPE, 1)
ATTACK = AttackSettings(epochs=6, decoder_width=4, batch_size=32, lr=1e-2)


@pytest.fixture(scope="module")
def parts():
    return make_splits(load("digits"), seed=0)


@pytest.fixture(scope="module")
def target_variables():
    """An untrained network: its first block loses little, and that is all this asks of it."""
    return classifier.init_state(jax.random.key(0), RECIPE, 1).variables


def target_of(target_variables, auxiliary, settings=ATTACK, cut="block_1"):
    edge = Edge(NETWORK, cut, pixels=Pixels(16))
    return Target(edge, target_variables, auxiliary, jax.random.key(0), settings, mesh=parallel.data_mesh())


def attack(target_variables, auxiliary, settings=ATTACK):
    target = target_of(target_variables, auxiliary, settings)
    decoder = decoder_for(target.z_shape, target.x_shape, width=settings.decoder_width)
    return decoder_training.train_decoder(target, decoder)


@pytest.fixture(scope="module")
def auxiliary(parts):
    return parts.auxiliary.take()[0]


@pytest.fixture(scope="module")
def trained(target_variables, auxiliary):
    with jax.numpy_dtype_promotion("standard"):
        return attack(target_variables, auxiliary)


def mean_error(target_variables, trained, images):
    target = target_of(target_variables, images)
    pairs = target.batches(images, target.test_key())
    errors = [(x - decoder_training.decode(trained.variables, z, decoder=trained.decoder)) ** 2 for x, z in pairs]
    return np.concatenate([np.mean(error, (1, 2, 3)) for error in errors]).mean()


@pytest.mark.thorough
def test_beats_the_mean_image_from_the_first_block(target_variables, parts, trained):
    pictures = images_of(parts.test.take()[0], pixels=Pixels(16))
    mean = jnp.mean(images_of(parts.train.take()[0], pixels=Pixels(16)), axis=0)
    floor = float(jnp.mean((pictures - mean) ** 2))
    assert mean_error(target_variables, trained, parts.test.take()[0]) < 0.5 * floor


def test_the_best_epoch_is_the_one_that_is_returned(target_variables, auxiliary, trained):
    assert trained.selection_loss.shape == (ATTACK.epochs,)
    assert trained.epoch == 1 + int(np.argmin(trained.selection_loss))
    seen = selection_of(auxiliary)
    np.testing.assert_allclose(
        mean_error(target_variables, trained, seen), trained.selection_loss[trained.epoch - 1], rtol=1e-4
    )


def selection_of(auxiliary):
    """The part that the attacker documents to hold out: the first fifth of a seeded shuffle."""
    return auxiliary[np.random.default_rng(0).permutation(len(auxiliary))[: round(0.2 * len(auxiliary))]]


def test_it_trains_on_the_attackers_images_but_those_that_it_chooses_on(target_variables, auxiliary, monkeypatch):
    replicated = []
    honest = parallel.replicate
    monkeypatch.setattr(parallel, "replicate", lambda tree, mesh: replicated.append(tree) or honest(tree, mesh))
    # Every image carries its own number in one pixel, so that the images themselves tell where they are from.
    images = auxiliary.copy()
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(len(images)) % 256, np.arange(len(images)) // 256
    attack(target_variables, images, AttackSettings(epochs=1, decoder_width=4))

    def numbers(images):
        return set((images[:, 0, 0, 0].astype(int) + 256 * images[:, 0, 1, 0].astype(int)).tolist())

    _, fitted = replicated[0]
    fitted = fitted[np.arange(len(fitted))]
    assert numbers(fitted) == set(range(len(images))) - numbers(selection_of(images))
    assert len(numbers(selection_of(images))) == round(0.2 * len(images))


def test_an_attack_is_deterministic(target_variables, auxiliary):
    short = AttackSettings(epochs=1, decoder_width=4)
    first, again = (attack(target_variables, auxiliary, short) for _ in range(2))
    for a, b in zip(jax.tree.leaves(first.variables), jax.tree.leaves(again.variables), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_what_does_not_fit_is_asked_for_again(target_variables, auxiliary, monkeypatch):
    """The decoder learns the same whether z is kept or recomputed at every step."""
    short = AttackSettings(epochs=2, decoder_width=4)
    kept = attack(target_variables, auxiliary, short)
    monkeypatch.setattr(decoder_training, "KEPT_BYTES", 0)
    asked = []
    honest = Edge.send
    monkeypatch.setattr(Edge, "send", lambda *a: asked.append(len(a[2])) or honest(*a))
    jax.clear_caches()
    again = attack(target_variables, auxiliary, short)
    assert 64 in asked  # the training step asks, too
    np.testing.assert_allclose(again.selection_loss, kept.selection_loss, rtol=1e-4)


@pytest.mark.parametrize(
    ("losses", "gain"),
    [
        ([1.0, 0.5], 1.0),  # too short to say: not flattened
        ([5.0, 4.0, 3.0, 2.0, 1.0], 0.5),
        ([1.0, 1.0, 1.0, 1.0, 1.0], 0.0),
        ([1.0, 0.5, 0.9, 0.9, 0.9], 0.0),  # the best so far, not the last
        ([0.0] * 5, 0.0),
        ([4.0] * 8 + [2.0, 1.0], 0.75),  # a fifth of ten is two
    ],
)
def test_last_gain(losses, gain):
    assert decoder_training.last_gain(np.array(losses)) == pytest.approx(gain)


def test_too_few_images(target_variables, auxiliary):
    with pytest.raises(UserError, match=r"the attacker has 2 images, too few.*auxiliary_fraction"):
        attack(target_variables, auxiliary[:2])


def test_a_loss_that_is_not_finite_names_cut_and_epoch(target_variables, auxiliary, monkeypatch):
    monkeypatch.setattr(decoder_training.metrics, "mse", lambda x, x_hat: jnp.full(len(x), jnp.nan))
    with pytest.raises(UserError, match=r"attack on block_1 diverged in epoch 1.*lower lr") as found:
        attack(target_variables, auxiliary, AttackSettings(epochs=1, decoder_width=4))
    assert "lower --lr (now" in found.value.with_flags()


def test_the_attacker_imports_nothing_of_the_models():
    tree = ast.parse(pathlib.Path(decoder_training.__file__).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not [name for name in modules if name.startswith(("gpz_jax.models", "gpz_jax.training.classifier"))]


class Twice(nn.Module):
    """Two blocks of one shape."""

    @nn.compact
    def __call__(self, x):
        for name in ("first", "second"):
            x = nn.relu(nn.Conv(4, (3, 3), name=name)(x))
        return nn.Dense(10, name="logits")(jnp.mean(x, axis=(1, 2)))


def test_cuts_of_one_shape_share_the_programs_of_a_step(auxiliary):
    x = auxiliary[:, ::2, ::2].astype(np.float32) / 255
    variables = Twice().init(jax.random.key(0), x[:2])
    network = tap(Twice(), variables, x[:2])
    before = decoder_training.attack_step._cache_size()
    losses = []
    for cut in ("first", "second"):
        settings = AttackSettings(epochs=1, steps=2, decoder_width=2)
        target = Target(Edge(network, cut), variables, x, jax.random.key(0), settings, mesh=parallel.data_mesh())
        decoder = decoder_for(target.z_shape, target.x_shape, width=2)
        losses.append(decoder_training.train_decoder(target, decoder).selection_loss[0])
    assert decoder_training.attack_step._cache_size() == before + 1
    assert losses[0] != losses[1]  # each was still asked for its own z
