"""Figures and tables of the ledger are drawn of whatever a run can have kept."""

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from gpz_jax.reporting import vortex
from gpz_jax.training.dynamics import PARAMETER_TERMS, VARIABLES


def curves(steps=30, layers=3, turn=None, scale=1.0, full=True):
    """What ``workflow.vortex.over_ledger`` returns, of random numbers."""
    rng = np.random.default_rng(0)
    sizes = {"step": steps, "layer": layers, "class": 4, "output": 4, "interference_layer": 1}
    data = {}
    for name, variable in VARIABLES.items():
        dims = ("step", *(dim for dim in variable.dims if dim != "class" or name == "interference"))
        data[name] = (dims, scale * rng.normal(size=[sizes[dim] for dim in dims]))
    for name in ("radius", "within"):
        data[name] = (data[name][0], np.abs(data[name][1]))
    if not full:
        data = {name: values for name, values in data.items() if name not in PARAMETER_TERMS}
    names = [f"layer_{i}$x^2" for i in range(layers)]  # a name is not mathematics
    coords = {"step": np.arange(steps), "layer": names, "interference_layer": names[:1]}
    return xr.Dataset(data, coords, {"turn": turn, "few": []})


CASES = {
    "plain": {"r": curves()},
    "turn": {"r": curves(turn=10)},
    "one step": {"r": curves(steps=1, turn=0)},
    "many layers": {"r": curves(layers=56)},
    "reverse smoothing": {"r": curves(scale=1e30)},
    "nothing moves": {"r": curves(scale=0.0)},
    "feature only": {"r": curves(full=False)},
    "five runs": {f"run_{i}": curves(turn=i) for i in range(5)},
}


@pytest.mark.parametrize("case", CASES)
def test_every_figure_is_drawn(case, tmp_path):
    found = CASES[case]
    layer = str(next(iter(found.values())).layer.values[0])
    vortex.overview_figure(found, tmp_path / "overview.png")
    vortex.terms_figure(found, [layer], tmp_path / "terms.png")
    vortex.interference_figure(found, tmp_path / "interference.png")
    vortex.ledger_figure(found, layer, tmp_path / "ledger.png")
    for file in tmp_path.iterdir():
        with Image.open(file) as image:
            image.load()
            assert np.asarray(image).std() > 1  # something is on it
    assert len(list(tmp_path.iterdir())) == 4


def test_the_sign_change_is_marked_where_it_is(tmp_path, monkeypatch):
    found, new = [], vortex.new_figure
    monkeypatch.setattr(vortex, "new_figure", lambda *a: found.append(new(*a)) or found[-1])
    vortex.terms_figure({"r": curves(turn=12)}, ["layer_0$x^2"], tmp_path / "t.png")
    vortex.terms_figure({"r": curves()}, ["layer_0$x^2"], tmp_path / "t.png")
    marks = [[line.get_xdata()[0] for line in axes[0, 0].lines if line.get_linestyle() == ":"] for _, axes in found]
    assert marks == [[12], []]


def test_the_running_mean_keeps_a_constant_and_the_ends():
    np.testing.assert_allclose(vortex._smooth(np.full(200, 3.0)), 3.0)
    assert len(vortex._smooth(np.arange(7.0))) == 7
