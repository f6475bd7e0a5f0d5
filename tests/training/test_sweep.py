"""The runs of a sweep are those that they would be alone, and their folder is one that can be gone on with."""

import dataclasses
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
import same_runs
import tiny_runs
import xarray as xr

from gpz_jax import parallel, runs, workflow
from gpz_jax.config import Config, DataConfig, ModelConfig, TrackConfig, TrainingConfig, resolve
from gpz_jax.data.batches import epoch_order
from gpz_jax.data.flat_rows import FlatRows
from gpz_jax.data.sources import load
from gpz_jax.data.splits import Split, balanced_subset, make_splits
from gpz_jax.errors import UserError
from gpz_jax.train import main
from gpz_jax.training import classifier, ledger, sweep
from gpz_jax.training.placements import pool


@pytest.fixture(autouse=True, scope="module")
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        yield


@pytest.fixture(autouse=True, scope="module")
def no_figures():
    """A second a run, and tested elsewhere; the command below, a process of its own, draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpz_jax.reporting.figures.training_figure", lambda record, file: None)
        yield


# Two alphas of different warm-ups (LS- begins one-hot), two seeds, two epochs of seven steps.
ALPHAS, SEEDS, EPOCHS, STEPS = (0.3, -0.05), (1, 4), 2, 7
MEMBERS = [(alpha, seed) for alpha in ALPHAS for seed in SEEDS]
CONFIG = Config(
    data=DataConfig(size=16),
    model=ModelConfig(width=4, dtype="float32"),
    training=TrainingConfig(epochs=EPOCHS),
    track=TrackConfig(track_every=4, probe_size=40, ledger="feature"),
)
#: The same, but for the ledger, on a command line.
FLAGS = ("--size", "16", "--width", "4", "--epochs", "2")


def member_config(alpha, seed):
    training = dataclasses.replace(CONFIG.training, ls=alpha)
    return resolve(dataclasses.replace(CONFIG, training=training, seed=seed))


def name_of(alpha, seed):
    return f"ls{alpha:g}-seed{seed}"


def train(folder, how, config=CONFIG, resume=False):
    return workflow.train_sweep(
        config, seeds=SEEDS, alphas=ALPHAS, how=how, folder=str(folder), resume=resume
    ).folder  # fmt: skip


@pytest.fixture(scope="module")
def separate(tmp_path_factory):
    """The members as runs of their own."""
    home = tmp_path_factory.mktemp("separate")
    for member in MEMBERS:
        workflow.train_run(member_config(*member), folder=str(home / name_of(*member)))
    return home


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What ``how`` gives uninterrupted; trained when first asked for, not to be changed."""
    made = {}

    def of(how):
        if how not in made:
            made[how] = train(tmp_path_factory.mktemp(how) / "all", how)
        return made[how]

    return of


def assert_same_run(a, b):
    """Bit for bit: state, metrics, both records, the settings and which checkpoints are kept."""
    same_runs.assert_same_run(a, b)
    assert json.loads((a / "config.json").read_text()) == json.loads((b / "config.json").read_text())
    kept = [runs.saved_epochs(folder / "checkpoints") for folder in (a, b)]
    assert kept[0] == kept[1]


def assert_same_members(a, b):
    for member in MEMBERS:
        assert_same_run(a / name_of(*member), b / name_of(*member))
    for group in ("epochs", "steps"):
        with xr.open_zarr(a / "dynamics.zarr" / group) as x, xr.open_zarr(b / "dynamics.zarr" / group) as y:
            xr.testing.assert_identical(x.load(), y.load())


# Equal to the separate runs ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_in_a_loop_every_member_is_its_separate_run_bit_for_bit(separate, whole):
    for member in MEMBERS:
        assert_same_run(separate / name_of(*member), whole("loop") / name_of(*member))


def is_noise(name):
    """Leaves that rounding alone decides.

    A bias before a batch norm has gradient 0, which Adam turns into steps of lr by the sign of its rounding; the batch
    norm takes it out again with its mean, of which it keeps the running one.
    """
    return ("conv" in name and "bias" in name) or ("norm" in name and "mean" in name)


@pytest.mark.slow
def test_vmapped_every_member_is_its_separate_run_up_to_rounding(separate, whole):
    # Not to be had bit for bit: a grouped convolution sums in another order, and Adam makes steps of the size of lr of
    # differences in entries with next to no gradient. What 14 steps make of it is bounded here; that a step is right is
    # the next test's. Validation is in evaluation mode, where the noise of the biases shows: it is not compared.
    compared = 0
    for member in MEMBERS:
        ours, theirs = (same_runs.latest(home / name_of(*member)).state for home in (whole("vmap"), separate))
        for (path, x), y in zip(
            jax.tree.leaves_with_path((ours.params, ours.batch_stats)),
            jax.tree.leaves((theirs.params, theirs.batch_stats)),
            strict=True,
        ):
            name = jax.tree_util.keystr(path)
            if not is_noise(name):
                np.testing.assert_allclose(x, y, atol=0.1 * np.abs(y).max(), rtol=0, err_msg=f"{member} {name}")
                compared += 1
        lines = [runs.read_metrics(runs.open_run(home / name_of(*member))) for home in (whole("vmap"), separate)]
        for x, y in zip(*lines, strict=True):
            assert x["epoch"] == y["epoch"]
            assert x["alpha"] == y["alpha"]
            np.testing.assert_allclose(x["train_loss"], y["train_loss"], rtol=1e-3)
            np.testing.assert_allclose(x["gradient_norm"], y["gradient_norm"], rtol=2e-2)
        # The first row of the ledger lies before any step, but for what that step does to the noise.
        x, y = (runs.read_steps(home / name_of(*member)).isel(step=0) for home in (whole("vmap"), separate))
        names = set(x) - {"realised"}
        assert_same_row({name: x[name].values for name in names}, {name: y[name].values for name in names})
    assert compared == 4 * (4 + 2 * 4 + 4 + 4)  # kernels of convolutions, scales and shifts, the head, variances


def assert_same_row(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        y = np.asarray(theirs[name])
        # Of a term's largest entry: small ones are differences of large ones, and z of a fresh network hardly differs.
        np.testing.assert_allclose(x, y, atol=5e-3 * np.abs(y).max(initial=0), rtol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def stepper():
    """Everything that a step of all members needs; states on the way of the loop."""
    configs = [member_config(*member) for member in MEMBERS]
    recipe, mesh, source = classifier.recipe_for(configs[0], 10, 1), parallel.data_mesh(), load("digits")
    dealt = {seed: make_splits(source, seed=seed) for seed in SEEDS}
    parts = [dealt[seed].train for _, seed in MEMBERS]
    pooled, labels, places = pool(parts)
    images = FlatRows(pooled.rows(np.arange(len(pooled))), pooled.shape)
    images, labels, places = parallel.replicate((images, labels, places), mesh)
    keys = [classifier.keys_of(config.seed)[1] for config in configs]
    orders = [own[epoch_order(jax.random.key(i), 0, len(own))] for i, own in enumerate(places)]
    alphas = [jnp.float32(alpha) for alpha, _ in MEMBERS]
    states = [classifier.init_state(jax.random.key(config.seed), recipe, 1) for config in configs]
    carry = parallel.replicate([(state, classifier.Totals.zero()) for state in states], mesh)

    def batch(index, how):
        packed = [sweep.pack(values, how) for values in (orders, alphas, keys)]
        return images, labels, packed[0], jnp.int32(index), packed[1], packed[2]

    def step(carry, index, how):
        carry = parallel.replicate(sweep.pack(jax.tree.map(jnp.copy, carry), how), mesh)
        moved = sweep.STEP[how](carry, *batch(index, how), recipe=recipe, mesh=mesh, how=how)
        return sweep.unpack(moved, how)

    return carry, batch, step, recipe, mesh, parts


@pytest.mark.slow
def test_a_vmapped_step_from_the_same_states_is_the_same_step(stepper):
    carry, _, step, *_ = stepper
    for index in range(5):
        looped, vmapped = step(carry, index, "loop"), step(carry, index, "vmap")
        for (before, _), (ours, our_totals), (theirs, their_totals) in zip(carry, vmapped, looped, strict=True):
            # The gradient, read out of Adam's first moment: mu' = b1 mu + (1 - b1) g, b1 = 0.5.
            gradients = [
                jax.tree.map(lambda new, old: 2 * new - old, state.optimiser[0].mu, before.optimiser[0].mu)
                for state in (ours, theirs)
            ]
            norm = float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradients[1]))))
            for (path, x), y in zip(
                jax.tree.leaves_with_path(gradients[0]), jax.tree.leaves(gradients[1]), strict=True
            ):
                np.testing.assert_allclose(x, y, atol=1e-5 * norm, rtol=0, err_msg=jax.tree_util.keystr(path))
            for x, y in zip(our_totals, their_totals, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-5)
            for x, y in zip(jax.tree.leaves(ours.batch_stats), jax.tree.leaves(theirs.batch_stats), strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
            assert ours.step == theirs.step == index + 1
        carry = looped


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_vmapped_row_of_the_ledger_is_the_same_row(stepper, full):
    carry, batch, step, recipe, mesh, parts = stepper
    before = step(step(carry, 0, "loop"), 1, "loop")
    after = step(before, 2, "loop")
    network = classifier.network_for(recipe, 1)
    tracked = ledger.Tracked(network, recipe, full, ("fc",))
    probes = [parallel.shard(balanced_subset(part, 40, seed=i).take(), mesh) for i, part in enumerate(parts)]
    rows = {}
    for how in ("loop", "vmap"):
        states = sweep.pack([state._replace(optimiser=()) for state, _ in before], how)
        given = (states, batch(2, how), sweep.pack(after, how), sweep.pack(probes, how))
        rows[how] = sweep.ROWS[how](*given, tracked=tracked, mesh=mesh, how=how)
    assert len(rows["vmap"]) == len(rows["loop"]) == len(MEMBERS)
    for ours, theirs in zip(rows["vmap"], rows["loop"], strict=True):
        assert_same_row(jax.device_get(ours), jax.device_get(theirs))
    assert not np.array_equal(rows["vmap"][0]["radius"], rows["vmap"][1]["radius"])


def test_on_accelerators_members_are_vmapped_and_on_cpus_looped(monkeypatch):
    assert sweep.how_to("auto") == "loop"
    assert (sweep.how_to("vmap"), sweep.how_to("loop")) == ("vmap", "loop")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert sweep.how_to("auto") == "vmap"


def test_members_share_one_copy_of_the_images_where_they_can():
    images, labels = np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1), np.arange(6, dtype=np.int32)
    mine, yours = np.array([4, 1], np.int32), np.array([0, 2, 3], np.int32)
    other = Split(images[::-1].copy(), labels[::-1].copy(), yours)
    parts = [Split(images, labels, mine), Split(images, labels, yours), other]
    pooled, classes, places = pool(parts)
    assert len(pooled) == 5 + 3  # of two arrays what is used
    for part, own in zip(parts, places, strict=True):
        np.testing.assert_array_equal(pooled.rows(own), part.take()[0].reshape(len(part), -1))
        np.testing.assert_array_equal(classes[own], part.take()[1])


# The record of all ---------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["loop", pytest.param("vmap", marks=pytest.mark.slow)])
def test_the_record_of_all_holds_every_members(whole, how):
    home = whole(how)
    with (
        xr.open_zarr(home / "dynamics.zarr" / "epochs") as all_epochs,
        xr.open_zarr(home / "dynamics.zarr" / "steps") as all_steps,
    ):
        assert all_epochs.radius.dims == ("alpha", "seed", "epoch", "cut", "class")
        assert all_steps.feature_wrong.dims == ("alpha", "seed", "step", "cut", "class")
        assert all_steps.step.values.tolist() == list(range(0, EPOCHS * STEPS, 4))
        for record in (all_epochs, all_steps):
            assert record.alpha.values.tolist() == list(ALPHAS)
            assert record.seed.values.tolist() == list(SEEDS)
        for alpha, seed in MEMBERS:
            own = home / name_of(alpha, seed)
            with xr.open_zarr(own / "dynamics.zarr" / "epochs") as epochs:
                pairs = [(all_epochs, epochs.load()), (all_steps, runs.read_steps(own))]
            for record, theirs in pairs:
                found = record.sel(alpha=alpha, seed=seed).load().drop_vars(["alpha", "seed"])
                xr.testing.assert_equal(found.rename(smoothing="alpha"), theirs)
        assert all_steps.feature_wrong.attrs["units"] == "squared units of z"
        assert all_epochs.smoothing.sel(alpha=-0.05, seed=4).values.tolist() == [0.0, -0.05]


@pytest.mark.thorough
def test_the_record_of_all_opens_as_one_tree(whole):
    with xr.open_datatree(whole("loop") / "dynamics.zarr", engine="zarr", consolidated=False) as tree:
        assert {"epochs", "steps"} <= set(tree.children)


@pytest.mark.thorough
def test_members_are_ordinary_runs(whole):
    loaded = workflow.load_run(str(whole("loop") / "ls0.3-seed4"))
    assert loaded.run.config.training.ls == 0.3
    assert workflow.report_accuracy(loaded) > 0.1


# Resuming ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of what ``how`` gave, to be damaged."""
    return lambda how: shutil.copytree(whole(how), tmp_path / how)


def forget(member, *epochs):
    for epoch in epochs:
        shutil.rmtree(member / "checkpoints" / str(epoch), ignore_errors=True)


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["loop", pytest.param("vmap", marks=pytest.mark.slow)])
def test_killed_between_the_saves_of_two_members_and_resumed_is_the_uninterrupted_one(whole, copy, how, capsys):
    home = copy(how)
    for alpha, seed in MEMBERS[1:3]:  # their last epoch is in metrics.jsonl and the ledger, but not saved
        forget(home / name_of(alpha, seed), EPOCHS)
    shutil.rmtree(home / "dynamics.zarr")
    train(home, how, resume=True)
    assert f"continuing after epoch {EPOCHS - 1} of {EPOCHS}" in capsys.readouterr().err
    assert_same_members(home, whole(how))


@pytest.mark.slow
def test_killed_in_the_first_epoch_begins_again(whole, copy):
    home = copy("loop")
    for member in MEMBERS:
        forget(home / name_of(*member), *([1, 2] if member == MEMBERS[1] else [2]))
    saved = [runs.saved_epochs(home / name_of(*member) / "checkpoints") for member in MEMBERS]
    assert saved == [[1], [], [1], [1]]
    train(home, "loop", resume=True)
    assert_same_members(home, whole("loop"))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_said_with_its_member(whole, copy, capsys):
    home = copy("loop")
    newest = home / "ls0.3-seed4" / "checkpoints" / str(EPOCHS)
    max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size).write_bytes(b"")
    train(home, "loop", resume=True)
    assert f"ls0.3-seed4: the checkpoint of epoch {EPOCHS} (damaged, " in capsys.readouterr().err
    assert_same_members(home, whole("loop"))


@pytest.mark.thorough
def test_resuming_what_is_finished_changes_nothing(whole, copy):
    home = copy("loop")
    before = tiny_runs.snapshot(home)
    train(home, "loop", resume=True)
    after = tiny_runs.snapshot(home)
    kept = [name for name in before if "checkpoints" in name or name.endswith(("metrics.jsonl", "config.json"))]
    assert len(kept) > 80
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert_same_members(home, whole("loop"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "epochs", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_killed_and_resumed_by_the_command(tmp_path, epochs):
    flags = (*FLAGS[:4], "--epochs", "5", "--seeds", "0", "--seeds", "1", "--track-every", "5", "--ledger", "feature")
    argv = [sys.executable, "-m", "gpz_jax.train", *flags, "--run"]
    killed = subprocess.Popen([*argv, str(tmp_path / "killed")], env=tiny_runs.ENVIRONMENT)
    metrics, deadline = tmp_path / "killed" / "ls0-seed0" / "metrics.jsonl", time.monotonic() + 200
    while killed.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= epochs:
            break
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    main([*flags, "--run", str(tmp_path / "killed"), "--resume"])
    main([*flags, "--run", str(tmp_path / "whole")])
    for name in ("ls0-seed0", "ls0-seed1"):
        assert_same_run(tmp_path / "killed" / name, tmp_path / "whole" / name)


@pytest.mark.thorough
def test_a_sweep_goes_on_with_what_each_alpha_worked_out_for_itself(separate):
    """LS- warms up and LS+ does not: the settings of the first run must not become everyone's."""
    begun = workflow.begun(str(separate))
    assert (begun.seeds, begun.alphas) == (SEEDS, tuple(sorted(ALPHAS)))
    for alpha, seed in MEMBERS:
        training = dataclasses.replace(begun.config.training, ls=alpha)
        asked = resolve(dataclasses.replace(begun.config, training=training, seed=seed))
        assert asked == runs.open_run(separate / name_of(alpha, seed)).config


# Refusals ------------------------------------------------------------------------------------------------------------


def refused(capsys, *flags):
    return tiny_runs.refused(capsys, main, *FLAGS, *flags)


@pytest.fixture
def no_training(monkeypatch):
    """What is refused is refused before anything is trained."""
    monkeypatch.setattr("gpz_jax.training.sweep.fit", lambda *args, **kwargs: pytest.fail("it trained"))


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seeds", "1", "--seeds", "0", "--seeds", "1"], "--seeds 1 is given twice; every run is trained once"),
        (["--alphas", "0", "--alphas=-0.0"], "--alphas 0 is given twice; every run is trained once"),
        (["--seeds", "-1"], "--seed must be at least 0, got -1"),
        (["--seeds", "0", "--alphas", "1.5"], "--ls must be a finite number below 1, got 1.5"),
        (["--seeds", "many"], "many"),
        (["--seeds", "0", "--batch-size", "1024"], "--batch-size 1024 is larger than the training split (936 images)"),
        (["--seeds", "0", "--track-every", "1", "--probe-size", "19"], "--probe-size 19 is too small for 10 classes"),
        (["--seeds", "0", "--rule", "nul"], "unknown rule 'nul'; did you mean 'null'?"),
        (["--seeds", "0", "--from-torch", "x.pth"], "--from-torch takes weights as they are: there is nothing for"),
        (["--sweep", "vmap"], "--sweep vmap needs several runs to train: give --seeds or --alphas"),
        (["--seeds", "0", "--sweep", "vamp"], "vamp"),
    ],
)
def test_refused_before_a_folder_is_made(capsys, tmp_path, flags, said):
    assert said in refused(capsys, *flags, "--run", tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.usefixtures("no_training")
def test_seeds_that_groups_give_different_numbers_of_images(capsys, tmp_path):
    data = tiny_runs.arrays()
    labels = data["train_labels"]
    groups = np.zeros(len(labels), np.int32)  # in every class one of 40 images, the rest of 9
    for c in range(10):
        of_class = np.flatnonzero(labels == c)
        groups[of_class] = 100 * c + np.maximum(np.arange(len(of_class)) - 31, 0) // 9
    np.savez(
        tmp_path / "grouped.npz", **data, train_group=groups, test_group=1000 + np.arange(len(data["test_labels"]))
    )
    sizes = {}
    for seed in range(2):
        config = DataConfig(data="grouped", data_dir=str(tmp_path), aux="held-out")
        sizes[seed] = len(workflow.load_data(config, seed)[0].train)
    assert sizes[0] != sizes[1]
    flags = ("--data", "grouped", "--data-dir", tmp_path, "--seeds", "0", "--seeds", "1", "--run", tmp_path / "r")
    assert refused(capsys, *flags).startswith(
        f"the training split has not the same number of images for all seeds (seed 0: {sizes[0]}, seed 1: {sizes[1]})"
    )
    assert not (tmp_path / "r").exists()


@pytest.mark.thorough
def test_folders_that_hold_something_else(capsys, copy, request):
    home = copy("loop")
    request.getfixturevalue("no_training")  # from here on
    two = ("--seeds", "1", "--seeds", "4")
    flags = (*two, "--alphas", "0.3", "--alphas", "-0.05")
    track = ("--track-every", "4", "--probe-size", "40", "--ledger", "feature")
    before = tiny_runs.snapshot(home)
    for asked, said in [
        ((*flags, *track), f"{home} is not empty; continue what it holds with --resume or choose another with --run"),
        (
            ("--seeds", "1", *track, "--resume"),
            f"{home} also holds ls-0.05-seed4, ls0.3-seed4; give all of its --seeds",
        ),
        ((*flags, "--track-every", "2", "--resume"), "holds a run of another configuration: track-every 4 (not 2)"),
        (
            (*flags, "--seeds", "5", *track, "--resume"),
            "ls0.3-seed5 has no checkpoint, ls0.3-seed1 one of epoch 2: they cannot go on together; train what is new",
        ),
    ]:
        assert said in refused(capsys, *asked, "--run", home)
    assert tiny_runs.snapshot(home) == before
    single = home / name_of(*MEMBERS[0])  # as it would be alone
    assert "is the folder of a single run" in refused(capsys, *two, "--run", single, "--resume")
    assert "is not empty" in refused(capsys, *two, "--run", single)


@pytest.mark.thorough
@pytest.mark.usefixtures("no_training")
def test_members_without_an_epoch_in_common(capsys, copy):
    home = copy("loop")
    forget(home / "ls0.3-seed1", 1)
    forget(home / "ls0.3-seed4", 2)
    with pytest.raises(UserError, match=r"there is no epoch of which all runs have a checkpoint .*ls0.3-seed1: "):
        train(home, "loop", resume=True)


@pytest.mark.thorough
def test_one_loss_that_is_not_finite_stops_all_and_is_named(capsys, tmp_path):
    flags = ("--seeds", "4", "--alphas", "0.3", "--alphas=-1e30", "--run", tmp_path / "r")
    said = refused(capsys, *flags)
    assert said.startswith(
        "seed 4, alpha -1e+30: the loss is not finite at step 7 (epoch 2, alpha -1e+30, learning rate 0.01)"
    )
    for name in ("ls0.3-seed4", "ls-1e+30-seed4"):  # the others have not gone on without it
        assert runs.saved_epochs(tmp_path / "r" / name / "checkpoints") == [1]
        assert len(runs.read_metrics(runs.open_run(tmp_path / "r" / name))) == 1


# The command ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command(tmp_path):
    flags = (*FLAGS[:4], "--epochs", "1", "--seeds", "0", "--seeds", "3", "--alphas", "0.3", "--alphas", "-0.05")
    flags = (*flags, "--warmup-epochs", "0")
    said = tiny_runs.command("train", *flags, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    home = tmp_path / "runs" / "digits-cnn4-sweep"
    names = ["ls-0.05-seed0", "ls-0.05-seed3", "ls0.3-seed0", "ls0.3-seed3"]
    assert sorted(path.name for path in home.iterdir()) == ["dynamics.zarr", *names, "owner.lock"]
    assert (home / "ls0.3-seed3" / "figures" / "training.png").stat().st_size > 1000
    assert not (home / "dynamics.zarr" / "steps").exists()
    assert "gpz: 4 run folders in runs/digits-cnn4-sweep\n" in said.stderr
    assert re.search(
        r"^gpz: epoch 1/1  loss [\d.]+ to [\d.]+  validation accuracy [\d.]+ to [\d.]+  R_c", said.stderr, re.M
    )
    assert "python -m gpz_jax.probe runs/digits-cnn4-sweep/ls0.3-seed0" in said.stderr
    rows = [line.strip("│ ").split("│") for line in said.stdout.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row[:3]] for row in rows] == [
        ["0.3", "0", "1"], ["0.3", "3", "1"], ["-0.05", "0", "1"], ["-0.05", "3", "1"],
    ]  # fmt: skip
    assert all(0 <= float(row[3]) <= 1 and float(row[4]) > 0 and 0 < float(row[5]) < 1 for row in rows)
