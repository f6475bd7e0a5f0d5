"""Settings as frozen dataclasses, and the values that no run can have.

The name of a field is the name of its flag and of its TOML key: ``--batch-size 64`` is ``batch_size = 64`` under
``[training]`` (``flags.py``, ``settings_files.py``).
"""

import dataclasses
import math
from typing import Literal

from gpz_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, and who may see them."""

    data: str = "digits"
    """Data set: 'digits' (scikit-learn's, bundled), NAME of DATA_DIR/NAME.npz or of a folder
    DATA_DIR/NAME/train/CLASS/*.png, or a TensorFlow Datasets name (needs gpz-jax[tfds])."""
    data_dir: str = "data"
    """Folder that holds the .npz files and image folders."""
    aux: str | None = "auto"
    """The attacker's images: NAME of another data set; 'held-out' for a part of --data that the classifier never sees
    (what its .npz brings for the attacker, if anything); 'auto' for the paper's pairing (MNIST <- KMNIST, …) if that
    lies in --data-dir, else held-out."""
    train_limit: int | None = None
    """Use no more than this many of the data set's training images, balanced over the classes, for all parties."""
    size: int = 32
    """Side in pixels to which images are resized, a multiple of 16 (the paper: 64)."""
    augment: Literal["auto", "none", "grey", "colour"] = "auto"
    """Augmentation of the classifier's training images: 'auto' is 'colour' for RGB, 'none' for one channel."""
    validation_fraction: float = 0.1
    """Share of the training images held out to choose the best epoch and the learning rate."""
    auxiliary_fraction: float = 0.25
    """Share of the training images that only the attacker sees, where its images are held out."""
    test_fraction: float | None = None
    """Share of every class that becomes the test part of an image folder without test/, the same images each time."""
    allow_copies: bool = False
    """Go on although 1 % or more of a party's images (validation, auxiliary, test) are exact copies of others'."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The target network."""

    model: str = "cnn"
    """Architecture: cnn (the paper's four blocks), resnet18, resnet50, vgg16, vgg19, ir50, ir100, ir152 or vit."""
    width: int | None = None
    """Channels of the first block (the paper: 64; of the ViT's tokens: 128); default: 16 for cnn, else the paper's."""
    depth: float = 1.0
    """Factor on the layers of every stage (on the ViT's blocks); below 1 for a sibling that trains on a laptop."""
    patch: int = 4
    """Side of the ViT's patches in pixels."""
    heads: int = 8
    """Heads of the ViT's attention."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the convolutions: 'auto' is bfloat16 on GPUs and TPUs, float32 on CPUs. Batch-norm statistics and the head
    stay float32."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How the classifier is trained."""

    ls: float = 0.0
    """Label smoothing alpha: 0 one-hot, above 0 LS+ (the paper: 0.3), below 0 LS- (the paper: -0.05)."""
    warmup_epochs: int | None = None
    """Epochs of one-hot before alpha sets in; default: a quarter of the epochs for alpha < 0 (whose loss has no lower
    bound), else 0."""
    epochs: int = 40
    """Passes over the training images (the paper: 300)."""
    batch_size: int = 128
    """Images a step, over all devices together."""
    lr: float = 0.01
    """Learning rate of amsgrad (b1 0.5, b2 0.999); halved when the validation loss stops falling."""
    patience: int = 10
    """Epochs without a better validation loss before the learning rate is halved."""
    track_size: int = 1000
    """Validation images (at most, balanced over classes) on which R_c^2 of every cut is measured after each epoch."""


@dataclasses.dataclass(frozen=True)
class TrackConfig:
    """Which training steps are entered in the ledger of R_c^2 (dynamics.zarr), and on which images."""

    track_every: int | None = None
    """Enter every so many steps (1: every step) in the ledger; default: none, only each epoch's summary is kept."""
    probe_size: int = 256
    """Images, fixed and balanced over the classes, on which the ledger measures R_c^2; at least 2 a class."""
    track_split: Literal["train", "validation"] = "train"
    """Where those images come from: what the classifier trains on, or what it does not."""
    ledger: Literal["feature", "full"] = "full"
    """'feature': the paper's terms and the realised change; 'full': also what the parameters' step did, to first order
    and beyond, which costs about three times as much."""
    interference: tuple[str, ...] = ()
    """Cut at which the class x class interference is kept; repeat the flag for several. Default: the last cut before
    the logits."""


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """What is measured at every cut of a trained network."""

    split: Literal["test", "train", "validation", "auxiliary", "full"] = "test"
    """Images to measure on; 'full' is every training image of the data set, whoever may see it."""
    limit: int | None = None
    """Measure on no more than this many images (the first ones of the split)."""
    labels: Literal["true", "predicted", "kmeans"] = "true"
    """Classes: true labels, the network's predictions (as in the paper's release), or K clusters of the layer before
    the logits."""
    unbiased: bool = False
    """Divide by N_c - 1 instead of N_c."""
    null_seeds: int = 5
    """Untrained calibrated copies to hold the evidence against; 0 for no null model, at least 2 for rule 'null', whose
    limit is out of reach with fewer than about 5."""
    rule: tuple[str, ...] = ()
    """Rule that locates the zone, 'paper' or 'null'; repeat the flag for several. Default: all that can run."""
    bootstrap: int = 1000
    """Resamples of the images behind every interval."""
    quantiser: Literal["float32", "bfloat16", "uint8"] = "uint8"
    """How z is sent: the payload the H(X|Z) drop is stated for."""
    view: Literal["tokens", "mean", "first"] = "tokens"
    """What is measured of a transformer's tokens: all of them, their mean, or the first (ViT: the class token)."""


@dataclasses.dataclass(frozen=True)
class AttackSettings:
    """How attackers are made ready, and what they get of z."""

    epochs: int = 100
    """Passes over the attacker's images (the paper: 100)."""
    patience: int | None = None
    """Stop a decoder's training after so many epochs without a better selection loss. Default: never."""
    steps: int | None = None
    """At most so many steps of a decoder's training, whatever --epochs, or of the likelihood attack (500 without)."""
    batch_size: int = 64
    """Images a step."""
    lr: float = 3e-3
    """Learning rate of the decoder's Adam, halved whenever the selection loss stops falling."""
    decoder_width: int = 16
    """Channels of the decoder's last stage; doubled at every coarser one."""
    decoder_depth: int | None = None
    """Further layers at every resolution of the decoder. Default: a deconvolution has none, a residual decoder one."""
    match_params: int | None = None
    """Give every decoder the width at which it has about so many parameters, in place of --decoder-width."""
    stages: str | None = None
    """Attention modules after the decoder's stages, from the coarsest: mha, aac, se, lsk, msca, joined by + and
    separated by commas, such as mha,aac+se,lsk,msca. In a ladder: those of 'attention'."""
    enrich: str | None = None
    """Enrichment of z before the decoder: normalize, fft_residual, fft_concat, dropout_residual, dropout_concat, joined
    by +. In a ladder: that of 'enriched' (normalize+dropout_concat)."""
    tokens: Literal["all", "class", "mean"] = "all"
    """What of a sequence of tokens the attacker uses."""
    probabilities: bool = False
    """The attacker gets log-probabilities where logits are sent (at the cut logits); for every attack."""
    top_k: int | None = None
    """The attacker gets the k largest entries only, where a vector such as the logits is sent; for every attack."""
    restarts: int = 2
    """Starts of the likelihood attack from noise; of each image the best is kept. After other attacks it starts from
    the reconstructions of the best of them instead."""
    tv: float | None = None
    """Weight of the total variation in the likelihood attack. Default: chosen on a few of the attacker's images."""
    likelihood_images: int = 64
    """Test images that the likelihood attack is run on, the first of them."""
    selection_fraction: float = 0.2
    """Share of the attacker's images on which its best epoch is chosen."""


@dataclasses.dataclass(frozen=True)
class AttackConfig(AttackSettings):
    """Which attacks are tried at which cuts, and what is kept of them."""

    cut: tuple[str, ...] = ()
    """Cut to attack; repeat the flag for several. Default: every valid cut."""
    ladder: bool = False
    """Try every attack of the ladder, from weak to strong, and let the best of them score the cut: linear,
    deconvolution, residual, attention, enriched, likelihood."""
    attack: tuple[str, ...] = ()
    """Attack to try: linear, deconvolution, residual, attention, enriched, likelihood, or residual-ir152 (as deep as
    IR-152); repeat the flag for several. Default: deconvolution. The linear attack is made in any case."""
    defence: str = "none"
    """Perturbation of z at the edge, which the attacker meets in training too, joined by +: gaussian:S, laplace:S
    (noise of S times the spread of z), dropout:P (units zeroed with probability P), topk:F (only the share F of largest
    units kept), uint8. Such attacks are kept in RUN/attacks-DEFENCE."""
    into: str = ""
    """Keep these attacks apart, in RUN/attacks-INTO. Without it the same attack on the same cut with other settings
    replaces the one in RUN/attacks."""
    null: bool = False
    """Attack an untrained copy of the network with calibrated batch norms instead: what its architecture resists."""
    lpips_weights: str | None = None
    """File with the weights of LPIPS, an .npz. Default: the one that GPZ_LPIPS names; without one LPIPS is left out."""


@dataclasses.dataclass(frozen=True)
class Compiling:
    """How a command compiles its programs; nothing that it prints depends on it."""

    no_compile_cache: bool = False
    """Compile everything anew, and keep nothing of it. Without it what is compiled is kept in the user's cache folder,
    up to 1 GiB, and the next command begins at once; JAX_COMPILATION_CACHE_DIR names another folder."""
    verbose: bool = False
    """Say what is compiled and how long that takes, and what an earlier command had compiled."""


@dataclasses.dataclass(frozen=True)
class Foresight:
    """Find out what a command would need, in place of doing it."""

    dry_run: bool = False
    """Say what this would need, and do nothing of it: memory by the compiler's own analysis, FLOP, the time of three
    timed steps, placement, whether it fits, and what to lower where it does not. Nothing is written."""
    tpu: str | None = None
    """With --dry-run: on a TPU that need not be there, such as v5e:2x2, by its compiler (gpz-jax[tpu-check])."""


@dataclasses.dataclass(frozen=True)
class RunIdentity:
    """What the run must be; given as a check, since a trained run's settings cannot be changed."""

    data: str | None = None
    """Refuse the run unless it was trained on this data set."""
    model: str | None = None
    """Refuse the run unless it is of this model."""
    width: int | None = None
    """Refuse the run unless its model has this width."""
    size: int | None = None
    """Refuse the run unless its images have this side."""
    ls: float | None = None
    """Refuse the run unless it was trained with this alpha."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a training run is a function of, besides the images themselves."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    track: TrackConfig = TrackConfig()
    probe: ProbeConfig = ProbeConfig()
    seed: int = 0
    """Seed of the splits, the initialisation, the order of images and all noise."""


#: The most that a setting may be: beyond it a number is a slip of the hand, or no memory or lifetime suffices.
MOST: dict[str, int] = {
    "train_limit": 10**9, "size": 2**14, "width": 2**16, "patch": 2**14, "heads": 2**12,
    "epochs": 10**6, "warmup_epochs": 10**6, "batch_size": 2**24, "patience": 10**9, "track_size": 10**9,
    "track_every": 10**9, "probe_size": 10**7,
    "limit": 10**9, "null_seeds": 1000, "bootstrap": 10**6,
    "steps": 10**9, "decoder_width": 2**14, "decoder_depth": 100, "match_params": 10**12, "top_k": 10**9,
    "restarts": 10**4, "likelihood_images": 10**9,
    "channels": 2**10, "classes": 10**6, "repeats": 10**6, "budget_payload": 10**18,
    "seed": 2**32 - 1,  # jax.random.key takes 32 bits: beyond them seeds collide, 2^32 with 0
}  # fmt: skip


def check_range(low: int | None, **values: int | None) -> None:
    """Raise :class:`UserError` for a setting below ``low``, if that is one, or above what ``MOST`` says.

    A setting of None is within.

    Example:
      >>> check_range(1, limit=10**21)
      Traceback (most recent call last):
      gpz_jax.errors.UserError: limit must be at most 1000000000, got 1000000000000000000000
    """
    for name, value in values.items():
        if value is None:
            continue
        if low is not None and value < low:
            raise UserError(f"{name} must be at least {low}, got {value}", field=name)
        if name in MOST and value > MOST[name]:
            shown = value if value < 10**30 else "far more"
            raise UserError(f"{name} must be at most {MOST[name]}, got {shown}", field=name)


def resolve(config: Config) -> Config:
    """The configuration with its defaults worked out, checked for values that no run can have.

    Raises:
      UserError: names the flag, its value and the range it must lie in.

    Example:
      >>> resolve(Config(training=TrainingConfig(ls=-0.05, epochs=40))).training.warmup_epochs
      10
    """
    t, d, p, k = config.training, config.data, config.probe, config.track
    if not (t.ls < 1 and math.isfinite(t.ls)):
        raise UserError(
            f"ls must be a finite number below 1, got {t.ls:g}; one-hot is 0, the paper's LS+ is 0.3", field="ls"
        )
    check_range(1, epochs=t.epochs, batch_size=t.batch_size, patience=t.patience, track_size=t.track_size)
    check_range(0, null_seeds=p.null_seeds, seed=config.seed)
    check_range(1, bootstrap=p.bootstrap, probe_size=k.probe_size, track_every=k.track_every)
    check_range(1, limit=p.limit, train_limit=d.train_limit, width=config.model.width)
    check_range(None, size=d.size, patch=config.model.patch, heads=config.model.heads)  # below: by the model
    if d.aux == "":
        raise UserError("aux is empty; name a data set, held-out or auto, or leave it out", field="aux")
    _positive(lr=t.lr)
    _fraction(validation_fraction=d.validation_fraction, auxiliary_fraction=d.auxiliary_fraction)
    if d.test_fraction is not None:
        _fraction(test_fraction=d.test_fraction)
    warmup = t.warmup_epochs
    if warmup is None:
        warmup = min(max(1, t.epochs // 4), t.epochs - 1) if t.ls < 0 else 0
    check_range(0, warmup_epochs=warmup)
    if warmup and warmup >= t.epochs:
        raise UserError(
            f"warmup_epochs {warmup} leaves none of the {t.epochs} epochs for alpha = {t.ls:g}", field="warmup_epochs"
        )
    return dataclasses.replace(config, training=dataclasses.replace(t, warmup_epochs=warmup))


def check_settings(attack: AttackSettings) -> None:
    """Raise :class:`UserError` for settings that no attacker can be made ready with."""
    check_range(1, epochs=attack.epochs, batch_size=attack.batch_size, decoder_width=attack.decoder_width)
    check_range(1, restarts=attack.restarts, likelihood_images=attack.likelihood_images, top_k=attack.top_k)
    check_range(1, patience=attack.patience, steps=attack.steps, match_params=attack.match_params)
    check_range(0, decoder_depth=attack.decoder_depth)
    if attack.tv is not None and not (attack.tv >= 0 and math.isfinite(attack.tv)):
        raise UserError(f"tv must be 0 or more, got {attack.tv:g}", field="tv")
    _positive(lr=attack.lr)
    _fraction(selection_fraction=attack.selection_fraction)


def check_attack(attack: AttackConfig) -> AttackConfig:
    """``attack``, checked as :func:`resolve` checks a run's configuration."""
    check_settings(attack)
    if not all(c.isalnum() or c in "._-" for c in attack.into):
        raise UserError(
            f"into {attack.into!r}: letters, digits, dots, dashes and underscores only; it names a folder", field="into"
        )
    if attack.ladder and attack.attack:
        raise UserError("give ladder (every one) or attack (those you name), not both", field=("ladder", "attack"))
    return attack


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name} must be a positive number, got {value:g}", field=name)


def _fraction(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < 1:
            raise UserError(f"{name} must lie between 0 and 1, got {value:g}", field=name)
