"""All that lies on disk of a run, and only here: its folder, checkpoints, epochs, steps and attacks."""

from gpz_jax.runs.attacks import (
    attack_folder,
    file_name,
    forget_attempt,
    read_attempt,
    read_result,
    read_results,
    write_attempt,
    write_table,
)
from gpz_jax.runs.beside import edge_milliseconds, versions, write_edge_milliseconds
from gpz_jax.runs.checkpoints import Checkpoints, Loaded, Place, latest_of_all, saved_epochs
from gpz_jax.runs.epochs import append_metrics, epochs, keep_epochs, read_metrics, write_epochs
from gpz_jax.runs.folder import (
    Run,
    check_folder,
    differences,
    made_free,
    member_name,
    network_name,
    open_run,
    readable_name,
    start,
    write_config,
)
from gpz_jax.runs.guarantees import read_guarantees, write_guarantees
from gpz_jax.runs.object_store import is_remote
from gpz_jax.runs.owner import is_passing, owned
from gpz_jax.runs.probes import probe_folders, probe_name, read_probe, write_probe
from gpz_jax.runs.records import SCHEMA_VERSION, NewerSchema, load_tree, save_tree, schema_of
from gpz_jax.runs.remote import at_hand, files_of, push
from gpz_jax.runs.steps import (
    CHUNK,
    PARAMETER_TERMS,
    VARIABLES,
    Layout,
    StepRecord,
    read_steps,
    steps_dataset,
    steps_folder,
)
from gpz_jax.runs.unfinished import Unfinished
from gpz_jax.runs.zarr_records import dynamics_store, write_zarr

__all__ = [
    "CHUNK",
    "PARAMETER_TERMS",
    "SCHEMA_VERSION",
    "VARIABLES",
    "Checkpoints",
    "Layout",
    "Loaded",
    "NewerSchema",
    "Place",
    "Run",
    "StepRecord",
    "Unfinished",
    "append_metrics",
    "at_hand",
    "attack_folder",
    "check_folder",
    "differences",
    "dynamics_store",
    "edge_milliseconds",
    "epochs",
    "file_name",
    "files_of",
    "forget_attempt",
    "is_passing",
    "is_remote",
    "keep_epochs",
    "latest_of_all",
    "load_tree",
    "made_free",
    "member_name",
    "network_name",
    "open_run",
    "owned",
    "probe_folders",
    "probe_name",
    "push",
    "read_attempt",
    "read_guarantees",
    "read_metrics",
    "read_probe",
    "read_result",
    "read_results",
    "read_steps",
    "readable_name",
    "save_tree",
    "saved_epochs",
    "schema_of",
    "start",
    "steps_dataset",
    "steps_folder",
    "versions",
    "write_attempt",
    "write_config",
    "write_edge_milliseconds",
    "write_epochs",
    "write_guarantees",
    "write_probe",
    "write_table",
    "write_zarr",
]
