"""The split command: what it prints, what it writes, and that the files are the network where jax is alone."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_runs

from gpz_jax import load_halves, split, workflow

#: Runs run_halves.py as it lies beside the halves, then its halves on batches of several sizes.
ALONE = """
import runpy, sys
import numpy as np
folder = sys.argv.pop(1)
runpy.run_path(folder + "/run_halves.py")
sys.argv.append("images.npy")
halves = runpy.run_path(folder + "/run_halves.py")
np.savez("logits.npz", **{str(n): halves["cloud"].call(halves["edge"].call(halves["images"][:n])) for n in (1, 7, 64)})
found = {"flax", "gpz_jax", "optax", "orbax"} & {name.split(".")[0] for name in sys.modules}
sys.exit(f"imported {found}" if found else 0)
"""


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run, not to be changed."""
    folder = tmp_path_factory.mktemp("home") / "run"
    tiny_runs.trained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(run):
    return workflow.load_run(str(run))


@pytest.fixture(scope="module")
def written(run):
    """The float32 halves at block_3 as a person writes them, and what was said."""
    said = tiny_runs.command("split", "run", "--cut", "block_3", "--payload", "float32", "out", cwd=run.parent)
    assert said.returncode == 0, said.stderr
    return run.parent / "out", said


def test_what_is_said_and_written(written):
    folder, said = written
    record = json.loads((folder / "halves.json").read_text())
    lines = said.stdout.splitlines()
    assert lines[0] == "run cut at block_3, for cpu: out"
    for line, half, flow in (
        (lines[1], "edge", "uint8 (batch, 8, 8, 1) -> float32 (batch, 2, 2, 16)"),
        (lines[2], "cloud", "float32 (batch, 2, 2, 16) -> float32 (batch, 10)"),
    ):
        size = (folder / f"{half}.stablehlo").stat().st_size
        assert record[half]["bytes"] == size
        assert (
            line.split()
            == f"{half}.stablehlo {size:,} bytes, {record[half]['parameters']:,} parameters, {flow}".split()
        )
    assert lines[3] == "payload: 256 bytes an image (the image itself: 64)"
    whole = record["accuracy"]["whole"]
    assert (
        lines[4]
        == f"test accuracy on 359 images: {whole:.4f} whole network, {whole:.4f} through the files (drop 0.0000)"
    )
    assert lines[5] == record["verdict"]["sentence"]
    assert lines[5] == "block_3: not tested enough; no attack was made."
    assert record["verdict"]["word"] == "not tested enough"
    assert record["run"] == "run"
    assert record["cut"] == "block_3"
    assert record["platforms"] == ["cpu"]
    assert record["quantiser"] == {"levels": 2**32, "scale": None, "zero_point": None}
    # The script that is printed is the one that is written.
    assert said.stdout.endswith(f"\n\n{(folder / 'run_halves.py').read_text()}")
    assert f"test accuracy {whole:.4f} on 359 images" in said.stderr


@pytest.mark.thorough
def test_the_run_is_reproduced_where_jax_is_alone(written, loaded, tmp_path):
    folder, _ = written
    assert len((folder / "run_halves.py").read_text().splitlines()) <= 11  # ten lines and what they are for
    images = loaded.splits.test.take()[0][:64]
    np.save("images.npy", images)
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}  # one device, too
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    expected = np.asarray(loaded.network(loaded.variables, images)[0])
    with np.load("logits.npz") as logits:
        for n in (1, 7, 64):
            assert logits[str(n)].dtype == np.float32
            assert np.abs(logits[str(n)] - expected[:n]).max() < 1e-5 * np.abs(expected[:n]).max()
    random, given = done.stdout.split("uint8 ")[1:]
    assert random.startswith("(4, 8, 8, 1) -> float32 (4, 2, 2, 16); classes [")
    assert given.startswith("(64, 8, 8, 1) -> float32 (64, 2, 2, 16); classes [")
    assert given.split("classes ")[1].strip() == str(np.argmax(expected, axis=1))


def test_parameters_are_those_of_the_run(written, loaded):
    record = load_halves(written[0])[2]
    total = sum(leaf.size for leaf in jax.tree.leaves(loaded.variables["params"]))
    of_edge = sum(
        leaf.size
        for name in ("conv_1", "norm_1", "conv_2", "norm_2", "conv_3", "norm_3")
        for leaf in jax.tree.leaves(loaded.variables["params"][name])
    )
    assert record["edge"]["parameters"] == of_edge
    assert record["edge"]["parameters"] + record["cloud"]["parameters"] == total
    for half in ("edge", "cloud"):  # no other half's weights: the program is a few kB
        assert 0 < record[half]["bytes"] - record[half]["weight_bytes"] < 16_000


@pytest.mark.slow
@pytest.mark.parametrize(("payload", "size"), [("bfloat16", 128), ("uint8", 64)])
def test_accuracy_is_measured_through_the_files(run, loaded, capsys, payload, size):
    split.main([str(run), "--cut", "block_3", "--payload", payload, "out"])
    out = capsys.readouterr().out
    edge, cloud, record = load_halves("out")
    assert record["payload"] == {"shape": ["batch", 2, 2, 16], "dtype": payload, "bytes_per_image": size}
    images, labels = loaded.splits.test.take()
    sent = edge(images)
    assert str(sent.dtype) == payload
    accuracy = np.mean(np.argmax(cloud(sent), axis=1) == labels)
    assert record["accuracy"]["halves"] == pytest.approx(accuracy)
    assert f"{accuracy:.4f} through the files" in out
    assert f"(drop {record['accuracy']['whole'] - accuracy:.4f})" in out
    assert accuracy > 0.2  # twice that of chance, so that it says something
    # What is received is z to within the quantiser.
    logits = np.asarray(loaded.network(loaded.variables, images)[0])
    assert 1e-5 < np.abs(np.asarray(cloud(sent)) - logits).max() / np.abs(logits).max() < 0.05


@pytest.mark.thorough
def test_uint8_spans_each_channel_of_the_training_images(run, loaded, capsys):
    split.main([str(run), "--cut", "block_3", "out"])  # uint8 by default
    edge, _, record = load_halves("out")
    train_images = loaded.splits.train.take()[0]
    z = np.asarray(loaded.network(loaded.variables, train_images)[1]["block_3"])
    np.testing.assert_allclose(record["quantiser"]["scale"], z.max(axis=(0, 1, 2)) / 255, rtol=1e-5)
    assert set(record["quantiser"]["zero_point"]) == {0}  # after a ReLU
    payload = np.asarray(edge(train_images))
    assert (payload.max(axis=(0, 1, 2)) == 255).all()
    error = np.abs(payload * np.array(record["quantiser"]["scale"]) - z) / record["quantiser"]["scale"]
    assert error.max() < 0.501
    assert "payload: 64 bytes an image" in capsys.readouterr().out


def test_names_of_classes_come_along(run, written, tmp_path, capsys):
    assert json.loads((written[0] / "halves.json").read_text())["class_names"] is None
    names = ["[red]x", "<script>", *map(str, range(8))]
    named = shutil.copytree(run, tmp_path / "named")
    tiny_runs.change_json(named / "config.json", class_names=names)
    split.main([str(named), "--cut", "logits", "--payload", "float32", "named_halves"])
    assert json.loads((tmp_path / "named_halves" / "halves.json").read_text())["class_names"] == names
    assert load_halves(tmp_path / "named_halves")[2]["class_names"] == names


@pytest.mark.thorough
def test_other_platforms_and_an_export_is_replaced(run, loaded, capsys):
    split.main([str(run), "--cut", "logits", "out"])
    split.main([str(run), "--cut", "logits", "--payload", "float32", "--platform", "tpu", "--platform", "cuda",
                "--platform", "tpu", "out"])  # fmt: skip
    said = capsys.readouterr()
    _, _, record = load_halves("out")
    assert record["platforms"] == ["tpu", "cuda"]
    assert record["accuracy"]["halves"] is None
    images, labels = loaded.splits.test.take()
    logits = loaded.network(loaded.variables, images)[0]
    assert record["accuracy"]["whole"] == pytest.approx(np.mean(np.argmax(logits, axis=1) == labels))
    assert "gpz: the files are not measured: this machine is none of tpu, cuda" in said.err
    assert "through the files" not in said.out.splitlines()[-12]
    assert record["payload"]["dtype"] == "float32"


def test_refusals(run, capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    (tmp_path / "file").write_text("")
    for arguments, said in (
        ((run, "out"), "--cut CUT is missing: python -m gpz_jax.split RUN --cut CUT OUT (see --help)"),
        ((run, "--cut", "fc"), "OUT is missing: python -m gpz_jax.split RUN --cut CUT OUT (see --help)"),
        ((run, "--cut", "blok_3", "out"), "unknown cut 'blok_3'; did you mean 'block_3'?"),
        (
            (run, "--cut", "fc", "mine"),
            "mine exists and is no export of halves (thesis.tex is in it); choose another folder",
        ),
        ((run, "--cut", "fc", "file"), "cannot write to folder file: file is not a folder that can be written to"),
        ((run, "--cut", "fc", "--width", "8", "out"), "--width 4 (not 8)"),
        ((run, "--cut", "fc", "--payloads", "uint8", "out"), "unknown flag '--payloads'; did you mean '--payload'?"),
        ((run, "--cut", "fc", "--payload", "int4", "out"), "int4"),
        (("nowhere", "--cut", "fc", "out"), "nowhere is not a run folder"),
    ):
        assert said in tiny_runs.refused(capsys, split.main, *arguments)
    assert not (tmp_path / "out").exists()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        split.main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for flag in ("RUN", "OUT", "--cut", "--payload", "--platform", "--data-dir"):
        assert flag in said
    assert "python -m gpz_jax.split runs/" in said.split("Examples:")[1]
