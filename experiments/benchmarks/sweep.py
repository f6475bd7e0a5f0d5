"""Four seeds trained in one sweep against four separate runs of the same steps: one process, in turn, medians.

    python experiments/benchmarks/sweep.py                         # the paper's CNN, width 16, on the digits
    python experiments/benchmarks/sweep.py --width 4 --size 16
    python experiments/benchmarks/sweep.py --runs 8 --dtype bfloat16 --width 64 --size 64     # an accelerator

Prints for "loop" and "vmap" the ratio to the separate runs (median of the ratios pair by pair; below 1 is faster) of
whole epochs of training steps, evaluation left out, and how long the first epoch took, with compiling. Also
for "loop" unrolled inside one program, which is not offered: it is no faster, and compiles every run anew.

Goal: "auto" at most 1.1 on CPUs; below 1 on accelerators.
"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import measuring

from gpz_jax import parallel
from gpz_jax.config import Config, DataConfig, ModelConfig, TrainingConfig, resolve
from gpz_jax.data.batches import epoch_order
from gpz_jax.data.sources import load
from gpz_jax.data.splits import make_splits
from gpz_jax.training import classifier, sweep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()

    config = resolve(
        Config(
            data=DataConfig(size=flags.size),
            model=ModelConfig(model=flags.model, width=flags.width, dtype=flags.dtype),
            training=TrainingConfig(batch_size=flags.batch_size, ls=0.3),
        )
    )
    configs = [dataclasses.replace(config, seed=seed) for seed in range(flags.runs)]
    source, mesh = load("digits"), parallel.data_mesh()
    recipe = classifier.recipe_for(config, source.num_classes, source.train_images.shape[-1])
    parts = [make_splits(source, seed=one.seed).train for one in configs]
    steps = len(parts[0]) // flags.batch_size
    alpha = jnp.float32(config.training.ls)
    keys = [classifier.keys_of(one.seed) for one in configs]
    states = [classifier.init_state(jax.random.key(one.seed), recipe, source.train_images.shape[-1]) for one in configs]

    def fresh():
        return parallel.replicate([(jax.tree.map(jnp.copy, state), classifier.Totals.zero()) for state in states], mesh)

    def separate():
        ended = []
        for carry, part, (order_key, noise_key) in zip(fresh(), parts, keys, strict=True):
            images, labels = parallel.replicate(part.take(), mesh)
            order = epoch_order(order_key, 0, len(part))
            for index in range(steps):
                batch = (images, labels, order, jnp.int32(index), alpha, noise_key)
                carry = classifier.train_step(*carry, *batch, recipe=recipe, mesh=mesh)
            ended.append(jax.block_until_ready(carry))
        return ended

    unrolled = jax.jit(lambda *given: sweep.step_all(*given, recipe=recipe, mesh=mesh, how="loop"), donate_argnums=0)

    def all_at_once(how: sweep.How, step):
        images, labels, places = parallel.replicate(sweep.pool(parts), mesh)
        orders = [own[epoch_order(key, 0, len(own))] for own, (key, _) in zip(places, keys, strict=True)]
        packed = [sweep.pack(values, how) for values in (orders, [alpha] * len(keys), [key for _, key in keys])]
        carry = sweep.pack(fresh(), how)
        for index in range(steps):
            carry = step(carry, images, labels, packed[0], jnp.int32(index), *packed[1:])
        return jax.block_until_ready(carry)

    def steps_of(how: sweep.How):
        return lambda *given: sweep.STEP[how](*given, recipe=recipe, mesh=mesh, how=how)

    ways = {
        "separate": separate,
        "loop": lambda: all_at_once("loop", steps_of("loop")),
        "vmap": lambda: all_at_once("vmap", steps_of("vmap")),
        "unrolled": lambda: all_at_once("loop", unrolled),
    }
    measuring.say(
        f"{flags.model} width {flags.width}, {flags.size}x{flags.size}, {flags.dtype}, batch {flags.batch_size}, "
        f"{flags.runs} runs, {steps} steps, {mesh.size} x {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    first = {name: measuring.seconds(way) for name, way in ways.items()}  # with compiling
    plain, found = measuring.in_turn(ways.pop("separate"), ways, flags.rounds)
    found = {"separate": (plain, 1.0), **found}
    for name, (median, ratio) in found.items():
        words = f"{1e3 * median / steps:7.1f} ms a step of all   ratio {ratio:.2f}   first {first[name]:.1f} s"
        measuring.say(f"{name:9} {words}")
    measuring.report(
        "sweep", against="the same runs one after the other", ratios={name: found[name][1] for name in ways},
        settings=flags, seconds={name: median for name, (median, _) in found.items()}, first_epoch_seconds=first,
    )  # fmt: skip


if __name__ == "__main__":
    main()
