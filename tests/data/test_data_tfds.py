"""TensorFlow Datasets for real: its own builders, given a few images, prepared in a temporary folder and read by name.

Skipped where the extra is not installed: pip install 'gpz-jax[tfds]'.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import gpz_jax
from gpz_jax.data.sources import TFDS_NAMES, fingerprint, load

tfds = pytest.importorskip("tensorflow_datasets", reason="needs the extra: pip install 'gpz-jax[tfds]'")
pytest.importorskip("tensorflow", reason="preparing needs TensorFlow: pip install 'gpz-jax[tfds]'")

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own

COUNTS = {"train": 52, "test": 26}


def face(i):
    """A CelebA image whose centre square is a ramp that JPEG hardly changes, white above and below."""
    image = np.full((218, 178, 3), 255, np.uint8)
    image[20:198] = np.linspace(0, 100 + i, 178)[:, None, None]
    return image


def record(name, rng, split, i):
    """An example with every feature of the real data set."""
    if name == "celeb_a":
        features = tfds.builder("celeb_a", data_dir="nowhere").info.features
        rest = {key: dict.fromkeys(features[key], 0) for key in features if key != "image"}
        who = {"Identity_No": i // 2 + (1000 if split == "test" else 0)}
        return rest | {
            "image": face(i),
            "attributes": dict.fromkeys(features["attributes"], False) | {"Male": i % 4 > 1},
            "identity": who,
        }
    image = rng.integers(0, 256, (32, 32, 3) if name == "cifar10" else (28, 28, 1), dtype=np.uint8)
    label = 1 + i % 26 if name == "emnist_letters" else i % 10
    return {"image": image, "label": label} | ({"id": f"{split}_{i}"} if name == "cifar10" else {})


@pytest.fixture
def few(monkeypatch):
    """Have the builder of a data set make a few images instead of downloading many; return these."""

    def make(name):
        rng = np.random.default_rng(0)
        made = {split: [record(name, rng, split, i) for i in range(n)] for split, n in COUNTS.items()}
        builder = tfds.builder_cls(TFDS_NAMES[name].split("/")[0])
        monkeypatch.setattr(builder, "_split_generators", lambda self, _: {s: enumerate(made[s]) for s in made})
        return made

    return make


def files_below(folder):
    return {path.name.split(".")[-1].split("-")[0] for path in folder.rglob("*-of-*")}


@pytest.mark.parametrize("name", TFDS_NAMES)
def test_each_data_set_is_prepared_and_read(tmp_path, few, name):
    made = few(name)
    source = load(name, tmp_path)
    assert files_below(tmp_path / "tfds") == {"array_record"}
    assert source.num_classes == {"celeb_a": 2, "emnist_letters": 26}.get(name, 10)
    if name == "celeb_a":
        return check_faces(source)
    # TFDS shuffles what it writes, so every image is looked for.
    for split, images, labels in (
        ("train", source.train_images, source.train_labels),
        ("test", source.test_images, source.test_labels),
    ):
        read = {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
        assert len(read) == len(images) == COUNTS[split]
        for one in made[split]:
            image, label = one["image"], one["label"]
            if name == "emnist_letters":
                image, label = np.rot90(image[:, ::-1]), label - 1  # a transposition, said otherwise
            assert read[image.tobytes()] == label


def check_faces(source):
    assert source.train_images.shape == (52, 64, 64, 3)
    # The lowest row tells the images apart, and with them whose they are and the label.
    order = np.argsort(source.train_images[:, -1].astype(int).sum((1, 2)))
    np.testing.assert_array_equal(source.train_labels[order], np.arange(52) % 4 > 1)
    together = source.train_group[order]
    np.testing.assert_array_equal(together[:, None] == together, np.arange(52)[:, None] // 2 == np.arange(52) // 2)
    for i, image in enumerate(source.train_images[order]):
        square = Image.fromarray(face(i)[20:198]).resize((64, 64), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(image, np.asarray(square), atol=4)  # JPEG


@pytest.mark.parametrize("name", ["mnist", "celeb_a"])
def test_what_others_prepared_as_tfrecord_is_the_same_data(tmp_path, few, name):
    few(name)
    ours = load(name, tmp_path / "ours")
    tfds.builder(name, data_dir=tmp_path / "theirs" / "tfds", file_format="tfrecord").download_and_prepare()
    theirs = load(name, tmp_path / "theirs")
    assert files_below(tmp_path / "theirs") == {"tfrecord"}
    if name == "celeb_a":  # two decoders of JPEG
        np.testing.assert_allclose(theirs.train_images, ours.train_images, atol=4)
        np.testing.assert_array_equal(theirs.train_labels, ours.train_labels)
        np.testing.assert_array_equal(theirs.train_group, ours.train_group)
    else:
        assert fingerprint(theirs) == fingerprint(ours)


WITHOUT_TENSORFLOW = '''
import importlib.machinery, json, sys

class Hiding(importlib.machinery.PathFinder):
    """As if TensorFlow were not installed."""

    @classmethod
    def find_spec(cls, name, *rest):
        return None if name.split(".")[0] == "tensorflow" else super().find_spec(name, *rest)

sys.meta_path = [Hiding if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
from gpz_jax.data.sources import fingerprint, load
from gpz_jax.errors import UserError
found = {}
for folder in sys.argv[2:]:
    try:
        found[folder] = fingerprint(load(sys.argv[1], folder))
    except UserError as error:
        found[folder] = str(error)
assert "tensorflow" not in sys.modules
print(json.dumps(found))
'''


def test_array_records_are_read_without_tensorflow_and_all_else_is_one_line(tmp_path, few):
    few("emnist_letters")
    ours, theirs, none = (tmp_path / name for name in ("ours", "theirs", "none"))
    with_it = fingerprint(load("emnist_letters", ours))
    tfds.builder("emnist/letters", data_dir=theirs / "tfds", file_format="tfrecord").download_and_prepare()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, "emnist_letters", ours, theirs, none],
        capture_output=True, text=True, check=True, cwd=pathlib.Path(gpz_jax.__file__).parents[1],
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found[str(ours)] == with_it
    for folder in (theirs, none):
        assert found[str(folder)] == (
            f"data set 'emnist_letters' is not in {folder} as an ArrayRecord of TensorFlow Datasets; to prepare it, or "
            "to read another format, needs TensorFlow: pip install 'gpz-jax[tfds]'"
        )
