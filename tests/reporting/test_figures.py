"""Figures come out as images, from arrays alone."""

import ast
import pathlib

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import gpz_jax.reporting
from gpz_jax.analysis.probe_result import Probe
from gpz_jax.analysis.zone import Zone
from gpz_jax.reporting import figures


def readable(file):
    with Image.open(file) as image:
        image.load()
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("L"))
    assert pixels.std() > 1  # something is drawn
    return pixels.shape


def probed(seeds, *, rules=("paper", "null"), run="run", radius=(3.0, 0.5, 0.1)):
    radius = np.array(radius)
    nulls = np.tile(radius, (seeds, 1))
    with_nulls = np.array([0.1, 0.2, 0.9]) if seeds else np.full(3, np.nan)
    low = with_nulls + np.array([-0.1, 0.1, -0.1])  # an interval may miss its estimate
    zone = Zone("", ("b", "c"), "b", with_nulls, low, with_nulls + 0.2, "")
    return Probe(
        ("a", "b", "c"), ((3,), (3,), (3,)), np.ones(3, bool), np.array([5]), radius[:, None], radius, radius,
        np.array([0.9, 0.5, 0.1]), nulls, nulls / 3, dict.fromkeys(rules, zone), radius, radius, radius, "uint8",
        {"run": run, "split": "test"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        probed(2),
        probed(0, rules=("paper",)),
        probed(2, run="cost$5$\\bad{"),
        probed(2, radius=(1.0, 0.0, 0.0)),
        probed(2, radius=(0.0, 0.0, 0.0)),
    ],
    ids=["nulls", "no nulls", "a name that is no mathematics", "a radius of zero", "all radii zero"],
)
def test_probe_figure(tmp_path, record):
    figures.probe_figure(record, tmp_path / "p.png")
    readable(tmp_path / "p.png")


def test_probe_figure_with_more_seeds_shows_them(tmp_path):
    figures.probe_figure(probed(0), tmp_path / "a.png")
    figures.probe_figure(probed(2), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def dynamics(epochs, cuts):
    rng = np.random.default_rng(0)
    scalars = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    return xr.Dataset(
        {
            "within": (("epoch", "cut"), rng.uniform(0.1, 5, (epochs, cuts))),
            "rho": (("epoch", "cut"), rng.uniform(0, 1, (epochs, cuts))),
            **{name: ("epoch", rng.uniform(0, 1, epochs)) for name in scalars},
        },
        coords={"epoch": np.arange(1, epochs + 1), "cut": [f"cut {i}" for i in range(cuts)]},
    )


@pytest.mark.parametrize(("epochs", "cuts"), [(3, 2), (1, 12)])
def test_training_figure(tmp_path, epochs, cuts):
    figures.training_figure(dynamics(epochs, cuts), tmp_path / "t.png")
    readable(tmp_path / "t.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_reconstruction_grid_has_a_row_for_each_cut(tmp_path, channels):
    images = np.random.default_rng(0).uniform(0, 1, (4, 8, 8, channels)).astype(np.float32)
    figures.reconstruction_grid(images, {"logits": images}, tmp_path / "one.png")
    figures.reconstruction_grid(images, {"fc": images, "logits": images}, tmp_path / "two.png")
    one, two = readable(tmp_path / "one.png"), readable(tmp_path / "two.png")
    assert two[0] > one[0]
    assert two[1] == one[1]


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_a_row_of_fewer_reconstructions_ends_early(tmp_path, count):
    """The likelihood attack is run on the first images alone; and none of a row's is drawn without its original."""
    images = np.random.default_rng(0).uniform(0, 1, (5, 8, 8, 1)).astype(np.float32)
    rows = {"linear": images[:4], "likelihood": images[:count]}
    figures.reconstruction_grid(images[:4], {"linear": images[:4], "again": images[:4]}, tmp_path / "whole.png")
    figures.reconstruction_grid(images[:4], rows, tmp_path / "short.png")
    assert readable(tmp_path / "short.png") == readable(tmp_path / "whole.png")


def test_reporting_imports_nothing_that_starts_a_device():
    for file in pathlib.Path(gpz_jax.reporting.__path__[0]).glob("*.py"):
        tree = ast.parse(file.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        allowed = ("gpz_jax.reporting", "gpz_jax.presentation", "gpz_jax.terminal", "gpz_jax.errors", "gpz_jax.atomic")
        allowed += ("gpz_jax.inversion.results", "gpz_jax.inversion.verdict", "gpz_jax.inversion.guarantee_result")
        ours = {name for name in names if name.startswith("gpz_jax") and not name.startswith(allowed)}
        assert not ours, file.name
        assert not {name.split(".")[0] for name in names} & {"jax", "jaxlib", "flax", "optax", "orbax"}, file.name
