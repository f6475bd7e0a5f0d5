"""Rows of a table dealt to devices, in no order: for what is summed over them, so that none moves to another device."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpz_jax import parallel


class Dealt(NamedTuple):
    """A table ``(N, D)``, some of its rows on every device.

    Attributes:
      rows: ``(devices, R, D)``, spread along the first axis.
      places: which of the N each is, -1 for what fills up; ``(devices, R)`` int, on the host.
      mesh: the devices.
    """

    rows: Array
    places: np.ndarray
    mesh: Mesh

    @staticmethod
    def of(batches: Sequence[tuple[Array, int]], mesh: Mesh) -> "Dealt":
        """Batches of rows ``(n, D)``, each spread over the devices, and how many of each count, the first ones.

        >>> mesh = parallel.data_mesh()
        >>> dealt = Dealt.of([(parallel.shard(jnp.arange(8.0)[:, None], mesh), 7)], mesh)
        >>> dealt.shape, dealt.whole()[:, 0].tolist()
        ((7, 1), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        """
        places, at = [], 0
        for rows, count in batches:
            own = np.where(np.arange(len(rows)) < count, at + np.arange(len(rows)), -1)
            places.append(own.reshape(mesh.size, -1))
            at += count
        rows = _deal(tuple(rows for rows, _ in batches), NamedSharding(mesh, PartitionSpec("data")))
        return Dealt(rows, np.concatenate(places, axis=1), mesh)

    @property
    def shape(self) -> tuple[int, int]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(N, D)."""
        return int(np.sum(self.places >= 0)), self.rows.shape[2]

    def everywhere(self, array: Array) -> Array:
        """An array on all of the devices."""
        return parallel.replicate(array, self.mesh)

    def leading(self, most: int) -> "Dealt":
        """The first rows of the table, at most so many."""
        places = np.where(self.places < most, self.places, -1)
        columns = int(np.max(np.flatnonzero(np.any(places >= 0, axis=0)), initial=0)) + 1
        return Dealt(_columns(self.rows, 0, columns), places[:, :columns], self.mesh)

    def blocks(self, most: int) -> Iterator[tuple[Array, Any]]:
        """``(devices, r, D)`` of up to ``most`` rows a device, and which of them count, ``(devices, r)`` bool."""
        for start in range(0, self.rows.shape[1], most):
            counts = self.places[:, start : start + most] >= 0
            yield _columns(self.rows, start, start + counts.shape[1]), parallel.shard(counts, self.mesh)

    def whole(self) -> Array:
        """The table in its order, on every device."""
        places = self.places.ravel()
        order = np.argsort(places, kind="stable")[np.sum(places < 0) :]
        return parallel.in_turn(self.everywhere(self.rows)).reshape(-1, self.rows.shape[2])[order]


@partial(jax.jit, static_argnums=1)
def _deal(batches: tuple[Array, ...], place: NamedSharding) -> Array:
    parts = [rows.reshape(place.mesh.size, -1, rows.shape[-1]) for rows in batches]
    return jax.lax.with_sharding_constraint(jnp.concatenate(parts, axis=1), place)


def _columns(rows: Array, start: int, stop: int) -> Array:
    return rows if (start, stop) == (0, rows.shape[1]) else _sliced(rows, start, stop, rows.sharding)


@partial(jax.jit, static_argnums=(1, 2, 3))
def _sliced(rows: Array, start: int, stop: int, place: NamedSharding) -> Array:
    return jax.lax.with_sharding_constraint(rows[:, start:stop], place)
