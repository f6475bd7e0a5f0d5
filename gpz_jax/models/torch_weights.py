"""Weights of the paper's released PyTorch models, read into ours.

:func:`read` takes names and arrays out of a file, :func:`convert` lays them out as our variables. Which of their layers
is which of ours is written down in one table a family below, from our module's path to their module's name and the
kind of layer, which says how its arrays lie there. Images are (C, H, W) there and (H, W, C) here.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from gpz_jax.errors import UserError, did_you_mean

Shape = tuple[int, ...]


# Reading -------------------------------------------------------------------------------------------------------------


class Release(NamedTuple):
    """What a file of weights holds: arrays by their PyTorch names, and what it says of the training behind them."""

    state_dict: dict[str, np.ndarray]
    epoch: int | None = None
    best_accuracy: float | None = None


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a file of PyTorch weights, by their names; see :func:`read`.

    Example:
      >>> read_state_dict("weights.onnx")
      Traceback (most recent call last):
      gpz_jax.errors.UserError: weights.onnx: files of weights end in .pth, .pt or .safetensors
    """
    return read(path).state_dict


def read(path: str | Path) -> Release:
    """Read a file of PyTorch weights: .pth or .pt (needs PyTorch), or .safetensors (does not).

    A state dict may be the file's whole content or lie in it under ``"model"`` (as the release saves it, beside
    ``"epoch"`` and ``"best_cl_acc"``) or ``"state_dict"``. Prefixes ``module.`` (DataParallel) and ``_module.``
    (Opacus) on all names are taken off. Only arrays are read: a .pth that needs any other object unpickled is refused.

    Raises:
      UserError: no such file; another kind of file; damaged; pickled objects; no state dict; a package is missing.
    """
    file = Path(path)
    readers = {".pth": _read_torch, ".pt": _read_torch, ".safetensors": _read_safetensors}
    if file.suffix not in readers:
        raise UserError(f"{file}: files of weights end in .pth, .pt or .safetensors")
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    content = readers[file.suffix](file)
    found = content if isinstance(content, Mapping) else {}
    wrapped = [found[key] for key in ("model", "state_dict") if isinstance(found.get(key), Mapping)]
    arrays: dict[Any, Any] = {name: _as_array(value) for name, value in (wrapped[0] if wrapped else found).items()}
    strange = [name for name, array in arrays.items() if array is None or not isinstance(name, str)]
    if strange or not arrays:
        why = f"{strange[0]!r:.80} is no array" if strange else "it is empty" if found else type(content).__name__
        raise UserError(f"{file} holds no state dict ({why}); save model.state_dict(), alone or under 'model'")
    epoch, best = found.get("epoch"), found.get("best_cl_acc")
    return Release(
        _without_prefixes(arrays),
        epoch if type(epoch) is int else None,
        best if type(best) is float and math.isfinite(best) else None,
    )


def _read_torch(file: Path) -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"{file}: PyTorch reads it: pip install torch, or convert it to .safetensors") from None
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # PyTorch's own unpickler, which builds arrays and containers and nothing else, says what it would not build.
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            raise UserError(f"{file} is damaged, or was not written by torch.save") from None
        raise UserError(
            f"{file} holds a pickled {named[1]!r:.80}; only arrays are read and objects are never unpickled: "
            "save model.state_dict() instead"
        ) from None
    except Exception as error:  # whatever PyTorch makes of half a file
        raise UserError(f"{file} cannot be read, it may be damaged ({_brief(error)})") from None


def _read_safetensors(file: Path) -> Any:
    try:
        from safetensors.numpy import load_file  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"{file}: the package safetensors reads it: pip install safetensors") from None
    try:
        return load_file(file)
    except Exception as error:  # damaged, or of a type that numpy does not have
        raise UserError(f"{file} cannot be read, it may be damaged ({_brief(error)})") from None


def _as_array(value: Any) -> np.ndarray | None:
    """A tensor or an array as a numpy array; None for what is neither, or not plain (sparse, quantised)."""
    if isinstance(value, np.ndarray):
        return value
    if not hasattr(value, "is_floating_point"):
        return None
    try:
        value = value.detach()
        return (value.float() if value.is_floating_point() else value).numpy()
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def _without_prefixes(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in ("_module.", "module.", "_module."):  # one may be wrapped in the other
        if all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return arrays


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


# How the arrays of a layer lie ---------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """How one array lies in PyTorch: its shape there, given ours; and ours, given theirs and our shape."""

    shape: Callable[[Shape], Shape]
    ours: Callable[[np.ndarray, Shape], np.ndarray]


_SAME = Layout(lambda s: s, lambda a, s: a)
_KERNEL = Layout(lambda s: (s[3], s[2], s[0], s[1]), lambda a, s: a.transpose(2, 3, 1, 0))  # (out, in, h, w)
_MATRIX = Layout(lambda s: (s[1], s[0]), lambda a, s: a.T)  # (out, in)


def _matrix_behind_map(channels: int) -> Layout:
    """Of a linear layer behind a flattened map: its inputs count (c, h, w) there and (h, w, c) here."""

    def ours(a: np.ndarray, s: Shape) -> np.ndarray:
        side = math.isqrt(s[0] // channels)
        return a.T.reshape(channels, side, side, s[1]).transpose(1, 2, 0, 3).reshape(s)

    return Layout(_MATRIX.shape, ours)


def _third(i: int) -> Layout:
    """Query, key and value lie above one another in one matrix (3 heads d, width); ours are (width, heads, d) each."""
    return Layout(
        lambda s: (3 * s[1] * s[2], s[0]),
        lambda a, s: a.reshape(3, s[1], s[2], s[0])[i].transpose(2, 0, 1),
    )


def _third_bias(i: int) -> Layout:
    return Layout(lambda s: (3 * s[0] * s[1],), lambda a, s: a.reshape(3, *s)[i])


_JOINED = Layout(lambda s: (s[2], s[0] * s[1]), lambda a, s: a.T.reshape(s))  # (width, heads d); ours (heads, d, width)

#: Our array's name -> theirs and its layout. What a layer of ours does not have (a bias) is not looked for.
Kind = Mapping[str, tuple[str, Layout]]

PARAMETER: Kind = {"": ("", _SAME)}
CONV: Kind = {"kernel": ("weight", _KERNEL), "bias": ("bias", _SAME)}
LINEAR: Kind = {"kernel": ("weight", _MATRIX), "bias": ("bias", _SAME)}
PRELU: Kind = {"negative_slope": ("weight", _SAME)}
LAYER_NORM: Kind = {"scale": ("weight", _SAME), "bias": ("bias", _SAME)}
BATCH_NORM: Kind = {**LAYER_NORM, "mean": ("running_mean", _SAME), "var": ("running_var", _SAME)}
ATTENTION: Kind = {
    "query/kernel": ("in_proj_weight", _third(0)),
    "key/kernel": ("in_proj_weight", _third(1)),
    "value/kernel": ("in_proj_weight", _third(2)),
    "query/bias": ("in_proj_bias", _third_bias(0)),
    "key/bias": ("in_proj_bias", _third_bias(1)),
    "value/bias": ("in_proj_bias", _third_bias(2)),
    "out/kernel": ("out_proj.weight", _JOINED),
    "out/bias": ("out_proj.bias", _SAME),
}


def _linear_behind_map(channels: int) -> Kind:
    return {**LINEAR, "kernel": ("weight", _matrix_behind_map(channels))}


# The tables ----------------------------------------------------------------------------------------------------------

#: Path of our module -> name of theirs, and what kind of layer it is.
Table = dict[str, tuple[str, Kind]]


def _cnn(params: Mapping[str, Any]) -> Table:
    table: Table = {}
    for n in range(1, 5):
        table[f"conv_{n}"] = f"block{n}.0", CONV
        table[f"norm_{n}"] = f"block{n}.1", BATCH_NORM
    table["head_1"] = "fc.0", _linear_behind_map(_channels(params["norm_4"]))
    table["head_2"] = "fc.2", LINEAR
    return table


def _resnet(params: Mapping[str, Any]) -> Table:
    table: Table = {"stem_conv": ("conv1.0", CONV), "stem_norm": ("conv1.1", BATCH_NORM)}
    stage, i, before = 0, 0, 0
    for n in range(2, 2 + _count(params, "residual_")):
        channels = _channels(params[f"residual_{n}"]["norm_1"])
        stage, i = (stage, i + 1) if channels == before else (stage + 1, 0)  # the channels double at every stage
        before = channels
        ours, theirs = f"residual_{n}", f"layer{stage}.{i}"
        table[f"{ours}/conv_1"] = f"{theirs}.left.0", CONV
        table[f"{ours}/norm_1"] = f"{theirs}.left.1", BATCH_NORM
        table[f"{ours}/conv_2"] = f"{theirs}.left.3", CONV
        table[f"{ours}/norm_2"] = f"{theirs}.left.4", BATCH_NORM
        table[f"{ours}/shortcut_conv"] = f"{theirs}.shortcut.0", CONV
        table[f"{ours}/shortcut_norm"] = f"{theirs}.shortcut.1", BATCH_NORM
    table["head"] = "fc", _linear_behind_map(before)
    return table


def _vgg(params: Mapping[str, Any]) -> Table:
    table: Table = {}
    channels = [_channels(params[f"norm_{n}"]) for n in range(1, 1 + _count(params, "norm_"))]
    # A stage ends where the channels double; the last two have the same channels and are of the same length.
    counts = [channels.count(c) for c in sorted(set(channels))]
    counts[-1:] = [counts[-1] // 2, counts[-1] // 2]
    at, n = 0, 0
    for count in counts:
        for _ in range(count):
            n += 1
            table[f"conv_{n}"] = f"features.{at}", CONV
            table[f"norm_{n}"] = f"features.{at + 1}", BATCH_NORM
            at += 3  # the ReLU
        at += 1  # the pool
    table["head_1"] = "classifier.0", _linear_behind_map(channels[-1])
    table["head_2"] = "classifier.3", LINEAR
    table["head_3"] = "classifier.6", LINEAR
    return table


def _ir(params: Mapping[str, Any]) -> Table:
    table: Table = {
        "stem_conv": ("feature.input_layer.0", CONV),
        "stem_norm": ("feature.input_layer.1", BATCH_NORM),
        "stem_prelu": ("feature.input_layer.2", PRELU),
    }
    for n in range(2, 2 + _count(params, "unit_")):
        ours, theirs = f"unit_{n}", f"feature.body.{n - 2}"
        table[f"{ours}/norm_1"] = f"{theirs}.res_layer.0", BATCH_NORM
        table[f"{ours}/conv_1"] = f"{theirs}.res_layer.1", CONV
        table[f"{ours}/prelu"] = f"{theirs}.res_layer.2", PRELU
        table[f"{ours}/conv_2"] = f"{theirs}.res_layer.3", CONV
        table[f"{ours}/norm_2"] = f"{theirs}.res_layer.4", BATCH_NORM
        table[f"{ours}/shortcut_conv"] = f"{theirs}.shortcut_layer.0", CONV
        table[f"{ours}/shortcut_norm"] = f"{theirs}.shortcut_layer.1", BATCH_NORM
    table["head_norm"] = "output_layer.0", BATCH_NORM
    table["head_1"] = "output_layer.3", _linear_behind_map(_channels(params["head_norm"]))
    table["embedding_norm"] = "output_layer.4", BATCH_NORM
    table["head_2"] = "fc_layer", LINEAR
    return table


def _vit(params: Mapping[str, Any]) -> Table:
    table: Table = {
        "patches": ("patch_embed.proj", CONV),
        "first_token": ("cls_token", PARAMETER),
        "positions": ("pos_embed", PARAMETER),
    }
    for n in range(1, 1 + _count(params, "transformer_")):
        ours, theirs = f"transformer_{n}", f"blocks.{n - 1}"
        table[f"{ours}/norm_1"] = f"{theirs}.norm1", LAYER_NORM
        table[f"{ours}/attention"] = f"{theirs}.attn", ATTENTION
        table[f"{ours}/norm_2"] = f"{theirs}.norm2", LAYER_NORM
        table[f"{ours}/mlp_1"] = f"{theirs}.mlp.fc1", LINEAR
        table[f"{ours}/mlp_2"] = f"{theirs}.mlp.fc2", LINEAR
    table["norm"] = "norm", LAYER_NORM
    table["head"] = "head", LINEAR
    return table


#: The models of which there are released weights; of ResNet-50 there are none.
TABLES: dict[str, Callable[[Mapping[str, Any]], Table]] = {
    "cnn": _cnn,
    "resnet18": _resnet,
    "vgg16": _vgg,
    "vgg19": _vgg,
    "ir50": _ir,
    "ir100": _ir,
    "ir152": _ir,
    "vit": _vit,
}

#: Of the release's IR nets: a layer that is made and never run.
_DEAD_LAYER = "feature.output_layer."
#: Of every batch norm: how many batches it has seen, which nothing depends on.
_COUNTER = ".num_batches_tracked"


def _channels(norm: Mapping[str, Any]) -> int:
    return norm["scale"].shape[0]


def _count(params: Mapping[str, Any], prefix: str) -> int:
    return sum(name.startswith(prefix) for name in params)


# Converting ----------------------------------------------------------------------------------------------------------


def convert(name: str, state_dict: Mapping[str, np.ndarray], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a released model's arrays out as our model's variables.

    Kernels (out, in, h, w) become (h, w, in, out), matrices are transposed, and behind a flattened map their rows are
    reordered from (c, h, w) to (h, w, c). Two things are left out on purpose: the counters ``num_batches_tracked`` and
    ``feature.output_layer`` of the IR nets, which the release never runs. What no array tells is the number of heads of
    a ViT's attention: it is taken from ``variables``.

    Args:
      name: of the model, a key of ``TABLES``.
      state_dict: the arrays, as :func:`read_state_dict` gives them.
      variables: our model's variables or their shapes (``jax.eval_shape`` of its ``init``): what has to be filled.

    Returns:
      As ``variables``, with numpy arrays of the same shapes and dtypes.

    Raises:
      UserError: no released weights of that model; arrays that our model does not have, that are missing, of another
        shape, or not finite numbers (the first five of each are named).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from gpz_jax.models import build
      >>> model = build("cnn", num_classes=2, size=16, width=1)
      >>> shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 16, 16, 1)))
      >>> convert("cnn", {"fc.2.bias": np.zeros(3)}, shapes)
      Traceback (most recent call last):
      gpz_jax.errors.UserError: the weights are not those of this cnn: missing block1.0.weight, block1.0.bias, ...
    """
    if name not in TABLES:
        hint = f"; there are of {', '.join(TABLES)}" if name == "resnet50" else did_you_mean(name, TABLES)
        raise UserError(f"there are no released PyTorch weights of a model {name!r}{hint}")
    rows = dict(_rows(TABLES[name](variables["params"])))
    flat: dict[str, dict[str, Any]] = {key: flatten_dict(tree, sep="/") for key, tree in variables.items()}
    leaves = {path: leaf for tree in flat.values() for path, leaf in tree.items()}
    arrays = {key: array for key, array in state_dict.items() if not _is_dead(name, key)}
    shapes = {key: layout.shape(leaves[path].shape) for path, (key, layout) in rows.items() if path in leaves}
    _check(name, arrays, shapes)

    def ours(path: str) -> np.ndarray:
        key, layout = rows[path]
        return np.ascontiguousarray(layout.ours(arrays[key], leaves[path].shape), leaves[path].dtype)

    return {
        collection: unflatten_dict({path: ours(path) for path in tree}, sep="/") for collection, tree in flat.items()
    }


def _rows(table: Table) -> Iterator[tuple[str, tuple[str, Layout]]]:
    """The table of modules as one of arrays: our path -> their name and its layout."""
    for ours, (theirs, kind) in table.items():
        for leaf, (name, layout) in kind.items():
            yield "/".join(filter(None, (ours, leaf))), (".".join(filter(None, (theirs, name))), layout)


def _is_dead(name: str, key: str) -> bool:
    return key.endswith(_COUNTER) or (TABLES[name] is _ir and key.startswith(_DEAD_LAYER))


def _check(name: str, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> None:
    """Every array of the model is there, of its shape, finite; and no other is."""
    both = [key for key in shapes if key in arrays]
    wrong = {
        "unknown": [f"{key[:80]!r}" for key in arrays if key not in shapes],
        "missing": [key for key in shapes if key not in arrays],
        "of another shape": [
            f"{key} {arrays[key].shape} (not {shapes[key]})" for key in both if arrays[key].shape != shapes[key]
        ],
        "not finite floats": [key for key in both if not _is_finite(arrays[key])],
    }
    said = [f"{what} {_first_five(keys)}" for what, keys in wrong.items() if keys]
    if said:
        raise UserError(f"the weights are not those of this {name}: {'; '.join(said)}")


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and bool(np.isfinite(array).all())


def _first_five(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
