"""Attack a trained run by inversion: ``python -m gpz_jax.attack RUN --cut block_4 --cut logits``."""

import dataclasses
import math
import sys
from typing import Annotated

import tyro

from gpz_jax import processes, workflow
from gpz_jax.compile_log import compiling
from gpz_jax.config import AttackConfig, Compiling, Foresight, RunIdentity
from gpz_jax.errors import one_line_errors
from gpz_jax.flags import parse
from gpz_jax.inversion.verdict import verdict_of
from gpz_jax.processes import Together
from gpz_jax.reporting import attack_table, guarantee_table, tables

DESCRIPTION = """Rebuild the input from what is sent at each cut, by attackers trained on images of their own, and score
them on test images against floors: the mean image, the class mean, and a decoder that sees the predicted label only.
--ladder tries every attack from the linear map to the likelihood, and the best of them scores the cut. The linear
attack is made in any case: it takes seconds, and a decoder that stays behind it says nothing of the cut. Prints tables
and the verdict of every cut; writes RUN/attacks/ and grids of originals over reconstructions. Examples:

  python -m gpz_jax.attack runs/digits-cnn16-ls0.3-seed0 --cut block_4 --cut logits
  python -m gpz_jax.attack runs/digits-cnn16-ls0.3-seed0 --cut block_4 --ladder --patience 10 --resume
  python -m gpz_jax.attack runs/digits-cnn16-ls0.3-seed0 --cut block_4 --stages aac+se,lsk --enrich fft_concat
  python -m gpz_jax.attack runs/digits-cnn16-ls0.3-seed0 --cut block_4 --defence gaussian:0.5+uint8
  python -m gpz_jax.attack runs/digits-cnn16-ls0.3-seed0 --epochs 200 --resume
"""


@dataclasses.dataclass(frozen=True)
class Attack:
    """Flags of the attack command."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, as made by python -m gpz_jax.train."""
    attack: AttackConfig = AttackConfig()
    together: Together = Together()
    identity: RunIdentity = RunIdentity()
    data_dir: str | None = None
    """Folder that holds the images now, if they have moved since training."""
    aux: str | None = None
    """Another data set as the attacker's images, 'held-out' or 'auto' as in training; default: what the run's were."""
    seed: int | None = None
    """Seed of the attacker; default: the run's."""
    resume: bool = False
    """Read cuts already attacked with the same settings instead of attacking them again, and go on
    with one that was stopped."""
    checkpoint_every: str | None = None
    """Save an attack on its way: every so many steps (500), or minutes (10min). One that is stopped by SIGTERM or
    Ctrl-C saves its last step in any case; --resume goes on from it."""
    wide: bool = False
    """Show every score in the table."""
    foresight: Foresight = Foresight()
    compiling: Compiling = Compiling()
    config: str | None = None
    """TOML file with a table [attack]; flags win over it."""


@one_line_errors
def main(argv: list[str] | None = None, *, prog: str = "python -m gpz_jax.attack") -> None:
    """Run the command."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(Attack, argv, prog=prog, description=DESCRIPTION, sections=("attack",))
    processes.join(flags)
    workflow.check_attack_flags(flags.attack, flags.seed)
    at_hand = workflow.at_hand(flags.folder, writes=not flags.foresight.dry_run)
    with compiling(flags.compiling, workflow.say), at_hand as folder:
        run(dataclasses.replace(flags, folder=folder))


def run(flags: Attack) -> None:
    """Do what the flags ask for."""
    workflow.check_foresight(flags.foresight)
    loaded = workflow.load_run(flags.folder, data_dir=flags.data_dir, aux=flags.aux, expected=flags.identity)
    if flags.foresight.dry_run:
        needed = workflow.dry_run_of_attack(loaded, flags.attack, tpu=flags.foresight.tpu)
        return workflow.report_dry_run(needed, tables.console(), wide=flags.wide)
    workflow.report_accuracy(loaded)
    results = workflow.attack_run(
        loaded, flags.attack, seed=flags.seed, resume=flags.resume, checkpoint_every=flags.checkpoint_every
    )
    title = (
        f"{loaded.run.folder.name}{_what(flags.attack)}: attacked with {len(loaded.splits.auxiliary)} auxiliary images"
    )
    tables.console().print(attack_table.attack_table(title, results, wide=flags.wide))
    leaks = attack_table.leak_table(
        "leak list: the best attack on each cut", results, wide=flags.wide, class_names=loaded.run.class_names
    )
    tables.console().print(leaks)
    under = workflow.guarantees_beside(loaded, workflow.attack_home(flags.attack))
    tables.console().print(guarantee_table.guarantee_table(results, under, wide=flags.wide))
    home = workflow.attack_home(flags.attack)
    if not flags.attack.null:
        all_made = workflow.attacked(loaded, home=home)  # by earlier calls, too
        for result in results:
            tables.console().print(verdict_of(all_made[result.cut]).sentence, markup=False)
    for result in results:
        if not math.isnan(result.best.accuracy):
            workflow.say(
                f"{result.cut}: test accuracy {result.best.accuracy:.4f} behind the defence, "
                f"{result.best.accuracy_undefended:.4f} without"
            )
    figure = workflow.short(loaded.run.folder / "figures" / f"{home}.png")
    several = any(len(result.attempts) > 1 for result in results)
    every = f" (best attack on every cut), {home}-CUT.png beside it (every attack)" if several else ""
    workflow.say(f"reconstructions: {figure}{every}; numbers: {workflow.short(loaded.run.folder / home / 'table.csv')}")
    workflow.say(f"read it all as one page: python -m gpz_jax.report {workflow.short(loaded.run.folder)}")


def _what(options: AttackConfig) -> str:
    """What is special about these attacks, for the title."""
    what = " (untrained copy)" if options.null else ""
    what += "" if options.top_k is None else f", top {options.top_k} entries"
    what += ", probabilities" if options.probabilities else ""
    return what + ("" if options.defence == "none" else f" behind {options.defence}")


if __name__ == "__main__":
    main()
