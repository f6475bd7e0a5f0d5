"""What a dry run found, as a table and a few sentences."""

import math

from gpz_jax.presentation import number, quantity
from gpz_jax.reporting.tables import Column, Sheet

CAPTION = (
    "images: a step, over all devices; memory: held at once by one device; FLOP: of one device a step; "
    "steps: taken in all, at most; nothing was trained and nothing written"
)


def dry_run_table(found, *, wide: bool = False) -> Sheet:
    """One row a program that would be compiled.

    Args:
      found: a ``workflow.dry_run_result.DryRun``.
      wide: show every column.
    """
    programs = found.programs
    columns = [
        Column("program", [one.name for one in programs], words=True),
        Column("images", [str(one.images) for one in programs]),
        Column("para-\nmeters", [quantity(one.parameters).strip() if one.parameters else "" for one in programs]),
        Column("memory", [_bytes(one.peak) + (" *" if one.refused else "") for one in programs]),
        Column("FLOP", [quantity(one.flops).strip() for one in programs]),
        Column("ms a\nstep", ["" if math.isnan(one.step) else number(1e3 * one.step) for one in programs]),
        Column("steps", [str(one.times) for one in programs]),
        Column("goes in", [_bytes(one.held) for one in programs], wide=True),
        Column("exchanged", [_exchanged(one.collectives) for one in programs], wide=True, words=True),
        Column("compiled\nin s", [number(one.compile_seconds) for one in programs], wide=True),
    ]
    refused = "; *: by what the compiler said as it refused" if any(one.refused for one in programs) else ""
    return Sheet(f"dry run: {found.what}", columns, CAPTION + refused, wide=wide)


def sentences(found) -> list[str]:
    """Images, places, exchange between devices, time, and whether it fits."""
    size = math.prod(found.image)
    parts = ", ".join(f"{count:,} {part}" for part, count in found.images.items())
    shape = "x".join(map(str, found.image))
    first = next(iter(found.images.values()))
    lines = [f"images: {parts}, of {shape} bytes each; the first {_bytes(first * size)} in all"]
    each = found.programs[0].images / found.devices
    several = f"{each:g} images of a step on each, parameters on every one, {found.placement}"
    one = f"one device, {found.placement}"
    lines.append(f"placement: {found.devices} x {found.device}; {several if found.devices > 1 else one}")
    if exchanged := _exchanged(found.programs[0].collectives):
        lines.append(f"exchanged between devices ({found.programs[0].name}): {exchanged}")
    lines += found.notes
    if not math.isnan(found.seconds):
        epoch = f"{_time(found.seconds / found.epochs)} an epoch, " if found.epochs > 1 else ""
        lines.append(f"time: {epoch}{_time(found.seconds)} in all, compiling and writing left out")
    peak, there = _bytes(found.largest.peak), _bytes(found.memory)
    word = "fits" if found.fits else "does not fit"
    lines.append(f"{word}: {peak} of {there} a device ({found.largest.name})")
    return lines


def _bytes(count: int) -> str:
    return quantity(count, 1024) + "B"


def _exchanged(collectives) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in collectives.items())


def _time(seconds: float) -> str:
    """Seconds as a person would say them.

    >>> _time(0.0123), _time(75.0), _time(7300.0)
    ('0.0123 s', '1.2 min', '2 h')
    """
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.3g} s"
