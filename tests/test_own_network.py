"""The whole way for a network that nobody here wrote: probe, attack, ledger and split, without touching the disk.

The networks are the CNN of the commands written anew, in Linen and in NNX, and hold the weights of a run: so every
number has one beside it that a command printed.
"""

import csv
import dataclasses
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_runs
import xarray as xr
from flax import nnx
from tiny_runs import TINY

import gpz_jax
from gpz_jax import workflow
from gpz_jax.data.batches import normalise, padded_batches, pixels

pytestmark = [pytest.mark.oldest, pytest.mark.slow]  # CI runs it with the oldest packages

CUTS = ("block_1", "block_2", "block_3", "block_4", "fc", "logits")
ATTACKED = "block_3"
EPOCHS = 2


class LinenNet(nn.Module):
    """Four blocks and a head; takes bytes of 8 x 8."""

    @nn.compact
    def __call__(self, x, train=False):
        x = normalise(pixels(x, 16))
        for n in range(1, 5):
            x = nn.Conv(4 * 2 ** (n - 1), (3, 3), padding=1, name=f"conv_{n}")(x)
            x = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name=f"norm_{n}")(x)
            x = gpz_jax.Tap(name=f"block_{n}")(nn.relu(nn.max_pool(x, (2, 2), (2, 2))))
        x = gpz_jax.Tap(name="fc")(nn.Dense(50, name="head_1")(x.reshape(len(x), -1)))
        return nn.Dense(10, name="head_2")(nn.Dropout(0.5, deterministic=not train)(x))


class Block(nnx.Module):
    def __init__(self, before, after, rngs):
        self.conv = nnx.Conv(before, after, (3, 3), padding=1, rngs=rngs)
        self.norm = nnx.BatchNorm(after, momentum=0.9, epsilon=1e-5, use_running_average=True, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(nnx.max_pool(self.norm(self.conv(x)), (2, 2), (2, 2)))


class NnxNet(nnx.Module):
    """The same."""

    def __init__(self, rngs):
        for n, (before, after) in enumerate(((1, 4), (4, 8), (8, 16), (16, 32)), start=1):
            setattr(self, f"block_{n}", Block(before, after, rngs))
        self.fc, self.head = nnx.Linear(32, 50, rngs=rngs), nnx.Linear(50, 10, rngs=rngs)

    def __call__(self, x):
        x = normalise(pixels(x, 16))
        for n in range(1, 5):
            x = getattr(self, f"block_{n}")(x)
        return self.head(self.fc(x.reshape(len(x), -1)))


def linen_network(variables, x):
    return gpz_jax.tap(LinenNet(), variables, x), variables


def nnx_network(variables, x):
    model, params, stats = NnxNet(nnx.Rngs(0)), variables["params"], variables["batch_stats"]
    for n in range(1, 5):
        block = getattr(model, f"block_{n}")
        pairs = [(block.conv.kernel, params[f"conv_{n}"]["kernel"]), (block.conv.bias, params[f"conv_{n}"]["bias"])]
        pairs += [(block.norm.scale, params[f"norm_{n}"]["scale"]), (block.norm.bias, params[f"norm_{n}"]["bias"])]
        pairs += [(block.norm.mean, stats[f"norm_{n}"]["mean"]), (block.norm.var, stats[f"norm_{n}"]["var"])]
        for ours, theirs in pairs:
            ours[...] = theirs
    for layer, name in ((model.fc, "head_1"), (model.head, "head_2")):
        layer.kernel[...], layer.bias[...] = params[name]["kernel"], params[name]["bias"]
    return gpz_jax.tap_nnx(model, x, cuts=CUTS[:-1])


OWN = {"Linen": linen_network, "NNX": nnx_network}


def pixels_16(x):
    return pixels(x, 16)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the commands: trained, probed with two untrained copies, attacked."""
    home = tmp_path_factory.mktemp("own")
    attack = ("--cut", ATTACKED, "--attack", "linear", "--attack", "deconvolution", "--epochs", EPOCHS)
    for name, *arguments in (("train", *TINY, "--run", "run"), ("attack", "run", *attack)):
        done = tiny_runs.command(name, *arguments, cwd=home)
        assert done.returncode == 0, done.stderr
    return workflow.load_run(str(home / "run"))


@pytest.fixture(scope="module")
def nulls(run):
    """The two untrained copies that the command made."""
    keys = [jax.random.fold_in(jax.random.key(0), 1000 + i) for i in range(2)]
    inputs = list(workflow.calibration_batches(run))
    return [gpz_jax.null_variables(run.recipe.model, key, inputs) for key in keys]


@pytest.fixture(params=OWN)
def own(request, run):
    """(network, variables) in either library."""
    return OWN[request.param](run.variables, run.splits.test.images[:2])


@pytest.fixture(autouse=True)
def usual_promotion():
    """As users have it; optax's Adam needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def no_disk(monkeypatch):
    """Opening a file to write fails, and making a folder."""

    def refuse(*arguments, **more):
        raise AssertionError(f"touched the disk: {arguments}")

    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    monkeypatch.setattr(np, "savez", refuse)


def test_probe_gives_the_commands_numbers(own, run, nulls, no_disk):
    network, variables = own
    copies = [type(variables)(OWN["NNX"](null, run.splits.test.images[:2])[1]) for null in nulls]
    copies = nulls if isinstance(variables, dict) else copies
    batches = list(padded_batches(run.splits.test, 256))
    probe = gpz_jax.probe_network(network, variables, batches, 10, nulls=copies, key=jax.random.key(0), bootstrap=50)
    record = xr.open_zarr(run.run.folder / "probe" / "test.zarr")
    assert probe.cuts == CUTS
    found = probe.to_xarray()
    for name in ("radius", "within", "between", "rho", "rho_null", "within_null", "decision_bound"):
        np.testing.assert_allclose(found[name], record[name], rtol=2e-4, err_msg=name)
    for name in ("evidence", "evidence_low", "evidence_high"):
        np.testing.assert_allclose(found[name], record[name], atol=2e-4, err_msg=name)
    assert np.all(found.evidence_low <= found.evidence_high)
    np.testing.assert_array_equal(found.zone, record.zone)
    assert {line for line in map(len, repr(probe).splitlines()) if line > 80} == set()
    assert "<table>" in probe._repr_html_()


def test_attack_gives_the_commands_numbers(own, run, no_disk):
    network, variables = own
    splits = run.splits
    result = gpz_jax.attack_cut(
        network, variables, ATTACKED, splits.auxiliary.take()[0], splits.test.take(),
        attacks=("linear", "deconvolution"), key=jax.random.key(0), pixels=pixels_16, known=splits.train.take(),
        settings=gpz_jax.AttackSettings(epochs=EPOCHS),
    )  # fmt: skip
    with open(run.run.folder / "attacks" / "table.csv") as file:
        rows = {row["attack"]: row for row in csv.DictReader(file)}
    for attempt in result.attempts:
        row = rows[attempt.attack]
        for name in ("mse", "ratio", "psnr", "ssim"):
            assert getattr(attempt.scores, name) == pytest.approx(float(row[name]), rel=2e-3), (attempt.attack, name)
        low, high = attempt.intervals.ratio
        assert low <= attempt.scores.ratio <= high
        assert attempt.floors.class_mean == pytest.approx(float(row["floor_class_mean"]), rel=1e-5)
        assert attempt.reconstructions.shape == attempt.originals.shape
    assert result.best.attack == min(result.attempts, key=lambda attempt: attempt.scores.mse).attack
    assert max(map(len, repr(result).splitlines())) <= 80


def test_a_ledger_in_a_loop_of_ones_own(own, run, no_disk):
    network, variables = own
    images, labels = (part[:60] for part in run.splits.train.take())
    tracker = gpz_jax.Tracker(network, (images, labels), 10)
    targets, optimiser = gpz_jax.soft_targets(jnp.asarray(labels), 10, 0.3), optax.adam(1e-3)
    params, rest = parts_of(variables)
    state = optimiser.init(params)
    halves_of = jax.jit(
        lambda params: gpz_jax.gradient_parts(
            lambda params: network(joined(params, rest), images)[0], params, labels, targets
        )
    )
    for _ in range(3):
        halves = halves_of(params)
        gradient = jax.tree.map(jnp.add, *halves)
        updates, state = optimiser.update(gradient, state, params)
        before, params = joined(params, rest), optax.apply_updates(params, updates)
        tracker.step(before, joined(params, rest), parts=halves, alpha=0.3, step_size=1e-3)
    record = tracker.to_xarray()
    assert record.sizes["step"] == 3
    assert tuple(record.cut.values) == CUTS
    parts = record.optimiser + record.statistics + record.residual
    np.testing.assert_allclose(parts, record.realised, rtol=1e-3, atol=1e-4)
    # What a step realised is what the next one starts from.
    np.testing.assert_allclose(record.radius[1], record.radius[0] + record.realised[0], rtol=1e-3)
    start = gpz_jax.summarise(
        gpz_jax.measure(network, joined(*parts_of(variables)), [(images, labels, np.ones(60, bool))], 10)
    )
    np.testing.assert_allclose(record.radius[0].sel(cut="fc"), start["fc"].radius, rtol=1e-3)


def parts_of(variables):
    if isinstance(variables, nnx.State):
        return nnx.split_state(variables, nnx.Param, ...)
    return variables["params"], {"batch_stats": variables["batch_stats"]}


def joined(params, rest):
    return {"params": params, **rest} if isinstance(rest, dict) else nnx.merge_state(params, rest)


def test_split_is_the_whole(own, run, no_disk):
    network, variables = own
    images = run.splits.test.images[:7]
    edge, cloud = gpz_jax.split_at(network, variables, images, ATTACKED)
    np.testing.assert_allclose(cloud(variables, edge(variables, images)), run.logits(images), atol=1e-4)


def test_the_settings_of_arrays_are_those_of_the_command():
    command = {field.name for field in dataclasses.fields(gpz_jax.AttackConfig)}
    assert {field.name for field in dataclasses.fields(gpz_jax.AttackSettings)} <= command
