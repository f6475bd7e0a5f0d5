"""Gradient of a 4x4, stride-2 transposed convolution: nn.ConvTranspose against gpz_jax's TransposedConv.

    JAX_PLATFORMS=cpu python experiments/benchmarks/transposed_convolution.py        # 15 seconds

Both have the same parameters. Times are medians over alternating calls of one jitted value and gradient with
respect to the parameters and the input; differences are relative to the largest entry. Last measured with
jax 0.10.2 and flax 0.12.8 on a 2-core x86-64 CPU, shared with other work:

    64x4x4x512 -> 256: flax 736 ms, ours 48 ms, paired ratio 15.9; values differ by 6e-07, gradients by 9e-07
    64x16x16x64 -> 32: flax 204 ms, ours 24 ms, paired ratio 8.8; values differ by 4e-07, gradients by 2e-06

In three runs the ratios were 15.9 to 17.2 and 8.3 to 8.8; under other load the times of one run doubled.
"""

import statistics

import flax.linen as nn
import jax
import jax.numpy as jnp
import measuring

from gpz_jax.convolutions import TransposedConv

REPEATS = 7
SIZES = [((64, 4, 4, 512), 256), ((64, 16, 16, 64), 32)]  # input, output channels


def compare(shape: tuple[int, ...], features: int) -> tuple[float, float]:
    """Times of flax's over ours, and the largest difference of the gradients."""
    n, h, w, _ = shape
    x = jax.random.normal(jax.random.key(0), shape)
    target = jax.random.normal(jax.random.key(1), (n, 2 * h, 2 * w, features))
    modules = {
        "flax": nn.ConvTranspose(features, (4, 4), strides=(2, 2), padding="SAME"),
        "ours": TransposedConv(features),
    }
    variables = modules["flax"].init(jax.random.key(2), x)

    def value_and_gradient(module: nn.Module):
        return jax.jit(
            jax.value_and_grad(lambda v, x: jnp.mean(jnp.asarray(module.apply(v, x)) * target), argnums=(0, 1))
        )

    forwards = {name: jax.jit(module.apply) for name, module in modules.items()}
    steps = {name: value_and_gradient(module) for name, module in modules.items()}
    values = [forwards[name](variables, x) for name in ("ours", "flax")]
    gradients = [steps[name](variables, x)[1] for name in ("ours", "flax")]  # compiles, too

    seconds = {name: [] for name in steps}
    for _ in range(REPEATS):
        for name, step in steps.items():
            seconds[name].append(measuring.seconds(lambda step=step: step(variables, x)))
    flax_ms, ours_ms = (1e3 * statistics.median(seconds[name]) for name in ("flax", "ours"))
    ratio = statistics.median(a / b for a, b in zip(seconds["flax"], seconds["ours"], strict=True))
    measuring.say(
        f"{'x'.join(map(str, shape))} -> {features}: flax {flax_ms:.0f} ms, ours {ours_ms:.0f} ms, "
        f"paired ratio {ratio:.1f}; values differ by {difference(*values):.0e}, "
        f"gradients by {difference(*gradients):.0e}"
    )
    return ratio, difference(*gradients)


def difference(got, want) -> float:
    """Largest |got - want| over the leaves, each relative to its largest entry."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(float(jnp.abs(g - w).max() / jnp.abs(w).max()) for g, w in pairs)


def main() -> None:
    found = {f"{'x'.join(map(str, shape))} -> {features}": compare(shape, features) for shape, features in SIZES}
    measuring.report(
        "transposed_convolution", against="ours; nn.ConvTranspose takes so many times as long",
        ratios={size: ratio for size, (ratio, _) in found.items()},
        gradients_differ_by={size: difference for size, (_, difference) in found.items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
