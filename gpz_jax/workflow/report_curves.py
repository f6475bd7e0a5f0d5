"""Curves of a run's training and ledger, for its page."""

import dataclasses
import shlex
from collections.abc import Callable
from typing import Any

import numpy as np

from gpz_jax import runs
from gpz_jax.analysis.attribution import over_ledger
from gpz_jax.config import DataConfig, ModelConfig, TrainingConfig
from gpz_jax.errors import UserError, flag_of
from gpz_jax.reporting.page.contents import Absent, Line, Plot
from gpz_jax.runs.folder import Run

#: Cuts whose curves are drawn, at most, spread evenly.
CUTS = 6


def _spread(count: int) -> list[int]:
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(CUTS, count)).astype(int))]


def training_plots(run: Run, on_problem: Callable[[str], None]) -> tuple[Plot, ...] | Absent:
    """Loss, accuracy, output entropy and the cuts' ρ and R_c² by epoch; ``on_problem`` is told what is left out."""
    if run.from_torch:
        return Absent("The weights were read from a file, so there is no training to show.")
    try:
        metrics = runs.read_metrics(run, on_problem)
    except UserError as error:
        return Absent(str(error))
    if not metrics:
        return Absent("No epoch was finished yet.", f"gpz train --run {run.folder.name} --resume")
    epochs = [record["epoch"] for record in metrics]
    pairs = (("loss", "Loss", "nats"), ("accuracy", "Accuracy", ""), ("output_entropy", "Output entropy", "nats"))
    plots = [
        Plot(
            title,
            unit,
            tuple(
                Line(split, epochs, [record.get(f"{split}_{name}", np.nan) for record in metrics])
                for split in ("train", "validation")
            ),
            "epoch",
        )
        for name, title, unit in pairs
    ]
    names = list(metrics[-1]["cuts"])
    for name, title, unit, log in (("rho", "ρ", "", False), ("within", "R_c²", "squared units of z", True)):
        lines = [
            Line(names[i], epochs, [record["cuts"].get(names[i], {}).get(name, np.nan) for record in metrics])
            for i in _spread(len(names))
        ]
        plots.append(Plot(title, unit, tuple(lines), "epoch", log))
    return tuple(plots)


def ledger_plots(run: Run, typed: str) -> tuple[Plot, ...] | Absent:
    """The vortex, step by step: output entropy, the bound on h(z), the coefficient that changes sign, R_c²."""
    if not runs.steps_folder(run.folder).exists():
        return Absent("No ledger of single steps was kept. A run trained anew with it has one:", _anew(run))
    try:
        record = runs.read_steps(run.folder)
        if not record.sizes["step"]:
            return Absent("The ledger holds no whole step yet.", f"gpz train --run {typed} --resume")
        curves = over_ledger(record)
    except (UserError, ValueError, KeyError) as error:
        return Absent(f"The ledger cannot be read: {error}.", _anew(run))
    return _of_ledger(curves)


def _anew(run: Run) -> str:
    """The command that trains the run again with a ledger: all its settings that are not the usual ones."""
    config, flags = run.config, []
    pairs = ((config.data, DataConfig()), (config.model, ModelConfig()), (config.training, TrainingConfig()))
    for part, usual in pairs:
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            plain = isinstance(value, int | float | str) and not isinstance(value, bool)
            if plain and value != getattr(usual, field.name):
                text = f"{value:g}" if isinstance(value, float) else str(value)
                flags.append(f"{flag_of(field.name)} {shlex.quote(text)}")
    seed = [f"--seed {config.seed}"] if config.seed else []
    return " ".join(["gpz train", *flags, *seed, "--track-every 1"])


def _of_ledger(curves: Any) -> tuple[Plot, ...]:
    steps = [int(step) for step in curves.step.values]
    cuts = [str(cut) for cut in curves.cut.values]
    inner = [str(cut) for cut in curves.interference_cut.values] if "interference_cut" in curves.coords else []
    at = (inner or cuts)[-1]
    turn = curves.attrs["turn"]
    marked = None if turn is None else (float(turn), "sign change")

    def line(name: str, values: Any) -> Line:
        return Line(name, steps, [float(value) for value in values])

    plots = []
    if "output_entropy" in curves:
        entropy = (line("Output entropy", curves.output_entropy.values),)
        plots.append(Plot("Output entropy", "nats", entropy, "step", marked=marked))
    if "decision_bound" in curves:
        title = f"Bound on h(z) at {at}"
        bound = (line(title, curves.decision_bound.sel(cut=at).values),)
        plots.append(Plot(title, "nats", bound, "step", marked=marked))
    if "coefficient" in curves:
        lines = [line("mean p_c − 1 + α", curves.coefficient.values)]
        lines += [line("share past p_c > 1 − α", curves.past_flip.values)] if "past_flip" in curves else []
        plots.append(Plot("Correct-class coefficient", "", tuple(lines), "step", marked=marked))
    if "within" in curves:
        lines = [line(cuts[i], curves.within.values[:, i]) for i in _spread(len(cuts))]
        plots.append(Plot("R_c²", "squared units of z", tuple(lines), "step", True, marked))
    return tuple(plots)
