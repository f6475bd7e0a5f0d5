"""Halves as bytes and as files: the same function, every weight once, and every kind of damage found."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from thinned import thinned

import gpz_jax
from gpz_jax import UserError, export_halves, load_halves, save_halves, tap
from gpz_jax.deployment.halves import Halves, calibrate
from gpz_jax.deployment.halves_folder import check_folder
from gpz_jax.models import CNN, ResNet, ViT
from gpz_jax.training.classifier import Prepare

SIZE, FLOAT = 16, jnp.dtype("float32")
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
MODELS = {
    "cnn": (CNN(10, 4, dtype=FLOAT), "block_2"),
    "resnet": (ResNet(10, (1, 1), False, 4, dtype=FLOAT), "block_2"),
    "vit": (ViT(10, patch=4, width=16, blocks=2, heads=2, dtype=FLOAT), "block_1"),
}


@pytest.fixture(scope="module", params=thinned(list(MODELS), ["cnn", "resnet"]))
def case(request):
    """(network, variables, cut) of a tiny net whose every weight has values of its own."""
    model, cut = MODELS[request.param]
    x = jnp.zeros((1, SIZE, SIZE, 1))
    # Not as initialised: there biases, norms and statistics are constants, which a file holds as one number.
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda a: rng.uniform(-0.2, 0.3, a.shape).astype(np.float32) + np.float32(a.ndim == 1),
        jax.eval_shape(model.init, jax.random.key(0), x),
    )
    return tap(model, variables, x, train=False).after(Prepare(SIZE)), variables, cut


@pytest.fixture(scope="module")
def halves(case):
    network, variables, cut = case
    return export_halves(network, variables, IMAGES, cut, payload="float32")


def relative(found, expected):
    return np.abs(np.asarray(found) - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max()


def run(halves, x):
    edge, cloud = (export.deserialize(bytearray(half)) for half in halves[:2])
    payload = edge.call(x)
    return payload, cloud.call(payload)


# Bytes ---------------------------------------------------------------------------------------------------------------


def test_edge_then_cloud_is_the_network(case, halves):
    network, variables, cut = case
    logits, taps = network(variables, IMAGES[:7])
    payload, found = run(halves, IMAGES[:7])
    assert relative(payload, taps[cut]) < 1e-5
    assert relative(found, logits) < 1e-5
    assert halves.metadata["payload"]["shape"] == ["batch", *payload.shape[1:]]
    assert halves.metadata["payload"]["bytes_per_image"] == payload[0].nbytes


def test_every_weight_is_in_one_file_once(case, halves):
    _, variables, _ = case
    edge, cloud, metadata = halves
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(variables)]
    assert min(leaf.size for leaf in leaves) >= 4  # no count below is of a chance hit
    assert [edge.count(leaf.tobytes()) + cloud.count(leaf.tobytes()) for leaf in leaves] == [1] * len(leaves)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert metadata["edge"]["parameters"] + metadata["cloud"]["parameters"] == parameters
    assert metadata["edge"]["weight_bytes"] + metadata["cloud"]["weight_bytes"] == sum(a.nbytes for a in leaves)
    for half in ("edge", "cloud"):
        sizes = metadata[half]
        assert 0 < sizes["parameters"] < parameters
        assert 0 < sizes["bytes"] - sizes["weight_bytes"] < 16_000  # the program itself
        assert sizes["bytes"] == len(getattr(halves, half))


def test_the_same_network_gives_the_same_bytes_without_paths(case, halves):
    network, variables, cut = case
    again = export_halves(network, variables, jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.uint8), cut, payload="float32")
    assert again == halves
    places = [str(pathlib.Path(module.__file__).parent).encode() for module in (gpz_jax, jax, pytest)]
    assert not [place for place in (*places, b".py") for half in halves[:2] if place in half]


def identity(x):
    model = nn.Sequential([lambda x: x])
    return tap(model, {}, x), {}


def sent(z, **options):
    """Payload and what comes out of the cloud half, of a network that does nothing, for float inputs z."""
    halves = export_halves(*identity(z), z, "logits", **options)
    payload, received = run(halves, z)
    return halves.metadata["quantiser"], np.asarray(payload), np.asarray(received)


def test_uint8_is_affine_by_channel():
    rng = np.random.default_rng(0)
    low, high = np.array([0, -3, 0.5, -2]), np.array([1e-3, 5, 40, -1])
    z = np.concatenate([rng.uniform(low, high, (200, 4)), [low, high]]).astype(np.float32)
    quantiser, payload, received = sent(z, payload="uint8", calibration=[z[:50], z[50:]])
    span = np.maximum(high, 0) - np.minimum(low, 0)  # zero is always among the codes
    np.testing.assert_allclose(quantiser["scale"], span / 255, rtol=1e-6)
    np.testing.assert_array_equal(quantiser["zero_point"], np.round(-np.minimum(low, 0) * 255 / span))
    assert payload.dtype == np.uint8
    exact = np.round(z / (span / 255)) + quantiser["zero_point"]
    assert np.abs(payload - np.clip(exact, 0, 255)).max() <= 1  # ties may round either way
    half = 0.5 + 255 * np.finfo(np.float32).eps  # a code and the rounding of z / scale in float32
    assert (np.abs(received - z) / np.array(quantiser["scale"])).max() <= half
    assert quantiser["levels"] == 256


def test_uint8_clips_what_is_outside_and_keeps_zero():
    calibration = np.array([[-1.0, 0.0, 0.0], [3.0, 2.0, 0.0]], np.float32)
    z = np.array([[-9.0, -9.0, 0.0], [9.0, 9.0, 0.25], [0.0, 0.0, 0.0]], np.float32)
    _, payload, received = sent(z, payload="uint8", calibration=[calibration])
    np.testing.assert_array_equal(payload[:2, :2], [[0, 0], [255, 255]])
    np.testing.assert_allclose(received[:2, :2], [[-1, 0], [3, 2]], atol=4 / 255 / 2)
    np.testing.assert_array_equal(received[2], 0)  # a ReLU's zeros stay zeros
    assert np.isfinite(received).all()  # channel 2 was always 0
    # CPUs saturate by themselves; what a conversion out of range gives elsewhere is left open, so the program clips.
    edge = export_halves(*identity(z), z, "logits", payload="uint8", calibration=[calibration]).edge
    program = export.deserialize(bytearray(edge)).mlir_module()
    assert "stablehlo.minimum" in program
    assert "stablehlo.maximum" in program


def test_bfloat16_is_the_nearest_one():
    z = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    _, payload, received = sent(z, payload="bfloat16")
    np.testing.assert_array_equal(payload, z.astype(jnp.bfloat16))
    np.testing.assert_array_equal(received, z.astype(jnp.bfloat16).astype(np.float32))


def test_calibration_streams_and_refuses_what_is_not_finite():
    z = np.random.default_rng(0).normal(size=(60, 2, 3)).astype(np.float32)
    network, variables = identity(z)
    whole = calibrate(network, variables, [z], "logits")
    parts = calibrate(network, variables, (z[i : i + 7] for i in range(0, 60, 7)), "logits")
    np.testing.assert_array_equal(whole.scale, parts.scale)
    for bad in (np.nan, np.inf):
        with pytest.raises(UserError, match="not finite on the calibration images"):
            calibrate(network, variables, [z, np.full_like(z, bad), z], "logits")


def test_weights_that_are_not_finite_are_refused():
    x = np.ones((2, 3), np.float32)
    model = nn.Sequential([nn.Dense(4), nn.Dense(3)])
    variables = model.init(jax.random.key(0), x)
    network = tap(model, variables, x)
    for bad in (np.nan, np.inf):
        worse = jax.tree.map(lambda leaf, bad=bad: leaf.at[0].set(bad) if leaf.ndim == 2 else leaf, variables)
        with pytest.raises(UserError, match="the weights params/layers_0/kernel are not finite numbers"):
            export_halves(network, worse, x, "layers_0")


def test_other_platforms_are_exported_from_here(tmp_path):
    z = np.ones((2, 3), np.float32)
    folder = save_halves(export_halves(*identity(z), z, "logits", platforms=("tpu", "cuda")), tmp_path / "halves")
    edge, _, metadata = load_halves(folder)
    assert metadata["platforms"] == ["tpu", "cuda"]
    assert export.deserialize(bytearray((folder / "edge.stablehlo").read_bytes())).platforms == ("tpu", "cuda")
    with pytest.raises(UserError, match="exported for tpu, cuda, not for this machine's cpu"):
        edge(z)
    both = export_halves(*identity(z), z, "logits", platforms=("cpu", "tpu"))
    np.testing.assert_array_equal(run(both, z)[1], z)


@pytest.mark.parametrize(
    ("cut", "options", "said"),
    [
        ("block2", {}, "unknown cut 'block2'; did you mean 'block_2'?"),
        ("block_2", {"payload": "uint4"}, "unknown quantiser 'uint4'; did you mean 'uint8'?"),
        ("block_2", {"payload": "uint8"}, "give calibration="),
        ("block_2", {"payload": "uint8", "calibration": []}, "give calibration="),
        ("block_2", {"platforms": ("cpu", "gpu")}, "unknown platform 'gpu'; known: cpu, tpu, cuda"),
        ("block_2", {"platforms": ()}, "name a platform to export for, of cpu, tpu, cuda"),
    ],
)
def test_refusals(cut, options, said):
    model, x = MODELS["cnn"][0], jnp.zeros((1, SIZE, SIZE, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    network = tap(model, variables, x)
    with pytest.raises(UserError, match=re.escape(said)):
        export_halves(network, variables, x, cut, **options)


def test_a_bypassed_cut_and_integers_are_refused():
    model = ResNet(10, (1,), False, 4, dtype=FLOAT)
    x = jnp.zeros((1, 8, 8, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    network = tap(model, variables, x, cuts=["residual_2/conv_1"], train=False)
    with pytest.raises(UserError, match="cut 'residual_2/conv_1' is bypassed"):
        export_halves(network, variables, x, "residual_2/conv_1")
    whole = jnp.zeros((1, 3), jnp.int32)
    with pytest.raises(UserError, match="activation at 'logits' is int32; only one of floating point"):
        export_halves(*identity(whole), whole, "logits")


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of halves, not to be changed: uint8 images (N, 2, 2, 1) -> float32 (N, 3) -> logits (N, 3)."""
    model = nn.Sequential([lambda x: x.reshape(x.shape[0], -1).astype(jnp.float32), nn.Dense(3), nn.Dense(3)])
    x = np.zeros((1, 2, 2, 1), np.uint8)
    variables = model.init(jax.random.key(0), x)
    halves = export_halves(tap(model, variables, x), variables, x, "layers_1")
    return save_halves(halves, tmp_path_factory.mktemp("written") / "halves")


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "halves")


def test_what_is_read_is_what_was_written(written):
    edge, cloud, metadata = load_halves(written)
    payload = edge(np.ones((5, 2, 2, 1), np.uint8))
    assert (payload.shape, payload.dtype) == ((5, 3), np.float32)
    assert cloud(payload).shape == (5, 3)
    assert metadata["input"] == {"shape": ["batch", 2, 2, 1], "dtype": "uint8"}
    assert metadata["output"] == {"shape": ["batch", 3], "dtype": "float32"}
    assert set(metadata["versions"]) == {"gpz-jax", "jax", "jaxlib", "flax"}
    assert sorted(path.name for path in written.iterdir()) == [
        "cloud.stablehlo", "edge.stablehlo", "halves.json", "run_halves.py",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("half", "x", "got"),
    [
        ("edge", np.ones((5, 2, 2, 1), np.float32), "uint8 (batch, 2, 2, 1), got float32 (5, 2, 2, 1)"),
        ("edge", np.ones((5, 2, 3, 1), np.uint8), "uint8 (batch, 2, 2, 1), got uint8 (5, 2, 3, 1)"),
        ("edge", np.ones((2, 2, 1), np.uint8), "uint8 (batch, 2, 2, 1), got uint8 (2, 2, 1)"),
        ("edge", np.ones((0, 2, 2, 1), np.uint8), "uint8 (batch, 2, 2, 1), got uint8 (0, 2, 2, 1)"),
        ("edge", [[1]], "uint8 (batch, 2, 2, 1), got list ()"),
        ("cloud", np.ones((5, 3), jnp.bfloat16), "float32 (batch, 3), got bfloat16 (5, 3)"),
        ("cloud", np.ones((5, 4), np.float32), "float32 (batch, 3), got float32 (5, 4)"),
    ],
)
def test_arguments_are_checked(written, half, x, got):
    called = dict(zip(("edge", "cloud"), load_halves(written)[:2], strict=True))[half]
    with pytest.raises(UserError, match=re.escape(f"the {half} half takes {got}")):
        called(x)


@pytest.mark.parametrize("half", ["edge", "cloud"])
@pytest.mark.parametrize("where", [0, 0.5, -1])
def test_a_changed_byte_is_found(copy, half, where):
    file = copy / f"{half}.stablehlo"
    data = bytearray(file.read_bytes())
    data[int(where * len(data)) if where > 0 else where] ^= 1
    file.write_bytes(data)
    said = f"{half}.stablehlo does not match its SHA-256 in halves.json; export it again"
    with pytest.raises(UserError, match=re.escape(said)):
        load_halves(copy)


def changed(**changes):
    return lambda record: {**record, **changes}


def without(*names):
    return lambda record: {key: value for key, value in record.items() if key not in names}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: [record], "names no format"),
        (lambda record: "format", "names no format"),
        (without("format"), "names no format"),
        (changed(format=2), "is of format 2, this gpz_jax reads 1"),
        (without("edge"), "it has no 'edge'"),
        (changed(cloud=None), "it has no 'cloud'"),
        (changed(edge={}), "edge.stablehlo does not match its SHA-256"),
        (changed(edge={"sha256": ["x"]}), "edge.stablehlo does not match its SHA-256"),
        (changed(input={"shape": ["batch", 9, 9, 1], "dtype": "uint8"}), "its input is not that of the files"),
        (changed(payload={"shape": None, "dtype": "float32"}), "its payload is not that of the files"),
        (changed(output={}), "its output is not that of the files"),
    ],
)
def test_a_damaged_record_is_one_line(copy, change, said):
    file = copy / "halves.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(UserError, match=re.escape(said)) as refusal:
        load_halves(copy)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_record_that_is_no_json_is_one_line(copy, text):
    (copy / "halves.json").write_bytes(text)
    with pytest.raises(UserError, match=r"halves.json is damaged: .*; export it again"):
        load_halves(copy)


@pytest.mark.parametrize("name", ["halves.json", "edge.stablehlo", "cloud.stablehlo"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(UserError, match=re.escape(name)):
        load_halves(copy)
    with pytest.raises(UserError, match=r"holds no halves\.json"):
        load_halves(copy / "nowhere")


def test_a_file_that_jax_cannot_read_is_one_line(copy):
    # Whoever changes the hash with the file gets past it, and then meets jax itself.
    import hashlib

    (copy / "edge.stablehlo").write_bytes(b"no flatbuffer")
    record = json.loads((copy / "halves.json").read_text())
    record["edge"]["sha256"] = hashlib.sha256(b"no flatbuffer").hexdigest()
    (copy / "halves.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"edge.stablehlo cannot be read by jax"):
        load_halves(copy)


def test_paths_in_the_record_are_not_followed(copy, tmp_path):
    trap = tmp_path / "trap"
    trap.write_bytes(b"not to be read")
    record = json.loads((copy / "halves.json").read_text())
    for half in ("edge", "cloud"):
        record[half] |= {"file": str(trap), "name": "../trap", "path": "../trap"}
    (copy / "halves.json").write_text(json.dumps({**record, "../trap": "../trap", "files": ["../trap"]}))
    opened = []
    honest = pathlib.Path.read_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pathlib.Path, "read_bytes", lambda path: opened.append(path) or honest(path))
        load_halves(copy)
    assert opened == [copy / "edge.stablehlo", copy / "cloud.stablehlo"]


def test_where_halves_may_be_written(written, copy, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    for place in ("empty", "new", "new/below", "halves"):
        check_folder(tmp_path / place)
    assert not (tmp_path / "new").exists()  # only looked at
    (copy / "images.npy").write_text("beside an export")
    check_folder(copy)
    (copy / "halves.json").unlink()  # now nothing says that it is one
    for place, said in (
        ("halves", "is no export of halves (images.npy is in it)"),
        ("other", "is no export of halves (thesis.tex is in it)"),
        ("file", "file is not a folder that can be written to"),
        ("file/below", "file is not a folder that can be written to"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            check_folder(tmp_path / place)
    (tmp_path / "dangling").symlink_to(tmp_path / "gone" / "away")  # a name that no folder can be made of
    with pytest.raises(UserError, match=r"cannot write to folder .*dangling: File exists"):
        save_halves(Halves(b"", b"", {}), tmp_path / "dangling")
    assert (tmp_path / "other" / "thesis.tex").read_text() == "mine"


def test_halves_killed_half_written_can_be_written_again(copy, written):
    (copy / "halves.json").unlink()
    (copy / "halves.json.partial").write_text("{")
    edge, cloud = ((written / f"{half}.stablehlo").read_bytes() for half in ("edge", "cloud"))
    record = json.loads((written / "halves.json").read_text())
    save_halves(Halves(edge, cloud, record), copy)
    load_halves(copy)
    assert not list(copy.glob("*.partial"))


# Inputs of several arrays --------------------------------------------------------------------------------------------


class Masked(nn.Module):
    """BERT's shape: words and their padding, attention over what is none, the first word's class."""

    @nn.compact
    def __call__(self, x):
        h = nn.Embed(20, 8, name="embed")(x["ids"])
        for i in range(2):
            seen = nn.make_attention_mask(x["mask"] > 0, x["mask"] > 0)
            attention = nn.MultiHeadDotProductAttention(2, name=f"attention_{i}")(h, mask=seen)
            h = Block(name=f"block_{i}")(h + attention)
        return nn.Dense(3, name="head")(h[:, 0])


class Block(nn.Module):
    @nn.compact
    def __call__(self, h):
        return h + nn.Dense(8)(nn.gelu(nn.Dense(16)(h)))


TEXT = {"ids": np.arange(30, dtype=np.int32).reshape(5, 6) % 20, "mask": np.tri(5, 6, 1, dtype=np.int32)}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder of the halves of :class:`Masked`, its variables and its logits."""
    variables = Masked().init(jax.random.key(0), TEXT)
    network = tap(Masked(), variables, TEXT)
    halves = export_halves(network, variables, TEXT, "block_0", public="mask")
    folder = save_halves(halves, tmp_path_factory.mktemp("text") / "halves")
    return folder, network, variables


@pytest.mark.slow
@pytest.mark.parametrize("rows", [5, 2])
def test_halves_of_an_input_of_several_arrays(text, rows):
    folder, network, variables = text
    edge, cloud, record = load_halves(folder)
    x = {name: array[:rows] for name, array in TEXT.items()}
    payload = edge(x)
    assert payload.shape == (rows, 6, 8)
    logits, _ = network(variables, x)
    np.testing.assert_allclose(cloud(payload, {"mask": x["mask"]}), logits, rtol=1e-5, atol=1e-6)
    assert record["public"] == ["mask"]
    assert record["input"]["ids"] == {"shape": ["batch", 6], "dtype": "int32"}
    used = {"embed", "attention_0", "block_0"}
    counted = sum(x.size for name in used for x in jax.tree.leaves(variables["params"][name]))
    assert record["edge"]["parameters"] == counted


@pytest.mark.thorough
def test_their_script_runs_with_jax_alone(text, tmp_path):
    folder, network, variables = text
    np.savez(tmp_path / "x.npz", **TEXT)
    away = "import sys, runpy; sys.modules |= {'flax': None, 'gpz_jax': None}; sys.argv = sys.argv[1:];"
    for given in ([], [str(tmp_path / "x.npz")]):
        argv = [sys.executable, "-c", away + "runpy.run_path(sys.argv[0])", str(folder / "run_halves.py"), *given]
        done = subprocess.run(
            argv, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}, timeout=120
        )
        assert done.returncode == 0, done.stderr
    classes = np.argmax(network(variables, TEXT)[0], axis=1)
    assert done.stdout == f"int32 (5, 6); int32 (5, 6) -> float32 (5, 6, 8); classes {classes}\n"


@pytest.mark.parametrize(
    ("half", "arguments", "said"),
    [
        ("edge", ({"ids": TEXT["ids"]},), "the edge half takes arrays ids, mask, got ids"),
        ("edge", ({**TEXT, "ids": TEXT["ids"][:, :3]},), "takes ids as int32 (batch, 6), got int32 (5, 3)"),
        ("cloud", (np.ones((5, 6, 8), np.float32),), "takes its input and a dict of mask, got 1 arguments"),
        ("cloud", (np.ones((5, 6, 8), np.float32), {"ids": TEXT["ids"]}), "takes arrays mask, got ids"),
    ],
)
def test_their_arguments_are_checked(text, half, arguments, said):
    edge, cloud, _ = load_halves(text[0])
    with pytest.raises(UserError, match=re.escape(said)):
        {"edge": edge, "cloud": cloud}[half](*arguments)


def test_public_inputs_that_the_files_do_not_take(text, tmp_path):
    copy = shutil.copytree(text[0], tmp_path / "halves")
    record = json.loads((copy / "halves.json").read_text())
    (copy / "halves.json").write_text(json.dumps({**record, "public": ["ids"]}))
    with pytest.raises(UserError, match="its public inputs are not those of the files; export it again"):
        load_halves(copy)


def test_containers_that_the_files_cannot_hold():
    class Pair(NamedTuple):
        a: np.ndarray
        b: np.ndarray

    class Sum(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.Dense(2, name="both")(x.a + x.b))

    x = Pair(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
    variables = Sum().init(jax.random.key(0), x)
    with pytest.raises(UserError, match="the input holds a Pair, which the files cannot: give dicts, tuples or lists"):
        export_halves(tap(Sum(), variables, x), variables, x, "both")


def test_the_cloud_is_not_given_what_bypasses_in_secret(text):
    _, network, variables = text
    with pytest.raises(UserError, match=r"depend on the input 'mask' by another way .* public=\('mask',\)"):
        export_halves(network, variables, TEXT, "block_0")
