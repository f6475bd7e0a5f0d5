"""What lies under the attack curve, on disk: ``guarantees.json`` beside the attacks of a run, an entry a cut."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpz_jax.atomic import write_json
from gpz_jax.errors import UserError
from gpz_jax.inversion.guarantee_result import Guarantee
from gpz_jax.json_files import read_json
from gpz_jax.runs.records import SCHEMA_VERSION, NewerSchema, schema_of
from gpz_jax.runs.seals import with_check, without_check

GUARANTEES = "guarantees.json"

_WORDS = ("assumptions",)
_NUMBERS = tuple(field.name for field in dataclasses.fields(Guarantee) if field.name not in ("cut", "images", *_WORDS))

#: What a guarantee depends on, beside it.
Kept = dict[str, tuple[Guarantee, dict[str, Any]]]


def read_guarantees(home: Path, on_problem: Callable[[str], None] = lambda why: None) -> Kept:
    """The guarantees that lie in a folder of attacks, by cut, each with what it depends on.

    Args:
      home: ``attacks`` in the run's folder, or another of its kind.
      on_problem: told in words of a file that cannot be read, which counts as none.

    Raises:
      UserError: it is of a newer schema than this package knows.
    """
    file = home / GUARANTEES
    if not file.exists():
        return {}
    try:
        written = read_json(file)
        schema_of(written, file)
        written = without_check(written, file)
        return {str(cut): _read(str(cut), entry) for cut, entry in written["cuts"].items()}
    except NewerSchema:
        raise
    except UserError as error:
        on_problem(str(error))
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        on_problem(f"{file} cannot be read ({type(error).__name__})")
        return {}


def _read(cut: str, entry: Mapping[str, Any]) -> tuple[Guarantee, dict[str, Any]]:
    numbers = {name: math.nan if entry[name] is None else float(entry[name]) for name in _NUMBERS}
    words = tuple(str(line) for line in entry["assumptions"])
    return Guarantee(cut, images=int(entry["images"]), assumptions=words, **numbers), dict(entry["asked"])


def write_guarantees(home: Path, kept: Kept) -> None:
    """Write all guarantees of a folder of attacks, in place of those that lie there."""
    cuts = {cut: {**_written(found), "asked": asked} for cut, (found, asked) in kept.items()}
    write_json(home / GUARANTEES, with_check({"schema_version": SCHEMA_VERSION, "cuts": cuts}))


def _written(found: Guarantee) -> dict[str, Any]:
    """As JSON has it: no NaN and no infinity."""
    numbers = {name: getattr(found, name) for name in _NUMBERS}
    finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    return {**finite, "images": found.images, "assumptions": list(found.assumptions)}
