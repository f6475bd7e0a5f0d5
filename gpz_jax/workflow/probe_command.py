"""Probe a trained run at every cut, hold it against untrained copies, locate the zone."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from gpz_jax import runs
from gpz_jax.analysis import bounds, zone
from gpz_jax.analysis.labels import cluster_labels, predicted_labels
from gpz_jax.analysis.nulls import null_variables
from gpz_jax.analysis.radius import Moments, Summary, deviations, measure, summarise
from gpz_jax.config import ProbeConfig, resolve
from gpz_jax.data import splits
from gpz_jax.data.batches import padded_batches
from gpz_jax.data.splits import Split
from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.reporting import figures, probe_table, tables
from gpz_jax.taps import TappedNetwork, tap_shapes, valid_cuts
from gpz_jax.training import classifier
from gpz_jax.workflow.common import PROBE_BATCH, probe_batches, progress_bar
from gpz_jax.workflow.loaded_run import LoadedRun

#: Training images on which the null model's batch norms are calibrated.
CALIBRATION_IMAGES = 1024


class Measured(NamedTuple):
    """One network at every cut: moments, and the squared deviations (L, G) of ``radius.deviations``."""

    moments: dict[str, Moments]
    within: np.ndarray
    total: np.ndarray


def probe_run(loaded: LoadedRun, options: ProbeConfig = ProbeConfig(), *, seed: int | None = None):
    """Measure every cut of a trained network, hold it against untrained copies, and locate the zone.

    Args:
      loaded: what :func:`load_run` opened.
      options: what to measure, and on which images.
      seed: of the null models, the bootstrap and k-means; the run's own by default.

    Returns:
      An ``xarray.Dataset`` (dims cut, class, null_seed, rule); also written to ``probe/`` as CSV and zarr, with
      a figure in ``figures/``.

    Raises:
      UserError: an unknown rule, or one that cannot run with these options.
    """
    seed = loaded.run.config.seed if seed is None else seed
    resolve(dataclasses.replace(loaded.run.config, probe=options, seed=seed))  # for its checks
    rules = rules_to_apply(options)
    network, variables, mesh = loaded.network, loaded.variables, loaded.mesh
    chosen = splits.full(loaded.source) if options.split == "full" else getattr(loaded.splits, options.split)
    if options.limit is not None:
        chosen = Split(chosen.images, chosen.labels, chosen.indices[: options.limit])
    chosen = _labelled(loaded, chosen, options, seed)
    num_classes = loaded.run.num_classes

    with progress_bar() as bar:
        task = bar.add_task("probing", total=1 + options.null_seeds)
        trained = _measure(network, variables, chosen, num_classes, mesh, options.unbiased)
        bar.advance(task)
        nulls = []
        for number in range(options.null_seeds):
            key = jax.random.fold_in(jax.random.key(seed), 1000 + number)
            null = null_variables(loaded.recipe.model, key, calibration_batches(loaded))
            nulls.append(_measure(network, null, chosen, num_classes, mesh, options.unbiased))
            bar.advance(task)
    record = _probe_record(loaded, options, chosen, trained, nulls, rules, seed)
    name = "-".join([options.split, *([options.labels] if options.labels != "true" else [])])
    folder = loaded.run.subfolder("probe")
    runs.write_zarr(record, folder / f"{name}.zarr")
    tables.write_csv(probe_table.probe_rows(record), folder / f"{name}.csv")
    figures.probe_figure(record, loaded.run.subfolder("figures") / f"probe-{name}.png")
    return record


def rules_to_apply(options: ProbeConfig) -> tuple[str, ...]:
    """The rules asked for, or all that can run. Raises :class:`UserError` for one that is unknown or cannot run."""
    for name in options.rule:
        if name not in zone.RULES:
            raise UserError(f"unknown rule {name!r}{did_you_mean(name, zone.RULES)}")
    if "null" in options.rule and options.null_seeds < 2:
        raise UserError(f"rule 'null' needs --null-seeds 2 or more, got {options.null_seeds}")
    return options.rule or tuple(name for name in zone.RULES if name != "null" or options.null_seeds >= 2)


def _labelled(loaded: LoadedRun, split: Split, options: ProbeConfig, seed: int) -> Split:
    """The split under the labels that the probe is to use."""

    def batches() -> Iterator[Any]:
        return probe_batches(split, loaded.mesh)

    if options.labels == "true":
        if split.labels is None:
            raise UserError(f"the {options.split} images carry no labels; give --labels predicted or kmeans")
        return split
    if options.labels == "predicted":
        made = predicted_labels(loaded.network, loaded.variables, batches())
    else:
        *_, cut = loaded.network.cuts[:-1] or loaded.network.cuts
        made = cluster_labels(loaded.network, loaded.variables, batches, loaded.run.num_classes, cut=cut, seed=seed)
    labels = np.zeros(len(split.images), np.int32)
    labels[split.indices] = made
    return Split(split.images, labels, split.indices)


def _measure(
    network: TappedNetwork, variables: Any, split: Split, num_classes: int, mesh: Mesh, unbiased: bool
) -> Measured:
    moments = measure(network, variables, probe_batches(split, mesh), num_classes)
    found = deviations(network, variables, probe_batches(split, mesh), moments, unbiased=unbiased)
    return Measured(moments, *found)


def calibration_batches(loaded: LoadedRun) -> Iterator[jax.Array]:
    """Training images as the network takes them, on which a null model's batch norms are calibrated."""
    train = loaded.splits.train
    some = Split(train.images, train.labels, train.indices[:CALIBRATION_IMAGES])
    for images, _, mask in padded_batches(some, PROBE_BATCH):
        if mask.all() or len(some) < PROBE_BATCH:  # padding would weigh on the batch statistics
            yield classifier.Prepare(loaded.recipe.size)(images)


def _probe_record(loaded, options, split, trained: Measured, nulls: list[Measured], rules, seed):
    import xarray as xr

    network, cuts = loaded.network, loaded.network.cuts
    example = jax.ShapeDtypeStruct((2, *split.images.shape[1:]), jnp.uint8)
    shapes = tap_shapes(network, loaded.variables, example)
    valid = valid_cuts(network, loaded.variables, example)
    dimensions = np.array([int(np.prod(shapes[cut])) for cut in cuts])
    count = np.asarray(trained.moments[cuts[0]].count)

    def of_every_cut(measured: Measured) -> tuple[np.ndarray, ...]:
        found = jax.device_get(summarise(measured.moments, unbiased=options.unbiased))
        return tuple(np.array([getattr(found[cut], name) for cut in cuts], np.float64) for name in Summary._fields)

    radii, within, between, share = of_every_cut(trained)
    of_nulls = [of_every_cut(null) for null in nulls]
    within_null = np.array([w for _, w, _, _ in of_nulls]).reshape(len(nulls), len(cuts))
    share_null = np.array([s for _, _, _, s in of_nulls]).reshape(len(nulls), len(cuts))

    stats = zone.CutStatistics(cuts, within, share)
    if nulls:
        measured = [trained, *nulls]  # on the same resampled images
        within_sums, total_sums = np.stack([m.within for m in measured]), np.stack([m.total for m in measured])
        samples = zone.bootstrap_rho(within_sums, total_sums, replicates=options.bootstrap, seed=seed)
        stats = stats._replace(rho_null=share_null, rho_samples=samples[:, 0], rho_null_samples=samples[:, 1:])
    zones = {rule: zone.locate(rule, stats) for rule in rules}
    marks = [[_mark(zones[rule], cut) for cut in cuts] for rule in rules]
    evidence = zones.get("null")
    nothing = np.full(len(cuts), np.nan)

    quantiser = bounds.quantiser(options.quantiser)
    total = (within + between) / dimensions
    feature, decision, ceiling = [], [], []
    for i, cut in enumerate(cuts):
        mean_square = float(jnp.mean(jnp.square(_grand_mean(trained.moments[cut]))))
        step = quantiser.step(np.sqrt(total[i]), np.sqrt(total[i] + mean_square))
        feature.append(bounds.feature_bound(within[i] + between[i], int(dimensions[i])))
        decision.append(bounds.decision_bound(radii[i], count, int(dimensions[i])))
        ceiling.append(
            bounds.information_ceiling(
                within[i] + between[i],
                radii[i],
                count,
                int(dimensions[i]),
                step=step,
                levels=quantiser.levels,
            ).ceiling
        )
    nats = {"units": "nats"}
    return xr.Dataset(
        {
            "shape": ("cut", ["x".join(map(str, shapes[cut])) for cut in cuts]),
            "dimension": ("cut", dimensions),
            "valid": ("cut", [valid[cut] for cut in cuts]),
            "radius": ("cut", within, {"long_name": "R_c^2, images weighing the same (W)"}),
            "radius_per_dimension": ("cut", within / dimensions, {"long_name": "R_c^2 / D"}),
            "radius_of_class": (("cut", "class"), radii, {"long_name": "R_c^2 of each class"}),
            "between": ("cut", between, {"long_name": "between-class scatter B"}),
            "share": ("cut", share, {"long_name": "rho = W / (W + B)"}),
            "share_null": (
                "cut",
                share_null.mean(0) if nulls else nothing,
                {"long_name": "mean rho of the nulls"},
            ),
            "share_of_null_seed": (("null_seed", "cut"), share_null),
            "radius_null": (("null_seed", "cut"), within_null),
            "evidence": (
                "cut",
                evidence.evidence if evidence else nothing,
                {"long_name": "ln rho_null - ln rho"},
            ),
            "evidence_low": ("cut", evidence.low if evidence else nothing),
            "evidence_high": ("cut", evidence.high if evidence else nothing),
            "drop": ("cut", _drop(within), {"long_name": "(R_{j-1} - R_j) / R_{j-1}"}),
            "drop_null": ("cut", np.mean([_drop(w) for w in within_null], axis=0) if nulls else nothing),
            "feature_bound": ("cut", feature, nats),
            "decision_bound": ("cut", decision, nats),
            "information_ceiling": ("cut", ceiling, {**nats, "long_name": "H(X) - H(X|Z) is at most this"}),
            "mark": (("rule", "cut"), np.array(marks, dtype=str).reshape(len(rules), len(cuts))),
            "images_of_class": ("class", count),
        },
        coords={"cut": list(cuts), "class": np.arange(len(count)), "rule": list(rules)},
        attrs={
            "run": loaded.run.folder.name,
            "split": options.split,
            "images": len(split),
            "labels": options.labels,
            "unbiased": int(options.unbiased),
            "quantiser": options.quantiser,
            "epoch": loaded.epoch,
            "seed": seed,
            **{f"reason_{rule}": found.reason for rule, found in zones.items()},
        },
    )


def _grand_mean(moments: Moments) -> jax.Array:
    weight = moments.count.astype(jnp.float32) / jnp.sum(moments.count).astype(jnp.float32)
    return jnp.sum(weight[:, None] * moments.mean, axis=0)


def _drop(values: np.ndarray) -> np.ndarray:
    before = values[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.concatenate([[np.nan], (before - values[1:]) / before])


def _mark(found: zone.Zone, cut: str) -> str:
    if cut == found.onset:
        return "onset"
    return "zone" if cut in found.cuts else ""


def report_probe(record, console: Console) -> None:
    """Print a probe's table and what each rule says, in words."""
    console.print(probe_table.probe_table(record))
    for rule in record.rule.values:
        console.print(f"rule '{rule}': {record.attrs[f'reason_{rule}']}", markup=False, highlight=False)
