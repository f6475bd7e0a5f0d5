"""What a folder that training is to go on in was begun with: ``--resume`` needs no other flags."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gpz_jax import runs
from gpz_jax.config import Config, resolve


class Begun(NamedTuple):
    """What a folder holds: the settings of its run, or of the first of a sweep, with the sweep's seeds and alphas."""

    config: Config
    seeds: tuple[int, ...] = ()
    alphas: tuple[float, ...] = ()


def begun(folder: str | None) -> Begun | None:
    """The settings of the run or the sweep in a folder; None where there is neither.

    Raises:
      UserError: a config.json that cannot be read.
    """
    if folder and runs.is_remote(folder):
        with tempfile.TemporaryDirectory() as there:
            return begun(str(runs.files_of(folder, lambda path: Path(path).name == "config.json", Path(there))))
    path = Path(folder) if folder else None
    if path is None or not path.is_dir():
        return None
    if (path / "config.json").is_file():
        return Begun(runs.open_run(path).config)
    members = [runs.open_run(file.parent).config for file in sorted(path.glob("*/config.json"))]
    if not members:
        return None
    alphas = tuple(dict.fromkeys(sorted(one.training.ls for one in members)))
    seeds = tuple(dict.fromkeys(sorted(one.seed for one in members)))
    return Begun(_as_asked(members), seeds, alphas)


def _as_asked(members: Sequence[Config]) -> Config:
    """The settings that the runs of a sweep share; what each worked out from its own alpha is left to be worked out."""

    def unset(config: Config) -> Config:
        return dataclasses.replace(config, training=dataclasses.replace(config.training, warmup_epochs=None))

    return unset(members[0]) if all(resolve(unset(one)) == one for one in members) else members[0]
