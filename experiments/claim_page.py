"""The claims as a table, and as docs/findings/claims.md (not an experiment)."""

import math

from claim_numbers import NAMED, Claim, Finding, Judged, Record, attacked_at, best, row_of, seeds_of
from common import Row

from gpz_jax.presentation import number

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
        "is JPEG-compressed. The attacker has 3,000 of its images; decoders have width 8 and train on 2,400 of them "
        "for 14 epochs, which many have not flattened by. Numbers are of the better of two attacks (linear, "
        "deconvolution) a cut, of four where a claim says so; intervals are 95 % over seeds. So a verdict is on these "
        "networks and attackers, as far as they were trained (the last tables), and not on the paper's.",
        "", "| claim | verdict | rerun with | seconds there |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for claim, found in judged.items():
        seconds = sum(record["seconds"] for record in claim.records(records).values())
        command = f"`python experiments/claims.py --data-dir DIR --rerun {claim.name}`"
        lines.append(f"| [{claim.name}](#{claim.name}) | {_verdict(found)} | {command} | {seconds:.0f} |")
    for claim, found in judged.items():
        lines += [
            "",
            f"## {claim.name}",
            "",
            f"The paper: {claim.says}",
            "",
            f"**{_verdict(found)}.** {found.sentence}",
        ]
        if found.findings:
            lines += ["", "| | paper | ours [95 %] |", "| --- | --- | --- |"]
        for one in map(_row, found.findings):
            lines.append(f"| {one['what']} | {one['paper_said']} | {one['ours_said']} |")
    lines += ["", *_paper_cuts(records)]
    lines += ["", "## What was trained", "", "| unit | accuracy on test images | seconds |", "| --- | --- | --- |"]
    for name, record in records.items():
        accuracy = number(record["accuracy"], 2) if "accuracy" in record else ""
        lines.append(f"| {name} | {accuracy} | {record['seconds']:.0f} |")
    lines += ["", "![every network's curve of attacks, by relative depth](../images/claims.png)"]
    machines = sorted({(record["machine"], record["date"]) for record in records.values()})
    lines += ["", "Measured on " + "; ".join(f"{machine}, {date}" for machine, date in machines) + ".", ""]
    return "\n".join(lines)


def _verdict(found: Judged) -> str:
    """The verdict, and that it is of one seed."""
    measured = [len(one.values) for one in found.findings if not one.exact]
    return found.verdict + (", one seed" if measured and max(measured) == 1 else "")


#: What is said of the paper's own cuts, each of the best attack there.
_MEASURES = {
    "mse_paper": "MSE, the paper's", "ratio": "/class mean", "psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS",
    "identified": "identified",
}  # fmt: skip


def _paper_cuts(records: dict[str, Record]) -> list[str]:
    """The cuts that the paper names, by every measure; means over seeds."""
    lines = [
        "## The paper's own cuts",
        "",
        "Of the best of all attacks on each, mean over seeds; CIFAR-10, one-hot.",
        "",
    ]
    lines += ["| | " + " | ".join(_MEASURES.values()) + " | by | flat? |", "| --- " * (3 + len(_MEASURES)) + "|"]
    for network, cuts in NAMED.items():
        for cut in cuts:
            rows = [row_of(one, cut) for one in attacked_at(seeds_of(records, network), [cut])]
            if rows:
                cells = [_mean([best(row, name, tuple(row["attacks"])) for row in rows]) for name in _MEASURES]
                made = [min(row["attacks"].items(), key=lambda pair: pair[1]["mse"]) for row in rows]
                by = ", ".join(sorted({name for name, _ in made}))
                flat = "yes" if all(found["flattened"] for _, found in made) else "NO"
                lines.append(f"| {network} {cut} | " + " | ".join(cells) + f" | {by} | {flat} |")
    return lines


def _mean(values: list[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return number(sum(known) / len(known), 3) if known else ""


def held(kept: Finding | None, again: Finding) -> str:
    """A number that was measured again, beside what is kept of it, and whether it lies in the interval."""
    if kept is None or not kept.values:
        return f"{number(again.mean)}, of which nothing is kept"
    low, high = kept.interval
    inside = "" if math.isnan(low) else ": within" if low <= again.mean <= high else ": OUTSIDE"
    return f"{number(again.mean)}, kept {kept.said}{inside}"
