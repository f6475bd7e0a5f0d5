"""Labelled records on disk (probe/*.zarr, dynamics.zarr): written whole, sealed, and looked through before they open.

A folder that somebody sends may hold a record in Zarr's older format, whose codecs can unpickle what they read, or an
array of a petabyte. What is not what this package writes is refused by its text alone.
"""

import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpz_jax.atomic import make_folder, partial_path, write_json
from gpz_jax.errors import UserError
from gpz_jax.json_files import read_json
from gpz_jax.presentation import why
from gpz_jax.runs.records import SCHEMA_VERSION
from gpz_jax.runs.seals import digest_of_files

#: What stands in every group and array of Zarr's format 3.
ABOUT = "zarr.json"

#: Codecs that are written here, all of which turn bytes into numbers and letters and nothing else.
_CODECS = {"bytes", "zstd", "vlen-utf8", "transpose", "crc32c"}

#: Names of data types that are written here.
_TYPES = {"bool", "float16", "float32", "float64", "string", "fixed_length_utf32"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}

#: Numbers in one array, and dims of one: beyond that it is no record of ours, whatever its text claims.
_MOST, _DIMS = 10**9, 8

#: What records that are damaged make zarr and xarray raise; RuntimeError is of the codecs.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, MemoryError)


def dynamics_store(folder: Path) -> Path:
    """A folder's dynamics.zarr, made if it is not there: the root of its groups, so that they open as one tree."""
    import zarr

    store = make_folder(folder / "dynamics.zarr")
    if (store / ABOUT).exists():
        check_format(store, below=False)
    zarr.open_group(str(store), mode="a")
    return store


def write_zarr(dataset, folder: Path) -> None:
    """Write an ``xarray.Dataset``, with its schema version and sealed, so that a reader never sees half of it."""
    partial = partial_path(folder)
    try:
        with warnings.catch_warnings():
            # zarr 3 warns that neither its strings nor consolidated metadata are final; xarray reads what it wrote, and
            # without consolidated metadata it is a plain xr.open_zarr(folder) that warns.
            warnings.simplefilter("ignore")
            dataset.assign_attrs(schema_version=SCHEMA_VERSION).to_zarr(partial, mode="w")
        about = read_json(partial / ABOUT, finite=False)
        about["attributes"]["seal"] = _seal_of(partial, about)
        write_json(partial / ABOUT, about)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk gets back what half a record took
        raise


def read_zarr(folder: Path):
    """A record that was written whole, as an ``xarray.Dataset`` in memory; its seal must hold if it has one.

    Raises:
      UserError: it is damaged, or no record of this package.
    """
    import xarray as xr

    about = check_format(folder)
    attributes = about.get("attributes", {})
    if "seal" in attributes and attributes["seal"] != _seal_of(folder, about):
        raise UserError(f"{folder} is damaged: it does not hold what was written")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr's, of a store that was not written by us to the end
            with xr.open_zarr(folder) as record:
                return record.load().drop_attrs(deep=False).assign_attrs(_unsealed(record.attrs))
    except UNREADABLE as error:
        raise unreadable(folder, error) from None


def _unsealed(attributes: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: value for name, value in attributes.items() if name != "seal"}


def _seal_of(folder: Path, about: Mapping[str, Any]) -> str:
    """SHA-256 of all that a record holds: its files, and of its own ``zarr.json`` all but the seal."""
    plain = {**about, "attributes": _unsealed(about.get("attributes", {}))}
    files = {name: digest for name, digest in digest_of_files(folder).items() if name != ABOUT}
    return hashlib.sha256(json.dumps([plain, files], sort_keys=True).encode()).hexdigest()


def unreadable(folder: Path, error: Exception) -> UserError:
    """The one line for a record that zarr or xarray cannot read."""
    if isinstance(error, UserError):
        return error
    return UserError(f"{folder} cannot be read ({type(error).__name__}: {why(error)})")


# What is no record of ours --------------------------------------------------------------------------------------------


def check_format(folder: Path, *, below: bool = True) -> dict[str, Any]:
    """Look through a Zarr record without opening it; returns what its own ``zarr.json`` holds.

    Args:
      folder: of the record.
      below: look into the arrays and groups in it, too.

    Raises:
      UserError: no record there; another format than Zarr's third; codecs, data types or sizes that are not written
        here; links.
    """
    own = _about(folder / ABOUT, folder)
    for path in sorted(folder.rglob("*")) if below else ():
        if path.is_symlink():
            raise UserError(f"{folder} holds a link ({path.name}), which no record of gpz_jax does; it is not opened")
        if path.name in (".zgroup", ".zarray", ".zattrs", ".zmetadata"):
            raise UserError(f"{folder} is in Zarr's older format 2, which gpz_jax does not write; it is not opened")
        if path.name == ABOUT and path.parent != folder:
            _about(path, folder)
    return own


def _about(file: Path, record: Path) -> dict[str, Any]:
    """A ``zarr.json``, looked through; NaN and infinity are among what fills an array."""
    if not file.is_file():
        old = any((record / name).exists() for name in (".zgroup", ".zarray", ".zmetadata"))
        what = "is in Zarr's older format 2, which gpz_jax does not write" if old else f"holds no {ABOUT}"
        raise UserError(f"{record} {what}; it is not opened")
    about = read_json(file, finite=False)
    for node in _nodes(about, file):
        if node.get("zarr_format") != 3:
            raise _foreign(file, f"Zarr format {node.get('zarr_format')}")
        if node.get("node_type") == "array":
            _check_array(node, file)
        elif node.get("node_type") != "group":
            raise _foreign(file, f"a node of type {node.get('node_type')!r}")
    return about


def _nodes(about: Any, file: Path) -> Iterator[dict[str, Any]]:
    """The node that a ``zarr.json`` describes, and those that it describes for their own files."""
    if not isinstance(about, dict) or not isinstance(about.get("attributes", {}), dict):
        raise UserError(f"{file} is damaged: it describes no group and no array")
    yield about
    inline = about.get("consolidated_metadata")
    held = inline.get("metadata", {}) if isinstance(inline, dict) else {} if inline is None else None
    if not isinstance(held, dict):
        raise UserError(f"{file} is damaged: it describes no group and no array")
    for node in held.values():
        yield from _nodes(node, file)


def _check_array(node: Mapping[str, Any], file: Path) -> None:
    codecs, kind, shape = node.get("codecs"), node.get("data_type"), node.get("shape")
    names = [_name(codec) for codec in codecs] if isinstance(codecs, list) else [repr(codecs)]
    if foreign := [name for name in names if name not in _CODECS]:
        raise _foreign(file, f"the codec {foreign[0]}")
    if _name(kind) not in _TYPES:
        raise _foreign(file, f"the data type {_name(kind)}")
    if node.get("storage_transformers"):
        raise _foreign(file, "a storage transformer")
    grid = node.get("chunk_grid")
    chunks = grid.get("configuration", {}).get("chunk_shape") if isinstance(grid, dict) else None
    for what, sizes in (("shape", shape), ("chunk", chunks)):
        if not _is_size(sizes):
            raise _foreign(file, f"an array of {what} {str(sizes)[:60]}")


def _is_size(sizes: Any) -> bool:
    """Whether this is the shape of an array that fits a record."""
    if not isinstance(sizes, list) or len(sizes) > _DIMS:
        return False
    return all(type(size) is int and size >= 0 for size in sizes) and math.prod(sizes) <= _MOST


def _name(of: Any) -> str:
    return str(of.get("name") if isinstance(of, dict) else of)[:60]


def _foreign(file: Path, what: str) -> UserError:
    return UserError(f"{file} names {what}, which gpz_jax does not write; the record is not opened")
