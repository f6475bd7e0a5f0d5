"""Probe a trained run at every cut: ``python -m gpz_jax.probe RUN``."""

import dataclasses
import sys
from typing import Annotated

import tyro

from gpz_jax import processes, workflow
from gpz_jax.compile_log import compiling
from gpz_jax.config import Compiling, Foresight, ProbeConfig, RunIdentity
from gpz_jax.errors import one_line_errors
from gpz_jax.flags import parse
from gpz_jax.processes import Together
from gpz_jax.reporting import tables

DESCRIPTION = """Measure R_c^2, rho and the entropy bounds at every cut of a trained run, hold them against untrained
copies, and locate the zone. Prints one table; writes RUN/probe/ (CSV and zarr) and RUN/figures/. Examples:

  python -m gpz_jax.probe runs/digits-cnn16-ls0.3-seed0
  python -m gpz_jax.probe runs/digits-cnn16-ls0.3-seed0 --split train --labels predicted --rule paper
"""


@dataclasses.dataclass(frozen=True)
class Probe:
    """Flags of the probe command."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, as made by python -m gpz_jax.train."""
    probe: ProbeConfig = ProbeConfig()
    together: Together = Together()
    identity: RunIdentity = RunIdentity()
    wide: bool = False
    """Show every column, not only those that decide; RUN/probe/ has them all."""
    data_dir: str | None = None
    """Folder that holds the images now, if they have moved since training."""
    seed: int | None = None
    """Seed of null models, bootstrap and k-means; default: the run's."""
    foresight: Foresight = Foresight()
    compiling: Compiling = Compiling()
    config: str | None = None
    """TOML file with a table [probe]; flags win over it."""


@one_line_errors
def main(argv: list[str] | None = None, *, prog: str = "python -m gpz_jax.probe") -> None:
    """Run the command."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(Probe, argv, prog=prog, description=DESCRIPTION, sections=("probe",))
    processes.join(flags)
    workflow.check_probe_flags(flags.probe, flags.seed)
    at_hand = workflow.at_hand(flags.folder, writes=not flags.foresight.dry_run)
    with compiling(flags.compiling, workflow.say), at_hand as folder:
        run(dataclasses.replace(flags, folder=folder))


def run(flags: Probe) -> None:
    """Do what the flags ask for."""
    workflow.check_foresight(flags.foresight)
    loaded = workflow.load_run(flags.folder, data_dir=flags.data_dir, expected=flags.identity)
    if flags.foresight.dry_run:
        needed = workflow.dry_run_of_probe(loaded, flags.probe, tpu=flags.foresight.tpu)
        return workflow.report_dry_run(needed, tables.console(), wide=flags.wide)
    workflow.report_accuracy(loaded)
    found = workflow.probe_run(loaded, flags.probe, seed=flags.seed)
    workflow.report_probe(found, tables.console(), wide=flags.wide)


if __name__ == "__main__":
    main()
