"""Curves of several runs laid over one another."""

import math
from collections.abc import Sequence

from gpz_jax.reporting.page.contents import Absent, Line, Plot, RunRecord

#: Title of a plot of training -> which of its lines is compared.
TRAINING = {"Accuracy": "validation", "Output entropy": "validation"}


def compared(runs: Sequence[RunRecord]) -> tuple[Plot, ...]:
    """A plot for every quantity that at least two runs have: of training, then of the ledgers, a line a run.

    Lines keep the order of the runs, so that a run looks the same everywhere; one without the quantity has no points.
    """
    parts = [[() if isinstance(part, Absent) else part for part in (run.training, run.ledger)] for run in runs]
    found = []
    for which in (0, 1):
        plots = [part[which] for part in parts]
        for title in dict.fromkeys(plot.title for of_run in plots for plot in of_run):
            same = [next((plot for plot in of_run if plot.title == title), None) for of_run in plots]
            lines = tuple(_line(run, plot, which == 0) for run, plot in zip(runs, same, strict=True))
            first = next(plot for plot in same if plot is not None)
            if sum(bool(line.x) for line in lines) > 1:
                name = f"{title} (validation)" if which == 0 else title
                found.append(Plot(name, first.unit, lines, first.over, first.log))
    return tuple(found)


def _line(run: RunRecord, plot: Plot | None, training: bool) -> Line:
    """The one line of a plot that stands for the run; empty where there is none or there are several."""
    lines = () if plot is None else plot.lines
    if plot is not None and training:
        lines = tuple(line for line in lines if line.name == TRAINING.get(plot.title))
    if len(lines) != 1 or not any(map(math.isfinite, lines[0].y)):
        return Line(run.name, (), ())
    return Line(run.name, lines[0].x, lines[0].y)
