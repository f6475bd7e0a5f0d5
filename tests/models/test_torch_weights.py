"""Released PyTorch weights in our models: the same numbers at every cut; and what is said of files that do not fit."""

import collections
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from gpz_jax.errors import UserError
from gpz_jax.models import build
from gpz_jax.models.torch_weights import TABLES, convert, read, read_state_dict
from gpz_jax.taps import tap


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def twins(torch):
    import torch_twins

    return torch_twins


def shapes_of(model, size, channels=3):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, channels)))


# The same numbers ----------------------------------------------------------------------------------------------------


def twin_of(twins, name, model, **of):
    of = {"classes": model.num_classes, "width": model.width, **of}
    if name == "cnn":
        return twins.CNN(**of)
    if name == "vit":
        return twins.ViT(patch=model.patch, blocks=model.blocks, heads=model.heads, **of)
    return {"resnet": twins.ResNet, "vgg": twins.VGG, "ir": twins.IR}[name.rstrip("0123456789")](model.stages, **of)


def randomise(torch, twin):
    """Random weights and, unlike a fresh net's, random statistics, slopes, biases and tokens."""
    random = torch.Generator().manual_seed(0)
    for name, array in twin.state_dict().items():  # shares its memory with the module
        if name.endswith("running_var") or (array.ndim == 1 and name.endswith("weight")):
            array.uniform_(0.5, 1.5, generator=random)
        elif array.ndim == 1 or name in ("cls_token", "pos_embed"):
            array.normal_(0, 0.3, generator=random)
        elif array.ndim:  # all but the counters of batches
            array.normal_(0, math.sqrt(1.5 / array[0].numel()), generator=random)
    return twin.eval()


def cuts_of_both(torch, twins, name, *, size, images=3, channels=3, classes=3, **of):
    """The activations at every cut, ours and theirs, of one set of random weights."""
    model = build(name, num_classes=classes, size=size, **of)
    twin = randomise(torch, twin_of(twins, name, model, channels=channels, size=size))
    state_dict = {key: array.numpy() for key, array in twin.state_dict().items()}
    shapes = shapes_of(model, size, channels)
    variables = convert(name, state_dict, shapes)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), variables) == jax.tree.map(lambda a: (a.shape, a.dtype), shapes)
    x = np.random.default_rng(1).normal(size=(images, size, size, channels)).astype(np.float32)
    network = tap(model, shapes, x, train=False)
    _, ours = jax.jit(network)(variables, x)
    with torch.no_grad():
        theirs = twin(torch.from_numpy(x.transpose(0, 3, 1, 2)))
    assert len(theirs) == len(network.cuts)
    return {cut: (np.asarray(ours[cut]), a.numpy()) for cut, a in zip(network.cuts, theirs, strict=True)}, twin


def assert_same(cut, ours, theirs):
    if theirs.ndim == 4:
        theirs = theirs.transpose(0, 2, 3, 1)
    theirs = theirs.reshape(ours.shape)  # the pooled vector of a ResNet is a map in the twin
    scale = np.abs(theirs).max()
    assert np.ptp(theirs, axis=0).max() > 1e-3 * scale > 0, f"{cut} does not depend on the image"
    assert np.abs(ours - theirs).max() <= 1e-4 * scale, cut


# Sizes at which the last map has several pixels, so that the order behind it matters.
SMALL = {
    "cnn": {"size": 32, "width": 4, "channels": 1},
    "resnet18": {"size": 64, "width": 4},
    "vgg16": {"size": 64, "width": 2},
    "vgg19": {"size": 64, "width": 2, "channels": 1},
    "ir50": {"size": 32, "width": 4, "depth": 0.4},
    "ir100": {"size": 32, "width": 3, "depth": 0.15},
    "ir152": {"size": 32, "width": 4, "depth": 0.2, "classes": 5},
    "vit": {"size": 16, "width": 12, "heads": 3, "depth": 0.5},
}


def test_every_importable_model_is_tried():
    assert list(SMALL) == list(TABLES)


@pytest.mark.parametrize("name", SMALL)
def test_the_same_at_every_cut(torch, twins, name):
    cuts, _ = cuts_of_both(torch, twins, name, **SMALL[name])
    for cut, (ours, theirs) in cuts.items():
        assert_same(cut, ours, theirs)


#: Trainable parameters of the release at 64x64x3 and K = 10; its IR nets have more in a layer that is never run.
PAPER = {
    "cnn": 1_963_056,
    "resnet18": 11_189_322,
    "vgg16": 39_938_122,
    "vgg19": 45_250_378,
    "ir152": 62_091_978 + 1_005_578,
    "vit": 1_230_474,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_the_papers_size(torch, twins, name):
    width = {"vit": 128}.get(name, 64)
    cuts, twin = cuts_of_both(torch, twins, name, size=64, width=width, classes=10)
    assert sum(p.numel() for p in twin.parameters()) == PAPER[name]
    for cut, (ours, theirs) in cuts.items():
        assert_same(cut, ours, theirs)


# Weights that do not fit ---------------------------------------------------------------------------------------------


def released_shapes(*, width=2, classes=3, side=16, channels=1):
    """Names and shapes of the release's CNN."""
    shapes, c = {}, channels
    for n in range(1, 5):
        d = width * 2 ** (n - 1)
        shapes |= {f"block{n}.0.weight": (d, c, 3, 3), f"block{n}.0.bias": (d,)}
        shapes |= {f"block{n}.1.{part}": (d,) for part in ("weight", "bias", "running_mean", "running_var")}
        shapes |= {f"block{n}.1.num_batches_tracked": ()}
        c = d
    inputs = c * (side // 16) ** 2
    shapes |= {"fc.0.weight": (5 * classes, inputs), "fc.0.bias": (5 * classes,)}
    return {**shapes, "fc.2.weight": (classes, 5 * classes), "fc.2.bias": (classes,)}


def released(**of):
    rng = np.random.default_rng(0)
    return {
        key: rng.uniform(0.5, 1.5, shape).astype(np.float32) if shape else np.int64(7)
        for key, shape in released_shapes(**of).items()
    }


@pytest.fixture(scope="module")
def shapes():
    return shapes_of(build("cnn", num_classes=3, size=16, width=2), 16, 1)


def refusal(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    return str(error.value)


def test_batches_and_the_ir_nets_dead_layer_are_left_out_of_those_alone(shapes):
    converted = convert("cnn", released(), shapes)
    assert len(jax.tree.leaves(converted)) == sum(bool(shape) for shape in released_shapes().values())
    dead = {"feature.output_layer.3.weight": np.zeros(2)}
    assert "unknown 'feature.output_layer.3.weight'" in refusal(convert, "cnn", released() | dead, shapes)
    ir = shapes_of(build("ir50", num_classes=3, size=16, width=1, depth=0.1), 16)
    assert "unknown" not in refusal(convert, "ir50", dead, ir)


def test_half_and_double_precision_become_ours(shapes):
    weights = released()
    narrow = {key: array.astype(np.float16) if array.shape else array for key, array in weights.items()}
    wide = {key: array.astype(np.float64) if array.shape else array for key, array in weights.items()}
    for found, tolerance in ((narrow, 1e-3), (wide, 0)):
        got, expected = convert("cnn", found, shapes), convert("cnn", weights, shapes)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(got)} == {"float32"}
        jax.tree.map(lambda a, b, t=tolerance: np.testing.assert_allclose(a, b, rtol=t), got, expected)


def test_unknown_names(shapes):
    extra = {f"extra.{n}": np.zeros(2) for n in range(7)}
    said = refusal(convert, "cnn", released() | extra, shapes)
    assert said == (
        "the weights are not those of this cnn: unknown 'extra.0', 'extra.1', 'extra.2', 'extra.3', 'extra.4' "
        "and 2 more"
    )
    said = refusal(convert, "cnn", released() | {"\x1b[31m" + "x" * 500: np.zeros(2)}, shapes)
    assert "\x1b" not in said  # a name in a file does not reach the terminal as it is


def test_missing_names(shapes):
    weights = released()
    for key in ("block1.0.weight", "fc.2.bias"):
        del weights[key]
    said = refusal(convert, "cnn", weights, shapes)
    assert said.endswith("this cnn: missing block1.0.weight, fc.2.bias")
    first = "missing block1.0.weight, block1.0.bias, block1.1.weight, block1.1.bias, block1.1.running_mean and 23 more"
    assert first in refusal(convert, "cnn", {}, shapes)


def test_names_of_another_family(shapes):
    said = refusal(convert, "cnn", {"cls_token": np.zeros((1, 1, 4), np.float32)}, shapes)
    assert "unknown 'cls_token'; missing block1.0.weight, " in said


def test_other_shapes(shapes):
    said = refusal(convert, "cnn", released(classes=10), shapes)
    assert said.endswith(
        "of another shape fc.0.weight (50, 16) (not (15, 16)), fc.0.bias (50,) (not (15,)), "
        "fc.2.weight (10, 50) (not (3, 15)), fc.2.bias (10,) (not (3,))"
    )
    said = refusal(convert, "cnn", released(width=4), shapes)
    assert "block1.0.weight (4, 1, 3, 3) (not (2, 1, 3, 3)), block1.0.bias (4,) (not (2,)), " in said
    assert said.count("(not ") == 5
    assert said.endswith("and 20 more")
    assert "fc.0.weight (15, 64) (not (15, 16))" in refusal(convert, "cnn", released(side=32), shapes)


@pytest.mark.parametrize("bad", [np.full((3,), np.nan), np.full((3,), np.inf), np.arange(3), np.zeros(3, bool)])
def test_what_is_no_number(shapes, bad):
    said = refusal(convert, "cnn", released() | {"fc.2.bias": bad}, shapes)
    assert said.endswith("this cnn: not finite floats fc.2.bias")


def test_models_without_released_weights(shapes):
    assert "no released PyTorch weights of a model 'resnet50'; there are of cnn" in refusal(
        convert, "resnet50", {}, shapes
    )
    assert "model 'ir-152'; did you mean 'ir152'?" in refusal(convert, "ir-152", {}, shapes)


# Files without PyTorch -----------------------------------------------------------------------------------------------


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)


def test_safetensors(tmp_path):
    weights = {key: np.asarray(array) for key, array in released().items()}
    for i, prefix in enumerate(["", "module.", "_module.", "_module.module.", "module._module."]):
        save_file({prefix + key: array for key, array in weights.items()}, tmp_path / f"{i}.safetensors")
        assert_equal(read_state_dict(tmp_path / f"{i}.safetensors"), weights)
    assert read(tmp_path / "0.safetensors")[1:] == (None, None)


def test_a_prefix_of_some_names_is_part_of_them(tmp_path):
    some = {"module.weight": np.zeros(2), "weight": np.ones(2)}
    save_file(some, tmp_path / "w.safetensors")
    assert_equal(read_state_dict(tmp_path / "w.safetensors"), some)


def test_files_that_hold_no_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(read, "no.safetensors") == "no.safetensors: no such file"
    assert refusal(read, "no.pth") == "no.pth: no such file"
    assert refusal(read, "w.h5") == "w.h5: files of weights end in .pth, .pt or .safetensors"
    (tmp_path / "folder.pth").mkdir()
    assert refusal(read, "folder.pth") == "folder.pth: no such file"
    save_file({}, "empty.safetensors")
    assert "empty.safetensors holds no state dict" in refusal(read, "empty.safetensors")
    save_file({"a": np.zeros(100)}, "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for half in (whole[:-100], whole[:20], b"", b"no weights at all", b"\xff" * 100):
        (tmp_path / "half.safetensors").write_bytes(half)
        assert "half.safetensors cannot be read, it may be damaged" in refusal(read, "half.safetensors")


@pytest.mark.parametrize(("file", "package"), [("w.pth", "torch"), ("w.safetensors", "safetensors")])
def test_packages_that_are_not_installed(tmp_path, monkeypatch, file, package):
    (tmp_path / file).write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, package, None)  # as if it were not there
    monkeypatch.setitem(__import__("sys").modules, f"{package}.numpy", None)
    assert f"pip install {package}" in refusal(read, tmp_path / file)


# Files of PyTorch ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tensors(torch):
    return collections.OrderedDict((key, torch.tensor(array)) for key, array in released().items())


def test_a_file_as_the_release_saves_it(torch, tensors, tmp_path):
    wrapped = {"epoch": 12, "model": {f"_module.{k}": t for k, t in tensors.items()}, "best_cl_acc": 0.75}
    torch.save(wrapped, tmp_path / "w.pth")
    found = read(tmp_path / "w.pth")
    assert (found.epoch, found.best_accuracy) == (12, 0.75)
    assert_equal(found.state_dict, released())


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_where_a_state_dict_may_lie(torch, tensors, tmp_path, key, old):
    content = tensors if key is None else {key: tensors, "optimizer": {"state": {0: tensors["fc.2.bias"]}}}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    found = read(tmp_path / "w.pt")
    assert found[1:] == (None, None)
    assert_equal(found.state_dict, released())


def test_tensors_of_other_types(torch, tmp_path):
    parameter = torch.nn.Parameter(torch.arange(3.0))
    torch.save({"half": torch.ones(2, dtype=torch.bfloat16), "parameter": parameter}, tmp_path / "w.pt")
    assert_equal(read_state_dict(tmp_path / "w.pt"), {"half": np.ones(2), "parameter": np.arange(3.0)})


class Pickled:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.unpickled_by_gpz = True",)


def test_pickled_objects_are_refused(torch, tensors, tmp_path):
    import builtins

    for content in ({**tensors, "more": Pickled()}, {"model": tensors, "args": re.compile("x")}, torch.nn.Linear(2, 2)):
        torch.save(content, tmp_path / "w.pth")
        said = refusal(read, tmp_path / "w.pth")
        assert re.search(r"w.pth holds a pickled '[\w.]+'; .*objects are never unpickled", said)
    assert not hasattr(builtins, "unpickled_by_gpz")


def test_files_of_pytorch_that_hold_no_weights(torch, tensors, tmp_path):
    file = tmp_path / "w.pth"
    for content, why in [
        ({"epoch": 3, "net": tensors}, "'epoch' is no array"),
        ({0: torch.ones(2)}, "0 is no array"),
        ({"model": {"a": [1.0]}}, "'a' is no array"),
        ({"a": torch.eye(2).to_sparse()}, "'a' is no array"),
        ({}, "dict"),
        (torch.ones(2), "Tensor"),
    ]:
        torch.save(content, file)
        said = refusal(read, file)
        assert said == f"{file} holds no state dict ({why}); save model.state_dict(), alone or under 'model'"


def test_damaged_files_of_pytorch(torch, tensors, tmp_path):
    for old in (False, True):
        torch.save(tensors, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
        whole = (tmp_path / "w.pth").read_bytes()
        for part in (whole[: len(whole) // 2], whole[:100], b"", b"no weights", b"\x00" * 200):
            (tmp_path / "half.pth").write_bytes(part)
            assert re.search("half.pth (is damaged|cannot be read)", refusal(read, tmp_path / "half.pth"))
