"""Every experiment runs at its tiny size; what it says on a laptop is in docs/findings."""

import csv
import importlib
import pathlib
import sys

import jax
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
}

#: Those in every run of the tests: the linear attack, a decoder, the likelihood attack; tables, grids and bars.
QUICK = {"template"}

#: What experiments share.
SHARED = {"common", "targets", "tracked_runs", "naming"}


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


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FOUND]
)
def test_runs_at_its_tiny_size(name, main_of, targets, tmp_path, capsys):
    shared = [] if name in ("tour", "neural_vortex", "he2019") else ["--runs", str(targets)]
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
