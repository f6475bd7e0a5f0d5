"""What is compiled is kept for the next command, and no damage of it is ever a result, a crash or an end."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from tiny_runs import ENVIRONMENT, command

from gpz_jax import compile_cache
from gpz_jax.compile_cache import SealedCache, kept, machine, user_cache_folder
from gpz_jax.compile_log import said


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user with an empty cache folder, of whom no JAX_COMPILATION_CACHE_DIR is known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    reset_cache()
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)
    reset_cache()


def entries(home):
    return sorted(home.glob("gpz_jax/compiled/*/*.sealed"))


def tripled(x):
    return jnp.sin(3 * x)


def compiled_once(notes):
    """Compile a program as a new process would; what the log says of it, and what it gives."""
    said_of_it = []
    jax.clear_caches()
    x = np.linspace(0, 1, 7, dtype=np.float32)
    with said(said_of_it.append), kept(notes.append):
        found = np.asarray(jax.jit(tripled)(x))
    return said_of_it[-1], found


def test_a_second_process_reads_what_the_first_compiled(home):
    notes = []
    first, one = compiled_once(notes)
    second, two = compiled_once(notes)
    assert first.startswith("1 program compiled")
    assert "0 programs read" in first
    assert second.startswith("0 programs compiled")
    assert "1 program read" in second
    assert np.array_equal(one, two)
    assert notes == []
    assert [entry.name.split("-")[0] for entry in entries(home)] == ["jit_tripled"]
    (folder,) = {entry.parent for entry in entries(home)}
    assert folder.name == f"jax-{jax.__version__}-{machine()}"
    assert jax.config.jax_compilation_cache_dir is None  # as it was


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "zeros", "another"])
def test_a_damaged_entry_is_compiled_again_with_one_note(home, damage):
    _, right = compiled_once([])
    (entry,) = entries(home)
    good = entry.read_bytes()
    middle = len(good) // 2
    bad = {
        "flip": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "cut": good[:middle],
        "empty": b"",
        "zeros": bytes(len(good)),
        "another": compile_cache._sealed("jit_another-00", b"a whole entry of another program"),
    }[damage]
    entry.write_bytes(bad)
    notes = []
    said_of_it, found = compiled_once(notes)
    assert said_of_it.startswith("1 program compiled")
    assert np.array_equal(found, right)
    assert notes == ["what was compiled before is damaged in part, and compiled again"]
    # Put right; the bytes that were written last need not be those of before.
    assert compiled_once(notes)[0].startswith("0 programs compiled")
    assert len(notes) == 1


def test_no_compile_cache_reads_and_keeps_nothing(home):
    compiled_once([])
    (entry,) = entries(home)
    entry.unlink()
    jax.clear_caches()
    with kept(pytest.fail, off=True):
        jax.jit(tripled)(np.ones(3, np.float32))
    assert entries(home) == []


def test_a_folder_that_a_program_has_set_is_left_as_it_is(home, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    with kept(pytest.fail):
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
        jax.jit(lambda x: x + 4)(np.ones(3, np.float32))
    assert entries(home) == []


@pytest.mark.parametrize("why", ["a file", "of others"])
def test_a_folder_that_cannot_be_used_costs_one_note(home, why):
    place = home / "gpz_jax"
    if why == "a file":
        place.write_text("in the way")
    else:
        folder = place / "compiled" / f"jax-{jax.__version__}-{machine()}"
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    notes = []
    _, found = compiled_once(notes)
    assert len(found) == 7
    (note,) = notes
    assert note.startswith("what is compiled is not kept for the next time (")
    assert entries(home) == []


def test_a_user_without_a_home_is_told(home, monkeypatch):
    monkeypatch.setattr(compile_cache, "user_cache_folder", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    notes = []
    compiled_once(notes)
    assert notes == ["what is compiled is not kept for the next time (no home); XDG_CACHE_HOME names another folder"]


def test_a_later_jax_without_our_place_uses_its_own_cache(home, monkeypatch):
    from jax._src import compilation_cache as theirs

    given = theirs.get_file_cache
    monkeypatch.setattr(theirs, "get_file_cache", None)
    with kept(pytest.fail):
        assert theirs.get_file_cache is None
        assert jax.config.jax_compilation_cache_max_size == compile_cache.MOST
        monkeypatch.setattr(theirs, "get_file_cache", given)
        jax.jit(lambda x: x + 5)(np.ones(3, np.float32))
    assert list(home.glob("gpz_jax/compiled/*/*-cache"))


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    cache = SealedCache(tmp_path / "now", 400, pytest.fail)
    other = SealedCache(tmp_path / "other-machine", 400, pytest.fail)
    other.put("old", bytes(100))
    for i in range(3):
        cache.put(str(i), bytes(60))
    for i, name in enumerate(["other-machine/old", "now/0", "now/1", "now/2"]):
        os.utime(tmp_path / f"{name}.sealed", (i, i))
    assert cache.get("0") == bytes(60)  # used now
    cache.put("3", bytes(200))
    left = sorted(path.name for path in tmp_path.glob("*/*.sealed"))
    assert left == ["0.sealed", "3.sealed"]
    cache.put("larger than all", bytes(401))
    assert cache.get("larger than all") is None


def test_what_a_killed_process_left_half_written_goes_after_a_while(tmp_path):
    SealedCache(tmp_path / "a", 100, pytest.fail)
    old, new = (tmp_path / "a" / f".{name}.part" for name in ("old", "new"))
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    SealedCache(tmp_path / "a", 100, pytest.fail)
    assert not old.exists()
    assert new.exists()


def test_a_full_disk_costs_one_note(tmp_path, monkeypatch):
    notes = []
    cache = SealedCache(tmp_path / "a", 100, notes.append)

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    cache.put("f", b"1")
    cache.put("g", b"1")
    assert notes == ["what is compiled is not kept any more: No space left on device"]


def test_names_of_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    assert user_cache_folder() == tmp_path / ".cache"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert user_cache_folder() == tmp_path / "Library" / "Caches"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    assert user_cache_folder() == tmp_path / "Local"


def test_another_instruction_set_has_another_name(monkeypatch):
    words = {"flags: a b": None, "flags: b a": None, "flags: a b c": None}
    for text in words:
        monkeypatch.setattr(pathlib.Path, "read_text", lambda self, text=text, **given: f"cpu MHz : 7\n{text}\n\n")
        words[text] = machine()
    assert words["flags: a b"] == words["flags: b a"] != words["flags: a b c"]


TWO = """
import sys, jax, numpy as np
from gpz_jax.compile_cache import kept
with kept(lambda note: print("NOTE", note)):
    for i in range(4):
        print(jax.jit(lambda x, i=i: x * i + 0.5)(np.float32(2)))
"""


def test_two_processes_at_once(tmp_path):
    given = {name: text for name, text in ENVIRONMENT.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    given["XDG_CACHE_HOME"] = str(tmp_path)
    at_once = [subprocess.Popen([sys.executable, "-c", TWO], env=given, stdout=-1, stderr=-1) for _ in range(2)]
    said_by = [process.communicate(timeout=120) for process in at_once]
    assert said_by[0] == said_by[1]
    assert said_by[0][0].decode().split() == [str(2.0 * i + 0.5) for i in range(4)]
    assert len(entries(tmp_path)) == 4


@pytest.mark.thorough
def test_a_command_keeps_and_says_what_it_compiles(tmp_path, monkeypatch):
    """And importing the package alone keeps nothing: only commands ask for it."""
    given = {name: text for name, text in ENVIRONMENT.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    monkeypatch.setattr(tiny_runs, "ENVIRONMENT", {**given, "XDG_CACHE_HOME": str(tmp_path / "cache")})
    flags = ("cnn", "--size", "16", "--width", "4", "--budget-params", "50%", "--cut", "fc")
    first, second = (command("cuts", *flags, "--verbose", cwd=tmp_path) for _ in range(2))
    for done in (first, second):
        assert done.returncode == 0, done.stderr
    assert "gpz: 0 programs compiled" in second.stderr
    assert "gpz: 0 programs compiled" not in first.stderr
    assert "programs compiled" not in first.stdout
    assert entries(tmp_path / "cache")
