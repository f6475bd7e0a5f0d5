"""Records that lie: said and left out, or refused in one line; never a traceback, whatever is in them."""

import contextlib
import json
import math
import shutil

import pytest
import tiny_runs
from lies import JSON, put, without
from made_attacks import attempt

from gpz_jax import runs
from gpz_jax.atomic import make_folder
from gpz_jax.errors import UserError
from gpz_jax.inversion.results import Answers, AttackResult

RESULT = {
    **{f"no {name}": without(name) for name in (
        "cut", "attack", "asked", "scores", "intervals", "floors", "leaks", "test_images", "selection_loss",
        "prior_collapse", "best_epoch", "chosen", "shape",
    )},
    "cut a path": put("../../x", "cut"), "attack HTML": put("<script>alert(1)</script>", "attack"),
    "scores a list": put([], "scores"), "score unknown": put(1.0, "scores", "exec"),
    "score a text": put("x", "scores", "mse"), "score huge": put(1e308, "scores", "mse"),
    "interval short": put([1.0], "intervals", "ratio"), "leaks a text": put("x", "leaks"),
    "images -1": put(-5, "test_images"), "images huge": put(2**60, "test_images"),
    "images a text": put("x", "test_images"), "loss a text": put(["x"], "selection_loss"),
    "loss deep": put([[[[]]]], "selection_loss"), "answers a text": put("x", "answers"),
    "identified a list": put([], "identified"), "identified HTML": put({"<b>": 1}, "identified"),
    "shape a text": put("x", "shape"), "shape huge": put([2**60], "shape"),
}  # fmt: skip
METRICS = {
    "epoch a text": put("x", "epoch"), "epoch -1": put(-1, "epoch"), "epoch 1e308": put(1e308, "epoch"),
    "no epoch": without("epoch"), "no cuts": without("cuts"), "cuts a list": put([], "cuts"),
    "cut HTML": put({"<b>": {}}, "cuts"), "cut a list": put({"fc": []}, "cuts"),
}  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("home") / "run"
    tiny_runs.trained(folder)
    return folder


@pytest.fixture(scope="module")
def attacks(tmp_path_factory):
    """A folder of one attack that was never made."""
    home = tmp_path_factory.mktemp("attacks")
    folder = make_folder(runs.attack_folder(home, "fc", "linear"))
    made = AttackResult("fc", (50,), (attempt("linear", 0.9),), answers=Answers(0.9, 0.1, 200), auxiliary=30)
    runs.write_attempt(folder, made, {"cut": "fc", "attack": {"name": "linear"}, "epoch_of_run": 2})
    return home


def read_attacks(home):
    """What the commands make of a folder of attacks: results, and what was said of those left out."""
    said = []
    try:
        found = runs.read_results(home, lambda file, why: said.append(why), 2)
    except UserError as error:
        return [], [str(error)]
    return found, said


def test_an_attack_as_it_is_written_is_read(attacks):
    found, said = read_attacks(attacks)
    assert [result.cut for result in found] == ["fc"]
    assert said == []


@pytest.mark.parametrize("kind", [*JSON, *RESULT])
def test_an_attack_with_a_lie(attacks, kind):
    (file,) = attacks.rglob("result.json")
    before = file.read_bytes()
    try:
        if kind in JSON:
            file.write_bytes(JSON[kind])
        else:
            value = json.loads(before)
            del value["check"]  # it would tell; this is of those who write their own
            RESULT[kind](value)
            file.write_text(json.dumps(value))
        found, said = read_attacks(attacks)
    finally:
        file.write_bytes(before)
    assert found or len(said) == 1
    assert all(len(why.splitlines()) == 1 for why in said)
    assert not any(math.isnan(one.attempts[0].scores.mse) for one in found)


@pytest.mark.parametrize("kind", [*JSON, *METRICS])
def test_metrics_with_a_lie(run_folder, tmp_path, kind):
    """Lines that a resumed run and the page read."""
    (tmp_path / "run").mkdir()
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(run_folder / name, tmp_path / "run")
    run = runs.open_run(tmp_path / "run")
    lines = run.metrics_file.read_bytes().splitlines()
    if kind in JSON:
        lines[0] = JSON[kind]
    else:
        value = json.loads(lines[0])
        del value["check"]
        METRICS[kind](value)
        lines[0] = json.dumps(value).encode()
    run.metrics_file.write_bytes(b"\n".join(lines) + b"\n")
    for read in (runs.read_metrics, runs.write_epochs, lambda run: runs.keep_epochs(run, 2)):
        with contextlib.suppress(UserError):
            read(run)
