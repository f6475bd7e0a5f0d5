"""Read, nudge and replace named activations of any Flax model, without touching its code.

A :class:`TappedNetwork` returns the activations asked for, adds an offset to them (so that one backward pass gives the
gradient at every cut), or puts others in their place (so that the cloud half runs from a given representation z). What
is not asked for costs nothing: XLA removes dead code, so returning only ``taps["block_3"]`` compiles just the edge
half. Flax NNX models are tapped by ``gpz_jax.taps_nnx.tap_nnx``, which finds the modules' outputs in another way and
shares all the rest.
"""

from gpz_jax.taps.finding import tap
from gpz_jax.taps.linen_visit import Tap
from gpz_jax.taps.splitting import split_at
from gpz_jax.taps.tapped_network import LOGITS, TappedNetwork, Variables, check_real, tap_shapes
from gpz_jax.taps.validity import valid_cuts

__all__ = ["LOGITS", "Tap", "TappedNetwork", "Variables", "check_real", "split_at", "tap", "tap_shapes", "valid_cuts"]
