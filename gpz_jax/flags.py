"""Flags over a settings file over the defaults, help for each, and one line for every mistake."""

import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from gpz_jax.config import AttackConfig, Config, check_attack, resolve
from gpz_jax.errors import UserError, did_you_mean, flag_of
from gpz_jax.settings_files import check_text, from_mapping, read_toml, recipe_file

T = TypeVar("T")


def parse(
    command: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    sections: Sequence[str] = (),
    defaults: T | None = None,
) -> T:
    """Parse a command's flags over its ``--config`` file over the defaults.

    Args:
      command: a dataclass of flags; nested dataclasses are flattened (their prefix is left out of the flag).
      argv: the command line without the program's name.
      prog: name of the command in the help text.
      description: what the help text begins with.
      sections: fields of ``command`` that the TOML file may fill; its other tables belong to other commands.
      defaults: values that the file and the flags are laid over; those of the dataclass by default.

    Raises:
      UserError: an unknown flag (with the nearest known), a missing or ill-typed value, a bad file.
    """
    import contextlib
    import io

    import tyro

    check_words(argv)
    required = [f.name for f in _fields(command) if _is_required(f)]
    defaults = command(**dict.fromkeys(required, "")) if defaults is None else defaults
    file = value_of("--config", argv)
    if file is not None:
        defaults = _overlay(defaults, read_toml(recipe_file(file)), sections, where=file)
    defaults = _without_repeatable(defaults, argv)
    for name in required:  # not through the constructor: MISSING is not of the field's type
        object.__setattr__(defaults, name, tyro.MISSING)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                command,
                args=list(argv),
                prog=prog,
                description=description,
                default=defaults,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.UseAppendAction, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
    raise UserError(_condensed(said.getvalue(), argv, list(flags_of(command)), prog))


def _fields(kind: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(kind)


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def flags_of(kind: Any):
    """Every flag of a command, nested settings included."""
    for field, hint in ((f, typing.get_type_hints(kind)[f.name]) for f in _fields(kind)):
        if dataclasses.is_dataclass(hint):
            yield from flags_of(hint)
        elif not _is_required(field):
            yield flag_of(field.name)


def value_of(flag: str, argv: Sequence[str]) -> str | None:
    """What a flag is given on a command line, before that is parsed; None if it is not."""
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return None


def check_words(argv: Sequence[str]) -> None:
    """Raise :class:`UserError` for a word of a command line that is empty, or that ``check_text`` refuses."""
    for before, word in zip(["", *argv], argv, strict=False):
        flag, given, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        where = flag if flag.startswith("--") else "the argument"
        if given and not value:
            raise UserError(f"{where} is empty; give a value or leave it out")
        check_text(value or word, where)


def _overlay(defaults: T, tables: Mapping[str, Any], sections: Sequence[str], *, where: str) -> T:
    """The defaults with a TOML file's tables laid over them."""
    known = {f.name for f in _fields(Config)} | {"attack"}
    for key in tables:
        if key not in known:
            raise UserError(f"--config {where}: unknown key {key!r}{did_you_mean(key, known)}")
    of_run = {key: value for key, value in tables.items() if key != "attack"}
    _check_unused(tables, of_run, sections, where)
    if "settings" in sections:
        settings = from_mapping(Config, of_run, where=where, over=defaults.settings)  # pyright: ignore
        return dataclasses.replace(defaults, settings=settings)  # pyright: ignore
    hints = typing.get_type_hints(type(defaults))
    made = {key: from_mapping(hints[key], tables[key], where=f"{where}: [{key}]") for key in sections if key in tables}
    return dataclasses.replace(defaults, **made)  # pyright: ignore


def _check_unused(tables: Mapping[str, Any], of_run: Mapping[str, Any], sections: Sequence[str], where: str) -> None:
    """Raise :class:`UserError` for what is wrong in tables that another command reads."""
    attack = from_mapping(AttackConfig, tables.get("attack", {}), where=f"{where}: [attack]")
    settings = from_mapping(Config, of_run, where=where)
    try:
        if "attack" not in sections:
            check_attack(attack)
        if "settings" not in sections:
            resolve(dataclasses.replace(settings, probe=Config().probe) if "probe" in sections else settings)
    except UserError as error:
        raise UserError(f"--config {where}: {error}") from None


def _without_repeatable(settings: T, argv: Sequence[str]) -> T:
    """Flags win over the file: a repeatable flag that is given starts from nothing, not from the file's list."""
    changed: dict[str, Any] = {}
    for field in _fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            changed[field.name] = _without_repeatable(value, argv)
        elif isinstance(value, tuple) and value_of(flag_of(field.name), argv) is not None:
            changed[field.name] = ()
    return dataclasses.replace(settings, **changed)  # pyright: ignore


#: What Python says of a word that is no number, and of which kind it had to be.
_NOT_A_NUMBER = r"(?:invalid literal for|could not convert string to) (int|float)"


def _condensed(box: str, argv: Sequence[str], flags: list[str], prog: str) -> str:
    """Tyro's boxed complaint as one line; unknown flags get the nearest known one."""
    lines = [line.strip("│ ").strip() for line in box.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("╭", "╰"))]
    rules = [i for i, line in enumerate(lines) if not line.strip("─-")]
    if "╭" not in box and rules:  # a terminal without box characters: the title stands above a rule of its own
        lines, rules = lines[rules[0] + 1 :], [i - rules[0] - 1 for i in rules[1:]]
    text = " ".join(lines[: rules[0] if rules else None])
    for word in argv:
        name = word.split("=", 1)[0]
        if name.startswith("--") and name not in flags:
            return f"unknown flag {name!r}{did_you_mean(name, flags)} (see {prog} --help)"
    if wrong := re.match(r"[Ii]nvalid choice '(.*?)' for argument '?(--[\w-]+).*?Expected one of \((.*?)\)", text):
        value, flag, known = wrong.group(1), wrong.group(2), re.findall(r"'([^']*)'", wrong.group(3))
        near = did_you_mean(value, known) if difflib.get_close_matches(value, known, n=1) else ""
        return f"{flag} {value!r} is not one of {', '.join(known)}{near} (see {prog} --help)"
    if wrong := re.match(r"Error parsing (--\S+): .*?" + _NOT_A_NUMBER + r".*?: (['\"].*['\"])", text):
        names, kind, value = wrong.groups()
        flag = next((name for name in names.split("/") if value_of(name, argv) is not None), names)
        return f"{flag} {value} is not {'a whole number' if kind == 'int' else 'a number'} (see {prog} --help)"
    if text.startswith("Unrecognized options:"):
        return f"unexpected argument {text.removeprefix('Unrecognized options:').strip()!r} (see {prog} --help)"
    if text.startswith("Missing from"):
        return f"a run folder is missing, such as: {prog} runs/NAME (see {prog} --help)"
    return f"{text} (see {prog} --help)"
