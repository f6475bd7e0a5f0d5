"""A run folder's aside/: what training fell back over, kept for whoever wants to look at it. Nothing reads it again."""

import os
from pathlib import Path

from gpz_jax.atomic import make_folder


def set_aside(run: Path, path: Path, name: str) -> Path:
    """Move a file or folder of a run to its ``aside/``, numbered if the name is taken; returns where it is now.

    Args:
      run: the run folder.
      path: to be moved; inside the run folder.
      name: what to call it there.
    """
    there = free_name(make_folder(run / "aside"), name)
    os.rename(path, there)
    return there


def keep_aside(run: Path, name: str, data: bytes) -> Path:
    """Write bytes to a run's ``aside/``, numbered if the name is taken; returns the file."""
    there = free_name(make_folder(run / "aside"), name)
    there.write_bytes(data)
    return there


def free_name(folder: Path, name: str) -> Path:
    """The name in a folder, numbered if it is taken."""
    stem, dot, suffix = name.partition(".")
    number, found = 2, folder / name
    while found.exists():
        found, number = folder / f"{stem}-{number}{dot}{suffix}", number + 1
    return found
