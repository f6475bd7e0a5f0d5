"""Linen models for images from flaxmodels and jax-resnet, with random weights."""

import jax
import pytest
from checks import Case, check_all, needs

IMAGES = jax.random.uniform(jax.random.key(1), (6, 32, 32, 3))


def flaxmodels_resnet():
    import flaxmodels

    names = ("Conv_0", "BatchNorm_0", *(f"BasicBlock_{n}" for n in range(8)), "Dense_0")
    model = flaxmodels.ResNet18(output="logits", pretrained=None, num_classes=3)
    return Case(model, IMAGES, None, names, (names[1], names[4], names[9]), {"train": False})


def flaxmodels_vgg():
    """Without its head, which wants 224 x 224; the mean over the last map stands for the logits."""
    import flaxmodels

    names = tuple(f"conv{block}_{n + 1}" for block, layers in enumerate((2, 2, 3, 3, 3), 1) for n in range(layers))
    model = flaxmodels.VGG16(output="logits", pretrained=None, include_head=False)
    arguments = {"train": False, "output": lambda out: out.mean(axis=(1, 2))}
    return Case(model, IMAGES, None, names, (names[0], names[6], names[12]), arguments)


def jax_resnet():
    import jax_resnet as package

    names = ("layers_0", *(f"layers_{n}" for n in range(2, 6)), "layers_7")  # between them pools, which are functions
    model = package.ResNet(package.ResNetBottleneckBlock, stage_sizes=[2, 2], n_classes=3, hidden_sizes=(4, 8))
    return Case(model, IMAGES, None, names, (names[0], names[2], names[4]))


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(flaxmodels_resnet, marks=needs("flaxmodels")),
        pytest.param(flaxmodels_vgg, marks=needs("flaxmodels")),
        pytest.param(jax_resnet, marks=needs("jax_resnet")),
    ],
)
def test_a_model(build):
    check_all(build())
