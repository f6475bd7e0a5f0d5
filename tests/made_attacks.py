"""Attacks that were never made, for tests of what is said of attacks."""

import numpy as np

from gpz_jax.inversion.identification import Identification, wilson_interval
from gpz_jax.inversion.intervals import bootstrap_ratio_interval
from gpz_jax.inversion.results import Attempt, Floors, Intervals, Leaks, PerImage, Pictures, Scores, Training

N = 200
FLOOR = np.random.default_rng(0).uniform(0.03, 0.05, N)  # of the class mean; the label-only guess is a little worse
CONVERGED = Training(np.linspace(0.05, 0.01, 40), best_epoch=39, flattened=True, last_gain=0.001)
CLOSED = Training(np.array([0.02]), note="closed form")


def attempt(name, ratio, *, training=None, named=0.0, collapse=1.0, spread=0.1):
    """An attack whose mse is ``ratio`` of the class-mean floor, give or take, and which names a share of the images."""
    rng = np.random.default_rng(list(name.encode()))  # attacks err at images of their own
    errors = FLOOR * (1 + spread * rng.uniform(-1, 1, N))
    errors *= ratio * FLOOR.mean() / errors.mean()
    label_only = 1.05 * FLOOR
    per_image = PerImage(np.arange(N) % 10, errors, 1.3 * FLOOR, FLOOR, label_only)
    mse = float(errors.mean())
    return Attempt(
        name,
        N,
        Scores(mse=mse, mse_paper=mse, ratio=ratio),
        Intervals(ratio=bootstrap_ratio_interval(errors, FLOOR)),
        Floors(0.052, 0.04, 0.042),
        per_image,
        collapse,
        Leaks(),
        training or (CLOSED if name == "linear" else CONVERGED),
        first=Pictures(np.zeros((2, 4, 4, 1), np.float32), np.ones((2, 4, 4, 1), np.float32)),
        identified=Identification(N, named, named, named, wilson_interval(named, N), (0.0, 0.1), 1 / N, 0.05, 0.05),
    )
