# %% [markdown]
# # Choosing a cut
#
# A product has a budget: so many parameters on the device, so many bytes an image. Which cut within it gives away
# least? We train a small run, price its cuts, probe them, attack those that the budget allows, and put the three side
# by side.

# %%
import tempfile

import jax
import jax.numpy as jnp

import gpz_jax
from gpz_jax import workflow
from gpz_jax.config import AttackConfig, Config, DataConfig, ModelConfig, ProbeConfig, TrainingConfig

config = Config(data=DataConfig(size=16), model=ModelConfig(width=4), training=TrainingConfig(ls=0.3, epochs=10))
run = workflow.load_run(str(workflow.train_run(config, folder=tempfile.mkdtemp() + "/run").folder))
print(f"test accuracy {workflow.report_accuracy(run):.3f}")

# %% [markdown]
# ## What each cut costs
#
# Worked out from the traced program; nothing is computed. The payload is a byte a value, as `--payload uint8` sends
# it.

# %%
image = jax.ShapeDtypeStruct((1, *run.source.test_images.shape[1:]), jnp.uint8)
prices = gpz_jax.price_cuts(run.network, run.variables, image)
for price in prices:
    edge = f"edge {price.edge_parameters:5} parameters, {price.edge_flops:7} FLOPs"
    print(f"{price.cut:8} {edge}, sends {price.values:3} bytes")

# %% [markdown]
# ## The budget
#
# At most 10,000 parameters on the device, and 50 bytes an image.

# %%
affordable = [p.cut for p in prices if p.edge_parameters <= 10_000 and p.values <= 50 and p.cut != "logits"]
affordable

# %% [markdown]
# ## What the probe says of them

# %%
probe = workflow.probe_run(run, ProbeConfig(null_seeds=3, bootstrap=200))
probe

# %% [markdown]
# ## What attackers get there
#
# First the cheapest attacker, a linear map, at every cut that we can afford.

# %%
results = workflow.attack_run(run, AttackConfig(cut=tuple(affordable), attack=("linear",)))
for result in results:
    print(result)

# %% [markdown]
# ## The choice
#
# The cut whose attacker is left with the largest part of the class-mean floor. Before it is taken, a stronger attacker
# tries it: here a decoder with 8 epochs, on a machine of your own `--ladder` with all of them.

# %%
linear = max(results, key=lambda result: result.best.scores.ratio)
options = AttackConfig(cut=(linear.cut,), attack=("deconvolution",), epochs=8, decoder_width=4)
(decoder,) = workflow.attack_run(run, options)
print(decoder)
print(gpz_jax.verdict_of(decoder).sentence)

# %% [markdown]
# The linear attack is made in every call, so the decoder stands beside it. The verdict says what the two show: a leak
# that any of them finds counts, also that of a decoder which had not converged; "no leak found" would need more of them
# than this. It is what these attackers got with that many images, no promise:
# [attack harder](../howto/attack_harder.md) before you rely on it.
