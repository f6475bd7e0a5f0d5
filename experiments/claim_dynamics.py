"""The paper's Neural Vortex at full depth, for claims.py (not an experiment): a network that keeps its ledger.

Trained on MNIST, for the claim is of images with p_c > 1 - α, of which a network that has hardly learned has none.
"""

import dataclasses
from pathlib import Path
from typing import Any

import common
from common import ALPHAS, Flags, json_number

from gpz_jax import workflow
from gpz_jax.analysis.attribution import summarise_ledger
from gpz_jax.config import Config, DataConfig, ModelConfig, TrackConfig, TrainingConfig

#: On two cores: images, epochs, and every how many steps one is entered.
LIMIT, EPOCHS, EVERY = 6000, 8, 5


def config_of(model: ModelConfig, lr: float, targets: str, seed: int, flags: Flags) -> Config:
    """The configuration of a run; tiny: one epoch of the narrowest CNN on the digits."""
    data = DataConfig("mnist", data_dir=flags.data_dir, aux="held-out", size=32, train_limit=LIMIT)
    training = TrainingConfig(ls=ALPHAS[targets], epochs=EPOCHS, lr=lr)
    if flags.size == "tiny":
        model, training = ModelConfig("cnn", width=4), dataclasses.replace(training, epochs=1)
        data = dataclasses.replace(data, data="digits", size=16, train_limit=None)
    if flags.size == "paper":
        data, model = dataclasses.replace(data, size=64, train_limit=None), dataclasses.replace(model, width=None)
    track = TrackConfig(track_every=EVERY, probe_size=160, ledger="feature")
    return Config(data=data, model=model, training=training, track=track, seed=seed)


def measured(model: ModelConfig, lr: float, targets: str, seed: int, flags: Flags, folder: Path) -> dict[str, Any]:
    """Train; what the ledger says of the second half of the steps, as a whole and cut by cut.

    R_c² is given where the second half begins and at the end; the sums of the paper's two terms and of what came of it
    are parts of R_c² at the beginning.
    """
    loaded = common.train(config_of(model, lr, targets, seed, flags), str(folder))
    curves = workflow.read_ledgers([str(folder)])[0].curves
    late = slice(curves.sizes["step"] // 2, curves.sizes["step"])
    last = curves.isel(step=-1)
    return {
        "data": "mnist", "targets": targets, "seed": seed, "accuracy": workflow.report_accuracy(loaded),
        "turn": curves.attrs["turn"], "past_flip": json_number(curves.past_flip.values[late].mean()),
        "output_entropy": json_number(last.output_entropy),
        "cuts": [
            _row(row, last.decision_bound.sel(cut=row["cut"])) for row in summarise_ledger(curves, {"late": late})
        ],
    }  # fmt: skip


def _row(row: dict[str, Any], bound: Any) -> dict[str, Any]:
    terms = {"correct": "sum_feature_correct", "wrong": "sum_feature_wrong", "realised": "sum_realised"}
    found = {name: row[key] / row["radius_first"] for name, key in terms.items()}
    found |= {name: row[name] for name in ("radius_first", "radius_last", "rho_last")}
    found |= {"same_sign": row["feature_same_sign"], "decision_bound": bound}
    return {"cut": row["cut"]} | {name: json_number(value) for name, value in found.items()}
