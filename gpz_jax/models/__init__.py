"""Target models: an explicit table from name to constructor."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.models.cnn import CNN
from gpz_jax.models.cnn6 import CNN6
from gpz_jax.models.ir import IR
from gpz_jax.models.resnet import ResNet
from gpz_jax.models.vgg import VGG
from gpz_jax.models.vit import ViT

__all__ = ["CNN", "CNN6", "IR", "MODELS", "VGG", "Family", "Options", "ResNet", "ViT", "build"]


class Options(NamedTuple):
    """What a target model is built from.

    Attributes:
      num_classes: K.
      width: channels of the first block (of a token, for the ViT).
      depth: factor on the number of layers of every stage (of the ViT's blocks); none falls below 1.
      patch: side of the ViT's patches in pixels.
      heads: of the ViT's attention.
      dtype: of the convolutions and the attention.
    """

    num_classes: int
    width: int
    depth: float = 1.0
    patch: int = 4
    heads: int = 8
    dtype: jnp.dtype = jnp.dtype("float32")

    def deepened(self, *stages: int) -> tuple[int, ...]:
        """Layers of each stage after the factor ``depth``."""
        return tuple(max(1, round(self.depth * n)) for n in stages)


class Family(NamedTuple):
    """A row of the table: how to build the model, the paper's width, and what one trains where no width is given."""

    build: Callable[[Options], nn.Module]
    paper_width: int
    default_width: int


def _residual(*stages: int, bottleneck: bool = False) -> Family:
    return Family(lambda o: ResNet(o.num_classes, o.deepened(*stages), bottleneck, o.width, dtype=o.dtype), 64, 64)


def _vgg(*stages: int) -> Family:
    return Family(lambda o: VGG(o.num_classes, o.deepened(*stages), o.width, dtype=o.dtype), 64, 64)


def _ir(*stages: int) -> Family:
    return Family(lambda o: IR(o.num_classes, o.deepened(*stages), o.width, dtype=o.dtype), 64, 64)


#: name -> family. The CNN alone is narrow by default, so that the README's first command takes a minute.
MODELS: dict[str, Family] = {
    "cnn": Family(lambda o: CNN(o.num_classes, o.width, dtype=o.dtype), 64, 16),
    "cnn6": Family(lambda o: CNN6(o.num_classes, o.width, dtype=o.dtype), 64, 64),
    "resnet18": _residual(2, 2, 2, 2),
    "resnet50": _residual(3, 4, 6, 3, bottleneck=True),
    "vgg16": _vgg(2, 2, 3, 3, 3),
    "vgg19": _vgg(2, 2, 4, 4, 4),
    "ir50": _ir(3, 4, 14, 3),
    "ir100": _ir(3, 13, 30, 3),
    "ir152": _ir(3, 8, 36, 3),
    "vit": Family(
        lambda o: ViT(o.num_classes, o.patch, o.width, *o.deepened(6), heads=o.heads, dtype=o.dtype), 128, 128
    ),
}


def build(
    name: str,
    *,
    num_classes: int,
    size: int,
    width: int | None = None,
    dtype: str = "float32",
    depth: float = 1.0,
    patch: int = 4,
    heads: int = 8,
) -> nn.Module:
    """The target model of that name.

    Args:
      name: a key of ``MODELS``.
      num_classes: K.
      size: side of the square input in pixels.
      width: channels of the first block (the paper's: 64; of the ViT's tokens: 128); None for the family's default.
      dtype: of the convolutions and the attention, "float32" or "bfloat16".
      depth: factor on the number of layers of every stage; the CNNs have no other depth than 1.
      patch: side of the ViT's patches in pixels.
      heads: of the ViT's attention.

    Raises:
      UserError: unknown name (the nearest is suggested); a size the model cannot take; a width or depth that no such
        model has.

    Example:
      >>> build("cnn", num_classes=10, width=16, size=32).width
      16
      >>> build("ir152", num_classes=10, width=16, size=32, depth=0.25).stages
      (1, 2, 9, 1)
    """
    if name not in MODELS:
        raise UserError(f"unknown model {name!r}{did_you_mean(name, MODELS)}")
    if size < 16 or size % 16:
        raise UserError(
            f"size must be a positive multiple of 16 (the models halve it four times), got {size}", field="size"
        )
    width = MODELS[name].default_width if width is None else width
    if width < 1:
        raise UserError(f"width must be at least 1, got {width}", field="width")
    if not 0 < depth <= 100:
        raise UserError(f"depth must be a positive factor (1 is the paper's network), got {depth:g}", field="depth")
    if name in ("cnn", "cnn6") and depth != 1:
        raise UserError(
            f"`depth` {depth:g}: the {name} has one depth; give width for a smaller one", field=("depth", "width")
        )
    if name == "vit":
        if patch < 1 or size % patch:
            raise UserError(f"patch {patch} must divide size {size}", field=("patch", "size"))
        if heads < 1 or width % heads:
            raise UserError(f"heads {heads} must divide width {width}", field=("heads", "width"))
    return MODELS[name].build(Options(num_classes, width, depth, patch, heads, jnp.dtype(dtype)))
