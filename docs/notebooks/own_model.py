# %% [markdown]
# # Your own model, from tap to ledger
#
# A small Linen network and a training loop that know nothing of `gpz_jax`. We name its cuts, follow its training with
# a ledger, probe it, see where the zone begins, and attack two cuts. Everything from arrays; nothing is written to
# disk.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import gpz_jax
from gpz_jax.config import AttackSettings


class Net(nn.Module):
    """Two convolutions and two dense layers; any Linen module will do."""

    @nn.compact
    def __call__(self, x):
        """Logits of images ``(N, 8, 8, 1)``."""
        x = nn.relu(nn.Conv(8, (3, 3), name="conv_1")(x))
        x = nn.relu(nn.Conv(16, (3, 3), strides=2, name="conv_2")(x))
        x = nn.relu(nn.Dense(32, name="dense")(x.reshape(len(x), -1)))
        return nn.Dense(10, name="head")(x)


digits = load_digits()
images = jnp.asarray(digits.images[..., None] / 16, jnp.float32)  # (1797, 8, 8, 1), pixels in [0, 1]
labels = jnp.asarray(digits.target)
train, auxiliary, test = slice(0, 900), slice(900, 1400), slice(1400, None)  # the attacker has images of its own

# %% [markdown]
# ## Name the cuts
#
# `tap` traces the model once. The logits are always the last cut.

# %%
variables = Net().init(jax.random.key(0), images[:1])
untrained = [Net().init(jax.random.key(seed), images[:1]) for seed in range(1, 6)]
network = gpz_jax.tap(Net(), variables, images[:1], cuts=["conv_1", "conv_2", "dense"])
gpz_jax.valid_cuts(network, variables, images[:1])

# %% [markdown]
# ## Train, and keep a ledger
#
# The loop is an ordinary one of optax; `gradient_parts` splits its gradient in two, by the logits that it goes through.
# After every step the tracker is told the variables before and after; of one step in ten it works out, on a batch of
# its own, by how much R_c² changed at every cut, and what of the step did it.

# %%
ALPHA, RATE = 0.3, 3e-3  # label smoothing, learning rate
optimiser = optax.adam(RATE)
tracker = gpz_jax.Tracker(network, (images[:200], labels[:200]), 10, every=10)


@jax.jit
def update(variables, state, x, y):
    """One step of training, and the two parts of its gradient."""

    def logits(params):
        return network({"params": params}, x)[0]

    parts = gpz_jax.gradient_parts(logits, variables["params"], y, gpz_jax.soft_targets(y, 10, ALPHA))
    updates, state = optimiser.update(jax.tree.map(jnp.add, *parts), state)
    return {"params": optax.apply_updates(variables["params"], updates)}, state, parts


state = optimiser.init(variables["params"])
rng = np.random.default_rng(0)
for _ in range(300):
    at = rng.choice(900, 100, replace=False)
    before = variables
    variables, state, parts = update(before, state, images[at], labels[at])
    tracker.step(before, variables, parts, alpha=ALPHA, step_size=RATE)

accuracy = float(jnp.mean(jnp.argmax(network(variables, images[test])[0], 1) == labels[test]))
print(f"test accuracy {accuracy:.3f}")
tracker

# %% [markdown]
# The same with names, for xarray and pandas; `tracker.append_to("runs/mine")` would keep it on disk, for `gpz vortex`.

# %%
steps = tracker.to_xarray()
steps["rho"].isel(step=[0, 5, 10, 20, 29]).to_pandas().round(3)

# %% [markdown]
# ## Probe
#
# R_c² of every cut, ρ, and the evidence against five untrained networks of the same architecture.

# %%
probe = gpz_jax.probe_network(
    network, variables, [(images[test], labels[test])], 10, nulls=untrained, key=jax.random.key(0)
)
probe

# %% [markdown]
# ## Attack
#
# What is z worth to an attacker with 500 images of its own? A linear map at every cut first: it takes a second, and any
# numbers, not only images.

# %%
attacker, judge = (images[auxiliary], labels[auxiliary]), (images[test], labels[test])
for cut in network.cuts:
    result = gpz_jax.attack_cut(network, variables, cut, attacker, judge, key=jax.random.key(0))
    print(f"{cut:8} ratio {result.best.scores.ratio:.2f}")

# %% [markdown]
# The ratio is the error over that of an attacker who knows the class alone: at 1, z gives away no more than the label.
# So the logits look best; does a trained decoder think so, too? It gets 20 epochs here, and says whether it had done.

# %%
settings = AttackSettings(epochs=20, decoder_width=8)
result = gpz_jax.attack_cut(
    network,
    variables,
    "logits",
    attacker,
    judge,
    attacks=("linear", "deconvolution"),
    settings=settings,
    key=jax.random.key(0),
)
result

# %% [markdown]
# Originals over reconstructions:

# %%
rows = [result["deconvolution"].originals[:10], result["deconvolution"].reconstructions[:10]]
plt.imshow(np.concatenate([np.concatenate(list(row[..., 0]), 1) for row in rows]), cmap="gray")
plt.axis("off")
plt.show()
