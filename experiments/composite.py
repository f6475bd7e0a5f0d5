"""Zone plus light perturbation: what each defence of z costs in accuracy, and what it takes from the attacker.

    python experiments/composite.py --data-dir DIR               # siblings on two cores
    python experiments/composite.py --data-dir DIR --size paper  # the paper's networks, on an accelerator

At the paper's feature- and decision-level cuts z is sent as it is, with Gaussian or Laplace noise, with units dropped,
with its largest units only, or quantised to bytes; the attacker, who meets the same defence in training, tries a linear
map and a deconvolution decoder. Prints test accuracy behind each defence beside the better attack's error. Writes
table.csv and tradeoff.png to --out; a killed experiment continues where it stopped.
"""

import dataclasses
import sys
import time
from pathlib import Path

from rich.table import Table
from targets import Flags, chosen, target_run

from gpz_jax import presentation, workflow
from gpz_jax.errors import one_line_errors
from gpz_jax.flags import parse
from gpz_jax.reporting import figures, tables

DEFENCES = ("none", "uint8", "gaussian:0.5", "gaussian:1", "gaussian:2", "laplace:1", "dropout:0.5", "topk:0.1")


@dataclasses.dataclass(frozen=True)
class Experiment(Flags):
    """Flags of the experiment."""

    network: tuple[str, ...] = ("vgg19",)
    """Network to attack; repeat the flag for several."""
    out: str = "runs/composite"
    """Folder for the table and the figure."""


def attack(flags: Experiment) -> list[dict]:
    """Every defence at both cuts, a row each: the better of two attackers."""
    size, names = chosen(flags)
    rows = []
    for name in names:
        network, target = size.networks[name], target_run(flags, size, name)
        undefended = workflow.report_accuracy(target)
        for level, cut in (("feature", network.feature), ("decision", network.decision)):
            for defence in DEFENCES:
                options = dataclasses.replace(
                    size.attack, cut=(cut,), rung=("linear", "deconvolution"), defence=defence
                )
                best = next(r for r in workflow.attack_run(target, options, resume=True) if r["best"])
                rows.append(
                    {"network": name, "level": level, "cut": cut, "defence": defence, "attacker": best["decoder"]}
                    | {"accuracy": best.get("accuracy", undefended), **best["scores"], "flattened": best["flattened"]}
                )
    return rows


def shown(rows: list[dict], size: str) -> Table:
    """The table."""
    table = Table(title=f"Composite defences, CIFAR-10, {size}", caption="/class mean: mse over that floor; strengths "
                  "of noise in spreads of z; topk: share of the units that are sent")  # fmt: skip
    for head in ("network", "cut", "level", "defence", "accuracy", "best attacker", "mse", "/class mean", "SSIM"):
        table.add_column(head, justify="right" if head in ("accuracy", "mse", "/class mean", "SSIM") else "left")
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before["cut"] != row["cut"]:
            table.add_section()
        numbers = [presentation.number(row[key]) for key in ("mse", "ratio", "ssim")]
        table.add_row(
            row["network"],
            row["cut"],
            row["level"],
            row["defence"],
            f"{row['accuracy']:.3f}",
            row["attacker"],
            *numbers,
        )
    return table


def verdict(rows: list[dict]) -> list[str]:
    """What the defences that cost at most two points of accuracy bring, at each cut."""
    said = []
    for name, cut in dict.fromkeys((row["network"], row["cut"]) for row in rows):
        mine = {row["defence"]: row for row in rows if (row["network"], row["cut"]) == (name, cut)}
        bare = mine["none"]
        cheap = [row for row in mine.values() if row["accuracy"] >= bare["accuracy"] - 0.02]
        best = max(cheap, key=lambda row: row["mse"])
        said.append(
            f"{name}, {cut} ({bare['level']}): of the defences that cost at most 0.02 of accuracy, {best['defence']} "
            f"resists most: {best['ratio']:.3f} of the class-mean floor, undefended {bare['ratio']:.3f}"
        )
    return said


def draw(rows: list[dict], file: Path) -> None:
    """Accuracy against the error that the better attacker is left with."""
    figure, ((axis,),) = figures.new_figure(1, 1, (7, 4.8))
    for marker, (name, cut) in zip("os^v", dict.fromkeys((row["network"], row["cut"]) for row in rows), strict=False):
        mine = [row for row in rows if (row["network"], row["cut"]) == (name, cut)]
        axis.scatter([r["accuracy"] for r in mine], [r["ratio"] for r in mine], marker=marker, label=f"{name}, {cut}")
        for row in mine:
            axis.annotate(
                row["defence"], (row["accuracy"], row["ratio"]), (4, 3), textcoords="offset points", fontsize=7
            )
    axis.axhline(1, color="0.4", linestyle="--", label="class mean")
    axis.set_xlabel("test accuracy behind the defence")
    axis.set_ylabel("attack mse over the class-mean floor")
    axis.legend(fontsize=8)
    figure.savefig(file, dpi=120)


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(Experiment, argv, prog="python experiments/composite.py", description=__doc__ or "")
    begun, out = time.monotonic(), Path(flags.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = attack(flags)
    tables.write_csv(rows, out / "table.csv")
    draw(rows, out / "tradeoff.png")
    tables.console().print(shown(rows, flags.size))
    for line in verdict(rows):
        print(line)
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
