"""How a file is written: whole or not at all, as UTF-8, and by several processes at once without mixing."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpz_jax.errors import UserError


def make_folder(folder: Path, field: str = "run") -> Path:
    """Make a folder and its parents; ``field`` is the setting that names it.

    Raises:
      UserError: that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("not writable")
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        why = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write to folder {folder}: {why}; choose another with `{field}`", field=field) from None
    return folder


def partial_path(path: Path) -> Path:
    """A name beside ``path`` for what is not whole yet, of this writer alone; ``.partial`` last."""
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(3)}.partial")


def write_json(file: Path, value: Any) -> None:
    """Write JSON so that a reader never sees half of it."""
    write_text(file, json.dumps(value, indent=2))


def write_text(file: Path, text: str) -> None:
    """Write a text so that a reader never sees half of it."""
    write_bytes(file, text.encode("utf-8"))


def write_bytes(file: Path, data: bytes) -> None:
    """Write bytes so that a reader never sees half of them, not even after the machine has stopped."""
    with replacing(file) as partial, partial.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A file to be written within the context, which then takes the place of ``file``; of an error nothing is left.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as home:
      ...     with replacing(Path(home) / "a.txt") as partial:
      ...         _ = partial.write_text("whole", encoding="utf-8")
      ...     [path.name for path in Path(home).iterdir()]
      ['a.txt']
    """
    partial = partial_path(file)
    try:
        yield partial
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)  # a full disk gets back what half a file took
        raise
