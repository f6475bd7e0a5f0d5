"""How many near copies are found, and how many images are taken for ones? Counted on real images.

    python experiments/benchmarks/near_copies.py --data-dir DIR

Every data set in DIR (an .npz each) and the digits: the first 500 test images are mirrored, shrunk, compressed, and
looked for among themselves; all test images are looked for among the training images, of which they should be no
copies.
"""

import argparse
import io
import pathlib
import time

import measuring
import numpy as np
from PIL import Image

from gpz_jax.data import sources
from gpz_jax.data.near_copies import near_copies, thumbnails


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data")
    flags = parser.parse_args()

    found, taken, seconds = {}, {}, {}
    for name in ["digits", *sorted(path.stem for path in pathlib.Path(flags.data_dir).glob("*.npz"))]:
        source = sources.load(name, flags.data_dir, auxiliary=True)
        begun = time.perf_counter()
        train, test = thumbnails(source.train_images), thumbnails(source.test_images)
        alike = 0.999 if min(source.train_images.shape[1:3]) < 16 else 0.99
        taken[name] = f"{int(near_copies(test, train, alike=alike).sum())} of {len(test)}"
        seconds[name] = time.perf_counter() - begun
        found[name] = {
            change: float(near_copies(thumbnails(changed(source.test_images[:500], change)), test[:500]).mean())
            for change in ("mirrored", "to 3/4 and back", "halved", "JPEG 75")
        }
        measuring.say(f"{name}: taken for copies {taken[name]}; found again {found[name]}")
    measuring.report(
        "near_copies",
        against="the changed images",
        ratios={},
        settings=flags,
        found=found,
        taken=taken,
        seconds=seconds,
    )


def changed(images: np.ndarray, how: str) -> np.ndarray:
    """Images mirrored, resized or compressed by Pillow."""
    made = []
    for array in images:
        image = Image.fromarray(array.squeeze())
        width, height = image.size
        if how == "mirrored":
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        elif how == "halved":
            image = image.resize((width // 2, height // 2), Image.Resampling.BICUBIC)
        elif how == "JPEG 75":
            image.save(file := io.BytesIO(), "JPEG", quality=75)
            image = Image.open(file)
        else:
            small = image.resize((round(0.75 * width), round(0.75 * height)), Image.Resampling.BICUBIC)
            image = small.resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
        made.append(pixels[..., None] if pixels.ndim == 2 else pixels)
    return np.stack(made)


if __name__ == "__main__":
    main()
