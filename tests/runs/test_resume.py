"""A killed run loses nothing behind its last checkpoint, and ends bit for bit where an uninterrupted one ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
import xarray as xr
from same_runs import assert_same_run, latest
from thinned import thinned

from gpz_jax import runs, workflow
from gpz_jax.config import Config, DataConfig, ModelConfig, TrackConfig, TrainingConfig, resolve
from gpz_jax.errors import UserError
from gpz_jax.train import main
from gpz_jax.training import classifier, sweep


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        yield


@pytest.fixture(autouse=True, scope="module")
def no_figures():
    """A second a run, and tested elsewhere; the processes that are killed draw them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpz_jax.reporting.figures.training_figure", lambda record, file: None)
        yield


# Small images, so that an epoch is short; several epochs, so that there is something to interrupt.
FLAGS = ("--size", "16", "--width", "4", "--ls", "0.3", "--null-seeds", "0")
TRACKED = TrackConfig(track_every=1, probe_size=40)
TRACK_FLAGS = ("--track-every", "1", "--probe-size", "40")
STEPS = 7  # of an epoch


def config(track=None, **changed):
    training = TrainingConfig(**{"ls": 0.3, "epochs": 6, **changed})
    return Config(data=DataConfig(size=16), model=ModelConfig(width=4), training=training, track=track or TrackConfig())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    with jax.numpy_dtype_promotion("standard"):
        return workflow.train_run(config(), folder=str(tmp_path_factory.mktemp("whole") / "run")).folder


@pytest.fixture
def run(uninterrupted, tmp_path):
    """A copy of the finished run, to be damaged."""
    return shutil.copytree(uninterrupted, tmp_path / "copy")


def kill_after(folder, epochs, flags):
    """Start training and send SIGKILL as soon as metrics.jsonl holds that many epochs; returns how many it held."""
    argv = [sys.executable, "-m", "gpz_jax.train", *flags, "--run", str(folder)]
    with (folder.parent / "log").open("w") as log:
        process = subprocess.Popen(argv, env=tiny_runs.ENVIRONMENT, stdout=log, stderr=log)
        metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= epochs:
                break
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (folder.parent / "log").read_text()
    return metrics.read_bytes().count(b"\n")


@pytest.mark.slow
def test_killed_in_mid_run_and_resumed_is_the_uninterrupted_run(uninterrupted, tmp_path, capsys):
    flags = (*FLAGS, "--epochs", "6")
    # The third line of metrics.jsonl is written once the first checkpoint is whole, the second perhaps before.
    assert 3 <= kill_after(tmp_path / "run", 3, flags) < 6
    capsys.readouterr()
    main([*flags, "--run", str(tmp_path / "run"), "--resume"])
    assert "continuing after epoch" in capsys.readouterr().err
    assert_same_run(uninterrupted, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_killed_twice(uninterrupted, tmp_path, epochs):
    flags = (*FLAGS, "--epochs", "6")
    kill_after(tmp_path / "run", epochs, flags)
    kill_after(tmp_path / "run", epochs + 1, (*flags, "--resume"))
    main([*flags, "--run", str(tmp_path / "run"), "--resume"])
    assert_same_run(uninterrupted, tmp_path / "run")


def test_killed_between_metrics_and_checkpoint(uninterrupted, run):
    # The last line of metrics.jsonl is cut short and the checkpoint behind it is not there yet.
    shutil.rmtree(run / "checkpoints" / "6")
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[:-40])
    workflow.train_run(config(), folder=str(run), resume=True)
    assert_same_run(uninterrupted, run)


def test_killed_between_checkpoint_and_its_seal(uninterrupted, run):
    (run / "checkpoints" / "6" / "seal.json").unlink()
    workflow.train_run(config(), folder=str(run), resume=True)
    assert_same_run(uninterrupted, run)


def test_resuming_a_finished_run_changes_nothing(uninterrupted, run):
    before = tiny_runs.snapshot(run)
    workflow.train_run(config(), folder=str(run), resume=True)
    after = tiny_runs.snapshot(run)
    kept = [name for name in before if name.startswith(("checkpoints", "metrics", "config"))]
    assert len(kept) > 20
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert_same_run(uninterrupted, run)


def test_resuming_a_finished_run_without_its_metrics_does_not_fail(run):
    (run / "metrics.jsonl").unlink()
    workflow.train_run(config(), folder=str(run), resume=True)
    assert latest(run).epoch == 6


@pytest.mark.slow
def test_more_epochs_extend_a_run(run, tmp_path):
    workflow.train_run(config(epochs=8), folder=str(run), resume=True)
    workflow.train_run(config(epochs=8), folder=str(tmp_path / "at once"))
    assert_same_run(tmp_path / "at once", run)
    assert runs.open_run(run).config.training.epochs == 8


@pytest.mark.slow
def test_resume_where_there_is_nothing_starts(tmp_path, capsys):
    workflow.train_run(config(epochs=1), folder=str(tmp_path / "new"), resume=True)
    assert latest(tmp_path / "new").epoch == 1
    assert f"there is no run in {tmp_path / 'new'} yet: one is begun" in capsys.readouterr().err


@pytest.mark.slow
def test_reverse_smoothing_warms_up_and_says_so(tmp_path):
    workflow.train_run(config(ls=-0.05, epochs=5), folder=str(tmp_path / "run"))
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["config"]["training"]["warmup_epochs"] == 1  # a quarter
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["alpha"] for line in lines] == [0.0, -0.05, -0.05, -0.05, -0.05]
    assert workflow.load_run(str(tmp_path / "run")).epoch > 1  # no epoch of the warm-up is the best
    # Its default follows the epochs, so that more of them ask for another run; the line says how to go on.
    with pytest.raises(UserError, match=r"another configuration: warmup-epochs 1 \(not 5\)"):
        workflow.train_run(config(ls=-0.05, epochs=20), folder=str(tmp_path / "run"), resume=True)


# The ledger of steps -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """An uninterrupted run whose every step is in the ledger; not to be changed."""
    with jax.numpy_dtype_promotion("standard"):
        folder = workflow.train_run(config(TRACKED), folder=str(tmp_path_factory.mktemp("tracked") / "run")).folder
    assert runs.read_steps(folder).step.values.tolist() == list(range(6 * STEPS))
    return folder


@pytest.fixture
def tracked_copy(tracked, tmp_path):
    """A copy of the tracked run, to be damaged."""
    return shutil.copytree(tracked, tmp_path / "tracked copy")


def killed_and_resumed(tracked, folder, *epochs):
    """Kill a tracked run once for each of ``epochs``, resume it to the end and compare it with the whole one."""
    flags = (*FLAGS, *TRACK_FLAGS, "--epochs", "6")
    for i, epoch in enumerate(epochs):
        assert kill_after(folder, epoch, (*flags, "--resume") if i else flags) < 6
        runs.read_steps(folder)  # whole, wherever the kill came
    main([*flags, "--run", str(folder), "--resume"])
    assert_same_run(tracked, folder)


@pytest.mark.slow
def test_a_tracked_run_killed_in_mid_run_and_resumed_is_the_uninterrupted_one(tracked, tmp_path, capsys):
    killed_and_resumed(tracked, tmp_path / "run", 3)
    assert "continuing after epoch" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [(1,), (2,), (4,), (5,), (1, 2), (2, 4)])
def test_a_tracked_run_killed_at_other_points(tracked, tmp_path, epochs):
    killed_and_resumed(tracked, tmp_path / "run", *epochs)


@pytest.mark.slow
@pytest.mark.parametrize("metrics_too", [True, False], ids=["before metrics", "after metrics"])
def test_killed_between_the_ledger_and_the_checkpoint(tracked, tracked_copy, metrics_too):
    # The ledger is flushed first: it holds the seven steps of an epoch that has no checkpoint, and perhaps no metrics.
    shutil.rmtree(tracked_copy / "checkpoints" / "6")
    if metrics_too:
        lines = (tracked_copy / "metrics.jsonl").read_text().splitlines(keepends=True)
        (tracked_copy / "metrics.jsonl").write_text("".join(lines[:-1]))
    workflow.train_run(config(TRACKED), folder=str(tracked_copy), resume=True)
    assert_same_run(tracked, tracked_copy)


@pytest.mark.slow
def test_steps_behind_no_checkpoint_are_not_in_the_ledger_of_a_resumed_run(tracked_copy, monkeypatch):
    # What a kill leaves before the first step after resuming: that of the epochs behind the checkpoint, and no more.
    shutil.rmtree(tracked_copy / "checkpoints" / "6")
    monkeypatch.setattr(sweep, "fit", lambda *args, **kwargs: None)
    workflow.train_run(config(TRACKED), folder=str(tracked_copy), resume=True)
    assert runs.read_steps(tracked_copy).step.values.tolist() == list(range(5 * STEPS))


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_begins_the_ledger_anew(tracked, tracked_copy):
    shutil.rmtree(tracked_copy / "checkpoints")
    workflow.train_run(config(TRACKED), folder=str(tracked_copy), resume=True)
    assert_same_run(tracked, tracked_copy)


@pytest.mark.slow
def test_resuming_a_finished_tracked_run_changes_nothing(tracked, tracked_copy):
    before = tiny_runs.snapshot(runs.steps_folder(tracked_copy))
    workflow.train_run(config(TRACKED), folder=str(tracked_copy), resume=True)
    assert tiny_runs.snapshot(runs.steps_folder(tracked_copy)) == before
    assert_same_run(tracked, tracked_copy)


@pytest.mark.slow
def test_more_epochs_extend_the_ledger(tracked, tracked_copy, tmp_path):
    workflow.train_run(config(TRACKED, epochs=10), folder=str(tracked_copy), resume=True)
    workflow.train_run(config(TRACKED, epochs=10), folder=str(tmp_path / "at once"))
    assert_same_run(tmp_path / "at once", tracked_copy)
    assert runs.CHUNK < runs.read_steps(tracked_copy).sizes["step"] == 10 * STEPS


# Other versions ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tracked_run_of_0_1_0_is_gone_on_with(tracked, tracked_copy):
    tiny_runs.as_of_0_1_0(tracked_copy)
    shutil.rmtree(tracked_copy / "checkpoints" / "6")
    workflow.train_run(config(TRACKED), folder=str(tracked_copy), resume=True)
    both = [[runs.read_steps(folder), runs.epochs(runs.open_run(folder))] for folder in (tracked, tracked_copy)]
    for whole, ours in zip(*both, strict=True):
        # Between was not stored then, and follows from the other two up to rounding.
        np.testing.assert_allclose(ours.between, whole.between, rtol=1e-4, atol=1e-7)
        xr.testing.assert_identical(ours.drop_vars("between"), whole.drop_vars("between"))
    assert json.loads((tracked_copy / "config.json").read_text())["schema_version"] == runs.SCHEMA_VERSION


def test_a_newer_record_is_refused_by_name(run, capsys):
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text.replace('"schema_version": 2', '"schema_version": 3'))
    said = tiny_runs.refused(capsys, main, *FLAGS, "--epochs", "6", "--run", run, "--resume")
    assert said == (
        f"{run}/metrics.jsonl was written by a newer gpz_jax (schema 3; this one reads up to 2); upgrade gpz_jax to "
        "read it"
    )


# Damage --------------------------------------------------------------------------------------------------------------


def files_of(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def largest(checkpoint):
    return max(files_of(checkpoint), key=lambda path: path.stat().st_size)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garbage(file):
    file.write_bytes(np.random.default_rng(0).bytes(file.stat().st_size))


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = {"truncated": truncate, "deleted": lambda file: file.unlink(), "garbage": garbage, "bit": flip_a_bit}


@pytest.mark.parametrize("how", thinned(list(DAMAGES), ["bit"]))
def test_any_damaged_file_of_the_newest_checkpoint_is_noticed(run, how):
    newest = run / "checkpoints" / "6"
    for file in files_of(newest):
        if (how == "deleted" and file.name == "seal.json") or not file.stat().st_size:
            continue
        content = file.read_bytes()
        DAMAGES[how](file)
        loaded = latest(run)
        assert loaded.epoch == 5, file
        named = (
            "seal.json is damaged"
            if file.name == "seal.json"
            else rf"{re.escape(str(file.relative_to(newest)))} is (damaged|missing)"
        )
        assert re.match(rf"checkpoint of epoch 6 cannot be read \({named}\)", loaded.notes[0])
        file.write_bytes(content)
    assert latest(run).epoch == 6


def test_a_damaged_newest_checkpoint_is_trained_again_and_said(uninterrupted, run, capsys):
    flip_a_bit(largest(run / "checkpoints" / "6"))
    capsys.readouterr()
    workflow.train_run(config(), folder=str(run), resume=True)
    said = capsys.readouterr().err
    assert "gpz: checkpoint of epoch 6 cannot be read (" in said
    assert "gpz: continuing after epoch 5 of 6" in said
    assert len(said.splitlines()) < 8  # nothing of what lies below gets to the terminal
    assert_same_run(uninterrupted, run)


def test_damaged_metrics_of_an_old_checkpoint_do_not_stop_training(run, capsys):
    garbage(run / "checkpoints" / "5" / "measured.json")
    workflow.train_run(config(epochs=7), folder=str(run), resume=True)
    assert "checkpoint of epoch 5 (damaged, measured.json is damaged) is set aside in" in capsys.readouterr().err
    assert latest(run).epoch == 7
    assert [path.name for path in (run / "aside").iterdir()] == ["checkpoint-5"]


def test_a_damaged_best_checkpoint_is_said_when_the_run_is_opened(run, capsys):
    best = workflow.load_run(str(run)).epoch
    truncate(largest(run / "checkpoints" / str(best)))
    capsys.readouterr()
    assert workflow.load_run(str(run)).epoch != best
    assert f"gpz: checkpoint of epoch {best} cannot be read" in capsys.readouterr().err


def test_all_checkpoints_damaged_is_one_line_and_removes_nothing(run, capsys):
    for checkpoint in (run / "checkpoints").iterdir():
        garbage(largest(checkpoint))
    before = tiny_runs.snapshot(run / "checkpoints")
    said = tiny_runs.refused(capsys, main, *FLAGS, "--epochs", "6", "--run", run, "--resume")
    assert said.startswith(f"no checkpoint in {run}/checkpoints can be read: checkpoint of epoch 6 cannot be read (")
    assert tiny_runs.snapshot(run / "checkpoints") == before


# Which are kept ------------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_run(tmp_path):
    with runs.start(
        resolve(config()), folder=str(tmp_path / "r"), resume=False, fingerprint="f", num_classes=2, channels=1
    ) as run:
        yield run


def measured(accuracy, loss):
    return {"validation_accuracy": accuracy, "validation_loss": loss}


def state_of(value):
    return classifier.State({"w": jnp.full(3, value)}, {}, {}, {}, jnp.int32(value))


def test_the_best_and_the_last_two_are_kept(empty_run):
    accuracies = {1: 0.5, 2: 0.9, 3: 0.9, 4: 0.7, 5: 0.6, 6: 0.6}
    losses = {1: 0.1, 2: 0.4, 3: 0.3, 4: 0.1, 5: 0.1, 6: 0.1}
    checkpoints = runs.Checkpoints(empty_run)
    for epoch, accuracy in accuracies.items():
        checkpoints.save(epoch, state_of(epoch), measured=measured(accuracy, losses[epoch]), candidate=True)
        checkpoints.prune()
    kept = sorted(path.name for path in (empty_run.folder / "checkpoints").iterdir())
    assert kept == ["3", "5", "6"]
    best, last = checkpoints.best(state_of(0)), checkpoints.latest(state_of(0))
    assert (best.epoch, float(best.state.params["w"][0]), best.notes) == (3, 3.0, ())
    assert (last.epoch, int(last.state.step)) == (6, 6)


def test_epochs_of_the_warm_up_are_never_the_best_but_serve_if_there_is_no_other(empty_run):
    checkpoints = runs.Checkpoints(empty_run)
    checkpoints.save(1, state_of(1), measured=measured(0.9, 0.1), candidate=False)
    checkpoints.save(2, state_of(2), measured=measured(0.95, 0.1), candidate=False)
    assert checkpoints.best(state_of(0)).epoch == 2
    checkpoints.save(3, state_of(3), measured=measured(0.2, 3.0), candidate=True)
    assert checkpoints.best(state_of(0)).epoch == 3


def test_no_checkpoint_is_none(empty_run):
    assert runs.Checkpoints(empty_run).latest(state_of(0)) is None
    assert runs.Checkpoints(empty_run).best(state_of(0)) is None
