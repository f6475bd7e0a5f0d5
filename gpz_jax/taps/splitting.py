"""The edge and the cloud half of a network."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

from gpz_jax.errors import UserError
from gpz_jax.taps.batch_axis import batch_size, shapes
from gpz_jax.taps.input_leaves import leaf_names, public_leaves, values_by_name
from gpz_jax.taps.tapped_network import TappedNetwork, Variables
from gpz_jax.taps.validity import bypassing, flow


def split_at(
    network: TappedNetwork, variables: Variables, x: Any, cut: str, *, public: str | Iterable[str] = ()
) -> tuple[Callable[[Variables, Any], Array], Callable[..., Array]]:
    """The edge and the cloud half at ``cut``, each jitted so that it holds only its own part of the network.

    Args:
      network: the tapped network.
      variables: its variables (or shapes), to check the cut.
      x: an example input (or its shape), or a pytree of arrays.
      cut: where to cut.
      public: names of those arrays of the input that the cloud may know (see ``valid_cuts``).

    Returns:
      ``edge(variables, x) -> z`` and ``cloud(variables, z) -> logits``; with public arrays ``cloud(variables, z,
      {"mask": mask}) -> logits``, where an input that holds them will do as well. A print or a callback belongs to the
      half whose values it looks at.

    Raises:
      UserError: unknown cut; or a cut that information bypasses (its z is not all that the cloud needs).

    Example:
      >>> import flax.linen as nn
      >>> from gpz_jax.taps import tap
      >>> class Masked(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         h = nn.Embed(16, 4, name="embed")(x["ids"])
      ...         return nn.Dense(3, name="head")((h * x["mask"][..., None]).sum(1))
      >>> x = {"ids": jnp.ones((2, 5), jnp.int32), "mask": jnp.ones((2, 5))}
      >>> variables = Masked().init(jax.random.key(0), x)
      >>> network = tap(Masked(), variables, x)
      >>> edge, cloud = split_at(network, variables, x, "embed", public="mask")
      >>> cloud(variables, edge(variables, x), {"mask": x["mask"]}).shape
      (2, 3)
    """
    network.check(cut)
    graph = flow(network, variables, x, public)
    past = bypassing(graph, cut)
    if past:
        raise UserError(_bypassed(cut, past, len(leaf_names(x)) > 1))
    example, known = shapes(x), public_leaves(x, public)
    names = [name for name, is_public in zip(leaf_names(x), known, strict=True) if is_public]
    size = batch_size(x)

    def blank(z: Array) -> list[Array]:
        """Zeros for the private arrays: nothing of them reaches the logits at a valid cut."""
        hidden = [leaf for leaf, is_public in zip(jax.tree.leaves(example), known, strict=True) if not is_public]
        return [
            jnp.zeros((z.shape[0], *leaf.shape[1:]) if leaf.shape[:1] == (size,) else leaf.shape, leaf.dtype)
            for leaf in hidden
        ]

    def from_z(variables: Variables, z: Array, seen: list[Array], unseen: list[Array]) -> Array:
        rest, given = iter(unseen), iter(seen)
        leaves = [next(given) if is_public else next(rest) for is_public in known]
        x = jax.tree.unflatten(jax.tree.structure(example), leaves)
        return network(variables, x, replace={cut: z})[0]

    def to_z(variables: Variables, x: Any, after: Array) -> Array:
        computed = []

        def at_cut(name: str, value: Any) -> Any:
            if name != cut:
                return value
            computed.append(value)
            return after

        network.run(variables, x, at_cut)
        return computed[0]

    def edge(variables: Variables, x: Any) -> Array:
        if not graph.looks:
            return network(variables, x)[1][cut]
        z = jax.eval_shape(network, variables, x)[1][cut]
        return _without_looks(to_z, variables, x, jnp.zeros(z.shape, z.dtype))

    def cloud(variables: Variables, z: Array, public_inputs: Any = None) -> Array:
        seen = values_by_name(public_inputs, names) if names else []
        half = partial(_without_looks, from_z) if graph.looks else from_z
        return half(variables, z, seen, blank(z))

    return jax.jit(edge), jax.jit(cloud)


def _bypassed(cut: str, past: tuple[str, ...], several: bool) -> str:
    which = f" {' and '.join(map(repr, past))}" if several else ""
    by_name = f", or name it in public=({past[0]!r},) if the cloud may know it" if several else ""
    return (
        f"cut {cut!r} is bypassed: the logits depend on the input{which} by another way (a skip connection?); "
        f"cut where the branches have joined{by_name}"
    )


def _without_looks(half: Callable[..., Array], *arguments: Any) -> Array:
    """``half(*arguments)`` without the prints and callbacks that look at what comes of the last argument.

    The last argument stands for the other half's values, and is dead code but for what looks at it.
    """
    closed = jax.make_jaxpr(half)(*arguments)
    leaves = jax.tree.leaves(arguments)
    strange: set[Any] = set(closed.jaxpr.invars[len(leaves) - len(jax.tree.leaves(arguments[-1])) :])
    operations: list[JaxprEqn] = []
    for operation in closed.jaxpr.eqns:
        if any(isinstance(atom, Var) and atom in strange for atom in operation.invars):
            strange.update(operation.outvars)
            operation = operation.replace(effects=frozenset())
        operations.append(operation)
    pruned, used = dce_jaxpr(closed.jaxpr.replace(eqns=operations), [True])
    kept = [leaf for leaf, is_used in zip(leaves, used, strict=True) if is_used]
    return jaxpr_as_fun(ClosedJaxpr(pruned, closed.consts))(*kept)[0]
