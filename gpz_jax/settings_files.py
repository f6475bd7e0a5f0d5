"""Settings from files: TOML that a person wrote, JSON that a run kept; checked value by value, with a word on each."""

import dataclasses
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from gpz_jax.errors import UserError, did_you_mean

T = TypeVar("T")


def from_mapping(kind: type[T], values: Any, *, where: str, over: T | None = None) -> T:
    """A dataclass of settings from nested plain values (TOML or JSON), ``over`` others or the defaults.

    Raises:
      UserError: an unknown key (the nearest is suggested) or a value of another type; ``where`` names the file.

    Example:
      >>> from gpz_jax.config import Config
      >>> from_mapping(Config, {"seed": 3, "model": {"width": 8}}, where="x.toml").model.width
      8
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a table, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    hints = typing.get_type_hints(kind)
    made: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"{where}: unknown key {key!r}{did_you_mean(key, fields)}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            below = None if over is None else getattr(over, key)
            made[key] = from_mapping(hint, value, where=f"{where}: [{key}]", over=below)  # pyright: ignore
        else:
            made[key] = _typed(hint, value, f"{where}: {key}")
    return kind(**made) if over is None else dataclasses.replace(over, **made)  # pyright: ignore


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in options:
            raise UserError(f"{where} must be one of {', '.join(map(str, options))}, got {value!r}")
        return value
    if origin is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(_typed(options[0], v, where) for v in values)
    if type(None) in options:  # Optional
        return None if value is None else _typed(options[0], value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise UserError(f"{where} must be {hint.__name__}, got {value!r}")
    return value


def recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name (``laptop/vgg19``): TOML files, one a recipe.

    Example:
      >>> "laptop/vgg19" in recipes()
      True
    """
    inside = Path(__file__).parent / "configs"  # in an installed wheel; in a checkout they lie beside the package
    home = inside if inside.is_dir() else Path(__file__).parent.parent / "configs"
    return {file.relative_to(home).with_suffix("").as_posix(): file for file in sorted(home.rglob("*.toml"))}


def recipe_file(name: str) -> Path:
    """The file that ``--config`` names: a path, or the name of a recipe.

    Raises:
      UserError: neither is there; says which recipes are.
    """
    known = recipes()
    if Path(name).is_file() or name.removesuffix(".toml") not in known:
        if Path(name).suffix != ".toml" and not Path(name).exists():
            raise UserError(
                f"--config {name}: neither a file nor a recipe; the recipes are {', '.join(known) or 'not installed'}"
                f"{near if (near := did_you_mean(name, known)).startswith('; did') else ''}"
            )
        return Path(name)
    return known[name.removesuffix(".toml")]


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises :class:`UserError` if it is missing or not TOML."""
    try:
        return tomllib.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"--config {path}: {error}") from None
