"""Find the cut points of a model by tracing it."""

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpz_jax.errors import UserError
from gpz_jax.taps.arguments import hashable
from gpz_jax.taps.batch_axis import batch_size, fault, other_sizes, with_batch
from gpz_jax.taps.cut_names import Seen, select
from gpz_jax.taps.outputs import LOGITS, Kind, Place, is_array, map_arrays
from gpz_jax.taps.tapped_network import TappedNetwork, visit
from gpz_jax.taps.user_errors import check_linen, in_words
from gpz_jax.taps.validity import read_cuts


def tap(
    model: Any,
    variables: Any,
    x: Any,
    *,
    cuts: str | Iterable[str] | None = None,
    output: Callable[[Any], Any] | None = None,
    **arguments: Any,
) -> TappedNetwork:
    """Find the cut points of ``model`` by tracing it (shapes only, nothing is computed).

    It is traced for the batch of ``x`` and for another: a cut is an array ``(N, …)`` whose axis 0 follows the batch.

    Args:
      model: any Flax Linen module whose ``__call__`` returns the logits ``(N, K)``, alone or among other things.
      variables: its variables, or their ``ShapeDtypeStruct`` twins.
      x: an example input ``(N, …)`` or its ``ShapeDtypeStruct`` twin, or a pytree of them, such as a dict.
      cuts: a name or several: module paths, joined by ``/``, or globs, ``"block_*/conv"``; ``*`` matches within one
        level, ``**`` all levels. A module called more than once is ``name``, ``name:2``, ``name:3``, … Of one that
        returns a tuple, a dict or a dataclass, ``block_1[0]``, ``encoder["hidden"]`` and ``head.scores`` are the
        arrays. Default: the model's :class:`Tap` marks if it has any, else its direct children, of each the first
        array of real numbers with a batch axis that is read on the way to the logits. ``"logits"`` is always the last
        cut.
      output: picks the logits from what the model returns, such as ``lambda out: out["logits"]``.
      **arguments: passed to the model's ``__call__``, for example ``train=False``; arrays and keys too, and
        ``rngs={"dropout": key}``.

    Returns:
      The tapped network, its cuts in the order in which they are computed.

    Raises:
      UserError: a name or glob that matches no activation (the nearest is suggested); an activation that is not one
        array with a batch axis 0; a cut inside ``nn.scan`` or ``nn.remat``; logits that are not one array; a model in
        training mode; something else than a Linen module.

    Warns:
      UserWarning: modules that the default cuts leave out; ``left_out`` of the network lists them all.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
      >>> x = jnp.ones((2, 5))
      >>> variables = model.init(jax.random.key(0), x)
      >>> network = tap(model, variables, x)
      >>> network.cuts
      ('layers_0', 'layers_2', 'logits')
      >>> logits, taps = network(variables, x)
      >>> taps["layers_0"].shape
      (2, 4)
    """
    check_linen(model)
    return find_cuts(model, variables, x, cuts, output, arguments)


def find_cuts(
    model: Any,
    variables: Any,
    x: Any,
    cuts: str | Iterable[str] | None,
    output: Callable[[Any], Any] | None,
    arguments: Mapping[str, Any],
) -> TappedNetwork:
    """What :func:`tap` does, of whatever ``visit`` can visit."""
    patterns = None if cuts is None else (cuts,) if isinstance(cuts, str) else tuple(cuts)
    with in_words(model):
        first = _traced(model, variables, x, output, arguments)
    size = batch_size(x)
    other, second = _traced_again(model, variables, x, output, arguments, size)
    if other is None:
        warnings.warn(
            f"the model runs with a batch of {size} alone, so axis 0 is taken to be the batch wherever it is {size}",
            stacklevel=3,
        )
    seen = {}
    for name, (place, array) in first.arrays.items():
        again = second.arrays.get(name) if second else None
        seen[name] = Seen(place, array.dtype, fault(array.shape, size, again and again[1].shape, other))
    _check_logits(seen, first.returned)
    unread = _unread(TappedNetwork(model, (), None, hashable(arguments), output), variables, x, seen)
    seen = {name: array._replace(is_read=name not in unread) for name, array in seen.items()}
    found = select(seen, first.inside, patterns)
    wholly = [one for one in found.left_out if not one.why.startswith("beside ")]
    if wholly:
        named = ", ".join(map(str, wholly[:6])) + (f" and {len(wholly) - 6} more" if len(wholly) > 6 else "")
        warnings.warn(f"the default cuts leave out {named}", stacklevel=3)
    return TappedNetwork(model, found.cuts, None, hashable(arguments), output, found.left_out)


def _unread(network: TappedNetwork, variables: Any, x: Any, seen: Mapping[str, Seen]) -> set[str]:
    """Of what modules return beside something else, the arrays from which the logits are not computed."""
    together = Counter(array.place.call for array in seen.values() if not array.fault)
    several = tuple(name for name, array in seen.items() if not array.fault and together[array.place.call] > 1)
    if not several:
        return set()  # and the model need not be traced once more
    return set(several) - read_cuts(dataclasses.replace(network, cuts=(*several, LOGITS)), variables, x)


class _Trace(NamedTuple):
    arrays: dict[str, tuple[Place, jax.ShapeDtypeStruct]]
    inside: dict[str, Kind]
    returned: list[str]  # what the arrays that the model returns are called, if the result is called "out"


def _traced(model: Any, variables: Any, x: Any, output: Any, arguments: Mapping[str, Any]) -> _Trace:
    """All arrays that modules return, in order, in a trace of the model."""
    found = _Trace({}, {}, [])

    def record(place: Place, array: Any) -> Any:
        found.arrays[place.name] = place, jax.ShapeDtypeStruct(array.shape, array.dtype)
        return array

    def result(out: Any) -> Any:
        map_arrays(lambda name, _: found.returned.append(name), out, "out")
        return out if output is None else output(out)

    def run(variables: Any, x: Any) -> None:
        found.inside.update(visit(model, variables, x, arguments, result, record))

    jax.eval_shape(run, variables, x)
    return found


def _traced_again(
    model: Any, variables: Any, x: Any, output: Any, arguments: Mapping[str, Any], size: int | None
) -> tuple[int | None, _Trace | None]:
    """A second trace, with another batch; arguments of N rows change with it if they must. None if none succeeds."""
    if size is None:
        return None, None
    for other in other_sizes(size) if size else ():
        for fixed in (True, False):
            resized = arguments if fixed else _resized(arguments, size, other)
            if resized is None:
                continue
            try:
                return other, _traced(model, variables, with_batch(x, size, other), output, resized)
            except Exception:  # whatever a model says that knows one batch size only
                continue
    return None, None


def _resized(arguments: Mapping[str, Any], old: int, new: int) -> dict[str, Any] | None:
    """The arguments with ``new`` rows where they have ``old``; None if none has."""
    changed = False

    def rows(leaf: Any) -> Any:
        nonlocal changed
        if not is_array(leaf) or leaf.shape[:1] != (old,):
            return leaf
        changed = True
        return leaf[jnp.arange(new) % old]

    resized = {name: jax.tree.map(rows, value) for name, value in arguments.items()}
    return resized if changed else None


def _check_logits(seen: Mapping[str, Seen], returned: list[str]) -> None:
    logits = seen.get(LOGITS)
    if logits is not None and not logits.fault:
        return
    if logits is not None and logits.place.name == LOGITS and "follow" in logits.fault:
        raise UserError(f"the logits have no batch axis: {logits.fault}")
    among = [name for name in returned if name != "out"]
    pick = next((name for name in among if "logits" in name), among[0] if among else None)
    hint = f", or say which of {', '.join(among[:6])} they are: output=lambda out: {pick}" if pick else ""
    raise UserError(
        f"the model's __call__ must return the logits as one array (N, K); wrap it if it returns more{hint}"
    )
