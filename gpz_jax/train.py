"""Train a classifier, probe it at every cut and locate the zone: ``python -m gpz_jax.train --ls 0.3``."""

import dataclasses
import sys

from gpz_jax import workflow
from gpz_jax.config import Config, parse
from gpz_jax.errors import one_line_errors
from gpz_jax.reporting import tables

DESCRIPTION = """Train a classifier, then probe it at every cut and locate the Golden Partition Zone.

Writes a run folder: config.json, metrics.jsonl, dynamics.zarr, checkpoints/, probe/, figures/. Everything a run does
follows from its settings and its seed. Examples:

  python -m gpz_jax.train --ls 0.3                            # LS+ on the bundled digits, about a minute on 2 cores
  python -m gpz_jax.train --data mnist --data-dir DIR --epochs 5
  python -m gpz_jax.train --run runs/digits-cnn16-ls0.3-seed0 --ls 0.3 --resume
  python -m gpz_jax.train --from-torch FILE.pth --model ir152 --size 64 --data cifar10     # released weights
"""


@dataclasses.dataclass(frozen=True)
class Train:
    """Flags of the train command."""

    settings: Config = Config()
    run: str | None = None
    """Run folder to write; default: a readable name under runs/."""
    resume: bool = False
    """Continue the run in the folder from its last checkpoint; the result is that of an uninterrupted run."""
    from_torch: str | None = None
    """PyTorch weights of the paper's release (.pth, .pt, .safetensors) to make a run of; no training step is taken."""
    config: str | None = None
    """TOML file with tables [data], [model], [training], [probe]; flags win over it."""


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(Train, argv, prog="python -m gpz_jax.train", description=DESCRIPTION, sections=("settings",))
    if flags.from_torch is not None:
        run = workflow.import_run(flags.from_torch, flags.settings, folder=flags.run, resume=flags.resume)
    else:
        run = workflow.train_run(flags.settings, folder=flags.run, resume=flags.resume)
    victim = workflow.load_run(str(run.folder))
    workflow.report_accuracy(victim)
    workflow.report_probe(workflow.probe_run(victim, flags.settings.probe), tables.console())
    workflow.say(f"attack it: python -m gpz_jax.attack {workflow.short(run.folder)}")


if __name__ == "__main__":
    main()
