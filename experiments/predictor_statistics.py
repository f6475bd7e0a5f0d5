"""How well a number at a cut says what attackers get there: functions of the networks' JSON files (not an experiment).

Every predictor is turned so that more of it should mean less leak. A cut *resists* by the least mse of any attack over
the class-mean floor's ("ratio"), or by one less the largest share of images that any attack names ("identified").

  within    Spearman's correlation of predictor and resistance over the cuts of a network, mean over networks
  across    the same over networks, at the cut nearest to a relative depth, mean over the depths 1/4, 1/2, 3/4, 1
  regret    leak at the cut chosen over leak at the best cut allowed, both means over networks, mean over edge budgets;
            leak is 1 - ratio (not below 0), or the share identified. A budget allows the first 1/4, 1/2, 3/4 or all of
            the candidates, never the logits, which leave the cloud nothing to do; chosen is where the predictor is
            largest
  error     mean absolute error of the ratio that an isotonic regression, fitted on the other data sets, says of a cut
  grade     share of cuts of which that ratio has the right grade: readable, partly or traces, as in a verdict

Directions that theory gives are fixed; others are those of the mean correlation on the other data sets. Intervals are
bootstraps over networks.
"""

from collections.abc import Callable, Sequence

import numpy as np
from predictor_records import PREDICTORS, Record
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata

from gpz_jax.inversion.verdict import PARTLY_RATIO, READABLE_RATIO

#: Shares of the candidates that an edge budget allows, and relative depths at which networks are compared.
BUDGETS = (0.25, 0.5, 0.75, 1.0)

#: Resamples of the networks behind an interval.
REPLICATES = 1000


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, NaN where fewer than three pairs are known or one of the two never varies."""
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    a, b = (ranks - ranks.mean() for ranks in (rankdata(a), rankdata(b)))  # spearmanr takes ten times as long
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def direction(records: Sequence[Record], predictor: str) -> int:
    """1 or -1: the theory's, or that of the mean correlation with the ratio on these networks."""
    sign = PREDICTORS[predictor].sign
    if sign:
        return sign
    found = [correlation(one.values[predictor], one.resistance["ratio"]) for one in records]
    return 1 if np.nanmean(found) >= 0 else -1


def oriented(records: Sequence[Record], predictor: str) -> list[np.ndarray]:
    """The predictor on every network, turned as the networks of other data sets say; -inf where it is not known."""
    signs = {
        data: direction([one for one in records if one.data != data] or records, predictor)
        for data in {one.data for one in records}
    }
    turned = [signs[one.data] * one.values[predictor] for one in records]
    return [np.where(np.isfinite(values), values, -np.inf) for values in turned]


def within(records: Sequence[Record], scores: Sequence[np.ndarray], outcome: str) -> np.ndarray:
    """Correlation over the cuts of each network, ``(networks,)``."""
    return np.array([correlation(s, one.resistance[outcome]) for one, s in zip(records, scores, strict=True)])


def across(
    records: Sequence[Record], scores: Sequence[np.ndarray], outcome: str, seed: int = 0
) -> tuple[float, float, float]:
    """Correlation over networks at the cuts nearest to each relative depth, mean over the depths; 95 % interval.

    Depths at which the score is the same for all networks do not count.
    """
    at = np.array([[round(depth * (len(s) - 1) - 1e-9) for depth in BUDGETS] for s in scores])  # (networks, depths)
    a = np.array([s[i] for s, i in zip(scores, at, strict=True)]).T
    b = np.array([one.resistance[outcome][i] for one, i in zip(records, at, strict=True)]).T
    drawn = np.random.default_rng(seed).integers(len(scores), size=(REPLICATES, 1, len(scores)))
    picked = (np.take_along_axis(np.broadcast_to(v, (REPLICATES, *v.shape)), drawn, axis=2) for v in (a, b))
    return (float(_mean_of_ranked(a, b)), *_ends(_mean_of_ranked(*picked)))


def _mean_of_ranked(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation along the last axis, mean over the axis before it of those that are defined."""
    a, b = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (rankdata(a, axis=-1), rankdata(b, axis=-1)))
    products = np.sqrt(np.sum(a * a, axis=-1) * np.sum(b * b, axis=-1))
    known = products > 0
    sums = np.sum(np.where(known, np.sum(a * b, axis=-1) / np.where(known, products, 1), 0), axis=-1)
    with np.errstate(invalid="ignore"):
        return sums / np.sum(known, axis=-1)


def allowed(cuts: int, budget: float) -> int:
    """How many of the candidates a budget allows, the first ones; the logits never.

    >>> [allowed(7, budget) for budget in BUDGETS]
    [2, 4, 5, 6]
    """
    return min(int(budget * (cuts - 1) + 1e-9) + 1, cuts - 1)


def chosen_by(score: np.ndarray, budget: float) -> int:
    """The allowed cut of the largest score, the earlier one of a tie."""
    return int(np.argmax(score[: allowed(len(score), budget)]))


def chosen_by_rule(onset: int | None, cuts: int, budget: float) -> int:
    """Where the zone begins if that is allowed; else, and where there is none, the deepest cut allowed."""
    deepest = allowed(cuts, budget) - 1
    return deepest if onset is None or onset > deepest else onset


def leaks(record: Record, outcome: str, choose: Callable[[float], int]) -> np.ndarray:
    """Leak at the chosen cut and at the best one allowed, ``(budgets, 2)``."""
    leak = record.leak[outcome]
    return np.array([(leak[choose(b)], leak[: allowed(len(leak), b)].min()) for b in BUDGETS])


def leaks_of(records: Sequence[Record], scores: Sequence[np.ndarray], outcome: str) -> np.ndarray:
    """The same for every network, ``(networks, budgets, 2)``, by a predictor."""
    pairs = zip(records, scores, strict=True)
    return np.array([leaks(one, outcome, lambda b, s=s: chosen_by(s, b)) for one, s in pairs])


def leaks_of_rule(records: Sequence[Record], rule: str, outcome: str) -> np.ndarray:
    """The same by a rule."""
    return np.array(
        [
            leaks(one, outcome, lambda b, one=one: chosen_by_rule(one.onset[rule], len(one.leak[outcome]), b))
            for one in records
        ]
    )


def ratios_at_onset(records: Sequence[Record], rule: str) -> np.ndarray:
    """The ratio at the cut where a rule's zone begins, of the networks that have one."""
    return np.array([one.resistance["ratio"][one.onset[rule]] for one in records if one.onset[rule] is not None])


def regret(found: np.ndarray) -> float:
    """How many times the leak of the best allowed cuts, from ``(networks, budgets, 2)``; mean over the budgets.

    >>> regret(np.array([[[0.6, 0.2], [0.2, 0.2]]]))
    2.0
    """
    chosen, best = found.mean(axis=0).T
    return float(np.mean(chosen / np.maximum(best, 1e-9)))


def isotonic(records: Sequence[Record], scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The ratio of every cut of every network as the networks of other data sets say it, by isotonic regression.

    A score between two that they have takes what is said of the lower one; of a single data set it is its own fit.
    """
    said: list[np.ndarray] = [np.zeros(0)] * len(records)
    ratios = [one.resistance["ratio"] for one in records]
    for data in {one.data for one in records}:
        others = _others(records, data)
        x, y = (np.concatenate([values[i] for i in others]) for values in (scores, ratios))
        xs, place = np.unique(x, return_inverse=True)
        weights = np.bincount(place).astype(float)
        fitted = isotonic_regression(np.bincount(place, y) / weights, weights=weights).x
        for i, one in enumerate(records):
            if one.data == data:
                said[i] = fitted[np.clip(np.searchsorted(xs, scores[i], side="right") - 1, 0, None)]
    return said


def _others(records: Sequence[Record], data: str) -> list[int]:
    """Places of the networks of other data sets; of all where there is one data set only."""
    return [i for i, one in enumerate(records) if one.data != data] or list(range(len(records)))


def errors(records: Sequence[Record], said: Sequence[np.ndarray]) -> np.ndarray:
    """Mean absolute error of what is said of the ratio of a network's cuts, ``(networks,)``."""
    pairs = zip(records, said, strict=True)
    return np.array([np.mean(np.abs(values - one.resistance["ratio"])) for one, values in pairs])


def grades(records: Sequence[Record], said: Sequence[np.ndarray]) -> np.ndarray:
    """Share of a network's cuts whose grade what is said has right, ``(networks,)``."""
    ends = (READABLE_RATIO, PARTLY_RATIO)
    pairs = zip(records, said, strict=True)
    return np.array(
        [
            np.mean(np.digitize(v, ends, right=True) == np.digitize(one.resistance["ratio"], ends, right=True))
            for one, v in pairs
        ]
    )


def constant(records: Sequence[Record]) -> list[np.ndarray]:
    """The mean ratio of the other data sets, said of every cut."""
    return isotonic(records, [np.zeros(len(one.resistance["ratio"])) for one in records])


def combined(records: Sequence[Record], names: Sequence[str], penalty: float = 1.0) -> list[np.ndarray]:
    """The ratio that a ridge regression on ranks says of every cut, fitted on the other data sets.

    Ranks are those among all cuts of the others, 0 to 1; unknown values have rank 0.
    """
    said: list[np.ndarray] = [np.zeros(0)] * len(records)
    columns = {name: oriented(records, name) for name in names}
    for data in {one.data for one in records}:
        others = _others(records, data)
        pools = [np.sort(np.concatenate([columns[name][i] for i in others])) for name in names]

        def ranks(i: int, pools: list[np.ndarray] = pools) -> np.ndarray:
            found = [
                np.searchsorted(pool, columns[name][i], "right") / len(pool)
                for name, pool in zip(names, pools, strict=True)
            ]
            return np.stack(found, axis=1)

        x = np.concatenate([ranks(i) for i in others])
        y = np.concatenate([records[i].resistance["ratio"] for i in others])
        centre, level = x.mean(axis=0), y.mean()
        slope = np.linalg.solve(
            (x - centre).T @ (x - centre) + penalty * np.eye(len(names)), (x - centre).T @ (y - level)
        )
        for i, one in enumerate(records):
            if one.data == data:
                said[i] = level + (ranks(i) - centre) @ slope
    return said


def interval(count: int, statistic: Callable[[np.ndarray], float], seed: int = 0) -> tuple[float, float]:
    """95 % of a statistic of resampled networks, which it is told by their places."""
    rng = np.random.default_rng(seed)
    return _ends(np.array([statistic(rng.integers(count, size=count)) for _ in range(REPLICATES)]))


def _ends(found: np.ndarray) -> tuple[float, float]:
    if not np.isfinite(found).any():
        return float("nan"), float("nan")
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)
