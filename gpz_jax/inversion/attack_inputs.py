"""What an attack on a cut is given, and what is refused before anything runs."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpz_jax.errors import UserError
from gpz_jax.inversion.metrics import as_pixels
from gpz_jax.inversion.protocol import pieces
from gpz_jax.taps import LOGITS, TappedNetwork, check_real, valid_cuts
from gpz_jax.taps.batch_axis import batch_size, with_batch
from gpz_jax.taps.input_leaves import leaf_names, public_leaves, values_by_name
from gpz_jax.targets import check_logits

#: Inputs ``(N, …)``, an array or a dict (any pytree but a pair) of arrays, or a pair of them and labels ``(N,)``.
Inputs = Any


def check_cut(network: TappedNetwork, variables: Any, cut: str, x: Any, *, public: str | Iterable[str] = ()) -> None:
    """Raise :class:`UserError` for a cut that the network does not have, or that the logits know a way around."""
    example = with_batch(x, batch_size(x), 2)
    alone = dataclasses.replace(network, cuts=tuple(dict.fromkeys((network.check(cut), LOGITS))))
    check_real(jax.eval_shape(alone, variables, example)[1])
    if not valid_cuts(alone, variables, example, public=public)[cut]:
        good = ", ".join(name for name, ok in valid_cuts(network, variables, example, public=public).items() if ok)
        raise UserError(f"cut {cut!r} is bypassed: the logits know the input by another way; valid cuts: {good}")


def what_is_rebuilt(
    auxiliary: Inputs, pixels: Callable[[Any], Array] | None, public: str | Iterable[str]
) -> Callable[[Any], Array] | None:
    """``pixels``, or where an input has several arrays what picks the one that is to be rebuilt; None: the input.

    Raises:
      UserError: it is not plain which array is to be rebuilt, or that one holds no real numbers.
    """
    x = _split(auxiliary)[0]
    if pixels is not None or _is_array(x):
        return pixels
    hidden = [name for name, known in zip(leaf_names(x), public_leaves(x, public), strict=True) if not known]
    if len(hidden) != 1 or not _real(np.asarray(values_by_name(x, hidden)[0])):
        raise UserError(
            f"which numbers of {', '.join(hidden) or 'a wholly public input'} are to be rebuilt? give pixels=, a "
            "function at module level from inputs to them, (N, …): of ids for example jax.nn.one_hot(x['ids'], 1000)"
        )
    return Picked(hidden[0])


@dataclasses.dataclass(frozen=True)
class Picked:
    """The array of an input that has a name, as what is to be rebuilt; bytes count as pixels / 255."""

    name: str

    def __call__(self, x: Any) -> Array:
        """Pick it."""
        return as_pixels(values_by_name(x, [self.name])[0])


def _split(given: Inputs) -> tuple[Any, Any]:
    """Inputs and labels, or None where no labels are given."""
    if isinstance(given, tuple | list) and len(given) == 2:
        return given[0], given[1]
    return given, None


def inputs_of(given: Inputs) -> Any:
    """The inputs alone, without their labels."""
    return _split(given)[0]


def _is_array(x: Any) -> bool:
    return not isinstance(x, Mapping) and jax.tree_util.treedef_is_leaf(jax.tree.structure(x))


def _real(x: np.ndarray) -> bool:
    return x.dtype == np.uint8 or jnp.issubdtype(x.dtype, jnp.floating)


def is_float(x: Any) -> bool:
    """Whether an input is one array of floats."""
    return _is_array(x) and np.issubdtype(x.dtype, np.floating)


def checked_inputs(name: str, given: Inputs) -> tuple[Any, np.ndarray | None]:
    """Inputs and labels, checked for what no attack can take."""
    x, labels = _split(given)
    x = np.asarray(x) if isinstance(x, list) or _is_array(x) else jax.tree.map(np.asarray, x)
    images = batch_size(x) or 0
    for part, leaf in zip(leaf_names(x), jax.tree.leaves(x), strict=True):
        what = name if _is_array(x) else f"{part} of {name}"
        if leaf.ndim < 1 + _is_array(x) or images < 2:
            raise UserError(f"{what} of shape {leaf.shape}: give two inputs or more, (N, …)", field=name)
        if len(leaf) != images:
            raise UserError(f"{what} has {len(leaf)} rows, not {images}: give one a row of each input", field=name)
        if _is_array(x) and not _real(leaf):
            raise UserError(
                f"{what} of dtype {leaf.dtype}: give images as bytes (uint8), or real numbers as floats", field=name
            )
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf.astype(np.float32)).all():
            raise UserError(f"{what} has values that are not finite", field=name)
    if labels is None:
        return x, None
    labels = np.asarray(labels)
    if labels.shape != (images,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"labels of {name} of shape {labels.shape} and dtype {labels.dtype}: give {images} integers", field=name
        )
    return x, labels


def check_labels_of(network: TappedNetwork, variables: Any, found: dict) -> None:
    """Raise :class:`UserError` for a label that the network has no logit for."""
    x = found["test"][0]
    logits, _ = jax.eval_shape(network, variables, with_batch(x, batch_size(x), 2))
    check_logits(logits)
    for name, (_, labels) in found.items():
        outside = [] if labels is None else labels[(labels < 0) | (labels >= logits.shape[1])]
        if len(outside):
            most = logits.shape[1]
            raise UserError(f"label {outside[0]} of {name}: with {most} logits labels run from 0 to {most - 1}")


def check_kinds(found: dict[str, Any], pixels: Callable[[Any], Array] | None) -> bool:
    """Whether images in [0, 1] are rebuilt. Raises :class:`UserError` for inputs that differ in kind."""
    first = _kind(found["auxiliary"])
    for name, x in found.items():
        if _kind(x) != first:
            raise UserError(
                f"{name} of shape {_kind(x)}, but auxiliary of {first} (each without its number): give both as "
                "the network takes them"
            )
    ends = [_range_of(x, as_pixels if pixels is None else pixels) for x in found.values()]
    low, high = min(low for low, _, _ in ends), max(high for _, high, _ in ends)
    inside, axes = low >= -1e-4 and high <= 1 + 1e-4, ends[0][2]
    if pixels is not None and axes == 4 and not inside:
        raise UserError(f"pixels gives values from {low:.3g} to {high:.3g}; images are (N, H, W, C) in [0, 1]")
    return inside and axes == 4


def _kind(x: Any) -> str:
    """Shape of a row, and dtype, of every array of an input, in words."""
    kinds = [f"{leaf.shape[1:]} {leaf.dtype}" for leaf in jax.tree.leaves(x)]
    return kinds[0] if _is_array(x) else ", ".join(map(" ".join, zip(leaf_names(x), kinds, strict=True)))


def _range_of(x: Any, pixels: Callable[[Any], Array]) -> tuple[float, float, int]:
    """Least and largest value of what is rebuilt of inputs, and its number of axes."""
    found = [pixels(piece) for piece, _ in pieces(x)]
    return min(float(p.min()) for p in found), max(float(p.max()) for p in found), found[0].ndim
