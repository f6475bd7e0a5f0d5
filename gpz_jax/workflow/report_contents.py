"""All that is known of one run, read from its folder; what cannot be read is said, and left out."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpz_jax import runs
from gpz_jax.analysis.price import BYTES, price_traced
from gpz_jax.analysis.program import trace
from gpz_jax.errors import UserError
from gpz_jax.inversion.results import Answers, AttackResult
from gpz_jax.inversion.verdict import NOT_TESTED, Verdict, verdict_of
from gpz_jax.reporting.page.contents import NAN, Absent, Cost, CutRecord, Guarantee, Probed, RunRecord
from gpz_jax.runs.folder import Run
from gpz_jax.workflow.common import probe_batches, short
from gpz_jax.workflow.loaded_run import LoadedRun, load_run
from gpz_jax.workflow.report_caveats import caveats
from gpz_jax.workflow.report_curves import ledger_plots, training_plots

#: Attacks that a verdict asks for.
ENOUGH = "--attack linear --attack deconvolution --attack residual"


class _Probe(NamedTuple):
    """What a run's probe says: of its cuts, of the places where information bypasses them, and what could not be read."""

    cuts: dict[str, Probed]
    valid: dict[str, bool]
    shapes: dict[str, str]
    problems: tuple[str, ...] = ()


def run_record(run: Run, *, data_dir: str | None = None) -> RunRecord:
    """All that is known of a run.

    Raises:
      UserError: nothing is known of it, not even its cuts.
    """
    typed = shlex.quote(short(run.folder))
    loaded, why = _loaded(run, data_dir)
    probed = _probed(run)
    results, problems = _attacked(run)
    confusion = None if loaded is None else confusion_of(loaded)
    costs = {} if loaded is None else _costs(loaded)
    names = _cut_names(run, loaded, probed)
    results = {cut: _answered(result, confusion) for cut, result in results.items()}
    unknown = [f"attacks on {cut!r}, which is no cut of this network" for cut in results if cut not in names]
    guaranteed = runs.guarantees(run)
    cuts = tuple(
        CutRecord(
            cut,
            verdict_of(results[cut]) if cut in results else _untested(cut),
            shape=_shape(cut, results, probed),
            valid=costs[cut][1] if cut in costs else probed.valid.get(cut, True),
            result=results.get(cut),
            probed=probed.cuts.get(cut),
            cost=costs[cut][0] if cut in costs else None,
            guarantee=_guarantee(guaranteed[cut]) if cut in guaranteed else None,
            command=_todo(cut, typed),
        )
        for cut in names
    )
    absent = _absent(typed, why, bool(results), bool(probed.cuts))
    config = run.config
    return RunRecord(
        name=run.folder.name,
        folder=short(run.folder),
        about=f"{config.data.data}, {runs.network_name(config).removeprefix(config.data.data + '-')}, {_smoothing(run)}",
        cuts=cuts,
        class_names=runs.class_names(run),
        accuracy=NAN if confusion is None else float(np.trace(confusion) / max(confusion.sum(), 1)),
        images=0 if confusion is None else int(confusion.sum()),
        image_bytes=0 if loaded is None else int(np.prod(loaded.splits.test.images.shape[1:])),
        confusion=confusion,
        training=training_plots(run),
        ledger=ledger_plots(run, typed),
        absent=absent,
        settings=_settings(run),
        fingerprint=run.fingerprint,
        versions=runs.versions(run),
        caveats=caveats(run, cuts, loaded),
        left_out=(*probed.problems, *problems, *unknown),
    )


def _loaded(run: Run, data_dir: str | None) -> tuple[LoadedRun | None, str]:
    """The run opened, or why it could not be."""
    try:
        return load_run(str(run.folder), data_dir=data_dir), ""
    except UserError as error:
        return None, error.with_flags()


def _cut_names(run: Run, loaded: LoadedRun | None, probed: _Probe) -> tuple[str, ...]:
    if loaded is not None:
        return loaded.network.cuts
    metrics = runs.read_metrics(run)
    names = tuple(probed.cuts) or (tuple(metrics[-1]["cuts"]) if metrics else ())
    if not names:
        raise UserError(f"{short(run.folder)} holds nothing to report yet: no checkpoint, no probe; train it first")
    return names


def _shape(cut: str, results: Mapping[str, AttackResult], probed: _Probe) -> str:
    return "x".join(map(str, results[cut].shape)) if cut in results else probed.shapes.get(cut, "")


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


def _untested(cut: str) -> Verdict:
    """The verdict of a cut that nobody attacked."""
    return Verdict(cut, NOT_TESTED, "", "", f"{cut}: not tested enough; no attack was made.", {}, ("make attacks",))


def _todo(cut: str, typed: str) -> str:
    return f"gpz attack {typed} --cut {shlex.quote(cut)} {ENOUGH}"


def _attacked(run: Run) -> tuple[dict[str, AttackResult], list[str]]:
    problems: list[str] = []
    home = run.folder / "attacks"
    read = runs.read_results(home, lambda file, why: problems.append(why.replace(f"{run.folder}/", "")))
    finished = {file.parent for file in home.glob("*/result.json")}
    begun = [path for path in sorted(home.glob("*/")) if path not in finished and any(path.iterdir())]
    problems += [f"{path.parent.name}/{path.name} holds no finished attack (no result.json)" for path in begun]
    return {result.cut: result for result in read}, problems


def _answered(result: AttackResult, confusion: np.ndarray | None) -> AttackResult:
    """The result with how well the network answers, where an older record does not say."""
    if confusion is None or not np.isnan(result.answers.accuracy) or not confusion.sum():
        return result
    images = int(confusion.sum())
    majority = float(confusion.sum(axis=1).max() / images)
    return dataclasses.replace(result, answers=Answers(float(np.trace(confusion) / images), majority, images))


def confusion_of(loaded: LoadedRun) -> np.ndarray:
    """(K, K) counts of the test images: true class by predicted one."""
    counts = np.zeros((loaded.run.num_classes,) * 2, np.int64)
    for images, labels, mask in probe_batches(loaded.splits.test, loaded.mesh):
        predicted = np.asarray(jnp.argmax(loaded.logits(images), axis=-1))
        kept = np.asarray(mask) > 0
        np.add.at(counts, (np.asarray(labels)[kept], predicted[kept]), 1)
    return counts


def _guarantee(numbers: Mapping[str, float]) -> Guarantee:
    return Guarantee(**{name: value for name, value in numbers.items() if name in Guarantee._fields})


# Probe and price ------------------------------------------------------------------------------------------------------


def _probed(run: Run) -> _Probe:
    """Of several probes the one of the test images, else the first by name that can be read."""
    problems: list[str] = []
    for folder in runs.probe_folders(run.folder / "probe"):
        try:
            return _read_probe(folder)._replace(problems=tuple(problems))
        except Exception as error:  # whatever xarray and zarr make of a damaged store: another is tried
            said = str(error) if isinstance(error, UserError) else f"cannot be read ({type(error).__name__})"
            problems.append(f"probe/{folder.name}: {said}")
    return _Probe({}, {}, {}, tuple(problems))


def _read_probe(folder: Path) -> _Probe:
    record = runs.read_probe(folder)
    cuts, valid, shapes = {}, {}, {}
    for name in map(str, record.cut.values):
        at = record.sel(cut=name)
        evidence = [float(at[key]) if key in at else NAN for key in ("evidence", "evidence_low", "evidence_high")]
        nulls = tuple(float(value) for value in np.atleast_1d(at.rho_null.values)) if "rho_null" in at else ()
        zones = {str(rule): str(at.zone.sel(rule=rule).values) for rule in record.rule.values}
        cuts[name] = Probed(float(at.within), float(at.rho), nulls, *evidence, zones)
        valid[name] = bool(at.valid) if "valid" in at else True
        shapes[name] = str(at.shape.values) if "shape" in record.data_vars else ""
    return _Probe(cuts, valid, shapes)


def _costs(loaded: LoadedRun) -> dict[str, tuple[Cost, bool]]:
    """Cut -> its price for one image, and whether it is one."""
    x = jax.ShapeDtypeStruct((1, *loaded.splits.test.images.shape[1:]), jnp.uint8)
    prices = price_traced(trace(loaded.network, loaded.variables, x))
    total = max(prices[-1].edge_parameters, 1)
    timed = runs.edge_milliseconds(loaded.run)
    return {
        one.cut: (
            Cost(
                one.edge_parameters, one.edge_parameters / total, {dtype: one.payload(dtype) for dtype in BYTES},
                one.edge_flops, one.cloud_flops, one.edge_memory, timed.get(one.cut, NAN),
            ),
            one.valid,
        )
        for one in prices
    }  # fmt: skip
