"""The tracker in anyone's own loop: the numbers of a run's ledger, any model and optimiser, a record that survives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from flax import nnx

import gpz_jax
from gpz_jax import parallel, runs
from gpz_jax.config import Config, DataConfig, ModelConfig, TrackConfig, TrainingConfig, resolve
from gpz_jax.data.sources import load
from gpz_jax.data.splits import balanced_subset, make_splits
from gpz_jax.errors import UserError
from gpz_jax.training import classifier, ledger, sweep

K, GAMMA = 3, 0.1
X = jax.random.normal(jax.random.key(0), (30, 5))
LABELS = jnp.arange(30, dtype=jnp.int32) % K
TARGETS = jnp.where(jax.nn.one_hot(LABELS, K) > 0, 0.7, 0.15)


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        yield


class Net(nn.Module):
    """A model of the user's own, with batch norm (and no bias before it, which Adam would move by rounding alone)."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(not train, momentum=0.9, name="norm")(nn.Dense(4, use_bias=False, name="hidden")(x))
        return nn.Dense(K, name="head")(nn.relu(x))


MODEL = Net()
START = MODEL.init(jax.random.key(1), X)
NETWORK = gpz_jax.tap(MODEL, START, X, train=False)


@jax.jit
def a_step(variables, state):
    """Adam on the whole batch: variables after it, the optimiser's state, and the parts of the gradient."""

    def logits_of(params):
        return MODEL.apply({**variables, "params": params}, X, train=True, mutable=["batch_stats"])

    parts = gpz_jax.gradient_parts(lambda params: logits_of(params)[0], variables["params"], LABELS, TARGETS)
    updates, state = optax.adam(GAMMA).update(jax.tree.map(jnp.add, *parts), state)
    params = optax.apply_updates(variables["params"], updates)
    return {"params": params, **logits_of(variables["params"])[1]}, state, parts


@pytest.fixture(scope="module")
def taken():
    """Eight steps: (before, after, parts) each."""
    variables, state, found = START, optax.adam(GAMMA).init(START["params"]), []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(8):
            after, state, parts = a_step(variables, state)
            found.append((variables, after, parts))
            variables = after
    return found


def tracker(**changed):
    return gpz_jax.Tracker(NETWORK, (X, LABELS), K, **changed)


def track(kept, steps, **given):
    for before, after, parts in steps:
        kept.step(before, after, parts, **{"alpha": 0.3, "step_size": GAMMA, **given})
    return kept


# The numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_in_a_runs_own_loop_it_has_the_numbers_of_the_runs_ledger(tmp_path):
    config = resolve(
        Config(
            DataConfig(size=16),
            ModelConfig(width=4, dtype="float32"),
            TrainingConfig(ls=0.3, epochs=1),
            TrackConfig(track_every=3, probe_size=40),
        )
    )
    dealt, mesh = make_splits(load("digits"), seed=0), parallel.data_mesh()
    recipe = classifier.recipe_for(config, 10, 1)
    network = classifier.network_for(recipe, 1)
    probe = parallel.shard(balanced_subset(dealt.train, 40, seed=0).take(), mesh)
    tracked = ledger.Tracked(network, recipe, True, ("fc",))
    layout = runs.Layout(network.cuts, (256, 128, 64, 32, 50, 10), [4] * 10, ("fc",), tracked.variables, {})
    kept = ledger.Ledger(runs.StepRecord.open(tmp_path, layout, keep_steps=0), tracked, probe, mesh)
    ours, append = gpz_jax.Tracker(network, probe, 10, every=3), sweep.append_rows([kept], "loop")
    parts_of_step = jax.jit(ledger.parts_of_step, static_argnames=("recipe", "mesh"))

    def on_update(epoch, step, before, batch, after):
        append(epoch, step, before, batch, after)
        one = (*batch[:2], batch[2][0], batch[3], batch[4][0], batch[5][0])
        parts = parts_of_step(before[0], one, recipe=recipe, mesh=mesh)
        given = {"alpha": one[4], "step_size": recipe.lr * before[0].plateau.scale, "epoch": epoch}
        ours.next_step = step  # the loop calls at the steps that are kept alone
        ours.step(before[0].variables, after[0][0].variables, parts, **given)

    sweep.fit(
        [classifier.init_state(jax.random.key(0), recipe, 1)], recipe=recipe, configs=[config], train=[dealt.train],
        validation=[dealt.validation], mesh=mesh, after_epoch=lambda *_: kept.flush(), on_update=on_update,
    )  # fmt: skip
    found, expected = ours.to_xarray(), runs.read_steps(tmp_path)
    assert found.step.values.tolist() == [0, 3, 6]
    assert list(found.data_vars) == [name for name in runs.VARIABLES]
    assert set(found.coords) == set(expected.coords)
    for name in found.coords:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    for name, values in expected.data_vars.items():  # of two programs, which may round differently
        assert found[name].dims == values.dims
        assert found[name].attrs == values.attrs
        scale = float(np.abs(values).max())
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4 * scale, err_msg=name)


def test_the_parts_add_up_and_the_next_radius_is_this_one_plus_what_happened(taken):
    found = track(tracker(), taken).to_xarray()
    total = found.optimiser + found.statistics + found.residual
    np.testing.assert_allclose(found.realised, total, atol=1e-5 * float(np.abs(found.realised).max()))
    np.testing.assert_allclose(found.radius[1:], found.radius[:-1].values + found.realised[:-1].values, rtol=1e-4)
    np.testing.assert_allclose(found.within / (found.within + found.between), found.rho, rtol=1e-5)


@pytest.mark.slow
def test_an_nnx_model_in_its_own_loop(taken):
    class Twin(nnx.Module):
        def __init__(self, rngs):
            self.hidden, self.norm = (
                nnx.Linear(5, 4, use_bias=False, rngs=rngs),
                nnx.BatchNorm(4, momentum=0.9, rngs=rngs),
            )
            self.head = nnx.Linear(4, K, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.norm(self.hidden(x))))

    model = Twin(nnx.Rngs(0))
    for mine, theirs in (("hidden", "kernel"), ("head", "kernel"), ("head", "bias")):
        getattr(getattr(model, mine), theirs)[...] = START["params"][mine][theirs]
    network, _ = gpz_jax.tap_nnx(model, X)
    optimiser = nnx.Optimizer(model, optax.adam(GAMMA), wrt=nnx.Param)
    kept = gpz_jax.Tracker(network, (X, LABELS), K)

    def loss_of(model):
        return jnp.mean(gpz_jax.cross_entropy(model(X), TARGETS))

    for _ in range(3):
        before = jax.tree.map(jnp.copy, nnx.state(model))
        optimiser.update(model, nnx.grad(loss_of)(model))
        kept.step(before, nnx.state(model), alpha=0.3, step_size=GAMMA)
    found, expected = kept.to_xarray(), track(tracker(), taken[:3]).to_xarray()
    assert "parameter_correct" not in found
    for name in ("radius", "realised", "optimiser", "statistics", "feature_correct", "coefficient", "interference"):
        scale = float(np.abs(expected[name]).max())
        np.testing.assert_allclose(found[name], expected[name], atol=2e-3 * scale, err_msg=name)
    with pytest.raises(UserError, match=r"same arrays.*of an NNX model take a copy before it: jax.tree.map"):
        kept.step(nnx.state(model), nnx.state(model), alpha=0.3, step_size=GAMMA)


# What is given decides what is kept ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_given_decides_what_is_kept(taken):
    before, after, parts = taken[0]
    always = {"radius", "within", "between", "rho", "decision_bound", "output_entropy", "accuracy", "realised"}
    moved = {"optimiser", "statistics", "residual"}
    outputs = {"coefficient", "past_flip", "loss"}
    feature = {"feature_correct", "feature_wrong", "feature_second", "interference", "step_size"}
    cases = [
        ({}, always | moved),
        ({"alpha": 0.3}, always | moved | outputs | {"alpha"}),
        ({"targets": TARGETS}, always | moved | outputs),
        ({"targets": TARGETS, "step_size": GAMMA}, always | moved | outputs | feature),
        (
            {"parts": parts, "step_size": GAMMA},
            always | moved | {"step_size", "parameter_correct", "parameter_wrong"},
        ),
        ({"alpha": 0.3, "step_size": GAMMA, "epoch": 2}, always | moved | outputs | feature | {"alpha", "epoch"}),
    ]
    whole = track(tracker(), taken[:1]).to_xarray()
    for given, names in cases:
        kept = tracker()
        kept.step(before, after, **given)
        found = kept.to_xarray()
        assert set(found.data_vars) == names
        for name in names & set(whole.data_vars):
            scale = float(np.abs(whole[name]).max())
            np.testing.assert_allclose(found[name], whole[name], rtol=1e-4, atol=1e-5 * scale, err_msg=name)
    kept = track(tracker(parameter_terms=False), [(before, after, None)])
    assert set(kept.to_xarray().data_vars) == always | outputs | feature | {"alpha"}


def test_one_step_in_so_many_from_a_first_step(taken):
    whole, kept = track(tracker(), taken).to_xarray(), tracker(every=3, first_step=2)
    due = []
    for before, after, parts in taken[2:]:
        due.append(kept.due)
        kept.step(before, after, parts if kept.due else None, alpha=0.3, step_size=GAMMA)
    assert due == [False, True, False, False, True, False]
    found = kept.to_xarray()
    assert found.step.values.tolist() == [3, 6]
    assert kept.kept == 2
    xr.testing.assert_allclose(found.drop_attrs(), whole.sel(step=[3, 6]).drop_attrs())
    assert found.attrs == {"schema_version": 2, "images": 30, "track_every": 3}


def test_masked_images_are_not_there(taken):
    mask = np.arange(30) < 24
    kept = gpz_jax.Tracker(NETWORK, (X, LABELS, mask), K)
    few = gpz_jax.Tracker(NETWORK, (X[:24], LABELS[:24]), K)
    xr.testing.assert_identical(track(kept, taken[:1]).to_xarray(), track(few, taken[:1]).to_xarray())


def test_interference_where_it_is_asked_for(taken):
    found = track(tracker(interference=("hidden", "logits")), taken[:1]).to_xarray()
    assert found.interference_cut.values.tolist() == ["hidden", "logits"]
    own = np.diagonal(found.interference.values, axis1=2, axis2=3)
    np.testing.assert_allclose(own, found.feature_correct.sel(cut=["hidden", "logits"]), rtol=1e-3, atol=1e-6)


# The record ----------------------------------------------------------------------------------------------------------


def test_the_record_is_what_to_xarray_says_however_often_it_is_appended_to(taken, tmp_path, monkeypatch):
    monkeypatch.setattr("gpz_jax.runs.CHUNK", 3)
    kept = tracker()
    for i, one in enumerate(taken):
        track(kept, [one])
        if i in (1, 2, 7):
            folder = kept.append_to(tmp_path / "own")
            kept.append_to(tmp_path / "own")
    xr.testing.assert_identical(runs.read_steps(tmp_path / "own"), kept.to_xarray())
    with xr.open_zarr(folder, consolidated=False) as opened:
        assert opened.sizes["step"] == 8


def test_resuming_cuts_back_to_the_checkpoint(taken, tmp_path):
    track(tracker(), taken[:6]).append_to(tmp_path)
    resumed = track(tracker(first_step=4), taken[4:])  # the checkpoint was that of step 4
    resumed.append_to(tmp_path)
    xr.testing.assert_identical(runs.read_steps(tmp_path), track(tracker(), taken).to_xarray())


def test_another_ledger_is_not_written_over(taken, tmp_path):
    track(tracker(), taken[:2]).append_to(tmp_path)
    with pytest.raises(UserError, match="holds a ledger of 2 steps; continue it with a Tracker of its first_step, or"):
        track(tracker(), taken[:1]).append_to(tmp_path)
    bare = tracker(first_step=2)
    bare.step(*taken[2][:2])
    with pytest.raises(UserError, match=r"holds a ledger of other variables: alpha, coefficient, .*loss"):
        bare.append_to(tmp_path)
    other = gpz_jax.Tracker(NETWORK, (X[:24], LABELS[:24]), K, first_step=2)
    with pytest.raises(UserError, match="holds a ledger of another count"):
        track(other, taken[2:3]).append_to(tmp_path)
    assert runs.read_steps(tmp_path).sizes["step"] == 2


def test_vortex_reads_it(taken, tmp_path, capsys):
    from gpz_jax import vortex

    track(tracker(), taken).append_to(tmp_path / "own")
    vortex.main([str(tmp_path / "own")])
    said = capsys.readouterr()
    assert "own: what moved R_c^2 (30 images, 8 steps)" in said.out
    assert (tmp_path / "own" / "figures" / "vortex-terms.png").is_file()
    kept = tracker()
    kept.step(*taken[0][:2])
    kept.append_to(tmp_path / "bare")
    with pytest.raises(SystemExit):
        vortex.main([str(tmp_path / "bare")])
    assert "was tracked without alpha or step size" in capsys.readouterr().err


def test_pandas_has_a_row_a_step_and_cut(taken):
    pytest.importorskip("pandas")
    kept = track(tracker(), taken[:2])
    frame, found = kept.to_pandas(), kept.to_xarray()
    assert len(frame) == 2 * len(NETWORK.cuts)
    row = frame[(frame.step == 1) & (frame.cut == "hidden")].iloc[0]
    np.testing.assert_allclose(row.rho, found.rho.sel(step=1, cut="hidden"), rtol=1e-6)
    np.testing.assert_allclose(row.radius, found.within.sel(step=1, cut="hidden"), rtol=1e-5)


# For people ----------------------------------------------------------------------------------------------------------


def test_it_says_how_things_stand_in_eighty_columns(taken):
    kept = tracker()
    assert repr(kept).splitlines()[0] == "Tracker: 0 steps, one in 1, on 30 images"
    track(kept, taken)
    lines = repr(kept).splitlines()
    assert [line.split()[0] for line in lines[2:6]] == list(NETWORK.cuts)
    assert max(map(len, lines)) <= 80
    assert kept._repr_html_().startswith("<table><caption>Tracker: 8 steps")


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"every": 0}, "every must be at least 1"),
        ({"interference": ("hiden",)}, "unknown cut 'hiden'; did you mean 'hidden'?"),
        ({"probe_batch": (X, LABELS + 1)}, "labels run from 1 to 3; of 3 classes they must lie in 0 to 2"),
        ({"probe_batch": (X, LABELS[:-1])}, "labels must be one integer an image"),
        ({"probe_batch": (X, LABELS.astype(float))}, "labels must be one integer an image"),
        ({"probe_batch": X}, r"probe_batch must be \(x, labels\) or \(x, labels, mask\)"),
        ({"probe_batch": (X, LABELS, np.ones(29, bool))}, "the mask must be one boolean an image"),
        ({"probe_batch": (X, LABELS, np.zeros(30, bool))}, "the probe batch holds no image"),
    ],
)
def test_a_tracker_that_cannot_be(changed, said):
    with pytest.raises(UserError, match=said):
        gpz_jax.Tracker(**{"network": NETWORK, "probe_batch": (X, LABELS), "num_classes": K, **changed})


def test_steps_that_cannot_be(taken):
    before, after, parts = taken[0]
    kept = track(tracker(), taken[:1])
    wider = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf], axis=-1), before)
    bare = {"params": before["params"]}
    full = {"alpha": 0.3, "step_size": GAMMA}
    for arguments, given, said in [
        ((wider, after, parts), full, r"before is not of the variables that the tracker began with: .*it was"),
        ((before, wider, parts), full, r"after is not of the variables that the tracker began with"),
        ((before, bare, parts), full, r"after is not of .*\['batch_stats'\].* is missing"),
        ((before, before, parts), full, "before and after are the same arrays"),
        (
            (before, after),
            full,
            "this step was given alpha, step_size beside the variables, the first one alpha, parts",
        ),
        ((before, after, parts[0]), full, "parts must be the pair"),
        ((before, after, (parts[0], before)), full, "the wrong part is no gradient in the network's parameters"),
    ]:
        with pytest.raises(UserError, match=said) as refused:
            kept.step(*arguments, **given)
        assert len(str(refused.value).splitlines()) == 1
    assert kept.kept == kept.next_step == 1
    for given, said in [
        ({"alpha": 0.3, "targets": TARGETS}, "give alpha or targets, not both"),
        ({"parts": parts}, "parts need a step_size"),
        ({"targets": TARGETS[:, :2]}, r"targets must be those of the probe images, \(30, 3\), got \(30, 2\)"),
    ]:
        with pytest.raises(UserError, match=said):
            tracker().step(before, after, **given)
    with pytest.raises(UserError, match="has no step yet"):
        tracker().to_xarray()
