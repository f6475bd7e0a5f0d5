"""attack_cut on networks of one's own: its numbers are NumPy's, its refusals come before anything runs."""

import importlib.util
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gpz_jax
from gpz_jax.errors import UserError
from gpz_jax.inversion import attacking
from gpz_jax.inversion.intervals import bootstrap_ratio_interval


class Small(nn.Module):
    """A convolution and a head; its branch is bypassed."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3, 3), (2, 2), name="conv")(x))
        x = x + nn.Conv(3, (3, 3), name="branch")(x)
        return nn.Dense(3, name="head")(x.reshape(len(x), -1))


class Flat(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.relu(nn.Dense(7, name="hidden")(x)))


def tapped(model, x):
    variables = model.init(jax.random.key(0), x[:2])
    return gpz_jax.tap(model, variables, x[:2]), variables


@pytest.fixture(scope="module")
def images():
    """Two kinds of images, and which is which."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=90).astype(np.int32)
    return (rng.random((90, 8, 8, 1)) * 0.5 + 0.2 * labels[:, None, None, None]).astype(np.float32), labels


@pytest.fixture(scope="module")
def small(images):
    return tapped(Small(), images[0])


KEY = jax.random.key(0)


def attack(small, images, cut="conv", **more):
    x, labels = images
    return gpz_jax.attack_cut(*small, cut, (x[:60], labels[:60]), (x[60:], labels[60:]), **{"key": KEY, **more})


@pytest.mark.thorough
def test_scores_floors_and_ratio_are_those_of_numpy(small, images):
    x, labels = images
    result = attack(small, images)
    attempt, test, known = result["linear"], x[60:].astype(np.float64), x[:60].astype(np.float64)
    np.testing.assert_array_equal(attempt.originals, x[60:])
    error = np.mean((test - attempt.reconstructions) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(attempt.per_image.mse, error, rtol=1e-5)
    np.testing.assert_allclose(attempt.scores.mse, error.mean(), rtol=1e-5)
    np.testing.assert_allclose(attempt.scores.psnr, np.mean(-10 * np.log10(error)), rtol=1e-5)
    means = np.stack([known[labels[:60] == c].mean(axis=0) for c in range(3)])
    floor = np.mean((test - means[labels[60:]]) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(attempt.floors.class_mean, floor.mean(), rtol=1e-5)
    np.testing.assert_allclose(attempt.floors.mean_image, np.mean((test - known.mean(0)) ** 2), rtol=1e-5)
    taken = np.argmax(small[0](small[1], x)[0], axis=1)
    guesses = np.stack([known[taken[:60] == c].mean(0) if (taken[:60] == c).any() else known.mean(0) for c in range(3)])
    np.testing.assert_allclose(attempt.floors.label_only, np.mean((test - guesses[taken[60:]]) ** 2), rtol=1e-5)
    np.testing.assert_allclose(attempt.scores.ratio, error.mean() / floor.mean(), rtol=1e-5)
    np.testing.assert_allclose(attempt.intervals.ratio, bootstrap_ratio_interval(error, floor), rtol=1e-4)
    varied = attempt.reconstructions.var(axis=0).sum() / test.var(axis=0).sum()
    np.testing.assert_allclose(attempt.prior_collapse, varied, rtol=1e-4)
    assert np.isnan(attempt.scores.ssim)  # images of 8 pixels are smaller than its window


def test_the_leak_list_is_ordered_and_has_its_pictures(small, images):
    x, labels = images
    attempt = attack(small, images, keep=4).best
    order = np.argsort(attempt.per_image.mse)
    assert [leak.image for leak in attempt.leaks.best_images] == order[:5].tolist()
    assert [leak.image for leak in attempt.leaks.worst_images] == order[::-1][:5].tolist()
    assert [leak.label for leak in attempt.leaks.best_images] == labels[60:][order[:5]].tolist()
    np.testing.assert_array_equal(attempt.best_inverted.originals, x[60:][order[:5]])
    error = np.mean((attempt.worst_inverted.originals - attempt.worst_inverted.reconstructions) ** 2, (1, 2, 3))
    np.testing.assert_allclose(error, [leak.mse for leak in attempt.leaks.worst_images], rtol=1e-5)
    by_class = {c: attempt.per_image.mse[labels[60:] == c].mean() for c in range(3)}
    assert [leak.label for leak in attempt.leaks.best_classes] == sorted(by_class, key=by_class.get)


def test_known_images_make_the_floors(small, images):
    x, labels = images
    result = attack(small, images, known=(x[60:], labels[60:]))
    means = np.stack([x[60:][labels[60:] == c].mean(axis=0) for c in range(3)])
    np.testing.assert_allclose(result.floors.class_mean, np.mean((x[60:] - means[labels[60:]]) ** 2), rtol=1e-4)


def test_without_labels_predictions_stand_for_them(small, images):
    x, _ = images
    taken = np.argmax(small[0](small[1], x)[0], axis=1)
    bare = gpz_jax.attack_cut(*small, "conv", x[:60], x[60:], key=KEY)
    said = gpz_jax.attack_cut(*small, "conv", (x[:60], taken[:60]), (x[60:], taken[60:]), key=KEY)
    assert bare.floors == said.floors
    np.testing.assert_array_equal(bare.best.per_image.label, taken[60:])


def test_bytes_are_divided_by_255_and_pixels_undo_a_normalisation(small, images):
    x, _labels = images
    as_bytes = np.rint(x * 255).astype(np.uint8)
    network, variables = small
    from_bytes = network.after(to_unit)
    one = gpz_jax.attack_cut(from_bytes, variables, "conv", as_bytes[:60], as_bytes[60:], key=KEY)
    exact = as_bytes.astype(np.float32) / 255
    two = gpz_jax.attack_cut(network, variables, "conv", exact[:60], exact[60:], key=KEY)
    np.testing.assert_allclose(one.best.scores.mse, two.best.scores.mse, rtol=1e-4)
    normal = 4 * exact - 2
    three = gpz_jax.attack_cut(network.after(undo), variables, "conv", normal[:60], normal[60:], key=KEY, pixels=undo)
    np.testing.assert_allclose(three.best.scores.mse, two.best.scores.mse, rtol=1e-3)


def to_unit(x):
    return jnp.asarray(x).astype(jnp.float32) / 255


def quadrupled(x):
    return 4 * jnp.asarray(x)


def undo(x):
    return jnp.asarray(x) / 4 + 0.5


def test_the_linear_attack_takes_any_numbers():
    x = np.random.default_rng(0).normal(size=(80, 5)).astype(np.float32) * 10
    network, variables = tapped(Flat(), x)
    result = gpz_jax.attack_cut(network, variables, "hidden", x[:60], x[60:], key=KEY)
    assert result.best.scores.ratio < 0.02  # 7 numbers, before the ReLU, for 5
    assert result.best.reconstructions.shape == (20, 5)
    assert result.best.reconstructions.min() < 0  # not clipped to pixels
    assert result.best.per_image.psnr is None
    assert "psnr" not in repr(result)


def test_of_a_defended_edge_less_comes_back_and_its_accuracy_is_said(small, images):
    bare = attack(small, images)
    noisy = attack(small, images, defence="gaussian:5")
    assert noisy.best.scores.mse > bare.best.scores.mse
    assert noisy.best.accuracy_undefended == pytest.approx(
        np.mean(np.argmax(small[0](small[1], images[0][60:])[0], 1) == images[1][60:])
    )
    assert np.isnan(bare.best.accuracy)


SHORT = gpz_jax.AttackSettings(epochs=2, decoder_width=2, batch_size=16, steps=40, likelihood_images=8, tv=0.0)


def test_attacks_follow_each_other_and_report(small, images):
    said = []
    result = attack(
        small, images, attacks=("linear", "deconvolution", "likelihood"), settings=SHORT,
        progress=lambda done, total, words: said.append((done, total, words)),
    )  # fmt: skip
    assert [a.attack for a in result.attempts] == ["linear", "deconvolution", "likelihood"]
    assert said[0][:2] == (1, 2)
    assert said[0][2].startswith("mse 0.")
    likelihood = result["likelihood"]
    assert likelihood.test_images == len(likelihood.per_image.mse) == 8
    assert likelihood.training.chosen["start"] == "reconstructions of the best attack so far"
    assert result["deconvolution"].training.note == "under 5 epochs"
    first = {a.attack: a.mse_of_first(8) for a in result.attempts}
    assert result.best.attack == min(first, key=first.get)
    assert first["likelihood"] < first["linear"]  # where it began
    with pytest.raises(UserError, match="no attack 'likelyhood' here; did you mean 'likelihood'"):
        result["likelyhood"]


def test_one_key_one_answer_and_another_key_another(small, images):
    one, two, other = (
        attack(small, images, attacks="deconvolution", settings=SHORT, key=jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.best.reconstructions, two.best.reconstructions)
    assert np.abs(one.best.reconstructions - other.best.reconstructions).max() > 0


def test_results_as_tables(small, images):
    result = attack(small, images, attacks=("linear", "likelihood"), settings=SHORT)
    frame, record = result.to_pandas(), result.to_xarray()
    assert list(frame.index) == ["linear", "likelihood"]
    assert frame.loc["linear", "mse"] == result["linear"].scores.mse
    assert dict(record.sizes) == {"attack": 2, "image": 30}
    assert record.mse_of_image.sel(attack="likelihood").notnull().sum() == 8
    np.testing.assert_allclose(record.mse_of_image.mean("image"), record.mse, rtol=1e-6)
    assert record.attrs["cut"] == "conv"
    assert max(map(len, repr(result).splitlines())) <= 80
    assert result._repr_html_().startswith("<table>")


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_runs(monkeypatch):
    monkeypatch.setattr(attacking, "attack_target", lambda *a, **k: pytest.fail("it attacked"))


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cut": "cnv"}, "unknown cut 'cnv'; did you mean 'conv'"),
        ({"cut": "branch"}, "cut 'branch' is bypassed: .* valid cuts: conv, head, logits"),
        ({"attacks": ["linaer"]}, "unknown attack 'linaer'; did you mean 'linear'"),
        ({"attacks": ()}, "no attack is given"),
        ({"defence": "gausian:1"}, "unknown defence 'gausian'; did you mean 'gaussian'"),
        ({"settings": gpz_jax.AttackSettings(top_k=2)}, "top_k needs a vector of logits"),
        ({"known": np.zeros((5, 4, 4, 1), np.float32)}, r"known of shape \(4, 4, 1\) float32, but auxiliary of"),
        ({"known": (np.zeros((5, 8, 8, 1), np.float32), np.arange(5))}, "label 3 of known: with 3 logits labels"),
        ({"pixels": quadrupled}, "pixels gives values from .* images are"),
    ],
)
def test_bad_input_is_one_line(small, images, changed, said):
    with pytest.raises(UserError, match=said):
        attack(small, images, **changed)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("auxiliary", "test", "said"),
    [
        (
            lambda x, y: (x[:60], y[:59]),
            None,
            r"labels of auxiliary of shape \(59,\) and dtype int32: give 60 integers",
        ),
        (None, lambda x, y: (x[60:], y[60:] / 1.0), "labels of test .* dtype float64: give 30 integers"),
        (None, lambda x, y: (x[60:], y[60:] + 1), "label 3 of test: with 3 logits labels run from 0 to 2"),
        (None, lambda x, y: x[60:61], r"test of shape \(1, 8, 8, 1\): give two inputs or more"),
        (lambda x, y: x[0, 0, 0], None, r"auxiliary of shape \(1,\): give two inputs or more"),
        (lambda x, y: (255 * x[:60]).astype(np.int32), None, "auxiliary of dtype int32: give images as bytes"),
        (lambda x, y: x[:60] * np.nan, None, "auxiliary has values that are not finite"),
        (None, lambda x, y: x[60:, :4], r"test of shape \(4, 8, 1\) float32, but auxiliary of \(8, 8, 1\) float32"),
    ],
)
def test_bad_images_and_labels_are_one_line(small, images, auxiliary, test, said):
    x, labels = images
    sides = (auxiliary or (lambda x, y: x[:60]))(x, labels), (test or (lambda x, y: x[60:]))(x, labels)
    with pytest.raises(UserError, match=said):
        gpz_jax.attack_cut(*small, "conv", *sides, key=KEY)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("name", ["deconvolution", "likelihood"])
def test_images_outside_0_and_1_are_none(small, images, name):
    x = 3 * images[0] - 1
    with pytest.raises(UserError, match=rf"'{name}' rebuilds images .* give pixels"):
        gpz_jax.attack_cut(*small, "conv", x[:60], x[60:], attacks=("linear", name), key=KEY)


@pytest.mark.usefixtures("nothing_runs")
def test_the_gradient_by_bytes_does_not_exist(small, images):
    x = np.rint(images[0] * 255).astype(np.uint8)
    network = small[0].after(to_unit)
    with pytest.raises(UserError, match="give white_box, the tapped network from images"):
        gpz_jax.attack_cut(network, small[1], "conv", x[:60], x[60:], attacks="likelihood", key=KEY)


# An attack of one's own -----------------------------------------------------------------------------------------------


def test_the_attack_of_the_docs_runs_through_attack_cut(small, images):
    file = pathlib.Path(__file__).parents[2] / "docs" / "howto" / "own_attack.py"
    assert len(file.read_text().splitlines()) <= 30
    spec = importlib.util.spec_from_file_location("own_attack", file)
    own_attack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(own_attack)
    x, _ = images
    result = attack(small, images, attacks=("linear", own_attack.NearestImage()))
    z = np.asarray(small[0](small[1], x)[1]["conv"]).reshape(90, -1)
    nearest = [np.argmin(((z[:60] - one) ** 2).sum(1)) for one in z[60:]]
    np.testing.assert_array_equal(result["nearest"].reconstructions, x[nearest])
    assert result["nearest"].scores.mse > result["linear"].scores.mse
    assert "nothing is trained" in repr(result)
