"""Do reconstructions drift to the attacker's prior, for claims.py (not an experiment): aux_shift.py's network.

A network of KMNIST is attacked with held-out KMNIST, with MNIST and with EMNIST letters, and a classifier of the
attacker's set names what is rebuilt, and as a control the originals. Of its cut at the decision level an attacker with
KMNIST still tells the images apart, so the logits are attacked, too.
"""

import dataclasses
from pathlib import Path
from typing import Any

import aux_shift
import common
from claim_numbers import LAST
from common import Flags, json_number
from naming import auxiliary_of
from targets import chosen


def measured(seed: int, flags: Flags, folder: Path) -> dict[str, Any]:
    """A row for every cut and set of the attacker's: how often the expected name comes, how varied the images are."""
    if flags.size == "tiny":
        common.write_negatives(folder / "data")
    tiny = {"target": "digits", "data_dir": str(folder / "data")} if flags.size == "tiny" else {}
    about = {"size": flags.size, "seed": seed, "data_dir": flags.data_dir, "runs": str(folder / "targets"), **tiny}
    own = aux_shift.Flags(**about)
    size, networks = chosen(own, usual="ir152")
    rows = []
    for name, network in networks.items():
        rows += aux_shift.attack(own, size, name, network, {})
        last = dataclasses.replace(network, feature=network.decision, decision=LAST)
        found = aux_shift.attack(own, size, name, last, {})  # goes on from what is there
        rows += [row | {"level": LAST} for row in found if row["cut"] == LAST]
    return {"network": "ir152", "data": own.target, "seed": seed, "rows": [_row(own, row) for row in rows]}


def _row(flags: aux_shift.Flags, row: common.Row) -> dict[str, Any]:
    classes, expected = auxiliary_of(flags)[row["auxiliary"]]
    found = {name: row[name] for name in ("cut", "level", "auxiliary")}
    found |= {name: json_number(row[name]) for name in ("mse", "ratio", "identified", "prior_collapse")}
    for what, counts in row.get("counts", {}).items():
        shares = dict(zip(classes, counts / counts.sum(), strict=False))
        common_name = max(shares, key=lambda name: shares[name])
        found[what] = {
            "expected": expected, "share": json_number(shares[expected]),
            "commonest": common_name, "commonest_share": json_number(shares[common_name]),
        }  # fmt: skip
    return found
