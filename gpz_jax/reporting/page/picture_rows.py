"""The images of a cut as rows of a table: originals above what each attack rebuilt, and both ends of the leak list."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpz_jax.inversion.results import Attempt, LeakedImage, Pictures
from gpz_jax.reporting.page.contents import Contents, CutRecord, RunRecord
from gpz_jax.reporting.page.pictures import Allowance, data_uri, is_image


class Cell(NamedTuple):
    """An image: its data URI, what it is in words, and its numbers (mse, ratio to the floor, named or not)."""

    uri: str
    alt: str
    mse: float = math.nan
    ratio: float = math.nan
    named: float = math.nan


class PictureRow(NamedTuple):
    """What one attack rebuilt."""

    attack: str
    cells: list[Cell]

    @property
    def held(self) -> bool:
        """Whether any image was held against the others."""
        return any(math.isfinite(cell.named) for cell in self.cells)


class Pair(NamedTuple):
    """An image of the leak list beside its reconstruction; ``original`` is empty where neither was kept."""

    image: int
    label: str
    mse: float
    original: str = ""
    rebuilt: str = ""


class Gallery(NamedTuple):
    """All that is shown of one cut of one run."""

    originals: list[Cell]
    rows: list[PictureRow]
    most: list[Pair]
    least: list[Pair]


@dataclasses.dataclass(frozen=True)
class Painter:
    """Makes data URIs, each once, however often a page is tried with fewer images."""

    @functools.cached_property
    def _made(self) -> dict[tuple[int, int], tuple[np.ndarray, str]]:
        return {}

    def paint(self, images: np.ndarray, i: int) -> str:
        """The data URI of one image of a batch."""
        key = (id(images), i)
        if key not in self._made:
            self._made[key] = (images, data_uri(images[i]))  # held, so that the id stays its own
        return self._made[key][1]


def gallery(painter: Painter, run: RunRecord, cut: CutRecord, allowance: Allowance) -> Gallery:
    """The images of a cut, as many as are allowed."""
    if cut.result is None or not cut.attempts:
        return Gallery([], [], [], [])
    originals = cut.result.originals
    shown = min(allowance.images, len(originals)) if is_image(originals) else 0
    best = cut.attempts[0]
    labels = max(cut.attempts, key=lambda attempt: len(attempt.per_image.label)).per_image.label
    names = [_named(run, labels[i]) if i < len(labels) else "unknown class" for i in range(shown)]
    return Gallery(
        [
            Cell(painter.paint(originals, i), f"original: test image {i}, class {names[i]}") for i in range(shown)
        ],
        [
            PictureRow(attempt.attack, _cells(painter, attempt, names)) for attempt in cut.attempts[: allowance.attacks]
        ]
        if shown
        else [],
        _pairs(painter, run, best.leaks.best_images, best.best_inverted, allowance.leaking),
        _pairs(painter, run, best.leaks.worst_images, best.worst_inverted, allowance.leaking),
    )  # fmt: skip


def _named(run: RunRecord, label: Any) -> str:
    place = int(label)
    return run.class_names[place] if 0 <= place < len(run.class_names) else str(place)


def _cells(painter: Painter, attempt: Attempt, names: Sequence[str]) -> list[Cell]:
    numbers, cells = attempt.per_image, []
    count = min(len(names), len(attempt.reconstructions), len(numbers.mse))
    for i in range(count):
        mse, floor = float(numbers.mse[i]), float(numbers.floor_class_mean[i])
        ratio = mse / floor if floor > 0 else math.nan
        named = math.nan if numbers.identified is None else float(numbers.identified[i])
        alt = f"reconstruction of test image {i}, class {names[i]}, by {attempt.attack}"
        cells.append(Cell(painter.paint(attempt.reconstructions, i), alt, mse, ratio, named))
    return cells


def _pairs(painter: Painter, run: RunRecord, listed: Sequence[LeakedImage], kept: Pictures, most: int) -> list[Pair]:
    pairs = []
    for i, leaked in enumerate(listed):
        shown = i < min(most, len(kept.originals), len(kept.reconstructions)) and is_image(kept.originals)
        uris = (painter.paint(kept.originals, i), painter.paint(kept.reconstructions, i)) if shown else ("", "")
        pairs.append(Pair(leaked.image, _named(run, leaked.label), leaked.mse, *uris))
    return pairs


def uris(painter: Painter, contents: Contents, allowance: Allowance) -> Iterator[str]:
    """Every data URI that a page with this allowance holds."""
    for run in contents.runs:
        for cut in run.cuts:
            found = gallery(painter, run, cut, allowance)
            sample = [*found.originals[:1], *(found.rows[0].cells[:1] if found.rows else [])]  # beside the verdict
            for cell in (*found.originals, *(cell for row in found.rows for cell in row.cells), *sample):
                yield cell.uri
            for pair in found.most + found.least:
                yield from (pair.original, pair.rebuilt)
