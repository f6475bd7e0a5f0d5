"""What crashes.py kills: the commands, what a signal to one of them showed, and all that a run folder holds."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

#: The smallest that still has something to interrupt.
_TINY = ("--size", "16", "--width", "4", "--ls", "0.3", "--null-seeds", "0", "--bootstrap", "50")
_TRACK = ("--track-every", "1", "--probe-size", "40")
_LADDER = ("--cut", "fc", "--ladder", "--epochs", "2", "--decoder-width", "2", "--steps", "12", "--tv", "0",
           "--restarts", "1", "--likelihood-images", "4")  # fmt: skip

#: What a signal may end a process with; 0 where it had finished.
STATUS: dict[signal.Signals | None, int] = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}


class Command(NamedTuple):
    """A command that is killed: its arguments, with RUN in the folder's place, and how it is gone on with.

    ``of_run``: it is started on a finished run, not on an empty folder.
    """

    argv: tuple[str, ...]
    resume: tuple[str, ...] = ("--resume",)
    of_run: bool = False


COMMANDS = {
    "train": Command(("train", *_TINY, "--epochs", "5", "--run", "RUN")),
    "train, tracked": Command(("train", *_TINY, *_TRACK, "--epochs", "4", "--run", "RUN", "--checkpoint-every", "3")),
    "attack": Command(("attack", "RUN", *_LADDER), of_run=True),
    "probe": Command(("probe", "RUN", "--null-seeds", "3", "--bootstrap", "50"), resume=(), of_run=True),
    "sweep": Command(("train", *_TINY, "--epochs", "3", "--seeds", "0", "--seeds", "1", "--run", "RUN")),
    "sweep, vmap": Command(
        ("train", *_TINY, "--epochs", "3", "--seeds", "0", "--seeds", "1", "--sweep", "vmap", "--run", "RUN")
    ),
}


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
      status: of its exit.
      said: on stderr.
      seconds: it ran once it listened to signals.
      to_exit: seconds from the signal to its exit; None where it had finished before.
    """

    status: int
    said: str
    seconds: float
    to_exit: float | None = None


def start(command: Command, run: Path, *, resumed: bool = False, log: Path | None = None) -> subprocess.Popen:
    """Start the command on a folder, its stderr in a file."""
    argv = [str(run) if word == "RUN" else word for word in (*command.argv, *(command.resume if resumed else ()))]
    argv = [sys.executable, "-m", f"gpz_jax.{argv[0]}", *argv[1:]]
    # Compiling is most of what such short commands do: the programs need not be well optimised.
    environment = {"XLA_FLAGS": "--xla_backend_optimization_level=1"} | os.environ
    with (log or run.with_name("stderr")).open("w") as said:
        return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=said, env=environment)


def end(process: subprocess.Popen, log: Path, number: int | None = None, after: float = 0.0) -> Ended:
    """Wait for the end of a process; with ``number`` send it that signal, ``after`` seconds from when it listens."""
    while process.poll() is None and not _listens(process.pid):
        time.sleep(0.01)
    begun, sent = time.monotonic(), None
    if number is not None:
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            sent = time.monotonic()
    status = process.wait(600)
    now = time.monotonic()
    return Ended(status, log.read_text(encoding="utf-8"), now - begun, None if sent is None else now - sent)


def _listens(pid: int) -> bool:
    """Whether a process has its handlers in place: until then Python is starting, and ends as Python does."""
    try:
        found = re.search(r"^SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return False
    return bool(found) and bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)


def epochs_done(said: str) -> float | None:
    """How many epochs a training says are behind it, at the end of what it said; None if it says nothing of them."""
    done = [float(found[1]) for found in re.finditer(r"^gpz: epoch (\d+)/", said, re.MULTILINE)]
    if begun := begun_at(said):
        done.append(begun)
    return max(done, default=None)


def begun_at(said: str) -> float | None:
    """After which epoch a training says that it goes on; the half of one for a step within it."""
    found = re.search(r"continuing after (?:epoch (\d+)|step \d+ of epoch (\d+))", said)
    if found is None:
        return None
    return float(found[1]) if found[1] else int(found[2]) - 0.5


def content(folder: Path) -> dict[str, Any]:
    """All that a run folder says, by file: arrays, numbers and text; no times, no digests of files that hold times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if (
            any(half in name for half in (".partial", "orbax-checkpoint-tmp", "unfinished"))
            or path.name == "owner.json"
        ):
            found[name] = "left over"
        elif path.parts[len(folder.parts)] in ("figures", "aside") or _in_checkpoint(path, folder):
            continue
        elif (path / "_CHECKPOINT_METADATA").exists():
            found |= {f"{name}{leaf}": array for leaf, array in _arrays_of(path).items()}
        elif path.suffix == ".json" and path.name not in ("seal.json", "zarr.json"):
            found[name] = _without_digests(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix in (".csv", ".jsonl"):
            found[name] = path.read_text(encoding="utf-8")
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found |= {f"{name}[{key}]": arrays[key] for key in arrays.files}
        elif path.name == "zarr.json" and json.loads(path.read_text())["node_type"] == "array":
            found[name] = _zarr_array(path.parent)
    return found


def _in_checkpoint(path: Path, folder: Path) -> bool:
    """Whether a path lies in a checkpoint of Orbax, which is read as a whole; ours beside it are no part of it."""
    inside = [parent for parent in path.parents if parent != folder and (parent / "_CHECKPOINT_METADATA").exists()]
    return bool(inside) and path.name != "measured.json"


def _arrays_of(folder: Path) -> dict[str, np.ndarray]:
    import jax
    from orbax.checkpoint import v1 as ocp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Orbax's, that places are taken from the file
        leaves = jax.tree.leaves_with_path(ocp.load(str(folder.absolute())))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _zarr_array(folder: Path) -> np.ndarray:
    import zarr

    array = np.asarray(zarr.open_array(str(folder), mode="r")[...])
    return array if array.dtype.kind in "biuf" else np.array(array.tolist(), str)


def _without_digests(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_digests(v) for k, v in value.items() if k not in ("check", "files", "seal", "seconds")}
    return value


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names of what two folders do not have in common, bit for bit."""
    return [name for name in {**ours, **theirs} if name not in ours or name not in theirs
            or not _same(ours[name], theirs[name])]  # fmt: skip


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, np.ndarray):
        return json.dumps(one) == json.dumps(other)  # by their text, where NaN is NaN
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def fresh(command: Command, folder: Path, trained: Path) -> Path:
    """A folder for the command, called as its reference is."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return Path(shutil.copytree(trained, folder / "run")) if command.of_run else folder / "run"


def signals(kills: int) -> Sequence[signal.Signals]:
    """Half of them SIGTERM, what is left SIGKILL and SIGINT."""
    return [(signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[i % 4] for i in range(kills)]


class Kill(NamedTuple):
    """A signal that was sent, what it cost, and what was wrong about all that was sent to the same folder."""

    command: str
    number: signal.Signals
    ended: Ended
    lost: float
    wrong: list[str]


def victim(
    name: str, place: Path, references: Path, seconds: float, numbers: Sequence[signal.Signals], seed: int
) -> list[Kill]:
    """Kill one command at random moments, go on until it has ended, and hold it against its reference.

    Args:
      name: of the command.
      place: where its folder is made; left there if anything is wrong.
      references: holds the folders of commands that nobody touched.
      seconds: that the command takes.
      numbers: signals to send it, one a start; those that are left when it has ended are not sent.
      seed: of the moments.
    """
    command, random, found = COMMANDS[name], np.random.default_rng(seed), []
    run, log = fresh(command, place, references / "train/run"), place / "stderr"
    wrong: list[str] = []
    before = 0.0
    for attempt, number in enumerate([*numbers, None]):
        moment = random.uniform(0, seconds)
        ended = end(start(command, run, resumed=attempt > 0, log=log), log, number, moment)
        begun = begun_at(ended.said)
        if found and begun is not None:  # else it ended before it came to say so
            found[-1] = found[-1]._replace(lost=max(0.0, before - begun))
        before = max(before if begun is None else 0.0, epochs_done(ended.said) or 0.0)
        sent = number if ended.to_exit is not None else None
        if ended.status not in (0, STATUS.get(sent, 0)) or "Traceback" in ended.said:
            wrong.append(f"status {ended.status} after {sent.name if sent else 'no signal'}: {ended.said[-300:]}")
        if sent is None:
            break
        found.append(Kill(name, sent, ended, 0.0, wrong))
    wrong += differences(content(run), content(references / name / "run"))[:5]
    if not wrong:
        shutil.rmtree(place)
    elif not found:
        raise AssertionError(f"{name}, without any signal: {wrong}")
    return found
