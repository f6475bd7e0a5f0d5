"""How near reconstructions are to their originals, and to what an attacker without z would answer.

Nothing here knows an attacker: a :class:`Tally` is fed originals and reconstructions batch by batch, in order, and adds
up to what is reported of them.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gpz_jax import parallel
from gpz_jax.inversion import lpips as perceptual
from gpz_jax.inversion import metrics
from gpz_jax.inversion.floors import Guesses, floor_errors
from gpz_jax.inversion.identification import Identification, identify
from gpz_jax.inversion.intervals import bootstrap_interval, bootstrap_ratio_interval
from gpz_jax.inversion.results import (
    LEAKS,
    Answers,
    Floors,
    Intervals,
    LeakedClass,
    LeakedImage,
    Leaks,
    PerImage,
    Pictures,
    Scores,
)

#: Measures with a number for every image, and hence with an interval of their mean.
MEASURES = ("mse", "mse_paper", "psnr", "ssim", "lpips", "cosine")


class Exam(NamedTuple):
    """What attacks on a network are scored with, whatever the cut.

    Attributes:
      x: test inputs ``(N, …)``, an array or a pytree of arrays.
      labels: their classes ``(N,)``.
      predicted: what the network takes them for, ``(N,)``.
      guesses: what the floors are made of.
      images: whether images in [0, 1] are rebuilt; other numbers are scored by mse and cosine alone.
      lpips: weights of LPIPS, or None to leave it out.
      notes: what was done about the images, in words.
      answers: how well the network answers them; unknown without labels.
      mesh: devices that a batch is spread over where it is scored; None: one.
    """

    x: Any
    labels: np.ndarray
    predicted: np.ndarray
    guesses: Guesses
    images: bool = True
    lpips: perceptual.Weights | None = None
    notes: tuple[str, ...] = ()
    answers: Answers = Answers()
    mesh: Mesh | None = None


class Scored(NamedTuple):
    """What a :class:`Tally` adds up to; the fields of ``results.Attempt`` of the same names."""

    test_images: int
    scores: Scores
    intervals: Intervals
    floors: Floors
    per_image: PerImage
    prior_collapse: float
    identified: Identification
    leaks: Leaks
    first: Pictures
    best_inverted: Pictures
    worst_inverted: Pictures


class Tally(NamedTuple):
    """Reconstructions scored so far. Immutable: :meth:`add` returns the next one.

    Attributes:
      exam: what they are held against.
      keep: how many of the first pictures are kept.
      columns: numbers of every image, a mapping a batch.
      whole: what is no mean over images.
      chosen: places of the images that are held against each other, in order.
      pairs: those originals and reconstructions, a pair a batch.
      first: the first pictures, a pair a batch.
      ends: pictures at either end of the leak list so far, by the place of their image.
    """

    exam: Exam
    keep: int = 64
    columns: tuple[Mapping[str, np.ndarray], ...] = ()
    whole: metrics.OverImages = metrics.OverImages()
    chosen: np.ndarray = np.zeros(0, int)
    pairs: tuple[Pictures, ...] = ()
    first: tuple[Pictures, ...] = ()
    ends: Mapping[int, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, x: Array, x_hat: Array) -> "Tally":
        """The same with the next batch: originals and reconstructions ``(n, …)``, pixels in [0, 1] if images."""
        at = sum(len(batch["mse"]) for batch in self.columns)
        place = slice(at, at + len(x))
        columns = (*self.columns, _measured(self.exam, x, x_hat, place))
        known, rebuilt = parallel.fetch((x, x_hat))
        left = max(self.keep - at, 0)
        own = self.chosen[(self.chosen >= at) & (self.chosen < at + len(x))] - at
        errors = np.concatenate([batch["mse"] for batch in columns])
        wanted = {int(i) for end in _ends(errors) for i in end}
        return self._replace(
            columns=columns,
            whole=self.whole.add(jnp.asarray(known), jnp.asarray(rebuilt), images=self.exam.images),
            pairs=(*self.pairs, Pictures(known[own], rebuilt[own])),
            first=(*self.first, Pictures(known[:left], rebuilt[:left])),
            ends={i: self.ends[i] if i < at else (known[i - at], rebuilt[i - at]) for i in wanted},
        )

    def result(self) -> Scored:
        """Means, their intervals, floors, the leak list and its pictures."""
        columns = {name: np.concatenate([batch[name] for batch in self.columns]) for name in self.columns[0]}
        count = len(columns["mse"])
        means = {name: float(np.mean(values)) for name, values in columns.items()}
        measures = [name for name in MEASURES if name in columns]
        floors = Floors(*(means[f"floor_{name}"] for name in Floors._fields))
        error, floor = columns["mse"], columns["floor_class_mean"]
        labels = self.exam.labels[:count]
        first = Pictures(*(np.concatenate(parts)[: self.keep] for parts in zip(*self.first, strict=True)))
        found, identified = self._identified(count)
        if identified is not None:
            columns["identified"] = identified
        best, worst = (
            Pictures(*(np.stack(parts) for parts in zip(*(self.ends[int(i)] for i in end), strict=True)))
            for end in _ends(error)
        )
        return Scored(
            count,
            Scores(
                **{name: means[name] for name in measures},
                psnr_paper=self.whole.psnr_paper,
                ratio=means["mse"] / floors.class_mean if floors.class_mean else math.nan,
            ),
            Intervals(
                **{name: bootstrap_interval(columns[name]) for name in measures},
                ratio=bootstrap_ratio_interval(error, floor),
            ),
            floors,
            PerImage(label=labels, **columns),
            self.whole.prior_collapse,
            found,
            _leaks(error, labels),
            first,
            best,
            worst,
        )

    def _identified(self, count: int) -> tuple[Identification, np.ndarray | None]:
        """How often the chosen images are named, and each image's own part."""
        if not len(self.chosen):
            return Identification(), None
        x, x_hat = (np.concatenate(parts) for parts in zip(*self.pairs, strict=True))
        guesses = parallel.fetch(self.exam.guesses.label_only)[self.exam.predicted[self.chosen]]
        found, each = identify(x, x_hat, self.exam.labels[self.chosen], guesses.reshape(x.shape))
        of_image = np.full(count, np.nan)
        of_image[self.chosen] = each.top1
        return found, of_image


def _measured(exam: Exam, x: Array, x_hat: Array, place: slice) -> dict[str, np.ndarray]:
    """One number an image by every measure and against every floor, float64."""
    guesses, count, given = exam.guesses, len(x), (x, x_hat, exam.labels[place], exam.predicted[place])
    x, x_hat, labels, predicted = given if exam.mesh is None else parallel.spread(given, exam.mesh)
    if not exam.images:  # numbers of any shape, as one row of pixels each
        x, x_hat = _rows(x), _rows(x_hat)
        guesses = Guesses(_rows(guesses.mean_image[None])[0], *map(_rows, guesses[1:]))
        found = {"mse": metrics.mse(x, x_hat), "cosine": metrics.cosine(x, x_hat)}
    else:
        found = metrics.score(x, x_hat)
    if exam.lpips is not None:
        found["lpips"] = perceptual.lpips(exam.lpips, _at_least_64(x), _at_least_64(x_hat))
    floors = floor_errors(x, labels, predicted, guesses)
    found |= {f"floor_{name}": value for name, value in floors.items()}
    return {name: value[:count].astype(np.float64) for name, value in parallel.fetch(found).items()}


def _rows(x: Any) -> Array:
    return x.reshape(len(x), 1, 1, -1)


def _at_least_64(x: Array) -> Array:
    """Images of 64 pixels a side, as the paper's: on smaller ones AlexNet's last layers see one position, or none."""
    side = max(64, *x.shape[1:3])
    return jax.image.resize(x, (len(x), side, side, x.shape[3]), "bilinear")


def _ends(error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the images of least and of most error, from the end inwards."""
    order = np.argsort(error, kind="stable")
    return order[:LEAKS], order[::-1][:LEAKS]


def _leaks(error: np.ndarray, labels: np.ndarray) -> Leaks:
    best, worst = (tuple(LeakedImage(int(i), int(labels[i]), float(error[i])) for i in end) for end in _ends(error))
    classes = [
        LeakedClass(int(c), int(np.sum(labels == c)), float(np.mean(error[labels == c]))) for c in np.unique(labels)
    ]
    classes.sort(key=lambda entry: entry.mse)
    return Leaks(best, worst, tuple(classes[:LEAKS]), tuple(classes[::-1][:LEAKS]))
