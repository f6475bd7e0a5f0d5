"""The least memory that a training needs, from shapes alone."""

import math

import jax
import jax.numpy as jnp

from gpz_jax.config import Config
from gpz_jax.data.splits import Splits
from gpz_jax.memory import check_fits
from gpz_jax.taps import TappedNetwork, tap_shapes
from gpz_jax.training import classifier

#: Copies of the parameters while a step is taken: they, their gradient, and amsgrad's three moments.
COPIES = 5


def check_memory(config: Config, network: TappedNetwork, dealt: Splits) -> None:
    """Raise :class:`UserError` where a step of training cannot fit, by what it holds at the very least.

    That is ``COPIES`` of the parameters in float32, and the activations at the cuts of the images of a batch that one
    device gets, in the dtype of the convolutions. Training needs several times the latter.
    """
    channels = dealt.train.images.shape[-1]
    recipe = classifier.recipe_for(config, dealt.num_classes, channels)
    variables = classifier.abstract_variables(recipe, channels)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    example = jax.ShapeDtypeStruct((2, *dealt.train.images.shape[1:]), dealt.train.images.dtype)
    activations = sum(map(math.prod, tap_shapes(network, variables, example).values()))
    images = -(-config.training.batch_size // jax.device_count())
    least = 4 * COPIES * parameters + activations * images * jnp.dtype(config.model.dtype).itemsize
    what = f"training {config.model.model} with {parameters:,} parameters on {images} images of side {config.data.size}"
    check_fits(least, what, "width", "size", "batch_size")
