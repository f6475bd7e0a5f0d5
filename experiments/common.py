"""What all experiments share: flags, the time taken, a table, its CSV, a figure, and a verdict in words.

An experiment is a function of its flags that returns an :class:`Outcome`; :func:`run` does the rest. README.md beside
this file says how to write one, template.py is the shortest.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from gpz_jax import workflow
from gpz_jax.atomic import make_folder
from gpz_jax.config import Config
from gpz_jax.data.sources import load
from gpz_jax.errors import UserError, one_line_errors
from gpz_jax.flags import parse
from gpz_jax.inversion.results import AttackResult, Attempt
from gpz_jax.presentation import number
from gpz_jax.reporting import figures, tables
from gpz_jax.workflow import LoadedRun

#: The paper's three label distributions.
ALPHAS = {"one-hot": 0.0, "LS+": 0.3, "LS-": -0.05}

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags that every experiment takes; it sets ``out``, and adds its own."""

    size: Literal["tiny", "laptop", "paper"] = "laptop"
    """tiny (seconds, no data needed; its numbers mean nothing), laptop (two cores) or paper (an accelerator)."""
    seed: int = 0
    """Seed of everything."""
    data_dir: str = "data"
    """Folder that holds the .npz files of the data sets."""
    out: str = "runs/experiment"
    """Folder for runs, table and figures; a killed experiment continues there."""
    wide: bool = False
    """Print every column of the table."""


@dataclasses.dataclass(frozen=True)
class SeedsFlags(Flags):
    """Flags of an experiment that is repeated over seeds."""

    seed: tuple[int, ...] = ()  # pyright: ignore[reportIncompatibleVariableOverride]
    """Seed of a repetition; repeat the flag for several. Default: 0, 1 and 2 (tiny: 0)."""

    def seeds(self) -> tuple[int, ...]:
        """Those asked for, or the default."""
        return self.seed or ((0,) if self.size == "tiny" else (0, 1, 2))


def most_of(most: int | None, rerun: Sequence[str]) -> int | None:
    """How many missing pieces of work are done: as many as asked for; else none beside a rerun, and otherwise all."""
    if most is not None and most < 0:
        raise UserError(f"--most is {most}; it is a number of pieces of work, 0 or more", field="most")
    return 0 if rerun and most is None else most


def results_of(given: str | None, default: Path, *, none_made: bool) -> Path:
    """The folder of kept JSON files. One that is named is made where something is to be measured into it; where
    nothing is, it must be there.
    """
    folder = Path(given) if given else default
    if given and folder.exists() and not folder.is_dir():
        raise UserError(f"--results {given} is a file; a folder is meant")
    if given and none_made and not folder.is_dir():
        raise UserError(f"no folder {given}; --results names one with such files, or, with --most above 0, one to "
                        "measure into")  # fmt: skip
    return make_folder(folder, "results")


class Outcome(NamedTuple):
    """What an experiment found.

    Attributes:
      rows: of table.csv; those that lack a column leave it empty.
      sheets: what is printed.
      verdict: the answer in words, a line each, every number said against what.
    """

    rows: Sequence[Row]
    sheets: Sequence[tables.Sheet]
    verdict: Sequence[str]


F = TypeVar("F", bound=Flags)


@one_line_errors
def run(kind: type[F], experiment: Callable[[F, Path], Outcome], argv: Sequence[str] | None = None) -> None:
    """Parse the flags, run the experiment, write table.csv, print tables, verdict and seconds.

    Args:
      kind: the flags.
      experiment: of flags and the folder ``out``, which is there; it draws its own figures into it. The docstring of
        its file is the help text.
      argv: the command line without the program's name.
    """
    file = experiment.__globals__
    prog = f"python experiments/{Path(file['__file__']).name}"
    flags = parse(kind, sys.argv[1:] if argv is None else argv, prog=prog, description=file["__doc__"] or "")
    begun, out = time.monotonic(), Path(flags.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; a folder is meant", field="out")
    out.mkdir(parents=True, exist_ok=True)
    found = experiment(flags, out)
    write_table(found.rows, out / "table.csv")
    for sheet in found.sheets:
        tables.console().print(dataclasses.replace(sheet, wide=flags.wide))
    for line in found.verdict:
        print(f"verdict: {line}")
    print(f"{time.monotonic() - begun:.0f} s; {out}/table.csv")


def train(config: Config, folder: str) -> LoadedRun:
    """A run in that folder, trained unless it has been."""
    return workflow.load_run(str(workflow.train_run(config, folder=folder, resume=True).folder))


def without_linear(results: Iterable[AttackResult]) -> list[AttackResult]:
    """The results without the linear attack, which every call makes: for experiments that did not ask for it."""

    def others(result: AttackResult) -> AttackResult:
        return dataclasses.replace(result, attempts=tuple(a for a in result.attempts if a.attack != "linear"))

    return [others(result) for result in results]


def json_number(value: Any) -> Any:
    """A number that JSON has; None where it is not finite. Seven digits: enough for ranks and for people.

    >>> json_number(np.float32(0.1)), json_number(np.bool_(True)), json_number(float("nan"))
    (0.1, True, None)
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    return float(f"{float(value):.7g}") if math.isfinite(value) else None


def write_table(rows: Sequence[Row], file: Path) -> None:
    """Rows as CSV, with all columns that any of them has."""
    columns = dict.fromkeys(key for row in rows for key in row)
    tables.write_csv([{key: row.get(key, "") for key in columns} for row in rows], file)


def sheet_of(
    title: str,
    rows: Sequence[Row],
    columns: Mapping[str, str | Callable[[Row], Any]],
    *,
    caption: str = "",
    wide: Iterable[str] = (),
    section: str | None = None,
) -> tables.Sheet:
    """A table for people.

    Args:
      title: one line.
      rows: what it is made of.
      columns: head -> name of the value in a row (empty where a row has none), or a function of the row.
      caption: what the columns mean.
      wide: heads that are shown with ``--wide`` only.
      section: a value in the rows; where it changes, a rule is drawn.
    """

    def cell(row: Row, what: str | Callable[[Row], Any]) -> str:
        value = row.get(what, "") if isinstance(what, str) else what(row)
        return ("yes" if value else "NO") if isinstance(value, bool | np.bool_) else number(value)

    made = [
        tables.Column(head, cells, head in set(wide), words=cells[0][:1].isalpha())
        for head, what in columns.items()
        if (cells := [cell(row, what) for row in rows])
    ]
    ends = [i for i in range(len(rows) - 1) if section and rows[i][section] != rows[i + 1][section]]
    return tables.Sheet(title, made, caption, sections=frozenset(ends))


def where(rows: Iterable[Row], **values: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def least(rows: Iterable[Row], key: str = "mse", **values: Any) -> Row:
    """The row of least error among those that have these values."""
    return min(where(rows, **values), key=lambda row: row[key])


def spread(rows: Iterable[Row], key: str, digits: int = 3, times: float = 1) -> str:
    """``mean ± standard deviation`` of a value over seeds."""
    values = times * np.array([row[key] for row in rows], float)
    deviation = f" ± {number(values.std(ddof=1), 1)}" if len(values) > 1 else ""
    mean = float(values.mean())
    return (f"{mean:.0f}" if 100 <= abs(mean) < 1e5 else number(mean, digits)) + deviation


def draw_grid(attempts: Mapping[str, Attempt], file: Path, count: int = 10) -> None:
    """The first test images over what each attempt rebuilt of them."""
    originals = next(iter(attempts.values())).originals[:count]
    figures.reconstruction_grid(
        originals, {name: attempt.reconstructions[:count] for name, attempt in attempts.items()}, file
    )


def draw_by_cut(
    rows: Sequence[Row],
    panels: Mapping[str, str],
    file: Path,
    *,
    group: str,
    levels: Mapping[str, Sequence[str]],
    apart: Mapping[str, str] = {},
) -> None:
    """Mean and standard deviation over seeds of a value at every cut, a line for each group.

    Args:
      rows: with a ``cut``, the group's name and the values.
      panels: value -> title, a panel each; logarithmic where "log" is in the title.
      file: a .png to write.
      group: what is compared, a value of the rows.
      levels: value -> further values that are drawn in its panel as grey lines, means over all rows of a cut.
      apart: value -> the group that has an axis of its own there, on the right: it would flatten the others.
    """
    figure, (axes,) = figures.new_figure(1, len(panels), (4.7 * len(panels), 4.0))
    cuts, groups = (list(dict.fromkeys(row[key] for row in rows)) for key in ("cut", group))
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        own = axis.twinx() if apart.get(key) in groups else axis
        for i, name in enumerate(groups):
            values = np.array([[row[key] for row in where(rows, cut=cut, **{group: name})] for cut in cuts])  # (L, n)
            on, side = (own, ", axis on the right") if apart.get(key) == name else (axis, "")
            style = {"fmt": "o-", "capsize": 3, "color": f"C{i}"}
            on.errorbar(cuts, values.mean(1), yerr=values.std(1), label=name, **style)
            if side:  # its line in the legend of all
                axis.errorbar([], [], label=f"{name}{side}", **style)
                own.tick_params(axis="y", colors=style["color"])
            if "log" in title:
                figures.set_logarithmic(on, values)
        for further, style in zip(levels.get(key, ()), ("--", ":", "-."), strict=False):
            means = [np.mean([row[further] for row in where(rows, cut=cut)]) for cut in cuts]
            axis.plot(cuts, means, style, color="0.5", label=further.replace("_", " "))
        axis.set_title(title, fontsize=10)
        axis.legend(fontsize=8)
    figure.savefig(file, dpi=120)


def draw_bars(rows: Sequence[Row], file: Path, *, panel: str, group: str, label: str, value: str) -> None:
    """A panel below the other for each value of ``panel`` in the rows, bars side by side for each of ``group``."""
    panels, groups = (list(dict.fromkeys(row[key] for row in rows)) for key in (panel, group))
    figure, axes = figures.new_figure(len(panels), 1, (10.0, 3.0 * len(panels)))
    for axis, title in zip(np.ravel(axes), panels, strict=True):
        for i, name in enumerate(groups):
            mine = where(rows, **{panel: title, group: name})
            places = np.arange(len(mine)) + 0.4 * i
            axis.bar(places, [row[value] for row in mine], 0.38, label=name)
            axis.set_xticks(places - 0.2, [row[label] for row in mine], fontsize=7)
        axis.set_title(title, fontsize=9)
        axis.set_ylabel(value)
        axis.legend(fontsize=8)
    figure.savefig(file, dpi=120)


def write_negatives(folder: Path) -> None:
    """The bundled digits as negatives, the data set ``negatives`` of experiments of size tiny."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = load("digits")
    np.savez(
        folder / "negatives.npz",
        train_images=255 - digits.train_images, train_labels=digits.train_labels,
        test_images=255 - digits.test_images, test_labels=digits.test_labels,
    )  # fmt: skip
