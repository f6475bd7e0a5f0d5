"""A trained run, opened to be probed and attacked."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.sharding import Mesh

from gpz_jax import parallel, runs
from gpz_jax.config import DataConfig, RunIdentity, resolve
from gpz_jax.data import sources
from gpz_jax.data.pairings import resolve_auxiliary
from gpz_jax.data.splits import Split, Splits, attackers_images, copies_said
from gpz_jax.errors import UserError
from gpz_jax.runs.folder import Run
from gpz_jax.taps import TappedNetwork
from gpz_jax.training import classifier
from gpz_jax.workflow.common import abstract_state, load_auxiliary, load_data, say


class LoadedRun(NamedTuple):
    """A trained run, ready to be probed and attacked."""

    run: Run
    network: TappedNetwork
    recipe: classifier.Recipe
    variables: dict[str, Any]
    splits: Splits
    source: sources.Source
    mesh: Mesh
    epoch: int

    def logits(self, images: Any, *, replace: Mapping[str, Array] | None = None) -> Array:
        """The network's logits of uint8 images, with z put in place at cuts."""
        return _logits(self.variables, images, dict(replace or {}), network=self.network)


@partial(jax.jit, static_argnames="network")
def _logits(variables, images, replace, *, network):
    return network(variables, images, replace=replace)[0]


def load_run(
    folder: str,
    *,
    data_dir: str | None = None,
    aux: str | None = None,
    expected: RunIdentity = RunIdentity(),
    disk: bool | None = None,
) -> LoadedRun:
    """Open a run folder: its best checkpoint by validation, and its images, dealt out as they were in training.

    Args:
      folder: the run folder.
      data_dir: where the images are now, if they have moved.
      aux: another data set for the attacker than the run's own (or "auto" or "held-out", as in training).
      expected: what the run must be.
      disk: leave the images there; None: where they would take more than half of the memory.

    Raises:
      UserError: no run there; no checkpoint that can be read; other images than the run was trained on.
    """
    run = runs.open_run(folder)
    config = resolve(run.config)
    _check_identity(run, expected)
    data = config.data if data_dir is None else dataclasses.replace(config.data, data_dir=data_dir)
    # What has been trained is read, whatever an earlier version let it be trained on; copies are said.
    dealt, source = load_data(dataclasses.replace(data, allow_copies=True), config.seed, disk=disk)
    if sources.fingerprint(source) != run.fingerprint:
        raise UserError(
            f"{folder} was trained on other images than data set {data.data!r} in {data.data_dir} now holds"
        )
    if aux is not None:
        dealt = dealt._replace(auxiliary=_other_auxiliary(aux, dealt, source, data))
    recipe = classifier.recipe_for(config, run.num_classes, run.channels)
    mesh = parallel.data_mesh()
    loaded = runs.Checkpoints(run).best(abstract_state(recipe, run.channels, mesh))
    if loaded is None:
        raise UserError(
            f"{folder} has no checkpoint yet; train it with python -m gpz_jax.train --run {folder} --resume"
        )
    for note in loaded.notes:
        say(note)
    network = classifier.network_for(recipe, run.channels)
    return LoadedRun(run, network, recipe, loaded.state.variables, dealt, source, mesh, loaded.epoch)


def _other_auxiliary(aux: str, dealt: Splits, source: sources.Source, data: DataConfig) -> Split:
    """Other images for the attacker, who must not get one that the target was trained on."""
    asked, chosen = resolve_auxiliary(dataclasses.replace(data, aux=aux))
    if chosen:
        say(chosen)
    if asked.aux == data.aux:
        return dealt.auxiliary
    if asked.aux is None and source.aux_images is None:
        raise UserError(
            f"no part of {data.data!r} was held out in training (the attacker's images were {data.aux!r}), so the "
            "attacker would hold the target's own; train a run with --aux held-out"
        )
    theirs = None if asked.aux is None else load_auxiliary(asked)
    images, notes = attackers_images(source, theirs, allow_copies=data.allow_copies or None)
    copies = copies_said(dealt._replace(auxiliary=images), source.name, allow=True)
    for note in (*notes, *(note for note in copies if note not in dealt.notes)):
        say(note)
    return images


def _check_identity(run: Run, expected: RunIdentity) -> None:
    known = {**dataclasses.asdict(run.config.data), **vars(run.config.model), **vars(run.config.training)}
    wrong = [
        f"--{name} {known[name]} (not {value})"
        for name, value in dataclasses.asdict(expected).items()
        if value is not None and value != known[name]
    ]
    if wrong:
        raise UserError(f"{run.folder} holds a run of another configuration: {'; '.join(wrong)}")


def report_accuracy(loaded: LoadedRun) -> float:
    """Say and return the accuracy on the test images (the run's best epoch by validation)."""
    alpha = loaded.run.config.training.ls
    found = classifier.evaluate(loaded.variables, loaded.splits.test, alpha, recipe=loaded.recipe, mesh=loaded.mesh)
    torch = loaded.run.from_torch
    weights = f"weights of {torch.get('file')}" if torch else f"epoch {loaded.epoch} (best by validation)"
    say(
        f"{loaded.run.folder.name}, {weights}: test accuracy {found['accuracy']:.4f} on {len(loaded.splits.test)} "
        f"images, output entropy {found['output_entropy']:.3f} nats"
    )
    return found["accuracy"]
