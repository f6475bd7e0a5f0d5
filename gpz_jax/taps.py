"""Read, nudge and replace named activations of any Flax Linen model, without touching its code.

``nn.intercept_methods`` sees every module call; a :class:`TappedNetwork` uses it to return the activations asked
for, to add an offset to them (so that one backward pass gives the gradient at every cut), or to put others in their
place (so that the cloud half runs from a given representation z). What is not asked for costs nothing: XLA removes
dead code, so returning only ``taps["block_3"]`` compiles just the edge half. Flax NNX models are tapped by
``gpz_jax.taps_nnx.tap_nnx``, which finds the modules' outputs in another way and shares all the rest.
"""

import dataclasses
import fnmatch
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import get_opaque_trace_state
from jax.interpreters.partial_eval import dce_jaxpr

from gpz_jax.errors import UserError, did_you_mean

LOGITS = "logits"

Variables = Mapping[str, Any]

#: What called a cut into being: a :class:`Tap`, a module that the model itself holds, or one further down.
Kind = Literal["mark", "child", "deeper"]

AtCut = Callable[[str, Any, Kind], Any]


class Tap(nn.Module):
    """An identity that marks a cut point: ``x = Tap(name="block_4")(x)``. It has no parameters and costs nothing."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return ``x`` unchanged."""
        return x


@dataclasses.dataclass(frozen=True)
class TappedNetwork:
    """A network whose activations have names. Hashable, so that it can be a static argument of ``jax.jit``.

    Attributes:
      model: the Flax Linen module (from ``tap_nnx``: the graph of the NNX model).
      cuts: names of the cut points in the order of computation; the last is always ``"logits"``. The order lives
        here because a dict that passes through ``jit`` comes back with its keys sorted.
      prepare: what happens to the input before the model sees it (resizing, normalising); identity by default.
      arguments: further keyword arguments of the model's ``__call__``, such as ``(("train", False),)``.
    """

    model: Any
    cuts: tuple[str, ...]
    prepare: Callable[[Any], Any] | None = None
    arguments: tuple[tuple[str, Hashable], ...] = ()

    def __call__(
        self,
        variables: Variables,
        x: Any,
        *,
        offset: Mapping[str, Array] | None = None,
        replace: Mapping[str, Array] | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Run the network once.

        Args:
          variables: the model's variables (``params``, ``batch_stats``, …); they are read, never changed.
          x: the input, ``(N, …)``.
          offset: cut name -> array added to that activation (NUDGE); its gradient is the gradient at that cut.
          replace: cut name -> array put in that activation's place (REPLACE), before any offset.

        Returns:
          ``(logits, taps)``: logits ``(N, K)``, and for every cut its activation (READ), after replacement and offset.

        Raises:
          UserError: if ``offset`` or ``replace`` names a cut that the network does not have.
        """
        offset, replace = offset or {}, replace or {}
        for name in (*offset, *replace):
            self.check(name)
        found: dict[str, Array] = {}

        def at_cut(name: str, value: Any, kind: Kind) -> Any:
            if name not in self.cuts:
                return value
            value = replace.get(name, value)
            if name in offset:
                value = value + offset[name]
            found[name] = value
            return value

        x = x if self.prepare is None else self.prepare(x)
        _visit(self.model, variables, x, dict(self.arguments), at_cut)
        return found[LOGITS], {name: found[name] for name in self.cuts}

    def check(self, cut: str) -> str:
        """Return ``cut`` if the network has it; raise :class:`UserError` with the nearest name otherwise."""
        if cut not in self.cuts:
            raise UserError(f"unknown cut {cut!r}{did_you_mean(cut, self.cuts)}")
        return cut

    def after(self, prepare: Callable[[Any], Any]) -> "TappedNetwork":
        """The same network behind ``prepare``: ``network.after(f)(v, x) == network(v, f(x))``."""
        inner = self.prepare
        both = prepare if inner is None else lambda x: inner(prepare(x))
        return dataclasses.replace(self, prepare=both)

    def __hash__(self) -> int:
        # By the model's type, not the model: nn.Sequential([…]) holds a list and has no hash. Equality tells the rest.
        return hash((type(self.model), self.cuts, self.prepare, self.arguments))


def tap(
    model: nn.Module,
    variables: Variables,
    x: Any,
    *,
    cuts: Iterable[str] | None = None,
    **arguments: Hashable,
) -> TappedNetwork:
    """Find the cut points of ``model`` by tracing it once (shapes only, nothing is computed).

    Args:
      model: any Flax Linen module whose ``__call__`` returns the logits ``(N, K)`` as one array.
      variables: its variables, or their ``ShapeDtypeStruct`` twins.
      x: an example input, or its ``ShapeDtypeStruct`` twin.
      cuts: names or globs (``"block_*/conv"``) of module paths, joined by ``/``; default: the model's
        :class:`Tap` marks if it has any, else its direct children. ``"logits"`` is always the last cut. A module
        called more than once is ``name``, ``name:2``, ``name:3``, …
      **arguments: passed to ``model.__call__``, for example ``train=False``.

    Returns:
      The tapped network, its cuts in the order in which they are computed.

    Raises:
      UserError: a name or glob that matches no activation (the nearest is suggested); an activation that is not one
        array with a leading batch axis; a cut inside ``nn.scan`` or ``nn.remat``; logits that are not one array.

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
    return find_cuts(model, variables, x, None if cuts is None else tuple(cuts), arguments)


def find_cuts(
    model: Any, variables: Any, x: Any, patterns: tuple[str, ...] | None, arguments: Mapping[str, Hashable]
) -> TappedNetwork:
    """What :func:`tap` does, of whatever :func:`_visit` can visit."""
    shapes: dict[str, Any] = {}
    kinds: dict[str, Kind] = {}
    inside: dict[str, bool] = {}

    def record(name: str, value: Any, kind: Kind) -> Any:
        shapes[name] = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), value)
        kinds[name] = kind
        return value

    jax.eval_shape(lambda v, x: inside.update(_visit(model, v, x, arguments, record)), variables, x)
    if not _is_batched_array(shapes.get(LOGITS)):
        raise UserError("the model's __call__ must return the logits as one array (N, K); wrap it if it returns more")
    return TappedNetwork(model, _select(shapes, kinds, inside, patterns), None, tuple(sorted(arguments.items())))


def tap_shapes(network: TappedNetwork, variables: Variables, x: Any) -> dict[str, tuple[int, ...]]:
    """Shape of one image's activation at every cut (without the batch axis), in order; nothing is computed."""
    _, taps = jax.eval_shape(network, variables, x)
    return {name: taps[name].shape[1:] for name in network.cuts}


def valid_cuts(network: TappedNetwork, variables: Variables, x: Any) -> dict[str, bool]:
    """For every cut: does everything the logits know of the input pass through it?

    With z put in place at the cut, the logits must no longer depend on x: the traced program is pruned of dead code
    and the input must be dead. A tap inside a residual branch is found invalid by itself, because the skip
    connection carries x past it.

    Args:
      network: the tapped network.
      variables: its variables (or shapes).
      x: an example input (or its shape).

    Returns:
      cut name -> True if valid, in the order of the cuts.
    """
    _, taps = jax.eval_shape(network, variables, x)

    def bypassed(cut: str) -> bool:
        def cloud(x, variables, z):
            return network(variables, x, replace={cut: z})[0]

        closed = jax.make_jaxpr(cloud)(x, variables, taps[cut])
        inputs = len(jax.tree.leaves(x))
        _, used = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
        return any(used[:inputs])

    return {cut: not bypassed(cut) for cut in network.cuts}


def split_at(
    network: TappedNetwork, variables: Variables, x: Any, cut: str
) -> tuple[Callable[[Variables, Any], Array], Callable[[Variables, Array], Array]]:
    """The edge and the cloud half at ``cut``, each jitted so that it holds only its own part of the network.

    Args:
      network: the tapped network.
      variables: its variables (or shapes), to check the cut.
      x: an example input (or its shape).
      cut: where to cut.

    Returns:
      ``edge(variables, x) -> z`` and ``cloud(variables, z) -> logits``.

    Raises:
      UserError: unknown cut; or a cut that information bypasses (its z is not all that the cloud needs).
    """
    network.check(cut)
    if not valid_cuts(network, variables, x)[cut]:
        raise UserError(
            f"cut {cut!r} is bypassed: the logits depend on the input by another way (a skip connection?); "
            "cut where the branches have joined"
        )
    shape, dtype = x.shape[1:], x.dtype

    def edge(variables: Variables, x: Any) -> Array:
        return network(variables, x)[1][cut]

    def cloud(variables: Variables, z: Array) -> Array:
        blank = jnp.zeros((z.shape[0], *shape), dtype)  # dead code: nothing of it reaches the logits at a valid cut
        return network(variables, blank, replace={cut: z})[0]

    return jax.jit(edge), jax.jit(cloud)


def _visit(model, variables, x, arguments, at_cut: AtCut) -> dict[str, bool]:
    """Apply the model and pass every module's output, under its name, through ``at_cut``.

    Returns the names of modules inside ``nn.scan``, ``nn.remat`` and the like, and whether they are marks: their
    outputs belong to an inner trace, where "the activation" is not one array, so they are not passed on.
    """
    if not isinstance(model, nn.Module):
        return model.visit(variables, x, arguments, at_cut)  # an NNX model: taps_nnx.Graph
    calls = Counter([LOGITS])  # the model's own output has that name; a layer called "logits" is "logits:2"
    inside: dict[str, bool] = {}
    home = get_opaque_trace_state(convention="flax")

    def intercept(call, args, kwargs, context):
        value = call(*args, **kwargs)
        if context.method_name != "__call__":
            return value
        module = context.module
        path = module.path
        if not path:
            return at_cut(LOGITS, value, "child")
        is_mark = isinstance(module, Tap)
        name = path[-1] if is_mark else "/".join(path)
        if get_opaque_trace_state(convention="flax") != home:
            inside[name] = is_mark
            return value
        kind: Kind = "mark" if is_mark else "child" if len(path) == 1 else "deeper"
        return at_cut(numbered(name, calls), value, kind)

    with nn.intercept_methods(intercept):
        model.apply(variables, x, **arguments)
    return inside


def numbered(name: str, calls: Counter[str]) -> str:
    """Count a call of ``name``: the first keeps the name, the second is ``name:2``, and so on."""
    calls[name] += 1
    return name if calls[name] == 1 else f"{name}:{calls[name]}"


def _is_batched_array(value: Any) -> bool:
    return isinstance(value, jax.ShapeDtypeStruct) and len(value.shape) >= 2


def _select(
    shapes: dict, kinds: dict[str, Kind], inside: dict[str, bool], patterns: tuple[str, ...] | None
) -> tuple[str, ...]:
    """The names to tap, in the order of computation, ``"logits"`` last."""
    arrays = {name for name, shape in shapes.items() if _is_batched_array(shape)}
    if patterns is None:
        for name in (name for name, is_mark in inside.items() if is_mark):
            raise UserError(
                f"mark {name!r} lies inside nn.scan, nn.remat or another inner trace, where no single activation "
                "exists; name the cuts that you want, outside of it"
            )
        marks = {name for name, kind in kinds.items() if kind == "mark"}
        chosen = marks or {name for name in arrays if kinds[name] == "child"}
    else:
        chosen = set[str]()
        for pattern in patterns:
            matches = set(fnmatch.filter(shapes, pattern))
            if not matches and fnmatch.filter(inside, pattern):
                raise UserError(
                    f"cut {pattern!r} lies inside nn.scan, nn.remat or another inner trace, where no single "
                    f"activation exists; name a cut outside of it{did_you_mean(pattern, arrays)}"
                )
            if not matches:
                raise UserError(f"unknown cut {pattern!r}{did_you_mean(pattern, shapes)}")
            if not matches & arrays:
                raise UserError(f"cut {pattern!r} is not one array with a batch axis and cannot be sent as z")
            chosen |= matches & arrays
    return (*(name for name in shapes if name in chosen and name != LOGITS), LOGITS)
