"""The networks of the predictors' list, trained in memory (not an experiment): no folder, no record of the epochs."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from predictor_networks import Network

from gpz_jax import null_variables, parallel
from gpz_jax.data.splits import Splits
from gpz_jax.taps import TappedNetwork
from gpz_jax.training import classifier, sweep
from gpz_jax.workflow import load_data
from gpz_jax.workflow.train_command import resolve_here

#: Training images on which an untrained copy's batch norms are calibrated, as the probe command has them.
CALIBRATION, CALIBRATION_BATCH = 1024, 256


class Trained(NamedTuple):
    """A network as it was after its best epoch by validation.

    Attributes:
      network: tapped at its candidate cuts.
      variables: its variables.
      recipe: how it was trained.
      splits: its images, dealt out.
      channels: of them.
      seed: of everything.
      mesh: devices.
    """

    network: TappedNetwork
    variables: dict[str, Any]
    recipe: classifier.Recipe
    splits: Splits
    channels: int
    seed: int
    mesh: Mesh

    def null(self, number: int) -> dict[str, Any]:
        """An untrained copy with calibrated batch norms, number 0, 1, …"""
        train = self.splits.train
        images = train.images[train.indices[:CALIBRATION]]
        prepare = classifier.Prepare(self.recipe.size)
        batches = [
            _prepared(images[i : i + CALIBRATION_BATCH], prepare=prepare)
            for i in range(0, len(images) - CALIBRATION_BATCH + 1, CALIBRATION_BATCH)
        ]
        key = jax.random.fold_in(jax.random.key(self.seed), 1000 + number)
        return null_variables(
            self.recipe.model, key, batches,
            fresh=lambda key: classifier.init_variables(key, self.recipe.model, self.recipe.size, self.channels),
        )  # fmt: skip


def trained(network: Network) -> Trained:
    """Train a network of the list; by the steps of ``gpz train``; kept is the epoch of least validation loss."""
    config = resolve_here(network.config)
    splits, _ = load_data(config.data, config.seed)
    channels, mesh = splits.train.images.shape[-1], parallel.data_mesh()
    recipe = classifier.recipe_for(config, splits.num_classes, channels)
    best: dict[str, Any] = {}

    def after_epoch(epoch: int, states: list[classifier.State], found: list[dict[str, float]]) -> None:
        loss = found[0]["validation_loss"]
        if loss < best.get("loss", np.inf):
            best.update(loss=loss, variables=jax.tree.map(jnp.copy, states[0].variables))

    sweep.fit(
        [classifier.init_state(jax.random.key(config.seed), recipe, channels)], recipe=recipe, configs=[config],
        train=[splits.train], validation=[splits.validation], mesh=mesh, after_epoch=after_epoch,
    )  # fmt: skip
    tapped = classifier.network_for(recipe, channels)
    tapped = dataclasses.replace(tapped, cuts=network.family.cuts)
    return Trained(tapped, best["variables"], recipe, splits, channels, config.seed, mesh)


_prepared = jax.jit(lambda images, *, prepare: prepare(images), static_argnames="prepare")
