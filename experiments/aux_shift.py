"""What do reconstructions show when the attacker's images are of another kind? KMNIST, attacked with digits or letters.

    python experiments/aux_shift.py --data-dir DIR               # a sibling on two cores, 426 s
    python experiments/aux_shift.py --data-dir DIR --size paper  # IR-152, on an accelerator

DIR holds kmnist.npz (or kmnist10k.npz, with --target), mnist.npz and emnist_letters.npz. The paper says: beyond the
zone, an attacker trained on MNIST draws every character as "0", one trained on EMNIST as "D". Here a network trained on
KMNIST is attacked at both cuts with a held-out part of KMNIST, with MNIST and with EMNIST letters; a classifier trained
on the attacker's set names each reconstruction, and as a control each original. Prints how often the commonest names
come, and the prior collapse (variance of the reconstructions over that of the originals). Writes table.csv, names.csv,
names.png (the histograms) and a grid to --out; a killed experiment continues where it stopped.
"""

import dataclasses
import functools
from pathlib import Path

import common
from common import Outcome, Row
from naming import WHAT, auxiliary_of, histograms, named
from targets import Network, Size, TargetFlags, attack_cuts, chosen, rows_of

from gpz_jax import workflow
from gpz_jax.config import Config, DataConfig


@dataclasses.dataclass(frozen=True)
class Flags(TargetFlags):
    """Flags of the experiment; its usual network is ir152."""

    target: str = "kmnist"
    """Name of the target data set's file (tiny: the digits)."""
    out: str = "runs/aux-shift"
    """Folder for the tables and the figures."""


def attack(flags: Flags, size: Size, name: str, network: Network, grid: dict) -> list[Row]:
    """A network at both cuts with every set, a row each; with the counts of the names where they have some."""
    training = dataclasses.replace(network.training, epochs=min(10, network.training.epochs))
    data = DataConfig(data=flags.target, data_dir=flags.data_dir, aux="held-out", size=size.side)
    config = Config(data=data, model=network.model, training=training, seed=flags.seed)
    folder = f"{flags.runs}/{flags.target}-{flags.size}-{name}"
    common.train(config, folder)
    rows, held_out = [], 0
    for auxiliary, (classes, _) in auxiliary_of(flags).items():
        target = workflow.load_run(folder, aux=auxiliary)
        # As many images of every set as the held-out part has, which comes first: only their kind differs.
        held_out = held_out or len(target.splits.auxiliary)
        few = dataclasses.replace(target.splits.auxiliary, indices=target.splits.auxiliary.indices[:held_out])
        target = target._replace(splits=target.splits._replace(auxiliary=few))
        options = dataclasses.replace(size.attack, likelihood_images=2000)  # so many are kept, and named
        found = attack_cuts(target, network, options, attack=("deconvolution",), into=auxiliary)
        for row in rows_of(name, found, auxiliary=auxiliary):
            best = grid[f"{row['cut']}, {auxiliary}"] = found[row["level"]].best
            if classes:
                row["counts"] = {what: named(flags, auxiliary, getattr(best, what)) for what in WHAT}
            rows.append(row)
    return rows


def experiment(flags: Flags, out: Path) -> Outcome:
    """Every set at both cuts."""
    if flags.size == "tiny":
        common.write_negatives(out / "data")
        flags = dataclasses.replace(flags, target="digits", data_dir=str(out / "data"))
    size, networks = chosen(flags, usual="ir152")
    rows, grid, bars, verdict = [], {}, [], []
    for name, network in networks.items():
        rows += attack(flags, size, name, network, grid)
    for row in rows:
        new, said = histograms(flags, row)
        bars, verdict = bars + new, verdict + said
    common.write_table(bars, out / "names.csv")
    common.draw_bars(bars, out / "names.png", panel="where", group="images", label="name", value="fraction")
    common.draw_grid(grid, out / "attacks.png")
    columns = {key: key for key in ("network", "cut", "level", "auxiliary", "mse", "identified", "ratio")}
    sheet = common.sheet_of(
        f"{flags.target}, attacked with images of another kind, {flags.size}", rows,
        columns | {"collapse": "prior_collapse", "named": "reconstructions", "originals named": "originals"},
        caption="named: what a classifier of the attacker's set calls the images; collapse: variance of the "
        "reconstructions over that of the originals; ratio: mse over the class-mean floor's",
        wide=("network", "level", "originals named"),
    )  # fmt: skip
    return Outcome(rows, [sheet], verdict)


main = functools.partial(common.run, Flags, experiment)

if __name__ == "__main__":
    main()
