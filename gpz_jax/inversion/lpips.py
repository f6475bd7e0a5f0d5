"""LPIPS, a distance between images learnt from people's judgements (Zhang et al. 2018): AlexNet, version 0.1.

The trained weights are read from a file that is not part of this package; :data:`HOW_TO_GET` says how to make it::

    pip install torchvision lpips
    python -m gpz_jax.inversion.lpips_weights lpips_alex.npz

The file holds float32 arrays: ``conv1_w`` … ``conv5_w`` (out, in, height, width) and ``conv1_b`` … ``conv5_b``,
AlexNet's convolutions; ``lin0_w`` … ``lin4_w``, the weight of each of their channels; ``shift`` and ``scale``, the
constants that standardise the colours.

R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang: The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric, CVPR 2018.
"""

import math
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Float32

from gpz_jax.errors import UserError
from gpz_jax.settings_files import check_text

VARIABLE = "GPZ_LPIPS"  # names the file of weights where no setting does
COMMAND = "python -m gpz_jax.inversion.lpips_weights"
PIP = "pip install torchvision lpips"

#: What to tell a person who has no weights.
HOW_TO_GET = (
    f"LPIPS left out, for want of its weights: {PIP}; {COMMAND} lpips_alex.npz; then --lpips-weights lpips_alex.npz or "
    f"export {VARIABLE}=lpips_alex.npz"
)

LEAST_SIDE = 31  # pixels: 31 -> conv1 7 -> pool 3 -> pool 1

STRIDES = (4, 1, 1, 1, 1)
PADDINGS = (2, 2, 1, 1, 1)
POOLED_FIRST = (False, True, True, False, False)

_KERNELS = ((64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3))

#: The arrays of the file, all float32.
SHAPES: dict[str, tuple[int, ...]] = {
    **{f"conv{i}_w": shape for i, shape in enumerate(_KERNELS, 1)},
    **{f"conv{i}_b": shape[:1] for i, shape in enumerate(_KERNELS, 1)},
    **{f"lin{i}_w": shape[:1] for i, shape in enumerate(_KERNELS)},
    "shift": (3,),
    "scale": (3,),
}


class Weights(NamedTuple):
    """The trained arrays, one entry per convolution where there are five. A pytree: an argument for jit."""

    kernels: tuple[Float32[Array, "out in h w"], ...]
    biases: tuple[Float32[Array, " out"], ...]
    linear: tuple[Float32[Array, " out"], ...]
    shift: Float32[Array, "3"]
    scale: Float32[Array, "3"]


def load(path: str | Path) -> Weights:
    """Read the file of weights. Pickled objects are never loaded, further arrays are left unread.

    Raises:
      UserError: no such file, one that is not an .npz or is damaged, or arrays that :func:`from_arrays` refuses.

    >>> load("nowhere/lpips_alex.npz")
    Traceback (most recent call last):
    ...
    gpz_jax.errors.UserError: no file nowhere/lpips_alex.npz; make it with python -m gpz_jax.inversion.lpips_weights ...
    """
    path = Path(path)
    again = f"make it again with {COMMAND} {path.name}"
    if not path.is_file():
        raise UserError(f"no file {path}; make it with {COMMAND} {path.name}")
    try:
        # Opened here, because np.load forgets to close what it cannot read.
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise UserError(f"{path} is not an .npz file, or not all of one; {again}")
            _check_sizes(file, path, again)
            file.seek(0)
            with np.load(file, allow_pickle=False) as npz:
                arrays = {name: _read(npz, name, path, again) for name in SHAPES if name in npz.files}
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}); {again}") from error
    return from_arrays(arrays, where=str(path))


def _check_sizes(file: Any, path: Path, again: str) -> None:
    """Refuse, before it is unpacked, an array that is larger than it should be."""
    with zipfile.ZipFile(file) as members:
        for member in members.infolist():
            shape = SHAPES.get(member.filename.removesuffix(".npy"))
            if shape is not None and member.file_size > 8 * math.prod(shape) + 65536:  # float64, and a header
                raise UserError(
                    f"{path}: {member.filename} has {member.file_size:,} bytes, not those of {shape}; {again}"
                )


def _read(npz: np.lib.npyio.NpzFile, name: str, path: Path, again: str) -> np.ndarray:
    try:
        array = npz[name]
    except Exception as error:  # whatever zip, zlib or numpy raise, this file is at fault
        if "allow_pickle" in str(error):
            raise UserError(f"{path}: {name} holds pickled Python objects, which are never loaded; {again}") from error
        raise UserError(f"{path}: {name} is damaged ({error}); {again}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: {name} is not a numpy array; {again}")
    return array


def from_arrays(arrays: dict[str, np.ndarray], *, where: str = "LPIPS weights") -> Weights:
    """Check the arrays named in :data:`SHAPES` and group them; others are ignored.

    Raises:
      UserError: one line naming, after ``where``, the first array that is missing, of another shape or dtype than it
        should be, or not finite.

    >>> from_arrays({name: np.ones(shape, np.float32) for name, shape in SHAPES.items() if name != "lin4_w"})
    Traceback (most recent call last):
    ...
    gpz_jax.errors.UserError: LPIPS weights: lin4_w is missing; it should be float32 (256,)
    """
    for name, shape in SHAPES.items():
        should = f"it should be float32 {shape}"
        if name not in arrays:
            raise UserError(f"{where}: {name} is missing; {should}")
        array = arrays[name]
        if array.shape != shape or array.dtype != np.float32:
            raise UserError(f"{where}: {name} is {array.dtype} {array.shape}; {should}")
        if not np.isfinite(array).all():
            raise UserError(f"{where}: {name} holds NaN or infinite numbers; {should}, finite")
    return Weights(
        kernels=tuple(jnp.asarray(arrays[f"conv{i}_w"]) for i in range(1, 6)),
        biases=tuple(jnp.asarray(arrays[f"conv{i}_b"]) for i in range(1, 6)),
        linear=tuple(jnp.asarray(arrays[f"lin{i}_w"]) for i in range(5)),
        shift=jnp.asarray(arrays["shift"]),
        scale=jnp.asarray(arrays["scale"]),
    )


def weights_file(setting: str | None) -> Path | None:
    """Return the file that a setting names, else the one that the environment variable GPZ_LPIPS names, else None.

    Whether it exists is for :func:`load` to say. An empty name counts as none.

    >>> weights_file("lpips_alex.npz").name
    'lpips_alex.npz'
    """
    name = setting or os.environ.get(VARIABLE)
    return Path(check_text(name, "lpips_weights")).expanduser() if name else None


def lpips(weights: Weights, x: Float[Array, "N H W C"], x_hat: Float[Array, "N H W C"]) -> Float[Array, " N"]:
    """LPIPS of each pair of images: 0 if identical, and towards 1 for images with nothing in common.

    With f_l the five maps of :func:`features`, the distance is the sum over l of :func:`layer_distance`. Pixels are in
    [0, 1]; one channel (grey) counts as three equal ones. Computed in float32, at full precision on every device, and
    differentiable. LPIPS was fitted to 64-pixel patches; smaller images should be resized to that, and numbers compared
    only at one size.

    Raises:
      UserError: shapes that differ, pixels that are not floats, channels other than 1 or 3, images under 31 pixels a
        side, of which AlexNet's second pool would leave nothing.

    >>> weights = from_arrays({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()})
    >>> x = jnp.linspace(0.0, 1.0, 31 * 31 * 3).reshape(1, 31, 31, 3)
    >>> lpips(weights, x, x).tolist()
    [0.0]
    """
    _check(x, x_hat)
    return _lpips(weights, x, x_hat)


@jax.jit  # one program of what would be a hundred
def _lpips(weights, x, x_hat):
    distance = jnp.zeros(len(x), jnp.float32)
    for f, f_hat, linear in zip(features(weights, x), features(weights, x_hat), weights.linear, strict=True):
        distance += layer_distance(f, f_hat, linear)
    return distance


def features(weights: Weights, x: Float[Array, "N H W C"]) -> list[Float32[Array, "N h w c"]]:
    """AlexNet's five convolutions after their ReLU, for pixels in [0, 1] of C = 1 or 3 channels.

    For (N, 64, 64, C): (N, 15, 15, 64), (N, 7, 7, 192), (N, 3, 3, 384), (N, 3, 3, 256), (N, 3, 3, 256). Each colour
    enters as (2 x - 1 - shift) / scale.

    >>> weights = from_arrays({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()})
    >>> [f.shape for f in features(weights, jnp.zeros((1, 31, 31, 3)))][::4]
    [(1, 7, 7, 64), (1, 1, 1, 256)]
    """
    y = jnp.broadcast_to(x.astype(jnp.float32), (*x.shape[:-1], 3))
    y = (2 * y - 1 - weights.shift) / weights.scale
    maps = []
    for kernel, bias, stride, padding, pooled_first in zip(
        weights.kernels, weights.biases, STRIDES, PADDINGS, POOLED_FIRST, strict=True
    ):
        if pooled_first:
            y = nn.max_pool(y, (3, 3), strides=(2, 2))
        y = jax.lax.conv_general_dilated(
            y,
            kernel,
            window_strides=(stride, stride),
            padding=[(padding, padding)] * 2,
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,  # the defaults of GPU and TPU keep 10 and 8 bits
        )
        y = nn.relu(y + bias)
        maps.append(y)
    return maps


def layer_distance(
    f: Float[Array, "N h w c"], f_hat: Float[Array, "N h w c"], linear: Float[Array, " c"]
) -> Float[Array, " N"]:
    """One layer's share of LPIPS: the mean over places of sum_c linear_c (u_c - u_hat_c)^2, Zhang et al., Eq. 1.

    u = f / (||f|| + 1e-10), the norm over the channels of one place: what counts is the direction of a feature.

    >>> f, f_hat = jnp.array([3.0, 0.0]).reshape(1, 1, 1, 2), jnp.array([0.0, 2.0]).reshape(1, 1, 1, 2)
    >>> layer_distance(f, f_hat, jnp.array([1.0, 10.0])).tolist()  # (1 - 0)^2 + 10 (0 - 1)^2
    [11.0]
    """
    return ((_unit(f) - _unit(f_hat)) ** 2 * linear).sum(axis=-1).mean(axis=(1, 2))


def _unit(f: Float[Array, "N h w c"]) -> Float[Array, "N h w c"]:
    squares = (f**2).sum(axis=-1, keepdims=True)
    # Where no channel fires f is 0 whatever it is divided by; the norm's gradient there would be NaN.
    return f / (jnp.sqrt(jnp.where(squares > 0, squares, 1)) + 1e-10)


def _check(x: Array, x_hat: Array) -> None:
    if x.shape != x_hat.shape or x.ndim != 4:
        raise UserError(f"images {x.shape} against reconstructions {x_hat.shape}: give two equal (N, H, W, C) shapes")
    for array in (x, x_hat):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f"pixels of dtype {array.dtype}: LPIPS takes floats in [0, 1]; divide bytes by 255")
    _, height, width, channels = x.shape
    if channels not in (1, 3):
        raise UserError(f"LPIPS of images with {channels} channels: it takes grey (1) or RGB (3)")
    if min(height, width) < LEAST_SIDE:
        raise UserError(
            f"LPIPS of {height}x{width} images: AlexNet needs {LEAST_SIDE}x{LEAST_SIDE}; resize the images first "
            "(64 pixels is usual)"
        )
