"""Attacks on many cuts of a deep network: z asked for in few passes, against a pass an attack.

    python experiments/benchmarks/many_cuts.py                              # four cuts of IR-152, 51 blocks, width 16
    python experiments/benchmarks/many_cuts.py --cuts 17 --no-baseline      # every third: how long the whole takes

Untrained weights and noise for images: time does not depend on them. Each cut is attacked by the linear map and one
decoder that both train on --auxiliary images and rebuild --test images of 32x32. Prints seconds of either way, with
what it compiled, and their ratio; the baseline goes last, so that it finds compiled what both need.
"""

import argparse
import time

import jax
import measuring
import numpy as np

from gpz_jax import parallel
from gpz_jax.config import AttackSettings, Config, DataConfig, ModelConfig, resolve
from gpz_jax.data.batches import Pixels
from gpz_jax.inversion import attacking
from gpz_jax.inversion.capture import captured_together
from gpz_jax.inversion.ladder import attacks_of
from gpz_jax.inversion.protocol import Target
from gpz_jax.inversion.scoring import Exam
from gpz_jax.training import classifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ir152")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--cuts", type=int, default=4)
    parser.add_argument("--auxiliary", type=int, default=3000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--no-baseline", action="store_true")
    flags = parser.parse_args()
    targets, exam = prepared(flags)
    seconds = {"asked in few passes": attacked(captured_together(targets, exam.x), exam)}
    if not flags.no_baseline:
        seconds["asked by every attack"] = attacked(targets, exam)
    for name, taken in seconds.items():
        measuring.say(f"{len(targets)} cuts, linear and deconvolution, z {name}: {taken:.0f} s")
    baseline = seconds.get("asked by every attack")
    ratios = {} if baseline is None else {"asked in few passes": seconds["asked in few passes"] / baseline}
    measuring.report("many_cuts", against="z asked by every attack", ratios=ratios, settings=flags, seconds=seconds)


def prepared(flags: argparse.Namespace) -> tuple[list[Target], Exam]:
    """A target a cut, evenly spread, and what attacks are scored with."""
    config = resolve(
        Config(data=DataConfig(size=32), model=ModelConfig(model=flags.model, width=flags.width, dtype="float32"))
    )
    recipe = classifier.recipe_for(config, 10, 3)
    draw = np.random.default_rng(0)
    auxiliary, test = (draw.integers(0, 256, (count, 32, 32, 3), np.uint8) for count in (flags.auxiliary, flags.test))
    labels = np.arange(flags.test) % 10
    state = classifier.init_state(jax.random.key(0), recipe, 3)
    network = classifier.network_for(recipe, 3)
    settings = AttackSettings(epochs=flags.epochs, decoder_width=8, lr=3e-3)
    blocks = [cut for cut in network.cuts if cut.startswith(("block_", "layer_"))]
    cuts = [blocks[i] for i in np.unique(np.linspace(0, len(blocks) - 1, flags.cuts).round().astype(int))]
    pixels, mesh = Pixels(32), parallel.data_mesh()
    targets = [
        attacking.target_for(
            network, state.variables, cut, auxiliary, auxiliary, key=jax.random.key(0), pixels=pixels, white_box=None,
            settings=settings, mesh=mesh,
        )
        for cut in cuts
    ]  # fmt: skip
    owned = (auxiliary, np.arange(flags.auxiliary) % 10)
    return targets, attacking.exam_for(
        network, state.variables, auxiliary, (test, labels), owned, pixels=pixels, mesh=mesh
    )  # fmt: skip


def attacked(targets: list[Target], exam: Exam) -> float:
    """Seconds that all attacks on all cuts take."""
    begun = time.perf_counter()
    for target in targets:
        attacking.attack_target(target, attacks_of(("linear", "deconvolution"), target.settings), exam, keep=8)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
