"""Locate the Golden Partition Zone: rules from statistics of each cut to a set of cuts, with their evidence.

Host side: NumPy arrays over an ordered tuple of cuts. ρ = W/(W + B) is the within-class fraction of the scatter.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from gpz_jax.errors import UserError, did_you_mean

_CHUNK = 64  # bootstrap replicates held at a time: 64 x N weights


class CutStatistics(NamedTuple):
    """What the rules look at, for L cuts ordered from input to output.

    The nulls are S untrained, calibrated copies of the same architecture. The bootstrap replicates are
    paired: in replicate b the network and every copy saw the same resampled images (see
    :func:`bootstrap_rho`).

    Attributes:
      cuts: the L names.
      within: (L,) W, the count-weighted mean of R_c² at each cut.
      rho: (L,) W/(W + B).
      rho_null: (S, L) the same for the untrained copies, or None.
      rho_samples: (B, L) bootstrap replicates of rho, or None.
      rho_null_samples: (B, S, L) bootstrap replicates of rho_null, or None.
    """

    cuts: tuple[str, ...]
    within: np.ndarray
    rho: np.ndarray
    rho_null: np.ndarray | None = None
    rho_samples: np.ndarray | None = None
    rho_null_samples: np.ndarray | None = None


class Zone(NamedTuple):
    """What a rule says.

    Attributes:
      rule: its name.
      cuts: the zone in depth order; empty means "no zone".
      onset: where it begins by the rule's own measure, or None.
      evidence: (L,) what the rule looked at per cut.
      low: (L,) lower end of the 95 % bootstrap interval of the evidence, NaN where there is none.
      high: (L,) upper end.
      reason: one sentence with the numbers that decided.
    """

    rule: str
    cuts: tuple[str, ...]
    onset: str | None
    evidence: np.ndarray
    low: np.ndarray
    high: np.ndarray
    reason: str


def paper_rule(stats: CutStatistics, *, threshold: float = 0.2) -> Zone:
    """Apply the released rule, on raw R_c²: the largest relative drops d_j = (R_{j-1} - R_j)/R_{j-1}.

    Of the two largest drops (ties: the earlier), only the larger is returned if every |d| strictly between
    them is below ``threshold``, else both. R_{j-1} = 0 counts as d_j = 0. The onset is the cut of the largest
    drop, even where the second one lies before it.

    It has no notion of "no zone": it always names a cut, on untrained networks too, and where every change is
    a rise it names the smallest. Raw R_c² also falls with the dimension and with any layer that rescales.

    As a choice of cut it costs something: its onset leaked 1.21 times what the best cut but the logits does (31 of 36
    small networks have one before the logits; ``experiments/predictors.py``). For that there is
    :func:`~gpz_jax.analysis.budget.deepest_within`.

    Args:
      stats: needs ``cuts`` and ``within`` only, two cuts or more.
      threshold: fraction of R_c².

    Returns:
      A :class:`Zone` with evidence d (d_0 = NaN) and no interval. Source: the paper's released code.

    Raises:
      UserError: fewer than two cuts, or a radius that is not a finite number.

    Example:
      >>> within = np.array([10.0, 9.0, 1.0, 0.9])
      >>> paper_rule(CutStatistics(("a", "b", "c", "d"), within, np.ones(4))).cuts
      ('c',)
    """
    cuts = stats.cuts
    if len(cuts) < 2:
        raise UserError(f"the paper rule compares neighbouring cuts but got {len(cuts)}: give at least 2")
    within = _per_cut("within", stats.within, cuts)
    _refuse(~np.isfinite(within), "within", within, cuts, "a finite number")

    drop = np.full(len(cuts), np.nan)
    drop[1:] = np.divide(within[:-1] - within[1:], within[:-1], out=np.zeros(len(cuts) - 1), where=within[:-1] != 0)
    order = 1 + np.argsort(-drop[1:], kind="stable")  # stable: ties go to the earlier cut
    first = int(order[0])
    chosen = [first]
    reason = f"R_c² drops most, by {drop[first]:.1%}, at {cuts[first]!r}"
    if len(order) > 1:
        second = int(order[1])
        between = np.abs(drop[min(first, second) + 1 : max(first, second)])
        reason += f" and second most, by {drop[second]:.1%}, at {cuts[second]!r}"
        if np.all(between < threshold):
            reason += f"; no change of {threshold:.0%} or more lies between, so only the first counts"
        else:
            chosen.append(second)
            reason += f"; a change of {between.max():.1%} lies between (threshold {threshold:.0%}), so both count"
    low, high = np.full((2, len(cuts)), np.nan)
    return Zone("paper", tuple(cuts[j] for j in sorted(chosen)), cuts[first], drop, low, high, reason)


def null_rule(stats: CutStatistics, *, confidence: float = 0.999) -> Zone:
    """Where classes contract more than in untrained copies: e_j = mean_s ln ρ_null[s, j] - ln ρ_j, in nats.

    Onset: the cut with the largest increase e_j - e_{j-1} (e before the first cut is 0; ties: the earlier).
    Zone: the onset, always, and the unbroken run of cuts that begins with the first one, at or after the
    onset, where e is at least half its maximum, and ends before the first deeper one where it is less.

    "No zone": where the lower end of the 95 % bootstrap interval of max_j e_j does not exceed what one more
    untrained network might score. Each copy s is held against the others,
    e_{s,j} = mean_{s'≠s} ln ρ_null[s', j] - ln ρ_null[s, j], M_s = max_j e_{s,j}, and the limit is

        mean(M) + t_{S-1, confidence} · sd(M) · sqrt(1 + 1/S),

    the upper prediction limit. The largest M_s would not do: a new untrained network is exchangeable with the
    copies, so it beats the largest of S with probability 1/(S + 1), one time in four at S = 3. The price is
    that few copies prove little: t is 318 at S = 2, 22.3 at S = 3 and 7.2 at S = 5. Of 80 untrained width-16
    CNNs on the digits' test images, drawn six at a time, one passed the limit of five others in 0.4 % of 4,000
    draws (1.7 % at confidence 0.99), before the bootstrap's lower end is asked for as well
    (``experiments/benchmarks/false_alarms.py``).

    As a choice of cut it costs something: its onset leaked 1.35 times what the best cut but the logits does (26 of 36
    small networks have one before the logits; ``experiments/predictors.py``). For that there is
    :func:`~gpz_jax.analysis.budget.deepest_within`.

    Args:
      stats: needs ``rho``, ``rho_null`` with S ≥ 2 and, for the intervals, both sets of replicates. Without
        them the point estimate of max_j e_j decides, and ``reason`` says so.
      confidence: of the prediction limit, in (0, 1).

    Returns:
      A :class:`Zone` with evidence e and its 95 % percentile intervals.

    Raises:
      UserError: fewer than two untrained copies, a ρ that is not finite and positive, shapes that do not fit.

    Example:
      >>> stats = CutStatistics(("a", "b", "c"), np.ones(3), np.array([0.95, 0.4, 0.3]),
      ...                         np.array([[0.95, 0.96, 0.95], [0.96, 0.95, 0.96], [0.95, 0.95, 0.95]]))
      >>> zone = null_rule(stats)
      >>> zone.cuts, zone.onset
      (('b', 'c'), 'b')
    """
    from scipy.special import stdtrit  # and not scipy.stats, which takes a second to import

    cuts = stats.cuts
    if not 0 < confidence < 1:
        raise UserError(f"the null rule's confidence is {confidence}: give a number between 0 and 1, such as 0.999")
    copies = 0 if stats.rho_null is None else len(stats.rho_null)
    if copies < 2:
        raise UserError(
            f"the null rule needs a spread of untrained copies but got {copies}: give null_seeds 2 or more",
            field="null_seeds",
        )
    null = _log_rho("rho_null", stats.rho_null, cuts)
    evidence = null.mean(axis=0) - _log_rho("rho", stats.rho, cuts)
    limit = prediction_limit(null, float(stdtrit(copies - 1, confidence)))

    peak = int(np.argmax(evidence))
    low, high = np.full((2, len(cuts)), np.nan)
    held, interval, compared = evidence[peak], "no bootstrap replicates, so this is the point estimate", "which"
    if stats.rho_samples is not None and stats.rho_null_samples is not None:
        replicates = _log_rho("rho_null_samples", stats.rho_null_samples, cuts).mean(axis=1)
        replicates = replicates - _log_rho("rho_samples", stats.rho_samples, cuts)
        low, high = np.quantile(replicates, [0.025, 0.975], axis=0)
        held, top = np.quantile(replicates.max(axis=1), [0.025, 0.975])
        interval = f"95 % interval {held:.3f} to {top:.3f}"
        compared = "which" if held > limit else "whose lower end"

    found = bool(held > limit)
    reason = (
        f"the evidence peaks at {evidence[peak]:.3f} nats at {cuts[peak]!r} ({interval}), {compared} "
        f"{'exceeds' if found else 'does not exceed'} {limit:.3f}, the {100 * confidence:g} % limit for one "
        f"more untrained network ({copies} copies)"
    )
    if not found:
        return Zone("null", (), None, evidence, low, high, reason)
    rise = np.diff(evidence, prepend=0.0)
    onset = int(np.argmax(rise))
    reason += f"; it rises most, by {rise[onset]:.3f} to {evidence[onset]:.3f}, at {cuts[onset]!r}"
    zone = _from_onset(evidence, onset)
    return Zone("null", tuple(cuts[j] for j in zone), cuts[onset], evidence, low, high, reason)


def prediction_limit(null: np.ndarray, quantile: float) -> float:
    """Upper limit on max_j e_j of one more untrained network, from the (S, L) values of ln ρ of S of them."""
    copies = len(null)
    others = (null.sum(axis=0) - null) / (copies - 1)
    largest = (others - null).max(axis=1)  # M_s
    return float(largest.mean() + quantile * largest.std(ddof=1) * np.sqrt(1 + 1 / copies))


def _from_onset(evidence: np.ndarray, onset: int) -> list[int]:
    """Positions of the onset and of the first unbroken run from it on with half the largest evidence."""
    high = evidence >= evidence.max() / 2
    start = onset
    while start < len(high) and not high[start]:
        start += 1
    stop = start
    while stop < len(high) and high[stop]:
        stop += 1
    return sorted({onset, *range(start, stop)})


RULES: dict[str, Callable[..., Zone]] = {"paper": paper_rule, "null": null_rule}


def locate(rule_name: str, stats: CutStatistics) -> Zone:
    """Apply a rule of ``RULES`` by name, with its defaults, to the cuts that have the numbers it needs.

    Dead cuts, where nothing varies or something is not a finite number, are left out, and the reason names them; with
    too few left there is no zone. Raises UserError for an unknown name.

    Example:
      >>> locate("paper", CutStatistics(("a", "b"), np.array([4.0, 1.0]), np.ones(2))).onset
      'b'
      >>> print(locate("paper", CutStatistics(("a", "b", "c"), np.array([4.0, np.nan, 1.0]), np.ones(3))).reason)
      R_c² drops most, by 75.0%, at 'c'; left out: 'b' (R_c² is nan)
    """
    if rule_name not in RULES:
        raise UserError(f"unknown zone rule {rule_name!r}{did_you_mean(rule_name, RULES)}")
    why = _unusable(stats, of_nulls=rule_name == "null")
    left = np.array([cut not in why for cut in stats.cuts], bool)
    if left.all():
        return RULES[rule_name](stats)
    groups = {reason: [repr(cut) for cut in stats.cuts if why.get(cut) == reason] for reason in why.values()}
    out = "left out: " + "; ".join(f"{', '.join(names)} ({reason})" for reason, names in groups.items())
    nothing = np.full(len(left), np.nan)
    if left.sum() < (1 if rule_name == "null" else 2):
        return Zone(rule_name, (), None, nothing, nothing, nothing, f"too few cuts can be compared; {out}")
    zone = RULES[rule_name](_only(stats, left))
    evidence, low, high = (_spread(values, left) for values in (zone.evidence, zone.low, zone.high))
    return zone._replace(evidence=evidence, low=low, high=high, reason=f"{zone.reason}; {out}")


def _unusable(stats: CutStatistics, *, of_nulls: bool) -> dict[str, str]:
    """The cuts that a rule cannot use, and why."""
    values = {"R_c²": stats.within, "rho": stats.rho}
    if of_nulls:
        values = {
            **values, "rho of an untrained copy": stats.rho_null,
            "rho of a resample": stats.rho_samples, "rho of a resample of a copy": stats.rho_null_samples,
        }  # fmt: skip
    why = {}
    for name, found in values.items():
        if found is None or np.shape(found)[-1:] != (len(stats.cuts),):  # the rule says so itself
            continue
        columns = np.asarray(found, np.float64).reshape(-1, len(stats.cuts))
        bad = ~np.isfinite(columns) | (of_nulls & name.startswith("rho") & (columns <= 0))
        for i in np.flatnonzero(bad.any(axis=0)):
            why.setdefault(stats.cuts[i], f"{name} is {columns[bad[:, i], i][0]:g}")
    return why


def _only(stats: CutStatistics, left: np.ndarray) -> CutStatistics:
    """Of some of the cuts."""
    cuts = tuple(cut for cut, keep in zip(stats.cuts, left, strict=True) if keep)
    given = {name: value for name, value in stats._asdict().items() if name != "cuts" and value is not None}
    per_cut = {name: np.asarray(value)[..., left] for name, value in given.items()}
    return stats._replace(cuts=cuts, **per_cut)


def _spread(values: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Values of some of the cuts as one a cut, NaN at the others."""
    found = np.full(len(left), np.nan)
    found[left] = values
    return found


def bootstrap_rho(
    within: Num[np.ndarray, "*M L N"],
    total: Num[np.ndarray, "*M L N"],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, "B *M L"]:
    """Bootstrap replicates over the samples of ρ = Σ_i w_i r_i / Σ_i w_i t_i, w multinomial.

    r_i = ‖z_i - μ_{y_i}‖² and t_i = ‖z_i - μ‖². The means stay those of all samples. To first order that
    changes nothing: each mean minimises its own squared deviations, so their sum has zero derivative in it.
    Refitting the means to each resample would shrink r a second time by the plug-in bias (N_c - 1)/N_c that
    it already carries. For a nearly unbiased ρ scale r_i by N_c/(N_c - 1) and t_i by N/(N - 1).

    All cuts of all M models share each resample, so differences between them are paired. Equal seeds
    and N give equal resamples, across calls as well.

    Args:
      within: (L, N) or (M, L, N) r.
      total: t, the same shape.
      replicates: B.
      seed: of the resampling.

    Returns:
      (B, L) or (B, M, L) float64; NaN at a cut where nothing varies (t = 0).

    Raises:
      UserError: without samples or without replicates.

    Source: Efron (1979), the nonparametric bootstrap.

    Example:
      >>> r = np.array([[1.0, 2.0, 3.0]])
      >>> bootstrap_rho(r, 2 * r, replicates=4).ravel()
      array([0.5, 0.5, 0.5, 0.5])
    """
    samples = within.shape[-1]
    if samples < 1 or replicates < 1:
        raise UserError(f"a bootstrap needs samples and replicates: got {samples} and {replicates}, give 1 or more")
    r = within.reshape(-1, samples).T.astype(np.float64)
    t = total.reshape(-1, samples).T.astype(np.float64)
    rng = np.random.default_rng(seed)
    values = np.empty((replicates, r.shape[1]))
    for start in range(0, replicates, _CHUNK):
        rows = min(_CHUNK, replicates - start)
        drawn = rng.integers(samples, size=(rows, samples)) + samples * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * samples).reshape(rows, samples).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):  # 0/0 at a cut where nothing varies
            values[start : start + rows] = (weights @ r) / (weights @ t)
    return values.reshape(replicates, *within.shape[:-1])


def _per_cut(name: str, values, cuts: tuple[str, ...]) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if not cuts or values.shape[-1:] != (len(cuts),):
        raise UserError(
            f"{name} has shape {values.shape} for {len(cuts)} cuts: its last axis must be one value per cut"
        )
    return values


def _refuse(bad: np.ndarray, name: str, values: np.ndarray, cuts: tuple[str, ...], need: str) -> None:
    if bad.any():
        where = tuple(np.argwhere(bad)[0])
        raise UserError(f"{name} at cut {cuts[where[-1]]!r} is {values[where]}, not {need}: leave that cut out")


def _log_rho(name: str, values, cuts: tuple[str, ...]) -> np.ndarray:
    values = _per_cut(name, values, cuts)
    _refuse(~(np.isfinite(values) & (values > 0)), name, values, cuts, "a positive number")
    return np.log(values)
