"""One network of the predictors' list, trained, measured and attacked at its candidate cuts (not an experiment).

What comes of it is a dict of numbers, words and lists, one JSON file: nothing later needs the network again.
"""

import dataclasses
import datetime
import math
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import common
import jax
import numpy as np
from predictor_networks import Network, Size

from gpz_jax import guarantees_at, probe_network
from gpz_jax.analysis import collapse
from gpz_jax.analysis.price import Price, price_cuts
from gpz_jax.data.batches import Pixels, normalise
from gpz_jax.defences import NONE
from gpz_jax.inversion import attacking
from gpz_jax.inversion.ladder import attacks_of
from gpz_jax.inversion.payload_noise import noise_of
from gpz_jax.inversion.protocol import Edge, send
from gpz_jax.inversion.results import Attempt
from gpz_jax.inversion.scoring import Exam
from gpz_jax.taps import TappedNetwork
from gpz_jax.workflow import LoadedRun
from gpz_jax.workflow.probe_command import null_of

SCHEMA = 1

#: Images a batch of the probe, all of one shape.
BATCH = 100

#: Beside the linear one: the two that a verdict asks for.
DECODERS = ("deconvolution", "residual")

#: Untrained copies for the evidence.
NULLS = 5


class Clock:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add the time that the block takes."""
        begun = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - begun, 2)


@dataclasses.dataclass(frozen=True)
class Parties:
    """Who has which images, pairs of bytes and labels; no two of them share one."""

    fitted: tuple[np.ndarray, np.ndarray]
    held_out: tuple[np.ndarray, np.ndarray]
    auxiliary: tuple[np.ndarray, np.ndarray]
    attacked: tuple[np.ndarray, np.ndarray]
    probed: tuple[np.ndarray, np.ndarray]


def parties(loaded: LoadedRun, size: Size) -> Parties:
    """Deal a run's images out; the predictors are measured on test images that are not attacked."""

    def some(pair: tuple[np.ndarray, Any], start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return pair[0][start:stop], np.asarray(pair[1][start:stop])

    test, splits = loaded.splits.test.take(), loaded.splits
    attacked = min(size.attacked, len(test[0]) // 2)
    probed = min(size.probed, len(test[0]) - attacked) // BATCH * BATCH
    return Parties(
        some(splits.train.take(), 0, size.fitted),
        some(splits.validation.take(), 0, size.attacked),
        some(splits.auxiliary.take(), 0, 10**9),
        some(test, 0, attacked),
        some(test, attacked, attacked + probed),
    )


def measured(network: Network, size: Size, folder: str) -> dict[str, Any]:
    """Train a network, measure every predictor at its cuts, attack them; all as one JSON value."""
    clock = Clock()
    with clock.of("training"):
        loaded = common.train(network.config, folder)
    tapped = dataclasses.replace(loaded.network, cuts=network.family.cuts)
    dealt = parties(loaded, size)
    with clock.of("probe"):
        per_cut, zones = _probed(loaded, tapped, dealt, network.config.seed)
    priced = price_cuts(tapped, loaded.variables, jax.ShapeDtypeStruct((1, *dealt.attacked[0].shape[1:]), np.uint8))
    with clock.of("exams"):
        exam, held = (_exam(loaded, tapped, dealt, images) for images in (dealt.attacked, dealt.held_out))
    cuts = []
    for i, price in enumerate(priced):
        z = {name: _sent(loaded, tapped, price.cut, getattr(dealt, name)[0]) for name in ("probed", "fitted")}
        with clock.of("collapse"):
            found = _collapse(z, dealt)
        with clock.of("guarantees"):
            found |= _guaranteed(loaded, tapped, price.cut, dealt, size)
        found |= _attacked(loaded, tapped, price.cut, dealt, exam, held, size, clock)
        cuts.append({**_priced(i, price, priced[-1]), **per_cut[i], **found})
    assert exam.answers is not None
    return {
        "schema_version": SCHEMA,
        "name": network.name,
        "config": _flat(network),
        "accuracy": exam.answers.accuracy,
        "majority": exam.answers.majority,
        "images": {field.name: len(getattr(dealt, field.name)[0]) for field in dataclasses.fields(dealt)},
        "numbers": loaded.recipe.size**2 * loaded.run.channels,
        "zones": zones,
        "cuts": cuts,
        "seconds": clock.seconds,
        **_where(),
    }


def _priced(place: int, price: Price, total: Price) -> dict[str, Any]:
    """What a cut costs; ``depth`` is its place among the candidates, 0 to 1."""
    return {
        "cut": price.cut, "shape": list(price.shape), "dimension": price.values, "payload_bits": 8 * price.values,
        "place": place, "edge_share": _number(price.edge_parameters / total.edge_parameters),
        "edge_flops_share": _number(price.edge_flops / total.edge_flops),
    }  # fmt: skip


def _flat(network: Network) -> dict[str, Any]:
    config = network.config
    return {
        "data": config.data.data, "size": config.data.size, "model": config.model.model, "width": config.model.width,
        "layers": config.model.depth, "ls": config.training.ls, "epochs": config.training.epochs, "seed": config.seed,
    }  # fmt: skip


def _where() -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}",
        "versions": {name: version(name) for name in ("jax", "flax", "optax", "numpy", "scipy")},
        "python": platform.python_version(),
    }  # fmt: skip


def _probed(
    loaded: LoadedRun, tapped: TappedNetwork, dealt: Parties, seed: int
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """What the probe says of each cut, and where the rules begin their zones."""
    images, labels = dealt.probed
    batches = [(images[i : i + BATCH], labels[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    key = jax.random.key(seed)
    nulls = (null_of(loaded, jax.random.fold_in(key, 1000 + number)) for number in range(NULLS))
    probe = probe_network(
        tapped, loaded.variables, batches, loaded.run.num_classes, nulls=nulls, key=key, bootstrap=200,
        rules=("paper", "null"),
    )  # fmt: skip
    names = ("within", "within_per_dimension", "between", "rho", "evidence", "drop", "feature_bound", "decision_bound",
             "information_ceiling")  # fmt: skip
    columns = {name: getattr(probe, name) for name in names}
    rows = [{name: _number(values[i]) for name, values in columns.items()} for i in range(len(probe.cuts))]
    zones = {name: {"onset": zone.onset, "cuts": list(zone.cuts)} for name, zone in probe.zones.items()}
    return rows, zones


def _sent(loaded: LoadedRun, tapped: TappedNetwork, cut: str, images: np.ndarray) -> np.ndarray:
    """What is sent of images, z, flattened."""
    edge = Edge(tapped, cut)
    found = [np.asarray(send(loaded.variables, images[i : i + BATCH], edge=edge)) for i in range(0, len(images), BATCH)]
    return np.concatenate(found).reshape(len(images), -1)


def _collapse(z: dict[str, np.ndarray], dealt: Parties) -> dict[str, float]:
    labels = dealt.probed[1]
    found = {
        "cdnv": collapse.class_distance_variance(z["probed"], labels),
        "nc1": collapse.within_class_collapse(z["probed"], labels),
        "effective_dimension": collapse.participation_ratio(z["probed"]),
        "probe_accuracy": collapse.linear_probe_accuracy(z["fitted"], dealt.fitted[1], z["probed"], labels),
    }
    return {name: _number(value) for name, value in found.items()}


def _guaranteed(loaded: LoadedRun, tapped: TappedNetwork, cut: str, dealt: Parties, size: Size) -> dict[str, float]:
    """The two guarantees of z as uint8, of the images on which predictors are measured."""
    reference = attacking.reference_of(Edge(tapped, cut), loaded.variables, dealt.fitted[0], loaded.mesh)
    found = guarantees_at(
        tapped, loaded.variables, cut, dealt.probed, noise=noise_of(NONE, reference), key=jax.random.key(0),
        slopes=size.slopes[0], probes=size.slopes[1], pixels=Pixels(loaded.recipe.size), white_box=dataclasses.replace(tapped, prepare=normalise),
        mesh=loaded.mesh,
    )  # fmt: skip
    names = ("mse_floor", "information", "nats", "mse_entropy")
    return {name: _number(getattr(found, name)) for name in names}


def _exam(loaded: LoadedRun, tapped: TappedNetwork, dealt: Parties, images: tuple[np.ndarray, np.ndarray]) -> Exam:
    """What attacks are scored with: the same at every cut."""
    return attacking.exam_for(
        tapped, loaded.variables, dealt.auxiliary[0], images, loaded.splits.train.take(),
        pixels=Pixels(loaded.recipe.size), mesh=loaded.mesh,
    )  # fmt: skip


def _attacked(
    loaded: LoadedRun, tapped: TappedNetwork, cut: str, dealt: Parties, exam: Exam, held: Exam, size: Size, clock: Clock
) -> dict[str, Any]:
    """The ridge error on images that are not attacked, and what every attack on a cut got."""
    target = attacking.target_for(
        tapped, loaded.variables, cut, dealt.auxiliary[0], dealt.fitted[0], key=jax.random.key(loaded.run.config.seed),
        pixels=Pixels(loaded.recipe.size), white_box=None, settings=size.attack, mesh=loaded.mesh,
    )  # fmt: skip
    found, ridge = {}, math.nan
    for attack in attacks_of(("linear", *DECODERS), size.attack):
        with clock.of(attack.name):
            found[attack.name] = _outcome(attacking.make_attempt(target, attack, exam, keep=0))
        if attack.name == "linear":
            with clock.of("ridge"):
                ridge = attacking.make_attempt(target, attack, held, keep=0).scores.ratio
    return {"ridge": _number(ridge), "attacks": found}


def _outcome(attempt: Attempt) -> dict[str, Any]:
    """What an attack got."""
    row = attempt.row()
    names = ("mse", "ratio", "ratio_low", "ratio_high", "ssim", "identified", "identified_within", "chance",
             "chance_label", "chance_within", "floor_mean_image", "floor_class_mean", "floor_label_only",
             "prior_collapse", "flattened", "last_gain", "parameters")  # fmt: skip
    epochs = len(attempt.training.losses) if attempt.training.best_epoch else 0
    return {name: _number(row[name]) for name in names if name in row} | {"epochs": epochs}


def _number(value: Any) -> Any:
    """A number that JSON has; None where it is not finite. Seven digits: enough for ranks and for people."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    return float(f"{float(value):.7g}") if math.isfinite(value) else None
