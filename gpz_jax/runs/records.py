"""How a file or a record is written: whole or not at all, and never a pickle."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

from gpz_jax.errors import UserError


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


def write_json(file: Path, value: Any) -> None:
    """Write JSON so that a reader never sees half of it."""
    write_text(file, json.dumps(value, indent=2))


def write_text(file: Path, text: str) -> None:
    """Write a text so that a reader never sees half of it."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text)
    partial.replace(file)


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


def save_tree(folder: Path, tree: Any) -> None:
    """Save a pytree of arrays (an attacker's decoder) with Orbax; replaces what is there."""
    import shutil

    from orbax.checkpoint import v1 as ocp

    shutil.rmtree(folder, ignore_errors=True)
    ocp.save(str(folder.absolute()), tree)
