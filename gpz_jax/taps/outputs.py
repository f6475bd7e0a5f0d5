"""What modules return, array by array, and what each array is called.

A module that returns one array gives it its own name. Of a tuple, a dict or a dataclass every array has a name of its
own, written as Python would reach it: ``block_1[0]``, ``encoder["hidden"]``, ``head.scores``.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

LOGITS = "logits"

#: What called a cut into being: a ``Tap``, a module that the model itself holds, or one further down.
Kind = Literal["mark", "child", "deeper"]

#: What happens to the value that a call returns: name of the call, value, kind -> what goes on in its stead.
AtCall = Callable[[str, Any, Kind], Any]


class Place(NamedTuple):
    """Where an array comes from: its name, the call that returns it (``block:2``), and what kind of call that is."""

    name: str
    call: str
    kind: Kind


def map_arrays(at_array: Callable[[str, Any], Any], value: Any, name: str) -> Any:
    """``value`` with each of its arrays passed through ``at_array(name, array)``.

    >>> map_arrays(lambda name, array: print(name), (jax.numpy.ones(1), {"h": jax.numpy.ones(1)}, None), "block")
    block[0]
    block[1]["h"]
    (None, {'h': None}, None)
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(value)
    before = [leaf for _, leaf in leaves]
    after = [_map_leaf(at_array, leaf, name + _written(path)) for path, leaf in leaves]
    if all(a is b for a, b in zip(before, after, strict=True)):
        return value  # as it was: classes of others may not bear being made anew
    return jax.tree.unflatten(structure, after)


def _map_leaf(at_array: Callable[[str, Any], Any], leaf: Any, name: str) -> Any:
    if is_array(leaf):
        return at_array(name, leaf)
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):  # one that JAX does not know as a pytree
        fields = {f.name: getattr(leaf, f.name) for f in dataclasses.fields(leaf) if f.init}
        mapped = {key: map_arrays(at_array, field, f"{name}.{key}") for key, field in fields.items()}
        return leaf if all(mapped[key] is fields[key] for key in fields) else dataclasses.replace(leaf, **mapped)
    return leaf


def is_array(value: Any) -> bool:
    """Whether a value has a shape and a type of its numbers."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _written(path: tuple[Any, ...]) -> str:
    """A path within a pytree as Python writes it.

    >>> _written((jax.tree_util.SequenceKey(1), jax.tree_util.DictKey("h"), jax.tree_util.GetAttrKey("mean")))
    '[1]["h"].mean'
    """

    def one(key: Any) -> str:
        if isinstance(key, jax.tree_util.GetAttrKey):
            return f".{key.name}"
        inner = getattr(key, "key", getattr(key, "idx", key))
        return f"[{json.dumps(inner) if isinstance(inner, str) else inner}]"

    return "".join(map(one, path))


def numbered(name: str, calls: Counter[str]) -> str:
    """Count a call of ``name``: the first keeps the name, the second is ``name:2``, and so on."""
    calls[name] += 1
    return name if calls[name] == 1 else f"{name}:{calls[name]}"
