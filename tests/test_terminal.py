"""Every command in a terminal of 80 columns: its tables are read at a glance, and nothing is padded in a pipe."""

import os
import pty
import subprocess
import sys

import pytest
import tiny_runs
from tiny_runs import TINY

ENVIRONMENT = {**tiny_runs.ENVIRONMENT, "COLUMNS": "80", "LINES": "50", "TERM": "xterm"}


def in_a_terminal(*arguments, cwd):
    """What a command prints, standard error too, in a pseudo-terminal of 80 columns."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "gpz_jax", *map(str, arguments)]
    done = subprocess.Popen(argv, cwd=cwd, env=ENVIRONMENT, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    pieces = []
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        pieces.append(piece)
    said = done.communicate(timeout=300)[1]
    os.close(ours)
    assert done.returncode == 0, said.decode()
    return without_colours(b"".join(pieces).decode().replace("\r\n", "\n"))


def without_colours(text):
    from rich.text import Text

    return Text.from_ansi(text).plain


def heads(text):
    """Heads of every table in a text, the lines of a head joined."""
    found, lines = [], text.splitlines()
    for start, line in enumerate(lines):
        if line.startswith("┏"):
            stop = next(i for i in range(start, len(lines)) if lines[i].startswith("┡"))
            rows = [[cell.strip() for cell in row.strip("┃").split("┃")] for row in lines[start + 1 : stop]]
            found.append([" ".join(filter(None, parts)) for parts in zip(*rows, strict=True)])
    return found


COMMANDS = {
    "probe": (),
    "attack": ("--cut", "fc", "--cut", "block_4", "--attack", "linear", "--attack", "deconvolution", "--epochs", 1),
    "cuts": ("--no-latency",),
    "vortex": (),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and what training it said in a terminal."""
    home = tmp_path_factory.mktemp("terminal")
    return home / "run", in_a_terminal("train", *TINY, "--track-every", "4", "--run", "run", cwd=home)


@pytest.mark.slow
def test_training_prints_a_table_that_fits(trained):
    (table,) = heads(trained[1])
    assert "cut" in table
    assert max(map(len, trained[1].splitlines())) <= 80


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_heads_are_whole_words_at_80_columns_and_nothing_is_padded_in_a_pipe(name, trained):
    run, _ = trained
    narrow = in_a_terminal(name, run, *COMMANDS[name], cwd=run.parent)
    again = ["--resume"] if name == "attack" else []
    wide = tiny_runs.command(name, run, *COMMANDS[name], *again, "--wide", cwd=run.parent)
    assert wide.returncode == 0, wide.stderr
    assert max(map(len, narrow.splitlines())) <= 80
    tables, all_of_them = heads(narrow), heads(wide.stdout)
    assert len(tables) == len(all_of_them) > 0
    for few, many in zip(tables, all_of_them, strict=True):
        assert set(few) <= set(many), f"{few} are not whole beside {many}"
        assert len(few) <= 9
    assert [line for line in wide.stdout.splitlines() if line != line.rstrip()] == []
