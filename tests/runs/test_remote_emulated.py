"""Runs at s3:// and gs://, against emulators that the tests start on the loopback address (extra [remote-test])."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import object_stores
import pytest
import tiny_runs
from tiny_runs import TINY

from gpz_jax.errors import UserError
from gpz_jax.runs import object_store
from gpz_jax.runs.object_store import Bucket, StoreError

NEEDED = {"s3": ("s3fs", "moto", "flask", "flask_cors"), "gs": ("gcsfs", "gcp_storage_emulator")}


def needs(scheme):
    missing = [name for name in NEEDED[scheme] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install -e '.[remote-test]'")


@pytest.fixture(scope="module")
def s3():
    needs("s3")
    with object_stores.s3() as url, pytest.MonkeyPatch.context() as patch:
        for name, value in object_stores.s3_environment(url).items():
            patch.setenv(name, value)
        object_store._system.cache_clear()
        object_store._system("s3").mkdir("bucket")
        yield "s3://bucket"
        object_store._system.cache_clear()


@pytest.fixture(scope="module")
def gs():
    needs("gs")
    with object_stores.gcs() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        object_store._system.cache_clear()
        object_store._system("gs").mkdir("bucket")
        yield "gs://bucket"
        object_store._system.cache_clear()


@pytest.fixture(params=["memory", "file", "s3", "gs"])
def place(request, tmp_path):
    scheme = request.param
    if scheme in ("s3", "gs"):
        return request.getfixturevalue(scheme)
    return f"memory://{tmp_path.name}" if scheme == "memory" else f"file://{tmp_path}/bucket"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_a_run_asks_of_a_store(place, tmp_path):
    store = Bucket(f"{place}/runs/asked")
    assert store.names("gpz-state") == {}
    assert store.read("gpz-state/1.json") is None
    assert store.create("gpz-state/1.json", b"first")
    if not place.startswith("gs"):  # its emulator ignores the condition
        assert not store.create("gpz-state/1.json", b"second")
        assert store.read("gpz-state/1.json") == b"first"
    store.write("gpz-owner/1.json", b"x")
    store.write("gpz-owner/1.json", b"xyz")
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    (tmp_path / "empty").touch()
    store.send({f"gpz-files/d/{name}.png": tmp_path / name for name in ("one", "two", "empty")})
    store.copy("gpz-files/d/one.png", "d/one.png")
    found = store.names("gpz-files")
    assert {name: about.size for name, about in found.items()} == {
        "gpz-files/d/one.png": 3000,
        "gpz-files/d/two.png": 3000,
        "gpz-files/d/empty.png": 0,
    }
    assert all(about.written is not None for about in found.values())
    assert {name: about.size for name, about in store.names("gpz-owner").items()} == {"gpz-owner/1.json": 3}
    (tmp_path / "down").mkdir()
    store.fetch({f"gpz-files/d/{name}.png": tmp_path / "down" / name for name in ("one", "empty")})
    assert (tmp_path / "down/one").read_bytes() == b"one" * 1000
    assert (tmp_path / "down/empty").read_bytes() == b""
    with pytest.raises(FileNotFoundError):
        store.fetch({"gpz-files/d/three.png": tmp_path / "down/three"})
    store.remove(["gpz-files/d/one.png", "gpz-files/d/two.png"])
    store.remove(["gpz-files/d/one.png"])
    assert list(store.names("gpz-files")) == ["gpz-files/d/empty.png"]
    assert store.read("d/one.png") == b"one" * 1000


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_bucket_and_no_rights_are_one_line(s3):
    with pytest.raises(StoreError, match=r"^there is no bucket 'nowhere' for s3://nowhere/a, or none that "):
        Bucket("s3://nowhere/a").check_bucket()
    with pytest.raises(StoreError, match=r"^there is no bucket 'nowhere' for "):
        Bucket("s3://nowhere/a").write("a", b"")
    with object_stores.s3(INITIAL_NO_AUTH_ACTION_COUNT="0") as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        object_store._system.cache_clear()
        for work, doing in [
            (lambda store: store.names("gpz-state"), "list what is"),
            (lambda store: store.read("gpz-state/1.json"), "read"),
            (lambda store: store.create("gpz-state/1.json", b""), "write"),
        ]:
            with pytest.raises(StoreError, match=rf"^no right to {doing} in s3://bucket/a \(.*\); other credentials"):
                work(Bucket("s3://bucket/a"))
    object_store._system.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)  # it has gone
        store = Bucket("s3://bucket/a")
        with pytest.raises(UserError, match=r"^s3://bucket/a cannot be reached \(EndpointConnectionError: "):
            store.names("gpz-state")
    object_store._system.cache_clear()


def test_an_extra_that_is_missing_is_named(monkeypatch):
    object_store._system.cache_clear()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs:// is read by gcsfs, which is not installed: pip .*\[gcs\]'$"):
        Bucket("gs://bucket/a")


def counted(bucket):
    """Which files the newest manifest of a run names; none where there is none yet."""
    names = sorted(bucket.names("gpz-state"))
    return json.loads(bucket.read(names[-1]))["files"] if names else {}


def run(home, environment, name, *arguments):
    """A command on another machine: nothing of its cache is there."""
    shutil.rmtree(home / "cache", ignore_errors=True)
    argv = [sys.executable, "-m", f"gpz_jax.{name}", *map(str, arguments)]
    done = subprocess.run(argv, cwd=home, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_killed_resumed_probed_attacked_and_reported_each_on_another_machine(scheme, request, tmp_path):
    url = f"{request.getfixturevalue(scheme)}/runs/whole"
    environment = {**tiny_runs.ENVIRONMENT, **os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = tiny_runs.ENVIRONMENT["PYTHONPATH"]
    flags = (*TINY, "--ls", "0.3", "--epochs", "6")  # so many that the kill comes before the last
    assert tiny_runs.command("train", *flags, "--run", "local", cwd=tmp_path).returncode == 0
    argv = [sys.executable, "-m", "gpz_jax.train", *flags, "--run", url]
    with subprocess.Popen(argv, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as training:
        while not any(path.startswith("checkpoints/1/") for path in counted(Bucket(url))):
            assert training.poll() is None, training.stderr.read()
            time.sleep(0.02)
        training.send_signal(signal.SIGKILL)
    assert not any(path.startswith("checkpoints/6/") for path in counted(Bucket(url)))

    # The same machine is told apart from another by its process that is gone; so there is no need to wait.
    resumed = run(tmp_path, environment, "train", "--run", url, "--resume")
    assert re.search(rf"gpz: run folder {url}\ngpz: continuing after epoch [1-5] of 6\n", resumed.stderr)
    assert str(tmp_path) not in resumed.stdout + resumed.stderr
    here = next((tmp_path / "cache/gpz_jax/remote").glob("*/own/run/whole"))
    assert (here / "metrics.jsonl").read_bytes() == (tmp_path / "local/metrics.jsonl").read_bytes()
    seals = [json.loads((folder / "checkpoints/6/seal.json").read_text()) for folder in (here, tmp_path / "local")]
    assert seals[0]["arrays"] == seals[1]["arrays"]
    assert parameters(here) == parameters(tmp_path / "local")

    probed = run(tmp_path, environment, "probe", url, "--null-seeds", "0", "--bootstrap", "10")
    assert "brought down" in probed.stderr
    attacked = run(tmp_path, environment, "attack", url, "--cut", "fc", "--attack", "linear")
    assert f"gpz: reconstructions: {url}/figures/attacks.png; numbers: {url}/attacks/table.csv\n" in attacked.stderr
    reported = run(tmp_path, environment, "report", url)
    assert f"gpz: page: {url}/report.html (" in reported.stderr
    page = Bucket(url).read("report.html")
    assert page is not None
    assert b"linear" in page
    assert {"probe/test.csv", "attacks/fc-linear/result.json", "report.html"} <= set(counted(Bucket(url)))


def parameters(folder):
    """Bytes of every array of the last checkpoint."""
    import jax
    import numpy as np

    from gpz_jax import parallel, runs
    from gpz_jax.training import classifier
    from gpz_jax.workflow.common import abstract_state

    found = runs.open_run(folder)
    recipe = classifier.recipe_for(found.config, found.num_classes, found.channels)
    loaded = runs.Checkpoints(found).latest(abstract_state(recipe, found.channels, parallel.data_mesh()))
    assert loaded.epoch == 6
    leaves = jax.tree_util.tree_leaves_with_path(jax.tree.map(np.asarray, parallel.fetch(loaded.state.variables)))
    return {jax.tree_util.keystr(path): leaf.tobytes() for path, leaf in leaves}
