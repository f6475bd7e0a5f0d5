"""The statistics of experiments/predictors.py against oracles, and its findings against the committed networks."""

import importlib
import json
import pathlib
import sys

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import Ridge

from gpz_jax.errors import UserError
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
    """The table and the verdict."""
    return module("predictor_report")


def made(ps, seed, data, cuts=6, **values):
    """A network whose predictors are noise, but for those given; the deeper the cut, the less leaks."""
    rng = np.random.default_rng(seed)
    ratio = np.sort(rng.uniform(0.1, 1.1, cuts))
    noise = {name: rng.normal(size=cuts) for name in ps.PREDICTORS} | {"depth": np.linspace(0, 1, cuts)}
    noise |= {name: value(ratio) for name, value in values.items()}
    resistance = {"ratio": ratio, "identified": np.linspace(0, 0.5, cuts)}
    return ps.Record(f"{data}-{seed}", data, "cnn", noise, resistance, {"paper": 2, "null": None})


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


def test_a_direction_that_no_theory_gives_comes_from_the_other_data_sets(ps):
    turned = {"a": -1, "b": -1, "c": 1}
    records = [made(ps, i, data, probe_accuracy=lambda r, s=turned[data]: s * r) for i, data in enumerate("aabbcc")]
    scores = ps.oriented(records, "probe_accuracy")
    assert ps.PREDICTORS["probe_accuracy"].sign == 0
    # c, the odd one, learns from a and b, and is turned wrongly.
    assert ps.direction(records[:4], "probe_accuracy") == -1
    assert ps.within(records, scores, "ratio")[4:] == pytest.approx([-1, -1])


def test_regret_of_a_network_by_hand(ps):
    resistance = {"ratio": np.array([0.1, 0.4, 0.3, 0.8, 1.2]), "identified": np.array([0.0, 0.5, 0.6, 0.9, 1.0])}
    one = ps.Record("n", "d", "cnn", {}, resistance, {"paper": 2, "null": None})
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
            assert unknown == [], (network["name"], cut["cut"])


def test_the_findings_are_those_of_the_committed_networks(committed, module, report):
    records = [module("predictor_records").record_of(network) for network in committed]
    page = (ROOT / "docs" / "findings" / "predictors.md").read_text()
    rows = report.rows_of(records)
    assert report.block_of(committed, rows, records) in page


def test_a_page_keeps_what_lies_around_its_block(report, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.refresh(page, f"{report.BEGIN}\nnew\n{report.END}")
    assert page.read_text() == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    with pytest.raises(UserError, match="has no line"):
        report.refresh(tmp_path / "none.md", "")


def test_what_cuts_says_of_numbers_without_an_attack_is_what_was_found(committed, module, report):
    """``workflow.advice.TRUST``: regrets; how far off the ratio is, told by rho, depth, nothing, the linear attack."""
    ps = module("predictor_statistics")
    records = [module("predictor_records").record_of(network) for network in committed]
    scores = report.scores_of(records)
    told = {name: np.mean(ps.errors(records, ps.isotonic(records, scores[name]))) for name in ("rho", "depth", "ridge")}
    told["nothing"] = np.mean(ps.errors(records, ps.constant(records)))
    said = "the ratio is off by {rho:.2f} when told by rho, {depth:.2f} by depth, {nothing:.2f} by nothing"
    assert said.format(**told) in advice.TRUST
    assert f"by {told['ridge']:.2f} (" in advice.TRUST
    regret = {rule: ps.regret(ps.leaks_of_rule(records, rule, "ratio")) for rule in ("paper", "null")}
    for rule in regret:
        assert f"{regret[rule]:.2f}" in advice.TRUST
    assert ps.regret(ps.leaks_of(records, scores["depth"], "ratio")) < 1.005
