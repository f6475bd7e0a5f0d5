"""Folders of images that were made to harm: refused in one line, before anything is decoded, waited for or followed."""

import io
import os
import socket
import struct
import zlib

import numpy as np
import pytest
from lies import damaged
from picture_folders import folder, noise, read
from PIL import Image

from gpz_jax import memory
from gpz_jax.data import image_folder, unpacked_size
from gpz_jax.errors import UserError


def refused(root, match, **options):
    with pytest.raises(UserError, match=match) as error:
        read(root, **options)
    assert "\n" not in str(error.value)


def png(width, height, rows=b""):
    """A PNG whose header says so, grey, whatever its pixels are."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture
def nothing_is_decoded(monkeypatch):
    def fail(*_, **__):
        pytest.fail("decoded")

    monkeypatch.setattr(image_folder, "read_picture", fail)
    monkeypatch.setattr(image_folder, "largest_value", fail)


def test_a_truncated_file(tmp_path):
    root = folder(tmp_path / "set", size=(64, 64))
    whole = (root / "train/b/1.png").read_bytes()
    (root / "train/b/1.png").write_bytes(whole[: len(whole) // 2])
    refused(root, r"train/b/1\.png cannot be decoded .*; replace or remove it")


def test_all_bad_files_are_named_at_once(tmp_path):
    root = folder(tmp_path / "set", size=(64, 64))
    for name in ("train/a/0.png", "train/b/1.png"):
        whole = (root / name).read_bytes()
        (root / name).write_bytes(whole[: len(whole) // 2])
    refused(root, r"train/a/0\.png cannot be decoded .*; replace or remove it; likewise 1 more: 1\.png")
    for name in ("train/a/0.png", "train/b/1.png"):
        (root / name).write_bytes(b"")
    refused(root, r"train/a/0\.png is not a readable image .*; likewise 1 more: 1\.png")


@pytest.mark.parametrize(
    "content",
    [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\nshowpage\n", b"", b"GIF89a", b"MZ" * 40, b"BM" + b"\0" * 60],
    ids=["eps", "empty", "gif", "program", "bmp"],
)
def test_only_formats_that_are_named_are_opened(tmp_path, content, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("started a program"))
    root = folder(tmp_path / "set")
    (root / "train/a/1.png").write_bytes(content)
    refused(root, r"train/a/1\.png is not a readable image \(PNG, JPEG, WebP\); replace or remove it")


def test_a_pipe_is_not_waited_for(tmp_path):
    root = folder(tmp_path / "set")
    os.mkfifo(root / "train/a/9.png")
    refused(root, r"train/a/9\.png is a pipe, a socket or a device and no file; remove it")
    (root / "train/a/9.png").unlink()
    os.mkfifo(tmp_path / "other.npz")
    refused(tmp_path / "other", r"other\.npz is a pipe, a socket or a device and no file; remove it")


def test_a_socket_and_a_device(tmp_path, monkeypatch):
    root = folder(tmp_path / "set")
    monkeypatch.chdir(root / "train/a")  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("9.jpg")
        refused(root, r"train/a/9\.jpg is a pipe, a socket or a device")
    (root / "train/a/9.jpg").unlink()
    (root / "train/a/9.png").symlink_to("/dev/zero")
    refused(root, r"train/a/9\.png is a link that leads out of")


@pytest.mark.parametrize("where", ["train/a/x.png", "train/c", "x"])
@pytest.mark.parametrize("target", ["/etc/hostname", "/etc", "../../../../elsewhere", "nowhere"])
def test_links_lead_nowhere_else(tmp_path, where, target):
    root = folder(tmp_path / "set")
    (root / where).symlink_to(target)
    if target == "nowhere":  # dangling, but inside
        if where == "train/a/x.png":
            refused(root, "not a readable image")
        else:
            assert "1 of its files and folders are not read" in read(root)[1][0]
        return
    refused(root, rf"{where} is a link that leads out of .*set; put what it leads to in its place")


def test_links_in_a_circle_end(tmp_path):
    root = folder(tmp_path / "set")
    (root / "train/a/x.png").symlink_to("x.png")
    refused(root, r"train/a/x\.png is a link that leads out of|not a readable image")


def test_links_inside_the_folder_and_a_data_set_that_is_a_link_are_followed(tmp_path):
    root = folder(tmp_path / "elsewhere/set")
    (root / "train/a/9.png").symlink_to("../b/0.png")
    (tmp_path / "set").symlink_to(root)
    source, _ = read(tmp_path / "set")
    assert len(source.train_images) == 7


@pytest.mark.parametrize(("width", "height"), [(9_000, 9_000), (13_000, 13_000), (50_000, 50_000), (2**31 - 1, 3)])
@pytest.mark.usefixtures("nothing_is_decoded")
def test_a_bomb_by_its_header(tmp_path, width, height):
    root = folder(tmp_path / "set")
    (root / "test/b/1.png").write_bytes(png(width, height))
    refused(root, r"test/b/1\.png is .*, and no more than 67 million are read; shrink or remove it")


@pytest.mark.usefixtures("nothing_is_decoded")
def test_a_bomb_by_the_sum_of_small_files(tmp_path):
    root = folder(tmp_path / "set", train=0, test=0)
    for part, count in (("train", 20), ("test", 3)):
        for name in ("a", "b"):
            for i in range(count):  # 46 of 25 million pixels, some hundred bytes each
                (root / part / name / f"{i}.png").write_bytes(png(5000, 5000))
    refused(
        root,
        r"its 46 images take 1\.1 GB in memory \(the largest: .*train/a/0\.png, 5000x5000 pixels, 0\.0 GB\), and no "
        r"more than 200 times the 0\.0 MB on disk is read",
    )


@pytest.mark.usefixtures("nothing_is_decoded")
def test_more_than_half_of_the_memory(tmp_path, monkeypatch):
    root = folder(tmp_path / "set")  # ten of 144 bytes
    monkeypatch.setattr(unpacked_size, "of_machine", lambda: 2_000)
    refused(root, r"take 0\.0 GB in memory .*half of the memory there is, is read; use fewer or smaller")


def test_memory_is_what_the_process_may_use(monkeypatch):
    import resource

    assert 2**28 < memory.of_machine() < 2**50
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**27, 2**27))
    assert memory.of_machine() == 2**27


def test_names_that_are_no_text_are_said_without_harm(tmp_path):
    root = folder(tmp_path / "set")
    (root / "train/a/\x1b[31m.txt").write_text("")
    try:
        (root / "train" / os.fsdecode(b"caf\xe9.txt")).write_text("")
    except OSError:
        pytest.skip("this file system takes no such name")
    (said,) = read(root)[1]
    assert "\x1b" not in said
    said.encode()


def test_a_class_of_another_name_in_bytes_is_one_line(tmp_path):
    root = folder(tmp_path / "set")
    for part in ("train", "test"):
        (root / part / "a").rename(root / part / "\x1b[31m")
    refused(root, "has control characters; leave them out")


def test_an_image_of_another_size(tmp_path):
    root = folder(tmp_path / "set", channels=1)
    Image.fromarray(np.asarray(noise(6, 9, 1))).save(root / "train/a/0.png")
    refused(root, r"is 8x6 pixels, .*train/a/0\.png 9x6; resize the images to one size")


def encoded(image, kind, **options):
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def test_damage_of_every_kind_is_one_line_or_a_picture(tmp_path):
    root, rng = folder(tmp_path / "set", size=(16, 16)), np.random.default_rng(0)
    image = Image.fromarray(noise(16, 16))
    exif = image.getexif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 13)
    whole = [encoded(image.convert(mode), "PNG") for mode in ("RGB", "RGBA", "LA", "P")]
    whole += [encoded(image, "JPEG", exif=exif), encoded(image.convert("CMYK"), "JPEG"), encoded(deep, "PNG")]
    whole += [encoded(image, "WEBP", exif=exif), encoded(image.convert("RGBA"), "WEBP")]
    for i in range(400):
        (root / "train/a/0.png").write_bytes(damaged(whole[i % len(whole)], rng))
        said = f"{root}/train/a/0.png"
        try:
            assert read(root)[0].train_images.shape == (6, 16, 16, 3)
        except UserError as error:
            said = str(error)
        assert "train/a/0.png" in said
        assert said.isprintable()
