"""Every experiment runs at its tiny size; what it says on a laptop is in docs/findings."""

import csv
import importlib
import pathlib
import sys

import jax
import numpy as np
import pytest
from tiny_runs import refused

EXPERIMENTS = pathlib.Path(__file__).parent.parent / "experiments"

#: Experiment -> columns that its table.csv has, among others, and a word of its verdict.
FOUND = {
    "template": ("network level cut attack mse ratio best", "class-mean floor"),
    "representation_level": ("network level cut attack mse_paper mse_published ratio_low", "decision over feature"),
    "null_attack": ("network level weights cut attack mse ratio", "architecture alone"),
    "composite": ("network level cut defence accuracy attack mse ratio", "resists most"),
    "stress_test": ("network level cut attack mse_first parameters flattened", "best attacker at each cut"),
    "aux_shift": ("network level cut auxiliary prior_collapse reconstructions", "the commonest name is"),
    "he2019": ("cut attack psnr psnr_published ssim ssim_published", "published PSNR"),
    "tour": ("targets seed cut accuracy radius_test rho_test rho_null zone_null mse ratio", "LS+ over one-hot"),
    "neural_vortex": ("setting targets cut radius_first realised optimiser feature_correlation", "first positive"),
    "claims": ("claim name paper ours low high seeds verdict seconds", ": "),
    "predictors": ("predictor label within_ratio across_ratio regret_ratio error grade", ": "),
    "text": ("targets view cut within rho evidence zone_null zone_paper linear decoder label_only unigram", "words"),
}

#: What experiments share.
SHARED = {
    "common",
    "targets",
    "tracked_runs",
    "naming",
    "text_target",
    "text_attackers",
    "text_answer",
    "crashes",
    "crash_runs",
    "claim_attacks",
    "claim_drift",
    "claim_figure",
    "claim_dynamics",
    "claim_numbers",
    "claim_training",
    "claim_units",
    "claim_verdicts",
    "claim_page",
    "predictor_networks",
    "predictor_attacks",
    "predictor_measures",
    "predictor_training",
    "predictor_records",
    "predictor_statistics",
    "predictor_report",
    "predictor_verdict",
    "predictor_holdout",
    "predictor_page",
}


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    """Where the experiments share their target networks."""
    return tmp_path_factory.mktemp("targets")


@pytest.fixture
def main_of(monkeypatch):
    """``main`` of an experiment by name, with the folder on the path as when it is started."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    yield lambda name: importlib.import_module(name).main
    ours = {path.stem for path in EXPERIMENTS.glob("*.py")}
    for name in [name for name in sys.modules if name in ours]:
        del sys.modules[name]


def test_every_experiment_is_here():
    assert set(FOUND) == {path.stem for path in EXPERIMENTS.glob("*.py")} - SHARED


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND)
def test_runs_at_its_tiny_size(name, main_of, targets, tmp_path, capsys):
    alone = ("tour", "neural_vortex", "he2019", "text", "claims", "predictors")
    shared = [] if name in alone else ["--runs", str(targets)]
    with jax.numpy_dtype_promotion("standard"):  # as where it is started; optax relies on it
        main_of(name)(["--size", "tiny", "--out", str(tmp_path), *shared])
    columns, verdict = FOUND[name]
    with open(tmp_path / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert set(columns.split()) <= set(rows[0])
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("verdict: ")]
    assert said
    assert all(verdict in line for line in said)
    assert list(tmp_path.rglob("*.png"))


def test_bad_flags_are_one_line(main_of, tmp_path, capsys):
    template = main_of("template")
    assert "--size 'lapto' is not one of tiny, laptop, paper" in refused(capsys, template, "--size", "lapto")
    out = ("--size", "tiny", "--out", tmp_path)
    assert "--network" in refused(capsys, template, "--network", "vgg19", *out)
    assert "unknown --setting 'digit'" in refused(capsys, main_of("neural_vortex"), "--setting", "digit", *out)


def test_experiments_are_short():
    lengths = {name: len((EXPERIMENTS / f"{name}.py").read_text().splitlines()) for name in FOUND}
    assert {name: length for name, length in lengths.items() if not 40 <= length <= 90} == {}


def test_sentences_are_written_alike_and_are_all_different(main_of):
    main_of("text")
    target, attackers = sys.modules["text_target"], sys.modules["text_attackers"]
    size = target.SIZES["tiny"]
    first, again = target.splits(size, 0), target.splits(size, 0)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    rows = [tuple(row) for part in first for row in part.x["ids"]]
    assert len(set(rows)) == len(rows) == sum(size[:4])
    for part in first:
        np.testing.assert_array_equal(part.x["mask"], part.x["ids"] != target.PAD)
        lengths = part.x["mask"].sum(1) - 1
        assert target.SHORTEST <= lengths.min() <= lengths.max() <= target.LONGEST
    x = first[0].x
    perfect = attackers.recovered(attackers.one_hot(attackers.words_of(x)[0]), x)
    np.testing.assert_array_equal(perfect.tokens, x["mask"].sum(1) - 1)
    np.testing.assert_array_equal(perfect.words, attackers.present(x).sum(1))


def test_floors_of_words_say_the_commonest(main_of):
    main_of("text")
    attackers = sys.modules["text_attackers"]
    ids = np.zeros((3, 25), np.int32)
    ids[:, :4] = [[1, 5, 6, 6], [1, 5, 6, 6], [1, 7, 8, 6]]
    x, classes = {"ids": ids, "mask": ids != 0}, np.array([0, 0, 1])
    found = attackers.floors(x, classes, np.array([1, 0, 2]), 3)
    assert found["unigram"].argmax(-1)[:, :3].tolist() == [[6, 6, 6]] * 3
    assert found["label_only"].argmax(-1)[:, :3].tolist() == [[7, 8, 6], [5, 6, 6], [5, 6, 6]]  # 2: of all sentences
