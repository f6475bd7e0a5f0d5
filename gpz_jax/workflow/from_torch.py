"""Make a run folder out of PyTorch weights, to be probed and attacked as if the network had been trained here."""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from gpz_jax import parallel, processes, runs
from gpz_jax.analysis.radius import measure
from gpz_jax.config import Config, TrainingConfig
from gpz_jax.data import sources, splits
from gpz_jax.errors import UserError
from gpz_jax.models import torch_weights
from gpz_jax.runs.folder import Run
from gpz_jax.training import classifier
from gpz_jax.workflow.common import abstract_state, load_data, probe_batches, say
from gpz_jax.workflow.probe_command import rules_to_apply
from gpz_jax.workflow.train_command import resolve_here, with_auxiliary_of_run
from gpz_jax.workflow.training_loop import cut_summary


def run_from_torch(file: str | Path, config: Config, *, folder: str | None = None, resume: bool = False) -> Run:
    """Make a run of a file of PyTorch weights, without a single step of training.

    The folder holds what one of training holds: config.json (with ``"from_torch"``: name and SHA-256 of the file, and
    what it says of epoch and accuracy), a line of metrics and a checkpoint, both of epoch 0. Of ``config.training``
    only ``ls`` means something here: the α of the training behind the file, with which the loss is measured.

    Args:
      file: .pth, .pt or .safetensors, as ``models.torch_weights.read`` takes it.
      config: the model that the file is of, and the images to hold it against; resolved here.
      folder: the run folder; None for ``runs/`` and a readable name that ends in ``-torch``.
      resume: make anew what the folder holds, if it is of this very file.

    Returns:
      The run.

    Raises:
      UserError: bad settings or data; a file that cannot be read or is of another model; a loss that is not finite; a
        folder that holds another run.
    """
    file = Path(file)
    release = torch_weights.read(file)
    _say_what_is_not_used(config.training)
    if resume and folder and config.data.aux == "auto":
        config = with_auxiliary_of_run(config, folder)
    config = resolve_here(config)
    rules_to_apply(config.probe)
    dealt, source = load_data(config.data, config.seed)
    channels = source.train_images.shape[-1]
    recipe = classifier.recipe_for(config, dealt.num_classes, channels)
    mesh = parallel.data_mesh()
    state = _state(file, release, config, recipe, channels, mesh)
    measured = _evaluate(file, state.variables, dealt, config, recipe, mesh)

    # Only now a folder is made: a file that does not fit should not leave one in the way of the next try.
    folder = folder or str(Path("runs") / f"{runs.readable_name(config)}-torch")
    from_torch = {"file": file.name, "sha256": _sha256(file), "epoch": release.epoch, "accuracy": release.best_accuracy}
    with runs.start(
        config,
        folder=folder,
        resume=resume,
        fingerprint=sources.fingerprint(source),
        num_classes=dealt.num_classes,
        channels=channels,
        from_torch=from_torch,
        class_names=source.class_names,
    ) as run:
        say(f"run folder {run.folder}")
        _write_epoch_0(run, recipe, state, measured, dealt.validation, mesh)
        runs.push(run.folder)
    _say_how_it_fares(from_torch, measured)
    if dealt.auxiliary.images is dealt.train.images:
        say(
            "the training behind the file may have seen the images that are dealt to validation and to the attacker "
            "here; --aux gives the attacker others"
        )
    return run


def _state(
    file: Path, release: torch_weights.Release, config: Config, recipe: classifier.Recipe, channels: int, mesh: Mesh
) -> classifier.State:
    """What a checkpoint holds: the file's weights, and an optimiser that has not begun."""
    shapes = abstract_state(recipe, channels, mesh)
    try:
        variables = torch_weights.convert(config.model.model, release.state_dict, shapes.variables)
    except UserError as error:
        advice = "--model, --width, --depth, --patch, --size and the classes of --data must be those of the file"
        raise UserError(f"{file}: {error}; {advice}") from None

    @jax.jit
    def fresh():  # without the random weights, which are then never made
        return classifier.init_state(jax.random.key(0), recipe, channels)._replace(params=(), batch_stats=())

    return parallel.replicate(fresh()._replace(**variables), mesh)


def _evaluate(
    file: Path, variables: Any, dealt: splits.Splits, config: Config, recipe: classifier.Recipe, mesh: Mesh
) -> dict[str, float]:
    """Loss (nats), accuracy and output entropy (nats) on the validation and on the test images."""
    measured = {}
    for name, part in (("validation", dealt.validation), ("test", dealt.test)):
        found = classifier.evaluate(variables, part, config.training.ls, recipe=recipe, mesh=mesh)
        measured |= {f"{name}_{what}": value for what, value in found.items()}
    if not all(map(math.isfinite, measured.values())):
        raise UserError(f"{file}: the network's loss on these images is not finite")
    return measured


def _write_epoch_0(
    run: Run,
    recipe: classifier.Recipe,
    state: classifier.State,
    measured: dict[str, float],
    validation: splits.Split,
    mesh: Mesh,
) -> None:
    """A line of metrics and a checkpoint, as every epoch of a training leaves them."""
    config = run.config
    network = classifier.network_for(recipe, run.channels)
    tracked = splits.balanced_subset(validation, config.training.track_size, seed=config.seed)
    moments = measure(network, state.variables, probe_batches(tracked, recipe, mesh), run.num_classes)
    record = {"epoch": 0, "alpha": config.training.ls, **measured, "cuts": cut_summary(network, moments)}
    checkpoints = runs.Checkpoints(run)

    def put_aside() -> None:
        for text in (*checkpoints.set_aside_after(runs.Place(0)), *runs.keep_epochs(run, -1)):
            say(text)

    processes.led(put_aside)
    checkpoints.save(0, state, measured=record, candidate=True)
    processes.led(lambda: (runs.append_metrics(run, record), runs.write_epochs(run)))


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _say_what_is_not_used(training: TrainingConfig) -> None:
    default = TrainingConfig(ls=training.ls, track_size=training.track_size)
    for field in dataclasses.fields(training):
        value = getattr(training, field.name)
        if value != getattr(default, field.name):
            say(f"--{field.name.replace('_', '-')} {value} is not used: weights are read, no step is taken")


def _say_how_it_fares(from_torch: dict[str, Any], measured: dict[str, float]) -> None:
    epoch = "" if from_torch["epoch"] is None else f", epoch {from_torch['epoch']}"
    theirs = "" if from_torch["accuracy"] is None else f"; accuracy by the file itself {from_torch['accuracy']:.4f}"
    say(
        f"read {from_torch['file']}{epoch}: validation accuracy {measured['validation_accuracy']:.4f}, "
        f"test accuracy {measured['test_accuracy']:.4f}{theirs}"
    )
