"""The ledger of a real run: every step once, the terms add up, and training does not know that it is watched."""

import json
import re
import shutil

import jax
import numpy as np
import optax
import pytest
import tiny_runs
import xarray as xr
from jax.sharding import AxisType
from tiny_runs import CUTS, SHARED

from gpz_jax import parallel, runs, workflow
from gpz_jax.config import Config, DataConfig, ModelConfig, TrackConfig, TrainingConfig, resolve
from gpz_jax.data.batches import epoch_order
from gpz_jax.data.splits import balanced_subset
from gpz_jax.runs.steps import PARAMETER_TERMS, VARIABLES, read_steps
from gpz_jax.train import main
from gpz_jax.training import classifier, ledger, sweep
from gpz_jax.workflow.common import abstract_state

STEPS = 7  # of an epoch: 936 images in batches of 128
DIMENSIONS = (256, 128, 64, 32, 50, 10)


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        yield


def config(*, track=None, data=None, **training):
    return Config(
        data=DataConfig(size=16, **(data or {})),
        model=ModelConfig(width=4),
        training=TrainingConfig(**{"ls": 0.3, "epochs": 2, **training}),
        track=TrackConfig(**{"track_every": 1, "probe_size": 40, **(track or {})}),
    )


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run of the command with its every step in the ledger; not to be changed."""
    folder = tmp_path_factory.mktemp("tracked") / "run"
    done = tiny_runs.trained(folder, "tracked")
    assert all(line.startswith("gpz: ") for line in done.stderr.splitlines()), done.stderr
    return folder


@pytest.fixture(scope="module")
def steps(tracked):
    return read_steps(tracked)


@pytest.fixture(scope="module")
def loaded(tracked):
    with jax.numpy_dtype_promotion("standard"):
        return workflow.load_run(str(tracked))


def state_after(folder, epoch, tmp_path):
    """The checkpointed state after an epoch."""
    copy = shutil.copytree(folder, tmp_path / f"until {epoch}")
    for checkpoint in (copy / "checkpoints").iterdir():
        if int(checkpoint.name) > epoch:
            shutil.rmtree(checkpoint)
    run = runs.open_run(copy)
    recipe = classifier.recipe_for(resolve(run.config), run.num_classes, run.channels)
    loaded = runs.Checkpoints(run).latest(abstract_state(recipe, run.channels, parallel.data_mesh()))
    assert loaded.epoch == epoch
    return loaded.state


def class_radii(z, labels):
    """R_c² by its definition, in float64, ``(K,)``."""
    z = np.asarray(z, np.float64).reshape(len(z), -1)
    return np.array([np.mean(np.sum((z[labels == c] - z[labels == c].mean(0)) ** 2, axis=1)) for c in range(10)])


def assert_interference_holds_the_feature_terms(steps):
    for i, cut in enumerate(steps.interference_cut.values):
        pulls, at = steps.interference.isel(interference_cut=i).values, steps.sel(cut=cut)
        own = np.diagonal(pulls, axis1=1, axis2=2)
        # Step by step: in the first ones all z of a class are nearly the same, and the terms small beside z·g.
        scale = np.abs(pulls).sum(axis=2)
        assert np.max(np.abs(at.feature_correct.values - own) / scale) < 1e-3
        assert np.max(np.abs(at.feature_wrong.values - (pulls.sum(axis=2) - own)) / scale) < 1e-3


# What is in it -------------------------------------------------------------------------------------------------------


def test_every_step_is_there_once(steps):
    assert steps.step.values.tolist() == list(range(2 * STEPS))
    assert steps.epoch.values.tolist() == [1] * STEPS + [2] * STEPS
    assert dict(steps.sizes) == {"step": 14, "cut": 6, "class": 10, "output": 10, "interference_cut": 1}
    assert steps.cut.values.tolist() == list(CUTS)
    assert steps.dimension.values.tolist() == list(DIMENSIONS)
    assert steps.interference_cut.values.tolist() == ["fc"]  # the last before the logits
    assert steps["count"].values.tolist() == [4] * 10
    assert steps.attrs == {"schema_version": 2, "images": 40, "split": "train", "track_every": 1, "ls": 0.3, "seed": 0}
    assert set(steps.data_vars) == set(VARIABLES)
    for name, about in VARIABLES.items():
        assert steps[name].dims == ("step", *about.dims)
        assert np.isfinite(steps[name]).all(), name
        if name not in ("alpha", "step_size", "past_flip"):  # none of the outputs is past the flip as yet
            assert np.unique(steps[name]).size > 1, name


def test_xarray_opens_both_groups(tracked, steps):
    with xr.open_datatree(tracked / "dynamics.zarr", engine="zarr", consolidated=False) as tree:
        assert set(tree.children) == {"epochs", "steps"}
        assert dict(tree["epochs"].sizes) == {"epoch": 2, "cut": 6, "class": 10}
        assert dict(tree["steps"].sizes) == dict(steps.sizes)
        np.testing.assert_array_equal(tree["steps"].radius, steps.radius)
        lines = [json.loads(line) for line in (tracked / "metrics.jsonl").read_text().splitlines()]
        assert tree["epochs"].train_loss.values.tolist() == [line["train_loss"] for line in lines]


def test_the_parts_add_up_to_what_happened(steps):
    scale = np.abs(steps.optimiser) + np.abs(steps.statistics) + np.abs(steps.residual)
    gap = steps.realised - (steps.optimiser + steps.statistics + steps.residual)
    assert float(np.max(np.abs(gap) / scale)) < 1e-6


def test_the_radius_of_the_next_step_is_this_one_plus_what_happened(steps):
    radius, realised = steps.radius.values, steps.realised.values
    error = np.abs(radius[1:] - (radius[:-1] + realised[:-1])) / radius[1:]
    assert np.max(np.abs(realised) / radius) > 0.5  # much happens
    # The radii of the first logits are 1e-5 of what goes into them: that is their rounding.
    assert error.max() < 1e-3
    assert np.median(error) < 2e-6
    assert error[:, :4].max() < 5e-5


def test_interference_holds_the_feature_terms(steps):
    """Its diagonal is what the own logit does at that cut, and the rest of a row is what the others do."""
    assert_interference_holds_the_feature_terms(steps)


@pytest.mark.thorough
def test_readings_are_those_of_the_checkpoint_between_the_epochs(tracked, steps, loaded, tmp_path):
    """Step 7 begins where epoch 1 ended; all of it is computed again, in float64, from checkpoint and images."""
    state = state_after(tracked, 1, tmp_path)
    images, labels = balanced_subset(loaded.splits.train, 40, seed=0).take()
    logits, taps = loaded.network(state.variables, images)
    at = steps.sel(step=STEPS)
    for cut in CUTS:
        radius, z = class_radii(taps[cut], labels), np.asarray(taps[cut], np.float64).reshape(40, -1)
        np.testing.assert_allclose(at.radius.sel(cut=cut), radius, rtol=1e-3)
        np.testing.assert_allclose(at.within.sel(cut=cut), radius.mean(), rtol=1e-3)
        np.testing.assert_allclose(at.rho.sel(cut=cut), radius.mean() / z.var(axis=0).sum(), rtol=1e-3)
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    p, q = np.exp(log_p), np.where(np.eye(10, dtype=bool)[labels], 0.7, 0.3 / 9)
    own = p[np.arange(40), labels]
    expected = {
        "coefficient": own - 0.7,
        "past_flip": own > 0.7,
        "output_entropy": -(p * log_p).sum(axis=1),
        "accuracy": logits.argmax(axis=1) == labels,
        "loss": -(q * log_p).sum(axis=1),
    }
    for name, of_images in expected.items():
        means = [of_images[labels == c].mean() for c in range(10)]
        np.testing.assert_allclose(at[name], means, rtol=1e-4, atol=1e-6, err_msg=name)


def test_what_happened_in_an_epoch_is_what_its_checkpoints_say(tracked, steps, loaded, tmp_path):
    images, labels = balanced_subset(loaded.splits.train, 40, seed=0).take()
    before, after = (loaded.network(state_after(tracked, n, tmp_path).variables, images)[1] for n in (1, 2))
    happened = steps.realised.sel(step=slice(STEPS, None)).sum("step")
    for cut in CUTS:
        old, new = class_radii(before[cut], labels), class_radii(after[cut], labels)
        np.testing.assert_allclose(happened.sel(cut=cut), new - old, rtol=1e-3, atol=1e-4 * np.abs(new - old).max())


@pytest.mark.slow
def test_step_size_and_alpha_are_those_of_the_epoch(tmp_path):
    # The rate is a traced number, and so is alpha: the compiled row is that of every other run here.
    changed = config(ls=-0.05, epochs=3, warmup_epochs=1, track={"track_every": 2})
    folder = workflow.train_run(changed, folder=str(tmp_path / "run")).folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["alpha"] for line in lines] == [0.0, -0.05, -0.05]
    found = read_steps(folder)
    assert found.step.values.tolist() == list(range(0, 3 * STEPS, 2))
    assert found.epoch.values.tolist() == [1 + step // STEPS for step in found.step.values]
    for name, key in (("alpha", "alpha"), ("step_size", "lr")):
        expected = [lines[int(epoch) - 1][key] for epoch in found.epoch.values]
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)


# Training does not know ----------------------------------------------------------------------------------------------


def test_tracking_changes_nothing(tracked, tmp_path):
    untracked = tmp_path / "untracked"
    workflow.train_run(config(track={"track_every": None}), folder=str(untracked))
    assert (untracked / "metrics.jsonl").read_bytes() == (tracked / "metrics.jsonl").read_bytes()
    for epoch in (1, 2):
        one, other = (state_after(folder, epoch, tmp_path / folder.name) for folder in (untracked, tracked))
        assert len(jax.tree.leaves(one.params)) == 20
        for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    epochs = [xr.open_zarr(f / "dynamics.zarr/epochs", consolidated=False) for f in (untracked, tracked)]
    with epochs[0] as a, epochs[1] as b:
        xr.testing.assert_identical(a.load(), b.load())
    assert not runs.steps_folder(untracked).exists()


@pytest.mark.slow
def test_rows_are_the_same_in_whatever_pieces_they_are_written(steps, tmp_path, monkeypatch):
    pieces, honest = [], runs.StepRecord.append
    monkeypatch.setattr(runs, "CHUNK", 4)
    monkeypatch.setattr(
        runs.StepRecord,
        "append",
        lambda record, rows: (pieces.append(rows["step"].tolist()), honest(record, rows)),
    )
    folder = workflow.train_run(config(), folder=str(tmp_path / "run")).folder
    assert pieces == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9, 10], [11, 12, 13]]  # full, or an epoch at its end
    xr.testing.assert_identical(read_steps(folder), steps)


# What is asked for ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_third_step_from_a_recipe(steps, tmp_path):
    (tmp_path / "recipe.toml").write_text(
        "[data]\nsize = 16\n[model]\nwidth = 4\n[training]\nls = 0.3\nepochs = 2\n[probe]\nnull_seeds = 0\n"
        "[track]\ntrack_every = 3\nprobe_size = 40\n"
    )
    main(["--config", str(tmp_path / "recipe.toml"), "--run", str(tmp_path / "run")])
    found = read_steps(tmp_path / "run")
    assert found.step.values.tolist() == [0, 3, 6, 9, 12]
    assert found.attrs.pop("track_every") == 3
    expected = steps.sel(step=found.step)
    del expected.attrs["track_every"]
    xr.testing.assert_identical(found, expected)


@pytest.mark.slow
def test_the_feature_ledger_is_the_full_one_without_the_parameters(steps, tmp_path):
    folder = workflow.train_run(config(track={"ledger": "feature"}), folder=str(tmp_path / "run")).folder
    found = read_steps(folder)
    assert set(found.data_vars) == set(VARIABLES) - set(PARAMETER_TERMS)
    assert {"realised", "feature_correct", "interference"} <= set(found.data_vars)
    assert found.step.values.tolist() == list(range(2 * STEPS))
    for name in found.data_vars:  # of two programs, which may round differently
        scale = float(np.abs(steps[name]).max())
        np.testing.assert_allclose(found[name], steps[name], rtol=1e-3, atol=1e-5 * scale, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", pytest.param("validation", marks=pytest.mark.slow)])
def test_the_probe_is_of_the_split_that_was_asked_for(loaded, tmp_path, split):
    track = {"track_split": split, "track_every": 100}
    folder = workflow.train_run(config(epochs=1, track=track), folder=str(tmp_path / "run")).folder
    found = read_steps(folder)
    assert found.attrs["split"] == split
    assert found.step.values.tolist() == [0]
    recipe = classifier.recipe_for(resolve(loaded.run.config), 10, 1)
    begun = classifier.init_state(jax.random.key(0), recipe, 1)
    images, labels = balanced_subset(getattr(loaded.splits, split), 40, seed=0).take()
    _, taps = loaded.network(begun.variables, images)
    for cut in CUTS:
        np.testing.assert_allclose(found.radius.sel(step=0, cut=cut), class_radii(taps[cut], labels), rtol=1e-3)


@pytest.mark.slow
def test_interference_at_the_cuts_that_were_asked_for(tmp_path):
    track = {"interference": ("block_2", "logits"), "ledger": "feature", "track_every": 5}
    found = read_steps(workflow.train_run(config(track=track), folder=str(tmp_path / "run")).folder)
    assert found.interference_cut.values.tolist() == ["block_2", "logits"]
    assert_interference_holds_the_feature_terms(found)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--track-every", "2"], r"track-every 1 \(not 2\)"),
        (["--probe-size", "50"], r"probe-size 40 \(not 50\)"),
        (["--ledger", "feature", "--track-split", "validation"], "track-split train .*; ledger full "),
    ],
)
def test_resuming_another_ledger_is_refused(tracked, capsys, monkeypatch, flags, said):
    monkeypatch.setattr(sweep, "fit", lambda *args, **kwargs: pytest.fail("it trained"))
    before = tiny_runs.snapshot(tracked)
    text = tiny_runs.refused(capsys, main, *SHARED["tracked"], *flags, "--run", tracked, "--resume")
    assert re.search(rf"holds a run of another configuration: {said}", text), text
    assert tiny_runs.snapshot(tracked) == before


# The gradient is that of the step ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_plain_gradient_steps_are_their_two_parts(tmp_path, monkeypatch):
    """Under SGD the update is -γ times the gradient, so its first-order effect is that of the own and other logits.

    That holds only if the ledger took the gradient on the batch, augmentation, dropout, targets and step size that the
    step had: with any of them off, the two sides are of different gradients.
    """
    # The optimiser is looked up when a step is compiled: a rate that no other run has, so that none meets this one.
    monkeypatch.setattr(classifier, "optimiser_for", lambda recipe: optax.sgd(recipe.lr))
    honest = classifier.evaluate
    stuck = lambda *args, **options: {**honest(*args, **options), "loss": 1.0}  # noqa: E731  (so that the rate halves)
    monkeypatch.setattr(classifier, "evaluate", stuck)
    changed = config(lr=0.0625, patience=1, epochs=4, data={"augment": "grey"})
    folder = workflow.train_run(changed, folder=str(tmp_path / "run")).folder
    found = read_steps(folder)
    assert found.step_size.values.min() < found.step_size.values.max() == 0.0625
    sides = found.parameter_correct + found.parameter_wrong, found.optimiser
    scale = np.abs(found.optimiser).max("class")
    assert float(scale.min()) > 0
    assert float((np.abs(sides[0] - sides[1]) / scale).max()) < 1e-4
    # Neither part alone, nor the feature-space terms, would do.
    assert float((np.abs(found.parameter_correct - sides[1]) / scale).min("class").max()) > 0.1


# Devices -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_device_and_two_give_the_same_row(tracked, loaded, tmp_path):
    """The step after the run's last, between the same two states, taken by one device and by two."""
    recipe = classifier.recipe_for(resolve(loaded.run.config), 10, 1)
    what = ledger.Tracked(loaded.network, recipe, True, ("fc",))
    train, probe = loaded.splits.train, balanced_subset(loaded.splits.train, 40, seed=0).take()
    before = jax.device_get(state_after(tracked, 2, tmp_path))
    seen = (*train.take(), epoch_order(jax.random.key(1), 2, len(train)), np.int32(0), np.float32(0.3))

    def mesh_and_step(devices):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        return mesh, (*parallel.replicate(seen, mesh), jax.random.key(2))

    mesh, step = mesh_and_step(2)
    start = parallel.replicate((before, classifier.Totals.zero()), mesh)
    after = jax.device_get(classifier.train_step(*start, *step, recipe=recipe, mesh=mesh)[0])

    def row_of(devices):
        mesh, step = mesh_and_step(devices)
        sharded = parallel.shard(probe, mesh)
        assert len(sharded[0].sharding.device_set) == devices
        states = [parallel.replicate(state._replace(optimiser=()), mesh) for state in (before, after)]
        return jax.device_get(ledger.row_of(states[0], step, states[1], *sharded, tracked=what, mesh=mesh))

    one, two = row_of(1), row_of(2)
    assert set(one) == set(two) == set(VARIABLES) - {"decision_bound", "epoch"}
    for name in one:
        scale = np.abs(one[name]).max(axis=-1, keepdims=True) if np.ndim(one[name]) else np.abs(one[name])
        assert np.all(np.abs(one[name] - two[name]) <= 1e-4 * scale), name
