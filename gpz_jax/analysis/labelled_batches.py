"""Batches of inputs with their classes: what a network is measured on, and what is refused before it is."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from gpz_jax import parallel
from gpz_jax.analysis.views import real_tokens
from gpz_jax.errors import UserError
from gpz_jax.taps import LOGITS, TappedNetwork
from gpz_jax.taps.batch_axis import batch_size, shapes
from gpz_jax.taps.input_leaves import leaf_names
from gpz_jax.targets import check_labels

#: ``(x, labels)`` or ``(x, labels, mask)``: x ``(N, …)`` or a pytree of such arrays, labels ``(N,)`` int, mask ``(N,)``
#: bool, False for padding. For a network with logits ``(N, T, K)`` labels are ``(N, T)``, and a mask may be.
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
    return x, labels, np.ones(batch_size(x) or 0, bool) if mask is None else mask


def counted(batch: Batch, token_mask: str | None = None) -> tuple[Any, Any, Any]:
    """:func:`with_mask`; where labels are ``(N, T)`` the mask is too, False also where ``token_mask`` is 0.

    Example:
      >>> x = {"ids": np.ones((1, 3)), "real": np.array([[1, 1, 0]])}
      >>> counted((x, np.array([[0, 1, -100]])), "real")[2].tolist()
      [[True, True, False]]
    """
    x, labels, mask = with_mask(batch)
    if token_mask is None or np.ndim(labels) != 2 or np.shape(labels)[:1] != np.shape(mask)[:1]:
        return x, labels, mask
    mask = np.asarray(parallel.fetch(mask))
    return x, labels, np.asarray(parallel.fetch(real_tokens(x, token_mask))) & mask.reshape(len(mask), -1)


def checked(
    batches: Iterable[Batch],
    network: TappedNetwork,
    variables: Any,
    num_classes: int,
    token_mask: str | None = None,
) -> Iterator[tuple[Any, Any, Any]]:
    """The batches as ``(x, labels, mask)``, every one checked.

    Args:
      batches: see :data:`Batch`.
      network: that they are meant for.
      variables: its variables.
      num_classes: K.
      token_mask: name of the input's array that is 0 where a token is padding; see :func:`counted`.

    Raises:
      UserError: where the first batch is asked for: inputs that the network cannot be run on; at any: shapes that do
        not fit each other or the network; labels that are no integers or not in 0 … K - 1; a mask that is not one
        boolean a row.
    """
    first, tokens = None, None
    for batch in batches:
        x, labels, mask = counted(batch, token_mask)
        if first is None:
            first, tokens = _kinds(x), check_runs(network, variables, x)
        _check_kind(x, first)
        _check_labels(x, labels, mask, num_classes, tokens)
        yield x, labels, mask


def reader(
    batches: Batches, network: TappedNetwork, variables: Any, num_classes: int, token_mask: str | None = None
) -> Callable[[], Iterator[tuple[Any, Any, Any]]]:
    """A function that gives the batches afresh at each call, as :func:`checked` gives them.

    Raises:
      UserError: something that can be read only once; later, from the function: what :func:`checked` refuses; no images
        at all; fewer or more images than in the pass before.
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
        images = 0
        given = batches() if callable(batches) else batches
        for x, labels, mask in checked(given, network, variables, num_classes, token_mask):
            images += int(np.sum(parallel.fetch(mask)))
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


def check_runs(network: TappedNetwork, variables: Any, x: Any) -> int | None:
    """The number T of tokens where the network's logits are of a sequence, ``(N, T, K)``; None where they are not.

    Raises:
      UserError: the network cannot be run on inputs such as ``x``; nothing is computed.
    """
    try:
        taps = jax.eval_shape(network, variables, shapes(x))[1]
    except UserError:
        raise
    except Exception as error:  # whatever a network that we do not know makes of inputs of another shape
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"the network cannot be run on x of shape {_told(shapes(x))}: {why}") from error
    logits = taps[LOGITS].shape
    if len(logits) > 3:
        raise UserError(f"the logits have shape {logits}: they must be (N, K), or (N, T, K) of a sequence")
    tokens = logits[1] if len(logits) == 3 else None
    for cut, z in taps.items():
        if tokens is not None and z.shape[1:2] != (tokens,):
            raise UserError(
                f"the logits {logits} have a class for each of {tokens} tokens, and cut {cut!r} of {z.shape} has not "
                "so many: leave it out of cuts=, or pick the logits of one token with tap(…, output=…)"
            )
    return tokens


def _told(x: Any) -> Any:
    """Shapes in words: of one array its shape, of a pytree each array's by its name."""
    found = dict(zip(leaf_names(x), (leaf.shape for leaf in jax.tree.leaves(x)), strict=True))
    return found.get("x", ()) if set(found) == {"x"} else found


def _kinds(x: Any) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape of a row, and dtype, of every array of an input."""
    return {
        name: (leaf.shape[1:], leaf.dtype) for name, leaf in zip(leaf_names(x), jax.tree.leaves(shapes(x)), strict=True)
    }


def _check_kind(x: Any, first: dict[str, tuple[tuple[int, ...], Any]]) -> None:
    found = _kinds(x)
    if found == first:
        return
    if found.keys() != first.keys():
        raise UserError(
            f"a batch has the arrays {', '.join(found)}, those before {', '.join(first)}: give all the same"
        )
    name = next(name for name in first if found[name] != first[name])
    (row, dtype), (row_before, dtype_before) = found[name], first[name]
    lengths = "; pad sequences to one length, and name their padding with token_mask=" if dtype == dtype_before else ""
    raise UserError(
        f"{name} has rows of shape {row} and dtype {dtype}, those before {row_before} and {dtype_before}: give batches "
        f"of one kind{lengths}"
    )


def _check_labels(x: Any, labels: Any, mask: Any, num_classes: int, tokens: int | None) -> None:
    labels, mask, images = *(np.asarray(parallel.fetch(given)) for given in (labels, mask)), batch_size(x)
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"labels are {labels.dtype}, not integers: give the class of each image, 0 to {num_classes - 1}"
        )
    if tokens is not None and labels.shape != (images, tokens):
        raise UserError(
            f"the logits have a class for each of {tokens} tokens, and labels have shape {labels.shape}: give labels "
            f"{(images, tokens)}, or pick the logits of one token with tap(…, output=…)"
        )
    if tokens is None and labels.shape != (images,):
        one_hot = "; of one-hot rows the argmax" if labels.shape == (images, num_classes) else ""
        raise UserError(f"labels has shape {labels.shape} for {images} images: give one value an image{one_hot}")
    if mask.shape not in ((images,), labels.shape):
        raise UserError(f"mask has shape {mask.shape} for {images} images: give one value an image")
    if mask.dtype != bool:
        raise UserError(f"mask is {mask.dtype}, not bool: give True for an image that counts and False for padding")
    check_labels(labels[mask], num_classes)
