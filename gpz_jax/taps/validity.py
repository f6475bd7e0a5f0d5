"""Does everything that the logits know of the input pass through a cut?"""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, Var

from gpz_jax.taps.batch_axis import shapes
from gpz_jax.taps.dataflow import dependence_of, positions
from gpz_jax.taps.input_leaves import leaf_names, public_leaves
from gpz_jax.taps.tapped_network import TappedNetwork, Variables


def valid_cuts(
    network: TappedNetwork, variables: Variables, x: Any, *, public: str | Iterable[str] = ()
) -> dict[str, bool]:
    """For every cut: does everything the logits know of the input pass through it?

    The network is traced once. A cut is valid if every way by which the traced program carries the input to the logits
    leads through z. A tap inside a residual branch is found invalid by itself, because the skip connection carries x
    past it. What only looks at a value (a print, a callback without a result, a check) is no way to the logits.

    Args:
      network: the tapped network.
      variables: its variables (or shapes).
      x: an example input (or its shape).
      public: names of those arrays of the input that the cloud may know, such as ``"mask"`` of ``{"ids": …, "mask":
        …}``; they may pass by a cut.

    Returns:
      cut name -> True if valid, in the order of the cuts.

    Raises:
      UserError: a public name that the input does not have.
    """
    graph = flow(network, variables, x, public)
    place = {variable: i for i, variable in enumerate(graph.needs)}
    ahead, behind = _from_input(graph), _to_output(graph, graph.cuts[network.cuts[-1]])
    live = ahead & behind
    # In order of computation every way crosses every place, at the variable there or by a step that passes over it.
    passing = [0] * (len(place) + 1)
    for variable in live:
        for source in graph.needs[variable]:
            if source in live:
                passing[place[source] + 1] += 1
                passing[place[variable]] -= 1
    for variable in graph.private:
        if variable in live:
            passing[0] += 1
            passing[place[variable]] -= 1
    passed = list(itertools.accumulate(passing))
    return {cut: passed[place[graph.cuts[cut]]] == 0 for cut in network.cuts}


def bypassing(graph: "Flow", cut: str) -> tuple[str, ...]:
    """Names of the input's arrays that reach the logits by another way than through ``cut``; none at a valid cut."""
    *_, logits = graph.cuts.values()
    reached = _to_output(graph, logits, without=graph.cuts[cut])
    return tuple(name for variable, name in graph.private.items() if variable in reached)


def read_cuts(network: TappedNetwork, variables: Variables, x: Any) -> set[str]:
    """The cuts from which the logits are computed."""
    graph = flow(network, variables, x, ())
    behind = _to_output(graph, graph.cuts[network.cuts[-1]])
    return {cut for cut, variable in graph.cuts.items() if variable in behind}


class Flow(NamedTuple):
    """A traced network as a graph of its variables.

    Attributes:
      needs: variable -> those that it is computed from, in the order of computation.
      private: arrays of the input that the cloud may not know -> their names.
      cuts: cut -> the variable that all that follows the cut reads.
      looks: whether something is printed, checked or called back on the way.
    """

    needs: dict[Var, list[Var]]
    private: dict[Var, str]
    cuts: dict[str, Var]
    looks: bool


def flow(network: TappedNetwork, variables: Variables, x: Any, public: str | Iterable[str]) -> Flow:
    """Trace the network and lay out what is computed from what; arguments as :func:`valid_cuts`."""
    variables, x = shapes(variables), shapes(x)

    def marked(variables: Variables, x: Any) -> list[Any]:
        # A Tap leaves no trace, and what bypasses it may read the very same variable. Behind a barrier, what is read
        # after the cut is another variable than what was computed before it.
        _, taps = network.run(variables, x, lambda _, value: jax.lax.optimization_barrier(value))
        return [taps[cut] for cut in network.cuts]

    jaxpr: Jaxpr = jax.make_jaxpr(marked)(variables, x).jaxpr
    images = jaxpr.invars[len(jaxpr.invars) - len(jax.tree.leaves(x)) :]
    hidden = [not known for known in public_leaves(x, public)]
    named = dict(zip(images, leaf_names(x), strict=True))
    needs: dict[Var, list[Var]] = {variable: [] for variable in (*jaxpr.constvars, *jaxpr.invars)}
    dependence = dependence_of({})
    for operation in jaxpr.eqns:
        for variable, which in zip(operation.outvars, dependence(operation), strict=True):
            needs[variable] = [atom for i in positions(which) if isinstance(atom := operation.invars[i], Var)]
    return Flow(
        needs,
        {variable: named[variable] for variable in itertools.compress(images, hidden)},
        dict(zip(network.cuts, jaxpr.outvars, strict=True)),  # pyright: ignore[reportArgumentType]
        bool(jaxpr.effects),
    )


def _from_input(graph: Flow) -> set[Var]:
    """All variables that the private input can change."""
    reached: set[Var] = set(graph.private)
    for variable, sources in graph.needs.items():
        if not reached.isdisjoint(sources):
            reached.add(variable)
    return reached


def _to_output(graph: Flow, output: Var, *, without: Var | None = None) -> set[Var]:
    """All variables that can change ``output``, those aside that do so only through ``without``."""
    reached = {output} - {without}
    for variable in reversed(graph.needs):
        if variable in reached:
            reached.update(source for source in graph.needs[variable] if source is not without)
    return reached
