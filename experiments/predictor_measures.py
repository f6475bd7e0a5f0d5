"""One network of the predictors' list, trained, measured and attacked at its candidate cuts (not an experiment).

What comes of it is a dict of numbers, words and lists, one JSON file: nothing later needs the network again.
"""

import dataclasses
import datetime
import os
import platform
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from common import json_number
from predictor_attacks import Clock, Parties, attacked_through
from predictor_networks import Network, Size
from predictor_training import Trained, trained

from gpz_jax import guarantees_at, probe_network
from gpz_jax.analysis import collapse
from gpz_jax.analysis.price import Price, price_cuts
from gpz_jax.data.batches import Pixels, normalise, pixels
from gpz_jax.defences import NONE
from gpz_jax.inversion import attacking
from gpz_jax.inversion.payload_noise import noise_of
from gpz_jax.inversion.protocol import Edge
from gpz_jax.inversion.scoring import Exam
from gpz_jax.taps import TappedNetwork

SCHEMA = 1

#: Images a batch of the probe, all of one shape.
BATCH = 100

#: Untrained copies for the evidence.
NULLS = 5


def parties(loaded: Trained, size: Size) -> Parties:
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


def measured(network: Network, size: Size) -> dict[str, Any]:
    """Train a network, measure every predictor at its cuts, attack them; all as one JSON value."""
    clock = Clock()
    with clock.of("training"):
        loaded = trained(network)
    tapped, dealt = loaded.network, parties(loaded, size)
    with clock.of("probe"):
        per_cut, zones = _probed(loaded, dealt)
    with clock.of("price"):
        example = jax.ShapeDtypeStruct((1, *dealt.attacked[0].shape[1:]), np.uint8)
        priced = price_cuts(tapped, loaded.variables, example)
    with clock.of("sending"):
        bytes_of = {field.name: getattr(dealt, field.name)[0] for field in dataclasses.fields(dealt)}
        sent = {name: _sent(loaded, images) for name, images in bytes_of.items()}
        images = {name: np.asarray(pixels(found, loaded.recipe.size)) for name, found in bytes_of.items()}
    with clock.of("exams"):
        exams = {part: _exam(loaded, dealt, getattr(dealt, part)) for part in ("attacked", "held_out")}
    cuts = []
    for i, price in enumerate(priced):
        z = {name: found[price.cut] for name, found in sent.items()}
        with clock.of("collapse"):
            found = _collapse(z, dealt)
        with clock.of("guarantees"):
            found |= _guaranteed(loaded, price.cut, dealt, size)
        found |= attacked_through(z, images, exams, size, loaded.seed, clock)
        cuts.append({**_priced(i, price, priced[-1]), **per_cut[i], **found})
    return {
        "schema_version": SCHEMA,
        "name": network.name,
        "config": _flat(network),
        "accuracy": exams["attacked"].answers.accuracy,
        "majority": exams["attacked"].answers.majority,
        "images": {name: len(found) for name, found in bytes_of.items()},
        "numbers": loaded.recipe.size**2 * loaded.channels,
        "zones": zones,
        "cuts": cuts,
        "seconds": clock.seconds,
        **_where(),
    }


def _priced(place: int, price: Price, total: Price) -> dict[str, Any]:
    """What a cut costs; ``depth`` is its place among the candidates, 0 to 1."""
    return {
        "cut": price.cut, "shape": list(price.shape), "dimension": price.values, "payload_bits": 8 * price.values,
        "place": place, "edge_share": json_number(price.edge_parameters / total.edge_parameters),
        "edge_flops_share": json_number(price.edge_flops / total.edge_flops),
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


def _probed(loaded: Trained, dealt: Parties) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """What the probe says of each cut, and where the rules begin their zones."""
    images, labels = dealt.probed
    batches = [(images[i : i + BATCH], labels[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    key = jax.random.key(loaded.seed)
    nulls = (loaded.null(number) for number in range(NULLS))
    probe = probe_network(
        loaded.network, loaded.variables, batches, loaded.splits.num_classes, nulls=nulls, key=key, bootstrap=200,
        rules=("paper", "null"),
    )  # fmt: skip
    names = ("within", "within_per_dimension", "between", "rho", "evidence", "drop", "feature_bound", "decision_bound",
             "information_ceiling")  # fmt: skip
    columns = {name: getattr(probe, name) for name in names}
    rows = [{name: json_number(values[i]) for name, values in columns.items()} for i in range(len(probe.cuts))]
    zones = {name: {"onset": zone.onset, "cuts": list(zone.cuts)} for name, zone in probe.zones.items()}
    return rows, zones


@partial(jax.jit, static_argnames="network")
def _taps(variables: Any, images: Any, *, network: TappedNetwork) -> dict[str, jax.Array]:
    return {cut: z.astype(np.float32) for cut, z in network(variables, images)[1].items()}


def _sent(loaded: Trained, images: np.ndarray) -> dict[str, np.ndarray]:
    """What is sent of images at every cut, asked for once."""
    filled = np.concatenate([images, np.repeat(images[:1], -len(images) % BATCH, axis=0)])
    parts = [
        jax.device_get(_taps(loaded.variables, filled[i : i + BATCH], network=loaded.network))
        for i in range(0, len(filled), BATCH)
    ]
    return {cut: np.concatenate([part[cut] for part in parts])[: len(images)] for cut in loaded.network.cuts}


def _collapse(z: dict[str, np.ndarray], dealt: Parties) -> dict[str, float]:
    flat = {name: z[name].reshape(len(z[name]), -1) for name in ("probed", "fitted")}
    labels = dealt.probed[1]
    found = {
        "cdnv": collapse.class_distance_variance(flat["probed"], labels),
        "nc1": collapse.within_class_collapse(flat["probed"], labels),
        "effective_dimension": collapse.participation_ratio(flat["probed"]),
        "probe_accuracy": collapse.linear_probe_accuracy(flat["fitted"], dealt.fitted[1], flat["probed"], labels),
    }
    return {name: json_number(value) for name, value in found.items()}


def _guaranteed(loaded: Trained, cut: str, dealt: Parties, size: Size) -> dict[str, float]:
    """The two guarantees of z as uint8, of the images on which predictors are measured."""
    reference = attacking.reference_of(Edge(loaded.network, cut), loaded.variables, dealt.fitted[0], loaded.mesh)
    found = guarantees_at(
        loaded.network, loaded.variables, cut, dealt.probed, noise=noise_of(NONE, reference), key=jax.random.key(0),
        slopes=size.slopes[0], probes=size.slopes[1], pixels=Pixels(loaded.recipe.size),
        white_box=dataclasses.replace(loaded.network, prepare=normalise), mesh=loaded.mesh,
    )  # fmt: skip
    names = ("mse_floor", "information", "nats", "mse_entropy")
    return {name: json_number(getattr(found, name)) for name in names}


def _exam(loaded: Trained, dealt: Parties, images: tuple[np.ndarray, np.ndarray]) -> Exam:
    """What attacks are scored with: the same at every cut."""
    return attacking.exam_for(
        loaded.network, loaded.variables, dealt.auxiliary[0], images, loaded.splits.train.take(),
        pixels=Pixels(loaded.recipe.size), mesh=loaded.mesh,
    )  # fmt: skip
