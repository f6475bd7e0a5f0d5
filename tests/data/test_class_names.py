"""Names of classes: from folders, .npz files and text files to config.json and the tables, as text and nothing else."""

import io
import json

import numpy as np
import pytest
import tiny_runs
from PIL import Image
from rich.console import Console

from gpz_jax import runs
from gpz_jax.config import Config
from gpz_jax.data.class_names import checked_names
from gpz_jax.data.sources import fingerprint, from_arrays, load
from gpz_jax.errors import UserError
from gpz_jax.inversion.results import (
    AttackResult,
    Attempt,
    Floors,
    Intervals,
    LeakedClass,
    LeakedImage,
    Leaks,
    PerImage,
    Scores,
    Training,
)
from gpz_jax.reporting.attack_table import leak_table

NAMES = ("[red]x", "<script>")


def arrays(**more):
    images = np.arange(8 * 4, dtype=np.uint8).reshape(8, 2, 2, 1)
    labels = np.arange(8) % 2
    return {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels, **more}


def one_line(call, *args, **kwargs):
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).isprintable()
    return str(error.value)


REFUSED = {
    "too few": (["cat"], "1 class names for 2 classes"),
    "too many": (["a", "b", "c"], "3 class names for 2 classes"),
    "twice": (["cat", "cat"], "'cat' names classes 0 and 1"),
    "empty": (["cat", ""], "the name of class 1 is empty"),
    "blank": ([" ", "cat"], "the name of class 0 is empty"),
    "bell": (["cat\x07", "dog"], r"'cat\x07', has control characters"),
    "escape": (["\x1b[31mcat", "dog"], "has control characters"),
    "two lines": (["cat\ncow", "dog"], "has control characters"),
    "turned round": (["cat\u202egnp", "dog"], "has control characters"),
    "half a character": (["cat\udc80", "dog"], "has control characters"),
    "numbers": ([1, 2], "no text but int"),
}


@pytest.mark.parametrize(("names", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line(names, message):
    said = one_line(from_arrays, "pets", **arrays(class_names=names))
    assert message in said
    assert said.startswith("data set 'pets': ")


def test_names_of_any_script_are_kept_as_they_are():
    names = ("größe 1", "دسته\u200cها")
    assert checked_names(names, 2, "here") == names


def test_npz_holds_names_and_they_are_not_the_data(tmp_path):
    np.savez(tmp_path / "pets.npz", **arrays(class_names=np.array(NAMES)))
    np.savez(tmp_path / "same.npz", **arrays())
    named, bare = load("pets", tmp_path), load("same", tmp_path)
    assert named.class_names == NAMES
    assert bare.class_names is None
    assert fingerprint(named) == fingerprint(bare)
    assert load("pets", tmp_path, auxiliary=True).class_names is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (np.array([b"a", b"b"]), "must be unicode strings"),
        (np.array([["a", "b"]]), "must be unicode strings"),
        (np.array([0, 1]), "must be unicode strings"),
        (np.array(["a", "b"], object), "pickled Python objects, which are never loaded"),
        (np.array(["a", "a"]), "names classes 0 and 1"),
    ],
)
def test_npz_with_bad_names(tmp_path, names, message):
    np.savez(tmp_path / "pets.npz", **arrays(class_names=names))
    said = one_line(load, "pets", tmp_path)
    assert message in said
    assert "pets.npz" in said


def test_names_in_a_text_file_beside_the_npz(tmp_path):
    np.savez(tmp_path / "pets.npz", **arrays())
    (tmp_path / "classes.txt").write_bytes("\ufeff[red]x\r\n<script>\r\n\r\n".encode())
    assert load("pets", tmp_path).class_names == NAMES
    np.savez(tmp_path / "others.npz", **arrays())
    assert load("pets", tmp_path).class_names is None  # it might be the other's
    (tmp_path / "pets.classes.txt").write_text("cat\ndog\n")
    assert load("pets", tmp_path).class_names == ("cat", "dog")
    np.savez(tmp_path / "pets.npz", **arrays(class_names=np.array(["inside", "wins"])))
    assert load("pets", tmp_path).class_names == ("inside", "wins")


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"cat\n", "1 class names"), (b"", "0 class names"), (b"a\n\nb", "3 class names"), (b"\xff\n", "UTF-8")],
)
def test_a_bad_text_file(tmp_path, text, message):
    np.savez(tmp_path / "pets.npz", **arrays())
    (tmp_path / "pets.classes.txt").write_bytes(text)
    said = one_line(load, "pets", tmp_path)
    assert message in said
    assert "pets.classes.txt" in said


def test_folders_of_images_name_their_classes(tmp_path):
    for part in ("train", "test"):
        for name in NAMES:
            (tmp_path / "f" / part / name).mkdir(parents=True)
            Image.new("L", (2, 2)).save(tmp_path / "f" / part / name / "0.png")
    assert load("f", tmp_path).class_names == tuple(sorted(NAMES))


def test_bundled_digits_have_no_names():
    assert load("digits").class_names is None


# In a run folder, and in tables ---------------------------------------------------------------------------------------


def start(folder, names):
    with runs.start(
        Config(), folder=str(folder), resume=False, fingerprint="f", num_classes=2, channels=1, class_names=names
    ) as run:
        return run


def test_config_json_keeps_them_and_runs_of_before_have_none(tmp_path):
    run = start(tmp_path / "r", NAMES)
    file = tmp_path / "r" / "config.json"
    written = json.loads(file.read_text())
    assert written["class_names"] == list(NAMES)
    assert runs.open_run(tmp_path / "r") == run
    del written["class_names"], written["check"]
    file.write_text(json.dumps(written))
    assert runs.open_run(tmp_path / "r").class_names is None
    start(tmp_path / "bare", None)
    assert json.loads((tmp_path / "bare" / "config.json").read_text())["class_names"] is None


@pytest.mark.parametrize("names", [["a"], "ab", [1, 2], ["a", "\x1b[31m"], {"a": 1, "b": 2}])
def test_a_config_json_with_other_names_is_refused(tmp_path, names):
    start(tmp_path / "r", NAMES)
    tiny_runs.change_json(tmp_path / "r" / "config.json", class_names=names)
    assert "class_names must be" in one_line(runs.open_run, tmp_path / "r")


def printed(names):
    none, image = np.zeros(0), (LeakedImage(7, 1, 0.5),)
    leaks = Leaks(image, image, (LeakedClass(0, 4, 0.25),), (LeakedClass(1, 4, 0.75),))
    training = Training(np.ones(5), 1, True, 0.0, {}, "")
    scored = Scores(mse=0.5), Intervals(), Floors(), PerImage(none, none, none, none, none)
    result = AttackResult("fc", (3,), (Attempt("linear", 9, *scored, 1.0, leaks, training, 1),))
    console = Console(file=io.StringIO(), width=150, force_terminal=True)
    console.print(leak_table("leaks", [result], class_names=names))
    return console.file.getvalue()


def test_tables_show_names_as_they_are_and_numbers_without():
    text = printed(NAMES)
    assert "7 (<script>): 0.5" in text
    assert "[red]x: 0.25" in text
    assert "\x1b[31m" not in text  # no markup of theirs
    text = printed(None)
    assert "7 (1): 0.5" in text
    assert "0: 0.25" in text
