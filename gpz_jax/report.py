"""Write what is known of runs as one HTML page: ``python -m gpz_jax.report RUN [RUN …]``."""

import dataclasses
import sys
from typing import Annotated

import tyro

from gpz_jax import workflow
from gpz_jax.errors import one_line_errors
from gpz_jax.flags import parse
from gpz_jax.reporting import tables

DESCRIPTION = """Write one HTML file that says what is known of a run, for whoever decides where to cut and for whoever
doubts it: the verdict of every cut in words; originals and what each attack rebuilt; R_c^2, rho, evidence, attacks,
guarantees and price along the cuts; limits to filter the cuts by; confusion, training, settings and caveats. Several
runs on the same data are compared cut by cut. Nothing is measured anew but the test images' classes and the prices; no
file and no server is needed beside the page. Examples:

  python -m gpz_jax.report runs/digits-cnn16-ls0.3-seed0
  python -m gpz_jax.report runs/onehot runs/lsplus runs/lsminus --out compared.html
"""


@dataclasses.dataclass(frozen=True)
class Report:
    """Flags of the report command."""

    folders: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN …]")] = ()
    """Run folders, as made by python -m gpz_jax.train; a folder made with --seeds stands for all runs in it."""
    out: str | None = None
    """HTML file to write; default: report.html in the run folder, of several runs beside the first."""
    data_dir: str | None = None
    """Folder that holds the images now, if they have moved since training."""


@one_line_errors
def main(argv: list[str] | None = None, *, prog: str = "python -m gpz_jax.report") -> None:
    """Run the command."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(Report, argv, prog=prog, description=DESCRIPTION)
    with workflow.all_at_hand(flags.folders, flags.out) as folders:
        written = workflow.report_runs(folders, out=flags.out, data_dir=flags.data_dir)
    for line in workflow.said_of_report(written):
        tables.console().print(line, markup=False, highlight=False)
    file = workflow.short(written.file.absolute())
    workflow.say(f"page: {file} ({written.size / 1e6:.2f} MB, made in {written.seconds:.1f} s)")


if __name__ == "__main__":
    main()
