"""No program of a run sends between devices what grows with the images times the width of a cut."""

import json
import os
import subprocess
import sys

import pytest
from compiled_collectives import CLASSES, DEVICES, EACH, MANY, ROOT, SIDE


@pytest.fixture(scope="module")
def compiled():
    """Compiled for eight devices of a CPU, in a process that has so many; nothing is run."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "tests/compiled_collectives.py"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_nothing_that_travels_grows_with_images_and_width(compiled):
    widths, images = compiled.pop("widths"), EACH * DEVICES
    assert min(width for width in widths.values() if width > CLASSES) > 2 * CLASSES
    for name, largest in compiled.items():
        # Labels may be gathered, as one of K; a batch at the narrowest cut before the logits is more.
        classes = MANY if name.startswith("dealt") else CLASSES
        assert largest.get("all-gather", 0) <= 4 * images * classes, (name, largest)
        if name.startswith("dealt"):
            # Every device sends its own activations on, once, and no sums of all classes.
            assert 0 < largest["all-to-all"] <= 4 * EACH * max(widths.values())
            assert largest["all-reduce"] < 4 * MANY * sorted(widths.values())[-4], (name, largest)
        else:
            assert "all-to-all" not in largest, (name, largest)
    # Of images that are dealt to the devices a batch travels, whatever their number is.
    assert compiled["train, dealt images"].get("reduce-scatter", 0) <= images * SIDE * SIDE * 3 * 4
    assert compiled["linear"]["all-reduce"] == 4 * 128 * 128  # the Gram matrix, whatever the rows
