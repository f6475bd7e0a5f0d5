"""Figures and tables of the ledger are drawn of whatever a run can have kept."""

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from thinned import thinned

from gpz_jax.reporting import ledger_figures
from gpz_jax.runs.steps import PARAMETER_TERMS, VARIABLES


def curves(steps=30, cuts=3, turn=None, scale=1.0, full=True):
    """What ``attribution.over_ledger`` returns, of random numbers."""
    rng = np.random.default_rng(0)
    sizes = {"step": steps, "cut": cuts, "class": 4, "output": 4, "interference_cut": 1}
    data = {}
    for name, variable in VARIABLES.items():
        dims = ("step", *(dim for dim in variable.dims if dim != "class" or name == "interference"))
        data[name] = (dims, scale * rng.normal(size=[sizes[dim] for dim in dims]))
    for name in ("radius", "within"):
        data[name] = (data[name][0], np.abs(data[name][1]))
    if not full:
        data = {name: values for name, values in data.items() if name not in PARAMETER_TERMS}
    names = [f"cut_{i}$x^2" for i in range(cuts)]  # a name is not mathematics
    coords = {"step": np.arange(steps), "cut": names, "interference_cut": names[:1]}
    return xr.Dataset(data, coords, {"turn": turn, "few": []})


CASES = {
    "plain": {"r": curves()},
    "turn": {"r": curves(turn=10)},
    "one step": {"r": curves(steps=1, turn=0)},
    "many cuts": {"r": curves(cuts=56)},
    "reverse smoothing": {"r": curves(scale=1e30)},
    "nothing moves": {"r": curves(scale=0.0)},
    "feature only": {"r": curves(full=False)},
    "five runs": {f"run_{i}": curves(turn=i) for i in range(5)},
}


@pytest.mark.parametrize("case", thinned(list(CASES), ["turn", "feature only"]))
def test_every_figure_is_drawn(case, tmp_path):
    found = CASES[case]
    cut = str(next(iter(found.values())).cut.values[0])
    ledger_figures.overview_figure(found, tmp_path / "overview.png")
    ledger_figures.terms_figure(found, [cut], tmp_path / "terms.png")
    ledger_figures.interference_figure(found, tmp_path / "interference.png")
    ledger_figures.ledger_figure(found, cut, tmp_path / "ledger.png")
    for file in tmp_path.iterdir():
        with Image.open(file) as image:
            image.load()
            assert np.asarray(image).std() > 1  # something is on it
    assert len(list(tmp_path.iterdir())) == 4


def test_the_sign_change_is_marked_where_it_is(tmp_path, monkeypatch):
    found, new = [], ledger_figures.new_figure
    monkeypatch.setattr(ledger_figures, "new_figure", lambda *a: found.append(new(*a)) or found[-1])
    ledger_figures.terms_figure({"r": curves(turn=12)}, ["cut_0$x^2"], tmp_path / "t.png")
    ledger_figures.terms_figure({"r": curves()}, ["cut_0$x^2"], tmp_path / "t.png")
    marks = [
        [line.get_xdata()[0] for line in axes[0, 0].lines if line.get_linestyle() == ":" and len(line.get_xdata())]
        for _, axes in found
    ]
    assert marks == [[12], []]


def test_classes_have_their_names_where_these_can_be_read(tmp_path, monkeypatch):
    found, new = [], ledger_figures.new_figure
    monkeypatch.setattr(ledger_figures, "new_figure", lambda *a: found.append(new(*a)) or found[-1])
    names = ["$x_{", "b", "[c]", "d"]
    ledger_figures.interference_figure({"r": curves().assign_attrs(class_names=names)}, tmp_path / "i.png")
    assert [label.get_text() for label in found[0][1][0, 0].get_yticklabels()] == names


def test_the_running_mean_keeps_a_constant_and_the_ends():
    np.testing.assert_allclose(ledger_figures._smooth(np.full(200, 3.0)), 3.0)
    assert len(ledger_figures._smooth(np.arange(7.0))) == 7
