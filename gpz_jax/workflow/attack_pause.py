"""Where an attack that is stopped keeps how far it is: ``unfinished/`` in its folder, until it has finished."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from gpz_jax import interruption, processes, runs
from gpz_jax.inversion.pause import Pause
from gpz_jax.workflow.agreement import Agreement
from gpz_jax.workflow.clock import Clock, Every
from gpz_jax.workflow.common import say


class AttackPause(Pause):
    """Saves when a signal asks for it, and so often as ``every`` says.

    Args:
      folder: of the attack.
      asked: all that the attack depends on: what was saved under other settings is not gone on from.
      resume: whether to go on from what was saved; else it is taken away.
      every: how often to save; None: when asked to stop, only.
      name: of the attack and its cut, for what is said.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any], *, resume: bool, every: Every | None, name: str):
        self._folder = folder
        self._saved = runs.Unfinished(folder / "unfinished", asked)
        self._stop: interruption.Stop | None = None
        self._clock, self._name, self._agreement = Clock(every), name, Agreement()
        if not resume:
            self.finished()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Note signals instead of ending by them."""
        with interruption.noted() as self._stop:
            yield
        self._stop = None

    def due(self, under_way: Any = None) -> bool:
        """Whether a signal came, or the time has."""
        return self._agreement.due(self._clock.step(), self._stop, under_way)

    def save(self, piece: str, tree: Any) -> None:
        """Write it, sealed; then end if a signal asked for it."""
        with self._stop.saving() if self._stop is not None else contextlib.nullcontext():
            self._saved.write(piece, tree)
            runs.push(self._folder)
        self._clock.restart()
        self._agreement.on_signal(self._stop)
        if self._stop:
            raise self._stop.stopped(f"{self._name} is saved where it is")

    def recall(self, piece: str, like: Any) -> Any | None:
        """What was written, if it is whole."""
        places = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like)
        found, why = processes.every(lambda: self._saved.read(piece, places))
        processes.check_same(why if found is None else "whole", f"as what was left of {self._name}")
        if why:
            say(f"{self._name}: what was saved of it cannot be gone on from ({why}); it begins anew")
        elif found is not None:
            say(f"{self._name}: going on where it was left")
        return found

    def finished(self) -> None:
        """Nothing is to be gone on from any more."""
        processes.led(self._saved.clear)
