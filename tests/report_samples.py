"""Contents of a report's page, made by hand: two cuts that leak, one that was not attacked, one that is bypassed."""

import numpy as np

from gpz_jax.inversion.guarantee_result import Guarantee
from gpz_jax.inversion.identification import Identification
from gpz_jax.inversion.results import (
    Answers,
    AttackResult,
    Attempt,
    Floors,
    Intervals,
    LeakedClass,
    LeakedImage,
    Leaks,
    PerImage,
    Pictures,
    Scores,
    Training,
)
from gpz_jax.inversion.verdict import NOT_TESTED, Verdict, verdict_of
from gpz_jax.reporting.page.contents import Absent, Contents, Cost, CutRecord, Line, Plot, Probed, RunRecord

SCRIPT = "<script>alert(1)</script>"
CUTS = ("block_1", "block_2", "fc", "logits")


def attempt(name, ratio, *, images=6, side=8, channels=1, named=0.5, losses=(0.1,), best_epoch=0, seed=0):
    """An attack whose reconstructions are as far from the originals as the ratio says."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (images, side, side, channels)).astype(np.float32)
    x_hat = np.clip(x + np.sqrt(0.04 * ratio) * rng.standard_normal(x.shape), 0, 1).astype(np.float32)
    mse = np.full(images, 0.04 * ratio)
    labels = np.arange(images) % 3
    identified = (np.arange(images) < named * images).astype(float)
    per_image = PerImage(labels, mse, mse * 0 + 0.06, mse * 0 + 0.04, mse * 0 + 0.045, identified=identified)
    found = Identification(
        images, named, named, named, (max(named - 0.2, 0), min(named + 0.2, 1)), (0.1, 0.9), 1 / images, 0.2, 0.3
    )  # fmt: skip
    leaks = Leaks(
        (LeakedImage(1, 1, 0.001),), (LeakedImage(2, 2, 0.2),), (LeakedClass(0, 2, 0.01),), (LeakedClass(2, 2, 0.09),)
    )
    return Attempt(
        name, images, Scores(mse=0.04 * ratio, ratio=ratio, mse_paper=0.5), Intervals(ratio=(0.9 * ratio, 1.1 * ratio)),
        Floors(0.06, 0.04, 0.045), per_image, 1.0, leaks,
        Training(np.array(losses), best_epoch, note="" if best_epoch else "closed form"),
        first=Pictures(x, x_hat), best_inverted=Pictures(x[1:2], x_hat[1:2]),
        worst_inverted=Pictures(x[2:3], x_hat[2:3]), identified=found,
    )  # fmt: skip


def converged(ratio):
    """A decoder that had done learning."""
    return attempt("deconvolution", ratio, losses=tuple(np.linspace(0.05, 0.01, 30)), best_epoch=29)


def cut(name, attempts=(), *, share=0.5, payload=100, valid=True, **more):
    """A cut with its verdict."""
    result = AttackResult(name, (4, 4), tuple(attempts), answers=Answers(0.9, 0.1, 400), auxiliary=300)
    verdict = (
        verdict_of(result)
        if attempts
        else Verdict(name, NOT_TESTED, "", "", f"{name}: not tested enough; no attack was made.", {}, ("attack",))
    )
    payloads = {"float32": 4 * payload, "bfloat16": 2 * payload, "uint8": payload}
    return CutRecord(
        name, verdict, "4x4", valid, result if attempts else None,
        Probed(3.0, 0.5, (0.6, 0.7), 0.3, 0.2, 0.4, {"paper": "zone"}),
        Cost(int(1000 * share), share, payloads, 10_000, 5_000, 2_000, **more),
        command=f"gpz attack RUN --cut {name}",
    )  # fmt: skip


def run(name="plain", *, ratio=0.5, names=("cat", "dog", "owl"), **more):
    """A run of four cuts."""
    known = {
        "folder": f"runs/{name}", "about": "digits, cnn16, one-hot targets, seed 0", "accuracy": 0.9, "images": 30,
        "image_bytes": 64, "confusion": np.array([[9, 1, 0], [0, 10, 0], [2, 0, 8]]),
        "training": (Plot("Accuracy", "", (Line("train", [1, 2, 3], [0.1, 0.5, 0.9]),
                                           Line("validation", [1, 2, 3], [0.1, 0.4, 0.8])), "epoch"),),
        "ledger": Absent("No ledger of single steps was kept.", "gpz train --track-every 1"),
        "settings": {"data": {"data": "digits"}}, "fingerprint": "abc123", "versions": {"jax": "0.10"},
        "caveats": ("A verdict speaks of the attacks that were made.",),
    }  # fmt: skip
    cuts = (
        cut("block_1", (attempt("linear", 0.1, named=1.0), attempt("deconvolution", 0.2)), share=0.1, payload=400),
        cut("block_2", (attempt("linear", ratio), converged(ratio)), share=0.4, payload=200),
        cut("fc", share=0.9, payload=50),
        cut("logits", valid=False, share=1.0, payload=3),
    )
    return RunRecord(name, cuts=cuts, class_names=tuple(names), **{**known, **more})


def contents(*runs):
    """A page of them, or of one plain run."""
    return Contents(runs or (run(),), "0.2", "2026-01-01 12:00")


GUARANTEE = Guarantee("fc", 359, mse_floor=0.001, mse_floor_se=1e-4, nats=12.5, nats_se=0.5, mse_entropy=0.002)
