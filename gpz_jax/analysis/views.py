"""Views: what of an activation is measured. Of tokens (N, T, C): all of them, their mean, or the first alone.

A pooling shrinks R_c² by itself: the radius of a mean of T independent tokens is a T-th of one token's. Radii are
comparable between cuts that are looked at in one way, and between a network and its untrained copies in any.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array

from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.taps import TappedNetwork
from gpz_jax.taps.input_leaves import leaf_names

#: The views that have names.
NamedView = Literal["tokens", "mean", "first"]


class View(NamedTuple):
    """What of an activation is measured. Hashable, so that it can be a static argument of ``jax.jit``.

    Attributes:
      how: "tokens": all of z, as it is; "mean": the mean of the tokens; "first": the first token (a class token);
        or a function ``(z, x) -> (N, …)`` of an activation and the network's input. The named ones leave an activation
        alone that is not ``(N, T, C)``.
      token_mask: name of that array ``(N, T)`` of the input which is 1 for a token and 0 for padding. "tokens" puts
        zeros in place of padding, "mean" leaves it out.
    """

    how: str | Callable[[Array, Any], Array] = "tokens"
    token_mask: str | None = None

    @property
    def name(self) -> str:
        """How the view is recorded."""
        return self.how if isinstance(self.how, str) else getattr(self.how, "__qualname__", type(self.how).__name__)

    def of(self, cut: str, z: Array, x: Any) -> Array:
        """The part of the activation ``z`` of input ``x`` at ``cut`` that is measured, ``(N, …)``.

        >>> z = jnp.array([[[1.0], [3.0], [8.0]]])
        >>> View("mean").of("block", z, None).tolist(), View("first").of("block", z, None).tolist()
        ([[4.0]], [[1.0]])
        >>> View("mean", "mask").of("block", z, {"mask": jnp.array([[1, 1, 0]])}).tolist()
        [[2.0]]
        """
        if not isinstance(self.how, str):
            found = self.how(z, x)
            if jnp.shape(found)[:1] != z.shape[:1]:
                raise UserError(
                    f"view {self.name!r} makes {jnp.shape(found)} of {z.shape} at cut {cut!r}: it must keep axis 0"
                )
            return found
        if z.ndim != 3:
            return z
        real = None
        if self.token_mask is not None:
            real = _of_cut(real_tokens(x, self.token_mask), cut, z, self.token_mask)
            # Not a product: 0 times an infinity or NaN in the padding would be NaN.
            z = jnp.where(real[..., None], z, jnp.zeros((), z.dtype))
        if self.how == "tokens":
            return z
        if self.how == "first":
            return z[:, 0]
        wide = z.astype(jnp.promote_types(z.dtype, jnp.float32))
        if real is None:
            return jnp.mean(wide, axis=1)
        count = jnp.sum(real, axis=1, keepdims=True).astype(jnp.float32)
        return jnp.sum(wide, axis=1) / jnp.maximum(count, 1).astype(wide.dtype)


def real_tokens(x: Any, token_mask: str) -> Any:
    """Where the input's array of that name is not 0, ``(N, T)``: no padding.

    Raises:
      UserError: the input has none of that name.

    Example:
      >>> real_tokens({"mask": jnp.array([[1, 0]])}, "mask").tolist()
      [[True, False]]
    """
    arrays = dict(zip(leaf_names(x), jax.tree.leaves(x), strict=True))
    if token_mask not in arrays:
        known = did_you_mean(token_mask, arrays)
        raise UserError(f"token_mask names {token_mask!r}, which the input does not have{known}")
    return arrays[token_mask] != 0


def _of_cut(real: Array, cut: str, z: Array, token_mask: str) -> Array:
    if real.shape != z.shape[:2]:
        raise UserError(
            f"token_mask {token_mask!r} has shape {real.shape}, cut {cut!r} {z.shape}: it needs one entry a token; "
            "leave the cut out of cuts=, or give view a function of (z, x)"
        )
    return real


def view_of(view: str | Callable[[Array, Any], Array] | View, token_mask: str | None = None) -> View:
    """The view that an argument names.

    Raises:
      UserError: an unknown name; something that is neither a name nor a function.

    Example:
      >>> view_of("mean").name
      'mean'
    """
    if isinstance(view, View):
        return view
    names = get_args(NamedView)
    if isinstance(view, str) and view not in names:
        raise UserError(f"unknown view {view!r}{did_you_mean(view, names)}", field="view")
    if not isinstance(view, str) and not callable(view):
        raise UserError(f"view is a {type(view).__name__}: give a name ({', '.join(names)}) or a function of (z, x)")
    return View(view, token_mask)


def viewed_shapes(network: TappedNetwork, variables: Any, x: Any, view: View) -> dict[str, tuple[int, ...]]:
    """Shape of what is measured of one input at every cut, in order; nothing is computed.

    Raises:
      UserError: a function that gives something without the batch as axis 0.
    """

    def viewed(variables: Any, x: Any) -> dict[str, Array]:
        return {cut: view.of(cut, z, x) for cut, z in network(variables, x)[1].items()}

    found = jax.eval_shape(viewed, variables, x)
    return {cut: found[cut].shape[1:] for cut in network.cuts}


def changes(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """A sentence where all tokens are measured at one cut and one vector at the next; None where nothing changes so.

    >>> print(changes({"block_2": (17, 8), "class_token": (8,), "logits": (10,)}))
    all 17 tokens are measured at 'block_2', one vector at 'class_token': R_c^2 falls there by the pooling alone; ...
    """
    cuts = list(shapes)
    for before, after in itertools.pairwise(cuts):
        if len(shapes[before]) == 2 and len(shapes[after]) == 1:
            return (
                f"all {shapes[before][0]} tokens are measured at {before!r}, one vector at {after!r}: R_c^2 falls "
                'there by the pooling alone; view "mean" or "first" compares like with like, and rule "null" copes'
            )
    return None
