"""A step of the attack with attention, and the gradient of one depthwise convolution, beside plain Flax's.

    JAX_PLATFORMS=cpu python experiments/benchmarks/depthwise.py        # a minute

The baseline has ``nn.Conv`` with feature_group_count for ``convolutions.DepthwiseConv``; "slices" is that with XLA's
gradient in place of its own. Ratios are times over the baseline's, medians over rounds that call all in turn. Last
measured on a 2-core x86-64 CPU (jax 0.10.2):

    5x5, dilation 1: flax 64 ms, slices 20 ms (ratio 0.30), ours 11 ms (ratio 0.17)
    7x7, dilation 3: flax 160 ms, slices 39 ms (ratio 0.24), ours 14 ms (ratio 0.09)
    1x21, dilation 1: flax 49 ms, slices 8 ms (ratio 0.16), ours 3 ms (ratio 0.05)
    21x1, dilation 1: flax 95 ms, slices 8 ms (ratio 0.08), ours 3 ms (ratio 0.03)
    step of the attack with attention: flax 492 ms, slices 208 ms (ratio 0.42), ours 102 ms (ratio 0.21)
"""

import functools
import inspect
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import measuring

from gpz_jax import convolutions
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
    return compiled(gradient_of(layer.apply, layer.init(jax.random.key(1), x), x, jnp.roll(x, 1, axis=0)))


def whole_step(kind: type[nn.Module]):
    """The gradient of the attack's decoder from 4x4x64 to 32x32x3, width 8, batch 64."""
    z = jax.random.normal(jax.random.key(0), (64, 4, 4, 64))
    x = jax.random.uniform(jax.random.key(1), (64, 32, 32, 3))
    decoder = decoder_for(z.shape[1:], x.shape[1:], width=8, stages=attention.parse_stages("aac+se,lsk,msca"))

    def apply(variables, z):
        return decoder.apply(variables, z, train=True, mutable=["batch_stats"])[0]

    with mock.patch.object(attention, "DepthwiseConv", kind):
        return compiled(gradient_of(apply, decoder.init(jax.random.key(2), z, train=False), z, x))


def compiled(step):
    """The call, traced and compiled now: while what it is made of is in place."""
    jax.block_until_ready(step())
    return step


def by_slices(make):
    """What makes a call of :class:`DepthwiseConv`, with XLA's gradient of its sum of slices."""
    with mock.patch.object(convolutions, "filter_channels", inspect.unwrap(convolutions.filter_channels)):
        return make(DepthwiseConv)


def main() -> None:
    """Print a line for each, and the JSON line."""
    makers = {
        **{f"{h}x{w}, dilation {d}": functools.partial(one_layer, (h, w), d) for (h, w), d in KERNELS},
        "step of the attack with attention": whole_step,
    }
    ratios = {}
    for name, make in makers.items():
        calls = {"slices": by_slices(make), "ours": make(DepthwiseConv)}
        base, found = measuring.in_turn(make(FlaxConv), calls, ROUNDS)
        ratios[name] = {which: ratio for which, (_, ratio) in found.items()}
        said = ", ".join(f"{which} {1e3 * s:.0f} ms (ratio {ratio:.2f})" for which, (s, ratio) in found.items())
        measuring.say(f"{name}: flax {1e3 * base:.0f} ms, {said}")
    measuring.report("depthwise", against="nn.Conv with feature_group_count", ratios=ratios)


if __name__ == "__main__":
    main()
