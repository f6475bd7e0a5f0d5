# %% [markdown]
# # Reading a Neural Vortex run
#
# The paper explains the falling radius under label smoothing by its *Neural Vortex*. A tracked run keeps, for every
# step, what that account predicts and what happened. We train a small one (a width-4 CNN on the bundled digits, 10
# epochs), and read its ledger.

# %%
import tempfile

import matplotlib.pyplot as plt
import xarray as xr

from gpz_jax import workflow
from gpz_jax.analysis.attribution import agreement, over_classes, sign_change
from gpz_jax.config import Config, DataConfig, ModelConfig, TrackConfig, TrainingConfig

config = Config(
    data=DataConfig(size=16),
    model=ModelConfig(width=4),
    training=TrainingConfig(ls=0.3, epochs=10),
    track=TrackConfig(track_every=1, probe_size=200),
)
run = workflow.train_run(config, folder=tempfile.mkdtemp() + "/run")
print(f"test accuracy {workflow.report_accuracy(workflow.load_run(str(run.folder))):.3f}")

# %% [markdown]
# ## What a row holds
#
# One row a step, of every cut and class. Everything has a unit and a formula.

# %%
steps = xr.open_zarr(run.folder / "dynamics.zarr", group="steps", consolidated=False).load()
print(dict(steps.sizes))
for name in ("radius", "feature_correct", "feature_wrong", "optimiser", "statistics", "realised", "residual"):
    print(f"{name:16} {steps[name].dims} {steps[name].attrs['long_name']}")

# %% [markdown]
# ## What moved R_c²
#
# Sums over the steps, classes weighted by their images, in % of R_c² at the beginning of the second half of training.
# Optimiser, statistics and residual add up to what was realised; the two feature-space terms are the paper's
# prediction of it.

# %%
counts = steps["count"].values
half = steps.isel(step=slice(steps.sizes["step"] // 2, None))
terms = ["realised", "optimiser", "statistics", "residual", "feature_correct", "feature_wrong"]


def over(name):
    """A variable's mean over classes, ``(step, cut)``."""
    return over_classes(half[name].values, counts)


start = over("radius")[0]
moved = xr.DataArray(
    [100 * over(name).sum(0) / start for name in terms],
    dims=("term", "cut"),
    coords={"term": terms, "cut": half.cut.values},
    name="% of R_c²",
)
moved.to_dataframe().unstack("term").round(2)

# %% [markdown]
# ## Does the prediction agree?
#
# In correlation over the steps, in size (1: as large as what happened), and in sign.

# %%
for number, cut in enumerate(half.cut.values):
    predicted = sum(over(name)[:, number] for name in ("feature_correct", "feature_wrong", "feature_second"))
    found = agreement(predicted, over("realised")[:, number])
    print(f"{cut:8} r {found.correlation:5.2f}   size {found.size:.2g}   same sign {found.same_sign:.0%}")

# %% [markdown]
# ## When does the coefficient change its sign?
#
# The correct-class coefficient p_c − 1 + α pulls z towards its own class as long as it is negative. The paper's
# account needs it to turn.

# %%
coefficient = over_classes(steps["coefficient"].values, counts)
turn = sign_change(coefficient)
print("never" if turn is None else f"at step {int(steps.step[turn])}", f"(highest mean: {coefficient.max():.3f})")

# %%
figure, (radius, sign) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for number, cut in enumerate(steps.cut.values):
    radius.semilogy(steps.step, over_classes(steps.radius.values, counts)[:, number], label=cut)
radius.set_title("$R_c^2$", fontsize=10)
radius.legend(fontsize=7, ncols=2)
sign.plot(steps.step, coefficient)
sign.axhline(0, color="0.7")
sign.set_title(r"mean correct-class coefficient $p_c - 1 + \alpha$", fontsize=10)
plt.show()

# %% [markdown]
# A short run of a small network is no finding; [what longer ones said](../findings/ledger.md) is. `gpz vortex RUN`
# prints the same numbers as tables, and draws more pictures.
