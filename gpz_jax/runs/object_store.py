"""A folder of an object store, by its URL: named bytes that are written whole, listed and taken away; no more.

The one file that knows of the network, through fsspec. An object store has no rename, no append and no lock; what it
has is that an object is there whole or not at all, that a list is up to date (S3 and Google Cloud Storage have
promised that since 2020), and that of several who create one name only the first succeeds.
"""

import contextlib
import datetime
import functools
import importlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from gpz_jax.errors import UserError
from gpz_jax.presentation import is_text, printable

#: Scheme of a URL -> the package that reads it, and the extra that installs that. The last two are for trying things.
SCHEMES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "memory": ("fsspec", ""), "file": ("fsspec", "")}

#: Schemes whose first part is a bucket.
BUCKETS = ("s3", "gs")

#: What is no folder that anyone means: ``s3:/bucket/run``.
_MISTYPED = re.compile("(s3|gs|gcs|az|https?|file|memory):/?(?!/)[^/]", re.IGNORECASE)

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


class StoreError(UserError):
    """What the store or the way to it made impossible: it may be possible again in a minute."""


class Found(NamedTuple):
    """An object of a list: its size in bytes, and when it was written by the store's own clock, where that is said."""

    size: int
    written: datetime.datetime | None


@runtime_checkable
class Store(Protocol):
    """What a run needs of an object store. Names are relative to the run's URL, with ``/`` between their parts."""

    url: str

    def names(self, folder: str) -> dict[str, Found]:
        """Name -> what is known of every object whose name begins with ``folder/``."""
        ...

    def read(self, name: str) -> bytes | None:
        """An object's bytes; None where there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write an object, in place of another of its name."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write an object of a new name; False where another was there first."""
        ...

    def send(self, files: Mapping[str, Path]) -> None:
        """Write objects, name -> the local file."""
        ...

    def fetch(self, files: Mapping[str, Path]) -> None:
        """Read objects into local files. Raises ``FileNotFoundError`` where one is not there."""
        ...

    def copy(self, name: str, to: str) -> None:
        """Copy an object within the store."""
        ...

    def remove(self, names: Sequence[str]) -> None:
        """Take objects away; those that are not there, too."""
        ...


def is_remote(place: str | None) -> bool:
    """Whether a run is named by a URL.

    Raises:
      UserError: it is neither, but begins like one.

    >>> is_remote("gs://bucket/run"), is_remote("runs/a"), is_remote(None)
    (True, False, False)
    """
    if place is not None and _MISTYPED.match(place):
        raise UserError(
            f"run {printable(place)!r} is neither a folder nor a URL; buckets are s3://BUCKET/NAME", field="run"
        )
    return place is not None and _URL.match(place) is not None


def parts_of(url: str) -> tuple[str, tuple[str, ...]]:
    """The scheme of a URL, and its parts, bucket first.

    Raises:
      UserError: a scheme that is not known; no bucket; empty parts, ``..``, control characters.

    Example:
      >>> parts_of("s3://bucket/runs/a/")
      ('s3', ('bucket', 'runs', 'a'))
    """
    found = _URL.match(url)
    scheme, path = (found[1].lower(), found[2]) if found else ("", "")
    if scheme not in SCHEMES:
        raise UserError(f"run {printable(url)!r}: give s3://BUCKET/NAME, gs://BUCKET/NAME or a folder", field="run")
    path = path.removesuffix("/")
    parts = tuple((path.removeprefix("/") if scheme in ("file", "memory") else path).split("/"))
    if scheme in BUCKETS and len(parts) < 2:
        raise UserError(f"run {printable(url)!r} names no run; give {scheme}://{printable(path)}/NAME", field="run")
    if not is_text(path) or any(part in ("", ".", "..") for part in parts) or set(path) & set("\\?#*[]"):
        raise UserError(f"run {printable(url)!r} is no place in a bucket; give one as s3://BUCKET/NAME", field="run")
    return scheme, parts


class Bucket:
    """A :class:`Store` by fsspec.

    Args:
      url: ``s3://BUCKET/NAME`` or ``gs://BUCKET/NAME``.

    Raises:
      UserError: a URL that is none; the package that reads it is not installed, or has no credentials.
    """

    def __init__(self, url: str):
        scheme, parts = parts_of(url)
        self.url = f"{scheme}://{'/' if scheme == 'file' else ''}{'/'.join(parts)}"
        self._bucket = parts[0]
        self._root = ("/" if scheme in ("file", "memory") else "") + "/".join(parts)
        with self._worded("open"):
            self._system = _system(scheme)

    def check_bucket(self) -> None:
        """Raise :class:`StoreError` where there is no such bucket; asked only once nothing was found in it."""
        if self._root.startswith("/"):
            return
        with self._worded("read"):
            if not self._system.exists(self._bucket):
                raise FileNotFoundError(self._bucket)

    def names(self, folder: str) -> dict[str, Found]:
        """See :class:`Store`."""
        with self._worded("list what is"):
            try:
                found = self._system.find(f"{self._root}/{folder}", detail=True)
            except FileNotFoundError:
                return {}
            start = len(self._root) + 1
            return {name[start:]: Found(int(about["size"] or 0), _when(about)) for name, about in found.items()}

    def read(self, name: str) -> bytes | None:
        """See :class:`Store`."""
        with self._worded("read"):
            try:
                return bytes(self._system.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """See :class:`Store`."""
        with self._worded("write"):
            self._make_folder(name)
            self._system.pipe_file(f"{self._root}/{name}", data)

    def create(self, name: str, data: bytes) -> bool:
        """See :class:`Store`; read again afterwards, for a store that knows no conditions, and for an answer lost."""
        with self._worded("write"):
            self._make_folder(name)
            failed: Exception | None = None
            try:
                self._system.pipe_file(f"{self._root}/{name}", data, mode="create")
            except (FileNotFoundError, PermissionError):  # no bucket, no right
                raise
            except Exception as error:  # of whatever kind; a FileExistsError among them
                failed = error
        found = self.read(name)
        if found is None and failed is not None:
            with self._worded("write"):
                raise failed
        return found == data

    def send(self, files: Mapping[str, Path]) -> None:
        """See :class:`Store`."""
        with self._worded("write"):
            for name in files:
                self._make_folder(name)
            there = [f"{self._root}/{name}" for name in files]
            if there:
                self._system.put([str(path) for path in files.values()], there)

    def fetch(self, files: Mapping[str, Path]) -> None:
        """See :class:`Store`."""
        with self._worded("read", missing=True):
            if files:
                there = [f"{self._root}/{name}" for name in files]
                self._system.get(there, [str(path) for path in files.values()])

    def copy(self, name: str, to: str) -> None:
        """See :class:`Store`."""
        with self._worded("write"):
            self._make_folder(to)
            self._system.copy(f"{self._root}/{name}", f"{self._root}/{to}")

    def remove(self, names: Sequence[str]) -> None:
        """See :class:`Store`."""
        with self._worded("take away what is"):
            if names:
                with contextlib.suppress(FileNotFoundError):
                    self._system.rm([f"{self._root}/{name}" for name in names])

    def _make_folder(self, name: str) -> None:
        if self._root.startswith("/"):  # only what is no object store has folders
            self._system.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)

    @contextlib.contextmanager
    def _worded(self, doing: str, *, missing: bool = False) -> Iterator[None]:
        """Whatever a library raises as one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if missing and isinstance(error, FileNotFoundError):
                raise
            raise StoreError(_words(error, self.url, self._bucket, doing), field="run") from None


@functools.cache
def _system(scheme: str) -> Any:
    package, extra = SCHEMES[scheme]
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks for the kind of a bucket at every call
    try:
        fsspec = importlib.import_module("fsspec")
        importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"{scheme}:// is read by {package}, which is not installed: pip install 'gpz-jax[{extra}]'"
        ) from None
    for name in ("gcsfs", "s3fs", "fsspec", "aiobotocore", "google.auth"):  # what they log, they raise as well
        logging.getLogger(name).setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme == "s3":
        options["config_kwargs"] = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2}}
    return fsspec.filesystem(scheme, **options)


def _when(about: Mapping[str, Any]) -> datetime.datetime | None:
    """When an object was written; each library has a word of its own for it."""
    for word in ("LastModified", "mtime", "modified", "created"):
        found = about.get(word)
        if isinstance(found, int | float):
            return datetime.datetime.fromtimestamp(found, datetime.UTC)
        if isinstance(found, datetime.datetime):
            return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
    return None


_NO_RIGHT = re.compile(
    r"forbidden|access ?denied|\b403\b|\b401\b|unauthorized|not have .* access|permission", re.IGNORECASE
)
_NO_CREDENTIALS = re.compile("credentials", re.IGNORECASE)


def _words(error: Exception, url: str, bucket: str, doing: str) -> str:
    """One line that says what is wrong, and what to do about it."""
    kind = type(error).__name__
    why = printable(str(error)) or kind
    if isinstance(error, FileNotFoundError):
        return f"there is no bucket {bucket!r} for {url}, or none that these credentials may see; make it first"
    if _NO_CREDENTIALS.search(kind) or (_NO_CREDENTIALS.search(why) and not isinstance(error, PermissionError)):
        return f"no credentials that {url} takes were found ({why}); log in with its store's own tool"
    if isinstance(error, PermissionError) or _NO_RIGHT.search(why):
        return f"no right to {doing} in {url} ({why}); other credentials, or another `run`, may do"
    return f"{url} cannot be reached ({kind}: {why})"
