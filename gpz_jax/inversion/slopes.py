"""How far z moves with its input: tr(J^T J) of every input, J = dz/dx, from probes, and none of J in full."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from gpz_jax.taps import TappedNetwork
from gpz_jax.taps.input_leaves import leaf_names


class Sent(NamedTuple):
    """z as a function of what is rebuilt, hashable.

    Attributes:
      network: the tapped network.
      cut: where z is taken.
      leaf: which array of the input is rebuilt, where it has several; None: the input is what is rebuilt.
      dtype: that the network takes it as.
    """

    network: TappedNetwork
    cut: str
    leaf: str | None
    dtype: str

    def __call__(self, variables: Any, rebuilt: Array, x: Any) -> Float[Array, "N D"]:
        """Z of a batch, one vector an input."""
        given = rebuilt.astype(self.dtype)
        if self.leaf is not None:
            leaves, tree = jax.tree.flatten(x)
            given = jax.tree.unflatten(
                tree,
                [given if name == self.leaf else leaf for name, leaf in zip(leaf_names(x), leaves, strict=True)],
            )
        z = self.network(variables, given)[1][self.cut]
        return z.reshape(z.shape[0], -1).astype(jnp.float32)


send_flat = partial(jax.jit, static_argnames="sent")(lambda variables, rebuilt, x, *, sent: sent(variables, rebuilt, x))


@partial(jax.jit, static_argnames=("sent", "probes"))
def squared_slopes(
    variables: Any,
    rebuilt: Float[Array, "N ..."],
    x: Any,
    places: Int[Array, " N"],
    key: Array,
    *,
    sent: Sent,
    probes: int,
) -> Float[Array, " N"]:
    """tr(J^T J) of every input, J = dz/dx ``(D, d)``.

    E ||J v||² over v with entries ±1 (Hutchinson 1990), the mean over ``probes`` draws, each one a jvp; unbiased. With
    ``probes`` >= d the unit vectors are taken in place of draws: the sum of ||J e_j||², exact.

    Args:
      variables: of the network.
      rebuilt: what is rebuilt, floats.
      x: the network's input, for its other arrays.
      places: a number for each input: the same one draws the same probes in any batch.
      key: of the probes.
      sent: z as a function of ``rebuilt``; every row of z must depend on its own input alone.
      probes: how many.

    Example:
      >>> import flax.linen as nn
      >>> from gpz_jax.taps import tap
      >>> network = tap(nn.Sequential([lambda x: 3 * x]), {}, jnp.ones((1, 2)))
      >>> ask = dict(sent=Sent(network, "logits", None, "float32"), probes=1)
      >>> squared_slopes({}, jnp.ones((1, 2)), None, jnp.arange(1), jax.random.key(0), **ask).tolist()
      [18.0]
    """
    size = rebuilt[0].size
    exact = probes >= size

    def direction(probe: Array) -> Array:
        if exact:
            unit = jnp.zeros(size, rebuilt.dtype).at[probe].set(1).reshape(rebuilt.shape[1:])
            return jnp.broadcast_to(unit, rebuilt.shape)
        own = jax.vmap(lambda place: jax.random.fold_in(jax.random.fold_in(key, probe), place))(places)
        return jax.vmap(lambda k: jax.random.rademacher(k, rebuilt.shape[1:], rebuilt.dtype))(own)

    def squares(probe: Array) -> Array:
        moved = jax.jvp(lambda r: sent(variables, r, x), (rebuilt,), (direction(probe),))[1]
        return jnp.sum(moved * moved, axis=1)

    found = jax.lax.map(squares, jnp.arange(size if exact else probes))
    return jnp.sum(found, axis=0) if exact else jnp.mean(found, axis=0)
