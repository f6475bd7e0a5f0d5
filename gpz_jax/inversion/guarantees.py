"""What lies under the attack curve: two estimates of the error of any attacker, without an attack.

The attacker gets Z' = z(X) + N(0, s² I), X what is rebuilt, d numbers.

1. Fisher information. dFIL(x) = tr(J^T J)/(d s²), J = dz/dx. An unbiased attacker, one whose answers to the same x
   are x on average over the noise, has at x a mean squared error of at least 1/dFIL(x) per element; over images, by
   Jensen's inequality, of at least 1/mean dFIL. Attackers who know what images look like are biased, and may do better.
   Guo, Karrer, Chaudhuri and van der Maaten, "Bounding training data reconstruction in private (deep) learning" (ICML
   2022); Maeng, Guo, Kariyappa and Suh, "Bounding the invertibility of privacy-preserving instance encoding using
   Fisher information" (NeurIPS 2023).
2. Conditional entropy. h(X | Z') >= h(X | C) - Σ_c π_c ½ ln det(I + Σ_c/s²), C the class and Σ_c the covariance of z in
   it; any attacker, biased or not, has on average an error of at least exp(2 h(X | Z')/d)/(2πe). Xia et al. (CVPR
   2025), see ``mixture.py``; theirs is h(X) less H(C) more, which is this one where classes do not overlap.

What is sure of it, and what is not. The noise is taken for Gaussian. Given that, the first is a bound for unbiased
attackers, and the information in the second is one for any z with these covariances. h(X | C) is an estimate and no
bound: a Gaussian has the largest entropy of its covariance, and images are none.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gpz_jax import parallel
from gpz_jax.inversion import mixture
from gpz_jax.inversion.attack_inputs import Inputs, Picked, check_cut, checked_inputs, inputs_of, what_is_rebuilt
from gpz_jax.inversion.guarantee_result import Guarantee
from gpz_jax.inversion.metrics import as_pixels
from gpz_jax.inversion.payload_noise import Noise
from gpz_jax.inversion.protocol import BATCH, images_of, pieces
from gpz_jax.inversion.slopes import Sent, send_flat, squared_slopes
from gpz_jax.seeds import seed_of
from gpz_jax.taps import TappedNetwork
from gpz_jax.taps.batch_axis import batch_size, rows_of
from gpz_jax.taps.input_leaves import public_leaves, values_by_name

#: Jvps an input, and inputs whose slopes are taken; numbers of inputs that are kept for their covariances.
PROBES, SLOPES, KEPT = 8, 256, 1 << 26

#: Standard deviation of an image of bytes that is known to the next byte.
BYTE = 1 / 255 / math.sqrt(12)


def guarantees_at(
    network: TappedNetwork,
    variables: Any,
    cut: str,
    test: Inputs,
    *,
    noise: Noise | float,
    key: Array,
    probes: int = PROBES,
    slopes: int = SLOPES,
    pixels: Callable[[Any], Array] | None = None,
    public: str | Iterable[str] = (),
    white_box: TappedNetwork | None = None,
    resolution: float = BYTE,
    batch: int = BATCH,
    mesh: Mesh | None = None,
) -> Guarantee:
    """The error of attackers at a cut, from below, without an attack; formulas and sources are the module's.

    Two forward passes, and ``probes`` jvps of ``slopes`` inputs; memory K x D (K x D x D for D up to 512), and the
    inputs themselves up to 256 MB.

    Args:
      network: the tapped network.
      variables: its variables.
      cut: where z is taken.
      test: inputs ``(N, …)``, as the network takes them, or a pair of them and their labels; without labels one
        Gaussian stands for all.
      noise: on what is sent, see :func:`~gpz_jax.inversion.payload_noise.noise_of`; a number is s².
      key: of the probes, and of the choice of inputs.
      probes: jvps an input; with as many as what is rebuilt has numbers, or more, the trace is exact.
      slopes: inputs whose slopes are taken, at most.
      pixels: inputs -> what is rebuilt, as of :func:`~gpz_jax.attack_cut`.
      public: likewise.
      white_box: the tapped network from what is rebuilt. Default: ``network``, where its inputs are floats and no
        ``pixels`` are given.
      resolution: blur of inputs under which their entropy is taken; by default that of a byte, in units of 1/255.
      batch: inputs a forward pass, over all devices; the result does not depend on it.
      mesh: devices; all by default.

    Returns:
      :class:`Guarantee`. Where there is none (no noise; ids in place of numbers; no way to differentiate) it says why.

    Raises:
      UserError: an unknown or bypassed cut; inputs or labels of a wrong kind or number.

    Example:
      >>> import flax.linen as nn
      >>> from gpz_jax.taps import tap
      >>> x = jax.random.normal(jax.random.key(1), (500, 2))
      >>> network = tap(nn.Sequential([lambda x: 2 * x]), {}, x)
      >>> found = guarantees_at(network, {}, "logits", x, noise=1.0, key=jax.random.key(0))
      >>> found.mse_floor, round(found.mse_entropy, 1)  # unbiased: 1/4; biased, of unit variance: 1/(1 + 4)
      (0.25, 0.2)
    """
    check_cut(network, variables, cut, inputs_of(test), public=public)
    noise = noise if isinstance(noise, Noise) else Noise(float(noise), ("the noise is Gaussian",))
    why_not, sent, rebuilt = _way(network, cut, test, pixels, public, white_box)
    if why_not or not noise.variance > 0:
        return Guarantee(cut, assumptions=(why_not,) if why_not else noise.words)
    x, labels = checked_inputs("test", test)
    component = mixture.components(labels, batch_size(x) or 0)
    mesh = parallel.data_mesh() if mesh is None else mesh
    variables, walk = parallel.everywhere(variables, mesh), _Walk(rebuilt, batch, mesh)
    told, error = _entropy_told(variables, x, component, sent, noise.variance, walk)
    inputs = mixture.inputs_spread(*_kept(x, component, walk), told.share)
    floor, floor_error = _unbiased(variables, x, sent, noise.variance, key, probes, slopes, walk)
    return Guarantee(
        cut,
        images=len(component),
        noise=math.sqrt(noise.variance),
        mse_floor=floor,
        mse_floor_se=floor_error,
        information=told.information,
        information_se=error,
        nats=inputs.entropy(resolution) - told.inside,
        nats_se=error,
        mse_entropy=mixture.error_of_entropy(inputs, told.inside, resolution),
        resolution=resolution,
        assumptions=(*noise.words, *_ASSUMED),
    )


_ASSUMED = (
    "mse floor: of unbiased attackers only, who do not know what inputs look like; a mean over the inputs measured",
    "I(X;Z): a bound for any z with these covariances in its classes, which are measured on the inputs given",
    "H(X|Z) and the mse from it: an estimate, as if the inputs of a class were Gaussian",
)


def _way(
    network: TappedNetwork,
    cut: str,
    test: Inputs,
    pixels: Callable[[Any], Array] | None,
    public: str | Iterable[str],
    white_box: TappedNetwork | None,
) -> tuple[str, Sent, Callable[[Any], Array]]:
    """Why z cannot be differentiated (empty: it can), z as a function of what is rebuilt, and what that is."""
    x = inputs_of(test)
    leaves = jax.tree.leaves(x)
    no = Sent(network, cut, None, "float32")
    hidden = [leaf for leaf, known in zip(leaves, public_leaves(x, public), strict=True) if not known]
    real = any(jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == np.uint8 for leaf in hidden)
    if pixels is None and not real:
        return "the input holds ids and no real numbers: there is no Fisher information of it", no, as_pixels
    rebuilt = what_is_rebuilt(test, pixels, public) or as_pixels
    if white_box is not None:
        return "", Sent(white_box, cut, None, "float32"), rebuilt
    picked = rebuilt.name if isinstance(rebuilt, Picked) else None
    leaf = values_by_name(x, [picked])[0] if picked else leaves[0]
    if (pixels is None or picked) and jnp.issubdtype(leaf.dtype, jnp.floating):
        return "", Sent(network, cut, picked, str(leaf.dtype)), rebuilt
    return "z has no derivative by what is rebuilt: give white_box=, the tapped network from it", no, rebuilt


class _Walk(NamedTuple):
    """How inputs are walked through: what is rebuilt of them, how many at a time, over which devices."""

    rebuilt: Callable[[Any], Array]
    batch: int
    mesh: Mesh

    def over(self, x: Any) -> Iterator[tuple[np.ndarray, np.ndarray, Any, Array]]:
        """(places, places with those that fill up, the inputs, what is rebuilt of them as floats), batch by batch."""
        at = 0
        for part, count in pieces(x, self.batch, mesh=self.mesh):
            places = np.arange(at, at + count)
            members = np.r_[places, np.zeros((batch_size(part) or 0) - count, int)]
            yield places, members, part, images_of(part, pixels=self.rebuilt).astype(jnp.float32)
            at += count


def _entropy_told(
    variables: Any,
    x: Any,
    component: np.ndarray,
    sent: Sent,
    variance: float,
    walk: _Walk,
) -> tuple[mixture.Told, float]:
    """What z tells at most, and its standard error over images: a pass for the covariances, and one for the error."""
    classes, spread = int(component.max()) + 1, None
    for at, members, part, what in walk.over(x):
        z = send_flat(variables, what, part, sent=sent)
        spread = parallel.beside(mixture.no_spread(classes, z.shape[1]), z) if spread is None else spread
        counts = jnp.asarray(np.arange(len(z)) < len(at), jnp.float32)
        spread = parallel.in_turn(mixture.widened(spread, z, jnp.asarray(component[members]), counts))
    assert spread is not None  # two inputs or more have been checked
    told = mixture.told(spread, variance)
    precision, lengths = jnp.asarray(told.precision, jnp.float32), np.zeros(len(component))
    for at, members, part, what in walk.over(x):
        z = send_flat(variables, what, part, sent=sent)
        found = mixture.lengths(spread, precision, z, jnp.asarray(component[members]))
        lengths[at] = parallel.fetch(found)[: len(at)]
    return told, mixture.standard_error(lengths, component)


def _kept(x: Any, component: np.ndarray, walk: _Walk) -> tuple[np.ndarray, np.ndarray]:
    """What is rebuilt of the inputs, as many as fit, and their components."""
    size = math.prod(
        jax.eval_shape(lambda x: walk.rebuilt(x), rows_of(x, slice(2))).shape[1:]
    )  # a tuple's like has no weak reference
    chosen = np.arange(len(component))
    if len(chosen) * size > KEPT:
        chosen = np.sort(np.random.default_rng(0).choice(len(component), max(KEPT // size, 2), replace=False))
    found = [parallel.fetch(what)[: len(at)] for at, _, _, what in walk.over(rows_of(x, chosen))]
    return np.concatenate(found), component[chosen]


def _unbiased(
    variables: Any,
    x: Any,
    sent: Sent,
    variance: float,
    key: Array,
    probes: int,
    slopes: int,
    walk: _Walk,
) -> tuple[float, float]:
    """1/mean dFIL, and its standard error by the delta method: se(mean dFIL)/(mean dFIL)²."""
    count = batch_size(x) or 0
    chosen = np.arange(count)
    if count > slopes:
        chosen = np.sort(np.random.default_rng(seed_of(key)).choice(count, slopes, replace=False))
    found = []
    for at, members, part, what in walk.over(rows_of(x, chosen)):
        places = jnp.asarray(chosen[members], jnp.int32)
        squares = squared_slopes(variables, what, part, places, key, sent=sent, probes=probes)
        found.append(parallel.fetch(squares)[: len(at)].astype(np.float64) / (what[0].size * variance))
    leakage = np.concatenate(found)
    mean = float(np.mean(leakage))
    if not mean > 0:
        return math.nan, math.nan  # z does not move with the input at all
    return 1 / mean, float(np.std(leakage, ddof=1)) / math.sqrt(len(leakage)) / mean**2
