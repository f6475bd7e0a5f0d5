"""Images that do not fit into memory: mapped from the file that holds them, or read once into one without a name."""

import os
import pathlib
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpz_jax import last_words
from gpz_jax.compile_cache import user_cache_folder
from gpz_jax.data.unpacked_size import gigabytes
from gpz_jax.errors import UserError
from gpz_jax.memory import of_machine

#: Makes room for images, uint8 (N, H, W, C), which whoever asked for it fills.
Allocate = Callable[[tuple[int, ...]], np.ndarray]

_BEGIN_ANEW = "what was read last may be of both: begin anew with the file as it is now"

#: Version of the format .npy -> what reads the rest of its header.
VERSIONS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

_LOCAL_HEADER = 30  # bytes before a zip member's name, the lengths of name and extra field at the end of them


def in_memory(shape: tuple[int, ...]) -> np.ndarray:
    """Room for images in memory; the plain :data:`Allocate`."""
    return np.empty(shape, np.uint8)


def on_disk(shape: tuple[int, ...]) -> np.ndarray:
    """Room for images in a file of the user's cache folder that has no name, and is gone with the process.

    Raises:
      UserError: the disk has no such room.

    Example:
      >>> room = on_disk((2, 4, 4, 1))
      >>> room[1] = 7
      >>> type(room).__name__, int(room.sum())
      ('memmap', 112)
    """
    size, folder = int(np.prod(shape, dtype=np.int64)), _folder()
    try:
        with tempfile.TemporaryFile("w+b", dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would end the process while it writes to the mapping
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
            return np.memmap(file, np.uint8, "w+", shape=shape)
    except OSError as error:
        raise UserError(
            f"{gigabytes(size)} of images cannot be put into a file in {folder} ({error.strerror or error}); let "
            "TMPDIR name a folder with room"
        ) from error


def _folder() -> pathlib.Path:
    """Of files without names: what ``TMPDIR`` names, else the user's cache, since /tmp often lies in memory."""
    if asked := os.environ.get("TMPDIR"):  # not by tempfile, which takes /tmp where this one cannot be written to
        return pathlib.Path(asked)
    try:
        folder = user_cache_folder() / "gpz_jax"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return pathlib.Path(tempfile.gettempdir())
    return folder


def is_too_much(unpacked: int) -> bool:
    """Whether so many bytes of images are better left on disk: more than half of the memory there is."""
    return unpacked > of_machine() // 2


class Stamp(NamedTuple):
    """What a file was like when it was mapped: a later look tells whether someone has written to it."""

    path: pathlib.Path
    size: int
    changed: int
    inode: int

    @staticmethod
    def of(path: pathlib.Path) -> "Stamp":
        """As it is now."""
        about = path.stat()
        return Stamp(path, about.st_size, about.st_mtime_ns, about.st_ino)

    def check(self) -> None:
        """Raise :class:`UserError` where someone has written to the file.

        One that was moved away, or replaced by another of its name, is still there for whoever has mapped it.
        """
        try:
            now = Stamp.of(self.path)
        except OSError:
            return
        if now.inode == self.inode and now != self:
            raise UserError(f"{self.path} was changed while images were read from it; {_BEGIN_ANEW}")


def check_unchanged(stamps: Sequence[Stamp]) -> None:
    """Raise :class:`UserError` where a file that is read as it is asked for is another by now."""
    for stamp in stamps:
        stamp.check()


def mapped_member(path: pathlib.Path, member: zipfile.ZipInfo) -> np.ndarray | None:
    """An array of an .npz as it lies there; None where it is compressed, not of bytes, or not in the order of rows.

    Args:
      path: of the file, whose sizes have been checked.
      member: of its zip.
    """
    if member.compress_type != zipfile.ZIP_STORED:
        return None
    with path.open("rb") as file:
        file.seek(member.header_offset)
        local = file.read(_LOCAL_HEADER)
        if len(local) < _LOCAL_HEADER or local[:4] != b"PK\x03\x04":
            return None
        lengths = int.from_bytes(local[26:28], "little"), int.from_bytes(local[28:30], "little")
        file.seek(sum(lengths), os.SEEK_CUR)
        begin = file.tell()
        shape, columns_first, dtype = header_of(file)
        offset = file.tell()
    size = int(np.prod(shape, dtype=np.int64))
    if dtype != np.uint8 or columns_first or offset - begin + size != member.file_size:
        return None
    last_words.say_on_bus_error(f"{path} was cut short while images were read from it; {_BEGIN_ANEW}")
    return np.memmap(path, np.uint8, "r", offset=offset, shape=shape)


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, allocate: Allocate) -> np.ndarray | None:
    """An array of bytes of an .npz, read piece by piece into room of its own; None where it is not of bytes.

    Args:
      archive: opened.
      member: of it.
      allocate: makes the room.
    """
    with archive.open(member) as stream:
        shape, columns_first, dtype = header_of(stream)
        if dtype != np.uint8 or columns_first:
            return None
        room = allocate(tuple(shape))
        flat, at = room.reshape(-1), 0
        while piece := stream.read(2**22):
            flat[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            at += len(piece)
    if at != flat.size:
        raise ValueError(f"it ends after {at} of {flat.size} bytes")
    return room


def header_of(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and dtype of an .npy. Raises ``ValueError`` for what is none."""
    version = np.lib.format.read_magic(stream)
    if version not in VERSIONS:
        raise ValueError(f"version {version} of the format .npy is not known")
    return VERSIONS[version](stream)
