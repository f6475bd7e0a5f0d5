"""The claims as a table, and as docs/findings/claims.md (not an experiment)."""

import math

from claim_numbers import NAMED, Claim, Finding, Judged, Record, attacked_at, best, row_of, seeds_of
from claim_units import units_of
from common import Row

from gpz_jax.presentation import number

COLUMNS = {"claim": "claim", "number": "what", "paper": "paper_said", "ours": "ours_said"}


def rows_of(claim: Claim, found: Judged, records: dict[str, Record]) -> list[Row]:
    """A row a number; one of a claim that was not tested."""
    seconds = sum(record["seconds"] for record in claim.records(records).values())
    shared = {"claim": claim.name, "verdict": found.said, "seconds": round(seconds)}
    return [shared | _row(one) for one in found.findings or (Finding("", None, ()),)]


def _row(one: Finding) -> Row:
    low, high = one.interval
    paper = "" if one.paper is None else number(one.paper, 2)
    numbers = {"paper": "" if one.paper is None else one.paper, "ours": one.mean, "low": low, "high": high}
    return {"what": one.what, "paper_said": paper, "ours_said": one.said, **numbers, "seeds": len(one.values)}


def page_of(judged: dict[Claim, Judged], records: dict[str, Record]) -> str:
    """docs/findings/claims.md: every claim with its verdict, numbers, command and seconds."""
    late, decoders = _not_flat(records)
    lines = [
        "# The paper, claim by claim", "",
        "Written by `python experiments/claims.py` from `experiments/results/claims/`; a test holds the two in step. "
        "Networks have the paper's full lists of blocks at widths that train on two cores, images of 32x32; CIFAR-10 "
        f"is JPEG-compressed, and 12,000 of its images are taken. The attacker's own images: {_auxiliary(records)}; "
        f"decoders have width 8 and train on four fifths of them for 14 epochs: the loss of {late} of {decoders} had "
        "not flattened by then. Elsewhere: drift is of `aux_shift.py`'s smaller sibling of IR-152 on KMNIST, "
        "neural-vortex of MNIST (6,000 images, 240 steps of which every fifth is recorded; units named dynamics), "
        "edge-cost of the full-size networks at 64x64. So a verdict is on these networks and attackers, as far as they "
        f"were trained (the last tables), and not on the paper's.{_missing(records)}",
        "",
        "**confirmed**: all parts of the claim hold, on three seeds or more; **partly**: some do, or all on fewer; "
        "**refuted**: none, and one at least does not; **not tested**: numbers are missing. Where a part compares two "
        "numbers of three seeds or more, Welch's t-test decides (one-sided, 5 %): it holds, it does not (the other way "
        "round), or the seeds are too near to tell; R_c² is compared by its logarithm. What is held against a fixed "
        "number, or of fewer seeds, goes by the mean. A verdict of fewer than three seeds says so. Numbers are of the "
        "better of two attacks (linear, deconvolution) a cut, of four where a claim says so (with [attention, and on "
        "enriched z](attackers.md)); brackets are 95 % intervals by Student's t over seeds, of R_c² those of its "
        "logarithm beside a geometric mean; where an interval would leave what is possible all values are given.",
        "",
        "Words: *error*, the attack's MSE; *the class mean's*, that of an attacker who knows the label alone and "
        "answers with the mean image of the class; *MSE, the paper's convention*, summed over the channels; "
        "*identified*, the share of images whose reconstruction is nearer to its own original than to any other; "
        "*R_c²*, the mean square distance from the class's mean at a cut, *rho* its share of the whole scatter; *LS+* "
        "and *LS-*, label smoothing by 0.3 and -0.05; *p_c*, what the network gives the right class; *coefficient*, "
        "p_c - 1 + alpha. A cut's *relative depth* is its place in the list, 0 the first, 1 the logits. An attack's "
        "curve *bends* where its error first passes the middle between its first and its highest value. `layer_N` is "
        "the paper's entry N of VGG19, `block_N` its block N of IR-152, `embedding` the last layer before the logits. "
        "Rule *paper* takes the largest drop of R_c², rule *null* the largest rise of the evidence against untrained "
        "copies (`gpz_jax.analysis.zone`); more in the "
        "[vocabulary](../concepts/vocabulary.md).",
        "", "| claim | verdict | rerun with (one seed) | seconds of a seed |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for claim, found in judged.items():
        command = f"`python experiments/claims.py --data-dir DIR --rerun {claim.name}`"
        lines.append(f"| [{claim.name}](#{claim.name}) | {found.said} | {command} | {_seconds(claim, records):.0f} |")
    for claim, found in judged.items():
        lines += [
            "",
            f"## {claim.name}",
            "",
            f"The paper: {claim.says}",
            "",
            f"**{found.said}.** {found.sentence}",
        ]
        words = {True: "Holds", None: "Too near to tell", False: "Does not hold"}
        for does, word in words.items():
            if parts := [part for part, holds in found.parts.items() if holds is does]:
                lines += ["", f"{word}: {'; '.join(parts)}."]
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
    machines = {record["machine"] for record in records.values()}
    dates = sorted({record["date"] for record in records.values()})
    lines += ["", f"Measured on {'; '.join(sorted(machines))}; {' and '.join(dates)}.", ""]
    return "\n".join(lines)


def _auxiliary(records: dict[str, Record]) -> str:
    """How many images the attacker has, by data set."""
    found = {record["data"]: record["auxiliary"] for record in records.values() if "auxiliary" in record}
    return ", ".join(f"{count:,} of {data}" for data, count in sorted(found.items()))


def _missing(records: dict[str, Record]) -> str:
    """How many units are not measured yet, if any are not."""
    wanted = [unit.name for unit in units_of(range(3))]
    missing = sum(name not in records for name in wanted)
    if not missing:
        return ""
    are = "is" if missing == 1 else "are"
    return (
        f" {missing} of the {len(wanted)} units of three seeds {are} not measured yet; the command goes on with them."
    )


def _seconds(claim: Claim, records: dict[str, Record]) -> float:
    """Of the units of a claim for one seed: of each the mean over those that there are."""
    of: dict[str, list[float]] = {}
    for name, record in claim.records(records).items():
        of.setdefault(name.rpartition("-seed")[0], []).append(record["seconds"])
    return sum(sum(seconds) / len(seconds) for seconds in of.values())


def _not_flat(records: dict[str, Record]) -> tuple[int, int]:
    """Trained decoders whose loss had not flattened, and all."""
    rows = [row for record in records.values() for row in record.get("cuts", ()) if "attacks" in row]
    made = [found for row in rows for name, found in row["attacks"].items() if name != "linear"]
    return sum(not found["flattened"] for found in made), len(made)


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
                trained = [found["flattened"] for name, found in made if name != "linear"]
                flat = ("yes" if all(trained) else "NO") if trained else "closed form"
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
