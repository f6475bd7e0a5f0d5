"""Probe records on disk: read back, replaced aloud, those of 0.1.0 in today's words, newer ones refused."""

import numpy as np
import pytest
import xarray as xr

from gpz_jax import runs
from gpz_jax.errors import UserError


def old_record():
    """As gpz_jax 0.1.0 wrote it: ``radius`` was W, ρ was ``share``, and nothing said of which schema it is."""
    values = np.array([4.0, 1.0])
    return xr.Dataset(
        {
            "radius": ("cut", values),
            "radius_of_class": (("cut", "class"), np.stack([values, values + 1], axis=1)),
            "share": ("cut", values / 10),
            "share_null": ("cut", values / 5),
            "share_of_null_seed": (("null_seed", "cut"), [values / 4, values / 6]),
            "radius_null": (("null_seed", "cut"), [values, values]),
            "mark": (("rule", "cut"), [["onset", ""]]),
            "images_of_class": ("class", [3, 3]),
        },
        coords={"cut": ["a", "b"], "class": [0, 1], "rule": ["paper"]},
        attrs={"images": 6},
    )


pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")  # of its strings


def test_a_record_of_the_first_schema_is_read_in_todays_words(tmp_path):
    old_record().to_zarr(tmp_path / "test.zarr", consolidated=False)
    found = runs.read_probe(tmp_path / "test.zarr")
    np.testing.assert_array_equal(found.within, [4, 1])
    np.testing.assert_array_equal(found.radius, [[4, 5], [1, 2]])
    np.testing.assert_array_equal(found.rho, [0.4, 0.1])
    assert found.rho_null.dims == ("null", "cut")
    assert found.zone.values.tolist() == [["onset", ""]]
    assert found["count"].values.tolist() == [3, 3]
    assert not {"share", "share_null", "mark", "null_seed", "images_of_class"} & {*found.variables, *found.dims}


def test_a_record_of_a_newer_schema_is_refused_by_name(tmp_path):
    old_record().assign_attrs(schema_version=99).to_zarr(tmp_path / "test.zarr", consolidated=False)
    with pytest.raises(UserError, match=r"test\.zarr was written by a newer gpz_jax \(schema 99"):
        runs.read_probe(tmp_path / "test.zarr")


def test_the_record_of_the_test_images_comes_first(tmp_path):
    for name in ("auxiliary", "test", "train"):
        (tmp_path / f"{name}.zarr").mkdir()
    assert [folder.stem for folder in runs.probe_folders(tmp_path)] == ["test", "auxiliary", "train"]
