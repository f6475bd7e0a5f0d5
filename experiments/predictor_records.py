"""What is held against attacks: the predictors, and a network's JSON as arrays (not an experiment)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Predictor(NamedTuple):
    """A number a cut.

    Attributes:
      label: for people.
      sign: 1 where more should mean less leak, -1 where less should.
      of: a cut of a network's JSON and the network -> the number; None where there is none.
    """

    label: str
    sign: int
    of: Callable[[Mapping[str, Any], Mapping[str, Any]], float | None]


def _key(name: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], float | None]:
    return lambda cut, network: cut[name]


def _over(name: str, by: Callable[[Mapping[str, Any], Mapping[str, Any]], float]) -> Callable[..., float | None]:
    return lambda cut, network: None if cut[name] is None else cut[name] / by(cut, network)


def _class_mean(cut: Mapping[str, Any], network: Mapping[str, Any]) -> float:
    return cut["attacks"]["linear"]["floor_class_mean"]


#: Fifteen numbers that cost no attack, and the error of one. Bits of the payload as uint8 are 8 D, and rank as D does.
#: Of the linear probe theory speaks by analogy: what tells classes apart better is thought to hold less else, as where
#: R_c² is small. The first cut has no drop.
PREDICTORS = {
    "depth": Predictor("depth", 1, lambda cut, network: cut["place"] / (len(network["cuts"]) - 1)),
    "dimension": Predictor("D, payload bits", -1, _key("dimension")),
    "within": Predictor("raw R_c²", -1, _key("within")),
    "within_per_dimension": Predictor("R_c²/D", -1, _key("within_per_dimension")),
    "rho": Predictor("rho", -1, _key("rho")),
    "evidence": Predictor("evidence", 1, _key("evidence")),
    "drop": Predictor("drop", 1, _key("drop")),
    "cdnv": Predictor("CDNV", -1, _key("cdnv")),
    "nc1": Predictor("NC1", -1, _key("nc1")),
    "effective_dimension": Predictor("participation ratio", -1, _key("effective_dimension")),
    "probe_accuracy": Predictor("linear probe", 1, _key("probe_accuracy")),
    "information_ceiling": Predictor("information ceiling", -1, _key("information_ceiling")),
    "decision_bound": Predictor("decision bound", -1, _key("decision_bound")),
    "mse_floor": Predictor("1/dFIL", 1, _over("mse_floor", _class_mean)),
    "nats": Predictor("CEM: H(X|Z)/d", 1, _over("nats", lambda _, network: network["numbers"])),
    "ridge": Predictor("ridge error", 1, _key("ridge")),
}  # fmt: skip

#: Rules of the package, which choose a cut.
RULES = ("paper", "null")

#: What seconds buy: an attack itself, on other images.
YARDSTICK = "ridge"

#: Those that cost no attack, and those of them that have to be measured.
CHEAP = tuple(name for name in PREDICTORS if name != YARDSTICK)
MEASURED = tuple(name for name in CHEAP if name != "depth")


class Record(NamedTuple):
    """A network's L candidate cuts as arrays.

    Attributes:
      name: of the network.
      data: its data set.
      family: its architecture.
      values: predictor -> ``(L,)``, as measured.
      resistance: outcome -> ``(L,)``: "ratio", and "identified", one less the share named.
      onset: rule -> place of the cut where its zone begins; None for no zone.
      edge_share: ``(L,)``, the share of the parameters that lie before a cut; NaN where it was not measured.
    """

    name: str
    data: str
    family: str
    values: Mapping[str, np.ndarray]
    resistance: Mapping[str, np.ndarray]
    onset: Mapping[str, int | None]
    edge_share: np.ndarray

    @property
    def cuts(self) -> int:
        """How many candidates, L."""
        return len(self.resistance["ratio"])

    @property
    def leak(self) -> dict[str, np.ndarray]:
        """Outcome -> what attackers got, ``(L,)``, 0 or more."""
        return {name: np.maximum(1 - value, 0.0) for name, value in self.resistance.items()}


def record_of(network: Mapping[str, Any]) -> Record:
    """A network's JSON as arrays."""
    cuts = network["cuts"]
    values = {
        name: np.array([np.nan if (value := one.of(cut, network)) is None else value for cut in cuts], float)
        for name, one in PREDICTORS.items()
    }
    attacks = [list(cut["attacks"].values()) for cut in cuts]
    resistance = {
        "ratio": np.array([min(one["ratio"] for one in made) for made in attacks]),
        "identified": np.array([1 - max(one["identified"] for one in made) for made in attacks]),
    }
    names = [cut["cut"] for cut in cuts]
    onset = {
        rule: None if zone["onset"] is None else names.index(zone["onset"]) for rule, zone in network["zones"].items()
    }
    config, shares = network["config"], np.array([cut["edge_share"] for cut in cuts], float)
    return Record(network["name"], config["data"], config["model"], values, resistance, onset, shares)
