"""A run folder has one owner: the process that writes its records holds a lock of the operating system on it.

The system lets go of the lock when the process ends, however it ends, so that nothing a dead process left has to be
cleared away by hand. Reading commands (vortex, cuts, report) need no lock: every file is replaced whole.
"""

import contextlib
import datetime
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from gpz_jax import processes
from gpz_jax.atomic import make_folder, write_json
from gpz_jax.errors import UserError
from gpz_jax.json_files import read_json
from gpz_jax.terminal import called

#: The file that is locked, and the one that says who holds the lock.
LOCK, OWNER = "owner.lock", "owner.json"


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold a run folder, made if it is not there, while its records are written; in one process as often as need be.

    Of several processes that work together process 0 holds it for all, and all must see it.

    Args:
      folder: of the run, or of a sweep.

    Raises:
      UserError: another process holds it.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as home, owned(Path(home)):
      ...     sorted(path.name for path in Path(home).iterdir())
      ['owner.json', 'owner.lock']
    """
    with processes.led_context(_locked(folder)):
        processes.every(lambda: _check_shared(folder))
        yield


def _check_shared(folder: Path) -> None:
    if not (folder / OWNER).is_file():
        if (url := called(str(folder))) != str(folder):
            raise UserError(
                f"process 0 works on {url} in a folder of its user's cache that this process does not see: "
                "XDG_CACHE_HOME must name one on a file system that all processes share"
            )
        raise UserError(
            f"{folder} is not the folder that process 0 writes to: `run` must lie on a file system that all processes "
            "share",
            field="run",
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import filelock

    folder = make_folder(folder).resolve()
    # A singleton, so that a command can hold the folder around the functions it calls, each of which holds it, too.
    lock = filelock.FileLock(folder / LOCK, timeout=0, thread_local=False, is_singleton=True)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(f"another process is at work in {folder}{_who(folder)}; wait for it, or stop it") from None
    except (OSError, NotImplementedError) as error:
        raise UserError(
            f"{folder} cannot be locked ({getattr(error, 'strerror', None) or error}), so another process could write "
            "there at the same time; choose a folder on a file system with locks with `run`",
            field="run",
        ) from None
    try:
        if lock.lock_counter == 1:
            _sign(folder)  # first, so that whoever comes second is told of this process and not of one before it
            _clear(folder)
        yield
    finally:
        if lock.lock_counter == 1:
            (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def another_in(folder: Path) -> str:
    """``another process (process 12 on host a, since …)`` if one holds the folder, else nothing; nothing is held after.

    Example:
      >>> another_in(Path("nowhere"))
      ''
    """
    import filelock

    if not (folder / LOCK).is_file():
        return ""
    try:
        with filelock.FileLock(folder.resolve() / LOCK, timeout=0, thread_local=False, is_singleton=True):
            return ""
    except filelock.Timeout:
        return f"another process{_who(folder)}"
    except (OSError, NotImplementedError):
        return ""


def _sign(folder: Path) -> None:
    """Say who holds the folder."""
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200] if sys.argv else ""
    write_json(folder / OWNER, {"host": socket.gethostname(), "pid": os.getpid(), "command": command, "since": since})


def _who(folder: Path) -> str:
    """``" (process 12 on host a, since …)"``, as far as the owner says it; it may be about to."""
    try:
        said = dict(read_json(folder / OWNER))
        return f" (process {int(said['pid'])} on {str(said['host'])[:60]}, since {str(said['since'])[:25]})"
    except (UserError, KeyError, ValueError, TypeError):
        return ""


#: How names end of what is not whole yet; Orbax writes beside the name that it is given.
_HALF = (".partial", ".orbax-checkpoint-tmp")

#: What :func:`gpz_jax.atomic.partial_path` names after the process that writes it.
_OF_PROCESS = re.compile(r"\.(\d{1,9})-[0-9a-f]{6}\.partial(\.orbax-checkpoint-tmp)?$")


def _clear(folder: Path) -> None:
    """Take away what processes that were killed left half written, wherever it lies below the folder.

    Not what a living process of this machine writes (``cuts`` holds no lock), and nothing in folders with a lock of
    their own: the runs of a sweep.
    """
    for here, folders, files in os.walk(folder):
        for name in [name for name in folders if (Path(here) / name / LOCK).exists()]:
            folders.remove(name)
        for name in [name for name in (*folders, *files) if name.endswith(_HALF)]:
            path, writer = Path(here) / name, _OF_PROCESS.search(name)
            if path.is_symlink() or (writer and _lives(int(writer[1]))):
                continue
            if name in folders:
                folders.remove(name)
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def is_passing(name: str) -> bool:
    """Whether a file is of a process that is about to begin in a folder, or was killed there: no reason not to begin.

    >>> is_passing("owner.lock"), is_passing("config.json")
    (True, False)
    """
    return name in (LOCK, OWNER) or name.endswith(_HALF)


def _lives(pid: int) -> bool:
    """Whether another process of that number is there."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return pid != os.getpid()
