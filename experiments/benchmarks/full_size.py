"""One training step and one all-layer probe batch of a paper-size network: seconds, images a second, peak memory.

    python experiments/benchmarks/full_size.py                              # IR-152 at 64x64
    python experiments/benchmarks/full_size.py --model vgg19 --batch 128 --steps 20

Runs on whatever device JAX finds; convolutions are bfloat16 on accelerators, float32 on CPUs. FLOPs are those that XLA
counts in the compiled step (2 a multiply-add); their share of the device's peak is printed where that is known.
"""

import argparse
import resource
import sys

import jax
import jax.numpy as jnp
import measuring
import numpy as np

from gpz_jax import parallel
from gpz_jax.analysis import radius
from gpz_jax.config import Config, DataConfig, ModelConfig, TrainingConfig, resolve
from gpz_jax.data.batches import epoch_order
from gpz_jax.training import classifier

#: Dense bfloat16 FLOPs a second from the makers' data sheets, by a part of JAX's device_kind.
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5p": 459e12}


def seconds(call, repeats: int) -> float:
    """Median over repeats, the first (which compiles) left out."""
    return float(np.median([measuring.seconds(call) for _ in range(repeats + 1)][1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ir152")
    parser.add_argument("--width", type=int, default=None)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1)
    flags = parser.parse_args()

    device = jax.devices()[0]
    dtype = "float32" if device.platform == "cpu" else "bfloat16"
    config = Config(
        data=DataConfig(size=flags.size),
        model=ModelConfig(model=flags.model, width=flags.width, dtype=dtype),
        training=TrainingConfig(batch_size=flags.batch, ls=0.3),
    )
    recipe, mesh = classifier.recipe_for(resolve(config), 10, 3), parallel.data_mesh()
    network = classifier.network_for(recipe, 3)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (flags.batch, 32, 32, 3), np.uint8))
    labels = jnp.asarray(rng.integers(0, 10, flags.batch, np.int32))
    order = epoch_order(jax.random.key(0), 0, flags.batch)
    state, totals = parallel.replicate(
        (classifier.init_state(jax.random.key(0), recipe, 3), classifier.Totals.zero()), mesh
    )
    fixed = (images, labels, order, jnp.int32(0), jnp.float32(0.3), jax.random.key(1))
    compiled = classifier.train_step.lower(state, totals, *fixed, recipe=recipe, mesh=mesh).compile()
    carried = [state, totals]

    def step() -> None:
        carried[:] = compiled(*carried, *fixed)
        jax.block_until_ready(carried)

    step_time = seconds(step, flags.steps)
    loss = carried[1].means()["loss"]
    variables = carried[0].variables
    batch = (images, labels, jnp.ones(flags.batch, bool))
    probe_time = seconds(lambda: radius.measure(network, variables, [batch], 10), flags.steps)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(carried[0].params))
    flops = (compiled.cost_analysis() or {}).get("flops", float("nan"))
    peak = next((value for name, value in PEAK.items() if name in device.device_kind), None)
    of_peak = f", {100 * flops / step_time / peak:.1f} % of {peak / 1e12:.0f} peak TFLOP/s" if peak else ""
    unit = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    held = (device.memory_stats() or {}).get("peak_bytes_in_use")
    measuring.say(
        f"{flags.model}, {parameters:,} parameters, {flags.size}x{flags.size}x3, batch {flags.batch}, {dtype}, "
        f"{len(network.cuts)} cuts, {device.device_kind}\n"
        f"training step {step_time:.3f} s = {flags.batch / step_time:.0f} images/s, {flops / 1e12:.3f} TFLOP{of_peak}; "
        f"mean loss {loss:.3f} nats\n"
        f"probe of all cuts {probe_time:.3f} s = {flags.batch / probe_time:.0f} images/s\n"
        f"peak memory: host {host:.1f} GiB" + (f", device {held / 2**30:.1f} GiB" if held else "")
    )
    measuring.report(
        "full_size", against="a training step of the same batch", ratios={"probe of all cuts": probe_time / step_time},
        settings=flags, seconds={"step": step_time, "probe": probe_time}, tflop_of_step=flops / 1e12, host_gib=host,
        parameters=parameters, cuts=len(network.cuts), dtype=dtype,
    )  # fmt: skip


if __name__ == "__main__":
    main()
