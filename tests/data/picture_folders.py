"""Folders of images for the tests: two classes of noise, and whatever else is to lie in them."""

import contextlib
import io

import numpy as np
from PIL import Image

from gpz_jax.data import sources

RNG = np.random.default_rng(7)


def noise(height=6, width=8, channels=3):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return RNG.integers(0, 256, shape, np.uint8)


def folder(root, *, size=(6, 8), channels=3, train=3, test=2, parts=("train", "test")):
    """Noise in root/train/{a,b} and root/test/{a,b}, as 0.png, 1.png, …"""
    for part, count in zip(parts, (train, test), strict=False):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(noise(*size, channels)).save(root / part / name / f"{i}.png")
    return root


def read(root, **options):
    """What the reader makes of it, and the lines that it says."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        source = sources.load(root.name, root.parent, **options)
    lines = said.getvalue().splitlines()
    assert all(line.startswith("gpz: ") for line in lines)
    return source, [line.removeprefix("gpz: ").removeprefix(f"{root}: ") for line in lines]
