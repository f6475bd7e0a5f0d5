"""Runs in object stores, at hand as local folders: ``with at_hand("gs://bucket/run") as folder``.

A command works on the folder as on any other. It is brought down when the context begins and up when it ends; records
are brought up on their way by :func:`push`, which for a run that lies in a local folder does nothing.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from gpz_jax import processes, terminal
from gpz_jax.atomic import make_folder
from gpz_jax.compile_cache import user_cache_folder
from gpz_jax.errors import UserError
from gpz_jax.runs import manifest as manifests
from gpz_jax.runs.lease import Lease
from gpz_jax.runs.object_store import BUCKETS, Bucket, is_remote, parts_of
from gpz_jax.runs.working_copy import Tell, WorkingCopy

#: What makes a URL name a place in another store than Amazon's or Google's.
_OTHER_STORES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST")

_OPEN: dict[str, WorkingCopy] = {}  # by the run's URL; of several processes in the first alone
_FOLDERS: dict[str, Path] = {}  # of the same, in all processes


def push(folder: Path) -> None:
    """Bring up what is new in a run folder, which is whole at this moment; nothing to do for one that is local.

    Of several processes the first does it; all of them call it.

    Args:
      folder: of a run, or anything in it.

    Raises:
      UserError: another process has taken the run over.

    Example:
      >>> push(Path("runs/a"))
    """
    for url, there in _FOLDERS.items():
        if folder.is_relative_to(there):
            processes.led(lambda url=url: _OPEN[url].push())


@contextlib.contextmanager
def at_hand(place: str | None, *, writes: bool, tell: Tell = lambda text: None) -> Iterator[str | None]:
    """A run as a local folder, while the context lasts.

    Args:
      place: a folder, which is given back as it is; or a URL, of a run, of a sweep or of a run in one.
      writes: whether the run's records are written; else it is looked at, and a report added at most.
      tell: what to do with notes.

    Raises:
      UserError: the store cannot be read, or not be written to; another process is at work in it; on leaving, what
        was written did not get up.
    """
    if place is None or not is_remote(place):
        yield place
        return
    root, inside = processes.told(processes.led(lambda: _root_of(place)))
    if root in _FOLDERS:
        yield str(_FOLDERS[root] / inside)
        return
    with contextlib.ExitStack() as opened:
        copy = processes.led(lambda: opened.enter_context(_leading(root, writes, tell)))
        folder = Path(processes.told(None if copy is None else str(copy.folder)))  # which all must see, see owner.py
        terminal.call(str(folder), root)  # up to the end of the process: errors are said later
        _FOLDERS[root] = folder
        opened.callback(lambda: _FOLDERS.pop(root))
        yield str(folder / inside)


def files_of(place: str, names: Callable[[str], bool], to: Path) -> Path:
    """Bring single files of a run down into a folder; returns the run's place in it.

    Args:
      place: a URL.
      names: which of the paths in the run.
      to: the folder.

    Raises:
      UserError: the store cannot be read; an object is missing or damaged.
    """
    root, inside = _root_of(place)
    store = Bucket(root)
    found = manifests.latest(store).files
    below = f"{inside}/" if inside else ""
    wanted = {path: found[path] for path in found if path.startswith(below) and names(path.removeprefix(below))}
    for path, content in wanted.items():
        data = store.read(manifests.object_of(path, content))
        if data is None or hashlib.sha256(data).hexdigest() != content.sha256:
            raise UserError(f"{store.url} is damaged: {manifests.object_of(path, content)} is missing or changed")
        make_folder((to / path).parent)
        (to / path).write_bytes(data)
    return to / inside


def _root_of(place: str) -> list[str]:
    """The URL whose manifest a run is in, and the run's path below it: that of its sweep where it is of one."""
    scheme, parts = parts_of(place)
    start = f"{scheme}:///" if scheme == "file" else f"{scheme}://"
    for count in range(len(parts), 1 if scheme in BUCKETS else 0, -1):  # no run lies in a bucket itself
        url, inside = start + "/".join(parts[:count]), "/".join(parts[count:])
        found = manifests.latest(Bucket(url))
        if found.number and (not inside or any(path.startswith(f"{inside}/") for path in found.files)):
            return [url, inside]
    Bucket(place).check_bucket()
    return [start + "/".join(parts), ""]


@contextlib.contextmanager
def _leading(url: str, writes: bool, tell: Tell) -> Iterator[WorkingCopy]:
    """Of the process that writes for all."""
    store = Bucket(url)
    lease = Lease(store) if writes else None
    try:
        with _home(url) as home:
            _OPEN[url] = copy = WorkingCopy(store, home, lease=lease, tell=tell)
            try:
                if lease is not None:
                    copy.push()  # what an earlier command could not
                yield copy
            except Exception:  # which is to be said, and not what comes of it here
                with contextlib.suppress(UserError):
                    copy.close()
                raise
            except BaseException:  # stopped in good order: then it counts whether that got up
                copy.close()
                raise
            else:
                copy.close()
            finally:
                del _OPEN[url]
    finally:
        if lease is not None:
            lease.release()


@contextlib.contextmanager
def _home(url: str) -> Iterator[Path]:
    """A folder of the user's cache for a run, held by this process; another one where that is taken."""
    import filelock

    try:
        which = " ".join([url, *filter(None, map(os.environ.get, _OTHER_STORES))])
        above = user_cache_folder() / "gpz_jax" / "remote" / hashlib.sha256(which.encode()).hexdigest()[:16]
    except RuntimeError as error:
        raise UserError(f"there is no folder to work on {url} in ({error}); XDG_CACHE_HOME names one") from None
    for number in range(1, 100):
        home = make_folder(above.absolute() / ("own" if number == 1 else f"own-{number}")).resolve()
        lock = filelock.FileLock(home / "lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            continue
        try:
            yield home
        finally:
            lock.release()
        return
    raise UserError(f"too many processes work on {url} on this machine")
