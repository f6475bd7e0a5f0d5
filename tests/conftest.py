"""House rules while testing: two CPU devices, strict dtype promotion, shapes checked, one key."""

import os
import pathlib

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "Agg"

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")

#: Real images for tests that need more than the bundled digits (see README, "Tests").
DATA_DIR = pathlib.Path(os.environ.get("GPZ_DATA", "data"))


@pytest.fixture
def key():
    return jax.random.key(0)
