"""Train several seeds, and several alphas, together: every member an ordinary run folder, and one record of all."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from gpz_jax import parallel, presentation, runs
from gpz_jax.analysis.radius import measure, summarise
from gpz_jax.config import Config, resolve
from gpz_jax.data import sources, splits
from gpz_jax.data.splits import Splits
from gpz_jax.errors import UserError
from gpz_jax.runs.folder import Run
from gpz_jax.training import classifier, sweep
from gpz_jax.workflow.common import abstract_state, load_data, probe_batches, progress_bar, say, short
from gpz_jax.workflow.loaded_run import LoadedRun
from gpz_jax.workflow.train_command import (
    Keeper,
    check_trainable,
    on_this_machine,
    open_ledger,
    with_auxiliary_of_run,
    write_record,
)


class Together(NamedTuple):
    """Runs that were trained together: their folder, and each at its best epoch by validation, seed after seed."""

    folder: Path
    members: tuple[LoadedRun, ...]


def train_together(
    config: Config,
    *,
    seeds: Sequence[int] = (),
    alphas: Sequence[float] = (),
    how: Literal["auto", "vmap", "loop"] = "auto",
    folder: str | None = None,
    resume: bool = False,
) -> Together:
    """Train every seed under every alpha, all at once.

    Args:
      config: what to train; resolved here.
      seeds: in place of ``config.seed``.
      alphas: label smoothing, in place of ``config.training.ls``.
      how: "vmap" for one program that takes a step of all members, "loop" for a step of each in turn, "auto" for the
        faster of the two on this machine.
      folder: holds the members' run folders (``ls0.3-seed0`` and so on) and ``dynamics.zarr``, the record of all of
        them; None for ``runs/`` and a readable name.
      resume: continue from the last epoch of which all members have a checkpoint.

    Returns:
      The members.

    Raises:
      UserError: what :func:`gpz_jax.workflow.train_run` refuses; a seed or alpha given twice; seeds with training
        splits of different sizes; a folder with other members; a loss of any member that is not finite.
    """
    seeds, alphas = tuple(seeds) or (config.seed,), tuple(alphas) or (config.training.ls,)
    how = sweep.how_to(how)
    configs, root = _settle(config, seeds, alphas, folder, resume)
    dealt = _deal(configs[0], seeds)
    parts = [dealt[member.seed].splits for member in configs]
    channels, num_classes = parts[0].train.images.shape[-1], parts[0].num_classes
    recipe = classifier.recipe_for(configs[0], num_classes, channels)
    network = classifier.network_for(recipe, channels)
    mesh = parallel.data_mesh()
    # Before any folder is made, as in train_run.
    _check_sizes(configs[0], dealt)
    check_trainable(configs[0], parts[0], network, mesh)
    members = [
        Run((root / runs.member_name(one)).absolute(), one, dealt[one.seed].fingerprint, num_classes, channels)
        for one in configs
    ]
    _check_folders(root, members, resume)
    for run in members:
        runs.write_config(run)
    say(f"{len(members)} run folders in {short(root.absolute())}")

    abstract = abstract_state(recipe, channels, mesh)
    epochs, steps = configs[0].training.epochs, len(parts[0].train) // recipe.batch_size
    with contextlib.ExitStack() as opened, progress_bar() as bar:
        checkpoints = [opened.enter_context(runs.Checkpoints(run)) for run in members]
        loaded = _loaded(members, checkpoints, abstract) if resume else None
        done = loaded[0].epoch if loaded else 0
        for run, saved in zip(members, checkpoints, strict=True):
            for epoch in saved.discard_damaged():
                say(f"{run.folder.name}: the damaged checkpoint of epoch {epoch} is removed")
            saved.discard_after(done)
            runs.keep_epochs(run, done)
        if loaded:
            states = [one.state for one in loaded]
            say(f"continuing after epoch {done} of {epochs}, the last that all members have behind them")
        else:
            states = [classifier.init_state(jax.random.key(one.seed), recipe, channels) for one in configs]
        keepers, books = [], []
        for run, saved, part in zip(members, checkpoints, parts, strict=True):
            tracked = splits.balanced_subset(part.validation, run.config.training.track_size, seed=run.config.seed)
            keepers.append(Keeper(run, saved, network, tracked, mesh))
        if configs[0].track.track_every is not None:
            books = [
                open_ledger(run, part, network, recipe, mesh, keep_steps=done * steps)
                for run, part in zip(members, parts, strict=True)
            ]
        task = bar.add_task("training", total=epochs * steps, completed=done * steps)

        def after_epoch(epoch: int, states: list[classifier.State], measured: list[dict[str, float]]) -> None:
            for book in books:
                book.flush()  # before the checkpoints, so that no step behind them is missing
            for keeper, state, found in zip(keepers, states, measured, strict=True):
                keeper.keep(epoch, state, found)
            reached = [found["validation_accuracy"] for found in measured]
            bar.update(
                task,
                description=f"epoch {epoch}/{epochs} of {len(members)} runs  "
                f"validation accuracy {min(reached):.3f} to {max(reached):.3f}",
            )

        sweep.fit(
            states,
            recipe=recipe,
            configs=configs,
            train=[part.train for part in parts],
            validation=[part.validation for part in parts],
            mesh=mesh,
            how=how,
            after_epoch=after_epoch,
            on_step=lambda epoch, step: bar.update(task, completed=epoch * steps + step + 1),
            on_update=sweep.note_all(books, how) if books else None,
            first_epoch=done,
        )
    for run in members:
        write_record(run)
    _write_joint_record(root, members, seeds, alphas)
    return Together(root.absolute(), tuple(_best(run, dealt[run.config.seed]) for run in members))


def _settle(
    config: Config, seeds: Sequence[int], alphas: Sequence[float], folder: str | None, resume: bool
) -> tuple[list[Config], Path]:
    """The resolved configuration of every member, and the folder that holds them."""
    for flag, values in (("--seeds", seeds), ("--alphas", alphas)):
        names = [f"{value + 0:g}" for value in values]  # as in the members' names, but -0 is 0
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{flag} {twice[0]} is given twice; every member is trained once")
    named = on_this_machine(dataclasses.replace(config, data=dataclasses.replace(config.data, aux="held-out")))
    root = Path(folder) if folder else Path("runs") / f"{runs.network_name(named)}-together"
    if folder is None and not resume:
        root = runs.free(root)

    def members(config: Config) -> list[Config]:
        made = []
        for alpha in alphas:
            training = dataclasses.replace(config.training, ls=alpha + 0.0)  # each gets a warm-up of its own
            made += [resolve(dataclasses.replace(config, training=training, seed=seed)) for seed in seeds]
        return made

    first = root / runs.member_name(members(config)[0])
    if resume and config.data.aux == "auto":
        config = with_auxiliary_of_run(config, str(first))
    return members(on_this_machine(config)), root


class Dealt(NamedTuple):
    """The images as one seed deals them out."""

    splits: Splits
    source: sources.Source
    fingerprint: str


def _deal(config: Config, seeds: Sequence[int]) -> dict[int, Dealt]:
    """The images, dealt out by every seed; where these load the same arrays, all of them share one copy."""
    dealt: dict[int, Dealt] = {}
    for seed in seeds:
        own, source = load_data(config.data, seed)
        found = Dealt(own, source, sources.fingerprint(source))
        if dealt and found.fingerprint == (known := dealt[seeds[0]]).fingerprint:
            parts = {
                name: dataclasses.replace(getattr(known.splits, name), indices=getattr(own, name).indices)
                for name in ("train", "validation", "auxiliary", "test")
            }
            found = Dealt(own._replace(**parts), known.source, known.fingerprint)
        dealt[seed] = found
    return dealt


def _check_sizes(config: Config, dealt: dict[int, Dealt]) -> None:
    """Raise :class:`UserError` where seeds have different numbers of images in what one step computes on."""
    sizes = {"training split": {seed: len(own.splits.train) for seed, own in dealt.items()}}
    if config.track.track_every is not None:
        probed = {seed: len(getattr(own.splits, config.track.track_split)) for seed, own in dealt.items()}
        sizes["probe batch"] = {seed: min(config.track.probe_size, size) for seed, size in probed.items()}
    for what, size in sizes.items():
        if len(set(size.values())) > 1:
            each = ", ".join(f"seed {seed}: {images}" for seed, images in size.items())
            raise UserError(
                f"the {what} has not the same number of images for all seeds ({each}), as happens where groups are "
                "dealt whole; train these seeds one by one with --seed"
            )


def _check_folders(root: Path, members: Sequence[Run], resume: bool) -> None:
    """Raise :class:`UserError` unless all members can be begun, or with ``resume`` gone on with; writes nothing."""
    there = sorted(root.iterdir()) if root.is_dir() else []
    if there and not resume:
        raise UserError(f"{root} is not empty; continue what it holds with --resume or choose another with --run")
    if (root / "config.json").exists():
        raise UserError(f"{root} is the folder of a single run; choose another with --run")
    names = [run.folder.name for run in members]
    others = [path.name for path in there if (path / "config.json").exists() and path.name not in names]
    if others:
        raise UserError(
            f"{root} also holds {', '.join(others)}; give all of its --seeds and --alphas, or choose another with --run"
        )
    for run in members:
        runs.check_folder(run, resume=resume)
    newest = [max(runs.saved_epochs(run.folder / "checkpoints"), default=0) for run in members]
    if max(newest) > 1 and not min(newest):  # a kill between members' saves leaves them one epoch apart
        raise UserError(
            f"{names[newest.index(0)]} has no checkpoint, {names[int(np.argmax(newest))]} one of epoch {max(newest)}: "
            "they cannot go on together; train what is new in another folder (--run)"
        )


def _loaded(
    members: Sequence[Run], checkpoints: Sequence[runs.Checkpoints], abstract: classifier.State
) -> list[runs.Loaded] | None:
    """The checkpoints to go on from; None to begin."""
    loaded = runs.latest_of_all(checkpoints, abstract)
    saved = [runs.saved_epochs(run.folder / "checkpoints") for run in members]
    if loaded is None and max((epoch for epochs in saved for epoch in epochs), default=0) > 1:
        each = "; ".join(f"{run.folder.name}: {epochs}" for run, epochs in zip(members, saved, strict=True))
        raise UserError(f"there is no epoch of which all members have a checkpoint ({each}); train them again")
    for run, one in zip(members, loaded or (), strict=loaded is not None):
        for note in one.notes:
            say(f"{run.folder.name}: {note}")
    return loaded


def _write_joint_record(root: Path, members: Sequence[Run], seeds: Sequence[int], alphas: Sequence[float]) -> None:
    """dynamics.zarr of all members: their own groups, with two more dims, alpha and seed."""
    folder = runs.dynamics_store(root)
    if all(map(runs.read_metrics, members)):  # else someone took metrics.jsonl away
        runs.write_zarr(joint([runs.epochs(run) for run in members], seeds, alphas), folder / "epochs")
    if members[0].config.track.track_every is not None:
        records = [runs.read_steps(run.folder) for run in members]
        runs.write_zarr(joint(records, seeds, alphas), folder / "steps")


def joint(records: Sequence[Any], seeds: Sequence[int], alphas: Sequence[float]):
    """Members' records as one ``xarray.Dataset`` with two more dims, alpha and seed.

    A variable ``alpha`` (the one in force, which is 0 while warming up) is called ``smoothing`` in it.

    Args:
      records: one a member, seed after seed for each alpha.
      seeds: of the members.
      alphas: of the members.
    """
    import xarray as xr

    def along(name: str, values: Sequence[int] | Sequence[float], parts: Sequence[Any]):
        own = [name for name in ("images_of_class",) if name in parts[0].coords]  # of each seed's probe batch
        return xr.concat(
            parts, xr.DataArray(list(values), dims=name, name=name), data_vars="all", coords=own, compat="equals",
            join="outer", combine_attrs="drop_conflicts",
        )  # fmt: skip

    named = [record.rename(alpha="smoothing") for record in records]
    count = len(seeds)
    of_alpha = [along("seed", seeds, named[i : i + count]) for i in range(0, len(named), count)]
    return along("alpha", alphas, of_alpha)


def _best(run: Run, dealt: Dealt) -> LoadedRun:
    """A member as ``load_run`` would open it."""
    recipe, mesh = classifier.recipe_for(run.config, run.num_classes, run.channels), parallel.data_mesh()
    with runs.Checkpoints(run) as checkpoints:
        loaded = checkpoints.best(abstract_state(recipe, run.channels, mesh))
    assert loaded is not None
    network = classifier.network_for(recipe, run.channels)
    return LoadedRun(run, network, recipe, loaded.state.variables, dealt.splits, dealt.source, mesh, loaded.epoch)


def report_members(trained: Together, console: Console) -> None:
    """Print a table of the members, measured on the test images, and say where they are."""
    table = Table(
        title=f"{trained.folder.name}: {len(trained.members)} runs, on the test images",
        caption="epoch: best by validation; R_c^2 within-class radius and rho = W/(W+B), at the logits",
    )
    for head in ("alpha", "seed", "epoch", "accuracy", "R_c^2", "rho"):
        table.add_column(head, justify="right")
    for member in trained.members:
        training, test, cut = member.run.config.training, member.splits.test, member.network.cuts[-1]
        found = classifier.evaluate(member.variables, test, training.ls, recipe=member.recipe, mesh=member.mesh)
        batches = probe_batches(test, member.mesh)
        at = summarise(measure(member.network, member.variables, batches, member.run.num_classes))[cut]
        numbers = (found["accuracy"], float(at.within), float(at.rho))
        cells = (f"{training.ls:g}", str(member.run.config.seed), str(member.epoch))
        table.add_row(*cells, *map(presentation.number, numbers))
    console.print(table)
    say(f"each is a run folder: python -m gpz_jax.probe {short(trained.members[0].run.folder)}")
