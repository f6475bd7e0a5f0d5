"""Which files of a folder are images of which class, and which are not read. Opens none of them."""

import os
import pathlib
import stat
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from gpz_jax.data.image_file import suffixes
from gpz_jax.errors import UserError
from gpz_jax.presentation import printable

_NAMED = 4  # of the files that are not read, so many are named
_LITTER = ("__MACOSX",)  # folders that are no classes


class Listing(NamedTuple):
    """The images of every class, by part; what is not read (paths inside the folder); what else is to be said."""

    train: dict[str, list[pathlib.Path]]
    test: dict[str, list[pathlib.Path]]
    unread: tuple[str, ...]
    said: tuple[str, ...] = ()

    def notes(self, folder: pathlib.Path) -> Iterable[str]:
        """What there is to say of it, one line each."""
        yield from self.said
        if self.unread:
            more = f" and {len(self.unread) - _NAMED} more" if len(self.unread) > _NAMED else ""
            yield (
                f"{folder}: {len(self.unread)} of its files and folders are not read: "
                f"{', '.join(self.unread[:_NAMED])}{more}; read are {', '.join(suffixes())} in their class's folder"
            )


def list_folder(folder: pathlib.Path) -> Listing:
    """The images in ``train/<class>/`` and ``test/<class>/``.

    Raises UserError where one of the two is missing, they have other classes, or as :func:`list_classes` does.
    """
    here = _entries(folder, folder)
    unread = [name for entry in here if (name := _odd(entry, folder, ("train", "test")))]
    parts = {}
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            split = "; or let a part of every class be held out as test, with test_fraction 0.2" if here else ""
            raise UserError(
                f"{folder} has no {part!r} folder; put the images of each class in {folder / part}/<class>/{split}",
                field="test_fraction",
            )
        parts[part] = _classes(folder / part, folder, unread)
    if list(parts["train"]) != list(parts["test"]):
        odd = sorted(set(parts["train"]) ^ set(parts["test"]))[0]
        has, lacks = ("train", "test") if odd in parts["train"] else ("test", "train")
        raise UserError(f"{folder}: class {odd!r} is in {has} but not in {lacks}; both must list the same classes")
    return Listing(parts["train"], parts["test"], tuple(unread))


def list_classes(folder: pathlib.Path) -> Listing:
    """The images in ``train/<class>/``, or directly in ``<class>/``, all of them as train.

    Raises UserError for no class folder, one without images, two of one name in two Unicode forms, names of images that
    are no regular files, and links that lead out of the folder.
    """
    unread: list[str] = []
    if (folder / "train").is_dir():
        unread += [name for entry in _entries(folder, folder) if (name := _odd(entry, folder, ("train",)))]
        return Listing(_classes(folder / "train", folder, unread), {}, tuple(unread))
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; put the images of each class in {folder}/<class>/")
    found = _classes(folder, folder, unread)
    return Listing(found, {}, tuple(unread))


def _classes(part: pathlib.Path, folder: pathlib.Path, unread: list[str]) -> dict[str, list[pathlib.Path]]:
    """The images of every class folder in ``part``, by its name in form NFC; adds to ``unread``."""
    found: dict[str, pathlib.Path] = {}
    for entry in _entries(part, folder):
        if not entry.is_dir() or entry.name in _LITTER:
            unread.append(_shown(entry, folder))
            continue
        name = unicodedata.normalize("NFC", entry.name)
        if name in found:
            raise UserError(f"{part} has two folders called {name!r}, in two forms of Unicode; merge them")
        found[name] = entry
    if not found:
        raise UserError(f"{part} has no class folders; put the images of each class in a folder of its own")
    return {name: _images(found[name], folder, unread) for name in sorted(found)}


def _images(directory: pathlib.Path, folder: pathlib.Path, unread: list[str]) -> list[pathlib.Path]:
    read, files = suffixes(), []
    for entry in _entries(directory, folder):
        if entry.suffix.lower() in read and not entry.is_dir():
            files.append(entry)
        else:
            unread.append(_shown(entry, folder))
    if not files:
        kinds = f"{', '.join(read[:-1])} or {read[-1]}"
        raise UserError(f"{directory} holds no {kinds}; add images of the class or remove the folder")
    return files


def _entries(directory: pathlib.Path, folder: pathlib.Path) -> list[pathlib.Path]:
    """What lies in a directory, hidden files apart, in order; nothing may be a link that leads out of ``folder``."""
    found = []
    if not directory.is_dir():
        return []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = pathlib.Path(entry.path)
            if entry.is_symlink() and not _leads_inside(path, folder):
                raise UserError(f"{path} is a link that leads out of {folder}; put what it leads to in its place")
            found.append(path)
    return sorted(found)


def _leads_inside(path: pathlib.Path, folder: pathlib.Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a circle
        return False


def _odd(entry: pathlib.Path, folder: pathlib.Path, parts: tuple[str, ...]) -> str:
    """How an entry that is none of the parts is named; empty for these."""
    return "" if entry.name in parts and entry.is_dir() else _shown(entry, folder)


def _shown(entry: pathlib.Path, folder: pathlib.Path) -> str:
    """A path inside the folder as it is named among those not read; a folder with the number of files in it."""
    name = printable(str(entry.relative_to(folder)))
    mode = entry.lstat().st_mode
    if not stat.S_ISDIR(mode):
        return name
    return f"{name}/ ({sum(len(files) for _, _, files in os.walk(entry))} files)"
