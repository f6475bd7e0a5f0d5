"""Compile the programs of a dry run, read what the compiler says of them, and time three steps of each."""

import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpz_jax.workflow.dry_run_result import NAN, Program
from gpz_jax.workflow.dry_run_work import Asked

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

#: Timed steps, after one that warms up.
STEPS = 3

_TOO_LARGE = re.compile(r"(?:Used |\()([\d.]+)([KMGT]?)\)? (?:of|exceeds)")


def compiled(asked: Asked, memory: int, *, hertz: float = NAN, run: bool = False) -> Program:
    """What the compiler says of a program.

    Args:
      asked: the program.
      memory: bytes of a device; where they do not suffice it is not run.
      hertz: of the device's clock, for the compiler's count of cycles; NaN where it makes none.
      run: whether to time it.
    """
    begun = time.perf_counter()
    common = {name: getattr(asked, name) for name in ("name", "images", "times", "parameters")}
    held = sum(_bytes(leaf) for leaf in jax.tree.leaves(asked.given)) + asked.beside
    try:
        made = asked.function.lower(**asked.given, **asked.static).compile()
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Program(**common, held=held, peak=max(_said(str(error)), held), refused=True,
                       compile_seconds=time.perf_counter() - begun)  # fmt: skip
    taken = time.perf_counter() - begun
    sizes, costs, text = made.memory_analysis(), made.cost_analysis() or {}, made.as_text()
    peak = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    peak += asked.beside - sizes.alias_size_in_bytes
    return Program(
        **common,
        held=held,
        peak=peak,
        flops=float(costs.get("flops", NAN)),
        seconds=_timed(asked, made) if run and peak <= memory else NAN,
        estimate=_cycles(text) / hertz,
        collectives=_collectives(text),
        compile_seconds=taken,
    )


def _bytes(leaf: Any) -> int:
    """Bytes of an argument on one device."""
    shape = leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * (8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize)


def _said(error: str) -> int:
    """Bytes that a compiler says it would need; 0 where it does not say.

    >>> _said("Ran out of memory in memory space hbm. Used 18.25G of 15.75G hbm.") / 2**30
    18.25
    >>> _said("required for HLO temporaries (800.00G) exceeds available HBM (15.75G).") / 2**30
    800.0
    """
    found = [float(size) * 2 ** (10 * " KMGT".index(unit or " ")) for size, unit in _TOO_LARGE.findall(error)]
    return int(max(found, default=0))


def _cycles(text: str) -> float:
    """The compiler's estimate for the entry computation, what is in loops left out; NaN where it makes none."""
    entry = text[text.find("\nENTRY ") :]
    cycles = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', entry)))
    return float(cycles) or NAN


def _collectives(text: str) -> dict[str, int]:
    return dict(Counter(kind for kind in COLLECTIVES for _ in re.findall(rf" {kind}(?:-start)?\(", text)))


def _timed(asked: Asked, made: Callable[..., Any]) -> float:
    """Median seconds of three steps after one that warms up."""
    times = []
    for _ in range(1 + STEPS):
        given = jax.block_until_ready(jax.tree.map(_something, asked.given))  # anew, for a step donates some of it
        begun = time.perf_counter()
        jax.block_until_ready(made(**given))
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def _something(leaf: Any) -> Any:
    """An array of a shape, at its place: what is in it does not change how long a step takes."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.device_put(jax.random.key(0), leaf.sharding)
    value = 0.01 if jnp.issubdtype(leaf.dtype, np.inexact) else leaf.dtype == np.bool_
    return jax.device_put(np.full(leaf.shape, value, leaf.dtype), leaf.sharding)
