"""The attacker's loop: it beats the floor, picks on its own images, and knows nothing of what it attacks."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs  # noqa: F401  (shares compiled programs between processes)

from gpz_jax import parallel
from gpz_jax.config import AttackConfig, Config, DataConfig, ModelConfig, TrainingConfig, resolve
from gpz_jax.data.sources import load
from gpz_jax.data.splits import Split, make_splits
from gpz_jax.errors import UserError
from gpz_jax.inversion import decoder_training, metrics
from gpz_jax.training import classifier


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        yield


CONFIG = resolve(Config(data=DataConfig(size=16), model=ModelConfig(width=4, dtype="float32"),
                        training=TrainingConfig(epochs=1)))  # fmt: skip
RECIPE = classifier.recipe_for(CONFIG, 10, 1)
NETWORK = classifier.network_for(RECIPE, 1)
ATTACK = AttackConfig(epochs=6, decoder_width=4, batch_size=32, lr=1e-2)


@pytest.fixture(scope="module")
def parts():
    return make_splits(load("digits"), seed=0)


@pytest.fixture(scope="module")
def target_variables():
    """An untrained network: its first block loses little, and that is all this asks of it."""
    return classifier.init_state(jax.random.key(0), RECIPE, 1).variables


def attack(target_variables, auxiliary, options=ATTACK, cut="block_1", **more):
    return decoder_training.train_attacker(
        decoder_training.Edge(NETWORK, cut), target_variables, auxiliary,
        attack=options, size=16, seed=0, mesh=parallel.data_mesh(), **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(target_variables, parts):
    with jax.numpy_dtype_promotion("standard"):
        return attack(target_variables, parts.auxiliary)


def mean_error(target_variables, trained, split):
    edge = decoder_training.Edge(NETWORK, "block_1")
    pairs = decoder_training.reconstruct(edge, target_variables, trained.decoder, trained.variables, split, size=16)
    return np.concatenate([np.asarray(metrics.mse(x, x_hat)) for x, x_hat in pairs]).mean()


def test_beats_the_mean_image_from_the_first_block(target_variables, parts, trained):
    pictures = decoder_training.pixels(parts.test.take()[0], 16)
    mean = jnp.mean(decoder_training.pixels(parts.train.take()[0], 16), axis=0)
    floor = float(jnp.mean((pictures - mean) ** 2))
    assert mean_error(target_variables, trained, parts.test) < 0.5 * floor


def test_the_best_epoch_is_the_one_that_is_returned(target_variables, parts, trained):
    assert trained.selection_loss.shape == (ATTACK.epochs,)
    assert trained.epoch == 1 + int(np.argmin(trained.selection_loss))
    seen = selection_of(parts.auxiliary)
    np.testing.assert_allclose(
        mean_error(target_variables, trained, seen), trained.selection_loss[trained.epoch - 1], rtol=1e-4
    )


def selection_of(auxiliary):
    """The part that the attacker documents to hold out: the first fifth of a seeded shuffle."""
    shuffled = np.random.default_rng(0).permutation(auxiliary.indices)
    return Split(auxiliary.images, None, shuffled[: round(0.2 * len(shuffled))])


def test_selection_and_fit_are_disjoint_and_inside_the_auxiliary_split(target_variables, parts, monkeypatch):
    looked_at, sent = [], []
    honest_batches, honest_replicate = decoder_training.padded_batches, parallel.replicate

    def batches(split, size):
        looked_at.append(split.indices)
        return honest_batches(split, size)

    def replicate(tree, mesh):
        sent.append(tree)
        return honest_replicate(tree, mesh)

    monkeypatch.setattr(decoder_training, "padded_batches", batches)
    monkeypatch.setattr(parallel, "replicate", replicate)
    # Every image carries its own number in one pixel, so that the images themselves tell where they are from.
    images = parts.auxiliary.images.copy()
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(len(images)) % 256, np.arange(len(images)) // 256
    attack(target_variables, Split(images, None, parts.auxiliary.indices), AttackConfig(epochs=1, decoder_width=4))
    (_, fitted), selection = sent[0], set(looked_at[0].tolist())
    fitted = set((fitted[:, 0, 0, 0].astype(int) + 256 * fitted[:, 0, 1, 0].astype(int)).tolist())
    assert not fitted & selection
    assert fitted | selection == set(parts.auxiliary.indices.tolist())
    assert len(selection) == round(0.2 * len(parts.auxiliary))


def test_an_attack_is_deterministic(target_variables, parts):
    short = AttackConfig(epochs=1, decoder_width=4)
    first, again = (
        attack(target_variables, parts.auxiliary, short),
        attack(target_variables, parts.auxiliary, short),
    )
    for a, b in zip(jax.tree.leaves(first.variables), jax.tree.leaves(again.variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_does_not_fit_is_asked_for_again(target_variables, parts, monkeypatch):
    """The decoder learns the same whether z is kept or recomputed at every step."""
    short = AttackConfig(epochs=2, decoder_width=4)
    kept = attack(target_variables, parts.auxiliary, short)
    monkeypatch.setattr(decoder_training, "KEPT_BYTES", 0)
    asked = []
    honest = decoder_training.Edge.send
    monkeypatch.setattr(decoder_training.Edge, "send", lambda *a: asked.append(len(a[2])) or honest(*a))
    jax.clear_caches()
    again = attack(target_variables, parts.auxiliary, short)
    assert 64 in asked  # the training step asks, too
    np.testing.assert_allclose(again.selection_loss, kept.selection_loss, rtol=1e-4)


def test_reconstruct_drops_padding_and_keeps_the_order(target_variables, parts, trained):
    edge = decoder_training.Edge(NETWORK, "block_1")
    some = Split(parts.test.images, None, parts.test.indices[:259])  # 256 and 3, the second padded
    pairs = list(
        decoder_training.reconstruct(edge, target_variables, trained.decoder, trained.variables, some, size=16)
    )
    assert [len(x) for x, _ in pairs] == [256, 3]
    assert all(x.shape == x_hat.shape for x, x_hat in pairs)
    expected = decoder_training.pixels(some.take()[0], 16)
    np.testing.assert_allclose(np.concatenate([x for x, _ in pairs]), expected, atol=1e-6)


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


def test_too_few_images(target_variables, parts):
    few = Split(parts.test.images, None, parts.test.indices[:2])
    with pytest.raises(UserError, match=r"the attacker has 2 images, too few.*--auxiliary-fraction"):
        attack(target_variables, few)


def test_a_loss_that_is_not_finite_names_cut_and_epoch(target_variables, parts, monkeypatch):
    monkeypatch.setattr(decoder_training.metrics, "mse", lambda x, x_hat: jnp.full(len(x), jnp.nan))
    with pytest.raises(UserError, match=r"attack on block_1 diverged in epoch 1.*--lr"):
        attack(target_variables, parts.auxiliary, AttackConfig(epochs=1, decoder_width=4))


def test_the_attacker_imports_nothing_of_the_models():
    tree = ast.parse(pathlib.Path(decoder_training.__file__).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not [name for name in modules if name.startswith(("gpz_jax.models", "gpz_jax.training.classifier"))]
