"""What one process of several computes of given weights: run by tests/test_processes.py, several at once.

    python tests/together.py OUT WHAT COORDINATOR PROCESSES PROCESS

Process 0 writes to OUT what must not depend on how many processes and devices there are: the order of the images and
what augmentation made of the first batch, the first step's gradients, radii, and a linear attack.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from gpz_jax import liveness, parallel, processes
from gpz_jax.analysis.radius import measure, summarise
from gpz_jax.config import AttackSettings, Config, DataConfig, ModelConfig, TrainingConfig, resolve
from gpz_jax.data.batches import Pixels, epoch_order
from gpz_jax.data.flat_rows import FlatRows
from gpz_jax.inversion import attacking
from gpz_jax.targets import cross_entropy, soft_targets
from gpz_jax.training import classifier
from gpz_jax.workflow.common import load_data, probe_batches


def first_batch(recipe, split, mesh):
    """The first step's images as the network sees them, and their labels."""
    order_key, noise_key = classifier.keys_of(0)
    images, labels = split.take()
    images, labels, order = parallel.replicate(
        (FlatRows.of(images), labels, epoch_order(order_key, 0, len(split))), mesh
    )
    given = (images, labels, order, noise_key)

    @jax.jit
    def batch(images, labels, order, key):
        return classifier.training_batch(
            jnp.int32(0), images, labels, order, jnp.int32(0), key, recipe=recipe, mesh=mesh
        )

    return batch(*given)


def gradients(recipe, variables, batch):
    """Of the mean loss of the first step's batch."""

    @jax.jit
    def of(params, batch_stats, seen, labels, key):
        def loss(params):
            logits, _ = classifier.training_logits(params, batch_stats, seen, key, recipe=recipe)
            return jnp.mean(cross_entropy(logits, soft_targets(labels, recipe.num_classes, 0.3)))

        return jax.grad(loss)(params)

    seen, labels, key = batch
    return of(variables["params"], variables["batch_stats"], seen, labels, key)


def main(out, what, coordinator=None, count=None, index=None):
    """Compute it: ``what`` is "order" alone, "numbers" too, or the "linear" attack as well."""
    if coordinator is not None:
        processes.start(coordinator, int(count), int(index))
    config = resolve(
        Config(data=DataConfig(size=16), model=ModelConfig(width=4, dtype="float32"), training=TrainingConfig(epochs=1))
    )
    dealt, source = load_data(config.data, config.seed)
    channels, mesh = source.train_images.shape[-1], parallel.data_mesh()
    recipe = classifier.recipe_for(config, dealt.num_classes, channels)
    batch = first_batch(recipe, dealt.train, mesh)
    found = {"seen": parallel.fetch(batch[0]), "labels": parallel.fetch(batch[1])}
    if what != "order":
        found |= numbers(recipe, channels, dealt, batch, mesh, attack=what == "linear")
    if processes.leads():
        np.savez(out, **found)
    liveness.part()


def numbers(recipe, channels, dealt, batch, mesh, *, attack):
    """Gradients and radii of given weights, and the error of the linear attack on them."""
    network = classifier.network_for(recipe, channels)
    state = parallel.replicate(classifier.init_state(jax.random.key(0), recipe, channels), mesh)
    leaves = jax.tree_util.tree_leaves_with_path(gradients(recipe, state.variables, batch))
    found = {f"gradient{jax.tree_util.keystr(path)}": parallel.fetch(leaf) for path, leaf in leaves}
    moments = measure(network, state.variables, probe_batches(dealt.validation, recipe, mesh), dealt.num_classes)
    found |= {f"radius {cut}": one.radius for cut, one in parallel.fetch(summarise(moments)).items()}
    if attack:
        found["mse"] = linear_attack(network, state.variables, dealt, mesh)
    return found


def linear_attack(network, variables, dealt, mesh):
    """Its error on the test images."""
    attacked = attacking.attack_cut(
        network, variables, "block_4", dealt.auxiliary.take()[0], dealt.test.take(), attacks=("linear",),
        key=jax.random.key(0), pixels=Pixels(16), settings=AttackSettings(), mesh=mesh,
    )  # fmt: skip
    return attacked.best.scores.mse


if __name__ == "__main__":
    main(*sys.argv[1:])
