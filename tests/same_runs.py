"""Whether two run folders hold the same run, bit for bit."""

import json

import jax
import numpy as np
import xarray as xr

from gpz_jax import parallel, runs, workflow
from gpz_jax.config import resolve
from gpz_jax.training import classifier
from gpz_jax.workflow.common import abstract_state


def latest(folder):
    """The last checkpoint of a run between two epochs."""
    run = runs.open_run(folder)
    recipe = classifier.recipe_for(resolve(run.config), run.num_classes, run.channels)
    return runs.Checkpoints(run).latest(abstract_state(recipe, run.channels, parallel.data_mesh()))


def assert_same_run(a, b):
    """Checkpoints, metrics.jsonl and dynamics.zarr of both folders hold the same."""
    one, other = latest(a), latest(b)
    assert one.epoch == other.epoch
    for (path, x), y in zip(jax.tree.leaves_with_path(one.state), jax.tree.leaves(other.state), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (a, b)]
    assert [json.loads(line)["epoch"] for line in lines[0]] == list(range(1, one.epoch + 1))
    assert lines[0] == lines[1]
    for group in ("epochs", "steps") if runs.steps_folder(a).exists() else ("epochs",):
        read = [xr.open_zarr(folder / "dynamics.zarr", group=group, consolidated=False) for folder in (a, b)]
        with read[0] as x, read[1] as y:
            xr.testing.assert_identical(x.load(), y.load())
    assert runs.steps_folder(a).exists() == runs.steps_folder(b).exists()
    assert workflow.load_run(str(a)).epoch == workflow.load_run(str(b)).epoch
