"""Imports go downward only, importing starts nothing, and the public names are what they say."""

import ast
import inspect
import json
import pathlib
import subprocess
import sys

import pytest

import gpz_jax

PACKAGE = pathlib.Path(gpz_jax.__file__).parent

#: From the ground up; a layer imports only layers below it, and within itself as it likes.
LAYERS = [
    ["terminal", "presentation", "last_words"],
    ["liveness", "interruption"],
    ["errors"],
    ["config", "settings_files", "json_files", "seeds", "atomic"],
    ["compile_cache"],
    ["taps", "targets", "convolutions", "parallel", "processes", "memory", "flags", "compile_log"],
    ["taps_nnx"],
    ["data"],
    ["models"],
    ["analysis"],
    ["defences"],
    ["inversion"],
    ["deployment"],
    ["runs"],
    ["training"],
    ["reporting"],
    ["workflow"],
    ["train", "probe", "attack", "split", "cuts", "vortex", "report"],
    ["__main__", "_begun"],
]
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}

#: Narrower than the order of layers: what these know of the rest of the package.
ONLY = {
    "config": {"errors"},
    "settings_files": {"config", "errors"},
    "json_files": {"errors"},
    "atomic": {"errors"},
    "interruption": {"last_words"},
    "flags": {"config", "settings_files", "errors"},
    "convolutions": set(),
    "models": {"models", "convolutions", "taps", "errors"},
    "analysis": {"analysis", "parallel", "memory", "presentation", "seeds", "taps", "targets", "config", "errors"},
    "inversion": {
        "inversion",
        "presentation",
        "seeds",
        "data",
        "convolutions",
        "taps",
        "targets",
        "defences",
        "parallel",
        "memory",
        "settings_files",
        "config",
        "errors",
    },
    "deployment": {"deployment", "analysis", "parallel", "taps", "json_files", "atomic", "errors"},
    "runs": {
        "parallel",
        "processes",
        "compile_cache",
        "terminal",
        "atomic",
        "runs",
        "analysis",
        "inversion",
        "presentation",
        "config",
        "settings_files",
        "json_files",
        "errors",
    },
    "reporting": {"atomic", "reporting", "inversion", "presentation", "terminal", "config", "errors"},
}


def part_of(path):
    """``gpz_jax/analysis/radius.py`` -> ``analysis``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(source):
    """Full names of what a module imports anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "import by full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_file_has_its_layer():
    assert {part_of(path) for path in FILES} == set(HEIGHT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    here = part_of(path)
    for name in imported(path.read_text()):
        top, _, rest = name.partition(".")
        if top != "gpz_jax":
            continue
        there = rest.split(".")[0]
        assert there in HEIGHT, f"{name}: import the module that defines it, not the package"
        assert there == here or HEIGHT[there] < HEIGHT[here], f"{here} imports {name}, which is above it"
        assert there in ONLY.get(here, HEIGHT), f"{here} must not know of {there}"


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) == "reporting"], ids=lambda path: path.name)
def test_reporting_needs_no_device(path):
    assert not {name.split(".")[0] for name in imported(path.read_text())} & {"jax", "jaxlib", "flax", "optax"}


HEAVY = [
    "tensorflow",
    "tensorflow_datasets",
    "torch",
    "matplotlib",
    "sklearn",
    "orbax",
    "xarray",
    "zarr",
    "tyro",
    "PIL",
    "scipy",
    "jinja2",
    "s3fs",
    "gcsfs",
]

SCRIPT = """
import json, sys
import jax
import gpz_jax
from jax._src import xla_bridge
print(json.dumps({"backends": list(xla_bridge._backends), "modules": sorted(sys.modules)}))
jax.devices()
print(json.dumps({"backends": list(xla_bridge._backends)}))
"""


def test_importing_starts_no_device_and_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    before, after = map(json.loads, done.stdout.splitlines())
    assert done.stderr == ""
    assert before["backends"] == []
    assert after["backends"] == ["cpu"]  # so that the line above can fail
    top = {name.split(".")[0] for name in before["modules"]}
    assert {"jax", "flax", "gpz_jax"} <= top
    assert not top & set(HEAVY)
    assert "flax.nnx" not in before["modules"]  # a tenth of a second, for those who tap NNX models


def test_public_names():
    order = sorted(set(gpz_jax.__all__), key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert list(gpz_jax.__all__) == order  # CONSTANTS, Classes, functions, as ruff sorts them
    public = {n for n, v in vars(gpz_jax).items() if not n.startswith("_") and not inspect.ismodule(v)}
    assert public == set(gpz_jax.__all__)
    assert gpz_jax.__doc__


@pytest.mark.parametrize("name", gpz_jax.__all__)
def test_public_names_exist_and_are_documented(name):
    found = getattr(gpz_jax, name)
    text = inspect.getdoc(found)
    assert text
    assert not text.startswith(f"{name}(")  # what dataclass writes where nobody did
    assert found.__module__.startswith("gpz_jax.")
