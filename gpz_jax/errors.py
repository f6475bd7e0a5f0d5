"""One kind of error for what a person can put right, and how the commands print it."""

import difflib
import functools
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn


class UserError(ValueError):
    """Bad input that one line can explain: what is wrong, and what to do about it.

    The commands print it as ``gpz: error: …`` and exit with status 2; a library caller catches it as a
    ``ValueError``.
    """


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
            main(*args, **kwargs)
        except UserError as error:
            _stop(str(error))
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
