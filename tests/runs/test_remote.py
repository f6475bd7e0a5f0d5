"""Runs in object stores: whatever moment a process is killed at, the old state is there whole, or the new one."""

import contextlib
import json
import shutil

import pytest
import tiny_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from object_stores import Killed, Shelf

from gpz_jax import runs
from gpz_jax.errors import UserError
from gpz_jax.runs import lease as leases
from gpz_jax.runs import manifest as manifests
from gpz_jax.runs import remote, working_copy
from gpz_jax.runs.lease import Lease
from gpz_jax.runs.manifest import Content
from gpz_jax.runs.object_store import StoreError, is_remote, parts_of
from gpz_jax.runs.working_copy import WorkingCopy

OLD = {"config.json": "1", "metrics.jsonl": "a", "checkpoints/1/state": "one", "figures/t.png": "p", "report.html": "h"}
NEW = {"config.json": "1", "metrics.jsonl": "ab", "checkpoints/2/state": "two", "figures/t.png": "q"}


def lay(folder, state):
    """Make a folder hold this and nothing else, but for what is not the run's."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.unlink()
    for name, text in state.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(store, home):
    """What another machine finds; asked without counting as an operation."""
    left, store.left = store.left, None
    copy = WorkingCopy(store, home)
    store.left = left
    return {name: data.decode() for name, data in tiny_runs.snapshot(copy.folder).items()}


def owner(store, home, tell=lambda text: None):
    """A process that takes the run over from whoever was killed."""
    store.clock += leases.STALE + 1
    return WorkingCopy(store, home, lease=Lease(store), tell=tell)


@pytest.fixture(autouse=True)
def no_renewals(monkeypatch):
    """Nor the threads that make them: what happens when is for the test to say."""
    monkeypatch.setattr(Lease, "_renew", lambda self: None)


@pytest.fixture
def store():
    return Shelf()


def begun(store, home):
    copy = owner(store, home)
    lay(copy.folder, OLD)
    copy.push()
    return copy


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_operation_leaves_the_old_state_or_the_new_one(tmp_path, after):
    for k in range(200):
        store, here = Shelf(), tmp_path / f"{k}"
        copy = begun(store, here / "a")
        lay(copy.folder, NEW)
        killed = False
        with store.failing(k, after=after):
            try:
                copy.push()
            except Killed:
                killed = True
        assert read(store, here / "b") in (OLD, NEW)
        # The machine is there still: its working copy is of the new state, and is gone on with.
        again = owner(store, here / "a")
        again.push()
        assert read(store, here / "c") == NEW
        if not killed:
            assert k > 10  # so that killing was tried
            return
    raise AssertionError("it never got through")


def test_a_kill_at_any_operation_and_another_machine_goes_on(tmp_path):
    for k in range(0, 45, 3):
        store, here = Shelf(), tmp_path / f"{k}"
        copy = begun(store, here / "a")
        lay(copy.folder, NEW)
        with store.failing(k), contextlib.suppress(Killed):
            copy.push()
        other = owner(store, here / "b")
        found = {name: data.decode() for name, data in tiny_runs.snapshot(other.folder).items()}
        assert found in (OLD, NEW)
        lay(other.folder, {**NEW, "metrics.jsonl": "abc"})
        other.close()
        assert read(store, here / "c") == {**NEW, "metrics.jsonl": "abc"}


states = st.dictionaries(st.sampled_from(["a/b", "a/c.csv", "d.png", "e/f/g"]), st.sampled_from("xyz"))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(states, st.one_of(st.none(), st.integers(0, 25)), st.booleans(), st.booleans()), max_size=4))
def test_whatever_is_pushed_and_killed_a_reader_finds_one_of_the_states(tmp_path_factory, turns):
    store, here = Shelf(), tmp_path_factory.mktemp("turns")
    known, homes = {}, 0
    for state, kill, after, moves in turns:
        homes += moves
        copy = owner(store, here / f"own-{homes}")
        state = {"config.json": "1", **state}
        lay(copy.folder, state)
        killed = False
        with store.failing(1000 if kill is None else kill, after=after):
            try:
                copy.close()
            except Killed:
                killed = True
        shutil.rmtree(here / "reader", ignore_errors=True)
        found = read(store, here / "reader")
        assert found == state if not killed else found in (known, state)
        if killed and not moves:  # what this machine has finished counts when it comes back
            owner(store, here / f"own-{homes}").close()
            found = state
        known = found
        shutil.rmtree(here / "reader", ignore_errors=True)
        assert read(store, here / "reader") == known


def test_nothing_finished_is_lost_while_the_network_is_away(store, tmp_path):
    said = []
    copy = owner(store, tmp_path / "a", said.append)
    lay(copy.folder, OLD)
    copy.push()
    lay(copy.folder, NEW)
    with store.failing(0, error=StoreError):
        copy.push()
        lies = f"what was finished lies in {tmp_path / 'a'} and goes up with the next save"
        assert said[-1] == f"the network is away; {lies}"
        with pytest.raises(UserError, match=r"the network is away; what was finished is kept in .*, and goes up when"):
            copy.close()
    assert read(store, tmp_path / "b") == OLD
    again = owner(store, tmp_path / "a", said.append)
    assert said[-1] == "s3://bucket/runs/a: what this machine had finished and not brought up is gone on with"
    again.push()
    assert read(store, tmp_path / "b") == NEW


def test_what_another_machine_went_on_with_is_the_truth_and_nothing_is_overwritten(store, tmp_path):
    said = []
    copy = begun(store, tmp_path / "a")
    lay(copy.folder, {**NEW, "metrics.jsonl": "mine"})  # and is killed before it gets up
    other = owner(store, tmp_path / "b")
    lay(other.folder, NEW)
    other.close()
    again = owner(store, tmp_path / "a", said.append)
    assert {name: data.decode() for name, data in tiny_runs.snapshot(again.folder).items()} == NEW
    assert said[0] == (
        "s3://bucket/runs/a: what lay here, not brought up, does not follow on what is there now; it is in "
        f"{tmp_path / 'a/aside'}"
    )
    assert (tmp_path / "a/aside/metrics.jsonl").read_text() == "mine"


@pytest.mark.parametrize("unsent", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_a_bucket_that_holds_the_run_no_more_costs_nothing_that_lies_here(store, tmp_path, writes, unsent):
    """It was emptied, or another store answers under the same name: what lies here may be the last copy."""
    copy = begun(store, tmp_path / "a")
    copy.close()
    if unsent:
        copy = owner(store, tmp_path / "a")
        lay(copy.folder, NEW)  # and is killed before it gets up
    store.objects.clear()
    said = []
    again = (
        owner(store, tmp_path / "a", said.append) if writes else WorkingCopy(store, tmp_path / "a", tell=said.append)
    )
    again.close()
    assert said == [
        "s3://bucket/runs/a: what lay here, not brought up, does not follow on what is there now; it is in "
        f"{tmp_path / 'a/aside'}"
    ]
    kept = {name: data.decode() for name, data in tiny_runs.snapshot(tmp_path / "a/aside").items()}
    assert kept == (NEW if unsent else OLD)
    assert read(store, tmp_path / "b") == {}


def test_what_never_got_up_is_gone_on_with(store, tmp_path):
    copy = owner(store, tmp_path / "a")
    lay(copy.folder, OLD)  # and is killed, or the network was away from the beginning
    again = owner(store, tmp_path / "a")
    again.close()
    assert read(store, tmp_path / "b") == OLD


def test_another_store_of_the_same_name_has_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    homes = []
    for endpoint in ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:1"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with remote._home("s3://bucket/runs/a") as home:
            homes.append(home)
    assert homes[0] == homes[2] != homes[1]


@pytest.mark.parametrize("place", ["s3:/bucket/a", "gs:bucket/a", "https:/bucket/a"])
def test_a_mistyped_url_is_no_folder(place):
    with pytest.raises(UserError, match="is neither a folder nor a URL"):
        is_remote(place)


@pytest.mark.parametrize("place", ["runs/a", "C:/runs/a", "s3/a", "./s3:/a"])
def test_a_folder_is_a_folder(place):
    assert not is_remote(place)


def test_a_cache_that_somebody_cleared_takes_nothing_away_from_the_bucket(store, tmp_path):
    copy = begun(store, tmp_path / "a")  # killed
    shutil.rmtree(copy.folder / "checkpoints")
    (copy.folder / "config.json").unlink()
    owner(store, tmp_path / "a").close()
    assert read(store, tmp_path / "b") == OLD


def test_no_empty_folder_is_left_of_a_checkpoint_that_counts_no_more(store, tmp_path):
    copy = begun(store, tmp_path / "a")
    copy.close()
    other = owner(store, tmp_path / "b")
    shutil.rmtree(other.folder / "checkpoints/1")
    other.close()
    owner(store, tmp_path / "a")
    assert not (copy.folder / "checkpoints").exists()


def test_a_guest_adds_a_page_while_the_owner_is_at_work(store, tmp_path):
    copy = begun(store, tmp_path / "a")
    guest = WorkingCopy(store, tmp_path / "b")
    (guest.folder / "report.html").write_text("page")
    guest.close()
    lay(copy.folder, {**NEW, "report.html": "h"})
    copy.close()
    assert read(store, tmp_path / "c") == {**NEW, "report.html": "page"}
    assert store.objects["report.html"][0] == b"page"  # for people, under its own name
    assert store.objects["figures/t.png"][0] == b"q"


def test_a_file_that_is_rewritten_at_once_and_of_one_size_is_seen(store, tmp_path):
    copy = begun(store, tmp_path / "a")
    for text in "bcd":
        (copy.folder / "metrics.jsonl").write_text(text)
        copy.push()
        assert read(store, tmp_path / "b")["metrics.jsonl"] == text


def test_what_is_not_the_runs_stays_here(store, tmp_path):
    copy = begun(store, tmp_path / "a")
    for name in ("owner.lock", "owner.json", "x.12-abcdef.partial", "checkpoints/3.orbax-checkpoint-tmp/d"):
        (copy.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (copy.folder / name).write_text("x")
    (copy.folder / "link.json").symlink_to(tmp_path)
    copy.close()
    assert read(store, tmp_path / "b") == OLD


def test_what_a_killed_process_brought_up_for_nothing_is_swept_when_a_day_old(store, tmp_path):
    begun(store, tmp_path / "a").close()
    store.write("gpz-files/lost.ab", b"x")
    owner(store, tmp_path / "a").close()
    assert "gpz-files/lost.ab" in store.objects
    store.clock += working_copy.SWEPT_AFTER
    store.write("gpz-files/new.ab", b"x")
    owner(store, tmp_path / "a").close()
    assert "gpz-files/lost.ab" not in store.objects
    assert "gpz-files/new.ab" in store.objects
    assert read(store, tmp_path / "b") == OLD


# Owners ---------------------------------------------------------------------------------------------------------------


def test_who_comes_second_is_told_by_whom_it_is_held(store):
    first = Lease(store)
    store.clock += 20
    with pytest.raises(
        UserError,
        match=r"^another process is at work in s3://bucket/runs/a \(process \d+ on .*, last heard of .*\); wait "
        r"for it, or stop it \(if it was killed, s3://bucket/runs/a is free 100 s from now\)$",
    ):
        Lease(store)
    first.release()
    Lease(store)


def test_one_of_those_who_come_at_one_instant_gets_it(store):
    taken = leases._take(store, "a")
    assert taken == 1
    stale = {**store.objects}
    store.objects = {}  # what the other one saw when it looked
    numbers, calls = leases.numbers_in, []

    def before(*given):
        calls.append(given)
        store.objects = {} if len(calls) == 1 else {**store.objects, **stale}
        return numbers(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "numbers_in", before)
        create = store.create
        store.create = lambda name, data: (store.objects.update(stale), create(name, data))[1]
        with pytest.raises(UserError, match="has just begun to work"):
            leases._take(store, "b")


def test_a_process_of_this_machine_that_is_gone_holds_nothing(store):
    lease = Lease(store)
    said = json.loads(store.objects["gpz-owner/00000001.json"][0])
    assert said["machine"]
    store.write("gpz-owner/00000001.json", json.dumps({**said, "pid": 2**22 + 1}).encode())
    Lease(store)
    with pytest.raises(UserError, match=r"was taken over by another process \(process \d+ on "):
        lease.check()


def test_one_that_was_taken_over_writes_nothing_more(store, tmp_path):
    slow = begun(store, tmp_path / "a")
    lay(owner(store, tmp_path / "b").folder, OLD)
    lay(slow.folder, NEW)
    with pytest.raises(UserError, match="was taken over by another process"):
        slow.push()
    assert read(store, tmp_path / "c") == OLD


# What lies there may lie ----------------------------------------------------------------------------------------------


def test_an_object_that_is_missing_or_changed_is_not_read(store, tmp_path):
    begun(store, tmp_path / "a").close()
    (name,) = [name for name in store.objects if name.startswith("gpz-files/metrics.")]
    store.write(name, b"b")
    with pytest.raises(UserError, match=rf"is damaged: {name} does not hold what was written"):
        read(store, tmp_path / "b")
    store.remove([name])
    with pytest.raises(UserError, match=rf"is damaged: an object of it is missing \({name}\)"):
        read(store, tmp_path / "c")
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    "path", ["../a", "/etc/passwd", "a/../../b", "a\\b", "C:/a", "a//b", "", ".", "a\nb", "a/", "x" * 300, "a/b\x00"]
)
def test_a_manifest_that_names_what_lies_elsewhere_is_refused(store, tmp_path, path):
    document = {"version": 1, "turn": "", "files": {path: [1, "0" * 64]}}
    store.write("gpz-state/00000001.json", json.dumps(document).encode())
    with pytest.raises(UserError, match=r"is damaged: .* is no file of a run"):
        WorkingCopy(store, tmp_path / "a")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("[]", "it is no list of a run's files"),
        ('{"version": 2}', "was written by a newer gpz_jax"),
        ('{"version": 1, "turn": "", "files": [], "check": "0"}', "does not hold what was written"),
        ('{"version": 1, "turn": "", "files": []}', "it is no list of a run's files"),
        ('{"version": 1, "turn": "", "files": {"a": [1, "xyz"]}}', "is damaged at 'a'"),
        ('{"version": 1, "turn": "", "files": {"a": [-1, "' + "0" * 64 + '"]}}', "is damaged at 'a'"),
        (
            '{"version": 1, "turn": "", "files": {"a": [1, "' + "0" * 64 + '"], "a/b": [1, "' + "0" * 64 + '"]}}',
            "'a/b' lies in a file",
        ),
        ("{", "no JSON"),
        ("\xff", "no UTF-8"),
    ],
)
def test_a_manifest_that_is_none_is_refused(store, document, said):
    store.write("gpz-state/00000007.json", document.encode("latin-1"))
    with pytest.raises(UserError, match=said):
        manifests.latest(store)


def test_what_the_disk_does_not_hold_is_not_brought_down(store, tmp_path, monkeypatch):
    begun(store, tmp_path / "a").close()
    monkeypatch.setattr(working_copy.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match=r"s3://bucket/runs/a needs 7 B on this disk, .* has 1 B; make room"):
        WorkingCopy(store, tmp_path / "b")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://b/a",
        "s3://",
        "s3://b",
        "gs://b/",
        "s3:///a",
        "s3://b/../a",
        "s3://b//a",
        "gs://b/a?x",
        "s3://b/a*",
        "s3://b/\x1b",
    ],
)
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(UserError):
        parts_of(url)


def test_objects_of_two_contents_or_paths_have_two_names():
    first, second = Content(1, "0" * 64), Content(1, "1" + "0" * 63)
    names = {manifests.object_of(path, content) for path in ("a", "b", "c/a", "a.json") for content in (first, second)}
    assert len(names) == 8


def test_a_local_run_is_left_as_it_is(tmp_path):
    before = list(tmp_path.iterdir())
    with runs.at_hand(str(tmp_path / "run"), writes=True) as folder:
        assert folder == str(tmp_path / "run")
        runs.push(tmp_path / "run")
    with runs.at_hand(None, writes=True) as folder:
        assert folder is None
    assert list(tmp_path.iterdir()) == before
