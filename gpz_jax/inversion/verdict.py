"""The verdict of a cut, in fixed words: what the attacks that were made on it show, and what they do not.

A weak attacker must never make a cut look safe. So an attack counts for nothing *against* a leak unless it is valid,
and a leak that any attack shows counts whether that attack is valid or not: weakness never invalidates success.

  leaks             some attack got more than the label gives: readable, partly, or traces of it
  no leak found     no attack did, and the linear attack, a converged decoder and one more valid attack were made
  not tested enough anything else; with what to run
  no verdict        the network itself knows no more than the commonest class: nothing can be said of its cuts
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpz_jax.inversion.intervals import bootstrap_interval
from gpz_jax.inversion.results import Answers, AttackResult, Attempt, best_of

LEAKS = "leaks"
NO_LEAK_FOUND = "no leak found"
NOT_TESTED = "not tested enough"
NO_VERDICT = "no verdict"

READABLE, PARTLY, TRACES = "readable", "partly", "traces"

#: A leak is readable up to this ratio to the class-mean floor, or under this mse in the paper's convention.
READABLE_RATIO, READABLE_MSE_PAPER = 0.35, 0.02

#: It is partial up to this ratio.
PARTLY_RATIO = 0.8

#: Epochs of training under which a decoder has not converged, whatever its loss does.
FEWEST_EPOCHS = 20

#: Share of the originals' variance under which reconstructions are one guess.
COLLAPSED = 0.05

LINEAR = "linear"

#: What has to be run where no decoder converged.
A_DECODER = "train a decoder until it converges"


class Verdict(NamedTuple):
    """What the attacks on a cut show.

    Attributes:
      cut: its name.
      word: "leaks", "no leak found", "not tested enough" or "no verdict".
      grade: of a leak: "readable", "partly" or "traces"; else "".
      best: name of the attack that shows most.
      sentence: the verdict with its evidence.
      faults: attack -> why it does not count against a leak; without the valid ones.
      missing: what to run before no more than this may be said to leak, in words; empty where nothing is missing.
    """

    cut: str
    word: str
    grade: str
    best: str
    sentence: str
    faults: dict[str, tuple[str, ...]]
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The word with its grade, as tables have it."""
        return f"{self.word}: {self.grade}" if self.grade else self.word


def faults_of(attempt: Attempt, linear: Attempt | None) -> tuple[str, ...]:
    """Why an attack does not count where it shows no leak; empty if it is valid.

    ``not_converged``: its loss still fell by 1 % or more over the last fifth of its effort, or it is a decoder of fewer
    than 20 epochs, or one that never beat the mean image. ``below_linear``, ``below_label``: its error lies above that
    of the linear attack, of the label-only guess, by more than the 95 % interval of the paired difference over images.
    ``collapsed``: its reconstructions vary by under 5 % of what the originals do, and one of the two before holds.

    Args:
      attempt: the attack.
      linear: the linear attack on the same cut; None if it was not made.
    """
    faults = []
    errors = attempt.per_image.mse
    if not _converged(attempt):
        faults.append("not_converged")
    if linear is not None and linear is not attempt and _worse(errors, linear.per_image.mse):
        faults.append("below_linear")
    if _worse(errors, attempt.per_image.floor_label_only):
        faults.append("below_label")
    if attempt.prior_collapse < COLLAPSED and faults and faults != ["not_converged"]:
        faults.append("collapsed")
    return tuple(faults)


def _converged(attempt: Attempt) -> bool:
    training = attempt.training
    if training.note == "closed form":
        return True
    trained = training.best_epoch > 0  # by epochs
    few = trained and len(training.losses) < FEWEST_EPOCHS
    idle = trained and bool(len(training.losses)) and float(np.nanmin(training.losses)) >= attempt.floors.mean_image
    return training.flattened and training.last_gain < 0.01 and not few and not idle


def _worse(errors: np.ndarray, others: np.ndarray) -> bool:
    """Whether errors lie above others by more than chance, on the images that both have."""
    count = min(len(errors), len(others))
    if not count:
        return False
    low, _ = bootstrap_interval(errors[:count] - others[:count])
    return low > 0


def leaks(attempt: Attempt) -> bool:
    """Whether an attack got more from z than the label gives, in mse or by naming images, beyond its interval."""
    by_error = attempt.intervals.ratio[1] < 1
    found = attempt.identified
    by_name = found.images > 0 and found.top1_interval[0] > max(found.chance_label, found.chance)
    return by_error or by_name


def grade_of(attempt: Attempt) -> str:
    """How much a leak shows: "readable", "partly" or "traces"."""
    scores = attempt.scores
    if scores.ratio <= READABLE_RATIO or scores.mse_paper < READABLE_MSE_PAPER:
        return READABLE
    return PARTLY if scores.ratio <= PARTLY_RATIO else TRACES


#: Verdicts of cuts that may be recommended, from the least leak to the most.
RECOMMENDABLE = (NO_LEAK_FOUND, f"{LEAKS}: {TRACES}", f"{LEAKS}: {PARTLY}")


def ruled_out(too_much: Sequence[bool]) -> list[bool]:
    """Which valid cuts of a network, in the order of computation, give away too much: those that do, and all before.

    Whoever sees z at a cut can compute z at every later one: so a cut leaks no less than those behind it, whatever the
    attackers on itself got.

    >>> ruled_out([False, True, False])
    [True, True, False]
    """
    return [any(too_much[at:]) for at in range(len(too_much))]


def leak_rank(verdict: str, within: float, ratio: float, missing: str = "") -> tuple[int, float, float] | None:
    """What sorts cuts by how much they give away, least first; None for one that must not be recommended.

    By the verdict (no leak found, traces, partly), then the share of images that are named within their class, then the
    ratio to the class-mean floor. Never recommended: what can be read, what was not tested enough, and what leaks where
    no decoder had converged, since it may leak more.

    Args:
      verdict: ``str`` of a :class:`Verdict`.
      within: the largest share that any attack named; NaN counts as all.
      ratio: of the best attack; NaN counts as 0.
      missing: what the verdict says is missing.

    Example:
      >>> leak_rank("leaks: traces", 0.1, 0.9) < leak_rank("leaks: traces", 0.1, 0.8)
      True
      >>> leak_rank("leaks: readable", 0.1, 0.3) is leak_rank("not tested enough", 0.0, 1.0) is None
      True
    """
    if verdict not in RECOMMENDABLE or A_DECODER in missing:
        return None
    within, ratio = (1.0 if math.isnan(within) else within), (0.0 if math.isnan(ratio) else ratio)
    return RECOMMENDABLE.index(verdict), within, -ratio


def verdict_of(result: AttackResult) -> Verdict:
    """The verdict of one cut.

    Args:
      result: of all attacks that were made on it, with how well the network answers.

    Example:
      >>> from gpz_jax.inversion.results import Floors, Intervals, Leaks, PerImage, Scores, Training
      >>> one = PerImage(*np.array([[0.0], [0.1], [0.5], [0.4], [0.45]]))
      >>> made = Attempt("linear", 1, Scores(mse=0.1, ratio=0.25), Intervals(ratio=(0.2, 0.3)), Floors(0.5, 0.4, 0.45),
      ...                one, 1.0, Leaks(), Training(np.zeros(1), note="closed form"))
      >>> print(verdict_of(AttackResult("fc", (8,), (made,))).sentence)
      fc leaks: readable. By linear: mse 0.25 [0.2, 0.3] of the class-mean floor.
    """
    attempts = result.attempts
    linear = next((attempt for attempt in attempts if attempt.attack == LINEAR), None)
    faults = {attempt.attack: found for attempt in attempts if (found := faults_of(attempt, linear))}
    answers = _answers(result)
    if answers.near_chance:
        sentence = (
            f"{result.cut}: no verdict. The network's accuracy, {answers.accuracy:.3f}, is within three standard "
            f"errors of the commonest class, {answers.majority:.3f}: it answers by chance, which proves nothing of its "
            "cuts."
        )
        return Verdict(result.cut, NO_VERDICT, "", "", sentence, faults, ("train the network",))
    if not attempts:
        sentence = f"{result.cut}: not tested enough; no attack was made."
        return Verdict(result.cut, NOT_TESTED, "", "", sentence, {}, ("make attacks",))
    missing = _missing(attempts, linear, faults)
    leaking = [attempt for attempt in attempts if leaks(attempt)]
    if leaking:
        best = best_of(leaking)
        grade = min((grade_of(attempt) for attempt in leaking), key=(READABLE, PARTLY, TRACES).index)
        sentence = f"{result.cut} leaks: {grade}. By {best.attack}: {_evidence(best)}."
        if missing and grade != READABLE:
            sentence += f" It may leak more: {'; '.join(missing)}."
        return Verdict(result.cut, LEAKS, grade, best.attack, sentence, faults, missing)
    counted = [attempt for attempt in attempts if attempt.attack not in faults or attempt is linear]
    names = ", ".join(attempt.attack for attempt in sorted(counted, key=lambda attempt: attempt is not linear))
    if not missing:
        images = f"; {result.auxiliary:,} auxiliary images" if result.auxiliary else ""
        sentence = f"{result.cut}: no leak found, by {names}{images}."
        return Verdict(result.cut, NO_LEAK_FOUND, "", best_of(attempts).attack, sentence, faults)
    why = "; ".join(f"{attack}: {', '.join(found).replace('_', ' ')}" for attack, found in faults.items())
    sentence = f"{result.cut}: not tested enough; {'; '.join(missing)}." + (f" ({why})" if why else "")
    return Verdict(result.cut, NOT_TESTED, "", "", sentence, faults, missing)


def _answers(result: AttackResult) -> Answers:
    """Of the network as it is attacked: behind a defence, if there is one."""
    behind = [attempt.accuracy for attempt in result.attempts if not math.isnan(attempt.accuracy)]
    return result.answers._replace(accuracy=behind[-1]) if behind else result.answers


def _missing(
    attempts: Sequence[Attempt], linear: Attempt | None, faults: dict[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """What has to be run before "no leak found" may be said."""
    valid = [attempt for attempt in attempts if attempt.attack not in faults and attempt is not linear]
    decoders = [attempt for attempt in valid if attempt.training.best_epoch > 0]
    missing = []
    if linear is None:
        missing.append("run the attack 'linear'")
    if not decoders:
        longer = any("not_converged" in found for found in faults.values())
        missing.append(A_DECODER + (" (more epochs)" if longer else ""))
    if len(valid) < 2:
        missing.append("run one more attack, such as residual or likelihood")
    return tuple(missing)


def _evidence(attempt: Attempt) -> str:
    """What an attack got, in numbers with their intervals."""
    low, high = attempt.intervals.ratio
    said = f"mse {attempt.scores.ratio:.3g} [{low:.3g}, {high:.3g}] of the class-mean floor"
    if attempt.scores.ratio > READABLE_RATIO and grade_of(attempt) == READABLE:
        said += f" and {attempt.scores.mse_paper:.2g} in the paper's convention, which calls under 0.02 readable"
    found = attempt.identified
    if not found.images:
        return said
    low, high = found.top1_interval
    return (
        f"{said}, {100 * found.top1:.0f} % [{100 * low:.0f}, {100 * high:.0f}] of {found.images} images named "
        f"(by the label alone {100 * found.chance_label:.1f} %)"
    )
