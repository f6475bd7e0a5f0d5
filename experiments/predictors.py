"""Of all cheap numbers at a cut, which one says what an attacker gets there?

    python experiments/predictors.py --most 0                  # of the networks in results/predictors; seconds
    python experiments/predictors.py --data-dir DIR            # trains and attacks those that are missing
    python experiments/predictors.py --data-dir DIR --rerun NAME

Small networks of six families on six data sets, under three label distributions, each cut at six places; every cut is
measured by sixteen numbers (one is the linear attack's error on other images), and attacked by a linear map and two
decoders. Which number orders the cuts of a network, and networks at equal depth, as the attacks do? How much more leaks
at the cut that it chooses within a budget than at the best? The networks of claims.py are held out. One small JSON a
network, written whole: a killed experiment continues with the next.
"""

import dataclasses
import functools
from pathlib import Path

import common
import predictor_holdout
import predictor_page
import predictor_report
from common import Flags, Outcome
from predictor_measures import measured
from predictor_networks import hint, size_of

from gpz_jax.atomic import write_json
from gpz_jax.errors import UserError
from gpz_jax.json_files import read_json

RESULTS, HELD_OUT = (Path(__file__).parent / "results" / name for name in ("predictors", "claims"))


@dataclasses.dataclass(frozen=True)
class PredictorFlags(Flags):
    """Flags of the experiment."""

    seed: int = 0
    """Not used: every network of the list has a seed of its own."""
    out: str = "runs/predictors"
    """Folder for the table and the figure."""
    results: str | None = None
    """Folder of the networks' JSON files. Default: results/predictors beside this file (tiny: OUT/results)."""
    held_out: str | None = None
    """Folder of claims.py's results, held out. Default: results/claims; none at tiny or paper, or with --results."""
    rerun: tuple[str, ...] = ()
    """Network whose JSON is made again; repeat the flag for several."""
    page: str | None = None
    """Page whose block of results is made anew, such as docs/findings/predictors.md."""
    most: int | None = None
    """Measure at most so many networks that have no JSON yet; 0: none. Default: all, none beside a rerun."""


def experiment(flags: PredictorFlags, out: Path) -> Outcome:
    """Measure what is missing, and hold every predictor against the attacks."""
    most = common.most_of(flags.most, flags.rerun)
    size = size_of(flags.size, flags.data_dir, out)
    names = [network.name for network in size.networks]
    for name in flags.rerun:
        if name not in names:
            raise UserError(f"unknown network {name!r}{hint(name, names)}", field="rerun")
    default = out / "results" if flags.size == "tiny" else RESULTS
    results = common.results_of(flags.results, default, none_made=most == 0 and not flags.rerun)
    files = {network.name: results / f"{network.name}.json" for network in size.networks}
    again = [network for network in size.networks if network.name in flags.rerun]
    missing = [network for network in size.networks if not files[network.name].is_file()]
    for network in again + [network for network in missing if network not in again][:most]:
        found = measured(network, size)
        write_json(files[network.name], found)
        print(f"{network.name}: accuracy {found['accuracy']:.3f}, {sum(found['seconds'].values()):.0f} s", flush=True)
    networks = [read_json(file) for file in files.values() if file.is_file()]
    if len(networks) < 2:
        raise UserError(f"{results} holds {len(networks)} networks of the list; measure two or more (--most)")
    own = flags.size == "laptop" and flags.results is None
    held = predictor_holdout.read(flags.held_out or (HELD_OUT if own else None))
    study = predictor_page.study_of(networks, held)
    predictor_report.draw(study.rows, study.records, out / "predictors.png")
    if flags.page:
        predictor_page.refresh(Path(flags.page), predictor_page.block_of(study, len(names)))
    return study.outcome(flags.wide)


main = functools.partial(common.run, PredictorFlags, experiment)

if __name__ == "__main__":
    main()
