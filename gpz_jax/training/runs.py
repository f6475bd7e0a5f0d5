"""The run folder: what a run writes, and how it is read again. Nothing in it is a pickle.

runs/NAME/
  config.json       everything resolved: settings, versions of the packages, fingerprint of the data, classes, channels
  metrics.jsonl     one line an epoch, and the radius of every cut after it
  dynamics.zarr     labelled, for xarray: group "epochs" (the same; epoch x layer x class) and, of a run with
                    --track-every, group "steps" (step x layer x class, see dynamics.py)
  checkpoints/      Orbax, one folder an epoch: the last two and the best
  probe/            a table and a labelled record for every probe
  attacks/          one folder a cut and decoder
  figures/

Runs trained together lie in one folder, NAME/ls0.3-seed0/ and so on, each a run folder as above; beside them
NAME/dynamics.zarr holds the groups of all of them, with two more dims, alpha and seed.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpz_jax.config import Config, from_mapping
from gpz_jax.errors import UserError
from gpz_jax.training.classifier import State

_PACKAGES = ("gpz-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "dm-pix")


class Run(NamedTuple):
    """A run folder and what its config.json says; ``imported``: of the file that its weights were read from, if so."""

    folder: Path
    config: Config
    fingerprint: str
    num_classes: int
    channels: int
    imported: dict[str, Any] | None = None

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line, one line an epoch."""
        return self.folder / "metrics.jsonl"

    def subfolder(self, *names: str) -> Path:
        """A folder inside the run folder, made if it is not there."""
        return make_folder(self.folder.joinpath(*names))


def make_folder(folder: Path) -> Path:
    """Make a folder and its parents. Raises :class:`UserError` if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("not writable")
    except OSError as error:
        raise UserError(
            f"cannot write to folder {folder}: {error.strerror or error}; choose another with --run"
        ) from None
    return folder


def readable_name(config: Config) -> str:
    """``digits-cnn16-ls0.3-seed0``: what a run is, at a glance."""
    return f"{network_name(config)}-{member_name(config)}"


def member_name(config: Config) -> str:
    """``ls0.3-seed0``: what tells a run from those that are trained together with it."""
    return f"ls{config.training.ls:g}-seed{config.seed}"


def network_name(config: Config) -> str:
    """``digits-cnn16``: data set and network."""
    data, model = config.data.data.replace("/", "_"), config.model
    width = f"-w{model.width}" if model.model[-1:].isdigit() else f"{model.width}"
    depth = f"-d{model.depth:g}" if model.depth != 1 else ""
    return f"{data}-{model.model}{width}{depth}"


def start(
    config: Config,
    *,
    folder: str | None,
    resume: bool,
    fingerprint: str,
    num_classes: int,
    channels: int,
    imported: dict[str, Any] | None = None,
) -> Run:
    """A new run folder, or with ``resume`` the one that is there.

    Args:
      config: the resolved configuration.
      folder: where; ``None`` for ``runs/`` and a readable name (numbered if that is taken, unless resuming).
      resume: continue what is in the folder; if there is nothing, start.
      fingerprint: of the data, as ``sources.fingerprint`` gives it.
      num_classes: K.
      channels: of the images.
      imported: what is known of the file that the weights were read from; None for a run that is trained here.

    Raises:
      UserError: the folder holds a run and ``resume`` is off; it holds a run of another configuration or other
        images; it cannot be written.
    """
    path = Path(folder) if folder else Path("runs") / readable_name(config)
    if folder is None and not resume:
        path = free(path)
    run = Run(path.absolute(), config, fingerprint, num_classes, channels, imported)
    check_folder(run, resume=resume)
    write_config(run)
    return run


def check_folder(run: Run, *, resume: bool) -> None:
    """Raise :class:`UserError` unless the folder can be begun, or gone on with, as :func:`start` says."""
    path = run.folder
    if (path / "config.json").exists():
        if not resume:
            raise UserError(
                f"{path} already holds a run; continue it with --resume or choose another folder with --run"
            )
        _check_same(open_run(path), run)
    elif path.exists() and path.is_dir() and any(path.iterdir()):
        raise UserError(
            f"{path} is not empty and holds no config.json, so it is no run folder; choose another with --run"
        )


def write_config(run: Run) -> None:
    """Make the run's folder and write its config.json."""
    make_folder(run.folder)
    write_json(
        run.folder / "config.json",
        {
            "config": dataclasses.asdict(run.config),
            "fingerprint": run.fingerprint,
            "num_classes": run.num_classes,
            "channels": run.channels,
            "versions": {name: _version(name) for name in _PACKAGES},
            "devices": [str(device) for device in jax.devices()],
            "imported": run.imported,
        },
    )


def open_run(folder: str | Path) -> Run:
    """Read a run folder's config.json. Raises :class:`UserError` if it is not a run folder."""
    path = Path(folder)
    file = path / "config.json"
    if not file.is_file():
        known = sorted(str(p.parent) for p in path.parent.glob("*/config.json")) if path.parent.is_dir() else []
        hint = f"; runs beside it: {', '.join(known[:5])}" if known else "; make one with python -m gpz_jax.train"
        raise UserError(f"{path} is not a run folder (no config.json){hint}")
    try:
        written = json.loads(file.read_text())
        config = from_mapping(Config, written["config"], where=str(file))
        fields = (str(written["fingerprint"]), int(written["num_classes"]), int(written["channels"]))
        imported = written.get("imported")
        imported = None if imported is None else dict(imported)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read ({type(error).__name__}: {error}); is it a gpz_jax run?") from None
    return Run(path.absolute(), config, *fields, imported)


def differences(ours: Config, theirs: Config) -> list[str]:
    """What two configurations differ in, one ``name ours (not theirs)`` each; where the data lie does not count."""
    found = []
    for section in ("data", "model", "training", "track"):
        a, b = getattr(ours, section), getattr(theirs, section)
        for field in dataclasses.fields(a):
            x, y = getattr(a, field.name), getattr(b, field.name)
            if field.name != "data_dir" and x != y:
                found.append(f"{field.name.replace('_', '-')} {x} (not {y})")
    if ours.seed != theirs.seed:
        found.append(f"seed {ours.seed} (not {theirs.seed})")
    return found


def _check_same(old: Run, new: Run) -> None:
    if old.imported and not new.imported:
        raise UserError(
            f"{old.folder} holds weights read from {old.imported.get('file')}, no training; probe or attack it, make "
            "it anew with --from-torch FILE --resume, or choose another folder with --run"
        )
    if new.imported and not old.imported:
        raise UserError(f"{old.folder} holds a trained run, none of imported weights; choose another folder with --run")
    if old.imported and new.imported and old.imported.get("sha256") != new.imported["sha256"]:
        theirs, ours = str(old.imported.get("sha256"))[:12], new.imported["sha256"][:12]
        raise UserError(
            f"{old.folder} was made of another file ({old.imported.get('file')}, SHA-256 {theirs}…, not {ours}…); "
            "choose another folder with --run"
        )
    longer = dataclasses.replace(
        old.config.training,
        epochs=max(old.config.training.epochs, new.config.training.epochs),
        warmup_epochs=old.config.training.warmup_epochs,
    )
    if found := differences(dataclasses.replace(old.config, training=longer), new.config):
        raise UserError(
            f"{old.folder} holds a run of another configuration: {'; '.join(found)}; "
            "resume it with its own flags or choose another folder with --run"
        )
    if old.fingerprint != new.fingerprint:
        raise UserError(f"{old.folder} was trained on other images than --data {new.config.data.data} now holds")


def free(path: Path) -> Path:
    """The path, numbered if it is taken."""
    number, found = 2, path
    while found.exists():
        found, number = path.with_name(f"{path.name}-{number}"), number + 1
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def write_json(file: Path, value: Any) -> None:
    """Write JSON so that a reader never sees half of it."""
    _write_atomically(file, json.dumps(value, indent=2))


def _write_atomically(file: Path, text: str) -> None:
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text)
    partial.replace(file)


# Metrics -------------------------------------------------------------------------------------------------------------


def append_metrics(run: Run, record: dict[str, Any]) -> None:
    """Add one line to metrics.jsonl; on disk before this returns."""
    with run.metrics_file.open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_metrics(run: Run) -> list[dict[str, Any]]:
    """The epochs of metrics.jsonl; a last line cut short by a crash is left out."""
    if not run.metrics_file.exists():
        return []
    records = []
    for line in run.metrics_file.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def keep_epochs(run: Run, epochs: int) -> None:
    """Drop what metrics.jsonl says of epochs after ``epochs``: a resumed run will write them again."""
    kept = [record for record in read_metrics(run) if record["epoch"] <= epochs]
    _write_atomically(run.metrics_file, "".join(json.dumps(record) + "\n" for record in kept))


def epochs(run: Run):
    """The radius of every cut and class after every epoch, as an ``xarray.Dataset`` (epoch x layer x class)."""
    import xarray as xr

    records = read_metrics(run)
    cuts = list(records[0]["cuts"]) if records else []

    def stack(name: str) -> np.ndarray:
        return np.array([[record["cuts"][cut][name] for cut in cuts] for record in records], np.float64)

    scalars = [key for key in (records[0] if records else {}) if key not in ("epoch", "cuts")]
    return xr.Dataset(
        {
            "radius": (
                ("epoch", "layer", "class"),
                stack("radius"),
                {"long_name": "R_c^2", "units": "squared units of z"},
            ),
            "within": (("epoch", "layer"), stack("within"), {"long_name": "within-class scatter W"}),
            "share": (("epoch", "layer"), stack("share"), {"long_name": "rho = W / (W + B)", "units": "1"}),
            **{name: ("epoch", np.array([record[name] for record in records], np.float64)) for name in scalars},
        },
        coords={
            "epoch": [record["epoch"] for record in records],
            "layer": cuts,
            "class": np.arange(run.num_classes),
            "dimension": ("layer", [records[0]["cuts"][cut]["dimension"] for cut in cuts] if records else []),
        },
        attrs={"split": "validation", "labels": "true"},
    )


def write_epochs(run: Run):
    """Write :func:`epochs` to the run's dynamics.zarr, beside its steps if it has any; returns the ``Dataset``."""
    record = epochs(run)
    write_zarr(record, dynamics_store(run.folder) / "epochs")
    return record


def dynamics_store(folder: Path) -> Path:
    """A folder's dynamics.zarr, made if it is not there: the root of its groups, so that they open as one tree."""
    import zarr

    store = make_folder(folder / "dynamics.zarr")
    zarr.open_group(str(store), mode="a")
    return store


def write_zarr(dataset, folder: Path) -> None:
    """Write an ``xarray.Dataset`` so that a reader never sees half of it."""
    import shutil

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with warnings.catch_warnings():
        # zarr 3 warns that neither its strings nor consolidated metadata are final; xarray reads what it wrote, and
        # without consolidated metadata it is a plain xr.open_zarr(folder) that warns.
        warnings.simplefilter("ignore")
        dataset.to_zarr(partial, mode="w")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


# Checkpoints ---------------------------------------------------------------------------------------------------------


class Loaded(NamedTuple):
    """A state read back, the epochs it has behind it, and what had to be said about the way there."""

    state: State
    epoch: int
    notes: tuple[str, ...]


class Checkpoints:
    """The run's checkpoints: the last two, and the best by validation accuracy (ties: by validation loss).

    Each carries a seal, the SHA-256 of its files and the shapes of its arrays: Orbax itself would load a flipped byte
    without a word, and answers what it cannot load with hundreds of lines on stderr. Its v1 API is still marked
    experimental; this is the only place that uses it.
    """

    def __init__(self, run: Run):
        self._folder = run.subfolder("checkpoints")
        self._writer: Any = None
        self._under_way: tuple[int, dict[str, str], Any] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self._finish()
        if self._writer is not None:
            self._writer.close()

    def save(self, epoch: int, state: State, *, accuracy: float, loss: float, candidate: bool) -> None:
        """Save the state after ``epoch`` epochs; ``candidate`` for the best (not while warming up).

        The files are written while the next epoch trains; a kill meanwhile costs that epoch, no more.
        """
        self._finish()
        if self._writer is None:
            self._writer = self._open_writer()
        metrics: Any = {"accuracy": accuracy, "loss": loss} if candidate else None
        state = jax.tree.map(jnp.copy, state)  # the next step donates the original
        response = self._writer.save_async(epoch, state, metrics=metrics, overwrite=True)
        self._under_way = (epoch, _shapes(state), response)

    def _finish(self) -> None:
        """Wait for the checkpoint that is being written, and seal it."""
        if self._under_way is None:
            return
        (epoch, shapes, response), self._under_way = self._under_way, None
        response.result()
        folder = self._folder / str(epoch)
        write_json(folder / _SEAL, {"files": _hashes(folder), "arrays": shapes})

    def _open_writer(self) -> Any:
        from orbax.checkpoint import v1 as ocp

        policies = ocp.training.preservation_policies
        best: Any = policies.BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False)  # pyright: ignore
        keep: Any = policies.AnyPreservationPolicy([policies.LatestN(2), best])
        return ocp.training.Checkpointer(str(self._folder), preservation_policy=keep)

    def _steps(self) -> list[int]:
        self._finish()
        return saved_epochs(self._folder)

    def discard_damaged(self) -> list[int]:
        """Remove damaged checkpoints and return their epochs: at every save Orbax reads the metrics of all."""
        import shutil

        damaged = [step for step in self._steps() if _damage(self._folder / str(step), None) is not None]
        for step in damaged:
            shutil.rmtree(self._folder / str(step))
        return damaged

    def discard_after(self, epoch: int) -> None:
        """Remove the checkpoints of later epochs: training goes on from that one and will write them again."""
        import shutil

        for step in self._steps():
            if step > epoch:
                shutil.rmtree(self._folder / str(step))

    def latest(self, abstract: State, *, up_to: int | None = None) -> Loaded | None:
        """The last checkpoint (of those ``up_to`` an epoch) that can be read, or None if there is none at all."""
        steps = self._steps()[::-1]
        return self._first_readable([step for step in steps if up_to is None or step <= up_to], abstract)

    def best(self, abstract: State) -> Loaded | None:
        """The best checkpoint by validation that can be read, or None if there is none at all."""
        ranks = {step: _rank_of(self._folder / str(step)) for step in self._steps()}
        return self._first_readable(sorted(ranks, key=lambda step: (ranks[step], step), reverse=True), abstract)

    def _first_readable(self, steps: Iterable[int], abstract: State) -> Loaded | None:
        from orbax.checkpoint import v1 as ocp

        notes: list[str] = []
        for step in steps:
            why = _damage(self._folder / str(step), abstract)
            if why is None:
                try:
                    return Loaded(ocp.load(str(self._folder / str(step)), abstract), step, tuple(notes))
                except Exception as error:  # whatever Orbax makes of what it cannot read: another is tried
                    why = _brief(error)
            notes.append(f"checkpoint of epoch {step} cannot be read ({why}); falling back to another")
        if notes:
            why = notes[0].removesuffix("; falling back to another")
            raise UserError(f"no checkpoint in {self._folder} can be read: {why}; train the run again")
        return None


def latest_of_all(checkpoints: Sequence[Checkpoints], abstract: State) -> list[Loaded] | None:
    """Every run's checkpoint of the last epoch of which all of them can be read; None if there is no such epoch."""
    up_to = None
    while True:
        loaded = [one.latest(abstract, up_to=up_to) for one in checkpoints]
        found = [one for one in loaded if one is not None]
        if len(found) < len(loaded):
            return None
        up_to = min(one.epoch for one in found)
        if all(one.epoch == up_to for one in found):
            return found


def saved_epochs(folder: Path) -> list[int]:
    """Epochs of the checkpoints in a folder, whole or not, in order; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdecimal())


_SEAL = "seal.json"


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder but the seal itself."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _SEAL:
            with path.open("rb") as opened:
                hashes[str(path.relative_to(folder))] = hashlib.file_digest(opened, "sha256").hexdigest()
    return hashes


def _shapes(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype} {list(leaf.shape)}" for path, leaf in leaves}


def _damage(folder: Path, abstract: State | None) -> str | None:
    """What is wrong with a checkpoint: its files, or that it is of another state than ``abstract``; None if nothing."""
    try:
        seal = json.loads((folder / _SEAL).read_text())
        sealed, theirs = dict(seal["files"]), dict(seal["arrays"])
    except FileNotFoundError:
        return None  # killed just after the save; Orbax makes a checkpoint appear whole or not at all
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{_SEAL} is damaged"
    there = _hashes(folder)  # of the files that are there: a path that a file names is not followed
    for name, digest in sealed.items():
        if there.get(name) != digest:
            return f"{name} is {'damaged' if name in there else 'missing'}"
    ours = theirs if abstract is None else _shapes(abstract)
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            return f"{name} is {theirs.get(name, 'not in it')}, by config.json it is {ours.get(name, 'not in it')}"
    return None


def _rank_of(folder: Path) -> tuple[float, float]:
    """What :func:`_rank` says of a checkpoint; one without metrics (saved while warming up) comes last."""
    if not (folder / "metrics").is_dir():
        return (-math.inf, -math.inf)
    try:
        return _rank(json.loads((folder / "metrics" / "metrics").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return (math.inf, math.inf)  # damaged: to be tried, and found out, before another is called the best


def save_tree(folder: Path, tree: Any) -> None:
    """Save a pytree of arrays (an attacker's decoder) with Orbax; replaces what is there."""
    import shutil

    from orbax.checkpoint import v1 as ocp

    shutil.rmtree(folder, ignore_errors=True)
    ocp.save(str(folder.absolute()), tree)


def _rank(metrics: Any) -> tuple[float, float]:
    return (metrics["accuracy"], -metrics["loss"])


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}"
