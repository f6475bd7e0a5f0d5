"""The paper claim by claim: what it says, what comes out here, with its interval over seeds, and a verdict.

    python experiments/claims.py --most 0                     # from what is kept in results/claims; seconds
    python experiments/claims.py --data-dir DIR               # also does the work that is missing; hours
    python experiments/claims.py --data-dir DIR --rerun edge-cost

Networks have the paper's full lists of blocks (IR-152's 51, VGG19's 53), at widths that train on two cores, on CIFAR-10
(JPEG-compressed), KMNIST and FaceScrub of twenty people. Each is trained, probed at every cut and attacked at every
third. One small JSON a network and seed is kept, written whole; a killed call continues with the next. docs/claims.md
is written from these files.
"""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import claim_units as units
import common
from claim_verdicts import CLAIMS, Claim, Finding, Judged, Record
from common import Outcome, Row

from gpz_jax.atomic import make_folder, write_json
from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.json_files import read_json
from gpz_jax.presentation import number

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = Path(__file__).parent / "results" / "claims", ROOT / "docs" / "findings" / "claims.md"


@dataclasses.dataclass(frozen=True)
class ClaimFlags(common.SeedsFlags):
    """Flags of the experiment."""

    out: str = "runs/claims"
    """Folder for the trained networks and the table."""
    results: str | None = None
    """Folder of the units' JSON files. Default: results/claims beside this file (tiny: OUT/results)."""
    rerun: tuple[str, ...] = ()
    """Claim whose work of one seed is done again, and held against what is kept; repeat the flag for several."""
    most: int | None = None
    """Do at most so much of the work that is missing (units: a network and seed); 0: none. Default: all."""


def experiment(flags: ClaimFlags, out: Path) -> Outcome:
    """Do what is missing, judge every claim, write the page."""
    home = Path(flags.results) if flags.results else out / "results" if flags.size == "tiny" else RESULTS
    make_folder(home)
    wanted = units.units_of(flags.seeds())
    if flags.size == "tiny":
        wanted = [unit for unit in wanted if unit.name.startswith("cnn")]
    for unit in [unit for unit in wanted if not (home / f"{unit.name}.json").is_file()][: flags.most]:
        write_json(home / f"{unit.name}.json", units.done(unit, flags, out / unit.name))
        print(f"{unit.name} is done", flush=True)
    records: dict[str, Record] = {file.stem: read_json(file) for file in sorted(home.glob("*.json"))}
    judged = {claim: claim.judge(claim.records(records)) for claim in CLAIMS}
    rows = [row for claim, found in judged.items() for row in rows_of(claim, found, records)]
    page = out / "claims.md" if flags.size == "tiny" or flags.results else PAGE
    page.write_text(page_of(judged, records))
    verdict = [f"{claim.name}: {found.verdict}. {found.sentence}" for claim, found in judged.items()]
    for name in flags.rerun:
        verdict += rerun(name, flags, out, records)
    return Outcome(rows, [common.sheet_of("The paper's claims", rows, COLUMNS, section="claim")], verdict)


COLUMNS = {"claim": "claim", "number": "what", "paper": "paper_said", "ours": "ours_said", "verdict": "verdict"}


def rows_of(claim: Claim, found: Judged, records: dict[str, Record]) -> list[Row]:
    """A row a number; one of a claim that was not tested."""
    seconds = sum(record["seconds"] for record in claim.records(records).values())
    shared = {"claim": claim.name, "verdict": found.verdict, "seconds": round(seconds)}
    return [shared | _row(one) for one in found.findings or (Finding("", None, ()),)]


def _row(one: Finding) -> Row:
    low, high = one.interval
    paper = "" if one.paper is None else number(one.paper, 2)
    numbers = {"paper": "" if one.paper is None else one.paper, "ours": one.mean, "low": low, "high": high}
    return {"what": one.what, "paper_said": paper, "ours_said": one.said, **numbers, "seeds": len(one.values)}


def page_of(judged: dict[Claim, Judged], records: dict[str, Record]) -> str:
    """docs/findings/claims.md: every claim with its verdict, numbers, command and seconds."""
    lines = [
        "# The paper, claim by claim", "",
        "Written by `python experiments/claims.py` from `experiments/results/claims/`; a test holds the two in step. "
        "Networks have the paper's full lists of blocks at widths that train on two cores, images of 32x32; CIFAR-10 "
        "is JPEG-compressed. Numbers are of the best of two attacks (linear, deconvolution) a cut; intervals are 95 % "
        "over seeds.",
        "", "| claim | verdict | rerun with | seconds there |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for claim, found in judged.items():
        seconds = sum(record["seconds"] for record in claim.records(records).values())
        command = f"`python experiments/claims.py --data-dir DIR --rerun {claim.name}`"
        lines.append(f"| [{claim.name}](#{claim.name}) | {found.verdict} | {command} | {seconds:.0f} |")
    for claim, found in judged.items():
        lines += ["", f"## {claim.name}", "", f"The paper: {claim.says}", "", f"**{found.verdict}.** {found.sentence}"]
        if found.findings:
            lines += ["", "| | paper | ours [95 %] |", "| --- | --- | --- |"]
        for one in map(_row, found.findings):
            lines.append(f"| {one['what']} | {one['paper_said']} | {one['ours_said']} |")
    machines = sorted({(record["machine"], record["date"]) for record in records.values()})
    lines += ["", "Measured on " + "; ".join(f"{machine}, {date}" for machine, date in machines) + ".", ""]
    return "\n".join(lines)


def rerun(name: str, flags: ClaimFlags, out: Path, kept: dict[str, Record]) -> list[str]:
    """Do a claim's work of one seed again; what comes out beside what is kept, and whether it lies in the interval."""
    claims = {claim.name: claim for claim in CLAIMS}
    if name not in claims:
        raise UserError(f"unknown claim {name!r}{did_you_mean(name, claims)}", field="rerun")
    claim, seed = claims[name], flags.seeds()[0]
    again = [unit for unit in units.units_of([seed]) if unit.name.startswith(claim.units)]
    fresh = {unit.name: units.done(unit, flags, out / "again" / unit.name) for unit in again}
    old, new = (claim.judge(claim.records(records)).findings for records in (kept, fresh))
    known = {one.what: one for one in old}
    return [
        f"again, seed {seed}: {one.what}: {number(one.mean)}, kept {_held(known.get(one.what), one)}" for one in new
    ]


def _held(kept: Finding | None, again: Finding) -> str:
    if kept is None or not kept.values:
        return "nothing"
    low, high = kept.interval
    if math.isnan(low):
        return kept.said
    return f"{kept.said}: {'within' if low <= again.mean <= high else 'OUTSIDE'}"


main: Any = functools.partial(common.run, ClaimFlags, experiment)

if __name__ == "__main__":
    main()
