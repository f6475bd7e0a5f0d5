"""Records that are no records of ours are refused by their text, before anything opens them; ours are sealed."""

import json
import pickle
import shutil

import numpy as np
import pytest
import xarray as xr

from gpz_jax import runs
from gpz_jax.errors import UserError
from gpz_jax.runs.zarr_records import check_format, read_zarr, write_zarr


@pytest.fixture
def record(tmp_path):
    dataset = xr.Dataset(
        {"rho": ("cut", [0.9, 0.2]), "zone": ("cut", np.array(["", "é"])), "valid": ("cut", [True, False])},
        {"cut": ["fc", "logits"]},
        {"images": 7},
    )
    write_zarr(dataset, tmp_path / "test.zarr")
    return tmp_path / "test.zarr"


def put(file, value, *path):
    about = json.loads(file.read_text())
    inner = about
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    file.write_text(json.dumps(about))


def test_what_is_written_is_read_and_xarray_alone_reads_it(record):
    with xr.open_zarr(record) as plain:
        found = read_zarr(record)
        xr.testing.assert_equal(found, plain.load())
        assert plain.attrs.keys() - found.attrs.keys() == {"seal"}
    assert found.attrs == {"images": 7, "schema_version": 2}


def test_any_file_flipped_or_gone_is_told(record):
    for file in sorted(path for path in record.rglob("*") if path.is_file()):
        data = file.read_bytes()
        for damage in (
            data[:-1],
            data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
        ):
            file.write_bytes(damage)
            with pytest.raises(UserError, match=r"^[^\n]+$"):
                read_zarr(record)
        file.unlink()
        with pytest.raises(UserError, match=r"^[^\n]+$"):
            read_zarr(record)
        file.write_bytes(data)
    read_zarr(record)


class Payload:
    def __reduce__(self):
        return (open, ("executed", "w"))


def in_format_2(record):
    shutil.rmtree(record)
    (record / "rho").mkdir(parents=True)
    (record / ".zgroup").write_text('{"zarr_format": 2}')
    array = {
        "zarr_format": 2,
        "shape": [1],
        "chunks": [1],
        "dtype": "|O",
        "fill_value": "",
        "order": "C",
        "compressor": None,
    }
    (record / "rho" / ".zarray").write_text(json.dumps({**array, "filters": [{"id": "pickle", "protocol": 5}]}))
    (record / "rho" / "0").write_bytes(pickle.dumps(Payload()))


def hidden_in_a_group(record):
    """The root is of format 3, what lies in it of format 2."""
    (record / "old").mkdir()
    (record / "old" / ".zarray").write_text("{}")


FOREIGN = {
    "format 2": (in_format_2, "older format 2"),
    "format 2 within": (hidden_in_a_group, "older format 2"),
    "a codec": (lambda r: put(r / "rho/zarr.json", [{"name": "numcodecs.pickle"}], "codecs"), "codec numcodecs.pickle"),
    "a codec in the root's copy": (
        lambda r: put(r / "zarr.json", [{"name": "pickle"}], "consolidated_metadata", "metadata", "rho", "codecs"),
        "codec pickle",
    ),
    "objects": (lambda r: put(r / "rho/zarr.json", "object", "data_type"), "data type object"),
    "a type with a program": (lambda r: put(r / "rho/zarr.json", {"name": "exec"}, "data_type"), "data type exec"),
    "a transformer": (lambda r: put(r / "rho/zarr.json", [{"name": "x"}], "storage_transformers"), "transformer"),
    "a petabyte": (lambda r: put(r / "rho/zarr.json", [2**50], "shape"), "array of shape"),
    "a shape of texts": (lambda r: put(r / "rho/zarr.json", ["9"], "shape"), "array of shape"),
    "a billion dims": (lambda r: put(r / "rho/zarr.json", [1] * 1000, "shape"), "array of shape"),
    "chunks of a petabyte": (
        lambda r: put(r / "rho/zarr.json", [2**50], "chunk_grid", "configuration", "chunk_shape"),
        "array of chunk",
    ),
    "a link": (lambda r: (r / "rho/c/1").symlink_to("/etc/hostname"), "holds a link"),
    "nothing": (lambda r: (r / "zarr.json").unlink(), "holds no zarr.json"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_record_of_ours_is_not_opened(record, kind, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    change, said = FOREIGN[kind]
    change(record)
    for opened in ("xarray.open_zarr", "zarr.open_group"):
        monkeypatch.setattr(opened, lambda *args, **kwargs: pytest.fail("it was opened"))
    for read in (check_format, read_zarr, runs.read_probe):
        with pytest.raises(UserError, match=said) as refused:
            read(record)
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["format 2 within", "a codec", "a petabyte", "a link"])
def test_nor_is_a_ledger(tmp_path, kind, monkeypatch):
    steps = runs.steps_folder(tmp_path)
    write_zarr(xr.Dataset({"rho": ("cut", [0.9])}), steps)
    FOREIGN[kind][0](steps)
    monkeypatch.setattr("zarr.open_group", lambda *args, **kwargs: pytest.fail("it was opened"))
    with pytest.raises(UserError, match=FOREIGN[kind][1]):
        runs.read_steps(tmp_path)


def test_a_full_disk_leaves_the_record_before_and_no_half(record, monkeypatch):
    before = read_zarr(record)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpz_jax.runs.zarr_records._seal_of", full)
    with pytest.raises(OSError, match="No space left"):
        write_zarr(before, record)
    monkeypatch.undo()
    xr.testing.assert_identical(read_zarr(record), before)
    assert [path.name for path in record.parent.iterdir()] == ["test.zarr"]
