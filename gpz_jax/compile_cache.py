"""What XLA compiled, kept for the next command in the user's cache folder; sealed, because jax does not look.

jax's own cache finds a damaged entry only by the checksum of its compression, which zstandard leaves out; then it warns
in every process, compiles, and leaves the entry as it is. Of a process that was killed between two files of an entry it
stores nothing more, for anyone, since its eviction stops at the missing one. So entries are ours: written beside their
place and renamed, with the SHA-256 of what they are called and hold in front. It needs no lock, for two processes that
compile one program write the same file, and either is whole.
"""

import contextlib
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

#: Bytes of all entries, those for other machines and versions among them, unless jax_compilation_cache_max_size says.
MOST = 2**30

#: What a line of /proc/cpuinfo begins with that says which instructions there are; others change from boot to boot.
_OF_CPU = (
    "vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU implementer", "CPU architecture",
    "CPU variant", "CPU part", "isa", "uarch",
)  # fmt: skip

Tell = Callable[[str], None]


def user_cache_folder() -> Path:
    """Where this user's programs keep what can be made again.

    Raises:
      RuntimeError: the user has no home.
    """
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else Path.home() / ".cache"  # a relative one is to be ignored


def machine() -> str:
    """Names the instruction set of this CPU: code that was compiled for one may end a process on another.

    >>> machine().startswith(platform.machine())
    True
    """
    words = _cpu_words() or platform.processor() or platform.node()
    return f"{platform.machine()}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"


def _cpu_words() -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if sys.platform == "darwin":
            asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu"]
            return subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
        lines = (line.partition(":") for line in text.splitlines())
        return "\n".join(sorted(f"{key.strip()}{sorted(set(value.split()))}" for key, _, value in lines
                                if key.strip() in _OF_CPU))  # fmt: skip
    return ""


class SealedCache:
    """What jax asks of a cache: ``get`` and ``put`` by a key. Neither ever raises.

    Args:
      folder: of the entries; made here.
      most: bytes of all entries in the folders beside it and its own; the longest unused go first.
      tell: what to do with a note, of which there is one at most of each kind.

    Raises:
      OSError: the folder cannot be made, or not be written to.

    Example:
      >>> with tempfile.TemporaryDirectory() as there:
      ...     cache = SealedCache(Path(there) / "a", 100, print)
      ...     cache.put("f-1", b"program")
      ...     cache.get("f-1"), cache.get("f-2")
      (b'program', None)
    """

    def __init__(self, folder: Path, most: int, tell: Tell):
        self._folder, self._path, self._most, self._tell = folder, folder, most, tell  # jax logs _path
        self._told: set[str] = set()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(folder)
        with tempfile.TemporaryFile("w+b", dir=folder):  # whether it can be written to, before an hour is spent
            pass
        for part in folder.glob(".*.part"):  # of a process that was killed, unless it is of one at work
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > 3600:
                    part.unlink()
        self._held = self._evict()

    def get(self, key: str) -> bytes | None:
        """What was put under a key; None where nothing was, or it is damaged."""
        file = self._folder / f"{key}.sealed"
        try:
            written = file.read_bytes()
        except OSError:
            return None
        value = written[hashlib.sha256().digest_size :]
        if written != _sealed(key, value):
            self._note("what was compiled before is damaged in part, and compiled again")
            with contextlib.suppress(OSError):
                file.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(file)  # used now
        return value

    def put(self, key: str, value: bytes) -> None:
        """Keep a value for :meth:`get`; not where the disk says no, nor what is larger than all may be."""
        if len(value) > self._most or "write" in self._told:
            return
        part = self._folder / f".{os.getpid()}-{threading.get_ident()}.part"
        try:
            self._held += part.write_bytes(_sealed(key, value))
            part.replace(self._folder / f"{key}.sealed")
            if self._held > self._most:
                self._held = self._evict()
        except OSError as error:
            self._note(f"what is compiled is not kept any more: {error.strerror or error}", kind="write")
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def _evict(self) -> int:
        """Take away what was not used for longest until nine tenths of the most are left; the bytes that are."""
        found = []
        for file in self._folder.parent.glob("*/*.sealed"):
            with contextlib.suppress(OSError):  # another process may be at it, too
                about = file.stat()
                found.append((about.st_mtime, about.st_size, file))
        held = sum(size for _, size, _ in found)
        if held > self._most:
            for _, size, file in sorted(found):
                if held <= 0.9 * self._most:
                    break
                with contextlib.suppress(OSError):
                    file.unlink()
                held -= size
        return held

    def _note(self, text: str, *, kind: str = "read") -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._tell(text)


def _sealed(key: str, value: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\n" + value).digest() + value


def _check_owner(folder: Path) -> None:
    """Raise ``PermissionError`` for a folder that others may write to: its files are run as programs."""
    about = folder.stat()
    if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o022):
        raise PermissionError(1, "others may write there", str(folder))


@contextlib.contextmanager
def kept(tell: Tell, *, off: bool = False) -> Iterator[None]:
    """Within it jax keeps what it compiles for the next process, and takes what an earlier one compiled.

    Where ``JAX_COMPILATION_CACHE_DIR`` names a folder, or a program has set one, that is left as it is. A folder that
    cannot be used costs a note.

    Args:
      tell: what to do with notes.
      off: compile everything anew instead, and keep nothing.
    """
    if off:
        with _config(jax_enable_compilation_cache=False):
            yield
        return
    named = _set("compilation_cache_dir") or not _set("enable_compilation_cache")
    cache = None if named else _opened(tell)
    if cache is None:
        yield
    else:
        given: dict[str, Any] = {"jax_compilation_cache_dir": str(cache._folder)}
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            given["jax_persistent_cache_min_compile_time_secs"] = 0.0
        with _in_place_of_jaxs(cache), _config(**given):
            yield


def _set(name: str) -> Any:
    """A setting of jax, whose checkers know none of them by name."""
    return getattr(jax.config, f"jax_{name}")


def _opened(tell: Tell) -> SealedCache | None:
    """The cache in the user's folder; None with a note where there is no such folder."""
    most = _set("compilation_cache_max_size")
    try:
        folder = user_cache_folder() / "gpz_jax" / "compiled" / f"jax-{jax.__version__}-{machine()}"
        return SealedCache(folder, most if most >= 0 else MOST, tell)
    except (OSError, RuntimeError) as error:
        where = getattr(error, "filename", None)
        why = f"{where}: {getattr(error, 'strerror', None) or error}" if where else str(error)
        tell(f"what is compiled is not kept for the next time ({why}); XDG_CACHE_HOME names another folder")
    return None


@contextlib.contextmanager
def _in_place_of_jaxs(cache: SealedCache) -> Iterator[None]:
    """Let jax take its cache from us; where a later jax has no such place, its own is used, in the same folder."""
    from jax._src import compilation_cache as theirs

    made = getattr(theirs, "get_file_cache", None)
    if made is None:
        with _config(jax_compilation_cache_max_size=cache._most):
            yield
        return
    theirs.get_file_cache = lambda path: (cache, path)
    try:
        yield
    finally:
        theirs.get_file_cache = made


@contextlib.contextmanager
def _config(**values: Any) -> Iterator[None]:
    """Settings of jax for a while; the cache that it has open is let go before and after."""
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    before = {name: getattr(jax.config, name) for name in values}

    def put(given: dict[str, Any]) -> None:
        for name, value in given.items():
            jax.config.update(name, value)
        reset_cache()

    put(values)
    try:
        yield
    finally:
        put(before)
