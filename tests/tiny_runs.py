"""Tiny real runs, and how tests of the commands start them and read what they say."""

import os
import subprocess
import sys

import numpy as np
import pytest

from gpz_jax.data.sources import load

#: The smallest run that still says something: 2 epochs of a width-4 CNN on the bundled digits. Tests keep to its
#: size, width and batch size where they can, because what is compiled for one serves all.
TINY = ("--size", "16", "--width", "4", "--epochs", "2", "--null-seeds", "2", "--bootstrap", "50")
CUTS = ("block_1", "block_2", "block_3", "block_4", "fc", "logits")

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]),
    "COLUMNS": "200",
}


def command(name, *arguments, cwd):
    """Run ``python -m gpz_jax.NAME`` in a process of its own."""
    argv = [sys.executable, "-m", f"gpz_jax.{name}", *map(str, arguments)]
    return subprocess.run(argv, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def refused(capsys, main, *arguments):
    """Run a command that must refuse; return the one line it says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith("gpz: ") or line.startswith("gpz: error")]
    assert stop.value.code == 2
    assert len(lines) == 1, said.err
    assert lines[0].startswith("gpz: error: ")
    assert "Traceback" not in said.err + said.out
    return lines[0].removeprefix("gpz: error: ")


def arrays(*, train=None, test=None, channels=1, side=8):
    """Keys of an .npz data set: the digits as negatives, fewer, coloured and enlarged on request.

    All of them have the shapes of the digits, and so share the programs compiled for these.
    """
    digits = load("digits")
    tint = np.array([1.0, 0.6, 0.3])[:channels]

    def changed(images):
        grown = np.repeat(np.repeat(255 - images, side // 8, axis=1), side // 8, axis=2)
        return np.rint(grown * tint).astype(np.uint8)

    return {
        "train_images": changed(digits.train_images[:train]),
        "train_labels": digits.train_labels[:train],
        "test_images": changed(digits.test_images[:test]),
        "test_labels": digits.test_labels[:test],
    }


def snapshot(folder):
    """Content of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
