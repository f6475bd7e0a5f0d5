"""Tables on the terminal and as CSV: a few columns that decide, and all of them with ``--wide``."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gpz_jax.atomic import write_text
from gpz_jax.presentation import csv_text
from gpz_jax.terminal import plain

#: Columns of a file or a pipe: nothing is wrapped for want of width there, and nothing padded.
PIPED = 10_000


def console() -> Console:
    """Where tables go: as wide as the terminal; without a limit where the output is not one."""
    found = _Console(emoji=False, highlight=False)  # ":100:" in a defence is no picture
    return found if found.is_terminal else _Console(width=PIPED, emoji=False, highlight=False)


class _Console(Console):
    """Rich's, that leaves a closed pipe to :func:`gpz_jax.errors.one_line_errors`."""

    def on_broken_pipe(self) -> None:
        """Nobody reads any more."""
        self.quiet = True
        raise BrokenPipeError


@dataclass(frozen=True)
class Column:
    """A column of a :class:`Sheet`.

    Attributes:
      head: one line, or several; whole words at 80 characters.
      cells: one a row, ready to be read.
      wide: shown with ``--wide`` only.
      words: left-justified.
    """

    head: str
    cells: Sequence[str]
    wide: bool = False
    words: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table for people; print it with rich. Title and caption are lines of their own, so nothing is padded.

    Attributes:
      title: one line.
      columns: the first names the rows, and is the one that gives way where the terminal is narrow.
      caption: what the columns mean.
      wide: show all columns, not only those that decide.
      sections: rows after which a rule is drawn.
      bold: rows in bold.
    """

    title: str
    columns: Sequence[Column]
    caption: str = ""
    wide: bool = False
    sections: frozenset[int] = frozenset()
    bold: frozenset[int] = frozenset()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        """Title, table, caption; letters that the terminal lacks are replaced before columns are measured."""

        def shown(text: str) -> str:
            return plain(text, options.encoding)

        columns = [column for column in self.columns if self.wide or not column.wide]
        hidden = [
            column.head.replace("-\n", "").replace("\n", " ")
            for column in self.columns
            if column.wide and not self.wide
        ]
        yield Text(shown(self.title), style="italic")
        table = Table()
        for i, column in enumerate(columns):
            justify = "left" if column.words or i == 0 else "right"
            # A row without its name says nothing, however narrow the terminal.
            least = min(8, max(map(len, map(shown, (column.head, *column.cells))))) if i == 0 else None
            table.add_column(
                escape(shown(column.head)), justify=justify, no_wrap=i > 0, overflow="fold", min_width=least
            )
        for i, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
            style = "bold" if i in self.bold else None
            table.add_row(*(escape(shown(cell)) for cell in cells), style=style, end_section=i in self.sections)
        yield table
        caption = self.caption
        if hidden:
            caption += f"{'; ' if caption else ''}with --wide also: {', '.join(hidden)}"
        for line in textwrap.wrap(shown(caption), min(options.max_width, 120)):
            yield Text(line, style="dim")


def write_csv(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write rows of one set of keys, with a header; atomically."""
    write_text(file, csv_text(rows))
