"""The paper claim by claim: what it says, what comes out here, with its interval over seeds, and a verdict.

    python experiments/claims.py --most 0                     # from what is kept in results/claims; seconds
    python experiments/claims.py --data-dir DIR               # also does the work that is missing; hours
    python experiments/claims.py --data-dir DIR --rerun edge-cost

Networks have the paper's full lists of blocks (IR-152's 51, VGG19's 53), at widths that train on two cores, on CIFAR-10
(JPEG-compressed), KMNIST, FaceScrub of twenty people, LFW and chest x-rays. Each is trained, probed at every cut and
attacked at every third. One small JSON a network and seed is kept, written whole; a killed call goes on with the next.
docs/findings/claims.md and docs/images/claims.png are written from these files; curves.png in --out is the same.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import claim_figure
import claim_page as page
import claim_units as units
import common
from claim_numbers import Claim, Record
from claim_verdicts import CLAIMS, claim_of
from common import Outcome

from gpz_jax.atomic import write_json
from gpz_jax.json_files import read_json

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = Path(__file__).parent / "results" / "claims", ROOT / "docs" / "findings" / "claims.md"
PICTURE = ROOT / "docs" / "images" / "claims.png"


@dataclasses.dataclass(frozen=True)
class ClaimFlags(common.SeedsFlags):
    """Flags of the experiment."""

    out: str = "runs/claims"
    """Folder for the trained networks and the table."""
    results: str | None = None
    """Folder of the units' JSON files. Default: results/claims beside this file (tiny: OUT/results)."""
    rerun: tuple[str, ...] = ()
    """Claim whose work of one seed is done again, and held against what is kept; repeat the flag for several. What is
    missing is then left so, unless --most asks for it."""
    most: int | None = None
    """Do at most so much of the work that is missing (units: a network and seed); 0: none. Default: all."""


def experiment(flags: ClaimFlags, out: Path) -> Outcome:
    """Do what is missing, judge every claim, write the page."""
    most = common.most_of(flags.most, flags.rerun)
    again = [claim_of(name) for name in flags.rerun]
    default = out / "results" if flags.size == "tiny" else RESULTS
    home = common.results_of(flags.results, default, none_made=most == 0)
    wanted = units.units_of(flags.seeds())
    if flags.size == "tiny":
        wanted = [unit for unit in wanted if unit.name.startswith(("cnn", "dynamics-vgg19-LS+"))]
    for unit in [unit for unit in wanted if not (home / f"{unit.name}.json").is_file()][:most]:
        write_json(home / f"{unit.name}.json", units.done(unit, flags, out / unit.name))
        print(f"{unit.name} is done", flush=True)
    records: dict[str, Record] = {file.stem: read_json(file) for file in sorted(home.glob("*.json"))}
    judged = {claim: claim.judge(claim.records(records)) for claim in CLAIMS}
    rows = [row for claim, found in judged.items() for row in page.rows_of(claim, found, records)]
    file = out / "claims.md" if flags.size == "tiny" or flags.results else PAGE
    text = page.page_of(judged, records)
    claim_figure.draw(records, out / "curves.png")
    if file == PAGE and text != PAGE.read_text():
        claim_figure.draw(records, PICTURE)
    file.write_text(text)
    verdict = [f"{claim.name}: {found.said}. {found.sentence}" for claim, found in judged.items()]
    for claim in again:
        verdict += rerun(claim, flags, out, records)
    return Outcome(rows, page.sheets_of(judged, rows), verdict)


def rerun(claim: Claim, flags: ClaimFlags, out: Path, kept: dict[str, Record]) -> list[str]:
    """Do a claim's work of one seed again; what comes out beside what is kept, and whether it lies in the interval."""
    seed = flags.seeds()[0]
    again = [unit for unit in units.units_of([seed]) if unit.name.startswith(claim.units)]
    fresh = {unit.name: units.done(unit, flags, out / "again" / unit.name) for unit in again}
    old, new = (claim.judge(claim.records(records)).findings for records in (kept, fresh))
    known = {one.name: one for one in old}
    return [f"again, seed {seed}: {one.name}: {page.held(known.get(one.name), one)}" for one in new]


main: Any = functools.partial(common.run, ClaimFlags, experiment)

if __name__ == "__main__":
    main()
