"""Numbers and small tables for people, as text that fits a terminal and as HTML for notebooks."""

import csv
import html
import io
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: Characters that a result's ``repr`` may be wide.
WIDTH = 80


def printable(text: str) -> str:
    r"""A text on one line, of what can be printed, no longer than 200 letters.

    >>> printable("a\nb\x1b[31m")
    'a b?[31m'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))[:200]


def why(error: Exception) -> str:
    """What a library says of a damaged file; the kind of error where it says nothing.

    >>> why(ValueError("bad header")), why(MemoryError())
    ('bad header', 'MemoryError')
    """
    return printable(str(error)) or type(error).__name__


def number(value: Any, digits: int = 3) -> str:
    """A number for people: ``digits`` significant ones; an empty string for NaN.

    Example:
      >>> number(0.012345), number(1234.5), number(float("nan")), number(7)
      ('0.0123', '1.23e+03', '', '7')
    """
    if isinstance(value, str | bool | np.bool_):
        return str(value)
    if isinstance(value, int | np.integer):
        return str(value)
    return "" if math.isnan(value) else f"{value:.{digits}g}"


#: Characters that are no text: controls, halves of characters, line and paragraph separators.
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")

#: Characters that turn the direction of what stands beside a name.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def is_text(name: str) -> bool:
    r"""Whether a name can be shown as it is: no control characters, line breaks, or marks that turn the writing round.

    Example:
      >>> is_text("[red]größe"), is_text("a\nb"), is_text("\x1b[31m")
      (True, False, False)
    """
    return not any(unicodedata.category(char) in _NO_TEXT or char in _TURNING for char in name)


def class_label(label: int, names: Sequence[str] | None) -> str:
    """A class as people are shown it: its name where it has one, else its number.

    Example:
      >>> class_label(1, ("cat", "dog")), class_label(1, None)
      ('dog', '1')
    """
    return names[label] if names is not None and 0 <= label < len(names) else str(label)


def interval(low: float, high: float) -> str:
    """``[0.1, 0.2]``, or an empty string if there is none."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{low:.2f}, {high:.2f}]"


def quantity(value: float | int, base: int = 1000) -> str:
    """Three digits and a prefix, ready for a unit: powers of 1000, or of 1024 for bytes; empty for NaN.

    Example:
      >>> quantity(6_945_103_114) + "FLOP", quantity(1_572_864, 1024) + "B", quantity(40, 1024) + "B"
      ('6.95 GFLOP', '1.5 MiB', '40 B')
    """
    if math.isnan(value):
        return ""
    prefixes = ("", "k", "M", "G", "T", "P") if base == 1000 else ("", "Ki", "Mi", "Gi", "Ti", "Pi")
    power = 0
    while abs(value) >= 999.5 and power < len(prefixes) - 1:  # 999.5 would be written 1e+03
        value, power = value / base, power + 1
    return f"{value:.3g} {prefixes[power]}"


def text_table(title: str, columns: Mapping[str, Sequence[str]], notes: Sequence[str] = ()) -> str:
    """A title, a table of ready-made cells and notes below it, in lines of at most 80 characters.

    Args:
      title: the first line.
      columns: head -> one cell a row; the first column is left-justified and gives way where the table is too wide.
      notes: sentences below the table, wrapped.

    Example:
      >>> print(text_table("two cuts", {"cut": ["fc", "logits"], "rho": ["0.11", "0.093"]}, ["a note"]))
      two cuts
      cut       rho
      fc       0.11
      logits  0.093
      a note
    """
    import textwrap

    widths = [max(map(len, (head, *cells))) for head, cells in columns.items()]
    widths[0] = max(4, min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)))

    def line(cells: Sequence[str]) -> str:
        first = cells[0] if len(cells[0]) <= widths[0] else cells[0][: widths[0] - 1] + "…"
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "  ".join([first.ljust(widths[0]), *rest]).rstrip()[:WIDTH]

    rows = [line(cells) for cells in (list(columns), *zip(*columns.values(), strict=True))]
    said = [part for note in notes for part in textwrap.wrap(note, WIDTH)]
    return "\n".join([*textwrap.wrap(title, WIDTH), *rows, *said])


def html_table(title: str, columns: Mapping[str, Sequence[str]], notes: Sequence[str] = ()) -> str:
    """The same as HTML, everything escaped.

    Example:
      >>> html_table("a & b", {"cut": ["<fc>"]})
      '<table><caption>a &amp; b</caption><tr><th>cut</th></tr><tr><td>&lt;fc&gt;</td></tr></table>'
    """
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in columns)
    rows = [
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
        for cells in zip(*columns.values(), strict=True)
    ]
    said = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f"<table><caption>{html.escape(title)}</caption><tr>{heads}</tr>{''.join(rows)}</table>{said}"


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Rows of one set of keys as CSV, with a header. Raises ``ValueError`` for a row with another key.

    Example:
      >>> csv_text([{"cut": "fc", "mse": 0.5}, {"cut": "logits", "mse": 1}])
      'cut,mse\nfc,0.5\nlogits,1\n'
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
