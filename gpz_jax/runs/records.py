"""The version of the words that records are written in, and pytrees of arrays on disk."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpz_jax import parallel, processes
from gpz_jax.errors import UserError

#: Of the words that records are written in; every record says its own. gpz_jax 0.1.0 wrote none: its records are of 1.
SCHEMA_VERSION = 2


class NewerSchema(UserError):
    """A record of a newer schema than this package knows."""


def schema_of(written: Mapping[str, Any], where: str | Path) -> int:
    """The schema version that a record says it is of; 1 if it says none.

    Args:
      written: attributes of a record, or what a JSON file holds.
      where: the file, for the error.

    Raises:
      NewerSchema: it is of a newer schema than this package knows.
      UserError: it says something else than a number.

    Example:
      >>> schema_of({}, "r/config.json"), schema_of({"schema_version": 2}, "r/config.json")
      (1, 2)
    """
    version = written.get("schema_version", 1)
    if type(version) is not int or version < 1:
        raise UserError(f"{where} is damaged: its schema_version is {str(version)[:40]}")
    if version > SCHEMA_VERSION:
        raise NewerSchema(
            f"{where} was written by a newer gpz_jax (schema {version}; this one reads up to {SCHEMA_VERSION}); "
            "upgrade gpz_jax to read it"
        )
    return version


def save_tree(folder: Path, tree: Any) -> None:
    """Save a pytree of arrays (an attacker's decoder) with Orbax; replaces what is there.

    All processes call it, as Orbax asks of them. One that cannot write ends by its own error, and by its end the others
    that wait for it (``liveness.py``).
    """
    from orbax.checkpoint import v1 as ocp

    processes.led(lambda: shutil.rmtree(folder, ignore_errors=True))
    if processes.count() > 1:  # Orbax takes no array that one process has for itself
        tree = parallel.replicate(tree, parallel.data_mesh())
    try:
        with _quiet():
            ocp.save(str(folder.absolute()), tree)
    except Exception as error:
        for half in folder.parent.glob(f"{folder.name}*"):  # Orbax writes beside the place, too
            shutil.rmtree(half, ignore_errors=True)
        if "No space left on device" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what Orbax writes to the log of every error that it also raises, a hundred lines and more."""
    log = logging.getLogger("absl")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def load_tree(folder: Path, like: Any) -> Any:
    """Read back what :func:`save_tree` saved, into the shapes, dtypes and places of ``like``.

    Raises:
      Exception: whatever Orbax makes of what it cannot read.
    """
    from orbax.checkpoint import v1 as ocp

    with _quiet():
        return ocp.load(str(folder.absolute()), like)
