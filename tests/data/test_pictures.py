"""Images are read as people see them: upright, on a background, on their own scale; and what was done is said."""

import io
import struct
import unicodedata

import numpy as np
import pytest
from picture_folders import folder, noise, read
from PIL import Image, ImageOps

from gpz_jax.data.image_file import read_header, read_picture

# Orientation ----------------------------------------------------------------------------------------------------------


def turned(orientation, *, height=8, width=6):
    image = Image.fromarray(noise(height, width))
    exif = image.getexif()
    exif[0x0112] = orientation
    return image, exif


def test_a_photograph_held_sideways_stands_upright_among_the_others(tmp_path):
    root = folder(tmp_path / "set")
    image, exif = turned(6)  # 6 wide and 8 high as stored, as the others when shown
    image.save(root / "train/a/0.png", exif=exif)
    source, said = read(root)
    np.testing.assert_array_equal(source.train_images[0], np.rot90(np.asarray(image), -1))
    assert said == ["1 of the 10 images are turned as their EXIF orientation says"]


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_as_pillow_turns_it(tmp_path, orientation, suffix):
    image, exif = turned(orientation)
    path = tmp_path / f"x.{suffix}"
    image.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    picture = read_picture(path, grey=False)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.turned == (orientation > 1)
    assert read_header(path).size == expected.shape[1::-1]


def test_sixteen_bits_are_turned_too(tmp_path):
    values = np.arange(48, dtype=np.uint16).reshape(8, 6) << 8
    image = Image.fromarray(values)
    exif = image.getexif()
    exif[0x0112] = 8
    image.save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png", grey=True).pixels[..., 0], np.rot90(values >> 8))


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_is_no_reason_to_refuse_a_picture(tmp_path, exif):
    root = folder(tmp_path / "set")
    pixels = noise()
    Image.fromarray(pixels).save(root / "train/a/0.png", exif=exif)
    source, said = read(root)
    np.testing.assert_array_equal(source.train_images[0], pixels)
    assert said == []


def test_an_orientation_told_after_the_pixels_is_heeded(tmp_path):
    image, exif = turned(3, height=6, width=8)
    bare, told = io.BytesIO(), io.BytesIO()
    image.save(bare, "PNG")
    image.save(told, "PNG", exif=exif)
    told, bare = told.getvalue(), bare.getvalue()
    at = told.index(b"eXIf") - 4
    chunk = told[at : at + 12 + struct.unpack(">I", told[at : at + 4])[0]]
    (tmp_path / "x.png").write_bytes(bare[:-12] + chunk + bare[-12:])  # before the last chunk, IEND
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png", grey=False).pixels, np.asarray(image)[::-1, ::-1])


# Transparency ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_seen_is_not_read(tmp_path):
    root = folder(tmp_path / "set")
    hidden = np.zeros((6, 8, 4), np.uint8)
    hidden[..., 1] = 255  # green, all of it invisible
    half = np.full((6, 8, 4), (0, 0, 100, 128), np.uint8)
    Image.fromarray(hidden).save(root / "train/a/0.png")
    Image.fromarray(half).save(root / "test/b/1.png")
    source, said = read(root)
    assert (source.train_images[0] == 255).all()
    over_white = np.array([127, 127, 177])  # 255 (1 - 128/255), and 100 · 128/255 more
    assert np.abs(source.test_images[-1].astype(int) - over_white).max() <= 1
    assert "2 of the 10 images have transparent pixels, which show white" in said


def test_a_palette_with_a_clear_colour(tmp_path):
    palette = Image.new("P", (8, 6), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    palette.putpixel((3, 2), 2)
    palette.save(tmp_path / "clear.png", transparency=1)
    palette.save(tmp_path / "levels.png", transparency=b"\x80\x80\xff")
    clear = read_picture(tmp_path / "clear.png", grey=False)
    assert clear.pixels[0, 0].tolist() == [255, 255, 255]
    assert clear.pixels[2, 3].tolist() == [40, 50, 60]
    levels = read_picture(tmp_path / "levels.png", grey=False)
    assert levels.pixels[2, 3].tolist() == [40, 50, 60]
    assert np.abs(levels.pixels[0, 0].astype(int) - [132, 137, 142]).max() <= 1


@pytest.mark.parametrize(
    ("image", "clear"),
    [
        (Image.fromarray(np.dstack([np.full((2, 2), 9, np.uint8), [[0, 255], [255, 255]]]).astype(np.uint8)), None),
        (Image.fromarray(np.array([[7, 9], [9, 9]], np.uint8)), 7),
        (Image.fromarray(np.array([[7, 9], [9, 9]], np.uint16) << 8), 7 << 8),
    ],
    ids=["grey and alpha", "one grey is clear", "one of 16 bits is clear"],
)
def test_grey_stays_grey_on_white(tmp_path, image, clear):
    image.save(tmp_path / "x.png", **({} if clear is None else {"transparency": clear}))
    assert read_header(tmp_path / "x.png").grey
    picture = read_picture(tmp_path / "x.png", grey=True)
    assert picture.pixels[..., 0].tolist() == [[255, 9], [9, 9]]
    assert picture.clear


def test_an_opaque_fourth_channel_is_not_worth_a_line(tmp_path):
    root = folder(tmp_path / "set")
    pixels = noise()
    Image.fromarray(np.dstack([pixels, np.full((6, 8), 255, np.uint8)])).save(root / "train/a/0.png")
    source, said = read(root)
    np.testing.assert_array_equal(source.train_images[0], pixels)
    assert said == []


# Depth ----------------------------------------------------------------------------------------------------------------


def deep_folder(root, largest):
    values = {}
    for part in ("train", "test"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for i in range(2):
                top = largest if part == "train" else largest // 2
                values[part, name, i] = (
                    np.random.default_rng(len(values)).integers(0, top + 1, (6, 8)).astype(np.uint16)
                )
                values[part, name, i].flat[0] = top
                Image.fromarray(values[part, name, i]).save(root / part / name / f"{i}.png")
    return values


@pytest.mark.parametrize(("largest", "bits"), [(4095, 12), (1000, 10), (12_000, 14), (200, 8)])
def test_values_of_fewer_bits_fill_the_range_and_train_and_test_alike(tmp_path, largest, bits):
    values = deep_folder(tmp_path / "set", largest)
    source, said = read(tmp_path / "set")
    np.testing.assert_array_equal(source.train_images[0, ..., 0], values["train", "a", 0] >> (bits - 8))
    np.testing.assert_array_equal(source.test_images[3, ..., 0], values["test", "b", 1] >> (bits - 8))
    assert said[0] == (
        f"8 of the 8 images have 16 bits but reach only {largest}; they are read as values of {bits} bits, "
        f"0..{2**bits - 1}"
    )


def test_values_of_sixteen_bits_keep_their_scale(tmp_path):
    values = deep_folder(tmp_path / "set", 40_000)
    source, said = read(tmp_path / "set")
    np.testing.assert_array_equal(source.train_images[0, ..., 0], values["train", "a", 0] >> 8)
    assert said == []


def test_twelve_bits_in_colour_which_pillow_cuts_to_four_are_said(tmp_path):
    # Pillow keeps the upper 8 of 16 bits in colour: 0..4095 come as 0..15.
    root = folder(tmp_path / "set")
    for path in root.rglob("*.png"):
        Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 16, (6, 8, 3), np.uint8)).save(path)
    _, said = read(root)
    assert any("the largest value of train_images is 15 of 255" in line for line in said)


# Colour spaces, frames, formats ---------------------------------------------------------------------------------------


def test_cmyk_and_grey_among_colour(tmp_path):
    root = folder(tmp_path / "set")
    Image.new("CMYK", (8, 6), (0, 255, 255, 0)).save(root / "train/a/0.jpg", quality=95)
    Image.fromarray(np.full((6, 8), 77, np.uint8)).save(root / "train/a/1.png")
    source, said = read(root)
    red = source.train_images[1]  # 0.jpg comes between 0.png and 1.png
    np.testing.assert_array_equal(source.train_images[0].shape, (6, 8, 3))
    reds = [x for x in source.train_images if np.abs(x.astype(int) - [255, 0, 0]).max() < 12]
    assert len(reds) == 1, red
    assert sum((x == 77).all() for x in source.train_images) == 1
    assert "read 1 .jpg and 10 .png" in said


def test_the_first_frame_is_read_and_said(tmp_path):
    root = folder(tmp_path / "set")
    frames = [Image.fromarray(noise()) for _ in range(3)]
    frames[0].save(root / "train/a/0.png", save_all=True, append_images=frames[1:])
    frames[1].save(root / "train/a/1.webp", save_all=True, append_images=frames[2:], lossless=True)
    frames[2].save(root / "test/b/5.jpg", "MPO", save_all=True, append_images=frames[:1])  # as many telephones write
    source, said = read(root)
    np.testing.assert_array_equal(source.train_images[0], np.asarray(frames[0]))
    assert any((x == np.asarray(frames[1])).all() for x in source.train_images)
    assert "3 of the 12 images have several frames or pages, of which the first is read" in said


def test_the_name_does_not_decide_the_format(tmp_path):
    root = folder(tmp_path / "set")
    pixels = noise()
    Image.fromarray(pixels).save(root / "train/a/0.png", "WEBP", lossless=True)
    np.testing.assert_array_equal(read(root)[0].train_images[0], pixels)


def test_without_webp_in_pillow_such_files_are_named_as_not_read(tmp_path, monkeypatch):
    root = folder(tmp_path / "set")
    Image.fromarray(noise()).save(root / "train/a/left.webp")
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    source, said = read(root)
    assert len(source.train_images) == 6
    (line,) = said
    assert line.startswith("1 of its files and folders are not read: train/a/left.webp; read are .png, .jpg, .jpeg in")


# What is not read -----------------------------------------------------------------------------------------------------


def test_files_that_are_not_read_are_counted_and_named(tmp_path):
    root = folder(tmp_path / "set")
    for path in ("__MACOSX/x.txt", "train/__MACOSX/y.png", "train/a/more/1.png", "train/a/more/2.png"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text("text")
    for path in ("README.md", "train/Thumbs.db", "test/b/scan.tiff", "train/a/.DS_Store"):
        (root / path).write_text("text")
    source, (said,) = read(root)
    assert source.class_names == ("a", "b")
    assert said.startswith("6 of its files and folders are not read: ")
    for named in ("README.md", "__MACOSX/ (1 files)", "train/Thumbs.db", " and 2 more; read are .png"):
        assert named in said
    assert "DS_Store" not in said


def test_nothing_is_said_of_a_plain_folder(tmp_path):
    assert read(folder(tmp_path / "set"))[1] == []


# Names of classes -----------------------------------------------------------------------------------------------------


def test_one_name_in_two_forms_of_unicode_is_one_class(tmp_path):
    root = folder(tmp_path / "set")
    composed, in_pieces = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    (root / "train/a").rename(root / "train" / composed)
    (root / "test/a").rename(root / "test" / in_pieces)
    source, _ = read(root)
    assert source.class_names == ("b", composed)
    assert np.bincount(source.test_labels).tolist() == [2, 2]


@pytest.mark.parametrize("name", ["ö", "한"])
def test_two_folders_of_one_name_are_refused(tmp_path, name):
    root = folder(tmp_path / "set")
    for form in ("NFC", "NFD"):
        (root / "train" / unicodedata.normalize(form, name)).mkdir()
    with pytest.raises(ValueError, match=r"train has two folders called '.', in two forms of Unicode; merge them"):
        read(root)
