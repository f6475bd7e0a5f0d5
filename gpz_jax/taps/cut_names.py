"""Which of the arrays that modules return are cuts: by name, by glob, by default."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.taps.outputs import LOGITS, Kind, Place
from gpz_jax.taps.tapped_network import LeftOut


class Seen(NamedTuple):
    """An array that a module returned when the model was traced.

    Attributes:
      place: where it comes from.
      dtype: of its numbers.
      fault: why it cannot be sent as z; empty if it can.
      is_read: whether the logits are computed from it.
    """

    place: Place
    dtype: Any
    fault: str
    is_read: bool = True

    @property
    def is_real(self) -> bool:
        """Numbers of floating point, complex ones among them: what has a radius."""
        return jnp.issubdtype(self.dtype, jnp.inexact)


class Selection(NamedTuple):
    """The cuts, in the order of computation, ``"logits"`` last; and what was left out of them."""

    cuts: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def select(seen: Mapping[str, Seen], inside: Mapping[str, Kind], patterns: tuple[str, ...] | None) -> Selection:
    """The cuts that ``patterns`` name, or the default ones.

    Args:
      seen: array name -> what it is, in the order of computation.
      inside: modules that are called in an inner trace.
      patterns: names and globs; None for the default: of every :class:`Tap` mark, or of every direct child if there
        are none, what the call passes on (:func:`_principal`).

    Raises:
      UserError: see :func:`gpz_jax.tap`.
    """
    calls = _by_call(seen)
    if patterns is None:
        layers = {call: arrays for call, arrays in calls.items() if call != LOGITS}
        chosen, left_out = _defaults(layers, inside)
    else:
        chosen, left_out = set(), ()
        for pattern in patterns:
            chosen |= _asked_for(pattern, seen, calls, inside)
    return Selection((*(name for name in seen if name in chosen and name != LOGITS), LOGITS), left_out)


def _by_call(seen: Mapping[str, Seen]) -> dict[str, list[Seen]]:
    calls: dict[str, list[Seen]] = {}
    for array in seen.values():
        calls.setdefault(array.place.call, []).append(array)
    return calls


def _principal(arrays: Iterable[Seen]) -> Seen | None:
    """What a call passes on: the first array with a batch axis, of real numbers if there is one.

    One from which the logits are computed goes before: a cache or hidden states that nobody reads are no cut.
    """
    usable = [array for array in arrays if not array.fault]
    return min(usable, key=lambda array: (not array.is_real, not array.is_read), default=None)


def _defaults(calls: Mapping[str, list[Seen]], inside: Mapping[str, Kind]) -> tuple[set[str], tuple[LeftOut, ...]]:
    for name in (name for name, kind in inside.items() if kind == "mark"):
        raise UserError(
            f"mark {name!r} lies inside nn.scan, nn.remat or another inner trace, where no single activation exists; "
            "name the cuts that you want, outside of it"
        )
    marks = {call for call, arrays in calls.items() if arrays[0].place.kind == "mark"}
    children = {call for call, arrays in calls.items() if arrays[0].place.kind == "child"}
    chosen: set[str] = set()
    left_out: list[LeftOut] = []
    for call, arrays in calls.items():
        if call not in (marks or children):
            continue
        best = _principal(arrays)
        if best is not None and (best.is_real or call in marks):
            chosen.add(best.place.name)
            others = [array for array in arrays if array is not best and array.is_real and not array.fault]
            left_out += [LeftOut(a.place.name, f"beside {best.place.name}", a.place.name) for a in others]
        elif best is not None:
            left_out.append(LeftOut(call, f"{best.dtype} numbers", best.place.name))
        else:
            left_out.append(LeftOut(call, arrays[0].fault))
    if not marks:
        within = [name for name, kind in inside.items() if kind == "child" and name not in calls]
        left_out += [
            LeftOut(name, "called inside a transformation, where no single activation exists") for name in within
        ]
    return chosen, tuple(left_out)


def _asked_for(
    pattern: str, seen: Mapping[str, Seen], calls: Mapping[str, list[Seen]], inside: Mapping[str, Kind]
) -> set[str]:
    """Names of the arrays that a name or a glob asks for."""
    for glob in globs(pattern):
        by_call = [call for call in calls if glob.fullmatch(call)]
        names = {name for name, array in seen.items() if glob.fullmatch(name) and array.place.call not in by_call}
        if by_call or names:
            break
    else:
        if any(glob.fullmatch(name) for glob in globs(pattern) for name in inside):
            usable = [name for name, array in seen.items() if not array.fault]
            raise UserError(
                f"cut {pattern!r} lies inside nn.scan, nn.remat or another inner trace, where no single activation "
                "exists; name a cut outside of it, or transform the module's class or __call__ (nn.remat(Block), "
                f"@nnx.remat), whose output is one{did_you_mean(pattern, usable)}"
            )
        raise UserError(f"unknown cut {pattern!r}{did_you_mean(pattern, seen)}")
    found = {name for name in names if not seen[name].fault}
    for call in by_call:
        usable = [array.place.name for array in calls[call] if not array.fault]
        if call == pattern and len(usable) > 1:
            raise UserError(
                f"cut {call!r} is not one array with a batch axis and cannot be sent as z; it returns "
                f"{', '.join(usable)}: name one"
            )
        best = _principal(calls[call])
        found |= set() if best is None else {best.place.name}
    if not found:
        faults = "; ".join(
            f"{a.place.name}: {a.fault}" for a in seen.values() if {a.place.name, a.place.call} & {*by_call, *names}
        )
        raise UserError(f"cut {pattern!r} is not one array with a batch axis and cannot be sent as z ({faults})")
    return found


def globs(pattern: str) -> tuple[re.Pattern[str], ...]:
    """What a pattern may mean: ``*`` and ``?`` match within one level of a path, ``**`` any number of levels.

    Brackets are those of a name (``block[0]``), and where nothing has that name a choice of characters
    (``block_[12]``): the second meaning.

    >>> [bool(globs("*/conv")[0].fullmatch(name)) for name in ("a/conv", "a/b/conv", "conv")]
    [True, False, False]
    >>> [bool(globs("**/conv")[0].fullmatch(name)) for name in ("a/conv", "a/b/conv", "conv")]
    [True, True, True]
    """
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}

    def literal(part: str) -> str:
        return meaning.get(part) or re.escape(part.replace("'", '"') if part.startswith("[") else part)

    def choice(part: str) -> str:
        if not re.fullmatch(r"\[.+\]", part):
            return literal(part)
        inner = part[1:-1].replace("\\", r"\\")
        return f"[{'^' + inner[1:] if inner.startswith('!') else inner}]"

    return tuple(re.compile("".join(map(one, parts)), re.DOTALL) for one in (literal, choice))
