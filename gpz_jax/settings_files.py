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
        raise UserError(f"{where} must be a table, got {values!r:.80}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    hints = typing.get_type_hints(kind)
    made: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"{where}: unknown key {key!r:.80}{did_you_mean(key, fields)}")
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
            raise UserError(f"{where} must be one of {', '.join(map(str, options))}, got {value!r:.80}")
        return value
    if origin is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(_typed(options[0], v, where) for v in values)
    if type(None) in options:  # Optional
        return None if value is None else _typed(options[0], value, where)
    if hint is float and type(value) is int and abs(value) < 2**63:
        return float(value)
    if type(value) is not hint:
        raise UserError(f"{where} must be {hint.__name__}, got {value!r:.80}")
    return check_text(value, where) if isinstance(value, str) else value


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


#: Bytes that a settings file may have; the longest recipe has two thousand.
LIMIT_BYTES = 2**20


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file, UTF-8 with or without a byte order mark.

    Raises:
      UserError: it is missing, no plain file, larger than a settings file is, or not TOML.
    """
    file = Path(path)
    try:
        if file.exists() and not file.is_file():  # nor a pipe, which would be waited for
            raise UserError(f"--config {path}: {'a directory' if file.is_dir() else 'no plain file'}")
        if file.stat().st_size > LIMIT_BYTES:
            raise UserError(f"--config {path}: larger than the {LIMIT_BYTES:,} bytes that a settings file may have")
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file") from None
    except RecursionError:
        raise UserError(f"--config {path}: nested too deep") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--config {path}: cannot decode byte {error.start} as UTF-8") from None
    except (OSError, ValueError) as error:  # TOMLDecodeError is a ValueError, and so are 5,000 digits and NUL in a name
        raise UserError(f"--config {path}: {getattr(error, 'strerror', None) or error}") from None


def check_text(value: str, where: str) -> str:
    r"""``value``, if it can be a word of a command, part of a path, and be written into a file.

    Raises:
      UserError: NUL, half a character (a byte that is no UTF-8), or the home folder of a user who is not there.

    Example:
      >>> check_text("runs/größe", "--run")
      'runs/größe'
      >>> check_text("a\0b", "--run")
      Traceback (most recent call last):
      gpz_jax.errors.UserError: --run 'a\x00b' holds a NUL character; leave it out
    """
    if "\0" in value:
        raise UserError(f"{where} {value!r:.80} holds a NUL character; leave it out")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UserError(f"{where} {value!r:.80} is no UTF-8 here; rename it, or set PYTHONUTF8=1")
    if value.startswith("~"):
        try:
            Path(value).expanduser()
        except RuntimeError:
            raise UserError(f"{where} {value!r:.80}: there is no such user, so no home folder") from None
    return value
