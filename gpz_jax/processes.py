"""Several processes, one a host: who they are, what they agree on, and that process 0 alone writes and says.

Every process runs the same program on its own devices; what is computed together is spread over the devices of all
(``parallel.py``). What only one can do, :func:`led` lets process 0 do for all; what each does by itself, :func:`every`
lets fail on all where it fails on one, so that none waits for another that is gone. In a single process each of these
is the plain call.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np

from gpz_jax import last_words
from gpz_jax.errors import UserError
from gpz_jax.liveness import part, watch

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Together:
    """Flags of a command that several processes run together, one a host; not needed where the cluster says it."""

    coordinator: str | None = None
    """Several processes, one a host: HOST:PORT of process 0, the same in all. SLURM, Open MPI and Cloud TPUs say by
    themselves who belongs together; the flag is for what they do not start."""
    processes: int | None = None
    """How many processes there are."""
    process: int | None = None
    """Which of them this one is, from 0. Process 0 writes the run folder, which all must see, and prints."""


#: Seconds in which all processes of a run must have come.
ARRIVAL = 60


def join(flags: Any) -> None:
    """What a command begins with: :func:`start` with its flags ``together``, which then must be alike in all processes.

    Raises:
      UserError: what :func:`start` raises; flags that differ, but for where the images lie.
    """
    start(**dataclasses.asdict(flags.together))
    if count() > 1:
        ours = _flat({name: value for name, value in dataclasses.asdict(flags).items() if name != "together"})
        theirs = told(ours)
        every(lambda: _check_flags(ours, theirs))


def _flat(tables: dict[str, Any]) -> dict[str, str]:
    """Every flag but where the images lie."""
    found: dict[str, str] = {}
    for name, value in tables.items():
        found |= _flat(value) if isinstance(value, dict) else {name: str(value)}
    found.pop("data_dir", None)
    return found


def _check_flags(ours: dict[str, str], theirs: dict[str, str]) -> None:
    differ = [name for name in ours if ours[name] != theirs.get(name)]
    if differ:
        said = "; ".join(f"{name} {ours[name]} (process 0: {theirs.get(name)})" for name in differ[:5])
        raise UserError(f"was given other settings than process 0: {said}; give all processes the same", field=differ)


def start(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Join the other processes of a run, before any device is used; alone, do nothing.

    Args:
      coordinator: ``HOST:PORT`` of process 0, which the others can reach. None: what SLURM, Open MPI or the TPU say.
      processes: how many there are.
      process: which of them this one is, from 0.

    Raises:
      UserError: flags that do not go together; another process did not come within 60 s.
    """
    asked = (coordinator, processes, process) != (None, None, None) or _detected()
    if not asked and not _is_tpu_machine():
        return
    check(coordinator, processes, process)
    # A process that is lost must not end the others from within, by an abort of many lines: ``watch`` ends them in one.
    # Nor may SIGTERM be taken away from ``interruption``.
    for name, value in (("jax_enable_recoverability", True), ("jax_enable_preemption_service", False)):
        with contextlib.suppress(AttributeError):
            jax.config.update(name, value)
    last_words.say_on_abort(_not_joined(coordinator, processes, process))
    with _without_stdout():  # where Gloo says that it is connected
        try:
            jax.distributed.initialize(
                coordinator, processes, process,
                initialization_timeout=ARRIVAL, heartbeat_timeout_seconds=30, shutdown_timeout_seconds=30,
            )  # fmt: skip
        except (RuntimeError, ValueError, OSError) as error:
            if not asked:  # a TPU of one machine, which knows of no others
                return
            why = " ".join(str(error).split())[:160]
            raise UserError(f"{_not_joined(coordinator, processes, process)} ({why})", field="coordinator") from None
        host = (coordinator or "").rpartition(":")[0] or None
        watch(jax.process_index(), jax.process_count(), told, leave=jax.distributed.shutdown, reached_at=host)
    if not leads():
        _say_nothing()


def check(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Raise :class:`UserError` for flags that do not go together.

    >>> check("10.0.0.1:7000", 2, 1)
    """
    missing = [
        name
        for name, value in (("coordinator", coordinator), ("processes", processes), ("process", process))
        if value is None
    ]
    if len(missing) == 3:
        return
    if missing:
        raise UserError(
            f"several processes need coordinator, processes and process together; {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing",
            field=("coordinator", "processes", "process"),
        )
    assert coordinator is not None
    assert processes is not None
    assert process is not None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(
            f"coordinator {coordinator!r} must be HOST:PORT of process 0, as 10.0.0.1:7000", field="coordinator"
        )
    if processes < 1 or not 0 <= process < processes:
        raise UserError(
            f"process {process} of {processes}: give processes N and, in each of them, another process from 0 to N - 1",
            field=("processes", "process"),
        )


def count() -> int:
    """How many processes there are; asking starts no device as long as there is one."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Which of them this one is, from 0."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def leads() -> bool:
    """Whether this is the process that writes and says what there is to say.

    >>> count(), index(), leads()
    (1, 0, True)
    """
    return index() == 0


def gathered(value: np.ndarray) -> np.ndarray:
    """The arrays of all processes, of one shape, stacked in their order: ``(P, …)``.

    >>> gathered(np.arange(3)).tolist()
    [[0, 1, 2]]
    """
    if count() == 1:
        return np.asarray(value)[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


def texts(text: str) -> list[str]:
    """The texts of all processes, in their order.

    >>> texts("ja")
    ['ja']
    """
    if count() == 1:
        return [text]
    written = np.frombuffer(text.encode(), np.uint8)
    lengths = gathered(np.array(len(written), np.int32))
    # To a power of two, so that few programs are compiled for it.
    padded = np.zeros(1 << max(8, int(lengths.max() - 1).bit_length()), np.uint8)
    padded[: len(written)] = written
    return [bytes(row[:n]).decode() for row, n in zip(gathered(padded), lengths, strict=True)]


def told(value: Any) -> Any:
    """What process 0 has, a value of JSON, in all of them.

    >>> told({"folder": "runs/a"})
    {'folder': 'runs/a'}
    """
    return value if count() == 1 else json.loads(texts(json.dumps(value) if leads() else "")[0])


def every(work: Callable[[], T]) -> T:
    """What each process does by itself; all have done it on return.

    Raises:
      UserError: in all of them, where one could not do it; that one raises its own, with whatever it was.

    >>> every(lambda: 3)
    3
    """
    if count() == 1:
        return work()
    result, mine = None, None
    try:
        result = work()
    except BaseException as error:
        mine = error
    said = texts("" if mine is None else _written(mine))
    if any(said):
        part()  # all know why they end
    if mine is not None:
        raise mine
    for number, failed in enumerate(said):
        if failed:
            found = json.loads(failed)
            raise UserError(f"process {number}: {found['message']}", field=found["fields"])
    return result  # pyright: ignore


def led(work: Callable[[], T]) -> T | None:
    """What process 0 does for all; all go on once it is done. Returns what it gave there, None in the others.

    Raises:
      UserError: in all of them, where process 0 could not do it.
    """
    return every(work if leads() else lambda: None)


@contextlib.contextmanager
def led_context(context: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """A context that process 0 enters for all, such as a lock."""
    with contextlib.ExitStack() as entered:
        led(lambda: entered.enter_context(context))
        yield


def check_same(value: Any, what: str) -> None:
    """Raise :class:`UserError` in all processes unless each has the value, of JSON, that process 0 has."""
    written = texts(json.dumps(value, sort_keys=True))
    for number, theirs in enumerate(written):
        if theirs != written[0]:
            part()
            raise UserError(f"process {number} has {what} {theirs[:200]}, process 0 {written[0][:200]}")


def _written(error: BaseException) -> str:
    if isinstance(error, UserError):
        return json.dumps({"message": str(error), "fields": list(error.fields)})
    return json.dumps({"message": f"stopped by {type(error).__name__}: {str(error)[:200]}", "fields": []})


def _detected() -> bool:
    """Whether the environment says that this is one of several processes that jax finds by itself."""
    several = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # srun, mpirun
    if any(os.environ.get(name, "1").isdecimal() and int(os.environ.get(name, "1")) > 1 for name in several):
        return True
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")  # a TPU under Kubernetes, of several machines


def _is_tpu_machine() -> bool:
    """Whether this is a Cloud TPU machine: jax then asks its metadata whether there are others."""
    return (
        os.environ.get("JAX_PLATFORMS", "tpu") in ("", "tpu")
        and any(os.path.exists(device) for device in ("/dev/accel0", "/dev/vfio/0"))
        and importlib.util.find_spec("libtpu") is not None
    )


def _not_joined(coordinator: str | None, processes: int | None, process: int | None) -> str:
    where = coordinator or "the address that the cluster names"
    if process == 0:
        return f"not all of {processes} processes came to {where} within {ARRIVAL} s; start every one of them"
    return (
        f"process 0 could not be reached at {where} within {ARRIVAL} s; start it there, with this coordinator, and "
        "see that the port is open"
    )


@contextlib.contextmanager
def _without_stdout() -> Iterator[None]:
    """Whatever C++ writes to stdout goes nowhere."""
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _say_nothing() -> None:
    """Tables are printed by process 0."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
