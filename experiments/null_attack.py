"""How much of a cut's resistance is architecture, and how much was learned? The same attacks on untrained copies.

    python experiments/null_attack.py --data-dir DIR               # siblings on two cores
    python experiments/null_attack.py --data-dir DIR --size paper  # the paper's networks, on an accelerator

Attacks the trained networks and untrained copies of them (batch norms calibrated on the same images) at the paper's
feature- and decision-level cuts by a linear map and a deconvolution decoder. With r the error of the better of the two
over the class-mean floor, the gap is r(decision) - r(feature), and the share that architecture explains that of the
untrained gap in the trained one. Writes table.csv and grids to --out; a killed experiment continues where it stopped.
"""

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
from rich.table import Table
from targets import Flags, chosen, kept_images, target_run

from gpz_jax import presentation, workflow
from gpz_jax.errors import one_line_errors
from gpz_jax.flags import parse
from gpz_jax.reporting import figures, tables


@dataclasses.dataclass(frozen=True)
class Experiment(Flags):
    """Flags of the experiment."""

    out: str = "runs/null-attack"
    """Folder for the table and the grids."""


def attack(flags: Experiment, out: Path) -> list[dict]:
    """Trained and untrained networks at both cuts, a row for each attack."""
    size, names = chosen(flags)
    rows = []
    for name in names:
        network, target = size.networks[name], target_run(flags, size, name)
        grid, originals = {}, np.zeros(0)
        for null in (False, True):
            options = dataclasses.replace(
                size.attack, cut=(network.feature, network.decision), rung=("linear", "deconvolution"), null=null
            )
            for result in workflow.attack_run(target, options, resume=True):
                weights = "untrained" if null else "trained"
                level = "feature" if result["cut"] == network.feature else "decision"
                rows.append(
                    {"network": name, "weights": weights, "level": level, "cut": result["cut"]}
                    | {"decoder": result["decoder"], **result["scores"], "flattened": result["flattened"]}
                )
                if result["best"]:
                    x, x_hat = kept_images(target, options, result)
                    originals, grid[f"{weights} {result['cut']}\n{result['decoder']}"] = x[:10], x_hat[:10]
        figures.reconstruction_grid(originals, grid, out / f"{name}.png")
    return rows


def best(rows: list[dict], **where: str) -> dict:
    """The attack of least error among those rows."""
    mine = [row for row in rows if all(row[key] == value for key, value in where.items())]
    return min(mine, key=lambda row: row["mse"])


def shown(rows: list[dict], size: str) -> Table:
    """The better attack at each cut."""
    table = Table(title=f"Trained against untrained, CIFAR-10, {size}", caption="/class mean: mse over that floor")
    for head in ("network", "cut", "level", "weights", "best attacker", "mse", "/class mean", "SSIM", "flattened?"):
        table.add_column(head, justify="right" if head in ("mse", "/class mean", "SSIM") else "left")
    for name in dict.fromkeys(row["network"] for row in rows):
        for level in ("feature", "decision"):
            for weights in ("trained", "untrained"):
                row = best(rows, network=name, level=level, weights=weights)
                numbers = (presentation.number(row[key]) for key in ("mse", "ratio", "ssim"))
                flat = "yes" if row["flattened"] else "NO"
                table.add_row(name, row["cut"], level, weights, row["decoder"], *numbers, flat)
        table.add_section()
    return table


def verdict(rows: list[dict]) -> list[str]:
    """The share of the gap that an untrained network shows."""
    said = []
    for name in dict.fromkeys(row["network"] for row in rows):
        gap = {
            weights: best(rows, network=name, weights=weights, level="decision")["ratio"]
            - best(rows, network=name, weights=weights, level="feature")["ratio"]
            for weights in ("trained", "untrained")
        }
        said.append(
            f"{name}: from the feature to the decision level the error rises by {gap['trained']:.3f} of the class-mean "
            f"floor when trained, by {gap['untrained']:.3f} untrained: architecture alone shows "
            f"{100 * gap['untrained'] / gap['trained']:.0f} % of the gap"
        )
    return said


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(Experiment, argv, prog="python experiments/null_attack.py", description=__doc__ or "")
    begun, out = time.monotonic(), Path(flags.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = attack(flags, out)
    tables.write_csv(rows, out / "table.csv")
    tables.console().print(shown(rows, flags.size))
    for line in verdict(rows):
        print(line)
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
