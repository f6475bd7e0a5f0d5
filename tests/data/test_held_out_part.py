"""A folder of classes without train/ and test/: a part of it becomes the test part when that is asked for."""

import shutil

import numpy as np
import pytest
from picture_folders import noise, read
from PIL import Image

from gpz_jax.errors import UserError


def classes(root, counts=None):
    for name, count in ({"a": 20, "b": 11} if counts is None else counts).items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(noise()).save(root / name / f"{i}.png")
    return root


def images(array):
    return {image.tobytes() for image in array}


@pytest.mark.parametrize("inside", ["", "train"])
def test_a_share_of_every_class_is_held_out(tmp_path, inside):
    root = tmp_path / "set"
    classes(root / inside)
    source, said = read(root, test_fraction=0.2)
    assert source.class_names == ("a", "b")
    assert np.bincount(source.train_labels).tolist() == [16, 9]
    assert np.bincount(source.test_labels).tolist() == [4, 2]
    assert len(images(source.train_images) | images(source.test_images)) == 31
    assert said == ["6 of its 31 images, 0.2 of each class, are its test part, the same each time"]


def test_the_same_images_each_time_wherever_the_folder_lies(tmp_path):
    classes(tmp_path / "set")
    shutil.copytree(tmp_path / "set", tmp_path / "x/other")
    one, other = read(tmp_path / "set", test_fraction=0.3)[0], read(tmp_path / "x/other", test_fraction=0.3)[0]
    np.testing.assert_array_equal(one.test_images, other.test_images)
    np.testing.assert_array_equal(one.train_images, other.train_images)


def test_copies_of_one_file_stay_together(tmp_path):
    root = classes(tmp_path / "set", {"a": 10, "b": 10})
    for i in range(10, 40):
        shutil.copy(root / "a" / f"{i % 10}.png", root / "a" / f"{i}.png")
    source, _ = read(root, test_fraction=0.25)
    assert not images(source.train_images) & images(source.test_images)
    assert np.bincount(source.test_labels).tolist() == [8, 2]  # 10 are due, whole fours are taken


def test_without_the_flag_the_error_names_it(tmp_path):
    with pytest.raises(
        UserError, match=r"has no 'train' folder; .*or let a part of every class be held out as test"
    ) as e:
        read(classes(tmp_path / "set"))
    assert e.value.with_flags().endswith("with --test-fraction 0.2")
    (tmp_path / "set/train").mkdir()
    for name in "ab":
        (tmp_path / "set" / name).rename(tmp_path / "set/train" / name)
    with pytest.raises(UserError, match=r"has no 'test' folder; .*test_fraction 0\.2"):
        read(tmp_path / "set")


@pytest.mark.parametrize(
    ("counts", "fraction", "said"),
    [
        ({"a": 20, "b": 1}, 0.2, "class 'b' has 1 images, of which test_fraction 0.2 leaves none on one side"),
        ({"a": 20, "b": 3}, 0.9, "class 'b' has 3 images"),
        ({"a": 20, "b": 20}, 1.0, "test_fraction must lie between 0 and 1, got 1"),
        ({"a": 20, "b": 20}, float("nan"), "test_fraction must lie between 0 and 1, got nan"),
    ],
)
def test_what_cannot_be_split(tmp_path, counts, fraction, said):
    with pytest.raises(UserError, match=said):
        read(classes(tmp_path / "set", counts), test_fraction=fraction)


def test_where_there_is_a_test_part_it_is_not_made_another(tmp_path):
    classes(tmp_path / "set/train")
    classes(tmp_path / "set/test")
    with pytest.raises(UserError, match=r"has a test folder, of which test_fraction 0\.2 makes no use; leave one"):
        read(tmp_path / "set", test_fraction=0.2)
    with pytest.raises(UserError, match="data set 'digits' brings a test part of its own; leave test_fraction"):
        read(tmp_path / "digits", test_fraction=0.2)


@pytest.mark.parametrize("inside", ["", "train"])
def test_an_attackers_folder_needs_no_test_part(tmp_path, inside):
    classes(tmp_path / "set" / inside)
    source, said = read(tmp_path / "set", auxiliary=True)
    assert len(source.train_images) == len(images(source.train_images)) == 31
    assert said == []


def test_a_misspelt_name_is_still_one(tmp_path):
    classes(tmp_path / "flowers")
    with pytest.raises(UserError, match="no data set 'flower'"):
        read(tmp_path / "flower", test_fraction=0.2)
