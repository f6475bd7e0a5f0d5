"""Every decoder at every kind of cut: it builds, its gradient is finite, and it costs what it says."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpz_jax import models
from gpz_jax.config import AttackSettings
from gpz_jax.errors import UserError
from gpz_jax.inversion import ladder
from gpz_jax.inversion.attention import MODULES
from gpz_jax.inversion.decoder import (
    IR152_DEPTH,
    InverseUnit,
    decoder_for,
    match_parameters,
    parameter_count,
    stages_of,
)
from gpz_jax.inversion.enrich import ENRICHMENTS
from gpz_jax.taps import tap, tap_shapes

IMAGE = (16, 16, 3)
SMALL = (8, 8, 3)


def initialised(decoder, count=2):
    z = jax.random.normal(jax.random.key(1), (count, *decoder.z_shape))
    return z, decoder.init(jax.random.key(0), z, train=False)


def shape_of(decoder):
    """Shape of a reconstruction, and of the parameters; nothing is computed."""

    def run(z):
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        x, variables = decoder.init_with_output(rngs, z, train=True)
        return x, variables["params"]

    return jax.eval_shape(run, jax.ShapeDtypeStruct((2, *decoder.z_shape), jnp.float32))


def cuts_of(family):
    """Distinct shapes of z of a small model of the family, at 16x16x3."""
    depth = 1.0 if family in ("cnn", "vgg16", "resnet18") else 0.25
    width = 8 if family == "vit" else 4
    model = models.build(family, num_classes=5, size=16, width=width, depth=depth, heads=2)
    x = jax.ShapeDtypeStruct((2, *IMAGE), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    return sorted(set(tap_shapes(tap(model, variables, x, train=False), variables, x).values()), key=str)


FAMILIES = ("cnn", "resnet18", "vgg16", "ir50", "vit")

#: Every decoder with every module and every enrichment, or none.
PLANS = list(itertools.product(("deconvolution", "residual"), [None, *MODULES], [None, *ENRICHMENTS]))


def assert_builds(z_shape, trunk, modules, enrich, **more):
    stages = (modules,) * stages_of(z_shape, IMAGE, tokens=more.get("tokens", "all"))
    decoder = decoder_for(z_shape, IMAGE, width=2, trunk=trunk, depth=(1,), stages=stages, enrich=enrich, **more)
    x, _ = shape_of(decoder)
    assert (x.shape, x.dtype) == ((2, *IMAGE), jnp.float32), decoder


@pytest.mark.slow
def test_decoders_modules_and_enrichments_build_at_the_cuts_of_every_family():
    shapes = sorted({shape for family in FAMILIES for shape in cuts_of(family)}, key=str)
    assert {len(shape) for shape in shapes} == {1, 2, 3}
    plans = itertools.cycle(PLANS)  # a few of them at each cut; all of them at all cuts below
    for z_shape in shapes:
        for _ in range(3):
            trunk, module, enrich = next(plans)
            assert_builds(z_shape, trunk, (module,) if module else (), (enrich,) if enrich else ())
        for tokens in ("class", "mean") if len(z_shape) == 2 else ():
            assert_builds(z_shape, "deconvolution", (), (), tokens=tokens)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_decoder_module_and_enrichment_builds_at_every_cut(family):
    for z_shape in cuts_of(family):
        for trunk, module, enrich in PLANS:
            assert_builds(z_shape, trunk, (module,) if module else (), (enrich,) if enrich else ())


@pytest.mark.parametrize(
    ("z_shape", "trunk"),
    [
        pytest.param((2, 2, 3), "deconvolution", marks=pytest.mark.slow),
        pytest.param((17, 4), "residual", marks=pytest.mark.slow),
        pytest.param((2,), "residual", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_gradient_of_the_whole_is_finite(z_shape, trunk):
    # All modules and all enrichments at once: what is finite together is finite apart.
    stages = (tuple(MODULES),) + ((),) * (stages_of(z_shape, SMALL) - 1)
    decoder = decoder_for(z_shape, SMALL, width=4, trunk=trunk, depth=(1, 0), stages=stages, enrich=ENRICHMENTS)
    z, variables = initialised(decoder, 4)
    z = z.at[0].set(0)  # an image whose units are all alike

    @jax.jit
    def gradient(params, z):
        def loss(params, z):
            x, _ = decoder.apply(
                {**variables, "params": params}, z, train=True, mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(2)},
            )  # fmt: skip
            return jnp.mean((x - 0.3) ** 2)

        return jax.grad(loss, argnums=(0, 1))(params, z)

    found = gradient(variables["params"], z)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(found))
    reached = [bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(found[0])]
    assert sum(reached) > 0.8 * len(reached)  # no part of it lies beside the way from z to x


def test_an_inverse_unit_is_the_sum_of_its_two_ways():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 4))
    unit = InverseUnit(4)
    variables = unit.init(jax.random.key(1), x, train=False)
    norm_2 = jax.tree.map(jnp.zeros_like, variables["params"]["norm_2"])
    zeroed = {**variables["params"], "norm_2": norm_2}
    y = unit.apply({**variables, "params": zeroed}, x, train=False)
    np.testing.assert_array_equal(y, x)  # the residual way silenced, the shortcut is the identity
    up = InverseUnit(6, up=True)
    assert up.init_with_output(jax.random.key(1), x, train=False)[0].shape == (2, 6, 6, 6)


def test_the_deep_inverse_has_the_units_of_ir152():
    decoder = decoder_for((4, 4, 8), (64, 64, 3), width=2, trunk="residual", depth=IR152_DEPTH)
    _, params = shape_of(decoder)
    layers = {stage: sum(name.startswith(f"layer_{stage}_") for name in params) for stage in range(5)}
    assert layers == {0: 3, 1: 3, 2: 36, 3: 8, 4: 3}  # from z's resolution, 4x4, to full resolution, 64x64
    assert sum(name.startswith("up_") for name in params) == 4


@pytest.mark.slow
def test_parameters_are_counted_and_matched():
    decoder = decoder_for((4, 4, 7), IMAGE, width=3)
    _, variables = initialised(decoder)
    assert parameter_count(decoder) == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    for attack, budget in zip(ladder.LADDER, (None, 5_000, 20_000, 40_000, 20_000, None), strict=True):
        if budget is not None:
            built = attack.decoder(AttackSettings(match_params=budget), (4, 4, 7), IMAGE)
            assert 0.6 < parameter_count(built) / budget < 1.6, (attack.name, budget)
            # The nearest of all widths, as a ratio.
            widths = [width for width in (built.width - 1, built.width, built.width + 1) if width]
            counts = [parameter_count(built.clone(width=width)) for width in widths]
            assert min(counts, key=lambda count: abs(np.log(count / budget))) == parameter_count(built)
    with pytest.raises(UserError, match="match_params 3: the nearest decoder of this kind"):
        match_parameters(decoder, 3)


def test_the_ladder_and_what_settings_make_of_it():
    settings = AttackSettings(stages="se", enrich="normalize")
    changed = {attack.name: attack for attack in ladder.attacks_of((), settings, ladder=True)}
    assert list(changed) == [attack.name for attack in ladder.LADDER]
    assert (changed["attention"].stages, changed["enriched"].enrich) == ("se", "normalize")
    assert (changed["deconvolution"].stages, changed["deconvolution"].enrich) == ("", "none")
    (alone,) = ladder.attacks_of("deconvolution", AttackSettings(stages="se", decoder_depth=2))
    assert (alone.name, alone.stages, alone.depth) == ("deconvolution-se-depth2", "se", (2,))
    # The default stages are as many as the decoder has, the strongest last.
    for z_shape, stages in [((16, 16, 3), (("msca",),)), ((4, 4, 3), (("lsk",), ("msca",)))]:
        assert ladder.ATTACKS["attention"].decoder(AttackSettings(), z_shape, IMAGE).stages == stages
    with pytest.raises(UserError, match="unknown attack 'deconv'; did you mean 'deconvolution'"):
        ladder.attacks_of(["deconv"])
    with pytest.raises(UserError, match="'linear' is given twice"):
        ladder.attacks_of(["linear", ladder.ATTACKS["linear"]])
    with pytest.raises(UserError, match="no attack is given; known: linear,"):
        ladder.attacks_of([])


@pytest.mark.parametrize(
    ("z_shape", "more", "said"),
    [
        ((4, 4, 2), {"stages": (("se",),) * 3}, "stages names 3 of them, but the decoder .* has 2; give at most 2"),
        ((10,), {"tokens": "class"}, "is not a sequence: leave out tokens class"),
        ((10,), {"depth": (-1,)}, "decoder depth"),
    ],
)
def test_what_cannot_be_built_is_refused(z_shape, more, said):
    with pytest.raises(UserError, match=said):
        decoder_for(z_shape, IMAGE, **more)
