"""Light perturbations of z at the edge, so that a cut in the zone *and* a perturbation can face the same attackers.

A defence is written as text, ``gaussian:0.5+uint8``, and applied from left to right. With S the strength, D the units
of one z, and σ, low, high from a :class:`Reference`, in z's own unit unless a share:

  gaussian:S   z + S σ n, n ~ N(0, 1)                             noise of standard deviation S σ
  laplace:S    z + S σ/√2 n, n ~ Laplace(0, 1)                    of the same standard deviation, S σ
  dropout:P    each unit 0 with probability P, else z / (1 - P)    unbiased: E[output] = z
  topk:F       all but the round(F D) units of largest |z| are 0   at least one is kept
  uint8        low + Δ round((clip(z, low, high) - low) / Δ), Δ = (high - low)/255

Noise on the representation and dropout as defences: He, Zhang and Lee, "Attacking and protecting data privacy in
edge-cloud collaborative inference systems" (2020).
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32

from gpz_jax import parallel
from gpz_jax.errors import UserError, did_you_mean

#: Perturbations with a strength: whether it may be so, and what it may be.
STRENGTHS = {
    "gaussian": (lambda s: 0 < s < math.inf, "a noise-to-spread ratio above 0"),
    "laplace": (lambda s: 0 < s < math.inf, "a noise-to-spread ratio above 0"),
    "dropout": (lambda s: 0 < s < 1, "a probability between 0 and 1, both excluded"),
    "topk": (lambda s: 0 < s <= 1, "a share of the units above 0 and at most 1"),
}
UINT8 = "uint8"
LEVELS = 256
KNOWN = (*STRENGTHS, UINT8)


@dataclasses.dataclass(frozen=True)
class Defence:
    """Perturbations in the order in which they are applied; hashable, so that it can be static under jit.

    Attributes:
      steps: name and strength of each; the strength of ``uint8`` is its number of levels, 256.

    Raises:
      UserError: an unknown name (with the nearest one), a strength out of range.

    Example:
      >>> str(Defence((("gaussian", 0.5), ("uint8", 256.0))))
      'gaussian:0.5+uint8'
    """

    steps: tuple[tuple[str, float], ...] = ()

    def __post_init__(self):
        for name, strength in self.steps:
            if name not in KNOWN:
                raise UserError(f"unknown defence {name!r}{did_you_mean(name, KNOWN)}")
            if name == UINT8:
                if strength != LEVELS:
                    raise UserError(f"uint8 has {LEVELS} levels, not {strength:g}")
                continue
            allowed, what = STRENGTHS[name]
            if not allowed(strength):
                raise UserError(f"{name}:{strength:g}: give {what}")

    @property
    def random(self) -> bool:
        """Whether two applications differ."""
        return any(name in ("gaussian", "laplace", "dropout") for name, _ in self.steps)

    def __str__(self) -> str:
        return "+".join(name if name == UINT8 else f"{name}:{_number(s)}" for name, s in self.steps) or "none"


def _number(strength: float) -> str:
    return repr(float(strength)).replace("e+", "e")  # a plus sign would end the perturbation


#: Sends z as it is.
NONE = Defence()


def parse(text: str) -> Defence:
    """Read perturbations joined by plus signs; "none" or nothing is :data:`NONE`. ``str`` gives the text back.

    Raises:
      UserError: an unknown name (with the nearest one); a strength that is missing, not a number or out of range; a
        strength given to uint8.

    Example:
      >>> parse("gaussian:0.5 + uint8").steps
      (('gaussian', 0.5), ('uint8', 256.0))
      >>> parse("gausian:0.5")
      Traceback (most recent call last):
      gpz_jax.errors.UserError: unknown defence 'gausian'; did you mean 'gaussian'?
    """
    if text.strip() in ("", "none"):
        return NONE
    return Defence(tuple(_parse_step(step.strip()) for step in text.split("+")))


def _parse_step(step: str) -> tuple[str, float]:
    name, colon, strength = (part.strip() for part in step.partition(":"))
    if name not in KNOWN:
        raise UserError(f"unknown defence {name!r}{did_you_mean(name, KNOWN)}")
    if name == UINT8:
        if colon:
            raise UserError(f"{step!r}: uint8 takes no strength; write uint8")
        return name, float(LEVELS)
    try:
        return name, float(strength)
    except ValueError:
        problem = f"{strength!r} is not a number" if strength else "its strength is missing"
        raise UserError(f"{step!r}: {problem}; give {STRENGTHS[name][1]}, such as {name}:0.5") from None


class Reference(NamedTuple):
    """What perturbations are measured against, from images the defender has; scalars in z's unit.

    Attributes:
      low: least value of any unit.
      high: largest value of any unit.
      scale: σ, standard deviation over images and units together, about their one mean.
    """

    low: Float32[Array, ""]
    high: Float32[Array, ""]
    scale: Float32[Array, ""]


def reference(batches: Iterable[Float[Array | np.ndarray, "_ ..."]]) -> Reference:
    """The :class:`Reference` of all batches of z ``(N, …)`` together, in one pass.

    Each batch is centred on its own mean before it is squared; with n, m and S its count, mean and scatter, the whole
    has σ² = Σ (S + n (m - μ)²) / Σ n, μ = Σ n m / Σ n (Chan, Golub and LeVeque 1983), summed in float64. So nothing
    cancels where means are large.

    Raises:
      UserError: no images; a z that is not finite.

    Example:
      >>> [round(float(v), 4) for v in reference([jnp.array([[1.0, 3.0]]), jnp.array([[5.0, 7.0]])])]
      [1.0, 7.0, 2.2361]
    """
    # Fetched at the end, not batch by batch: the device need not wait for the host.
    found = [(z.size, *parallel.in_turn(_moments(jnp.asarray(z)))) for z in batches if z.size]
    if not found:
        raise UserError("there are no images to measure the representation's range and spread on")
    count, low, high, mean, scatter = np.asarray(parallel.fetch(found), np.float64).T
    overall = np.sum(count * mean) / np.sum(count)
    variance = np.sum(scatter + count * (mean - overall) ** 2) / np.sum(count)
    if not np.isfinite([low.min(), high.max(), variance]).all():
        raise UserError("the representation has values that are not finite: this cut cannot be defended")
    return Reference(*(jnp.float32(value) for value in (low.min(), high.max(), math.sqrt(variance))))


@jax.jit
def _moments(z):
    z = z.astype(jnp.float32)
    mean = jnp.mean(z)
    return jnp.min(z), jnp.max(z), mean, jnp.sum((z - mean) ** 2)


def apply(
    defence: Defence, z: Float[Array, "N *units"], key: Array, reference: Reference
) -> Float32[Array, "N *units"]:
    """What is sent in place of z; the formulas are the module's.

    The same key draws the same noise, so give every query its own. Nothing of σ, low or high is measured on z itself,
    else what is sent for an image would depend on its batch. Rounding has no slope: gradients through ``uint8`` are 0.

    Args:
      defence: what :func:`parse` read; static under jit.
      z: representations ``(N, …)``, of any float dtype.
      key: of the noise; unused unless ``defence.random``.
      reference: of z before any defence.

    Returns:
      float32 of z's shape.

    Example:
      >>> z, reference = jnp.array([[3.0, -4.0, 1.0]]), Reference(*jnp.float32([-4, 4, 1]))
      >>> apply(parse("topk:0.3"), z, jax.random.key(0), reference).tolist()
      [[0.0, -4.0, 0.0]]
    """
    z = z.astype(jnp.float32)
    for i, (name, strength) in enumerate(defence.steps):
        z = _PERTURBATIONS[name](z, strength, jax.random.fold_in(key, i), reference)
    return z


def _gaussian(z, strength, key, reference):
    return z + strength * reference.scale * jax.random.normal(key, z.shape)


def _laplace(z, strength, key, reference):
    # Laplace(0, b) has variance 2 b².
    return z + strength * reference.scale / math.sqrt(2) * jax.random.laplace(key, z.shape)


def _dropout(z, strength, key, reference):
    return jnp.where(jax.random.bernoulli(key, 1 - strength, z.shape), z / (1 - strength), 0.0)


def _topk(z, strength, key, reference):
    flat = z.reshape(len(z), -1)  # (N, D)
    kept = max(1, round(strength * flat.shape[1]))
    # Places, not a threshold: of units that tie at it, exactly as many are kept as fit, the first ones.
    _, places = jax.lax.top_k(jnp.abs(flat), kept)
    rows = jnp.arange(len(flat))[:, None]
    return jnp.zeros_like(flat).at[rows, places].set(flat[rows, places]).reshape(z.shape)


def _uint8(z, strength, key, reference):
    low, high, _ = reference
    step = (high - low) / (strength - 1)
    step = jnp.where(step > 0, step, 1.0)  # a z that never varies: all become low
    return low + step * jnp.round((jnp.clip(z, low, high) - low) / step)


_PERTURBATIONS = {
    "gaussian": _gaussian,
    "laplace": _laplace,
    "dropout": _dropout,
    "topk": _topk,
    UINT8: _uint8,
}
