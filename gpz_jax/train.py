"""Train a classifier, probe it at every cut and locate the zone: ``python -m gpz_jax.train --ls 0.3``."""

import dataclasses
import sys
from typing import Literal

from gpz_jax import processes, workflow
from gpz_jax.compile_log import compiling
from gpz_jax.config import Compiling, Config, Foresight
from gpz_jax.errors import UserError, one_line_errors
from gpz_jax.flags import parse, value_of
from gpz_jax.processes import Together
from gpz_jax.reporting import tables
from gpz_jax.settings_files import recipes

DESCRIPTION = """Train a classifier, then probe it at every cut and locate the Golden Partition Zone.

Writes a run folder: config.json, metrics.jsonl, dynamics.zarr, checkpoints/, probe/, figures/. Everything a run does
follows from its settings and its seed. Examples:

  python -m gpz_jax.train --ls 0.3                            # LS+ on the bundled digits, about a minute on 2 cores
  python -m gpz_jax.train --data mnist --data-dir DIR --epochs 5
  python -m gpz_jax.train --run runs/digits-cnn16-ls0.3-seed0 --resume
  python -m gpz_jax.train --config laptop/vgg19 --data-dir DIR
  python -m gpz_jax.train --seeds 0 --seeds 1 --seeds 2 --alphas 0 --alphas 0.3   # a sweep of six runs
  python -m gpz_jax.train --from-torch FILE.pth --model ir152 --size 64 --data cifar10     # released weights
"""


@dataclasses.dataclass(frozen=True)
class Train:
    """Flags of the train command."""

    settings: Config = Config()
    together: Together = Together()
    run: str | None = None
    """Run folder to write; default: a readable name under runs/. Or s3://BUCKET/NAME, gs://BUCKET/NAME (extras [s3],
    [gcs]): it is written in the user's cache folder and brought up whenever something is finished."""
    resume: bool = False
    """Continue the run in the folder that --run names from its last checkpoint, with the settings in its config.json;
    flags that are given must agree (more --epochs lengthen it). The result is that of an uninterrupted run. Where
    there is no run yet one is begun, so that one command line serves a machine that may be taken away."""
    checkpoint_every: str | None = None
    """Save within epochs, too: every so many steps (500), or minutes (10min). Without it, an epoch that is killed is
    taken again; one that is stopped by SIGTERM or Ctrl-C saves its last step in any case."""
    images: Literal["auto", "device", "sharded", "stream"] = "auto"
    """Where the training images lie: 'device', all of them on every device; 'sharded', dealt to the devices; 'stream',
    left on disk and read ahead of the steps (an .npz of uint8 written by numpy.savez is read in place; what has to be
    decoded first lies in a file that goes with the process); 'auto', the first of these that has room. All train on the
    same images in the same order."""
    from_torch: str | None = None
    """PyTorch weights of the paper's release (.pth, .pt, .safetensors) to make a run of; no training step is taken."""
    seeds: tuple[int, ...] = ()
    """Seed to train, in place of --seed; repeat the flag for several, a sweep trained side by side: each is a run
    folder in the one that --run names, beside a dynamics.zarr of all of them. No probe follows."""
    alphas: tuple[float, ...] = ()
    """Label smoothing to train with, in place of --ls; repeat the flag for several, each under every one of --seeds."""
    sweep: Literal["auto", "vmap", "loop"] = "auto"
    """How to train several: 'vmap' for one program that takes a step of all, 'loop' for a step of each in turn (bit for
    bit what single runs give); 'auto' is 'loop' on CPUs, where vmapped convolutions are slow, else 'vmap'."""
    wide: bool = False
    """Show every column of the probe's table, not only those that decide."""
    foresight: Foresight = Foresight()
    compiling: Compiling = Compiling()
    config: str | None = None
    """Recipe by name (below), or a TOML file with tables [data], [model], [training], [track], [probe]; flags win."""


RECIPES = "\nRecipes for --config: " + ", ".join(recipes()) + "."


def begun_with(argv: list[str]) -> Train:
    """The flags that training in this folder began with, if it is to go on there; else the defaults."""
    # From the command line as it stands, since what it leaves out is to be filled in before it is parsed.
    found = workflow.begun(value_of("--run", argv)) if "--resume" in argv else None
    if found is None:
        return Train()
    seeds = found.seeds if value_of("--seeds", argv) is None else ()
    alphas = found.alphas if value_of("--alphas", argv) is None else ()
    return Train(found.config, seeds=seeds, alphas=alphas)


@one_line_errors
def main(argv: list[str] | None = None, *, prog: str = "python -m gpz_jax.train") -> None:
    """Run the command."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(
        Train, argv, prog=prog, description=DESCRIPTION + RECIPES, sections=("settings",), defaults=begun_with(argv)
    )
    processes.join(flags)
    with compiling(flags.compiling, workflow.say):
        if flags.run is None or flags.foresight.dry_run:
            return run(flags)
        with workflow.at_hand(flags.run, writes=True) as folder:
            run(dataclasses.replace(flags, run=folder))


def run(flags: Train) -> None:
    """Do what the flags ask for."""
    workflow.check_foresight(flags.foresight)
    if flags.foresight.dry_run:
        return dry_run(flags)
    if flags.seeds or flags.alphas:
        return train_sweep(flags)
    if flags.sweep != "auto":
        raise UserError(f"--sweep {flags.sweep} needs several runs to train: give --seeds or --alphas")
    if flags.from_torch is not None:
        made = workflow.run_from_torch(flags.from_torch, flags.settings, folder=flags.run, resume=flags.resume)
    else:
        made = workflow.train_run(
            flags.settings, folder=flags.run, resume=flags.resume,
            checkpoint_every=flags.checkpoint_every, images=flags.images,
        )  # fmt: skip
    loaded = workflow.load_run(str(made.folder), disk=workflow.stays_on_disk(flags.images))
    workflow.report_accuracy(loaded)
    workflow.report_probe(workflow.probe_run(loaded, flags.settings.probe), tables.console(), wide=flags.wide)
    if flags.settings.track.track_every is not None and flags.from_torch is None:
        workflow.say(f"read its ledger: python -m gpz_jax.vortex {workflow.short(made.folder)}")
    workflow.say(f"attack it: python -m gpz_jax.attack {workflow.short(made.folder)}")
    workflow.say(f"read it all as one page: python -m gpz_jax.report {workflow.short(made.folder)}")


def dry_run(flags: Train) -> None:
    """Say what a run would need."""
    if flags.seeds or flags.alphas or flags.from_torch is not None:
        raise UserError("--dry-run looks at one training; leave out --seeds, --alphas and --from-torch")
    found = workflow.dry_run_of_training(flags.settings, images=flags.images, tpu=flags.foresight.tpu)
    workflow.report_dry_run(found, tables.console(), wide=flags.wide)


def train_sweep(flags: Train) -> None:
    """Train what ``--seeds`` and ``--alphas`` ask for."""
    if flags.from_torch is not None:
        raise UserError("--from-torch takes weights as they are: there is nothing for --seeds or --alphas to train")
    trained = workflow.train_sweep(
        flags.settings,
        seeds=flags.seeds,
        alphas=flags.alphas,
        how=flags.sweep,
        folder=flags.run,
        resume=flags.resume,
        checkpoint_every=flags.checkpoint_every,
        images=flags.images,
    )
    workflow.report_sweep(trained, tables.console())


if __name__ == "__main__":
    main()
