"""The sentences of the page that sum cuts up. Those of a single cut are ``inversion.verdict``'s."""

from collections import Counter
from collections.abc import Sequence

from gpz_jax.inversion.verdict import (
    LEAKS,
    NO_LEAK_FOUND,
    NO_VERDICT,
    NOT_TESTED,
    READABLE,
    Verdict,
    leak_rank,
    ruled_out,
)
from gpz_jax.reporting.page.contents import CutRecord, RunRecord

#: What stands for a cut around which information flows.
BYPASSED = "no cut"

#: Word of a verdict -> what it means, for people who see it for the first time.
MEANINGS = {
    "leaks: readable": "An attack rebuilt the inputs so well that they can be recognised (mse at most 0.35 of the "
    "class-mean floor). Whoever sees what is sent, sees the input.",
    "leaks: partly": "An attack got a good part of the input back (mse at most 0.8 of the floor).",
    "leaks: traces": "An attack got more than the label gives, beyond chance: little in pixels, or enough to tell "
    "whose input it was.",
    NO_LEAK_FOUND: "The linear attack, a decoder trained until it converged and one more valid attack got no more "
    "than the label gives. That is what was tried; it is no proof.",
    NOT_TESTED: "Too little was tried to say anything. It must not be read as a good sign.",
    NO_VERDICT: "The network itself has learnt nothing, so its cuts prove nothing.",
    BYPASSED: "Information flows around this place, so the cloud half cannot run from what is sent here alone.",
}

#: Measure -> what it is.
MEASURES = {
    "ratio": "mean squared error of the reconstructions over that of the class-mean floor, which answers every input "
    "with the mean of its class: 1 or more means that nothing but the label came through, 0 that everything did",
    "identified": "share of reconstructions that are nearer to their own original than to any other test image: how "
    "often a reconstruction names its input. Beside it stands what an attacker who knows the label alone would score",
    "R_c²": "mean squared distance of what is sent to the mean of its class: how much of one input, beyond its class, "
    "is left",
    "ρ": "the part of all variance that lies within classes, R_c²/(R_c² + between-class variance)",
    "evidence": "ln ρ of untrained copies of the network minus ln ρ, in nats: how far training, not depth alone, has "
    "drawn the classes together",
    "guarantees": "bounds that hold for every attacker: the least error of an unbiased reconstruction, and what must "
    "remain unknown of the input given what is sent",
}


def tone(verdict: Verdict) -> str:
    """Class of a verdict for the style sheet.

    >>> tone(Verdict("fc", "leaks", "readable", "linear", "", {}))
    'readable'
    """
    return {NO_LEAK_FOUND: "none-found", NOT_TESTED: "untested", LEAKS: verdict.grade}.get(verdict.word, "no-verdict")


def ranks(cuts: Sequence[CutRecord]) -> list[tuple[int, float, float] | None]:
    """Of every cut of a run, in order, what sorts it by how little it gives away; None for one not to be proposed.

    See :func:`~gpz_jax.inversion.verdict.leak_rank`. Nor is proposed what can be read at it or at a cut behind it, what
    is no cut, and what leaves the cloud nothing to do.
    """
    valid = [cut for cut in cuts if cut.valid]
    out = ruled_out([cut.verdict.grade == READABLE for cut in valid])
    left = {cut.name for cut, gone in zip(valid, out, strict=True) if not gone}

    def rank(cut: CutRecord) -> tuple[int, float, float] | None:
        if cut.name not in left or (cut.cost is not None and not cut.cost.cloud_flops):
            return None
        return leak_rank(str(cut.verdict), cut.named_within, cut.ratio, "; ".join(cut.verdict.missing))

    return [rank(cut) for cut in cuts]


def least(cuts: Sequence[CutRecord]) -> CutRecord | None:
    """The cut that gives away least, of those that may be proposed; None if there is none."""
    ranked = [(found, cut) for found, cut in zip(ranks(cuts), cuts, strict=True) if found is not None]
    return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


def answer(run: RunRecord) -> str:
    """All verdicts of a run in a sentence or two."""
    cuts = [cut for cut in run.cuts if cut.valid]
    count = Counter(tone(cut.verdict) for cut in cuts)
    leaking = sum(count[grade] for grade in ("readable", "partly", "traces"))
    if count["no-verdict"]:
        return "No verdict: the network answers no better than chance, so its cuts prove nothing. Train it first."
    if count["untested"] == len(cuts):
        return "Nothing can be said yet: no cut was tested enough. An untested cut is not a safe one."
    grades = ", ".join(f"{grade}: {count[grade]}" for grade in ("readable", "partly", "traces") if count[grade])
    parts = [f"{leaking} leak{'s' if leaking == 1 else ''} ({grades})"] if leaking else []
    parts += [f"at {count['none-found']} no leak was found"] if count["none-found"] else []
    untested = count["untested"]
    parts += [f"{untested} {'is' if untested == 1 else 'are'} not tested enough"] if untested else []
    said = f"Of {len(cuts)} cuts, {_listed(parts)}."
    best = least(cuts)
    if best is None:
        return f"{said} None can be proposed as it stands."
    return f"{said} Of those that were tested, {best.name} gives away least ({best.verdict})."


def _listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
