"""What a file says that it unpacks to, held against the machine before a byte of it is unpacked."""

from gpz_jax.errors import UserError
from gpz_jax.memory import of_machine

#: Real images take up at most some 50 times their place on disk; a bomb, a thousand times.
_SUSPICIOUS, _SMALL = 200, 2**30


def check_unpacked(unpacked: int, on_disk: int, what: str, largest: str, *, in_memory: bool = True) -> None:
    """Refuse what would take more than half of the machine's memory, or is far larger than its files.

    Args:
      unpacked: bytes in memory; up to a GiB of them may come from however little.
      on_disk: bytes of the files.
      what: they are, for the error.
      largest: of them, for the error.
      in_memory: False where they will not be read into memory; then they may take more than that.

    Raises:
      UserError: names the limit, the sum and the largest.

    Example:
      >>> check_unpacked(10**15, 10**6, "x.npz: its arrays", "train_images, 1000000.0 GB")
      Traceback (most recent call last):
      ...
      gpz_jax.errors.UserError: x.npz: its arrays take 1000000.0 GB in memory (the largest: train_images, ...
    """
    half = of_machine() // 2
    if in_memory and unpacked > half:
        limit = f"no more than {gigabytes(half)}, half of the memory there is, is read"
    elif unpacked > max(_SMALL, _SUSPICIOUS * on_disk):
        limit = f"no more than {_SUSPICIOUS} times the {on_disk / 1e6:.1f} MB on disk is read"
    else:
        return
    raise UserError(
        f"{what} take {gigabytes(unpacked)} in memory (the largest: {largest}), and {limit}; use fewer or smaller ones"
        + (", or let them be streamed from disk" if in_memory and unpacked > half else "")
    )


def gigabytes(size: int) -> str:
    """Bytes for people.

    >>> gigabytes(1_500_000_000)
    '1.5 GB'
    """
    return f"{size / 1e9:.1f} GB"
