"""What an attacker may know, what it is asked, and what it answers with: the protocol that every attack keeps to.

An :class:`Attack` says for a :class:`Target` whether it can be built there (``check``) and gets ready on the attacker's
own images (``fit``); the :class:`Fitted` that comes back turns what is sent into images. Nothing else is asked of it,
and nobody asks which one it is: a new attack is a class as in ``linear_attack.py``, and a line in ``ladder.py``.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float

from gpz_jax import defences, parallel
from gpz_jax.config import AttackSettings
from gpz_jax.defences import NONE, Defence, Reference
from gpz_jax.errors import UserError
from gpz_jax.inversion.metrics import as_pixels
from gpz_jax.inversion.pause import NEVER, Pause
from gpz_jax.inversion.results import Attempt, Training
from gpz_jax.seeds import seed_of
from gpz_jax.taps import TappedNetwork
from gpz_jax.taps.batch_axis import batch_size, rows_of, with_batch

#: Inputs a forward pass, over all devices: the unit in which a defence draws its noise, whatever devices there are.
BATCH = 256

#: Which inputs: the attacker's that it trains on, those on which it chooses, or those that are rebuilt.
Part = Literal["fit", "selection", "test"]

#: Told how far an attack is: (done, of how many, a word on how it goes).
Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, words: str) -> None:
    """Tell nobody."""


class Edge(NamedTuple):
    """What the attacker can query, as functions of arrays. Hashable, so that steps are compiled once.

    Attributes:
      network: the tapped network, from its inputs.
      cut: where z is taken.
      defence: what the edge does to z before it is sent.
      pixels: inputs of the network -> what is to be rebuilt of them, images ``(N, H, W, C)`` in [0, 1]; a function at
        module level, so that it stays one under jit.
      probabilities: the attacker gets log-probabilities in place of logits.
      top_k: the attacker gets the k largest entries of a vector only; None: all.
    """

    network: TappedNetwork
    cut: str
    defence: Defence = NONE
    pixels: Callable[[Any], Array] = as_pixels
    probabilities: bool = False
    top_k: int | None = None

    @property
    def receiver(self) -> "Edge":
        """Its defence and what the attacker gets, without the network: equal at every cut.

        So that a program that is not to ask the network is compiled once for all cuts of one shape.
        """
        return self._replace(network=None, cut="")

    def send(self, variables: Any, x: Any) -> Array:
        """The representation before any defence, float32 ``(N, …)``."""
        return self.network(variables, x)[1][self.cut].astype(jnp.float32)

    def receive(self, z: Array, key: Array, reference: Reference | None) -> Array:
        """What arrives of it: defended, with noise drawn anew for every key, and cut down to what the attacker gets."""
        return received(self.defend(z, key, reference), probabilities=self.probabilities, top_k=self.top_k)

    def defend(self, z: Array, key: Array, reference: Reference | None) -> Array:
        """What goes over the wire, and what the cloud computes with."""
        if not self.defence.steps:
            return z
        assert reference is not None  # else the edge would send z bare while its name says otherwise
        return defences.apply(self.defence, z, key, reference)


def received(z: Float[Array, "N ..."], *, probabilities: bool, top_k: int | None) -> Float[Array, "N ..."]:
    """What the attacker gets of logits: log-probabilities, or the ``top_k`` largest entries, above the least of them.

    The entries that are kept less the least of them, the others 0, as in the truncation of Yang et al. (2019).

    >>> received(jnp.array([[3.0, 1.0, 2.0, -5.0]]), probabilities=False, top_k=3).tolist()
    [[2.0, 0.0, 1.0, 0.0]]
    """
    if probabilities:
        z = jax.nn.log_softmax(z)
    if top_k is None:
        return z
    values, at = jax.lax.top_k(z, top_k)
    kept = jnp.sum(jax.nn.one_hot(at, z.shape[-1]), axis=1) > 0
    return jnp.where(kept, z - values[:, -1:], 0.0)


send = partial(jax.jit, static_argnames="edge")(lambda variables, x, *, edge: edge.send(variables, x))
receive = partial(jax.jit, static_argnames="edge")(lambda z, key, reference, *, edge: edge.receive(z, key, reference))
defend = partial(jax.jit, static_argnames="edge")(lambda z, key, reference, *, edge: edge.defend(z, key, reference))
images_of = partial(jax.jit, static_argnames="pixels")(lambda x, *, pixels: pixels(x))


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """What is attacked, and what the attacker knows and owns.

    Attributes:
      edge: what the attacker can query.
      variables: of the network.
      auxiliary: the attacker's inputs ``(N, …)``, as the network takes them: an array or a pytree of arrays.
      key: of the attacker's chance.
      settings: how attackers are made ready.
      reference: what the edge's defence is measured against; None if it has none.
      white_box: the network from what is rebuilt, for attacks that take its gradient; None if it is not at hand.
      images: whether images in [0, 1] are rebuilt, and not just numbers.
      mesh: devices.
      pause: asked after every step of long work, which can be left there and gone on with.
      captured: z of a part's inputs at a cut where it has been asked for already, see ``capture.Capture``; None: ask.
    """

    edge: Edge
    variables: Any
    auxiliary: Any
    key: Array
    settings: AttackSettings = AttackSettings()
    reference: Reference | None = None
    white_box: TappedNetwork | None = None
    images: bool = True
    mesh: Mesh = dataclasses.field(default_factory=parallel.data_mesh)
    pause: Pause = NEVER
    captured: Callable[[Part, str], Sequence[Array] | None] | None = None

    @property
    def cut(self) -> str:
        """Where z is taken."""
        return self.edge.cut

    @property
    def seed(self) -> int:
        """The key as a number, for what is drawn on the host."""
        return seed_of(self.key)

    @property
    def z_shape(self) -> tuple[int, ...]:
        """Shape of one z; nothing is computed."""
        return self._shape_of(lambda x: self.edge.send(self.variables, x))

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of what is rebuilt of one input."""
        return self._shape_of(lambda x: self.edge.pixels(x))

    def _shape_of(self, function: Callable[[Any], Array]) -> tuple[int, ...]:
        return jax.eval_shape(function, with_batch(self.auxiliary, batch_size(self.auxiliary), 2)).shape[1:]

    def fit_and_selection(self) -> tuple[Any, Any]:
        """The attacker's inputs to train on, and those on which it chooses: the first part of a seeded shuffle."""
        images = np.arange(batch_size(self.auxiliary) or 0, dtype=np.int32)
        shuffled = np.random.default_rng(self.seed).permutation(images)
        held = max(1, round(self.settings.selection_fraction * len(shuffled)))
        return rows_of(self.auxiliary, shuffled[held:]), rows_of(self.auxiliary, shuffled[:held])

    def sent(self, x: Any, part: Part | None = None) -> Iterator[tuple[Any, Array, int]]:
        """:func:`pieces` of inputs, z of each before its defence, and how many count.

        Args:
          x: inputs.
          part: which they are, all of them, so that what was captured of these serves.
        """
        known = None if self.captured is None or part is None else self.captured(part, self.cut)
        for i, (piece, count) in enumerate(pieces(x, mesh=self.mesh)):
            yield piece, send(self.variables, piece, edge=self.edge) if known is None else known[i], count

    def batches(self, x: Any, key: Array, part: Part | None = None) -> Iterator[tuple[Array, Array]]:
        """(what is to be rebuilt, z as received) of inputs, up to 256 at a time; the key is of the edge's noise.

        Spread over the devices, but for a last batch that does not divide: it is on every one. The noise depends on the
        key and the place of the input alone. ``part`` as in :meth:`sent`.
        """
        for i, (piece, z, count) in enumerate(self.sent(x, part)):
            z = receive(z, jax.random.fold_in(key, i), self.reference, edge=self.edge.receiver)
            yield parallel.first((images_of(piece, pixels=self.edge.pixels), z), count, self.mesh)

    def test_key(self) -> Array:
        """Key of the noise that the edge draws when it is attacked."""
        return jax.random.fold_in(self.key, 5)

    def check(self) -> None:
        """Raise :class:`UserError` where z is no vector of which the attacker could get a part only."""
        z, top_k = self.z_shape, self.edge.top_k
        if (self.edge.probabilities or top_k is not None) and len(z) != 1:
            what = "probabilities" if self.edge.probabilities else "top_k"
            raise UserError(f"{what} needs a vector of logits, but z has shape {z} at this cut", field=what)
        if top_k is not None and not 1 <= top_k <= z[0]:
            raise UserError(f"top_k {top_k}: z has {z[0]} entries; give 1 to {z[0]}", field="top_k")


def pieces(x: Any, most: int = BATCH, *, mesh: Mesh | None = None) -> Iterator[tuple[Any, int]]:
    """Inputs up to 256 at a time, all of one shape, and how many count: the last ones are filled up with the first.

    Over several devices they are spread, and each is filled up to a multiple of these.

    >>> [(piece.tolist(), count) for piece, count in pieces(np.arange(3))]
    [([0, 1, 2], 3)]
    """
    images = batch_size(x) or 0
    size = parallel.rounded_up(min(most, images), mesh)
    for start in range(0, images, most):
        count = min(most, images - start)
        places = (
            np.r_[start : start + count, np.zeros(size - count, int)] if count < size else slice(start, start + size)
        )
        piece = rows_of(x, places)
        yield piece if mesh is None else parallel.spread(piece, mesh), count


class Reconstruction(NamedTuple):
    """What an attacker answers.

    Attributes:
      x: images ``(N, H, W, C)``, or numbers of the shape that is to be rebuilt.
      flattened: whether more effort promised nothing, where only the attack itself shows that.
      last_gain: by what share the loss still fell over the last fifth of the effort, likewise.
    """

    x: Array
    flattened: bool | None = None
    last_gain: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """An attacker that is ready.

    Attributes:
      reconstruct: ``reconstruct(z, start) -> Reconstruction``, a pure function of what is received, ``(N, …)``, and of
        images to begin at (None: none), which most attacks leave aside.
      training: how it was made ready.
      parameters: what was fitted, a pytree; None if nothing was.
      parameter_count: how many numbers that is.
    """

    reconstruct: Callable[[Array, Array | None], Reconstruction]
    training: Training
    parameters: Any = None
    parameter_count: int = 0


@dataclasses.dataclass(frozen=True)
class Attack:
    """One way to invert; subclasses say which.

    Attributes:
      name: of the attack, and of its folder.
      follows: whether it begins where the best attack before it ended.
      uses: the settings that it depends on; a finished attack is read again only where these are the same.
    """

    name: str

    follows: ClassVar[bool] = False
    uses: ClassVar[tuple[str, ...]] = tuple(field.name for field in dataclasses.fields(AttackSettings))

    def configured(self, settings: AttackSettings, *, ladder: bool = False) -> "Attack":
        """The attack that these settings ask for, under a name that says so; in a ladder it keeps its name."""
        return self

    def check(self, target: Target) -> None:
        """Raise :class:`UserError` for what cannot be built at this target, before anything is trained."""

    def test_images(self, settings: AttackSettings) -> int | None:
        """How many test images it is run on, the first ones; None: all."""
        return None

    def fit(self, target: Target, *, best: Attempt | None = None, progress: Progress = silent) -> Fitted:
        """Make the attacker ready on its own images; ``best`` is the best attempt so far, if it follows one."""
        raise NotImplementedError


def check_images(attack: str, target: Target) -> None:
    """Raise :class:`UserError` unless images are rebuilt: for attacks that know nothing else."""
    if not target.images:
        raise UserError(
            f"the attack {attack!r} rebuilds images (N, H, W, C) in [0, 1], which these inputs {target.x_shape} are "
            "not: attack them with 'linear', or give pixels, a function from the network's inputs to images"
        )
