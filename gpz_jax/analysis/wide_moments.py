"""Where K x D numbers of every cut lie: whole on every device, or where they would fill it, D dealt to the devices.

Of K = 530 classes the record of a probe is 9 GB at all cuts of IR-152, and 51 GB at those of ResNet-50 (64x64).
"""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpz_jax import memory

#: Share of a device's memory beyond which the moments of all cuts are dealt.
WHOLE = 1 / 8


def are_dealt(num_classes: int, width: int, mesh: Mesh | None, there: int | None = None) -> bool:
    """Whether moments of K classes at cuts that are ``width`` = ΣD wide are dealt: origin and offset, float32.

    8 K ΣD bytes on each of several devices, against ``WHOLE`` of what one may hold, or of ``there``.

    >>> are_dealt(530, 10**15, None)
    False
    """
    if mesh is None or mesh.size == 1:
        return False
    return 8 * num_classes * width > WHOLE * (memory.of_one(mesh) if there is None else there)


def place(dimension: int, mesh: Mesh) -> NamedSharding:
    """Of arrays ``(K, D)``: D dealt to the devices; whole on each where it does not divide, as at the logits."""
    return NamedSharding(mesh, PartitionSpec() if dimension % mesh.size else PartitionSpec(None, "data"))


def stay(array: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Under jit: an array ``(K, D)`` in its :func:`place`; as it is without a mesh."""
    return array if mesh is None else jax.lax.with_sharding_constraint(array, place(array.shape[1], mesh))


def turned(rows: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Under jit: a batch ``(N, D)``, whose images are spread, with D dealt; as it is where nothing is dealt.

    Each device sends its own activations on, once, and all that follows is summed by class where it lies: else the
    sums of all classes, K x D, would travel between the devices at every cut of every batch.
    """
    if mesh is None or rows.shape[1] % mesh.size:
        return rows
    # Spread on the way in, by word: the network would follow what becomes of its activations.
    rows = jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, PartitionSpec("data")))
    return stay(rows, mesh)
