"""What an attacker may do to z before the decoder: normalise it, add its spectrum, perturb it.

Enrichments add no information about x. They may make what z has easier to learn from.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gpz_jax.convolutions import Conv
from gpz_jax.errors import UserError, did_you_mean

NONE = "none"

#: What :class:`Enrich` can do, in the order in which the help lists it.
ENRICHMENTS = ("normalize", "fft_residual", "fft_concat", "dropout_residual", "dropout_concat")


def parse_enrichment(text: str) -> tuple[str, ...]:
    """Read enrichments separated by plus signs, to be applied in that order; ``none`` or nothing is none.

    Raises :class:`UserError` for a name that is not in :data:`ENRICHMENTS`.

    >>> parse_enrichment("normalize+dropout_concat"), parse_enrichment("none"), parse_enrichment("")
    (('normalize', 'dropout_concat'), (), ())
    >>> parse_enrichment("normalise")
    Traceback (most recent call last):
    gpz_jax.errors.UserError: unknown enrichment 'normalise'; did you mean 'normalize'?
    """
    steps = tuple(step.strip() for step in text.split("+"))
    if steps in (("",), (NONE,)):
        return ()
    _check(steps, (*ENRICHMENTS, NONE) if len(steps) == 1 else ENRICHMENTS)  # "none" stands alone
    return steps


def _check(steps: tuple[str, ...], known: tuple[str, ...] = ENRICHMENTS) -> None:
    for step in steps:
        if step not in ENRICHMENTS:
            raise UserError(f"unknown enrichment {step!r}{did_you_mean(step, known)}")


class Enrich(nn.Module):
    """Apply ``steps`` to z in their order; "residual" keeps the shape, "concat" doubles the last axis.

    - ``normalize``: every image to mean 0 and standard deviation 1, per channel over positions (instance
      norm, Ulyanov et al. 2016), or over all units where z is a vector or has one position (layer norm
      without parameters, Ba et al. 2016). The decoder standardises too, per channel over the data set (the
      paper's global per-channel normalisation). This goes further: it also takes from each image its own
      mean and contrast, which may be a nuisance or may be what z had to say;
    - ``fft_residual``, ``fft_concat``: z + e or [z, e], e the log-spectrum of :func:`spectrum` (the paper's
      released code, Golden Partition Zone, arXiv 2506.15412);
    - ``dropout_residual``, ``dropout_concat``: z + g(z) or [z, g(z)], g a :class:`Perturbation`.

    The scale of z matters to a residual, and to the logarithm in e: both e and g(z) are of order 1, and so
    should z be. Standardise it first wherever a cut may have rescaled it.

    z of any float dtype is a grid (N, h, w, c) or a vector (N, d); all is computed in float32. Steps with
    dropout draw from the "dropout" stream, in training only.

    >>> enrich, z = Enrich(("normalize", "fft_concat")), jax.random.normal(jax.random.key(0), (6, 4, 4, 3))
    >>> enrich.apply({}, z, train=False).shape
    (6, 4, 4, 6)
    """

    steps: tuple[str, ...]
    rate: float = 0.3

    @nn.compact
    def __call__(self, z: Float[Array, "N ..."], *, train: bool) -> Float[Array, "N ..."]:
        """Enrich a batch; ``train`` lets dropout draw."""
        _check(self.steps)
        if z.ndim not in (2, 4):
            raise UserError(f"cannot enrich z of shape {z.shape[1:]} (batch left out): give (h, w, channels) or (d,)")
        if not 0 <= self.rate < 1:
            raise UserError(f"dropout rate {self.rate}: give at least 0 and less than 1")
        z = z.astype(jnp.float32)
        for i, step in enumerate(self.steps, start=1):
            what, _, how = step.partition("_")
            if what == "normalize":
                z = normalize(z)
                continue
            extra = spectrum(z) if what == "fft" else Perturbation(self.rate, name=f"perturb_{i}")(z, train=train)
            z = z + extra if how == "residual" else jnp.concatenate([z, extra], axis=-1)
        return z


class Perturbation(nn.Module):
    """A small network with dropout, of z's own shape.

    ::

        grid:    g = Conv1x1(ChannelDropout(ReLU(norm(Conv3x3(z)))))      c hidden channels
        vector:  g = Dense(Dropout(ReLU(norm(Dense(z)))))                 min(d, 512) hidden units

    The norm is :func:`normalize`, without scale or shift: an instance norm, or a layer norm where there is one
    position. Channel dropout takes whole channels (Tompson et al. 2015).
    """

    rate: float

    @nn.compact
    def __call__(self, z: Float[Array, "N ..."], *, train: bool) -> Float[Array, "N ..."]:
        """Perturb z; ``train`` lets dropout draw."""
        c, grid = z.shape[-1], z.ndim == 4
        if grid:
            first, last = Conv(c, (3, 3), use_bias=False, name="in"), Conv(c, (1, 1), name="out")
        else:
            first, last = nn.Dense(min(c, 512), use_bias=False, name="in"), nn.Dense(c, name="out")
        hidden = nn.relu(normalize(first(z)))
        return last(nn.Dropout(self.rate, broadcast_dims=(1, 2) if grid else (), deterministic=not train)(hidden))


def normalize(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Bring every image to mean 0 and standard deviation 1: per channel over positions, or over all units.

    What is constant becomes 0. A vector and a grid of one position are normalised over units.

    >>> print(normalize(jnp.array([[1.0, 3.0], [5.0, 5.0]])))
    [[-1.  1.]
     [ 0.  0.]]
    """
    per_channel = z.ndim == 4 and z.shape[1] * z.shape[2] > 1
    return _standardise(z, (1, 2) if per_channel else tuple(range(1, z.ndim)))


def spectrum(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(1 + |Re F| + |Im F|) per image at mean 0 and standard deviation 1, over all its units.

    F is the unitary discrete Fourier transform of z: over both position axes of a grid, over the units of a
    vector.

    >>> print(spectrum(jnp.ones((1, 4))).round())
    [[ 2. -1. -1. -1.]]
    """
    f = jnp.fft.fftn(z, axes=(1, 2) if z.ndim == 4 else (1,), norm="ortho")
    # The gradient of |u| at 0 is 0 in JAX, that of a complex modulus NaN: hence the parts.
    e = jnp.log1p(jnp.abs(f.real) + jnp.abs(f.imag))
    return _standardise(e, tuple(range(1, z.ndim)))


def _standardise(z: Float[Array, "*shape"], axes: tuple[int, ...]) -> Float[Array, "*shape"]:
    centred = z - z.mean(axes, keepdims=True)
    # The epsilon stands under the root, whose gradient at 0 is infinite; the decoder has the same, 1e-8.
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + 1e-8)
