"""Checkpoints of a run, sealed: the last two and the best, written while the next epoch trains."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpz_jax.errors import UserError
from gpz_jax.runs.folder import Run
from gpz_jax.runs.records import write_json


class Loaded(NamedTuple):
    """A state read back, the epochs it has behind it, and what had to be said about the way there."""

    state: Any
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

    def save(self, epoch: int, state: Any, *, accuracy: float, loss: float, candidate: bool) -> None:
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

    def latest(self, abstract: Any, *, up_to: int | None = None) -> Loaded | None:
        """The last checkpoint (of those ``up_to`` an epoch) that can be read, or None if there is none at all."""
        steps = self._steps()[::-1]
        return self._first_readable([step for step in steps if up_to is None or step <= up_to], abstract)

    def best(self, abstract: Any) -> Loaded | None:
        """The best checkpoint by validation that can be read, or None if there is none at all."""
        ranks = {step: _rank_of(self._folder / str(step)) for step in self._steps()}
        return self._first_readable(sorted(ranks, key=lambda step: (ranks[step], step), reverse=True), abstract)

    def _first_readable(self, steps: Iterable[int], abstract: Any) -> Loaded | None:
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


def latest_of_all(checkpoints: Sequence[Checkpoints], abstract: Any) -> list[Loaded] | None:
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


def _damage(folder: Path, abstract: Any | None) -> str | None:
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


def _rank(metrics: Any) -> tuple[float, float]:
    return (metrics["accuracy"], -metrics["loss"])


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}"
