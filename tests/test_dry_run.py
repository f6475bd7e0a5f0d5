"""What a command would need is said before any of it is done, and by what to lower where it does not fit."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import math

import jax
import numpy as np
import pytest
from tiny_runs import command, refused, snapshot, trained

from gpz_jax import attack, memory, parallel, probe, train, workflow
from gpz_jax.config import (
    AttackConfig,
    Config,
    DataConfig,
    ModelConfig,
    ProbeConfig,
    TrackConfig,
    TrainingConfig,
    resolve,
)
from gpz_jax.errors import UserError
from gpz_jax.inversion.decoder import decoder_for, parameter_count
from gpz_jax.reporting import dry_run_table, tables
from gpz_jax.training import classifier
from gpz_jax.workflow import dry_run_command, dry_run_tpu, dry_run_work
from gpz_jax.workflow.dry_run_compiled import _collectives, _cycles, compiled
from gpz_jax.workflow.dry_run_result import NAN, DryRun, Program, from_plain
from gpz_jax.workflow.dry_run_work import Asked
from gpz_jax.workflow.train_command import on_this_machine

TINY = Config(
    data=DataConfig(size=16),
    model=ModelConfig(width=4),
    training=TrainingConfig(epochs=2, ls=0.3),
)


@pytest.fixture(autouse=True)
def mixed_dtypes():
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dry") / "run"
    trained(folder)
    return folder


def made(**changed):
    return Program("a step", 8, 10, 5, 100, 1000, **changed)


def found(*programs, memory=2000, lower=("batch_size", "width")):
    return DryRun("work", "chip", 2, memory, {"train": 40}, (4, 4, 1), 2, programs, lower)


# Training, here.


def test_a_dry_run_of_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dry = workflow.dry_run_of_training(TINY)
    assert list(tmp_path.iterdir()) == []
    assert dry.fits
    assert dry.device == jax.devices()[0].device_kind
    assert dry.devices == 2
    assert dry.images == {"train": 936, "validation": 143}
    assert dry.image == (8, 8, 1)
    step, evaluation, probed = dry.programs
    assert [one.name for one in dry.programs] == ["training step", "evaluation", "probe, all cuts"]
    recipe = classifier.recipe_for(dataclasses.replace(TINY, model=ModelConfig(width=4, dtype="float32")), 10, 1)
    shapes = classifier.abstract_variables(recipe, 1)
    assert step.parameters == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
    # The parameters, three moments, one row of bytes, a label and a place an image, at the very least.
    assert step.held > 4 * 4 * step.parameters + 936 * (64 + 4 + 4)
    assert all(one.peak >= one.held for one in dry.programs)
    assert (step.images, step.times) == (128, 2 * (936 // 128))
    assert (evaluation.times, probed.times) == (2, 2)
    assert evaluation.images == probed.images == 144  # a multiple of the two devices
    assert all(one.flops > 0 and one.seconds > 0 for one in dry.programs)
    assert step.collectives["all-reduce"] > 0
    assert dry.seconds == sum(one.seconds * one.times for one in dry.programs)


@pytest.mark.slow
def test_a_dry_run_of_tracked_training():
    track = TrackConfig(track_every=2, probe_size=40, ledger="feature")
    dry = workflow.dry_run_of_training(dataclasses.replace(TINY, track=track))
    _, ledger, *_ = dry.programs
    assert (ledger.name, ledger.images, ledger.times) == ("row of the ledger", 40, 936 // 128)
    assert ledger.seconds > 0


def test_flops_and_bytes_are_those_of_a_product():
    """64 x 64 times 64 x 64 is 2 · 64³ operations; two go in and one comes out, 16 KiB each."""
    at = jax.NamedSharding(parallel.data_mesh(), jax.P())
    matrix = jax.ShapeDtypeStruct((64, 64), np.float32, sharding=at)
    asked = Asked("product", 64, 1, 0, jax.jit(lambda a, b: a @ b), {"a": matrix, "b": matrix}, {})
    said = compiled(asked, 2**30, run=True)
    assert said.flops == 2 * 64**3
    assert said.held == 2 * 64 * 64 * 4
    assert said.peak >= 3 * 64 * 64 * 4
    assert said.seconds > 0
    assert math.isnan(said.estimate)
    assert math.isnan(compiled(asked, 100, run=True).seconds)  # what does not fit is not run
    beside = compiled(asked._replace(beside=2**20), 2**30)
    assert (beside.held, beside.peak) == (said.held + 2**20, said.peak + 2**20)


@pytest.mark.thorough
def test_what_does_not_fit_says_which_flag_to_lower(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "available", lambda: 8 * 2**20)
    flags = ("--dry-run", "--size", "16", "--width", "4", "--batch-size", "896", "--epochs", "1")
    said = refused(capsys, train.main, *flags)
    assert said.startswith("does not fit: training step needs ")
    assert "lower --batch-size to about " in said
    assert said.endswith("or else --size or --width")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_is_refused_as_the_run_would_be(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "must be a multiple of the 2 devices" in refused(capsys, train.main, "--dry-run", "--batch-size", "127")
    assert "--seeds" in refused(capsys, train.main, "--dry-run", "--seeds", "1")
    assert "add --dry-run" in refused(capsys, train.main, "--tpu", "v5e:2x2")
    assert list(tmp_path.iterdir()) == []


# Probe and attack, here.


@pytest.mark.thorough
def test_dry_runs_of_a_run_leave_it_as_it_is(run, tmp_path):
    before = snapshot(run)
    loaded = workflow.load_run(str(run))
    probed = workflow.dry_run_of_probe(loaded, ProbeConfig(null_seeds=2, limit=100))
    assert [(one.name, one.images, one.times) for one in probed.programs] == [
        ("probe, all cuts", 100, 3),
        ("intervals of rho", 100, 3),
    ]
    options = AttackConfig(cut=("fc",), attack=("deconvolution", "linear"), epochs=3, defence="gaussian:0.5")
    attacked = workflow.dry_run_of_attack(loaded, options)
    (decoder,) = attacked.programs
    assert decoder.name == "deconvolution, fc"
    assert decoder.parameters == parameter_count(decoder_for((50,), (16, 16, 1), width=16))
    assert (decoder.images, decoder.times) == (64, 3 * (287 // 64))
    assert probed.fits
    assert attacked.fits
    assert snapshot(run) == before


def test_commands_say_it(run, tmp_path):
    done = command("probe", run, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "dry run: probing run at 6 cuts" in done.stdout
    assert "\nfits: " in done.stdout
    assert "R_c" not in done.stdout


def test_attacks_without_a_decoder_and_unknown_cuts(run, capsys):
    assert "no decoder" in refused(capsys, attack.main, run, "--attack", "linear", "--cut", "fc", "--dry-run")
    assert "'fcc'" in refused(capsys, attack.main, run, "--cut", "fcc", "--dry-run")
    assert "unknown TPU" in refused(capsys, probe.main, run, "--dry-run", "--tpu", "v5x:2x2")


# What is said.


def test_results_pass_as_json():
    program = made(collectives={"all-reduce": 3}, estimate=0.5, seconds=NAN)
    again = from_plain(json.loads(json.dumps(dataclasses.asdict(program))))
    assert again.collectives == {"all-reduce": 3}
    assert again.step == 0.5


def test_the_batch_that_fits():
    """100 of 1000 bytes stay whatever the batch; 0.9 · 8 · 300/900 of the images fit into 400."""
    assert found(made(), memory=400).batch_that_fits == 2
    assert found(made(), memory=100).batch_that_fits == 0
    assert not found(made(), memory=400).fits
    assert found(made()).fits
    assert not found(made(), made(refused=True)).fits


def test_sentences_and_table_fit_a_terminal():
    dry = found(made(seconds=0.25, flops=1e9, collectives={"all-reduce": 3}), made(refused=True))
    said = dry_run_table.sentences(dry)
    assert said[-1] == "does not fit: 0.977 KiB of 1.95 KiB a device (a step)"
    assert "placement: 2 x chip; 4 images of a step on each" in said[1]
    assert "3 all-reduce" in said[2]
    console = tables.console()
    console.width = 80
    with console.capture() as captured:
        console.print(dry_run_table.dry_run_table(dry))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("0.977 KiB *" in line for line in lines)


def test_what_the_compiler_writes():
    text = '\nENTRY %main {\n %a = f32[4] all-reduce-start(%b), "estimated_cycles":"7"\n %c = f32[4] all-reduce(%d), '
    text += '"estimated_cycles":"5"\n'
    assert _collectives(text) == {"all-reduce": 2}
    assert _cycles(text) == 12
    assert math.isnan(_cycles("\nENTRY %main {}"))


# A TPU that is not there.


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5e:3x3", "known: v5e:1x1, v5e:2x2"),
        ("v5e", "is not a known topology"),
        ("v99:2x2", "unknown TPU 'v99'"),
        (":", "unknown TPU ''"),
    ],
)
def test_unknown_topologies(topology, message, capsys):
    assert message in refused(capsys, train.main, "--dry-run", f"--tpu={topology}")


def test_no_libtpu_and_another_version(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = refused(capsys, train.main, "--dry-run", "--tpu", "v5e:2x2")
    assert "which is not installed: pip install 'gpz-jax[tpu-check]'" in said
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1" if name == "libtpu" else version(name))
    said = refused(capsys, train.main, "--dry-run", "--tpu", "v5e:2x2")
    assert "and 0.0.1 is installed" in said
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.420")
    monkeypatch.setattr(dry_run_tpu, "_wanted", lambda: "0.0.42.*")
    assert "0.0.420 is installed" in refused(capsys, train.main, "--dry-run", "--tpu", "v5e:2x2")


def test_a_compiler_that_fails_is_one_line(monkeypatch, capsys, tmp_path):
    """A child that cannot start libtpu, stood in for by one that cannot read what it is asked."""
    for module in (dry_run_tpu, dry_run_command):
        monkeypatch.setattr(module, "check_libtpu", lambda: None)
    monkeypatch.setattr(json, "dumps", lambda values: "[]")
    said = refused(capsys, train.main, "--dry-run", "--tpu", "v5e:2x2", "--size", "16", "--width", "4")
    assert said.startswith("the TPU's compiler could not be used: TypeError")


def test_a_batch_that_cannot_be_filled_is_refused_for_a_tpu_too():
    config = on_this_machine(resolve(TINY))
    work = dry_run_work.Work("train", config, AttackConfig(), 20, 10, 10, 10, (8, 8, 1), (8, 8, 1), 10)
    with pytest.raises(UserError, match="larger than the training split"):
        next(dry_run_work.programs_of(work, parallel.data_mesh(), 2**30))


@pytest.mark.tpu
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install 'gpz-jax[tpu-check]'")
def test_on_a_tpu_that_is_not_there():
    dry = workflow.dry_run_of_training(TINY, tpu="v5e:2x2")
    assert (dry.devices, dry.device) == (4, "TPU v5e")
    assert dry.memory == int(15.75 * 2**30)
    step = dry.programs[0]
    assert step.collectives["all-reduce"] > 0
    assert 0 < step.estimate < 0.1
    assert dry.fits
    large = dataclasses.replace(TINY.training, batch_size=896)
    wide = dataclasses.replace(TINY, data=DataConfig(size=64), model=ModelConfig(width=768), training=large)
    assert not workflow.dry_run_of_training(wide, tpu="v5e:1x1").fits
