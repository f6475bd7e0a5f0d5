"""One mesh axis, ``data``: batches are spread over it, the state is on every device. One device is the 1-mesh.

The devices are those of all processes. Each process holds the whole of what it passes in here, alike in all of them,
and gives its own devices their part of it: nothing goes over the network.
"""

from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gpz_jax.errors import UserError

T = TypeVar("T")


def data_mesh() -> Mesh:
    """All devices along one axis named ``data``."""
    # Auto axes: under the default (Explicit) ones Linen's Dropout fails with a ShardingTypeError.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicate(tree: T, mesh: Mesh) -> T:
    """The same values on every device."""
    return _put(tree, NamedSharding(mesh, PartitionSpec()))


def everywhere(tree: T, mesh: Mesh) -> T:
    """:func:`replicate` over several devices; on one, the values lie where they lay."""
    return tree if mesh.size == 1 else replicate(tree, mesh)


def shard(batch: T, mesh: Mesh) -> T:
    """Spread the leading axis over the devices. Raises :class:`UserError` for one that does not divide evenly."""
    for leaf in jax.tree.leaves(batch):
        if leaf.shape[0] % mesh.size:
            raise UserError(
                f"a batch of {leaf.shape[0]} cannot be spread over {mesh.size} devices: pad it to a multiple of that"
            )
    return _put(batch, NamedSharding(mesh, PartitionSpec("data")))


def _put(tree: T, place: NamedSharding) -> T:
    if place.is_fully_addressable:
        return jax.device_put(tree, place)

    def put(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(place, leaf.ndim):
            return leaf
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(_same, out_shardings=place)(leaf)
        # Not by device_put, which would have all processes compare their values: every one of them, over the network.
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, place, lambda part: whole[part])

    return jax.tree.map(put, tree)


def _same(array: Array) -> Array:
    return array


def as_lies(value: Any, other: jax.Array) -> Any:
    """An array in the place of another."""
    if isinstance(other.sharding, NamedSharding):
        return _put(value, other.sharding)
    return jax.device_put(value, other.sharding)


def rounded_up(count: int, mesh: Mesh | None) -> int:
    """The least number of rows, no fewer than these, that spread evenly over the devices.

    >>> rounded_up(5, None)
    5
    """
    return count if mesh is None else -(-count // mesh.size) * mesh.size


def spread(tree: T, mesh: Mesh) -> T:
    """Rows of any number, spread: the first one fills them up to a multiple of the devices.

    On one device they are as they were, and lie where they lay.
    """
    if mesh.size == 1:
        return tree

    def full(leaf: Any) -> Any:
        missing = rounded_up(len(leaf), mesh) - len(leaf)
        if not missing:
            return leaf
        library = jnp if isinstance(leaf, Array) else np
        return library.concatenate([leaf, library.repeat(leaf[:1], missing, axis=0)])

    return shard(jax.tree.map(full, tree), mesh)


def first(tree: T, count: int, mesh: Mesh) -> T:
    """The first ``count`` rows of what is spread: spread where they divide evenly, else on every device."""

    def cut(leaf: Any) -> Any:
        if len(leaf) == count:
            return leaf
        if mesh.size == 1:
            return leaf[:count]
        spec = PartitionSpec() if count % mesh.size else PartitionSpec("data")
        return _first(leaf, count, NamedSharding(mesh, spec))

    return in_turn(jax.tree.map(cut, tree))


@partial(jax.jit, static_argnums=(1, 2))
def _first(leaf: Array, count: int, place: NamedSharding) -> Array:
    return jax.lax.with_sharding_constraint(leaf[:count], place)


def in_turn(tree: T) -> T:
    """The same values, once they are there, if several of a CPU's devices compute them; else as they are, under way.

    Two programs that are each spread over the CPU backend's devices can hold the threads that the other waits for, and
    neither ever ends (seen with two devices on two cores): wherever one does not wait for the other by itself, this.
    """
    if jax.default_backend() == "cpu" and any(
        isinstance(leaf, Array) and len(leaf.sharding.device_set) > 1 for leaf in jax.tree.leaves(tree)
    ):
        jax.block_until_ready(tree)
    return tree


def fetch(tree: Any) -> Any:
    """A pytree of arrays, however they are spread, as numpy arrays on the host.

    >>> fetch({"a": shard(np.arange(8), data_mesh())})["a"].tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    return jax.tree.map(_whole, tree) if jax.process_count() > 1 else jax.device_get(tree)


def _whole(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def mesh_of(batch: Any) -> Mesh | None:
    """The mesh that a batch is spread over; None where it is on none."""
    places = {leaf.sharding for leaf in jax.tree.leaves(batch) if isinstance(leaf, jax.Array)}
    meshes = {place.mesh for place in places if isinstance(place, NamedSharding) and isinstance(place.mesh, Mesh)}
    return meshes.pop() if len(meshes) == 1 else None


def beside(tree: T, batch: Any) -> T:
    """The same values on every device of the mesh that a batch is spread over; as they are where it is on none.

    So that what goes into a jitted function lies where what comes out of it will lie, and it is compiled once.
    """
    mesh = mesh_of(batch)
    return tree if mesh is None else replicate(tree, mesh)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raise :class:`UserError` unless every device gets the same number of images."""
    if batch_size % mesh.size:
        raise UserError(
            f"batch_size {batch_size} must be a multiple of the {mesh.size} devices it is spread over",
            field="batch_size",
        )
