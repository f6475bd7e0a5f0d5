"""What the page of a run measures or reads itself: the probe's numbers, the network's answers, the prices."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpz_jax import parallel, runs
from gpz_jax.analysis.price import BYTES, Price, price_traced
from gpz_jax.analysis.program import trace
from gpz_jax.errors import UserError
from gpz_jax.reporting.page.contents import NAN, Cost, Probed
from gpz_jax.runs.folder import Run
from gpz_jax.workflow.common import probe_batches
from gpz_jax.workflow.loaded_run import LoadedRun


class Probe(NamedTuple):
    """What a run's probe says: of its cuts, of where information bypasses them, and what could not be read."""

    cuts: dict[str, Probed]
    valid: dict[str, bool]
    shapes: dict[str, str]
    problems: tuple[str, ...] = ()


def probe_of(run: Run) -> Probe:
    """Of several probes the one of the test images, else the first by name that can be read."""
    problems: list[str] = []
    for folder in runs.probe_folders(run.folder / "probe"):
        try:
            return _read_probe(folder)._replace(problems=tuple(problems))
        except Exception as error:  # whatever xarray and zarr make of a damaged store: another is tried
            said = str(error) if isinstance(error, UserError) else f"cannot be read ({type(error).__name__})"
            problems.append(f"probe/{folder.name}: {said}")
    return Probe({}, {}, {}, tuple(problems))


_ENDS = ("", "_low", "_high")


def _read_probe(folder: Path) -> Probe:
    record = runs.read_probe(folder)
    cuts, valid, shapes = {}, {}, {}
    for name in map(str, record.cut.values):
        at = record.sel(cut=name)
        evidence, low, high = (float(at[f"evidence{end}"]) if f"evidence{end}" in at else NAN for end in _ENDS)
        nulls = tuple(float(value) for value in np.atleast_1d(at.rho_null.values)) if "rho_null" in at else ()
        zones = {str(rule): str(at.zone.sel(rule=rule).values) for rule in record.rule.values}
        cuts[name] = Probed(float(at.within), float(at.rho), nulls, evidence, low, high, zones)
        valid[name] = bool(at.valid) if "valid" in at else True
        shapes[name] = str(at.shape.values) if "shape" in record.data_vars else ""
    return Probe(cuts, valid, shapes)


def confusion_of(loaded: LoadedRun) -> np.ndarray:
    """(K, K) counts of the test images: true class by predicted one."""
    counts = np.zeros((loaded.run.num_classes,) * 2, np.int64)
    for images, labels, mask in probe_batches(loaded.splits.test, loaded.recipe, loaded.mesh):
        predicted, labels, kept = parallel.fetch((jnp.argmax(loaded.logits(images), axis=-1), labels, mask))
        np.add.at(counts, (labels[kept], predicted[kept]), 1)
    return counts


def costs_of(loaded: LoadedRun, on_problem: Callable[[str], None]) -> dict[str, tuple[Cost, bool]]:
    """Cut -> its price for one image, and whether it is one; ``on_problem`` is told of times that cannot be read."""
    x = jax.ShapeDtypeStruct((1, *loaded.splits.test.images.shape[1:]), jnp.uint8)
    prices = price_traced(trace(loaded.network, loaded.variables, x))
    total = max(prices[-1].edge_parameters, 1)
    timed = runs.edge_milliseconds(loaded.run, on_problem)
    return {one.cut: (_cost(one, total, timed.get(one.cut, NAN)), one.valid) for one in prices}


def _cost(price: Price, total: int, edge_ms: float) -> Cost:
    return Cost(
        price.edge_parameters,
        price.edge_parameters / total,
        {dtype: price.payload(dtype) for dtype in BYTES},
        price.edge_flops,
        price.cloud_flops,
        price.edge_memory,
        edge_ms,
    )
