"""A step of the attack with attention, and the gradient of one depthwise convolution, beside plain Flax's.

    JAX_PLATFORMS=cpu python experiments/benchmarks/depthwise.py        # a minute

The baseline has ``nn.Conv`` with feature_group_count for ``convolutions.DepthwiseConv``; ratios are times over the
baseline's, medians over rounds that call both in turn. Last measured on one core of a 2-core x86-64 CPU (jax 0.10.2),
the other busy:

    5x5, dilation 1: flax 97 ms, ours 16 ms, ratio 0.17
    7x7, dilation 3: flax 303 ms, ours 25 ms, ratio 0.08
    1x21, dilation 1: flax 93 ms, ours 3 ms, ratio 0.04
    21x1, dilation 1: flax 178 ms, ours 4 ms, ratio 0.02
    step of the attack with attention: flax 926 ms, ours 141 ms, ratio 0.15

With XLA's gradient of the shifted slices that step took 296 ms.
"""

from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import measuring

from gpz_jax.convolutions import DepthwiseConv
from gpz_jax.inversion import attention
from gpz_jax.inversion.decoder import decoder_for

ROUNDS = 7
KERNELS = [((5, 5), 1), ((7, 7), 3), ((1, 21), 1), ((21, 1), 1)]  # sides, dilation


class FlaxConv(nn.Module):
    """What a :class:`DepthwiseConv` of these attributes is, by Flax."""

    kernel_size: tuple[int, int]
    dilation: int = 1
    use_bias: bool = True
    kernel_init: jax.nn.initializers.Initializer = jax.nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Filter every channel of x by itself."""
        c = x.shape[-1]
        return nn.Conv(
            c, self.kernel_size, kernel_dilation=self.dilation, feature_group_count=c, use_bias=self.use_bias,
            kernel_init=self.kernel_init,
        )(x)  # fmt: skip


def gradient_of(apply, variables, x, target):
    """A call without arguments: value and gradient of the squared error, compiled for these."""
    step = jax.jit(jax.value_and_grad(lambda v, x: jnp.mean((apply(v, x) - target) ** 2), argnums=(0, 1)))
    return lambda: step(variables, x)


def one_layer(kernel_size: tuple[int, int], dilation: int, kind: type[nn.Module]):
    """The gradient of one convolution of 64x32x32x8."""
    x = jax.random.normal(jax.random.key(0), (64, 32, 32, 8))
    layer = kind(kernel_size, dilation)
    return gradient_of(layer.apply, layer.init(jax.random.key(1), x), x, jnp.roll(x, 1, axis=0))


def whole_step(kind: type[nn.Module]):
    """The gradient of the attack's decoder from 4x4x64 to 32x32x3, width 8, batch 64."""
    z = jax.random.normal(jax.random.key(0), (64, 4, 4, 64))
    x = jax.random.uniform(jax.random.key(1), (64, 32, 32, 3))
    decoder = decoder_for(z.shape[1:], x.shape[1:], width=8, stages=attention.parse_stages("aac+se,lsk,msca"))

    def apply(variables, z):
        return decoder.apply(variables, z, train=True, mutable=["batch_stats"])[0]

    with mock.patch.object(attention, "DepthwiseConv", kind):
        step = gradient_of(apply, decoder.init(jax.random.key(2), z, train=False), z, x)
        step()  # is compiled while the other kind is in place
    return step


def main() -> None:
    """Print a line for each, and the JSON line."""
    pairs = {f"{h}x{w}, dilation {d}": (one_layer((h, w), d, FlaxConv), one_layer((h, w), d, DepthwiseConv))
             for (h, w), d in KERNELS}  # fmt: skip
    pairs["step of the attack with attention"] = whole_step(FlaxConv), whole_step(DepthwiseConv)
    ratios = {}
    for name, (flax, ours) in pairs.items():
        base, others = measuring.in_turn(flax, {"ours": ours}, ROUNDS)
        ratios[name] = others["ours"][1]
        measuring.say(
            f"{name}: flax {1e3 * base:.0f} ms, ours {1e3 * others['ours'][0]:.0f} ms, ratio {ratios[name]:.2f}"
        )
    measuring.report("depthwise", against="nn.Conv with feature_group_count", ratios=ratios)


if __name__ == "__main__":
    main()
