"""What the page says, as plain numbers and words: gathered by ``workflow.report_command``, shown by ``render``."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpz_jax.inversion.guarantee_result import Guarantee
from gpz_jax.inversion.results import AttackResult, Attempt, best_of
from gpz_jax.inversion.verdict import Verdict

NAN = math.nan


class Probed(NamedTuple):
    """What a probe measured at a cut.

    Attributes:
      within: W = Σ N_c/N R_c², squared units of z.
      rho: W/(W + B).
      rho_null: of every untrained copy.
      evidence: mean ln rho_null - ln rho, nats; NaN without copies.
      low, high: its 95 % interval.
      zones: rule -> "onset", "zone" or "".
    """

    within: float
    rho: float
    rho_null: tuple[float, ...] = ()
    evidence: float = NAN
    low: float = NAN
    high: float = NAN
    zones: Mapping[str, str] = {}


class Cost(NamedTuple):
    """What a cut costs for one image.

    Attributes:
      edge_parameters: numbers that the edge holds.
      edge_share: the same over all parameters of the network.
      payload: bytes sent as "float32", "bfloat16", "uint8".
      edge_flops, cloud_flops: of the halves.
      edge_memory: peak bytes of the edge's activations.
      edge_ms: milliseconds on the edge; NaN where nothing was timed.
    """

    edge_parameters: int
    edge_share: float
    payload: Mapping[str, int]
    edge_flops: int
    cloud_flops: int
    edge_memory: int
    edge_ms: float = NAN


@dataclasses.dataclass(frozen=True, eq=False)
class CutRecord:
    """All that is known of one cut of one run; None where nothing was measured.

    ``command`` is what to run where it was not tested enough.
    """

    name: str
    verdict: Verdict
    shape: str = ""
    valid: bool = True
    result: AttackResult | None = None
    probed: Probed | None = None
    cost: Cost | None = None
    guarantee: Guarantee | None = None
    command: str = ""

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attacks that were made, the best first."""
        if self.result is None:
            return ()
        best = best_of(self.result.attempts)
        return (best, *(attempt for attempt in self.result.attempts if attempt is not best))

    @property
    def ratio(self) -> float:
        """The least mse that any attack got, over the class-mean floor's; NaN without attacks."""
        ratios = [attempt.scores.ratio for attempt in self.attempts]
        return min((ratio for ratio in ratios if not math.isnan(ratio)), default=NAN)

    @property
    def named(self) -> float:
        """The most images that any attack named, a share; NaN where nothing was held against each other."""
        return max((a.identified.top1 for a in self.attempts if a.identified.images), default=NAN)

    @property
    def named_within(self) -> float:
        """The same among images of one class."""
        return max((a.identified.within for a in self.attempts if a.identified.images), default=NAN)


class Line(NamedTuple):
    """A curve: ``x`` and ``y`` of one length."""

    name: str
    x: Sequence[float | int]
    y: Sequence[float | int]


class Plot(NamedTuple):
    """Curves over one axis.

    Attributes:
      title: what is drawn.
      unit: of y.
      lines: the curves.
      over: what x is.
      log: whether y is drawn on a logarithmic scale.
      marked: an x that is marked, and why; None if nothing is.
    """

    title: str
    unit: str
    lines: tuple[Line, ...]
    over: str
    log: bool = False
    marked: tuple[float, str] | None = None


class Absent(NamedTuple):
    """A part that the page has nothing for: why, and the command that makes it."""

    why: str
    command: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class RunRecord:
    """All that is known of one run.

    Attributes:
      name: of its folder.
      folder: as a person would type it.
      about: what it is, in a few words: data set, network, label smoothing.
      cuts: in their order of computation.
      class_names: one a class.
      accuracy: of the network on the test images; NaN if it could not be opened.
      images: how many those are.
      image_bytes: of one of them, as the edge gets it; 0 if that is not known.
      confusion: (K, K) counts, true class by predicted one; None if the network could not be opened.
      training, ledger: curves, or why there are none.
      absent: section -> why it is empty: "probe", "attacks", "cost", "confusion", "guarantees".
      settings: section -> name -> value.
      fingerprint: of the data.
      versions: package -> version, as the run was trained.
      caveats: what a reader must bear in mind, in sentences.
      left_out: what could not be read, in sentences.
    """

    name: str
    folder: str
    about: str
    cuts: tuple[CutRecord, ...]
    class_names: tuple[str, ...]
    accuracy: float = NAN
    images: int = 0
    image_bytes: int = 0
    confusion: np.ndarray | None = None
    training: tuple[Plot, ...] | Absent = ()
    ledger: tuple[Plot, ...] | Absent = ()
    absent: Mapping[str, Absent] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    fingerprint: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """A page: runs with the same cuts on the same data, and by what and when it was made."""

    runs: tuple[RunRecord, ...]
    version: str
    made: str = ""

    @property
    def cuts(self) -> tuple[str, ...]:
        """Names of the cuts, in their order of computation."""
        return tuple(cut.name for cut in self.runs[0].cuts)
