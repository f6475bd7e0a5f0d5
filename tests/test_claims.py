"""The paper's claims: judged from numbers alone, by rules that can say no; the page says what the files hold."""

import json
import math
import pathlib
import sys

import pytest
from scipy import stats

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "experiments"))

import claim_page  # noqa: E402
import claim_verdicts as verdicts  # noqa: E402
import claims  # noqa: E402
from claim_verdicts import CLAIMS, Finding  # noqa: E402


def cut(name, depth, ratio, *, within=1.0, rho=0.5, mse=None):
    mse = ratio if mse is None else mse
    of = {"mse": mse, "mse_paper": 3 * mse, "ratio": ratio}
    worse = {name: 2 * value for name, value in of.items()}
    split = {"within": within, "rho": rho}
    return {"cut": name, "depth": depth, "test": split, "train": split, "attacks": {"linear": worse, "deep": of}}


def record(network, seed, cuts, *, data="cifar10", targets="one-hot", accuracy=0.7, onsets=()):
    zones = {rule: {"onset": onset, "cuts": []} for rule, onset in dict(onsets).items()}
    about = {"network": network, "data": data, "targets": targets, "seed": seed, "accuracy": accuracy}
    return {**about, "zones": zones, "cuts": cuts, "seconds": 1.0}


def judged(name, records):
    claim = next(claim for claim in CLAIMS if claim.name == name)
    named = {f"{r['network']}-{r['data']}-{r['targets']}-seed{r['seed']}": r for r in records}
    return claim.judge(claim.records(named))


def test_the_interval_is_students():
    values = (0.1, 0.4, 0.2, 0.9)
    low, high = Finding("x", None, values).interval
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert math.isnan(Finding("x", None, (1.0,)).interval[0])


def test_where_a_curve_bends_and_how_much_of_it_is_one_step():
    jump = record("x", 0, [cut(f"block_{i}", i / 4, ratio) for i, ratio in enumerate((0.1, 0.1, 0.1, 0.9, 0.9))])
    slope = record("x", 0, [cut(f"block_{i}", i / 4, ratio) for i, ratio in enumerate((0.1, 0.3, 0.5, 0.7, 0.9))])
    assert verdicts.bend_of(jump) == pytest.approx(0.625)
    assert verdicts.bend_of(slope) == pytest.approx(0.5)
    assert verdicts.steepest_share(jump) == pytest.approx(1.0)
    assert verdicts.steepest_share(slope) == pytest.approx(0.25)


def test_the_best_attack_counts_by_its_error():
    assert verdicts.best(cut("a", 0.0, 0.2, mse=0.1), "mse_paper") == pytest.approx(0.3)


def networks(shallow, deep, seed, steps=3):
    """IR-152 and VGG19 whose error rises in so many steps between the paper's cuts."""
    ratios = [shallow + (deep - shallow) * i / steps for i in range(steps + 1)]
    middle = [f"between_{i}" for i in range(steps - 1)]
    return [
        record(network, seed, [cut(name, i / steps, r) for i, (name, r) in enumerate(zip(names, ratios, strict=True))])
        for network, names in (
            ("ir152", ["block_40", *middle, "block_50"]),
            ("vgg19", ["layer_30", *middle, "layer_39"]),
        )
    ]


@pytest.mark.parametrize(
    ("shallow", "deep", "steps", "seeds", "verdict"),
    [
        (0.1, 0.4, 1, 3, "confirmed"),  # as large as the paper's, in one step
        (0.1, 0.4, 1, 1, "partly"),  # of one seed
        (0.1, 0.4, 4, 3, "partly"),  # as large, but no jump
        (0.1, 0.12, 4, 3, "refuted"),
    ],
)
def test_the_main_table(shallow, deep, steps, seeds, verdict):
    records = [one for seed in range(seeds) for one in networks(shallow, deep, seed, steps)]
    assert judged("main-table", records).verdict == verdict


def smoothed(radius, rho, accuracy):
    return [
        record("cnn", seed, [cut("logits", 1.0, 0.5, within=w, rho=r)], targets=targets, accuracy=a)
        for seed in range(2)
        for targets, w, r, a in zip(("one-hot", "LS+", "LS-"), radius, rho, accuracy, strict=True)
    ]


@pytest.mark.parametrize(
    ("radius", "rho", "accuracy", "verdict"),
    [
        ((10, 1, 20), (0.5, 0.4, 0.6), (0.7, 0.71, 0.6), "confirmed"),
        ((10, 1, 20), (0.5, 0.6, 0.6), (0.7, 0.71, 0.6), "partly"),  # R_c² falls, its share does not
        ((10, 11, 5), (0.5, 0.6, 0.6), (0.7, 0.6, 0.6), "refuted"),
    ],
)
def test_label_smoothing(radius, rho, accuracy, verdict):
    assert judged("label-smoothing", smoothed(radius, rho, accuracy)).verdict == verdict


def moved(face, cifar, kmnist):
    names = [f"layer_{i}" for i in range(11)]

    def on(data, bend):
        cuts = [cut(name, i / 10, 0.1 if i < bend else 0.9) for i, name in enumerate(names)]
        return record("vgg19", 0, cuts, data=data, onsets={"paper": names[bend], "null": names[bend]})

    return [on("facescrub20", face), on("cifar10", cifar), on("kmnist", kmnist)]


@pytest.mark.parametrize(("where", "verdict"), [((2, 5, 8), "partly"), ((8, 5, 8), "partly"), ((8, 5, 2), "refuted")])
def test_the_data_set_moves_the_zone(where, verdict):
    assert judged("data-moves", moved(*where)).verdict == verdict


def delayed(vgg, resnet, ir, vit):
    def of(network, bend, end):
        cuts = [cut(f"block_{i}", i / 10, 0.1 if i < bend else end) for i in range(11)]
        return record(network, 0, cuts)

    return [of("vgg19", vgg, 0.9), of("resnet50", resnet, 0.9), of("ir152", ir, 0.9), of("vit", 10, vit)]


@pytest.mark.parametrize(
    ("numbers", "verdict"), [((3, 6, 8, 0.2), "partly"), ((8, 6, 6, 0.2), "partly"), ((8, 6, 6, 0.9), "refuted")]
)
def test_residual_networks_delay_the_zone(numbers, verdict):
    assert judged("residual-delay", delayed(*numbers)).verdict == verdict


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_what_has_no_numbers_is_not_tested(claim):
    found = claim.judge({})
    assert (found.verdict, found.findings) == ("not tested", ())


def test_the_page_says_what_the_files_hold():
    """As ``python experiments/claims.py --most 0`` writes it."""
    records = {file.stem: json.loads(file.read_text()) for file in sorted(claims.RESULTS.glob("*.json"))}
    assert records
    judged_now = {claim: claim.judge(claim.records(records)) for claim in CLAIMS}
    assert claim_page.page_of(judged_now, records) == claims.PAGE.read_text()
