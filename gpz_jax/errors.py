"""One kind of error for what a person can put right, and how the commands print it."""

import difflib
import functools
import re
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from gpz_jax.interruption import Stopped, ending


class UserError(ValueError):
    """Bad input that one line can explain: what is wrong, and what to do about it.

    The commands print it as ``gpz: error: …`` and exit with status 2; a library caller catches it as a
    ``ValueError``. Functions know settings, not flags: they write the setting's name into the message and name it again
    as a ``field``, and the command turns it into the flag of that name.

    Args:
      message: one line.
      field: settings that the message names, as words of their own; in `backticks` where the word also means something
        else in it.

    Example:
      >>> error = UserError("batch_size must be at least 1, got 0", field="batch_size")
      >>> str(error), error.with_flags()
      ('batch_size must be at least 1, got 0', '--batch-size must be at least 1, got 0')
    """

    def __init__(self, message: str, *, field: str | Iterable[str] = ()):
        super().__init__(message)
        self.fields = (field,) if isinstance(field, str) else tuple(field)

    def with_flags(self) -> str:
        """The message with every setting that it names written as a flag."""
        message = str(self)
        for field in self.fields:
            if f"`{field}`" in message:
                message = message.replace(f"`{field}`", flag_of(field))
                continue
            # Not inside a longer word, a path or quotes, and not where a value is assigned to it.
            message = re.sub(rf"(?<![\w'\"./-]){re.escape(field)}(?![\w'\"=/-])", flag_of(field), message)
        return message


def flag_of(field: str) -> str:
    """The flag of a setting.

    >>> flag_of("batch_size")
    '--batch-size'
    """
    return "--" + field.replace("_", "-")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest known name, else the known names, ready to append.

    >>> did_you_mean("block4", ["block_3", "block_4", "logits"])
    "; did you mean 'block_4'?"
    >>> did_you_mean("zzz", ["a", "b"])
    '; known: a, b'
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known) or 'none'}"


def one_line_errors(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command's ``main``: a :class:`UserError`, or a disk that fails it, is one line on stderr and status 2."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> None:
        try:
            with ending():
                main(*args, **kwargs)
        except Stopped as stopped:
            print(f"gpz: stopped; {stopped.saved}, --resume continues there", file=sys.stderr)
            sys.exit(stopped.status)
        except UserError as error:
            _stop(error.with_flags())
        except OSError as error:  # a full disk, a folder taken away in mid-run
            where = f": {error.filename}" if error.filename else ""
            _stop(f"{error.strerror or error}{where}; what was finished before is kept")
        except KeyboardInterrupt:
            print(
                "gpz: stopped; everything up to the last checkpoint is kept, --resume continues",
                file=sys.stderr,
            )
            sys.exit(130)

    return wrapped


def _stop(why: str) -> NoReturn:
    print(f"gpz: error: {' '.join(why.split())}", file=sys.stderr)
    sys.exit(2)
