"""Images that stay on disk: the same bytes, whatever holds them, and one line where they cannot."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from gpz_jax.data import copies, on_disk
from gpz_jax.data.image_folder import read_folder
from gpz_jax.data.npz_file import read_npz
from gpz_jax.data.sources import fingerprint, load
from gpz_jax.data.tfds import _stack
from gpz_jax.errors import UserError


@pytest.fixture(scope="module")
def arrays():
    digits = load("digits")
    fields = ("train_images", "train_labels", "test_images", "test_labels")
    return {field: getattr(digits, field) for field in fields}


@pytest.fixture
def written(tmp_path, arrays):
    """A function: the digits in an .npz, with other arrays in place of theirs."""

    def write(save=np.savez, **others):
        save(tmp_path / "some.npz", **{**arrays, **others})
        return tmp_path / "some.npz"

    return write


def on_disk_images(source):
    return [isinstance(array, np.memmap) for array in (source.train_images, source.test_images)]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_holds_the_same_on_disk_and_in_memory(written, save):
    path = written(save)
    kept, read = read_npz(path, disk=True), read_npz(path)
    assert on_disk_images(kept) == [True, True]
    assert on_disk_images(read) == [False, False]
    assert fingerprint(kept) == fingerprint(read)
    np.testing.assert_array_equal(kept.train_images, read.train_images)
    with pytest.raises(ValueError, match="read-only"):  # what is mapped from someone's file is never written to
        np.asarray(read_npz(written(), disk=True).train_images)[0] = 1


def test_of_an_uncompressed_npz_nothing_is_copied(written):
    path = written()
    kept = read_npz(path, disk=True)
    assert kept.train_images.filename == path
    assert [stamp.path for stamp in kept.files] == [path]
    assert read_npz(path).files == ()


def test_what_takes_more_than_half_of_the_memory_is_left_on_disk(written, monkeypatch):
    path = written()
    for module in ("on_disk", "unpacked_size"):
        monkeypatch.setattr(f"gpz_jax.data.{module}.of_machine", lambda: 100_000)
    assert on_disk_images(read_npz(path)) == [True, True]
    with pytest.raises(UserError, match=r"half of the memory.*or let them be streamed from disk"):
        read_npz(path, disk=False)


def test_other_numbers_than_bytes_must_be_read(written, arrays):
    path = written(train_images=arrays["train_images"] / 255)
    assert read_npz(path).train_images.dtype == np.uint8
    with pytest.raises(
        UserError, match="train_images is not uint8 in C order, as images that are left on disk must be"
    ):
        read_npz(path, disk=True)
    with pytest.raises(UserError, match="test_images is not uint8 in C order"):
        read_npz(written(test_images=np.asfortranarray(arrays["test_images"])), disk=True)


def test_a_flipped_byte_is_no_image(written, arrays):
    path = written()
    content = bytearray(path.read_bytes())
    content[content.find(arrays["train_images"].tobytes()) + 1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="train_images is damaged"):
        read_npz(path, disk=True)


def test_a_file_that_is_written_to_meanwhile_is_noticed(written):
    path = written()
    stamps = read_npz(path, disk=True).files
    on_disk.check_unchanged(stamps)
    os.utime(path, ns=(0, 0))
    with pytest.raises(UserError, match="was changed while images were read from it"):
        on_disk.check_unchanged(stamps)


def test_a_file_that_is_moved_or_replaced_is_still_there_for_who_mapped_it(written):
    path = written()
    source = read_npz(path, disk=True)
    before = fingerprint(source)
    path.rename(path.with_name("moved.npz"))
    on_disk.check_unchanged(source.files)
    written(train_images=np.zeros((1438, 8, 8, 1), np.uint8))
    on_disk.check_unchanged(source.files)
    assert fingerprint(source) == before


def test_a_folder_is_decoded_into_a_file_without_a_name(tmp_path, arrays):
    from PIL import Image

    for part in ("train", "test"):
        for i in range(40):
            folder = tmp_path / "some" / part / str(arrays[f"{part}_labels"][i] % 2)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(arrays[f"{part}_images"][i, ..., 0]).save(folder / f"{i}.png")
    kept, read = read_folder(tmp_path / "some", disk=True), read_folder(tmp_path / "some")
    assert on_disk_images(kept) == [True, True]
    assert on_disk_images(read) == [False, False]
    assert fingerprint(kept) == fingerprint(read)
    assert kept.files == ()  # nothing that anyone can write to


@pytest.mark.parametrize("disk", [True, False])
def test_records_of_tensorflow_datasets_are_stacked_there_or_in_memory(arrays, disk):
    pairs = zip(arrays["train_images"], arrays["train_labels"], strict=True)
    records = ({"image": image, "label": label} for image, label in pairs)
    found = _stack("mnist", len(arrays["train_labels"]), records, disk)
    assert isinstance(found["images"], np.memmap) == disk
    np.testing.assert_array_equal(found["images"], arrays["train_images"])
    np.testing.assert_array_equal(found["labels"], arrays["train_labels"])


def test_a_full_disk_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"0\.0 GB of images cannot be put into a file in .*No space left on device"):
        on_disk.on_disk((4, 2, 2, 1))
    assert list(tmp_path.iterdir()) == []


def test_a_tmpdir_that_cannot_be_used_is_not_passed_over(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    with pytest.raises(UserError, match="into a file in /nowhere"):
        on_disk.on_disk((4, 2, 2, 1))


def test_near_copies_are_not_looked_for_among_too_many(monkeypatch, arrays):
    mirrored = arrays["train_images"][:, :, ::-1]
    images = np.repeat(np.repeat(np.concatenate([arrays["train_images"], mirrored]), 4, 1), 4, 2)
    half = len(mirrored)
    parties = [copies.Party("train", images, np.arange(half)), copies.Party("test", images, np.arange(half, 2 * half))]
    (said,) = copies.copies_between(parties, "x", allow=True)
    assert "look like copies" in said
    monkeypatch.setattr(copies, "MOST_COMPARED", 2 * half - 1)
    (said,) = copies.copies_between(parties, "x", allow=True)
    assert said == f"near copies are not looked for among the {2 * half:,} images of 'x', exact ones were"


CUT_SHORT = """
import os, sys
from gpz_jax.data.npz_file import read_npz
images = read_npz(sys.argv[1], disk=True).train_images
os.truncate(sys.argv[1], 4096)
print(images.sum())
"""


def test_a_file_that_is_cut_short_meanwhile_is_one_line(written):
    done = subprocess.run([sys.executable, "-c", CUT_SHORT, written()], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("gpz: error: ")
    assert "some.npz was cut short while images were read from it; " in done.stderr
