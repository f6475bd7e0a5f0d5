"""A run's attacks/: what is written of an attack, when it counts as finished, and how it is read again.

attacks/CUT-ATTACK/
  result.json            means, intervals, floors, leak list, and what was asked for; written last
  scores.csv             numbers of every test image
  reconstructions.npz    originals and reconstructions of the first test images, and of those at either end of the leak
                         list (best_…, worst_…; not in folders of 0.1.0)
  parameters/            what was fitted, Orbax; not there if nothing was
  *.png                  grids: reconstructions, best, worst
"""

import csv
import dataclasses
import json
import math
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpz_jax import processes
from gpz_jax.atomic import write_json, write_text
from gpz_jax.errors import UserError
from gpz_jax.inversion import identification
from gpz_jax.inversion.results import (
    ACCURACIES,
    Answers,
    AttackResult,
    Attempt,
    Floors,
    Intervals,
    LeakedClass,
    LeakedImage,
    Leaks,
    PerImage,
    Pictures,
    Scores,
    Training,
    joined,
)
from gpz_jax.inversion.verdict import verdict_of
from gpz_jax.json_files import read_json
from gpz_jax.presentation import csv_text, why
from gpz_jax.runs.records import SCHEMA_VERSION, NewerSchema, save_tree, schema_of
from gpz_jax.runs.seals import broken, digest_of_files, with_check, without_check

RESULT = "result.json"
SCORES = "scores.csv"
PICTURES = "reconstructions.npz"
PARAMETERS = "parameters"

#: What gpz_jax 0.1.0 wrote under other names.
_OLD = {PICTURES: "shown.npz", PARAMETERS: "decoder"}


def attack_folder(home: Path, cut: str, attack: str) -> Path:
    """Where an attack on a cut is kept: paths of foreign modules hold slashes, names of attacks commas and colons.

    >>> attack_folder(Path("attacks"), "stage/conv", "attention-se,lsk").name
    'stage_conv-attention-se.lsk'
    """
    return home / f"{file_name(cut)}-{file_name(attack)}"


def file_name(name: str) -> str:
    """A name of a cut, an attack or a defence as that of a file."""
    return "".join(c if c.isalnum() or c in "._-+" else "_" for c in name.replace(",", ".").replace(":", ""))


# Written --------------------------------------------------------------------------------------------------------------


def forget_attempt(folder: Path) -> None:
    """What lies in the folder counts for nothing from here on, until :func:`write_attempt`."""
    (folder / RESULT).unlink(missing_ok=True)
    (folder / _OLD[PICTURES]).unlink(missing_ok=True)
    for name in (PARAMETERS, _OLD[PARAMETERS]):
        shutil.rmtree(folder / name, ignore_errors=True)


def write_attempt(folder: Path, result: AttackResult, asked: Mapping[str, Any]) -> None:
    """Write the last attempt of a result; its result.json last, so that its presence says that all the rest is there.

    Args:
      folder: as :func:`attack_folder` names it; must exist.
      result: what came of the attacks on a cut so far.
      asked: what the last of them depends on, for :func:`read_attempt`.
    """
    attempt = result.attempts[-1]
    processes.led(lambda: _write_scores(folder, attempt))
    if attempt.parameters is not None:
        save_tree(folder / PARAMETERS, attempt.parameters)

    def seal() -> None:
        files = {name: digest for name, digest in digest_of_files(folder).items() if name.startswith(_SEALED)}
        write_json(folder / RESULT, with_check({**_written(result, attempt, asked), "files": files}))

    processes.led(seal)


def _write_scores(folder: Path, attempt: Attempt) -> None:
    forget_attempt(folder)
    columns = attempt.per_image.columns()
    rows = [
        {"image": i, "label": int(label), **{name: values[i] for name, values in columns.items()}}
        for i, label in enumerate(attempt.per_image.label)
    ]
    write_text(folder / SCORES, csv_text(rows))
    np.savez(folder / PICTURES, **dict[str, Any](_pictures(attempt)))


#: Files that a result is read from, by what their names begin with; result.json holds their digests.
_SEALED = (SCORES, PICTURES, PARAMETERS)

#: Which pictures an attempt keeps, by what the names of their arrays begin with.
_KEPT = {"first": "", "best_inverted": "best_", "worst_inverted": "worst_"}


def _pictures(attempt: Attempt) -> dict[str, np.ndarray]:
    """Name -> array of what reconstructions.npz holds."""
    kept: dict[str, Pictures] = {prefix: getattr(attempt, name) for name, prefix in _KEPT.items()}
    return {f"{prefix}{name}": array for prefix, pictures in kept.items() for name, array in pictures._asdict().items()}


def _written(result: AttackResult, attempt: Attempt, asked: Mapping[str, Any]) -> dict[str, Any]:
    training = attempt.training
    scores = {name: value for name, value in attempt.scores._asdict().items() if not math.isnan(value)}
    intervals = {name: list(pair) for name, pair in attempt.intervals._asdict().items() if not math.isnan(pair[0])}
    return {
        "schema_version": SCHEMA_VERSION,
        "cut": result.cut,
        "shape": list(result.shape),
        "dimension": result.dimension,
        "attack": attempt.attack,
        "parameters": attempt.parameter_count,
        "test_images": attempt.test_images,
        "scores": scores,
        "intervals": intervals,
        "floors": attempt.floors._asdict(),
        "auxiliary_images": result.auxiliary,
        "answers": None if math.isnan(result.answers.accuracy) else result.answers._asdict(),
        "identified": identification.written(attempt.identified),
        "prior_collapse": attempt.prior_collapse,
        "leaks": {name: [entry._asdict() for entry in part] for name, part in attempt.leaks._asdict().items()},
        "best_epoch": training.best_epoch,
        "selection_loss": training.losses.tolist(),
        "flattened": bool(training.flattened),
        "last_gain": float(training.last_gain),
        "chosen": dict(training.chosen),
        "note": training.note,
        **{name: value for name in ACCURACIES if not math.isnan(value := getattr(attempt, name))},
        "asked": dict(asked),
    }


# Read -----------------------------------------------------------------------------------------------------------------

#: What files that were cut short, or hold something else, are met with.
_DAMAGE = (
    OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error
)  # fmt: skip


def read_attempt(folder: Path, asked: Mapping[str, Any]) -> Attempt | None:
    """A finished attempt; None if there is none, it was asked for with other settings, or it is damaged.

    Raises:
      UserError: it is of a newer schema than this package knows.
    """
    try:
        written = read_result(folder / RESULT)
        if not _same(asked, written["asked"], old=schema_of(written, folder) < SCHEMA_VERSION):
            return None
        return _with_arrays(_attempt(written), folder)
    except NewerSchema:
        raise
    except UserError:
        return None
    except _DAMAGE:
        return None


def read_result(file: Path) -> dict[str, Any]:
    """What a result.json says, one of gpz_jax 0.1.0 in the words of now.

    Raises:
      UserError: it is of a newer schema than this package knows, or damaged.
      OSError, ValueError, KeyError, TypeError: it is not there or damaged, or a file that it names is.
    """
    written = dict(read_json(file, finite=False))
    version = schema_of(written, file)
    written = without_check(written, file)
    if why := broken(file.parent, {"files": written.get("files", {})}):
        raise ValueError(why)
    if version == SCHEMA_VERSION:
        return written
    asked = dict(written["asked"])
    if "epoch_of_victim" in asked:
        asked["epoch_of_run"] = asked.pop("epoch_of_victim")
    if "rung" in asked:
        asked["attack"] = {**asked.pop("rung"), "name": written["decoder"]}
        asked["pictures"] = max(asked.pop("shown"), asked["likelihood_images"])
        asked["after"] = asked.pop("below", [])
    for new, old in (("attack", "decoder"), ("parameters", "decoder_parameters")):
        if old in written:
            written[new] = written.pop(old)
    if "kind" in written:
        few = written["kind"] == "decoder" and len(written["selection_loss"]) < 5
        written["note"] = "closed form" if written["kind"] == "linear" else "under 5 epochs" if few else ""
    return {**written, "asked": asked}


def _same(asked: Mapping[str, Any], written: Mapping[str, Any], *, old: bool) -> bool:
    """Whether an attempt was asked for with these settings; an old record holds more than what it depended on."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(asked)))
    if not old:
        return plain == written
    attack, theirs = plain.pop("attack"), written["attack"]
    return all(written.get(name) == value for name, value in plain.items()) and all(
        theirs.get(name) == value for name, value in attack.items()
    )


def _attempt(written: Mapping[str, Any]) -> Attempt:
    """An attempt without its arrays."""
    leaks = written["leaks"]

    def listed(of: type, name: str) -> tuple:
        return tuple(of(*(entry[field] for field in of._fields)) for entry in leaks[name])

    images = (listed(LeakedImage, f"{end}_images") for end in ("best", "worst"))
    classes = (listed(LeakedClass, f"{end}_classes") for end in ("best", "worst"))
    return Attempt(
        written["attack"],
        int(written["test_images"]),
        Scores(**{name: float(value) for name, value in written["scores"].items()}),
        Intervals(**{name: (float(low), float(high)) for name, (low, high) in written["intervals"].items()}),
        Floors(**{name: float(value) for name, value in written["floors"].items()}),
        PerImage(*(np.zeros(0),) * 5),
        float(written["prior_collapse"]),
        Leaks(*images, *classes),
        Training(
            np.array(written["selection_loss"]),
            int(written["best_epoch"]),
            bool(written["flattened"]),
            float(written["last_gain"]),
            written["chosen"],
            written["note"],
        ),
        int(written["parameters"]),
        identified=identification.read(written.get("identified", {})),
        accuracy=float(written.get("accuracy", math.nan)),
        accuracy_undefended=float(written.get("accuracy_undefended", math.nan)),
    )


def _result(written: Mapping[str, Any], attempt: Attempt) -> AttackResult:
    """The result that this attempt alone makes."""
    found = written.get("answers")
    answers = Answers(float(found["accuracy"]), float(found["majority"]), int(found["images"])) if found else Answers()
    known = int(written.get("auxiliary_images", 0))
    return AttackResult(str(written["cut"]), tuple(written["shape"]), (attempt,), answers=answers, auxiliary=known)


def _with_arrays(attempt: Attempt, folder: Path) -> Attempt:
    with (folder / SCORES).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name not in ("image", "label")}
    labels = np.array([int(row["label"]) for row in rows])
    # Opened here, because np.load forgets to close what it cannot read.
    stored = folder / PICTURES if (folder / PICTURES).is_file() else folder / _OLD[PICTURES]
    with stored.open("rb") as file, np.load(file, allow_pickle=False) as kept:
        pictures = {
            name: Pictures(kept[f"{prefix}originals"], kept[f"{prefix}reconstructions"])
            for name, prefix in _KEPT.items()
            if not prefix or f"{prefix}originals" in kept  # older folders have the first alone
        }
    return dataclasses.replace(attempt, per_image=PerImage(label=labels, **columns), **pictures)


# The table of all -----------------------------------------------------------------------------------------------------

#: Told of a result.json that cannot be read, and why.
Problem = Callable[[Path, str], None]


def write_table(home: Path, results: Iterable[AttackResult], on_problem: Problem) -> int:
    """Write table.csv, a row for every attack that lies in the folder, those of this call first.

    Args:
      home: the folder, ``attacks`` in the run's.
      results: of this call, each attempt of which has been written.
      on_problem: told of what has to be left out.

    Returns:
      How many rows are of earlier calls.
    """
    found = {result.cut: result for result in results}
    fresh = {(result.cut, attempt.attack) for result in found.values() for attempt in result.attempts}
    count = 0
    for result in read_results(home, on_problem):
        earlier = [attempt for attempt in result.attempts if (result.cut, attempt.attack) not in fresh]
        if earlier:
            none = dataclasses.replace(result, attempts=())
            found[result.cut] = joined(found.get(result.cut, none), earlier)
        count += len(earlier)
    rows = [row for result in found.values() for row in _judged(result)]
    names = dict.fromkeys(name for row in rows for name in row)  # some know of LPIPS or of a defence, some not
    write_text(home / "table.csv", csv_text([dict.fromkeys(names, "") | row for row in rows]))
    return count


def _judged(result: AttackResult) -> list[dict[str, Any]]:
    """Its rows, with the verdict of the cut and why an attack does not count against a leak."""
    verdict = verdict_of(result)
    return [
        {**row, "faults": " ".join(verdict.faults.get(row["attack"], ())), "verdict": str(verdict)}
        for row in result.rows()
    ]


def read_results(home: Path, on_problem: Problem, epoch: int | None = None) -> list[AttackResult]:
    """Every finished attack of a folder, a result a cut, by name.

    Args:
      home: the folder.
      on_problem: told of what is left out.
      epoch: leave out attacks on the network of another epoch of the run.
    """
    found: dict[str, AttackResult] = {}
    for folder in sorted(folder for folder in home.glob("*/") if any(folder.iterdir())):
        file = folder / RESULT
        if not file.is_file():
            on_problem(file, f"{folder} holds no finished attack (no {RESULT})")
            continue
        try:
            written = read_result(file)
            of = written["asked"].get("epoch_of_run")
            if epoch is not None and of is not None and of != epoch:
                what = f"the attack {written['attack']} on {written['cut']}"
                on_problem(file, f"{what} is of epoch {of}, the run's best is now {epoch}: make it again")
                continue
            attempt = _with_arrays(_attempt(written), file.parent)
            alone = _result(written, attempt)
        except UserError as error:  # a newer schema
            on_problem(file, str(error))
            continue
        except _DAMAGE as error:
            on_problem(file, f"{file} cannot be read ({type(error).__name__}: {why(error)})")
            continue
        found[alone.cut] = joined(found[alone.cut], [attempt]) if alone.cut in found else alone
    return list(found.values())
