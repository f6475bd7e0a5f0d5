"""Attack a trained run by inversion: ``python -m gpz_jax.attack RUN --cut block_4 --cut logits``."""

import dataclasses
import sys
from typing import Annotated

import tyro

from gpz_jax import workflow
from gpz_jax.config import AttackConfig, RunIdentity, parse
from gpz_jax.errors import one_line_errors
from gpz_jax.reporting import tables

DESCRIPTION = """Train a decoder on the attacker's images to rebuild the input from what is sent at each cut, and score
it on test images against two floors: the mean image, and the class mean (what the label alone gives). Prints a table;
writes RUN/attacks/ and a grid of originals over reconstructions. Examples:

  python -m gpz_jax.attack runs/digits-cnn16-ls0.3-seed0 --cut block_4 --cut logits
  python -m gpz_jax.attack runs/digits-cnn16-ls0.3-seed0 --epochs 200 --resume
"""


@dataclasses.dataclass(frozen=True)
class Attack:
    """Flags of the attack command."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, as made by python -m gpz_jax.train."""
    attack: AttackConfig = AttackConfig()
    identity: RunIdentity = RunIdentity()
    data_dir: str | None = None
    """Folder that holds the images now, if they have moved since training."""
    aux: str | None = None
    """Another data set as the attacker's images, 'held-out' or 'auto' as in training; default: what the run's were."""
    seed: int | None = None
    """Seed of the attacker; default: the run's."""
    resume: bool = False
    """Read cuts already attacked with the same settings instead of attacking them again."""
    config: str | None = None
    """TOML file with a table [attack]; flags win over it."""


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(Attack, argv, prog="python -m gpz_jax.attack", description=DESCRIPTION, sections=("attack",))
    victim = workflow.load_run(flags.folder, data_dir=flags.data_dir, aux=flags.aux, expected=flags.identity)
    workflow.report_accuracy(victim)
    results = workflow.attack_run(victim, flags.attack, seed=flags.seed, resume=flags.resume)
    title = f"{victim.run.folder.name}: attacked with {len(victim.splits.auxiliary)} auxiliary images"
    tables.console().print(tables.attack_table(title, results))
    workflow.say(f"reconstructions: {workflow.short(victim.run.folder / 'figures' / 'attacks.png')}")


if __name__ == "__main__":
    main()
