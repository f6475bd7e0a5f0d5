"""Text is UTF-8 whatever the locale says; what a terminal cannot show is shown plainly; a closed pipe is quiet."""

import ast
import io
import os
import pathlib
import subprocess
import sys

import pytest
from tiny_runs import ENVIRONMENT, refused

import gpz_jax
from gpz_jax import cuts, terminal, train
from gpz_jax.errors import in_one_line, one_line_errors
from gpz_jax.reporting import tables
from gpz_jax.settings_files import read_toml

PACKAGE = pathlib.Path(gpz_jax.__file__).parent
#: Where every file is opened with its encoding named.
FOLDERS = sorted({path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")})


def unnamed(source):
    """Lines that open, read or write a text file without saying in what encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(word.arg in ("encoding", None) for word in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        method = isinstance(node.func, ast.Attribute)
        words = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        modes = [word for word in words if word and set(word) <= set("rwxabt+")]
        modes += [w.value.value for w in node.keywords if w.arg == "mode" and isinstance(w.value, ast.Constant)]
        of_file = not method or not node.args or bool(modes)  # else zarr's, Pillow's or a record's own open
        if (name in ("read_text", "write_text") and method) or (
            name in ("open", "fdopen", "TemporaryFile", "NamedTemporaryFile")
            and of_file
            and not any("b" in mode for mode in modes)
        ):
            yield f"{node.lineno}: {name}"


def test_what_counts_as_unnamed():
    source = "open(f)\nopen(f, 'rb')\np.open()\np.open('a')\np.open('rb')\np.read_text()\np.read_text(encoding='x')\n"
    assert list(unnamed(source + "Image.open(p)\np.write_text(x)\nwrite_text(p, x)")) == [
        "1: open", "3: open", "4: open", "6: read_text", "9: write_text",
    ]  # fmt: skip


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_encoding_is_named(folder):
    place = PACKAGE / folder
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    found = {str(file.relative_to(PACKAGE)): list(unnamed(file.read_text(encoding="utf-8"))) for file in files}
    assert {file: lines for file, lines in found.items() if lines} == {}


# A byte order mark --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["[training]\nepochs = 1\n", "[data]\ndata_dir = 'größe'\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_settings_file_with_a_mark(tmp_path, text, mark):
    (tmp_path / "a.toml").write_bytes(mark + text.encode())
    (tmp_path / "b.toml").write_bytes(text.encode())
    assert read_toml(tmp_path / "a.toml") == read_toml(tmp_path / "b.toml")


def test_utf_16_is_one_line(capsys, tmp_path):
    (tmp_path / "a.toml").write_text("[training]\nepochs = 1\n", encoding="utf-16")
    assert "cannot decode byte 0 as UTF-8" in refused(capsys, train.main, "--config", tmp_path / "a.toml")


# Letters that the terminal lacks ------------------------------------------------------------------------------------


def printed(encoding, errors="strict"):
    """A stream of an encoding, in place of stdout."""
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors, write_through=True)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", r"R_c^2 >= rho of gr\xf6\xdfe \U0001f600"),
        ("latin-1", r"R_c² >= rho of größe \U0001f600"),
        ("cp1252", r"R_c² >= rho of größe \U0001f600"),
        ("utf-8", "R_c² ≥ ρ of größe 😀"),
    ],
)
def test_letters_degrade(monkeypatch, encoding, shown):
    out = printed(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    one_line_errors(lambda: print("R_c² ≥ ρ of größe 😀"))()
    assert out.buffer.getvalue().decode(encoding).strip() == shown


def test_tables_stay_in_their_columns(monkeypatch):
    out = printed("ascii")
    monkeypatch.setattr(sys, "stdout", out)
    columns = [tables.Column("cut", ["größe", "b"]), tables.Column("R_c²", ["1 ± 2", "½"])]
    one_line_errors(lambda: tables.console().print(tables.Sheet("ρ", columns)))()
    title, *lines = out.buffer.getvalue().decode("ascii").splitlines()
    assert title == "rho"
    assert len({len(line) for line in lines}) == 1
    assert any(r"| gr\xf6\xdfe | 1 +- 2 |" in line for line in lines)


def test_half_a_character_is_printed(monkeypatch):
    out = printed("utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    one_line_errors(lambda: print("a\udce4b"))()
    assert out.buffer.getvalue() == b"a\\udce4b\n"


def test_every_plain_letter_is_ascii():
    assert all(value.isascii() and len(key) == 1 and not key.isascii() for key, value in terminal.PLAIN.items())


@pytest.mark.thorough
def test_a_command_where_the_locale_is_ascii(tmp_path):
    environment = {**ENVIRONMENT, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    argv = [sys.executable, "-m", "gpz_jax.cuts", "cnn", "--no-latency", "--out", "out"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert b"block_4" in done.stdout
    assert (tmp_path / "out" / "cuts.csv").is_file()


# Pipes that nobody reads --------------------------------------------------------------------------------------------


def read_one_line(command, cwd):
    """What a command prints first, its status after nobody reads on, and its words on stderr."""
    process = subprocess.Popen(
        command, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    return process.wait(timeout=300), said


@pytest.mark.parametrize(
    "argv",
    [
        ["-m", "gpz_jax"],
        ["-m", "gpz_jax.train", "--help"],
        ["-m", "gpz_jax.cuts", "cnn", "--no-latency"],
    ],
    ids=["list", "help", "table"],
)
def test_a_closed_pipe(tmp_path, argv):
    assert read_one_line([sys.executable, *argv], tmp_path) == (141, b"")


def test_an_error_that_nobody_reads(tmp_path):
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "gpz_jax.train", "--nope"]
    done = subprocess.run(argv, cwd=tmp_path, env=ENVIRONMENT, stdout=write, stderr=write, timeout=300)
    os.close(write)
    assert done.returncode == 2


def test_a_table_that_is_read_half(monkeypatch):
    def breaks(*args):
        raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", printed("utf-8"))
    monkeypatch.setattr(sys.stdout, "write", breaks, raising=False)
    with pytest.raises(SystemExit) as stop:
        cuts.main(["cnn", "--no-latency"])
    assert stop.value.code == terminal.PIPE_CLOSED


# Words of a command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data-dir", "a\0b"], "--data-dir 'a\\x00b' holds a NUL character"),
        (["--run=a\0b"], "--run 'a\\x00b' holds a NUL character"),
        (["--config", "a\0.toml"], "holds a NUL character"),
        (["--run", "a\udce4"], "--run 'a\\udce4' is no UTF-8 here; rename it, or set PYTHONUTF8=1"),
        (["--data-dir", "~nobody-of-this-name/x"], "there is no such user, so no home folder"),
        (["--aux", ""], "--aux is empty; give a value or leave it out"),
        (["--run="], "--run is empty"),
        ([""], "the argument is empty"),
    ],
)
def test_words_that_are_no_text(capsys, flags, said):
    assert said in refused(capsys, train.main, *flags)


# Memory and depth ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory; a smaller --batch-size"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123456789 bytes."), "asked for 123456789 bytes"),
        (RuntimeError("INTERNAL: Error dispatching computation: Out of memory allocating 3.2GiB"), "asked for 3.2GiB"),
        (RuntimeError("can't start new thread"), "out of memory; a smaller --batch-size"),
        (RecursionError("maximum recursion depth"), "nested too deep"),
        (OSError(28, "No space left on device", "a/b"), "No space left on device: a/b; what was finished"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_person_can_mend_is_one_line(capsys, error, said):
    def main(argv):
        raise error

    assert said in refused(capsys, one_line_errors(main))


def test_a_mistake_in_the_program_keeps_its_traceback():
    assert in_one_line(KeyError("x")) is None
