"""Training steps of the models on a CPU, their convolutions by ``convolutions.Conv`` and by ``nn.Conv``.

    python experiments/benchmarks/training_step.py                    # ResNet-50, IR-152, VGG19, width 8; a minute each
    python experiments/benchmarks/training_step.py --models vgg19 --width 64 --batch 32 --rounds 3
    python experiments/benchmarks/training_step.py --models vit       # has none: the two are the same program

Untrained weights and noise for images. A step is the loss's value, its gradient and a descent. On Linux, run it once
more with GLIBC_TUNABLES=glibc.malloc.hugetlb=1: memory that a step takes and gives back comes in large pages then.
"""

import argparse
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import measuring
import optax

from gpz_jax.models import build, layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50", "ir152", "vgg19"])
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    ratios, seconds = {}, {}
    for name in flags.models:
        with mock.patch.object(layers, "Conv", nn.Conv):
            before = step_of(name, flags)
            measuring.seconds(before)  # traced and compiled while it is so
        seconds[f"{name}, convolutions"], found = measuring.in_turn(before, {name: step_of(name, flags)}, flags.rounds)
        seconds[name], ratios[name] = found[name]
        measuring.say(
            f"{name}: {1e3 * seconds[f'{name}, convolutions']:.0f} ms a step with convolutions, "
            f"{1e3 * seconds[name]:.0f} with products, paired ratio {ratios[name]:.2f}"
        )
    measuring.report(
        "training_step", against="all convolutions by XLA", ratios=ratios, settings=flags, seconds=seconds
    )  # fmt: skip


def step_of(name: str, flags: argparse.Namespace):
    """A call that does one step from the same state."""
    width = 64 if name == "vit" else flags.width
    model = build(name, num_classes=10, size=32, width=width, patch=4, heads=4)
    x = jax.random.uniform(jax.random.key(0), (flags.batch, 32, 32, 3))
    labels = jnp.arange(flags.batch) % 10
    variables = model.init(jax.random.key(1), x[:1])

    @jax.jit
    def step(variables):
        def loss(parameters):
            logits, _ = model.apply(
                {**variables, "params": parameters}, x, train=True, mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(2)},
            )  # fmt: skip
            return optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), labels).mean()

        value, gradient = jax.value_and_grad(loss)(variables["params"])
        return value, jax.tree.map(lambda leaf, slope: leaf - 1e-3 * slope, variables["params"], gradient)

    return lambda: step(variables)


if __name__ == "__main__":
    main()
