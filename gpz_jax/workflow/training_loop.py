"""Train runs of one recipe, side by side, each into its folder: what a single run and a sweep have in common."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gpz_jax import interruption, parallel, processes, runs
from gpz_jax.analysis.class_sums import missing_classes
from gpz_jax.analysis.radius import Moments, measure, summarise
from gpz_jax.data import sources
from gpz_jax.data.splits import Split, Splits, balanced_subset
from gpz_jax.errors import UserError
from gpz_jax.reporting import figures
from gpz_jax.runs.folder import Run
from gpz_jax.taps import TappedNetwork, tap_shapes
from gpz_jax.training import classifier, sweep
from gpz_jax.training.classifier import Recipe, State, Totals
from gpz_jax.training.ledger import Ledger, Tracked
from gpz_jax.training.placements import Placement
from gpz_jax.workflow.agreement import Agreement
from gpz_jax.workflow.clock import Clock, Every
from gpz_jax.workflow.common import EpochProgress, abstract_state, epoch_progress, on_mesh, probe_batches, say


class Dealt(NamedTuple):
    """The images as a seed deals them out, and where they come from."""

    splits: Splits
    source: sources.Source
    fingerprint: str


class Task(NamedTuple):
    """A run to be trained: its folder with its settings, and its images."""

    run: Run
    splits: Splits


class EpochWriter(NamedTuple):
    """Where the epochs of a run go; the cuts are measured on the ``probe`` images."""

    run: Run
    checkpoints: runs.Checkpoints
    network: TappedNetwork
    recipe: Recipe
    probe: Split
    mesh: Mesh

    def append(self, epoch: int, state: State, measured: dict[str, float]) -> dict[str, dict[str, Any]]:
        """Measure every cut, write the epoch's checkpoint and its line of metrics; returns its :func:`cut_summary`."""
        batches = probe_batches(self.probe, self.recipe, self.mesh)
        cuts = cut_summary(self.network, measure(self.network, state.variables, batches, self.run.num_classes))
        record = {"epoch": epoch, **measured, "cuts": cuts}
        candidate = epoch > (self.run.config.training.warmup_epochs or 0)
        # First the checkpoint, which keeps the line, too: metrics.jsonl holds no epoch that cannot be gone on from.
        self.checkpoints.save(epoch, state, measured=record, candidate=candidate)
        processes.led(lambda: runs.append_metrics(self.run, record))
        return cuts


class Saver(NamedTuple):
    """When runs that are trained side by side are saved, and how training ends where a signal asks for it."""

    writers: Sequence[EpochWriter]
    ledgers: Sequence[Ledger]
    stop: interruption.Stop
    clock: Clock
    progress: EpochProgress
    agreement: Agreement

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        with self.stop.saving():
            for ledger in self.ledgers:
                ledger.flush()  # before the checkpoints, so that no step behind them is missing
            yield
            for writer in self.writers:  # once all are saved
                writer.checkpoints.prune()
            for writer in self.writers:
                runs.push(writer.run.folder)
            self.clock.restart()

    def due(self, under_way: Any) -> bool:
        """Whether it is time to save within the epoch; asked after every step."""
        return self.agreement.due(self.clock.step(), self.stop, under_way)

    def on_due(self, epoch: int, step: int, states: list[State], totals: list[Totals]) -> None:
        """Save within an epoch. Raises ``Stopped`` where a signal came."""
        at = runs.Place(epoch, step)
        with self._saving():
            for writer, state, sums in zip(self.writers, states, totals, strict=True):
                writer.checkpoints.save_middle(at, state, sums)
        if self.stop:
            raise self.stop.stopped(f"{at.words}, of {self.progress.steps} steps, is saved")

    def after_epoch(self, epoch: int, states: list[State], measured: list[dict[str, float]]) -> None:
        """Measure and save every run. Raises ``Stopped`` where a signal came."""
        with self._saving():
            given = zip(self.writers, states, measured, strict=True)
            cuts = [writer.append(epoch, state, found) for writer, state, found in given]
            self.progress.epoch(epoch, _told(measured, cuts, self.writers[0].network.cuts[-1]))
        self.agreement.on_signal(self.stop)
        if self.stop:  # after the last epoch, too: what follows training may take long
            raise self.stop.stopped(f"epoch {epoch} of {self.progress.epochs} is saved")


def train_into(
    tasks: Sequence[Task],
    *,
    how: sweep.How = "loop",
    resume: bool = False,
    checkpoint_every: Every | None = None,
    placement: Placement = Placement(),
) -> None:
    """Train runs, keeping the radius of every cut after every epoch, and write their records and figures.

    Asked to stop by SIGTERM or SIGINT, it finishes the step under way, saves all runs there and raises.

    Args:
      tasks: of one recipe; their folders and config.json are there.
      how: to take the steps (``training/sweep.py``).
      resume: continue from the last place of which all of them have a checkpoint.
      checkpoint_every: save within epochs, too, so often.
      placement: where the training images lie.

    Raises:
      UserError: checkpoints that cannot be gone on from; a loss that is not finite; a file that images are read from
        is another by now.
      Stopped: a signal asked for it; what was reached is saved.
    """
    first, mesh = tasks[0].run, parallel.data_mesh()
    recipe = classifier.recipe_for(first.config, first.num_classes, first.channels)
    network = classifier.network_for(recipe, first.channels)
    epochs, steps = first.config.training.epochs, len(tasks[0].splits.train) // recipe.batch_size
    checkpoints = [runs.Checkpoints(task.run) for task in tasks]
    begun = _begin(tasks, checkpoints, recipe, mesh, resume=resume)
    place, ledgers = begun.place, []
    if first.config.track.track_every is not None:
        keep = place.epoch * steps + place.step
        ledgers = [open_ledger(task, network, recipe, mesh, keep_steps=keep) for task in tasks]
    writers = tuple(
        EpochWriter(task.run, saved, network, recipe, _probe_of_epochs(task), mesh)
        for task, saved in zip(tasks, checkpoints, strict=True)
    )
    with interruption.noted() as stop, epoch_progress(epochs, steps, place.epoch * steps + place.step) as progress:
        saver = Saver(writers, ledgers, stop, Clock(checkpoint_every), progress, Agreement())
        sweep.fit(
            begun.states,
            recipe=recipe,
            configs=[task.run.config for task in tasks],
            train=[task.splits.train for task in tasks],
            validation=[task.splits.validation for task in tasks],
            mesh=mesh,
            how=how,
            placement=placement,
            after_epoch=saver.after_epoch,
            on_step=progress.step,
            on_update=sweep.append_rows(ledgers, how) if ledgers else None,
            first_epoch=place.epoch,
            first_step=place.step,
            totals=begun.totals,
            due=saver.due,
            on_due=saver.on_due,
        )
    processes.led(lambda: [write_record(task.run) for task in tasks])


class Begun(NamedTuple):
    """Where training starts: the states of all runs, how far they are, and the sums of the epoch under way, if any."""

    states: list[State]
    place: runs.Place
    totals: list[Totals] | None = None


def _begin(
    tasks: Sequence[Task], checkpoints: Sequence[runs.Checkpoints], recipe: Recipe, mesh: Mesh, *, resume: bool
) -> Begun:
    """The states to start from; what lies beyond these is set aside in the folders."""
    first, alone = tasks[0].run, len(tasks) == 1
    loaded = _loaded(tasks, checkpoints, recipe, mesh) if resume else None
    place = loaded[0].place if loaded else runs.Place(0)

    def put_aside() -> None:
        for i, (task, saved) in enumerate(zip(tasks, checkpoints, strict=True)):
            told = saved.set_aside_after(place if loaded else None)
            told += runs.keep_epochs(task.run, place.epoch, loaded[i].measured if loaded else None)
            for text in told:
                say(f"{_prefix(task, alone)}{text}")

    processes.led(put_aside)
    if loaded is None:
        keys = [jax.random.key(task.run.config.seed) for task in tasks]
        return Begun([classifier.init_state(key, recipe, first.channels) for key in keys], place)
    shared = "" if alone else ", the last of which all have a checkpoint"
    say(f"continuing after {place.words} of {first.config.training.epochs}{shared}")
    return Begun([one.state for one in loaded], place, [one.totals for one in loaded] if place.step else None)


def _loaded(
    tasks: Sequence[Task], checkpoints: Sequence[runs.Checkpoints], recipe: Recipe, mesh: Mesh
) -> list[runs.Loaded] | None:
    """The checkpoints to go on from; None to begin."""
    abstract = abstract_state(recipe, tasks[0].run.channels, mesh)
    loaded = runs.latest_of_all(checkpoints, abstract, on_mesh(Totals.zero, mesh))
    saved = [runs.saved_epochs(task.run.folder / "checkpoints") for task in tasks]
    if loaded is None and max((epoch for epochs in saved for epoch in epochs), default=0) > 1:
        each = "; ".join(f"{task.run.folder.name}: {epochs}" for task, epochs in zip(tasks, saved, strict=True))
        raise UserError(f"there is no epoch of which all runs have a checkpoint ({each}); train them again")
    for task, one in zip(tasks, loaded or (), strict=loaded is not None):
        for note in one.notes:
            say(f"{_prefix(task, len(tasks) == 1)}{note}")
    return loaded


def _prefix(task: Task, alone: bool) -> str:
    return "" if alone else f"{task.run.folder.name}: "


def _probe_of_epochs(task: Task) -> Split:
    """The validation images on which the cuts are measured after every epoch."""
    config = task.run.config
    return balanced_subset(task.splits.validation, config.training.track_size, seed=config.seed)


def _told(measured: Sequence[dict[str, float]], cuts: Sequence[dict[str, dict[str, Any]]], logits: str) -> str:
    """What is said of an epoch: of a single run its numbers, of several what they range over."""

    def span(values: Sequence[float], form: str) -> str:
        low, high = min(values), max(values)
        return f"{low:{form}}" if len(values) == 1 else f"{low:{form}} to {high:{form}}"

    loss = span([found["train_loss"] for found in measured], ".3f")
    accuracy = span([found["validation_accuracy"] for found in measured], ".3f")
    within = span([of_run[logits]["within"] for of_run in cuts], ".3g")
    return f"loss {loss}  validation accuracy {accuracy}  R_c^2({logits}) {within}"


def open_ledger(task: Task, network: TappedNetwork, recipe: Recipe, mesh: Mesh, *, keep_steps: int) -> Ledger:
    """The run's ledger on its probe batch, ready for step number ``keep_steps``."""
    run, track = task.run, task.run.config.track
    batch = balanced_subset(getattr(task.splits, track.track_split), track.probe_size, seed=run.config.seed)
    images, labels = batch.take()
    assert labels is not None
    if few := missing_classes(labels, run.num_classes):
        say(f"probe batch: {few}")
    tracked = Tracked(network, recipe, track.ledger == "full", track.interference or (before_logits(network),))
    example = jax.ShapeDtypeStruct((2, *images.shape[1:]), images.dtype)
    shapes = tap_shapes(network, classifier.abstract_variables(recipe, run.channels), example)
    layout = runs.Layout(
        cuts=network.cuts,
        dimensions=[math.prod(shape) for shape in shapes.values()],
        count=np.bincount(labels, minlength=run.num_classes).tolist(),
        interference_cuts=tracked.interference,
        variables=tracked.variables,
        attributes={
            "images": len(batch),
            "split": track.track_split,
            "track_every": track.track_every,
            "ls": run.config.training.ls,
            "seed": run.config.seed,
        },
    )
    record = processes.led(lambda: runs.StepRecord.open(run.folder, layout, keep_steps=keep_steps))
    uneven = len(batch) % mesh.size
    if uneven:
        say(f"probe batch: {len(batch)} images are no multiple of {mesh.size} devices; each measures all of them")
    return Ledger(record, tracked, (parallel.replicate if uneven else parallel.shard)((images, labels), mesh), mesh)


def before_logits(network: TappedNetwork) -> str:
    """The last cut before the logits; the logits where there is no other."""
    return (network.cuts[:-1] or network.cuts)[-1]


def cut_summary(network: TappedNetwork, moments: dict[str, Moments]) -> dict[str, dict[str, Any]]:
    """What a line of metrics.jsonl keeps of every cut: R_c² of each class, W, B, W/D, ρ and D."""
    found = parallel.fetch(summarise(moments))
    summary = {}
    for cut in network.cuts:
        within, dimension = float(found[cut].within), moments[cut].origin.shape[1]
        summary[cut] = {
            "radius": found[cut].radius.tolist(),
            "within": within,
            "between": float(found[cut].between),
            "within_per_dimension": within / dimension,
            "rho": float(found[cut].rho),
            "dimension": dimension,
        }
    return summary


def write_record(run: Run) -> None:
    """Write what metrics.jsonl says of the epochs to dynamics.zarr, and draw it."""
    if runs.read_metrics(run, say):  # else someone took metrics.jsonl away from a finished run
        figures.training_figure(runs.write_epochs(run, lambda why: None), run.subfolder("figures") / "training.png")
