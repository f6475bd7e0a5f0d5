"""Peak memory of a probe over 10,000 and over 60,000 images: does anything grow with the images but the images?

    python experiments/benchmarks/probe_memory.py RUN --data-dir DIR

RUN must be trained on a data set of at least 60,000 training images (MNIST). Runs ``python -m gpz_jax.probe`` twice
under the operating system's own accounting and compares the difference of the peaks with the bytes of the 50,000
further images as stored.
"""

import argparse
import os
import subprocess
import sys

import measuring

from gpz_jax.runs.folder import open_run


def peak(arguments: list[str]) -> int:
    """Peak resident memory in bytes of one probe, as the system accounts for that child alone."""
    child = subprocess.Popen([sys.executable, "-m", "gpz_jax.probe", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"the probe failed with status {status}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--null-seeds", default="2")
    flags = parser.parse_args()

    common = [flags.run, "--data-dir", flags.data_dir, "--split", "full", "--null-seeds", flags.null_seeds]
    channels = open_run(flags.run).channels
    small, large = (peak([*common, "--limit", str(limit)]) for limit in (10_000, 60_000))
    images = 50_000 * 28 * 28 * channels
    measuring.say(
        f"peak on 10,000 images {small / 2**20:.0f} MiB, on 60,000 {large / 2**20:.0f} MiB: "
        f"{(large - small) / 2**20:.1f} MiB more; 50,000 images of 28x28 take {images / 2**20:.1f} MiB"
    )
    measuring.report(
        "probe_memory", against="a probe of 10,000 images", ratios={"peak memory, 60,000 images": large / small},
        settings=flags, mib={"10,000": small / 2**20, "60,000": large / 2**20, "images alone": images / 2**20},
    )  # fmt: skip


if __name__ == "__main__":
    main()
