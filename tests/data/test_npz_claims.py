"""What an .npz claims of its arrays is held against the file before a byte is unpacked."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from lies import damaged

from gpz_jax.data import npz_file, unpacked_size
from gpz_jax.data.npz_file import read_npz
from gpz_jax.errors import UserError

NAMES = ("train_images", "train_labels", "test_images", "test_labels")


def whole(n=12):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, n, 4, 5, 1), np.uint8)
    return dict(zip(NAMES, (images[0], np.arange(n) % 3, images[1], np.arange(n) % 3), strict=True))


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(shape, dtype="|u1", version=(1, 0), length=None):
    """The beginning of an .npy that claims so."""
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    size = len(text) if length is None else length
    return b"\x93NUMPY" + bytes(version) + size.to_bytes(2 if version == (1, 0) else 4, "little") + text


def write(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in {**{k: npy(v) for k, v in whole().items()}, **members}.items():
            file.writestr(f"{name}.npy", content)
    return path


def refused(path, match, most=5e6):
    """In one line, with next to no memory."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=match) as error:
            read_npz(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert peak < most


@pytest.mark.parametrize(
    "claim",
    [
        header((10**15, 1, 1, 1)),
        header((10**5, 10**5, 10**5, 1)),
        header((2**62, 4, 1, 1)),
        header((10**15,), "<U1000"),
        header((12, 4, 5, 1), "<f8"),
        header((11, 4, 5, 1)),
        header((-1, 4, 5, 1)),
        header((10**15, 1, 1, 1), version=(2, 0)),
    ],
)
@pytest.mark.parametrize("key", ["train_images", "test_labels"])
def test_a_header_that_claims_another_size(tmp_path, claim, key):
    path = write(tmp_path / "x.npz", **{key: claim + bytes(240)})
    refused(path, rf"x\.npz: {key} claims -?\d+ bytes but has \d+; copy or write the file again")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0), (9, 9)])
def test_a_header_of_absurd_length(tmp_path, version):
    path = write(tmp_path / "x.npz", train_images=header((1,), version=version, length=65_535) + bytes(240))
    refused(path, r"x\.npz: train_images (is damaged|claims)")
    path = write(tmp_path / "x.npz", train_images=header((1,), version=(2, 0), length=2**32 - 1) + bytes(240))
    refused(path, r"x\.npz: train_images claims -1 bytes")


@pytest.mark.parametrize("text", [b"{}", b"[" * 2000, b"{'shape': (" + b"9" * 5000 + b",)}", b"\xff" * 40])
def test_a_header_that_is_none(tmp_path, text):
    claim = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    refused(write(tmp_path / "x.npz", train_images=claim + bytes(240)), r"x\.npz: train_images is damaged")


def test_a_zip_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacked_size, "_SMALL", 10**7)
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, array in whole().items():
            if name != "train_images":
                file.writestr(f"{name}.npy", npy(array))
        with file.open("train_images.npy", "w", force_zip64=True) as member:
            member.write(header((120, 1000, 1000, 1)))
            for _ in range(120):
                member.write(bytes(10**6))
    refused(
        path,
        r"x\.npz: its arrays take 0\.1 GB in memory \(the largest: train_images, 0\.1 GB\), and no more than 200 times "
        r"the \d+\.\d MB on disk is read",
    )


@pytest.mark.parametrize("claimed", [10**15, 2**40])
def test_a_zip_that_claims_more_than_there_is(tmp_path, claimed, monkeypatch):
    path = write(tmp_path / "x.npz")
    real = zipfile.ZipFile.infolist

    def lying(self):
        members = real(self)
        members[0].file_size = members[0].compress_size = claimed
        return members

    monkeypatch.setattr(zipfile.ZipFile, "infolist", lying)
    refused(path, r"its arrays take .* GB in memory .*(the memory there is|times the .* on disk), is|is read")


def test_a_stored_array_larger_than_the_file(tmp_path, monkeypatch):
    path = write(tmp_path / "x.npz")
    real = zipfile.ZipFile.infolist

    def lying(self):
        members = real(self)
        members[0].file_size = 10**6
        return members

    monkeypatch.setattr(zipfile.ZipFile, "infolist", lying)
    refused(path, r"train_images claims to be larger than the file")


def test_arrays_for_which_there_is_no_memory(tmp_path, monkeypatch):
    path = write(tmp_path / "x.npz")
    monkeypatch.setattr(unpacked_size, "of_machine", lambda: 1500)
    refused(path, r"no more than 0\.0 GB, half of the memory there is, is read")


def test_what_is_not_read_may_claim_what_it_likes(tmp_path):
    path = write(tmp_path / "x.npz", masks=header((10**15,)))
    assert len(read_npz(path).train_images) == 12


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_honest_files_are_read_however_packed(tmp_path, compression):
    np.testing.assert_array_equal(
        read_npz(write(tmp_path / "x.npz", compression)).train_images, whole()["train_images"]
    )


def test_constant_images_pack_well_and_are_no_bomb(tmp_path):
    zeros = np.zeros((3000, 28, 28, 1), np.uint8)
    np.savez_compressed(tmp_path / "x.npz", **{**whole(3000), "train_images": zeros, "test_images": zeros})
    assert read_npz(tmp_path / "x.npz").train_images.shape == zeros.shape


def test_whether_a_pipe_brings_the_attackers_images_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "x.npz")
    assert not npz_file.brings_auxiliary(tmp_path / "x.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damage_of_every_kind_is_one_line_or_no_damage(tmp_path, compression):
    path, rng = tmp_path / "x.npz", np.random.default_rng(0)
    content = write(path, compression).read_bytes()
    for _ in range(400):
        path.write_bytes(damaged(content, rng))
        said = ""
        try:
            np.testing.assert_array_equal(read_npz(path).train_images, whole()["train_images"])
        except UserError as error:
            said = str(error)
        assert said.isprintable()
