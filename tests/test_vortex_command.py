"""The vortex command: what it prints is what the ledger holds, and what it cannot read is one line."""

import csv
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_runs
import xarray as xr
import zarr
from PIL import Image
from tiny_runs import CUTS, refused, snapshot

from gpz_jax import runs, vortex
from gpz_jax.analysis.attribution import over_ledger, summarise_ledger
from gpz_jax.workflow.vortex_command import read_ledgers, said_of


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "220")
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tracked run under two names; not to be changed."""
    home = tmp_path_factory.mktemp("home")
    for name in ("twin", "ls0.3"):
        tiny_runs.trained(home / name, "tracked")
    return home


@pytest.fixture
def copy(home, tmp_path):
    return shutil.copytree(home, tmp_path / "copy")


def tables_in(text):
    """Rows of cells of every table printed, by the table's title."""
    found, title = {}, ""
    for line in text.splitlines():
        if ":" in line and not line.lstrip().startswith(("│", "┃")):
            title = line.strip()
        if line.lstrip().startswith("│"):
            found.setdefault(title, []).append([cell.strip() for cell in line.strip().strip("│").split("│")])
    return found


def test_one_run_as_a_process(copy):
    said = tiny_runs.command("vortex", "ls0.3", "--wide", cwd=copy)
    assert said.returncode == 0, said.stderr
    found = tables_in(said.stdout)
    moved, agreed = (rows for title, rows in found.items() if title.startswith("ls0.3"))
    assert [row[0] for row in moved] == [row[0] for row in agreed] == list(CUTS)
    record = runs.read_steps(copy / "ls0.3")
    counts = record["count"] / record["count"].sum()
    for row in moved:
        at = (record.sel(cut=row[0]) * counts).sum("class")
        assert row[5] == f"{float(at.realised.sum()):.3g}"
        shares = [float(at[term].sum() / at.realised.sum()) * 100 for term in ("optimiser", "statistics", "residual")]
        assert row[8:11] == [f"{share:.3g}" for share in shares]
        np.testing.assert_allclose(sum(shares), 100, atol=0.1)
    with (copy / "ls0.3" / "vortex.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["cut"] for row in rows if row["phase"] == "all"] == list(CUTS)
    for name in ("overview", "terms", "interference"):
        with Image.open(copy / "ls0.3" / "figures" / f"vortex-{name}.png") as image:
            image.load()
    assert all(line.startswith("gpz: figure ") for line in said.stderr.splitlines())


@pytest.mark.slow
def test_several_runs_are_overlaid(copy, capsys):
    vortex.main(["copy/twin", "copy/ls0.3", "--cut", "fc", "--out", "both"])
    assert {"twin: what moved R_c^2", "ls0.3: what moved R_c^2"} <= {
        title.split(" (")[0] for title in tables_in(capsys.readouterr().out)
    }
    assert {path.name for path in Path("both").iterdir()} == {
        "overview.png", "terms.png", "interference.png", "vortex.csv"
    }  # fmt: skip
    vortex.main(["copy/twin", "copy/ls0.3"])
    assert (copy / "vortex" / "overview.png").is_file()  # beside the runs, if nothing else is said


def test_a_folder_of_runs_stands_for_its_runs(home):
    assert [read.name for read in read_ledgers([str(home)])] == ["ls0.3", "twin"]


# What a ledger comes to ----------------------------------------------------------------------------------------------


def ledger_of(coefficient, **terms):
    """A ledger of two cuts and three classes, the last of one image; every term is constant but the coefficient."""
    steps = len(coefficient)
    values = {name: terms.get(name, 0.0) for name in runs.VARIABLES if "class" in runs.VARIABLES[name].dims}
    data = {}
    for name, value in values.items():
        dims = ("step", *runs.VARIABLES[name].dims)
        sizes = {"step": steps, "cut": 2, "class": 3, "output": 3, "interference_cut": 1}
        data[name] = (dims, np.broadcast_to(value, [sizes[dim] for dim in dims]).astype(np.float32))
    data["coefficient"] = (("step", "class"), np.repeat(np.asarray(coefficient)[:, None], 3, axis=1))
    data["rho"] = (("step", "cut"), np.full((steps, 2), 0.5))
    data["epoch"] = (("step",), np.ones(steps))
    return xr.Dataset(
        data,
        {
            "step": np.arange(0, 2 * steps, 2),
            "cut": ["a", "logits"],
            "count": ("class", [2, 6, 1]),
            "interference_cut": ["a"],
        },
        {"track_every": 2},
    )


def test_sums_and_phases_by_hand():
    by_class = np.array([1.0, 3.0, np.nan])  # mean over images: (2·1 + 6·3)/8 = 2.5
    record = ledger_of([-0.5, -0.1, 0.1, -0.05], realised=-by_class, optimiser=-2 * by_class, statistics=by_class)
    curves = over_ledger(record)
    assert curves.attrs["turn"] == 4
    rows = {(row["cut"], row["phase"]): row for row in summarise_ledger(curves)}
    assert set(rows) == {(cut, phase) for cut in ("a", "logits") for phase in ("all", "before", "after")}
    assert rows["a", "all"]["sum_realised"] == -10
    assert rows["a", "after"]["sum_optimiser"] == -10
    assert rows["a", "before"]["sum_statistics"] == 5
    assert rows["a", "all"]["net"] == 1
    assert rows["a", "all"]["falling"] == 1
    assert rows["logits", "all"]["optimiser_size"] == 2
    assert rows["logits", "all"]["both_size"] == 1  # -2 + 1
    said = said_of(curves)
    assert said[0] == "classes with fewer than two images in the probe batch, left out of every sum: 2 (1)"
    assert said_of(over_ledger(record, ["ant", "bee", "[red]cat"]))[0].endswith("every sum: [red]cat (1)")
    assert said[1] == "one step in 2 is in the ledger: sums are over those 4 steps alone"
    assert "turns positive at step 4 (epoch 1) and is so on 50% of the steps from there" in said[2]


def test_no_sign_change_and_a_ledger_without_the_parameters_terms():
    record = ledger_of([-0.5, -0.1], realised=1.0).drop_vars(list(runs.PARAMETER_TERMS))
    curves = over_ledger(record)
    assert [row["phase"] for row in summarise_ledger(curves)] == ["all", "all"]
    assert np.isnan(summarise_ledger(curves)[0]["sum_optimiser"])
    assert "stays negative (at most -0.1)" in said_of(curves)[-1]


def test_the_coefficient_that_turns_at_the_first_step_has_nothing_before():
    rows = summarise_ledger(over_ledger(ledger_of([0.1, 0.2], realised=1.0)))
    assert {row["phase"] for row in rows} == {"all", "after"}


# Bad input -----------------------------------------------------------------------------------------------------------


def test_no_run_and_unknown_flags(capsys):
    assert "a run folder is missing" in refused(capsys, vortex.main)
    assert "unknown flag '--cuts'; did you mean '--cut'" in refused(capsys, vortex.main, "r", "--cuts", "fc")


def test_what_is_no_run_or_was_not_tracked(copy, capsys, tmp_path):
    assert "is not a run folder (no config.json)" in refused(capsys, vortex.main, tmp_path / "nothing")
    shutil.rmtree(copy / "twin" / "dynamics.zarr" / "steps")
    said = refused(capsys, vortex.main, copy / "twin")
    assert said.endswith("holds no ledger of steps; train a run with --track-every 1")


def test_an_unknown_cut(copy, capsys):
    before = snapshot(copy)
    said = refused(capsys, vortex.main, copy / "twin", "--cut", "block4")
    assert said == "unknown cut 'block4'; did you mean 'block_4'?"
    assert snapshot(copy) == before


def test_runs_of_different_cuts_are_not_compared(copy, capsys):
    # The same record under another name of one cut, as of another model.
    tiny_runs.unseal_steps(copy / "twin")
    folder = runs.steps_folder(copy / "twin")
    shutil.rmtree(folder / "cut")
    names = np.array([*CUTS[:-2], "embedding", "logits"], dtype=np.dtypes.StringDType())
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr's strings
        zarr.open_group(str(folder), mode="r+").create_array("cut", data=names, dimension_names=("cut",))
    said = refused(capsys, vortex.main, copy / "twin", copy / "ls0.3")
    assert said == (
        "twin and ls0.3 have different cuts and cannot be compared: only twin has embedding; only ls0.3 has fc"
    )


def test_a_record_cut_short_by_a_crash_is_read_up_to_the_last_whole_step(copy, capsys):
    whole = runs.read_steps(copy / "ls0.3")
    tiny_runs.unseal_steps(copy / "ls0.3")
    group = zarr.open_group(str(runs.steps_folder(copy / "ls0.3")), mode="r+")
    group["step"].resize((5,))  # killed after the variables of the sixth step, before it counts
    group["radius"].resize((40, *group["radius"].shape[1:]))
    vortex.main([str(copy / "ls0.3")])
    assert "5 steps)" in capsys.readouterr().out
    xr.testing.assert_identical(runs.read_steps(copy / "ls0.3"), whole.isel(step=slice(5)))
    group["step"].resize((0,))
    assert "without a whole step yet" in refused(capsys, vortex.main, copy / "ls0.3")


def test_a_damaged_record_is_one_line(copy, capsys):
    folder = runs.steps_folder(copy / "twin")
    (folder / "radius" / "zarr.json").write_text("{")
    assert "radius/zarr.json is damaged: no JSON" in refused(capsys, vortex.main, copy / "twin")
    written = json.loads((copy / "twin" / "config.json").read_text())
    assert written["config"]["track"]["track_every"] == 1
