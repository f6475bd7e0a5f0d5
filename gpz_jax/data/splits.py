"""Who may see what. This file is the threat model.

- ``train``: the classifier's, and nobody else's.
- ``validation``: held out of it to pick epochs and learning rates.
- ``auxiliary``: the attacker's own images, with which it trains a decoder; never the classifier's.
- ``test``: for the last measurement of both; nothing is picked on it.

A part is a set of indices into an array shared by all of them: parts of one array are disjoint exactly when
their indices are, and nothing is copied.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from gpz_jax.data.arrays import Source, to_channels
from gpz_jax.data.byte_scale import check_scale
from gpz_jax.data.copies import TOO_MANY, Party, constant, copies_between, digests
from gpz_jax.errors import UserError
from gpz_jax.presentation import class_label


@dataclass(frozen=True, eq=False)
class Split:
    """Some of the images of an array: those at ``indices``.

    ``images`` and ``labels`` are the whole arrays, shared and not copied; ``labels`` is None where the holder
    has none. ``len`` counts the members.
    """

    images: UInt8[np.ndarray, "all H W C"]
    labels: Int32[np.ndarray, "all"] | None
    indices: Int32[np.ndarray, "N"]

    def __len__(self) -> int:
        return len(self.indices)

    def take(self) -> tuple[UInt8[np.ndarray, "N H W C"], Int32[np.ndarray, "N"] | None]:
        """Copy out the members' images and labels (or None)."""
        return self.images[self.indices], None if self.labels is None else self.labels[self.indices]


class Splits(NamedTuple):
    """The four parts of an experiment, and what had to be done to make them fit (one line each)."""

    train: Split
    validation: Split
    auxiliary: Split
    test: Split
    num_classes: int
    notes: tuple[str, ...] = ()


def make_splits(
    source: Source,
    *,
    seed: int,
    validation_fraction: float = 0.1,
    auxiliary_fraction: float = 0.25,
    auxiliary: Source | None = None,
    allow_copies: bool = False,
) -> Splits:
    """Deal a data set out to classifier and attacker.

    ``test`` is the source's test part. Of each class's n train images, round(validation_fraction n) go to
    ``validation`` and round(auxiliary_fraction n) to ``auxiliary``, by a shuffle fixed by ``seed`` (0 or
    more), but at least 2 each of a class of 6 or more, so that all three parts have the 2 that a radius
    needs; the rest is ``train``. The validation part depends on the seed and its own fraction alone.

    Where the source has groups (people, patients), they are dealt whole: a part goes through them in an order fixed by
    the seed and takes each that brings its number of images of every class nearer to what it is due. Of a class whose
    groups have one label, it ends within half a group of its due.

    An attacker with images of its own takes no fraction: see :func:`attackers_images`.

    Images that two of the four parties have are counted in the notes, see
    :func:`~gpz_jax.data.copies.copies_between`; with ``allow_copies`` they are counted however many they are.

    Raises UserError for a fraction outside (0, 1) or fractions that leave nothing, for an auxiliary that is the source
    or shares images with it, for 1 % or more of a party's images that another has too, and for a class with fewer than
    two images in a labelled part (its radius is undefined there).

    >>> from gpz_jax.data.sources import load
    >>> parts = make_splits(load("digits"), seed=0)
    >>> [len(part) for part in parts[:4]]
    [936, 143, 359, 359]
    """
    if seed < 0:
        raise UserError(f"the split seed is {seed}; it must be 0 or more")
    own_images = auxiliary is None and source.aux_images is None
    fractions = {"validation_fraction": validation_fraction}
    if own_images:
        fractions["auxiliary_fraction"] = auxiliary_fraction
    for name, fraction in fractions.items():
        if not 0 < fraction < 1:
            raise UserError(f"{name} is {fraction}; it must lie strictly between 0 and 1")
    if sum(fractions.values()) >= 1:
        raise UserError(
            f"{' + '.join(fractions)} = {sum(fractions.values()):g} leaves no train images; keep it below 1"
        )

    images, labels = source.train_images, source.train_labels
    rng, shares = np.random.default_rng(seed), list(fractions.values())
    if source.train_group is None:
        *dealt, rest = _deal(labels, source.num_classes, shares, rng)
    else:
        *dealt, rest = _deal_groups(source.train_group, labels, source.num_classes, shares, rng)
    train, validation = Split(images, labels, rest), Split(images, labels, dealt[0])
    test = Split(source.test_images, source.test_labels, _everything(source.test_images))
    notes = _imbalance(source)
    if own_images:
        attacker = Split(images, labels, dealt[1])
    else:
        attacker, said = attackers_images(source, auxiliary, allow_copies=allow_copies)
        notes += said
    _check_counts("train", train, source, "lower the fractions held out or add images of the class")
    _check_counts("validation", validation, source, "raise validation_fraction or add images of the class")
    if own_images:
        _check_counts("auxiliary", attacker, source, "raise auxiliary_fraction or add images of the class")
    _check_counts("test", test, source, "add test images of the class")
    parts = Splits(train, validation, attacker, test, source.num_classes, notes)
    return parts._replace(notes=(*notes, *copies_said(parts, source.name, allow=allow_copies)))


def copies_said(parts: Splits, name: str, *, allow: bool = False) -> tuple[str, ...]:
    """Say which of the parties of data set ``name`` have images of others: see :func:`copies_between`.

    >>> from gpz_jax.data.sources import load
    >>> copies_said(make_splits(load("digits"), seed=0), "digits")
    ()
    """
    in_order = {part: getattr(parts, part) for part in ("train", "validation", "auxiliary", "test")}
    parties = [Party(part, split.images, split.indices, split.labels) for part, split in in_order.items()]
    return copies_between(parties, name, allow=allow)


def attackers_images(
    source: Source, auxiliary: Source | None, *, allow_copies: bool | None = None
) -> tuple[Split, tuple[str, ...]]:
    """Return the images of an attacker that has its own, without labels, and what had to be done to make them fit.

    They are all train images of the data set ``auxiliary``, channels converted to the source's, or, without one, the
    ``aux_images`` inside the source. Of images of the source's size, those that are byte for byte among its train or
    test images are left out.

    Raises UserError for the source as its own auxiliary, for images on another scale than the source's, and, without
    ``allow_copies`` (None where the caller has no such setting), where 1 % or more of the auxiliary's images, or as
    many as 1 % of the source's train images or of its test images, are the source's: then one set was made of the
    other, and there may be more that are not found.

    >>> from gpz_jax.data.sources import load
    >>> attackers_images(load("digits"), load("digits"))
    Traceback (most recent call last):
    ...
    gpz_jax.errors.UserError: data set 'digits' cannot be its own auxiliary ('digits'): the attacker ...
    """
    if auxiliary is None:
        assert source.aux_images is not None
        return _without_shared(source.aux_images, "aux_images", source, allow_copies)
    if auxiliary.name == source.name:
        raise UserError(
            f"data set {source.name!r} cannot be its own auxiliary ({auxiliary.name!r}): the attacker "
            "would hold the classifier's images; name another, or none to hold a part of it out"
        )
    notes = []
    if source.aux_images is not None:
        notes.append(f"the auxiliary images inside {source.name!r} are not used, {auxiliary.name!r} is")
    channels, theirs = source.train_images.shape[-1], auxiliary.train_images.shape[-1]
    if theirs != channels:
        how = "grey repeated" if channels == 3 else "luminance"
        notes.append(f"auxiliary {auxiliary.name!r} converted from {theirs} to {channels} channels ({how})")
    images = to_channels(auxiliary.train_images, channels)
    _check_same_scale(source, auxiliary)
    attacker, left_out = _without_shared(images, f"auxiliary {auxiliary.name!r}", source, allow_copies)
    return attacker, (*notes, *left_out)


def full(source: Source) -> Split:
    """Take every train image: for counting, never for training or measuring beside a held-out part.

    >>> from gpz_jax.data.sources import load
    >>> len(full(load("digits")))
    1438
    """
    return Split(source.train_images, source.train_labels, _everything(source.train_images))


def balanced_subset(split: Split, size: int, *, seed: int) -> Split:
    """Pick ``size`` members, the same for the same seed, with class counts as equal as the split allows.

    Counts differ by more than one only where a class has run out. A larger subset of the same seed holds the
    smaller ones; a size beyond the split's gives the split itself. Without labels it is a plain random one.

    Raises UserError for a size below 1 or a negative seed.

    >>> from gpz_jax.data.sources import load
    >>> subset = balanced_subset(full(load("digits")), 30, seed=0)
    >>> np.bincount(subset.take()[1]).tolist()
    [3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    """
    if size < 1:
        raise UserError(f"a subset of {size} images was asked for; it must have at least 1")
    if seed < 0:
        raise UserError(f"the subset seed is {seed}; it must be 0 or more")
    if size >= len(split):
        return split
    order = np.random.default_rng(seed).permutation(split.indices)
    if split.labels is not None:
        # A round takes one image of every class that has one left; the shuffle decides within a round.
        labels = split.labels[order]
        by_class = np.argsort(labels, kind="stable")
        counts = np.bincount(labels)
        turn = np.empty(len(order), np.int64)
        turn[by_class] = np.concatenate([np.arange(count) for count in counts])
        order = order[np.argsort(turn, kind="stable")]
    return Split(split.images, split.labels, np.sort(order[:size]))


def limit(split: Split, size: int | None, *, seed: int) -> Split:
    """Return the split itself if ``size`` is None, else a :func:`balanced_subset` of that size.

    >>> from gpz_jax.data.sources import load
    >>> everything = full(load("digits"))
    >>> limit(everything, None, seed=0) is everything
    True
    """
    return split if size is None else balanced_subset(split, size, seed=seed)


def limit_source(source: Source, size: int, *, seed: int) -> Source:
    """Keep no more than ``size`` train images of a source, as a :func:`balanced_subset` does; test images stay.

    >>> from gpz_jax.data.sources import load
    >>> len(limit_source(load("digits"), 500, seed=0).train_images)
    500
    """
    kept = balanced_subset(full(source), size, seed=seed).indices
    return dataclasses.replace(
        source,
        train_images=source.train_images[kept],
        train_labels=source.train_labels[kept],
        train_group=None if source.train_group is None else source.train_group[kept],
    )


def _deal(
    labels: np.ndarray, num_classes: int, fractions: list[float], rng: np.random.Generator
) -> list[Int32[np.ndarray, "_"]]:
    """Sorted indices of one part per fraction of each class, then of what is left."""
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    parts: list[list[np.ndarray]] = [[] for _ in range(len(fractions) + 1)]
    for members in np.split(np.argsort(labels, kind="stable"), ends[:-1]):
        cuts = np.cumsum([_due(fraction, len(members)) for fraction in fractions])
        for part, piece in zip(parts, np.split(rng.permutation(members), cuts), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)).astype(np.int32) for part in parts]


def _due(fraction: float, members: int) -> int:
    """How many images of a class a part is due; of 6 or more, no fewer than the 2 that its radius needs."""
    return max(round(fraction * members), 2 if members >= 6 else 0)


def _deal_groups(
    groups: np.ndarray, labels: np.ndarray, num_classes: int, fractions: list[float], rng: np.random.Generator
) -> list[Int32[np.ndarray, "_"]]:
    """As :func:`_deal`, but a group's images stay together."""
    counts = np.zeros((groups.max() + 1, num_classes), np.int64)
    np.add.at(counts, (groups, labels), 1)
    members = counts.sum(axis=0)
    left = rng.permutation(len(counts))
    parts = []
    for fraction in fractions:
        due = np.array([_due(fraction, n) for n in members.tolist()])
        taken = _take_groups(counts[left], due, members)
        parts.append(left[taken])
        left = left[~taken]
    return [np.flatnonzero(np.isin(groups, part)).astype(np.int32) for part in (*parts, left)]


def _take_groups(counts: np.ndarray, due: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Which groups (counts: groups x classes) a part takes to come near to its due.

    One after another is taken, or given back, if that brings the part nearer, until none does.
    """
    taken, short = np.zeros(len(counts), bool), due.astype(np.float64)
    weights = 1 / np.maximum(members, 1)  # so that a rare class weighs no less than a common one
    moved = True
    while moved:
        moved = False
        for i, count in enumerate(counts):
            step = -count if taken[i] else count
            if np.sum(weights * ((short - step) ** 2 - short**2)) < -1e-9:
                taken[i] = not taken[i]
                short -= step
                moved = True
    return taken


def _imbalance(source: Source) -> tuple[str, ...]:
    """Say it where the classes differ by more than half in their number of train images."""
    counts = np.bincount(source.train_labels, minlength=source.num_classes)
    if counts.max() <= 1.5 * counts.min():
        return ()
    most, named = int(counts.argmax()), partial(class_label, names=source.class_names)
    always = float(np.mean(source.test_labels == most))
    return (
        f"the classes of {source.name!r} are not balanced: {counts.max()} train images of class {named(most)}, "
        f"{counts.min()} of class {named(int(counts.argmin()))}; always answering {named(most)} has test accuracy "
        f"{always:.3f}",
    )


def _check_same_scale(source: Source, auxiliary: Source) -> None:
    named = {f"{one.name!r}": one.train_images for one in (source, auxiliary)}
    check_scale(named, f"auxiliary {auxiliary.name!r}")


def _without_shared(images: np.ndarray, what: str, source: Source, allow: bool | None) -> tuple[Split, tuple[str, ...]]:
    """The images less those that are the source's, as :func:`attackers_images` says."""
    if images.shape[1:] != source.train_images.shape[1:]:
        return Split(images, None, _everything(images)), ()
    train, test = digests(source.train_images), digests(source.test_images)
    theirs, filled = digests(images), ~constant(images)
    shared = np.isin(theirs, np.concatenate([train, test])) & filled
    count, tested = int(shared.sum()), int(np.isin(test, theirs[filled]).sum())
    many = max(count / min(len(images), len(train)), tested / len(test)) >= TOO_MANY
    if many and not allow:
        way_out = "" if allow is None else ", or leave them out here with allow_copies"
        raise UserError(
            f"{count} of the {len(images)} images of {what} are also in {source.name!r}: the attacker would hold the "
            f"classifier's own images; remove them from one of the two{way_out}",
            field="allow_copies",
        )
    said = f"{count} of the {len(images)} images of {what} are also in {source.name!r} and are left out"
    return Split(images, None, np.flatnonzero(~shared).astype(np.int32)), (said,) if count else ()


def _everything(images: np.ndarray) -> Int32[np.ndarray, "_"]:
    return np.arange(len(images), dtype=np.int32)


def _check_counts(name: str, split: Split, source: Source, advice: str) -> None:
    assert split.labels is not None
    counts = np.bincount(split.labels[split.indices], minlength=source.num_classes)
    short = np.flatnonzero(counts < 2)
    if short.size:
        few = "no image" if counts[short[0]] == 0 else "only 1 image"
        more = f" (and {short.size - 1} more)" if short.size > 1 else ""
        named = class_label(int(short[0]), source.class_names)
        raise UserError(
            f"class {named}{more} of data set {source.name!r} has {few} in the {name} split, at least 2 "
            f"are needed; {advice}"
        )
