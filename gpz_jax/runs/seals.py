"""Seals: what a file or a record held when it was written, so that no damage is read as if it were a result.

Three kinds, by how a record comes to be. A *folder* that is written once (a checkpoint, an attack) holds ``seal.json``,
the SHA-256 of its files. A *line* or a *document* of JSON holds a ``check`` of its own other fields. A *Zarr record*
holds its ``seal`` among its attributes (see ``zarr_records.py``), so that it stays one record, whoever opens it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpz_jax.atomic import write_json
from gpz_jax.errors import UserError
from gpz_jax.json_files import read_json

SEAL = "seal.json"

#: Hexadecimal digits of a ``check``: 64 bits, which no accident meets.
DIGITS = 16


def digest_of_files(folder: Path, *, leave: tuple[str, ...] = (SEAL,)) -> dict[str, str]:
    """SHA-256 of every file below a folder by its path in it, but those of the names to ``leave``.

    Links are named, not followed.
    """
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            digests[str(path.relative_to(folder))] = "a link"
        elif path.is_file() and path.name not in leave:
            with path.open("rb") as opened:
                digests[str(path.relative_to(folder))] = hashlib.file_digest(opened, "sha256").hexdigest()
    return digests


def seal_folder(folder: Path, **about: Any) -> None:
    """Write the folder's ``seal.json``: the digests of its files, and whatever else is said ``about`` it."""
    write_json(folder / SEAL, with_check({"files": digest_of_files(folder), **about}))


def read_seal(folder: Path) -> dict[str, Any] | None:
    """What the folder's seal says; None if it has none.

    Raises:
      UserError: a seal that is damaged.
    """
    file = folder / SEAL
    if not file.exists():
        return None
    seal = read_json(file)
    if not isinstance(seal, dict) or not isinstance(seal.get("files"), dict):
        raise UserError(f"{file} is damaged")
    return without_check(seal, file)


def broken(folder: Path, seal: Mapping[str, Any]) -> str | None:
    """Which of the files that a seal names is damaged or missing, in words; None if they are as they were sealed."""
    there = digest_of_files(folder)  # of the files that are there: a path that a file names is not followed
    for name, digest in seal["files"].items():
        if there.get(name) != digest:
            return f"{name} is {'damaged' if name in there else 'missing'}"
    return None


def with_check(document: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the check of its fields, under ``check``.

    Example:
      >>> with_check({"a": 1})["check"] == with_check({"a": 2})["check"]
      False
    """
    plain = {name: value for name, value in document.items() if name != "check"}
    return {**plain, "check": check_of(plain)}


def without_check(document: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """A JSON object without its check, which must hold; one that has none, of an older version, is taken as it is.

    Raises:
      UserError: it holds something else than what was written.

    Example:
      >>> without_check(with_check({"a": 1}), "a.json")
      {'a': 1}
      >>> without_check({**with_check({"a": 1}), "a": 2}, "a.json")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      gpz_jax.errors.UserError: a.json is damaged: it does not hold what was written (changed by hand? take its ...
    """
    plain = {name: value for name, value in document.items() if name != "check"}
    if document.get("check", None) != check_of(plain) and "check" in document:
        raise UserError(f"{where} is damaged: it does not hold what was written (changed by hand? take its check out)")
    return plain


def check_of(value: Any) -> str:
    """The check of a JSON value: SHA-256 of its text, shortened; the order of its fields counts."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:DIGITS]
