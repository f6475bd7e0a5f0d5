"""The programs that a command would compile, from shapes alone: for the devices there are, or for some that are not."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gpz_jax import parallel
from gpz_jax.analysis import radius, wide_moments
from gpz_jax.analysis.views import view_of
from gpz_jax.config import AttackConfig, Config
from gpz_jax.data.batches import Pixels, num_batches
from gpz_jax.data.flat_rows import BatchRows, DealtRows, FlatRows
from gpz_jax.defences import Reference, parse
from gpz_jax.errors import UserError
from gpz_jax.inversion import capture, decoder_training
from gpz_jax.inversion.decoder_attack import DecoderAttack
from gpz_jax.inversion.ladder import attacks_of
from gpz_jax.inversion.protocol import Edge
from gpz_jax.taps import TappedNetwork, tap_shapes
from gpz_jax.training import classifier
from gpz_jax.training.ledger import Tracked, row_of
from gpz_jax.training.placements import Kind


@dataclasses.dataclass(frozen=True)
class Work:
    """What a command would do, as plain values.

    Attributes:
      kind: train, probe or attack.
      config: of the run, resolved; the dtype is that of the devices which it would run on.
      attack: settings of the attack.
      train, validation, auxiliary, measured: numbers of images; the last are those that are probed or rebuilt.
      shape: (height, width, channels) of an image as it is kept.
      auxiliary_shape: of the attacker's.
      num_classes: K.
      placement: where the training images lie.
    """

    kind: str
    config: Config
    attack: AttackConfig
    train: int
    validation: int
    auxiliary: int
    measured: int
    shape: tuple[int, int, int]
    auxiliary_shape: tuple[int, int, int]
    num_classes: int
    placement: Kind = "device"


class Asked(NamedTuple):
    """A program to be compiled: a jitted function, shapes and places of its arguments, and its static ones.

    ``beside``: bytes that a device holds meanwhile and that are no argument.
    """

    name: str
    images: int
    times: int
    parameters: int
    function: Any
    given: dict[str, Any]
    static: dict[str, Any]
    beside: int = 0


class Place(NamedTuple):
    """A mesh of devices, and shapes that lie on it."""

    mesh: Mesh

    def everywhere(self, tree: Any) -> Any:
        """On every device."""
        return self._at(tree, jax.P())

    def spread(self, *shape: int, dtype: Any) -> Any:
        """Rows dealt to the devices."""
        return self._at(jax.ShapeDtypeStruct(shape, dtype), jax.P("data"))

    def along_width(self, leaf: Any) -> Any:
        """``(K, D)`` with D dealt to the devices; other shapes as they are."""
        if len(leaf.shape) != 2:
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=wide_moments.place(leaf.shape[1], self.mesh))

    def _at(self, tree: Any, spec: Any) -> Any:
        at = jax.NamedSharding(self.mesh, spec)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), tree)


def programs_of(work: Work, mesh: Mesh, memory: int) -> Iterator[Asked]:
    """The programs of a command that take memory or time, but for what is small beside them.

    Args:
      work: what it would do.
      mesh: devices, which need not be there.
      memory: bytes that one of them has.

    Raises:
      UserError: a batch that cannot be filled, or does not divide over the devices; not one image fits at all cuts.
    """
    channels = work.shape[2]
    recipe = classifier.recipe_for(work.config, work.num_classes, channels)
    network = classifier.network_for(recipe, channels)
    if work.kind == "attack":
        yield from _of_attack(work, network, recipe, mesh)
        return
    config = work.config
    if work.kind == "train":
        classifier.check_batch_size(config.training.batch_size, work.train, mesh)
        yield from _of_training(work, network, recipe, mesh)
        epochs = config.training.epochs
        yield _evaluation(work, recipe, mesh, memory, epochs)
        yield _probe(work, min(work.validation, config.training.track_size), network, recipe, mesh, memory, epochs)
    else:
        passes = 1 + config.probe.null_seeds
        yield _probe(work, work.measured, network, recipe, mesh, memory, passes)
        yield _intervals(work, network, recipe, mesh, memory, passes)


def count(tree: Any) -> int:
    """How many numbers a pytree of shapes holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _scalar(kind: Any) -> Any:
    return jax.ShapeDtypeStruct((), kind)


def _key() -> Any:
    return jax.eval_shape(jax.random.key, 0)


def _rows(images: int, shape: tuple[int, ...], kind: Any) -> Any:
    return jax.eval_shape(FlatRows.of, jax.ShapeDtypeStruct((images, *shape), kind))


def _state(recipe: classifier.Recipe, channels: int) -> Any:
    return jax.eval_shape(lambda: classifier.init_state(jax.random.key(0), recipe, channels))


def _images_of(work: Work, at: Place, batch_size: int) -> Any:
    """What a training step is given of the images."""
    if work.placement == "device":
        return at.everywhere(_rows(work.train, work.shape, np.uint8))
    dealt, width = work.placement == "sharded", math.prod(work.shape)
    rows = parallel.rounded_up(work.train, at.mesh) if dealt else batch_size
    return (DealtRows if dealt else BatchRows)(at.spread(rows, width, dtype=np.uint8), work.shape)


def _of_training(work: Work, network: TappedNetwork, recipe: classifier.Recipe, mesh: Mesh) -> Iterator[Asked]:
    at, channels, track = Place(mesh), work.shape[2], work.config.track
    state = at.everywhere(_state(recipe, channels))
    many = jax.ShapeDtypeStruct((work.train,), np.int32)
    batch = at.everywhere((many, many, _scalar(np.int32), _scalar(np.float32), _key()))
    batch = (_images_of(work, at, recipe.batch_size), *batch)
    names = ("images", "labels", "order", "index", "alpha", "key")
    totals = at.everywhere(jax.eval_shape(classifier.Totals.zero))
    given = {"state": state, "totals": totals, **dict(zip(names, batch, strict=True))}
    steps = work.train // recipe.batch_size * work.config.training.epochs
    parameters = count(state.params)
    static = {"recipe": recipe, "mesh": mesh}
    yield Asked("training step", recipe.batch_size, steps, parameters, classifier.train_step, given, static)
    if track.track_every is None:
        return
    cuts = network.cuts
    tracked = Tracked(network, recipe, track.ledger == "full", track.interference or ((cuts[:-1] or cuts)[-1],))
    size = track.probe_size
    rows = at.everywhere if size % mesh.size else lambda tree: at.spread(*tree.shape, dtype=tree.dtype)
    images = rows(jax.ShapeDtypeStruct((size, *work.shape), np.uint8))
    labels = rows(jax.ShapeDtypeStruct((size,), np.int32))
    given = {
        "before": state._replace(optimiser=()), "batch": batch, "after": state, "images": images, "labels": labels,
    }  # fmt: skip
    static = {"tracked": tracked, "mesh": mesh}
    yield Asked("row of the ledger", size, steps // track.track_every, 0, row_of, given, static)


class _Measured(NamedTuple):
    """A batch that is evaluated or measured at every cut: its arguments, and how many there are."""

    size: int
    batches: int
    given: dict[str, Any]


def _batch(work: Work, images: int, recipe: classifier.Recipe, mesh: Mesh, memory: int) -> _Measured:
    """As ``data.batches.padded_batches`` makes them."""
    at, channels = Place(mesh), work.shape[2]
    most = classifier.measured_batch(recipe, channels, mesh, memory)
    size = -(-min(most, images) // mesh.size) * mesh.size
    x = at.spread(size, *work.shape, dtype=np.uint8)
    given = {"labels": at.spread(size, dtype=np.int32), "mask": at.spread(size, dtype=np.bool_)}
    given["variables"] = at.everywhere(classifier.abstract_variables(recipe, channels))
    return _Measured(size, num_batches(images, max(size, most)), {**given, "x": x})


def _evaluation(work: Work, recipe: classifier.Recipe, mesh: Mesh, memory: int, passes: int) -> Asked:
    size, batches, given = _batch(work, work.validation, recipe, mesh, memory)
    at = Place(mesh)
    given["images"] = given.pop("x")
    given |= at.everywhere({"totals": jax.eval_shape(classifier.Totals.zero), "alpha": _scalar(np.float32)})
    return Asked("evaluation", size, passes * batches, 0, classifier._evaluate_batch, given, {"recipe": recipe})


class _Moments(NamedTuple):
    """Shapes and places of the moments of all cuts, and the mesh that they are dealt to, if they are."""

    moments: dict[str, Any]
    dealt: Mesh | None


def _moments(work: Work, network: TappedNetwork, given: dict[str, Any], view: Any, at: Place, memory: int) -> _Moments:
    widths = radius._widths(network, given["variables"], given["x"], given["labels"], view)
    found = at.everywhere(jax.eval_shape(lambda: radius._empties(work.num_classes, tuple(widths.items()))))
    if not wide_moments.are_dealt(work.num_classes, sum(widths.values()), at.mesh, memory):
        return _Moments(found, None)
    return _Moments(jax.tree.map(at.along_width, found), at.mesh)


def _probe(work: Work, images: int, network, recipe, mesh: Mesh, memory: int, passes: int) -> Asked:
    size, batches, given = _batch(work, images, recipe, mesh, memory)
    view = view_of(work.config.probe.view if work.kind == "probe" else "tokens", None)
    given["moments"], dealt = _moments(work, network, given, view, Place(mesh), memory)
    static = {"network": network, "view": view, "dealt": dealt}
    return Asked("probe, all cuts", size, passes * batches, 0, radius._add_batch, given, static)


def _intervals(work: Work, network, recipe, mesh: Mesh, memory: int, passes: int) -> Asked:
    size, batches, given = _batch(work, work.measured, recipe, mesh, memory)
    view, at = view_of(work.config.probe.view, None), Place(mesh)
    moments, dealt = _moments(work, network, given, view, at, memory)
    means = jax.eval_shape(lambda m: radius._centres(m, np.float32(1), np.float32(1), False), moments)
    sums = jax.ShapeDtypeStruct((len(network.cuts), min(work.measured, radius.GROUPS)), np.float32)
    given |= at.everywhere({"sums": (sums, sums), "means": means, "group": jax.ShapeDtypeStruct((size,), np.int32)})
    if dealt is not None:
        given["means"]["class"] = jax.tree.map(at.along_width, given["means"]["class"])
    static = {"network": network, "view": view, "dealt": dealt}
    return Asked("intervals of rho", size, passes * batches, 0, radius._add_deviations, given, static)


def _of_attack(work: Work, network: TappedNetwork, recipe: classifier.Recipe, mesh: Mesh) -> Iterator[Asked]:
    options = work.attack
    attacks = attacks_of(options.attack or ("deconvolution",), options, ladder=options.ladder)
    decoders = [attack for attack in attacks if isinstance(attack, DecoderAttack)]
    variables = classifier.abstract_variables(recipe, work.shape[2])
    example = jax.ShapeDtypeStruct((2, *work.auxiliary_shape), np.uint8)
    shapes = tap_shapes(network, variables, example)
    sizes = {cut: 4 * (work.auxiliary + work.measured) * math.prod(shapes[cut]) for cut in options.cut}
    groups = capture.groups_of(sizes, capture.MOST_BYTES) if mesh.size == 1 else ()
    held = {cut: sum(sizes[each] for each in group) for group in groups for cut in group}
    for cut in options.cut:
        for attack in decoders:
            asked = _decoder(work, attack, cut, shapes[cut], variables, network, recipe, mesh)
            yield asked._replace(beside=held.get(cut, 0))


def _decoder(work: Work, attack: DecoderAttack, cut: str, z_shape, variables, network, recipe, mesh: Mesh) -> Asked:
    options, at = work.attack, Place(mesh)
    decoder = attack.decoder(options, tuple(z_shape), (recipe.size, recipe.size, work.shape[2]))
    fit = work.auxiliary - max(1, round(options.selection_fraction * work.auxiliary))
    if fit < max(2, mesh.size):
        raise UserError(
            f"the attacker has {work.auxiliary} images, too few to train on; raise auxiliary_fraction",
            field="auxiliary_fraction",
        )
    batch = max(mesh.size, min(options.batch_size, fit) // mesh.size * mesh.size)
    z = np.zeros((2, *z_shape), np.float32)
    state = jax.eval_shape(
        lambda key: decoder_training._state_of(decoder_training._init(key, z, decoder=decoder), lr=options.lr), _key()
    )
    defence = parse(options.defence)
    kept = 4 * math.prod(z_shape) * work.auxiliary <= decoder_training.KEPT_BYTES
    given = {
        "state": state,
        "target_variables": variables,
        "images": _rows(fit, work.auxiliary_shape, np.uint8),
        "sent": _rows(fit, tuple(z_shape), np.float32) if kept else None,
        "order": jax.ShapeDtypeStruct((fit,), np.int32),
        "index": _scalar(np.int32),
        "key": _key(),
        "reference": Reference(*[_scalar(np.float32)] * 3) if defence.steps else None,
    }
    edge = Edge(network, cut, defence, Pixels(recipe.size), options.probabilities, options.top_k)
    static = {
        "edge": edge.receiver if kept else edge,
        "decoder": decoder,
        "batch_size": batch,
        "lr": options.lr,
        "mesh": mesh,
    }
    steps = options.epochs * (fit // batch)
    steps = steps if options.steps is None else min(steps, options.steps)
    name = f"{attack.name}, {cut}"
    return Asked(name, batch, steps, count(state.params), decoder_training.attack_step, at.everywhere(given), static)
