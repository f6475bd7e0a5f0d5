"""Where should a network be cut between edge and cloud so that what is sent cannot be turned back into the input?

Importing this does no I/O and starts no device. The names below are what the commands themselves use::

    network = gpz_jax.tap(model, variables, x)                    # any Flax Linen model
    gpz_jax.valid_cuts(network, variables, x)                     # does information bypass a cut?
    probe = gpz_jax.probe_network(network, variables, batches, 10, key=key)  # R_c², rho and the zone at every cut
    found = gpz_jax.attack_cut(network, variables, "fc", auxiliary, test, key=key)  # what comes back from z?
    print(gpz_jax.verdict_of(found).sentence)                     # does the cut leak, and was it tested enough?
    terms = gpz_jax.feature_terms(network, variables, x, labels, targets, step_size=0.01)  # what will move it

Whole runs (train, probe, attack a run folder) are functions of ``gpz_jax.workflow``.
"""

from gpz_jax import _begun  # noqa: F401 (for what it does; first, by its name)
from gpz_jax.analysis.bounds import decision_bound, feature_bound, information_ceiling, quantiser
from gpz_jax.analysis.contraction import FeatureTerms, feature_terms, interference
from gpz_jax.analysis.labels import cluster_labels, predicted_labels
from gpz_jax.analysis.nulls import null_variables
from gpz_jax.analysis.parameter_space import ParameterTerms, gradient_parts, parameter_terms
from gpz_jax.analysis.price import Price, price_cuts
from gpz_jax.analysis.probe_result import Probe
from gpz_jax.analysis.probing import probe_network
from gpz_jax.analysis.radius import Moments, deviations, measure, merge, radius, scatter, summarise, update
from gpz_jax.analysis.readings import Readings, readings
from gpz_jax.analysis.zone import CutStatistics, Zone, bootstrap_rho, locate, null_rule, paper_rule
from gpz_jax.config import (
    AttackConfig,
    AttackSettings,
    Config,
    DataConfig,
    ModelConfig,
    ProbeConfig,
    TrackConfig,
    TrainingConfig,
)
from gpz_jax.convolutions import TransposedConv
from gpz_jax.deployment.halves import export_halves
from gpz_jax.deployment.halves_folder import load_halves, save_halves
from gpz_jax.errors import UserError
from gpz_jax.inversion.attacking import attack_cut
from gpz_jax.inversion.decoder import Decoder, decoder_for
from gpz_jax.inversion.guarantee_result import Guarantee
from gpz_jax.inversion.guarantees import guarantees_at
from gpz_jax.inversion.protocol import Attack, Fitted, Reconstruction, Target
from gpz_jax.inversion.results import AttackResult, Attempt, Training
from gpz_jax.inversion.verdict import Verdict, verdict_of
from gpz_jax.models import CNN
from gpz_jax.taps import Tap, TappedNetwork, split_at, tap, tap_shapes, valid_cuts
from gpz_jax.taps_nnx import tap_nnx
from gpz_jax.targets import cross_entropy, output_entropy, soft_targets
from gpz_jax.training.tracker import Tracker

__all__ = [
    "CNN",
    "Attack",
    "AttackConfig",
    "AttackResult",
    "AttackSettings",
    "Attempt",
    "Config",
    "CutStatistics",
    "DataConfig",
    "Decoder",
    "FeatureTerms",
    "Fitted",
    "Guarantee",
    "ModelConfig",
    "Moments",
    "ParameterTerms",
    "Price",
    "Probe",
    "ProbeConfig",
    "Readings",
    "Reconstruction",
    "Tap",
    "TappedNetwork",
    "Target",
    "TrackConfig",
    "Tracker",
    "Training",
    "TrainingConfig",
    "TransposedConv",
    "UserError",
    "Verdict",
    "Zone",
    "attack_cut",
    "bootstrap_rho",
    "cluster_labels",
    "cross_entropy",
    "decision_bound",
    "decoder_for",
    "deviations",
    "export_halves",
    "feature_bound",
    "feature_terms",
    "gradient_parts",
    "guarantees_at",
    "information_ceiling",
    "interference",
    "load_halves",
    "locate",
    "measure",
    "merge",
    "null_rule",
    "null_variables",
    "output_entropy",
    "paper_rule",
    "parameter_terms",
    "predicted_labels",
    "price_cuts",
    "probe_network",
    "quantiser",
    "radius",
    "readings",
    "save_halves",
    "scatter",
    "soft_targets",
    "split_at",
    "summarise",
    "tap",
    "tap_nnx",
    "tap_shapes",
    "update",
    "valid_cuts",
    "verdict_of",
]
