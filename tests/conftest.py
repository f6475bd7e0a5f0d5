"""House rules while testing: two CPU devices, strict dtype promotion, shapes checked, one key."""

import gc
import os
import pathlib
import shutil
import tempfile

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=2"
    # On a busy machine one of the two devices' threads may wait long for a core; XLA would end the process after 40 s.
    + " --xla_cpu_collective_call_terminate_timeout_seconds=300"
    # Nearly all that these tests do is compiling, of programs that run for milliseconds: they need not be optimised.
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
# XLA runs the programs of both devices on as many threads as there are cores; a program that waits for its other half
# holds one. With two, some never went on (see parallel.in_turn); CI once ended in an abort that may have been this.
os.environ.setdefault("NPROC", "4")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "Agg"
# Compiling is most of the time of these tests: what one process has compiled, the other worker and every command that
# a test starts read (workers inherit it). A folder of the run's own, unless JAX_COMPILATION_CACHE_DIR names another.
OWN_CACHE = os.path.join(tempfile.gettempdir(), f"gpz-tests-{os.getpid()}")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", OWN_CACHE)
# Runs that tests of several files read are trained once (see tiny_runs.trained), by whichever worker needs them first.
OWN_RUNS = os.path.join(tempfile.gettempdir(), f"gpz-runs-{os.getpid()}")
os.environ.setdefault("GPZ_TESTS_RUNS", OWN_RUNS)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402 (the environment comes first)
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")

#: Real images for tests that need more than the bundled digits (see README, "Tests").
DATA_DIR = pathlib.Path(os.environ.get("GPZ_DATA", "data"))


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def nothing_left_over():
    """What a module compiled is let go: a worker grew to 5 GB, and slower with it."""
    yield
    jax.clear_caches()
    gc.collect()


def pytest_unconfigure():
    for folder in (OWN_CACHE, OWN_RUNS):
        shutil.rmtree(folder, ignore_errors=True)
