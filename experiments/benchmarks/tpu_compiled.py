"""What programs cost on a TPU, by its own compiler: no TPU is needed, only the libtpu that belongs to this jax.

    pip install 'libtpu==0.0.42.*'                                    # beside jax 0.10
    python experiments/benchmarks/tpu_compiled.py                     # the CNN on one chip
    python experiments/benchmarks/tpu_compiled.py --models cnn ir152 --programs forward probe --topology 2x2

A table of many models takes hours: what --keep names is kept after every program, and a killed table goes on when it is
started again with the same settings.

Prints, of every program: milliseconds by the compiler's estimate of cycles (instructions of the entry computation; what
runs in loops is not in it, and is counted), the FLOPs' time at peak, memory's time at most (on-chip traffic is in the
bytes), peak memory, collectives, the seconds that compiling took, and the ratio to a forward pass of the same batch.
"""

import argparse
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import measuring
import numpy as np
from jax.sharding import Mesh

from gpz_jax import parallel
from gpz_jax.analysis import contraction, radius
from gpz_jax.analysis.views import View
from gpz_jax.config import AttackConfig, Config, DataConfig, ModelConfig, TrainingConfig, resolve
from gpz_jax.data.flat_rows import DealtRows, FlatRows
from gpz_jax.taps import tap_shapes
from gpz_jax.training import classifier
from gpz_jax.workflow import dry_run_tpu, dry_run_work
from gpz_jax.workflow.dry_run_compiled import COLLECTIVES
from gpz_jax.workflow.dry_run_work import Place, Work

#: v5e: clock, bfloat16 FLOPs and bytes of memory a second.
HERTZ, FLOPS, BYTES = 1.5e9, 197e12, 819e9

CLASSES, CHANNELS = 10, 3


class Cost(NamedTuple):
    """What the compiler says of a program on one chip.

    Attributes:
      est_ms: its estimate, of the entry computation.
      loops: how many loops, whose bodies are not in it.
      flop_ms: FLOPs at peak.
      memory_ms: bytes accessed, on-chip traffic among them, at the memory's speed.
      peak_gb: arguments, outputs and temporaries.
      collectives: name -> how many.
      largest: bytes of the largest array that each kind of collective gives.
      copied: bytes of the largest array that an instruction copies or lays out anew.
      compile_s: seconds.
    """

    est_ms: float
    loops: int
    flop_ms: float
    memory_ms: float
    peak_gb: float
    collectives: dict[str, int]
    largest: dict[str, int]
    copied: int
    compile_s: float


def mesh_of(topology: str) -> Mesh:
    """The chips of a v5e topology, ``1x1`` or ``2x2``, as the one axis of data."""
    return dry_run_tpu.mesh_of(f"v5e:{topology}")


def cost_of(lowered: Callable[[], Any]) -> Cost:
    """Compile a program and read what the compiler says of it."""
    begun = time.perf_counter()
    compiled = lowered().compile()
    seconds = time.perf_counter() - begun
    text, memory, costs = compiled.as_text(), compiled.memory_analysis(), compiled.cost_analysis()
    entry = text[text.index("\nENTRY ") :]
    cycles = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', entry)))
    found = [(kind, size) for kind in COLLECTIVES for size in sizes_of(text, f"{kind}|{kind}-start")]
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return Cost(
        1e3 * cycles / HERTZ,
        len(re.findall(r"= .*\bwhile\(", text)),
        1e3 * costs["flops"] / FLOPS,
        1e3 * costs["bytes accessed"] / BYTES,
        (peak - memory.alias_size_in_bytes) / 1e9,
        dict(Counter(kind for kind, _ in found)),
        {kind: max(size for other, size in found if other == kind) for kind in dict(found)},
        max(sizes_of(text, "copy|copy-start|transpose|reshape|convert|pad"), default=0),
        seconds,
    )


def sizes_of(text: str, kinds: str) -> list[int]:
    """Bytes of the largest array in the result of every instruction of these kinds.

    >>> sizes_of("  %a = bf16[4,8]{1,0:T(8,128)} all-gather(%b), dimensions={0}", "all-gather")
    [64]
    """
    results = re.findall(rf"= (.*?) (?:{kinds})\(", text)
    return [
        max((_bytes(kind, axes) for kind, axes in re.findall(r"([a-z]\w*?\d*)\[([\d,]*)\]", of)), default=0)
        for of in results
    ]


def _bytes(kind: str, axes: str) -> int:
    bits = int((re.findall(r"\d+", kind) or ["8"])[0])
    return int(np.prod([int(n) for n in axes.split(",") if n], dtype=np.int64)) * bits // 8


class Setting(NamedTuple):
    """A model and its batch on described chips: shapes and places of all that programs take."""

    config: Config
    recipe: classifier.Recipe
    mesh: Mesh
    batch: int
    images: int
    side: int

    def everywhere(self, tree: Any) -> Any:
        """Shapes of a pytree that every chip holds."""
        return Place(self.mesh).everywhere(tree)

    def spread(self, *shape: int, dtype: Any) -> Any:
        """Shape of an array whose rows are dealt to the chips."""
        return Place(self.mesh).spread(*shape, dtype=dtype)

    @property
    def network(self) -> Any:
        """The tapped network, from bytes."""
        return classifier.network_for(self.recipe, CHANNELS)

    @property
    def state(self) -> classifier.State:
        """Of training."""
        made = jax.eval_shape(lambda: classifier.init_state(jax.random.key(0), self.recipe, CHANNELS))
        return self.everywhere(made)

    @property
    def batch_of_bytes(self) -> tuple[Any, Any]:
        """Images and labels."""
        x = self.spread(self.batch, self.side, self.side, CHANNELS, dtype=np.uint8)
        return x, self.spread(self.batch, dtype=np.int32)


def setting(model: str, mesh: Mesh, *, batch: int = 128, images: int = 40_000, side: int = 64) -> Setting:
    """A model in bfloat16 at the paper's size; ``batch`` images a chip."""
    width = 64 if model == "cnn" else None
    config = Config(
        data=DataConfig(size=side, augment="none"),
        model=ModelConfig(model=model, width=width, dtype="bfloat16"),
        training=TrainingConfig(batch_size=batch * mesh.size, ls=0.3),
    )
    config = resolve(config)
    recipe = classifier.recipe_for(config, CLASSES, CHANNELS)
    return Setting(config, recipe, mesh, batch * mesh.size, images, side)


def _forward(s: Setting) -> Any:
    network = s.network
    forward = jax.jit(lambda variables, x: network(variables, x)[0])
    return forward.lower(s.state.variables, s.batch_of_bytes[0])


def _train(s: Setting, dealt: bool = False) -> Any:
    """A step; its images on every chip, or dealt to the chips."""
    scalar = {kind: jax.ShapeDtypeStruct((), kind) for kind in (np.int32, np.float32)}
    shape = (s.side, s.side, CHANNELS)
    images = s.everywhere(jax.eval_shape(FlatRows.of, jax.ShapeDtypeStruct((s.images, *shape), np.uint8)))
    if dealt:
        rows = parallel.rounded_up(s.images, s.mesh)
        images = DealtRows(s.spread(rows, s.side * s.side * CHANNELS, dtype=np.uint8), shape)
    many = jax.ShapeDtypeStruct((s.images,), np.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    totals = jax.eval_shape(classifier.Totals.zero)
    totals, *batch = s.everywhere((totals, many, many, scalar[np.int32], scalar[np.float32], key))
    return classifier.train_step.lower(s.state, totals, images, *batch, recipe=s.recipe, mesh=s.mesh)


def _probe(s: Setting) -> Any:
    network, variables = s.network, s.state.variables
    example = jax.ShapeDtypeStruct((2, s.side, s.side, CHANNELS), np.uint8)
    shapes = tap_shapes(network, variables, example)
    moments = {cut: jax.eval_shape(lambda n=int(np.prod(z)): radius.empty(CLASSES, n)) for cut, z in shapes.items()}
    mask = s.spread(s.batch, dtype=bool)
    given = (variables, s.everywhere(moments), *s.batch_of_bytes, mask)
    return radius._add_batch.lower(network, *given, View())


def _ledger(s: Setting) -> Any:
    targets = s.spread(s.batch, CLASSES, dtype=np.float32)
    step_size = s.everywhere(jax.ShapeDtypeStruct((), np.float32))
    x, labels = s.batch_of_bytes
    return contraction._feature_terms.lower(s.network, s.state.variables, x, labels, targets, step_size)


def _decoder(s: Setting) -> Any:
    """A step of the deconvolution decoder at the cut in the middle, as a dry run of ``attack`` has it."""
    cut, shape = s.network.cuts[len(s.network.cuts) // 2], (s.side, s.side, CHANNELS)
    attack = AttackConfig(cut=(cut,), attack=("deconvolution",), batch_size=s.batch)
    few = s.images // 4  # a quarter is the attacker's
    work = Work("attack", s.config, attack, s.images, few, few, few, shape, shape, CLASSES)
    (asked,) = dry_run_work.programs_of(work, s.mesh, int(dry_run_tpu.CHIPS["v5e"].gib * 2**30))
    return asked.function.lower(**asked.given, **asked.static)


PROGRAMS: dict[str, Callable[[Setting], Any]] = {
    "forward": _forward,
    "train": _train,
    "dealt": partial(_train, dealt=True),
    "probe": _probe,
    "ledger": _ledger,
    "decoder": _decoder,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["cnn"])
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), choices=list(PROGRAMS))
    parser.add_argument("--topology", default="1x1", help="of v5e: 1x1 or 2x2")
    parser.add_argument("--batch", type=int, default=128, help="images a chip")
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--keep", default="tpu_compiled", help="name in last/; '' prints the line alone")
    flags = parser.parse_args()

    mesh, table = mesh_of(flags.topology), dict(_kept(flags))
    measuring.say("program          est ms  loops  FLOP ms  memory ms  peak GB  copied MB  compile s  collectives")
    for model in flags.models:
        given = setting(model, mesh, batch=flags.batch, images=flags.images, side=flags.side)
        for program in flags.programs:
            if f"{model}, {program}" in table:
                continue
            try:
                cost = cost_of(lambda given=given, program=program: PROGRAMS[program](given))
            except jax.errors.JaxRuntimeError as error:  # such as what does not fit into the memory of a chip
                measuring.say(f"{model:8}{program:8} {str(error).splitlines()[0]}")
                continue
            table[f"{model}, {program}"] = cost
            measuring.say(
                f"{model:8}{program:8}{cost.est_ms:7.3f}{cost.loops:7}{cost.flop_ms:9.3f}{cost.memory_ms:11.2f}"
                f"{cost.peak_gb:9.2f}{cost.copied / 1e6:11.2f}{cost.compile_s:11.1f}  "
                + (", ".join(f"{n} {kind} <= {cost.largest[kind]:,} B" for kind, n in cost.collectives.items()) or "-")
            )
            _report(flags, table)
    _report(flags, table)


def _kept(flags: argparse.Namespace) -> Iterator[tuple[str, Cost]]:
    """What an earlier call with these settings found, as it was written."""
    file = measuring.LAST / f"{flags.keep}.json"
    if flags.keep and file.exists():
        line = json.loads(file.read_text())
        if all(line["settings"].get(name) == getattr(flags, name) for name in ("topology", "batch", "images", "side")):
            yield from ((name, Cost(**cost)) for name, cost in line["programs"].items())


def _report(flags: argparse.Namespace, table: dict[str, Cost]) -> None:
    ratios = {
        name: cost.est_ms / table[base].est_ms
        for name, cost in table.items()
        if (base := f"{name.split(',')[0]}, forward") in table
    }
    measuring.report(
        flags.keep, against="a forward pass of the same batch", ratios=ratios, settings=flags,
        programs={name: cost._asdict() for name, cost in table.items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
