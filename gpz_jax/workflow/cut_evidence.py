"""What a run's probe and attacks found at each cut, to stand beside its price."""

import dataclasses
import math
from typing import Any

import numpy as np

from gpz_jax import runs
from gpz_jax.errors import UserError
from gpz_jax.inversion.results import Answers, AttackResult
from gpz_jax.inversion.verdict import NOT_TESTED, verdict_of
from gpz_jax.workflow.common import say
from gpz_jax.workflow.loaded_run import LoadedRun, report_accuracy


def evidence(loaded: LoadedRun) -> dict[str, dict[str, Any]]:
    """What the run's probe and attacks say of each cut, as columns of ``cuts.csv``.

    ``within``, ``rho`` and ``zone_RULE`` of the probe of the test images, else of the first by name; ``mse``, ``ratio``
    and ``flattened`` of the best attack, False if that was still improving when it ended; ``identified`` and
    ``identified_within``, the largest of any attack; ``verdict`` with its ``sentence``, and ``basis``: "verdict",
    "attacked" (not enough for a verdict), "probe only", or "" where there is neither. NaN where nothing was measured.
    """
    cuts = loaded.network.cuts
    probed, judged = _probed(loaded), {cut: _judged(result) for cut, result in attacked(loaded).items()}
    columns = {name: "" if name.startswith("zone_") else math.nan for row in probed.values() for name in row}
    scores = dict.fromkeys(("mse", "ratio", "identified", "identified_within"), math.nan)
    none = {"within": math.nan, "rho": math.nan, **columns, **scores, "flattened": True}
    return {
        cut: {**none, **probed.get(cut, {}), **judged[cut], "basis": _basis(probed.get(cut), judged[cut])}
        for cut in cuts
    }


def _basis(probed: dict[str, Any] | None, judged: dict[str, Any]) -> str:
    """The class of what is known of a cut."""
    if "ratio" not in judged:
        return "probe only" if probed else ""
    return "attacked" if judged["verdict"] == NOT_TESTED else "verdict"


def _probed(loaded: LoadedRun) -> dict[str, dict[str, Any]]:
    for folder in runs.probe_folders(loaded.run.folder / "probe"):
        try:
            record = runs.read_probe(folder)
            found = {
                str(cut): {
                    "within": float(record.within.sel(cut=cut)),
                    "rho": float(record.rho.sel(cut=cut)),
                    **{f"zone_{rule}": str(record.zone.sel(rule=rule, cut=cut).values) for rule in record.rule.values},
                }
                for cut in record.cut.values
                if str(cut) in loaded.network.cuts
            }
        except runs.NewerSchema:
            raise
        except UserError as error:  # another is tried
            say(f"{error}; make the probe again with gpz_jax.probe")
            continue
        except (KeyError, ValueError, TypeError, AttributeError) as error:  # it holds something else
            say(f"the probe in {folder} cannot be read ({type(error).__name__}); make it again with gpz_jax.probe")
            continue
        _note_epoch(f"the probe in {folder.name}", record.attrs.get("epoch"), loaded)
        return found
    return {}


def attacked(loaded: LoadedRun, answers: Answers | None = None, home: str = "attacks") -> dict[str, AttackResult]:
    """Cut -> the attacks that were made on it, in the network's order; those on another epoch's network are left out.

    Args:
      loaded: the run.
      answers: how well its network answers; measured if that is needed and not given.
      home: the folder of the run that holds them.
    """
    made = runs.read_results(loaded.run.folder / home, lambda file, why: say(f"{why}; it is left out"), loaded.epoch)
    known = [result.answers for result in made if not math.isnan(result.answers.accuracy)]
    if answers is None:
        answers = known[0] if known else answers_of(loaded)
    results = {cut: AttackResult(cut, (), (), answers=answers) for cut in loaded.network.cuts}
    for result in made:
        unknown = math.isnan(result.answers.accuracy)  # written by an earlier version
        results[result.cut] = dataclasses.replace(result, answers=answers) if unknown else result
    return {cut: results[cut] for cut in loaded.network.cuts}


def _judged(result: AttackResult) -> dict[str, Any]:
    """What the attacks on a cut came to, and its verdict."""
    verdict = verdict_of(result)
    scores = _scores(result) if result.attempts else {}
    words = {"verdict": str(verdict), "sentence": verdict.sentence, "missing": "; ".join(verdict.missing)}
    return {**scores, **words, "best_attack": verdict.best}


def _scores(result: AttackResult) -> dict[str, Any]:
    """What the best attack got; of the images that are named the most that any did."""
    best = result.best
    named = [attempt.identified for attempt in result.attempts if attempt.identified.images]
    return {
        "mse": best.scores.mse,
        "ratio": best.scores.ratio,
        "flattened": best.training.flattened,
        "identified": max((one.top1 for one in named), default=math.nan),
        "identified_within": max((one.within for one in named), default=math.nan),
    }


def answers_of(loaded: LoadedRun, accuracy: float | None = None) -> Answers:
    """How well the run's network answers its test images; measured where the accuracy is not given."""
    labels = np.asarray(loaded.splits.test.take()[1])
    majority = float(np.max(np.bincount(labels)) / len(labels))
    return Answers(report_accuracy(loaded) if accuracy is None else accuracy, majority, len(labels))


def _note_epoch(what: str, epoch: Any, loaded: LoadedRun) -> None:
    if epoch is not None and epoch != loaded.epoch:
        say(f"{what} is of epoch {epoch}, the run's best is now {loaded.epoch}; make it again")
