"""Flax models of Hugging Face transformers 4, as their authors wrote them: tiny, with random weights, no downloads."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import Case, check_all, needs

import gpz_jax
from gpz_jax.errors import UserError

pytestmark = needs("transformers", below=5)

IDS = jax.random.randint(jax.random.key(1), (6, 7), 0, 20)
MASK = (jnp.arange(7) < jnp.array([[7], [5], [3], [6], [7], [4]])).astype(jnp.int32)
IMAGES = jax.random.normal(jax.random.key(1), (6, 16, 16, 3))
ONES, POSITIONS = jnp.ones((1, 7), jnp.int32), jnp.arange(7)[None]
TEXT = {"vocab_size": 20, "max_position_embeddings": 16, "num_labels": 3}
SIZE = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
PATCHES = {"image_size": 16, "patch_size": 8}


def logits(out):
    return out.logits


def bert():
    import transformers as hf

    names = ("bert/embeddings", *(f"bert/encoder/layer/{n}[0]" for n in range(3)), "bert/pooler", "classifier")
    return Case(
        hf.FlaxBertForSequenceClassification.module_class(hf.BertConfig(**SIZE, **TEXT)),
        IDS,
        ("bert/embeddings", "bert/encoder/layer/*", "bert/pooler", "classifier"),
        names,
        (names[0], names[2], names[4]),
        {
            "attention_mask": ONES, "token_type_ids": 0 * ONES, "position_ids": POSITIONS, "head_mask": None,
            "output": logits,
        },
    )  # fmt: skip


def albert():
    """One layer, called three times."""
    import transformers as hf

    layer = "albert/encoder/albert_layer_groups/0"
    names = ("albert/embeddings", f"{layer}[0]", f"{layer}:2[0]", f"{layer}:3[0]", "albert/pooler")
    return Case(
        hf.FlaxAlbertForSequenceClassification.module_class(hf.AlbertConfig(**SIZE, **TEXT, embedding_size=8)),
        IDS,
        ("albert/embeddings", "albert/encoder/albert_layer_groups/*", "albert/pooler"),
        names,
        (names[0], names[2], names[4]),
        {"attention_mask": ONES, "token_type_ids": 0 * ONES, "position_ids": POSITIONS, "output": logits},
    )


def distilbert():
    import transformers as hf

    names = ("distilbert/embeddings", *(f"distilbert/transformer/layer/{n}[0]" for n in range(3)), "pre_classifier")
    config = hf.DistilBertConfig(dim=8, n_layers=3, n_heads=2, hidden_dim=16, **TEXT)
    return Case(
        hf.FlaxDistilBertForSequenceClassification.module_class(config),
        IDS,
        ("distilbert/embeddings", "distilbert/transformer/layer/*", "pre_classifier"),
        names,
        (names[0], names[2], names[4]),
        {"attention_mask": jnp.ones((6, 7), jnp.int32), "output": logits},
    )


def gpt2():
    """A language model: its logits are (N, T, V)."""
    import transformers as hf

    names = ("transformer/dropout", *(f"transformer/h/{n}[0]" for n in range(3)), "transformer/ln_f")
    config = hf.GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=3, n_head=2)
    return Case(
        hf.FlaxGPT2LMHeadModel.module_class(config),
        IDS,
        ("transformer/dropout", "transformer/h/*", "transformer/ln_f"),
        names,
        (names[0], names[2], names[4]),
        {"attention_mask": ONES, "position_ids": POSITIONS, "output": logits},
    )


def vit():
    import transformers as hf

    names = ("vit/embeddings", *(f"vit/encoder/layer/{n}[0]" for n in range(3)), "vit/layernorm", "classifier")
    return Case(
        hf.FlaxViTForImageClassification.module_class(hf.ViTConfig(**SIZE, **PATCHES, num_labels=3)),
        IMAGES,
        ("vit/embeddings", "vit/encoder/layer/*", "vit/layernorm", "classifier"),
        names,
        (names[0], names[2], names[4]),
        {"output": logits},
    )


def resnet():
    import transformers as hf

    blocks = (f"resnet/encoder/stages/{stage}/layers/{n}" for stage in range(2) for n in range(2))
    names = ("resnet/embedder", *blocks, "resnet.pooler_output", "classifier")
    config = hf.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[2, 2], layer_type="basic", num_labels=3)
    return Case(
        hf.FlaxResNetForImageClassification.module_class(config),
        IMAGES,
        ("resnet/embedder", "resnet/encoder/stages/*/layers/*", "resnet.pooler_output", "classifier"),
        names,
        (names[0], names[3], names[5]),
        {"output": logits},
    )


def clip():
    """The image half; what it gives in place of logits is the embedding."""
    import transformers as hf

    blocks = (f"vision_model/encoder/layers/{n}[0]" for n in range(3))
    names = ("vision_model/pre_layrnorm", *blocks, "vision_model/post_layernorm")
    return Case(
        hf.FlaxCLIPVisionModel.module_class(hf.CLIPVisionConfig(**SIZE, **PATCHES)),
        IMAGES,
        ("vision_model/pre_layrnorm", "vision_model/encoder/layers/*", "vision_model/post_layernorm"),
        names,
        (names[0], names[2], names[4]),
        {"output": lambda out: out.pooler_output},
    )


@pytest.mark.parametrize("build", [bert, albert, distilbert, gpt2, vit, resnet, clip])
def test_a_model(build):
    check_all(build())


class WithMask(nn.Module):
    """A model of text whose masks come with the input, one for every sentence."""

    inner: nn.Module

    def __call__(self, x):
        return self.inner(x["ids"], x["mask"], **self.more).logits


class WithMaskOfBert(WithMask):
    more = {"token_type_ids": 0 * ONES, "position_ids": POSITIONS, "head_mask": None}  # noqa: RUF012


class WithMaskOfDistilBert(WithMask):
    more = {}  # noqa: RUF012


@pytest.mark.parametrize(("build", "wrapper"), [(bert, WithMaskOfBert), (distilbert, WithMaskOfDistilBert)])
def test_a_mask_that_passes_by_the_blocks_may_be_public(build, wrapper):
    alone = build()

    def within(names):
        return tuple(f"inner/{name}" for name in names)

    names, split = within(alone.expected), within(alone.split)
    case = Case(wrapper(alone.model), {"ids": IDS, "mask": MASK}, within(alone.cuts), names, split, {}, ("mask",))
    network, variables = check_all(case)
    assert not gpz_jax.valid_cuts(network, variables, case.x)[split[1]]
    with pytest.raises(UserError, match=r"the input 'mask' by another way.*public=\('mask',\)"):
        gpz_jax.split_at(network, variables, case.x, split[1])
    half = {name: array[:3] for name, array in case.x.items()}
    np.testing.assert_allclose(network(variables, half)[0], network(variables, case.x)[0][:3], atol=1e-5)


def test_the_wrapper_around_a_module_is_refused_and_says_where_the_module_is():
    import transformers as hf

    wrapper = hf.FlaxViTForImageClassification(hf.ViTConfig(**SIZE, **PATCHES, num_labels=3))
    with pytest.raises(
        UserError, match=r"not FlaxViTForImageClassification: give its \.module, .*'params': its .params"
    ):
        gpz_jax.tap(wrapper, wrapper.params, IMAGES)
    network = gpz_jax.tap(wrapper.module, {"params": wrapper.params}, IMAGES, output=logits)
    theirs = wrapper(jnp.moveaxis(IMAGES, -1, 1)).logits  # it takes the channels first, its module last
    np.testing.assert_allclose(network({"params": wrapper.params}, IMAGES)[0], theirs, atol=1e-5)
