"""Is the zone a paper tiger? Stronger attackers and enriched representations, at a feature- and a decision-level cut.

    python experiments/stress_test.py --data-dir DIR               # siblings on two cores, 1,997 s with them trained
    python experiments/stress_test.py --data-dir DIR --size paper  # the paper's networks, on an accelerator

The paper's ablation: the representation is enriched (normalised, its spectrum added, a small network with dropout), the
attacker strengthened (attention modules from stage to stage, an inverse residual net), or both; and beyond it the two
ends of the ladder, a linear map and the white-box likelihood attack. Prints the error of each at both cuts beside the
paper's, and whether the gap between the cuts survives the best attacker at each. Writes table.csv, a grid of
reconstructions at each cut and bars.png to --out. A killed experiment continues where it stopped.
"""

import dataclasses
import functools
from pathlib import Path

import common
from common import Outcome, Row, least, where
from targets import TargetFlags, attack_cuts, chosen, rows_of, target_run

from gpz_jax.inversion.results import joined

#: What is tried, the ladder and beyond; for tests its ends and one between.
ENRICHED = {"fft_residual": "deconvolution", "fft_concat": "deconvolution", "normalize+dropout_concat": "residual"}
TRIED = ({"ladder": True}, *({"attack": (attack,), "enrich": enrich} for enrich, attack in ENRICHED.items()))
TINY = ({"attack": ("linear", "deconvolution", "likelihood")},)

#: The paper's MSE (summed over channels) on IR-152, CIFAR-10, at block 40 and block 50.
PAPER = {"deconvolution": "0.018 / 0.057", "enriched": "0.014 / 0.052", "attention": "- / 0.051"}
PAPER |= {"residual-normalize+dropout_concat": "0.012 / 0.049-0.052"}


@dataclasses.dataclass(frozen=True)
class Flags(TargetFlags):
    """Flags of the experiment."""

    out: str = "runs/stress-test"
    """Folder for the table and the figures."""


def experiment(flags: Flags, out: Path) -> Outcome:
    """Every attacker at both cuts of every network."""
    size, networks = chosen(flags)
    rows, sheets = [], []
    for name, network in networks.items():
        target, found = target_run(flags, name), {}
        for changes in TINY if flags.size == "tiny" else TRIED:
            for level, result in attack_cuts(target, network, size.attack, **changes).items():
                found[level] = joined(found[level], result.attempts) if level in found else result
        for result in found.values():
            common.draw_grid({a.attack: a for a in result.attempts}, out / f"{name}-{result.cut}.png")
        mine = rows_of(name, found)
        for row in mine:  # all held against the same first test images
            attempt = found[row["level"]][row["attack"]]
            row["mse_first"] = attempt.mse_of_first(size.attack.likelihood_images)
        rows += mine
        sheets.append(sheet(f"{name}, {size.data}, {flags.size}: MSE in the paper's convention", mine))
    common.draw_bars(rows, out / "bars.png", panel="network", group="level", label="attack", value="ratio")
    return Outcome(rows, sheets, [survives(name, where(rows, network=name)) for name in networks])


def sheet(title: str, rows: list[Row]):
    """Both cuts of a network side by side, a line for each attacker."""
    pairs = zip(where(rows, level="feature"), where(rows, level="decision"), strict=True)
    lines = [far | {f"near_{key}": near[key] for key in ("mse_paper", "ratio", "cut")} for near, far in pairs]
    columns = {"attack": "attack", f"feature:\n{lines[0]['near_cut']}": "near_mse_paper", "/class\nmean": "near_ratio"}
    columns |= {f"decision:\n{lines[0]['cut']}": "mse_paper", "/class \nmean": "ratio", "identified": "identified"}
    columns |= {"gap": lambda line: line["mse_paper"] / line["near_mse_paper"]}
    columns |= {"paper:\nIR-152": lambda line: PAPER.get(line["attack"], "") if line["network"] == "ir152" else ""}
    caption = "/class mean: over that floor; likelihood: on the first test images only; paper: at 64x64"
    return common.sheet_of(title, lines, columns, caption=caption)


def survives(name: str, rows: list[Row]) -> str:
    """Whether the gap survives the best attacker at each cut."""
    pair = ("feature", "decision")
    near, far = (least(rows, "mse_first", level=level) for level in pair)
    plain = [least(rows, level=level, attack="deconvolution")["mse_first"] for level in pair]
    gap = far["mse_first"] / near["mse_first"]
    return (
        f"{name}: the gap is {plain[1] / plain[0]:.2f} under the baseline attack and {gap:.2f}"
        f" under the best attacker at each cut ({near['attack']} and {far['attack']}); at the decision level that one "
        f"comes to {far['ratio']:.2f} of the class-mean floor"
    )


main = functools.partial(common.run, Flags, experiment)

if __name__ == "__main__":
    main()
