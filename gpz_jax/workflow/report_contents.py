"""All that is known of one run, read from its folder; what cannot be read is said, and left out."""

import dataclasses
import shlex
from typing import Any

import numpy as np

from gpz_jax import runs
from gpz_jax.errors import UserError
from gpz_jax.inversion.guarantee_result import Guarantee
from gpz_jax.inversion.results import Answers, AttackResult
from gpz_jax.inversion.verdict import verdict_of
from gpz_jax.reporting.page.contents import NAN, Absent, Cost, CutRecord, RunRecord
from gpz_jax.runs.folder import Run
from gpz_jax.workflow.advice import ENOUGH
from gpz_jax.workflow.common import short
from gpz_jax.workflow.loaded_run import LoadedRun, load_run
from gpz_jax.workflow.report_caveats import caveats
from gpz_jax.workflow.report_curves import ledger_plots, training_plots
from gpz_jax.workflow.report_measures import Probe, confusion_of, costs_of, probe_of


def run_record(run: Run, *, data_dir: str | None = None) -> RunRecord:
    """All that is known of a run.

    Raises:
      UserError: nothing is known of it, not even its cuts.
    """
    typed = shlex.quote(short(run.folder))
    loaded, why = _loaded(run, data_dir)
    probed = probe_of(run)
    results, problems = _attacked(run, None if loaded is None else loaded.epoch)
    confusion = None if loaded is None else confusion_of(loaded)
    costs = {} if loaded is None else costs_of(loaded, problems.append)
    names = _cut_names(run, loaded, probed)
    training = training_plots(run, problems.append)
    unknown = [f"attacks on {cut!r}, which is no cut of this network" for cut in results if cut not in names]
    kept = runs.read_guarantees(run.folder / "attacks", problems.append)
    cuts = tuple(
        _cut(
            _answered(results.get(cut, AttackResult(cut, (), ())), confusion), probed, costs.get(cut), typed,
            kept[cut][0] if cut in kept else None,
        )
        for cut in names
    )  # fmt: skip
    absent = _absent(typed, why, bool(results), bool(probed.cuts))
    network = runs.network_name(run.config).removeprefix(f"{run.config.data.data}-")
    return RunRecord(
        name=run.folder.name,
        folder=short(run.folder),
        about=f"{run.config.data.data}, {network}, {_smoothing(run)}",
        cuts=cuts,
        class_names=run.class_names or tuple(map(str, range(run.num_classes))),
        accuracy=NAN if confusion is None else float(np.trace(confusion) / max(confusion.sum(), 1)),
        images=0 if confusion is None else int(confusion.sum()),
        image_bytes=0 if loaded is None else int(np.prod(loaded.splits.test.images.shape[1:])),
        confusion=confusion,
        training=training,
        ledger=ledger_plots(run, typed),
        absent=absent,
        settings=_settings(run),
        fingerprint=run.fingerprint,
        versions=runs.versions(run),
        caveats=caveats(run, cuts, loaded),
        left_out=(*probed.problems, *problems, *unknown),
    )


def _cut(
    result: AttackResult, probed: Probe, priced: tuple[Cost, bool] | None, typed: str, guarantee: Guarantee | None
) -> CutRecord:
    cut = result.cut
    cost, valid = (None, probed.valid.get(cut, True)) if priced is None else priced
    return CutRecord(
        cut,
        verdict_of(result),
        shape="x".join(map(str, result.shape)) if result.attempts else probed.shapes.get(cut, ""),
        valid=valid,
        result=result if result.attempts else None,
        probed=probed.cuts.get(cut),
        cost=cost,
        guarantee=guarantee,
        command=f"gpz attack {typed} --cut {shlex.quote(cut)} {ENOUGH}",
    )


def _loaded(run: Run, data_dir: str | None) -> tuple[LoadedRun | None, str]:
    """The run opened, or why it could not be."""
    try:
        return load_run(str(run.folder), data_dir=data_dir), ""
    except UserError as error:
        return None, error.with_flags()


def _cut_names(run: Run, loaded: LoadedRun | None, probed: Probe) -> tuple[str, ...]:
    if loaded is not None:
        return loaded.network.cuts
    metrics = runs.read_metrics(run, lambda why: None)
    names = tuple(probed.cuts) or (tuple(metrics[-1]["cuts"]) if metrics else ())
    if not names:
        raise UserError(f"{short(run.folder)} holds nothing to report yet: no checkpoint, no probe; train it first")
    return names


def _smoothing(run: Run) -> str:
    if run.from_torch:
        return f"weights of {run.from_torch.get('file')}"
    alpha = run.config.training.ls
    said = "one-hot targets" if alpha == 0 else f"label smoothing α = {alpha:g}"
    return f"{said}, seed {run.config.seed}"


def _settings(run: Run) -> dict[str, dict[str, Any]]:
    found = {
        name: {key.replace("_", " "): _plain(value) for key, value in part.items()}
        for name, part in dataclasses.asdict(run.config).items()
        if isinstance(part, dict)
    }
    return {**found, "seed": {"seed": str(run.config.seed)}}


def _plain(value: Any) -> str:
    """A setting as a person writes it."""
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _absent(typed: str, why: str, attacked: bool, probed: bool) -> dict[str, Absent]:
    """Section -> why the page has nothing for it."""
    absent = {}
    if not attacked:
        absent["attacks"] = Absent(
            "No attacks yet, so nothing is known of what leaks. Make them:", f"gpz attack {typed} {ENOUGH}"
        )
    if not probed:
        absent["probe"] = Absent(
            "No probe that can be read: R_c², ρ and evidence are missing. Make it:", f"gpz probe {typed}"
        )
    if why:
        absent["cost"] = Absent(f"No prices, because the run could not be opened: {why}")
        absent["confusion"] = Absent(f"Not known, because the run could not be opened: {why}")
    return absent


# Attacks --------------------------------------------------------------------------------------------------------------


def _attacked(run: Run, epoch: int | None) -> tuple[dict[str, AttackResult], list[str]]:
    problems: list[str] = []
    home = run.folder / "attacks"
    read = runs.read_results(home, lambda file, why: problems.append(why.replace(f"{run.folder}/", "")), epoch)
    return {result.cut: result for result in read}, problems


def _answered(result: AttackResult, confusion: np.ndarray | None) -> AttackResult:
    """The result with how well the network answers, where an older record does not say."""
    if confusion is None or not np.isnan(result.answers.accuracy) or not confusion.sum():
        return result
    images = int(confusion.sum())
    majority = float(confusion.sum(axis=1).max() / images)
    return dataclasses.replace(result, answers=Answers(float(np.trace(confusion) / images), majority, images))
