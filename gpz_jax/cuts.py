"""Price every cut of a model or a trained run: ``python -m gpz_jax.cuts ir152 --budget-params 10%``."""

import dataclasses
import sys
from typing import Annotated

import tyro

from gpz_jax import workflow
from gpz_jax.compile_log import compiling
from gpz_jax.config import Compiling
from gpz_jax.errors import one_line_errors
from gpz_jax.flags import parse
from gpz_jax.reporting import tables
from gpz_jax.workflow import BareModel, CutsConfig

DESCRIPTION = """Say what every cut of a network costs: parameters, FLOPs, peak activation memory and latency of the
edge and the cloud half, and the payload between them. Of a RUN the table also says what python -m gpz_jax.probe and
python -m gpz_jax.attack found there, with the verdict of every cut: leaks (readable, partly, traces), no leak found by
the attacks that are named, or not tested enough.

A budget keeps the cuts that meet it. Recommended is the one of them that leaks least, by verdict, then by the share of
images named within their class, then by the ratio to the class-mean floor; never one that can be read, nor one before
it, since whoever sees z there can compute what follows; nor one that was not tested enough: then the next attack to
make is named. Where nothing is left, the nearest cuts are listed with what would have to give. Examples:

  python -m gpz_jax.cuts ir152 --no-latency                        # the paper's, from shapes alone, in seconds
  python -m gpz_jax.cuts vgg19 --budget-params 10% --budget-payload 40000
  python -m gpz_jax.cuts runs/digits-cnn16-ls0.3-seed0 --budget-ms 2 --cut block_2
  python -m gpz_jax.cuts runs/digits-cnn16-ls0.3-seed0 --min-ratio 0.8 --max-identified 0.1
  python -m gpz_jax.cuts runs/digits-cnn16-ls0.3-seed0 --bandwidth 5Mbps --rtt 20ms

Latency is measured on this machine, piece by piece between cuts; the recommended cut and every --cut are also timed
as two whole halves, to show what fusion changes. All the rest follows from the network alone.
"""


@dataclasses.dataclass(frozen=True)
class Cuts:
    """Flags of the cuts command."""

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL-or-RUN")]
    """Name of a model (cnn, resnet18, resnet50, vgg16, vgg19, ir50, ir100, ir152, vit), or a run folder."""
    cuts: CutsConfig = CutsConfig()
    model: BareModel = BareModel()
    data_dir: str | None = None
    """Folder that holds the run's images now, if they have moved since training."""
    out: str | None = None
    """Folder for cuts.csv and cuts.png; default: of a RUN, RUN/cuts.csv and RUN/figures/cuts.png; of a MODEL, none."""
    compiling: Compiling = Compiling()
    wide: bool = False
    """Print every column of the table, not only those that decide."""


@one_line_errors
def main(argv: list[str] | None = None, *, prog: str = "python -m gpz_jax.cuts") -> None:
    """Run the command."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(Cuts, argv, prog=prog, description=DESCRIPTION)
    with compiling(flags.compiling, workflow.say):
        with workflow.all_at_hand([flags.what], flags.out) as [what]:
            priced = workflow.price(what, flags.cuts, bare=flags.model, data_dir=flags.data_dir, out=flags.out)
        workflow.report_cuts(priced, tables.console(), wide=flags.wide)


if __name__ == "__main__":
    main()
