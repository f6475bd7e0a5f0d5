"""What of a traced program depends on what.

Finer than counting operations: a scan or a loop may carry a value that it never uses, a custom derivative may take an
argument that it ignores, and a print looks at a value without giving one. Sets of inputs are written as integers, bit
i for input i.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

#: For each output of an operation, the set of its inputs that can change it.
Dependence = list[int]

#: Operations that run one program on just their inputs.
_CALLS = {
    "jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "remat",
    "remat2", "checkpoint", "shard_map", "custom_lin", "run_state",
}  # fmt: skip


def dependence_of(cache: dict[int, Dependence]) -> Callable[[JaxprEqn], Dependence]:
    """A function from an operation to its :data:`Dependence`; programs within operations are looked at once.

    >>> import jax, jax.numpy as jnp
    >>> double = jax.jit(lambda x, unused: 2 * x)
    >>> (call,) = jax.make_jaxpr(double)(1.0, 1.0).eqns
    >>> dependence_of({})(call)
    [1]
    """

    def of_program(program: Any) -> Dependence:
        jaxpr: Jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
        if id(jaxpr) not in cache:
            cache[id(jaxpr)] = _of_outputs(jaxpr, of_operation)
        return cache[id(jaxpr)]

    def of_operation(operation: JaxprEqn) -> Dependence:
        inputs, outputs = len(operation.invars), len(operation.outvars)
        name, params = operation.primitive.name, operation.params
        if name == "cond":
            branches = [of_program(branch) for branch in params["branches"]]
            return [1 | _union(branch[i] << 1 for branch in branches) for i in range(outputs)]
        if name == "scan":
            return _scan(of_program(params["jaxpr"]), params["num_consts"], params["num_carry"])
        if name == "while":
            return _while(
                of_program(params["cond_jaxpr"])[0],
                of_program(params["body_jaxpr"]),
                params["cond_nconsts"],
                params["body_nconsts"],
            )
        program = _called(operation)
        everything = (1 << inputs) - 1
        return [everything] * outputs if program is None else of_program(program)

    return of_operation


def _called(operation: JaxprEqn) -> Any:
    if operation.primitive.name not in _CALLS:
        return None
    program = operation.params.get("call_jaxpr", operation.params.get("jaxpr"))
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    fits = (
        isinstance(jaxpr, Jaxpr)
        and len(jaxpr.invars) == len(operation.invars)
        and len(jaxpr.outvars) == len(operation.outvars)
    )
    return program if fits else None


def _of_outputs(jaxpr: Jaxpr, of_operation: Callable[[JaxprEqn], Dependence]) -> Dependence:
    known: dict[Any, int] = {variable: 1 << i for i, variable in enumerate(jaxpr.invars)}
    for operation in jaxpr.eqns:
        inputs = [known.get(atom, 0) if isinstance(atom, Var) else 0 for atom in operation.invars]
        for variable, which in zip(operation.outvars, of_operation(operation), strict=True):
            known[variable] = through(which, inputs)
    return [known.get(atom, 0) if isinstance(atom, Var) else 0 for atom in jaxpr.outvars]


def _scan(body: Dependence, consts: int, carry: int) -> Dependence:
    """Constants, carry, slices -> carry, slices: what the carry knows after any number of steps."""
    reached = _fixed_point(body[:carry], consts)
    start = [1 << i for i in range(consts)] + reached
    slices = [1 << i for i in range(consts + carry, consts + carry + max(map(int.bit_length, body), default=0))]
    return reached + [through(which, start + slices) for which in body[carry:]]


def _while(condition: int, body: Dependence, condition_consts: int, body_consts: int) -> Dependence:
    """Constants of the condition, constants of the body, carry -> carry; how often it runs depends on the condition."""
    # As inputs of the loop: the body's own are numbered after the condition's constants.
    step = [which << condition_consts for which in body]
    reached = _fixed_point(step, condition_consts + body_consts)
    stops = through(condition, [1 << i for i in range(condition_consts)] + reached)
    return [which | stops for which in reached]


def _fixed_point(step: Dependence, before: int) -> Dependence:
    """What each carried value can come to depend on, itself at the start included; ``before`` inputs precede it."""
    reached = [1 << (before + i) for i in range(len(step))]
    while True:
        now = [1 << i for i in range(before)] + reached
        width = max(map(int.bit_length, step), default=0)
        now += [1 << i for i in range(len(now), width)]  # slices of a scan
        further = [known | through(which, now) for known, which in zip(reached, step, strict=True)]
        if further == reached:
            return reached
        reached = further


def through(which: int, inputs: Sequence[int]) -> int:
    """The union of the sets in ``inputs`` at the positions in ``which``.

    >>> through(0b101, [1, 2, 4])
    5
    """
    return _union(inputs[i] for i in positions(which))


def positions(which: int) -> list[int]:
    """The members of a set.

    >>> positions(0b101)
    [0, 2]
    """
    return [i for i in range(which.bit_length()) if which >> i & 1]


def _union(sets: Iterable[int]) -> int:
    united = 0
    for one in sets:
        united |= one
    return united
