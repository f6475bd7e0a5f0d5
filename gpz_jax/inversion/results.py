"""What attacks on a cut come to, as typed results: they know neither the attackers, nor the network, nor the disk."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.inversion.identification import Identification
from gpz_jax.presentation import html_table, number, text_table

NAN = math.nan

#: Images and classes at either end of the leak list.
LEAKS = 5


class Scores(NamedTuple):
    """Means over images of how near reconstructions are to their originals; NaN where a measure is not defined.

    Attributes:
      mse: squared error per element; of images, pixels in [0, 1].
      mse_paper: the same summed over the channels, as in the paper.
      psnr: mean over images of -10 log10 mse, dB.
      psnr_paper: of batches of 128 images, as in the paper's release, dB.
      ssim: structural similarity, 1 if identical.
      lpips: a distance learnt from people's judgements.
      cosine: between the flattened images.
      ratio: mse over that of the class-mean floor; 1 or more: z gave no more than the label.
    """

    mse: float = NAN
    mse_paper: float = NAN
    psnr: float = NAN
    psnr_paper: float = NAN
    ssim: float = NAN
    lpips: float = NAN
    cosine: float = NAN
    ratio: float = NAN


class Intervals(NamedTuple):
    """95 % intervals of the :class:`Scores` over images, (low, high); (NaN, NaN) where there is none."""

    mse: tuple[float, float] = (NAN, NAN)
    mse_paper: tuple[float, float] = (NAN, NAN)
    psnr: tuple[float, float] = (NAN, NAN)
    psnr_paper: tuple[float, float] = (NAN, NAN)
    ssim: tuple[float, float] = (NAN, NAN)
    lpips: tuple[float, float] = (NAN, NAN)
    cosine: tuple[float, float] = (NAN, NAN)
    ratio: tuple[float, float] = (NAN, NAN)


class Floors(NamedTuple):
    """Mean mse of what an attacker without z answers.

    Attributes:
      mean_image: the mean of the known images.
      class_mean: the mean of the image's class, from the true label.
      label_only: the mean of the attacker's images of the class that the network predicts.
    """

    mean_image: float = NAN
    class_mean: float = NAN
    label_only: float = NAN


class PerImage(NamedTuple):
    """One number a test image, float64 ``(N,)``, in the order of the images; None where a measure is not defined.

    ``identified`` is 1 where a reconstruction is nearest to its own original, 1/n of a tie; NaN where the image was not
    among those that were held against each other.
    """

    label: np.ndarray
    mse: np.ndarray
    floor_mean_image: np.ndarray
    floor_class_mean: np.ndarray
    floor_label_only: np.ndarray
    mse_paper: np.ndarray | None = None
    psnr: np.ndarray | None = None
    ssim: np.ndarray | None = None
    lpips: np.ndarray | None = None
    cosine: np.ndarray | None = None
    identified: np.ndarray | None = None

    def columns(self) -> dict[str, np.ndarray]:
        """Name -> numbers of what is defined, without the labels."""
        return {name: value for name, value in self._asdict().items() if name != "label" and value is not None}


class LeakedImage(NamedTuple):
    """A test image by its place among them, its class, and the mse of its reconstruction."""

    image: int
    label: int
    mse: float


class LeakedClass(NamedTuple):
    """A class, how many test images it has, and the mean mse of their reconstructions."""

    label: int
    images: int
    mse: float


class Leaks(NamedTuple):
    """The images and classes that were inverted best and worst, from the end inwards."""

    best_images: tuple[LeakedImage, ...] = ()
    worst_images: tuple[LeakedImage, ...] = ()
    best_classes: tuple[LeakedClass, ...] = ()
    worst_classes: tuple[LeakedClass, ...] = ()


class Pictures(NamedTuple):
    """Originals and their reconstructions, ``(n, …)`` each."""

    originals: np.ndarray
    reconstructions: np.ndarray


class Training(NamedTuple):
    """How an attacker was made ready.

    Attributes:
      losses: mse on the attacker's held-out images: after every epoch, for every penalty, or the one there is.
      best_epoch: the epoch that was taken; 0 where there were none.
      flattened: whether more of the same effort promised nothing.
      last_gain: by what share the loss still fell over the last fifth of the effort.
      chosen: what was chosen on the held-out images, for the record.
      note: in place of the last gain where that says nothing, such as "closed form".
    """

    losses: np.ndarray
    best_epoch: int = 0
    flattened: bool = True
    last_gain: float = 0.0
    chosen: Mapping[str, Any] = {}
    note: str = ""


#: Standard errors by which a network must beat the commonest class.
STANDARD_ERRORS = 3


class Answers(NamedTuple):
    """How well the attacked network itself answers: one that answers by chance proves nothing of its cuts.

    Attributes:
      accuracy: its share of right answers on the test images.
      majority: the share of the commonest class among them, what a constant answer scores.
      images: how many there are.
    """

    accuracy: float = math.nan
    majority: float = math.nan
    images: int = 0

    @property
    def near_chance(self) -> bool:
        """Whether it is not more than three standard errors better than a constant answer; False if unknown.

        >>> Answers(0.33, 0.30, 359).near_chance, Answers(0.99, 0.10, 359).near_chance, Answers().near_chance
        (True, False, False)
        """
        if math.isnan(self.accuracy):
            return False
        error = math.sqrt(self.majority * (1 - self.majority) / max(self.images, 1))
        return self.accuracy <= self.majority + STANDARD_ERRORS * error


#: What stands for pictures that were not read.
NO_PICTURES = Pictures(np.zeros(0), np.zeros(0))


@dataclasses.dataclass(frozen=True, eq=False)
class Attempt:
    """One attack on one cut.

    Attributes:
      attack: name of the attack.
      test_images: N, how many it was scored on: the first of them.
      scores: means over those.
      intervals: of these means.
      floors: of the same images.
      per_image: numbers of each; empty where an attempt is read without them.
      prior_collapse: variance of the reconstructions over that of the images: 0 if all are the attacker's one guess.
      leaks: the images and classes that were inverted best and worst.
      training: how the attacker was made ready.
      parameter_count: numbers that were fitted.
      parameters: those numbers, a pytree; None if there are none, or where they were not read.
      first: originals and reconstructions of the first test images.
      best_inverted: the same of ``leaks.best_images``.
      worst_inverted: the same of ``leaks.worst_images``.
      identified: how often reconstructions name their images.
      accuracy: of the network on what a defended edge sends; NaN without a defence.
      accuracy_undefended: without the defence.
    """

    attack: str
    test_images: int
    scores: Scores
    intervals: Intervals
    floors: Floors
    per_image: PerImage
    prior_collapse: float
    leaks: Leaks
    training: Training
    parameter_count: int = 0
    parameters: Any = None
    first: Pictures = NO_PICTURES
    best_inverted: Pictures = NO_PICTURES
    worst_inverted: Pictures = NO_PICTURES
    identified: Identification = Identification()
    accuracy: float = NAN
    accuracy_undefended: float = NAN

    @property
    def originals(self) -> np.ndarray:
        """The first test images, ``(n, …)``."""
        return self.first.originals

    @property
    def reconstructions(self) -> np.ndarray:
        """Their reconstructions, ``(n, …)``."""
        return self.first.reconstructions

    def mse_of_first(self, count: int) -> float:
        """Mean mse of the first ``count`` test images: attacks scored on fewer of them are compared by that."""
        return self.scores.mse if count >= self.test_images else float(np.mean(self.per_image.mse[:count]))

    def row(self) -> dict[str, Any]:
        """All numbers by name, flat: scores, ends of their intervals as NAME_low and NAME_high, floors and the rest."""
        scores = {name: value for name, value in self.scores._asdict().items() if not math.isnan(value)}
        ends = {
            f"{name}_{end}": pair[i]
            for name, pair in self.intervals._asdict().items()
            for i, end in enumerate(("low", "high"))
            if name in scores and name != "psnr_paper"
        }
        defended = {} if math.isnan(self.accuracy) else {name: getattr(self, name) for name in ACCURACIES}
        return {
            "attack": self.attack,
            "parameters": self.parameter_count,
            "test_images": self.test_images,
            **scores,
            **ends,
            **{f"floor_{name}": value for name, value in self.floors._asdict().items()},
            **_identified(self.identified),
            "prior_collapse": self.prior_collapse,
            "flattened": self.training.flattened,
            "last_gain": self.training.last_gain,
            **defended,
        }


ACCURACIES = ("accuracy", "accuracy_undefended")


def _identified(found: Identification) -> dict[str, Any]:
    """As flat columns; none where nothing was measured."""
    if not found.images:
        return {}
    low, high = found.top1_interval
    return {
        "identified": found.top1, "identified_low": low, "identified_high": high, "identified_top5": found.top5,
        "identified_within": found.within, "identified_within_low": found.within_interval[0],
        "identified_within_high": found.within_interval[1], "identified_images": found.images,
        "chance": found.chance, "chance_label": found.chance_label, "chance_within": found.chance_within,
    }  # fmt: skip


def best_of(attempts: Iterable[Attempt]) -> Attempt:
    """The attempt of least error on the first images that all were scored on."""
    attempts = list(attempts)
    alike = min(attempt.test_images for attempt in attempts)
    return min(attempts, key=lambda attempt: attempt.mse_of_first(alike))


def joined(result: "AttackResult", attempts: Iterable[Attempt]) -> "AttackResult":
    """The result with more attempts on the same cut."""
    return dataclasses.replace(result, attempts=(*result.attempts, *attempts))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AttackResult:
    """What the attacks on one cut came to.

    Attributes:
      cut: where z was taken.
      shape: of one z.
      attempts: one an attack, in the order in which they were made; at least one.
      notes: what was done about the images, in words.
      answers: how well the attacked network answers the test images.
      auxiliary: how many inputs the attackers had; 0 if that is not known.

    Example:
      >>> floors, nothing = Floors(0.5, 0.4, 0.45), Training(np.zeros(1), note="closed form")
      >>> one = PerImage(*np.array([[0.0], [0.2], [0.5], [0.4], [0.45]]))
      >>> linear = Attempt("linear", 1, Scores(mse=0.2, ratio=0.5), Intervals(), floors, one, 1.0, Leaks(), nothing)
      >>> AttackResult("fc", (8,), (linear,))
      fc: 8 numbers an image, attacked
      attack              mse  /class mean  flattened?
      linear              0.2          0.5  closed form
      floor: class mean   0.4            1
      floor: label only  0.45         1.12
      floor: mean image   0.5         1.25
      >>> AttackResult("fc", (8,), (linear,)).best.scores.ratio
      0.5
    """

    cut: str
    shape: tuple[int, ...]
    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...] = ()
    answers: Answers = Answers()
    auxiliary: int = 0

    @property
    def dimension(self) -> int:
        """How many numbers one z is."""
        return math.prod(self.shape)

    @property
    def best(self) -> Attempt:
        """The attempt of least error on the images that all were scored on; it scores the cut."""
        return best_of(self.attempts)

    @property
    def floors(self) -> Floors:
        """The floors of the most test images that any attack was scored on."""
        return max(self.attempts, key=lambda attempt: attempt.test_images).floors

    @property
    def originals(self) -> np.ndarray:
        """The first test images, ``(n, …)``, as many as any attempt has kept."""
        return max((attempt.originals for attempt in self.attempts), key=len)

    def __getitem__(self, attack: str) -> Attempt:
        """The attempt of that name. Raises :class:`UserError` with the nearest name if there is none."""
        for attempt in self.attempts:
            if attempt.attack == attack:
                return attempt
        raise UserError(f"no attack {attack!r} here{did_you_mean(attack, [a.attack for a in self.attempts])}")

    def rows(self) -> list[dict[str, Any]]:
        """One flat row an attack, as in ``attacks/table.csv``."""
        best = self.best.attack
        return [
            {"cut": self.cut, "dimension": self.dimension, **attempt.row(), "best": attempt.attack == best}
            for attempt in self.attempts
        ]

    def to_pandas(self) -> Any:
        """A ``DataFrame``, one row an attack, indexed by its name. Raises :class:`UserError` without pandas."""
        try:
            import pandas as pd
        except ImportError:
            raise UserError("to_pandas needs pandas: pip install pandas") from None
        return pd.DataFrame(self.rows()).set_index("attack")

    def to_xarray(self) -> Any:
        """An ``xarray.Dataset``: scores ``(attack,)``, per image ``NAME_of_image (attack, image)``, the first pictures.

        NaN where an attack was not scored on an image.
        """
        import xarray as xr

        names = [attempt.attack for attempt in self.attempts]
        rows = self.rows()
        numbers = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in _WORDS]
        found: dict[str, Any] = {name: ("attack", [row.get(name, NAN) for row in rows]) for name in numbers}
        count = max(len(attempt.per_image.mse) for attempt in self.attempts)
        for name in dict.fromkeys(key for attempt in self.attempts for key in attempt.per_image.columns()):
            table = np.full((len(names), count), NAN)
            for row, attempt in zip(table, self.attempts, strict=True):
                values = attempt.per_image.columns().get(name, ())
                row[: len(values)] = values
            found[f"{name}_of_image"] = (("attack", "image"), table)
        widest = max(self.attempts, key=lambda attempt: len(attempt.per_image.mse))
        labels = ("image", widest.per_image.label.astype(int))
        return xr.Dataset(found, {"attack": names, "label": labels}, {"cut": self.cut, "shape": list(self.shape)})

    def _columns(self) -> dict[str, list[str]]:
        shown = [name for name in ("mse", "ratio", "psnr", "ssim") if any(_has(a, name) for a in self.attempts)]
        best = self.best.attack if len(self.attempts) > 1 else ""
        floors = {name: getattr(self.floors, name) for name in ("class_mean", "label_only", "mean_image")}
        empty = [""] * len(floors)
        columns = {
            "attack": [a.attack + (" *" if a.attack == best else "") for a in self.attempts]
            + [f"floor: {name.replace('_', ' ')}" for name in floors]
        }
        for name in shown:
            of_floors = {
                "mse": [number(value) for value in floors.values()],
                "ratio": [number(value / self.floors.class_mean) for value in floors.values()],
            }
            head = "/class mean" if name == "ratio" else name
            columns[head] = [number(getattr(a.scores, name)) for a in self.attempts] + of_floors.get(name, empty)
        if any(attempt.identified.images for attempt in self.attempts):
            columns["identified"] = [number(a.identified.top1) for a in self.attempts] + empty
        columns["flattened?"] = [flattened(a.training) for a in self.attempts] + empty
        return columns

    def _title(self) -> str:
        return f"{self.cut}: {self.dimension} numbers an image, attacked"

    def __repr__(self) -> str:
        return text_table(self._title(), self._columns(), self.notes)

    def _repr_html_(self) -> str:
        return html_table(self._title(), self._columns(), self.notes)


#: Of a row, what is no number.
_WORDS = ("attack", "cut")


def _has(attempt: Attempt, name: str) -> bool:
    return not math.isnan(getattr(attempt.scores, name))


def flattened(training: Training) -> str:
    """Whether more effort promised nothing, in a word or two: "yes", "NO", "closed form", "NO (under 5 epochs)".

    >>> flattened(Training(np.zeros(1), flattened=False, note="under 5 epochs"))
    'NO (under 5 epochs)'
    """
    if not training.note:
        return "yes" if training.flattened else "NO"
    return training.note if training.flattened else f"NO ({training.note})"
