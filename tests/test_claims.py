"""The paper's claims: judged from numbers alone, by rules that can say no; the page says what the files hold."""

import dataclasses
import json
import math
import pathlib
import sys
import types

import numpy
import pytest
from scipy import stats

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "experiments"))

import claim_drift  # noqa: E402
import claim_numbers as numbers  # noqa: E402
import claim_page  # noqa: E402
import claim_units  # noqa: E402
import claims  # noqa: E402
import predictors  # noqa: E402
from claim_numbers import Finding  # noqa: E402
from claim_verdicts import CLAIMS  # noqa: E402


def cut(name, depth, ratio, *, within=1.0, rho=0.5, mse=None):
    mse = ratio if mse is None else mse
    of = {"mse": mse, "mse_paper": 3 * mse, "ratio": ratio, "identified": 0.1}
    worse = {name: 2 * value for name, value in of.items()}
    split = {"within": within, "rho": rho}
    return {
        "cut": name,
        "depth": depth,
        "test": split,
        "train": split,
        "attacks": {"linear": worse, "deconvolution": of},
    }


def record(network, seed, cuts, *, data="cifar10", targets="one-hot", accuracy=0.7, onsets=()):
    zones = {rule: {"onset": onset, "cuts": []} for rule, onset in dict(onsets).items()}
    about = {"network": network, "data": data, "targets": targets, "seed": seed, "accuracy": accuracy}
    return {**about, "auxiliary": 100, "zones": zones, "cuts": cuts, "seconds": 1.0}


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
    assert numbers.bend_of(jump) == pytest.approx(0.625)
    assert numbers.bend_of(slope) == pytest.approx(0.5)
    assert numbers.steepest_share(jump) == pytest.approx(1.0)
    assert numbers.steepest_share(slope) == pytest.approx(0.25)


def test_the_best_attack_counts_by_its_error():
    assert numbers.best(cut("a", 0.0, 0.2, mse=0.1), "mse_paper") == pytest.approx(0.3)


def networks(shallow, deep, seed, steps=3):
    """IR-152 and VGG19 whose error rises from 0 to one of the paper's cuts, then in so many steps to the other."""
    ratios = [0.0, *(shallow + (deep - shallow) * i / steps for i in range(steps + 1))]
    made = []
    for network, kind, pair in (("ir152", "block", (40, 50)), ("vgg19", "layer", (30, 39))):
        names = [
            f"{kind}_1",
            f"{kind}_{pair[0]}",
            *(f"{kind}_between_{i}" for i in range(steps - 1)),
            f"{kind}_{pair[1]}",
        ]
        cuts = [cut(name, i / (steps + 1), r) for i, (name, r) in enumerate(zip(names, ratios, strict=True))]
        made.append(record(network, seed, cuts))
    return made


@pytest.mark.parametrize(
    ("shallow", "deep", "steps", "seeds", "verdict"),
    [
        (0.1, 0.4, 1, 3, "confirmed"),  # as large as the paper's, and the steepest step there
        (0.1, 0.4, 1, 1, "partly"),  # of one seed
        (0.1, 0.4, 4, 3, "partly"),  # as large, but it rises more before
        (0.1, 0.12, 4, 3, "partly"),  # larger, but not as much
        (0.1, 0.1, 4, 3, "refuted"),
    ],
)
def test_the_main_table(shallow, deep, steps, seeds, verdict):
    records = [one for seed in range(seeds) for one in networks(shallow, deep, seed, steps)]
    assert judged("main-table", records).verdict == verdict


def smoothed(radius, error, accuracy, network="cnn", cuts=("logits",)):
    return [
        record(
            network, seed, [cut(name, 1.0, e, within=w, rho=0.5) for name in cuts], targets=targets, accuracy=a
        )
        for seed in range(3)
        for targets, w, e, a in zip(("one-hot", "LS+", "LS-"), radius, error, accuracy, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("radius", "error", "accuracy", "verdict"),
    [
        ((10, 1, 20), (0.5, 0.6, 0.4), (0.7, 0.71, 0.6), "confirmed"),
        ((10, 1, 20), (0.5, 0.4, 0.4), (0.7, 0.71, 0.6), "partly"),  # it resists less
        ((10, 1, 20), (0.5, 0.6, 0.4), (0.7, 0.6, 0.6), "partly"),  # it costs accuracy
        ((10, 11, 5), (0.5, 0.4, 0.6), (0.7, 0.6, 0.6), "refuted"),
    ],
)
def test_label_smoothing(radius, error, accuracy, verdict):
    assert judged("label-smoothing", smoothed(radius, error, accuracy)).verdict == verdict


def test_label_smoothing_is_judged_at_the_papers_decision_level_too():
    records = smoothed((10, 1, 20), (0.5, 0.6, 0.4), (0.7, 0.71, 0.6), "vgg19", ("layer_39", "logits"))
    assert judged("label-smoothing", records).verdict == "confirmed"
    for one in records:
        if one["targets"] == "LS+":  # larger there, and rebuilt better
            one["cuts"][0] = cut("layer_39", 0.7, 0.3, within=11.0)
    found = judged("label-smoothing", records)
    assert found.verdict == "partly"
    assert [part for part, holds in found.parts.items() if not holds] == [
        "VGG19, layer_39: least R_c² under LS+, most under LS-",
        "VGG19, layer_39: more error under LS+ than one-hot",
    ]
    assert "R_c², test 1.1 (VGG19, layer_39), 0.1 (VGG19, logits)" in found.sentence


def test_a_radius_that_is_no_number_is_left_out():
    records = smoothed((10, 1, 20), (0.5, 0.6, 0.4), (0.7, 0.71, 0.6))
    lost = next(one for one in records if one["targets"] == "LS-")
    lost["cuts"][0]["test"] = {"within": None, "rho": None}
    found = {one.name: one for one in judged("label-smoothing", records).findings}
    assert found["CNN, logits: R_c², test, LS-"].said == "20 and 20, 2 seeds"
    assert judged("label-smoothing", records).said == "partly, two seeds"


def moved(face, cifar, kmnist):
    names = [f"layer_{i}" for i in range(11)]

    def on(data, bend):
        cuts = [cut(name, i / 10, 0.1 if i < bend else 0.9) for i, name in enumerate(names)]
        return record("vgg19", 0, cuts, data=data, onsets={"paper": names[bend], "null": names[bend]})

    return [on("facescrub20", face), on("cifar10", cifar), on("kmnist", kmnist)]


@pytest.mark.parametrize(("where", "verdict"), [((2, 5, 8), "partly"), ((8, 5, 8), "partly"), ((8, 5, 2), "refuted")])
def test_the_data_set_moves_the_zone(where, verdict):
    assert judged("data-moves", moved(*where)).verdict == verdict


def test_a_further_data_set_is_said_and_changes_no_verdict():
    records = moved(2, 5, 8)
    further = {**records[0], "data": "lfw"}
    alone, beside = judged("data-moves", records), judged("data-moves", [*records, further])
    assert beside.verdict == alone.verdict
    assert len(beside.findings) == len(alone.findings) + 3
    assert "lfw 0.2" in beside.sentence
    assert "lfw" not in alone.sentence
    assert "the attacker has 100 images, and the network's accuracy is 70 %" in alone.sentence


def test_what_other_pages_say_of_the_claims_is_what_came_out():
    records = {file.stem: json.loads(file.read_text()) for file in claims.RESULTS.glob("*.json")}
    found = {claim.name: claim.judge(claim.records(records)) for claim in CLAIMS}
    mean = {one.name: one.mean for of in found.values() for one in of.findings}
    said = {page: " ".join((ROOT / page).read_text().split()) for page in ("README.md", "docs/findings/index.md")}

    assert "none holds in all its parts" in said["docs/findings/index.md"]
    assert "confirmed" not in {of.verdict for of in found.values()}

    gaps = [mean[what] for what in ("IR-152: MSE at block_50 over block_40", "VGG19: MSE at layer_39 over layer_30")]
    assert [f"{gap:.1f}" for gap in gaps] == ["1.4", "1.3"]
    assert "but 1.4 (IR-152) and 1.3 times (VGG19) where it has 3.2 and 2.1" in said["docs/findings/index.md"]
    assert "errors grow 1.3 and 1.4 times between its cuts, not 2.1 and 3.2" in said["README.md"]

    def grows(of, number):
        return mean[f"{of}: {number}, test, LS+"] > mean[f"{of}: {number}, test, one-hot"]

    assert "LS+ shrinks R_c² at the logits, not its share of the scatter, and stops no attack" in said["README.md"]
    assert "but not VGG19's at the decision level before them" in said["docs/findings/index.md"]
    assert [grows(f"{name}, logits", "R_c²") for name in ("CNN", "VGG19", "IR-152")] == 3 * [False]
    assert [grows(f"{name}, logits", "rho") for name in ("CNN", "VGG19", "IR-152")] == 3 * [True]
    assert grows("VGG19, layer_39", "R_c²")
    smoothing, delay = found["label-smoothing"].parts, found["residual-delay"].parts
    harder = [holds for part, holds in smoothing.items() if "more error under LS+" in part]
    assert len(harder) == 5
    assert True not in harder

    assert {holds for part, holds in delay.items() if part.startswith("ResNet")} == {True}
    later = {part: holds for part, holds in delay.items() if part.startswith("IR-152")}
    assert {part.rpartition("(")[2]: holds for part, holds in later.items()}["no longer readable)"] is False
    assert {part.rpartition("(")[2]: holds for part, holds in later.items()}["traces)"] is True


def test_small_data_sets_are_trained_on_for_longer():
    flags = claims.ClaimFlags(data_dir="data")
    face, cifar = (claim_units.config_of("vgg19", data, "one-hot", 1, flags) for data in ("facescrub20", "cifar10"))
    assert (face.training.epochs, face.training.batch_size) == (120, 32)
    assert (cifar.training.epochs, cifar.training.batch_size, cifar.data.train_limit) == (14, 128, 12_000)
    assert claim_units.config_of("vgg19", "lfw", "one-hot", 0, flags).data.aux == "lfw_aux"


def delayed(vgg, cnn, ir, vit, zone=None, seeds=3):
    """Curves that jump at these cuts of eleven; the ViT's rises evenly up to its last block, and then so far."""

    def of(network, seed, ratios):
        cuts = [cut(f"block_{i}", i / 10, ratio) for i, ratio in enumerate(ratios)]
        return record(network, seed, cuts)

    def jump(at):
        return [0.1 if i < at else 0.9 for i in range(11)]

    found = []
    for seed in range(seeds):
        last = of("vit", seed, numpy.linspace(0, vit, 11))
        last["views"] = {view: {"null": {"onset": zone}} for view in ("tokens", "mean", "first")}
        found += [last, *(of(name, seed, jump(at)) for name, at in (("vgg19", vgg), ("cnn", cnn), ("ir152", ir)))]
    return found


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ((3, 4, 8, 0.2), "confirmed"),
        ((3, 4, 8, 0.2, None, 1), "partly"),  # of one seed
        ((3, 9, 8, 0.2), "partly"),  # a plain network is as late
        ((3, 4, 8, 0.9), "partly"),  # the ViT's last block resists
        ((3, 4, 8, 0.2, "block_9"), "partly"),  # and so it does by the rule
    ],
)
def test_residual_networks_delay_the_zone(numbers, verdict):
    assert judged("residual-delay", delayed(*numbers)).verdict == verdict


def test_later_by_one_way_is_not_later_by_all():
    """IR-152 that stops being readable early, and hides the most late: its bend alone is later than VGG19's."""
    records = delayed(5, 5, 8, 0.2)
    for one in records:
        if one["network"] == "ir152":
            one["cuts"] = [cut(f"block_{i}", i / 10, r) for i, r in enumerate([0.0, *[0.4] * 8, 0.9, 0.9])]
    parts = judged("residual-delay", records).parts
    assert parts["IR-152, later than VGG19 and CNN: the curve's bend"] is True
    assert parts["IR-152, later than VGG19 and CNN: an error above 0.8 of the class mean's (traces)"] is True
    assert (
        parts["IR-152, later than VGG19 and CNN: an error above 0.35 of the class mean's (no longer readable)"] is False
    )


def test_a_jump_of_the_vit_is_said():
    records = delayed(3, 4, 8, 0.2)
    for one in records:
        if one["network"] == "vit":
            one["cuts"].append(cut("class_token", 1.1, 0.7))
    found = judged("residual-delay", records)
    assert found.parts["ViT: no step of its curve takes more than half of the rise"] is False
    assert "71 % of its rise is the step from block_10 to class_token" in found.sentence


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_what_has_no_numbers_is_not_tested(claim):
    found = claim.judge({})
    assert (found.verdict, found.findings) == ("not tested", ())


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_claim_needs_the_data_of_its_units(claim):
    units = [unit.name.split("-") for unit in claim_units.units_of([0]) if unit.name.startswith(claim.units)]
    assert units
    assert {part for name in units for part in name} & set(claim_units.DATA) <= set(claim.needs)
    assert ("lfw" in claim.needs) == ("lfw_aux" in claim.needs)


def test_the_page_says_what_the_files_hold():
    """As ``python experiments/claims.py --most 0`` writes it."""
    records = {file.stem: json.loads(file.read_text()) for file in sorted(claims.RESULTS.glob("*.json"))}
    assert records
    judged_now = {claim: claim.judge(claim.records(records)) for claim in CLAIMS}
    assert claim_page.page_of(judged_now, records) == claims.PAGE.read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--rerun", "edge-cots"), "unknown claim 'edge-cots'; did you mean 'edge-cost'?"),
        (("--most", "-1"), "--most is -1; it is a number of pieces of work, 0 or more"),
    ],
)
def test_what_is_mistyped_costs_no_work(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(claim_units, "done", lambda *given: pytest.fail("work had begun"))
    with pytest.raises(SystemExit) as ended:
        claims.main([*flags, "--out", str(tmp_path / "out"), "--results", str(tmp_path / "results")])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"gpz: error: {message}\n"
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("experiment", [claims.main, predictors.main])
def test_results_that_are_not_there_are_not_made(experiment, tmp_path, capsys):
    mistyped, file = tmp_path / "nowhere", tmp_path / "file"
    file.write_text("")
    for given, message in ((mistyped, f"no folder {mistyped};"), (file, f"--results {file} is a file;")):
        with pytest.raises(SystemExit) as ended:
            experiment(["--most", "0", "--out", str(tmp_path / "out"), "--results", str(given)])
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith(f"gpz: error: {message}")
    assert not mistyped.exists()


def test_out_is_a_folder(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    with pytest.raises(SystemExit):
        claims.main(["--most", "0", "--out", str(tmp_path / "out")])
    assert capsys.readouterr().err == f"gpz: error: --out {tmp_path / 'out'} is a file; a folder is meant\n"


def test_a_rerun_leaves_what_is_missing(tmp_path, monkeypatch, capsys):
    worked = []

    def done(unit, flags, folder):
        worked.append(unit.name)
        return claims.read_json(claims.RESULTS / f"{unit.name}.json")

    monkeypatch.setattr(claim_units, "done", done)
    results = tmp_path / "results"
    results.mkdir()
    (results / "prices.json").write_text((claims.RESULTS / "prices.json").read_text())
    claims.main(["--rerun", "edge-cost", "--out", str(tmp_path / "out"), "--results", str(results)])
    assert worked == ["prices"]
    assert "again, seed 0: VGG19: numbers sent at 30 over 26: 0.5, kept 0.5" in capsys.readouterr().out


def test_a_number_that_is_measured_again_lies_within_or_outside():
    kept = Finding("x", None, (1.0, 1.1, 1.2))
    assert claim_page.held(kept, Finding("x", None, (1.15,))).endswith("kept 1.1 [0.852, 1.35], 3 seeds: within")
    assert claim_page.held(kept, Finding("x", None, (1.5,))).endswith(": OUTSIDE")
    assert claim_page.held(None, Finding("x", None, (1.5,))) == "1.5, of which nothing is kept"
    clock = dataclasses.replace(kept, each="timing")
    assert claim_page.held(clock, Finding("x", None, (1.5,))).startswith("1.5 on this processor, kept 1.1 [")


def test_a_verdict_of_few_seeds_says_so():
    def of(seeds):
        return numbers.judged({"a": True, "b": True}, seeds, "", ()).said

    assert [of(seeds) for seeds in (1, 2, 3, None)] == ["partly, one seed", "partly, two seeds", *2 * ["confirmed"]]
    assert Finding("x", None, (0.25, 0.5)).said == "0.25 and 0.5, 2 seeds"
    assert Finding("x", None, (1.0, 2.0, 3.0)).said == "2 [-0.484, 4.48], 3 seeds"


def test_seeds_that_differ_too_much_settle_no_part():
    assert numbers.exceeds((1.0, 3.0, 5.0), (0.0, 2.0, 4.0)) is None
    assert numbers.exceeds((1.0, 3.0), (0.0, 2.0)) is True  # of two the means alone
    assert numbers.exceeds((1.0, 1.0, 1.0), (0.9, 0.9, 0.9)) is True
    assert numbers.exceeds((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)) is False
    assert numbers.exceeds((1.0, 1.1, 1.2), (1.05, 1.15, 1.25), -0.4) is True
    assert numbers.exceeds((0.0, 2.0, 4.0), (1.0, 3.0, 5.0)) is None  # to either side
    assert numbers.exceeds((), (1.0,)) is None
    for shift in (0.2, 2.0):  # by scipy, of what is not constant
        a, b = numpy.random.default_rng(0).normal(size=(2, 5)) + numpy.array([[shift], [0.0]])
        told = stats.ttest_ind(a, b, equal_var=False, alternative="greater").pvalue
        assert numbers.exceeds(a, b) is (True if told < 0.05 else False if told > 0.95 else None)
        assert numbers.exceeds(b, a) is (False if told < 0.05 else True if told > 0.95 else None)

    def verdict(*parts):
        return numbers.judged(dict(enumerate(parts)), 3, "", ()).verdict

    assert [verdict(True, None), verdict(True, False)] == 2 * ["partly"]
    assert [verdict(False, None), verdict(False, False)] == 2 * ["refuted"]
    assert verdict(None, None) == "not tested"  # and not: some hold
    assert verdict(numpy.True_, numpy.bool_(True)) == "confirmed"
    assert [numbers.every(True, None), numbers.every(True, None, False), numbers.every(True)] == [None, False, True]


def test_the_page_names_the_parts_that_are_too_near_to_tell():
    found = numbers.judged({"a": True, "b": None, "c": False}, 3, "So.", ())
    claim = dataclasses.replace(CLAIMS[0], units=("none",))
    text = claim_page.page_of({claim: found}, {})
    assert "Holds: a.\n\nToo near to tell: b.\n\nDoes not hold: c." in text


@pytest.mark.parametrize(("count", "chosen"), [(6, [0, 1, 2, 3, 4, 5]), (15, [0, 3, 6, 9, 12, 13, 14])])
def test_of_a_long_list_every_third_cut_is_attacked_and_its_last_block(count, chosen):
    names = [f"block_{i}" for i in range(count - 1)] + ["logits"]
    probe = types.SimpleNamespace(cuts=names, valid=[True] * count, dead=())
    assert claim_units.cuts_to_attack(probe, "resnet18", 3) == [names[i] for i in chosen]


def dynamics(turn, growth, entropy, bound, same_sign):
    """IR-152 and VGG19, one-hot and LS+, with numbers of LS+; one-hot has 0.9, 0.1 nats and a bound of 50."""

    def of(network, targets, turn, growth, entropy, bound, same_sign):
        last = {"cut": "b", "radius_first": 2.0, "radius_last": 2 * growth, "decision_bound": bound}
        last |= {
            "correct": (same_sign - 0.5) * (growth - 1),
            "wrong": 0.0,
            "realised": growth - 1,
            "same_sign": same_sign,
        }
        about = {"network": network, "data": "mnist", "targets": targets, "turn": turn, "past_flip": 0.3}
        return [
            about | {"seed": seed, "output_entropy": entropy, "cuts": [last, last], "seconds": 1} for seed in (0, 1, 2)
        ]

    return {
        f"dynamics-{network}-{record['targets']}-seed{record['seed']}": record
        for network in ("vgg19", "ir152")
        for record in (
            *of(network, "one-hot", None, 0.9, 0.1, 50.0, 0.5),
            *of(network, "LS+", turn, growth, entropy, bound, same_sign),
        )
    }


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ((100, 0.7, 0.9, 20.0, 0.9), "confirmed"),
        ((None, 0.7, 0.9, 20.0, 0.4), "partly"),  # contraction, but neither a change of sign nor by these terms
        ((100, 0.95, 0.05, 60.0, 0.4), "partly"),  # the sign changes, and nothing follows
        ((None, 0.95, 0.05, 60.0, 0.4), "refuted"),  # R_c² falls, but less than one-hot
    ],
)
def test_the_neural_vortex(numbers, verdict):
    claim = next(claim for claim in CLAIMS if claim.name == "neural-vortex")
    assert claim.judge(claim.records(dynamics(*numbers))).verdict == verdict


def enhanced(plain, stronger):
    """Both networks: the error at the deep cut over that at the shallow one, of the plain decoder and of the others."""
    names = {"ir152": ("block_40", "block_50"), "vgg19": ("layer_30", "layer_39")}
    made = []
    for network, (shallow, deep) in names.items():
        one, other = cut(shallow, 0.0, 0.1), cut(deep, 1.0, 0.1)
        for row, times in ((one, (1.0, 1.0)), (other, (plain, stronger))):
            values = {"deconvolution": times[0], "attention": times[1], "enriched": times[1], "linear": 9.0}
            row["attacks"] = {name: {"mse": 0.01 * value, "ratio": value} for name, value in values.items()}
        made += [record(network, seed, [one, other]) for seed in (0, 1, 2)]
    return made


@pytest.mark.parametrize(
    ("plain", "stronger", "verdict"),
    [
        (4.5, 4.2, "confirmed"),
        (3.5, 3.2, "partly"),  # not as large, but it stays
        (4.5, 1.2, "refuted"),  # it does not stay
    ],
)
def test_the_advantage_under_stronger_attackers(plain, stronger, verdict):
    assert judged("advantage", enhanced(plain, stronger)).verdict == verdict


def dropping(at):
    """A VGG19 whose curve jumps at the fifth cut, with its largest drop elsewhere or there."""
    cuts = [cut(f"layer_{i}", i / 10, 0.1 if i < 5 else 0.9) | {"valid": True} for i in range(11)]
    for i, row in enumerate(cuts):
        row["test"] = row["test"] | {"drop": 0.9 if i == at else 0.1}
    return [record("vgg19", seed, cuts) for seed in (0, 1, 2)]


@pytest.mark.parametrize(("at", "verdict"), [(5, "confirmed"), (4, "partly"), (10, "refuted")])
def test_where_the_largest_drop_lies(at, verdict):
    assert judged("drop-locates", dropping(at)).verdict == verdict


def drifted(digit, letter, originals, level="decision"):
    """Shares of the expected digit and letter among reconstructions, and of both among the originals."""

    def row(auxiliary, expected, share):
        about = {"level": level, "cut": "c", "auxiliary": auxiliary, "prior_collapse": 0.4}
        commonest = expected if share > 0.3 else "x"
        drawn, true = {"share": share, "commonest": commonest}, {"share": originals, "commonest": "y"}
        return about | {"reconstructions": drawn, "originals": true}

    own = {"level": level, "cut": "c", "auxiliary": "held-out", "identified": 0.1}
    rows = [row("mnist", "0", digit), row("emnist_letters", "D", letter), own]
    return {f"drift-seed{seed}": {"rows": rows, "seed": seed, "seconds": 1} for seed in (0, 1, 2)}


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        ((0.9, 0.8, 0.1), "confirmed"),
        ((0.9, 0.05, 0.1), "partly"),
        ((0.05, 0.05, 0.1), "refuted"),
        ((0.2, 0.2, 0.1), "partly"),  # more than of the originals, but the commonest is another
        ((0.9, 0.8, 0.95), "partly"),  # the classifier calls the originals so, too
    ],
)
def test_drift_to_the_attackers_prior(shares, verdict):
    claim = next(claim for claim in CLAIMS if claim.name == "drift")
    found = claim.judge(drifted(*shares))
    assert found.verdict == verdict
    assert "of the images that an attacker with KMNIST itself rebuilds are identified 10 % at c" in found.sentence


def test_drift_is_judged_at_the_logits_where_they_were_attacked():
    claim = next(claim for claim in CLAIMS if claim.name == "drift")
    beyond, before = drifted(0.9, 0.8, 0.1, level="logits"), drifted(0.05, 0.05, 0.1)
    both = {name: one | {"rows": before[name]["rows"] + one["rows"]} for name, one in beyond.items()}
    assert [claim.judge(records).verdict for records in (both, before)] == ["confirmed", "refuted"]


def test_drift_needs_both_sets():
    records = drifted(0.9, 0.8, 0.1)
    for record in records.values():
        record["rows"] = record["rows"][::2]
    claim = next(claim for claim in CLAIMS if claim.name == "drift")
    assert claim.judge(records).verdict == "not tested"


def test_what_was_not_attacked_is_not_judged():
    records = networks(0.1, 0.4, 0)
    for record in records:
        del record["cuts"][-1]["attacks"]
    assert judged("main-table", records).verdict == "not tested"
    assert judged("advantage", networks(0.1, 0.4, 0)).verdict == "not tested"  # the stronger attackers are missing


def test_how_a_row_of_drift_is_counted():
    flags = claim_drift.aux_shift.Flags()
    counts = {what: numpy.eye(10, dtype=int)[1] * 3 + numpy.eye(10, dtype=int)[0] for what in ("reconstructions",)}
    scores = {name: 0.5 for name in ("mse", "ratio", "identified", "prior_collapse")}
    row = claim_drift._row(flags, {"cut": "c", "level": "decision", "auxiliary": "mnist", "counts": counts, **scores})
    assert row["reconstructions"] == {"expected": "0", "share": 0.25, "commonest": "1", "commonest_share": 0.75}
