"""Checkpoints of a run, sealed: the last two epochs, the best, and where a stopped or long epoch had got to."""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from gpz_jax import processes
from gpz_jax.atomic import partial_path, write_json
from gpz_jax.errors import UserError
from gpz_jax.json_files import read_json
from gpz_jax.presentation import why as words_of
from gpz_jax.runs.aside import set_aside
from gpz_jax.runs.folder import Run
from gpz_jax.runs.records import load_tree, save_tree
from gpz_jax.runs.seals import broken, read_seal, seal_folder, with_check, without_check

#: What an epoch measured, its line in metrics.jsonl, kept with its checkpoint.
MEASURED = "measured.json"


class Place(NamedTuple):
    """How far training is: epochs behind it, and steps taken of the one that follows."""

    epoch: int
    step: int = 0

    def __str__(self) -> str:
        """As its folder is called, ``7`` or ``7+120``."""
        return f"{self.epoch}+{self.step}" if self.step else str(self.epoch)

    @property
    def words(self) -> str:
        """As a person would say it."""
        return f"step {self.step} of epoch {self.epoch + 1}" if self.step else f"epoch {self.epoch}"

    @classmethod
    def of(cls, folder: Path) -> "Place | None":
        """What a folder's name says; None if it is not that of a checkpoint."""
        parts = folder.name.split("+")
        if len(parts) > 2 or not all(part.isascii() and part.isdecimal() and len(part) < 16 for part in parts):
            return None
        return cls(*map(int, parts))


class Middle(NamedTuple):
    """What is saved in the middle of an epoch: the state, and the sums of the epoch so far."""

    state: Any
    totals: Any


class Loaded(NamedTuple):
    """A state read back: where it was saved, and what had to be said about the way there.

    ``totals``: of the epoch so far, None between epochs; ``measured``: what its epoch's line of metrics held, None
    where that was not kept.
    """

    state: Any
    place: Place
    notes: tuple[str, ...] = ()
    totals: Any = None
    measured: Mapping[str, Any] | None = None

    @property
    def epoch(self) -> int:
        """Epochs behind it."""
        return self.place.epoch


class Checkpoints:
    """The run's checkpoints: the last two epochs, and the best by validation accuracy (ties: by validation loss).

    Each is written beside its place, sealed (the SHA-256 of its files and the shapes of its arrays) and put there whole
    before training goes on: a kill costs the epoch under way, or the steps since the last save within it, no more.
    The seal, because Orbax itself would load a flipped byte without a word, and answers what it cannot load with
    hundreds of lines on stderr.
    """

    def __init__(self, run: Run):
        self._run = run
        self._folder = run.folder / "checkpoints"

    def save(self, epoch: int, state: Any, *, measured: Mapping[str, Any], candidate: bool) -> None:
        """Save the state after ``epoch`` epochs; :meth:`prune` takes away what is not needed any more.

        Args:
          epoch: epochs behind it.
          state: to be saved.
          measured: what the epoch measured, its line in metrics.jsonl.
          candidate: whether it may be the best (not while warming up).
        """
        self._write(Place(epoch), state, measured=measured, candidate=candidate)

    def save_middle(self, place: Place, state: Any, totals: Any) -> None:
        """Save the state in the middle of an epoch, with the sums of the epoch so far."""
        self._write(place, Middle(state, totals), candidate=False)

    def prune(self) -> None:
        """Keep the last two epochs and the best, and of the places within epochs the last if no epoch is later.

        Of several runs that are trained side by side call it once all are saved: a kill between their saves then leaves
        the place before to all of them.
        """
        processes.led(self._prune)

    def _prune(self) -> None:
        places = _saved_places(self._folder)
        kept = [place for place in places if not place.step]
        best = [max(kept, key=lambda place: (self._rank(place), place))] if kept else []
        for place in places:
            if place not in (*kept[-2:], *best, places[-1]):
                _remove(self._folder / str(place))

    def _write(self, place: Place, tree: Any, *, candidate: bool, measured: Mapping[str, Any] | None = None) -> None:
        folder = self._folder / str(place)
        processes.led(lambda: self._run.subfolder("checkpoints"))
        partial = Path(processes.told(str(partial_path(folder))))

        def put_there() -> None:
            if measured is not None:
                write_json(partial / MEASURED, with_check({"candidate": candidate, "measured": dict(measured)}))
            seal_folder(partial, arrays=shapes_of(tree))
            if folder.exists():
                _remove(folder)
            partial.rename(folder)

        try:
            save_tree(partial, tree)
            processes.led(put_there)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def set_aside_after(self, done: Place | None) -> list[str]:
        """Put aside what training will not go on from, damaged or of later epochs; says what, and where it lies now."""
        told = []
        for place in _saved_places(self._folder):
            damage = _damage(self._folder / str(place), None)
            if damage is not None or done is None or place > done:
                why = f"damaged, {damage}" if damage is not None else "of later than training goes on from"
                there = set_aside(self._run.folder, self._folder / str(place), f"checkpoint-{place}")
                told.append(f"the checkpoint of {place.words} ({why}) is set aside in {there}")
        return told

    def latest(self, abstract: Any, *, totals: Any = None, up_to: Place | None = None) -> Loaded | None:
        """The last checkpoint that can be read, or None if there is none at all.

        Args:
          abstract: shapes, dtypes and places of the state.
          totals: those of an epoch's sums; None to leave out what was saved within epochs.
          up_to: leave out later ones.
        """
        places = [place for place in _saved_places(self._folder)[::-1] if totals is not None or not place.step]
        return self._first_readable([place for place in places if up_to is None or place <= up_to], abstract, totals)

    def best(self, abstract: Any) -> Loaded | None:
        """The best checkpoint by validation that can be read, or None if there is none at all."""
        places = [Place(epoch) for epoch in saved_epochs(self._folder)]
        ranked = sorted(places, key=lambda place: (self._rank(place), place), reverse=True)
        return self._first_readable(ranked, abstract, None)

    def _first_readable(self, places: Sequence[Place], abstract: Any, totals: Any) -> Loaded | None:
        """Of several processes each reads for itself, and all must come to the same."""
        loaded = processes.every(lambda: self._read(places, abstract, totals))
        processes.check_same(None if loaded is None else str(loaded.place), f"as the last checkpoint in {self._folder}")
        return loaded

    def _read(self, places: Sequence[Place], abstract: Any, totals: Any) -> Loaded | None:
        notes: list[str] = []
        for place in places:
            folder, like = self._folder / str(place), Middle(abstract, totals) if place.step else abstract
            why = _damage(folder, like)
            if why is None:
                try:
                    tree = load_tree(folder, like)
                    state, sums = tree if place.step else (tree, None)
                    return Loaded(state, place, tuple(notes), sums, _measured(folder)[1])
                except Exception as error:  # whatever Orbax makes of what it cannot read: another is tried
                    why = f"{type(error).__name__}: {words_of(error)}"
            notes.append(f"checkpoint of {place.words} cannot be read ({why}); falling back to another")
        if notes:
            why = notes[0].removesuffix("; falling back to another")
            raise UserError(f"no checkpoint in {self._folder} can be read: {why}; train the run again")
        return None

    def _rank(self, place: Place) -> tuple[float, float]:
        """By validation accuracy, then loss; one that is no candidate (saved while warming up) comes last."""
        folder = self._folder / str(place)
        try:
            candidate, measured = _measured(folder)
            if not candidate:
                return (-math.inf, -math.inf)
            assert measured is not None
            return (float(measured["validation_accuracy"]), -float(measured["validation_loss"]))
        except (UserError, OSError, ValueError, KeyError, TypeError):
            return (math.inf, math.inf)  # damaged: to be tried, and found out, before another is called the best


def latest_of_all(checkpoints: Sequence[Checkpoints], abstract: Any, totals: Any = None) -> list[Loaded] | None:
    """Every run's checkpoint of the last place of which all of them can be read; None if there is no such place."""
    up_to = None
    while True:
        loaded = [one.latest(abstract, totals=totals, up_to=up_to) for one in checkpoints]
        found = [one for one in loaded if one is not None]
        if len(found) < len(loaded):
            return None
        up_to = min(one.place for one in found)
        if all(one.place == up_to for one in found):
            return found


def saved_epochs(folder: Path) -> list[int]:
    """Epochs of the checkpoints in a folder, whole or not, in order; none if there is no such folder."""
    return [place.epoch for place in _saved_places(folder) if not place.step]


def _saved_places(folder: Path) -> list[Place]:
    if not folder.is_dir():
        return []
    found = ((Place.of(path), path) for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    return sorted(place for place, path in found if place is not None and str(place) == path.name)


def _remove(folder: Path) -> None:
    """Take a checkpoint away; a kill on the way leaves nothing that looks like a damaged one."""
    partial = partial_path(folder)
    folder.rename(partial)
    shutil.rmtree(partial)


def shapes_of(tree: Any) -> dict[str, str]:
    """Path -> dtype and shape of every array of a pytree, in words."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype} {list(leaf.shape)}" for path, leaf in leaves}


def _damage(folder: Path, abstract: Any | None) -> str | None:
    """What is wrong with a checkpoint: its files, or that it is of another state than ``abstract``; None if nothing."""
    try:
        seal = read_seal(folder)
    except UserError:
        return "seal.json is damaged"
    if seal is None:  # of 0.1.0, killed just after the save; Orbax makes a checkpoint appear whole or not at all
        return None if any(folder.iterdir()) else "it is empty"
    theirs = seal.get("arrays")
    if not isinstance(theirs, dict):
        return "seal.json is damaged"
    if why := broken(folder, seal):
        return why
    ours = theirs if abstract is None else shapes_of(abstract)
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            return f"{name} is {theirs.get(name, 'not in it')}, by config.json it is {ours.get(name, 'not in it')}"
    return None


def _measured(folder: Path) -> tuple[bool, Mapping[str, Any] | None]:
    """Whether a checkpoint may be the best, and its epoch's line of metrics, None where that was not kept.

    Raises:
      UserError: it is damaged.
    """
    if (folder / MEASURED).exists():
        kept = without_check(read_json(folder / MEASURED, finite=False), folder / MEASURED)
        return bool(kept["candidate"]), kept["measured"]
    if not (folder / "metrics").is_dir():  # as Orbax's own Checkpointer, which wrote earlier runs, keeps them
        return False, None
    found = read_json(folder / "metrics" / "metrics", finite=False)
    return True, {"validation_accuracy": found["accuracy"], "validation_loss": found["loss"]}
