"""Where the images of training lie: on every device, dealt to the devices, or on disk and read ahead of the steps.

A step asks for the images at some places of one list, in all three alike, so it sees the same images in the same order,
bit for bit; what follows from (seed, step) needs no state of a reader in the checkpoint.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import UInt8

from gpz_jax import parallel
from gpz_jax.data.flat_rows import BatchRows, DealtRows, FlatRows
from gpz_jax.data.on_disk import Stamp, check_unchanged
from gpz_jax.data.splits import Split
from gpz_jax.errors import UserError
from gpz_jax.presentation import quantity

Kind = Literal["device", "sharded", "stream"]
#: What may be asked for: one of them, or the first of them that has room.
Asked = Literal["auto", "device", "sharded", "stream"]

#: Share of a device's memory that images may take beside what training needs; ``auto`` leaves it at that.
_SHARE = 4

_THREADS, _READ_AHEAD = 4, 8  # of one run's reader; batches

#: (of every run the places of its images in an epoch's order, int ``(N,)``; the first step) -> what each step from
#: there on is given of the images.
Feed = Callable[[Sequence[Array], int], Iterator[Any]]


class Placement(NamedTuple):
    """Where images lie, and the files that they are still read from."""

    kind: Kind = "device"
    files: tuple[Stamp, ...] = ()


def kind_of(asked: Asked, images: int, *, on_disk: bool, devices: int, there: int) -> Kind:
    """Where images are put.

    Args:
      asked: by the user.
      images: bytes of the training images.
      on_disk: whether they were left there when the data set was opened.
      devices: how many.
      there: bytes of memory that one of them has.

    Raises:
      UserError: they do not fit where they were asked to lie.

    Example:
      >>> [kind_of("auto", size, on_disk=False, devices=8, there=2**34) for size in (10**9, 10**10, 10**12)]
      ['device', 'sharded', 'stream']
    """
    each = -(-images // devices)
    if asked == "auto":
        if on_disk:
            return "stream"
        return "device" if _SHARE * images <= there else "sharded" if _SHARE * each <= there else "stream"
    needed = {"device": images, "sharded": each, "stream": 0}[asked]
    if needed > there:
        others = "'sharded' or 'stream'" if asked == "device" else "'stream'"
        raise UserError(
            f"{quantity(needed, 1024)}B of images do not fit on a device, which has {quantity(there, 1024)}B, in the "
            f"placement {asked!r}; ask for {others}",
            field="images",
        )
    return asked


class Pool(NamedTuple):
    """The training images of several runs, every one once, however many runs have it; nothing is copied.

    Attributes:
      parts: an array each, uint8 ``(all, h, w, C)``, and which of its rows are in the pool, sorted.
    """

    parts: tuple[tuple[np.ndarray, np.ndarray], ...]

    def __len__(self) -> int:
        return sum(len(used) for _, used in self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image."""
        return self.parts[0][0].shape[1:]

    def rows(self, places: np.ndarray) -> UInt8[np.ndarray, "n D"]:
        """Images at places of the pool, a flat row each; -1 for one of zeros."""
        width = int(np.prod(self.shape))
        found = np.zeros((len(places), width), np.uint8)
        begin = 0
        for array, used in self.parts:
            mine = np.flatnonzero((places >= begin) & (places < begin + len(used)))
            found[mine] = array[used[places[mine] - begin]].reshape(len(mine), width)
            begin += len(used)
        return found


def pool(parts: Sequence[Split]) -> tuple[Pool, np.ndarray, list[np.ndarray]]:
    """The images of all splits as one list.

    Returns:
      the images; labels, int32 ``(all,)``; the places of every split's images in them, int32.
    """
    images, labels, places, begin = [], [], {}, 0
    for first in {id(part.images): part for part in parts}.values():
        assert first.labels is not None
        sharing = [i for i, part in enumerate(parts) if part.images is first.images]
        used = np.unique(np.concatenate([parts[i].indices for i in sharing]))
        images.append((first.images, used))
        labels.append(first.labels[used])
        places |= {i: (begin + np.searchsorted(used, parts[i].indices)).astype(np.int32) for i in sharing}
        begin += len(used)
    return Pool(tuple(images)), np.concatenate(labels), [places[i] for i in range(len(parts))]


def feed_of(placement: Placement, images: Pool, batch_size: int, mesh: Mesh, pack: Callable[[list[Any]], Any]) -> Feed:
    """What gives the steps their images, for a placement.

    Args:
      placement: where they lie.
      images: of all runs.
      batch_size: images a step.
      mesh: devices.
      pack: makes one value of those of all runs.
    """
    if placement.kind == "stream":
        return partial(_streamed, placement.files, images, batch_size, mesh, pack)
    check_unchanged(placement.files)
    given = _dealt(images, mesh) if placement.kind == "sharded" else _everywhere(images, mesh)
    check_unchanged(placement.files)
    return lambda orders, first: itertools.repeat(given)


def _everywhere(images: Pool, mesh: Mesh) -> FlatRows:
    return parallel.replicate(FlatRows(images.rows(np.arange(len(images))), images.shape), mesh)


def _dealt(images: Pool, mesh: Mesh) -> DealtRows:
    """Each process reads the rows of its own devices, and no more."""
    count, width = parallel.rounded_up(len(images), mesh), int(np.prod(images.shape))

    def part(index: Any) -> np.ndarray:
        places = np.arange(count)[index[0]]
        return images.rows(np.where(places < len(images), places, -1))

    place = NamedSharding(mesh, PartitionSpec("data"))
    return DealtRows(jax.make_array_from_callback((count, width), place, part), images.shape)


def _streamed(
    files: tuple[Stamp, ...],
    images: Pool,
    batch_size: int,
    mesh: Mesh,
    pack: Callable[[list[Any]], Any],
    orders: Sequence[Array],
    first: int,
) -> Iterator[Any]:
    """The batches of all runs, step by step; the next ones are read while a step runs."""
    place = NamedSharding(mesh, PartitionSpec("data"))
    shape = (batch_size, int(np.prod(images.shape)))
    parts = [part for part in place.addressable_devices_indices_map(shape).values() if part is not None]
    own = sorted(part[0].indices(batch_size)[:2] for part in parts)
    low, high = own[0][0], own[-1][1]  # of a batch; on most systems a process's rows lie side by side in it
    readers = [_reader(_Batches(images, np.asarray(order), batch_size, low, high), first) for order in orders]

    def rows_of(batch: np.ndarray) -> BatchRows:
        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            return batch[start - low : stop - low]

        return BatchRows(jax.make_array_from_callback(shape, place, part), images.shape)

    for batches in zip(*readers, strict=True):
        check_unchanged(files)
        yield pack([rows_of(batch) for batch in batches])


class _Batches:
    """This process's rows of every batch of an epoch, by the batch's number: what grain reads from."""

    def __init__(self, images: Pool, order: np.ndarray, batch_size: int, low: int, high: int):
        self._images, self._order, self._size, self._low, self._high = images, order, batch_size, low, high

    def __len__(self) -> int:
        return len(self._order) // self._size

    def __getitem__(self, index: Any) -> np.ndarray:
        begin = int(index) * self._size
        return self._images.rows(self._order[begin + self._low : begin + self._high])


def _reader(batches: _Batches, first: int) -> Iterator[np.ndarray]:
    import grain  # takes a second, and only streams need it

    ahead = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_READ_AHEAD)
    return iter(grain.MapDataset.source(batches)[first:].to_iter_dataset(ahead))
