"""One page of what is known of runs: gathered from their folders, written as an HTML file."""

import datetime
import importlib.metadata
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gpz_jax import runs
from gpz_jax.atomic import partial_path, write_bytes
from gpz_jax.errors import UserError
from gpz_jax.reporting.page import render, words
from gpz_jax.reporting.page.contents import Contents
from gpz_jax.runs.folder import Run
from gpz_jax.workflow.common import short
from gpz_jax.workflow.report_contents import run_record

#: Runs that one page compares, at most.
MOST = 12


class Written(NamedTuple):
    """A page that was written: where, what is in it, how many bytes it has, and the seconds that it took."""

    file: Path
    contents: Contents
    size: int
    seconds: float


def report_runs(folders: Sequence[str], *, out: str | None = None, data_dir: str | None = None) -> Written:
    """Write the page of runs: one, or several on the same data that are compared cut by cut.

    Args:
      folders: run folders; a folder that holds the runs of a sweep stands for all of them.
      out: the file; default: ``report.html`` in the run folder, of several beside the first.
      data_dir: where the images are now, if they have moved.

    Raises:
      UserError: no folder given, one that is no run, one given twice, too many; runs of different data or cuts; a file
        that cannot be written.
    """
    if not folders:
        raise UserError("a run folder is missing, such as: python -m gpz_jax.report runs/NAME")
    begun = time.perf_counter()
    found = opened(folders)
    file = Path(out) if out else (found[0].folder if len(found) == 1 else found[0].folder.parent) / "report.html"
    if file.is_dir():
        raise UserError(f"`out` {file} is a folder; name a file, such as {file / 'report.html'}", field="out")
    _write(file, None)  # what cannot be written is refused before the seconds that gathering takes
    contents = gather(found, data_dir=data_dir)
    page = render.render(contents).encode("utf-8", "backslashreplace")
    _write(file, page)
    return Written(file, contents, len(page), time.perf_counter() - begun)


def _write(file: Path, page: bytes | None) -> None:
    """Write the page whole or not at all; without one, make its folder and see whether a file can be there."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if page is not None:
            write_bytes(file, page)
            return
        tried = partial_path(file)
        tried.touch()
        tried.unlink()
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}; choose another `out`", field="out") from None


def opened(folders: Sequence[str]) -> list[Run]:
    """The runs of these folders. Raises :class:`UserError` where they cannot stand on one page."""
    paths = [path for given in folders for path in _runs_in(Path(given))]
    for path in paths:
        if [other.absolute() for other in paths].count(path.absolute()) > 1:
            raise UserError(f"run {path} is given twice")
    if len(paths) > MOST:
        raise UserError(f"{len(paths)} runs are too many for one page; give at most {MOST}")
    found = [runs.open_run(path) for path in paths]
    first = found[0]
    for other in found[1:]:
        if (other.fingerprint, other.num_classes) != (first.fingerprint, first.num_classes):
            raise UserError(
                f"{short(first.folder)} and {short(other.folder)} are runs of different data "
                f"({first.config.data.data}, {other.config.data.data}; fingerprints {first.fingerprint[:8]}, "
                f"{other.fingerprint[:8]}) and cannot be compared; report them one by one"
            )
    return found


def _runs_in(folder: Path) -> list[Path]:
    inside = sorted(file.parent for file in folder.glob("*/config.json")) if folder.is_dir() else []
    return inside if inside and not (folder / "config.json").exists() else [folder]


def gather(found: Sequence[Run], *, data_dir: str | None = None) -> Contents:
    """What the page says of these runs.

    Raises:
      UserError: runs whose networks have different cuts.
    """
    records = tuple(run_record(run, data_dir=data_dir) for run in found)
    ours = [cut.name for cut in records[0].cuts]
    for other in records[1:]:
        theirs = [cut.name for cut in other.cuts]
        if ours != theirs:
            differ = [name for name in (*ours, *theirs) if (name in ours) != (name in theirs)]
            raise UserError(
                f"{records[0].folder} and {other.folder} have different cuts ({', '.join(differ[:6]) or 'in order'}) "
                "and cannot be compared; report them one by one"
            )
    made = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    return Contents(records, importlib.metadata.version("gpz-jax"), made)


def said_of_report(written: Written) -> list[str]:
    """What the terminal is told of a page: the answer of every run, and what was left out."""
    lines = []
    for run in written.contents.runs:
        lines.append(f"{run.name}: {words.answer(run)}")
        lines += [f"left out of {run.name}: {why}" for why in run.left_out]
    return lines
