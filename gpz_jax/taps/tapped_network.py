"""A network whose activations have names: one run of it, with activations read, nudged and replaced."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.taps.arguments import values_of
from gpz_jax.taps.linen_visit import visit_linen
from gpz_jax.taps.outputs import LOGITS, Kind, Place, map_arrays

Variables = Mapping[str, Any]

#: What happens to every array that a module returns: its place and itself -> what goes on in its stead.
AtArray = Callable[[Place, Any], Any]


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """An array that the default cuts do not hold.

    Attributes:
      name: of the module, or of the array among those that it returns.
      why: what it is.
      include: the name that makes it a cut, ``tap(…, cuts=[include])``; None if nothing can.
    """

    name: str
    why: str
    include: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.why}{f'; cuts=[{self.include!r}] includes it' if self.include else ''})"


@dataclasses.dataclass(frozen=True)
class TappedNetwork:
    """A network whose activations have names. Hashable, so that it can be a static argument of ``jax.jit``.

    Attributes:
      model: the Flax Linen module (from ``tap_nnx``: the graph of the NNX model).
      cuts: names of the cut points in the order of computation; the last is always ``"logits"``. The order lives
        here because a dict that passes through ``jit`` comes back with its keys sorted.
      prepare: what happens to the input before the model sees it (resizing, normalising); identity by default.
      arguments: further keyword arguments of the model's ``__call__``, such as ``(("train", False),)``; those without
        a hash (arrays, keys) in a box that has one.
      output: what picks the logits from all that the model returns; by default it returns them alone.
      left_out: what the default cuts do not hold, and why; no part of the network's identity.
    """

    model: Any
    cuts: tuple[str, ...]
    prepare: Callable[[Any], Any] | None = None
    arguments: tuple[tuple[str, Hashable], ...] = ()
    output: Callable[[Any], Any] | None = None
    left_out: tuple[LeftOut, ...] = dataclasses.field(default=(), compare=False, repr=False)

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
          x: the input, ``(N, …)``, or a pytree of such arrays.
          offset: cut name -> array added to that activation (NUDGE); its gradient is the gradient at that cut.
          replace: cut name -> array put in that activation's place (REPLACE), before any offset.

        Returns:
          ``(logits, taps)``: logits ``(N, K)``, and for every cut its activation (READ), after replacement and offset.

        Raises:
          UserError: if ``offset`` or ``replace`` names a cut that the network does not have; a cut that is not met
            with this input.
        """
        offset, replace = offset or {}, replace or {}
        for name in (*offset, *replace):
            self.check(name)

        def at_cut(name: str, value: Any) -> Any:
            value = replace.get(name, value)
            return value + offset[name] if name in offset else value

        return self.run(variables, x, at_cut)

    def run(self, variables: Variables, x: Any, at_cut: Callable[[str, Any], Any]) -> tuple[Array, dict[str, Array]]:
        """Run the network once, with the activation at every cut passed through ``at_cut(name, value)``."""
        found: dict[str, Array] = {}

        def at_array(place: Place, value: Any) -> Any:
            if place.name not in self.cuts:
                return value
            found[place.name] = at_cut(place.name, value)
            return found[place.name]

        x = x if self.prepare is None else self.prepare(x)
        visit(self.model, variables, x, values_of(self.arguments), self.output, at_array)
        for name in self.cuts:
            if name not in found:
                raise UserError(f"cut {name!r} is not met with this input: the model takes another way")
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
        return hash((type(self.model), self.cuts, self.prepare, self.arguments, self.output))


def visit(
    model: Any,
    variables: Any,
    x: Any,
    arguments: Mapping[str, Any],
    output: Callable[[Any], Any] | None,
    at_array: AtArray,
) -> dict[str, Kind]:
    """Run the model and pass every array that a module returns, and the logits at last, through ``at_array``.

    Returns the names of modules that are called inside ``nn.scan``, ``nn.remat`` and the like: their outputs belong to
    an inner trace, where "the activation" is not one array, so they are not passed on.
    """

    def at_call(call: str, value: Any, kind: Kind) -> Any:
        return map_arrays(lambda name, array: at_array(Place(name, call, kind), array), value, call)

    visit_model = visit_linen if isinstance(model, nn.Module) else type(model).visit  # an NNX model: taps_nnx.Graph
    returned, inside = visit_model(model, variables, x, arguments, at_call)
    at_call(LOGITS, returned if output is None else output(returned), "child")
    return inside


def tap_shapes(network: TappedNetwork, variables: Variables, x: Any) -> dict[str, tuple[int, ...]]:
    """Shape of one image's activation at every cut (without the batch axis), in order; nothing is computed."""
    _, taps = jax.eval_shape(network, variables, x)
    return {name: taps[name].shape[1:] for name in network.cuts}


def check_real(taps: Mapping[str, Any], *, complex_too: bool = False) -> None:
    """Refuse, by name, activations that are not real numbers of floating point.

    Args:
      taps: cut -> its activation, or the shape of it.
      complex_too: whether complex numbers will do.

    Raises:
      UserError: integers, booleans, or complex numbers where they will not do.
    """
    for cut, z in taps.items():
        if not jnp.issubdtype(z.dtype, jnp.inexact if complex_too else jnp.floating):
            raise UserError(f"cut {cut!r} holds {z.dtype} numbers; this needs real ones: leave it out of cuts=")
