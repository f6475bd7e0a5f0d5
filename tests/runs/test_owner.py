"""A run folder has one owner: who comes second is told by whom it is held, and a dead process holds nothing."""

import json
import os
import signal
import subprocess
import sys

import pytest
import tiny_runs

from gpz_jax import attack, cuts, probe, report, runs, train
from gpz_jax.config import Config, resolve
from gpz_jax.errors import UserError

#: Holds the folder that it is given until it is killed; says when.
HOLD = """
import sys, pathlib, time
from gpz_jax.runs.owner import owned
with owned(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path):
    """A finished run that another process is at work in, and that process."""
    tiny_runs.trained(tmp_path / "run", "tracked")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    argv = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(argv, env=tiny_runs.ENVIRONMENT, **pipes) as child:
        assert child.stdout.readline() == "held\n"
        yield tmp_path / "run", child
        child.kill()


@pytest.mark.slow
def test_who_holds_it_is_said_and_a_killed_owner_holds_nothing(held, capsys, monkeypatch):
    folder, child = held
    monkeypatch.chdir(folder.parent)
    before = tiny_runs.snapshot(folder)
    flags = ("--size", "16", "--width", "4")
    for main, arguments in [
        (train.main, ("--run", folder, "--resume")),
        (probe.main, (folder, "--null-seeds", "0", "--bootstrap", "10", "--limit", "100")),
        (attack.main, (folder, "--cut", "fc", "--attack", "linear")),
    ]:
        said = tiny_runs.refused(capsys, main, *arguments)
        assert said.startswith(f"another process is at work in {folder} (process {child.pid} on "), said
        assert said.endswith("; wait for it, or stop it")
    said = tiny_runs.refused(capsys, train.main, *flags, "--run", folder)
    assert said.startswith(f"{folder} already holds a run, and another process (process {child.pid} on "), said
    assert said.endswith(" is at work in it; choose another folder with --run")
    assert tiny_runs.snapshot(folder) == before
    cuts.main([str(folder)])  # reading needs no lock
    report.main([str(folder), "--out", "page.html"])
    assert (folder.parent / "page.html").exists()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert tiny_runs.refused(capsys, train.main, *flags, "--run", folder).startswith(f"{folder} already holds a run; ")
    with runs.owned(folder):
        assert json.loads((folder / "owner.json").read_text())["pid"] == os.getpid()
    assert not (folder / "owner.json").exists()


def test_what_a_killed_process_left_half_written_is_taken_away(tmp_path):
    folder = tmp_path / "run"
    member = folder / "ls0-seed1"  # of a sweep, held by itself
    halves = [
        "config.json.999999999-abcdef.partial",
        "checkpoints/7+120.999999999-abcdef.partial/d/0",
        "checkpoints/8.999999999-abcdef.partial.orbax-checkpoint-tmp/d/0",
        "attacks/fc-linear/parameters.orbax-checkpoint-tmp/d/0",
        "attacks/fc-linear/result.json.999999999-abcdef.partial",
        "attacks/fc-linear/unfinished/decoder.999999999-abcdef.partial/seal.json",
        "dynamics.zarr/steps/rho/c/0/0.0123456789abcdef0123456789abcdef.partial",
        "probe/test.zarr.999999999-abcdef.partial/zarr.json",
    ]
    whole = [
        f"cuts.csv.{os.getppid()}-abcdef.partial",
        "metrics.jsonl",
        "attacks/fc-linear/result.json",
        "notes.partial.txt",
    ]
    for name in (*halves, *whole, "ls0-seed1/owner.lock", "ls0-seed1/metrics.jsonl.999999998-abcdef.partial"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / "elsewhere.1-abcdef.partial").symlink_to(tmp_path)
    with runs.owned(folder):
        left = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
        assert left == {
            *whole, "owner.json", "owner.lock", "elsewhere.1-abcdef.partial", "ls0-seed1/owner.lock",
            "ls0-seed1/metrics.jsonl.999999998-abcdef.partial",
        }  # fmt: skip
        with runs.owned(member):
            assert not list(member.glob("*.partial"))


def test_a_start_that_was_killed_leaves_no_folder_in_the_way(tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("owner.lock", "owner.json", "config.json.999999999-abcdef.partial"):
        (tmp_path / "run" / name).write_text("")
    given = {"folder": str(tmp_path / "run"), "resume": False, "fingerprint": "f", "num_classes": 2, "channels": 1}
    with runs.start(resolve(Config()), **given) as run:
        assert sorted(path.name for path in run.folder.iterdir()) == ["config.json", "owner.json", "owner.lock"]


def test_within_a_process_it_is_held_until_the_outermost_lets_go(tmp_path):
    with runs.owned(tmp_path / "run"):
        with runs.owned(tmp_path / "run"):
            pass
        assert (tmp_path / "run" / "owner.json").exists()
        argv = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
        other = subprocess.run(
            argv, env=tiny_runs.ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert f"another process is at work in {tmp_path / 'run'} (process {os.getpid()} on " in other.stderr
    with runs.owned(tmp_path / "run"), pytest.raises(UserError, match="kept"):
        raise UserError("kept")
