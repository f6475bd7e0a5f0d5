"""What the paper's claims are judged by (not an experiment): networks with the paper's full list of blocks, at widths
that train on two cores, each trained, probed at every cut and attacked at every third one.

A unit is one network under one label distribution and one seed, or one other piece of work. What comes of it is a dict
of numbers and words, kept as one JSON file: claims are judged from these alone. The cuts that the paper names are
scored with LPIPS, its two of each network attacked by its stronger attackers too; of a network under smoothed labels
those that it names alone are attacked, and the last ones.
"""

import dataclasses
import datetime
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import claim_drift
import claim_dynamics
import common
import jax
from claim_numbers import EVERYWHERE, NAMED, PAIRS, STRONGER, is_listed
from common import ALPHAS, Flags, json_number

from gpz_jax import workflow
from gpz_jax.analysis.probe_result import Probe
from gpz_jax.config import AttackConfig, Config, DataConfig, ModelConfig, ProbeConfig, TrainingConfig
from gpz_jax.inversion.results import AttackResult
from gpz_jax.workflow import BareModel, CutsConfig, LoadedRun

SCHEMA = 1

#: How often VGG19's cuts are timed, each time anew.
TIMINGS = 3


@dataclasses.dataclass(frozen=True)
class Network:
    """An architecture, and how it is trained."""

    model: ModelConfig
    training: TrainingConfig


#: On two cores. IR-152 has its 51 blocks, VGG19 its 53 entries, ResNet-50 its 18, ResNet-18 its 10, ViT its 6 blocks.
NETWORKS = {
    "ir152": Network(ModelConfig("ir152", width=16), TrainingConfig(epochs=8, lr=0.003)),
    "vgg19": Network(ModelConfig("vgg19", width=16), TrainingConfig(epochs=14, lr=0.001)),
    "resnet50": Network(ModelConfig("resnet50", width=8), TrainingConfig(epochs=6, lr=0.003)),
    "resnet18": Network(ModelConfig("resnet18", width=16), TrainingConfig(epochs=10, lr=0.003)),
    "vit": Network(ModelConfig("vit", width=64, patch=4, heads=4), TrainingConfig(epochs=14, lr=0.001)),
    "cnn": Network(ModelConfig("cnn", width=16), TrainingConfig(epochs=20)),
}


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set: how many images of it at most, whose images the attacker has, and what small ones are trained with
    instead of the network's own.
    """

    limit: int | None = None
    auxiliary: str = "held-out"
    epochs: int | None = None
    batch_size: int = 128


#: CIFAR-10 is the JPEG-compressed half of shared/data. FaceScrub's twenty people have 402 images, 100 of which are the
#: attacker's; LFW's 158 have 3,463, and its attacker those of 5,589 other people.
DATA = {
    "cifar10": Data(12_000),
    "kmnist": Data(8_000),
    "facescrub20": Data(epochs=120, batch_size=32),
    "lfw": Data(auxiliary="lfw_aux", epochs=40, batch_size=64),
    "chest_xray": Data(),
}


#: A network of no more cuts is attacked at all of them.
SHORT = 12


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of everything: side of the images, of how many cuts one is attacked, how attackers are made ready, and
    resamples and untrained copies of the probe.
    """

    side: int
    attacked_every: int
    attack: AttackConfig
    bootstrap: int = 200
    null_seeds: int = 5


SIZES = {
    "tiny": Size(16, 3, AttackConfig(epochs=1, steps=2, decoder_width=2), 50, 2),
    "laptop": Size(32, 3, AttackConfig(epochs=14, patience=4, decoder_width=8, lr=3e-3)),
    "paper": Size(64, 3, AttackConfig(epochs=100, decoder_width=64)),
}


@dataclasses.dataclass(frozen=True)
class Unit:
    """One piece of work: its name, and what does it, from the flags and a folder of its own."""

    name: str
    work: Callable[[Flags, Path], dict[str, Any]]


def network_unit(network: str, data: str, targets: str, seed: int) -> Unit:
    """A network, trained, probed and attacked."""

    def work(flags: Flags, folder: Path) -> dict[str, Any]:
        return measured(network, data, targets, seed, flags, folder)

    return Unit(f"{network}-{data}-{targets}-seed{seed}", work)


def price_unit() -> Unit:
    """What the cuts of the paper's full-size networks cost: shapes alone, and VGG19's milliseconds."""

    def work(flags: Flags, folder: Path) -> dict[str, Any]:
        return {"ir152": _prices("ir152", 0), "vgg19": _prices("vgg19", TIMINGS)}

    return Unit("prices", work)


def dynamics_unit(network: str, targets: str, seed: int) -> Unit:
    """A network that keeps its ledger while it trains on MNIST."""

    def work(flags: Flags, folder: Path) -> dict[str, Any]:
        made = NETWORKS[network]
        found = claim_dynamics.measured(made.model, made.training.lr, targets, seed, flags, folder)
        return found | {"network": network}

    return Unit(f"dynamics-{network}-{targets}-seed{seed}", work)


def drift_unit(seed: int) -> Unit:
    """What a network of KMNIST is rebuilt as by attackers who have digits or letters."""

    def work(flags: Flags, folder: Path) -> dict[str, Any]:
        return claim_drift.measured(seed, flags, folder)

    return Unit(f"drift-seed{seed}", work)


def done(unit: Unit, flags: Flags, folder: Path) -> dict[str, Any]:
    """Do a unit's work; what came of it, with where and how long it took."""
    begun = time.monotonic()
    found = unit.work(flags, folder)
    return {
        "schema_version": SCHEMA,
        "unit": unit.name,
        "size": flags.size,
        **found,
        "seconds": round(time.monotonic() - begun, 1),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}",
        "load": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("jax", "flax", "optax", "numpy")},
    }


def config_of(network: str, data: str, targets: str, seed: int, flags: Flags) -> Config:
    """The configuration of a unit's run; tiny: one epoch of the narrowest CNN on the digits."""
    made, size = NETWORKS[network], SIZES[flags.size]
    model, of = made.model, DATA[data]
    training = dataclasses.replace(made.training, epochs=of.epochs or made.training.epochs, batch_size=of.batch_size)
    if flags.size == "tiny":
        data, model, of = "digits", ModelConfig("cnn", width=4), Data()
        training = dataclasses.replace(training, epochs=1)
    if flags.size == "paper":
        model, of = dataclasses.replace(model, width=None), dataclasses.replace(of, limit=None)
        training = dataclasses.replace(training, epochs=300)
    return Config(
        data=DataConfig(data=data, data_dir=flags.data_dir, aux=of.auxiliary, size=size.side, train_limit=of.limit),
        model=model, training=dataclasses.replace(training, ls=ALPHAS[targets]), seed=seed,
    )  # fmt: skip


def measured(network: str, data: str, targets: str, seed: int, flags: Flags, folder: Path) -> dict[str, Any]:
    """Train, probe on test and training images, attack; a row a cut."""
    size = SIZES[flags.size]
    config = config_of(network, data, targets, seed, flags)
    loaded = common.train(config, str(folder))
    accuracy = workflow.report_accuracy(loaded)
    options = ProbeConfig(null_seeds=size.null_seeds, bootstrap=size.bootstrap)
    probes = {
        "test": workflow.probe_run(loaded, options),
        "train": workflow.probe_run(loaded, dataclasses.replace(options, split="train", null_seeds=0, bootstrap=1)),
    }
    views = {}
    if network == "vit" and targets == "one-hot":  # what of its tokens is measured may decide where a zone begins
        every = (dataclasses.replace(options, view=view, bootstrap=1) for view in ("mean", "first"))
        views = {"tokens": _zones(probes["test"])} | {
            one.view: _zones(workflow.probe_run(loaded, one)) for one in every
        }
    cuts = cuts_to_attack(probes["test"], network, size.attacked_every if targets == "one-hot" else None)
    begun = time.monotonic()
    results = attacked(loaded, network, cuts, targets, size, flags)
    return {
        "network": network, "data": data, "targets": targets, "seed": seed, "accuracy": accuracy,
        "auxiliary": len(loaded.splits.auxiliary), "attack_seconds": round(time.monotonic() - begun, 1),
        "zones": _zones(probes["test"]), **({"views": views} if views else {}), "cuts": list(_rows(probes, results)),
    }  # fmt: skip


def _zones(probe: Probe) -> dict[str, Any]:
    return {rule: {"onset": zone.onset, "cuts": list(zone.cuts)} for rule, zone in probe.zones.items()}


def cuts_to_attack(probe: Probe, network: str, every: int | None) -> list[str]:
    """Of the cuts that may be taken the paper's, the last two, the last of its list and every so many from the first
    (of a short list all), in order.
    """
    valid = [cut for cut, good in zip(probe.cuts, probe.valid, strict=True) if good and cut not in probe.dead]
    chosen = {
        *(valid[:: every if len(valid) > SHORT else 1] if every else ()),
        *([cut for cut in valid if is_listed(cut)][-1:] if every else ()),
        *valid[-2:],
        *(cut for cut in NAMED.get(network, ()) if cut in valid),
    }
    return [cut for cut in valid if cut in chosen]


def attacked(
    loaded: LoadedRun, network: str, cuts: list[str], targets: str, size: Size, flags: Flags
) -> dict[str, AttackResult]:
    """Attacks on the cuts; under one-hot labels LPIPS on those that the paper names, the stronger ones on its pair."""
    weights = Path(flags.data_dir) / "lpips_alex.npz"
    plain = dataclasses.replace(size.attack, attack=EVERYWHERE)
    scored = dataclasses.replace(plain, lpips_weights=str(weights) if weights.is_file() else None)
    whole = targets == "one-hot"
    pair = tuple(cut for cut in PAIRS.get(network, ()) if whole and cut in cuts)
    named = tuple(cut for cut in cuts if whole and cut in NAMED.get(network, ()) and cut not in pair)
    asked = {
        tuple(cut for cut in cuts if cut not in named + pair): plain,
        named: scored,
        pair: dataclasses.replace(scored, attack=EVERYWHERE + STRONGER),
    }
    return {
        result.cut: result
        for some, options in asked.items()
        if some
        for result in workflow.attack_run(loaded, dataclasses.replace(options, cut=some), resume=True, guarantees=False)
    }


def _rows(probes: dict[str, Probe], results: dict[str, AttackResult]) -> Iterator[dict[str, Any]]:
    test = probes["test"]
    last = max(len(test.cuts) - 1, 1)
    for i, cut in enumerate(test.cuts):
        row: dict[str, Any] = {
            "cut": cut, "dimension": int(test.dimension[i]), "depth": round(i / last, 4), "valid": bool(test.valid[i]),
        }  # fmt: skip
        for split, probe in probes.items():
            row[split] = {name: json_number(getattr(probe, name)[i]) for name in ("within", "between", "rho")}
        row["test"] |= {name: json_number(getattr(test, name)[i]) for name in ("evidence", "drop")}
        if cut in results:
            row["attacks"] = {attempt.attack: _outcome(attempt.row()) for attempt in results[cut].attempts}
        yield row


def _outcome(row: dict[str, Any]) -> dict[str, Any]:
    names = ("mse", "mse_paper", "ratio", "ratio_low", "ratio_high", "psnr", "ssim", "lpips", "identified",
             "chance_label", "flattened")  # fmt: skip
    return {name: json_number(row[name]) for name in names if name in row}


def _prices(name: str, timings: int) -> list[dict[str, Any]]:
    """The cuts of the full network at 64x64, ten classes; milliseconds of one image's edge half, timed so often."""

    def asked(*, timed: bool) -> list[dict[str, Any]]:
        return workflow.price_model(name, BareModel(size=64), CutsConfig(no_latency=not timed)).rows

    times = [asked(timed=True) for _ in range(timings)]
    kept = {"edge_parameters": "parameters", "edge_share": "share", "edge_flops": "flops", "values": "values"}
    return [
        {"cut": row["cut"]}
        | {short: json_number(row[long]) for long, short in kept.items()}
        | ({"ms": [json_number(rows[i]["edge_ms"]) for rows in times]} if times else {})
        for i, row in enumerate(asked(timed=False))
    ]


def units_of(seeds: Iterable[int]) -> list[Unit]:
    """All units, those first without which a claim has no number at all."""
    found = [price_unit()]
    for seed in seeds:
        found += [dynamics_unit(name, targets, seed) for name in ("vgg19", "ir152") for targets in ("one-hot", "LS+")]
        found.append(drift_unit(seed))
        found += [network_unit(name, "cifar10", "one-hot", seed) for name in ("vgg19", "ir152")]
        found += [network_unit(name, "cifar10", "LS+", seed) for name in ("cnn", "vgg19")]
        found += [network_unit(name, "cifar10", "one-hot", seed) for name in ("cnn", "vit", "resnet50", "resnet18")]
        found += [network_unit("vgg19", data, "one-hot", seed) for data in DATA if data != "cifar10"]
        found += [network_unit(name, "cifar10", "LS-", seed) for name in ("cnn", "vgg19")]
        found += [network_unit("ir152", "cifar10", targets, seed) for targets in ("LS+", "LS-")]
    return found
