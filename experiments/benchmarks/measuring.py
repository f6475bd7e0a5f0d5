"""What the benchmarks share: times in turn, and the JSON line that is printed and kept in last/."""

import datetime
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

#: Where the last line of every benchmark is kept.
LAST = Path(__file__).parent / "last"


def say(text: str) -> None:
    """Words for people, on stderr: stdout is the JSON line."""
    print(text, file=sys.stderr, flush=True)


def seconds(call: Callable[[], Any]) -> float:
    """How long one call takes, with whatever it started on a device."""
    begun = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begun


def in_turn(
    baseline: Callable[[], Any], others: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[float, dict[str, tuple[float, float]]]:
    """Times of calls against a baseline, run in turn after one round that compiles.

    Returns:
      Median seconds of the baseline; of each of the others median seconds, and the median over rounds of its ratio to
      the baseline of the same round.
    """
    calls = (baseline, *others.values())
    for call in calls:
        seconds(call)
    times = np.array([[seconds(call) for call in calls] for _ in range(rounds)])
    medians, ratios = np.median(times, axis=0), np.median(times / times[:, :1], axis=0)
    return float(medians[0]), {name: (float(medians[i]), float(ratios[i])) for i, name in enumerate(others, start=1)}


def report(name: str, *, against: str, ratios: Mapping[str, Any], settings: Any = None, **measured: Any) -> None:
    """Print one JSON line and keep it in last/NAME.json.

    Args:
      name: of the benchmark; '' where its line is not kept.
      against: the baseline of the ratios, in words.
      ratios: by name; to 4 digits.
      settings: the flags (an ``argparse.Namespace``), or none.
      measured: whatever else was measured, such as seconds.
    """
    line = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in ("jax", "flax", "numpy")},
            "gpz_jax": _own_version(),
        },
        "settings": {}
        if settings is None
        else {key: value for key, value in vars(settings).items() if value is not None},
        "against": against,
        "ratios": _rounded(ratios),
        **_rounded(measured),
    }
    text = json.dumps(line)
    print(text, flush=True)
    if name:
        LAST.mkdir(exist_ok=True)
        (LAST / f"{name}.json").write_text(text + "\n")


def _own_version() -> str:
    try:
        return importlib.metadata.version("gpz-jax")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "checkout"


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float | np.floating) else value
