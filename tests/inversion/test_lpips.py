import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpz_jax.errors import UserError
from gpz_jax.inversion import lpips, lpips_weights

#: Of the pairs of `fixed_pairs`, by `by_torch` in float64 with the published weights (PyTorch 2.14).
BY_TORCH = [0.0101988489, 0.11578455, 1.19195448]


@pytest.fixture(scope="module")
def trained():
    path = lpips.weights_file(None)
    if path is None:
        pytest.skip("set GPZ_LPIPS to a file of LPIPS weights to run this")
    return lpips.load(path)


def random_arrays(seed=0):
    """Arrays of the file's shapes, scaled so that every layer fires as much as the one before."""
    generator = np.random.default_rng(seed)
    arrays = {}
    for name, shape in lpips.SHAPES.items():
        noise = generator.standard_normal(shape)
        if len(shape) == 4:
            arrays[name] = noise * np.sqrt(2 / np.prod(shape[1:]))
        else:
            arrays[name] = {"conv": 0.1 * noise, "lin": abs(noise)}.get(name.rstrip("012345_wb"), 0.5 + 0 * noise)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def weights():
    return lpips.from_arrays(random_arrays())


@pytest.fixture(scope="module")
def noisy():
    """Four 40x33 images, and worse and worse reconstructions of them."""
    generator = np.random.default_rng(3)
    x = np.broadcast_to(generator.uniform(size=(1, 40, 33, 3)), (4, 40, 33, 3))
    noise = generator.standard_normal((1, 40, 33, 3)) * np.array([0.01, 0.05, 0.2, 0.5])[:, None, None, None]
    return jnp.asarray(x, jnp.float32), jnp.asarray(np.clip(x + noise, 0, 1), jnp.float32)


def fixed_pairs():
    """Three pairs at 64x64x3, float32: waves under noise, waves moved by five pixels, noise against grey."""
    generator = np.random.default_rng(2018)
    row, column = np.mgrid[:64, :64] / 64
    waves = np.stack([0.5 + 0.4 * np.sin(2 * np.pi * (k * row + (4 - k) * column)) for k in (1, 2, 3)], axis=-1)
    noise = generator.uniform(size=(64, 64, 3))
    x = np.stack([waves, waves, noise])
    x_hat = np.stack([waves + 0.1 * (noise - 0.5), np.roll(waves, 5, axis=(0, 1)), np.full_like(noise, 0.5)])
    return x.astype(np.float32), x_hat.astype(np.float32)


def by_torch(path, x, x_hat):
    """LPIPS by PyTorch in float64, written from the description of the weights and not from our code."""
    import torch
    from torch.nn import functional

    w = {name: torch.from_numpy(array).double() for name, array in np.load(path).items()}
    distance = torch.zeros(len(x), dtype=torch.float64)
    images = []
    for image in (x, x_hat):
        image = torch.from_numpy(image).double().permute(0, 3, 1, 2)
        images.append((2 * image - 1 - w["shift"][:, None, None]) / w["scale"][:, None, None])
    a, b = images
    for i in range(5):
        unit = []
        for y in (a, b):
            if i in (1, 2):
                y = functional.max_pool2d(y, kernel_size=3, stride=2)
            y = functional.conv2d(
                y, w[f"conv{i + 1}_w"], w[f"conv{i + 1}_b"], stride=4 if i == 0 else 1, padding=2 if i < 2 else 1
            )
            unit.append(functional.relu(y))
        a, b = unit
        u, v = (y / (y.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for y in (a, b))
        distance += (w[f"lin{i}_w"][:, None, None] * (u - v) ** 2).sum(1).mean((1, 2))
    return distance.numpy()


# --- values ---------------------------------------------------------------------------------------


def test_values_stored_from_torch(trained):
    x, x_hat = map(jnp.asarray, fixed_pairs())
    # Seen on a CPU: 2e-8 apart, 9e-7 relative. The package lpips 0.1.4, in float32, is 4e-7 from what is stored.
    np.testing.assert_allclose(lpips.lpips(trained, x, x_hat), BY_TORCH, rtol=1e-5, atol=1e-7)


def test_values_against_torch_where_it_is_installed(tmp_path, weights):
    pytest.importorskip("torch")
    np.savez(tmp_path / "w.npz", **random_arrays())
    x, x_hat = fixed_pairs()
    want = by_torch(tmp_path / "w.npz", x, x_hat)
    np.testing.assert_allclose(lpips.lpips(weights, jnp.asarray(x), jnp.asarray(x_hat)), want, rtol=1e-4)


def test_trained_weights_rank_noise(trained, noisy):
    waves = jnp.asarray(fixed_pairs()[0][:1, :40, :33])
    x, x_hat = noisy
    distance = lpips.lpips(trained, jnp.broadcast_to(waves, x.shape), waves + (x_hat - x))
    assert (jnp.diff(distance) > 0).all()
    assert distance[0] < 0.05
    assert distance[-1] > 0.5


def test_last_step_against_numpy():
    generator = np.random.default_rng(1)
    f, f_hat = np.maximum(generator.standard_normal((2, 3, 4, 5, 7)), 0)
    f[0, 0, 0] = 0  # no channel fires
    linear = generator.uniform(size=7)

    def unit(y):
        return y / (np.sqrt((y**2).sum(-1, keepdims=True)) + 1e-10)

    want = ((unit(f) - unit(f_hat)) ** 2 * linear).sum(-1).mean((1, 2))
    got = lpips.layer_distance(*(jnp.asarray(y, jnp.float32) for y in (f, f_hat, linear)))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_first_convolution_against_numpy(weights):
    arrays = random_arrays()
    x = np.random.default_rng(2).uniform(size=(1, 31, 35, 3)).astype(np.float32)
    standard = (2 * x[0].astype(np.float64) - 1 - arrays["shift"]) / arrays["scale"]
    patch = np.pad(standard, ((2, 2), (2, 2), (0, 0)))[8:19, 4:15]  # under the kernel at row 2, column 1
    want = np.maximum(np.einsum("hwi,oihw->o", patch, arrays["conv1_w"]) + arrays["conv1_b"], 0)
    np.testing.assert_allclose(lpips.features(weights, jnp.asarray(x))[0][0, 2, 1], want, rtol=1e-4, atol=1e-5)


def test_shapes_of_the_features():
    weights = jax.eval_shape(lambda: lpips.from_arrays(random_arrays()))
    maps = jax.eval_shape(lpips.features, weights, jax.ShapeDtypeStruct((2, 64, 64, 1), jnp.float32))
    assert [f.shape[1:] for f in maps] == [(15, 15, 64), (7, 7, 192), (3, 3, 384), (3, 3, 256), (3, 3, 256)]


def test_a_distance(weights, noisy):
    x, x_hat = noisy
    distance = lpips.lpips(weights, x, x_hat)
    assert distance.shape == (4,)
    assert distance.dtype == jnp.float32
    assert (jnp.diff(distance) > 0).all()
    np.testing.assert_array_equal(lpips.lpips(weights, x, x), 0)
    np.testing.assert_array_equal(lpips.lpips(weights, x_hat, x), distance)


@pytest.mark.slow
def test_jit_and_order_change_nothing(weights, noisy):
    distance = lpips.lpips(weights, *noisy)
    np.testing.assert_allclose(jax.jit(lpips.lpips)(weights, *noisy), distance, rtol=1e-4)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(lpips.lpips(weights, *(y[order] for y in noisy)), distance[order], rtol=1e-4)
    np.testing.assert_allclose(lpips.lpips(weights, *(y[1:2] for y in noisy)), distance[1:2], rtol=1e-4)


def test_grey_is_repeated(weights, noisy):
    x, x_hat = (y[:2, ..., :1] for y in noisy)
    want = lpips.lpips(weights, jnp.repeat(x, 3, -1), jnp.repeat(x_hat, 3, -1))
    np.testing.assert_array_equal(lpips.lpips(weights, x, x_hat), want)


def test_bfloat16_is_scored_in_float32(weights, noisy):
    x, x_hat = (y[:1].astype(jnp.bfloat16) for y in noisy)
    got = lpips.lpips(weights, x, x_hat)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, lpips.lpips(weights, x.astype(jnp.float32), x_hat.astype(jnp.float32)))


@pytest.mark.slow
def test_gradient_is_finite_where_nothing_fires(weights):
    silent = weights._replace(biases=tuple(jnp.full_like(bias, -1e3) for bias in weights.biases))
    x = jnp.full((1, 31, 31, 3), 0.5)
    for each in (weights, silent):
        gradient = jax.grad(lambda y, each=each: lpips.lpips(each, y, jnp.zeros_like(y)).sum())(x)
        assert jnp.isfinite(gradient).all()


# --- refusals -------------------------------------------------------------------------------------


def test_images_are_refused(weights):
    function = getattr(lpips.lpips, "__wrapped__", lpips.lpips)  # before annotations are checked
    x = jnp.zeros((1, 31, 31, 3))
    assert function(weights, x, x).shape == (1,)
    with pytest.raises(UserError, match=r"images \(1, 31, 31, 3\) against reconstructions \(1, 31, 31, 1\)"):
        function(weights, x, x[..., :1])
    with pytest.raises(UserError, match=r"pixels of dtype uint8: .*divide bytes by 255"):
        function(weights, x, x.astype(jnp.uint8))
    with pytest.raises(UserError, match=r"LPIPS of images with 2 channels: it takes grey \(1\) or RGB \(3\)"):
        function(weights, x[..., :2], x[..., :2])
    for small, size in [(x[:, :30], "30x31"), (x[:, :, :28], "31x28")]:
        with pytest.raises(UserError, match=rf"LPIPS of {size} images: AlexNet needs 31x31; resize .*64 pixels"):
            function(weights, small, small)


def test_load_gives_what_was_written(tmp_path):
    arrays = random_arrays()
    np.savez(tmp_path / "w.npz", **arrays, unknown=np.zeros(3))
    weights = lpips.load(str(tmp_path / "w.npz"))
    assert [kernel.shape for kernel in weights.kernels][:2] == [(64, 3, 11, 11), (192, 64, 5, 5)]
    np.testing.assert_array_equal(weights.biases[4], arrays["conv5_b"])
    np.testing.assert_array_equal(weights.linear[0], arrays["lin0_w"])
    np.testing.assert_array_equal(weights.scale, arrays["scale"])


def changed(**arrays):
    return {name: array for name, array in (random_arrays() | arrays).items() if array is not None}


MALFORMED = {
    "lacks one": (changed(lin2_w=None), r"lin2_w is missing; it should be float32 \(384,\)$"),
    "shape": (
        changed(conv1_w=np.zeros((11, 11, 3, 64), np.float32)),
        r"conv1_w is float32 \(11, 11, 3, 64\); it should be float32 \(64, 3, 11, 11\)$",
    ),
    "dtype": (changed(shift=np.zeros(3)), r"shift is float64 \(3,\); it should be float32 \(3,\)$"),
    "nan": (changed(lin0_w=np.full(64, np.nan, np.float32)), r"lin0_w holds NaN or infinite numbers; .*, finite$"),
    "pickled": (changed(lin0_w=np.array([{}], object)), r"lin0_w holds pickled Python objects, which are never loaded"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_arrays_are_named(tmp_path, case):
    arrays, message = MALFORMED[case]
    path = tmp_path / "w.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=message) as caught:
        lpips.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_malformed_files(tmp_path):
    path = tmp_path / "w.npz"
    with pytest.raises(
        UserError, match=r"no file .*w\.npz; make it with python -m gpz_jax\.inversion\.lpips_weights w\.npz$"
    ):
        lpips.load(path)
    with pytest.raises(UserError, match="no file"):
        lpips.load(tmp_path)
    np.savez(path, **random_arrays())
    whole = path.read_bytes()
    for content in (b"", b"nonsense", whole[:-1000]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"w\.npz is not an \.npz file, or not all of one; make it again with"):
            lpips.load(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"one\.npy is not an \.npz file"):
        lpips.load(tmp_path / "one.npy")
    path.write_bytes(whole[:2000] + b"\0" * 1000 + whole[3000:])
    with pytest.raises(UserError, match="conv1_w is damaged"):
        lpips.load(path)


def test_weights_file(monkeypatch):
    monkeypatch.delenv("GPZ_LPIPS", raising=False)
    assert lpips.weights_file(None) is None
    assert str(lpips.weights_file("a.npz")) == "a.npz"
    monkeypatch.setenv("GPZ_LPIPS", "b.npz")
    assert str(lpips.weights_file("a.npz")) == "a.npz"
    assert str(lpips.weights_file(None)) == "b.npz"
    monkeypatch.setenv("GPZ_LPIPS", "")
    assert lpips.weights_file(None) is None


def test_how_to_get_is_one_line_with_the_commands():
    assert "\n" not in lpips.HOW_TO_GET
    for part in ("pip install torchvision lpips", "python -m gpz_jax.inversion.lpips_weights", "GPZ_LPIPS"):
        assert part in lpips.HOW_TO_GET


# --- the converter --------------------------------------------------------------------------------


class Tensor:
    """As much of a PyTorch tensor as the converter asks for."""

    def __init__(self, array):
        self.array = array

    def numpy(self):
        return self.array


@pytest.fixture
def published(monkeypatch):
    """Stand-ins for torchvision and lpips, their state dicts in the published names and shapes."""
    arrays = random_arrays(7)
    places = {1: 0, 2: 3, 3: 6, 4: 8, 5: 10}
    alexnet = {f"{p}.weight": Tensor(arrays[f"conv{i}_w"]) for i, p in places.items()}
    alexnet |= {f"{p}.bias": Tensor(arrays[f"conv{i}_b"]) for i, p in places.items()}
    rest = {f"lin{i}.model.1.weight": Tensor(arrays[f"lin{i}_w"].reshape(1, -1, 1, 1)) for i in range(5)}
    rest |= {f"scaling_layer.{name}": Tensor(arrays[name].reshape(1, 3, 1, 1)) for name in ("shift", "scale")}

    models = types.ModuleType("torchvision.models")
    models.AlexNet_Weights = types.SimpleNamespace(IMAGENET1K_V1="the weights")

    def alexnet_of(*, weights):
        assert weights == "the weights"
        return types.SimpleNamespace(features=types.SimpleNamespace(state_dict=lambda: alexnet))

    models.alexnet = alexnet_of
    package = types.ModuleType("lpips")

    def lpips_of(*, net, version, pnet_rand, verbose):
        assert (net, version, pnet_rand, verbose) == ("alex", "0.1", True, False)
        return types.SimpleNamespace(state_dict=lambda: rest)

    package.LPIPS = lpips_of
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.setitem(sys.modules, "lpips", package)
    return arrays, models


def test_convert(published, tmp_path, capsys):
    arrays, _ = published
    lpips_weights.main([str(tmp_path / "w.npz")])
    assert f"export GPZ_LPIPS={tmp_path / 'w.npz'}" in capsys.readouterr().out
    with np.load(tmp_path / "w.npz") as written:
        assert set(written.files) == set(lpips.SHAPES)
        for name in written.files:
            np.testing.assert_array_equal(written[name], arrays[name], err_msg=name)
    lpips.load(tmp_path / "w.npz")


def test_convert_without_a_network(published, tmp_path):
    def unreachable(*, weights):
        raise OSError("name or service not known")

    published[1].alexnet = unreachable
    with pytest.raises(UserError, match=r"could not fetch AlexNet's weights \(name or .*\); try again with a network"):
        lpips_weights.convert(tmp_path / "w.npz")
    assert not (tmp_path / "w.npz").exists()


def test_convert_refuses(monkeypatch, tmp_path, capsys):
    for name in ("lpips", "torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    with pytest.raises(UserError, match=r"torchvision and lpips .*: pip install torchvision lpips$"):
        lpips_weights.convert(tmp_path / "w.npz")
    with pytest.raises(UserError, match=r"w\.pth: give the file a name that ends in \.npz"):
        lpips_weights.convert(tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"no folder .*gone; create it first"):
        lpips_weights.convert(tmp_path / "gone" / "w.npz")
    for argv in ([], ["a.npz", "b.npz"], ["--out"]):
        with pytest.raises(SystemExit, match="2"):
            lpips_weights.main(argv)
        assert "gpz: error: give one file to write, such as: python -m" in capsys.readouterr().err
    lpips_weights.main(["--help"])
    assert "pip install torchvision lpips" in capsys.readouterr().out


def test_command_is_one_line_of_error(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gpz_jax.inversion.lpips_weights", str(tmp_path / "w.pth")],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 2
    assert done.stderr == f"gpz: error: {tmp_path / 'w.pth'}: give the file a name that ends in .npz\n"
