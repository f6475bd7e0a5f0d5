import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpz_jax.data.flat_rows import FlatRows


@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (5, 7), (5, 1, 1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_rows_are_those_of_the_array(shape, dtype):
    rows = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    kept, places = jax.device_put(FlatRows.of(rows)), jnp.array([3, 0, 3])
    assert (len(kept), kept.shape) == (5, shape[1:])
    for found in (kept[places], jax.jit(lambda kept, places: kept[places])(kept, places)):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, rows[np.asarray(places)])


def test_nothing_is_copied_on_the_host():
    rows = np.zeros((3, 4, 4, 1), np.uint8)
    assert np.shares_memory(FlatRows.of(rows).flat, rows)
