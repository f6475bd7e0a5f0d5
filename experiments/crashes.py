"""Does a killed command that is started again end, bit for bit, where one ends that was never killed?

    python experiments/crashes.py --kills 40 --seed 0        # 40 signals, about 15 minutes on two cores

SIGKILL, SIGTERM and SIGINT at random moments of train (plain, tracked, sweeps), attack --ladder and probe. What is
killed is gone on with, half of the time killed again, and in the end all that its folder says (checkpoints,
metrics.jsonl, dynamics.zarr, attacks, probes) is held against a run that nobody touched. Ends with status 1 where
anything differs.
"""

import collections
import dataclasses
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import crash_runs
import numpy as np
from crash_runs import COMMANDS, Kill, victim

from gpz_jax.flags import parse


@dataclasses.dataclass(frozen=True)
class Flags:
    """Flags of the crash harness."""

    kills: int = 40
    """Signals to send."""
    seed: int = 0
    """Of the moments, the order of the signals and of the commands."""
    out: str = "runs/crashes"
    """Folder for the runs; emptied first. What differs from its reference is left there."""


def main(argv: list[str] | None = None) -> list[Kill]:
    """Make the references, kill, and say what came of it."""
    flags = parse(Flags, sys.argv[1:] if argv is None else argv, prog="crashes", description=__doc__ or "")
    out, random = Path(flags.out).absolute(), np.random.default_rng(flags.seed)
    shutil.rmtree(out, ignore_errors=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(out / "compiled"))
    seconds = {}
    for warm in (True, False):  # the first compiles; the second takes as long as what is killed
        for name, command in COMMANDS.items():
            run = crash_runs.fresh(command, out / name, out / "train/run")
            ended = crash_runs.end(crash_runs.start(command, run, log=out / name / "log"), out / name / "log")
            assert not ended.status, ended.said
            seconds[name] = ended.seconds
            print(f"{name}: {ended.seconds:.0f} s{' with compiling' if warm else ''}", flush=True)
    kills, numbers = [], list(random.permutation(np.array(crash_runs.signals(flags.kills), dtype=object)))
    with ThreadPoolExecutor(2) as two:
        while len(kills) < flags.kills:
            given = [numbers[i % len(numbers)] for i in range(len(kills), len(kills) + 2 * len(COMMANDS))]
            asked = [
                two.submit(victim, name, out / f"victim-{len(kills)}-{i}", out, seconds[name],
                           given[2 * i : 2 * i + 1 + int(random.integers(2))], int(random.integers(2**31)))
                for i, name in enumerate(COMMANDS)
            ]  # fmt: skip
            kills += [kill for one in asked for kill in one.result()]
            print(f"{len(kills)} signals, {sum(bool(kill.wrong) for kill in kills)} wrong", flush=True)
    report(kills)
    return kills


def report(kills: list[Kill]) -> None:
    """Count the signals, say the worst of what they cost, and end with status 1 if anything was wrong."""
    counts = collections.Counter((kill.command, kill.number.name) for kill in kills)
    for (command, number), count in sorted(counts.items()):
        print(f"{command}: {count} x {number}")
    for number in ("SIGTERM", "SIGINT"):
        waits = sorted(kill.ended.to_exit or 0.0 for kill in kills if kill.number.name == number)
        if waits:
            middle = waits[len(waits) // 2]
            print(f"seconds from {number} to the exit: worst of {len(waits)} {waits[-1]:.1f}, median {middle:.1f}")
    lost = {name: max(kill.lost for kill in kills if kill.number.name == name) for _, name in sorted(counts)}
    print("epochs that were said to be done and are done again, at most:", lost)
    wrong = [f"{kill.command}, {kill.number.name}: {'; '.join(kill.wrong)}" for kill in kills if kill.wrong]
    late = sum((kill.ended.to_exit or 0.0) > 20 for kill in kills)
    print("\n".join(wrong) or f"{len(kills)} signals: every folder is bit for bit that of a run nobody touched")
    if wrong or late or max(lost.values()) > 1:
        sys.exit(1)


if __name__ == "__main__":
    main()
