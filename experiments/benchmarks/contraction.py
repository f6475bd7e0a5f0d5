"""What the ledger of R_c² costs: beside a plain forward pass, beside its definition, and in training.

    python experiments/benchmarks/contraction.py                       # ledgers of CNN, VGG19 and IR-152 siblings
    python experiments/benchmarks/contraction.py --what jacobian tracking

ledgers: ratio to a forward pass of the same batch (median of the ratios pair by pair, one process, in turn) of
  feature    correct, wrong and second of all cuts (goal <= 3.5, and K = 100 <= 1.15 times K = 10)
  parameter  the ledger in parameter space, given the gradient parts (goal <= 12); and those parts by themselves, of a
             training batch of the same size
jacobian: the feature-space terms by their definition, vmap(jacrev) at every cut, against the fast way: time and peak
  memory, each in a process of its own (goal: more than 6 times slower at the CNN's four blocks, K = 10).
tracking: training at batch 128 with the ledger of every tenth step, probe batch 256, over training without (goal: 20 %
  more at most, for --ledger feature).
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import measuring
import numpy as np
import optax

from gpz_jax import parallel, runs
from gpz_jax.analysis.contraction import feature_terms, feature_terms_by_jacobian
from gpz_jax.analysis.parameter_space import gradient_parts, parameter_terms
from gpz_jax.config import Config, DataConfig, ModelConfig, TrackConfig, TrainingConfig, resolve
from gpz_jax.data.splits import Split
from gpz_jax.models import build
from gpz_jax.taps import tap
from gpz_jax.targets import soft_targets
from gpz_jax.training import classifier, ledger, sweep

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


def ledgers(name: str, num_classes: int, flags) -> dict[str, float]:
    """Ratios of the two ledgers to a forward pass."""
    model, network, variables, x, labels, q = siblings(name, num_classes, flags.batch, flags.size)

    def logits_of(params):
        rngs = {"dropout": jax.random.key(2)}
        return model.apply({**variables, "params": params}, x, train=True, rngs=rngs, mutable=["batch_stats"])[0]

    gradient = jax.jit(lambda params: gradient_parts(logits_of, params, labels, q))
    parts = gradient(variables["params"])
    update = jax.tree.map(lambda a, b: -0.01 * (a + b), *parts)
    after = {**variables, "params": optax.apply_updates(variables["params"], update)}
    forward = jax.jit(lambda variables, x: network(variables, x)[0])

    plain, found = measuring.in_turn(
        lambda: forward(variables, x),
        {
            "feature": lambda: feature_terms(network, variables, x, labels, q, step_size=0.01),
            "parameter": lambda: parameter_terms(
                network, variables, after, x, labels, parts, num_classes=num_classes, step_size=0.01
            ),
            "parts": lambda: gradient(variables["params"]),
        },
        flags.pairs,
    )
    measuring.say(
        f"{name:6} K = {num_classes:3}  {len(network.cuts)} cuts  forward {1e3 * plain:7.1f} ms   "
        + "   ".join(f"{key} {1e3 * seconds:8.1f} ms, ratio {ratio:5.2f}" for key, (seconds, ratio) in found.items())
    )
    return {key: ratio for key, (_, ratio) in found.items()}


def jacobian(flags) -> dict[str, float]:
    """Times of the definition over the fast way, at the CNN's four blocks and at all cuts of the IR sibling."""
    ratios = {}
    for name, cuts in (("cnn", 4), ("ir152", 15)):
        base, fast, slow = (
            json.loads(
                subprocess.run(
                    [sys.executable, __file__, "--child", way, name, str(cuts), str(flags.size)],
                    check=True, capture_output=True, text=True,
                ).stdout
            )
            for way in ("forward", "fast", "jacobian")
        )  # fmt: skip
        ratios[f"jacobian, {name}, {cuts} cuts"] = slow["seconds"] / fast["seconds"]
        measuring.say(
            f"{name}, first {cuts} cuts, N = 64, K = 10: fast {1e3 * fast['seconds']:.0f} ms, vmap(jacrev) "
            f"{1e3 * slow['seconds']:.0f} ms, ratio {slow['seconds'] / fast['seconds']:.1f}; peak memory "
            f"{fast['mib']:.0f} and {slow['mib']:.0f} MiB (a forward pass alone: {base['mib']:.0f})"
        )
    return ratios


def child(way: str, name: str, cuts: str, size: str) -> None:
    """One way in a process of its own; prints seconds (median of 5) and peak memory as JSON."""
    _, network, variables, x, labels, q = siblings(name, 10, 64, int(size))
    network = dataclasses.replace(network, cuts=(*network.cuts[: int(cuts)], "logits"))
    calls = {
        "forward": jax.jit(lambda: network(variables, x)[0]),
        "fast": lambda: feature_terms(network, variables, x, labels, q, step_size=0.01),
        "jacobian": jax.jit(
            lambda v, x, y, q: feature_terms_by_jacobian(network, v, x, y, q, step_size=0.01)
        ),
    }  # fmt: skip
    call = calls[way]
    arguments = (variables, x, labels, q) if way == "jacobian" else ()
    jax.block_until_ready(call(*arguments))
    seconds = float(np.median([measuring.seconds(lambda: call(*arguments)) for _ in range(5)]))
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps({"seconds": seconds, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}))


def tracking() -> dict[str, float]:
    """Training of the CNN sibling with and without a ledger of every tenth step, in turn."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (128 * 80, 32, 32, 3), np.uint8), np.arange(128 * 80, dtype=np.int32) % 10
    train, held_out = (Split(images, labels, np.arange(n, dtype=np.int32)) for n in (len(images), 256))
    config = resolve(
        Config(
            data=DataConfig(augment="none"),
            model=ModelConfig(width=16, dtype="float32"),
            training=TrainingConfig(ls=0.3, epochs=1),
            track=TrackConfig(track_every=10),
        )
    )
    recipe, mesh = classifier.recipe_for(config, 10, 3), parallel.data_mesh()
    network = classifier.network_for(recipe, 3)

    probe = (jnp.asarray(images[:256]), jnp.asarray(labels[:256]))

    def open_ledger(kind: str, folder: str) -> ledger.Ledger:
        tracked = ledger.Tracked(network, recipe, kind == "full", ("fc",))
        layout = runs.Layout(network.cuts, [1] * len(network.cuts), [26] * 10, ("fc",), tracked.variables, {})
        record = runs.StepRecord.open(Path(folder) / kind, layout, keep_steps=0)
        return ledger.Ledger(record, tracked, probe, mesh)

    def run(kept: ledger.Ledger | None):
        (state,) = sweep.fit(
            [classifier.init_state(jax.random.key(0), recipe, 3)], recipe=recipe, configs=[config], train=[train],
            validation=[held_out], mesh=mesh, after_epoch=lambda *_: kept.flush() if kept else None,
            on_update=sweep.append_rows([kept], "loop") if kept else None,
        )  # fmt: skip
        return state.params

    with tempfile.TemporaryDirectory() as folder:
        ledgers = {kind: open_ledger(kind, folder) for kind in ("feature", "full")}
        plain, found = measuring.in_turn(
            lambda: run(None), {kind: lambda kept=kept: run(kept) for kind, kept in ledgers.items()}, 5
        )
    measuring.say(
        f"training, CNN width 16, batch 128, 80 steps: {plain:.2f} s without a ledger; every tenth step, probe 256:"
    )
    for kind, (seconds, ratio) in found.items():
        measuring.say(f"  --ledger {kind:8} {seconds:.2f} s, {100 * (ratio - 1):+.0f} %")
    return {f"training, ledger {kind}": ratio for kind, (_, ratio) in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = ["ledgers", "jacobian", "tracking"]
    parser.add_argument("--what", nargs="+", default=["ledgers"], choices=everything)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--models", nargs="+", default=list(SIBLINGS), choices=list(SIBLINGS))
    parser.add_argument("--classes", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=10)
    flags = parser.parse_args()
    if flags.child:
        child(*flags.child)
        return
    ratios = {}
    for name in flags.models if "ledgers" in flags.what else ():
        found = {k: ledgers(name, k, flags) for k in flags.classes}
        ratios |= {f"{key}, {name}, K = {k}": ratio for k, of in found.items() for key, ratio in of.items()}
    if "jacobian" in flags.what:
        ratios |= jacobian(flags)
    if "tracking" in flags.what:
        ratios |= tracking()
    against = "a forward pass of the same batch; jacobian: the fast way; training: without a ledger"
    measuring.report("contraction", against=against, ratios=ratios, settings=flags)


if __name__ == "__main__":
    main()
