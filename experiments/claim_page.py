"""The claims as a table, and as docs/findings/claims.md (not an experiment)."""

import math

import common
from claim_dynamics import EPOCHS, EVERY, LIMIT
from claim_numbers import NAMED, Claim, Finding, Judged, Record, attacked_at, best, row_of, seeds_of
from claim_units import DATA, SIZES, units_of
from common import ALPHAS, Row

from gpz_jax.presentation import number
from gpz_jax.reporting import tables

COLUMNS = {"number": "name", "paper": "paper_said", "ours": "ours_said"}


def rows_of(claim: Claim, found: Judged, records: dict[str, Record]) -> list[Row]:
    """A row a number; one of a claim that was not tested."""
    seconds = sum(record["seconds"] for record in claim.records(records).values())
    shared = {"claim": claim.name, "verdict": found.said, "seconds": round(seconds)}
    return [shared | _row(one) for one in found.findings or (Finding("", None, ()),)]


def _row(one: Finding) -> Row:
    low, high = one.interval
    paper = "" if one.paper is None else number(one.paper, 2)
    numbers = {"paper": "" if one.paper is None else one.paper, "ours": one.mean, "low": low, "high": high}
    return {"name": one.name, "paper_said": paper, "ours_said": one.said, **numbers, "seeds": len(one.values)}


def sheets_of(judged: dict[Claim, Judged], rows: list[Row]) -> list[tables.Sheet]:
    """A table a claim, of all claims' rows."""
    return [
        common.sheet_of(f"{claim.name}: {found.said}", common.where(rows, claim=claim.name), COLUMNS)
        for claim, found in judged.items()
    ]


def page_of(judged: dict[Claim, Judged], records: dict[str, Record]) -> str:
    """docs/findings/claims.md: every claim with its verdict, numbers, command and seconds."""
    late, decoders = _not_flat(records)
    attack = SIZES["laptop"].attack
    lines = [
        "# The paper, claim by claim", "",
        "Which of the paper's claims hold, on networks with its full lists of blocks at widths that train on two "
        f"cores?{_missing(records)}",
        "", "| claim | the paper | verdict | minutes | data |", "| --- | --- | --- | --- | --- |",
        *(
            f"| [{claim.name}](#{claim.name}) | {claim.says} | {found.said} | "
            f"{number(_seconds(claim, records) / 60)} | {', '.join(claim.needs) or 'none'} |"
            for claim, found in judged.items()
        ),
        "",
        "**confirmed**: all parts of the claim hold, on three seeds or more; **partly**: some do, or all on fewer "
        "seeds; **refuted**: no part holds, and at least one fails; **not tested**: numbers are missing, or too near "
        "to tell in every part. A verdict "
        "holds for these networks and attackers, as far as they were trained (the last tables), and not for the "
        "paper's.",
        "",
        "```",
        "python experiments/claims.py --most 0                        # this page, from the kept numbers; seconds",
        "python experiments/claims.py --data-dir DIR --rerun CLAIM    # one claim, of seed 0, beside what is kept",
        "```",
        "",
        "*minutes*: of one seed, all networks of the claim together, trained, probed and attacked on about one "
        "of two cores. *data*: the .npz files that it needs in DIR ([use your own data](../howto/own_data.md) "
        "says what is in one); CIFAR-10 is compressed as JPEG here. A rerun prints every number beside the kept "
        "one, and whether it lies within its interval; it changes no kept file.",
        "",
        "## How it was done",
        "",
        f"Images have 32x32 pixels; of CIFAR-10 {DATA['cifar10'].limit:,} are taken. The attacker's own images: "
        f"{_auxiliary(records)}; decoders have width {attack.decoder_width} and train on four fifths of them for "
        f"{attack.epochs} epochs: the loss of {late} of {decoders} had not flattened by then. Elsewhere: drift is "
        f"of `aux_shift.py`'s smaller sibling of IR-152 on KMNIST, neural-vortex of MNIST ({LIMIT:,} images, "
        f"{EPOCHS} epochs; one step in {EVERY} is recorded; units named dynamics), edge-cost of the full-size "
        "networks at 64x64. Numbers are of the better of two attacks (linear, deconvolution) a cut, of four "
        "where a claim says so (with [attention, and on enriched z](attackers.md)).",
        "",
        "Where a part of a claim compares two numbers of three seeds or more, Welch's t-test decides (one-sided, 5 %): "
        "it holds, it does not (the other way round), or the seeds are too near to tell; R_c² is compared by its "
        "logarithm, and a share of steps with one half. Other comparisons with a fixed number, on fewer seeds, or "
        "where no seed differs, go by the mean, without a test. A verdict some "
        "part of which has fewer than three seeds says so. Brackets are 95 % intervals by Student's t over seeds, of "
        "R_c² those of its logarithm beside a geometric mean; where an interval would leave what is possible, all "
        "values are given instead.",
        "",
        "Words: *error*, the attack's MSE; *the class mean's*, that of an attacker who knows the label alone and "
        "answers with the mean image of the class; *MSE, the paper's convention*, summed over the channels; "
        "*identified*, the share of images whose reconstruction is nearer to its own original than to any other; "
        "*R_c²*, the mean square distance from the class's mean at a cut, *rho* its share of the whole scatter; "
        f"*LS+* and *LS-*, label smoothing by {ALPHAS['LS+']} and {ALPHAS['LS-']}; *p_c*, what the network gives "
        "the right class; *coefficient*, p_c - 1 + alpha. A cut's *relative depth* is its place in the list, 0 "
        "the first, 1 the logits. An attack's curve *bends* where its error first passes the middle between its "
        "first and its highest value. `layer_N` is the paper's entry N of VGG19, `block_N` its block N of "
        "IR-152, whose `embedding` is the last layer before the logits. Rule *paper* takes the largest drop of "
        "R_c², rule *null* the largest rise of the evidence against untrained copies (`gpz_jax.analysis.zone`). "
        "*Plain* is the deconvolution decoder, *closed form* an attack that is solved and not trained, so that "
        "nothing has to flatten. More in the [vocabulary](../concepts/vocabulary.md).",
    ]  # fmt: skip
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
            lines += ["", *_table(found.findings)]
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


def _table(findings: tuple[Finding, ...]) -> list[str]:
    """A row a number, beside the paper's where it has any; a column for each label distribution."""
    under = list(dict.fromkeys(one.under for one in findings))
    paper = any(one.paper is not None for one in findings)
    heads = ["", *["paper"] * paper, *(name or "ours [95 %]" for name in under)]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    of: dict[str, dict[str, Finding]] = {}
    for one in findings:
        of.setdefault(one.what, {})[one.under] = one
    for what, found in of.items():
        first = next(iter(found.values()))
        theirs = ["" if first.paper is None else number(first.paper, 2)] * paper
        lines.append(f"| {' | '.join([what, *theirs, *(found[key].said if key in found else '' for key in under)])} |")
    return lines


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
    if kept.each == "timing":  # its interval is of one processor, and the ratio differs from one to the next
        return f"{number(again.mean)} on this processor, kept {kept.said}"
    inside = "" if math.isnan(low) else ": within" if low <= again.mean <= high else ": OUTSIDE"
    return f"{number(again.mean)}, kept {kept.said}{inside}"
