"""How well a number at a cut says what attackers get there: functions of the networks' JSON files (not an experiment).

Every predictor is turned, as theory has it, so that more of it should mean less leak. A cut *resists* by the least mse
of any attack over the class-mean floor's ("ratio"), or by one less the largest share of images that any attack names
("identified"). It *leaks* 1 - ratio (not below 0), or the share identified.

  within    Spearman's correlation of predictor and resistance over the cuts of a network, mean over networks
  across    the same over networks, at the cut nearest to a relative depth, mean over the depths 1/4, 1/2, 3/4, 1
  regret    leak at the cut chosen over leak at the best cut allowed, both means over networks, mean over edge budgets.
            A budget allows the first 1/4, 1/2, 3/4 or all of the candidates, or those before which so large a share of
            the parameters lies; never the logits, which leave the cloud nothing to do. A predictor chooses where it is
            largest; a rule where its zone begins, or the deepest cut allowed where that is not allowed
  at onset  the same of the networks whose zone begins before the logits: leak there over leak at the best cut but them
  error     mean absolute error of the ratio that an isotonic regression, fitted on the other data sets, says of a cut
  grade     share of cuts of which that ratio has the right grade: readable, partly or traces. A verdict has the same
            bounds, and asks for more; here the ratio decides alone

Intervals are bootstraps over networks, or over groups of them.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from predictor_records import PREDICTORS, Record
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata

from gpz_jax.inversion.verdict import PARTLY_RATIO, READABLE_RATIO

#: Shares of the candidates that an edge budget allows, and relative depths at which networks are compared.
BUDGETS = (0.25, 0.5, 0.75, 1.0)

#: Shares of the parameters that an edge budget allows.
PARAMETERS = (0.1, 0.25, 0.5, 0.75, 1.0)

#: Resamples behind an interval.
REPLICATES = 1000


# Correlations ---------------------------------------------------------------------------------------------------------


def oriented(records: Sequence[Record], predictor: str) -> list[np.ndarray]:
    """The predictor on every network, turned so that more should mean less leak; -inf where it is not known."""
    turned = [PREDICTORS[predictor].sign * one.values[predictor] for one in records]
    return [np.where(np.isfinite(values), values, -np.inf) for values in turned]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, NaN where fewer than three pairs are known or one of the two never varies."""
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    return float(_ranked(a, b)) if len(a) >= 3 else float("nan")


def _ranked(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation along the last axis, NaN where one of the two never varies."""
    # spearmanr takes ten times as long, and one pair of rows at a time
    a, b = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (rankdata(a, axis=-1), rankdata(b, axis=-1)))
    products = np.sqrt(np.sum(a * a, axis=-1) * np.sum(b * b, axis=-1))
    return np.where(products > 0, np.sum(a * b, axis=-1) / np.where(products > 0, products, 1), np.nan)


def within(records: Sequence[Record], scores: Sequence[np.ndarray], outcome: str) -> np.ndarray:
    """Correlation over the cuts of each network, ``(networks,)``."""
    return np.array([correlation(s, one.resistance[outcome]) for one, s in zip(records, scores, strict=True)])


def across_at(
    records: Sequence[Record], scores: Sequence[np.ndarray], outcome: str, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation over networks at the cuts nearest to each relative depth, ``(depths,)``, and of their resamples,
    ``(replicates, depths)``; NaN at depths where the score is the same for all.
    """
    at = [[round(depth * (one.cuts - 1) - 1e-9) for depth in BUDGETS] for one in records]
    a = np.array([s[i] for s, i in zip(scores, at, strict=True)]).T  # (depths, networks)
    b = np.array([one.resistance[outcome][i] for one, i in zip(records, at, strict=True)]).T
    drawn = np.random.default_rng(seed).integers(len(scores), size=(REPLICATES, 1, len(scores)))
    picked = (np.take_along_axis(np.broadcast_to(v, (REPLICATES, *v.shape)), drawn, axis=2) for v in (a, b))
    return _ranked(a, b), _ranked(*picked)


def across(
    records: Sequence[Record], scores: Sequence[np.ndarray], outcome: str, seed: int = 0
) -> tuple[float, float, float]:
    """Its mean over the depths at which it is defined; 95 % interval."""
    found, drawn = across_at(records, scores, outcome, seed)
    return (float(mean_of_known(found)), *ends(mean_of_known(drawn)))


def mean_of_known(found: np.ndarray) -> np.ndarray:
    """Over the last axis; NaN where nothing is known."""
    known = np.isfinite(found)
    with np.errstate(invalid="ignore"):
        return np.sum(np.where(known, found, 0), axis=-1) / np.sum(known, axis=-1)


# Choosing a cut -------------------------------------------------------------------------------------------------------


def by_cuts(record: Record) -> list[int]:
    """How many candidates, the first ones, budgets allow that are shares of the cuts."""
    return [min(int(budget * (record.cuts - 1) + 1e-9) + 1, record.cuts - 1) for budget in BUDGETS]


def by_parameters(record: Record) -> list[int]:
    """How many candidates budgets allow that are shares of the parameters; the first cut always."""
    inside = [int(np.sum(record.edge_share <= share)) for share in PARAMETERS]
    return [min(max(count, 1), record.cuts - 1) for count in inside]


def whole(record: Record) -> list[int]:
    """What the one budget allows that leaves only the logits out."""
    return [record.cuts - 1]


def chosen_by(score: np.ndarray, allowed: int) -> int:
    """The cut of the largest score among the first ones, the deeper one of a tie, since depth costs nothing there.

    >>> chosen_by(np.array([0.0, 1.0, 1.0, 2.0]), 3)
    2
    """
    return allowed - 1 - int(np.argmax(score[:allowed][::-1]))


def chosen_by_rule(onset: int | None, allowed: int) -> int:
    """Where the zone begins if that is allowed; else, and where there is none, the deepest cut allowed."""
    return allowed - 1 if onset is None else min(onset, allowed - 1)


def leaks_of(
    records: Sequence[Record],
    scores: Sequence[np.ndarray],
    outcome: str,
    budgets: Callable[[Record], list[int]] = by_cuts,
) -> np.ndarray:
    """Leak at the cut that a predictor chooses and at the best one allowed, ``(networks, budgets, 2)``."""
    pairs = zip(records, scores, strict=True)
    return np.array([_leaks(one, outcome, budgets(one), partial(chosen_by, score)) for one, score in pairs])


def leaks_of_rule(
    records: Sequence[Record], rule: str, outcome: str, budgets: Callable[[Record], list[int]] = by_cuts
) -> np.ndarray:
    """The same by a rule."""
    return np.array([_leaks(one, outcome, budgets(one), partial(chosen_by_rule, one.onset[rule])) for one in records])


def _leaks(record: Record, outcome: str, counts: list[int], choose: Callable[[int], int]) -> np.ndarray:
    leak = record.leak[outcome]
    return np.array([(leak[choose(allowed)], leak[:allowed].min()) for allowed in counts])


def leaks_at_onset(records: Sequence[Record], rule: str, outcome: str) -> np.ndarray:
    """Leak where a rule's zone begins and at the best cut but the logits, ``(networks, 1, 2)``, of the networks whose
    zone begins before the logits.
    """
    return leaks_of_rule([one for one in records if begins_before_logits(one, rule)], rule, outcome, whole)


def begins_before_logits(record: Record, rule: str) -> bool:
    """Whether a rule's zone begins at a cut that leaves the cloud something to do."""
    onset = record.onset[rule]
    return onset is not None and onset < record.cuts - 1


def ratios_at_onset(records: Sequence[Record], rule: str) -> np.ndarray:
    """The ratio at the cut where a rule's zone begins, of the networks that have one."""
    return np.array([one.resistance["ratio"][one.onset[rule]] for one in records if one.onset[rule] is not None])


def regrets(found: np.ndarray) -> np.ndarray:
    """How many times the leak of the best allowed cuts, ``(budgets,)``, from ``(networks, budgets, 2)``."""
    chosen, best = found.mean(axis=0).T
    return chosen / np.maximum(best, 1e-9)


def regret(found: np.ndarray) -> float:
    """The same, mean over the budgets.

    >>> regret(np.array([[[0.5, 0.25], [0.25, 0.25]]]))
    1.5
    """
    return float(np.mean(regrets(found)))


# Saying the ratio -----------------------------------------------------------------------------------------------------


def isotonic_map(scores: np.ndarray, ratios: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What an isotonic regression of ratios on scores says of further scores, linear between those that it had."""
    xs, place = np.unique(scores, return_inverse=True)
    weights = np.bincount(place).astype(float)
    fitted = isotonic_regression(np.bincount(place, ratios) / weights, weights=weights).x
    return lambda x: np.interp(x, xs, fitted)


def isotonic(
    records: Sequence[Record], scores: Sequence[np.ndarray], apart: Sequence[str] = ("data",)
) -> list[np.ndarray]:
    """The ratio of every cut of every network as other networks say it, by isotonic regression.

    Args:
      records: the networks.
      scores: of their cuts.
      apart: what the others may not share with a network: its data set, its "family".
    """
    ratios, said = [one.resistance["ratio"] for one in records], []
    for one, own in zip(records, scores, strict=True):
        others = _others(records, one, apart)
        say = isotonic_map(*(np.concatenate([values[i] for i in others]) for values in (scores, ratios)))
        said.append(say(own))
    return said


def _others(records: Sequence[Record], one: Record, apart: Sequence[str] = ("data",)) -> list[int]:
    """Places of the networks that share none of these with one; of all where there is no such network."""
    found = [i for i, other in enumerate(records) if all(getattr(other, k) != getattr(one, k) for k in apart)]
    return found or list(range(len(records)))


def errors(records: Sequence[Record], said: Sequence[np.ndarray]) -> np.ndarray:
    """Mean absolute error of what is said of the ratio of a network's cuts, ``(networks,)``."""
    pairs = zip(records, said, strict=True)
    return np.array([np.mean(np.abs(values - one.resistance["ratio"])) for one, values in pairs])


def grades(records: Sequence[Record], said: Sequence[np.ndarray]) -> np.ndarray:
    """Share of a network's cuts whose grade what is said has right, ``(networks,)``."""
    bounds = (READABLE_RATIO, PARTLY_RATIO)
    pairs = zip(records, said, strict=True)
    return np.array(
        [
            np.mean(np.digitize(v, bounds, right=True) == np.digitize(one.resistance["ratio"], bounds, right=True))
            for one, v in pairs
        ]
    )


def constant(records: Sequence[Record], apart: Sequence[str] = ("data",)) -> list[np.ndarray]:
    """The mean ratio of the others, as :func:`isotonic`, said of every cut."""
    return isotonic(records, [np.zeros(one.cuts) for one in records], apart)


def combined(records: Sequence[Record], names: Sequence[str], penalty: float = 1.0) -> list[np.ndarray]:
    """The ratio that a ridge regression on ranks says of every cut, fitted on the other data sets.

    Ranks are those among all cuts of the others, 0 to 1; unknown values have rank 0.
    """
    columns = [oriented(records, name) for name in names]
    said = []
    for i, one in enumerate(records):
        others = _others(records, one)
        pools = [np.sort(np.concatenate([column[j] for j in others])) for column in columns]
        x = np.concatenate([_ranks([column[j] for column in columns], pools) for j in others])
        y = np.concatenate([records[j].resistance["ratio"] for j in others])
        centre, level = x.mean(axis=0), y.mean()
        slope = np.linalg.solve(
            (x - centre).T @ (x - centre) + penalty * np.eye(len(names)), (x - centre).T @ (y - level)
        )
        said.append(level + (_ranks([column[i] for column in columns], pools) - centre) @ slope)
    return said


def _ranks(values: Sequence[np.ndarray], pools: Sequence[np.ndarray]) -> np.ndarray:
    """Share of each sorted pool that is no larger, ``(cuts, pools)``."""
    found = [np.searchsorted(pool, v, "right") / len(pool) for v, pool in zip(values, pools, strict=True)]
    return np.stack(found, axis=1)


def said(value: float, low: float, high: float) -> str:
    """``value [low, high]``, two digits."""
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


# Intervals ------------------------------------------------------------------------------------------------------------


Groups = Sequence[np.ndarray]


def groups_of(records: Sequence[Record], *keys: str) -> list[np.ndarray]:
    """Places of the networks that are alike in all of these, such as "family" and "data": one array a group."""
    found: dict[tuple[str, ...], list[int]] = {}
    for place, one in enumerate(records):
        found.setdefault(tuple(getattr(one, key) for key in keys), []).append(place)
    return [np.array(places) for places in found.values()]


def interval(groups: int | Groups, statistic: Callable[[np.ndarray], float], seed: int = 0) -> tuple[float, float]:
    """95 % of a statistic of resampled networks, which it is told by their places.

    Args:
      groups: of how many networks, each drawn by itself; or groups of their places, each drawn with all of its
        networks: for networks that are not independent, such as seeds of one architecture on one data set.
      statistic: of the places.
      seed: of the draws.
    """
    members = list(np.arange(groups)[:, None]) if isinstance(groups, int) else groups
    drawn = np.random.default_rng(seed).integers(len(members), size=(REPLICATES, len(members)))
    return ends(np.array([statistic(np.concatenate([members[i] for i in row])) for row in drawn]))


def mean_of(values: np.ndarray, groups: Groups | None = None) -> tuple[float, float, float]:
    """Mean of a number a network; 95 %, of resampled groups where these are given."""
    return float(np.mean(values)), *interval(groups or len(values), lambda at: float(np.mean(values[at])))


def regret_of(leaks: np.ndarray, groups: Groups | None = None) -> tuple[float, float, float]:
    """Regret from ``(networks, budgets, 2)``; 95 %, of resampled groups where these are given."""
    return regret(leaks), *interval(groups or len(leaks), lambda at: regret(leaks[at]))


def ends(found: np.ndarray) -> tuple[float, float]:
    """95 % of resamples along the first axis; NaN where none is known."""
    if not np.isfinite(found).any():
        return float("nan"), float("nan")
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)
