"""Within-class radius R_c², streamed: per-class count, mean and scatter of every cut, all cuts in one pass.

Notation: z_i in R^D is the flattened representation of image i at one cut, c = y_i its class, N_c the images of class
c, μ_c their mean, μ the grand mean.

  R_c² = (1/N_c) Σ_{i: y_i = c} ||z_i - μ_c||²           within-class radius (the paper's probe)
  W    = Σ_c (N_c/N) R_c²                                within-class scatter
  B    = Σ_c (N_c/N) ||μ_c - μ||²                        between-class scatter
  ρ    = W / (W + B)                                     within-class fraction, in [0, 1], free of scale and dimension

Memory is K x D a cut, never N x D. Sums are float32 whatever the network runs in; what it gives is read as it is, once.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Int, Num

from gpz_jax import parallel
from gpz_jax.analysis import wide_moments
from gpz_jax.analysis.class_sums import FEW, of_class
from gpz_jax.analysis.labelled_batches import Batch, checked, counted
from gpz_jax.analysis.shifted_sums import by_gather, by_matmul, real_numbers
from gpz_jax.analysis.views import View, view_of
from gpz_jax.errors import UserError
from gpz_jax.taps import TappedNetwork, check_real
from gpz_jax.taps.batch_axis import shapes


class Moments(NamedTuple):
    """Per-class moments of one cut; a monoid under :func:`merge`, with :func:`empty` as its unit.

    The mean is kept as origin + offset: means near 1e3 that move by 1e-4 a batch would lose the moves to rounding
    (one float32 step at 1e3 is 6e-5), and the radius with them.

    Attributes:
      count: images of each class, ``(K,)`` int32.
      origin: an image of each class, the first one met, ``(K, D)`` float32; zero for a class without images.
      offset: μ_c - origin, ``(K, D)`` float32.
      scatter: Σ_{i in c} ||z_i - μ_c||², ``(K,)`` float32.
    """

    count: Int[Array, " K"]  # pyright: ignore[reportIncompatibleMethodOverride]
    origin: Float[Array, "K D"]
    offset: Float[Array, "K D"]
    scatter: Float[Array, " K"]

    @property
    def mean(self) -> Float[Array, "K D"]:
        """Class means μ_c, ``(K, D)``."""
        return self.origin + self.offset


def empty(num_classes: int, dimension: int, mesh: Mesh | None = None) -> Moments:
    """The moments of no images at all; over a mesh they are dealt to its devices along D."""
    of_all, of_each = None, None
    if mesh is not None:
        of_all, of_each = wide_moments.place(dimension, mesh), NamedSharding(mesh, PartitionSpec())
    # Two arrays, not one twice: a donated buffer must not have two owners.
    origin, offset = (jnp.zeros((num_classes, dimension), jnp.float32, device=of_all) for _ in range(2))
    count, scatter = (jnp.zeros(num_classes, kind, device=of_each) for kind in (jnp.int32, jnp.float32))
    return Moments(count, origin, offset, scatter)


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of two disjoint sets of images together (Chan, Golub and LeVeque 1983). Associative and order-free.

      δ = μ_b - μ_a,   S = S_a + S_b + ||δ||² n_a n_b / (n_a + n_b),   μ = μ_a + δ n_b / (n_a + n_b)

    Example:
      >>> one = update(empty(2, 1), jnp.array([[0.0], [2.0]]), jnp.array([0, 0]))
      >>> two = update(empty(2, 1), jnp.array([[4.0]]), jnp.array([0]))
      >>> both = merge(one, two)
      >>> both.mean[0].tolist(), both.scatter.tolist()
      ([2.0], [8.0, 0.0])
    """
    new = (a.count == 0)[:, None]
    start = a._replace(origin=jnp.where(new, b.origin, a.origin))
    return _merge_at(start, b.count, (b.origin - start.origin) + b.offset, b.scatter)


def _merge_at(a: Moments, count: Array, offset: Array, scatter: Array) -> Moments:
    """Merge a set whose means are given relative to ``a``'s origin."""
    total = a.count + count
    delta = offset - a.offset
    fraction = count.astype(jnp.float32) / jnp.maximum(total, 1).astype(jnp.float32)
    between = jnp.sum(delta * delta, axis=1) * a.count.astype(jnp.float32) * fraction
    return Moments(total, a.origin, a.offset + delta * fraction[:, None], a.scatter + scatter + between)


def update(
    moments: Moments,
    z: Num[Array, "N ..."],
    labels: Int[Array, " N"],
    mask: Bool[Array, " N"] | None = None,
) -> Moments:
    """Add a batch. Safe in float32: everything is summed relative to the running mean of its class.

    E||z||² - ||μ||² in float32 is useless when the means are large. Here z is first shifted by its class's running
    mean (by the class's first image where there is none yet), so that no two large numbers are ever subtracted. The
    mean is rounded to z's dtype for that, and what rounding took is added to the sums again.

    Args:
      moments: what has been seen so far.
      z: representations, ``(N, …)``; flattened here.
      labels: class of each image, ``(N,)``.
      mask: False for padding, ``(N,)``; those rows do not count.

    Returns:
      The moments of what has been seen so far and the batch together.
    """
    given, multiplied = (moments, z, labels, mask), partial(_update, about=by_matmul)
    if moments.count.shape[0] <= FEW:
        return multiplied(*given)
    return jax.lax.platform_dependent(*given, cpu=partial(_update, about=by_gather), default=multiplied)


def _update(moments: Moments, z: Array, labels: Array, mask: Array | None, *, about: Callable[..., Any]) -> Moments:
    num_classes = moments.count.shape[0]
    z = real_numbers(z)
    member = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)  # (N, K)
    if mask is not None:
        member = member * mask[:, None].astype(jnp.float32)
    count = jnp.sum(member, axis=0)
    first = z[jnp.argmax(member, axis=0)].astype(jnp.float32)  # (K, D): some image of each class that the batch has
    new = ((moments.count == 0) & (count > 0))[:, None]
    start = moments._replace(origin=jnp.where(new, first, moments.origin))
    kind = jnp.finfo(z.dtype)
    # Not a cast alone: XLA may leave out one that is cast back, and the two uses of the pivot would differ.
    pivot = jax.lax.reduce_precision(start.origin + start.offset, kind.nexp, kind.nmant)
    sums, squares = about(z, pivot, labels, member)
    shift = sums / jnp.maximum(count, 1)[:, None]  # (K, D): the batch's means, seen from the pivots
    squares = jnp.matmul(member.T, squares, precision=jax.lax.Precision.HIGHEST)
    around = squares - count * jnp.sum(shift**2, axis=1)
    offset = shift - (start.origin - pivot)
    return _merge_at(start, count.astype(jnp.int32), offset, jnp.maximum(around, 0))


def radius(moments: Moments, *, unbiased: bool = False) -> Float[Array, " K"]:
    """R_c² of every class, ``(K,)``, in squared units of z.

    The plug-in estimate (the paper's) has expectation (N_c - 1)/N_c of the truth; ``unbiased`` divides by N_c - 1. A
    class with 0 or 1 images has no radius: NaN.

    Example:
      >>> m = update(empty(2, 1), jnp.array([[0.0], [2.0], [5.0]]), jnp.array([0, 0, 1]))
      >>> radius(m).tolist(), radius(m, unbiased=True).tolist()
      ([1.0, nan], [2.0, nan])
    """
    count = moments.count.astype(jnp.float32)
    value = moments.scatter / jnp.maximum(count - (1 if unbiased else 0), 1)
    return jnp.where(moments.count > 1, value, jnp.nan)


class Scatter(NamedTuple):
    """Within- and between-class scatter of one cut and the within-class fraction; float32 scalars."""

    within: Float[Array, ""]
    between: Float[Array, ""]
    rho: Float[Array, ""]


def scatter(moments: Moments, *, unbiased: bool = False) -> Scatter:
    """W, B and ρ = W/(W + B), every image weighing the same.

    ``unbiased`` uses the unbiased R_c² and takes from B what the noise of the class means adds to it,
    Σ_c (N_c/N)(1 - N_c/N) R_c²/N_c, but never more than there is. Classes without images do not count; ρ is NaN if no
    class has two images or if nothing varies.
    """
    count = moments.count.astype(jnp.float32)
    weight = count / jnp.maximum(jnp.sum(count), 1)
    # A class of one image has no radius; it adds nothing to W, as its scatter says.
    r = jnp.where(moments.count > 1, radius(moments, unbiased=unbiased), 0.0)
    within = jnp.sum(weight * r)
    # Class means as seen from the first class met: small numbers, where the means themselves may be large.
    means = (moments.origin - moments.origin[jnp.argmax(moments.count > 0)]) + moments.offset
    grand = jnp.sum(weight[:, None] * means, axis=0)
    between = jnp.sum(weight * jnp.sum((means - grand) ** 2, axis=1))
    if unbiased:
        noise = jnp.sum(weight * (1 - weight) * r / jnp.maximum(count, 1))
        between = jnp.maximum(between - noise, 0.0)
    total = within + between
    rho = jnp.where((total > 0) & jnp.any(moments.count > 1), within / jnp.maximum(total, 1e-38), jnp.nan)
    return Scatter(within, between, rho)


class Summary(NamedTuple):
    """What one cut's moments come to: R_c² of every class ``(K,)``, and W, B, ρ."""

    radius: Float[Array, " K"]
    within: Float[Array, ""]
    between: Float[Array, ""]
    rho: Float[Array, ""]


def summarise(moments: dict[str, Moments], *, unbiased: bool = False) -> dict[str, Summary]:
    """:func:`radius` and :func:`scatter` of every cut, compiled together (keys come back sorted, as from any jit)."""
    return _summarise(moments, unbiased)  # by place: jit compiles anew for an argument that is named, or left out


@partial(jax.jit, static_argnames="unbiased")
def _summarise(moments, unbiased):
    return {cut: Summary(radius(m, unbiased=unbiased), *scatter(m, unbiased=unbiased)) for cut, m in moments.items()}


def _rows(view: View, cut: str, z: Array, x: Any, labels: Array) -> Float[Array, "R D"]:
    """What is measured of a batch at one cut: a row an image, or a row a token where labels are ``(N, T)``."""
    z = view.of(cut, z, x)
    return real_numbers(z if labels.ndim == 1 else z.reshape(labels.size, *z.shape[2:]))


def _each(mask: Array, labels: Array) -> Array:
    """A mask of images as one of rows."""
    return jnp.broadcast_to(mask if mask.ndim == labels.ndim else mask[:, None], labels.shape).reshape(-1)


@partial(jax.jit, static_argnames=("network", "view", "dealt"), donate_argnames="moments")
def _add_batch(network, variables, moments, x, labels, mask, view, dealt=None):
    _, taps = network(variables, x)
    rows = {cut: wide_moments.turned(_rows(view, cut, taps[cut], x, labels), dealt) for cut in network.cuts}
    labels, mask = labels.reshape(-1), _each(mask, labels)
    found = {cut: update(moments[cut], rows[cut], labels, mask) for cut in network.cuts}
    return jax.tree.map(lambda leaf: wide_moments.stay(leaf, dealt) if leaf.ndim == 2 else leaf, found)


def measure(
    network: TappedNetwork,
    variables: Any,
    batches: Iterable[Batch],
    num_classes: int,
    *,
    view: str | Callable[[Array, Any], Array] | View = "tokens",
    token_mask: str | None = None,
) -> dict[str, Moments]:
    """The moments of every cut, in one pass over the images.

    Args:
      network: the tapped network.
      variables: its variables.
      batches: ``(x, labels)`` or ``(x, labels, mask)``, of one shape: x ``(N, …)`` or a pytree of such arrays, labels
        ``(N,)`` int (true ones, or what ``gpz_jax.analysis.labels`` made), mask ``(N,)`` bool, False for padding
        (``data.batches.padded_batches``). Where the logits are ``(N, T, K)`` labels are ``(N, T)``, and every token
        counts as an image does.
      num_classes: K.
      view: what is measured of tokens ``(N, T, C)``: all "tokens", their "mean", the "first", or a function of an
        activation and the network's input, ``(z, x) -> (N, …)``.
      token_mask: name of the input's array ``(N, T)`` that is 0 where a token is padding.

    Returns:
      cut name -> :class:`Moments`, in the order of the cuts.

    Raises:
      UserError: no batches; batches, labels or masks that do not fit; a cut of integers or booleans; an unknown view.

    Example:
      >>> import flax.linen as nn
      >>> from gpz_jax.taps import tap
      >>> model, x = nn.Dense(3), jnp.arange(8.0).reshape(4, 2)
      >>> variables = model.init(jax.random.key(0), x)
      >>> found = measure(tap(model, variables, x), variables, [(x, np.array([0, 0, 1, 1]))], 2)
      >>> found["logits"].count.tolist()
      [2, 2]
    """
    seen = view_of(view, token_mask)
    rows = checked(batches, network, variables, num_classes, seen.token_mask)
    return moments_of(network, variables, rows, num_classes, seen)


def moments_of(
    network: TappedNetwork, variables: Any, batches: Iterable[tuple[Any, Any, Any]], num_classes: int, view: View
) -> dict[str, Moments]:
    """:func:`measure` of batches that ``labelled_batches.checked`` gave."""
    moments, dealt = None, None
    for x, labels, mask in batches:
        if moments is None:
            widths = _widths(network, variables, x, labels, view)
            mesh, variables = parallel.mesh_of(x), parallel.beside(variables, x)
            dealt = mesh if wide_moments.are_dealt(num_classes, sum(widths.values()), mesh) else None
            moments = None if dealt else parallel.beside(_empties(num_classes, tuple(widths.items())), x)
            moments = moments or {cut: empty(num_classes, width, dealt) for cut, width in widths.items()}
        moments = _add_batch(network, variables, moments, x, labels, mask, view, dealt)
    if moments is None:
        raise UserError("there are no images to probe")
    return {cut: moments[cut] for cut in network.cuts}


def _widths(network: TappedNetwork, variables: Any, x: Any, labels: Any, view: View) -> dict[str, int]:
    """D of what is measured at every cut."""
    check_real(jax.eval_shape(network, variables, shapes(x))[1], complex_too=True)
    if jnp.ndim(labels) > 1 and view.how != "tokens":
        raise UserError(f"labels {jnp.shape(labels)} name a class a token, and view {view.name!r} has no tokens left")

    def rows(variables, x, labels):
        return {cut: _rows(view, cut, z, x, labels) for cut, z in network(variables, x)[1].items()}

    found = jax.eval_shape(rows, variables, shapes(x), shapes(labels))
    return {cut: found[cut].shape[1] for cut in network.cuts}


@partial(jax.jit, static_argnums=(0, 1))
def _empties(num_classes: int, dimensions: tuple[tuple[str, int], ...]) -> dict[str, Moments]:
    return {cut: empty(num_classes, dimension) for cut, dimension in dimensions}


#: Images are resampled one by one up to this many; beyond it, in this many random groups.
GROUPS = 2048


@partial(jax.jit, static_argnames=("network", "view", "dealt"), donate_argnames="sums")
def _add_deviations(network, variables, sums, means, x, labels, mask, group, view, dealt=None):
    _, taps = network(variables, x)
    groups = sums[0].shape[1]
    rows = {cut: wide_moments.turned(_rows(view, cut, taps[cut], x, labels), dealt) for cut in network.cuts}
    # A sequence is resampled with all its tokens: they are not independent of one another.
    group, mask, labels = _each(group, labels), _each(mask, labels), labels.reshape(-1)

    def in_groups(cut, centre, factor):
        squares = jnp.sum((rows[cut].astype(jnp.float32) - centre) ** 2, axis=1) * factor
        return jax.ops.segment_sum(jnp.where(mask, squares, 0.0), group, num_segments=groups)

    classes, total_factor = means["class_factor"], means["total_factor"]
    within = [in_groups(cut, of_class(means["class"][cut], labels), classes[labels]) for cut in network.cuts]
    total = jnp.stack([in_groups(cut, means["grand"][cut], total_factor) for cut in network.cuts])
    return sums[0] + jnp.stack(within), sums[1] + total


@partial(jax.jit, static_argnames="unbiased")
def _centres(moments: dict[str, Moments], images: Array, total_factor: Array, unbiased: bool) -> dict[str, Any]:
    """Class means and grand means of every cut, and what squares around them are multiplied by."""
    count = next(iter(moments.values())).count.astype(jnp.float32)
    weight = (count / images)[:, None]
    return {
        "class": {cut: m.mean for cut, m in moments.items()},
        "grand": {cut: jnp.sum(weight * m.mean, axis=0) for cut, m in moments.items()},
        "class_factor": count / jnp.maximum(count - 1, 1) if unbiased else jnp.ones_like(count),
        "total_factor": total_factor,
    }


def deviations(
    network: TappedNetwork,
    variables: Any,
    batches: Iterable[Batch],
    moments: Mapping[str, Moments],
    *,
    unbiased: bool = False,
    view: str | Callable[[Array, Any], Array] | View = "tokens",
    token_mask: str | None = None,
) -> tuple[Float[np.ndarray, "L G"], Float[np.ndarray, "L G"]]:
    """Second pass, for intervals: r_i = ||z_i - μ_{y_i}||² and t_i = ||z_i - μ||² at every cut, in G groups of images.

    ρ = Σ r_i / Σ t_i, so a bootstrap over images (``zone.bootstrap_rho``) needs these two numbers and no
    representations. Up to 2,048 images every image is a group of its own. More images are dealt at random into 2,048
    groups, which are then resampled in their place: the interval's width is the same in expectation (its own relative
    error is about 1/sqrt(2 · 2048) = 2 %), and nothing that is kept grows with the data.

    A pass of its own, for the means must be known first. Seen from an estimate m of the mean μ, an image's
    ||z - μ||² = ||z - m||² - 2 (z - m)·(μ - m) + ||μ - m||² has a product with μ - m, which nobody knows before the
    last image: one pass would have to keep z itself, N x D. The product averages to nothing over a class but not in one
    image, and intervals are made of single images.

    Args:
      network: the tapped network.
      variables: its variables.
      batches: the same batches that ``moments`` came from.
      moments: what :func:`measure` returned.
      unbiased: scale r_i by N_c/(N_c - 1) and t_i by N/(N - 1), as befits the unbiased ρ.
      view: that of ``moments``.
      token_mask: likewise.

    Returns:
      Sums of r and of t in every group, ``(L, G)`` float32 on the host; L cuts in the network's order.
    """
    view = view_of(view, token_mask)
    images = int(np.sum(parallel.fetch(next(iter(moments.values())).count)))
    groups, factor = min(images, GROUPS), np.float32(images / max(images - 1, 1) if unbiased else 1)
    means = _centres(dict(moments), np.float32(images), factor, unbiased)
    rng, nothing = np.random.default_rng(0), np.zeros((len(network.cuts), groups), np.float32)
    sums, seen, dealt = (nothing, nothing.copy()), 0, None
    for x, labels, mask in (counted(batch, view.token_mask) for batch in batches):
        real = np.asarray(parallel.fetch(mask))
        real = np.any(real.reshape(real.shape[0], -1), axis=1)
        position = seen + np.cumsum(real) - 1
        group = position if images <= GROUPS else rng.integers(groups, size=real.shape[0])
        group = np.clip(group, 0, groups - 1).astype(np.int32)
        if not seen:
            sums, variables = parallel.beside((sums, variables), x)
            split = any(not getattr(mean, "is_fully_replicated", True) for mean in means["class"].values())
            dealt = parallel.mesh_of(x) if split else None
            means = means if dealt else parallel.beside(means, x)
        sums = _add_deviations(network, variables, sums, means, x, labels, mask, group, view, dealt)
        seen += int(real.sum())
    used = min(seen, groups)  # fewer than tokens, where these have the labels
    within, total = (found[:, :used] for found in parallel.fetch(sums))
    return within, total
