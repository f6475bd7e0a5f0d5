"""Long work that can be left in the middle and gone on with: what an attack asks after every step."""

import contextlib
from contextlib import AbstractContextManager
from typing import Any


class Pause:
    """Never leaves, and keeps nothing. A subclass says when to save, and where (``workflow/attack_pause.py``).

    What is saved is a pytree of arrays and a name for the piece of the work that it belongs to; going on from it must
    give bit for bit what going on without a pause would have given.

    Example:
      >>> with NEVER.watched():
      ...     NEVER.due(), NEVER.recall("decoder", {})
      (False, None)
    """

    def watched(self) -> AbstractContextManager[Any]:
        """While it lasts, somebody asks :meth:`due` after every step, so that a signal to stop can wait for it."""
        return contextlib.nullcontext()

    def due(self, under_way: Any = None) -> bool:
        """Whether it is time to save; ``under_way`` are arrays that the devices are at work on."""
        return False

    def save(self, piece: str, tree: Any) -> None:
        """Keep where a piece of the work is. Raises ``interruption.Stopped`` if the work is to end there."""

    def recall(self, piece: str, like: Any) -> Any | None:
        """Where a piece of the work was left, in the shapes and places of ``like``; None to begin it."""
        return None


NEVER = Pause()
