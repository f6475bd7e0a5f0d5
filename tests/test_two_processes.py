"""Two processes on one run folder: one of them works, the other is told; no file is lost, mixed or half written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tiny_runs
from same_runs import assert_same_run, latest

from gpz_jax import runs
from gpz_jax.runs.seals import broken, read_seal, without_check
from gpz_jax.runs.zarr_records import read_zarr

pytestmark = pytest.mark.crash

FLAGS = ("--size", "16", "--width", "4", "--epochs", "3", "--ls", "0.3", "--null-seeds", "0", "--bootstrap", "20")
TRAIN = ("train", *FLAGS, "--run", "r")
ATTACK = ("attack", "r", "--attack", "linear", "--attack", "deconvolution", "--epochs", "1", "--decoder-width", "2")
TOLD = ("another process is at work in ", "already holds a run")


def start(*argv, cwd):
    command = [sys.executable, "-m", f"gpz_jax.{argv[0]}", *argv[1:]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=tiny_runs.ENVIRONMENT, **pipes)


def at_once(*commands, cwd):
    """Start commands at one instant; (status, stderr) of each."""
    started = [start(*command, cwd=cwd) for command in commands]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert not any("Traceback" in text for text in said), said
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def assert_one_at_least(ended):
    """One did its work; whoever did not was told why, in one line."""
    assert any(not status for status, _ in ended), ended
    for status, text in ended:
        assert status == 0 or (status == 2 and any(words in text.splitlines()[-1] for words in TOLD)), text


def assert_whole(folder):
    """Every file of the folder reads and its check or seal holds; nothing is left over."""
    for path in folder.rglob("*"):
        assert not any(half in path.name for half in (".partial", "orbax-checkpoint-tmp")), path
        assert path.name not in ("unfinished", "owner.json"), path
        if path.suffix == ".json" and "_CHECKPOINT" not in str(path) and "orbax" not in str(path):
            found = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found, dict):
                without_check(found, path)
        if path.name == "seal.json":
            assert broken(path.parent, read_seal(path.parent)) is None, path
        if path.suffix == ".zarr" and path.parent.name == "probe":
            read_zarr(path)
        if path.name == "result.json":
            read = json.loads(path.read_text())
            assert broken(path.parent, read) is None, path
    run = runs.open_run(folder)
    problems = []
    epochs = [line["epoch"] for line in runs.read_metrics(run, problems.append)]
    assert (epochs, problems) == ([1, 2, 3], [])
    assert latest(folder).notes == ()


def assert_commands_work(folder):
    """What reads and writes the folder afterwards does."""
    for name, *flags in (("cuts",), ("report",), ("probe", "--null-seeds", "0", "--bootstrap", "20")):
        done = tiny_runs.command(name, folder, *flags, cwd=folder.parent)
        assert done.returncode == 0, done.stderr
    assert_whole(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    home = tmp_path_factory.mktemp("whole")
    done = tiny_runs.command(*TRAIN, cwd=home)
    assert done.returncode == 0, done.stderr
    return home / "r"


@pytest.fixture
def home(whole, tmp_path):
    """A folder that holds the finished run ``r``."""
    shutil.copytree(whole, tmp_path / "r")
    return tmp_path


def cut_back(folder):
    """As if it had been killed in its last epoch."""
    shutil.rmtree(folder / "checkpoints" / "3")


@pytest.mark.parametrize("again", range(4))
def test_two_trainings(whole, tmp_path, again):
    ended = at_once(TRAIN, TRAIN, cwd=tmp_path)
    assert_one_at_least(ended)
    assert sorted(status for status, _ in ended) == [0, 2]
    assert_whole(tmp_path / "r")
    assert_same_run(whole, tmp_path / "r")


@pytest.mark.parametrize("again", range(3))
def test_two_resumed(whole, home, again):
    cut_back(home / "r")
    assert_one_at_least(at_once((*TRAIN, "--resume"), (*TRAIN, "--resume"), cwd=home))
    assert_same_run(whole, home / "r")
    shutil.rmtree(home / "r" / "aside", ignore_errors=True)
    assert_whole(home / "r")


@pytest.mark.parametrize("again", range(3))
def test_two_without_a_name(whole, tmp_path, again):
    ended = at_once(TRAIN[:-2], TRAIN[:-2], cwd=tmp_path)
    assert [status for status, _ in ended] == [0, 0], ended
    made = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(made) == 2, made
    for name in made:
        assert_whole(tmp_path / "runs" / name)
        assert_same_run(whole, tmp_path / "runs" / name)


@pytest.mark.parametrize("again", range(2))
def test_training_and_a_probe(whole, home, again):
    cut_back(home / "r")
    probe = ("probe", "r", "--null-seeds", "0", "--bootstrap", "20")
    ended = at_once((*TRAIN, "--resume"), probe, cwd=home)
    for status, text in ended:  # the probe may also find a run without a checkpoint, and then says so
        assert status in (0, 2), text
        assert not status or text.splitlines()[-1].startswith("gpz: error: "), text
    done = tiny_runs.command(*TRAIN, "--resume", cwd=home)
    assert done.returncode == 0, done.stderr
    assert_same_run(whole, home / "r")
    shutil.rmtree(home / "r" / "aside", ignore_errors=True)
    assert_whole(home / "r")


@pytest.mark.parametrize("again", range(3))
def test_two_attacks_on_other_cuts(home, again):
    one, other = (*ATTACK, "--cut", "fc"), (*ATTACK, "--cut", "block_4")
    assert_one_at_least(at_once(one, other, cwd=home))
    for command in (one, other):
        done = tiny_runs.command(*command, "--resume", cwd=home)
        assert done.returncode == 0, done.stderr
    assert_whole(home / "r")
    assert len(list((home / "r/attacks").glob("*/result.json"))) == 4
    if not again:
        assert_commands_work(home / "r")


@pytest.mark.parametrize("again", range(3))
def test_readers_beside_a_probe(home, again):
    commands = ("probe", "r", "--null-seeds", "0", "--bootstrap", "20"), ("report", "r"), ("cuts", "r")
    ended = at_once(*commands, cwd=home)
    assert [status for status, _ in ended] == [0, 0, 0], ended
    assert_whole(home / "r")
    assert_commands_work(home / "r")


@pytest.mark.parametrize("again", range(2))
def test_a_killed_owner_is_followed_at_once(whole, tmp_path, again):
    first = start(*TRAIN, cwd=tmp_path)
    while not (tmp_path / "r" / "owner.json").exists() or not list((tmp_path / "r").glob("checkpoints/*")):
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    done = tiny_runs.command(*TRAIN, "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_run(whole, tmp_path / "r")
    shutil.rmtree(tmp_path / "r" / "aside", ignore_errors=True)
    assert_whole(tmp_path / "r")
