"""Train a sweep, several seeds under several alphas at once: each an ordinary run folder, and one record of all."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Console

from gpz_jax import parallel, presentation, processes, runs
from gpz_jax.analysis.radius import measure, summarise
from gpz_jax.config import Config, resolve
from gpz_jax.data import sources
from gpz_jax.errors import UserError
from gpz_jax.reporting.tables import Column, Sheet
from gpz_jax.runs.folder import Run
from gpz_jax.training import classifier, sweep
from gpz_jax.training.placements import Asked
from gpz_jax.workflow.clock import Every
from gpz_jax.workflow.common import abstract_state, load_data, probe_batches, say, short
from gpz_jax.workflow.image_placement import place_images, stays_on_disk
from gpz_jax.workflow.loaded_run import LoadedRun
from gpz_jax.workflow.train_command import check_trainable, on_this_machine, with_auxiliary_of_run
from gpz_jax.workflow.training_loop import Dealt, Task, train_into


class Sweep(NamedTuple):
    """Runs that were trained in one sweep: their folder, and each at its best epoch by validation, seed after seed."""

    folder: Path
    runs: tuple[LoadedRun, ...]


def train_sweep(
    config: Config,
    *,
    seeds: Sequence[int] = (),
    alphas: Sequence[float] = (),
    how: Literal["auto", "vmap", "loop"] = "auto",
    folder: str | None = None,
    resume: bool = False,
    checkpoint_every: str | None = None,
    images: Asked = "auto",
) -> Sweep:
    """Train every seed under every alpha, all at once.

    Args:
      config: what to train; resolved here.
      seeds: in place of ``config.seed``.
      alphas: label smoothing, in place of ``config.training.ls``.
      how: "vmap" for one program that takes a step of all runs, "loop" for a step of each in turn, "auto" for the
        faster of the two on this machine.
      folder: holds the run folders (``ls0.3-seed0`` and so on) and ``dynamics.zarr``, the record of all of them; None
        for ``runs/`` and a readable name.
      resume: continue from the last place of which all runs have a checkpoint.
      checkpoint_every: as for :func:`gpz_jax.workflow.train_run`.
      images: likewise.

    Returns:
      The runs.

    Raises:
      UserError: what :func:`gpz_jax.workflow.train_run` refuses; a seed or alpha given twice; seeds with training
        splits of different sizes; a folder with other runs; a loss of any run that is not finite.
    """
    every = None if checkpoint_every is None else Every.parse(checkpoint_every)
    seeds, alphas = tuple(seeds) or (config.seed,), tuple(alphas) or (config.training.ls,)
    configs, root = _settle(config, seeds, alphas, folder, resume)
    dealt = _deal(configs[0], seeds, stays_on_disk(images))
    first = dealt[configs[0].seed].splits
    channels, num_classes = first.train.images.shape[-1], first.num_classes
    network = classifier.network_for(classifier.recipe_for(configs[0], num_classes, channels), channels)
    # Before any folder is made, as in train_run.
    _check_sizes(configs[0], dealt)
    check_trainable(configs[0], first, network, parallel.data_mesh())
    train = [dealt[one.seed].splits.train for one in configs]
    files = dict.fromkeys(stamp for one in dealt.values() for stamp in one.source.files)
    placement = place_images(images, train, list(files), parallel.data_mesh())
    if folder is None and not resume:
        root = Path(processes.told(processes.led(lambda: str(runs.made_free(root)))))
    tasks = [_task(root, one, dealt[one.seed]) for one in configs]
    processes.every(lambda: _check_folders(root, [task.run for task in tasks], resume))
    with contextlib.ExitStack() as held:
        for path in (root, *(task.run.folder for task in tasks)):
            held.enter_context(runs.owned(path))
        # Again: another process may have begun there meanwhile.
        processes.every(lambda: _check_folders(root, [task.run for task in tasks], resume))
        processes.led(lambda: [runs.write_config(task.run) for task in tasks])
        runs.push(root.absolute())
        say(f"{len(tasks)} run folders in {short(root.absolute())}")
        train_into(tasks, how=sweep.how_to(how), resume=resume, checkpoint_every=every, placement=placement)
        processes.led(lambda: _write_joint_record(root, [task.run for task in tasks], seeds, alphas))
        runs.push(root.absolute())
    return Sweep(root.absolute(), tuple(_best(task.run, dealt[task.run.config.seed]) for task in tasks))


def _task(root: Path, config: Config, dealt: Dealt) -> Task:
    folder, splits = (root / runs.member_name(config)).absolute(), dealt.splits
    channels, names = splits.train.images.shape[-1], dealt.source.class_names
    run = Run(folder, config, dealt.fingerprint, splits.num_classes, channels, class_names=names)
    return Task(run, splits)


def _settle(
    config: Config, seeds: Sequence[int], alphas: Sequence[float], folder: str | None, resume: bool
) -> tuple[list[Config], Path]:
    """The resolved configuration of every run, and the folder that holds them."""
    for flag, values in (("--seeds", seeds), ("--alphas", alphas)):
        names = [f"{value + 0:g}" for value in values]  # as in the folders' names, but -0 is 0
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{flag} {twice[0]} is given twice; every run is trained once")
    named = on_this_machine(dataclasses.replace(config, data=dataclasses.replace(config.data, aux="held-out")))
    root = Path(folder) if folder else Path("runs") / f"{runs.network_name(named)}-sweep"

    def of_all(config: Config) -> list[Config]:
        made = []
        for alpha in alphas:
            training = dataclasses.replace(config.training, ls=alpha + 0.0)  # each gets a warm-up of its own
            made += [resolve(dataclasses.replace(config, training=training, seed=seed)) for seed in seeds]
        return made

    first = root / runs.member_name(of_all(config)[0])
    if resume and config.data.aux == "auto":
        config = with_auxiliary_of_run(config, str(first))
    return of_all(on_this_machine(config)), root


def _deal(config: Config, seeds: Sequence[int], disk: bool | None) -> dict[int, Dealt]:
    """The images, dealt out by every seed; where these load the same arrays, all of them share one copy."""
    dealt: dict[int, Dealt] = {}
    said: dict[str, None] = {}
    for seed in seeds:
        own, source = load_data(config.data, seed, disk=disk, tell=said.setdefault)
        found = Dealt(own, source, sources.fingerprint(source))
        if dealt and found.fingerprint == (known := dealt[seeds[0]]).fingerprint:
            parts = {
                name: dataclasses.replace(getattr(known.splits, name), indices=getattr(own, name).indices)
                for name in ("train", "validation", "auxiliary", "test")
            }
            found = Dealt(own._replace(**parts), known.source, known.fingerprint)
        dealt[seed] = found
    for note in said:  # most of it is the same for every seed
        say(note)
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


def _check_folders(root: Path, made: Sequence[Run], resume: bool) -> None:
    """Raise :class:`UserError` unless all runs can be begun, or with ``resume`` gone on with; writes nothing."""
    there = sorted(root.iterdir()) if root.is_dir() else []
    there = [path for path in there if not runs.is_passing(path.name) and _holds(path)]
    if there and not resume:
        raise UserError(f"{root} is not empty; continue what it holds with --resume or choose another with --run")
    if (root / "config.json").exists():
        raise UserError(f"{root} is the folder of a single run; choose another with --run")
    names = [run.folder.name for run in made]
    others = [path.name for path in there if (path / "config.json").exists() and path.name not in names]
    if others:
        raise UserError(
            f"{root} also holds {', '.join(others)}; give all of its --seeds and --alphas, or choose another with --run"
        )
    for run in made:
        runs.check_folder(run, resume=resume)
    newest = [max(runs.saved_epochs(run.folder / "checkpoints"), default=0) for run in made]
    if max(newest) > 1 and not min(newest):  # a kill between their saves leaves them one epoch apart
        raise UserError(
            f"{names[newest.index(0)]} has no checkpoint, {names[int(np.argmax(newest))]} one of epoch {max(newest)}: "
            "they cannot go on together; train what is new in another folder (--run)"
        )


def _holds(path: Path) -> bool:
    """Whether there is more than the lock of a folder that is just being made."""
    return not path.is_dir() or any(not runs.is_passing(entry.name) for entry in path.iterdir())


def _write_joint_record(root: Path, made: Sequence[Run], seeds: Sequence[int], alphas: Sequence[float]) -> None:
    """dynamics.zarr of all runs: their own groups, with two more dims, alpha and seed."""
    folder = runs.dynamics_store(root)
    if all(runs.read_metrics(run, lambda why: None) for run in made):  # else someone took metrics.jsonl away
        runs.write_zarr(joint([runs.epochs(run, lambda why: None) for run in made], seeds, alphas), folder / "epochs")
    if made[0].config.track.track_every is not None:
        records = [runs.read_steps(run.folder) for run in made]
        runs.write_zarr(joint(records, seeds, alphas), folder / "steps")


def joint(records: Sequence[Any], seeds: Sequence[int], alphas: Sequence[float]):
    """The runs' records as one ``xarray.Dataset`` with two more dims, alpha and seed.

    A variable ``alpha`` (the one in force, which is 0 while warming up) is called ``smoothing`` in it.

    Args:
      records: one a run, seed after seed for each alpha.
      seeds: of the runs.
      alphas: of the runs.
    """
    import xarray as xr

    def along(name: str, values: Sequence[int] | Sequence[float], parts: Sequence[Any]):
        own = [name for name in ("count",) if name in parts[0].coords]  # of each seed's probe batch
        return xr.concat(
            parts, xr.DataArray(list(values), dims=name, name=name), data_vars="all", coords=own, compat="equals",
            join="outer", combine_attrs="drop_conflicts",
        )  # fmt: skip

    named = [record.rename(alpha="smoothing") for record in records]
    count = len(seeds)
    of_alpha = [along("seed", seeds, named[i : i + count]) for i in range(0, len(named), count)]
    return along("alpha", alphas, of_alpha)


def _best(run: Run, dealt: Dealt) -> LoadedRun:
    """A run as ``load_run`` would open it."""
    recipe, mesh = classifier.recipe_for(run.config, run.num_classes, run.channels), parallel.data_mesh()
    loaded = runs.Checkpoints(run).best(abstract_state(recipe, run.channels, mesh))
    assert loaded is not None
    network = classifier.network_for(recipe, run.channels)
    return LoadedRun(run, network, recipe, loaded.state.variables, dealt.splits, dealt.source, mesh, loaded.epoch)


def report_sweep(trained: Sweep, console: Console) -> None:
    """Print a table of the runs, measured on the test images, and say where they are."""
    rows = [_row(loaded) for loaded in trained.runs]
    heads = ("alpha", "seed", "epoch", "accuracy", "R_c^2", "rho")
    console.print(
        Sheet(
            f"{trained.folder.name}: {len(rows)} runs, on the test images",
            [Column(head, cells) for head, cells in zip(heads, zip(*rows, strict=True), strict=True)],
            "epoch: best by validation; R_c^2 within-class radius and rho = W/(W+B), at the logits",
        )
    )
    say(f"each is a run folder: python -m gpz_jax.probe {short(trained.runs[0].run.folder)}")


def _row(loaded: LoadedRun) -> tuple[str, ...]:
    """Alpha, seed, epoch, accuracy, R_c² and rho of a run."""
    training, test, cut = loaded.run.config.training, loaded.splits.test, loaded.network.cuts[-1]
    found = classifier.evaluate(loaded.variables, test, training.ls, recipe=loaded.recipe, mesh=loaded.mesh)
    batches = probe_batches(test, loaded.recipe, loaded.mesh)
    at = summarise(measure(loaded.network, loaded.variables, batches, loaded.run.num_classes))[cut]
    numbers = map(presentation.number, (found["accuracy"], float(at.within), float(at.rho)))
    return (f"{training.ls:g}", str(loaded.run.config.seed), str(loaded.epoch), *numbers)
