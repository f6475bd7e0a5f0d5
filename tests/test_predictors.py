"""The statistics of experiments/predictors.py against oracles, and its findings against the committed networks."""

import importlib
import inspect
import io
import json
import pathlib
import re
import sys

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import Ridge

from gpz_jax.analysis import budget, zone
from gpz_jax.errors import UserError
from gpz_jax.reporting import tables
from gpz_jax.workflow import advice

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results" / "predictors"


@pytest.fixture
def module(monkeypatch):
    """A file of the experiments by name."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    yield importlib.import_module
    ours = {path.stem for path in (ROOT / "experiments").glob("*.py")}
    for name in [name for name in sys.modules if name in ours]:
        del sys.modules[name]


@pytest.fixture
def ps(module):
    """The statistics."""
    return module("predictor_statistics")


@pytest.fixture
def report(module):
    """The table."""
    return module("predictor_report")


def made(ps, seed, data, cuts=6, **values):
    """A network whose predictors are noise, but for those given; the deeper the cut, the less leaks."""
    rng = np.random.default_rng(seed)
    ratio = np.sort(rng.uniform(0.1, 1.1, cuts))
    noise = {name: rng.normal(size=cuts) for name in ps.PREDICTORS} | {"depth": np.linspace(0, 1, cuts)}
    noise |= {name: value(ratio) for name, value in values.items()}
    resistance = {"ratio": ratio, "identified": np.linspace(0, 0.5, cuts)}
    family, shares = ("cnn", "vit")[seed % 2], np.linspace(0.1, 1, cuts)
    return ps.Record(f"{data}-{seed}", data, family, noise, resistance, {"paper": 2, "null": None}, shares)


@pytest.fixture
def records(ps):
    """Nine networks of three data sets; rho says the ratio exactly, less of it more."""
    return [made(ps, 3 * i + j, data, rho=lambda r: -2 * r) for i, data in enumerate("abc") for j in range(3)]


def test_correlations_are_scipys(ps, records):
    scores = ps.oriented(records, "cdnv")
    for one, score, found in zip(records, scores, ps.within(records, scores, "ratio"), strict=True):
        assert found == pytest.approx(spearmanr(-one.values["cdnv"], one.resistance["ratio"]).statistic, rel=1e-12)
        np.testing.assert_array_equal(score, -one.values["cdnv"])
    at_depth = [spearmanr([s[i] for s in scores], [r.resistance["ratio"][i] for r in records])[0] for i in (1, 2, 4, 5)]
    found, low, high = ps.across(records, scores, "ratio")
    assert found == pytest.approx(np.mean(at_depth), rel=1e-12)
    assert low < found < high
    assert np.isnan(ps.across(records, ps.oriented(records, "depth"), "ratio")[0])  # the same for all at equal depth
    np.testing.assert_allclose(ps.within(records, ps.oriented(records, "rho"), "ratio"), 1, rtol=1e-12)


def test_ties_share_their_rank(ps):
    a, b = np.array([1.0, 1, 2, 3, -np.inf]), np.array([0.2, 0.5, 0.5, 0.5, 0.1])
    finite = np.isfinite(a)
    assert ps.correlation(a, b) == pytest.approx(spearmanr(a[finite], b[finite]).statistic, rel=1e-12)


def test_what_never_varies_has_no_correlation(ps):
    assert np.isnan(ps.correlation(np.ones(4), np.arange(4.0)))
    assert np.isnan(ps.correlation(np.array([1, np.nan, 2]), np.arange(3.0)))


def test_unknown_values_are_the_smallest(ps):
    one = made(ps, 0, "a", rho=lambda r: np.where(np.arange(len(r)) == 1, np.nan, r))
    (score,) = ps.oriented([one], "rho")
    assert score[1] == -np.inf
    np.testing.assert_array_equal(np.delete(score, 1), -np.delete(one.values["rho"], 1))


def test_correlations_at_each_depth_are_scipys(ps, records):
    scores = ps.oriented(records, "nc1")
    found, drawn = ps.across_at(records, scores, "ratio")
    ratios = [one.resistance["ratio"] for one in records]
    expected = [spearmanr([s[i] for s in scores], [r[i] for r in ratios]).statistic for i in (1, 2, 4, 5)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert drawn.shape == (ps.REPLICATES, 4)


def test_of_a_tie_the_deeper_cut_is_chosen(ps):
    assert [ps.chosen_by(np.array([2.0, 1.0, 2.0, 2.0, 5.0]), allowed) for allowed in (1, 2, 3, 4)] == [0, 0, 2, 3]
    assert ps.chosen_by(np.full(5, -np.inf), 4) == 3


def test_a_rule_that_begins_too_deep_or_nowhere_is_given_the_deepest(ps):
    assert [ps.chosen_by_rule(onset, 3) for onset in (None, 0, 2, 3)] == [2, 0, 2, 2]


def test_budgets_are_shares_of_cuts_or_of_parameters(ps):
    one = made(ps, 0, "a", cuts=6)._replace(edge_share=np.array([0.2, 0.25, 0.4, 0.8, 0.999, 1.0]))
    assert ps.by_cuts(one) == [2, 3, 4, 5]
    assert ps.by_parameters(one) == [1, 2, 3, 3, 5]  # the first always, the logits never
    assert ps.whole(one) == [5]


def test_regret_of_a_network_by_hand(ps):
    resistance = {"ratio": np.array([0.1, 0.4, 0.3, 0.8, 1.2]), "identified": np.array([0.0, 0.5, 0.6, 0.9, 1.0])}
    one = ps.Record("n", "d", "cnn", {}, resistance, {"paper": 2, "null": None}, np.linspace(0, 1, 5))
    score = np.array([0.0, 1.0, 3.0, 2.0, 9.0])
    # Budgets allow 2, 3, 4 and 4 of the five cuts; the score takes cuts 1, 2, 2, 2, the best are 1, 1, 3, 3.
    np.testing.assert_allclose(
        ps.leaks_of([one], [score], "ratio")[0], [[0.6, 0.6], [0.7, 0.6], [0.7, 0.2], [0.7, 0.2]]
    )
    assert ps.regret(ps.leaks_of([one], [score], "ratio")) == pytest.approx(
        np.mean([1, 0.7 / 0.6, 0.7 / 0.2, 0.7 / 0.2])
    )
    # The rule's zone begins at cut 2: not allowed by the first budget, which takes the deepest; no zone: the deepest.
    np.testing.assert_allclose(ps.leaks_of_rule([one], "paper", "ratio")[0, :, 0], [0.6, 0.7, 0.7, 0.7])
    np.testing.assert_allclose(ps.leaks_of_rule([one], "null", "ratio")[0, :, 0], [0.6, 0.7, 0.2, 0.2])
    np.testing.assert_allclose(ps.leaks_of([one], [score], "identified")[0, 2], [0.4, 0.1])
    assert ps.ratios_at_onset([one], "paper").tolist() == [0.3]
    assert ps.ratios_at_onset([one], "null").tolist() == []
    # At its own choice: 0.7 leaks there, 0.2 at the best cut but the logits; where it begins at these it has none.
    at_logits = one._replace(onset={"paper": 4, "null": None})
    np.testing.assert_allclose(ps.leaks_at_onset([one, at_logits], "paper", "ratio"), [[[0.7, 0.2]]])
    assert len(ps.leaks_at_onset([one, at_logits], "null", "ratio")) == 0
    # A budget in parameters: the cut that holds 0, then those up to a quarter, half and three quarters.
    np.testing.assert_allclose(
        ps.leaks_of_rule([one], "paper", "ratio", ps.by_parameters)[0, :, 0], [0.9, 0.6, 0.7, 0.7, 0.7]
    )


def test_isotonic_is_scikit_learns_on_the_other_data_sets(ps, records):
    scores = ps.oriented(records, "depth")
    said = ps.isotonic(records, scores)
    ratios = [one.resistance["ratio"] for one in records]
    fitted = IsotonicRegression().fit(np.concatenate(scores[3:]), np.concatenate(ratios[3:]))
    for i in range(3):
        np.testing.assert_allclose(said[i], fitted.predict(scores[i]), rtol=1e-9)
    assert ps.errors(records, said)[0] == pytest.approx(np.mean(np.abs(said[0] - ratios[0])))
    mean = np.mean(np.concatenate(ratios[3:]))
    np.testing.assert_allclose(ps.constant(records)[0], mean)


def test_isotonic_says_further_scores_as_scikit_learn(ps):
    rng = np.random.default_rng(0)
    x, y, further = rng.normal(size=50), rng.normal(size=50), rng.normal(size=20) * 2
    said = ps.isotonic_map(x, y)(further)
    np.testing.assert_allclose(said, IsotonicRegression(out_of_bounds="clip").fit(x, y).predict(further), rtol=1e-9)
    with_unknown = ps.isotonic_map(np.append(x, -np.inf), np.append(y, -9.0))
    assert with_unknown(np.array([-np.inf]))[0] == -9
    assert np.isfinite(with_unknown(further)).all()


def test_the_family_can_be_left_out_as_well(ps, records):
    scores, ratios = ps.oriented(records, "depth"), [one.resistance["ratio"] for one in records]
    others = [i for i, one in enumerate(records) if one.data != "a" and one.family != records[0].family]
    fitted = IsotonicRegression().fit(*(np.concatenate([v[i] for i in others]) for v in (scores, ratios)))
    said = ps.isotonic(records, scores, ("data", "family"))
    np.testing.assert_allclose(said[0], fitted.predict(scores[0]), rtol=1e-9)


def test_grades_are_those_of_a_verdict(ps):
    one = made(ps, 0, "a")._replace(resistance={"ratio": np.array([0.35, 0.36, 0.8, 0.81])})
    assert ps.grades([one], [np.array([0.2, 0.8, 0.5, 2.0])])[0] == 1
    assert ps.grades([one], [np.array([0.4, 0.8, 0.9, 2.0])])[0] == 0.5


def test_combined_is_a_ridge_on_ranks_of_the_other_data_sets(ps, records):
    names = ["depth", "rho", "nc1"]
    said = ps.combined(records, names)
    columns = [np.concatenate(ps.oriented(records, name)[3:]) for name in names]
    own = [ps.oriented(records, name)[0] for name in names]

    def ranks(values):
        return np.stack([np.mean(c[None] <= v[:, None], axis=1) for c, v in zip(columns, values, strict=True)], axis=1)

    ridge = Ridge(alpha=1.0).fit(ranks(columns), np.concatenate([one.resistance["ratio"] for one in records[3:]]))
    np.testing.assert_allclose(said[0], ridge.predict(ranks(own)), rtol=1e-9)


def test_interval_of_a_mean(ps):
    values = np.random.default_rng(0).normal(size=400)
    low, high = ps.interval(400, lambda at: float(np.mean(values[at])))
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)
    assert ps.mean_of(values) == (pytest.approx(values.mean()), low, high)


def test_groups_are_drawn_with_all_of_their_networks(ps, records):
    names = np.array([one.data for one in records])
    seen = []
    ps.interval(ps.groups_of(records, "data"), lambda at: seen.append(names[at]) or 0.0)
    assert all(len(drawn) == 9 and all(np.sum(drawn == name) % 3 == 0 for name in "abc") for drawn in seen)
    assert len({tuple(drawn) for drawn in seen}) > 10
    # Seeds of the records take turns at two families: each data set has two groups.
    groups = [at.tolist() for at in ps.groups_of(records, "family", "data")]
    assert groups == [[0, 2], [1], [3, 5], [4], [6, 8], [7]]


def test_networks_that_are_alike_make_an_interval_wider(ps):
    values = np.repeat(np.random.default_rng(0).normal(size=20), 5)
    groups = [np.arange(5 * i, 5 * i + 5) for i in range(20)]
    (_, low, high), (mean, wide_low, wide_high) = ps.mean_of(values), ps.mean_of(values, groups)
    assert mean == pytest.approx(values.mean())
    assert (wide_high - wide_low) / (high - low) == pytest.approx(5**0.5, rel=0.2)
    leaks = np.stack([1 + values**2, np.ones(100)], axis=1)[:, None]
    assert ps.regret_of(leaks, groups)[1] < ps.regret_of(leaks)[1]


@pytest.fixture
def committed(module, tmp_path):
    """The committed networks, in the order of the list."""
    names = [network.name for network in module("predictor_networks").size_of("laptop", "nowhere", tmp_path).networks]
    files = {path.stem: path for path in RESULTS.glob("*.json")}
    assert set(files) <= set(names)
    return [json.loads(files[name].read_text()) for name in names if name in files]


def test_the_list_is_balanced(module, tmp_path):
    networks = module("predictor_networks").size_of("laptop", "nowhere", tmp_path).networks
    pairs = {(n.config.data.data, n.config.model.model) for n in networks}
    assert len(networks) == len(pairs) == 36
    for data in {pair[0] for pair in pairs}:
        alphas = sorted(n.config.training.ls for n in networks if n.config.data.data == data)
        assert alphas == [-0.05, 0, 0, 0, 0.3, 0.3]
    assert all(len(n.family.cuts) >= 6 and n.family.cuts[-1] == "logits" for n in networks)


def test_committed_networks_are_whole(committed, module):
    predictors = module("predictor_records").PREDICTORS
    for network in committed:
        for cut in network["cuts"]:
            assert set(cut["attacks"]) == {"linear", "deconvolution", "residual"}
            assert all(0 < one["ratio"] < 3 and 0 <= one["identified"] <= 1 for one in cut["attacks"].values())
            unknown = [name for name, one in predictors.items() if one.of(cut, network) is None]
            assert unknown == (["drop"] if cut is network["cuts"][0] else []), (network["name"], cut["cut"])


@pytest.fixture
def found(committed, module):
    """The committed networks as records."""
    return [module("predictor_records").record_of(network) for network in committed]


@pytest.fixture
def held(module):
    """The networks that were held out."""
    return module("predictor_holdout").read(RESULTS.parent / "claims")


@pytest.fixture
def study(committed, held, module):
    """All that is found."""
    return module("predictor_page").study_of(committed, held)


def test_the_findings_are_those_of_the_committed_networks(study, module):
    page = (ROOT / "docs" / "findings" / "predictors.md").read_text()
    block = module("predictor_page").block_of(study, 36)
    assert block in page, "make it again: python experiments/predictors.py --most 0 --page docs/findings/predictors.md"


def test_a_terminal_of_80_characters_has_room(study):
    """For every number; names may be broken where these come with intervals."""
    outcome, wide = study.outcome(), study.outcome(wide=True)
    for sheet in (*outcome.sheets, *wide.sheets):
        console = tables.Console(width=80, file=io.StringIO(), emoji=False)
        console.print(sheet)
        shown = console.file.getvalue()
        cells = [cell for column in sheet.columns[1:] for text in column.cells for cell in text.split("\n")]
        assert all(word in shown for cell in cells for word in cell.split())
        if sheet in outcome.sheets:
            assert all(name in shown for name in sheet.columns[0].cells)
        assert max(map(len, shown.splitlines())) <= 80
    assert len(outcome.verdict) <= 10
    assert max(map(len, outcome.verdict)) <= 250
    assert {row["networks"] for row in outcome.rows} == {"the study's", "held out"}


def test_an_unknown_network_is_told_the_nearest_or_how_many_there_are(module, tmp_path):
    networks = module("predictor_networks")
    names = [network.name for network in networks.size_of("laptop", "nowhere", tmp_path).networks]
    assert networks.hint(f"{names[0]}0", names) == f"; did you mean {names[0]!r}?"
    assert networks.hint("zzz", names) == f"; there are 36, such as {names[0]}, {names[1]}, {names[2]}"


def test_two_networks_are_enough_and_none_need_be_held_out(committed, module):
    """As at the tiny size, of three cuts and one data set; and without a zone before the logits."""
    late = {"paper": {"onset": None}, "null": {"onset": "logits"}}
    no_zone = [one | {"config": one["config"] | {"data": "a"}, "zones": late} for one in committed[:2]]
    tiny = [
        network
        | {"cuts": [network["cuts"][i] | {"place": place} for place, i in enumerate((0, 3, 5))]}
        | {"zones": {rule: {"onset": network["cuts"][5]["cut"]} for rule in ("paper", "null")}}
        for network in committed[:2]
    ]
    page = module("predictor_page")
    for networks in (committed[:2], no_zone, tiny):
        study = page.study_of(networks, [])
        assert all("nan" not in one.words + one.more for one in study.answers)
        assert "did not use" not in page.block_of(study, 36)
        assert len(study.outcome().sheets) == 1


def test_a_page_keeps_what_lies_around_its_block(module, tmp_path):
    report, page = module("predictor_page"), tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.refresh(page, f"{report.BEGIN}\nnew\n{report.END}")
    assert page.read_text() == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    with pytest.raises(UserError, match="has no line"):
        report.refresh(tmp_path / "none.md", "")


# Networks that were held out -----------------------------------------------------------------------------------------


def claim(ratios, **changed):
    """A network of claims.py with these cuts, attacked where there is a ratio; the decoder gets 0.1 more."""
    cuts = []
    for i, ratio in enumerate(ratios):
        cut = {"cut": f"c{i}", "dimension": 100 - i, "valid": True, "depth": i / (len(ratios) - 1)}
        cut["test"] = {"within": 10.0 - i, "rho": 0.5, "evidence": 0.1 * i, "drop": None if i == 0 else 0.2}
        if ratio is not None:
            linear, decoder = {"ratio": ratio, "identified": 0.5}, {"ratio": ratio + 0.1, "identified": 0.6}
            # A stronger attack, which only some cuts have, does not count.
            cut["attacks"] = {"linear": linear, "deconvolution": decoder, "attention": {"ratio": 0.0, "identified": 1}}
        cuts.append(cut)
    zones = {"paper": {"onset": "c1", "cuts": ["c1"]}, "null": {"onset": None, "cuts": []}}
    known = {"unit": "n", "data": "d", "network": "vgg19", "targets": "one-hot", "zones": zones, "cuts": cuts}
    return known | changed


def test_a_network_that_is_held_out_has_its_attacked_cuts(module):
    one = module("predictor_holdout").record_of(claim([0.1, None, 0.3, None, 0.5, 0.7, 0.9]))
    assert (one.name, one.data, one.family) == ("n", "d", "vgg19")
    np.testing.assert_allclose(one.resistance["ratio"], [0.1, 0.3, 0.5, 0.7, 0.9])
    np.testing.assert_allclose(one.resistance["identified"], 0.4)
    np.testing.assert_allclose(one.values["depth"], np.array([0, 2, 4, 5, 6]) / 6)  # among all cuts
    np.testing.assert_allclose(one.values["within_per_dimension"], [10 / 100, 8 / 98, 6 / 96, 5 / 95, 4 / 94])
    np.testing.assert_allclose(one.values["ridge"], one.resistance["ratio"])
    np.testing.assert_array_equal(one.values["drop"], [np.nan, 0.2, 0.2, 0.2, 0.2])
    assert np.isnan(one.values["cdnv"]).all()
    assert np.isnan(one.edge_share).all()
    assert one.onset == {"paper": 1, "null": None}  # its zone begins at c1, which was not attacked: at c2


def test_networks_with_zones_enough_cuts_and_one_hot_targets_are_held_out(module, tmp_path):
    enough = [0.1, 0.2, 0.3, 0.4, 0.5]
    few = claim(enough)
    few["cuts"][2]["valid"] = False
    without = {key: value for key, value in claim(enough).items() if key != "zones"}
    smoothed = claim(enough, targets="LS+")
    kinds = {"few": few, "without": without, "smoothed": smoothed, "taken": claim(enough, unit="taken")}
    for name, made_of in kinds.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(made_of))
    read = module("predictor_holdout").read
    assert [one.name for one in read(tmp_path)] == ["taken"]
    assert read(None) == []
    with pytest.raises(UserError, match="--held-out names"):
        read(tmp_path / "nowhere")


def test_the_worst_is_the_largest_multiple_and_nothing_leaks_at_zero(module):
    worst_of = module("predictor_verdict").worst_of
    leaks = np.array([[[0.2, 0.1]], [[0.9, 0.3]], [[0.4, 0.0]], [[0.0, 0.0]]])
    assert worst_of(["a", "b", "c", "d"], leaks) == "b 3.00, c 0.40 for 0"
    assert worst_of(["a"], np.array([[[0.1, 0.1]]])) == "none"


# What the package says -----------------------------------------------------------------------------------------------


@pytest.fixture
def at_onset(found, ps):
    """Rule -> its regret where its zone begins, and of how many networks."""
    leaks = {rule: ps.leaks_at_onset(found, rule, "ratio") for rule in ("paper", "null")}
    return {rule: (f"{ps.regret(made):.2f}", len(made)) for rule, made in leaks.items()}


def costs_said(text, at_onset):
    """Whether a text says what the rules' onsets cost: "1.21 (rule paper) or 1.35 times (rule null)", or "21 % …"."""
    paper, null = (
        rf"({re.escape(cost)}( times)?|{100 * float(cost) - 100:.0f} %( more)?)" for cost, _ in at_onset.values()
    )
    return re.search(rf"{paper} \(rule paper\) (and|or) {null} \(rule null\)", " ".join(text.split())) is not None


def doc_of(thing):
    """Its docstring on one line."""
    found = inspect.getdoc(thing)
    assert found is not None
    return " ".join(found.split())


def off(found):
    """How far the linear attack's ratio is from the best attacker's: on average, and at the logits."""
    more = np.abs(np.stack([one.values["ridge"] - one.resistance["ratio"] for one in found]))
    return f"{np.mean(more):.2f}", f"{np.mean(more[:, -1]):.2f}"


def test_what_cuts_says_of_the_deepest_and_of_rules_is_what_was_found(found, at_onset):
    assert costs_said(advice.TRUST, at_onset)
    assert f"({len(found)} small networks, " in advice.TRUST


def test_what_cuts_says_of_the_linear_attack_is_what_was_found(found):
    """How far its ratio is from the best attacker's, and on which side."""
    average, logits = off(found)
    assert f"by {average} on average, by {logits} at the logits" in advice.TRUST
    assert "where it errs it nearly always makes a cut look safer" in advice.TRUST
    more = np.stack([one.values["ridge"] - one.resistance["ratio"] for one in found])
    assert np.mean(more[np.abs(more) > 0.02] > 0) > 0.95


def test_the_docstrings_of_the_rules_say_what_their_onsets_cost(found, at_onset):
    for rule, of in zone.RULES.items():
        said, (regret, count) = doc_of(of), at_onset[rule]
        assert f"its onset leaked {regret} times what the best cut but the logits does" in said
        assert f"({count} of {len(found)} small networks have one before the logits;" in said


def test_the_docstring_of_the_deepest_says_what_was_found(found, held, at_onset, ps, module):
    said = doc_of(budget.deepest_within)
    best, choices = module("predictor_verdict").deepest_is_best(found)
    assert choices == 4 * len(found)
    assert f"On {len(found)} small networks" in said
    assert f"the deepest leaked least in {best} of {choices} choices" in said
    assert f"(regret {ps.regret(ps.leaks_of(found, ps.oriented(found, 'depth'), 'ratio')):.2f}:" in said
    (paper, _), (null, _) = at_onset["paper"], at_onset["null"]
    assert (
        f"leaked {paper} times what the best cut but the logits does by rule paper, {null} times by rule null" in said
    )
    assert "the regret of the deepest is near 1, though not on every data set" in said
    deepest_is_near_the_best(held, ps)


def deepest_is_near_the_best(held, ps):
    """On networks that were held out: on average, though not on every data set."""
    depth = ps.oriented(held, "depth")
    assert all(ps.regret(ps.leaks_of(held, depth, "ratio", of)) < 1.1 for of in (ps.by_cuts, ps.whole))
    assert max(by_data(held, ps, "depth")) > 1.1


def by_data(held, ps, name):
    """Regret of a predictor on each data set that was held out, all cuts but the logits allowed."""
    leaks = ps.leaks_of(held, ps.oriented(held, name), "ratio", ps.whole)
    return [ps.regret(leaks[at]) for at in ps.groups_of(held, "data")]


def test_the_texts_say_what_was_found(found, at_onset):
    """Numbers of sentences elsewhere."""
    for file in ("docs/howto/choose_a_cut.md", "docs/findings/index.md", "docs/findings/predictors.md"):
        text = " ".join((ROOT / file).read_text().split())
        assert f"{len(found)} small networks" in text, file
        assert costs_said(text, at_onset), file


@pytest.fixture
def around(module):
    """What the page says around its block."""
    block = module("predictor_page")
    before, _, rest = (ROOT / "docs" / "findings" / "predictors.md").read_text().partition(block.BEGIN)
    return " ".join((before + rest.partition(block.END)[2]).split())


def test_the_page_says_around_its_block_what_was_found(found, report, ps, module, around):
    best, choices = module("predictor_verdict").deepest_is_best(found)
    assert f"on {len(found)} small networks that cut leaked least in {best} of {choices} choices" in around

    scores, apart = report.scores_of(found), ("data", "family")
    error = {name: np.mean(ps.errors(found, ps.isotonic(found, scores[name]))) for name in ("depth", "evidence")}
    constant = np.mean(ps.errors(found, ps.constant(found)))
    assert f"(off by {error['evidence']:.2f} where a constant is off by {constant:.2f})" in around
    assert f"any other single number on the small networks** (off by {error['depth']:.2f};" in around
    of_depth = np.mean(ps.errors(found, ps.isotonic(found, scores["depth"], apart)))
    assert f"architecture left out, too, it is off by {of_depth:.2f}." in around
    average, logits = off(found)
    assert f"On average it is off by {average} of the ratio, by {logits} at the logits" in around

    deepest = np.concatenate([one.resistance["ratio"][np.array(ps.by_cuts(one)) - 1] for one in found])
    assert 0.25 < np.mean(deepest <= 0.35) < 0.75  # "Inputs are often still readable there"
    for name in ("rho", "evidence"):  # "come within about 1 % of it"
        assert ps.regret(ps.leaks_of(found, scores[name], "ratio")) < 1.015
    between = {name: ps.across_at(found, scores[name], "ratio")[0] for name in ("rho", "cdnv", "evidence")}
    assert max(between["rho"][0], between["cdnv"][0]) < -0.2  # "the wrong way early on, the evidence nowhere"
    assert abs(between["evidence"][0]) < 0.15
    assert min(values[-1] for values in between.values()) > 0.2  # "the right way at the logits"


def test_the_page_says_around_its_block_what_held_out_networks_say(found, held, at_onset, ps, module, around):
    """In loose words: the numbers stand in the block."""
    assert "On larger networks, which the study had not seen, it was more" in around
    assert "cost more there, on some data sets much more, and so do the rules" in around
    for rule, (regret, _) in at_onset.items():
        assert ps.regret(ps.leaks_at_onset(held, rule, "ratio")) > float(regret)
    for name in ("evidence", "rho"):
        leaks = [ps.leaks_of(networks, ps.oriented(networks, name), "ratio", ps.whole) for networks in (found, held)]
        assert ps.regret(leaks[1]) > ps.regret(leaks[0])
        assert max(by_data(held, ps, name)) > 2
    assert "the deepest attacked cut is the best or near it on average, though not on every data set" in around
    deepest_is_near_the_best(held, ps)
    groups = ps.groups_of(held, *module("predictor_holdout").GROUPS)
    assert len(groups) < len(held)  # "several are seeds of one architecture on one data set"
