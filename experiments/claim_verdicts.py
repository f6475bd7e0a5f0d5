"""The paper's claims, each with the rule by which it is judged (not an experiment): no network, no images.

A verdict follows from the numbers by its rule: confirmed, partly, refuted or not tested. Intervals are 95 % by
Student's t over seeds; of fewer than three a claim is partly confirmed at most. Claims on attacks are judged in
claim_attacks.py, those on training, reconstructions and prices in claim_training.py.
"""

from claim_attacks import advantage, data_moves, delay, drop_locates, main_table
from claim_numbers import Claim
from claim_training import drift, edge_cost, smoothing, vortex
from common import ALPHAS

from gpz_jax.errors import UserError, did_you_mean

#: Networks of which every third cut is attacked, and what they are trained on.
CURVES = (
    *((name, "cifar10") for name in ("vgg19", "ir152", "resnet50", "resnet18", "vit", "cnn")),
    *(("vgg19", data) for data in ("facescrub20", "kmnist", "lfw", "chest_xray")),
)

#: Their data sets; the attacker on LFW has the images of other people.
SETS = ("cifar10", "facescrub20", "kmnist", "lfw", "lfw_aux", "chest_xray")

#: In the order of the paper.
CLAIMS = (
    Claim(
        "main-table",
        "Decision-level cuts resist: IR-152's error is 3.2 times as large at block 50 as at 40, VGG19's 2.1 times at "
        "39 as at 30, and it jumps there.",
        ("ir152-cifar10-one-hot", "vgg19-cifar10-one-hot"),
        main_table,
    ),
    Claim(
        "advantage",
        "The error at the decision level is four times that at the feature level; 66 % of it is gained on average, and "
        "stays when the attacker has attention and z is enriched.",
        ("ir152-cifar10-one-hot", "vgg19-cifar10-one-hot"),
        advantage,
    ),
    Claim(
        "residual-delay",
        "Residual connections delay the zone, and a ViT has none.",
        tuple(f"{name}-cifar10-one-hot" for name in ("vgg19", "cnn", "resnet18", "resnet50", "ir152", "vit")),
        delay,
    ),
    Claim(
        "data-moves",
        "The data set moves the zone: earlier on FaceScrub, later on KMNIST.",
        tuple(f"vgg19-{data}-one-hot" for data in ("facescrub20", "cifar10", "kmnist", "lfw", "chest_xray")),
        data_moves,
        SETS,
    ),
    Claim(
        "label-smoothing",
        "LS+ contracts R_c² at the decision level, which resists more for it, and costs no accuracy; LS- does the "
        "opposite.",
        tuple(f"{name}-cifar10-{targets}" for name in ("cnn", "vgg19", "ir152") for targets in ALPHAS),
        smoothing,
    ),
    Claim(
        "neural-vortex",
        "Under LS+ the correct-class coefficient changes sign, and from there the output's entropy rises while R_c² "
        "and the bound on z fall, as the two terms of its equation say.",
        tuple(f"dynamics-{name}-{targets}" for name in ("vgg19", "ir152") for targets in ("one-hot", "LS+")),
        vortex,
        ("mnist",),
    ),
    Claim(
        "drift",
        'Beyond the zone what an attacker with MNIST makes of KMNIST\'s characters drifts to "0", with EMNIST to "D".',
        ("drift",),
        drift,
        ("kmnist", "mnist", "emnist_letters"),
    ),
    Claim(
        "edge-cost",
        "VGG19 reaches the zone with 2.5 % of its parameters at the edge, IR-152 with over 78 %; from 26 to 30 VGG19 "
        "sends half, at almost no latency.",
        ("prices",),
        edge_cost,
        (),
    ),
    Claim(
        "drop-locates",
        "Where R_c² drops abruptly, inversion becomes hard.",
        tuple(f"{name}-{data}-one-hot" for name, data in CURVES),
        drop_locates,
        SETS,
    ),
)


def claim_of(name: str) -> Claim:
    """The claim of that name."""
    claims = {claim.name: claim for claim in CLAIMS}
    if name not in claims:
        raise UserError(f"unknown claim {name!r}{did_you_mean(name, claims)}", field="rerun")
    return claims[name]
