"""One image file as bytes 0..255: what every viewer shows of it. Only PNG, JPEG and WebP are opened, by any name."""

import contextlib
import pathlib
import stat
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from gpz_jax.errors import UserError
from gpz_jax.presentation import why

#: What shows through transparent pixels.
BACKGROUND = 255, "white"
#: Pixels of one image; Pillow warns from a third more on.
MOST_PIXELS = 2**26
#: Depths that 16-bit files may really be of.
_DEPTHS = (8, 10, 12, 14, 16)
_ORIENTATION = 0x0112
_MAY_TELL = ("exif", "Raw profile type exif", "XML:com.adobe.xmp")


class Header(NamedTuple):
    """What a file says of its image before it is decoded; ``size`` is width and height as shown, ``deep`` 16 bits."""

    size: tuple[int, int]
    grey: bool
    deep: bool
    frames: int
    bytes_on_disk: int


class Picture(NamedTuple):
    """A decoded image, and whether it was turned upright, and shows the background through transparent pixels."""

    pixels: UInt8[np.ndarray, "H W C"]
    turned: bool
    clear: bool


def suffixes() -> tuple[str, ...]:
    """Ends of the names of files that are read as images; .webp where this Pillow can.

    >>> suffixes()[:3]
    ('.png', '.jpg', '.jpeg')
    """
    return (".png", ".jpg", ".jpeg", *((".webp",) if _reads_webp() else ()))


def read_header(path: pathlib.Path) -> Header:
    """Read what comes before the pixels of an image.

    Raises UserError for what is no regular file, no PNG, JPEG or WebP, and for more than 2^26 pixels.
    """
    with _opened(path) as image:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise _too_large(path, f"{width}x{height} pixels")
        # A PNG may tell its orientation only after the pixels; asking for it would decode them.
        told = image.format != "PNG" or any(key in image.info for key in _MAY_TELL)
        on_its_side = told and _orientation(image) >= 5
        size = (height, width) if on_its_side else (width, height)
        grey, deep = image.mode in ("1", "L", "LA") or _is_deep(image), _is_deep(image)
        return Header(size, grey, deep, getattr(image, "n_frames", 1), path.stat().st_size)


def largest_value(path: pathlib.Path) -> int:
    """The largest value in a file of 16 bits."""
    with _decoded(path) as image:
        return int(np.asarray(image).max())


def depth_of(largest: int) -> int:
    """Bits of values that reach ``largest``: the least of 8, 10, 12, 14 and 16 that hold it.

    >>> depth_of(4095), depth_of(4096)
    (12, 14)
    """
    return next((bits for bits in _DEPTHS if largest < 2**bits), 16)


def read_picture(path: pathlib.Path, *, grey: bool, depth: int = 16) -> Picture:
    """Decode an image: upright as its EXIF says, transparency composed on white, the first of several frames.

    Args:
      path: of the file.
      grey: one channel in place of three.
      depth: bits of the values in files of 16 bits, of which the upper 8 are kept.

    Raises:
      UserError: it cannot be decoded.
    """
    with _decoded(path) as image:
        try:
            orientation = _orientation(image)
            shown, clear = _scaled(image, depth) if _is_deep(image) else _composed(image)
            pixels = np.asarray(_upright(shown, orientation).convert("L" if grey else "RGB"))
        except Exception as error:  # whatever a conversion raises, this file is at fault
            raise _damaged(path, error) from error
    return Picture(pixels[..., None] if grey else pixels, orientation > 1, clear)


def _scaled(image: Any, depth: int) -> tuple[Any, bool]:
    """16 bits as 8; Pillow's own conversion would clip at 255 instead of scaling."""
    from PIL import Image

    values = np.asarray(image)
    pixels = (np.clip(values, 0, 2**depth - 1) >> (depth - 8)).astype(np.uint8)
    clear = values == image.info.get("transparency", -1)
    pixels[clear] = BACKGROUND[0]
    return Image.fromarray(pixels), bool(clear.any())


def _composed(image: Any) -> tuple[Any, bool]:
    """On the background, where anything is transparent; whether it was."""
    from PIL import Image

    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image, False
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema()[0] == 255:
        return image, False
    return Image.alpha_composite(Image.new("RGBA", image.size, (BACKGROUND[0],) * 3 + (255,)), image), True


def _upright(image: Any, orientation: int) -> Any:
    """Turned and mirrored as ``PIL.ImageOps.exif_transpose`` does, of an image that no longer knows its EXIF."""
    from PIL.Image import Transpose

    to_do = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(to_do[orientation]) if orientation in to_do else image


def _orientation(image: Any) -> int:
    """1 to 8; 1, as stored, where there is none or it cannot be read."""
    try:
        with _quietly():
            found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF is no reason to refuse a picture: viewers show it as it is stored
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _is_deep(image: Any) -> bool:
    return image.mode.startswith("I")


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    from PIL import Image

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is a pipe, a socket or a device and no file; remove it")
        with _quietly():
            image = Image.open(path, formats=("PNG", "JPEG", *(("WEBP",) if _reads_webp() else ())))
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, "an image") from error
    except Exception as error:
        raise UserError(f"{path} is not a readable image (PNG, JPEG, WebP); replace or remove it") from error
    with image:
        yield image


@contextlib.contextmanager
def _decoded(path: pathlib.Path) -> Iterator[Any]:
    with _opened(path) as image:
        try:
            with _quietly():
                image.load()
        except Exception as error:  # whatever a decoder raises, this file is at fault
            raise _damaged(path, error) from error
        yield image


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without Pillow's warnings (of bombs, which we refuse at a smaller size, and of damaged EXIF)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _reads_webp() -> bool:
    from PIL import features

    return features.check("webp") is True


def _too_large(path: pathlib.Path, what: str) -> UserError:
    return UserError(
        f"{path} is {what}, and no more than {MOST_PIXELS / 1e6:.0f} million are read; shrink or remove it"
    )


def _damaged(path: pathlib.Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be decoded ({why(error)}); replace or remove it")
