"""What the classes of a data set are called. Names are text and nothing else: kept, shown, never interpreted."""

import pathlib
from collections.abc import Iterable

import numpy as np

from gpz_jax.errors import UserError
from gpz_jax.presentation import is_text


def checked_names(names: Iterable[object], num_classes: int, where: str) -> tuple[str, ...]:
    """The names of classes 0 to K - 1, checked.

    Args:
      names: in the order of the classes.
      num_classes: K.
      where: they come from, for the error.

    Raises:
      UserError: another number of names than classes; a name that is no text, is empty, stands twice, or has control
        characters.

    Example:
      >>> checked_names(["cat", "dog"], 2, "pets.npz")
      ('cat', 'dog')
      >>> checked_names(["cat", "cat"], 2, "pets.npz")
      Traceback (most recent call last):
      gpz_jax.errors.UserError: pets.npz: 'cat' names classes 0 and 1; give every class a name of its own
    """
    found: dict[str, int] = {}
    given = list(names)
    if len(given) != num_classes:
        raise UserError(
            f"{where}: {len(given)} class names for {num_classes} classes; give one a class, in their order"
        )
    for c, name in enumerate(given):
        if not isinstance(name, str):
            raise UserError(f"{where}: the name of class {c} is no text but {type(name).__name__}; give strings")
        if not name.strip():
            raise UserError(f"{where}: the name of class {c} is empty; give every class a name")
        if not is_text(name):
            raise UserError(f"{where}: the name of class {c}, {name!a}, has control characters; leave them out")
        if name in found:
            raise UserError(
                f"{where}: {name!r} names classes {found[name]} and {c}; give every class a name of its own"
            )
        found[name] = c
    return tuple(map(str, given))


def names_of_array(array: np.ndarray, what: str) -> list[str]:
    """Names out of an array ``(K,)`` of unicode strings. Raises :class:`UserError` for another."""
    if array.ndim != 1 or array.dtype.kind != "U":
        raise UserError(
            f"{what} must be unicode strings of the shape (K,), found {array.dtype} {array.shape}; store "
            "np.array(['cat', 'dog', …])"
        )
    return array.tolist()


def names_beside(file: pathlib.Path) -> tuple[pathlib.Path, list[str]] | None:
    """Names out of a text file, one a line, beside a data set's ``NAME.npz``, and that file; None if there is none.

    ``NAME.classes.txt``; or ``classes.txt``, where ``NAME.npz`` is the only .npz there, else it might be another's.

    Raises:
      UserError: it cannot be read as UTF-8.
    """
    own, shared = file.with_name(f"{file.stem}.classes.txt"), file.with_name("classes.txt")
    if own.is_file():
        return own, read_names(own)
    if shared.is_file() and [other.name for other in file.parent.glob("*.npz")] == [file.name]:
        return shared, read_names(shared)
    return None


def read_names(file: pathlib.Path) -> list[str]:
    """The lines of a text file in UTF-8, without what is white at their ends; empty lines at the end do not count."""
    try:
        lines = file.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}); write one class name a line, in UTF-8"
        ) from None
    return [line.strip() for line in lines] if lines != [""] else []
