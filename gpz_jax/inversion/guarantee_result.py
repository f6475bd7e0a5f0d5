"""What comes of the guarantees at a cut, as a typed result: it knows neither the network nor the disk."""

import dataclasses
import math

from gpz_jax.presentation import number, text_table

NAN = math.nan


@dataclasses.dataclass(frozen=True)
class Guarantee:
    """What attackers do not get below at a cut, if the assumptions hold; NaN where nothing can be said.

    Attributes:
      cut: where z is taken.
      images: how many were measured.
      noise: s, standard deviation of the noise on every unit of z, in its unit.
      mse_floor: 1/mean dFIL, of unbiased attackers, per element.
      mse_floor_se: its standard error, over images and probes.
      information: I(X; Z') in nats, at most.
      information_se: its standard error over images.
      nats: H(X | Z') in nats, at least, of inputs blurred by ``resolution``; an estimate.
      nats_se: the standard error that ``information`` brings into it.
      mse_entropy: the mean squared error per element that follows, of any attacker; an estimate.
      resolution: standard deviation of the blur.
      assumptions: in words, one a line.
    """

    cut: str
    images: int = 0
    noise: float = NAN
    mse_floor: float = NAN
    mse_floor_se: float = NAN
    information: float = NAN
    information_se: float = NAN
    nats: float = NAN
    nats_se: float = NAN
    mse_entropy: float = NAN
    resolution: float = NAN
    assumptions: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """A table of 80 columns."""
        columns = {
            "mse floor, unbiased": f"{number(self.mse_floor)} ± {number(self.mse_floor_se, 2)}",
            "I(X;Z) <=": number(self.information),
            "H(X|Z) >=": number(self.nats),
            "mse from it": number(self.mse_entropy),
        }
        return text_table(f"guarantee at {self.cut}", {k: [v] for k, v in columns.items()}, self.assumptions)
