"""Train a classifier into a run folder."""

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gpz_jax import parallel, runs
from gpz_jax.analysis import contraction
from gpz_jax.analysis.radius import Moments, measure, summarise
from gpz_jax.config import Config, TrackConfig, resolve
from gpz_jax.data import sources, splits
from gpz_jax.data.pairings import resolve_auxiliary
from gpz_jax.errors import UserError
from gpz_jax.models import MODELS
from gpz_jax.reporting import figures
from gpz_jax.runs.folder import Run
from gpz_jax.taps import TappedNetwork, tap_shapes
from gpz_jax.training import classifier, ledger
from gpz_jax.workflow.common import abstract_state, load_data, probe_batches, progress_bar, say
from gpz_jax.workflow.probe_command import rules_to_apply


def train_run(config: Config, *, folder: str | None = None, resume: bool = False) -> Run:
    """Train a classifier into a run folder, keeping the radius of every cut after every epoch.

    Args:
      config: what to train; resolved here.
      folder: the run folder; None for ``runs/`` and a readable name.
      resume: continue what the folder holds.

    Returns:
      The run.

    Raises:
      UserError: bad settings (those of the probe that may follow included) or data; a folder that holds another
        run; a loss that is not finite.
    """
    if resume and config.data.aux == "auto":
        config = with_auxiliary_of_run(config, folder)
    config = resolve_here(config)
    dealt, source = load_data(config.data, config.seed)
    channels = source.train_images.shape[-1]
    recipe = classifier.recipe_for(config, dealt.num_classes, channels)
    network = classifier.network_for(recipe, channels)
    mesh = parallel.data_mesh()
    # Before the folder is made: what cannot be trained should not leave a run folder in the way of the next try.
    check_trainable(config, dealt, network, mesh)
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
        loaded = checkpoints.latest(abstract_state(recipe, channels, mesh)) if resume else None
        done = 0
        if loaded is not None:
            state, done = loaded.state, loaded.epoch
            for note in loaded.notes:
                say(note)
            say(f"continuing after epoch {done} of {config.training.epochs}")
        for step in checkpoints.discard_damaged():
            say(f"the damaged checkpoint of epoch {step} is removed")
        runs.keep_epochs(run, done)
        keeper = Keeper(run, checkpoints, network, tracked, mesh)
        steps = len(dealt.train) // config.training.batch_size
        book = None
        if config.track.track_every is not None:
            book = open_ledger(run, dealt, network, recipe, mesh, keep_steps=done * steps)
        task = bar.add_task("training", total=config.training.epochs * steps, completed=done * steps)

        def after_epoch(epoch: int, state: classifier.State, measured: dict[str, float]) -> None:
            if book is not None:
                book.flush()  # before the checkpoint, so that no step behind it is missing
            cuts = keeper.keep(epoch, state, measured)
            bar.update(
                task,
                description=f"epoch {epoch}/{config.training.epochs}  loss {measured['train_loss']:.3f}  "
                f"validation accuracy {measured['validation_accuracy']:.3f}  "
                f"R_c^2(logits) {cuts[network.cuts[-1]]['within']:.3g}",
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
            on_update=None if book is None else book.note,
            first_epoch=done,
        )
    write_record(run)
    return run


def check_trainable(config: Config, dealt: splits.Splits, network: TappedNetwork, mesh: Mesh) -> None:
    """Raise :class:`UserError` for settings under which these images cannot be trained on, tracked or probed."""
    classifier.check_batch_size(config.training.batch_size, len(dealt.train), mesh)
    rules_to_apply(config.probe)
    if config.track.track_every is not None:
        check_tracking(config.track, network, dealt.num_classes)


class Keeper(NamedTuple):
    """Where the epochs of a run go; the cuts are measured on the ``tracked`` images."""

    run: Run
    checkpoints: runs.Checkpoints
    network: TappedNetwork
    tracked: splits.Split
    mesh: Mesh

    def keep(self, epoch: int, state: classifier.State, measured: dict[str, float]) -> dict[str, dict[str, Any]]:
        """Measure every cut, write the epoch's line of metrics and its checkpoint; returns its :func:`cut_summary`."""
        batches = probe_batches(self.tracked, self.mesh)
        cuts = cut_summary(self.network, measure(self.network, state.variables, batches, self.run.num_classes))
        runs.append_metrics(self.run, {"epoch": epoch, **measured, "cuts": cuts})
        self.checkpoints.save(
            epoch,
            state,
            accuracy=measured["validation_accuracy"],
            loss=measured["validation_loss"],
            candidate=epoch > (self.run.config.training.warmup_epochs or 0),
        )
        return cuts


def write_record(run: Run) -> None:
    """Write what metrics.jsonl says of the epochs to dynamics.zarr, and draw it."""
    if runs.read_metrics(run):  # else someone took metrics.jsonl away from a finished run
        figures.training_figure(runs.write_epochs(run), run.subfolder("figures") / "training.png")


def resolve_here(config: Config) -> Config:
    """Resolve a configuration, with what depends on this machine: the dtype by device, the attacker's images at hand.

    So config.json holds what was run, and means the same elsewhere.
    """
    return on_this_machine(resolve(config))


def on_this_machine(config: Config) -> Config:
    """A configuration with what depends on this machine worked out, and nothing else."""
    model = config.model
    family = MODELS.get(model.model)  # an unknown one is refused by name where it is built
    width = family.default_width if model.width is None and family else model.width
    dtype = model.dtype
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    data, chosen = resolve_auxiliary(config.data)
    if chosen:
        say(chosen)
    return dataclasses.replace(config, data=data, model=dataclasses.replace(model, width=width, dtype=dtype))


def with_auxiliary_of_run(config: Config, folder: str | None) -> Config:
    """With the attacker's images that the run to be resumed began with, whatever lies in the data folder by now."""
    held_out = dataclasses.replace(config, data=dataclasses.replace(config.data, aux="held-out"))
    path = Path(folder) if folder else Path("runs") / runs.readable_name(resolve_here(held_out))
    if not (path / "config.json").is_file():
        return config
    aux = runs.open_run(path).config.data.aux or "held-out"
    return dataclasses.replace(config, data=dataclasses.replace(config.data, aux=aux))


def check_tracking(track: TrackConfig, network: TappedNetwork, num_classes: int) -> None:
    """Raise :class:`UserError` for a probe batch without two images of each class, or an unknown cut."""
    if track.probe_size < 2 * num_classes:
        raise UserError(
            f"--probe-size {track.probe_size} is too small for {num_classes} classes: a radius needs two images of "
            f"each, that is --probe-size {2 * num_classes} or more"
        )
    for cut in track.interference:
        network.check(cut)


def open_ledger(
    run: Run, dealt: splits.Splits, network: TappedNetwork, recipe: classifier.Recipe, mesh: Mesh, *, keep_steps: int
) -> ledger.Ledger:
    """The run's ledger on its probe batch, ready for step number ``keep_steps``."""
    track, num_classes = run.config.track, run.num_classes
    batch = splits.balanced_subset(getattr(dealt, track.track_split), track.probe_size, seed=run.config.seed)
    images, labels = batch.take()
    assert labels is not None
    if few := contraction.missing_classes(labels, num_classes):
        say(f"probe batch: {few}")
    *_, before_logits = ("", *network.cuts)[:-1]
    at = track.interference or (before_logits or network.cuts[-1],)
    tracked = ledger.Tracked(network, recipe, track.ledger == "full", at)
    example = jax.ShapeDtypeStruct((2, *images.shape[1:]), images.dtype)
    shapes = tap_shapes(network, classifier.abstract_variables(recipe, run.channels), example)
    record = runs.StepRecord.open(
        run.folder,
        cuts=network.cuts,
        dimensions=[math.prod(shape) for shape in shapes.values()],
        images_of_class=np.bincount(labels, minlength=num_classes).tolist(),
        interference_cuts=at,
        variables=tracked.variables,
        attributes={
            "images": len(batch),
            "split": track.track_split,
            "track_every": track.track_every,
            "ls": run.config.training.ls,
            "seed": run.config.seed,
        },
        keep_steps=keep_steps,
    )
    return ledger.Ledger(record, tracked, parallel.shard((images, labels), mesh), mesh)


def cut_summary(network: TappedNetwork, moments: dict[str, Moments]) -> dict[str, dict[str, Any]]:
    """What a line of metrics.jsonl keeps of every cut: R_c² of each class, W, W/D, ρ and D."""
    found = jax.device_get(summarise(moments))
    summary = {}
    for cut in network.cuts:
        within, dimension = float(found[cut].within), moments[cut].origin.shape[1]
        summary[cut] = {
            "radius": found[cut].radius.tolist(),
            "within": within,
            "within_per_dimension": within / dimension,
            "rho": float(found[cut].rho),
            "dimension": dimension,
        }
    return summary
