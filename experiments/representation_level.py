"""The paper's main table: what a feature-level and a decision-level cut leave of an image.

    python experiments/representation_level.py --data-dir DIR               # siblings on two cores
    python experiments/representation_level.py --data-dir DIR --size paper  # the paper's networks, on an accelerator

Trains IR-152 and VGG19 (or their siblings) on CIFAR-10, attacks each at the paper's cut on the feature level and in its
Golden Partition Zone by a linear map and by a deconvolution decoder, and prints each error beside the paper's, in the
paper's convention (summed over channels), and over the class-mean floor. Writes table.csv and attacks.png (originals
over reconstructions) to --out. A killed experiment continues where it stopped.
"""

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
from rich.table import Table
from targets import PAPER, Flags, chosen, kept_images, target_run

from gpz_jax import presentation, workflow
from gpz_jax.errors import one_line_errors
from gpz_jax.flags import parse
from gpz_jax.reporting import figures, tables


@dataclasses.dataclass(frozen=True)
class Experiment(Flags):
    """Flags of the experiment."""

    out: str = "runs/representation-level"
    """Folder for the table and the figure."""


def attack(flags: Experiment) -> tuple[list[dict], dict[str, np.ndarray], np.ndarray]:
    """Every network at both cuts; rows of the table, and reconstructions by name over the same originals."""
    size, names = chosen(flags)
    rows, grid, originals = [], {}, np.zeros(0)
    for name in names:
        network, target = size.networks[name], target_run(flags, size, name)
        options = dataclasses.replace(
            size.attack, cut=(network.feature, network.decision), rung=("linear", "deconvolution")
        )
        for result in workflow.attack_run(target, options, resume=True):
            level = "feature" if result["cut"] == network.feature else "decision"
            paper = PAPER[name][level == "decision"]
            rows.append({"network": name, "level": level, **flat(result), "paper": paper})
            x, x_hat = kept_images(target, options, result)
            originals, grid[f"{name} {result['cut']}\n{result['decoder']}"] = x[:10], x_hat[:10]
    return rows, grid, originals


def flat(result: dict) -> dict:
    """What the experiments' tables take of an attack."""
    low, high = result["intervals"]["ratio"]
    return {
        "cut": result["cut"],
        "decoder": result["decoder"],
        "dimension": result["dimension"],
        **result["scores"],
        "ratio_low": low,
        "ratio_high": high,
        "flattened": result["flattened"],
        "class_mean": result["floors"]["class_mean"],
        "mean_image": result["floors"]["mean_image"],
    }


def shown(rows: list[dict], size: str) -> Table:
    """The table."""
    table = Table(
        title=f"Representation level, CIFAR-10, {size}",
        caption="MSE in the paper's convention, summed over channels; paper: baseline attack on the full network at "
        "64x64; /class mean: per-element mse over that of the class-mean floor [95 % interval over images]",
    )
    for head in (
        "network",
        "cut",
        "level",
        "decoder",
        "D",
        "MSE",
        "MSE, paper",
        "PSNR",
        "SSIM",
        "LPIPS",
        "/class mean",
    ):
        table.add_column(head, justify="left" if head in ("network", "cut", "level", "decoder") else "right")
    table.add_column("flattened?")
    for row in rows:
        n = presentation.number
        paper = n(row["paper"]) if row["decoder"] == "deconvolution" else ""
        table.add_row(
            row["network"], row["cut"], row["level"], row["decoder"], str(row["dimension"]), n(row["mse_paper"]), paper,
            n(row["psnr"]), n(row["ssim"]), n(row["lpips"]) if "lpips" in row else "",
            f"{n(row['ratio'])} [{n(row['ratio_low'])}, {n(row['ratio_high'])}]", "yes" if row["flattened"] else "NO",
        )  # fmt: skip
    return table


def gaps(rows: list[dict]) -> list[str]:
    """Decision-level over feature-level error, of the best attacker at each, in words."""
    said = []
    for name in dict.fromkeys(row["network"] for row in rows):
        best = {
            level: min(row["mse_paper"] for row in rows if row["network"] == name and row["level"] == level)
            for level in ("feature", "decision")
        }
        floor = next(row["class_mean"] / row["mse"] * row["mse_paper"] for row in rows if row["network"] == name)
        paper = PAPER[name][1] / PAPER[name][0]
        said.append(
            f"{name}: decision over feature level {best['decision'] / best['feature']:.2f} (the paper: {paper:.2f}); "
            f"at the decision level the best attacker still has {100 * (1 - best['decision'] / floor):.0f} % less "
            "error than the class mean"
        )
    return said


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    name = "python experiments/representation_level.py"
    flags = parse(Experiment, argv, prog=name, description=__doc__ or "")
    begun = time.monotonic()
    rows, grid, originals = attack(flags)
    out = Path(flags.out)
    out.mkdir(parents=True, exist_ok=True)
    tables.write_csv(rows, out / "table.csv")
    figures.reconstruction_grid(originals, grid, out / "attacks.png")
    tables.console().print(shown(rows, flags.size))
    for line in gaps(rows):
        print(line)
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
