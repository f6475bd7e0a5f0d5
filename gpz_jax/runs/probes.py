"""Probe records of a run: ``probe/NAME.zarr``, those of gpz_jax 0.1.0 too."""

from pathlib import Path
from typing import Any

from gpz_jax.analysis.probe_result import Probe
from gpz_jax.errors import UserError
from gpz_jax.runs.records import schema_of
from gpz_jax.runs.zarr_records import read_zarr, write_zarr

#: What the variables and dims of a record of schema 1 are called now. Its ``radius`` was W.
_RENAMED = {
    "radius": "within", "radius_per_dimension": "within_per_dimension", "radius_of_class": "radius", "share": "rho",
    "share_of_null_seed": "rho_null", "radius_null": "within_null", "mark": "zone", "images_of_class": "count",
    "null_seed": "null",
}  # fmt: skip

#: Variables of schema 1 that were means over the untrained copies, and are not kept any more.
_GONE = ("share_null", "drop_null")


def probe_name(
    split: str, labels: str = "true", *, limit: int | None = None, unbiased: bool = False, view: str = "tokens"
) -> str:
    """The name of a probe by what it measures; what it is held against (null models, rules) does not count.

    Example:
      >>> probe_name("test"), probe_name("train", "kmeans", limit=100, unbiased=True)
      ('test', 'train-kmeans-limit100-unbiased')
    """
    parts = [split, "" if labels == "true" else labels, "" if limit is None else f"limit{limit}"]
    return "-".join(filter(None, [*parts, "unbiased" if unbiased else "", "" if view == "tokens" else view]))


def write_probe(folder: Path, name: str, probe: Probe) -> list[str]:
    """Write a probe to ``folder/NAME.zarr``.

    Returns:
      Where a probe of other settings lay there: what differed, and its value, as words.
    """
    record = probe.to_xarray()
    try:
        before = _settings(read_probe(folder / f"{name}.zarr"))
    except UserError:  # nothing there, or nothing that could be read: nothing is lost
        before = {}
    now = _settings(record)
    write_zarr(record, folder / f"{name}.zarr")
    return [f"{key} {value}" for key, value in before.items() if value != now[key]]


def _settings(record) -> dict[str, Any]:
    kept = ("images", "bootstrap", "quantiser", "seed")
    found = {key: record.attrs[key] for key in kept if key in record.attrs}
    return {**found, "null_seeds": record.sizes.get("null", 0), "rule": " and ".join(map(str, record.rule.values))}


def probe_folders(folder: Path) -> list[Path]:
    """The records in a run's ``probe/``, that of the test images first, the others by name."""
    return sorted(folder.glob("*.zarr"), key=lambda path: (path.name != "test.zarr", path.name))


def read_probe(folder: Path):
    """A probe's record, an ``xarray.Dataset`` in the words of today whatever version wrote it.

    Raises:
      UserError: it was written by a newer gpz_jax, is damaged, or no record of gpz_jax.
    """
    record = read_zarr(folder)
    return record if schema_of(record.attrs, folder) > 1 else _renamed(record)


def _renamed(record):
    record = record.drop_vars([name for name in _GONE if name in record])
    names = {old: new for old, new in _RENAMED.items() if old in record or old in record.dims}
    return record.rename(names)
