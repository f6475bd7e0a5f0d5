"""Is the zone a paper tiger? Stronger attackers and enriched representations, at a feature- and a decision-level cut.

    python experiments/stress_test.py --data-dir DIR               # siblings on two cores
    python experiments/stress_test.py --data-dir DIR --size paper  # the paper's networks, on an accelerator

The paper's ablation: the representation is enriched (normalised, its spectrum added, a small network with dropout), the
attacker strengthened (attention modules from stage to stage, an inverse residual net), or both; and beyond it the two
ends of the ladder, a linear map and the white-box likelihood attack. Prints the error of each at both cuts beside the
paper's, and whether the gap between the cuts survives the best attacker at each. Writes table.csv, a grid of
reconstructions at each cut and bars.png to --out. A killed experiment continues where it stopped.
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

#: What is tried, beyond the ladder: name of its folder -> flags.
BEYOND = {
    "deconvolution-fft_residual": {"rung": ("deconvolution",), "enrich": "fft_residual"},
    "deconvolution-fft_concat": {"rung": ("deconvolution",), "enrich": "fft_concat"},
    "residual-normalize+dropout_concat": {"rung": ("residual",), "enrich": "normalize+dropout_concat"},
}

#: The paper's MSE (summed over channels) on IR-152, CIFAR-10, at block 40 and block 50.
PAPER = {
    "deconvolution": ("0.018", "0.057"),
    "enriched": ("0.014", "0.052"),
    "attention": ("", "0.051"),
    "residual-normalize+dropout_concat": ("0.012", "0.049 to 0.052"),
}


@dataclasses.dataclass(frozen=True)
class Experiment(Flags):
    """Flags of the experiment."""

    out: str = "runs/stress-test"
    """Folder for the table and the figures."""


def attack(flags: Experiment, out: Path) -> list[dict]:
    """Every attacker at both cuts of every network, a row each."""
    size, names = chosen(flags)
    rows = []
    for name in names:
        network, target = size.networks[name], target_run(flags, size, name)
        for level, cut in (("feature", network.feature), ("decision", network.decision)):
            plain = dataclasses.replace(size.attack, cut=(cut,))
            results = workflow.attack_run(target, dataclasses.replace(plain, ladder=True), resume=True)
            for more in BEYOND.values():
                results += workflow.attack_run(target, dataclasses.replace(plain, **more), resume=True)
            grid, originals = {}, np.zeros(0)
            for result in results:
                x, x_hat = kept_images(target, plain, result)
                originals, grid[result["decoder"]] = x[:10], x_hat[:10]
                scores = {**result["scores"], "mse_first": result["mse_first"]}
                scores["floor_paper"] = scores["mse_paper"] / scores["ratio"]
                rows.append(
                    {"network": name, "level": level, "cut": cut, "attacker": result["decoder"], **scores}
                    | {"parameters": result["decoder_parameters"], "flattened": result["flattened"]}
                )
            figures.reconstruction_grid(originals, grid, out / f"{name}-{cut}.png")
    return rows


def shown(rows: list[dict], size: str) -> list[Table]:
    """A table a network."""
    found = []
    for name in dict.fromkeys(row["network"] for row in rows):
        mine = {(row["attacker"], row["level"]): row for row in rows if row["network"] == name}
        cuts = {row["level"]: row["cut"] for row in mine.values()}
        table = Table(
            title=f"{name}, CIFAR-10, {size}: MSE in the paper's convention",
            caption="/class mean: over the class-mean floor; NO: the attacker was still improving; the likelihood "
            "attack is scored on the first test images only; paper: IR-152 at 64x64, blocks 40 and 50",
        )
        table.add_column("attacker")
        heads = (f"feature: {cuts['feature']}", "/class mean", f"decision: {cuts['decision']}", "/class mean", "gap")
        for head in (*heads, "paper: feature", "paper: decision", "flattened?"):
            table.add_column(head, justify="right")
        for attacker in dict.fromkeys(row["attacker"] for row in mine.values()):
            pair = [mine[attacker, level] for level in ("feature", "decision")]
            cells = [presentation.number(row[key]) for row in pair for key in ("mse_paper", "ratio")]
            paper = PAPER.get(attacker, ("", "")) if name == "ir152" else ("", "")
            table.add_row(
                attacker, *cells, f"{pair[1]['mse_paper'] / pair[0]['mse_paper']:.2f}",
                *paper, ", ".join("yes" if row["flattened"] else "NO" for row in pair),
            )  # fmt: skip
        found.append(table)
    return found


def verdict(rows: list[dict]) -> list[str]:
    """Whether the gap survives the best attacker at each cut, all held against the same first test images."""
    said = []
    for name in dict.fromkeys(row["network"] for row in rows):
        best = {}
        for level in ("feature", "decision"):
            mine = [row for row in rows if row["network"] == name and row["level"] == level]
            best[level] = min(mine, key=lambda row: row["mse_first"])
            best[level, "baseline"] = next(row for row in mine if row["attacker"] == "deconvolution")
        base = best["decision", "baseline"]["mse_first"] / best["feature", "baseline"]["mse_first"]
        gap = best["decision"]["mse_first"] / best["feature"]["mse_first"]
        said.append(
            f"{name}: the gap is {base:.2f} under the baseline attack and {gap:.2f} under the best attacker at each "
            f"cut ({best['feature']['attacker']} and {best['decision']['attacker']}); at the decision level that "
            f"one comes to {best['decision']['ratio']:.2f} of the class-mean floor"
        )
    return said


def draw(rows: list[dict], file: Path) -> None:
    """Error over the class-mean floor, a bar for each attacker, both cuts."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    figure, axes = figures.new_figure(1, len(names), (6 * len(names), 4.2))
    for axis, name in zip(np.ravel(axes), names, strict=True):
        attackers = list(dict.fromkeys(row["attacker"] for row in rows if row["network"] == name))
        for i, level in enumerate(("feature", "decision")):
            mine = [row for row in rows if row["network"] == name and row["level"] == level]
            places = np.arange(len(attackers)) + 0.4 * i
            axis.barh(places, [row["ratio"] for row in mine], 0.38, label=f"{level}: {mine[0]['cut']}")
        axis.axvline(1, color="0.4", linestyle="--", label="class mean")
        axis.set_yticks(np.arange(len(attackers)) + 0.2, attackers, fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel("mse over the class-mean floor")
        axis.set_title(name, fontsize=10)
        axis.legend(fontsize=8)
    figure.savefig(file, dpi=120)


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(Experiment, argv, prog="python experiments/stress_test.py", description=__doc__ or "")
    begun, out = time.monotonic(), Path(flags.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = attack(flags, out)
    tables.write_csv(rows, out / "table.csv")
    draw(rows, out / "bars.png")
    for table in shown(rows, flags.size):
        tables.console().print(table)
    for line in verdict(rows):
        print(line)
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
