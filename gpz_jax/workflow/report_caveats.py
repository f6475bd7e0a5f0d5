"""What a reader of a run's page must bear in mind, in sentences."""

from collections.abc import Sequence

from gpz_jax.inversion.results import Attempt
from gpz_jax.reporting.page.contents import CutRecord
from gpz_jax.runs.folder import Run
from gpz_jax.workflow.loaded_run import LoadedRun

#: Names that one sentence lists, at most.
LISTED = 8


def caveats(run: Run, cuts: Sequence[CutRecord], loaded: LoadedRun | None) -> tuple[str, ...]:
    """Of the auxiliary images, of attackers that had not converged, of what was not attacked, of old attacks."""
    made = [(cut, attempt) for cut in cuts for attempt in cut.attempts]
    if not made:
        return ("No attack was made. A small R_c² or ρ alone says nothing of what an attacker gets.",)
    return tuple(
        filter(
            None,
            [
                "A verdict speaks of the attacks that were made, not of all that can be made: a leak that was found is "
                "there, one that was not found may be.",
                _auxiliary(run, cuts, loaded),
                _unconverged(made),
                _weak(made),
                _scored(made),
                _unattacked(cuts),
                _elsewhere(run),
            ],
        )
    )


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _auxiliary(run: Run, cuts: Sequence[CutRecord], loaded: LoadedRun | None) -> str:
    counts = sorted({cut.result.auxiliary for cut in cuts if cut.result is not None and cut.result.auxiliary})
    if not counts and loaded is not None:
        counts = [len(loaded.splits.auxiliary)]
    number = " to ".join(f"{count:,}" for count in dict.fromkeys(counts[:1] + counts[-1:])) or "an unknown number of"
    aux = run.config.data.aux
    origin = "images of the same data set that were held out from training" if aux in (None, "held-out") else aux
    return (
        f"The attackers had {number} auxiliary images ({origin}). One who holds more, or images nearer to those of "
        "your users, may get further."
    )


def _unconverged(made: Sequence[tuple[CutRecord, Attempt]]) -> str:
    names = [f"{a.attack} at {cut.name}" for cut, a in made if "not_converged" in cut.verdict.faults.get(a.attack, ())]
    if not names:
        return ""
    return f"Not converged, so that more epochs may get further: {_listing(names)}."


def _weak(made: Sequence[tuple[CutRecord, Attempt]]) -> str:
    names = [
        f"{a.attack} at {cut.name} ({', '.join(faults).replace('_', ' ')})"
        for cut, a in made
        if (faults := [fault for fault in cut.verdict.faults.get(a.attack, ()) if fault != "not_converged"])
    ]
    if not names:
        return ""
    return f"Weaker than what is to be had for nothing, so that their failure proves nothing: {_listing(names)}."


def _scored(made: Sequence[tuple[CutRecord, Attempt]]) -> str:
    counts = sorted({attempt.test_images for _, attempt in made})
    number = " to ".join(f"{count:,}" for count in dict.fromkeys(counts[:1] + counts[-1:]))
    return f"Scores are means over {number} test images. The images shown are the first of them, not chosen ones."


def _unattacked(cuts: Sequence[CutRecord]) -> str:
    names = [cut.name for cut in cuts if cut.valid and not cut.attempts]
    return f"Never attacked: {_listing(names)}." if names else ""


def _elsewhere(run: Run) -> str:
    names = sorted(path.name for path in run.folder.glob("attacks-*/") if any(path.glob("*/result.json")))
    if not names:
        return ""
    return f"Attacks on a defended edge, an untrained copy or kept apart are not shown; they lie in {_listing(names)}."
