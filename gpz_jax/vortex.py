"""Read what a tracked run kept of every step: ``python -m gpz_jax.vortex RUN [RUN …]``."""

import dataclasses
import sys
from typing import Annotated

import tyro

from gpz_jax import workflow
from gpz_jax.errors import one_line_errors
from gpz_jax.flags import parse
from gpz_jax.reporting import tables

DESCRIPTION = """Say what moved the within-class radius R_c^2 in training, cut by cut: the paper's feature-space
prediction (correct-class, wrong-class and second-order term), what the optimiser's step did to first order, what the
statistics of batch norm did, what is left (curvature); when the correct-class coefficient p_c - 1 + alpha changes sign;
and how far each prediction agrees with the change that was realised.

Reads the ledger of runs trained with --track-every; no device is needed. Prints tables; writes RUN/vortex.csv and
RUN/figures/vortex-*.png, and for several runs their comparison into --out. Examples:

  python -m gpz_jax.train --ls 0.3 --track-every 1
  python -m gpz_jax.vortex runs/digits-cnn16-ls0.3-seed0
  python -m gpz_jax.vortex runs/digits-cnn16-ls0-seed0 runs/digits-cnn16-ls0.3-seed0 --cut fc --cut logits
"""


@dataclasses.dataclass(frozen=True)
class Vortex:
    """Flags of the vortex command."""

    folders: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN …]")] = ()
    """Run folders with a ledger, as made by python -m gpz_jax.train --track-every 1; a folder made with --seeds stands
    for all runs in it. A folder that a gpz_jax.Tracker was appended to serves as well."""
    cut: tuple[str, ...] = ()
    """Cut whose terms are drawn; repeat the flag for several. Default: up to six, evenly spread."""
    wide: bool = False
    """Print all columns, not only those that decide; vortex.csv always holds all."""
    out: str | None = None
    """Folder for the figures and the table that compare several runs; default: vortex beside the first run."""


@one_line_errors
def main(argv: list[str] | None = None, *, prog: str = "python -m gpz_jax.vortex") -> None:
    """Run the command."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(Vortex, argv, prog=prog, description=DESCRIPTION)
    with workflow.all_at_hand(flags.folders, flags.out) as folders:
        found = workflow.read_ledgers(folders)
        for file in workflow.report_ledgers(found, tables.console(), cuts=flags.cut, out=flags.out, wide=flags.wide):
            workflow.say(f"figure {workflow.short(file)}")


if __name__ == "__main__":
    main()
