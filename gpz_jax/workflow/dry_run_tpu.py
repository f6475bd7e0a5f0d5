"""Compile for a TPU that is not there: in a process of its own, since libtpu wants its environment before jax starts.

``python -m gpz_jax.workflow.dry_run_tpu`` reads what to do as JSON from stdin and writes a line of JSON a program.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from gpz_jax.config import AttackConfig, Config
from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.settings_files import from_mapping
from gpz_jax.workflow.dry_run_result import NAN, Program, from_plain
from gpz_jax.workflow.dry_run_work import Work


class Chip(NamedTuple):
    """A kind of TPU.

    Attributes:
      gib: of memory a device that the compiler gives to programs, as it says when it refuses one.
      hertz: of the clock that its cycles are counted in; NaN where we do not know it.
      topologies: shapes of slices.
    """

    gib: float
    hertz: float
    topologies: tuple[str, ...]


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4")
CHIPS = {
    "v5e": Chip(15.75, 1.5e9, _FLAT),
    "v6e": Chip(31.25, NAN, _FLAT),
    "v5p": Chip(95.74, NAN, _CUBES),
    "tpu7x": Chip(94.75, NAN, _CUBES),
}

#: What libtpu must find before jax starts, so that it asks no metadata server and takes the machine for one host.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "JAX_PLATFORMS": "cpu",
}


def parse_topology(text: str) -> tuple[str, str]:
    """The chip and the shape of ``v5e:2x2``.

    Raises:
      UserError: an unknown one.

    Example:
      >>> parse_topology("v5e:2x2")
      ('v5e', '2x2')
    """
    chip, _, shape = text.partition(":")
    if chip not in CHIPS:
        raise UserError(f"--tpu {text!r}: unknown TPU {chip!r}{did_you_mean(chip, CHIPS)}; such as --tpu v5e:2x2")
    if shape not in CHIPS[chip].topologies:
        known = ", ".join(f"{chip}:{known}" for known in CHIPS[chip].topologies)
        raise UserError(f"--tpu {text!r} is not a known topology; known: {known}")
    return chip, shape


def check_libtpu() -> None:
    """Raise :class:`UserError` unless the libtpu that belongs to this jax is installed."""
    wanted = _wanted()
    how = f"pip install 'gpz-jax[tpu-check]' (that is libtpu {wanted or 'as jax asks for it'}; no TPU is needed)"
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--tpu needs the TPU's compiler, libtpu, which is not installed: {how}")
    found = importlib.metadata.version("libtpu")
    if wanted and not f"{found}.".startswith(wanted.removesuffix("*")):
        raise UserError(f"--tpu needs the libtpu that belongs to jax, {wanted}, and {found} is installed: {how}")


def _wanted() -> str | None:
    """The version of libtpu that the installed jax asks for, ``0.0.42.*``; None where it does not say."""
    asked = (re.match(r"libtpu\s*\(?==\s*([\d.*]+)", line) for line in importlib.metadata.requires("jax") or ())
    return next((match[1] for match in asked if match), None)


def programs_on_tpu(work: Work, topology: str, told: Callable[[Program], None]) -> tuple[Program, ...]:
    """What a TPU's compiler says of a command's programs; minutes for a large network.

    Args:
      work: what the command would do.
      topology: such as "v5e:2x2".
      told: called with each program as it is compiled.

    Raises:
      UserError: an unknown topology; no libtpu, or another version; what ``dry_run_work.programs_of`` raises.
    """
    parse_topology(topology)
    check_libtpu()
    # Settings of XLA and caches of this machine's programs are not for the TPU's compiler.
    given = {name: text for name, text in os.environ.items() if not name.startswith(("JAX_", "XLA_", "LIBTPU_"))}
    asked = json.dumps({"work": dataclasses.asdict(work), "topology": topology})
    found, why = [], "libtpu said nothing"
    command = [sys.executable, "-m", "gpz_jax.workflow.dry_run_tpu"]
    with subprocess.Popen(
        command, env=given | ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, encoding="utf-8",
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        said = _gathered(child)
        child.stdin.write(asked)
        child.stdin.close()
        for line in child.stdout:
            answer = _answer(line)
            if "error" in answer:
                raise UserError(answer["error"], field=answer["fields"])
            if "program" in answer:
                found.append(from_plain(answer["program"]))
                told(found[-1])
    if child.returncode:
        why = next((line for line in reversed(said) if line.strip()), why)
        raise UserError(f"the TPU's compiler could not be used: {why.strip()[:200]}")
    return tuple(found)


def _gathered(child: subprocess.Popen) -> list[str]:
    """Lines of a process's stderr, read beside its stdout so that neither fills up."""
    lines: list[str] = []
    threading.Thread(target=lambda: lines.extend(child.stderr or ()), daemon=True).start()
    return lines


def _answer(line: str) -> dict[str, Any]:
    """A line of the child as JSON; nothing where libtpu wrote it."""
    try:
        answer = json.loads(line)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _end_with(parent: int) -> None:
    """End this process when the one that asked is gone: a program may be compiled for half an hour."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main() -> None:
    """The child: compile what is asked for, a line of JSON a program."""
    asked = json.loads(sys.stdin.read())
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    from gpz_jax.workflow.dry_run_compiled import compiled
    from gpz_jax.workflow.dry_run_work import programs_of

    chip, _ = parse_topology(asked["topology"])
    memory = int(CHIPS[chip].gib * 2**30)
    try:
        for program in programs_of(_work(asked["work"]), mesh_of(asked["topology"]), memory):
            said = compiled(program, memory, hertz=CHIPS[chip].hertz)
            print(json.dumps({"program": dataclasses.asdict(said)}), flush=True)
    except UserError as error:
        print(json.dumps({"error": str(error), "fields": error.fields}), flush=True)


def _work(plain: dict[str, Any]) -> Work:
    config = from_mapping(Config, plain["config"], where="the dry run")
    attack = from_mapping(AttackConfig, plain["attack"], where="the dry run")
    shapes = {name: tuple(plain[name]) for name in ("shape", "auxiliary_shape")}
    return Work(**{**plain, **shapes, "config": config, "attack": attack})


def mesh_of(topology: str) -> Any:
    """The chips of a topology as the one axis of data; starts libtpu."""
    import jax
    import numpy as np
    from jax.experimental import topologies

    _, shape = parse_topology(topology)
    one = {"chips_per_host_bounds": (1, 1, 1)} if shape == "1x1" else {}
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **one)
    return jax.sharding.Mesh(np.array(found.devices), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


if __name__ == "__main__":
    main()
