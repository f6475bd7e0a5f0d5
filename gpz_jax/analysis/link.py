"""The network between the two halves: what it adds to their time."""

import math
import re
from typing import NamedTuple

from gpz_jax.errors import UserError

_BITS = {"bps": 1.0, "kbps": 1e3, "Mbps": 1e6, "Gbps": 1e9}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class Link(NamedTuple):
    """A link from edge to cloud.

    Attributes:
      bandwidth: bits a second, upwards.
      rtt: seconds there and back, without anything sent.
    """

    bandwidth: float
    rtt: float = 0.0

    def seconds(self, payload: int) -> float:
        """Seconds until the answer to a payload of so many bytes is back: rtt + 8 payload / bandwidth.

        Of the answer, a few logits, the way back is counted and not its size; nor are headers and lost packets.

        >>> Link(5e6, 0.02).seconds(1000)
        0.0216
        """
        return self.rtt + 8 * payload / self.bandwidth


def parse_link(bandwidth: str | None, rtt: str | None) -> Link | None:
    """The link that two flags describe; None without them.

    Args:
      bandwidth: such as "5Mbps"; of bps, kbps, Mbps, Gbps.
      rtt: such as "20ms"; of us, ms, s. Default: 0.

    Raises:
      UserError: another form; nothing a second; a round trip without a bandwidth.

    Example:
      >>> parse_link("5Mbps", "20ms")
      Link(bandwidth=5000000.0, rtt=0.02)
    """
    if bandwidth is None:
        if rtt is not None:
            raise UserError("--rtt needs --bandwidth beside it, such as --bandwidth 5Mbps")
        return None
    bits = _quantity(bandwidth, _BITS)
    if not (bits > 0 and math.isfinite(bits)):
        raise UserError(
            f"bandwidth must be a positive number with a unit of {', '.join(_BITS)}, such as 5Mbps, got {bandwidth!r}",
            field="bandwidth",
        )
    seconds = 0.0 if rtt is None else _quantity(rtt, _SECONDS)
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise UserError(
            f"rtt must be a number with a unit of {', '.join(_SECONDS)}, such as 20ms, got {rtt!r}", field="rtt"
        )
    return Link(bits, seconds)


def _quantity(text: str, units: dict[str, float]) -> float:
    """A number with one of the units, whatever its case where that is unambiguous; NaN for anything else."""
    found = re.fullmatch(r"\s*(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)\s*([A-Za-z]+)\s*", text)
    named = {name.lower(): factor for name, factor in units.items()}
    if found is None or found[2].lower() not in named:
        return math.nan
    return float(found[1]) * named[found[2].lower()]
