"""What the commands do, as functions of a configuration or a run folder: train, probe, attack.

``python -m gpz_jax.train`` and its kin parse flags and print; everything else they do is here, to be called from a
script (``experiments/tour.py``) or a notebook.
"""

from gpz_jax.workflow.attack import attack_home, attack_run
from gpz_jax.workflow.common import load_data, say, short
from gpz_jax.workflow.cuts import BareModel, CutsConfig, Priced, price, price_model, price_run, report_cuts
from gpz_jax.workflow.imported import import_run
from gpz_jax.workflow.probe import probe_run, report_probe
from gpz_jax.workflow.split import report_split, split_run
from gpz_jax.workflow.together import train_together
from gpz_jax.workflow.train import train_run
from gpz_jax.workflow.victim import Victim, load_run, report_accuracy
from gpz_jax.workflow.vortex import read_ledgers, report_ledgers

__all__ = [
    "BareModel",
    "CutsConfig",
    "Priced",
    "Victim",
    "attack_home",
    "attack_run",
    "import_run",
    "load_data",
    "load_run",
    "price",
    "price_model",
    "price_run",
    "probe_run",
    "read_ledgers",
    "report_accuracy",
    "report_cuts",
    "report_ledgers",
    "report_probe",
    "report_split",
    "say",
    "short",
    "split_run",
    "train_run",
    "train_together",
]
