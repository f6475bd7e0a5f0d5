"""What a folder that training is to go on in was begun with: ``--resume`` needs no other flags."""

from pathlib import Path
from typing import NamedTuple

from gpz_jax import runs
from gpz_jax.config import Config


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
    return Begun(members[0], seeds, alphas)
