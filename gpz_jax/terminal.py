"""What goes to a terminal or a pipe: letters that it cannot show get plain ones, and a closed pipe ends quietly."""

import codecs
import contextlib
import os
import re
import sys

#: Letters that tables and messages are written with, for terminals that know ASCII or Latin-1 alone.
PLAIN = {
    "²": "^2", "³": "^3", "½": "1/2", "±": "+-", "·": "*", "×": "x", "−": "-", "–": "-", "—": "-", "…": "...",
    "≈": "~", "≤": "<=", "≥": ">=", "≠": "!=", "→": "->", "←": "<-", "‖": "||", "√": "sqrt", "∞": "inf",
    "‘": "'", "’": "'", "“": '"', "”": '"', "•": "*", "°": " deg", "µ": "u",
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "θ": "theta", "κ": "kappa", "λ": "lambda", "μ": "mu",
    "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "Δ": "Delta", "Σ": "Sum",
    "─": "-", "━": "-", "│": "|", "┃": "|", "╸": "-", "╺": "-", "╭": "+", "╮": "+", "╰": "+", "╯": "+",
}  # fmt: skip


def plain(text: str, encoding: str) -> str:
    r"""A text with every letter that an encoding lacks written in ones that it has.

    Example:
      >>> plain("R_c² ≥ ρ", "ascii"), plain("R_c² ≥ ρ", "latin-1"), plain("R_c² ≥ ρ", "utf-8")
      ('R_c^2 >= rho', 'R_c² >= rho', 'R_c² ≥ ρ')
      >>> plain("größe", "ascii")
      'gr\\xf6\\xdfe'
    """
    try:
        return text.encode(encoding, "gpz_plain").decode(encoding)
    except LookupError:  # an encoding that Python does not know: the stream would not take it either
        return text


def _in_plain_letters(error: UnicodeError) -> tuple[str | bytes, int]:
    """What ``str.encode`` asks for a letter that it cannot encode."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(PLAIN.get(x) or x.encode("ascii", "backslashreplace").decode() for x in letters), error.end


codecs.register_error("gpz_plain", _in_plain_letters)


def degrade() -> None:
    """From here on stdout and stderr take any letter: what they cannot encode is written in plain ones."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a notebook's has none, and takes any letter
        if reconfigure is not None:
            with contextlib.suppress(OSError, ValueError):  # a closed stream
                reconfigure(errors="gpz_plain")


_CALLED: dict[str, str] = {}


def call(path: str, name: str | None) -> None:
    """From here on what is said calls a path, and what lies below it, by another name; None: by its own again."""
    _CALLED.pop(path, None)
    if name is not None:
        _CALLED[path] = name


def called(text: str) -> str:
    """A text as it is said, with the names that were given to paths.

    Example:
      >>> call("/home/a/.cache/run", "s3://bucket/run")
      >>> called("/home/a/.cache/run/config.json is damaged"), called("/home/a/.cache/runs")
      ('s3://bucket/run/config.json is damaged', '/home/a/.cache/runs')
      >>> call("/home/a/.cache/run", None)
    """
    for path, name in _CALLED.items():
        text = re.sub(rf"{re.escape(path)}(?![\w.+-])", lambda found, name=name: name, text)
    return text


#: What a shell reports of a command that was ended by a closed pipe: 128 + SIGPIPE.
PIPE_CLOSED = 141


def flush() -> None:
    """Write out what stdout and stderr hold, so that a closed pipe is met here and not when the interpreter ends.

    Raises:
      BrokenPipeError: nobody reads any more.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(ValueError):  # closed by the program itself
                stream.flush()


def let_go() -> None:
    """Send what is still held, and anything more, to nowhere: nobody reads, and the interpreter flushes as it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            with contextlib.suppress(OSError, ValueError):  # a stream without a file behind it
                os.dup2(nowhere, stream.fileno())
        except (AttributeError, OSError, ValueError):
            continue
    os.close(nowhere)
