"""Batches of inputs with their classes: what a network is measured on, and what is refused before it is."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpz_jax.errors import UserError
from gpz_jax.taps import TappedNetwork

#: ``(x, labels)`` or ``(x, labels, mask)``: x ``(N, …)``, labels ``(N,)`` int, mask ``(N,)`` bool, False for padding.
Batch = tuple[Any, Any] | tuple[Any, Any, Any]

#: Batches that can be read more than once: a list, or a function that begins anew at every call.
Batches = Iterable[Batch] | Callable[[], Iterable[Batch]]


def with_mask(batch: Batch) -> tuple[Any, Any, Any]:
    """A batch as ``(x, labels, mask)``; without a mask every row counts.

    Raises:
      UserError: it is neither a pair nor a triple.

    Example:
      >>> with_mask((np.ones((2, 3)), np.array([0, 1])))[2].tolist()
      [True, True]
    """
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        found = f"{len(batch)} parts" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"
        raise UserError(
            f"a batch is (x, labels) or (x, labels, mask), not {found}; give one batch as a list, [(x, labels)]"
        )
    x, labels, *given = batch
    mask = given[0] if given else None
    return x, labels, np.ones(len(x), bool) if mask is None else mask


def reader(
    batches: Batches, network: TappedNetwork, variables: Any, num_classes: int
) -> Callable[[], Iterator[tuple[Any, Any, Any]]]:
    """A function that gives the batches afresh at each call, as ``(x, labels, mask)``, every one checked.

    Args:
      batches: see :data:`Batches`.
      network: that they are meant for.
      variables: its variables.
      num_classes: K.

    Raises:
      UserError: something that can be read only once; later, from the function: no images at all; shapes that do not
        fit each other or the network; labels that are no integers or not in 0 … K - 1; a mask that is not one boolean a
        row; fewer or more images than in the pass before.
    """
    if isinstance(batches, Iterator):
        raise UserError(
            f"batches is a {type(batches).__name__}, which can be read only once, and every network reads it twice: "
            "give a list, or a function without arguments that begins anew"
        )
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, got {num_classes}")
    passes: list[int] = []  # images in the first pass

    def read() -> Iterator[tuple[Any, Any, Any]]:
        first, images = None, 0
        for batch in batches() if callable(batches) else batches:
            x, labels, mask = with_mask(batch)
            if first is None:
                first = _kind(x)
                if not passes:
                    check_runs(network, variables, x)
            images += _check(x, labels, mask, first, num_classes)
            yield x, labels, mask
        if not images and not passes:
            raise UserError("there are no images to probe")
        passes.append(images)
        if images != passes[0]:
            raise UserError(
                f"batches gave {passes[0]} images at first and {images} when read again: it must give the same ones "
                "each time"
            )

    return read


def check_runs(network: TappedNetwork, variables: Any, x: Any) -> None:
    """Raise :class:`UserError` if the network cannot be run on inputs such as ``x``; nothing is computed."""
    try:
        jax.eval_shape(network, variables, jax.ShapeDtypeStruct(*_shape(x)))
    except UserError:
        raise
    except Exception as error:  # whatever a network that we do not know makes of inputs of another shape
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"the network cannot be run on x of shape {np.shape(x)}: {why}") from error


def _shape(x: Any) -> tuple[tuple[int, ...], Any]:
    return jnp.shape(x), jnp.result_type(x)


def _kind(x: Any) -> tuple[tuple[int, ...], Any]:
    shape, dtype = _shape(x)
    return shape[1:], dtype


def _check(x: Any, labels: Any, mask: Any, first: tuple[tuple[int, ...], Any], num_classes: int) -> int:
    """Refuse a batch that does not fit; returns how many of its images count."""
    if _kind(x) != first:
        raise UserError(
            f"x has shape {np.shape(x)} and dtype {_kind(x)[1]}, those before {first[0]} a row, {first[1]}: give "
            "batches of one kind"
        )
    labels, mask = np.asarray(labels), np.asarray(mask)
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"labels are {labels.dtype}, not integers: give the class of each image, 0 to {num_classes - 1}"
        )
    for name, values in (("labels", labels), ("mask", mask)):
        if values.shape != (len(x),):
            raise UserError(f"{name} has shape {values.shape} for {len(x)} images: give one value an image")
    if mask.dtype != bool:
        raise UserError(f"mask is {mask.dtype}, not bool: give True for an image that counts and False for padding")
    real = labels[mask]
    if real.size and not 0 <= real.min() <= real.max() < num_classes:
        wrong = real.min() if real.min() < 0 else real.max()
        raise UserError(f"label {wrong} is not one of {num_classes} classes, 0 to {num_classes - 1}")
    return len(real)
