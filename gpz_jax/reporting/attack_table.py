"""What attacks scored, as tables."""

from collections.abc import Callable, Sequence

from gpz_jax.inversion.results import AttackResult, Attempt, Scores, flattened
from gpz_jax.inversion.verdict import LINEAR, faults_of
from gpz_jax.presentation import class_label, interval, number, quantity
from gpz_jax.reporting.tables import Column, Sheet

#: Scores that decide, and those that are shown with ``--wide`` beside them.
SCORES, WIDE_SCORES = ("mse", "ratio"), ("ssim", "mse_paper", "psnr", "psnr_paper", "lpips", "cosine")

FLOORS = ("class_mean", "label_only", "mean_image")


def attack_table(title: str, results: Sequence[AttackResult], *, wide: bool = False) -> Sheet:
    """What attacks scored on test images, one row an attack, and the floors below.

    Args:
      title: of the table.
      results: one a cut.
      wide: show every score.
    """
    rows = [(result, attempt) for result in results for attempt in result.attempts]
    attempts = [attempt for _, attempt in rows]
    ladder = any(len(result.attempts) > 1 for result in results)
    most = max((attempt.test_images for attempt in attempts), default=0)
    few = {attempt.attack: attempt.test_images for attempt in attempts if attempt.test_images < most}
    starred = [a.attack + (" *" if ladder and a is result.best else "") for result, a in rows]
    floors = len(FLOORS) if results else 0
    blank = [""] * floors

    def column(head: str, cells: list[str], of_floors: list[str] | None = None, **style: bool) -> Column:
        return Column(head, [*cells, *(blank if of_floors is None else of_floors)], **style)

    def scores(names: Sequence[str], **style: bool) -> list[Column]:
        defined = [name for name in names if any(_has(attempt, name) for attempt in attempts)]
        cells = {name: [_cell(attempt, name) for attempt in attempts] for name in defined}
        return [column(_head(name), cells[name], _floor(results, name), **style) for name in defined]

    words = [flattened(attempt.training) for attempt in attempts]
    return Sheet(
        title,
        [
            column("cut", [result.cut for result, _ in rows], ["floor"] * floors, words=True),
            column("attack", starred, [name.replace("_", " ") for name in FLOORS[:floors]], words=True),
            *scores(SCORES),
            *_identified(attempts, column),
            column("loss\nflat?", [word.split(" (")[0].replace("closed form", "exact") for word in words], words=True),
            *scores(WIDE_SCORES, wide=True),
            column("D", [str(result.dimension) for result, _ in rows], wide=True),
            column("parameters", [quantity(a.parameter_count).strip() for a in attempts], wide=True),
            column("images", [str(a.test_images) for a in attempts], wide=True),
            column("collapse", [number(a.prior_collapse) for a in attempts], wide=True),
            column("last fifth", [_gain(a) for a in attempts], words=True, wide=True),
            column(
                "does not count: why", [_faults(result, attempt) for result, attempt in rows], words=True, wide=True
            ),
        ],
        _caption(wide, ladder, few, any("under 5 epochs" in word for word in words)),
        wide,
        frozenset(_ends(results)),
    )


def _identified(attempts: list[Attempt], column: Callable[..., Column]) -> list[Column]:
    """The share of images that their reconstructions name, where measured; wide, with what it is held against."""
    if not any(attempt.identified.images for attempt in attempts):
        return []
    found = [attempt.identified for attempt in attempts]
    return [
        column("identi-\nfied", [number(one.top1) for one in found]),
        column("[95 %]", [interval(*one.top1_interval) for one in found], wide=True),
        column("chance", [number(one.chance) for one in found], wide=True),
        column("label's", [number(one.chance_label) for one in found], wide=True),
        column("top 5", [number(one.top5) for one in found], wide=True),
        column(
            "in class", [f"{number(one.within)} {interval(*one.within_interval)}".strip() for one in found], wide=True
        ),
        column("chance in class", [number(one.chance_within) for one in found], wide=True),
    ]


def _caption(wide: bool, ladder: bool, few: dict[str, int], short: bool) -> str:
    said = (
        "mse per element, pixels in [0, 1]; /class mean: mse over that of the class-mean floor, with its 95 % interval "
        "over images, 1 or more means that z gave no more than the label; identified: share of images that their "
        "reconstructions name among all; flat?: whether more training promised "
        "nothing (exact: solved, not trained)"
    )
    if short:
        said += "; NO under 5 epochs, which are too few to say"
    if ladder:
        said += "; *: the best at its cut"
    for attack, images in few.items():
        said += f"; {attack}: on the first {images} test images only, compare by /class mean"
    if wide:
        said += (
            "; _paper: as in the paper (summed over channels; PSNR of batches); collapse: variance of the "
            "reconstructions over that of the images; last fifth: what it still gained; chance: of naming an image by "
            "luck, label's: by the predicted label alone; in class: among the images of its class"
        )
    return said


def _has(attempt: Attempt, name: str) -> bool:
    return bool(number(getattr(attempt.scores, name)))


def _head(name: str) -> str:
    assert name in Scores._fields
    return "/class mean" if name == "ratio" else name


def _cell(attempt: Attempt, name: str) -> str:
    value = number(getattr(attempt.scores, name))
    if name != "ratio" or not value:
        return value
    low, high = map(number, attempt.intervals.ratio)
    return f"{value} [{low}, {high}]"


def _floor(results: Sequence[AttackResult], name: str) -> list[str] | None:
    """The floors of the first cut: they are the images', whatever the cut."""
    if not results or name not in ("mse", "ratio"):
        return None
    floors = results[0].floors
    scale = 1.0 if name == "mse" else floors.class_mean
    return [number(getattr(floors, floor) / scale) for floor in FLOORS]


def _faults(result: AttackResult, attempt: Attempt) -> str:
    """Why the attack proves nothing where it shows no leak."""
    linear = next((one for one in result.attempts if one.attack == LINEAR), None)
    return ", ".join(faults_of(attempt, linear)).replace("_", " ")


def _gain(attempt: Attempt) -> str:
    return attempt.training.note or f"-{100 * attempt.training.last_gain:.1f} %"


def _ends(results: Sequence[AttackResult]) -> list[int]:
    """The last row of every cut, where cuts have several; else of all."""
    ends, at = [], -1
    for result in results:
        at += len(result.attempts)
        ends.append(at)
    return ends if any(len(result.attempts) > 1 for result in results) else ends[-1:]


def leak_table(
    title: str,
    results: Sequence[AttackResult],
    *,
    count: int = 3,
    wide: bool = False,
    class_names: tuple[str, ...] | None = None,
) -> Sheet:
    """The images and classes that the best attack on each cut inverted best and worst, ``count`` lines a cut.

    Args:
      title: of the table.
      results: one a cut.
      count: how many at either end.
      wide: show also which attack that was.
      class_names: what classes are called; their numbers stand for them where that is not known.
    """
    best = [result.best for result in results]
    images = {end: [getattr(a.leaks, f"{end}_images")[:count] for a in best] for end in ("best", "worst")}
    classes = {end: [getattr(a.leaks, f"{end}_classes")[:count] for a in best] for end in ("best", "worst")}
    columns = [Column("cut", [result.cut for result in results], words=True)]
    for end, found in images.items():
        cells = [
            "\n".join(f"{e.image} ({class_label(e.label, class_names)}): {number(e.mse)}" for e in entries)
            for entries in found
        ]
        columns.append(Column(f"{end}\nimages", cells, words=True))
    for end, found in classes.items():
        cells = [
            "\n".join(f"{class_label(e.label, class_names)}: {number(e.mse)}" for e in entries) for entries in found
        ]
        columns.append(Column(f"{end}\nclasses", cells, words=True))
    columns.append(Column("attack", [attempt.attack for attempt in best], wide=True, words=True))
    rules = frozenset(range(len(results)))
    return Sheet(title, columns, "number of the test image (its class): mse; class: mean mse", wide, rules)
