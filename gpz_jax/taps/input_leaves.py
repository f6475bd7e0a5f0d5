"""The arrays of an input, by name, and which of them the cloud may know."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax

from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.taps.cut_names import globs


def leaf_names(x: Any) -> tuple[str, ...]:
    """A name for every array of an input: its path in the pytree, joined by ``/``; ``"x"`` if it is one array.

    >>> leaf_names({"ids": 1.0, "spans": (2.0, 3.0)})
    ('ids', 'spans/0', 'spans/1')
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(x)]
    return tuple("/".join(map(_key, path)) or "x" for path in paths)


def _key(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))


def public_leaves(x: Any, public: str | Iterable[str]) -> tuple[bool, ...]:
    """For every array of an input, whether one of the names or globs in ``public`` is its own or that of a part above.

    Raises:
      UserError: a name that matches none.
    """
    names = leaf_names(x)
    known = [False] * len(names)
    for pattern in (public,) if isinstance(public, str) else tuple(public):
        meant = globs(pattern)[0]
        matches = [meant.fullmatch(name) or name.startswith(f"{pattern}/") for name in names]
        if not any(matches):
            raise UserError(f"public names {pattern!r}, which the input does not have{did_you_mean(pattern, names)}")
        known = [bool(a or b) for a, b in zip(known, matches, strict=True)]
    return tuple(known)


def values_by_name(given: Any, names: Iterable[str]) -> list[Any]:
    """The public arrays from what the cloud is given: a mapping by their names, or an input that holds them.

    Raises:
      UserError: one is missing.
    """
    found = dict(zip(leaf_names(given), jax.tree.leaves(given), strict=True))
    if isinstance(given, Mapping):
        found |= {name: given[name] for name in names if name in given}
    for name in names:
        if name not in found:
            raise UserError(f"the cloud half needs the public input {name!r}{did_you_mean(name, found)}")
    return [found[name] for name in names]
