"""Attack a trained run by inversion: ``python -m gpz_jax.attack RUN --cut block_4 --cut logits``."""

import dataclasses
import sys
from typing import Annotated

import tyro

from gpz_jax import workflow
from gpz_jax.config import AttackConfig, RunIdentity
from gpz_jax.errors import one_line_errors
from gpz_jax.flags import parse
from gpz_jax.reporting import attack_table, tables

DESCRIPTION = """Rebuild the input from what is sent at each cut, by attackers trained on images of their own, and score
them on test images against floors: the mean image, the class mean, and a decoder that sees the predicted label only.
--ladder tries every rung from the linear map to the likelihood, and the best of them scores the cut. Prints
tables; writes RUN/attacks/ and grids of originals over reconstructions. Examples:

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
def main(argv: list[str] | None = None, *, prog: str = "python -m gpz_jax.attack") -> None:
    """Run the command."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(Attack, argv, prog=prog, description=DESCRIPTION, sections=("attack",))
    loaded = workflow.load_run(flags.folder, data_dir=flags.data_dir, aux=flags.aux, expected=flags.identity)
    workflow.report_accuracy(loaded)
    results = workflow.attack_run(loaded, flags.attack, seed=flags.seed, resume=flags.resume)
    what = " (untrained copy)" if flags.attack.null else ""
    what += "" if flags.attack.top_k is None else f", top {flags.attack.top_k} entries"
    what += ", probabilities" if flags.attack.probabilities else ""
    what += "" if flags.attack.defence == "none" else f" behind {flags.attack.defence}"
    title = f"{loaded.run.folder.name}{what}: attacked with {len(loaded.splits.auxiliary)} auxiliary images"
    tables.console().print(attack_table.attack_table(title, results))
    tables.console().print(attack_table.leak_table("leak list: the best attack on each cut", results))
    best = [result for result in results if result["best"]]
    for result in best:
        if "accuracy" in result:
            workflow.say(
                f"{result['cut']}: test accuracy {result['accuracy']:.4f} behind the defence, "
                f"{result['accuracy_undefended']:.4f} without"
            )
    home = workflow.attack_home(flags.attack)
    figure = workflow.short(loaded.run.folder / "figures" / f"{home}.png")
    every = f" (best rung of every cut), {home}-CUT.png beside it (every rung)" if len(results) > len(best) else ""
    workflow.say(f"reconstructions: {figure}{every}; numbers: {workflow.short(loaded.run.folder / home / 'table.csv')}")


if __name__ == "__main__":
    main()
