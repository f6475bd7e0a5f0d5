"""The price of a cut: parameters, FLOPs, payload, memory and latency of the edge and the cloud half.

The network is traced once, with an offset added at every cut so that each cut's z is a variable of its own, and laid
out as one flat list of operations (a jaxpr). The part of it between two cuts is what is left when the one's z becomes
an input, the other's the only output, and dead code is removed: milliseconds a cut, where tracing a deep network anew
for every half would take minutes.
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

from gpz_jax.errors import UserError
from gpz_jax.taps import LOGITS, TappedNetwork, Variables

#: Bytes of one value as it is sent.
BYTES = {"float32": 4, "bfloat16": 2, "uint8": 1}

#: Operations that only hold others: nn.relu is a custom_jvp_call of a jit of max.
_CALLS = {
    "jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint"
}  # fmt: skip


class Price(NamedTuple):
    """What one cut costs. FLOPs and bytes are those of the batch that was traced; ``shape`` is one image's.

    Attributes:
      cut: its name.
      valid: False if information bypasses the cut; its halves then overlap, and edge + cloud exceeds the total.
      shape: of one image's z.
      batch: images in the batch.
      edge_parameters: numbers in the parameters that the edge half reads; batch statistics are not among them.
      cloud_parameters: those that the cloud half reads. A weight that both halves use counts in both.
      edge_flops: of the edge half; see :func:`price_cuts` for what counts.
      cloud_flops: of the cloud half.
      edge_memory: peak bytes of the edge half's activations, input and z included, parameters not.
    """

    cut: str
    valid: bool
    shape: tuple[int, ...]
    batch: int
    edge_parameters: int
    cloud_parameters: int
    edge_flops: int
    cloud_flops: int
    edge_memory: int

    @property
    def values(self) -> int:
        """Numbers in one image's z."""
        return math.prod(self.shape)

    def payload(self, dtype: str) -> int:
        """Bytes to send for the batch, as "float32", "bfloat16" or "uint8"; of the values alone, no header, no scale.

        >>> Price("fc", True, (4, 5), 2, 0, 0, 0, 0, 0).payload("bfloat16")
        80
        """
        return self.batch * self.values * BYTES[dtype]


class Latency(NamedTuple):
    """Median seconds of the two halves of a cut, for the batch."""

    edge: float
    cloud: float


def price_cuts(network: TappedNetwork, variables: Variables, x: Any) -> tuple[Price, ...]:
    """Parameters, FLOPs, payload and memory of both halves of every cut; nothing of the network is computed.

    What counts as a FLOP is what XLA's cost analysis counts in each operation as it was traced: 2 per multiply-add of
    a convolution or matrix product (products with the padding's zeros are left out), 1 per element of any other
    arithmetic, comparison or conversion, none for moving data. What XLA books as transcendental (exp, tanh, rsqrt, …)
    is not a FLOP. A scan counts its body as often as it runs, a while loop once. At a valid cut edge + cloud = total,
    save for operations on parameters alone that both halves need.

    When it compiles a half, XLA repeats cheap operations in fusions and drops others. On the small networks of the
    tests the compiled halves' own count lies within 5 % of this one; convolutions and matrix products, nearly all of a
    large network, count the same.

    ``edge_memory`` follows the order in which the network was traced: an operation's output is written while its
    inputs are still held, and a value is dropped after its last use. It bounds what a device needs for activations
    that runs one operation after the other. What XLA allocates is less where it fuses and more where its kernels want
    scratch space and copies in other layouts.

    Args:
      network: the tapped network.
      variables: its variables, or their ``ShapeDtypeStruct`` twins.
      x: an example input ``(N, …)``, or its twin; N is the batch that is priced.

    Returns:
      One :class:`Price` a cut, in the order of the cuts. The last, of the logits, has the totals as its edge.

    Example:
      >>> import flax.linen as nn
      >>> from gpz_jax.taps import tap
      >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
      >>> x = jax.ShapeDtypeStruct((1, 5), jnp.float32)
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)
      >>> first, *_ = price_cuts(tap(model, variables, x), variables, x)
      >>> first.cut, first.edge_parameters, first.cloud_parameters  # 5 x 4 + 4, 4 x 3 + 3
      ('layers_0', 24, 15)
      >>> first.edge_flops, first.cloud_flops  # 2 x 20 + 4; relu 4, then 2 x 12 + 3
      (44, 31)
      >>> first.edge_memory  # x W, the bias as a row, and their sum: 16 bytes each
      48
    """
    return price(trace(network, variables, x))


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
    kept = [operation for operation in jaxpr.eqns if offsets.isdisjoint(_read_by(operation))]
    marks = set(z.values())
    return Traced(
        cuts,
        jaxpr.replace(constvars=[], invars=[*jaxpr.constvars, *inputs], eqns=kept),
        tuple(flat.consts),
        (*(0 for _ in flat.consts), *parameters, *(0 for _ in inputs[len(parameters) :])),
        frozenset(inputs[len(parameters) :]),
        shapes,
        z,
        {cut: next(v for v in _read_by(made_by[z[cut]]) if v not in offsets) for cut in cuts},
        tuple(i for i, operation in enumerate(kept) if not marks.isdisjoint(_read_by(operation))),
    )


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
        inner = _called(operation)
        if inner is not None:
            results = _run(inner.jaxpr, inner.consts, [read(atom) for atom in operation.invars])
        else:
            alone = _alone(operation)
            results = jaxpr_as_fun(ClosedJaxpr(alone, []))(*(values[v] for v in alone.invars))
        values.update(zip(operation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _read_by(operation: JaxprEqn) -> list[Var]:
    return [atom for atom in operation.invars if isinstance(atom, Var)]  # the others are literals


def _alone(operation: JaxprEqn) -> Jaxpr:
    """The jaxpr of one operation."""
    inputs = list(dict.fromkeys(_read_by(operation)))
    return Jaxpr([], inputs, operation.outvars, [operation], operation.effects)


def _called(operation: JaxprEqn) -> ClosedJaxpr | None:
    """What a call calls; None for an operation that is no plain call."""
    if operation.primitive.name not in _CALLS:
        return None
    inner = operation.params["call_jaxpr" if "call_jaxpr" in operation.params else "jaxpr"]
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, [])


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


def price(traced: Traced) -> tuple[Price, ...]:
    """:func:`price_cuts` of a network that is traced already."""
    flops = _flop_counter()

    def parameters(part: Section) -> int:
        return sum(itertools.compress(traced.parameters, part.used))

    def priced(cut: str) -> Price:
        edge, cloud = section(traced, None, cut), section(traced, cut, LOGITS)
        batch, *shape = traced.shapes[cut].shape
        return Price(
            cut,
            not _reads_images(traced, cloud),
            tuple(shape),
            batch,
            parameters(edge),
            parameters(cloud),
            sum(map(flops, edge.jaxpr.eqns)),
            sum(map(flops, cloud.jaxpr.eqns)),
            peak_memory(edge.jaxpr, traced.images),
        )

    return tuple(map(priced, traced.cuts))


def _reads_images(traced: Traced, part: Section) -> bool:
    return not traced.images.isdisjoint(itertools.compress(traced.jaxpr.invars, part.used))


# FLOPs ---------------------------------------------------------------------------------------------------------------


def _flop_counter() -> Callable[[JaxprEqn], int]:
    """FLOPs of an operation, by XLA's cost analysis; those of one kind and shape are lowered once."""
    by_text: dict[str, int] = {}
    by_results: dict[tuple[Var, ...], int] = {}  # an operation comes back in the halves of other cuts

    def lowered(operation: JaxprEqn) -> int:
        alone = _alone(operation)
        text = str(alone)
        if text not in by_text:
            examples = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in alone.invars]  # pyright: ignore
            found = jax.jit(jaxpr_as_fun(ClosedJaxpr(alone, []))).lower(*examples).cost_analysis()
            by_text[text] = round((found or {}).get("flops", 0))
        return by_text[text]

    def count(operation: JaxprEqn) -> int:
        key = tuple(operation.outvars)
        if key not in by_results:
            inner = _called(operation)
            if inner is not None:  # inside a loop: all others are inlined
                by_results[key] = sum(map(count, inner.jaxpr.eqns))
            elif operation.primitive.name == "scan":  # XLA would count the body once
                body = sum(map(count, operation.params["jaxpr"].jaxpr.eqns))
                by_results[key] = operation.params["length"] * body
            else:
                by_results[key] = lowered(operation)
        return by_results[key]

    return count


# Memory --------------------------------------------------------------------------------------------------------------


def peak_memory(jaxpr: Jaxpr, inputs: Iterable[Var] = ()) -> int:
    """Peak bytes that are live while the operations run in order, each writing its output beside its inputs.

    Args:
      jaxpr: the operations, pruned of dead code.
      inputs: those of its inputs that count; the others (parameters) are held elsewhere.

    Example:
      >>> double_sum = jax.make_jaxpr(lambda x: jnp.sum(x + x))(jnp.ones(3, jnp.float32)).jaxpr
      >>> peak_memory(double_sum, double_sum.invars)  # x and x + x; x is gone when the sum is written
      24
    """
    reads = [[atom for atom in operation.invars if isinstance(atom, Var)] for operation in jaxpr.eqns]
    last = {variable: i for i, variables in enumerate(reads) for variable in variables}
    last |= {atom: len(reads) for atom in jaxpr.outvars if isinstance(atom, Var)}
    size = {v: _bytes(v) for v in inputs if v in last}
    live = peak = sum(size.values())
    for i, operation in enumerate(jaxpr.eqns):
        size |= {v: _bytes(v) for v in operation.outvars}
        live += sum(size[v] for v in operation.outvars)
        inside = [peak_memory(inner) for inner in jaxprs_in_params(operation.params)]  # of a loop's body
        peak = max(peak, live + max(inside, default=0))
        live -= sum(size.pop(v) for v in {*reads[i], *operation.outvars} if v in size and last.get(v, i) <= i)
    return peak


def _bytes(variable: Var) -> int:
    aval: Any = variable.aval
    return math.prod(aval.shape) * aval.dtype.itemsize


# Latency -------------------------------------------------------------------------------------------------------------


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
      traced: what :func:`trace` made.
      variables: the network's variables.
      x: the input batch, of the shape that was traced.
      repeats: timed runs.
      on_piece: called after each piece is compiled, and after each run of the chain.

    Returns:
      cut -> :class:`Latency` in seconds, of the valid cuts in their order.

    Raises:
      UserError: fewer than one repeat.
    """
    valid = [cut for cut in traced.cuts if not _reads_images(traced, section(traced, cut, LOGITS))]
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
    if _reads_images(traced, halves[1]):
        raise UserError(f"cut {cut!r} is bypassed, so no cloud half runs from its z alone: time a valid cut")
    medians = []
    for jaxpr, result in ((halves[0], traced.z[cut]), (halves[1].jaxpr, None)):
        run = jax.jit(jaxpr_as_fun(ClosedJaxpr(jaxpr, [])))
        _, values[result] = _timed(jaxpr, run, values)
        medians.append(statistics.median(_timed(jaxpr, run, values)[0] for _ in range(_at_least_one(repeats))))
    return Latency(*medians)


def _at_least_one(repeats: int) -> int:
    if repeats < 1:
        raise UserError(f"--repeats must be at least 1, got {repeats}")
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
