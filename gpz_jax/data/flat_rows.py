"""Arrays of which a step takes some rows: stored flat, so that taking them costs what is taken and no more.

Of images stored as ``(N, h, w, C)`` a TPU's compiler lays out all N anew before it gathers a batch, at every step.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax


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
