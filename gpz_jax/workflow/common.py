"""What training, probing and attacking a run have in common."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gpz_jax import parallel, processes
from gpz_jax.config import DataConfig
from gpz_jax.data import pairings, sources, splits
from gpz_jax.data.batches import padded_batches
from gpz_jax.data.splits import Split, Splits
from gpz_jax.terminal import called
from gpz_jax.training import classifier

#: Images a forward pass of what is not spread over devices.
PROBE_BATCH = 256


def say(text: str) -> None:
    """A note to the person at the terminal, on stderr so that tables can be piped; process 0 alone says it."""
    if not processes.leads():
        return
    print(f"gpz: {called(text)}", file=sys.stderr, flush=True)


def progress_bar() -> Progress:
    """A progress bar on stderr; silent where stderr is not a terminal, and in all processes but the first."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (console.is_terminal and processes.leads()))


class EpochProgress(NamedTuple):
    """How far a training is: a bar in a terminal, and where there is none a line an epoch on stderr."""

    bar: Progress
    task: TaskID
    epochs: int
    steps: int

    def step(self, epoch: int, step: int) -> None:
        """A step is taken; epoch and step counted from 0."""
        self.bar.update(self.task, completed=epoch * self.steps + step + 1)

    def epoch(self, epoch: int, told: str) -> None:
        """Epoch number ``epoch``, from 1, is done; ``told``: what there is to say of it."""
        text = f"epoch {epoch}/{self.epochs}  {told}"
        self.bar.update(self.task, description=text)
        if self.bar.disable:
            say(text)


@contextlib.contextmanager
def epoch_progress(epochs: int, steps: int, done: int = 0) -> Iterator[EpochProgress]:
    """Progress of a training of so many epochs of so many steps, ``done`` steps behind it."""
    with progress_bar() as bar:
        task = bar.add_task("training", total=epochs * steps, completed=done)
        yield EpochProgress(bar, task, epochs, steps)


def load_data(
    data: DataConfig, seed: int, *, disk: bool | None = None, tell: Callable[[str], None] = say
) -> tuple[Splits, sources.Source]:
    """The images of a configuration, dealt out to target, attacker and test; ``tell`` says what there is to know.

    ``disk``: whether they are left there; None: where they would take more than half of the memory.

    Raises:
      UserError: data that cannot be read, or not be dealt out so; of several processes, images that are not the same.
    """
    found = processes.every(lambda: _load_data(data, seed, disk, tell))
    if processes.count() > 1:
        processes.check_same(sources.fingerprint(found[1]), f"images of data set {data.data!r} with fingerprint")
    return found


def _load_data(
    data: DataConfig, seed: int, disk: bool | None, tell: Callable[[str], None]
) -> tuple[Splits, sources.Source]:
    source = sources.load(data.data, data.data_dir, test_fraction=data.test_fraction, disk=disk, tell=tell)
    if data.train_limit is not None:
        source = splits.limit_source(source, data.train_limit, seed=seed)
    data, chosen = pairings.resolve_auxiliary(data)
    if chosen:
        tell(f"{chosen} (a part of it: --aux {pairings.HELD_OUT[0]})" if data.aux else chosen)
    auxiliary = load_auxiliary(data, tell=tell) if data.aux else None
    dealt = splits.make_splits(
        source,
        seed=seed,
        validation_fraction=data.validation_fraction,
        auxiliary_fraction=data.auxiliary_fraction,
        auxiliary=auxiliary,
        allow_copies=data.allow_copies,
    )
    for note in dealt.notes:
        tell(note)
    return dealt, source


def load_auxiliary(data: DataConfig, *, tell: Callable[[str], None] = say) -> sources.Source:
    """The data set that a configuration names for the attacker."""
    assert data.aux is not None
    return sources.load(data.aux, data.data_dir, auxiliary=True, tell=tell)


def short(path: Path) -> str:
    """A path as one would type it here."""
    if (name := called(str(path))) != str(path):
        return name
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def probe_batches(split: Split, recipe: classifier.Recipe, mesh: Mesh) -> Iterator[tuple[Any, Any, Any]]:
    """``(images, labels, mask)`` of a split, padded to the devices and spread over them; as many as fit at a time.

    Labels and mask stay on the host, where they are checked and counted.

    Raises:
      UserError: not even one image a device fits, measured at all cuts.
    """
    for batch in padded_batches(
        split, classifier.measured_batch(recipe, split.images.shape[-1], mesh), multiple=mesh.size
    ):
        yield parallel.shard(batch[0], mesh), *batch[1:]


def abstract_state(recipe: classifier.Recipe, channels: int, mesh: Mesh) -> classifier.State:
    """Shapes, dtypes and places of a state, for reading checkpoints."""
    return on_mesh(lambda: classifier.init_state(jax.random.key(0), recipe, channels), mesh)


def on_mesh(made: Callable[[], Any], mesh: Mesh) -> Any:
    """Shapes, dtypes and places, on every device, of what a function would give."""
    shapes, everywhere = jax.eval_shape(made), jax.NamedSharding(mesh, jax.P())
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=everywhere), shapes)
