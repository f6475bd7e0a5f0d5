"""What can be refused before a run is opened: its images alone take seconds."""

import dataclasses

from gpz_jax import defences
from gpz_jax.config import AttackConfig, Config, Foresight, ProbeConfig, check_attack, resolve
from gpz_jax.errors import UserError
from gpz_jax.inversion.ladder import attacks_of
from gpz_jax.workflow.dry_run_command import check_tpu
from gpz_jax.workflow.probe_command import rules_to_apply


def check_foresight(foresight: Foresight) -> None:
    """Raise :class:`UserError` for a TPU without a dry run, an unknown one, or one without its compiler."""
    if foresight.tpu is not None and not foresight.dry_run:
        raise UserError("tpu names a TPU for dry_run to compile for; add dry_run", field=("tpu", "dry_run"))
    check_tpu(foresight.tpu)


def check_probe_flags(options: ProbeConfig, seed: int | None) -> None:
    """Raise :class:`UserError` for settings that no run can be probed with."""
    resolve(dataclasses.replace(Config(), probe=options, seed=seed or 0))
    rules_to_apply(options)


def check_attack_flags(options: AttackConfig, seed: int | None) -> None:
    """Raise :class:`UserError` for settings that no run can be attacked with."""
    check_attack(options)
    resolve(dataclasses.replace(Config(), seed=seed or 0))
    attacks_of(options.attack or ("deconvolution",), options, ladder=options.ladder)
    defences.parse(options.defence)
