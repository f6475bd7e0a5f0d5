"""One kind of error for what a person can put right, and how the commands print it."""

import contextlib
import difflib
import functools
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import NoReturn

from gpz_jax import liveness
from gpz_jax.interruption import Stopped, ending
from gpz_jax.terminal import PIPE_CLOSED, called, degrade, flush, let_go


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
    """Wrap a command's ``main``, so that whatever a person can do something about is one line on stderr and status 2.

    That is a :class:`UserError`, a disk that fails the command, memory that does not suffice, and input nested deeper
    than Python goes. Letters that the terminal cannot show are written in plain ones. Where nobody reads what is
    printed any more (``| head``), the command ends without a word, with status 141 as if by SIGPIPE.
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> None:
        degrade()
        try:
            try:
                with ending():
                    main(*args, **kwargs)
                liveness.part()
            finally:  # --help ends in a SystemExit
                flush()
        except BrokenPipeError:
            let_go()
            sys.exit(PIPE_CLOSED)
        except Stopped as stopped:
            liveness.part()
            print(f"gpz: stopped; {stopped.saved}, --resume continues there", file=sys.stderr)
            sys.exit(stopped.status)
        except KeyboardInterrupt:
            print(
                "gpz: stopped; everything up to the last checkpoint is kept, --resume continues",
                file=sys.stderr,
            )
            liveness.end_if_watched(130)
            sys.exit(130)
        except Exception as error:
            why = liveness.of_lost_peer(error) or in_one_line(error)
            if why is None:
                if liveness.is_watched():
                    traceback.print_exc()
                    liveness.end_if_watched(1)
                raise
            _stop(why)

    return wrapped


def in_one_line(error: Exception) -> str | None:
    """What a person is told of an error; None where it is a mistake in the program.

    Example:
      >>> in_one_line(MemoryError()), in_one_line(KeyError("x"))
      ('out of memory; a smaller --batch-size, --size or --width needs less; what was finished before is kept', None)
    """
    if isinstance(error, UserError):
        return error.with_flags()
    if _is_out_of_memory(error):
        wanted = re.search(r"allocat\w*\s+([\d.]+\s?[KMGT]?i?B?(?:ytes)?)", str(error), re.IGNORECASE)
        asked = f" (asked for {wanted.group(1).strip()})" if wanted else ""
        return (
            f"out of memory{asked}; a smaller --batch-size, --size or --width needs less; "
            "what was finished before is kept"
        )
    if isinstance(error, RecursionError):
        return "what was read is nested too deep; what was finished before is kept"
    if isinstance(error, OSError):  # a full disk, a folder taken away in mid-run
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}; what was finished before is kept"
    return None


_OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|out of memory|can't start new thread", re.IGNORECASE)


def _is_out_of_memory(error: Exception) -> bool:
    # By its text: jax raises a class of its own, or a ValueError, according to where the memory gave out.
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def _stop(why: str) -> NoReturn:
    shown = "".join(x if x.isprintable() else ascii(x)[1:-1] for x in " ".join(called(why).split()))
    with contextlib.suppress(BrokenPipeError):
        print(f"gpz: error: {shown}", file=sys.stderr, flush=True)
    liveness.end_if_watched(2)
    let_go()
    sys.exit(2)
