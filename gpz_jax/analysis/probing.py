"""Probe a network at every cut: radii, ρ, entropy bounds, and the zone by every rule, held against untrained copies."""

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpz_jax import parallel
from gpz_jax.analysis import bounds
from gpz_jax.analysis.labelled_batches import Batches, check_runs, reader
from gpz_jax.analysis.probe_result import Probe
from gpz_jax.analysis.radius import Moments, Summary, deviations, moments_of, summarise
from gpz_jax.analysis.views import View, view_of, viewed_shapes
from gpz_jax.analysis.zone import RULES, CutStatistics, Zone, bootstrap_rho, locate
from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.seeds import check_key, seed_of
from gpz_jax.taps import TappedNetwork, valid_cuts
from gpz_jax.taps.batch_axis import batch_size, with_batch

Read = Callable[[], Iterator[tuple[Any, Any, Any]]]


def probe_network(
    network: TappedNetwork,
    variables: Any,
    batches: Batches,
    num_classes: int,
    *,
    nulls: Iterable[Any] = (),
    key: Array,
    rules: Iterable[str] | None = None,
    bootstrap: int = 1000,
    unbiased: bool = False,
    quantiser: str = "uint8",
    view: str | Callable[[Array, Any], Array] = "tokens",
    token_mask: str | None = None,
    public: str | Iterable[str] = (),
) -> Probe:
    """Measure every cut of a network, hold it against untrained copies, and locate the Golden Partition Zone.

    Two passes over the images for the network and for each copy; memory is K x D a cut, never N x D.

    Args:
      network: the tapped network (:func:`gpz_jax.tap`, :func:`gpz_jax.tap_nnx`).
      variables: its trained variables.
      batches: ``(x, labels)`` or ``(x, labels, mask)`` batches, in a list or from a function without arguments that
        begins anew at every call: x as the network takes it, an array or a pytree of arrays, labels ``(N,)`` int, mask
        ``(N,)`` bool with False for padding. Where the logits are ``(N, T, K)`` labels are ``(N, T)``, a class a token.
        Batches of one shape compile once.
      num_classes: K.
      nulls: variables of untrained copies (:func:`gpz_jax.null_variables`), two or more for rule "null", better five;
        read once, one after the other.
      key: of the bootstrap, which draws with NumPy from the seed that the key was made of.
      rules: names of ``gpz_jax.analysis.zone.RULES``; by default all that can be applied.
      bootstrap: resamples of the images behind each 95 % interval.
      unbiased: divide by N_c - 1 instead of N_c.
      quantiser: how z is sent, for the information ceiling: "uint8", "bfloat16" or "float32".
      view: what is measured of tokens ``(N, T, C)``: all "tokens", their "mean", the "first", or a function of an
        activation and the network's input, ``(z, x) -> (N, …)``. Bounds and ceiling are those of what is measured.
      token_mask: name of the input's array ``(N, T)`` that is 0 where a token is padding.
      public: names of those arrays of the input that the cloud may know (:func:`gpz_jax.valid_cuts`).

    Returns:
      A :class:`Probe`.

    Raises:
      UserError: batches that can be read only once, that hold no images, or whose shapes, labels or masks do not fit;
        a null whose variables are not those of the network; an unknown rule, or one that cannot be applied; fewer than
        one resample; an unknown quantiser or view; a token mask that does not fit.

    Example:
      >>> import flax.linen as nn
      >>> import gpz_jax
      >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
      >>> labels = np.arange(40) % 2
      >>> x = np.random.default_rng(0).normal(size=(40, 3)) + 3 * labels[:, None]
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> variables, *nulls = [gpz_jax.null_variables(model, key, [x]) for key in keys]
      >>> network = gpz_jax.tap(model, variables, x)
      >>> probe = gpz_jax.probe_network(network, variables, [(x, labels)], 2, nulls=nulls, key=jax.random.key(0))
      >>> probe.cuts, probe.radius.shape, probe.rho_null.shape
      (('layers_0', 'layers_2', 'logits'), (3, 2), (2, 3))
      >>> probe.zones["null"].cuts  # this network is untrained itself
      ()
    """
    check_key(key)
    how, seen = bounds.quantiser(quantiser), view_of(view, token_mask)
    if bootstrap < 1:
        raise UserError(f"bootstrap must be at least 1, got {bootstrap}", field="bootstrap")
    rules = None if rules is None else tuple(rules)
    rules_to_apply(rules, len(nulls) if isinstance(nulls, Sized) else 2)  # refuse before anything is measured
    read = reader(batches, network, variables, num_classes, seen.token_mask)
    trained = _measure(network, variables, read, num_classes, unbiased, seen)
    untrained = [
        _measure(network, _checked(null, variables, number), read, num_classes, unbiased, seen)._replace(
            moments={}
        )  # K x D a cut is held of one network at a time
        for number, null in enumerate(nulls)
    ]
    applied = rules_to_apply(rules, len(untrained))
    seed = seed_of(key)
    example = _example(read)
    measured = viewed_shapes(network, variables, example, seen)
    if check_runs(network, variables, example) is not None:  # a class a token: what is measured is one of them
        measured = {cut: shape[1:] for cut, shape in measured.items()}
    return Probe(
        cuts=network.cuts,
        shapes=tuple(measured.values()),
        valid=np.array(list(valid_cuts(network, variables, example, public=public).values())),
        count=trained.count,
        **{name: getattr(trained, name) for name in Summary._fields},
        within_null=_of_nulls(untrained, "within", len(network.cuts)),
        rho_null=_of_nulls(untrained, "rho", len(network.cuts)),
        zones=_zones(network.cuts, trained, untrained, applied, bootstrap=bootstrap, seed=seed),
        **_bounds(trained, measured, how),
        quantiser=quantiser,
        settings={
            "images": int(trained.count.sum()), "unbiased": bool(unbiased), "bootstrap": bootstrap, "seed": seed,
            "view": seen.name, "token_mask": token_mask or "",
        },
    )  # fmt: skip


def rules_to_apply(asked: Iterable[str] | None, nulls: int) -> tuple[str, ...]:
    """The rules asked for, or (None) all that can be applied with so many untrained copies.

    Raises:
      UserError: one that is unknown or cannot be applied.

    Example:
      >>> rules_to_apply(None, 5), rules_to_apply(None, 1)
      (('paper', 'null'), ('paper',))
    """
    if asked is None:
        return tuple(name for name in RULES if name != "null" or nulls >= 2)
    for name in (asked := tuple(asked)):
        if name not in RULES:
            raise UserError(f"unknown rule {name!r}{did_you_mean(name, RULES)}")
    if "null" in asked and nulls < 2:
        raise UserError(
            f"rule 'null' needs two untrained copies or more, got {nulls}: give nulls=[null_variables(…), …]"
        )
    return asked


class _Measured(NamedTuple):
    """One network at L cuts: what ``radius.summarise`` and ``radius.deviations`` give, on the host."""

    moments: dict[str, Moments]
    count: np.ndarray  # pyright: ignore[reportIncompatibleMethodOverride]
    radius: np.ndarray
    within: np.ndarray
    between: np.ndarray
    rho: np.ndarray
    within_sums: np.ndarray
    total_sums: np.ndarray


def _measure(
    network: TappedNetwork, variables: Any, read: Read, num_classes: int, unbiased: bool, view: View
) -> _Measured:
    moments = moments_of(network, variables, read(), num_classes, view)
    sums = deviations(network, variables, read(), moments, unbiased=unbiased, view=view)
    found = parallel.fetch(summarise(moments, unbiased=unbiased))
    radius, within, between, rho = (
        np.array([getattr(found[cut], name) for cut in network.cuts], np.float64) for name in Summary._fields
    )
    count = parallel.fetch(moments[network.cuts[0]].count)
    return _Measured(moments, count, radius, within, between, rho, *sums)


def _checked(null: Any, variables: Any, number: int) -> Any:
    """Variables of an untrained copy. Raises :class:`UserError` if they are of another network."""
    ours, theirs = ({jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
                    for tree in (variables, null))  # fmt: skip
    for path, shape in ours.items():
        if theirs.get(path) != shape:
            raise UserError(
                f"null {number} is not a copy of the network: its {path} is {theirs.get(path, 'missing')}, not {shape}"
            )
    return null


def _example(read: Read) -> Any:
    """Shapes of two inputs."""
    x, *_ = next(read())
    return with_batch(x, batch_size(x), 2)


def _of_nulls(untrained: list[_Measured], name: str, cuts: int) -> np.ndarray:
    return np.array([getattr(one, name) for one in untrained]).reshape(len(untrained), cuts)


def _zones(
    cuts: tuple[str, ...],
    trained: _Measured,
    untrained: list[_Measured],
    rules: tuple[str, ...],
    *,
    bootstrap: int,
    seed: int,
) -> dict[str, Zone]:
    stats = CutStatistics(cuts, trained.within, trained.rho)
    if "null" in rules:
        everyone = [trained, *untrained]  # on the same resampled images
        within, total = np.stack([m.within_sums for m in everyone]), np.stack([m.total_sums for m in everyone])
        samples = bootstrap_rho(within, total, replicates=bootstrap, seed=seed)
        stats = stats._replace(
            rho_null=_of_nulls(untrained, "rho", len(cuts)),
            rho_samples=samples[:, 0],
            rho_null_samples=samples[:, 1:],
        )
    return {rule: locate(rule, stats) for rule in rules}


def _bounds(trained: _Measured, shapes: dict[str, tuple[int, ...]], how: bounds.Quantiser) -> dict[str, np.ndarray]:
    """The three bounds of :mod:`gpz_jax.analysis.bounds` at every cut."""
    found, mean_squares = [], jax.device_get(_mean_squares(trained.moments))
    for i, (cut, shape) in enumerate(shapes.items()):
        dimension, scatter = int(np.prod(shape)), trained.within[i] + trained.between[i]
        mean_square = float(mean_squares[cut])
        variance = scatter / dimension
        step = how.step(np.sqrt(variance), np.sqrt(variance + mean_square))
        radii, count = trained.radius[i], trained.count
        ceiling = bounds.information_ceiling(scatter, radii, count, dimension, step=step, levels=how.levels).ceiling
        found.append(
            (bounds.feature_bound(scatter, dimension), bounds.decision_bound(radii, count, dimension), ceiling)
        )
    names = ("feature_bound", "decision_bound", "information_ceiling")
    return dict(zip(names, np.array(found, np.float64).T, strict=True))


@jax.jit
def _mean_squares(moments: dict[str, Moments]) -> dict[str, Array]:
    """Mean over coordinates of the grand mean's square, at every cut."""
    return {cut: jnp.mean(jnp.square(_grand_mean(m))) for cut, m in moments.items()}


def _grand_mean(moments: Moments) -> Array:
    weight = moments.count.astype(jnp.float32) / jnp.sum(moments.count).astype(jnp.float32)
    return jnp.sum(weight[:, None] * moments.mean, axis=0)
