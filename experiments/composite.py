"""Zone plus light perturbation: what each defence of z costs in accuracy, and what it takes from the attacker.

    python experiments/composite.py --data-dir DIR               # a sibling on two cores, minutes
    python experiments/composite.py --data-dir DIR --size paper  # the paper's network, on an accelerator

At the paper's feature- and decision-level cuts z is sent as it is, with Gaussian or Laplace noise, with units dropped,
with its largest units only, or quantised to bytes; the attacker, who meets the same defence in training, tries a linear
map and a deconvolution decoder. Prints test accuracy behind each defence beside the better attack's error. Writes
table.csv and tradeoff.png to --out; a killed experiment continues where it stopped.
"""

import dataclasses
import functools
from pathlib import Path

import common
from common import Outcome, Row, where
from targets import TargetFlags, attack_cuts, chosen, target_run

from gpz_jax import workflow
from gpz_jax.reporting import figures

DEFENCES = ("none", "uint8", "gaussian:0.5", "gaussian:1", "gaussian:2", "laplace:1", "dropout:0.5", "topk:0.1")


@dataclasses.dataclass(frozen=True)
class Flags(TargetFlags):
    """Flags of the experiment; its usual network is vgg19."""

    out: str = "runs/composite"
    """Folder for the table and the figure."""


def experiment(flags: Flags, out: Path) -> Outcome:
    """Every defence at both cuts, a row each: the better of two attackers."""
    size, networks = chosen(flags, usual="vgg19")
    rows = []
    for name, network in networks.items():
        target = target_run(flags, name)
        undefended = workflow.report_accuracy(target)
        for defence in DEFENCES[:2] if flags.size == "tiny" else DEFENCES:
            attacks = ("linear", "deconvolution")
            found = attack_cuts(target, network, size.attack, attack=attacks, defence=defence)
            for level, result in found.items():
                row = {"network": name, "level": level, "cut": result.cut, "defence": defence, **result.best.row()}
                rows.append({"accuracy": undefended, **row})
    rows.sort(key=lambda row: (row["network"], row["level"] == "decision"))
    draw(rows, out / "tradeoff.png")
    columns = {key: key for key in ("network", "cut", "level", "defence", "accuracy", "mse", "identified")}
    sheet = common.sheet_of(
        f"Composite defences, {size.data}, {flags.size}",
        rows,
        columns | {"best attack": "attack", "/class\nmean": "ratio", "SSIM": "ssim"},
        caption="/class mean: mse over that floor; strengths of noise in spreads of z; topk: fraction of units sent",
        wide=("network", "SSIM"),
        section="cut",
    )
    pairs = dict.fromkeys((row["network"], row["cut"]) for row in rows)
    return Outcome(rows, [sheet], [cheapest(where(rows, network=name, cut=cut)) for name, cut in pairs])


def cheapest(rows: list[Row]) -> str:
    """What the defences that cost at most two points of accuracy bring at a cut."""
    (bare,) = where(rows, defence="none")
    best = max((row for row in rows if row["accuracy"] >= bare["accuracy"] - 0.02), key=lambda row: row["mse"])
    return (
        f"{bare['network']}, {bare['cut']} ({bare['level']}): of the defences that cost at most 0.02 of accuracy, "
        f"{best['defence']} resists most: {best['ratio']:.3f} of the class-mean floor, undefended {bare['ratio']:.3f}"
    )


def draw(rows: list[Row], file: Path) -> None:
    """Accuracy against the error that the better attacker is left with."""
    figure, ((axis,),) = figures.new_figure(1, 1, (7.0, 4.8))
    for marker, (name, cut) in zip("os^v", dict.fromkeys((row["network"], row["cut"]) for row in rows), strict=False):
        points = {row["defence"]: (row["accuracy"], row["ratio"]) for row in where(rows, network=name, cut=cut)}
        axis.scatter(*zip(*points.values(), strict=True), marker=marker, label=f"{name}, {cut}")
        for defence, at in points.items():
            axis.annotate(defence, at, (4, 3), textcoords="offset points", fontsize=7)
    axis.axhline(1, color="0.4", linestyle="--", label="class mean")
    axis.set_xlabel("test accuracy behind the defence")
    axis.set_ylabel("attack mse over the class-mean floor")
    axis.legend(fontsize=8)
    figure.savefig(file, dpi=120)


main = functools.partial(common.run, Flags, experiment)

if __name__ == "__main__":
    main()
