"""Taps for Flax NNX models: read, nudge and replace as in ``taps.py``, with the same names and the same refusals.

NNX has nothing like Linen's ``nn.intercept_methods``. But ``nnx.merge(graphdef, state)`` makes a new model, so every
call merges one of its own and gives each module in it a subclass of its class whose ``__call__`` passes the output
on. The model that the user holds, its class and its arrays are never touched. What each module of the copy does at
its cut is one of its static attributes, so that ``nnx.scan``, ``nnx.remat`` or ``nnx.jit`` within the model carry it
along, and a module called inside them is known by name and refused. All that is in ``taps/nnx_visit.py``.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gpz_jax.errors import UserError
from gpz_jax.taps.finding import find_cuts
from gpz_jax.taps.listener import Listener
from gpz_jax.taps.nnx_visit import listen_to_nnx, passed_over
from gpz_jax.taps.outputs import AtCall, Kind
from gpz_jax.taps.tapped_network import TappedNetwork


def tap_nnx(
    model: Any,
    x: Any,
    *,
    cuts: str | Iterable[str] | None = None,
    output: Callable[[Any], Any] | None = None,
    **arguments: Any,
) -> tuple[TappedNetwork, Any]:
    """Find the cut points of a Flax NNX model by tracing it once (shapes only, nothing is computed).

    The network runs in evaluation mode whatever mode the model is in, as ``model.eval()`` would have it: dropout
    passes everything and batch norms use their running statistics. The model itself stays as it is. (Call the network
    inside ``jax.jit``, as all of this package does: a model with an ``nnx.jit`` of its own is else compiled at every
    call.)

    Args:
      model: any ``nnx.Module`` whose ``__call__`` returns the logits ``(N, K)`` as one array; or its abstract twin from
        ``nnx.eval_shape``.
      x: an example input, or its ``ShapeDtypeStruct`` twin.
      cuts: names or globs (``"blocks/*/attention"``) as :func:`gpz_jax.tap` takes them; default: the model's direct
        children, those in its lists and dicts among them. A module that the model holds under two paths goes by the
        first of them in the order of ``nnx.iter_modules``, which is alphabetical.
      output: picks the logits from what the model returns, such as ``lambda out: out["logits"]``.
      **arguments: passed to ``model.__call__``.

    Returns:
      ``(network, variables)``: the tapped network, for everything that takes one from :func:`gpz_jax.tap`, and the
      model's state as it is now, an ``nnx.State``; ``nnx.state(model)`` gives it anew after more training. It holds
      whatever the model holds, keys and counters of its random streams as well, which cannot be differentiated: for
      gradients in the parameters take those out with ``nnx.split_state(variables, nnx.Param, ...)``.

    Raises:
      UserError: ``model`` is no ``nnx.Module``; a name or glob that matches no activation (the nearest is suggested);
        an activation that is not one array with a leading batch axis; a cut inside ``nnx.scan``, ``nnx.remat`` or
        another transformation; logits that are not one array.

    Example:
      >>> from flax import nnx
      >>> import gpz_jax, jax, jax.numpy as jnp
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(5, 4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4, 3, rngs=rngs))
      >>> x = jnp.ones((2, 5))
      >>> network, variables = gpz_jax.tap_nnx(model, x)
      >>> network.cuts
      ('layers/0', 'layers/1', 'layers/2', 'logits')
      >>> logits, taps = network(variables, x)
      >>> taps["layers/1"].shape
      (2, 4)
      >>> edge, cloud = gpz_jax.split_at(network, variables, x, "layers/1")
      >>> bool(jnp.allclose(cloud(variables, edge(variables, x)), logits))
      True

      The gradient of the summed logits in the parameters; each bias of the last layer counts once an image:

      >>> params, rest = nnx.split_state(variables, nnx.Param, ...)
      >>> total = lambda params: jnp.sum(network(nnx.merge_state(params, rest), x)[0])
      >>> jax.grad(total)(params)["layers"][2]["bias"][...].tolist()
      [2.0, 2.0, 2.0]
    """
    from flax import nnx

    if not isinstance(model, nnx.Module):
        raise UserError(f"tap_nnx takes a flax.nnx.Module, not {type(model).__name__}; for Flax Linen there is tap")
    copy = nnx.clone(model)
    copy.eval()
    graphdef, variables = nnx.split(copy)
    return find_cuts(Graph(graphdef), variables, x, cuts, output, arguments), variables


@dataclasses.dataclass(frozen=True)
class Graph:
    """What an NNX model is without its arrays; a :class:`TappedNetwork` holds it where it holds a Linen module.

    Attributes:
      graphdef: the ``nnx.GraphDef`` of the model in evaluation mode.
    """

    graphdef: Any

    @property
    def signature_of(self) -> type:
        """The model's class."""
        return self.graphdef.nodes[0].type

    def visit(
        self, variables: Any, x: Any, arguments: Mapping[str, Any], at_call: AtCall
    ) -> tuple[Any, dict[str, Kind]]:
        """Run the model and pass every module's output through ``at_call``, as ``visit_linen`` does for Linen."""
        from flax import nnx

        listener = Listener(at_call)
        model = nnx.merge(self.graphdef, variables, copy=True)  # or it would write to the caller's own nnx.Variables
        listen_to_nnx(model, listener)
        try:
            returned = model(x, **arguments)
            return returned, listener.inside | passed_over(model, listener)
        finally:
            listener.close()  # an nnx.jit within the model keeps the listener in its cache, but no activations with it
