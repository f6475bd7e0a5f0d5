import hashlib
import importlib.util
import io
import pathlib
import sys
import tracemalloc
import types
import zipfile

import numpy as np
import pytest
from PIL import Image

from gpz_jax.data import arrays as checked_arrays
from gpz_jax.data import byte_scale
from gpz_jax.data.npz_file import brings_auxiliary
from gpz_jax.data.sources import TFDS_NAMES, fingerprint, from_arrays, load, read_folder, read_npz, to_channels
from gpz_jax.errors import UserError

#: By the names that we know them by.
PAPER = ["cifar10", "mnist", "kmnist", "emnist_letters", "celeb_a", "facescrub", "chest_xray", "lfw"]


def arrays(n=12, m=6, shape=(4, 5, 1), classes=3, **changes):
    rng = np.random.default_rng(1)
    result = {
        "train_images": rng.integers(0, 256, (n, *shape), dtype=np.uint8),
        "train_labels": (np.arange(n) % classes).astype(np.int32),
        "test_images": rng.integers(0, 256, (m, *shape), dtype=np.uint8),
        "test_labels": (np.arange(m) % classes).astype(np.int32),
    }
    result.update(changes)
    return {key: value for key, value in result.items() if value is not None}


def write(path, **changes):
    np.savez(path, **arrays(**changes))
    return path


def one_line(error):
    assert "\n" not in str(error.value)


# The bundled digits.


def test_digits_are_scikit_learns_scaled_to_bytes():
    from sklearn.datasets import load_digits

    source, bunch = load("digits"), load_digits()
    assert source.train_images.dtype == np.uint8
    assert source.num_classes == 10
    ours = np.concatenate([source.train_images, source.test_images])[..., 0]
    theirs = np.floor(bunch.images * 255 / 16 + 0.5).astype(np.uint8)
    labels = np.concatenate([source.train_labels, source.test_labels])

    def rows(x, y):
        return sorted((int(c), image.tobytes()) for image, c in zip(x, y, strict=True))

    assert rows(ours, labels) == rows(theirs, bunch.target)
    assert ours.max() == 255


def test_digits_split_is_stratified_and_pinned():
    source = load("digits")
    train, test = np.bincount(source.train_labels), np.bincount(source.test_labels)
    np.testing.assert_allclose(test, 0.2 * (train + test), atol=0.5)
    # A change here changes every published number on the digits.
    assert fingerprint(source).startswith("31dfe98ea681920a")


# Where a name leads.


def test_npz_is_loaded_by_name(tmp_path):
    data = arrays()
    np.savez(tmp_path / "tiny.npz", **data)
    source = load("tiny", tmp_path)
    assert (source.name, source.num_classes, source.aux_images) == ("tiny", 3, None)
    for key, value in data.items():
        np.testing.assert_array_equal(getattr(source, key), value)


def test_release_keys_are_read(tmp_path):
    data = arrays()
    aux = np.zeros((3, 7, 7, 1), np.uint8)  # another height and width is allowed
    np.savez_compressed(
        tmp_path / "old.npz",
        train_data=data["train_images"],
        train_labels=data["train_labels"],
        test_data=data["test_images"],
        test_labels=data["test_labels"],
        auxiliary_data=aux,
        patient=np.arange(3),
    )
    source = load("old", str(tmp_path))
    np.testing.assert_array_equal(source.train_images, data["train_images"])
    np.testing.assert_array_equal(source.test_images, data["test_images"])
    assert source.aux_images is not None
    assert source.aux_images.shape == (3, 7, 7, 1)


@pytest.mark.parametrize("name", ["group", "patient"])
def test_groups_are_read_under_either_name(tmp_path, name):
    people = {f"train_{name}": np.arange(12) // 2 + 40, f"test_{name}": np.arange(6)}
    source = read_npz(write(tmp_path / "x.npz", **people))
    assert source.train_group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert fingerprint(source) != fingerprint(read_npz(write(tmp_path / "y.npz")))


def test_groups_of_two_names_are_not_mixed(tmp_path):
    # Person 3 need not be patient 3.
    source = read_npz(write(tmp_path / "x.npz", train_group=np.arange(12), test_patient=np.arange(6)))
    assert source.train_group.tolist() == list(range(12))


def test_groups_of_an_attackers_data_set_are_not_read(tmp_path):
    shared = {"train_group": np.arange(12), "test_group": np.arange(6)}
    np.savez(tmp_path / "x.npz", **arrays(), **shared)
    with pytest.raises(UserError, match=r"x\.npz: train and test share 6 of the groups \(0, for one\)") as error:
        load("x", tmp_path)
    one_line(error)
    assert load("x", tmp_path, auxiliary=True).train_group is None


def test_whether_a_file_brings_the_attackers_images(tmp_path):
    aux = np.zeros((3, 7, 7, 1), np.uint8)
    assert brings_auxiliary(write(tmp_path / "x.npz", aux_images=aux))
    assert brings_auxiliary(write(tmp_path / "y.npz", auxiliary_data=aux))
    assert not brings_auxiliary(write(tmp_path / "z.npz"))
    (tmp_path / "text.npz").write_text("text")
    assert not brings_auxiliary(tmp_path / "text.npz")
    assert not brings_auxiliary(tmp_path)
    assert not brings_auxiliary(tmp_path / "none.npz")


def test_npz_comes_before_folder_and_folder_before_tfds(tmp_path):
    make_folder(tmp_path / "mnist", {"a": 2, "b": 2}, size=(3, 3))
    assert load("mnist", tmp_path).train_images.shape == (4, 3, 3, 1)
    write(tmp_path / "mnist.npz")
    assert load("mnist", tmp_path).train_images.shape == (12, 4, 5, 1)


@pytest.mark.parametrize("name", ["a/b", "a\\b", "..", "x..y", ".hidden", "", "/etc", "a\0b", "a\nb"])
def test_a_path_is_not_a_name(name, tmp_path):
    with pytest.raises(UserError, match="is not a data set name") as error:
        load(name, tmp_path)
    one_line(error)


def test_a_path_for_a_name_is_told_apart(tmp_path):
    with pytest.raises(UserError, match=r"the data directory and a plain name, here pics/of and mine$"):
        load("pics/of/mine", tmp_path)


def test_unknown_name_says_what_was_looked_for(tmp_path):
    write(tmp_path / "faces.npz")
    with pytest.raises(UserError, match=r"looked for .*facse\.npz and the folder .*did you mean 'faces'"):
        load("facse", tmp_path)
    make_folder(tmp_path / "chests", {"a": 1, "b": 1})
    with pytest.raises(UserError, match="did you mean 'chests'"):
        load("chest", tmp_path)
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        load("cifar", tmp_path)
    with pytest.raises(UserError, match="known: digits, chests, faces, cifar10"):
        load("zzzz", tmp_path)


def test_data_directory_missing_or_a_file(tmp_path):
    with pytest.raises(UserError, match=r"no data directory was given .*did you mean 'digits'"):
        load("digit")
    with pytest.raises(UserError, match=r"the data directory .*nowhere does not exist"):
        load("faces", tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file; pass the directory"):
        load("faces", tmp_path / "file")


# .npz files that are none.


def test_npz_missing(tmp_path):
    with pytest.raises(UserError, match=r"no file .*x\.npz"):
        read_npz(tmp_path / "x.npz")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04N.", b"#!/bin/sh\n"])
def test_not_an_npz(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npz is not an \.npz file; write it with numpy\.savez"):
        read_npz(tmp_path / "x.npz")


def test_a_zip_behind_a_preamble_is_not_an_npz(tmp_path):
    good = write(tmp_path / "good.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(b"#!/bin/sh\n" + good)
    with pytest.raises(UserError, match=r"is not an \.npz file"):
        read_npz(tmp_path / "x.npz")


def test_bare_npy(tmp_path):
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match=r"is a single \.npy array; write named arrays"):
        read_npz(tmp_path / "x.npz")


def test_truncated_npz(tmp_path):
    content = write(tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"x\.npz is truncated; copy or write it again"):
        read_npz(tmp_path / "x.npz")


def test_damaged_member(tmp_path):
    path = write(tmp_path / "x.npz")
    content = bytearray(path.read_bytes())
    at = content.find(b"train_images.npy") + 150  # inside the pixels: the checksum no longer holds
    content[at] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"train_images is damaged .*; copy or write the file again") as error:
        read_npz(path)
    one_line(error)


def test_member_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        for key in arrays():
            file.writestr(key, "text")
    with pytest.raises(UserError, match="train_images is not a numpy array"):
        read_npz(tmp_path / "x.npz")


class Bomb:
    """Unpickling this would create a file."""

    path: pathlib.Path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


def test_pickles_are_refused_and_never_run(tmp_path):
    bomb = Bomb()
    bomb.path = tmp_path / "it-ran"
    np.savez(tmp_path / "x.npz", **arrays(train_labels=np.array([bomb] * 12, dtype=object)))
    with pytest.raises(UserError, match="train_labels holds pickled Python objects, which are never loaded"):
        read_npz(tmp_path / "x.npz")
    assert not bomb.path.exists()


def test_missing_keys_are_named_with_those_found(tmp_path):
    path = write(tmp_path / "x.npz", train_images=None, test_labels=None)
    with pytest.raises(
        UserError, match="lacks train_images or train_data, test_labels; it holds train_labels, test_im"
    ):
        read_npz(path)
    np.savez(path)
    with pytest.raises(UserError, match="it holds nothing"):
        read_npz(path)


def test_array_errors_from_a_file_name_the_file_and_the_key(tmp_path):
    path = write(tmp_path / "x.npz", test_images=np.zeros((6, 4, 5), np.uint8))
    with pytest.raises(UserError, match=r"x\.npz: test_images must have the shape \(N, H, W, C\)"):
        read_npz(path)


# Arrays that are refused.

GREY = np.zeros((12, 4, 5, 1))
BAD_IMAGES = {
    "rank 3": (
        np.zeros((12, 4, 5), np.uint8),
        r"\(N, H, W, C\), found \(12, 4, 5\); add .*images\[\.\.\., None\]",
    ),
    "rank 2": (np.zeros((12, 4), np.uint8), r"\(N, H, W, C\), found \(12, 4\)$"),
    "no images": (np.zeros((0, 4, 5, 1), np.uint8), r"train_images is empty, its shape is \(0, 4, 5, 1\)"),
    "no rows": (np.zeros((12, 0, 5, 1), np.uint8), "train_images is empty"),
    "two channels": (np.zeros((12, 4, 5, 2), np.uint8), "must have 1 or 3 channels, found 2"),
    "channels first": (np.zeros((12, 3, 4, 5), np.uint8), r"found 5 .*transpose\(0, 2, 3, 1\)"),
    "bool": (GREY > 0, "has dtype bool; store it as uint8"),
    "complex": (GREY.astype(complex), "has dtype complex128"),
    "text": (GREY.astype(str), "has dtype <U"),
    "float to 255": (GREY + 255, r"is float but spans 255\.\.255; floats must lie in \[0, 1\]"),
    "float below 0": (GREY - 0.5, r"spans -0\.5\.\.-0\.5"),
    "NaN": (np.where(np.arange(5)[:, None] == 2, np.nan, GREY), "holds NaN or infinite"),
    "inf": (np.where(np.arange(5)[:, None] == 2, np.inf, GREY), "holds NaN or infinite"),
    "int above 255": (np.full(GREY.shape, 256), r"is int64 and spans 256\.\.256; bring it to 0\.\.255"),
    "int below 0": (np.full(GREY.shape, -1, np.int8), r"is int8 and spans -1\.\.-1"),
    "another size": (np.zeros((12, 5, 4, 1), np.uint8), "train_images are 5x4x1 but test_images are 4x5x1"),
    "another depth": (np.zeros((12, 4, 5, 3), np.uint8), "train_images are 4x5x3 but test_images are 4x5x1"),
}


@pytest.mark.parametrize(("images", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_images(images, message):
    with pytest.raises(UserError, match=message) as error:
        from_arrays("bad", **arrays(train_images=images))
    one_line(error)
    assert str(error.value).startswith("data set 'bad': train_images")


def test_bad_auxiliary_images():
    with pytest.raises(UserError, match="train_images have 1 channels but aux_images have 3"):
        from_arrays("bad", **arrays(aux_images=np.zeros((2, 4, 5, 3), np.uint8)))
    with pytest.raises(UserError, match="aux_images is empty"):
        from_arrays("bad", **arrays(aux_images=np.zeros((0, 4, 5, 1), np.uint8)))


LABELS = np.arange(12) % 3
BAD_LABELS = {
    "2-D": (LABELS.reshape(6, 2), r"must have the shape \(N,\), found \(6, 2\); give one class number per image"),
    "one-hot": (np.eye(3)[LABELS], r"found \(12, 3\); store labels\.argmax\(1\) in place of one-hot rows"),
    "float": (LABELS + 0.5, "must be integers, found float64"),
    "NaN": (np.where(LABELS, LABELS, np.nan), "must be integers, found float64"),
    "text": (LABELS.astype(str), r"must be integers, found <U21; .*np\.unique\(labels, return_inverse=True\)"),
    "from 1": (
        LABELS + 1,
        r"run from 1 to 3, but classes are numbered from 0; store labels - 1, of the test images too",
    ),
    "bool": (LABELS > 0, "must be integers, found bool"),
    "too few": (LABELS[:11], "has 11 labels for 12 images"),
    "negative": (LABELS - 1, "holds the label -1; number the classes from 0"),
    "past int32": (LABELS + 2**40, f"holds the label {2**40 + 2}"),
    "past int64": (LABELS.astype(np.uint64) + np.uint64(2**63), f"holds the label {2**63 + 2}"),
    "one class": (LABELS * 0, "holds a single class, 0; at least two are needed"),
    "one class, not 0": (LABELS * 0 + 7, "holds a single class, 7"),
    "absurd": (LABELS + 2**31 - 3, r"holds the label 2147483647 but there are only 12 train images"),
    "gap": (LABELS + (LABELS > 0), "class 1 has no train image"),
    "test beyond train": (np.arange(12) % 2, r"test_labels holds the label 2, .*only the classes 0\.\.1"),
}


@pytest.mark.parametrize(("labels", "message"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_bad_labels(labels, message):
    with pytest.raises(UserError, match=message) as error:
        from_arrays("bad", **arrays(train_labels=labels))
    one_line(error)


def test_bad_test_labels():
    with pytest.raises(UserError, match="test_labels has 5 labels for 6 images"):
        from_arrays("bad", **arrays(test_labels=np.arange(5)))


def test_an_auxiliary_needs_no_classes(tmp_path):
    data = arrays(train_labels=np.full(12, 70), test_labels=np.full(6, 90))
    with pytest.raises(UserError, match="single class"):
        from_arrays("people", **data)
    assert from_arrays("people", **data, auxiliary=True).num_classes == 91
    np.savez(tmp_path / "people.npz", **data)
    np.testing.assert_array_equal(load("people", tmp_path, auxiliary=True).train_images, data["train_images"])
    with pytest.raises(UserError, match="test_labels holds the label -1"):
        from_arrays("people", **data | {"test_labels": np.full(6, -1)}, auxiliary=True)


# Arrays that are accepted.


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint16, np.int16])
def test_every_byte_survives_its_wider_type(dtype):
    values = np.arange(256).reshape(4, 8, 8, 1)
    wide = values.astype(np.float64) / 255 if np.issubdtype(dtype, np.floating) else values
    data = arrays(n=4, m=4, shape=(8, 8, 1), classes=2, train_images=wide.astype(dtype))
    np.testing.assert_array_equal(from_arrays("wide", **data).train_images, values.astype(np.uint8))


def test_conversion_in_chunks_equals_conversion_at_once(monkeypatch):
    images = np.random.default_rng(0).random((12, 4, 5, 1))
    monkeypatch.setattr(byte_scale, "chunks", lambda a: (slice(i, i + 5) for i in range(0, len(a), 5)))
    source = from_arrays("x", **arrays(train_images=images))
    np.testing.assert_array_equal(source.train_images, np.rint(255 * images).astype(np.uint8))


def test_bytes_pass_through_uncopied_and_checking_is_cheap():
    data = arrays(n=60_000, m=100, shape=(28, 28, 1), classes=10)
    tracemalloc.start()
    try:
        source = from_arrays("big", **data)
        fingerprint(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert source.train_images is data["train_images"]
    assert source.train_labels is data["train_labels"]
    assert peak < 5e6  # the images are 47 MB


def test_wide_images_are_converted_without_a_wide_temporary():
    images = np.zeros((4_000, 32, 32, 3), np.float32)  # 49 MB, 12 MB as bytes
    data = arrays(n=4_000, m=10, shape=(32, 32, 3), classes=10, train_images=images)
    tracemalloc.start()
    try:
        from_arrays("big", **data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30e6


# Folders of images.


def make_folder(folder, counts, *, size=(4, 6), mode="L", suffix=".png", test=None):
    rng = np.random.default_rng(0)
    written = {}
    for split, classes in (("train", counts), ("test", counts if test is None else test)):
        for name, count in classes.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                shape = size if mode == "L" else (*size, 3)
                written[split, name, i] = rng.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(written[split, name, i]).save(folder / split / name / f"{i}{suffix}")
    return written


def test_folder_of_grey_images(tmp_path):
    # Written out of order; "10" sorts before "9" as text.
    written = make_folder(tmp_path / "f", {"9": 2, "10": 3})
    (tmp_path / "f/train/9/.0.png").write_text("hidden")
    (tmp_path / "f/train/9/notes.txt").write_text("ignored")
    (tmp_path / "f/train/.git").mkdir()
    (tmp_path / "f/train/README.md").write_text("ignored")
    source = load("f", tmp_path)
    assert source.train_images.shape == (5, 4, 6, 1)
    np.testing.assert_array_equal(source.train_labels, [0, 0, 0, 1, 1])
    expected = [written["train", "10", i] for i in range(3)] + [written["train", "9", i] for i in range(2)]
    np.testing.assert_array_equal(source.train_images[..., 0], expected)
    np.testing.assert_array_equal(source.test_images[3, ..., 0], written["test", "9", 0])


def test_one_colour_file_makes_the_folder_colour(tmp_path):
    written = make_folder(tmp_path / "f", {"a": 2, "b": 2})
    rgb = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "f/test/b/1.png")
    source = read_folder(tmp_path / "f")
    np.testing.assert_array_equal(source.test_images[3], rgb)
    np.testing.assert_array_equal(source.train_images[0], np.repeat(written["train", "a", 0][..., None], 3, -1))


def test_jpegs_are_read_whatever_the_case(tmp_path):
    make_folder(tmp_path / "f", {"a": 2, "b": 2}, mode="RGB", suffix=".JPEG")
    assert read_folder(tmp_path / "f").train_images.shape == (4, 4, 6, 3)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    make_folder(tmp_path / "f", {"a": 2, "b": 2})
    deep = np.arange(24, dtype=np.uint16).reshape(4, 6) * 2800
    Image.fromarray(deep).save(tmp_path / "f/train/a/0.png")
    Image.fromarray(deep > 30000).save(tmp_path / "f/train/a/1.png")  # mode 1
    source = read_folder(tmp_path / "f")
    np.testing.assert_array_equal(source.train_images[0, ..., 0], deep // 256)
    np.testing.assert_array_equal(source.train_images[1, ..., 0], np.where(deep > 30000, 255, 0))


def test_palette_with_transparency_is_colour(tmp_path):
    make_folder(tmp_path / "f", {"a": 2, "b": 2})
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    # Two alpha values, not one clear colour: Pillow warns when these go straight to RGB.
    palette.save(tmp_path / "f/train/a/0.png", transparency=b"\x80\xff")
    assert read_folder(tmp_path / "f").train_images[0, 0, 0].tolist() == [10, 20, 30]


def test_folder_without_parts_or_classes(tmp_path):
    (tmp_path / "f").mkdir()
    with pytest.raises(UserError, match=r"has no 'train' folder; put the images .*train/<class>/"):
        load("f", tmp_path)
    (tmp_path / "f/train").mkdir()
    with pytest.raises(UserError, match="train has no class folders"):
        load("f", tmp_path)
    (tmp_path / "f/train/a").mkdir()
    with pytest.raises(UserError, match=r"train/a holds no \.png, \.jpg, \.jpeg"):
        load("f", tmp_path)


def test_folder_classes_must_match(tmp_path):
    make_folder(tmp_path / "f", {"a": 1, "b": 1, "c": 1}, test={"a": 1, "b": 1})
    with pytest.raises(UserError, match="class 'c' is in train but not in test"):
        read_folder(tmp_path / "f")
    make_folder(tmp_path / "g", {"a": 1, "b": 1}, test={"a": 1, "b": 1, "d": 1})
    with pytest.raises(UserError, match="class 'd' is in test but not in train"):
        read_folder(tmp_path / "g")


def test_folder_of_a_single_class(tmp_path):
    make_folder(tmp_path / "f", {"a": 2})
    with pytest.raises(UserError, match="f: train_labels holds a single class"):
        read_folder(tmp_path / "f")


def test_first_image_of_another_size_is_named(tmp_path):
    make_folder(tmp_path / "f", {"a": 3, "b": 2})
    for file in ("train/b/0.png", "train/b/1.png"):
        Image.new("L", (7, 3)).save(tmp_path / "f" / file)
    with pytest.raises(UserError, match=r"train/b/0\.png is 7x3 pixels, .*train/a/0\.png 6x4; resize") as error:
        read_folder(tmp_path / "f")
    one_line(error)


def test_unreadable_images_are_named(tmp_path):
    make_folder(tmp_path / "f", {"a": 2, "b": 2}, size=(64, 64))
    good = (tmp_path / "f/train/b/0.png").read_bytes()
    (tmp_path / "f/train/b/0.png").write_bytes(good[: len(good) // 2])
    with pytest.raises(UserError, match=r"train/b/0\.png cannot be decoded"):
        read_folder(tmp_path / "f")
    (tmp_path / "f/test/a/1.png").write_text("no image")
    with pytest.raises(
        UserError, match=r"test/a/1\.png is not a readable image \(PNG, JPEG, WebP\); replace or remove"
    ):
        read_folder(tmp_path / "f")


# TensorFlow Datasets, as a stand-in for what is used of it; test_data_tfds.py has the real one, where it is installed.


class Builder:
    """A data set of these records in both its parts."""

    def __init__(self, records, *, prepared=True, file_format="array_record"):
        self.records, self.prepared = records, prepared
        splits = {part: types.SimpleNamespace(num_examples=len(records)) for part in ("train", "test")}
        self.info = types.SimpleNamespace(splits=splits, file_format=types.SimpleNamespace(value=file_format))

    def is_prepared(self):
        return self.prepared

    def download_and_prepare(self):
        self.prepared = True
        print("Downloading and preparing")  # as the real one does

    def as_data_source(self, *, split):
        assert self.prepared
        assert self.info.file_format.value == "array_record"
        return self.records

    def as_dataset(self, *, split, read_config):
        assert read_config == {"interleave_cycle_length": 1}
        return self.records


def stand_in(monkeypatch, builder, seen=None):
    def make(name, **options):
        if seen is not None:
            seen.append((name, options))
        if isinstance(builder, Exception):
            raise builder
        return builder

    module = types.ModuleType("tensorflow_datasets")
    for name, value in (("builder", make), ("as_numpy", iter), ("ReadConfig", dict)):
        monkeypatch.setattr(module, name, value, raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)  # TensorFlow itself is installed


def test_tfds_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    to_do = "to take it from TensorFlow Datasets: pip install 'gpz-jax[tfds]'"
    with pytest.raises(UserError) as error:
        load("cifar10", tmp_path)
    assert str(error.value) == f"data set 'cifar10' is not in {tmp_path}; {to_do}"
    with pytest.raises(UserError, match="'mnist' is not on this machine; to take it"):
        load("mnist")


def test_tfds_that_cannot_prepare(monkeypatch, tmp_path):
    stand_in(monkeypatch, OSError("No route\nto host " + "x" * 1000))
    with pytest.raises(UserError, match=r"cannot provide it \(OSError: No route to host x+\); it needs a net") as error:
        load("mnist", tmp_path)
    assert len(str(error.value)) < 500


def test_tfds_without_tensorflow(monkeypatch, tmp_path):
    stand_in(monkeypatch, ImportError("No module named 'tensorflow'"))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"to prepare it, or to read another format, needs TensorFlow: pip install 'gpz"
    ):
        load("mnist", tmp_path)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_tfds_records(monkeypatch, tmp_path, file_format):
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    seen = []
    records = [{"image": image, "label": i % 2} for i, image in enumerate(images)]
    stand_in(monkeypatch, Builder(records, file_format=file_format), seen)
    source = load("cifar10", tmp_path)
    np.testing.assert_array_equal(source.train_images, images)
    np.testing.assert_array_equal(source.test_labels, [0, 1] * 3)
    assert source.train_group is None
    assert seen == [("cifar10", {"data_dir": str(tmp_path / "tfds")})]
    load("cifar10")
    assert seen[-1] == ("cifar10", {})


def test_tfds_prepares_what_is_not_there_in_the_format_that_is_read_without_tensorflow(monkeypatch, capsys):
    seen = []
    records = [{"image": np.zeros((2, 2, 1), np.uint8), "label": i % 2} for i in range(4)]
    stand_in(monkeypatch, Builder(records, prepared=False), seen)
    assert len(load("mnist").train_images) == 4
    assert seen == [("mnist", {}), ("mnist", {"file_format": "array_record"})]
    assert capsys.readouterr().out == ""  # stdout is for tables


def test_emnist_letters_stand_upright_from_label_0(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 1), dtype=np.uint8)
    seen = []
    stand_in(monkeypatch, Builder([{"image": image, "label": 1 + i % 2} for i, image in enumerate(images)]), seen)
    source = load("emnist_letters")
    assert seen[0][0] == "emnist/letters"
    np.testing.assert_array_equal(source.train_images[..., 0], images[..., 0].swapaxes(1, 2))
    np.testing.assert_array_equal(source.train_labels, [0, 1, 0, 1])


def faces(**more):
    image = np.zeros((218, 178, 3), np.uint8)
    image[20:198] = 200  # exactly the centre square
    return Builder([{"image": image, "attributes": {"Male": np.bool_(i % 2)}, **more} for i in range(4)])


def test_celeb_a_is_cropped_shrunk_and_labelled(monkeypatch):
    stand_in(monkeypatch, faces())
    source = load("celeb_a")
    assert source.train_images.shape == (4, 64, 64, 3)
    assert (source.train_images == 200).all()
    np.testing.assert_array_equal(source.train_labels, [0, 1, 0, 1])
    assert source.train_group is None


def test_people_of_celeb_a_are_groups_except_for_an_attacker(monkeypatch):
    stand_in(monkeypatch, faces(identity={"Identity_No": 7}))
    with pytest.raises(UserError, match=r"train and test share 1 of the groups \(7, for one\)"):
        load("celeb_a")
    assert load("celeb_a", auxiliary=True).train_group is None


# The data sets of the paper.


@pytest.mark.parametrize("place", ["npz", "folder"])
@pytest.mark.parametrize("name", PAPER)
def test_every_data_set_of_the_paper_is_found_by_its_name(tmp_path, name, place):
    if place == "npz":
        write(tmp_path / f"{name}.npz")
    else:
        make_folder(tmp_path / name, {"a": 3, "b": 2})
    source = load(name, tmp_path)
    assert (source.name, source.num_classes) == (name, 3 if place == "npz" else 2)


@pytest.mark.parametrize("name", PAPER)
def test_every_other_data_set_of_the_paper_is_asked_of_tfds_or_for(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    to_do = (
        "pip install 'gpz-jax.tfds.'" if name in TFDS_NAMES else rf"looked for .*{name}\.npz and the folder .*{name}"
    )
    with pytest.raises(UserError, match=to_do):
        load(name, tmp_path)


# Fingerprint and channels.


def reference_fingerprint(data):
    digest = hashlib.sha256()
    for field in ("train_images", "train_labels", "test_images", "test_labels", "aux_images"):
        value = data.get(field)
        digest.update(f"{field} {None if value is None else value.shape}\n".encode())
        digest.update(b"" if value is None else value.tobytes())
    return digest.hexdigest()


def test_fingerprint_is_sha256_of_shapes_and_bytes(monkeypatch):
    data = arrays(aux_images=np.ones((3, 2, 2, 1), np.uint8))
    source = from_arrays("x", **data)
    assert fingerprint(source) == reference_fingerprint(data)
    assert fingerprint(from_arrays("y", **data)) == fingerprint(source)
    monkeypatch.setattr(checked_arrays, "chunks", lambda a: (slice(i, i + 5) for i in range(0, len(a), 5)))
    assert fingerprint(source) == reference_fingerprint(data)


def test_fingerprint_ignores_memory_layout_and_sees_every_array():
    data = arrays(aux_images=np.full((3, 2, 2, 1), 200, np.uint8))
    before = fingerprint(from_arrays("x", **data))
    columns = np.asfortranarray(data["train_images"])
    assert fingerprint(from_arrays("x", **data | {"train_images": columns})) == before
    assert fingerprint(from_arrays("x", **data | {"train_images": columns[::-1]})) != before
    for field in ("train_images", "test_images", "aux_images"):
        changed = data[field].copy()
        changed[-1, 0, 0, 0] ^= 1
        assert fingerprint(from_arrays("x", **data | {field: changed})) != before
    for field in ("train_labels", "test_labels"):
        assert fingerprint(from_arrays("x", **data | {field: data[field][::-1].copy()})) != before
    turned = {f: data[f].reshape(-1, 5, 4, 1) for f in ("train_images", "test_images")}
    assert fingerprint(from_arrays("x", **data | turned)) != before


def test_grey_is_repeated():
    grey = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 1), dtype=np.uint8)
    colour = to_channels(grey, 3)
    assert colour.shape == (3, 4, 5, 3)
    for c in range(3):
        np.testing.assert_array_equal(colour[..., c], grey[..., 0])
    np.testing.assert_array_equal(to_channels(colour, 1), grey)  # the weights sum to one
    assert to_channels(grey, 1) is grey


def test_luminance_against_its_formula_and_pillow():
    colour = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    colour[0, 0, :3] = [[255, 255, 255], [0, 0, 0], [0, 255, 0]]
    grey = to_channels(colour, 1)
    exact = colour.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[..., 0], exact, atol=0.5 + 1e-9)
    pillow = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in colour])
    assert np.abs(grey[..., 0].astype(int) - pillow).max() <= 1
    assert (grey[..., 0] == pillow).mean() > 0.99


@pytest.mark.parametrize(("has", "wants"), [(1, 2), (3, 4), (4, 3), (2, 1)])
def test_other_channels_are_refused(has, wants):
    with pytest.raises(UserError, match=f"cannot turn {has} channels into {wants}; images have 1 or 3"):
        to_channels(np.zeros((1, 2, 2, has), np.uint8), wants)


def test_images_of_a_png_in_memory_round_trip(tmp_path):
    # The folder and the .npz of the same pixels are the same data.
    written = make_folder(tmp_path / "f", {"a": 2, "b": 2})
    by_folder = read_folder(tmp_path / "f")
    buffer = io.BytesIO()
    stack = {s: np.stack([v for k, v in written.items() if k[0] == s])[..., None] for s in ("train", "test")}
    labels = np.array([0, 0, 1, 1])
    np.savez(
        buffer,
        train_images=stack["train"],
        train_labels=labels,
        test_images=stack["test"],
        test_labels=labels,
    )
    (tmp_path / "g.npz").write_bytes(buffer.getvalue())
    assert fingerprint(by_folder) == fingerprint(read_npz(tmp_path / "g.npz"))
