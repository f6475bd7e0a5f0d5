"""Is the Neural Vortex what happens? The ledger of R_c² under one-hot, LS+ and LS-, several seeds, in one table.

    python experiments/neural_vortex.py --data-dir DIR                       # digits and MNIST, 3 seeds; 902 s
    python experiments/neural_vortex.py --setting digits --seed 0            # no data needed but the bundled
    python experiments/neural_vortex.py --setting cifar10-ir152 --data-dir DIR --size paper   # an accelerator

The paper says: under label smoothing the correct-class coefficient p_c - 1 + α changes sign once p_c > 1 - α, and from
there on R_c² keeps falling. So every run keeps its ledger (--track-every), and the table asks, over the second half of
training, when LS+ has its images around p_c = 1 - α: did R_c² fall, which term did it, and does the feature-space
prediction agree with what was realised, in sign and size? R_c² and ρ at the end are also given on test images (--wide),
because much of a falling radius can be scale. Writes table.csv, and for every setting overview.png, terms.png and
ledger.png into --out. A killed experiment continues where it stopped. Settings without images are skipped.
"""

import dataclasses
import functools
from pathlib import Path

import common
from common import ALPHAS, Outcome, Row, spread, where
from tracked_runs import AGREEMENT, SETTINGS, TERMS, TrackedFlags, one_setting, said_of

from gpz_jax import workflow
from gpz_jax.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Flags(TrackedFlags):
    """Flags of the experiment."""

    out: str = "runs/neural-vortex"
    """Folder for the runs, the table and the figures."""


def sheet(name: str, rows: list[Row]):
    """The answer of one setting: a line a cut and label distribution."""
    numbers = {"R_c^2": ("radius_first", 1), "at\nthe end": ("radius_last", 1)}
    percents = {f"{key} %": (key, 100) for key in ("realised", *TERMS)}
    feature = {f"feature\n{key} %": (key, 100) for key in ("correct", "wrong")}
    agree = {f"feature\n{key.replace('_', ' ')}": (f"feature_{key}", 1) for key in AGREEMENT}
    ended = {"rho at\nthe end": ("rho_last", 1), "R_c^2\ntest": ("radius_test", 1), "rho\ntest": ("rho_test", 1)}
    columns = {**numbers, **percents, **feature, **agree, **ended}
    lines = []
    for cut in dict.fromkeys(row["cut"] for row in rows):
        for targets in ALPHAS:
            some = where(rows, cut=cut, targets=targets)
            falls = sum(row["radius_last"] < row["radius_first"] for row in some)
            line = {"cut": cut, "targets": targets, "falls": f"{falls} of {len(some)}"}
            lines.append(line | {head: spread(some, key, 2, times) for head, (key, times) in columns.items()})
    decide = ("R_c^2", "realised %", "feature\ncorrect %", "feature\nwrong %", "feature\nsame sign")
    return common.sheet_of(
        f"{name}: the second half of training, from step {rows[0]['first_step']}; mean ± s.d. over seeds",
        lines, {head: head for head in ("cut", "targets", "falls", *columns)},
        caption="%: sums over those steps, of R_c^2 at their beginning; optimiser + statistics + residual = realised; "
        "falls: seeds whose R_c^2 fell; feature: what the paper predicts in feature space, and its agreement with the "
        "realised change, step by step",
        wide=set(columns) - set(decide), section="cut",
    )  # fmt: skip


def experiment(flags: Flags, out: Path) -> Outcome:
    """Every setting whose images are there."""
    found: tuple[list, list, list] = ([], [], [])
    for name in flags.setting:
        if name not in SETTINGS:
            raise UserError(f"unknown setting {name!r}{did_you_mean(name, SETTINGS)}", field="setting")
    for name in flags.setting or (("digits",) if flags.size == "tiny" else ("digits", "mnist")):
        data = SETTINGS[name][0]
        if data != "digits" and not (Path(flags.data_dir) / f"{data}.npz").is_file():
            workflow.say(f"{name} is skipped: {flags.data_dir}/{data}.npz is not there (see --data-dir)")
            continue
        rows = one_setting(flags, name)
        for kept, new in zip(found, (rows, [sheet(name, rows)], said_of(name, rows)), strict=True):
            kept += new
        common.write_table(found[0], out / "table.csv")
    return Outcome(*found)


main = functools.partial(common.run, Flags, experiment)

if __name__ == "__main__":
    main()
