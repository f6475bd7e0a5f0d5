"""What the commands do, as functions of a configuration or a run folder: train, probe, attack.

``python -m gpz_jax.train`` and its kin parse flags and print; everything else they do is here, to be called from a
script (``experiments/tour.py``) or a notebook.
"""

from gpz_jax.workflow.at_hand import all_at_hand, at_hand, check_out
from gpz_jax.workflow.attack_command import attack_home, attack_run
from gpz_jax.workflow.common import load_data, say, short
from gpz_jax.workflow.cut_evidence import attacked
from gpz_jax.workflow.cuts_command import BareModel, CutsConfig, Priced, price, price_model, price_run, report_cuts
from gpz_jax.workflow.dry_run_command import (
    dry_run_of_attack,
    dry_run_of_probe,
    dry_run_of_training,
    report_dry_run,
)
from gpz_jax.workflow.dry_run_result import DryRun
from gpz_jax.workflow.early_checks import check_attack_flags, check_foresight, check_probe_flags
from gpz_jax.workflow.from_torch import run_from_torch
from gpz_jax.workflow.guarantees_of_run import guarantee_of, guarantees_beside
from gpz_jax.workflow.image_placement import stays_on_disk
from gpz_jax.workflow.loaded_run import LoadedRun, load_run, report_accuracy
from gpz_jax.workflow.probe_command import calibration_batches, probe_run, report_probe
from gpz_jax.workflow.report_command import report_runs, said_of_report
from gpz_jax.workflow.resumed import begun
from gpz_jax.workflow.split_command import report_split, split_run
from gpz_jax.workflow.sweep_command import report_sweep, train_sweep
from gpz_jax.workflow.train_command import train_run
from gpz_jax.workflow.vortex_command import read_ledgers, report_ledgers

__all__ = [
    "BareModel",
    "CutsConfig",
    "DryRun",
    "LoadedRun",
    "Priced",
    "all_at_hand",
    "at_hand",
    "attack_home",
    "attack_run",
    "attacked",
    "begun",
    "calibration_batches",
    "check_attack_flags",
    "check_foresight",
    "check_out",
    "check_probe_flags",
    "dry_run_of_attack",
    "dry_run_of_probe",
    "dry_run_of_training",
    "guarantee_of",
    "guarantees_beside",
    "load_data",
    "load_run",
    "price",
    "price_model",
    "price_run",
    "probe_run",
    "read_ledgers",
    "report_accuracy",
    "report_cuts",
    "report_dry_run",
    "report_ledgers",
    "report_probe",
    "report_runs",
    "report_split",
    "report_sweep",
    "run_from_torch",
    "said_of_report",
    "say",
    "short",
    "split_run",
    "stays_on_disk",
    "train_run",
    "train_sweep",
]
