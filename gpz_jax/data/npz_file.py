"""Data sets from an ``.npz``, of which nothing is unpacked before its size is known to be true and to fit."""

import dataclasses
import math
import pathlib
import zipfile
from typing import Any

import numpy as np

from gpz_jax.data.arrays import Source, from_arrays
from gpz_jax.data.byte_scale import as_uint8
from gpz_jax.data.class_names import checked_names, names_beside, names_of_array
from gpz_jax.data.on_disk import VERSIONS, Stamp, header_of, is_too_much, mapped_member, on_disk, read_member
from gpz_jax.data.unpacked_size import check_unpacked, gigabytes
from gpz_jax.errors import UserError
from gpz_jax.presentation import printable, why

# Our key first, then the one the paper's released code writes.
_NPZ_KEYS = {
    "train_images": ("train_images", "train_data"),
    "train_labels": ("train_labels",),
    "test_images": ("test_images", "test_data"),
    "test_labels": ("test_labels",),
    "aux_images": ("aux_images", "auxiliary_data"),
}
_GROUPS = ("group", "patient")  # *_group, or *_patient where the file has none of these
_CLASS_NAMES = "class_names"
_PARTS = ("train", "test", "aux")
_LONGEST_HEADER = 2**16  # of an array in the file; numpy writes some hundred bytes


def read_npz(path: str | pathlib.Path, *, auxiliary: bool = False, disk: bool | None = None) -> Source:
    """Read the data set in one ``.npz``; its name is the file's.

    With ``disk`` images stay there: mapped from the file as they lie in it, or, where it is compressed, unpacked into
    one without a name; they must be uint8. None: where they would take more than half of the memory.

    Keys: train_images, train_labels, test_images, test_labels and optionally aux_images; or, as the paper's
    released code writes them, train_data, test_data and auxiliary_data for the images. train_group, test_group and
    aux_group, or else train_patient and so on, optional, say whose image each is; they are not read with
    ``auxiliary=True``. class_names, optional, are unicode strings (K,); without them, the lines of NAME.classes.txt
    beside the file, or of classes.txt where it is the only .npz there. Further keys are ignored unread. Pickled objects
    are never loaded.

    Raises UserError for no such file, one that is not an .npz or is damaged, pickled objects, missing keys,
    arrays whose headers claim another size than they have, or more than
    :func:`~gpz_jax.data.unpacked_size.check_unpacked` allows, and arrays that :func:`from_arrays` refuses.

    >>> read_npz("nowhere/mnist.npz")
    Traceback (most recent call last):
    ...
    gpz_jax.errors.UserError: no file nowhere/mnist.npz
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"no file {path}")
    _check_zip(path)
    arrays, stamp = {}, Stamp.of(path)
    try:
        # Opened here, since numpy leaves a file open whose zip is damaged.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            keys = _npz_keys(path, file.files) | ({} if auxiliary else _group_keys(file.files))
            names = [_CLASS_NAMES] if not auxiliary and _CLASS_NAMES in file.files else []
            disk = _check_sizes(path, file, [*keys.values(), *names], disk)
            for field, key in keys.items():
                if disk and field.endswith("images"):
                    arrays[field] = _left_on_disk(path, file, key)
                    continue
                array = _npz_array(path, file, key)
                # Converted as it is read, so that only one array at a time exists in its wider type.
                arrays[field] = as_uint8(array, f"{path}: {key}") if field.endswith("images") else array
                del array
            if names:
                found = _npz_array(path, file, _CLASS_NAMES)
                arrays[_CLASS_NAMES] = names_of_array(found, f"{path}: {_CLASS_NAMES}")
    except UserError:
        raise
    except Exception as error:  # whatever zip or numpy raise, this file is at fault
        raise UserError(f"{path} cannot be read ({why(error)}); copy or write it again") from error
    if not auxiliary and _CLASS_NAMES not in arrays and (beside := names_beside(path)) is not None:
        listed, names = beside
        source = from_arrays(path.stem, **arrays, where=str(path))
        source = dataclasses.replace(source, class_names=checked_names(names, source.num_classes, str(listed)))
    else:
        source = from_arrays(path.stem, **arrays, where=str(path), auxiliary=auxiliary)
    return dataclasses.replace(source, files=(stamp,) if disk else ())


def brings_auxiliary(path: str | pathlib.Path) -> bool:
    """Whether an ``.npz`` holds images for the attacker; False too where there is no such file, or a damaged one.

    >>> brings_auxiliary("nowhere/mnist.npz")
    False
    """
    if not pathlib.Path(path).is_file():  # a pipe would be waited for
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return any(f"{key}.npy" in file.namelist() for key in _NPZ_KEYS["aux_images"])
    except Exception:  # whatever zip raises of a damaged one
        return False


def _check_zip(path: pathlib.Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if start.startswith(b"PK") and zipfile.is_zipfile(path):
            return
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if start == b"\x93NUMPY":
        raise UserError(f"{path} is a single .npy array; write named arrays with numpy.savez")
    if start.startswith(b"PK"):
        raise UserError(f"{path} is truncated; copy or write it again")
    raise UserError(f"{path} is not an .npz file; write it with numpy.savez")


def _npz_keys(path: pathlib.Path, found: list[str]) -> dict[str, str]:
    keys = {field: next((k for k in names if k in found), None) for field, names in _NPZ_KEYS.items()}
    missing = [" or ".join(_NPZ_KEYS[f]) for f, key in keys.items() if key is None and f != "aux_images"]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; it holds {printable(', '.join(found)) or 'nothing'}")
    return {field: key for field, key in keys.items() if key is not None}


def _group_keys(found: list[str]) -> dict[str, str]:
    """Keys of the groups, all under one name: the same number may mean another person under the other."""
    for name in _GROUPS:
        if keys := {f"{part}_group": f"{part}_{name}" for part in _PARTS if f"{part}_{name}" in found}:
            return keys
    return {}


def _member(file: Any, key: str) -> zipfile.ZipInfo:
    """The file of a zip that holds an array; as numpy looks for it."""
    listed = {info.filename: info for info in file.zip.infolist()}
    return listed[f"{key}.npy"] if f"{key}.npy" in listed else listed[key]


def _left_on_disk(path: pathlib.Path, file: Any, key: str) -> np.ndarray:
    """Images that are not read into memory."""
    member = _member(file, key)
    try:
        found = mapped_member(path, member)
        if found is None:
            found = read_member(file.zip, member, on_disk)
        else:
            with file.zip.open(member) as stream:  # to its end, where the zip's checksum is compared
                while stream.read(2**22):
                    pass
    except UserError:
        raise
    except Exception as error:  # whatever zip, zlib, lzma or numpy raise, this file is at fault
        raise UserError(f"{path}: {key} is damaged ({why(error)}); copy or write the file again") from error
    if found is None:
        raise UserError(
            f"{path}: {key} is not uint8 in C order, as images that are left on disk must be; store it as "
            "numpy.ascontiguousarray of bytes 0..255, or let images be read into memory"
        )
    return as_uint8(found, f"{path}: {key}")


def _check_sizes(path: pathlib.Path, file: Any, keys: list[str], disk: bool | None) -> bool:
    """Refuse arrays that claim another size than the zip says they have, or do not fit; whether images stay on disk."""
    members = {key: _member(file, key) for key in keys}
    size, unpacked = path.stat().st_size, sum(member.file_size for member in members.values())
    largest = max(members, key=lambda key: members[key].file_size)
    disk = is_too_much(unpacked) if disk is None else disk
    check_unpacked(
        unpacked,
        size,
        f"{path}: its arrays",
        f"{largest}, {gigabytes(members[largest].file_size)}",
        in_memory=not disk,
    )
    for key, member in members.items():
        stored = member.compress_type == zipfile.ZIP_STORED
        if member.compress_size > size or (stored and member.file_size != member.compress_size):
            raise UserError(f"{path}: {key} claims to be larger than the file; copy or write the file again")
        claimed = _claimed_bytes(file.zip, member)
        if claimed is not None and claimed != member.file_size:
            raise UserError(
                f"{path}: {key} claims {claimed} bytes but has {member.file_size}; copy or write the file again"
            )
    return disk


def _claimed_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int | None:
    """Bytes of an array by its header, itself included; None where numpy will refuse it anyway, or read no array."""
    try:
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            length = int.from_bytes(stream.read(2 if version == (1, 0) else 4), "little")
            if length > _LONGEST_HEADER or version not in VERSIONS:
                return -1
            stream.seek(0)
            shape, _, dtype = header_of(stream)
            header = stream.tell()
    except Exception:  # damaged, or no array: reading it says how
        return None
    if dtype.hasobject:
        return None
    return -1 if min(shape, default=0) < 0 else header + math.prod(shape) * dtype.itemsize


def _npz_array(path: pathlib.Path, file: Any, key: str) -> np.ndarray:
    try:
        array = file[key]
    except Exception as error:  # whatever zip, zlib, lzma or numpy raise, this file is at fault
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path}: {key} holds pickled Python objects, which are never loaded; store a numeric array"
            ) from error
        raise UserError(f"{path}: {key} is damaged ({why(error)}); copy or write the file again") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: {key} is not a numpy array; write the file with numpy.savez")
    return array
