"""How much of a cut's resistance is architecture, and how much was learned? The same attacks on untrained copies.

    python experiments/null_attack.py --data-dir DIR               # siblings on two cores, 251 s
    python experiments/null_attack.py --data-dir DIR --size paper  # the paper's networks, on an accelerator

Attacks the trained networks and untrained copies of them (batch norms calibrated on the same images) at the paper's
feature- and decision-level cuts by a linear map and a deconvolution decoder. With r the error of the better of the two
over the class-mean floor, the gap is r(decision) - r(feature), and the part that architecture explains that of the
untrained gap in the trained one. Writes table.csv and grids to --out; a killed experiment continues where it stopped.
"""

import dataclasses
import functools
from pathlib import Path

import common
from common import Outcome, Row, least, where
from targets import TargetFlags, attack_cuts, chosen, rows_of, target_run


@dataclasses.dataclass(frozen=True)
class Flags(TargetFlags):
    """Flags of the experiment."""

    out: str = "runs/null-attack"
    """Folder for the table and the grids."""


def experiment(flags: Flags, out: Path) -> Outcome:
    """Trained and untrained networks at both cuts."""
    size, networks = chosen(flags)
    rows, verdict = [], []
    for name, network in networks.items():
        target, grid = target_run(flags, name), {}
        for weights in ("trained", "untrained"):
            null = weights == "untrained"
            found = attack_cuts(target, network, size.attack, attack=("linear", "deconvolution"), null=null)
            rows += rows_of(name, found, weights=weights)
            grid |= {f"{weights} {result.cut}\n{result.best.attack}": result.best for result in found.values()}
        common.draw_grid(grid, out / f"{name}.png")
        verdict.append(explained(name, where(rows, network=name)))
    columns = {key: key for key in ("network", "cut", "level", "weights")} | {"best attack": "attack", "mse": "mse"}
    sheet = common.sheet_of(
        f"Trained against untrained, {size.data}, {flags.size}",
        [row for row in rows if row["best"]],
        {**columns, "/class\nmean": "ratio", "identi-\nfied": "identified", "SSIM": "ssim", "flattened?": "flattened"},
        caption="the better attack at each cut; /class mean: mse over that floor",
        wide=("SSIM", "flattened?"),
        section="weights",
    )
    return Outcome(rows, [sheet], verdict)


def explained(name: str, rows: list[Row]) -> str:
    """The part of the gap that an untrained network has."""
    gap = {
        weights: least(rows, weights=weights, level="decision")["ratio"]
        - least(rows, weights=weights, level="feature")["ratio"]
        for weights in ("trained", "untrained")
    }
    return (
        f"{name}: from the feature to the decision level the error rises by {gap['trained']:.3f} of the class-mean "
        f"floor when trained, by {gap['untrained']:.3f} untrained: architecture alone has "
        f"{100 * gap['untrained'] / gap['trained']:.0f} % of the gap"
    )


main = functools.partial(common.run, Flags, experiment)

if __name__ == "__main__":
    main()
