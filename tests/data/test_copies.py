"""Who saw what: images of one party that another has too, the same or nearly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gpz_jax.data.copies import Party, copies_between, digests
from gpz_jax.data.near_copies import near_copies, thumbnails
from gpz_jax.data.sources import from_arrays, load
from gpz_jax.data.splits import make_splits
from gpz_jax.errors import UserError

NAMES = ("train", "validation", "auxiliary", "test")


def noise(n, shape=(8, 8, 1), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def smooth(n, side=32, seed=0):
    """Images of large soft shapes, as photographs are."""
    small = np.random.default_rng(seed).integers(0, 256, (n, 7, 7), np.uint8)
    return resized(small[..., None], side)


def resized(images, side, *, mirrored=False):
    pictures = [Image.fromarray(image[..., 0]).resize((side, side), Image.Resampling.BICUBIC) for image in images]
    if mirrored:
        pictures = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
    return np.stack([np.asarray(picture) for picture in pictures])[..., None]


def source(train, test, name="set", **more):
    labels = {"train_labels": np.arange(len(train)) % 2, "test_labels": np.arange(len(test)) % 2}
    return from_arrays(name, train_images=train, test_images=test, **labels, **more)


# Exact ----------------------------------------------------------------------------------------------------------------


def test_test_images_among_the_train_images_are_refused_with_their_number():
    train = noise(300)
    with pytest.raises(UserError) as error:
        make_splits(source(train, train[:30]), seed=0)
    said = str(error.value)
    assert said.startswith("30 of the 30 test images of 'set' are others' too: ")
    counts = [int(said.split(f" in {part}")[0].split()[-1]) for part in NAMES[:3]]
    assert sum(counts) == 30  # the three share no image
    assert "\n" not in said
    assert "--allow-copies" in error.value.with_flags()


def test_less_than_one_in_a_hundred_is_said_and_no_more():
    train, test = noise(300), noise(201, seed=1)
    test[[4, 90]] = train[[18, 230]]  # under the same labels
    data = source(train, test)
    (note,) = make_splits(data, seed=0).notes
    assert note.startswith("2 of the 201 test images of 'set' are others' too: ")
    test[5] = train[1]
    with pytest.raises(UserError, match="3 of the 201 test images"):
        make_splits(data, seed=0)
    (note,) = make_splits(data, seed=0, allow_copies=True).notes
    assert note.endswith(" (allowed by allow_copies)")


@pytest.mark.parametrize("judged", [1, 2, 3])
@pytest.mark.parametrize("other", [0, 1, 2])
def test_between_any_two_parties(judged, other):
    if other >= judged:
        return
    arrays = [noise(50, seed=seed) for seed in range(4)]
    arrays[judged][[3, 8]] = arrays[other][7]
    parties = [Party(name, array, np.arange(50)) for name, array in zip(NAMES, arrays, strict=True)]
    said = f"2 of the 50 {NAMES[judged]} images of 'x' are others' too: 2 in {NAMES[other]}"
    with pytest.raises(UserError, match=said):
        copies_between(parties, "x")
    assert copies_between(parties, "x", allow=True) == (f"{said} (allowed by allow_copies)",)


def test_an_auxiliary_set_of_another_name_that_holds_test_images():
    train, test = noise(400), noise(100, seed=1)
    theirs = noise(4000, seed=2)
    theirs[5] = test[0]  # one in 4,000 of theirs, one in 100 of the test images
    other = source(theirs, noise(2, seed=3), "other", auxiliary=True)
    with pytest.raises(UserError, match="1 of the 4000 images of auxiliary 'other' are also in 'set'") as error:
        make_splits(source(train, test), seed=0, auxiliary=other)
    assert "allow_copies" in str(error.value)
    parts = make_splits(source(train, test), seed=0, auxiliary=other, allow_copies=True)
    assert parts.notes == ("1 of the 4000 images of auxiliary 'other' are also in 'set' and are left out",)
    assert 5 not in parts.auxiliary.indices


def test_images_of_one_colour_are_no_copies():
    train, test = noise(300), noise(20, seed=1)
    train[:40] = 0
    test[:5] = 0
    assert make_splits(source(train, test), seed=0).notes == ()


def test_the_same_bytes_in_another_shape_are_another_image():
    images = noise(4, (4, 9, 1))
    assert not np.isin(digests(images), digests(images.reshape(4, 6, 6, 1))).any()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), order=st.permutations(range(12)))
def test_counts_do_not_depend_on_the_order_of_images(seed, order):
    rng = np.random.default_rng(seed)
    mine, theirs = rng.integers(0, 2, (2, 12, 2, 2, 1), np.uint8)
    expected = sum(any((x == y).all() for y in theirs) and x.min() < x.max() for x in mine)
    for arrays in ((mine, theirs), (mine[list(order)], theirs), (mine, theirs[list(order)])):
        judged, known = (
            Party(name, array, np.arange(12)) for name, array in zip(("test", "train"), arrays, strict=True)
        )
        notes = copies_between([known, judged], "x", allow=True)
        assert len(notes) == (expected > 0)
        assert not notes or notes[0].startswith(f"{expected} of the 12 test images")


# Nearly ---------------------------------------------------------------------------------------------------------------


def test_mirrored_and_resized_test_images_are_said_and_not_refused():
    train = smooth(300)
    test = smooth(60, seed=1)
    test[:20] = resized(train[:20], 32, mirrored=True)
    test[20:40] = resized(resized(train[20:40], 24), 32)
    test[40:43] = train[40:43]  # exact ones are not counted again
    notes = make_splits(source(train, test), seed=0, allow_copies=True).notes
    exact, near = notes
    assert exact.startswith("3 of the 60 test images of 'set' are others' too: ")
    found = int(near.split()[0])
    assert 38 <= found <= 40
    assert near == (
        f"{found} of the 60 test images of 'set' look like copies of others' but for size, a flip or small changes, "
        "exact ones apart"
    )


def test_an_auxiliary_of_another_size_that_was_made_of_the_test_images():
    train, test = smooth(200), smooth(50, seed=1)
    theirs = np.concatenate([smooth(500, 64, seed=2), resized(test, 64)])
    other = source(theirs, theirs[:2], "other", auxiliary=True)
    (note,) = make_splits(source(train, test), seed=0, auxiliary=other).notes
    assert int(note.split()[0]) >= 48
    assert "of the 50 test images of 'set' look like copies of others' but" in note


def test_other_images_are_not_taken_for_copies():
    assert make_splits(source(smooth(2000), smooth(500, seed=1)), seed=0).notes == ()


@pytest.mark.parametrize("seed", range(3))
def test_digits_are_not_taken_for_one_another(seed):
    assert make_splits(load("digits"), seed=seed).notes == ()


def test_both_sides_may_be_the_smaller_one():
    some, many = thumbnails(smooth(10)), thumbnails(np.concatenate([smooth(300, seed=1), smooth(10)]))
    assert near_copies(some, many).all()
    assert near_copies(many, some).tolist() == [False] * 300 + [True] * 10
    assert near_copies(some, many[:0]).tolist() == [False] * 10
    assert near_copies(some[:0], many).tolist() == []


@pytest.mark.parametrize("shape", [(16, 16, 1), (32, 48, 3), (11, 5, 1), (100, 33, 3)])
def test_thumbnails_are_means_of_pieces(shape):
    # The means over equal pieces of what every pixel, cut into 16 x 16 small ones, comes to.
    images = noise(2, shape)
    fine = images.mean(axis=-1).repeat(16, axis=1).repeat(16, axis=2)
    expected = fine.reshape(2, 16, shape[0], 16, shape[1]).mean(axis=(2, 4))
    np.testing.assert_allclose(thumbnails(images), expected, rtol=1e-5)


def test_copies_under_another_label_are_said_and_not_refused():
    """No score gains by them: what is wrong is the labels, and the whole set may be noise."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    labels = np.arange(40) % 4
    everyone = Party("train", images, np.arange(40), labels)
    (said,) = copies_between([everyone, Party("test", images, np.arange(20), (labels + 1) % 4)], "x")
    assert "20 of the 20 test images of 'x' are others' too: 20 in train; only 0 under the same label" in said
    for theirs in (labels, None):
        with pytest.raises(UserError, match="20 of the 20 test images"):
            copies_between([everyone, Party("test", images, np.arange(20), theirs)], "x")
