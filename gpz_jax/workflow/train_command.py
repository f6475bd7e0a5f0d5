"""Train a classifier into a run folder."""

import dataclasses
from pathlib import Path

import jax
from jax.sharding import Mesh

from gpz_jax import parallel, runs
from gpz_jax.config import Config, TrackConfig, resolve
from gpz_jax.data import sources, splits
from gpz_jax.data.pairings import resolve_auxiliary
from gpz_jax.errors import UserError
from gpz_jax.models import MODELS
from gpz_jax.runs.folder import Run
from gpz_jax.taps import TappedNetwork
from gpz_jax.training import classifier
from gpz_jax.training.placements import Asked
from gpz_jax.workflow.clock import Every
from gpz_jax.workflow.common import load_data, say
from gpz_jax.workflow.image_placement import place_images, stays_on_disk
from gpz_jax.workflow.memory_of_training import check_memory
from gpz_jax.workflow.probe_command import rules_to_apply
from gpz_jax.workflow.training_loop import Task, train_into


def train_run(
    config: Config,
    *,
    folder: str | None = None,
    resume: bool = False,
    checkpoint_every: str | None = None,
    images: Asked = "auto",
) -> Run:
    """Train a classifier into a run folder, keeping the radius of every cut after every epoch.

    Args:
      config: what to train; resolved here.
      folder: the run folder; None for ``runs/`` and a readable name.
      resume: continue what the folder holds.
      checkpoint_every: save within epochs, too: every so many steps ("500") or minutes ("10min").
      images: where the training images lie ("device", "sharded", "stream"); "auto" for the first that has room. What
        is trained does not depend on it.

    Returns:
      The run.

    Raises:
      UserError: bad settings (those of the probe that may follow included) or data; a folder that holds another
        run, or in which another process is at work; a loss that is not finite.
      Stopped: SIGTERM or SIGINT asked for it; what was reached is saved.
    """
    every = None if checkpoint_every is None else Every.parse(checkpoint_every)
    if resume and config.data.aux == "auto":
        config = with_auxiliary_of_run(config, folder)
    config = resolve_here(config)
    there = Path(folder) if folder else Path("runs") / runs.readable_name(config)
    if resume and not (there / "config.json").exists():
        say(f"there is no run in {there} yet: one is begun")
    dealt, source = load_data(config.data, config.seed, disk=stays_on_disk(images))
    channels = source.train_images.shape[-1]
    recipe = classifier.recipe_for(config, dealt.num_classes, channels)
    # Before the folder is made: what cannot be trained should not leave a run folder in the way of the next try.
    check_trainable(config, dealt, classifier.network_for(recipe, channels), parallel.data_mesh())
    placement = place_images(images, [dealt.train], source.files, parallel.data_mesh())
    with runs.start(
        config,
        folder=folder,
        resume=resume,
        fingerprint=sources.fingerprint(source),
        num_classes=dealt.num_classes,
        channels=channels,
        class_names=source.class_names,
    ) as run:
        say(f"run folder {run.folder}")
        train_into([Task(run, dealt)], resume=resume, checkpoint_every=every, placement=placement)
        runs.push(run.folder)
    return run


def check_trainable(config: Config, dealt: splits.Splits, network: TappedNetwork, mesh: Mesh) -> None:
    """Raise :class:`UserError` for settings under which these images cannot be trained on, tracked or probed."""
    classifier.check_batch_size(config.training.batch_size, len(dealt.train), mesh)
    rules_to_apply(config.probe)
    check_memory(config, network, dealt)
    if config.track.track_every is not None:
        check_tracking(config.track, network, dealt.num_classes)


def check_tracking(track: TrackConfig, network: TappedNetwork, num_classes: int) -> None:
    """Raise :class:`UserError` for a probe batch without two images of each class, or an unknown cut."""
    if track.probe_size < 2 * num_classes:
        raise UserError(
            f"--probe-size {track.probe_size} is too small for {num_classes} classes: a radius needs two images of "
            f"each, that is --probe-size {2 * num_classes} or more"
        )
    for cut in track.interference:
        network.check(cut)


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
