"""The noise on what is sent, as the variance of a Gaussian: what guarantees rest on.

An edge that sends z as uint8 rounds it to steps Δ = (high - low)/255; the error of rounding is taken for Gaussian
noise of its variance, Δ²/12, the same in every unit. A defence ``gaussian:S`` adds (S σ)².
"""

import math
from typing import NamedTuple

from gpz_jax.defences import LEVELS, UINT8, Defence, Reference


class Noise(NamedTuple):
    """Gaussian noise on every unit of z.

    Attributes:
      variance: s² in the unit of z squared; 0: none, NaN: no Gaussian stands for it.
      words: where it comes from, and what is assumed.
    """

    variance: float
    words: tuple[str, ...] = ()


def noise_of(defence: Defence, reference: Reference, *, payload: str = UINT8) -> Noise:
    """Noise of a defended edge that sends ``payload``.

    s² = Σ (S σ)² over ``gaussian:S`` + Δ²/12 for every rounding to uint8, the payload's included, unless the defence
    has rounded already. What a defence does to z after that noise can take information away, not add any (data
    processing), and counts for nothing. Before the noise, laplace, dropout and topk are no Gaussian: NaN.

    Args:
      defence: what the edge does to z.
      reference: range and spread of z, of the defender's images.
      payload: "uint8", or what rounds z so little that it counts as no noise ("float32", "bfloat16").

    Example:
      >>> from gpz_jax.defences import NONE, parse
      >>> noise_of(NONE, Reference(0.0, 255.0, 3.0)).variance == 1 / 12
      True
      >>> noise_of(parse("gaussian:0.5+topk:0.1"), Reference(0.0, 255.0, 3.0)).variance
      2.25
      >>> noise_of(NONE, Reference(0.0, 255.0, 3.0), payload="float32").words
      ('what is sent has no noise (float32): no floor under an attack',)
    """
    steps = list(defence.steps)
    if payload == UINT8 and not any(name == UINT8 for name, _ in steps):
        steps.append((UINT8, float(LEVELS)))
    step = (float(reference.high) - float(reference.low)) / (LEVELS - 1)
    variance, words = 0.0, []
    for name, strength in steps:
        if name == UINT8:
            variance += step**2 / 12
            words.append(
                f"rounding to uint8 is taken for Gaussian noise of its variance, (range / 255)²/12, {step:.3g} a step"
            )
        elif name == "gaussian":
            variance += (strength * float(reference.scale)) ** 2
            words.append(f"Gaussian noise of {strength:g} spreads of z, known to the attacker but for its draw")
        elif variance > 0:
            words.append(f"{name} and what follows it add nothing to what is known of the input")
            break
        else:
            return Noise(math.nan, (f"{name} is no Gaussian noise: no floor is worked out for it",))
    if not variance > 0:
        words = [f"what is sent has no noise ({payload}): no floor under an attack"]
    return Noise(variance, tuple(words))
