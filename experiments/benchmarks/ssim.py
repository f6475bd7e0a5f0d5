"""SSIM with its window as products with banded matrices, beside dm_pix's own window.

    JAX_PLATFORMS=cpu python experiments/benchmarks/ssim.py        # half a minute

Ratios are times over those with dm_pix's window, medians over rounds that call both in turn. Last measured on one core
of a 2-core x86-64 CPU (jax 0.10.2, dm-pix 0.4.5), the other busy:

    256x32x32x3: dm_pix 187 ms, ours 14 ms, ratio 0.074; values differ by 2e-07
    256x28x28x1: dm_pix 35 ms, ours 3 ms, ratio 0.089; values differ by 3e-07
    64x64x64x3: dm_pix 207 ms, ours 17 ms, ratio 0.081; values differ by 2e-07
    16x224x224x3: dm_pix 850 ms, ours 192 ms, ratio 0.234; values differ by 2e-07
"""

import dm_pix
import jax
import jax.numpy as jnp
import measuring

from gpz_jax.inversion import metrics

ROUNDS = 7
SHAPES = [(256, 32, 32, 3), (256, 28, 28, 1), (64, 64, 64, 3), (16, 224, 224, 3)]


def main() -> None:
    """Print a line a shape, and the JSON line."""
    ratios, differences = {}, {}
    for shape in SHAPES:
        x, x_hat = (jax.random.uniform(jax.random.key(i), shape) for i in (0, 1))
        own, ours = jax.jit(dm_pix.ssim), jax.jit(metrics.ssim)
        base, others = measuring.in_turn(
            lambda own=own, x=x, y=x_hat: own(x, y), {"ours": lambda ours=ours, x=x, y=x_hat: ours(x, y)}, ROUNDS
        )
        name = "x".join(map(str, shape))
        ratios[name] = others["ours"][1]
        differences[name] = float(jnp.abs(own(x, x_hat) - ours(x, x_hat)).max())
        measuring.say(
            f"{name}: dm_pix {1e3 * base:.0f} ms, ours {1e3 * others['ours'][0]:.0f} ms, ratio {ratios[name]:.3f}; "
            f"values differ by {differences[name]:.0e}"
        )
    measuring.report("ssim", against="dm_pix's own window", ratios=ratios, values_differ_by=differences)


if __name__ == "__main__":
    main()
