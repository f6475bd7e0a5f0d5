"""Pixel values as bytes 0..255, whatever an array holds them as; and whether they fill that range."""

from collections.abc import Iterator, Mapping

import numpy as np

from gpz_jax.errors import UserError

#: Half a step between two bytes, of floats in [0, 1]: what is no further outside becomes 0 or 255 by rounding alone.
_HALF_STEP = 1 / 510
#: Parts of a data set whose largest values differ by this factor are taken to be on different scales.
_OTHER_SCALE = 8
#: Below this largest value, a quarter of the range, it is said: the images are dark, or on another scale.
_DARK = 64


def as_uint8(images: np.ndarray, what: str) -> np.ndarray:
    """Images as uint8 (N, H, W, C), or a UserError that begins with ``what`` and says what is wrong.

    uint8 passes through uncopied; other integers lie within 0..255; floats within [0, 1] become round(255 v), those
    outside by less than half a step of these (1/510: a rounding error) the nearest byte.

    >>> as_uint8(np.full((1, 1, 1, 1), 1.0000001), "x").item()
    255
    >>> as_uint8(np.full((1, 1, 1, 1), -1.0), "x")
    Traceback (most recent call last):
    ...
    gpz_jax.errors.UserError: x is float but spans -1..-1; floats must lie in [0, 1]: of values in [-1, 1] store ...
    """
    _check_shape(images, what)
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind == "b":
        raise UserError(f"{what} has dtype bool; store it as uint8 in 0..255: images.astype(np.uint8) * 255")
    if images.dtype.kind not in "iuf":
        raise UserError(f"{what} has dtype {images.dtype}; store it as uint8 in 0..255 or float in [0, 1]")
    low, high = images.min(), images.max()
    if images.dtype.kind == "f":
        _check_floats(float(low), float(high), what)
    elif low < 0 or high > 255:
        bits = 16 if high >= 4096 else 12
        how = (
            f": (images >> {bits - 8}).astype(np.uint8), if they are of {bits} bits" if 0 <= low <= high < 2**16 else ""
        )
        raise UserError(
            f"{what} is {images.dtype} and spans {low}..{high}; bring it to 0..255 and store it as uint8{how}"
        )
    result = np.empty(images.shape, np.uint8)
    for rows in chunks(images):
        if images.dtype.kind == "f":
            result[rows] = np.clip(np.rint(np.float32(255) * images[rows]), 0, 255)
        else:
            result[rows] = images[rows]
    return result


def check_scale(images: Mapping[str, np.ndarray], where: str) -> list[str]:
    """Notes on parts of a data set (name -> uint8 images) that fill little of 0..255.

    A part that holds one value only says nothing of its scale, and is left to whoever counts constant images.

    Raises UserError for a part that reaches only 1 of 255, and for two whose largest values differ by a factor of 8 or
    more: then one of them was scaled otherwise than the other.

    >>> check_scale({"train_images": np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)}, "x")
    ['x: the largest value of train_images is 15 of 255; if 15 stands for white, multiply by 255 / 15']
    """
    largest = {part: int(array.max()) for part, array in images.items() if array.max() > array.min()}
    for part, top in largest.items():
        if top == 1:
            raise UserError(
                f"{where}: {part}: largest value 1 of 255, which is all but black; store zeros and ones as 0 and 255, "
                "that is images * 255"
            )
    if largest and _OTHER_SCALE * min(largest.values()) <= max(largest.values()):
        dark, bright = min(largest, key=lambda part: largest[part]), max(largest, key=lambda part: largest[part])
        raise UserError(
            f"{where}: the largest value of {bright} is {largest[bright]} of 255, that of {dark} {largest[dark]}; they "
            "are on different scales: bring them to one"
        )
    return [
        f"{where}: the largest value of {part} is {top} of 255; if {top} stands for white, multiply by 255 / {top}"
        for part, top in largest.items()
        if top < _DARK
    ]


def chunks(array: np.ndarray) -> Iterator[slice]:
    """Slices of the first axis of about a million elements each."""
    rows = max(1, 2**20 // max(1, array[0].size))
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def _check_shape(images: np.ndarray, what: str) -> None:
    shape = images.shape
    if images.ndim != 4:
        hint = ""
        if images.ndim == 3:
            hint = "; add the channel axis with images[..., None]"
        elif images.ndim == 2 and (sides := _square(shape[1])):
            hint = f"; give every image its rows back, if they were square: images.reshape({sides})"
        raise UserError(f"{what} must have the shape (N, H, W, C), found {shape}{hint}")
    if 0 in shape:
        raise UserError(f"{what} is empty, its shape is {shape}; at least one image is needed")
    if shape[-1] not in (1, 3):
        hint = ""
        if shape[1] in (1, 3):
            hint = ", which looks like (N, C, H, W); move the channels last with images.transpose(0, 2, 3, 1)"
        elif shape[2] in (1, 3):
            hint = ", which looks like (H, W, C, N); move the images first with images.transpose(3, 0, 1, 2)"
        elif shape[-1] == 4:
            hint = "; of RGB and transparency leave the latter out: images[..., :3]"
        raise UserError(f"{what} must have 1 or 3 channels, found {shape[-1]} in {shape}{hint}")


def _square(pixels: int) -> str:
    """The shape of square images of so many values, grey or planes of colour; empty if there is none, or it is tiny."""
    for channels in (1, 3):
        side = round((pixels / channels) ** 0.5)
        if side >= 8 and channels * side * side == pixels:
            return f"-1, {side}, {side}, 1" if channels == 1 else f"-1, 3, {side}, {side}).transpose(0, 2, 3, 1"
    return ""


def _check_floats(low: float, high: float, what: str) -> None:
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{what} holds NaN or infinite values; store finite floats in [0, 1] or uint8")
    if low > -_HALF_STEP and high < 1 + _HALF_STEP:
        return
    if low < 0:
        within = low > -1 - _HALF_STEP and high < 1 + _HALF_STEP
        how = "of values in [-1, 1] store (x + 1) / 2" if within else "undo what they were normalised by"
    else:
        how = f"divide by {'255' if high < 256 else 'the largest possible value'}, or store uint8"
    raise UserError(f"{what} is float but spans {low:g}..{high:g}; floats must lie in [0, 1]: {how}")
