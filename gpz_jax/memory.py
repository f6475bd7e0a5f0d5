"""How much memory there is, and what cannot fit into it: refused before anything is made."""

import os
from pathlib import Path

import jax
from jax.sharding import Mesh

from gpz_jax.errors import UserError
from gpz_jax.presentation import quantity

#: Where a container says how much it may have.
_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def available() -> int:
    """Bytes that one device may hold: an accelerator's memory, or the machine's, or what its container is given."""
    of_device = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in of_device:
        return int(of_device["bytes_limit"])
    return of_machine()


def of_one(mesh: Mesh) -> int:
    """Bytes that one device of a mesh may hold: those of a CPU share the machine's."""
    return available() // (mesh.size if mesh.devices.flat[0].platform == "cpu" else 1)


def of_machine() -> int:
    """Bytes of memory of this machine, or what its container or this process may use; 16 GiB where none is known."""
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        found = 2**34
    for file in _CONTAINER:
        try:
            found = min(found, int(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):  # not there, or "max"
            continue
    try:
        import resource

        allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    except (ImportError, OSError):
        return found
    return found if allowed < 0 else min(found, allowed)


def check_fits(least: int, what: str, *fields: str) -> None:
    """Raise :class:`UserError` where even the least that something needs is more than there is.

    Args:
      least: bytes, a lower bound.
      what: needs them, in words.
      fields: settings that would make it less.

    Example:
      >>> check_fits(2**59, "a decoder", "decoder_width")
      Traceback (most recent call last):
      gpz_jax.errors.UserError: a decoder needs at least 512 PiB of memory, ...; give a smaller decoder_width
    """
    there = available()
    if least > there:
        smaller = " or ".join(fields)
        raise UserError(
            f"{what} needs at least {quantity(least, 1024)}B of memory, this machine has {quantity(there, 1024)}B; "
            f"give a smaller {smaller}",
            field=fields,
        )


def images_a_device(of_image: int, held: int, available: int, most: int) -> int:
    """The most images, ``most`` halved as often as it takes, that fit beside ``held`` bytes; 0 where not one does.

    >>> images_a_device(10, 100, 2000, 256), images_a_device(10, 100, 105, 256)
    (128, 0)
    """
    while most and held + most * of_image > available:
        most //= 2
    return most
