"""Hundreds of calls that nobody meant, over all commands: each ends with status 2 and one line, none with a traceback.

The table holds what is wrong alone; what is said of it, where that matters, stands in test_bad_input.py.
"""

import importlib
import io
import json
import shutil
import zipfile

import jax
import pytest
import tiny_runs
from lies import JSON, put, without
from thinned import thinned
from tiny_runs import refused

from gpz_jax.errors import UserError
from gpz_jax.inversion import lpips

HUGE = 10**21
# Flags --------------------------------------------------------------------------------------------------------------

#: Flags of every command, beside the run that they are given with.
FLAGS = {
    "train": [
        "--epochs", "--epochs x", "--epochs 1.5", "--epochs 0", "--epochs -1", f"--epochs {HUGE}", "--epoch 3",
        "--epochs " + "9" * 5000, "--epochs=", "--epochs nan", "--batch-size 0", f"--batch-size {HUGE}",
        "--batch-size 1e3", "--batch-size 937", "--lr 0", "--lr -1", "--lr nan", "--lr inf", "--lr 1e999", "--lr x",
        "--ls 1", "--ls nan", "--ls=-inf", "--ls 1e999", "--seed -1", f"--seed {2**32}", f"--seed {HUGE}", "--seed x",
        "--seeds -1", f"--seeds 0 --seeds {2**32}", "--seeds 0 --seeds 0", "--seeds 1.5", "--alphas 2",
        "--alphas nan", "--sweep loop", "--sweep both", "--size 0", "--size 20", f"--size {HUGE}", "--size 1048576",
        "--size 16384", "--width 0", "--width -4", f"--width {HUGE}", "--width 65536", "--depth 0", "--depth nan",
        "--depth 1e9", "--model vgg19 --depth inf", "--model vit --heads 3", "--model vit --heads 0",
        "--model vit --patch 5", "--model vit --patch 0", f"--model vit --patch {HUGE}",
        f"--model vit --heads {HUGE}",
        "--model", "--model CNN", "--model ../cnn", "--dtype float16", "--data ../digits", "--data .", "--data /etc",
        "--data nowhere", "--data ~nobody-here", "--data-dir ~nobody-here", "--aux digits", "--aux nowhere", "--aux=",
        "--train-limit 0", f"--train-limit {HUGE}", "--train-limit 3", "--validation-fraction 0",
        "--validation-fraction 1", "--validation-fraction nan",
        "--auxiliary-fraction 0.95", "--augment both", "--augment colour", "--patience 0", f"--patience {HUGE}",
        "--track-size 0", f"--track-size {HUGE}", "--warmup-epochs 7 --epochs 7", "--warmup-epochs -1",
        f"--warmup-epochs {HUGE}", "--track-every 0", f"--track-every {HUGE}", "--track-every 1 --probe-size 1",
        f"--track-every 1 --probe-size {HUGE}", "--track-every 1 --interference nowhere", "--track-split test",
        "--ledger all", "--split nowhere", "--limit 0", f"--limit {HUGE}", "--labels none", "--null-seeds -1",
        f"--null-seeds {HUGE}", "--rule nowhere", "--rule null --null-seeds 1", "--bootstrap 0",
        f"--bootstrap {HUGE}", "--quantiser int4", "--view last", "--config nowhere.toml", "--config .", "--config",
        "--config nowhere", "--from-torch nowhere.pth", "--from-torch .", "--from-torch a.onnx", "--from-torch=",
        "--from-torch a.pth --seeds 1", "--resume=yes", "--resume yes", "stray", "--no-such-flag", "-x",
        "--run file", "--run file/below", "--run=", "--run a\0b", "--run a\udce4", "--run ~nobody-here/r",
        "--data a\0b", "--wide 3",
    ],
    "probe": [
        "--split nowhere", "--limit 0", "--limit -3", f"--limit {HUGE}", "--limit x", "--labels none",
        "--null-seeds -1", f"--null-seeds {HUGE}", "--rule nowhere", "--rule null --null-seeds 0", "--bootstrap 0",
        f"--bootstrap {HUGE}", "--quantiser int4", "--view last", "--seed -1", f"--seed {2**32}", "--seed 1e3",
        "--data nowhere", "--width 5", "--size 32", "--ls 0.1", "--ls nan", "--model vit",
        "--data-dir ~nobody-here", "--data-dir=", "--config nowhere.toml", "--splits train", "stray", "--epochs 3",
    ],
    "attack": [
        "--cut nowhere", "--cut", "--cut=", "--cut ../fc", "--epochs 0", f"--epochs {HUGE}", "--lr nan",
        "--steps 0", f"--steps {HUGE}", "--batch-size 0", f"--batch-size {HUGE}", "--decoder-width 0",
        f"--decoder-width {HUGE}", "--cut block_4 --decoder-width 16384", "--decoder-depth -1",
        f"--decoder-depth {HUGE}", "--match-params 0", f"--match-params {HUGE}", "--stages nowhere",
        "--enrich nowhere", "--tokens first", "--top-k 0", f"--cut logits --top-k {HUGE}", "--cut logits --top-k 11",
        "--restarts 0", f"--restarts {HUGE}", "--tv -1", "--tv nan", "--likelihood-images 0",
        f"--likelihood-images {HUGE}", "--selection-fraction 0", "--selection-fraction nan", "--attack nowhere",
        "--attack linear --attack linear", "--ladder --attack linear", "--defence nowhere:1", "--defence gaussian",
        "--defence gaussian:nan", "--defence dropout:2", "--defence topk:-1", "--defence gaussian:1e999",
        "--into ../x", "--into a/b", "--lpips-weights nowhere.npz", "--lpips-weights file",
        "--lpips-weights ~nobody-here/x", "--aux digits", "--aux nowhere", "--aux=", "--seed -1", f"--seed {2**32}",
        "--data nowhere", "--ls 0.1", "--config nowhere.toml", "--no-such-flag", "stray",
    ],
    "cuts": [
        "--budget-params x", "--budget-params 0", "--budget-params -5%", "--budget-params nan", "--budget-params=",
        "--budget-payload 0", f"--budget-payload {HUGE}", "--budget-ms 0", "--budget-ms nan", "--payload int4",
        "--cut nowhere", "--batch-size 0", f"--batch-size {HUGE}", "--repeats 0", f"--repeats {HUGE}",
        "--min-ratio 0", "--min-ratio 3", "--min-ratio nan", "--max-identified 2", "--max-identified x",
        "--max-identified -1%", "--bandwidth 5", "--bandwidth 0Mbps", "--bandwidth x", "--rtt 20ms",
        "--bandwidth 5Mbps --rtt 20", "--no-latency --cut fc", "--no-latency --budget-ms 3", "--width 5",
        "--classes 3", "--out file", "--data-dir ~nobody-here", "stray", "--no-such-flag",
    ],
    "cuts cnn": [
        "--width 0", f"--width {HUGE}", "--size 20", f"--size {HUGE}", "--channels 0", f"--channels {HUGE}",
        "--classes 0", f"--classes {HUGE}", "--depth 2", "--depth nan", "--dtype float16", "--data-dir .",
        "--out file",
    ],
    "split": [
        "", "out", "--cut fc", "out --cut nowhere", "out --cut=", "file --cut fc", "data --cut fc",
        "out --cut fc --payload int4", "out --cut fc --platform abacus", "out --cut fc --ls 0.1",
        "out --cut fc stray",
        "out --cut fc --data-dir ~nobody-here",
    ],
    "vortex": ["", "--cut fc", "run2", "--out=", "--no-such-flag"],
    "report": [
        "--out file/below.html", "--out .", "--data-dir ~nobody-here", "run", "nowhere", "--out=", "--no-such-flag",
    ],
}  # fmt: skip

#: Calls without a run, or with what is none.
BARE = {
    "": ["trian", "--versoin", "--completion fish", "--completion"],
    "probe": ["", "nowhere", "file", ".", "a\0b", "~nobody-here", "empty"],
    "attack": ["", "nowhere", "file", "empty"],
    "cuts": ["", "nowhere", "file", "empty", "cnm", "cnn stray"],
    "split": ["", "nowhere", "nowhere out --cut fc"],
    "vortex": ["", "nowhere", "empty", "file"],
    "report": ["", "nowhere", "empty", "file"],
}

# Settings files -----------------------------------------------------------------------------------------------------

TOML = {
    "deep": b"a = " + b"[" * 2000 + b"]" * 2000,
    "deep tables": b"[" + b".".join([b"a"] * 2000) + b"]",
    "digits": b"[training]\nepochs = " + b"9" * 5000,
    "beyond 64 bits": b"[training]\nepochs = 1" + b"0" * 30,
    "float of an int": b"[training]\nlr = 1" + b"0" * 400,
    "seed": b"seed = 4294967296",
    "infinite": b"[training]\nlr = inf",
    "nan": b"[training]\nls = nan",
    "NUL": b"[data]\ndata_dir = 'a\0b'",
    "NUL in words": b'[data]\ndata_dir = "a\\u0000b"',
    "home": b"[data]\ndata_dir = '~nobody-here/x'",
    "empty aux": b"[data]\naux = ''",
    "latin-1": "[data]\ndata = 'größe'".encode("latin-1"),
    "utf-16": "[training]\nepochs = 1".encode("utf-16"),
    "binary": bytes(range(256)),
    "open": b"[training",
    "twice": b"[training]\nepochs = 1\nepochs = 2",
    "a list": b"[[training]]\nepochs = 1",
    "a date": b"[training]\nepochs = 2020-01-01",
    "large": b"#" * 2**21,
    "unknown table": b"[trainning]\nepochs = 1",
    "[attack] unknown key": b"[attack]\nepoch = 1",
    "[attack] bad type": b"[attack]\nepochs = 'x'",
    "[attack] bad value": b"[attack]\nepochs = 0",
    "[attack] contradiction": b"[attack]\nladder = true\nattack = ['linear']",
    "[probe] bad value": b"[probe]\nbootstrap = 0",
    "[probe] unknown key": b"[probe]\nsplits = 1",
    "[model] unknown key": b"[model]\nwidht = 1",
    "[track] bad value": b"[track]\ntrack_every = 0",
}

# Files of weights ---------------------------------------------------------------------------------------------------


def header(text, claimed=None):
    """The beginning of a .safetensors file, and a kilobyte of numbers behind it."""
    return (len(text) if claimed is None else claimed).to_bytes(8, "little") + text + b"\0" * 1024


ARRAY = b'{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [%s]}}'
WEIGHTS = {
    "empty.safetensors": b"",
    "short.safetensors": b"\x01",
    "no header.safetensors": header(b""),
    "header beyond the file.safetensors": header(b"{}", 2**62),
    "header of 64 bits.safetensors": header(b"{}", 2**64 - 1),
    "deep.safetensors": header(b"[" * 100_000),
    "no arrays.safetensors": header(b"{}"),
    "a list.safetensors": header(b"[]"),
    "no JSON.safetensors": header(b"\xff\xfe"),
    "infinity.safetensors": header(ARRAY % (b"Infinity", b"0, 1024")),
    "offsets beyond the file.safetensors": header(ARRAY % (b"1000000000", b"0, 4000000000")),
    "offsets that cross.safetensors": header(ARRAY % (b"256", b"1024, 0")),
    "shape that lies.safetensors": header(ARRAY % (b"10, 10", b"0, 1024")),
    "shape below 0.safetensors": header(ARRAY % (b"-256", b"0, 1024")),
    "shape beyond 64 bits.safetensors": header(ARRAY % (b"1" + b"0" * 30, b"0, 1024")),
    "of another model.safetensors": header(ARRAY % (b"256", b"0, 1024")),
    "path.safetensors": header((ARRAY % (b"256", b"0, 1024")).replace(b'"a"', b'"../../a"')),
    "html.safetensors": header((ARRAY % (b"256", b"0, 1024")).replace(b'"a"', b'"<script>"')),
    "control.safetensors": header((ARRAY % (b"256", b"0, 1024")).replace(b'"a"', b'"\\u001b[31m"')),
    "half a character.safetensors": header((ARRAY % (b"256", b"0, 1024")).replace(b'"a"', b'"\\ud800"')),
}  # fmt: skip
NPZ = {
    "text": b"these are no numbers",
    "zip": b"PK\x03\x04",
    "empty": b"PK\x05\x06" + b"\0" * 18,
}


def npz_of(name, content):
    """The bytes of an .npz with one member."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr(name, content)
    return file.getvalue()


def npy(shape, descr="<f4", content=b""):
    """The bytes of an .npy that says it is of a shape."""
    head = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + content


MEMBERS = {
    "huge": npy("(1000000, 1000000)"),
    "beyond 64 bits": npy(f"({HUGE},)"),
    "bomb": npy("(100000000,)", content=b"\0" * 2**24),
    "objects": npy("(1,)", "|O", b"cos\nsystem\n"),
    "code": npy("__import__('os').mkdir('executed')"),
    "half": npy("(64, 3, 11, 11)"),
    "below 0": npy("(-1,)"),
}


def of(kind, name):
    """The bytes of a damaged .npz that should hold an array of that name."""
    return NPZ[kind] if kind in NPZ else npz_of(f"{name}.npy", MEMBERS[kind])


# What lies in a run folder ------------------------------------------------------------------------------------------

CONFIG = {
    "no config": without("config"), "no fingerprint": without("fingerprint"), "no classes": without("num_classes"),
    "no channels": without("channels"), "config a list": put([], "config"),
    "section a text": put("x", "config", "data"),
    "unknown key": put(1, "config", "data", "exec"), "epochs 1e308": put(1e308, "config", "training", "epochs"),
    "epochs huge": put(2**62, "config", "training", "epochs"), "ls 1e308": put(1e308, "config", "training", "ls"),
    "width huge": put(2**40, "config", "model", "width"), "width 0": put(0, "config", "model", "width"),
    "model a path": put("../../x", "config", "model", "model"), "data a path": put("../../x", "config", "data", "data"),
    "data absolute": put("/etc/passwd", "config", "data", "data"), "aux a path": put("../x", "config", "data", "aux"),
    "seed -1": put(-1, "config", "seed"), "seed huge": put(2**40, "config", "seed"),
    "data_dir NUL": put("a\0b", "config", "data", "data_dir"), 
    "data_dir home": put("~nobody-here", "config", "data", "data_dir"),
    "classes a text": put("ten", "num_classes"), "classes null": put(None, "num_classes"),
    "classes huge": put(2**40, "num_classes"), "classes -1": put(-1, "num_classes"), "channels 0": put(0, "channels"),
    "channels huge": put(2**40, "channels"), "names HTML": put(["<script>"], "class_names"),
    "names a text": put("x", "class_names"), "names control": put(["\x1b[31m"] * 10, "class_names"),
    "from_torch a text": put("x", "from_torch"), "other fingerprint": put("x", "fingerprint"),
}  # fmt: skip

READERS = {
    "probe": ["run"], "attack": ["run", "--cut", "logits"], "cuts": ["run", "--no-latency"],
    "split": ["run", "out", "--cut", "fc"], "report": ["run"], "vortex": ["run"],
    "train": ["--run", "run", "--resume"],
}  # fmt: skip


# The tests ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with a finished run, and what else commands are pointed at."""
    home = tmp_path_factory.mktemp("malformed")
    tiny_runs.trained(home / "run")
    (home / "empty").mkdir()
    (home / "file").write_text("mine")
    (home / "data").mkdir()
    (home / "data" / "thesis.tex").write_text("mine")
    return home


@pytest.fixture(autouse=True)
def at_home(shared, monkeypatch):
    """In the shared folder, where nothing is trained and no file is made or lost."""
    monkeypatch.chdir(shared)
    monkeypatch.setattr("gpz_jax.training.sweep.fit", lambda *args, **kwargs: pytest.fail("it trained"))
    before = sorted(shared.rglob("*"))
    with jax.numpy_dtype_promotion("standard"):
        yield
    after = sorted(shared.rglob("*"))
    for path in set(after) - set(before):  # of one test, not of all that follow
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert after == before


def main_of(command):
    return importlib.import_module(f"gpz_jax.{command or '__main__'}").main


def rows(table, before=lambda command: []):
    """Rows of a table of flags, as parameters."""
    for command, calls in table.items():
        name, *given = command.split() or [""]
        for call in calls:
            words = [*(given or before(name)), *call.split(" ")] if call else [*(given or before(name))]
            yield pytest.param(name, words, id=f"{command} {call}"[:60].encode("ascii", "backslashreplace").decode())


@pytest.mark.parametrize(("command", "argv"), rows(FLAGS, lambda command: [] if command == "train" else ["run"]))
def test_flags(capsys, command, argv):
    refused(capsys, main_of(command), *argv)


@pytest.mark.parametrize(("command", "argv"), rows(BARE))
def test_what_is_no_run(capsys, command, argv):
    refused(capsys, main_of(command), *argv)


@pytest.mark.parametrize("other", [False, True], ids=["train", "other"])
@pytest.mark.parametrize("kind", TOML)
def test_settings_files(capsys, tmp_path, other, kind):
    command = ("attack" if "e" in kind else "probe") if other else "train"
    (tmp_path / "bad.toml").write_bytes(TOML[kind])
    given = [] if command == "train" else ["run"]
    refused(capsys, main_of(command), *given, "--config", tmp_path / "bad.toml")


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_pytorch(capsys, tmp_path, name):
    pytest.importorskip("safetensors")
    (tmp_path / name).write_bytes(WEIGHTS[name])
    refused(capsys, main_of("train"), "--width", 4, "--size", 16, "--from-torch", tmp_path / name)


@pytest.mark.parametrize("kind", [*NPZ, *MEMBERS])
def test_weights_of_lpips(capsys, tmp_path, kind):
    (tmp_path / "lpips.npz").write_bytes(of(kind, "conv1_w"))
    with pytest.raises(UserError, match=r"^[^\n]+$"):
        lpips.load(tmp_path / "lpips.npz")


@pytest.mark.parametrize("kind", [*NPZ, *MEMBERS])
def test_images(capsys, tmp_path, kind):
    (tmp_path / "bad.npz").write_bytes(of(kind, "train_images"))
    refused(capsys, main_of("train"), "--data", "bad", "--data-dir", tmp_path)


@pytest.fixture
def config(shared):
    """The run's config.json, put right again."""
    file = shared / "run" / "config.json"
    before = file.read_bytes()
    yield file
    file.write_bytes(before)


@pytest.mark.parametrize("kind", JSON)
@pytest.mark.parametrize("command", thinned(list(READERS), ["train", "cuts"]))
def test_a_config_that_is_none(capsys, config, command, kind):
    config.write_bytes(JSON[kind])
    refused(capsys, main_of(command), *READERS[command])


@pytest.mark.parametrize("kind", CONFIG)
@pytest.mark.parametrize("command", ["probe", "train"])
def test_a_config_with_a_lie(capsys, config, command, kind):
    value = json.loads(config.read_bytes())
    del value["check"]  # it would tell; this is of those who write their own
    CONFIG[kind](value)
    config.write_text(json.dumps(value))
    refused(capsys, main_of(command), *READERS[command])
