"""The ledger on disk: what is appended is read back, through chunks, truncation and crashes at any file it writes."""

import shutil
import tempfile
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import tiny_runs
import xarray as xr
import zarr
from hypothesis import given, settings
from thinned import thinned
from zarr.storage import LocalStore

from gpz_jax import runs
from gpz_jax.analysis import bounds
from gpz_jax.errors import UserError
from gpz_jax.runs.steps import CHUNK, VARIABLES, Layout, StepRecord, read_steps, steps_folder

CUTS, DIMENSIONS, IMAGES, PULLED = ("conv", "fc", "logits"), (40, 7, 3), (5, 6, 7), ("conv", "fc")
SIZES = {"cut": 3, "class": 3, "output": 3, "interference_cut": 2}
FEW = ("radius", "decision_bound", "alpha")  # as much as one needs to be wrong about; a write is a file or two each


def opened(folder, keep=0, *, variables=FEW, images=IMAGES, **attributes):
    return StepRecord.open(folder, Layout(CUTS, DIMENSIONS, images, PULLED, variables, attributes), keep_steps=keep)


def rows(steps, *, variables=FEW, salt=0):
    """What ``append`` is given for these steps; ``salt`` tells two writings of one step apart."""
    draws = [np.random.default_rng([step, salt]) for step in steps]
    made = {"step": np.array(steps, np.int64)}
    for name in variables:
        if name != "decision_bound":  # the record's own
            shape = tuple(SIZES[dim] for dim in VARIABLES[name].dims)
            values = [draw.uniform(0.1, 1, shape) for draw in draws]
            made[name] = np.array(values, np.float32).reshape(len(steps), *shape)
    return made


def joined(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_holds(folder, expected):
    """The record is these rows, no more and no fewer."""
    found = read_steps(folder)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert found.decision_bound.shape == (len(expected["step"]), 3)
    assert np.isfinite(found.decision_bound).all()


# Round trip ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A record of every variable over three chunks, appended in uneven pieces, and what went in."""
    folder, edges = tmp_path_factory.mktemp("whole"), (0, 1, 63, 66, 130, 137)
    record = opened(folder, variables=tuple(VARIABLES), split="train", ls=0.3, track_every=2)
    parts = [rows(range(2 * a, 2 * b, 2), variables=tuple(VARIABLES)) for a, b in pairwise(edges)]
    for part in parts:
        record.append(part)
    return folder, joined(parts)


def test_what_is_appended_is_read_back(whole):
    folder, expected = whole
    assert_holds(folder, expected)
    found = read_steps(folder)
    assert set(found.data_vars) == set(VARIABLES)
    assert found.attrs == {"schema_version": 2, "split": "train", "ls": 0.3, "track_every": 2}
    assert found.step.values.tolist() == list(range(0, 274, 2))
    assert found.step.dtype == np.int64
    assert {name: found[name].dtype for name in VARIABLES} == dict.fromkeys(VARIABLES, np.float32)
    # Names and numbers as a reader of xarray takes them: labels to select by, not zarr's own string type.
    assert found.cut.values.tolist() == list(CUTS)
    assert found.cut.dtype.kind == "U"
    assert found.interference_cut.values.tolist() == list(PULLED)
    assert found.sel(cut="fc").dimension == 7
    assert found["count"].values.tolist() == list(IMAGES)
    assert found["class"].values.tolist() == found.output.values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_says_what_it_is(whole, name):
    found = read_steps(whole[0])[name]
    assert found.dims == ("step", *VARIABLES[name].dims)
    assert found.attrs == {"units": VARIABLES[name].units, "long_name": VARIABLES[name].formula}
    assert found.attrs["units"] in ("squared units of z", "nats", "1")
    assert len(found.attrs["long_name"]) > 5


def test_a_chunk_is_one_file_of_every_variable(whole):
    folder = steps_folder(whole[0])
    for name in VARIABLES:
        array = zarr.open_array(str(folder / name), mode="r")
        assert array.chunks == (CHUNK, *array.shape[1:])
        assert len([file for file in (folder / name / "c").rglob("*") if file.is_file()]) == 3  # 137 rows
    assert not list(folder.rglob("*.partial"))


def test_xarray_alone_reads_it(whole):
    folder, ours = whole[0], read_steps(whole[0])
    tree = xr.open_datatree(folder / "dynamics.zarr", engine="zarr", consolidated=False)
    assert list(tree.children) == ["steps"]
    with xr.open_zarr(folder / "dynamics.zarr", group="steps", consolidated=False) as plain, tree:
        for theirs in (plain, tree["steps"]):
            assert dict(theirs.sizes) == dict(ours.sizes)
            for name in (*VARIABLES, "step", "cut", "class", "dimension", "count"):
                np.testing.assert_array_equal(theirs[name].values, ours[name].values, err_msg=name)
                assert theirs[name].dims == ours[name].dims
            assert {**ours.attrs, "rows": 137, "seal": theirs.attrs["seal"]} == theirs.attrs


def test_the_bound_is_that_of_the_stored_radius(whole):
    found = read_steps(whole[0])
    for cut, dimension in zip(CUTS, DIMENSIONS, strict=True):
        at = found.sel(cut=cut)
        expected = [bounds.decision_bound(radius, np.array(IMAGES), dimension) for radius in at.radius.values]
        np.testing.assert_array_equal(at.decision_bound, np.array(expected, np.float32))
    assert np.unique(found.decision_bound).size > 400


def test_the_bound_of_collapsed_and_of_absent_classes(tmp_path):
    """R_c² = 0 has no bound from below; a class without images has no say, one with a single image says nothing."""
    for images, radius, expected in [
        ((5, 6, 7), (1.0, 0.0, 1.0), -np.inf),
        ((5, 0, 7), (1.0, np.nan, 1.0), None),
        ((5, 1, 7), (1.0, np.nan, 1.0), np.nan),
    ]:
        part = rows([0])
        part["radius"][:] = radius
        opened(tmp_path, images=images).append(part)
        found = read_steps(tmp_path).decision_bound.values[0]
        if expected is None:  # as though there were two classes
            expected = [bounds.decision_bound(np.ones(2), np.array([5, 7]), d) for d in DIMENSIONS]
        np.testing.assert_array_equal(found, np.broadcast_to(np.array(expected, np.float32), 3))


def test_rows_without_the_terms_of_the_parameters(tmp_path):
    names = tuple(name for name in VARIABLES if name not in runs.PARAMETER_TERMS)
    opened(tmp_path, variables=names).append(rows(range(3), variables=names))
    assert set(read_steps(tmp_path).data_vars) == set(names)


# Other versions ------------------------------------------------------------------------------------------------------


@pytest.fixture
def old(whole, tmp_path):
    """The whole record as gpz_jax 0.1.0 would have written it."""
    folder = shutil.copytree(whole[0], tmp_path / "old")
    (folder / "config.json").write_text('{"schema_version": 2}')
    (folder / "metrics.jsonl").write_text("")
    tiny_runs.as_of_0_1_0(folder)
    return folder


def test_a_record_of_0_1_0_is_read_in_todays_words(whole, old):
    found, expected = read_steps(old), read_steps(whole[0])
    np.testing.assert_allclose(found.between, found.within / found.rho - found.within, rtol=1e-6)
    xr.testing.assert_equal(found.drop_vars("between"), expected.drop_vars("between"))
    assert {name: values.attrs for name, values in found.items()} == {n: v.attrs for n, v in expected.items()}


def test_a_record_of_0_1_0_is_gone_on_with_in_todays_words(whole, old):
    expected, coming = read_steps(old).isel(step=slice(100)), rows(range(200, 210, 2), variables=tuple(VARIABLES))
    opened(old, 200, variables=tuple(VARIABLES)).append(coming)
    found = read_steps(old)
    xr.testing.assert_equal(found.isel(step=slice(100)), expected)
    np.testing.assert_array_equal(found.between[100:], coming["between"])
    assert found.attrs["schema_version"] == runs.SCHEMA_VERSION
    assert [path.name for path in steps_folder(old).parent.iterdir() if path.is_dir()] == ["steps"]


@pytest.mark.parametrize("open_it", [read_steps, lambda folder: opened(folder, 5)])
def test_a_newer_record_is_refused_by_name(tmp_path, open_it):
    opened(tmp_path).append(rows(range(5)))
    zarr.open_group(str(steps_folder(tmp_path)), mode="r+").attrs["schema_version"] = 3
    with pytest.raises(UserError, match=r"steps was written by a newer gpz_jax \(schema 3; this one reads up to 2\)"):
        open_it(tmp_path)


def test_a_ledger_of_other_images_is_not_gone_on_with(tmp_path):
    opened(tmp_path).append(rows(range(5)))
    with pytest.raises(UserError, match="holds a ledger of another count"):
        opened(tmp_path, 5, images=(5, 6, 8))


# Reopening -----------------------------------------------------------------------------------------------------------


def test_reopening_keeps_the_steps_behind_the_checkpoint(tmp_path):
    begun = rows(range(0, 300, 3))
    opened(tmp_path).append(begun)
    for keep, last in ((1000, 297), (298, 297), (297, 294), (200, 198), (192, 189), (1, 0)):
        opened(tmp_path, keep)
        assert_holds(tmp_path, {name: values[: last // 3 + 1] for name, values in begun.items()})
    opened(tmp_path, 0, note="anew")
    assert read_steps(tmp_path).sizes["step"] == 0
    assert read_steps(tmp_path).attrs == {"schema_version": 2, "note": "anew"}


@pytest.mark.parametrize("keep", [1, 50, 63, 64, 65, 128, 129])
def test_resumed_is_the_same_record_as_uninterrupted(tmp_path, keep):
    opened(tmp_path / "at once").append(rows(range(150)))
    # What lay beyond is of another run of the same steps, so that a stale row would be seen.
    record = opened(tmp_path / "resumed")
    record.append(rows(range(keep)))
    record.append(rows(range(keep, 140), salt=1))
    record = opened(tmp_path / "resumed", keep)
    record.append(rows(range(keep, keep + 3)))
    record.append(rows(range(keep + 3, 150)))
    xr.testing.assert_identical(read_steps(tmp_path / "resumed"), read_steps(tmp_path / "at once"))


def test_a_record_that_lacks_what_is_asked_for_begins_anew(tmp_path):
    opened(tmp_path, variables=("radius", "decision_bound")).append(rows(range(5), variables=("radius",)))
    opened(tmp_path, 5).append(rows(range(5, 8)))
    assert_holds(tmp_path, rows(range(5, 8)))


def test_nothing_to_continue_begins_anew(tmp_path):
    opened(tmp_path, 7).append(rows(range(7, 9)))
    assert_holds(tmp_path, rows(range(7, 9)))


# Crashes -------------------------------------------------------------------------------------------------------------


class Killed(Exception):
    """The process is gone."""


@contextmanager
def files_left(files):
    """The store replaces and removes so many files, then none: what a kill leaves. Yields a list that grows by each."""
    done, changing = [], ("set", "set_if_not_exists", "delete", "delete_dir")

    def counted(honest):
        async def change(store, key, *value):
            if len(done) >= files:
                raise Killed
            done.append(key)
            await honest(store, key, *value)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for name in changing:
            patch.setattr(LocalStore, name, counted(getattr(LocalStore, name)))
        yield done


def assert_beginning(folder, least, *candidates):
    """The record holds whole rows alone: the first ones of a candidate, ``least`` of them or more; returns how many."""
    length = read_steps(folder).sizes["step"]
    wrong = []
    for candidate in candidates:
        assert least <= len(candidate["step"])
        try:
            assert least <= length <= len(candidate["step"])
            assert_holds(folder, {name: values[:length] for name, values in candidate.items()})
            return length
        except AssertionError as error:
            wrong.append(str(error))
    raise AssertionError("\n".join(wrong))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("begun", "kept", "end"),
    thinned(
        [(10, 10, 15), (60, 60, 70), (64, 64, 66), (60, 50, 70), (60, 50, 55), (140, 50, 55), (140, 1, 150)],
        keep=[(64, 64, 66), (60, 50, 70)],
    ),
)
def test_killed_at_any_file_of_a_resumed_append(tmp_path, begun, kept, end):
    """The record holds ``begun`` steps, ``kept`` lie behind the checkpoint, and those up to ``end`` are appended.

    The steps between were written by a run that was killed; here they are told apart from what is written in their
    place, so that a row of one with variables of both would be seen.
    """
    behind, stale, coming = rows(range(kept)), rows(range(kept, begun), salt=1), rows(range(kept, end))
    start, begun_rows, in_the_end = tmp_path / "start", joined([behind, stale]), joined([behind, coming])
    opened(start).append(begun_rows)

    def resume(folder):
        opened(folder, kept).append(coming)

    with files_left(np.inf) as files:
        resume(shutil.copytree(start, tmp_path / "counted"))
    assert len(files) >= 2 * (1 + len(FEW))
    for left in range(len(files)):
        folder = shutil.copytree(start, tmp_path / str(left))
        with files_left(left), pytest.raises(Killed):
            resume(folder)
        assert_beginning(folder, kept, begun_rows, in_the_end)
        resume(folder)
        assert_holds(folder, in_the_end)


@pytest.mark.slow
def test_killed_at_any_file_of_a_new_record(tmp_path):
    coming = rows(range(70))

    def begin(folder):
        opened(folder).append(coming)

    with files_left(np.inf) as files:
        begin(tmp_path / "counted")
    assert len(files) > 20
    for left in range(len(files)):
        folder = tmp_path / str(left)
        with files_left(left), pytest.raises(Killed):
            begin(folder)
        with suppress(UserError):  # not even its coordinates are there
            assert_beginning(folder, 0, coming)
        begin(folder)
        assert_holds(folder, coming)


DOINGS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 90), st.just(0)),
        st.tuples(st.just("reopen"), st.integers(0, 500), st.just(0)),
        st.tuples(st.just("killed"), st.integers(1, 90), st.integers(0, 11)),
    ),
    min_size=2,
    max_size=6,
)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(doings=DOINGS, every=st.integers(1, 3))
def test_any_history_is_the_plain_concatenation(doings, every):
    """Appends, reopenings at any step behind the end and kills at any file, against a list of rows."""
    with tempfile.TemporaryDirectory() as name:
        folder, held = Path(name), rows([0])
        record = opened(folder)
        record.append(held)
        for salt, (what, number, files) in enumerate(doings, start=1):
            begin = len(held["step"])
            coming = rows(range(begin * every, (begin + number) * every, every), salt=salt)
            if what == "append":
                record.append(coming)
                held = joined([held, coming])
            elif what == "killed":
                with files_left(files), suppress(Killed):
                    record.append(coming)
                whole = assert_beginning(folder, begin, joined([held, coming]))
                held = {name: values[:whole] for name, values in joined([held, coming]).items()}
                record = opened(folder, int(held["step"][-1]) + 1)
            else:
                keep = 1 + number % (int(held["step"][-1]) + 2)  # the first step, and up to one beyond the last
                record = opened(folder, keep)
                held = {name: values[held["step"] < keep] for name, values in held.items()}
            assert_holds(folder, held)


# Damage --------------------------------------------------------------------------------------------------------------


def shorten(folder):
    array = zarr.open_array(str(folder / "radius"), mode="r+")
    array.resize((69, *array.shape[1:]))


DAMAGES = {
    "a variable is shorter": (shorten, "radius holds 69 of 70 steps"),
    "zarr.json is garbage": (lambda folder: (folder / "zarr.json").write_bytes(b"\xff\xfe"), "no UTF-8 at byte 0"),
    "zarr.json is empty": (lambda folder: (folder / "zarr.json").write_bytes(b""), "no JSON"),
    "zarr.json is no table": (lambda folder: (folder / "zarr.json").write_bytes(b"[]"), "describes no group"),
    "zarr.json of a variable is garbage": (
        lambda folder: (folder / "alpha" / "zarr.json").write_bytes(b"garbage"),
        "alpha/zarr.json is damaged: no JSON",
    ),
    "a chunk is garbage": (lambda folder: (folder / "radius/c/0/0/0").write_bytes(b"garbage"), "cannot be read"),
    "a chunk is cut short": (
        lambda folder: (folder / "alpha/c/0").write_bytes((folder / "alpha/c/0").read_bytes()[:-9]),
        "cannot be read",
    ),
    "no steps": (lambda folder: shutil.rmtree(folder / "step"), "damaged: it holds no step"),
    "no cuts": (lambda folder: shutil.rmtree(folder / "cut"), "damaged: it holds no cut"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_record_is_one_line(tmp_path, how):
    opened(tmp_path).append(rows(range(70)))
    damage, said = DAMAGES[how]
    damage(steps_folder(tmp_path))
    with pytest.raises(UserError, match=said) as refused:
        read_steps(tmp_path)
    text = str(refused.value)
    assert text.startswith(str(steps_folder(tmp_path)))
    assert text.endswith("away, and --resume begins a new ledger where training goes on")
    assert "\n" not in text
    assert len(text) < 500


@pytest.mark.parametrize("how", [how for how in DAMAGES if how.startswith("zarr.json")])
def test_resuming_onto_a_damaged_record_is_one_line_too(tmp_path, how):
    opened(tmp_path).append(rows(range(70)))
    DAMAGES[how][0](steps_folder(tmp_path))
    with pytest.raises(UserError, match=DAMAGES[how][1]):
        opened(tmp_path, 60)


@pytest.mark.parametrize("missing", ["dynamics.zarr", "dynamics.zarr/steps", "dynamics.zarr/steps/zarr.json"])
def test_no_ledger_says_how_to_get_one(tmp_path, missing):
    opened(tmp_path).append(rows(range(3)))
    if missing.endswith("json"):
        (tmp_path / missing).unlink()
    else:
        shutil.rmtree(tmp_path / missing)
    with pytest.raises(UserError, match=r"holds no ledger of steps; train a run with track_every 1$"):
        read_steps(tmp_path)
