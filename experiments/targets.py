"""The networks that the attack experiments share (not an experiment): on CIFAR-10, siblings for two cores and the
paper's for an accelerator; on the bundled digits a network that trains in a second, for tests.

Each has a cut on the feature level and one on the decision level: the paper's where the network is the paper's, in the
siblings the last unit of the stage before (IR) and the same layers (VGG).
"""

import dataclasses
from typing import Any

import common
from common import Flags, Row

from gpz_jax import workflow
from gpz_jax.config import AttackConfig, Config, DataConfig, ModelConfig, TrainingConfig
from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.inversion.results import AttackResult
from gpz_jax.workflow import LoadedRun


@dataclasses.dataclass(frozen=True)
class Network:
    """How a target network is trained, and where it is cut."""

    model: ModelConfig
    training: TrainingConfig
    feature: str
    decision: str

    @property
    def cuts(self) -> dict[str, str]:
        """Level -> cut."""
        return {"feature": self.feature, "decision": self.decision}


@dataclasses.dataclass(frozen=True)
class Size:
    """What fits on a machine: data set, side and number of the images, networks, and how attackers are made ready."""

    data: str
    side: int
    train_limit: int | None
    networks: dict[str, Network]
    attack: AttackConfig


SIZES = {
    "tiny": Size(
        "digits",
        16,
        None,
        {"cnn": Network(ModelConfig(model="cnn", width=4), TrainingConfig(epochs=1), "block_3", "block_4")},
        AttackConfig(epochs=1, steps=4, decoder_width=2, restarts=1, tv=0.0, likelihood_images=10),
    ),
    "laptop": Size(
        "cifar10",
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
        "cifar10",
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
class TargetFlags(Flags):
    """Flags that the attack experiments share."""

    network: tuple[str, ...] = ()
    """Network to attack, ir152 or vgg19 (tiny: cnn); repeat the flag for several. Default: see the experiment."""
    runs: str = "runs/targets"
    """Folder for the target networks, which the experiments share; a killed experiment continues there."""


def chosen(flags: TargetFlags, usual: str = "") -> tuple[Size, dict[str, Network]]:
    """The size and the networks that were asked for: by default ``usual``, or all of them."""
    size = SIZES[flags.size]
    for name in flags.network:
        if name not in size.networks:
            raise UserError(f"unknown network {name!r}{did_you_mean(name, size.networks)}", field="network")
    names = flags.network or [name for name in size.networks if name == usual] or list(size.networks)
    return size, {name: size.networks[name] for name in names}


def target_run(flags: TargetFlags, name: str) -> LoadedRun:
    """The target network of that name, trained unless it has been."""
    size = SIZES[flags.size]
    data = DataConfig(
        data=size.data, data_dir=flags.data_dir, aux="held-out", size=size.side, train_limit=size.train_limit
    )
    config = Config(
        data=data, model=size.networks[name].model, training=size.networks[name].training, seed=flags.seed
    )  # fmt: skip
    opened = common.train(config, f"{flags.runs}/{data.data}-{flags.size}-{name}-seed{flags.seed}")
    workflow.report_accuracy(opened)
    return opened


def attack_cuts(target: LoadedRun, network: Network, options: AttackConfig, **changes: Any) -> dict[str, AttackResult]:
    """Level -> the attacks on its cut, with changes to the options."""
    options = dataclasses.replace(options, cut=tuple(network.cuts.values()), **changes)
    results = workflow.attack_run(target, options, resume=True)
    if not options.ladder and "linear" not in options.attack:
        results = common.without_linear(results)
    return dict(zip(network.cuts, results, strict=True))


def rows_of(name: str, found: dict[str, AttackResult], **more: Any) -> list[Row]:
    """A row an attack: network, level, what else is known, and its numbers."""
    return [
        {"network": name, "level": level, **more, **row} for level, result in found.items() for row in result.rows()
    ]
