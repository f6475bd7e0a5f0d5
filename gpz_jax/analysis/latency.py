"""The latency of both halves of a cut, measured on this machine: by pieces between cuts, and as two whole halves."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from gpz_jax.analysis.program import Traced, reads_images, section
from gpz_jax.errors import UserError
from gpz_jax.taps import LOGITS, Variables


class Latency(NamedTuple):
    """Median seconds of the two halves of a cut, for the batch."""

    edge: float
    cloud: float


def time_pieces(
    traced: Traced,
    variables: Variables,
    x: Any,
    *,
    repeats: int = 20,
    on_piece: Callable[[], None] = lambda: None,
) -> dict[str, Latency]:
    """Median latency of both halves of every valid cut, from the pieces between successive ones.

    Each piece is compiled by itself (pieces of one shape once), and the chain of them is run ``repeats`` times after
    a warm-up run, waiting for the device after each piece. A cut's edge latency is the sum of the medians of the
    pieces before it, its cloud latency of those after. So every piece pays for one dispatch, and nothing is fused
    across a cut: :func:`time_halves` says what that changes. Moving the images to the device is not counted.

    Args:
      traced: what ``program.trace`` made.
      variables: the network's variables.
      x: the input batch, of the shape that was traced.
      repeats: timed runs.
      on_piece: called after each piece is compiled, and after each run of the chain.

    Returns:
      cut -> :class:`Latency` in seconds, of the valid cuts in their order.

    Raises:
      UserError: fewer than one repeat.
    """
    valid = [cut for cut in traced.cuts if not reads_images(traced, section(traced, cut, LOGITS))]
    values = _values(traced, variables, x)
    compiled: dict[str, Callable[..., Any]] = {}
    chain: list[tuple[str, Jaxpr, Callable[..., Any]]] = []
    for before, cut in zip([None, *valid], valid, strict=False):
        jaxpr = section(traced, before, cut).jaxpr
        text = str(jaxpr)  # names its variables by their order: the same for all pieces of one shape
        if text not in compiled:
            compiled[text] = jax.jit(jaxpr_as_fun(ClosedJaxpr(jaxpr, [])))
        chain.append((cut, jaxpr, compiled[text]))
        values[traced.z[cut]] = _timed(jaxpr, compiled[text], values)[1]
        on_piece()

    seconds: dict[str, list[float]] = {cut: [] for cut in valid}
    for _ in range(_at_least_one(repeats)):
        for cut, jaxpr, run in chain:
            taken, values[traced.z[cut]] = _timed(jaxpr, run, values)
            seconds[cut].append(taken)
        on_piece()
    medians = [statistics.median(seconds[cut]) for cut in valid]
    return {cut: Latency(math.fsum(medians[: i + 1]), math.fsum(medians[i + 1 :])) for i, cut in enumerate(valid)}


def time_halves(traced: Traced, variables: Variables, x: Any, cut: str, *, repeats: int = 20) -> Latency:
    """Median latency of the two halves at a valid cut, each compiled as a whole; arguments as :func:`time_pieces`.

    Raises:
      UserError: a cut that information bypasses; fewer than one repeat.
    """
    values = _values(traced, variables, x)
    halves = section(traced, None, cut).jaxpr, section(traced, cut, LOGITS)
    if reads_images(traced, halves[1]):
        raise UserError(f"cut {cut!r} is bypassed, so no cloud half runs from its z alone: time a valid cut")
    medians = []
    for jaxpr, result in ((halves[0], traced.z[cut]), (halves[1].jaxpr, None)):
        run = jax.jit(jaxpr_as_fun(ClosedJaxpr(jaxpr, [])))
        _, values[result] = _timed(jaxpr, run, values)
        medians.append(statistics.median(_timed(jaxpr, run, values)[0] for _ in range(_at_least_one(repeats))))
    return Latency(*medians)


def _at_least_one(repeats: int) -> int:
    if repeats < 1:
        raise UserError(f"repeats must be at least 1, got {repeats}", field="repeats")
    return repeats


def _values(traced: Traced, variables: Variables, x: Any) -> dict[Any, Any]:
    """The inputs' values, on one device: variables of a run may be spread over several."""
    inputs = jax.device_put([*traced.constants, *jax.tree.leaves(variables), *jax.tree.leaves(x)], jax.devices()[0])
    return dict(zip(traced.jaxpr.invars, inputs, strict=True))


def _timed(jaxpr: Jaxpr, run: Callable[..., Any], values: Mapping[Any, Any]) -> tuple[float, Array]:
    """Seconds that a section takes, and its z."""
    (out,) = jaxpr.outvars
    if not jaxpr.eqns:  # two cuts at one value: nothing lies between
        return 0.0, values[out]
    arguments = [values[v] for v in jaxpr.invars]
    began = time.perf_counter()
    (z,) = jax.block_until_ready(run(*arguments))
    return time.perf_counter() - began, z
