"""How often does the rule ``null`` call an untrained network's cuts a zone? Counted on untrained CNNs and the digits.

    python experiments/benchmarks/false_alarms.py

Measures rho of untrained, calibrated width-16 CNNs at every cut, draws one and S others many times, and prints in what
share of the draws the one passes the others' prediction limit (point estimates, without the bootstrap).
"""

import argparse

import jax
import measuring
import numpy as np
from scipy.stats import t as student_t

from gpz_jax.analysis.nulls import null_variables
from gpz_jax.analysis.radius import measure, scatter
from gpz_jax.analysis.zone import prediction_limit
from gpz_jax.data import sources
from gpz_jax.data.batches import normalise, pixels
from gpz_jax.models import build
from gpz_jax.taps import tap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=80)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--size", type=int, default=32)
    flags = parser.parse_args()

    digits = sources.load("digits")
    calibration = [normalise(pixels(digits.train_images[i : i + 256], flags.size)) for i in range(0, 1024, 256)]
    x = normalise(pixels(digits.test_images, flags.size))
    batches = [(x, digits.test_labels, np.ones(len(x), bool))]
    model = build("cnn", num_classes=10, width=16, size=flags.size)
    network, rhos = None, []
    for number in range(flags.networks):
        variables = null_variables(model, jax.random.fold_in(jax.random.key(100), number), calibration)
        network = network or tap(model, variables, x)
        moments = measure(network, variables, batches, 10)
        rhos.append([float(scatter(moments[cut]).rho) for cut in network.cuts])
    log_rho = np.log(np.array(rhos))  # (networks, cuts)
    rng, rates = np.random.default_rng(0), {}
    for copies in (3, 5, 10):
        for confidence in (0.99, 0.999):
            quantile = float(student_t.ppf(confidence, copies - 1))
            alarms, limits = 0, []
            for _ in range(flags.draws):
                one, *others = log_rho[rng.choice(flags.networks, copies + 1, replace=False)]
                null = np.array(others)
                limits.append(prediction_limit(null, quantile))
                alarms += float((null.mean(axis=0) - one).max()) > limits[-1]
            rates[f"{copies} copies, confidence {confidence:g}"] = alarms / flags.draws
            measuring.say(
                f"{copies} copies, confidence {confidence:g}: {alarms / flags.draws:.2%} false alarms, "
                f"median limit {np.median(limits):.3f} nats"
            )
    measuring.report("false_alarms", against="all draws", ratios=rates, settings=flags)


if __name__ == "__main__":
    main()
