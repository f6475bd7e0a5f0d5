"""A network that never learned anything has no zone: the rule ``null`` must say so, where the rule ``paper`` cannot."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

from gpz_jax.analysis import zone
from gpz_jax.analysis.nulls import null_variables
from gpz_jax.analysis.radius import deviations, measure, scatter
from gpz_jax.data import sources
from gpz_jax.data.batches import normalise, pixels
from gpz_jax.models import build
from gpz_jax.taps import tap


class Measured(NamedTuple):
    within: np.ndarray  # (L,) W
    rho: np.ndarray  # (L,)
    within_each: np.ndarray  # (L, N) squared distance of each image to its class mean
    total_each: np.ndarray  # (L, N) to the grand mean


def verdicts(seed, size, copies=5):
    """What both rules say of an untrained width-16 CNN, held against ``copies`` others, on the bundled digits."""
    digits = sources.load("digits")
    calibration = [normalise(pixels(digits.train_images[i : i + 256], size)) for i in range(0, 1024, 256)]
    count = len(digits.test_images) // 2
    batches = [
        (normalise(pixels(digits.test_images[part], size)), digits.test_labels[part], np.ones(count, bool))
        for part in (slice(0, count), slice(count, 2 * count))
    ]
    model = build("cnn", num_classes=10, width=16, size=size)

    def untrained(number):
        key = jax.random.fold_in(jax.random.key(seed), number)
        variables = null_variables(model, key, calibration)
        network = tap(model, variables, batches[0][0])
        moments = measure(network, variables, batches, 10)
        found = [scatter(moments[cut]) for cut in network.cuts]
        within, rho = (np.array([float(getattr(s, field)) for s in found]) for field in ("within", "rho"))
        return network.cuts, Measured(within, rho, *deviations(network, variables, batches, moments))

    measured = [untrained(number) for number in range(1 + copies)]
    cuts, one = measured[0]
    everyone = Measured(*map(np.stack, zip(*(m for _, m in measured), strict=True)))
    samples = zone.bootstrap_rho(everyone.within_each, everyone.total_each, replicates=1000, seed=seed)
    stats = zone.CutStatistics(cuts, one.within, one.rho, everyone.rho[1:], samples[:, 0], samples[:, 1:])
    return {rule: zone.locate(rule, stats) for rule in ("null", "paper")}


def assert_no_zone(seed, size):
    found = verdicts(seed, size)
    print(f"seed {seed}, {size} pixels: null {found['null'].cuts or 'no zone'} ({found['null'].reason})")
    print(f"seed {seed}, {size} pixels: paper {found['paper'].cuts} ({found['paper'].reason})")
    assert found["null"].cuts == ()
    assert found["null"].onset is None
    assert "does not exceed" in found["null"].reason
    assert found["paper"].cuts  # it has no way to say "no zone"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_an_untrained_cnn_has_no_zone(seed):
    assert_no_zone(seed, 32)
