"""Images on every device, dealt to the devices, or read from disk: the same in the same order, bit for bit."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from same_runs import assert_same_run

from gpz_jax import parallel, workflow
from gpz_jax.config import Config, DataConfig, ModelConfig, TrainingConfig
from gpz_jax.data.batches import epoch_order
from gpz_jax.data.flat_rows import DealtRows, rows_at
from gpz_jax.data.sources import load
from gpz_jax.data.splits import Split
from gpz_jax.errors import UserError
from gpz_jax.train import main
from gpz_jax.training.placements import Placement, Pool, feed_of, kind_of, pool

B, STEPS = 8, 5


@pytest.fixture(scope="module")
def pooled():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (30, 4, 4, 3), np.uint8) for _ in range(2)]
    labels = np.arange(30, dtype=np.int32) % 10
    picked = [np.sort(rng.permutation(30)[:n]).astype(np.int32) for n in (17, 26)]
    return pool([Split(array, labels, indices) for array, indices in zip(arrays, picked, strict=True)])[0]


def batches_of(placement, images, first=0):
    """Every batch from a step on, of two runs with an order each, as a step gets it."""
    mesh = parallel.data_mesh()
    orders = [epoch_order(jax.random.key(i), 0, len(images)) for i in range(2)]
    given, found = feed_of(Placement(placement), images, B, mesh, list)(orders, first), []
    for index in range(first, STEPS):
        seen = next(given)
        for i, order in enumerate(orders):
            places = parallel.shard(order[index * B : (index + 1) * B], mesh)
            found.append(np.asarray(rows_at(seen[i] if isinstance(seen, list) else seen, places, mesh)))
    return np.stack(found)


def test_a_pool_has_each_image_once_and_zeros_for_what_fills_up(pooled):
    (one, used), (other, used_of_other) = pooled.parts
    assert len(pooled) == len(used) + len(used_of_other) == 43
    found = pooled.rows(np.array([0, 42, -1, 17])).reshape(-1, *pooled.shape)
    np.testing.assert_array_equal(found, [one[used[0]], other[used_of_other[25]], 0 * one[0], other[used_of_other[0]]])


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("placement", ["sharded", "stream"])
def test_batches_are_those_of_images_on_every_device(pooled, placement, first):
    np.testing.assert_array_equal(batches_of(placement, pooled, first), batches_of("device", pooled, first))


DEALT = """
import jax, numpy as np
from gpz_jax import parallel
from gpz_jax.data.flat_rows import rows_at
from gpz_jax.training.placements import Placement, Pool, feed_of
mesh, images = parallel.data_mesh(), np.arange(11 * 12, dtype=np.uint8).reshape(11, 2, 2, 3)
pool, order = Pool(((images, np.arange(11)),)), jax.random.permutation(jax.random.key(0), 11)
for kind in ("sharded", "stream"):
    seen = next(feed_of(Placement(kind), pool, 8, mesh, lambda of_runs: of_runs[0])([order], 0))
    assert len({shard.data.shape for shard in seen.flat.addressable_shards}) == 1
    assert seen.flat.addressable_shards[0].data.nbytes == {"sharded": 3, "stream": 2}[kind] * 12
    taken = jax.jit(lambda seen, places: rows_at(seen, places, mesh))(seen, parallel.shard(order[:8], mesh))
    assert taken.sharding.spec == jax.P("data"), taken.sharding
    assert np.array_equal(np.asarray(taken), images[np.asarray(order)[:8]])
"""


def test_several_devices_hold_a_part_each_and_see_the_same():
    given = {**tiny_runs.ENVIRONMENT, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", DEALT], env=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_under_vmap_every_run_takes_its_own(pooled):
    mesh, flat = parallel.data_mesh(), pooled.rows(np.arange(len(pooled)))
    dealt = DealtRows(parallel.spread(jnp.asarray(flat), mesh), pooled.shape)
    places = jnp.arange(2 * B).reshape(2, B)[:, ::-1]
    found = jax.vmap(lambda own: dealt.take(own, mesh))(places)
    np.testing.assert_array_equal(found, flat.reshape(-1, *pooled.shape)[places])


GIB = 2**30


@pytest.mark.parametrize(
    ("asked", "images", "on_disk", "found"),
    [
        ("auto", GIB, False, "device"),
        ("auto", 5 * GIB, False, "sharded"),
        ("auto", 40 * GIB, False, "stream"),
        ("auto", GIB, True, "stream"),
        ("device", 15 * GIB, False, "device"),
        ("sharded", GIB, True, "sharded"),
        ("stream", GIB, False, "stream"),
    ],
)
def test_where_images_go(asked, images, on_disk, found):
    assert kind_of(asked, images, on_disk=on_disk, devices=8, there=16 * GIB) == found


@pytest.mark.parametrize(
    ("asked", "images", "ask"), [("device", 17, "'sharded' or 'stream'"), ("sharded", 8 * 17, "'stream'")]
)
def test_what_does_not_fit_is_refused(asked, images, ask):
    with pytest.raises(UserError, match=f"17 GiB of images do not fit on a device, which has 16 GiB.*; ask for {ask}"):
        kind_of(asked, images * GIB, on_disk=False, devices=8, there=16 * GIB)


@pytest.fixture
def data(tmp_path):
    """A folder with the digits as some.npz, while promotion is as where commands are started: optax relies on it."""
    digits = load("digits")
    fields = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(tmp_path / "some.npz", **{field: getattr(digits, field) for field in fields})
    with jax.numpy_dtype_promotion("standard"):
        yield tmp_path


FLAGS = (*tiny_runs.TINY[:-4], "--null-seeds", "0", "--bootstrap", "50", "--ls", "0.3", "--data", "some")


@pytest.mark.thorough
def test_a_run_is_the_same_wherever_its_images_lie(data, capsys):
    for placement in ("device", "sharded", "stream"):
        main([*FLAGS, "--data-dir", str(data), "--images", placement, "--run", str(data / placement)])
        assert ("stay on disk" in capsys.readouterr().err) == (placement == "stream")
    for placement in ("sharded", "stream"):
        assert_same_run(data / "device", data / placement)


@pytest.mark.thorough
def test_a_run_goes_on_under_another_placement(data, capsys):
    main([*FLAGS, "--data-dir", str(data), "--run", str(data / "whole")])
    main([*FLAGS, "--data-dir", str(data), "--run", str(data / "run"), "--epochs", "1", "--images", "stream"])
    main(["--run", str(data / "run"), "--resume", "--epochs", "2", "--images", "sharded"])
    assert_same_run(data / "whole", data / "run")


def test_a_source_that_changes_ends_training_with_one_line(data, monkeypatch):
    def changed(files):
        assert [stamp.path for stamp in files] == [data / "some.npz"]
        raise UserError(f"{files[0].path} was changed while images were read from it")

    monkeypatch.setattr("gpz_jax.training.placements.check_unchanged", changed)
    with pytest.raises(SystemExit) as ended:
        main([*FLAGS, "--data-dir", str(data), "--images", "stream", "--run", str(data / "run")])
    assert ended.value.code == 2


def test_a_pool_of_everything_is_no_copy():
    images = np.zeros((4, 2, 2, 1), np.uint8)
    split = Split(images, np.zeros(4, np.int32), np.arange(4, dtype=np.int32))
    (part,) = pool([split, split])[0].parts
    assert part[0] is images
    assert Pool((part,)).shape == (2, 2, 1)


@pytest.mark.thorough
def test_a_dry_run_says_where_images_would_lie(data):
    config = Config(DataConfig("some", str(data), size=16), ModelConfig(width=4), TrainingConfig(batch_size=8))
    held, said = {}, {}
    for placement in ("device", "sharded", "stream"):
        found = workflow.dry_run_of_training(config, images=placement)
        held[placement], said[placement] = found.programs[0].held, found.placement
    batch, everything = 8 * 64 // 2, 936 * 64
    assert held["device"] - held["stream"] == everything - batch
    assert held["device"] - held["sharded"] == everything // 2  # of two devices
    assert said["stream"] == "images stay on disk and are read ahead of the steps"
    assert len(set(said.values())) == 3
