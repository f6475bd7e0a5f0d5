"""Training step of the deconvolution decoder, beside the same in PyTorch on the same cores (goal: at most 1.5x).

    pip install 'gpz-jax[torch]' && python experiments/benchmarks/decoder_torch.py

Both have the same layers and as many parameters, batches of 64, least squares, Adam; in turn, in one process; the
median of the ratios pair by pair.
"""

import argparse
import math

import jax
import jax.numpy as jnp
import measuring
import optax

from gpz_jax.inversion.decoder import decoder_for, parameter_count, stage_count

SETTINGS = {"laptop": ((4, 4, 64), (32, 32, 3), 16), "paper's size": ((4, 4, 512), (64, 64, 3), 16)}


def ours(z_shape, x_shape, width: int, batch: int):
    """A call that trains one step."""
    decoder = decoder_for(z_shape, x_shape, width=width)
    z = jax.random.normal(jax.random.key(0), (batch, *z_shape))
    x = jax.random.uniform(jax.random.key(1), (batch, *x_shape))
    variables = jax.jit(lambda z: decoder.init(jax.random.key(2), z, train=False))(z)
    optimiser = optax.adam(3e-3)
    state = (variables["params"], variables["batch_stats"], optimiser.init(variables["params"]))

    def step(state):
        params, statistics, moments = state

        def loss_of(params):
            found = decoder.apply({"params": params, "batch_stats": statistics}, z, train=True, mutable=["batch_stats"])
            return jnp.mean((found[0] - x) ** 2), found[1]["batch_stats"]

        gradient, statistics = jax.grad(loss_of, has_aux=True)(params)
        updates, moments = optimiser.update(gradient, moments, params)
        return optax.apply_updates(params, updates), statistics, moments

    jitted, kept = jax.jit(step, donate_argnums=0), [state]

    def run() -> None:
        kept[0] = jax.block_until_ready(jitted(kept[0]))

    return run, parameter_count(decoder)


def theirs(z_shape, x_shape, width: int, batch: int):
    """The same in PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    (h, w, c), (height, side, channels) = z_shape, x_shape
    stages = stage_count((h, w), (height, side))

    def features(left: int) -> int:
        return width * min(2**left, 8)

    layers: list[nn.Module] = [nn.BatchNorm2d(c, affine=False)]
    layers += [nn.Conv2d(c, features(stages), 3, padding=1, bias=False), nn.BatchNorm2d(features(stages)), nn.ReLU()]
    for left in reversed(range(stages)):
        layers.append(nn.ConvTranspose2d(features(left + 1), features(left), 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(features(left)), nn.ReLU()]
    layers += [nn.Conv2d(width, channels, 3, padding=1), nn.Sigmoid()]
    decoder = nn.Sequential(*layers)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    z, x = torch.randn(batch, c, h, w), torch.rand(batch, channels, height, side)

    def run() -> None:
        optimiser.zero_grad()
        nn.functional.mse_loss(decoder(z), x).backward()
        optimiser.step()

    return run, sum(math.prod(parameter.shape) for parameter in decoder.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    flags = parser.parse_args()
    ratios, milliseconds = {}, {}
    for name, (z_shape, x_shape, width) in SETTINGS.items():
        (jax_step, count), (torch_step, torch_count) = (f(z_shape, x_shape, width, flags.batch) for f in (ours, theirs))
        assert count == torch_count, (count, torch_count)
        other, found = measuring.in_turn(torch_step, {"ours": jax_step}, flags.pairs)
        mine, ratios[name] = found["ours"]
        milliseconds[name] = {"gpz_jax": 1e3 * mine, "torch": 1e3 * other}
        measuring.say(
            f"{name}: z {z_shape} to x {x_shape}, width {width}, {count:,} parameters, batch {flags.batch}: "
            f"{1e3 * mine:.1f} ms, PyTorch {1e3 * other:.1f} ms, ratio {ratios[name]:.2f}"
        )
    measuring.report(
        "decoder_torch", against="the same step in PyTorch", ratios=ratios, settings=flags, milliseconds=milliseconds
    )


if __name__ == "__main__":
    main()
