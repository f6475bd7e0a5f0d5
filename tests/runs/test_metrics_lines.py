"""metrics.jsonl: a damaged line is said, never the end of what is read; what is put aside is kept."""

import json

import pytest
import tiny_runs

from gpz_jax import runs
from gpz_jax.config import Config, resolve
from gpz_jax.errors import UserError

CUT = {"radius": [1.0, 2.0], "within": 1.5, "between": 0.5, "within_per_dimension": 0.5, "rho": 0.75, "dimension": 3}


def line(epoch):
    return {"epoch": epoch, "train_loss": 1 / epoch, "cuts": {"fc": CUT | {"rho": epoch / 10}}}


@pytest.fixture
def run(tmp_path):
    with runs.start(
        resolve(Config()), folder=str(tmp_path / "r"), resume=False, fingerprint="f", num_classes=2, channels=1
    ) as run:
        for epoch in range(1, 7):
            runs.append_metrics(run, line(epoch))
        yield run


def damage(run, number, change):
    """Change a line, the first being number 1."""
    lines = run.metrics_file.read_bytes().splitlines(keepends=True)
    lines[number - 1] = change(lines[number - 1])
    run.metrics_file.write_bytes(b"".join(lines))


def read(run):
    said = []
    return [record["epoch"] for record in runs.read_metrics(run, said.append)], said


LIES = {
    "a digit": (lambda data: data.replace(b'"rho": 0.3', b'"rho": 0.8'), "it does not hold what was written"),
    "half": (lambda data: data[: len(data) // 2] + b"\n", "no JSON"),
    "no UTF-8": (lambda data: b'{"epoch": "\xff\xfe"}\n', "no UTF-8"),
    "no cuts": (lambda data: b'{"epoch": 3, "cuts": {}}\n', "it holds no epoch"),
    "the name of its check": (lambda data: data.replace(b'"check"', b'"chesk"'), "it holds no epoch"),
    "deep": (lambda data: b"[" * 10**5 + b"\n", "nested too deep"),
}


@pytest.mark.parametrize("how", LIES)
def test_a_damaged_line_is_left_out_and_said(run, how):
    change, why = LIES[how]
    damage(run, 3, change)
    epochs, said = read(run)
    assert epochs == [1, 2, 4, 5, 6]
    assert said[0].startswith(f"line 3 of {run.metrics_file} is left out: {why}")
    assert said[1:] == [f"{run.metrics_file} has lost epoch 3"]
    with pytest.raises(UserError, match=r"line 3 of .* cannot be read"):
        runs.read_metrics(run)


def test_only_a_last_line_cut_short_is_dropped_without_a_word(run):
    data = run.metrics_file.read_bytes()
    run.metrics_file.write_bytes(data[:-20])
    assert read(run) == ([1, 2, 3, 4, 5], [])
    run.metrics_file.write_bytes(data[:-20] + b"\n")
    epochs, said = read(run)
    assert epochs == [1, 2, 3, 4, 5]
    assert said[0].startswith("line 6 of ")


def test_an_epoch_that_has_a_checkpoint_and_no_line_is_said(run):
    (run.folder / "checkpoints" / "8").mkdir(parents=True)
    assert read(run) == ([1, 2, 3, 4, 5, 6], [f"{run.metrics_file} has lost epoch 7, 8"])


def test_a_resumed_run_keeps_what_is_whole_and_puts_aside_what_is_not(run):
    before = run.metrics_file.read_bytes()
    damage(run, 3, LIES["a digit"][0])
    damaged = run.metrics_file.read_bytes()
    told = runs.keep_epochs(run, 5)
    assert told == [
        f"metrics.jsonl as it was, with its damaged line 3, is set aside in {run.folder}/aside/metrics.jsonl",
        "metrics.jsonl has lost epoch 3; training goes on without",
    ]
    assert (run.folder / "aside" / "metrics.jsonl").read_bytes() == damaged
    lines = before.splitlines(keepends=True)
    assert run.metrics_file.read_bytes() == b"".join(lines[:2] + lines[3:5])
    assert runs.keep_epochs(run, 5) == []


def test_a_lost_line_is_put_back_from_its_checkpoint(run):
    before = run.metrics_file.read_bytes()
    run.metrics_file.write_bytes(b"".join(before.splitlines(keepends=True)[:5]))
    assert runs.keep_epochs(run, 6, line(6)) == []
    assert run.metrics_file.read_bytes() == before
    damage(run, 6, LIES["half"][0])
    (told,) = runs.keep_epochs(run, 6, line(6))
    assert "with its damaged line 6" in told
    assert run.metrics_file.read_bytes() == before


def test_what_is_put_aside_again_gets_a_number(run):
    for epochs in (5, 4, 3):
        runs.keep_epochs(run, epochs)
    assert sorted(path.name for path in (run.folder / "aside").iterdir()) == [
        "metrics-2.jsonl", "metrics-3.jsonl", "metrics.jsonl",
    ]  # fmt: skip


def test_every_line_of_before_is_still_read(run):
    plain = [json.dumps({key: value for key, value in json.loads(text).items() if key != "check"})
             for text in run.metrics_file.read_text(encoding="utf-8").splitlines()]  # fmt: skip
    run.metrics_file.write_text("\n".join(plain) + "\n", encoding="utf-8")
    assert read(run) == ([1, 2, 3, 4, 5, 6], [])


def test_config_json_tells_of_a_changed_digit_and_may_be_changed_by_hand(run):
    file = run.folder / "config.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(UserError, match=r"config.json is damaged: .*changed by hand\? take its check out"):
        runs.open_run(run.folder)
    tiny_runs.change_json(file)
    assert runs.open_run(run.folder).config.seed == 1
