"""Every file of a run folder, cut short, flipped, zeroed and deleted in turn, under every command that reads it.

A command may refuse in one line, say what it leaves out, or come to the very numbers it comes to without the damage;
anything else is a failure. ``GPZ_TESTS_SHARE=0.1`` tries a seeded tenth of them.
"""

import contextlib
import importlib
import io
import os
import re
import shutil
import sys
import traceback

import jax
import numpy as np
import pytest
import tiny_runs

RUN = ("--size", "16", "--width", "4", "--epochs", "2", "--null-seeds", "2", "--bootstrap", "50", "--ls", "0.3")
ATTACK = ("r", "--cut", "logits", "--attack", "deconvolution", "--epochs", "2", "--resume")
COMMANDS = {
    "probe": ("r", "--null-seeds", "0"),
    "attack": ATTACK,
    "vortex": ("r",),
    "cuts": ("r", "--no-latency"),
    "report": ("r",),
    "train": ("--run", "r", "--resume"),
}

#: What a command comes to, beside what it prints.
RESULTS = ("metrics.jsonl", "probe/test.csv", "attacks/table.csv", "vortex.csv", "cuts.csv", "report.html")


def cut_short(data):
    return data[: len(data) // 2]


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {"cut short": cut_short, "flipped": flipped, "zeroed": lambda data: bytes(len(data)), "deleted": None}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run with a ledger, a probe, attacks and all that is made of them, in ``whole``; not to be changed."""
    home = tmp_path_factory.mktemp("home")
    for name, *arguments in (
        ("train", *RUN, "--track-every", "1", "--probe-size", "40", "--run", "whole"),
        ("attack", "whole", *ATTACK[1:-1]),
        ("vortex", "whole"),
        ("cuts", "whole", "--no-latency"),
        ("report", "whole"),
    ):
        done = tiny_runs.command(name, *arguments, cwd=home)
        assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def here(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setattr("gpz_jax.reporting.figures.save_figure", lambda figure, file: None)  # most of the time
    monkeypatch.setattr("gpz_jax.reporting.ledger_figures.save_figure", lambda figure, file: None)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        yield home


def came_to(name):
    """Status, what was printed, what was said, and the results of a command on the run ``r``."""
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        try:
            importlib.import_module(f"gpz_jax.{name}").main(list(COMMANDS[name]))
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            said.write(traceback.format_exc())
            status = -1
    results = [read(name) for name in RESULTS]
    return status, printed.getvalue(), timeless(said.getvalue()).splitlines(), results


def read(name):
    try:
        with open(f"r/{name}", encoding="utf-8") as file:
            return timeless(file.read())
    except (OSError, ValueError):
        return None


def timeless(text):
    """Without the moment it was made, and the seconds that took."""
    return re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?|\d+(\.\d+)? s\b", "", text)


def fresh():
    shutil.rmtree("r", ignore_errors=True)
    shutil.copytree("whole", "r")


_opened = None


def _note(event, arguments):
    if event == "open" and _opened is not None:
        _opened.add(str(arguments[0]))


sys.addaudithook(_note)


def baseline(name):
    """What a command comes to without damage, and the files of the run that it opens."""
    global _opened
    fresh()
    came_to(name)  # compiles, and says what it says only once
    fresh()
    _opened = set()
    right, opened = came_to(name), _opened
    _opened = None
    assert right[0] == 0, right
    # Of the run, and of nothing else: what is damaged is damaged in earnest.
    run = os.path.realpath("r") + os.sep
    inside = {file.removeprefix(run) for file in map(os.path.realpath, opened) if file.startswith(run)}
    return right, sorted(file for file in inside if os.path.isfile(os.path.join("whole", file)))


def verdict_on(right, name, file, how):
    """What came of a damage: "refused", "said", "same", or what is wrong with it."""
    fresh()
    damaged = os.path.join("r", file)
    if how == "deleted":
        os.remove(damaged)
    else:
        with open(damaged, "rb") as opened:
            data = opened.read()
        if not data:
            return "same"
        with open(damaged, "wb") as opened:
            opened.write(DAMAGES[how](data))
    status, printed, said, results = came_to(name)
    if status == 2:
        lines = [line for line in said if line.startswith("gpz: error: ")]
        return "refused" if len(lines) == 1 and "Traceback" not in "".join(said) else f"refused in {said}"
    if status != 0:
        return "\n".join(said)
    same = [now == then for now, then in zip(results, right[3], strict=True)]
    if printed == right[1] and all(ok or result == file for ok, result in zip(same, RESULTS, strict=True)):
        return "same"
    told = [line for line in said if line not in right[2]]
    shown = results[RESULTS.index("report.html")] or ""
    before = right[3][RESULTS.index("report.html")] or ""
    on_page = name == "report" and shown.count("Left out:") > before.count("Left out:")
    return "said" if told or on_page else "silent"


def tried(name, share, capsys):
    """Counts of what came of the damages of a share of a command's files; every other outcome is told."""
    right, files = baseline(name)
    rng = np.random.default_rng(0)
    pairs = [(file, how) for file in files for how in DAMAGES if rng.random() < share]
    counts, wrong = {}, []
    for file, how in pairs:
        found = verdict_on(right, name, file, how)
        known = found in ("refused", "said", "same")
        counts[found if known else "wrong"] = counts.get(found if known else "wrong", 0) + 1
        if not known:
            wrong.append(f"{name}, {file} {how}: {found}")
    with capsys.disabled():
        print(f"\n{name}: {len(files)} files opened, {len(pairs)} damages tried: {counts}")
    return wrong


@pytest.mark.crash
@pytest.mark.parametrize("name", COMMANDS)
def test_no_damage_is_read_as_a_result(here, name, capsys):
    wrong = tried(name, float(os.environ.get("GPZ_TESTS_SHARE", "1")), capsys)
    assert not wrong, "\n".join(wrong)
