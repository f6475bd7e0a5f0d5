"""What the compiler of a TPU makes of the CNN's programs; it needs no TPU, only the libtpu that belongs to this jax."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.tpu,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu, the TPU's compiler, is not installed: pip install 'libtpu==0.0.42.*' beside jax 0.10",
    ),
]

IMAGES, BATCH, SIDE = 40_000, 128, 64


def compiled(topology):
    """The table of the benchmark for the CNN: in a process of its own, for libtpu wants its environment first."""
    command = [sys.executable, "experiments/benchmarks/tpu_compiled.py", "--topology", topology]
    programs = ("forward", "train", "probe", "ledger")
    sizes = {"--images": IMAGES, "--batch": BATCH, "--side": SIDE}
    command += ["--programs", *programs, *(str(word) for pair in sizes.items() for word in pair), "--keep", ""]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    # Programs for a TPU are nothing that the tests' cache, or their settings of XLA for CPUs, are meant for.
    given = {name: text for name, text in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    found = subprocess.run(
        command, cwd=ROOT, env={**given, "PYTHONPATH": path}, check=True, capture_output=True, text=True
    )
    return json.loads(found.stdout.splitlines()[-1])


@pytest.mark.parametrize("topology", ["1x1", "2x2"])
def test_no_step_copies_the_whole_set_or_gathers_a_batch(topology):
    line = compiled(topology)
    row = SIDE * SIDE * 3
    assert line["programs"]["cnn, train"]["copied"] < IMAGES * row
    for name, cost in line["programs"].items():
        assert cost["loops"] == 0, name
        # A batch at the narrowest cut before the head, 4 x 4 x 512 bfloat16: nothing as large is gathered.
        assert cost["largest"].get("all-gather", 0) < BATCH * 4 * 4 * 512 * 2, name
        assert cost["largest"].get("all-to-all", 0) == 0, name
    assert line["ratios"]["cnn, probe"] <= 1.5
    assert line["ratios"]["cnn, ledger"] <= 4
