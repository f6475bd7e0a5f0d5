"""A network as one flat list of operations, and the part of it that lies between two cuts.

The network is traced once, with an offset added at every cut so that each cut's z is a variable of its own, and laid
out as one flat list of operations (a jaxpr). The part of it between two cuts is what is left when the one's z becomes
an input, the other's the only output, and dead code is removed: milliseconds a cut, where tracing a deep network anew
for every half would take minutes.
"""

import itertools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

from gpz_jax.taps import TappedNetwork, Variables

#: Operations that only hold others: nn.relu is a custom_jvp_call of a jit of max.
_CALLS = {
    "jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint"
}  # fmt: skip


class Traced(NamedTuple):
    """A network as one flat list of operations.

    Attributes:
      cuts: their names, in order.
      jaxpr: the operations; its inputs are constants, the leaves of the variables, the leaves of x.
      constants: values of the first of these.
      parameters: for each input, how many parameters it holds (0 for all that is none).
      images: the inputs that are leaves of x.
      shapes: cut -> shape and dtype of z, batch included.
      z: cut -> the variable that everything after the cut reads.
      value: cut -> the variable that the edge half computes to be z.
      readers: positions of the operations that read z of some cut.
    """

    cuts: tuple[str, ...]
    jaxpr: Jaxpr
    constants: tuple[Any, ...]
    parameters: tuple[int, ...]
    images: frozenset[Var]
    shapes: dict[str, jax.ShapeDtypeStruct]
    z: dict[str, Var]
    value: dict[str, Var]
    readers: tuple[int, ...]


def trace(network: TappedNetwork, variables: Variables, x: Any) -> Traced:
    """Lay out a network as one flat list of operations; see :class:`Traced`.

    Args:
      network: the tapped network.
      variables: its variables (or shapes).
      x: an example input (or its shape).
    """
    variables, x = _shapes(variables), _shapes(x)
    _, shapes = jax.eval_shape(network, variables, x)

    def marked(variables, x, offset):
        # A Tap is an identity and leaves no trace, and what bypasses it may read the very same variable. With
        # something added there, what is read after the cut is another variable than what was computed before it.
        _, taps = network(variables, x, offset=offset)
        return [taps[cut] for cut in network.cuts]

    closed = jax.make_jaxpr(marked)(variables, x, shapes)
    flat = jax.make_jaxpr(lambda *inputs: _run(closed.jaxpr, closed.consts, inputs))(*closed.in_avals)
    jaxpr, cuts = flat.jaxpr, network.cuts
    inputs, offsets = jaxpr.invars[: -len(cuts)], set(jaxpr.invars[-len(cuts) :])
    parameters = _parameters(variables)
    made_by = {out: operation for operation in jaxpr.eqns for out in operation.outvars}
    z = dict(zip(cuts, jaxpr.outvars, strict=True))
    # Without effects: a print or a callback that gives nothing is dead code then, no part of a half.
    kept = [
        operation.replace(effects=frozenset()) for operation in jaxpr.eqns if offsets.isdisjoint(read_by(operation))
    ]
    marks = set(z.values())
    return Traced(
        cuts,
        jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *inputs], eqns=kept),
        tuple(flat.consts),
        (*(0 for _ in flat.consts), *parameters, *(0 for _ in inputs[len(parameters) :])),
        frozenset(inputs[len(parameters) :]),
        shapes,
        z,
        {cut: next(v for v in read_by(made_by[z[cut]]) if v not in offsets) for cut in cuts},
        tuple(i for i, operation in enumerate(kept) if not marks.isdisjoint(read_by(operation))),
    )


class Section(NamedTuple):
    """The operations between two cuts: ``jaxpr``, pruned, and for each input of the whole whether it is read here."""

    jaxpr: Jaxpr
    used: tuple[bool, ...]


def section(traced: Traced, start: str | None, end: str) -> Section:
    """What leads from z at ``start`` (None: from the input) to z at ``end``; ``section(None, cut)`` is the edge half.

    The jaxpr's inputs are those of the whole that it reads, in their order, then z at ``start`` if it reads that.
    """
    first = [] if start is None else [traced.z[start]]
    passed = {traced.z[cut]: traced.value[cut] for cut in traced.cuts if cut != start}

    def before(atom: Any) -> Any:
        while isinstance(atom, Var) and atom in passed:
            atom = passed[atom]
        return atom

    operations = list(traced.jaxpr.eqns)
    for i in traced.readers:
        operations[i] = operations[i].replace(invars=[before(atom) for atom in operations[i].invars])
    whole = traced.jaxpr.replace(
        invars=[*traced.jaxpr.invars, *first], outvars=[before(traced.z[end])], eqns=operations
    )
    pruned, used = dce_jaxpr(whole, [True])
    return Section(pruned, tuple(used[: len(traced.jaxpr.invars)]))


def reads_images(traced: Traced, part: Section) -> bool:
    """Whether a section reads the input itself: one that begins at a cut must not."""
    return not traced.images.isdisjoint(itertools.compress(traced.jaxpr.invars, part.used))


def read_by(operation: JaxprEqn) -> list[Var]:
    """The variables that an operation reads."""
    return [atom for atom in operation.invars if isinstance(atom, Var)]  # the others are literals


def alone(operation: JaxprEqn) -> Jaxpr:
    """The jaxpr of one operation."""
    inputs = list(dict.fromkeys(read_by(operation)))
    return Jaxpr([], inputs, operation.outvars, [operation], operation.effects)


def called(operation: JaxprEqn) -> ClosedJaxpr | None:
    """What a call calls; None for an operation that is no plain call."""
    if operation.primitive.name not in _CALLS:
        return None
    inner = operation.params["call_jaxpr" if "call_jaxpr" in operation.params else "jaxpr"]
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, [])


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), tree)


def _parameters(variables: Any) -> list[int]:
    """How many parameters each leaf of the variables holds: batch statistics and the like are none.

    Linen keeps parameters under "params"; NNX wraps them in nnx.Param, which is known here by its name, because
    importing NNX takes a tenth of a second.
    """

    def wrapped(node: Any) -> bool:
        return any(base.__name__ == "Param" for base in type(node).__mro__)

    sizes = []
    for path, node in jax.tree_util.tree_leaves_with_path(variables, is_leaf=wrapped):
        counts = wrapped(node) or getattr(path[0], "key", None) == "params"
        sizes += [math.prod(leaf.shape) if counts else 0 for leaf in jax.tree.leaves(node)]
    return sizes


def _run(jaxpr: Jaxpr, constants: Iterable[Any], inputs: Iterable[Any]) -> list[Any]:
    """Evaluate a jaxpr, calls inlined: traced, it leaves one flat list of operations."""
    values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))

    def read(atom: Any) -> Any:
        return values[atom] if isinstance(atom, Var) else atom.val

    for operation in jaxpr.eqns:
        inner = called(operation)
        if inner is not None:
            results = _run(inner.jaxpr, inner.consts, [read(atom) for atom in operation.invars])
        else:
            single = alone(operation)
            results = jaxpr_as_fun(ClosedJaxpr(single, []))(*(values[v] for v in single.invars))
        values.update(zip(operation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
