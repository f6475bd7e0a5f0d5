"""Runs that keep their ledger of R_c², for neural_vortex.py (not an experiment): settings, training, and their rows."""

import dataclasses
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import ALPHAS, Row, spread, where

from gpz_jax import workflow
from gpz_jax.analysis.attribution import summarise_ledger
from gpz_jax.config import Config, DataConfig, ModelConfig, ProbeConfig, TrackConfig, TrainingConfig
from gpz_jax.reporting import ledger_figures

#: Data, model, epochs, images and how often a step is entered, for two cores.
IR, VGG, CNN = ModelConfig("ir152", width=8, depth=0.25), ModelConfig("vgg19", width=8), ModelConfig("cnn", width=16)
SETTINGS: dict[str, tuple[str, ModelConfig, int, int | None, int]] = {
    "digits": ("digits", CNN, 32, None, 1),
    "mnist": ("mnist", CNN, 6, 6000, 1),
    "mnist-vgg19": ("mnist", VGG, 6, 6000, 10),
    "mnist-ir152": ("mnist", IR, 6, 6000, 10),
    "cifar10": ("cifar10", CNN, 15, 6000, 1),
    "cifar10-vgg19": ("cifar10", VGG, 15, 6000, 10),
    "cifar10-ir152": ("cifar10", IR, 15, 6000, 10),
}
TERMS = ("optimiser", "statistics", "residual")
AGREEMENT = ("correlation", "size", "same_sign")


@dataclasses.dataclass(frozen=True)
class TrackedFlags(common.SeedsFlags):
    """Flags of the experiment."""

    setting: tuple[str, ...] = ()
    """Data set and model: digits, mnist, mnist-vgg19, mnist-ir152, cifar10, cifar10-vgg19 or cifar10-ir152; repeat the
    flag for several. Default: digits and mnist (tiny: digits)."""
    probe_size: int = 160
    """Training images on which the ledger measures R_c^2."""


def config_of(flags: TrackedFlags, name: str, alpha: float, seed: int) -> Config:
    """The configuration of one run; of the paper's size every step is entered."""
    data, model, epochs, limit, every = SETTINGS[name]
    model, side, limit, every, epochs = {
        "tiny": (ModelConfig("cnn", width=4), 16, None, 4, 1),
        "laptop": (model, 32, limit, every, epochs),
        "paper": (ModelConfig(model.model, width=64), 64, None, 1, epochs),
    }[flags.size]
    return Config(
        data=DataConfig(data=data, data_dir=flags.data_dir, train_limit=limit, aux="held-out", size=side),
        model=model, training=TrainingConfig(ls=alpha, epochs=epochs),
        track=TrackConfig(track_every=every, probe_size=flags.probe_size), seed=seed,
    )  # fmt: skip


def one_run(flags: TrackedFlags, name: str, targets: str, seed: int) -> tuple[Any, list[Row]]:
    """Train one network; its ledger, and a row a cut: what moved R_c² in the second half, as parts of R_c² then."""
    folder = f"{flags.out}/{name}/{targets}-seed{seed}"
    loaded = common.train(config_of(flags, name, ALPHAS[targets], seed), folder)
    found = {"setting": name, "targets": targets, "seed": seed, "accuracy": workflow.report_accuracy(loaded)}
    test = workflow.probe_run(loaded, ProbeConfig(null_seeds=0, bootstrap=1)).to_xarray()
    curves = workflow.read_ledgers([folder])[0].curves
    late = slice(curves.sizes["step"] // 2, curves.sizes["step"])
    found |= {"turn": curves.attrs["turn"], "past_flip": float(curves.past_flip.values[late].mean())}
    rows = []
    for row in summarise_ledger(curves, {"late": late}):
        at_test, start = test.sel(cut=row["cut"]), row["radius_first"]
        sums = {key: row[f"sum_{key}"] / start for key in ("realised", *TERMS)}
        sums |= {key: row[f"sum_feature_{key}"] / start for key in ("correct", "wrong", "second")}
        kept = ("cut", "first_step", "radius_first", "radius_last", "rho_first", "rho_last", "falling")
        kept += tuple(f"{way}_{key}" for way in ("feature", "optimiser") for key in AGREEMENT)
        ended = {"radius_test": float(at_test.within), "rho_test": float(at_test.rho)}
        rows.append({**found, **{key: row[key] for key in kept}, **sums, **ended})
    return curves, rows


def one_setting(flags: TrackedFlags, name: str) -> list[Row]:
    """Every run of a setting; its rows, and the figures of its first seed."""
    rows, first = [], {}
    for seed in flags.seeds():
        for targets in ALPHAS:
            curves, found = one_run(flags, name, targets, seed)
            first.setdefault(targets, curves)
            rows += found
    folder, cuts = Path(flags.out) / name, [str(cut) for cut in first["LS+"].cut.values]
    at = str(first["LS+"].interference_cut.values[-1])
    ledger_figures.overview_figure(first, folder / "overview.png")
    some = np.unique(np.linspace(0, len(cuts) - 1, min(6, len(cuts))).astype(int))
    ledger_figures.terms_figure(first, [cuts[i] for i in some], folder / "terms.png")
    ledger_figures.ledger_figure({targets: first[targets] for targets in ("one-hot", "LS+")}, at, folder / "ledger.png")
    return rows


def said_of(name: str, rows: list[Row]) -> list[str]:
    """When the mean coefficient first turned positive, if ever, and how many images were past p_c > 1 - α."""
    lines = []
    for targets in ALPHAS:
        ran = where(rows, targets=targets, cut="logits")
        turns = ", ".join("never" if row["turn"] is None else f"step {row['turn']}" for row in ran)
        lines.append(
            f"{name}, {targets}: test accuracy {spread(ran, 'accuracy')}; mean coefficient first positive: {turns}; "
            f"images past p_c > 1 - alpha in the second half: {np.mean([row['past_flip'] for row in ran]):.0%}"
        )
    return lines
