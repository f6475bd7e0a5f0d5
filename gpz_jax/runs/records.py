"""How a file or a record is written: whole or not at all, never a pickle, and with the version of its words."""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpz_jax.errors import UserError

#: Of the words that records are written in; every record says its own. gpz_jax 0.1.0 wrote none: its records are of 1.
SCHEMA_VERSION = 2


def schema_of(written: Mapping[str, Any], where: str | Path) -> int:
    """The schema version that a record says it is of; 1 if it says none.

    Args:
      written: attributes of a record, or what a JSON file holds.
      where: the file, for the error.

    Raises:
      UserError: it is of a newer schema than this package knows.

    Example:
      >>> schema_of({}, "r/config.json"), schema_of({"schema_version": 2}, "r/config.json")
      (1, 2)
    """
    version = int(written.get("schema_version", 1))
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{where} was written by a newer gpz_jax (schema {version}; this one reads up to {SCHEMA_VERSION}); "
            "upgrade gpz_jax to read it"
        )
    return version


def make_folder(folder: Path) -> Path:
    """Make a folder and its parents. Raises :class:`UserError` if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("not writable")
    except OSError as error:
        raise UserError(
            f"cannot write to folder {folder}: {error.strerror or error}; choose another with `run`",
            field="run",
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
    """Write an ``xarray.Dataset``, with its schema version, so that a reader never sees half of it."""
    import shutil

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with warnings.catch_warnings():
        # zarr 3 warns that neither its strings nor consolidated metadata are final; xarray reads what it wrote, and
        # without consolidated metadata it is a plain xr.open_zarr(folder) that warns.
        warnings.simplefilter("ignore")
        dataset.assign_attrs(schema_version=SCHEMA_VERSION).to_zarr(partial, mode="w")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def save_tree(folder: Path, tree: Any) -> None:
    """Save a pytree of arrays (an attacker's decoder) with Orbax; replaces what is there."""
    import shutil

    from orbax.checkpoint import v1 as ocp

    shutil.rmtree(folder, ignore_errors=True)
    ocp.save(str(folder.absolute()), tree)
