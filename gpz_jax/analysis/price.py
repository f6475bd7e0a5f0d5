"""The price of a cut: parameters, FLOPs, payload and memory of the edge and the cloud half."""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun, jaxprs_in_params

from gpz_jax.analysis.program import Section, Traced, alone, called, reads_images, section, trace
from gpz_jax.taps import LOGITS, TappedNetwork, Variables

#: Bytes of one value as it is sent.
BYTES = {"float32": 4, "bfloat16": 2, "uint8": 1}


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
      >>> import flax.linen as nn, jax.numpy as jnp
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
    return price_traced(trace(network, variables, x))


def price_traced(traced: Traced) -> tuple[Price, ...]:
    """:func:`price_cuts` of a network that is traced already."""
    flops = _flop_counter()

    def parameters(part: Section) -> int:
        return sum(itertools.compress(traced.parameters, part.used))

    def priced(cut: str) -> Price:
        edge, cloud = section(traced, None, cut), section(traced, cut, LOGITS)
        batch, *shape = traced.shapes[cut].shape
        return Price(
            cut,
            not reads_images(traced, cloud),
            tuple(shape),
            batch,
            parameters(edge),
            parameters(cloud),
            sum(map(flops, edge.jaxpr.eqns)),
            sum(map(flops, cloud.jaxpr.eqns)),
            peak_memory(edge.jaxpr, traced.images),
        )

    return tuple(map(priced, traced.cuts))


def _flop_counter() -> Callable[[JaxprEqn], int]:
    """FLOPs of an operation, by XLA's cost analysis; those of one kind and shape are lowered once."""
    by_text: dict[str, int] = {}
    by_results: dict[tuple[Var, ...], int] = {}  # an operation comes back in the halves of other cuts

    def lowered(operation: JaxprEqn) -> int:
        single = alone(operation)
        text = str(single)
        if text not in by_text:
            examples = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in single.invars]  # pyright: ignore
            found = jax.jit(jaxpr_as_fun(ClosedJaxpr(single, []))).lower(*examples).cost_analysis()
            by_text[text] = round((found or {}).get("flops", 0))
        return by_text[text]

    def count(operation: JaxprEqn) -> int:
        key = tuple(operation.outvars)
        if key not in by_results:
            inner = called(operation)
            if inner is not None:  # inside a loop: all others are inlined
                by_results[key] = sum(map(count, inner.jaxpr.eqns))
            elif operation.primitive.name == "scan":  # XLA would count the body once
                body = sum(map(count, operation.params["jaxpr"].jaxpr.eqns))
                by_results[key] = operation.params["length"] * body
            else:
                by_results[key] = lowered(operation)
        return by_results[key]

    return count


def peak_memory(jaxpr: Jaxpr, inputs: Iterable[Var] = ()) -> int:
    """Peak bytes that are live while the operations run in order, each writing its output beside its inputs.

    Args:
      jaxpr: the operations, pruned of dead code.
      inputs: those of its inputs that count; the others (parameters) are held elsewhere.

    Example:
      >>> import jax.numpy as jnp
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
