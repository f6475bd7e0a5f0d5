"""What ``import gpz_jax`` adds to importing JAX and Flax, which any user of it has to import anyway.

    python experiments/benchmarks/import_time.py        # 10 seconds

Medians over 5 pairs of fresh interpreters, after one pair that warms the disk cache. Last measured with jax 0.10.2 and
flax 0.12.8 on a 2-core x86-64 CPU, shared with other work: 0.54 s and 0.61 s, gpz_jax adds 0.07 s.
"""

import statistics
import subprocess
import sys
import time

import measuring

PAIRS = 5
BASE, OURS = "import jax, flax.linen", "import jax, flax.linen, gpz_jax"


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    pairs = [(seconds(BASE), seconds(OURS)) for _ in range(1 + PAIRS)][1:]
    base, ours = (statistics.median(times) for times in zip(*pairs, strict=True))
    added = statistics.median(ours - base for base, ours in pairs)
    measuring.say(f"{BASE}: {base:.2f} s\n{OURS}: {ours:.2f} s\ngpz_jax adds {added:.2f} s (to stay below 0.3 s)")
    ratio = statistics.median(ours / base for base, ours in pairs)
    measuring.report(
        "import_time", against=BASE, ratios={OURS: ratio}, seconds={BASE: base, OURS: ours}, added_seconds=added
    )


if __name__ == "__main__":
    main()
