"""The run folder: what a run writes, and how it is read again. Nothing in it is a pickle.

runs/NAME/
  config.json       everything resolved: settings, versions of the packages, fingerprint of the data, classes and what
                    they are called, channels
  metrics.jsonl     one line an epoch, and the radius of every cut after it
  dynamics.zarr     labelled, for xarray: group "epochs" (the same; epoch x cut x class) and, of a tracked run, group
                    "steps" (step x cut x class, see steps.py)
  checkpoints/      Orbax, one folder an epoch: the last two and the best; 7+120 where epoch 8 was left at step 120
  probe/            a table and a labelled record for every probe
  attacks/          one folder a cut and decoder
  figures/
  aside/            what training fell back over, damaged or of later epochs; not read again
  owner.json        while a process is at work in the folder: which

The runs of a sweep lie in one folder, NAME/ls0.3-seed0/ and so on, each a run folder as above; beside them
NAME/dynamics.zarr holds the groups of all of them, with two more dims, alpha and seed.
"""

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from gpz_jax import processes
from gpz_jax.atomic import make_folder, write_json
from gpz_jax.config import Config
from gpz_jax.errors import UserError
from gpz_jax.json_files import read_json
from gpz_jax.presentation import is_text
from gpz_jax.runs.owner import another_in, is_passing, owned
from gpz_jax.runs.records import SCHEMA_VERSION, schema_of
from gpz_jax.runs.remote import push
from gpz_jax.runs.seals import with_check, without_check
from gpz_jax.settings_files import from_mapping

_PACKAGES = ("gpz-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "dm-pix")


#: Numbers in a config.json, and the most that they can be.
_MOST = {"num_classes": 10**6, "channels": 4096}


class Run(NamedTuple):
    """A run folder and what its config.json says.

    ``from_torch``: of the file that its weights were read from; ``class_names``: of classes 0 to K - 1, None where they
    are not known.
    """

    folder: Path
    config: Config
    fingerprint: str
    num_classes: int
    channels: int
    from_torch: dict[str, Any] | None = None
    class_names: tuple[str, ...] | None = None

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line, one line an epoch."""
        return self.folder / "metrics.jsonl"

    def subfolder(self, *names: str) -> Path:
        """A folder inside the run folder, made if it is not there.

        Raises:
          UserError: the run folder itself is not there any more, or cannot be written.
        """
        if not (self.folder / "config.json").is_file():
            raise UserError(f"{self.folder} was taken away, or its config.json was: nothing more can be kept in it")
        return make_folder(self.folder.joinpath(*names))


def readable_name(config: Config) -> str:
    """``digits-cnn16-ls0.3-seed0``: what a run is, at a glance."""
    return f"{network_name(config)}-{member_name(config)}"


def member_name(config: Config) -> str:
    """``ls0.3-seed0``: what tells a run from the others of its sweep."""
    return f"ls{config.training.ls:g}-seed{config.seed}"


def network_name(config: Config) -> str:
    """``digits-cnn16``: data set and network."""
    data, model = config.data.data.replace("/", "_"), config.model
    width = f"-w{model.width}" if model.model[-1:].isdigit() else f"{model.width}"
    depth = f"-d{model.depth:g}" if model.depth != 1 else ""
    return f"{data}-{model.model}{width}{depth}"


@contextlib.contextmanager
def start(
    config: Config,
    *,
    folder: str | None,
    resume: bool,
    fingerprint: str,
    num_classes: int,
    channels: int,
    from_torch: dict[str, Any] | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Iterator[Run]:
    """A new run folder, or with ``resume`` the one that is there; held while the context lasts (see ``owner.py``).

    Args:
      config: the resolved configuration.
      folder: where; ``None`` for ``runs/`` and a readable name (numbered if that is taken, unless resuming).
      resume: continue what is in the folder; if there is nothing, start.
      fingerprint: of the data, as ``sources.fingerprint`` gives it.
      num_classes: K.
      channels: of the images.
      from_torch: what is known of the file that the weights were read from; None for a run that is trained here.
      class_names: what the data call their classes.

    Raises:
      UserError: the folder holds a run and ``resume`` is off; it holds a run of another configuration or other
        images; it cannot be written; another process is at work in it.
    """
    path = Path(folder) if folder else Path("runs") / readable_name(config)
    if folder is None and not resume:
        path = Path(processes.told(processes.led(lambda: str(made_free(path)))))
    run = Run(path.absolute(), config, fingerprint, num_classes, channels, from_torch, class_names)
    processes.every(lambda: check_folder(run, resume=resume))
    with owned(run.folder):
        processes.every(lambda: check_folder(run, resume=resume))  # again: another may have begun there meanwhile
        processes.led(lambda: write_config(run))
        push(run.folder)
        yield run


def check_folder(run: Run, *, resume: bool) -> None:
    """Raise :class:`UserError` unless the folder can be begun, or gone on with, as :func:`start` says."""
    path = run.folder
    if (path / "config.json").exists():
        if not resume:
            if other := another_in(path):
                raise UserError(
                    f"{path} already holds a run, and {other} is at work in it; choose another folder with `run`",
                    field="run",
                )
            raise UserError(
                f"{path} already holds a run; continue it with `resume` or choose another folder with `run`",
                field=("resume", "run"),
            )
        _check_same(open_run(path), run)
    elif path.is_dir() and any(not is_passing(entry.name) for entry in path.iterdir()):
        raise UserError(
            f"{path} is not empty and holds no config.json, so it is no run folder; choose another with `run`",
            field="run",
        )


def write_config(run: Run) -> None:
    """Make the run's folder and write its config.json."""
    make_folder(run.folder)
    write_json(
        run.folder / "config.json",
        with_check(
            {
                "schema_version": SCHEMA_VERSION,
                "config": dataclasses.asdict(run.config),
                "fingerprint": run.fingerprint,
                "num_classes": run.num_classes,
                "class_names": None if run.class_names is None else list(run.class_names),
                "channels": run.channels,
                "versions": {name: _version(name) for name in _PACKAGES},
                "devices": [str(device) for device in jax.devices()],
                "from_torch": run.from_torch,
            }
        ),
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
        written = dict(_read_config(file))
        schema_of(written, file)
        written = without_check(written, file)
        config = from_mapping(Config, written["config"], where=str(file))
        num_classes, channels = (_count(written[name], most, name) for name, most in _MOST.items())
        fields = (str(written["fingerprint"]), num_classes, channels)
        from_torch = written.get("from_torch", written.get("imported"))  # the latter in 0.1.0
        from_torch = None if from_torch is None else dict(from_torch)
        class_names = _class_names(written.get("class_names"), num_classes)  # runs of before have none
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read ({type(error).__name__}: {error}); is it a gpz_jax run?") from None
    return Run(path.absolute(), config, *fields, from_torch, class_names)


def _read_config(file: Path) -> Any:
    """Raises :class:`UserError` that says what the rest of the folder is worth without it."""
    try:
        return read_json(file)
    except UserError as error:
        raise UserError(
            f"{error}; without it nothing of the run can be read: bring it back from a copy, or train anew elsewhere"
        ) from None


def _count(written: Any, most: int, name: str) -> int:
    """A number of things in a config.json; ``ValueError`` for one that no network could have."""
    if type(written) is not int or not 1 <= written <= most:
        raise ValueError(f"{name} must be a number from 1 to {most:,}")
    return written


def _class_names(written: Any, num_classes: int) -> tuple[str, ...] | None:
    """The names in a config.json, one a class; ``ValueError`` for anything else."""
    if written is None:
        return None
    if not isinstance(written, list) or len(written) != num_classes:
        raise ValueError(f"class_names must be {num_classes} names")
    if not all(isinstance(name, str) and is_text(name) for name in written):
        raise ValueError("class_names must be text without control characters")
    return tuple(written)


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
    if old.from_torch and not new.from_torch:
        raise UserError(
            f"{old.folder} holds weights read from {old.from_torch.get('file')}, no training; probe or attack it, make "
            "it anew with `from_torch` FILE `resume`, or choose another folder with `run`",
            field=("from_torch", "resume", "run"),
        )
    if new.from_torch and not old.from_torch:
        raise UserError(
            f"{old.folder} holds a trained run, none of weights from PyTorch; choose another folder with `run`",
            field="run",
        )
    if old.from_torch and new.from_torch and old.from_torch.get("sha256") != new.from_torch["sha256"]:
        theirs, ours = str(old.from_torch.get("sha256"))[:12], new.from_torch["sha256"][:12]
        raise UserError(
            f"{old.folder} was made of another file ({old.from_torch.get('file')}, SHA-256 {theirs}…, not {ours}…); "
            "choose another folder with `run`",
            field="run",
        )
    longer = dataclasses.replace(
        old.config.training,
        epochs=max(old.config.training.epochs, new.config.training.epochs),
        warmup_epochs=old.config.training.warmup_epochs,
    )
    if found := differences(dataclasses.replace(old.config, training=longer), new.config):
        raise UserError(
            f"{old.folder} holds a run of another configuration: {'; '.join(found)}; "
            "resume it with its own settings or choose another folder with `run`",
            field="run",
        )
    if old.fingerprint != new.fingerprint:
        raise UserError(
            f"{old.folder} was trained on other images than `data` {new.config.data.data} now holds", field="data"
        )


def made_free(path: Path) -> Path:
    """Make a new folder of that name, numbered if it is taken; two processes never get the same one.

    Raises:
      UserError: it cannot be made.
    """
    number, found = 2, path
    make_folder(path.parent)
    while True:
        try:
            found.mkdir()
        except FileExistsError:
            found, number = path.with_name(f"{path.name}-{number}"), number + 1
        else:
            return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
