"""Training that is stopped or killed in the middle of an epoch goes on at that very step, bit for bit."""

import contextlib
import dataclasses
import signal

import jax
import pytest
from same_runs import assert_same_run

from gpz_jax import runs, workflow
from gpz_jax.config import Config, DataConfig, ModelConfig, TrackConfig, TrainingConfig
from gpz_jax.errors import UserError
from gpz_jax.interruption import Stopped
from gpz_jax.workflow.clock import Every
from gpz_jax.workflow.common import EpochProgress

STEPS = 7  # of an epoch
CONFIG = Config(
    data=DataConfig(size=16),
    model=ModelConfig(width=4),
    training=TrainingConfig(ls=0.3, epochs=2),
    track=TrackConfig(track_every=1, probe_size=40, ledger="feature"),
)


@pytest.fixture(autouse=True, scope="module")
def as_where_it_runs():
    """Dtypes as the commands have them, and no figures: a second a run, and tested elsewhere."""
    with jax.numpy_dtype_promotion("standard"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpz_jax.reporting.figures.training_figure", lambda record, file: None)
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return workflow.train_run(CONFIG, folder=str(tmp_path_factory.mktemp("whole") / "run")).folder


class Killed(BaseException):
    """In place of a SIGKILL: no handler of ours asks for it, and nothing is saved on its way."""


def kill():
    raise Killed


@contextlib.contextmanager
def at_step(number, act):
    """Act once that many steps were taken in this process."""
    taken, honest = [], EpochProgress.step

    def step(progress, *place):
        honest(progress, *place)
        taken.append(place)
        if len(taken) == number:
            act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochProgress, "step", step)
        yield


def places(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.slow
def test_killed_then_stopped_in_the_middle_of_an_epoch(uninterrupted, tmp_path, capsys):
    folder = tmp_path / "run"
    with at_step(STEPS + 5, kill), pytest.raises(Killed):
        workflow.train_run(CONFIG, folder=str(folder), checkpoint_every="3")
    assert places(folder) == ["1", "1+3"]  # a kill costs the steps since the last save
    capsys.readouterr()
    with at_step(2, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Stopped) as stopped:
        workflow.train_run(CONFIG, folder=str(folder), resume=True)
    assert "gpz: continuing after step 3 of epoch 2 of 2" in capsys.readouterr().err
    assert (stopped.value.status, stopped.value.saved) == (143, "step 5 of epoch 2, of 7 steps, is saved")
    assert places(folder) == ["1", "1+5"]
    assert runs.read_steps(folder).step.values.tolist() == list(range(STEPS + 5))
    workflow.train_run(CONFIG, folder=str(folder), resume=True)
    assert_same_run(uninterrupted, folder)
    assert places(folder) == ["1", "2"]


@pytest.mark.slow
def test_stopped_after_the_last_step_of_an_epoch(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    with at_step(STEPS, lambda: signal.raise_signal(signal.SIGINT)), pytest.raises(Stopped) as stopped:
        workflow.train_run(CONFIG, folder=str(folder))
    assert (stopped.value.status, places(folder)) == (130, ["0+7"])
    workflow.train_run(CONFIG, folder=str(folder), resume=True)
    assert_same_run(uninterrupted, folder)


@pytest.mark.thorough
def test_a_stop_in_the_last_epoch_s_measurements_is_not_forgotten(uninterrupted, tmp_path, monkeypatch):
    """Everything is saved by then; but what comes after training (a probe of minutes) must not begin."""
    folder, honest = tmp_path / "run", runs.Checkpoints.save

    def save(checkpoints, epoch, *args, **kwargs):
        honest(checkpoints, epoch, *args, **kwargs)
        if epoch == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(runs.Checkpoints, "save", save)
    with pytest.raises(Stopped, match="epoch 2 of 2 is saved"):
        workflow.train_run(CONFIG, folder=str(folder))
    assert places(folder) == ["1", "2"]
    monkeypatch.undo()
    workflow.train_run(CONFIG, folder=str(folder), resume=True)
    assert_same_run(uninterrupted, folder)


@pytest.mark.slow
def test_a_sweep_killed_between_the_saves_of_its_members(tmp_path, capsys, monkeypatch):
    folder, honest = tmp_path / "sweep", runs.Checkpoints.save_middle
    config = dataclasses.replace(CONFIG, track=TrackConfig())
    workflow.train_sweep(config, seeds=(0, 1), folder=str(tmp_path / "whole"))

    def save_middle(checkpoints, place, *args):
        if place.step == 6 and (folder / "ls0.3-seed0/checkpoints/0+6").exists():
            raise Killed
        honest(checkpoints, place, *args)

    monkeypatch.setattr(runs.Checkpoints, "save_middle", save_middle)
    with pytest.raises(Killed):
        workflow.train_sweep(config, seeds=(0, 1), folder=str(folder), checkpoint_every="3")
    monkeypatch.undo()
    capsys.readouterr()
    workflow.train_sweep(config, seeds=(0, 1), folder=str(folder), resume=True)
    said = capsys.readouterr().err
    assert "continuing after step 3 of epoch 1 of 2, the last of which all have a checkpoint" in said
    for name in ("ls0.3-seed0", "ls0.3-seed1"):
        assert_same_run(tmp_path / "whole" / name, folder / name)


@pytest.mark.parametrize("text", ["", "0", "-3", "2.5", "0min", "x", "10 hours", "1e3", "9999999999", "٣"])
def test_how_often_to_save(text, tmp_path):
    with pytest.raises(UserError, match="give a number of steps, as 500, or of minutes, as 10min"):
        Every.parse(text)
    with pytest.raises(UserError):
        workflow.train_run(CONFIG, folder=str(tmp_path / "run"), checkpoint_every=text)
    assert not (tmp_path / "run").exists()


def test_minutes_may_have_a_fraction():
    assert Every.parse(" 0.5min") == Every(seconds=30.0)
    assert Every.parse("12") == Every(steps=12)
