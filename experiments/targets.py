"""The networks that the attack experiments share, on CIFAR-10: siblings for two cores, the paper's for an accelerator.

Each has a cut on the feature level and one on the decision level: the paper's where the network is the paper's, in the
siblings the last unit of the stage before (IR) and the same layers (VGG).
"""

import dataclasses
from typing import Any

import numpy as np

from gpz_jax import workflow
from gpz_jax.config import AttackConfig, Config, DataConfig, ModelConfig, TrainingConfig
from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.workflow import LoadedRun


@dataclasses.dataclass(frozen=True)
class Network:
    """How a target network is trained, and where it is cut."""

    model: ModelConfig
    training: TrainingConfig
    feature: str
    decision: str


@dataclasses.dataclass(frozen=True)
class Size:
    """What fits on a machine."""

    side: int
    train_limit: int | None
    networks: dict[str, Network]
    attack: AttackConfig


SIZES = {
    "laptop": Size(
        32,
        12_000,
        {
            "ir152": Network(
                ModelConfig(model="ir152", width=16, depth=0.25), TrainingConfig(epochs=12, lr=0.003),
                "block_12", "block_14",
            ),
            "vgg19": Network(
                ModelConfig(model="vgg19", width=16), TrainingConfig(epochs=14, lr=0.001), "layer_30", "layer_39"
            ),
        },
        AttackConfig(epochs=30, patience=6, decoder_width=8, lr=3e-3, likelihood_images=32, steps=None),
    ),
    "paper": Size(
        64,
        None,
        {
            "ir152": Network(ModelConfig(model="ir152"), TrainingConfig(epochs=300), "block_40", "block_50"),
            "vgg19": Network(
                ModelConfig(model="vgg19"), TrainingConfig(epochs=300, lr=0.001), "layer_30", "layer_39"
            ),
        },
        AttackConfig(epochs=100, decoder_width=64, likelihood_images=128),
    ),
}  # fmt: skip

#: The paper's MSE (summed over channels) from a baseline attack at the two cuts, IR-152 and VGG19, CIFAR-10.
PAPER = {"ir152": (0.018, 0.057), "vgg19": (0.066, 0.137)}


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags that the attack experiments share."""

    data_dir: str = "data"
    """Folder that holds cifar10.npz."""
    size: str = "laptop"
    """laptop (two cores) or paper (an accelerator)."""
    network: tuple[str, ...] = ()
    """Network to attack; repeat the flag for several. Default: ir152 and vgg19."""
    seed: int = 0
    """Seed of everything."""
    runs: str = "runs/targets"
    """Folder for the target networks, which the experiments share; a killed experiment continues there."""


def chosen(flags: Flags) -> tuple[Size, list[str]]:
    """The size and the networks that were asked for."""
    if flags.size not in SIZES:
        raise UserError(f"unknown --size {flags.size!r}{did_you_mean(flags.size, SIZES)}")
    size = SIZES[flags.size]
    for name in flags.network:
        if name not in size.networks:
            raise UserError(f"unknown network {name!r}{did_you_mean(name, size.networks)}")
    return size, list(flags.network or size.networks)


def kept_images(target: LoadedRun, options: AttackConfig, result: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The first test images of an attack and their reconstructions, pixels in [0, 1], (n, H, W, C) each."""
    folder = target.run.folder / workflow.attack_home(options) / f"{result['cut']}-{result['decoder']}"
    with np.load(folder / "shown.npz") as kept:
        return kept["originals"], kept["reconstructions"]


def target_run(flags: Flags, size: Size, name: str, **data: Any) -> LoadedRun:
    """The target network of that name, trained unless it has been."""
    network = size.networks[name]
    usual = DataConfig(
        data="cifar10", data_dir=flags.data_dir, aux="held-out", size=size.side, train_limit=size.train_limit
    )
    settings = dataclasses.replace(usual, **data)
    config = Config(data=settings, model=network.model, training=network.training, seed=flags.seed)
    folder = f"{flags.runs}/{settings.data}-{flags.size}-{name}-seed{flags.seed}"
    run = workflow.train_run(config, folder=folder, resume=True)
    opened = workflow.load_run(str(run.folder))
    workflow.report_accuracy(opened)
    return opened
