"""What lies in a run folder beside its records: versions of packages, prices of the cuts."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from gpz_jax.atomic import write_json
from gpz_jax.errors import UserError
from gpz_jax.json_files import read_json
from gpz_jax.runs.folder import Run
from gpz_jax.runs.seals import with_check, without_check


def versions(run: Run) -> dict[str, str]:
    """The packages that a run was trained with."""
    try:
        found = dict(read_json(run.folder / "config.json")).get("versions")
    except (UserError, ValueError, TypeError):
        return {}
    return {str(name): str(version) for name, version in found.items()} if isinstance(found, dict) else {}


def write_edge_milliseconds(folder: Path, found: Mapping[str, float]) -> None:
    """Keep what the edge takes at every cut beside a ``cuts.csv``, sealed, in ``cuts.json``; NaN: not timed."""
    write_json(folder / "cuts.json", with_check({"edge_ms": {cut: float(value) for cut, value in found.items()}}))


def edge_milliseconds(run: Run, on_problem: Callable[[str], None]) -> dict[str, float]:
    """Cut -> milliseconds that the edge takes for a batch; empty if nothing was timed.

    Args:
      run: of the cuts.
      on_problem: told in words of a file that cannot be read, which counts as none.
    """
    file = run.folder / "cuts.json"
    if not file.exists():
        return {}
    try:
        written = without_check(dict(read_json(file, finite=False)), file)
        found = {str(cut): float(value) for cut, value in written["edge_ms"].items()}
    except UserError as error:
        on_problem(str(error))
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        on_problem(f"{file} cannot be read ({type(error).__name__})")
        return {}
    return {cut: value for cut, value in found.items() if math.isfinite(value)}
