"""The paper's main table: what a feature-level and a decision-level cut leave of an image.

    python experiments/representation_level.py --data-dir DIR               # siblings on two cores, minutes
    python experiments/representation_level.py --data-dir DIR --size paper  # the paper's networks, on an accelerator

Trains IR-152 and VGG19 (or their siblings) on CIFAR-10, attacks each at the paper's cut on the feature level and in its
Golden Partition Zone by a linear map and by a deconvolution decoder, and prints each error beside the paper's, in the
paper's convention (summed over channels), and over the class-mean floor. Writes table.csv and attacks.png (originals
over reconstructions) to --out. A killed experiment continues where it stopped.
"""

import dataclasses
import functools
import math
from pathlib import Path

import common
from common import Outcome, Row, least, where
from targets import PAPER, TargetFlags, attack_cuts, chosen, rows_of, target_run

from gpz_jax.presentation import interval


@dataclasses.dataclass(frozen=True)
class Flags(TargetFlags):
    """Flags of the experiment."""

    out: str = "runs/representation-level"
    """Folder for the table and the figure."""


def experiment(flags: Flags, out: Path) -> Outcome:
    """Every network at both cuts."""
    size, networks = chosen(flags)
    rows, grid = [], {}
    for name, network in networks.items():
        target = target_run(flags, name)
        found = attack_cuts(target, network, size.attack, attack=("linear", "deconvolution"))
        rows += rows_of(name, found)
        grid |= {f"{name} {result.cut}\n{a.attack}": a for result in found.values() for a in result.attempts}
    for row in rows:
        published = row["attack"] == "deconvolution" and row["network"] in PAPER
        row["mse_published"] = PAPER[row["network"]][row["level"] == "decision"] if published else math.nan
    common.draw_grid(grid, out / "attacks.png")
    sheet = common.sheet_of(
        f"Representation level, {size.data}, {flags.size}",
        rows,
        {
            "network": "network", "cut": "cut", "level": "level", "attack": "attack", "D": "dimension",
            "MSE": "mse_paper", "MSE,\npaper": "mse_published", "PSNR": "psnr", "SSIM": "ssim", "LPIPS": "lpips",
            "/class\nmean": "ratio", "95 %": lambda row: interval(row["ratio_low"], row["ratio_high"]),
            "identi-\nfied": "identified",
            "flattened?": "flattened",
        },
        caption="MSE in the paper's convention, summed over channels; paper: baseline attack on the full network at "
        "64x64; /class mean: per-element mse over that of the class-mean floor [95 % interval over images]",
        wide=("D", "PSNR", "SSIM", "LPIPS", "95 %", "flattened?"),
        section="network",
    )  # fmt: skip
    return Outcome(rows, [sheet], [gap(name, where(rows, network=name)) for name in networks])


def gap(name: str, rows: list[Row]) -> str:
    """Decision-level over feature-level error, of the best attacker at each, in words."""
    best = {level: least(rows, "mse_paper", level=level) for level in ("feature", "decision")}
    floor = rows[0]["mse_paper"] / rows[0]["ratio"]
    paper = f" (the paper: {PAPER[name][1] / PAPER[name][0]:.2f})" if name in PAPER else ""
    return (
        f"{name}: decision over feature level {best['decision']['mse_paper'] / best['feature']['mse_paper']:.2f}{paper}"
        f"; at the decision level the best attacker still has {100 * (1 - best['decision']['mse_paper'] / floor):.0f} "
        "% less error than the class mean"
    )


main = functools.partial(common.run, Flags, experiment)

if __name__ == "__main__":
    main()
