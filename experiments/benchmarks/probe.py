"""What probing every cut costs beside a plain forward pass: same run, same batch, in turn.

    python experiments/benchmarks/probe.py
    python experiments/benchmarks/probe.py --width 64 --size 64 --batch 64

Prints the median time of a jitted forward pass (logits only), of the same pass with the moments of all cuts added
to a running record, and the median of the ratio pair by pair. Goal: at most 1.2.
"""

import argparse

import jax
import jax.numpy as jnp
import measuring

from gpz_jax.analysis import radius
from gpz_jax.models import build
from gpz_jax.taps import tap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=30)
    flags = parser.parse_args()

    model = build(flags.model, num_classes=flags.classes, width=flags.width, size=flags.size)
    x = jax.random.normal(jax.random.key(0), (flags.batch, flags.size, flags.size, flags.channels))
    labels = jax.random.randint(jax.random.key(1), (flags.batch,), 0, flags.classes)
    mask = jnp.ones(flags.batch, bool)
    variables = model.init(jax.random.key(2), x)
    network = tap(model, variables, x, train=False)
    forward = jax.jit(lambda variables, x: network(variables, x)[0])

    @jax.jit
    def add_batch(moments, variables, x, labels, mask):
        _, taps = network(variables, x)
        return {cut: radius.update(moments[cut], taps[cut], labels, mask) for cut in network.cuts}

    moments = radius.measure(network, variables, [(x, labels, mask)], flags.classes)
    plain, found = measuring.in_turn(
        lambda: forward(variables, x), {"probe": lambda: add_batch(moments, variables, x, labels, mask)}, flags.pairs
    )
    probed, ratio = found["probe"]
    measuring.say(
        f"{flags.model} width {flags.width}, {flags.size}x{flags.size}x{flags.channels}, K = {flags.classes}, batch "
        f"{flags.batch}, {len(network.cuts)} cuts, {jax.devices()[0].device_kind}\n"
        f"forward {1e3 * plain:.2f} ms, with moments of all cuts {1e3 * probed:.2f} ms, ratio {ratio:.3f} (goal <= 1.2)"
    )
    measuring.report(
        "probe", against="a forward pass of the same batch", ratios={"with the moments of all cuts": ratio},
        settings=flags, seconds={"forward": plain, "probe": probed}, cuts=len(network.cuts),
    )  # fmt: skip


if __name__ == "__main__":
    main()
