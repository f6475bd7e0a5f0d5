"""How long a command takes to its first step, and the second time: programs compiled, programs read, wall time.

    python experiments/benchmarks/first_step.py             # 10 minutes on two cores

Runs ``train --ls 0.3`` and a ladder of attacks on one cut twice each, as processes of their own with an empty cache
folder, and takes the counts from what ``--verbose`` says at the end. The ladder's decoders train for few epochs, so
that compiling is what is measured.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import measuring

COUNTS = re.compile(r"gpz: (\d+) programs? compiled in ([\d.]+) s, (\d+) programs? read from the cache in ([\d.]+) s")


class Call(NamedTuple):
    """One call of a command: programs compiled and read, seconds for these, seconds in all."""

    compiled: int
    compiled_s: float
    read: int
    read_s: float
    wall_s: float


def call(arguments: list[str], folder: Path) -> Call:
    """Run a command in a folder whose ``cache`` is the user's."""
    given = {name: text for name, text in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *arguments, "--verbose"],
        cwd=folder, env={**given, "XDG_CACHE_HOME": str(folder / "cache")}, capture_output=True, text=True,
    )  # fmt: skip
    taken = time.perf_counter() - begun
    found = COUNTS.search(done.stderr)
    if done.returncode or found is None:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    compiled, compiled_s, read, read_s = found.groups()
    return Call(int(compiled), float(compiled_s), int(read), float(read_s), taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5, help="of training each decoder")
    parser.add_argument("--steps", type=int, default=60, help="at most, of each decoder and of the likelihood attack")
    parser.add_argument("--train-epochs", type=int, default=40, help="of train --ls 0.3")
    parser.add_argument("--keep", default="first_step", help="name in last/; '' prints the line alone")
    flags = parser.parse_args()

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        train = ["gpz_jax.train", "--ls", "0.3", "--epochs", str(flags.train_epochs), "--run"]
        ladder = ["gpz_jax.attack", "first", "--cut", "block_4", "--ladder"]
        ladder += ["--epochs", str(flags.epochs), "--steps", str(flags.steps), "--into"]
        calls: dict[str, list[Call]] = {}
        for name, arguments in (("train", train), ("ladder", ladder)):
            for which in ("first", "second"):
                one = call([*arguments, which], folder)
                calls.setdefault(name, []).append(one)
                measuring.say(f"{name}, {which} call: {one}")
        held = sum(file.stat().st_size for file in folder.glob("cache/**/*.sealed"))
    measuring.report(
        flags.keep,
        against="the first call, with an empty cache folder",
        ratios={name: second.wall_s / first.wall_s for name, (first, second) in calls.items()},
        settings=flags,
        cache_bytes=held,
        calls={name: [one._asdict() for one in both] for name, both in calls.items()},
    )


if __name__ == "__main__":
    main()
