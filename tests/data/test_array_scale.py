"""Arrays on another scale, in another order, under other labels: taken, or named with what to do about it."""

import numpy as np
import pytest

from gpz_jax.data.sources import from_arrays, load
from gpz_jax.errors import UserError


def arrays(n=40, m=8, shape=(8, 8, 1), **changes):
    rng = np.random.default_rng(3)
    return {
        "train_images": rng.integers(0, 256, (n, *shape), np.uint8),
        "train_labels": np.arange(n) % 4,
        "test_images": rng.integers(0, 256, (m, *shape), np.uint8),
        "test_labels": np.arange(m) % 4,
        **changes,
    }


def refused(match, **changes):
    with pytest.raises(UserError, match=match) as error:
        from_arrays("x", **arrays(**changes))
    assert "\n" not in str(error.value)


def upto(top, dtype=np.uint8, n=40):
    values = np.random.default_rng(top).integers(0, top + 1, (n, 8, 8, 1))
    values.flat[0] = top
    return values.astype(dtype)


# The range ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_zeros_and_ones_are_no_bytes(dtype):
    both = {"train_images": upto(1, dtype), "test_images": upto(1, dtype, 8)}
    refused(
        r"train_images: largest value 1 of 255, .* store zeros and ones as 0 and 255, that is images \* 255", **both
    )


def test_floats_that_were_divided_twice():
    twice = {"train_images": upto(255) / 255**2, "test_images": upto(255, n=8) / 255**2}
    refused(r"train_images: largest value 1 of 255", **twice)


def test_ones_and_zeros_as_floats_are_black_and_white():
    source = from_arrays("x", **arrays(train_images=upto(1, np.float32), test_images=upto(1, np.float64, 8)))
    assert set(np.unique(source.train_images)) == {0, 255}
    assert source.notes == ()


@pytest.mark.parametrize("top", [15, 16, 63])
def test_dark_arrays_are_said(top):
    source = from_arrays("x", **arrays(train_images=upto(top), test_images=upto(top, n=8)))
    assert source.notes == tuple(
        f"data set 'x': the largest value of {part}_images is {top} of 255; if {top} stands for white, multiply by "
        f"255 / {top}"
        for part in ("train", "test")
    )
    assert from_arrays("x", **arrays(train_images=upto(64))).notes == ()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"test_images": upto(1, n=8)}, "test_images: largest value 1 of 255"),
        ({"test_images": upto(31, n=8)}, "largest value of train_images is 255 of 255, that of test_images 31; they"),
        (
            {"train_images": upto(16)},
            "largest value of test_images is 255 of 255, that of train_images 16; they are on",
        ),
        ({"aux_images": upto(15)}, "that of aux_images 15; they are on different scales: bring them to one"),
    ],
)
def test_train_and_test_on_different_scales(changed, said):
    refused(said, **changed)


def test_an_auxiliary_on_another_scale():
    from gpz_jax.data.splits import make_splits

    dark = arrays(train_images=upto(15), test_images=upto(15, n=8))
    with pytest.raises(
        UserError, match="auxiliary 'theirs': the largest value of 'x' is 255 of 255, that of 'theirs' 15"
    ):
        make_splits(from_arrays("x", **arrays()), seed=0, auxiliary=from_arrays("theirs", **dark, auxiliary=True))


def test_floats_and_bytes_of_one_scale_go_together():
    data = arrays()
    mixed = {**data, "test_images": data["test_images"] / np.float32(255)}
    np.testing.assert_array_equal(from_arrays("x", **mixed).test_images, data["test_images"])


@pytest.mark.parametrize(("value", "byte"), [(1.0000001, 255), (-1e-8, 0), (1.0019, 255), (-0.0019, 0)])
def test_a_rounding_error_outside_is_none(value, byte):
    images = np.full((40, 8, 8, 1), 0.5)
    images[3, 2, 1, 0] = value
    assert from_arrays("x", **arrays(train_images=images)).train_images[3, 2, 1, 0] == byte


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (
            upto(255) / 127.5 - 1,
            r"spans -1\.\.1; floats must lie in \[0, 1\]: of values in \[-1, 1\] store \(x \+ 1\) / 2",
        ),
        (upto(255) / 50 - 2.1, r"spans -2\.1\.\.3; .*undo what they were normalised by"),
        (upto(255) * 1.0, r"spans 0\.\.255; .*divide by 255, or store uint8"),
        (upto(4095, float), r"spans 0\.\.4095; .*divide by the largest possible value"),
        (upto(255) / 255 + 0.003, r"floats must lie in \[0, 1\]"),
        (
            upto(4095, np.uint16),
            r"spans 0\.\.4095; bring it to 0\.\.255 .*\(images >> 4\)\.astype\(np\.uint8\), if .* 12 bits",
        ),
        (upto(50_000, np.int32), r"\(images >> 8\)\.astype\(np\.uint8\), if they are of 16 bits"),
        (upto(1) > 0, r"has dtype bool; .*images\.astype\(np\.uint8\) \* 255"),
    ],
)
def test_other_ranges_are_named_with_what_to_do(images, said):
    refused(said, train_images=images)


# The order of axes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((40, 3, 8, 8), r"looks like \(N, C, H, W\); move the channels last with images\.transpose\(0, 2, 3, 1\)"),
        ((40, 1, 28, 20), r"looks like \(N, C, H, W\)"),
        ((32, 32, 3, 40), r"looks like \(H, W, C, N\); move the images first with images\.transpose\(3, 0, 1, 2\)"),
        ((40, 8, 8, 4), r"leave the latter out: images\[\.\.\., :3\]"),
        ((40, 784), r"images\.reshape\(-1, 28, 28, 1\)"),
        ((40, 3072), r"images\.reshape\(-1, 3, 32, 32\)\.transpose\(0, 2, 3, 1\)"),
        ((40, 28, 28), r"add the channel axis with images\[\.\.\., None\]"),
    ],
)
def test_an_order_that_can_be_told_is_told(shape, said):
    refused(said, train_images=np.zeros(shape, np.uint8))


# Labels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [lambda y: y[:, None], lambda y: y.astype(np.float32), lambda y: y[:, None] * 1.0])
def test_columns_and_whole_floats_are_labels(change):
    data = arrays()
    changed = {part: change(data[part]) for part in ("train_labels", "test_labels")}
    source = from_arrays("x", **{**data, **changed})
    np.testing.assert_array_equal(source.train_labels, data["train_labels"])
    assert source.train_labels.dtype == source.test_labels.dtype == np.int32


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.arange(40) % 4 + 1, "run from 1 to 4, but classes are numbered from 0; store labels - 1, of the test"),
        (np.arange(40) % 4 + 7, "run from 7 to 10, .*store labels - 7"),
        (np.eye(4)[np.arange(40) % 4], r"labels\.argmax\(1\) in place of one-hot rows"),
        (np.eye(4, dtype=bool)[np.arange(40) % 4], r"labels\.argmax\(1\)"),
        (np.array(["cat", "dog"] * 20), r"found <U3; .*np\.unique\(labels, return_inverse=True\)"),
        (np.arange(40) % 4 + 0.25, "must be integers, found float64"),
        (np.full(40, np.inf), "must be integers, found float64"),
        (np.full(40, 1e300), "must be integers, found float64"),
    ],
)
def test_labels_that_cannot_be_taken_are_explained(labels, said):
    refused(said, train_labels=labels)


# Images that say nothing new ------------------------------------------------------------------------------------------


def test_constant_images_and_copies_are_counted(tmp_path, capsys):
    data = arrays()
    data["train_images"][[1, 5]] = 9
    data["train_images"][7] = 200
    data["test_images"][0] = 9  # of one colour, as two above: no copy of them
    data["train_images"][10:13] = data["train_images"][20]
    np.savez(tmp_path / "set.npz", **data)
    load("set", tmp_path)
    where = tmp_path / "set.npz"
    assert capsys.readouterr().err.splitlines() == [
        f"gpz: {where}: 3 of the 40 train_images and 1 of the 8 test_images are of one colour all over",
        f"gpz: {where}: 3 of the 40 train_images are exact copies of others there",
    ]


def test_one_colour_is_constant_whichever_it_is():
    data = arrays(shape=(4, 4, 3))
    data["train_images"][0] = (10, 200, 30)
    assert "1 of the 40 train_images are of one colour" in from_arrays("x", **data).notes[0]


def test_who_asks_to_be_told_is_told_and_nobody_else(tmp_path, capsys):
    data = arrays()
    data["train_images"][1] = data["train_images"][2]
    np.savez(tmp_path / "set.npz", **data)
    told = []
    source = load("set", tmp_path, tell=told.append)
    assert told == list(source.notes)
    assert len(told) == 1
    assert capsys.readouterr() == ("", "")


def test_the_bundled_digits_need_no_word():
    assert load("digits").notes == ()
