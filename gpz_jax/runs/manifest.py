"""What counts of a run in an object store: one document that names its files, replaced at one stroke.

    gpz-state/00000012.json     manifests; the one of the highest number counts
    gpz-files/…                 contents, each under its path and the first half of its SHA-256, written once
    gpz-owner/00000003.json     who is at work (lease.py)
    report.html, figures/…      pages, pictures and tables once more under their own names, for people

Contents go up before the manifest that names them, so that whoever reads, at whatever moment, finds the old state whole
or the new one. A number is taken by creating its object, which of two writers one alone can do.
"""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from gpz_jax.errors import UserError
from gpz_jax.json_files import parse_json
from gpz_jax.presentation import is_text
from gpz_jax.runs.object_store import Store
from gpz_jax.runs.seals import with_check, without_check

#: Of a manifest's words.
VERSION = 1

#: Where manifests and contents lie, below the run's URL.
STATE, FILES = "gpz-state", "gpz-files"

#: Manifests that are kept: of the last so many numbers none can be taken twice.
KEPT = 8

#: Bytes that a manifest may have, which is a few hundred thousand files.
_MOST = 64 * 2**20


class Content(NamedTuple):
    """What a file holds: its size in bytes and the SHA-256 of them."""

    size: int
    sha256: str


class Manifest(NamedTuple):
    """Which files a run has.

    Attributes:
      files: path in the run folder -> content.
      number: of the manifest; 0 where there is none.
      turn: whose turn at work it was written in; what a guest (a report) writes is of the turn before.
    """

    files: Mapping[str, Content]
    number: int = 0
    turn: str = ""


def object_of(path: str, content: Content) -> str:
    """The object that holds a file's content; browsers know its kind by the end of its name.

    >>> object_of("figures/training.png", Content(3, "ab" * 32))
    'gpz-files/figures/training.abababababababababababababababab.png'
    """
    there = PurePosixPath(path)
    suffix = there.suffix if len(there.suffix) < 8 else ""
    stem = there.name.removesuffix(suffix) if suffix else there.name
    folder = "" if str(there.parent) == "." else f"{there.parent}/"
    return f"{FILES}/{folder}{stem}.{content.sha256[:32]}{suffix}"


def latest(store: Store) -> Manifest:
    """The manifest that counts; an empty one where there is none.

    Raises:
      UserError: it is damaged, or of a newer version; the store cannot be read.
    """
    for _ in range(5):
        numbers = numbers_in(store, STATE)
        if not numbers:
            return Manifest({})
        name = _name(max(numbers))
        if (data := store.read(name)) is not None:
            return parse(data, f"{store.url}/{name}", max(numbers))
    raise UserError(f"{store.url} is being written to by others faster than it can be read; try again")


def numbers_in(store: Store, folder: str) -> list[int]:
    """The numbers of the objects ``folder/00000012.json``."""
    stems = [PurePosixPath(name) for name in store.names(folder)]
    return sorted(int(name.stem) for name in stems if name.suffix == ".json" and name.stem.isdecimal())


def put(store: Store, manifest: Manifest) -> bool:
    """Let a manifest count from now on; False where another process has taken its number."""
    document = {
        "gpz_jax": "a run, file by file",
        "version": VERSION,
        "turn": manifest.turn,
        "files": {path: list(content) for path, content in sorted(manifest.files.items())},
    }
    if not store.create(_name(manifest.number), json.dumps(with_check(document)).encode()):
        return False
    store.remove([_name(number) for number in numbers_in(store, STATE) if number <= manifest.number - KEPT])
    return True


def _name(number: int) -> str:
    return f"{STATE}/{number:08d}.json"


def parse(data: bytes, where: str, number: int = 0) -> Manifest:
    """A manifest as it was written.

    Raises:
      UserError: it is damaged, was written by a newer version, or names a file that cannot lie in a run folder.

    Example:
      >>> parse(b'{"version": 1, "turn": "", "files": {"../a": [1, "00"]}}', "m")
      Traceback (most recent call last):
      gpz_jax.errors.UserError: m is damaged: '../a' is no file of a run
    """
    if len(data) > _MOST:
        raise UserError(f"{where} is larger than the {_MOST:,} bytes that a manifest has")
    document = parse_json(data, where)
    if not isinstance(document, dict):
        raise UserError(f"{where} is damaged: it is no list of a run's files")
    version = document.get("version")
    if type(version) is int and version > VERSION:
        raise UserError(
            f"{where} was written by a newer gpz_jax (version {version}; this one reads up to {VERSION}); upgrade it"
        )
    plain = without_check(document, where)
    files, turn = plain.get("files"), plain.get("turn")
    if version != VERSION or not isinstance(files, dict) or not isinstance(turn, str):
        raise UserError(f"{where} is damaged: it is no list of a run's files")
    for path in files:
        if any(str(above) in files for above in PurePosixPath(path).parents):
            raise UserError(f"{where} is damaged: {path[:80]!r} lies in a file")
    return Manifest({path: _content(path, found, where) for path, found in files.items()}, number, turn)


def _content(path: str, found: Any, where: str) -> Content:
    if not is_safe(path):
        raise UserError(f"{where} is damaged: {path[:80]!r} is no file of a run")
    match found:
        case [int(size), str(sha256)] if size >= 0 and len(sha256) == 64 and not set(sha256) - set("0123456789abcdef"):
            return Content(size, sha256)
    raise UserError(f"{where} is damaged at {path[:80]!r}")


def is_safe(path: str) -> bool:
    r"""Whether a path of a manifest stays inside the folder that it is of, on every system.

    >>> [is_safe(path) for path in ("a/b.json", "/a", "a/../b", "a//b", "C:a", "a\\b", "")]
    [True, False, False, False, False, False, False]
    """
    parts = path.split("/")
    return is_text(path) and not set(path) & set('\\:*?"<>|') and all(_is_name(part) for part in parts)


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..") and len(part.encode()) <= 240 and not part.endswith((" ", "."))
