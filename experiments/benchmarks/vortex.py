"""What the ledger of R_c² costs beside a plain forward pass of the same batch: one process, in turn, medians.

    python experiments/benchmarks/vortex.py                              # CNN, VGG19 and IR-152 siblings, K = 10, 100
    python experiments/benchmarks/vortex.py --models cnn --jacobian --tracking

Prints, for every sibling and K, the ratio to the forward pass (median of the ratios pair by pair) of

  feature      correct, wrong and second of all cuts (goal <= 3.5, and K = 100 <= 1.15 times K = 10)
  parameter    the ledger in parameter space, the two gradient parts of a training batch of the same size included
               (goal <= 12)

--jacobian: the feature-space terms by vmap(jacrev) at every cut, against the fast way: time and peak memory (each in
a process of its own; goal: more than 6 times slower at the CNN's first four cuts, K = 10).
--tracking: training at batch 128 with and without the ledger of every tenth step, probe batch 256 (goal: <= 20 % more).
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gpz_jax.analysis import vortex
from gpz_jax.models import build
from gpz_jax.taps import tap
from gpz_jax.targets import soft_targets

#: Width and depth of the siblings that stand for the paper's models on two cores.
SIBLINGS = {"cnn": (16, 1.0), "vgg19": (16, 1.0), "ir152": (16, 0.25)}


def siblings(name: str, num_classes: int, batch: int, size: int):
    """A tapped network, its variables, and a random batch with labels and soft targets."""
    width, depth = SIBLINGS[name]
    model = build(name, num_classes=num_classes, size=size, width=width, depth=depth)
    x = jax.random.normal(jax.random.key(0), (batch, size, size, 3))
    labels = jnp.arange(batch) % num_classes
    variables = model.init(jax.random.key(1), x)
    return model, tap(model, variables, x, train=False), variables, x, labels, soft_targets(labels, num_classes, 0.3)


def timed(call) -> float:
    begun = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begun


def ratios(baseline, others: dict, pairs: int) -> tuple[float, dict[str, tuple[float, float]]]:
    """Median seconds of the baseline; of the others median seconds and median ratio, run in turn."""
    for call in (baseline, *others.values()):
        jax.block_until_ready(call())
    times = np.array([[timed(call) for call in (baseline, *others.values())] for _ in range(pairs)])
    medians, against = np.median(times, axis=0), np.median(times / times[:, :1], axis=0)
    return medians[0], {name: (medians[i], against[i]) for i, name in enumerate(others, start=1)}


def ledgers(name: str, num_classes: int, flags) -> dict[str, float]:
    """Ratios of the two ledgers to a forward pass."""
    model, network, variables, x, labels, q = siblings(name, num_classes, flags.batch, flags.size)

    def logits_of(params):
        rngs = {"dropout": jax.random.key(2)}
        return model.apply({**variables, "params": params}, x, train=True, rngs=rngs, mutable=["batch_stats"])[0]

    gradient = jax.jit(lambda params: vortex.gradient_parts(logits_of, params, labels, q))
    parts = gradient(variables["params"])
    update = jax.tree.map(lambda a, b: -0.01 * (a + b), *parts)
    after = {**variables, "params": optax.apply_updates(variables["params"], update)}
    forward = jax.jit(lambda variables, x: network(variables, x)[0])

    def parameter():
        parts = gradient(variables["params"])
        return vortex.parameter_terms(
            network, variables, after, x, labels, parts, num_classes=num_classes, step_size=0.01
        )

    plain, found = ratios(
        lambda: forward(variables, x),
        {
            "feature": lambda: vortex.feature_terms(network, variables, x, labels, q, step_size=0.01),
            "parameter": parameter,
            "gradient parts": lambda: gradient(variables["params"]),
        },
        flags.pairs,
    )
    feature, full, part = (found[key] for key in ("feature", "parameter", "gradient parts"))
    print(
        f"{name:6} K = {num_classes:3}  {len(network.cuts)} cuts  forward {1e3 * plain:7.1f} ms   "
        f"feature {1e3 * feature[0]:8.1f} ms, ratio {feature[1]:5.2f}   "
        f"parameter {1e3 * full[0]:8.1f} ms, ratio {full[1]:5.2f} (gradient parts {part[1]:.2f} of it)",
        flush=True,
    )
    return {"feature": feature[1], "parameter": full[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(SIBLINGS), choices=list(SIBLINGS))
    parser.add_argument("--classes", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=10)
    flags = parser.parse_args()
    print(f"batch {flags.batch}, {flags.size}x{flags.size}x3, {jax.devices()[0].device_kind}, jax {jax.__version__}")
    for name in flags.models:
        found = [ledgers(name, k, flags) for k in flags.classes]
        if len(found) > 1:
            print(
                f"{name:6} feature, K = {flags.classes[-1]} over K = {flags.classes[0]}: "
                f"{found[-1]['feature'] / found[0]['feature']:.2f} (goal <= 1.15)"
            )


if __name__ == "__main__":
    main()
