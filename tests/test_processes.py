"""Several processes that work together give the numbers of one, fail together, and end where one of them is gone."""

import re
import signal
import time

import numpy as np
import pytest
import several
import tiny_runs
import together
from tiny_runs import refused

from gpz_jax import attack, interruption, probe, processes, train
from gpz_jax.data.sources import load
from gpz_jax.workflow import agreement

MAINS = {"train": (train.main,), "probe": (probe.main, "runs/x"), "attack": (attack.main, "runs/x")}


@pytest.mark.parametrize("command", MAINS)
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--coordinator", "h:1"], "--processes and --process are missing"),
        (["--processes", "2", "--process", "0"], "--coordinator is missing"),
        (["--coordinator", "h", "--processes", "2", "--process", "0"], "must be HOST:PORT"),
        (["--coordinator", "h:0", "--processes", "2", "--process", "0"], "must be HOST:PORT"),
        (["--coordinator", ":1", "--processes", "2", "--process", "0"], "must be HOST:PORT"),
        (["--coordinator", "h:1", "--processes", "2", "--process", "2"], "--process 2 of 2"),
        (["--coordinator", "h:1", "--processes", "0", "--process", "0"], "--process 0 of 0"),
        (["--coordinator", "h:1", "--processes", "2", "--process", "-1"], "--process -1 of 2"),
    ],
)
def test_flags_that_do_not_go_together(capsys, command, flags, said):
    main, *arguments = MAINS[command]
    assert said in refused(capsys, main, *arguments, *flags)


def test_alone_each_is_the_plain_call():
    assert processes.gathered(np.arange(2)).tolist() == [[0, 1]]
    assert processes.texts("ä") == ["ä"]
    assert processes.told({"a": 1}) == {"a": 1}
    assert processes.every(lambda: 3) == processes.led(lambda: 3) == 3
    processes.check_same({"a": 1}, "a")


@pytest.mark.parametrize(("said", "status", "shown"), [
    ("F1129 client.h:80] the JAX distributed service detected fatal errors", 2, "gpz: error: process 0 is gone\n"),
    ("F1129 a mistake of XLA's own", 128 + signal.SIGABRT, "F1129 a mistake of XLA's own"),
])  # fmt: skip
def test_an_abort_that_is_about_others_is_one_line(tmp_path, said, status, shown):
    program = (
        "import os, sys; from gpz_jax import last_words; last_words.say_on_abort('process 0 is gone'); "
        "os.write(2, sys.argv[1].encode()); os.abort()"
    )
    assert several.run(1, "-c", program, said, cwd=tmp_path, together=lambda *given: []) == [(status, "", shown)]


def test_all_stop_where_one_is_told_to_and_ask_about_once_a_second(monkeypatch):
    asked = []

    def gathered(value):  # the other is slower, and was told to stop at the third question
        asked.append(value)
        return np.stack([value, np.array([0, signal.SIGTERM if len(asked) == 3 else 0, 0.125], np.float32)])

    clock = iter(np.arange(100) / 100)  # a tick a look: this process takes a hundredth of a second at most
    monkeypatch.setattr(agreement.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "gathered", gathered)
    stop, asks = interruption.Stop(), agreement.Agreement()
    steps = [asks.due(step == 3, stop, None) for step in range(17)]
    assert [step for step, due in enumerate(steps) if due] == [8, 16]  # by the clock of step 3; by the signal
    assert [value[0] for value in asked] == [0, 1, 0]
    assert stop.number == signal.SIGTERM


TALK = """
import sys
import jax, numpy as np
from gpz_jax import parallel, processes
from gpz_jax.errors import UserError, one_line_errors

@one_line_errors
def main():
    given = sys.argv[1:]
    processes.start(*(given and (given[0], int(given[1]), int(given[2]))))
    me, mesh = processes.index(), parallel.data_mesh()
    assert processes.gathered(np.array([me, 7])).tolist() == [[0, 7], [1, 7]]
    assert processes.texts("ä" * (me + 1) * 300) == ["ä" * 300, "ä" * 600]
    assert processes.told({"from": me}) == {"from": 0}
    assert processes.led(lambda: me + 5) == (5 if me == 0 else None)
    rows = np.arange(24).reshape(8, 3)
    spread, everywhere = parallel.shard(rows, mesh), parallel.replicate(rows, mesh)
    assert not spread.is_fully_addressable and everywhere.is_fully_replicated
    assert spread.addressable_shards[0].data.shape == (8 // mesh.size, 3)
    for array in (spread, everywhere, parallel.replicate(spread, mesh)):
        assert np.array_equal(parallel.fetch(array), rows)
    key = jax.random.key(3)
    assert np.array_equal(jax.random.key_data(parallel.replicate(key, mesh)), jax.random.key_data(key))
    print("said by process", me)

    def work():
        if me == 1:
            raise UserError("no images here; bring some", field="data")

    processes.every(work)

main()
"""


def as_arguments(port, count, i):
    return [f"127.0.0.1:{port}", str(count), str(i)]


def test_two_processes_agree_and_fail_together(tmp_path):
    first, second = several.run(2, "-c", TALK, cwd=tmp_path, together=as_arguments)
    assert first == (2, "said by process 0\n", "gpz: error: process 1: no images here; bring some\n")
    assert second == (2, "", "gpz: error: no images here; bring some\n")


@pytest.mark.cluster
def test_slurm_says_who_belongs_together(tmp_path, monkeypatch):
    job = {"SLURM_JOB_ID": str(several.free_port()), "SLURM_STEP_NODELIST": "127.0.0.1"}
    of = {name: "2" for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS")}

    def together(port, count, i):
        monkeypatch.setattr(several, "ENVIRONMENT", {**job, **of, **tiny_runs.ENVIRONMENT, **own(i)})
        return []

    def own(i):
        return {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}

    first, second = several.run(2, "-c", TALK, cwd=tmp_path, together=together)
    assert first[1:] == ("said by process 0\n", "gpz: error: process 1: no images here; bring some\n")
    assert second[2] == "gpz: error: no images here; bring some\n"


def differences(ours, theirs):
    """The largest differences of what ``together.py`` writes, each relative to the largest number of its kind."""
    found = {"order": max(np.abs(ours[name] - theirs[name]).max() for name in ("seen", "labels"))}
    kinds = {"gradients": "gradient", "radii": "radius", "linear attack": "mse"}
    for kind, begin in kinds.items():
        names = [name for name in ours.files if name.startswith(begin)]
        if names:
            a, b = (np.concatenate([np.ravel(one[name]) for name in names]) for one in (ours, theirs))
            found[kind] = np.linalg.norm(a - b) / np.linalg.norm(a)
    return found


def two_against_one(home, what):
    """Differences of what two processes compute from what this one does."""
    two = several.start(2, f"{several.HERE}/together.py", home / "two.npz", what, cwd=home, together=as_arguments)
    together.main(home / "one.npz", what)
    for status, _, err in several.finished(two):
        assert status == 0, err
    return differences(np.load(home / "one.npz"), np.load(home / "two.npz"))


def test_two_processes_see_the_images_of_one(tmp_path):
    assert two_against_one(tmp_path, "order") == {"order": 0}


@pytest.mark.thorough
def test_two_processes_have_the_numbers_of_one(tmp_path):
    found = two_against_one(tmp_path, "numbers")
    assert found["order"] == 0
    assert found["gradients"] < 1e-6
    assert found["radii"] < 1e-5


# With -m cluster -----------------------------------------------------------------------------------------------------

LAYOUTS = [(1, 1), (1, 8), (2, 1), (2, 4), (4, 1)]
RUN = (*tiny_runs.TINY, "--ls", "0.3", "--run", "run")


def command(count, name, *arguments, cwd, devices=1, start=several.run):
    given = {} if count > 1 else {"together": lambda port, count, i: []}
    return start(count, "-m", f"gpz_jax.{name}", *arguments, cwd=cwd, devices=devices, **given)


def whole(said):
    for status, _, err in said:
        assert status == 0, err
    return said


@pytest.mark.cluster
def test_the_table_of_layouts(tmp_path):
    """Largest differences from one process with one device; printed, for it is what one wants to know."""
    results = {}
    for count, devices in LAYOUTS:
        home = tmp_path / f"{count}x{devices}"
        home.mkdir()
        arguments = (f"{several.HERE}/together.py", home / "found.npz", "linear")
        given = as_arguments if count > 1 else lambda port, count, i: []
        whole(several.run(count, *arguments, cwd=home, devices=devices, together=given))
        said = whole(command(count, "train", *RUN, cwd=home, devices=devices))
        accuracy = float(re.search(r"test accuracy (\d\.\d+)", said[0][2])[1])
        results[f"{count}x{devices}"] = (np.load(home / "found.npz"), accuracy)
    base, accuracy = results["1x1"]
    print("\nprocesses x devices   order  gradients      radii  linear attack  accuracy")
    for name, (found, own) in results.items():
        off = differences(base, found)
        print(
            f"{name:<19} {off['order']:>7.0f} {off['gradients']:>10.1e} {off['radii']:>10.1e} "
            f"{off['linear attack']:>14.1e} {own:>9.4f}"
        )
        assert off["order"] == 0
        assert off["gradients"] < 1e-6
        assert off["radii"] < 1e-5
        assert off["linear attack"] < 1e-5
        assert abs(own - accuracy) < 0.1  # five epochs drift apart by more than rounding: amsgrad on tiny gradients


TRACKED = (*RUN, "--track-every", "1", "--probe-size", "40", "--null-seeds", "0")


@pytest.mark.cluster
@pytest.mark.parametrize("number", range(20))
def test_tracked_training_on_eight_devices_does_not_abort(tmp_path, number):
    ((status, _, err),) = command(1, "train", *TRACKED, cwd=tmp_path, devices=8)
    assert status == 0, err


def wait_for(condition):
    end = time.monotonic() + several.LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


LONG = ("--size", "16", "--width", "4", "--epochs", "6", "--null-seeds", "0", "--ls", "0.3", "--run", "run")


def has_epoch(folder, epoch):
    file = folder / "run" / "metrics.jsonl"
    return file.exists() and file.read_bytes().count(b"\n") >= epoch


@pytest.mark.cluster
@pytest.mark.parametrize("killed", [0, 1])
def test_where_one_is_killed_the_other_ends_with_one_line_and_the_run_goes_on(tmp_path, killed):
    started = command(2, "train", *LONG, cwd=tmp_path, start=several.start)
    wait_for(lambda: has_epoch(tmp_path, 2))
    started[killed].kill()
    begin = time.monotonic()
    said = several.finished(started)
    print(f"the other ended {time.monotonic() - begin:.1f} s after the kill")
    status, _, err = said[1 - killed]
    assert status == 2
    last = err.splitlines()[-1]
    assert last.startswith(f"gpz: error: process {killed}")
    assert "is gone" in last
    assert sum("error" in line for line in err.splitlines()) == 1
    whole(command(1, "train", "--run", "run", "--resume", cwd=tmp_path))
    assert has_epoch(tmp_path, 6)


@pytest.mark.cluster
@pytest.mark.parametrize("resumed", [1, 4])
def test_sigterm_to_one_saves_all_and_any_number_goes_on(tmp_path, resumed):
    started = command(2, "train", *LONG, cwd=tmp_path, start=several.start)
    wait_for(lambda: has_epoch(tmp_path, 2))
    started[1].send_signal(signal.SIGTERM)
    for status, _, err in several.finished(started):
        assert status == 143, err
        assert "is saved, --resume continues there" in err
    whole(command(resumed, "train", "--run", "run", "--resume", cwd=tmp_path))
    assert has_epoch(tmp_path, 6)


@pytest.mark.cluster
def test_every_command_on_two_processes(tmp_path):
    whole(command(2, "train", *TRACKED, cwd=tmp_path))
    whole(command(2, "probe", "run", "--null-seeds", "2", "--bootstrap", "50", cwd=tmp_path))
    few = ("--epochs", "2", "--likelihood-images", "8", "--steps", "5")
    whole(command(2, "attack", "run", "--cut", "block_4", "--ladder", *few, cwd=tmp_path))
    for name in ("vortex", "cuts", "report"):
        done = tiny_runs.command(name, "run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.mark.cluster
def test_images_are_the_same_wherever_they_lie(tmp_path):
    digits = load("digits")
    fields = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(tmp_path / "some.npz", **{field: getattr(digits, field) for field in fields})
    metrics = {}
    for placement in ("device", "sharded", "stream"):
        flags = (*tiny_runs.TINY, "--ls", "0.3", "--data", "some", "--data-dir", ".", "--images", placement)
        whole(command(2, "train", *flags, "--run", placement, cwd=tmp_path, devices=2))
        metrics[placement] = (tmp_path / placement / "metrics.jsonl").read_bytes()
    assert metrics["device"] == metrics["sharded"] == metrics["stream"]


@pytest.mark.cluster
def test_a_sweep_on_two_processes(tmp_path):
    flags = ("--size", "16", "--width", "4", "--epochs", "2", "--seeds", "0", "--seeds", "1", "--run", "sweep")
    whole(command(2, "train", *flags, cwd=tmp_path))


@pytest.mark.cluster
def test_processes_that_were_given_other_settings(tmp_path):
    given = lambda port, count, i: [*several.as_flags(port, count, i), "--ls", str(0.1 * i)]  # noqa: E731
    said = several.run(2, "-m", "gpz_jax.train", *RUN[:-4], "--run", "run", cwd=tmp_path, together=given)
    for status, _, err in said:
        assert status == 2
        assert "was given other settings than process 0: --ls 0.1 (process 0: 0.0)" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.cluster
@pytest.mark.parametrize(("process", "line"), [(1, "process 0 could not be reached at"), (0, "not all of 2 processes")])
def test_processes_that_do_not_come(tmp_path, process, line):
    port = several.free_port()
    flags = several.as_flags(port, 2, process)
    (said,) = several.run(1, "-m", "gpz_jax.train", *RUN, cwd=tmp_path, together=lambda *given: flags)
    assert said[0] == 2
    assert len(said[2].splitlines()) == 1
    assert said[2].startswith(f"gpz: error: {line}")
    assert f"127.0.0.1:{port} within 60 s" in said[2]
    assert not (tmp_path / "run").exists()
