"""All that lies on disk of a run, and only here: its folder, checkpoints, epochs, steps and attacks."""

from gpz_jax.runs.checkpoints import Checkpoints, Loaded, latest_of_all, saved_epochs
from gpz_jax.runs.epochs import append_metrics, epochs, keep_epochs, read_metrics, write_epochs
from gpz_jax.runs.folder import (
    Run,
    check_folder,
    differences,
    free,
    member_name,
    network_name,
    open_run,
    readable_name,
    start,
    write_config,
)
from gpz_jax.runs.records import (
    SCHEMA_VERSION,
    dynamics_store,
    make_folder,
    save_tree,
    schema_of,
    write_json,
    write_zarr,
)
from gpz_jax.runs.steps import CHUNK, PARAMETER_TERMS, VARIABLES, StepRecord, read_steps, steps_folder

__all__ = [
    "CHUNK",
    "PARAMETER_TERMS",
    "SCHEMA_VERSION",
    "VARIABLES",
    "Checkpoints",
    "Loaded",
    "Run",
    "StepRecord",
    "append_metrics",
    "check_folder",
    "differences",
    "dynamics_store",
    "epochs",
    "free",
    "keep_epochs",
    "latest_of_all",
    "make_folder",
    "member_name",
    "network_name",
    "open_run",
    "read_metrics",
    "read_steps",
    "readable_name",
    "save_tree",
    "saved_epochs",
    "schema_of",
    "start",
    "steps_folder",
    "write_config",
    "write_epochs",
    "write_json",
    "write_zarr",
]
