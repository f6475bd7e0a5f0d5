"""What is asked ahead at several cuts must be what each attack would have asked itself, and no more of it be held."""

import dataclasses
import math

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from gpz_jax import parallel, tap
from gpz_jax.config import AttackSettings
from gpz_jax.inversion import attacking, capture
from gpz_jax.inversion.capture import Capture, captured_together
from gpz_jax.inversion.ladder import attacks_of
from gpz_jax.inversion.metrics import as_pixels
from gpz_jax.inversion.protocol import pieces, send

KEY = jax.random.key(0)
SETTINGS = AttackSettings(epochs=2, decoder_width=2, batch_size=16)
MODEL = nn.Sequential(
    [nn.Conv(4, (3, 3)), nn.relu, nn.Conv(6, (3, 3), strides=2), lambda x: x.reshape(len(x), -1), nn.Dense(3)]
)


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1)).astype(np.float32) / 255


X, TEST = images(300), images(280, 1)
VARIABLES = MODEL.init(KEY, X[:2])
NETWORK = tap(MODEL, VARIABLES, X[:2])
ONE = Mesh(np.array(jax.devices()[:1]), ("data",))
CUTS = ("layers_0", "layers_2", "logits")


def targets():
    return [
        attacking.target_for(
            NETWORK, VARIABLES, cut, X, X, key=KEY, pixels=as_pixels, white_box=None, settings=SETTINGS,
            mesh=ONE,
        )
        for cut in CUTS
    ]  # fmt: skip


def test_it_is_what_each_attack_would_have_asked():
    for target in captured_together(targets(), TEST):
        for part, x in (("test", TEST), *zip(("fit", "selection"), target.fit_and_selection(), strict=True)):
            for (_, z, count), (piece, _) in zip(target.sent(x, part), pieces(x, mesh=target.mesh), strict=True):
                own = send(target.variables, piece, edge=target.edge)
                np.testing.assert_allclose(z[:count], own[:count], rtol=1e-6, atol=1e-6)


def test_attacks_come_out_the_same_and_the_network_is_asked_once_for_all(monkeypatch):
    exam = attacking.exam_for(NETWORK, VARIABLES, X, (TEST, None), (X, None), pixels=as_pixels, mesh=ONE)
    attacks = attacks_of(("linear", "deconvolution"), SETTINGS)
    bare = [attacking.attack_target(target, attacks, exam) for target in targets()]
    asked = []
    original = capture._at_cuts
    monkeypatch.setattr(
        capture, "_at_cuts", lambda *args, **more: asked.append(more["cuts"]) or original(*args, **more)
    )
    monkeypatch.setattr("gpz_jax.inversion.protocol.send", None)  # nobody asks by himself
    ahead = [attacking.attack_target(target, attacks, exam) for target in captured_together(targets(), TEST)]
    assert asked == [CUTS] * (1 + 1 + 2)  # batches of 240, 60 and 280 images
    for one, other in zip(bare, ahead, strict=True):
        for a, b in zip(one.attempts, other.attempts, strict=True):
            np.testing.assert_allclose(a.scores.mse, b.scores.mse, rtol=1e-4)


def test_groups_hold_no_more_than_they_may_and_a_wide_cut_is_left_to_ask_each_time():
    images = {"fit": X, "test": TEST}
    taps = NETWORK(VARIABLES, X)[1]
    sizes = {cut: 4 * 580 * math.prod(taps[cut].shape[1:]) for cut in CUTS}

    def groups(most):
        return Capture(NETWORK, VARIABLES, CUTS, images, ONE, most).groups

    assert groups(sum(sizes.values())) == (CUTS,)
    assert groups(sizes["layers_0"]) == (("layers_0",), ("layers_2", "logits"))
    assert groups(sizes["layers_2"]) == (("layers_2",), ("logits",))
    left_out = Capture(NETWORK, VARIABLES, CUTS, images, ONE, sizes["layers_2"])
    assert left_out("test", "layers_0") is None
    assert left_out("test", "layers_2") is not None
    assert left_out("test", "logits") is not None
    assert left_out._held.keys() == {"test"}
    assert left_out._held["test"].keys() == {"logits"}, "z of the group before is still held"
    assert left_out("test", "layers_0") is None
    assert not left_out._held, "held beside a cut that is asked each time"


def test_on_several_devices_every_attack_asks_for_itself():
    several = [dataclasses.replace(target, mesh=parallel.data_mesh()) for target in targets()]
    if several[0].mesh.size == 1:
        pytest.skip("one device")
    assert all(target.captured is None for target in captured_together(several, TEST))


def test_what_is_no_whole_part_is_asked_for():
    (target, *_) = captured_together(targets(), TEST)
    forgotten = dataclasses.replace(target, captured=lambda part, cut: (_ for _ in ()).throw(AssertionError))
    ((_, z, _),) = forgotten.sent(TEST[:5])
    assert z.shape == (5, 8, 8, 4)
