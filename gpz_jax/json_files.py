"""JSON that may lie: read whole or refused in one line, whatever is in it."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from gpz_jax.errors import UserError

#: Bytes that a JSON file may have. What is made of it in memory can be twenty times as large.
LIMIT_BYTES = 16 * 2**20


def read_json(file: str | Path, *, limit_bytes: int = LIMIT_BYTES, finite: bool = True) -> Any:
    """What a JSON file holds.

    Args:
      file: to be read, as UTF-8, with or without a byte order mark.
      limit_bytes: refuse a larger one, before it is read.
      finite: refuse NaN, Infinity and numbers that float64 cannot hold; else they are read as Python reads them.

    Raises:
      UserError: as :func:`parse_json`; no such file, no plain file, or a larger one.
    """
    path = Path(file)
    try:
        if not path.is_file():  # nor a pipe, which would be waited for
            raise UserError(f"{path}: no such file" if not path.exists() else f"{path} is no plain file")
        with path.open("rb") as opened:
            data = opened.read(limit_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > limit_bytes:
        raise UserError(f"{path} is larger than the {limit_bytes:,} bytes that a record of its kind has")
    return parse_json(data, path, finite=finite)


def parse_json(data: bytes | str, where: str | Path, *, finite: bool = True) -> Any:
    """What a JSON text holds: a whole file, or a line of one.

    Args:
      data: the text, or its bytes in UTF-8.
      where: what to call it in the error.
      finite: as for :func:`read_json`.

    Raises:
      UserError: bytes that are no UTF-8, no JSON, nested too deep, integers beyond 64 bits, halves of characters, and
        with ``finite`` numbers that are none.

    Example:
      >>> parse_json('{"a": [1, 2.5]}', "a.json")
      {'a': [1, 2.5]}
      >>> parse_json("[NaN]", "a.json")
      Traceback (most recent call last):
      gpz_jax.errors.UserError: a.json is damaged: NaN is not a finite number
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        found = json.loads(
            text,
            parse_int=_integer,
            parse_float=_finite if finite else float,
            parse_constant=_not_finite if finite else float,
        )
        if "\\u" in text:  # the one way in which half a character gets into valid UTF-8
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise UserError(f"{where} is damaged: nested too deep") from None
    except UnicodeEncodeError:
        raise UserError(f"{where} is damaged: half a character in a text") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is damaged: no UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is damaged: no JSON at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:
        raise UserError(f"{where} is damaged: {error}") from None
    return found


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"{digits:.12}… is beyond 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _not_finite(digits)


def _not_finite(digits: str) -> NoReturn:
    raise ValueError(f"{digits:.12} is not a finite number")
