"""The local folder in which a run of an object store is worked on, and how both are brought into step.

Every record of a run is written, sealed and replaced in the way of a local file system, so that is where it is done: in
a folder of the user's cache. :meth:`WorkingCopy.push` brings up what changed, at moments at which the folder is whole.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpz_jax.atomic import make_folder, partial_path, write_json
from gpz_jax.errors import UserError
from gpz_jax.json_files import read_json
from gpz_jax.presentation import quantity
from gpz_jax.runs import manifest as manifests
from gpz_jax.runs.aside import free_name
from gpz_jax.runs.lease import Lease
from gpz_jax.runs.manifest import Content, Manifest, object_of
from gpz_jax.runs.object_store import Store, StoreError
from gpz_jax.runs.owner import is_passing
from gpz_jax.runs.seals import with_check, without_check

#: Seconds for which an object that no manifest names is left alone: a slow writer may be about to name it.
SWEPT_AFTER = 86400

#: Ends of names of what people read without us, which is kept under its own name, too.
FOR_PEOPLE = (".html", ".png", ".csv")

#: Nanoseconds for which the time of a file does not tell it from one that was written right after.
_SAME_TIME = 2 * 10**9

Tell = Callable[[str], None]


class WorkingCopy:
    """A run of an object store in a local folder, brought down on making it.

    Args:
      store: of the run.
      home: holds the folder, which has the name of the run, and what is known of it; nobody else may use it meanwhile.
      lease: of whoever writes the run's records; None for a guest, who adds a report at most.
      tell: what to do with notes.

    Raises:
      UserError: the store cannot be read, or what lies there is damaged; the disk does not hold it.
    """

    def __init__(self, store: Store, home: Path, *, lease: Lease | None = None, tell: Tell = lambda text: None):
        self._store, self._home, self._lease, self._tell = store, home, lease, tell
        self.folder = home / "run" / store.url.rpartition("/")[2]
        self._behind = ""  # why the last push did not get up
        self._times: dict[str, list[int]] = {}  # path -> size, time and number of the file whose digest is known
        self._open(self._remembered())

    @property
    def url(self) -> str:
        """Of the run."""
        return self._store.url

    def push(self) -> None:
        """Bring up what changed since the last time; where the store cannot be reached, say so and leave it for later.

        Raises:
          UserError: another process has taken the run over.
        """
        try:
            self._push()
            self._behind = ""
        except StoreError as error:
            self._behind = str(error)
            self._tell(f"{error}; what was finished lies in {self._home} and goes up with the next save")

    def close(self) -> None:
        """The last push. Raises :class:`UserError` where it did not get up."""
        tell, self._tell = self._tell, lambda text: None
        try:
            self.push()
        finally:
            self._tell = tell
        if self._behind:
            self._keep(ahead=True)
            raise UserError(
                f"{self._behind}; what was finished is kept in {self._home}, and goes up when a command next opens "
                f"{self.url} on this machine"
            )
        self._keep(ahead=False)

    # Down ---------------------------------------------------------------------------------------------------------

    def pull(self) -> None:
        """Bring down what counts now, and take away what does not."""
        for _ in range(3):
            found = manifests.latest(self._store)
            self._take_away([path for path in self._local() if path not in found.files])
            try:
                self._bring_down(found.files)
                break
            except FileNotFoundError as error:
                missing = error
                if manifests.latest(self._store).number == found.number:
                    raise UserError(f"{self.url} is damaged: an object of it is missing ({missing})") from None
        else:
            raise UserError(f"{self.url} is being written to by others faster than it can be read; try again")
        self._seen, self._turns = dict(found.files), {found.turn}

    def _take_away(self, paths: Sequence[str]) -> None:
        """With the folders that are empty then: a checkpoint is one by its folder's name."""
        for path in paths:
            (self.folder / path).unlink()
        for here, _, _ in os.walk(self.folder, topdown=False):
            if Path(here) != self.folder:
                with contextlib.suppress(OSError):  # not empty
                    os.rmdir(here)

    def _open(self, known: dict[str, Any] | None) -> None:
        make_folder(self.folder)
        there = manifests.latest(self._store)
        self._seen = {} if known is None else known["files"]
        self._times = {} if known is None else known["times"]
        local = self._scan()
        if local and not there.number and (known is None or known["files"]):
            # It was there and is not: emptied, or not the same store. This may be the last copy.
            self._set_aside()
            local, known = {}, None
        ahead = known is None or known["ahead"]
        ahead = ahead and any(there.files.get(path) != local.get(path) for path in {**local, **self._seen})
        if ahead and known is not None and there.turn in known["turns"] and not self._is_torn(local):
            added = {path: content for path, content in there.files.items() if path not in {**self._seen, **local}}
            self._bring_down(added)  # by guests
            self._seen |= added
            self._turns = set(known["turns"])
            self._tell(f"{self.url}: what this machine had finished and not brought up is gone on with")
        else:
            if ahead and local:
                self._set_aside()
            self.pull()
        if self._lease is not None:
            self._turns.add(self._lease.token)
            self._sweep()
        self._keep(ahead=self._lease is not None)

    def _is_torn(self, local: Mapping[str, Content]) -> bool:
        """Whether somebody cleared the cache of some of it: no command takes a config.json away."""
        return any(path.rpartition("/")[2] == "config.json" and path not in local for path in self._seen)

    def _set_aside(self) -> None:
        aside = free_name(self._home, "aside")
        self.folder.rename(aside)
        make_folder(self.folder)
        self._seen, self._turns = {}, set()
        self._keep(ahead=False)
        self._tell(f"{self.url}: what lay here, not brought up, does not follow on what is there now; it is in {aside}")

    def _bring_down(self, files: Mapping[str, Content]) -> None:
        local = self._scan()
        wanted = {path: content for path, content in files.items() if local.get(path) != content}
        needed, free = sum(content.size for content in wanted.values()), shutil.disk_usage(self._home).free
        if needed > free:
            raise UserError(
                f"{self.url} needs {quantity(needed, 1024)}B on this disk, {self._home} has {quantity(free, 1024)}B; "
                "make room, or name another cache folder with XDG_CACHE_HOME"
            )
        partial = {path: partial_path(self.folder / path) for path in wanted}
        try:
            for path in partial.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            self._store.fetch({object_of(path, wanted[path]): partial[path] for path in wanted})
            for path, content in wanted.items():
                if _content_of(partial[path]) != content:
                    raise UserError(f"{self.url} is damaged: {object_of(path, content)} does not hold what was written")
                partial[path].replace(self.folder / path)
        finally:
            for path in partial.values():
                path.unlink(missing_ok=True)
        if wanted:
            self._tell(f"{self.url}: {len(wanted)} files, {quantity(needed, 1024)}B, brought down")

    # Up -----------------------------------------------------------------------------------------------------------

    def _push(self) -> None:
        local = self._scan()
        changed = {path: content for path, content in local.items() if self._seen.get(path) != content}
        gone = [path for path in self._seen if path not in local]
        if not changed and not gone:
            return
        for _ in range(20):
            before = manifests.latest(self._store)
            self._bring_up({path: content for path, content in changed.items() if before.files.get(path) != content})
            files = {path: content for path, content in before.files.items() if path not in gone} | changed
            turn = before.turn
            if self._lease is not None:
                self._lease.check()
                turn = self._lease.token
            if manifests.put(self._store, Manifest(files, before.number + 1, turn)):
                break
        else:
            raise StoreError(f"{self.url} is being written to by others without an end")
        self._seen, self._turns = local, self._turns | {turn}
        self._keep(ahead=self._lease is not None)
        kept = {object_of(path, content) for path, content in files.items()}
        old = {object_of(path, content) for path, content in before.files.items()}
        self._store.remove([*sorted(old - kept), *(path for path in gone if path.endswith(FOR_PEOPLE))])

    def _bring_up(self, files: Mapping[str, Content]) -> None:
        self._store.send({object_of(path, content): self.folder / path for path, content in files.items()})
        for path, content in files.items():
            if path.endswith(FOR_PEOPLE) and not path.startswith("gpz-"):
                self._store.copy(object_of(path, content), path)

    def _sweep(self) -> None:
        """Take away contents that no manifest names, of a process that was killed between them."""
        found = self._store.names(manifests.FILES)
        named = {object_of(path, content) for path, content in manifests.latest(self._store).files.items()}
        times = [about.written.timestamp() for about in found.values() if about.written is not None]
        old = min(max(times, default=0.0), time.time()) - SWEPT_AFTER
        lost = [name for name, about in found.items() if about.written and about.written.timestamp() < old]
        self._store.remove([name for name in lost if name not in named])

    # What is here -------------------------------------------------------------------------------------------------

    def _local(self) -> Iterator[str]:
        """Paths of what counts of the folder: plain files, and no locks and halves."""
        for here, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if not is_passing(name)]
            for name in files:
                path = Path(here) / name
                if not is_passing(name) and path.is_file() and not path.is_symlink():
                    yield path.relative_to(self.folder).as_posix()

    def _scan(self) -> dict[str, Content]:
        """What the folder holds; what has its time, size and place of before is not read again."""
        found, times = {}, {}
        for path in self._local():
            about = (self.folder / path).stat()
            times[path] = [about.st_size, about.st_mtime_ns, about.st_ino]
            if self._times.get(path) == times[path] and path in self._digests:
                found[path] = Content(about.st_size, self._digests[path])
            else:
                found[path] = _content_of(self.folder / path)
            if time.time_ns() - about.st_mtime_ns < _SAME_TIME:
                del times[path]
        self._times, self._digests = times, {path: content.sha256 for path, content in found.items()}
        return found

    def _remembered(self) -> dict[str, Any] | None:
        """What is known of the folder from the last command; None where nothing can be relied on."""
        self._digests: dict[str, str] = {}
        with contextlib.suppress(UserError, KeyError, ValueError, TypeError, AttributeError):
            file = self._home / "state.json"
            written = without_check(read_json(file, limit_bytes=2**27), file)
            if written["url"] == self.url:
                self._digests = {path: str(sha256) for path, sha256 in written["digests"].items()}
                files = {path: Content(*content) for path, content in written["files"].items()}
                return {"files": files, **{name: written[name] for name in ("times", "turns", "ahead")}}
        return None

    def _keep(self, *, ahead: bool) -> None:
        """Note how far the folder and the store are in step; ``ahead``: there may be more here than there."""
        about = {"url": self.url, "ahead": ahead, "turns": sorted(self._turns), "times": self._times}
        files = {path: list(content) for path, content in self._seen.items()}
        write_json(self._home / "state.json", with_check({**about, "digests": self._digests, "files": files}))


def _content_of(file: Path) -> Content:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return Content(opened.tell(), digest)
