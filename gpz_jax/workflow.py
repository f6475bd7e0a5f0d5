"""What the commands do, as functions of a configuration or a run folder: train, probe, attack.

``python -m gpz_jax.train`` and its kin parse flags and print; everything else they do is here, to be called from a
script (``experiments/tour.py``) or a notebook.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gpz_jax.analysis import bounds, zone
from gpz_jax.analysis.labels import cluster_labels, predicted_labels
from gpz_jax.analysis.null import null_variables
from gpz_jax.analysis.radius import Moments, deviations, probe, radius, scatter
from gpz_jax.config import AttackConfig, Config, DataConfig, ProbeConfig, RunIdentity, check_attack, resolve
from gpz_jax.data import sources, splits
from gpz_jax.data.batches import padded_batches, pixels
from gpz_jax.data.splits import Split, Splits
from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.inversion import metrics
from gpz_jax.reporting import figures, tables
from gpz_jax.taps import TappedNetwork, tap_shapes, valid_cuts
from gpz_jax.training import attacker, classifier, parallel, runs
from gpz_jax.training.runs import Run

#: Images a forward pass when probing; the result does not depend on it.
PROBE_BATCH = 256
#: Training images on which the null model's batch norms are calibrated.
CALIBRATION_IMAGES = 1024


def say(text: str) -> None:
    """A note to the person at the terminal, on stderr so that tables can be piped."""
    print(f"gpz: {text}", file=sys.stderr, flush=True)


def progress_bar() -> Progress:
    """A progress bar on stderr; silent where stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def load_data(data: DataConfig, seed: int) -> tuple[Splits, sources.Source]:
    """The images of a configuration, dealt out to target, attacker and test."""
    source = sources.load(data.data, data.data_dir)
    auxiliary = sources.load(data.aux, data.data_dir, auxiliary=True) if data.aux else None
    dealt = splits.make_splits(
        source,
        seed=seed,
        validation_fraction=data.validation_fraction,
        auxiliary_fraction=data.auxiliary_fraction,
        auxiliary=auxiliary,
    )
    for note in dealt.notes:
        say(note)
    return dealt, source


# Train ---------------------------------------------------------------------------------------------------------------


def train_run(config: Config, *, folder: str | None = None, resume: bool = False) -> Run:
    """Train a classifier into a run folder, keeping the radius of every cut after every epoch.

    Args:
      config: what to train; resolved here.
      folder: the run folder; None for ``runs/`` and a readable name.
      resume: continue what the folder holds.

    Returns:
      The run.

    Raises:
      UserError: bad settings or data; a folder that holds another run; a loss that is not finite.
    """
    config = _resolve_dtype(resolve(config))
    dealt, source = load_data(config.data, config.seed)
    channels = source.train_images.shape[-1]
    recipe = classifier.recipe_for(config, dealt.num_classes, channels)
    network = classifier.network_for(recipe, channels)
    mesh = parallel.data_mesh()
    run = runs.start(
        config,
        folder=folder,
        resume=resume,
        fingerprint=sources.fingerprint(source),
        num_classes=dealt.num_classes,
        channels=channels,
    )
    say(f"run folder {run.folder}")
    tracked = splits.balanced_subset(dealt.validation, config.training.track_size, seed=config.seed)
    state = classifier.init_state(jax.random.key(config.seed), recipe, channels)

    with runs.Checkpoints(run) as checkpoints, progress_bar() as bar:
        loaded = checkpoints.latest(_abstract(recipe, channels, mesh)) if resume else None
        done = 0
        if loaded is not None:
            state, done = loaded.state, loaded.epoch
            for note in loaded.notes:
                say(note)
            say(f"continuing after epoch {done} of {config.training.epochs}")
        runs.keep_epochs(run, done)
        steps = len(dealt.train) // config.training.batch_size
        task = bar.add_task("training", total=config.training.epochs * steps, completed=done * steps)

        def after_epoch(epoch: int, state: classifier.State, measured: dict[str, float]) -> None:
            moments = probe(network, state.variables, _batches(tracked, mesh), dealt.num_classes)
            runs.append_metrics(run, {"epoch": epoch, **measured, "cuts": _cut_summary(network, moments)})
            checkpoints.save(
                epoch,
                state,
                accuracy=measured["validation_accuracy"],
                loss=measured["validation_loss"],
                candidate=epoch > (config.training.warmup_epochs or 0),
            )
            last = moments[network.cuts[-1]]
            bar.update(
                task,
                description=f"epoch {epoch}/{config.training.epochs}  loss {measured['train_loss']:.3f}  "
                f"validation accuracy {measured['validation_accuracy']:.3f}  "
                f"R_c^2(logits) {float(scatter(last).within):.3g}",
            )

        classifier.fit(
            state,
            recipe=recipe,
            config=config,
            train=dealt.train,
            validation=dealt.validation,
            mesh=mesh,
            after_epoch=after_epoch,
            on_step=lambda epoch, step: bar.update(task, completed=epoch * steps + step + 1),
            first_epoch=done,
        )
    record = runs.dynamics(run)
    runs.write_zarr(record, run.folder / "dynamics.zarr")
    figures.training_figure(record, run.subfolder("figures") / "training.png")
    return run


def _resolve_dtype(config: Config) -> Config:
    if config.model.dtype != "auto":
        return config
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))


def _abstract(recipe: classifier.Recipe, channels: int, mesh: Mesh) -> classifier.State:
    """Shapes, dtypes and places of a state, for reading checkpoints."""
    shapes = jax.eval_shape(lambda: classifier.init_state(jax.random.key(0), recipe, channels))
    everywhere = jax.NamedSharding(mesh, jax.P())
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=everywhere), shapes)


def _batches(split: Split, mesh: Mesh) -> Iterator[tuple[Any, Any, Any]]:
    for batch in padded_batches(split, PROBE_BATCH):
        yield parallel.shard(batch, mesh)


def _cut_summary(network: TappedNetwork, moments: dict[str, Moments]) -> dict[str, dict[str, Any]]:
    summary = {}
    for cut in network.cuts:
        found = scatter(moments[cut])
        within, dimension = float(found.within), moments[cut].origin.shape[1]
        summary[cut] = {
            "radius": np.asarray(radius(moments[cut]), np.float64).tolist(),
            "within": within,
            "within_per_dimension": within / dimension,
            "share": float(found.share),
            "dimension": dimension,
        }
    return summary


# A trained run -------------------------------------------------------------------------------------------------------


class Victim(NamedTuple):
    """A trained run, ready to be probed and attacked."""

    run: Run
    network: TappedNetwork
    recipe: classifier.Recipe
    variables: dict[str, Any]
    splits: Splits
    source: sources.Source
    mesh: Mesh
    epoch: int


def load_run(
    folder: str, *, data_dir: str | None = None, aux: str | None = None, expected: RunIdentity = RunIdentity()
) -> Victim:
    """Open a run folder: its best checkpoint by validation, and its images, dealt out as they were in training.

    Args:
      folder: the run folder.
      data_dir: where the images are now, if they have moved.
      aux: another data set for the attacker than the run's own.
      expected: what the run must be.

    Raises:
      UserError: no run there; no checkpoint that can be read; other images than the run was trained on.
    """
    run = runs.open_run(folder)
    config = resolve(run.config)
    _check_identity(run, expected)
    data = config.data if data_dir is None else dataclasses.replace(config.data, data_dir=data_dir)
    dealt, source = load_data(data, config.seed)
    if sources.fingerprint(source) != run.fingerprint:
        raise UserError(f"{folder} was trained on other images than data set {data.data!r} in {data.data_dir} now holds")
    if aux and aux != data.aux:
        # The target's own split stays what it was in training: only the attacker's images are others.
        foreign, _ = load_data(dataclasses.replace(data, aux=aux), config.seed)
        dealt = dealt._replace(auxiliary=foreign.auxiliary)
    recipe = classifier.recipe_for(config, run.num_classes, run.channels)
    mesh = parallel.data_mesh()
    with runs.Checkpoints(run) as checkpoints:
        loaded = checkpoints.best(_abstract(recipe, run.channels, mesh))
    if loaded is None:
        raise UserError(f"{folder} has no checkpoint yet; train it with python -m gpz_jax.train --run {folder} --resume")
    for note in loaded.notes:
        say(note)
    network = classifier.network_for(recipe, run.channels)
    return Victim(run, network, recipe, loaded.state.variables, dealt, source, mesh, loaded.epoch)


def _check_identity(run: Run, expected: RunIdentity) -> None:
    known = {**dataclasses.asdict(run.config.data), **vars(run.config.model), **vars(run.config.training)}
    wrong = [
        f"--{name} {known[name]} (not {value})"
        for name, value in dataclasses.asdict(expected).items()
        if value is not None and value != known[name]
    ]
    if wrong:
        raise UserError(f"{run.folder} holds a run of another configuration: {'; '.join(wrong)}")


def report_accuracy(victim: Victim) -> None:
    """Say the accuracy on the test images (the run's best epoch by validation)."""
    alpha = victim.run.config.training.ls
    found = classifier.evaluate(victim.variables, victim.splits.test, alpha, recipe=victim.recipe, mesh=victim.mesh)
    say(
        f"{victim.run.folder.name}, epoch {victim.epoch} (best by validation): test accuracy {found['accuracy']:.4f} "
        f"on {len(victim.splits.test)} images, output entropy {found['output_entropy']:.3f} nats"
    )


def report_probe(record, console: Console) -> None:
    """Print a probe's table and what each rule says, in words."""
    console.print(tables.probe_table(record))
    for rule in record.rule.values:
        console.print(f"rule '{rule}': {record.attrs[f'reason_{rule}']}", markup=False, highlight=False)


def short(path: Path) -> str:
    """A path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


# Probe ---------------------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """One network at every cut: moments, and each image's squared distances to its class mean and the grand mean."""

    moments: dict[str, Moments]
    within: np.ndarray
    total: np.ndarray


def probe_run(victim: Victim, options: ProbeConfig = ProbeConfig(), *, seed: int | None = None):
    """Measure every cut of a trained network, hold it against untrained copies, and locate the zone.

    Args:
      victim: what :func:`load_run` opened.
      options: what to measure, and on which images.
      seed: of the null models, the bootstrap and k-means; the run's own by default.

    Returns:
      An ``xarray.Dataset`` (dims cut, class, null_seed, rule); also written to ``probe/`` as CSV and zarr, with
      a figure in ``figures/``.

    Raises:
      UserError: an unknown rule, or one that cannot run with these options.
    """
    rules = _rules(options)
    seed = victim.run.config.seed if seed is None else seed
    network, variables, mesh = victim.network, victim.variables, victim.mesh
    chosen = splits.full(victim.source) if options.split == "full" else getattr(victim.splits, options.split)
    if options.limit is not None:
        chosen = Split(chosen.images, chosen.labels, chosen.indices[: options.limit])
    chosen = _labelled(victim, chosen, options, seed)
    num_classes = victim.run.num_classes

    with progress_bar() as bar:
        task = bar.add_task("probing", total=1 + options.null_seeds)
        trained = _measure(network, variables, chosen, num_classes, mesh)
        bar.advance(task)
        nulls = []
        for number in range(options.null_seeds):
            key = jax.random.fold_in(jax.random.key(seed), 1000 + number)
            null = null_variables(victim.recipe.model, key, _calibration(victim))
            nulls.append(_measure(network, null, chosen, num_classes, mesh))
            bar.advance(task)
    record = _probe_record(victim, options, chosen, trained, nulls, rules, seed)
    name = "-".join([options.split, *([options.labels] if options.labels != "true" else [])])
    folder = victim.run.subfolder("probe")
    runs.write_zarr(record, folder / f"{name}.zarr")
    tables.write_csv(tables.probe_rows(record), folder / f"{name}.csv")
    figures.probe_figure(record, victim.run.subfolder("figures") / f"probe-{name}.png")
    return record


def _rules(options: ProbeConfig) -> tuple[str, ...]:
    for name in options.rule:
        if name not in zone.RULES:
            raise UserError(f"unknown rule {name!r}{did_you_mean(name, zone.RULES)}")
    if "null" in options.rule and options.null_seeds < 2:
        raise UserError(f"rule 'null' needs --null-seeds 2 or more, got {options.null_seeds}")
    return options.rule or tuple(name for name in zone.RULES if name != "null" or options.null_seeds >= 2)


def _labelled(victim: Victim, split: Split, options: ProbeConfig, seed: int) -> Split:
    """The split under the labels that the probe is to use."""

    def batches() -> Iterator[Any]:
        return _batches(split, victim.mesh)

    if options.labels == "true":
        if split.labels is None:
            raise UserError(f"the {options.split} images carry no labels; give --labels predicted or kmeans")
        return split
    if options.labels == "predicted":
        made = predicted_labels(victim.network, victim.variables, batches())
    else:
        cut = victim.network.cuts[-2] if len(victim.network.cuts) > 1 else victim.network.cuts[-1]
        made = cluster_labels(victim.network, victim.variables, batches, victim.run.num_classes, cut=cut, seed=seed)
    labels = np.zeros(len(split.images), np.int32)
    labels[split.indices] = made
    return Split(split.images, labels, split.indices)


def _measure(network: TappedNetwork, variables: Any, split: Split, num_classes: int, mesh: Mesh) -> Measured:
    moments = probe(network, variables, _batches(split, mesh), num_classes)
    return Measured(moments, *deviations(network, variables, _batches(split, mesh), moments))


def _calibration(victim: Victim) -> Iterator[jax.Array]:
    train = victim.splits.train
    some = Split(train.images, train.labels, train.indices[:CALIBRATION_IMAGES])
    for images, _, mask in padded_batches(some, PROBE_BATCH):
        if mask.all() or len(some) < PROBE_BATCH:  # padding would weigh on the batch statistics
            yield classifier.Prepare(victim.recipe.size)(images)


def _probe_record(victim, options, split, trained: Measured, nulls: list[Measured], rules, seed):
    import xarray as xr

    network, cuts = victim.network, victim.network.cuts
    example = jax.ShapeDtypeStruct((2, *split.images.shape[1:]), jnp.uint8)
    shapes = tap_shapes(network, victim.variables, example)
    valid = valid_cuts(network, victim.variables, example)
    dimensions = np.array([int(np.prod(shapes[cut])) for cut in cuts])
    count = np.asarray(trained.moments[cuts[0]].count)

    def of_every_cut(measured: Measured, field: str) -> np.ndarray:
        found = [scatter(measured.moments[cut], unbiased=options.unbiased) for cut in cuts]
        return np.array([float(getattr(s, field)) for s in found])

    within, between = of_every_cut(trained, "within"), of_every_cut(trained, "between")
    share = of_every_cut(trained, "share")
    radii = np.stack([np.asarray(radius(trained.moments[cut], unbiased=options.unbiased), np.float64) for cut in cuts])
    within_null = np.array([of_every_cut(null, "within") for null in nulls]).reshape(len(nulls), len(cuts))
    share_null = np.array([of_every_cut(null, "share") for null in nulls]).reshape(len(nulls), len(cuts))

    stats = zone.LayerStatistics(cuts, within, share)
    if nulls:
        samples = _bootstrap(split, [trained, *nulls], options, seed)
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
                within[i] + between[i], radii[i], count, int(dimensions[i]), step=step, levels=quantiser.levels
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
            "share_null": ("cut", share_null.mean(0) if nulls else nothing, {"long_name": "mean rho of the nulls"}),
            "share_of_null_seed": (("null_seed", "cut"), share_null),
            "radius_null": (("null_seed", "cut"), within_null),
            "evidence": ("cut", evidence.evidence if evidence else nothing, {"long_name": "ln rho_null - ln rho"}),
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
            "run": victim.run.folder.name,
            "split": options.split,
            "images": len(split),
            "labels": options.labels,
            "unbiased": int(options.unbiased),
            "quantiser": options.quantiser,
            "epoch": victim.epoch,
            "seed": seed,
            **{f"reason_{rule}": found.reason for rule, found in zones.items()},
        },
    )


def _bootstrap(split: Split, measured: list[Measured], options: ProbeConfig, seed: int) -> np.ndarray:
    """Replicates of ρ, ``(B, networks, L)``, all networks on the same resampled images."""
    within, total = np.stack([m.within for m in measured]), np.stack([m.total for m in measured])
    if options.unbiased:
        labels = split.labels[split.indices]
        count = np.bincount(labels)[labels]
        within = within * (count / np.maximum(count - 1, 1))
        total = total * (len(labels) / max(len(labels) - 1, 1))
    return zone.bootstrap_shares(within, total, replicates=options.bootstrap, seed=seed)


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


# Attack --------------------------------------------------------------------------------------------------------------


def attack_run(
    victim: Victim,
    options: AttackConfig = AttackConfig(),
    *,
    seed: int | None = None,
    resume: bool = False,
    shown: int = 10,
) -> list[dict[str, Any]]:
    """Attack a trained network at each cut and score the reconstructions of test images against the floors.

    Each finished cut is written to ``attacks/CUT-deconvolution/`` (scores of every image, the decoder, a grid)
    before the next begins, so a kill costs the cut under way.

    Args:
      victim: what :func:`load_run` opened; its auxiliary split is the attacker's.
      options: which cuts, and how the decoder is trained.
      seed: of the attacker; the run's own by default.
      resume: read cuts that were attacked with the same options instead of attacking them again.
      shown: test images in the grid.

    Returns:
      One dict a cut: cut, dimension, decoder, scores (means over test images), floors, flattened, last_gain, ….

    Raises:
      UserError: an unknown or bypassed cut (before any attack starts); an attack whose loss is not finite.
    """
    options = check_attack(options)
    seed = victim.run.config.seed if seed is None else seed
    cuts = _cuts_to_attack(victim, options.cut)
    floors = _floors(victim)
    results, grid = [], {}
    originals = None
    with progress_bar() as bar:
        for cut in cuts:
            asked = {**dataclasses.asdict(dataclasses.replace(options, cut=())), "seed": seed, "cut": cut}
            asked |= {"auxiliary_images": len(victim.splits.auxiliary), "epoch_of_victim": victim.epoch}
            folder = victim.run.subfolder("attacks", f"{_file_name(cut)}-deconvolution")
            result = _finished(folder, asked) if resume else None
            if result is None:
                task = bar.add_task(f"attack on {cut}", total=options.epochs)
                trained = attacker.train_attacker(
                    attacker.Edge(victim.network, cut),
                    victim.variables,
                    victim.splits.auxiliary,
                    attack=options,
                    size=victim.recipe.size,
                    seed=seed,
                    mesh=victim.mesh,
                    on_epoch=_advance(bar, task, cut),
                )
                result, originals, grid[cut] = _score(victim, cut, trained, floors, folder, asked, shown)
            else:
                say(f"attack on {cut}: already done, read from {folder}")
                with np.load(folder / "shown.npz", allow_pickle=False) as kept:
                    originals, grid[cut] = kept["originals"], kept["reconstructions"]
            results.append(result)
    tables.write_csv([_flat(result) for result in results], victim.run.subfolder("attacks") / "table.csv")
    if originals is not None:
        figures.reconstruction_grid(originals, grid, victim.run.subfolder("figures") / "attacks.png")
    return results


def _cuts_to_attack(victim: Victim, asked: tuple[str, ...]) -> tuple[str, ...]:
    example = jax.ShapeDtypeStruct((2, *victim.splits.test.images.shape[1:]), jnp.uint8)
    valid = valid_cuts(victim.network, victim.variables, example)
    for cut in asked:
        if not valid[victim.network.check(cut)]:
            good = ", ".join(name for name, ok in valid.items() if ok)
            raise UserError(f"cut {cut!r} is bypassed: the logits know the input by another way; valid cuts: {good}")
    return tuple(dict.fromkeys(asked)) or tuple(cut for cut in victim.network.cuts if valid[cut])


def _floors(victim: Victim) -> Callable[[jax.Array, np.ndarray], dict[str, jax.Array]]:
    """What no z at all (mean image) and the label alone (class mean) give; means of the target's training images."""
    images, labels = victim.splits.train.take()
    size, channels = victim.recipe.size, images.shape[-1]
    of_classes = metrics.class_means(images, labels, victim.run.num_classes)
    # Resizing is linear, so the mean of resized images is the resized mean.
    of_classes = jax.image.resize(of_classes, (len(of_classes), size, size, channels), "bilinear")
    of_all = jax.image.resize(metrics.mean_image(images), (size, size, channels), "bilinear")
    return lambda x, labels: {
        "mean_image": metrics.mean_image_floor(x, of_all),
        "class_mean": metrics.class_mean_floor(x, labels, of_classes),
    }


def _score(victim, cut, trained: attacker.Trained, floors, folder, asked, shown):
    test = victim.splits.test
    labels = test.labels[test.indices]
    kept: list[dict[str, np.ndarray]] = []
    originals, reconstructions, at = [], [], 0
    batch_psnr: list[tuple[float, int]] = []
    pairs = attacker.reconstruct(
        attacker.Edge(victim.network, cut), victim.variables, trained.decoder, trained.variables, test,
        size=victim.recipe.size,
    )  # fmt: skip
    for x, x_hat in pairs:
        y = labels[at : at + len(x)]
        scored = {**metrics.score(x, x_hat), **{f"floor_{k}": v for k, v in floors(x, y).items()}}
        kept.append({name: np.asarray(value, np.float64) for name, value in scored.items()})
        batch_psnr.append((float(metrics.psnr_paper(x, x_hat)), len(x)))
        if at < shown:
            originals.append(np.asarray(x)[: shown - at])
            reconstructions.append(np.asarray(x_hat)[: shown - at])
        at += len(x)
    columns = {name: np.concatenate([k[name] for k in kept]) for name in kept[0]}
    rows = [
        {"image": int(test.indices[i]), "label": int(labels[i]), **{name: columns[name][i] for name in columns}}
        for i in range(len(labels))
    ]
    tables.write_csv(rows, folder / "scores.csv")
    originals, reconstructions = np.concatenate(originals), np.concatenate(reconstructions)
    np.savez(folder / "shown.npz", originals=originals, reconstructions=reconstructions)
    figures.reconstruction_grid(originals, {cut: reconstructions}, folder / "reconstructions.png")
    runs.save_tree(folder / "decoder", trained.variables)

    means = {name: float(np.mean(columns[name])) for name in columns}
    shape = trained.decoder.z_shape
    result = {
        "cut": cut,
        "shape": list(shape),
        "dimension": int(np.prod(shape)),
        "decoder": "deconvolution",
        "decoder_parameters": int(sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"]))),
        "scores": {
            **{name: means[name] for name in ("mse", "mse_paper", "psnr", "ssim", "cosine")},
            "psnr_paper": float(np.average([p for p, _ in batch_psnr], weights=[n for _, n in batch_psnr])),
            "ratio": means["mse"] / means["floor_class_mean"],
        },
        "floors": {name: means[f"floor_{name}"] for name in ("mean_image", "class_mean")},
        "best_epoch": trained.epoch,
        "selection_loss": trained.selection_loss.tolist(),
        "flattened": bool(trained.flattened),
        "last_gain": trained.last_gain,
        "test_images": len(labels),
        "asked": asked,
    }
    runs.write_json(folder / "result.json", result)
    return result, originals, reconstructions


def _finished(folder, asked: dict[str, Any]) -> dict[str, Any] | None:
    try:
        result = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return None
    return result if result.get("asked") == json.loads(json.dumps(asked)) else None


def _advance(bar: Progress, task: Any, cut: str) -> Callable[[int, float], None]:
    return lambda epoch, loss: bar.update(task, completed=epoch, description=f"attack on {cut}  mse {loss:.4f}")


def _flat(result: dict[str, Any]) -> dict[str, Any]:
    floors = {f"floor_{name}": value for name, value in result["floors"].items()}
    plain = {key: result[key] for key in ("cut", "dimension", "decoder", "decoder_parameters")}
    return {**plain, **result["scores"], **floors, "flattened": result["flattened"], "last_gain": result["last_gain"]}


def _file_name(cut: str) -> str:
    """A cut's name as a file name: paths of foreign modules hold slashes."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in cut)
