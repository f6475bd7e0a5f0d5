"""Runs of one recipe trained together (seeds, values of alpha): one loop, and at every step all of its members.

A value of every member at once is *packed*. How ``"vmap"``, for accelerators: every array has a leading axis of
members, and one program takes a step of all of them. How ``"loop"``, for CPUs: a list, and every member takes its step
by the program of single runs. There vmap makes grouped convolutions, which XLA's CPU backend computes several times
slower, and unrolling the members inside one program gains nothing but the time to compile it.
"""

from collections.abc import Callable, Sequence
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
from gpz_jax.data.splits import Split
from gpz_jax.errors import UserError
from gpz_jax.training import classifier, ledger
from gpz_jax.training.classifier import OnUpdate, Recipe, State, Totals
from gpz_jax.training.ledger import Ledger, Tracked

How = Literal["vmap", "loop"]


def how_to(together: Literal["auto", "vmap", "loop"]) -> How:
    """What ``--together`` means on this machine's devices."""
    if together == "auto":
        return "loop" if jax.default_backend() == "cpu" else "vmap"
    return together


def pack(members: Sequence[Any], how: How) -> Any:
    """Members' values (pytrees of one shape) as a packed one."""
    return list(members) if how == "loop" else jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def unpack(packed: Any, how: How) -> list[Any]:
    """The values of the members, in order."""
    if how == "loop":
        return packed
    return [jax.tree.map(itemgetter(i), packed) for i in range(len(jax.tree.leaves(packed)[0]))]


def over_members(function: Callable[..., Any], how: How) -> Callable[..., Any]:
    """A function of packed values, of one that takes the values of a member."""
    if how == "vmap":
        return jax.vmap(function)
    # Each waits for the one before: programs that are under way together, each spread over several devices of the CPU
    # backend, can hold the threads that the others wait for, and none ever ends (seen with two devices on two cores).
    return lambda *packed: [jax.block_until_ready(function(*member)) for member in zip(*packed, strict=True)]


def pool(parts: Sequence[Split]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Images that all members can share: every array once, however many splits are parts of it.

    Returns:
      images, uint8 ``(all, H, W, C)``; labels, int32 ``(all,)``; the places of every split's members in them, int32.
    """
    arrays = list({id(part.images): part for part in parts}.values())
    begins = np.cumsum([0, *(len(part.images) for part in arrays)])
    begin_of = {id(part.images): begin for part, begin in zip(arrays, begins, strict=False)}
    places = [(begin_of[id(part.images)] + part.indices).astype(np.int32) for part in parts]
    images, labels = [part.images for part in arrays], [part.labels for part in arrays if part.labels is not None]
    return np.concatenate(images), np.concatenate(labels), places


def step_all(carry, images, labels, orders, index, alphas, keys, *, recipe: Recipe, mesh: Mesh, how: How):
    """``classifier.train_step`` of all members; ``carry`` is packed of (state, totals)."""

    def one(carry: tuple[State, Totals], order: Array, alpha: Array, key: Array) -> tuple[State, Totals]:
        return classifier.train_step(*carry, images, labels, order, index, alpha, key, recipe=recipe, mesh=mesh)

    return over_members(one, how)(carry, orders, alphas, keys)


def enter_all(before, batch, carry, probes, *, tracked: Tracked, mesh: Mesh, how: How) -> list[dict[str, Array]]:
    """``ledger.enter`` of all members, each on its own probe batch."""
    images, labels, orders, index, alphas, keys = batch

    def one(before, order, alpha, key, carry, probe):
        batch = (images, labels, order, index, alpha, key)
        return ledger.enter(before, batch, carry[0], *probe, tracked=tracked, mesh=mesh)

    return unpack(over_members(one, how)(before, orders, alphas, keys, carry, probes), how)


#: One program for all members where they are vmapped; the programs of single runs, called in turn, where they are not.
STEP = {"vmap": jax.jit(step_all, static_argnames=("recipe", "mesh", "how"), donate_argnames="carry"), "loop": step_all}
ENTER = {"vmap": jax.jit(enter_all, static_argnames=("tracked", "mesh", "how")), "loop": enter_all}


def note_all(books: Sequence[Ledger], how: How) -> OnUpdate:
    """An ``on_update`` of :func:`fit` that enters the step in every member's ledger."""
    probes = pack([book.probe for book in books], how)
    options = {"tracked": books[0].tracked, "mesh": books[0].mesh, "how": how}

    def note(epoch: int, step: int, before: Any, batch: tuple[Any, ...], after: Any) -> None:
        for book, row in zip(books, ENTER[how](before, batch, after, probes, **options), strict=True):
            book.add(epoch, step, row)

    return note


def fit(
    states: Sequence[State],
    *,
    recipe: Recipe,
    configs: Sequence[Config],
    train: Sequence[Split],
    validation: Sequence[Split],
    mesh: Mesh,
    how: How,
    after_epoch: Callable[[int, list[State], list[dict[str, float]]], None],
    on_step: Callable[[int, int], None] = lambda epoch, step: None,
    on_update: OnUpdate | None = None,
    first_epoch: int = 0,
) -> list[State]:
    """Train all members from ``first_epoch`` to the last; each as ``classifier.fit`` would train it alone.

    With ``"loop"`` it is the same bit for bit; with ``"vmap"`` sums are taken in another order.

    Args:
      states: where each member starts; donated.
      recipe: compiled shape of all runs.
      configs: resolved configuration of each; they differ in the seed, alpha and the warm-up alone.
      train: training images of each, of one number; members' splits of one array share it on the device.
      validation: of each.
      mesh: devices; batches are spread over them, every device has all members.
      how: see above.
      after_epoch: called with (epochs done, states, measurements) after each epoch, once all members have ended it.
      on_step: called with (epoch, step within it), for progress bars.
      on_update: called around every ``track_every``-th step with packed values: before is packed of states without
        their optimiser, the batch's order, alpha and key are packed, after is packed of (state, totals).
      first_epoch: epochs already done.

    Returns:
      The states after the last epoch.

    Raises:
      UserError: a batch larger than the training split; a loss of any member that is not finite (names it).
    """
    t, track_every = configs[0].training, configs[0].track.track_every or 1
    count = len(train[0])
    classifier.check_batch_size(t.batch_size, count, mesh)
    images, labels, places = parallel.replicate(pool(train), mesh)
    order_keys, noise_keys = zip(*(classifier.keys_of(config.seed) for config in configs), strict=True)
    noise_keys, states = pack(noise_keys, how), list(states)
    steps = count // t.batch_size
    for epoch in range(first_epoch, t.epochs):
        alphas = pack([jnp.float32(classifier.alpha_of(config.training, epoch)) for config in configs], how)
        orders = [own[epoch_order(key, epoch, count)] for own, key in zip(places, order_keys, strict=True)]
        orders = pack(orders, how)
        carry = parallel.replicate(pack([(state, Totals.zero()) for state in states], how), mesh)
        for index in range(steps):
            batch = (images, labels, orders, jnp.int32(index), alphas, noise_keys)
            step = epoch * steps + index
            due = on_update is not None and step % track_every == 0
            before = over_members(_before, how)(carry) if due else carry
            carry = STEP[how](carry, *batch, recipe=recipe, mesh=mesh, how=how)
            if on_update is not None and due:
                on_update(epoch + 1, step, before, batch, carry)
            on_step(epoch, index)
        ended = []
        for config, (state, totals), held_out in zip(configs, unpack(carry, how), validation, strict=True):
            try:
                ended.append(
                    classifier.end_epoch(
                        state, totals, epoch, recipe=recipe, config=config, validation=held_out, steps=steps, mesh=mesh
                    )
                )
            except UserError as error:
                raise UserError(f"seed {config.seed}, alpha {config.training.ls:g}: {error}") from None
        states = [state for state, _ in ended]
        after_epoch(epoch + 1, states, [measured for _, measured in ended])
    return states


def _before(carry: tuple[State, Totals]) -> State:
    """A copy of the state, for the step donates it; without the optimiser's part, which is not asked for."""
    return jax.tree.map(jnp.copy, carry[0]._replace(optimiser=()))
