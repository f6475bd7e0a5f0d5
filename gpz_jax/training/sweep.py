"""The training loop: runs of one recipe (seeds, values of alpha) side by side. A single run is a sweep of one.

A value of every run at once is *packed*. ``"vmap"``, for accelerators: every array has a leading axis of runs, and one
program takes a step of all of them. ``"loop"``, for CPUs: a list, and every run takes its step by the same program in
turn, so that it is bit for bit what it would be alone. There vmap makes grouped convolutions, which XLA's CPU backend
computes several times slower, and unrolling the runs inside one program gains nothing but the time to compile it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gpz_jax import parallel
from gpz_jax.config import Config
from gpz_jax.data.batches import epoch_order
from gpz_jax.data.flat_rows import BatchRows
from gpz_jax.data.on_disk import check_unchanged
from gpz_jax.data.splits import Split
from gpz_jax.errors import UserError
from gpz_jax.training import classifier, ledger
from gpz_jax.training.classifier import Recipe, State, Totals
from gpz_jax.training.ledger import Ledger, Tracked
from gpz_jax.training.placements import Placement, feed_of, pool

How = Literal["vmap", "loop"]

#: (epoch, step, packed states before it without their optimiser, the step's batch arguments with order, alpha and key
#: packed, packed (state, totals) after it) -> None
OnUpdate = Callable[[int, int, Any, tuple[Any, ...], Any], None]


#: Steps that are asked of the device ahead of time at most: whoever asks training to stop waits for these.
_AHEAD = 32
#: And of those that wait with their batches on the device.
_AHEAD_OF_STREAM = 8


def how_to(sweep: Literal["auto", "vmap", "loop"]) -> How:
    """What the setting ``sweep`` means on this machine's devices."""
    if sweep == "auto":
        return "loop" if jax.default_backend() == "cpu" else "vmap"
    return sweep


def pack(values: Sequence[Any], how: How) -> Any:
    """The runs' values (pytrees of one shape) as a packed one."""
    return list(values) if how == "loop" else jax.tree.map(lambda *leaves: jnp.stack(leaves), *values)


def unpack(packed: Any, how: How) -> list[Any]:
    """The values of the runs, in order."""
    if how == "loop":
        return packed
    return [jax.tree.map(itemgetter(i), packed) for i in range(len(jax.tree.leaves(packed)[0]))]


def over_runs(function: Callable[..., Any], how: How) -> Callable[..., Any]:
    """A function of packed values, of one that takes the values of a single run."""
    if how == "vmap":
        return jax.vmap(function)

    def in_turn(*packed):
        if len(packed[0]) == 1:
            return [function(*(values[0] for values in packed))]
        # Each waits for the one before: programs that are under way together, each spread over several devices of the
        # CPU backend, can hold the threads that the others wait for, and none ever ends (seen with two devices on two
        # cores).
        return [jax.block_until_ready(function(*one)) for one in zip(*packed, strict=True)]

    return in_turn


def step_all(carry, images, labels, orders, index, alphas, keys, *, recipe: Recipe, mesh: Mesh, how: How):
    """``classifier.train_step`` of all runs; ``carry`` is packed of (state, totals)."""

    def one(carry: tuple[State, Totals], order: Array, alpha: Any, key: Array, *own: Any) -> tuple[State, Totals]:
        (seen,) = own or (images,)
        return classifier.train_step(*carry, seen, labels, order, index, alpha, key, recipe=recipe, mesh=mesh)

    return over_runs(one, how)(carry, orders, alphas, keys, *_of_each(images))


def _of_each(images: Any) -> tuple[Any, ...]:
    """Images that each run has its own of: the batches that were read for this step, packed."""
    return (images,) if isinstance(images, list | BatchRows) else ()


def rows_of_all(before, batch, carry, probes, *, tracked: Tracked, mesh: Mesh, how: How) -> list[dict[str, Array]]:
    """``ledger.row_of`` of all runs, each on its own probe batch."""
    images, labels, orders, index, alphas, keys = batch

    def one(before, order, alpha, key, carry, probe, *own):
        batch = (*(own or (images,)), labels, order, index, alpha, key)
        return ledger.row_of(before, batch, carry[0], *probe, tracked=tracked, mesh=mesh)

    return unpack(over_runs(one, how)(before, orders, alphas, keys, carry, probes, *_of_each(images)), how)


#: One program for all runs where they are vmapped; the programs of a single run, called in turn, where they are not.
STEP = {"vmap": jax.jit(step_all, static_argnames=("recipe", "mesh", "how"), donate_argnames="carry"), "loop": step_all}
ROWS = {"vmap": jax.jit(rows_of_all, static_argnames=("tracked", "mesh", "how")), "loop": rows_of_all}


def append_rows(ledgers: Sequence[Ledger], how: How) -> OnUpdate:
    """An ``on_update`` of :func:`fit` that appends the step's row to every run's ledger."""
    probes = pack([one.probe for one in ledgers], how)
    options = {"tracked": ledgers[0].tracked, "mesh": ledgers[0].mesh, "how": how}

    def on_update(epoch: int, step: int, before: Any, batch: tuple[Any, ...], after: Any) -> None:
        for one, row in zip(ledgers, ROWS[how](before, batch, after, probes, **options), strict=True):
            one.append(epoch, step, row)

    return on_update


def fit(
    states: Sequence[State],
    *,
    recipe: Recipe,
    configs: Sequence[Config],
    train: Sequence[Split],
    validation: Sequence[Split],
    mesh: Mesh,
    how: How = "loop",
    placement: Placement = Placement(),
    after_epoch: Callable[[int, list[State], list[dict[str, float]]], None],
    on_step: Callable[[int, int], None] = lambda epoch, step: None,
    on_update: OnUpdate | None = None,
    first_epoch: int = 0,
    first_step: int = 0,
    totals: Sequence[Totals] | None = None,
    due: Callable[[Any], bool] = lambda after: False,
    on_due: Callable[[int, int, list[State], list[Totals]], None] | None = None,
) -> list[State]:
    """Train all runs from ``first_epoch`` to the last.

    A run is a function of (config, images): order, augmentation and dropout follow from the seed and the step number,
    so continuing from a checkpointed state gives bit for bit what an uninterrupted run gives. With ``"loop"`` so does
    training beside others; with ``"vmap"`` sums are taken in another order.

    Args:
      states: where each run starts, as ``classifier.init_state`` or a checkpoint gives it; donated.
      recipe: compiled shape of all runs.
      configs: resolved configuration of each; they differ in the seed, alpha and the warm-up alone.
      train: training images of each, of one number; splits of one array share its images on the device.
      validation: of each, for the plateau rule and the choice of the best epoch.
      mesh: devices; batches are spread over them, every device has all runs.
      how: see above.
      placement: where the training images lie.
      after_epoch: called with (epochs done, states, measurements) after each epoch, once all runs have ended it.
      on_step: called with (epoch, step within it), for progress bars.
      on_update: called around every ``track_every``-th step; training is the same with and without.
      first_epoch: epochs already done.
      first_step: steps already done of the epoch after them.
      totals: sums of these steps, of every run; None where there are none.
      due: asked after every step, of which it is given what is under way, whether it is time to save.
      on_due: called with (epochs done, steps done of the next, states, sums) when it is; they are donated afterwards.

    Returns:
      The states after the last epoch.

    Raises:
      UserError: a batch larger than the training split; a loss of any run that is not finite (names the step); a
        file that images are read from is another by now.
    """
    t, track_every = configs[0].training, configs[0].track.track_every or 1
    count = len(train[0])
    classifier.check_batch_size(t.batch_size, count, mesh)
    images, labels, places = pool(train)
    labels, places = parallel.replicate((labels, places), mesh)
    feed = feed_of(placement, images, t.batch_size, mesh, partial(pack, how=how))
    ahead = _AHEAD if placement.kind != "stream" else _AHEAD_OF_STREAM
    order_keys, noise_keys = zip(*(classifier.keys_of(config.seed) for config in configs), strict=True)
    noise_keys, states = pack(noise_keys, how), list(states)
    steps = count // t.batch_size
    for epoch in range(first_epoch, t.epochs):
        alphas = pack([np.float32(classifier.alpha_of(config.training, epoch)) for config in configs], how)
        orders = [_order(own, key, np.int32(epoch), count) for own, key in zip(places, order_keys, strict=True)]
        given = feed(orders, first_step)
        orders = pack(orders, how)
        sums = [Totals.zero() for _ in states] if totals is None else totals
        carry = parallel.replicate(pack(list(zip(states, sums, strict=True)), how), mesh)
        for index, seen in zip(range(first_step, steps), given, strict=False):
            batch = (seen, labels, orders, np.int32(index), alphas, noise_keys)
            step = epoch * steps + index
            tracked = on_update is not None and step % track_every == 0
            before = parallel.in_turn(over_runs(_before, how)(carry)) if tracked else carry
            carry = STEP[how](carry, *batch, recipe=recipe, mesh=mesh, how=how)
            if on_update is not None and tracked:
                on_update(epoch + 1, step, before, batch, carry)
            on_step(epoch, index)
            if step % ahead == 0:
                jax.block_until_ready(carry)
            if on_due is not None and due(carry):
                on_due(epoch, index + 1, *map(list, zip(*unpack(carry, how), strict=True)))
        first_step, totals = 0, None
        ended = [
            _end_epoch(*run, epoch=epoch, steps=steps, recipe=recipe, mesh=mesh, alone=len(configs) == 1)
            for run in zip(unpack(carry, how), configs, validation, strict=True)
        ]
        states = [state for state, _ in ended]
        check_unchanged(placement.files)  # before what was trained, or validated, on them is saved
        after_epoch(epoch + 1, states, [measured for _, measured in ended])
    return states


@partial(jax.jit, static_argnames="count")
def _order(places: Array, key: Array, epoch: Any, count: int) -> Array:
    """Places of a run's images in an epoch's order."""
    return places[epoch_order(key, epoch, count)]


@jax.jit
def _before(carry: tuple[State, Totals]) -> State:
    """A copy of the state, for the step donates it; without the optimiser's part, which is not asked for.

    One program: as many as there are leaves, each spread over several of a CPU's devices, would run beside each other.
    """
    return jax.tree.map(jnp.copy, carry[0]._replace(optimiser=()))


def _end_epoch(
    carry: tuple[State, Totals], config: Config, validation: Split, *, alone: bool, **given: Any
) -> tuple[State, dict[str, float]]:
    """``classifier.end_epoch`` of a run, which an error names where there are others."""
    try:
        return classifier.end_epoch(*carry, config=config, validation=validation, **given)
    except UserError as error:
        if alone:
            raise
        name = f"seed {config.seed}, alpha {config.training.ls:g}"
        raise UserError(f"{name}: {error}", field=error.fields) from None
