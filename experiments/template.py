"""Does the decision level keep more of an image from a linear attacker than the feature level? Copy this file to begin.

    python experiments/template.py --size tiny     # seconds, on the bundled digits

Trains the shared target networks, attacks each at its two cuts by a linear map, and compares the errors.
"""

import dataclasses
import functools
from pathlib import Path

import common
from common import Outcome
from targets import TargetFlags, attack_cuts, chosen, rows_of, target_run


@dataclasses.dataclass(frozen=True)
class Flags(TargetFlags):
    """Flags of the experiment: those of every one (--size, --seed, --data-dir, --out), and its own."""

    out: str = "runs/template"
    """Folder for the table and the grid."""


def experiment(flags: Flags, out: Path) -> Outcome:
    """Rows for table.csv, a table to print, and the answer in words."""
    size, networks = chosen(flags)
    rows, verdict = [], []
    for name, network in networks.items():
        found = attack_cuts(target_run(flags, name), network, size.attack, attack=("linear",))
        rows += rows_of(name, found)
        near, far = (found[level].best.scores.ratio for level in ("feature", "decision"))
        verdict.append(f"{name}: {near:.2f} of the class-mean floor at the feature level, {far:.2f} at the decision's")
        common.draw_grid({result.cut: result.best for result in found.values()}, out / f"{name}.png")
    columns = {"network": "network", "cut": "cut", "mse": "mse", "/class mean": "ratio", "identified": "identified"}
    return Outcome(rows, [common.sheet_of("A linear attacker", rows, columns)], verdict)


main = functools.partial(common.run, Flags, experiment)

if __name__ == "__main__":
    main()
