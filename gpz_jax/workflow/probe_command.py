"""Probe a trained run at every cut, hold it against untrained copies, locate the zone."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from rich.console import Console

from gpz_jax import parallel, processes, runs
from gpz_jax.analysis import probing
from gpz_jax.analysis.labels import cluster_labels, predicted_labels
from gpz_jax.analysis.nulls import null_variables
from gpz_jax.analysis.probe_result import Probe
from gpz_jax.config import ProbeConfig, resolve
from gpz_jax.data import splits
from gpz_jax.data.batches import padded_batches
from gpz_jax.data.splits import Split
from gpz_jax.errors import UserError
from gpz_jax.reporting import figures, probe_table, tables
from gpz_jax.training import classifier
from gpz_jax.workflow.common import PROBE_BATCH, probe_batches, progress_bar, say
from gpz_jax.workflow.loaded_run import LoadedRun

#: Training images on which the null model's batch norms are calibrated.
CALIBRATION_IMAGES = 1024


def probe_run(loaded: LoadedRun, options: ProbeConfig = ProbeConfig(), *, seed: int | None = None) -> Probe:
    """Measure every cut of a trained network, hold it against untrained copies, and locate the zone.

    Args:
      loaded: what :func:`load_run` opened.
      options: what to measure, and on which images.
      seed: of the null models, the bootstrap and k-means; the run's own by default.

    Returns:
      What :func:`gpz_jax.probe_network` found; also written to ``probe/`` (CSV and zarr) and ``figures/``.

    Raises:
      UserError: an unknown rule, or one that cannot run with these options; another process is at work in the folder.
    """
    seed = loaded.run.config.seed if seed is None else seed
    resolve(dataclasses.replace(loaded.run.config, probe=options, seed=seed))  # for its checks
    rules = rules_to_apply(options)
    with runs.owned(loaded.run.folder):  # from the first, so that nothing is measured that could not be kept
        found = _probed(loaded, options, rules, seed)
        processes.led(lambda: _store(loaded, options, found))
        runs.push(loaded.run.folder)
    return found


def _probed(loaded: LoadedRun, options: ProbeConfig, rules: tuple[str, ...], seed: int) -> Probe:
    """What is measured."""
    chosen = _labelled(loaded, split_to_probe(loaded, options), options, seed)
    with progress_bar() as bar:
        task = bar.add_task("probing", total=1 + options.null_seeds)

        def nulls() -> Iterator[Any]:
            """One after the other, so that no more than one is held."""
            for number in range(options.null_seeds):
                bar.advance(task)  # of the network before
                key = jax.random.fold_in(jax.random.key(seed), 1000 + number)
                yield null_of(loaded, key)

        found = probing.probe_network(
            loaded.network,
            loaded.variables,
            lambda: probe_batches(chosen, loaded.recipe, loaded.mesh),
            loaded.run.num_classes,
            nulls=nulls(),
            key=jax.random.key(seed),
            rules=rules,
            bootstrap=options.bootstrap,
            unbiased=options.unbiased,
            quantiser=options.quantiser,
            view=options.view,
        )
        bar.advance(task)
    of_run = {"run": loaded.run.folder.name, "split": options.split, "labels": options.labels, "epoch": loaded.epoch}
    return dataclasses.replace(found, settings={**of_run, **found.settings})


def split_to_probe(loaded: LoadedRun, options: ProbeConfig) -> Split:
    """The images to measure on."""
    chosen = splits.full(loaded.source) if options.split == "full" else getattr(loaded.splits, options.split)
    if options.limit is not None:
        chosen = Split(chosen.images, chosen.labels, chosen.indices[: options.limit])
    return chosen


def _store(loaded: LoadedRun, options: ProbeConfig, found: Probe) -> None:
    name = runs.probe_name(
        options.split, options.labels, limit=options.limit, unbiased=options.unbiased, view=options.view
    )
    folder = loaded.run.subfolder("probe")
    replaced = runs.write_probe(folder, name, found)
    if replaced:
        say(f"probe/{name} held a probe with {', '.join(replaced)}; it is replaced")
    tables.write_csv(found.rows(), folder / f"{name}.csv")
    figures.probe_figure(found, loaded.run.subfolder("figures") / f"probe-{name}.png")


def rules_to_apply(options: ProbeConfig) -> tuple[str, ...]:
    """The rules asked for, or all that can run. Raises :class:`UserError` for one that is unknown or cannot run."""
    if "null" in options.rule and options.null_seeds < 2:
        raise UserError(f"rule 'null' needs null_seeds 2 or more, got {options.null_seeds}", field="null_seeds")
    return probing.rules_to_apply(options.rule or None, options.null_seeds)


def _labelled(loaded: LoadedRun, split: Split, options: ProbeConfig, seed: int) -> Split:
    """The split under the labels that the probe is to use."""

    def batches() -> Iterator[Any]:
        return probe_batches(split, loaded.recipe, loaded.mesh)

    if options.labels == "true":
        if split.labels is None:
            raise UserError(
                f"the {options.split} images carry no labels; give labels predicted or kmeans", field="labels"
            )
        return split
    if options.labels == "predicted":
        made = predicted_labels(loaded.network, loaded.variables, batches())
    else:
        *_, cut = loaded.network.cuts[:-1] or loaded.network.cuts
        made = cluster_labels(loaded.network, loaded.variables, batches, loaded.run.num_classes, cut=cut, seed=seed)
    labels = np.zeros(len(split.images), np.int32)
    labels[split.indices] = made
    return Split(split.images, labels, split.indices)


def calibration_batches(loaded: LoadedRun) -> Iterator[jax.Array]:
    """Training images as the network takes them, on which a null model's batch norms are calibrated.

    Spread over the devices; where these do not divide a batch, each has all of it, for the statistics are of 256 images
    whatever the devices.
    """
    train = loaded.splits.train
    some = Split(train.images, train.labels, train.indices[:CALIBRATION_IMAGES])
    place = parallel.replicate if min(len(some), PROBE_BATCH) % loaded.mesh.size else parallel.spread
    for images, _, mask in padded_batches(some, PROBE_BATCH):
        if mask.all() or len(some) < PROBE_BATCH:  # padding would weigh on the batch statistics
            yield _prepared(place(images, loaded.mesh), size=loaded.recipe.size)


def null_of(loaded: LoadedRun, key: jax.Array) -> dict[str, Any]:
    """An untrained copy of a run's network with calibrated batch norms."""
    model, size, channels = loaded.recipe.model, loaded.recipe.size, loaded.run.channels

    def fresh(key: jax.Array) -> Any:
        return classifier.init_variables(key, model, size, channels)

    return null_variables(model, key, calibration_batches(loaded), fresh=fresh)


@partial(jax.jit, static_argnames="size")
def _prepared(images: Any, *, size: int) -> jax.Array:
    return classifier.Prepare(size)(images)


def report_probe(found: Probe, console: Console, *, wide: bool = False) -> None:
    """Print a probe's table and what each rule says, in words."""
    console.print(probe_table.probe_table(found, wide=wide))
    for sentence in found.sentences:
        console.print(sentence, markup=False, highlight=False)
