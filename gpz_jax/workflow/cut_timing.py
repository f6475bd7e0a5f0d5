"""The milliseconds of a table of cuts: both halves on this machine, and the network between them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpz_jax import presentation
from gpz_jax.analysis import latency
from gpz_jax.analysis.link import Link
from gpz_jax.analysis.program import Traced
from gpz_jax.workflow.common import progress_bar

#: Columns, NaN where nothing was timed.
TIMES = ("edge_ms", "cloud_ms", "transfer_ms", "end_to_end_ms", "edge_ms_whole", "cloud_ms_whole")


def time_pieces(traced: Traced, inputs: tuple[Any, Any], rows: list[dict[str, Any]], repeats: int) -> None:
    """Fill in edge_ms and cloud_ms of the valid cuts, by pieces, behind a progress bar."""
    with progress_bar() as bar:
        task = bar.add_task("timing", total=sum(row["valid"] for row in rows) + repeats)
        timed = latency.time_pieces(traced, *inputs, repeats=repeats, on_piece=lambda: bar.advance(task))
    for row in rows:
        if row["cut"] in timed:
            row["edge_ms"], row["cloud_ms"] = (1000 * seconds for seconds in timed[row["cut"]])


def time_halves(traced: Traced, inputs: tuple[Any, Any], row: dict[str, Any], repeats: int) -> str:
    """Fill in edge_ms_whole and cloud_ms_whole of one cut, and say how they differ from the sums of the pieces."""
    halves = latency.time_halves(traced, *inputs, row["cut"], repeats=repeats)
    row["edge_ms_whole"], row["cloud_ms_whole"] = (1000 * seconds for seconds in halves)
    edge, cloud, edge_whole, cloud_whole = (
        presentation.number(row[key]) for key in ("edge_ms", "cloud_ms", "edge_ms_whole", "cloud_ms_whole")
    )
    return (
        f"{row['cut']}: edge {edge} ms, cloud {cloud} ms by pieces; {edge_whole} ms and {cloud_whole} ms as two whole "
        "halves"
    )


def random_values(variables: Any) -> Any:
    """Variables to time: a run's own; shapes become random numbers of a size that neither explodes nor vanishes.

    Not the model's own initialisation: a latency does not depend on it, and compiling IR-152's takes 17 s.
    """
    rng = np.random.default_rng(0)

    def value(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        uniform = rng.random(leaf.shape, np.float32)
        if len(leaf.shape) < 2:  # scales, variances, biases
            return (0.5 + uniform).astype(leaf.dtype)
        return ((2 * uniform - 1) * math.sqrt(3 / math.prod(leaf.shape[:-1]))).astype(leaf.dtype)

    return jax.tree.map(value, variables)


def random_images(x: jax.ShapeDtypeStruct) -> np.ndarray:
    """A batch to time: the values of pixels change no latency."""
    rng = np.random.default_rng(0)
    if x.dtype == jnp.uint8:
        return rng.integers(0, 256, x.shape, np.uint8)
    return rng.standard_normal(x.shape, np.float32)


def add_link(rows: list[dict[str, Any]], link: Link | None, payload: str, image: int) -> list[str]:
    """The time from image to answer over the link, in milliseconds, where there is one."""
    if link is None:
        return []
    for row in rows:
        row["transfer_ms"] = 1000 * link.seconds(row[f"payload_{payload}"])
        row["end_to_end_ms"] = row["edge_ms"] + row["transfer_ms"] + row["cloud_ms"]
    timed = [row for row in rows if math.isfinite(row["end_to_end_ms"]) and row["cloud_flops"]]
    if not timed:
        return []
    fastest = min(timed, key=lambda row: row["end_to_end_ms"])
    whole = timed[0]["edge_ms"] + timed[0]["cloud_ms"] + 1000 * link.seconds(image)
    return [
        f"fastest from image to answer: {fastest['cut']}, {fastest['end_to_end_ms']:.3g} ms; the image itself sent to "
        f"the whole network in the cloud: {whole:.3g} ms (both halves timed on this machine, which is neither)"
    ]
