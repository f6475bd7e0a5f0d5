"""Memory of training for each of --images: every device, dealt to the devices, read from disk.

    python experiments/benchmarks/placements.py                                        # 60,000 images of 64x64, grey
    python experiments/benchmarks/placements.py --images 420000 --channels 3 --placements stream --devices 1  # 5 GB

Writes images of noise with numpy.savez, trains a CNN on them in a process of its own for each placement, and looks
twenty times a second at that process's memory that is no file's (RssAnon of Linux: what cannot be given back; a CPU's
devices are in it), from the first step to the end of the probe that follows one epoch. Prints MB: once the data set is
open, the most in the first half of the time after that, and the most of all.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measuring
import numpy as np

ROOT = Path(__file__).parents[2]


def write(path: Path, images: int, side: int, channels: int) -> int:
    """A data set of noise, written piece by piece; the bytes of its training images."""
    rng = np.random.default_rng(0)
    room = np.memmap(path.with_suffix(".raw"), np.uint8, "w+", shape=(images, side, side, channels))
    for start in range(0, images, 4096):
        part = room[start : start + 4096]
        part[:] = rng.integers(0, 256, part.shape, np.uint8)
    labels = np.arange(images, dtype=np.int32) % 10
    few = rng.integers(0, 256, (1000, side, side, channels), np.uint8)
    np.savez(path, train_images=room, train_labels=labels, test_images=few, test_labels=labels[:1000])
    path.with_suffix(".raw").unlink()
    return room.nbytes


def anonymous(process: int) -> float:
    """MB of memory of a process that is no file's; 0 once it is gone."""
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1e3 if found else 0.0


def watched(placement: str, home: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """Train with a placement until the steps are done; what memory it took."""
    folder = home / placement
    command = [
        sys.executable, "-m", "gpz_jax.train", "--data", "noise", "--data-dir", str(home), "--images", placement,
        "--size", str(flags.side), "--width", "4", "--epochs", "1", "--null-seeds", "0", "--augment", "none",
        "--checkpoint-every", str(flags.steps), "--track-size", "64", "--run", str(folder),
    ]  # fmt: skip
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    given = {**os.environ, "PYTHONPATH": path, "XLA_FLAGS": f"--xla_force_host_platform_device_count={flags.devices}"}
    opened, series, begun = 0.0, [], time.perf_counter()
    with subprocess.Popen(command, env=given, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as child:
        while child.poll() is None:
            now = anonymous(child.pid)
            if (folder / "config.json").exists():
                opened = opened or now
                series.append(now)
            time.sleep(0.05)
        said = child.stderr.read() if child.stderr else ""
    if not series:
        raise SystemExit(said)
    half = max(series[: max(len(series) // 2, 1)])
    return {"opened_mb": opened, "first_half_mb": half, "most_mb": max(series), "s": time.perf_counter() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--channels", type=int, default=1, choices=(1, 3))
    parser.add_argument("--placements", nargs="+", default=["device", "sharded", "stream"])
    parser.add_argument("--devices", type=int, default=2, help="of the CPU backend")
    parser.add_argument("--steps", type=int, default=100, help="between checkpoints")
    parser.add_argument("--keep", default="placements", help="name in last/; '' prints the line alone")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", ".")) as home:
        size = write(Path(home) / "noise.npz", flags.images, flags.side, flags.channels)
        measuring.say(f"{size / 1e6:.0f} MB of training images, {flags.devices} devices")
        found = {placement: watched(placement, Path(home), flags) for placement in flags.placements}
    for placement, memory in found.items():
        measuring.say(f"{placement:8} " + "  ".join(f"{name} {value:.0f}" for name, value in memory.items()))
    ratios = {placement: 1e6 * memory["most_mb"] / size for placement, memory in found.items()}
    measuring.report(
        flags.keep, against="the bytes of the training images", ratios=ratios, settings=flags, memory=found,
        image_mb=size / 1e6,
    )  # fmt: skip


if __name__ == "__main__":
    main()
