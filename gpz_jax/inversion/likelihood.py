"""The attack that trains nothing: of all images, find the one whose representation is what was received.

White-box regularised maximum likelihood (He, Zhang and Lee, "Model inversion attacks against collaborative
inference", ACSAC 2019): the attacker holds the edge half. For each received z_i, i = 1 … N,

  minimise over x in [0, 1]^(H W C)     ||edge(x) - z_i||² / σ² + τ TV(x)
  TV(x) = mean over pixels and channels of (x[r+1, c] - x[r, c])² + (x[r, c+1] - x[r, c])²

with σ² the mean over the batch of ||z_i - mean z||² (of ||z_i||² for one image, or if all are the same), so that 1 is
the misfit of the mean and τ means the same at every cut. TV is the source's with β = 2, the squared isotropic one:
smooth where an image is flat, so Adam comes to rest there.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, Float32

from gpz_jax import parallel
from gpz_jax.errors import UserError
from gpz_jax.inversion.pause import NEVER, Pause

#: Steps between two calls of ``on_step``.
EVERY = 50

#: Most points of :attr:`Inverted.history`.
CHUNKS = 50

#: Still falling means by more than this share of itself, and by more than this share of the mean's misfit.
FLAT, NOTHING = 0.01, 1e-6


class Inverted(NamedTuple):
    """What :func:`invert` found.

    Attributes:
      x: images ``(N, H, W, C)`` in [0, 1].
      objective: ||edge(x) - z||² / σ² of each image, ``(N,)``, without TV.
      total: what was minimised, objective + τ TV, ``(N,)``.
      history: mean total over images and restarts, averaged over up to 50 equal stretches of the steps.
      settled: whether the mean total fell by less than 1 % (or by less than 1e-6) over the last fifth of the steps.
        The rate nears 0 by then, so False says that more steps would help, True not that they would not.
    """

    x: Float32[Array, "N H W C"]
    objective: Float32[Array, " N"]
    total: Float32[Array, " N"]
    history: Float32[np.ndarray, " chunks"]
    settled: bool


class _State(NamedTuple):
    x: Array
    adam: Any
    history: Array
    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]


def invert(
    send: Callable[[Any, Array], Array],
    variables: Any,
    z: Float[Array | np.ndarray, "N ..."],
    x_shape: tuple[int, ...],
    *,
    key: Array,
    steps: int = 500,
    lr: float = 0.1,
    tv: float = 0.0,
    restarts: int = 1,
    start: Float[Array | np.ndarray, "N H W C"] | None = None,
    on_step: Callable[[int], None] | None = None,
    pause: Pause = NEVER,
    piece: str = "images",
    mesh: Mesh | None = None,
) -> Inverted:
    """Find an image for every z, all of a batch at once; of each image the restart of least total is kept.

    Adam on the pixels themselves, clipped to [0, 1] after each step, its rate falling from ``lr`` to 0 as a cosine. A
    sigmoid in place of the clip never reaches 0 or 1, where many pixels of real images lie, and hardly moves near them:
    on eight digits behind a random 64x64 matrix, 500 steps, its pixels' mean squared error was 6e-4, the clip's 4e-11;
    behind a strided convolution and ReLU 0.026 and 0.007.
    The sum over images is minimised, and Adam scales each pixel by itself, so images do not influence each other.

    Args:
      send: ``send(variables, x)``, z of images ``(N, H, W, C)`` in [0, 1]; hashable, as it is static under jit. Each
        image's z must be its own: batch norms in evaluation mode, no noise.
      variables: the edge's.
      z: what was received, ``(N, …)``.
      x_shape: (H, W, C).
      key: of the starts, uniform noise in [0, 1].
      steps: of each restart.
      lr: first rate, in pixels (of range 1) a step.
      tv: τ, weight of the total variation; 0 is plain maximum likelihood.
      restarts: starts tried.
      start: images to begin the first restart from, in place of noise.
      on_step: called with the number of steps done, all restarts counted, every 50 of them.
      pause: asked after every step; what it keeps of this call goes by the name ``piece``.
      piece: see ``pause``.
      mesh: devices that the images are spread over; None: z stays where it lies.

    Returns:
      See :class:`Inverted`.

    Raises:
      UserError: no images; steps or restarts below 1; a ``tv`` below 0 or an ``lr`` not above 0; z that is not finite
        or not of the shape that ``send`` gives; a start of another shape; an objective that is not finite.

    Example:
      >>> x = jnp.array([0.2, 0.9]).reshape(2, 1, 1, 1)
      >>> found = invert(lambda scale, x: scale * x, 3.0, 3 * x, (1, 1, 1), key=jax.random.key(0), steps=200)
      >>> [round(float(pixel), 2) for pixel in found.x.ravel()]
      [0.2, 0.9]
    """
    z = jnp.asarray(z).astype(jnp.float32)
    count, shape = len(z), (len(z), *x_shape)
    _check(send, variables, z, shape, start, {"steps": steps, "lr": lr, "tv": tv, "restarts": restarts})
    scale, weight, rate, total_steps = _scale(z), np.float32(tv), np.float32(lr), np.float32(steps)
    places = _Places(mesh)
    (scale, variables), z = places.everywhere((scale, variables)), places.spread(z)
    begin = partial(_begin, shape=shape, start=start, key=key, steps=steps, places=places, variables=variables)
    way = _nothing_yet(begin(0), restarts, places)
    way = pause.recall(piece, way) or way
    with pause.watched():
        while (restart := int(way.restart)) < restarts:
            state = way.state
            # A Python loop, not lax.scan: on the CPU convolutions inside a scan are some hundred times slower.
            for step in range(int(state.count), steps):
                state = _step(state, variables, z, scale, weight, rate, total_steps, send=send, count=count)
                done = restart * steps + step + 1
                if on_step is not None and done % EVERY == 0:
                    on_step(done)
                if step % EVERY == 0:
                    jax.block_until_ready(state)
                if pause.due(state):
                    pause.save(piece, way._replace(state=state))
            found = (state.x, *_objective(state.x, variables, z, scale, weight, send=send))
            way = way.after(restart, state, found, begin(restart + 1))
        pause.save(piece, way)  # so that what follows can be gone on with alone
    best, histories = way.best, way.histories
    if not np.isfinite(parallel.fetch(best[2])).all():
        raise UserError(f"the inversion's objective is not finite; lower its learning rate (now {lr:g})")
    history = np.mean(parallel.fetch(histories), axis=0)  # (steps,)
    before, after = float(history[-(steps // 5) - 1]), float(history[-1])
    settled = steps >= 5 and before - after < max(FLAT * before, NOTHING)
    chunks = [np.mean(part) for part in np.array_split(history, min(steps, CHUNKS))]
    x, objective, total = places.first(best, count)
    return Inverted(x, objective, total, np.array(chunks, np.float32), settled)


class _Places(NamedTuple):
    """Where images lie, and what is one for all of them; as it is without a mesh."""

    mesh: Mesh | None

    def spread(self, tree: Any) -> Any:
        """Rows spread over the devices, the first filling them up."""
        return tree if self.mesh is None else parallel.spread(tree, self.mesh)

    def everywhere(self, tree: Any) -> Any:
        """On every device."""
        return tree if self.mesh is None else parallel.everywhere(tree, self.mesh)

    def first(self, tree: Any, count: int) -> Any:
        """Without what fills up."""
        return tree if self.mesh is None else parallel.first(tree, count, self.mesh)


def _begin(
    restart: int, *, shape: tuple[int, ...], start: Any, key: Array, steps: int, places: _Places, variables: Any
) -> _State:
    given = jnp.asarray(start, jnp.float32) if start is not None and restart == 0 else None
    # Drawn for the images that there are: what fills these up is the first one all the way.
    state = _begun(key, np.uint32(restart), given, shape, steps)
    if places.mesh is None or places.mesh.size == 1:
        return parallel.beside(state, variables)  # where it will be after a step, so that the step is compiled once
    return jax.tree.map(lambda leaf: (places.spread if leaf.shape == shape else places.everywhere)(leaf), state)


class _Way(NamedTuple):
    """How far an inversion is, as one pytree: what is saved where it is left."""

    state: _State
    best: tuple[Array, Array, Array]
    histories: Array
    restart: Array

    def after(self, restart: int, state: _State, found: tuple[Array, Array, Array], following: _State) -> "_Way":
        """With a restart ended; of every image the better of what it found and the best before it."""
        best = found if restart == 0 else _better(self.best, found)
        histories = self.histories.at[restart].set(state.history)
        return _Way(following, best, histories, jnp.int32(restart + 1))


def _nothing_yet(state: _State, restarts: int, places: _Places) -> _Way:
    """Before the first step of so many restarts."""
    none = jnp.full(len(state.x), jnp.nan, jnp.float32)
    histories = jnp.zeros((restarts, len(state.history)), jnp.float32)
    best = places.spread((jnp.zeros_like(state.x), none, none))
    return _Way(state, best, *places.everywhere((histories, jnp.int32(0))))


def _check(send, variables, z, shape, start, options) -> None:
    """Raise :class:`UserError` for what :func:`invert` cannot begin with."""
    if options["steps"] < 1 or options["restarts"] < 1:
        raise UserError(f"steps {options['steps']}, restarts {options['restarts']}: give at least 1 of both")
    if not 0 <= options["tv"] < math.inf:
        raise UserError(f"total-variation weight {options['tv']:g}: give 0 or more")
    if not 0 < options["lr"] < math.inf:
        raise UserError(f"learning rate {options['lr']:g}: give more than 0")
    if not len(z):
        raise UserError("there is no representation to invert")
    given = jax.eval_shape(send, variables, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
    if given != z.shape:
        raise UserError(
            f"z of shape {z.shape} was not sent by this edge, which sends {given} for {len(z)} images of {shape[1:]}"
        )
    if start is not None and start.shape != shape:
        raise UserError(f"start images of shape {start.shape}: give {shape}")
    if not np.isfinite(parallel.fetch(z)).all():
        raise UserError("z has values that are not finite: nothing can be fitted to them")


def total_variation(x: Float[Array, "N H W C"]) -> Float[Array, " N"]:
    """TV of each image, see the module: mean over pixels and channels of the squared differences to the next ones.

    >>> total_variation(jnp.array([[0.0, 1.0], [0.0, 1.0]]).reshape(1, 2, 2, 1)).tolist()
    [0.5]
    """
    down, right = jnp.diff(x, axis=1), jnp.diff(x, axis=2)
    return (jnp.sum(down**2, axis=(1, 2, 3)) + jnp.sum(right**2, axis=(1, 2, 3))) / math.prod(x.shape[1:])


@jax.jit
def _scale(z):
    flat = z.reshape(len(z), -1)
    power = jnp.mean(jnp.sum(flat**2, axis=1))
    spread = jnp.mean(jnp.sum((flat - jnp.mean(flat, axis=0)) ** 2, axis=1))
    # Rounding leaves a spread of about 1e-14 of the power where all z are the same.
    scale = jnp.where(spread > 1e-12 * power, spread, power)
    return jnp.where(scale > 0, scale, 1.0)


def _terms(x, variables, z, scale, tv, send):
    error = (send(variables, x).astype(jnp.float32) - z).reshape(len(z), -1)
    objective = jnp.sum(error**2, axis=1) / scale
    return objective, objective + tv * total_variation(x)


@partial(jax.jit, static_argnames=("shape", "steps"))
def _begun(key, restart, start, shape, steps):
    """A start from images, or from noise."""
    noise = jax.random.uniform(jax.random.fold_in(key, restart), shape) if start is None else start
    x = jnp.clip(noise, 0, 1)
    return _State(x, optax.scale_by_adam().init(x), jnp.zeros(steps, jnp.float32), jnp.int32(0))


_objective = partial(jax.jit, static_argnames="send")(_terms)


@partial(jax.jit, static_argnames=("send", "count"), donate_argnames="state")
def _step(state, variables, z, scale, tv, lr, steps, *, send, count):
    def loss_of(x):
        _, total = _terms(x, variables, z, scale, tv, send)
        return jnp.sum(total), total

    (loss, total), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.x)
    loss = loss if count == len(z) else jnp.sum(total[:count])  # without what fills the images up
    with jax.numpy_dtype_promotion("standard"):  # inside optax: float ** int32
        updates, adam = optax.scale_by_adam().update(gradient, state.adam)
    rate = lr * 0.5 * (1 + jnp.cos(jnp.pi * state.count.astype(jnp.float32) / steps))
    x = jnp.clip(state.x - rate * updates, 0, 1)
    return _State(x, adam, state.history.at[state.count].set(loss / count), state.count + 1)


@jax.jit
def _better(a, b):
    # NaN < anything is False: a restart that diverged loses to one that did not, in either place.
    take = (b[2] < a[2]) | jnp.isnan(a[2])
    return tuple(
        jnp.where(take.reshape(-1, *(1,) * (left.ndim - 1)), right, left) for left, right in zip(a, b, strict=True)
    )
