"""Tiny real runs, and how tests of the commands start them and read what they say."""

import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from gpz_jax.data.sources import load

#: The smallest run that still says something: 2 epochs of a width-4 CNN on the bundled digits. Tests keep to its
#: size, width and batch size where they can, because what is compiled for one serves all.
TINY = ("--size", "16", "--width", "4", "--epochs", "2", "--null-seeds", "2", "--bootstrap", "50")
#: The runs that all test files share, each trained once in a session (see ``trained``).
TRACK = ("--null-seeds", "0", "--track-every", "1", "--probe-size", "40")
SHARED = {"plain": (*TINY, "--ls", "0.3"), "tracked": (*TINY, "--ls", "0.3", *TRACK)}
CUTS = ("block_1", "block_2", "block_3", "block_4", "fc", "logits")

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]),
    "COLUMNS": "200",
}


def command(name, *arguments, cwd):
    """Run ``python -m gpz_jax.NAME`` in a process of its own."""
    argv = [sys.executable, "-m", f"gpz_jax.{name}", *map(str, arguments)]
    return subprocess.run(argv, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def trained(to, name="plain"):
    """Copy the shared run of that name to the folder ``to``; return what its training said, as ``command`` does.

    It is trained by the command, in a process of its own, as ``run``, once in a session of tests: a worker that asks
    for it meanwhile waits. What is handed out is a copy, so that no test can change the run of another.
    """
    home = pathlib.Path(os.environ["GPZ_TESTS_RUNS"]) / name
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:  # closing it lets it go
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "said.json").exists():
            shutil.rmtree(home / "run", ignore_errors=True)
            done = command("train", *SHARED[name], "--run", "run", cwd=home)
            assert done.returncode == 0, done.stderr
            (home / "said.json").write_text(json.dumps([done.args, 0, done.stdout, done.stderr]))
    shutil.copytree(home / "run", to)
    return subprocess.CompletedProcess(*json.loads((home / "said.json").read_text()))


def once_a_program(price):
    """``price_traced``, that remembers: many tests are of one network, whose pricing takes a second or two."""
    prices = {}

    def known(traced):
        program = str(traced.jaxpr)
        if program not in prices:
            prices[program] = price(traced)
        return prices[program]

    return known


def refused(capsys, main, *arguments):
    """Run a command that must refuse; return the one line it says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith("gpz: ") or line.startswith("gpz: error")]
    assert stop.value.code == 2
    assert len(lines) == 1, said.err
    assert lines[0].startswith("gpz: error: ")
    assert "Traceback" not in said.err + said.out
    return lines[0].removeprefix("gpz: error: ")


def arrays(*, train=None, test=None, channels=1, side=8):
    """Keys of an .npz data set: the digits as negatives, fewer, coloured and enlarged on request.

    All of them have the shapes of the digits, and so share the programs compiled for these.
    """
    digits = load("digits")
    tint = np.array([1.0, 0.6, 0.3])[:channels]

    def changed(images):
        grown = np.repeat(np.repeat(255 - images, side // 8, axis=1), side // 8, axis=2)
        return np.rint(grown * tint).astype(np.uint8)

    return {
        "train_images": changed(digits.train_images[:train]),
        "train_labels": digits.train_labels[:train],
        "test_images": changed(digits.test_images[:test]),
        "test_labels": digits.test_labels[:test],
    }


def snapshot(folder):
    """Content of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def change_json(file, **changed):
    """Change fields of a JSON file of a run by hand, and take its check out as its error advises."""
    written = json.loads(file.read_text(encoding="utf-8"))
    written.pop("check", None)
    file.write_text(json.dumps(written | changed), encoding="utf-8")


def unseal_steps(folder):
    """Turn a run's ledger into one of before ledgers said how many rows they hold."""
    about = json.loads((folder / "dynamics.zarr/steps/zarr.json").read_text(encoding="utf-8"))
    for name in ("rows", "seal"):
        about["attributes"].pop(name)
    (folder / "dynamics.zarr/steps/zarr.json").write_text(json.dumps(about), encoding="utf-8")


def as_of_0_1_0(folder):
    """Turn a run folder into one that gpz_jax 0.1.0 wrote: its words, and no schema version."""
    old = {"rho": "share", "cut": "layer", "interference_cut": "interference_layer", "count": "images_of_class"}
    config = json.loads((folder / "config.json").read_text())
    del config["schema_version"]
    config.pop("check", None)
    (folder / "config.json").write_text(json.dumps(config))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["schema_version"]
        line.pop("check", None)
        for cut in line["cuts"].values():
            cut["share"] = cut.pop("rho")
            del cut["between"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    steps = folder / "dynamics.zarr" / "steps"
    if not steps.is_dir():
        return
    shutil.rmtree(steps / "between")
    for new, name in old.items():
        (steps / new).rename(steps / name)
    for file in steps.glob("*/zarr.json"):
        about = json.loads(file.read_text())
        about["dimension_names"] = [old.get(dim, dim) for dim in about["dimension_names"]]
        file.write_text(json.dumps(about))
    about = json.loads((steps / "zarr.json").read_text())
    for name in ("schema_version", "rows", "seal"):
        del about["attributes"][name]
    (steps / "zarr.json").write_text(json.dumps(about))
