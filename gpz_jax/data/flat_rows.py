"""Arrays of which a step takes some rows: stored flat, so that taking them costs what is taken and no more.

Of images stored as ``(N, h, w, C)`` a TPU's compiler lays out all N anew before it gathers a batch, at every step.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, PartitionSpec


@partial(jax.tree_util.register_dataclass, data_fields=("flat",), meta_fields=("shape",))
@dataclasses.dataclass(frozen=True)
class FlatRows:
    """N arrays of one shape, a row each. A pytree, so that it goes to devices and through jit as an array does.

    Attributes:
      flat: ``(N, D)``, D the product of ``shape``.
      shape: of one of them.
    """

    flat: Any
    shape: tuple[int, ...]

    @staticmethod
    def of(rows: Any) -> "FlatRows":
        """Rows ``(N, …)`` of numpy or jax, stored flat.

        >>> import numpy as np
        >>> FlatRows.of(np.zeros((4, 2, 2, 1), np.uint8)).flat.shape
        (4, 4)
        """
        return FlatRows(rows.reshape(len(rows), math.prod(rows.shape[1:])), tuple(rows.shape[1:]))

    def __len__(self) -> int:
        return self.flat.shape[0]

    def __getitem__(self, places: Any) -> Any:
        """The rows of these places, ``(n, …)`` in their own shape.

        >>> import numpy as np
        >>> FlatRows.of(np.arange(8).reshape(4, 2, 1))[np.array([3, 0])].tolist()
        [[[6], [7]], [[0], [1]]]
        """
        return self.flat[places].reshape(len(places), *self.shape)


@partial(jax.tree_util.register_dataclass, data_fields=("flat",), meta_fields=("shape",))
@dataclasses.dataclass(frozen=True)
class BatchRows:
    """The rows of one batch, ``(B, D)`` spread over the devices, already in the order in which a step takes them."""

    flat: Any
    shape: tuple[int, ...]


@partial(jax.tree_util.register_dataclass, data_fields=("flat",), meta_fields=("shape",))
@dataclasses.dataclass(frozen=True)
class DealtRows:
    """Rows ``(N', D)`` dealt to the devices of a mesh, N' a multiple of their number; as :class:`FlatRows` else."""

    flat: Any
    shape: tuple[int, ...]

    def take(self, places: Array, mesh: Mesh) -> Array:
        """The rows of these places, ``(B, …)``, spread over the devices as the places are.

        Every device gives what it has of the whole batch, and gets the sum for its part: of each row one device has
        the values, and the others zeros. What goes between devices is a batch, whatever N is.
        """

        def of_one(flat: Array, mine: Array) -> Array:
            asked = jax.lax.all_gather(mine, "data", tiled=True) - jax.lax.axis_index("data") * len(flat)
            here = (asked >= 0) & (asked < len(flat))
            rows = jnp.where(here[:, None], flat[jnp.clip(asked, 0, len(flat) - 1)], 0)
            return jax.lax.psum_scatter(rows, "data", scatter_dimension=0, tiled=True)

        spread = PartitionSpec("data")
        found = jax.shard_map(of_one, mesh=mesh, in_specs=(spread, spread), out_specs=spread)(self.flat, places)
        return found.reshape(len(places), *self.shape)


#: What a step takes its batch from.
Images = FlatRows | DealtRows | BatchRows | Array


def rows_at(images: Images, places: Array, mesh: Mesh) -> Array:
    """A batch of images, ``(B, h, w, C)`` spread over the devices, wherever they lie.

    Args:
      images: all of them, or those of the batch.
      places: int ``(B,)``, spread; of a batch that was read for this step they are not looked at.
      mesh: devices.
    """
    if isinstance(images, DealtRows):
        return images.take(places, mesh)
    if isinstance(images, BatchRows):
        return images.flat.reshape(len(images.flat), *images.shape)
    return jnp.asarray(images[places])
