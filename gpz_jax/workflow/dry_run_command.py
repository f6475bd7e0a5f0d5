"""What training, probing or attacking would need, found out before any of it is paid for; nothing is written."""

import dataclasses
import math

import jax
from rich.console import Console

from gpz_jax import memory, parallel
from gpz_jax.config import AttackConfig, Config, ProbeConfig, resolve
from gpz_jax.data.splits import Splits
from gpz_jax.errors import UserError
from gpz_jax.presentation import quantity
from gpz_jax.reporting import dry_run_table
from gpz_jax.training import classifier
from gpz_jax.training.placements import Asked
from gpz_jax.workflow.attack_command import cuts_to_attack
from gpz_jax.workflow.common import load_data, say
from gpz_jax.workflow.dry_run_compiled import compiled
from gpz_jax.workflow.dry_run_result import DryRun, Program
from gpz_jax.workflow.dry_run_tpu import CHIPS, check_libtpu, parse_topology, programs_on_tpu
from gpz_jax.workflow.dry_run_work import Work, programs_of
from gpz_jax.workflow.image_placement import WORDS, kind_asked, stays_on_disk
from gpz_jax.workflow.loaded_run import LoadedRun
from gpz_jax.workflow.probe_command import split_to_probe
from gpz_jax.workflow.train_command import check_trainable, on_this_machine


def dry_run_of_training(config: Config, *, images: Asked = "auto", tpu: str | None = None) -> DryRun:
    """What :func:`train_run` would need.

    Args:
      config: as for :func:`train_run`.
      images: likewise.
      tpu: a TPU that need not be there, such as "v5e:2x2"; None for the devices of this machine.

    Raises:
      UserError: bad settings or data; an unknown topology; no libtpu for it, or another version.
    """
    check_tpu(tpu)
    if tpu is not None and config.model.dtype == "auto":
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="bfloat16"))
    config = on_this_machine(resolve(config))
    dealt, _ = load_data(config.data, config.seed, disk=stays_on_disk(images))
    if tpu is None:
        channels = dealt.train.images.shape[-1]
        network = classifier.network_for(classifier.recipe_for(config, dealt.num_classes, channels), channels)
        check_trainable(config, dealt, network, parallel.data_mesh())
    devices, there = _devices(tpu)
    size = len(dealt.train) * math.prod(dealt.train.images.shape[1:])
    kind = kind_asked(images, size, dealt.train, devices=devices, there=there)
    work = dataclasses.replace(_work("train", config, AttackConfig(), dealt, len(dealt.validation)), placement=kind)
    what = f"training {config.model.model} on {config.data.data}"
    held = {"train": len(dealt.train), "validation": len(dealt.validation)}
    return _found(work, tpu, what, held, config.training.epochs, ("batch_size", "size", "width"))


def dry_run_of_probe(loaded: LoadedRun, options: ProbeConfig, *, tpu: str | None = None) -> DryRun:
    """What :func:`probe_run` would need; see :func:`dry_run_of_training`."""
    check_tpu(tpu)
    config = dataclasses.replace(loaded.run.config, probe=options)
    chosen = split_to_probe(loaded, options)
    work = _work("probe", config, AttackConfig(), loaded.splits, len(chosen))
    what = f"probing {loaded.run.folder.name} at {len(loaded.network.cuts)} cuts, {options.null_seeds} untrained copies"
    return _found(work, tpu, what, {options.split: len(chosen)}, 1, ())


def dry_run_of_attack(loaded: LoadedRun, options: AttackConfig, *, tpu: str | None = None) -> DryRun:
    """What :func:`attack_run` would need to train its decoders; see :func:`dry_run_of_training`."""
    check_tpu(tpu)
    options = dataclasses.replace(options, cut=cuts_to_attack(loaded, options.cut))
    work = _work("attack", loaded.run.config, options, loaded.splits, len(loaded.splits.test))
    what = f"attacking {loaded.run.folder.name} at {', '.join(options.cut)}"
    held = {"auxiliary": len(loaded.splits.auxiliary), "test": len(loaded.splits.test)}
    found = _found(work, tpu, what, held, options.epochs, ("batch_size", "decoder_width"))
    left_out = "decoders alone: the linear and the likelihood attack, and scoring, come to this"
    return dataclasses.replace(found, notes=(*found.notes, left_out))


def check_tpu(tpu: str | None) -> None:
    """Raise :class:`UserError` for an unknown topology, or where its compiler is missing, before anything is read."""
    if tpu is not None:
        parse_topology(tpu)
        check_libtpu()


def _work(kind: str, config: Config, attack: AttackConfig, dealt: Splits, measured: int) -> Work:
    height, width, channels = map(int, dealt.train.images.shape[1:])
    of_attacker = tuple(map(int, dealt.auxiliary.images.shape[1:]))
    return Work(
        kind, config, attack, len(dealt.train), len(dealt.validation), len(dealt.auxiliary), measured,
        (height, width, channels), of_attacker, dealt.num_classes,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def _found(
    work: Work, tpu: str | None, what: str, images: dict[str, int], epochs: int, lower: tuple[str, ...]
) -> DryRun:
    """Compile everything, saying what is done; a large network takes minutes."""
    devices, there = _devices(tpu)
    if tpu is None:
        mesh = parallel.data_mesh()
        kind, notes = jax.devices()[0].device_kind, ()
        programs = []
        for asked in programs_of(work, mesh, there):
            programs.append(compiled(asked, there, run=True))
            _say(programs[-1])
    else:
        kind = f"TPU {parse_topology(tpu)[0]}"
        programs = programs_on_tpu(work, tpu, _say)
        notes = ("by the TPU's compiler, on this machine; ms a step are its estimate, loops left out",)
    if not programs:
        raise UserError("there is no decoder among these attacks, so that nothing large is compiled; leave out dry_run",
                        field="dry_run")  # fmt: skip
    return DryRun(
        what, kind, devices, there, images, work.shape, epochs, tuple(programs), lower, notes, WORDS[work.placement]
    )


def _devices(tpu: str | None) -> tuple[int, int]:
    """How many devices, and the bytes of memory that one has."""
    if tpu is None:
        mesh = parallel.data_mesh()
        return mesh.size, memory.of_one(mesh)
    chip, shape = parse_topology(tpu)
    return math.prod(map(int, shape.split("x"))) * (2 if chip == "tpu7x" else 1), int(CHIPS[chip].gib * 2**30)


def _say(program: Program) -> None:
    say(f"{program.name}: compiled in {program.compile_seconds:.1f} s")


def report_dry_run(found: DryRun, console: Console, *, wide: bool = False) -> None:
    """Print what a dry run found.

    Raises:
      UserError: it does not fit; names what to lower. The table is printed before.
    """
    console.print(dry_run_table.dry_run_table(found, wide=wide))
    for sentence in dry_run_table.sentences(found):
        console.print(sentence, markup=False, highlight=False)
    if found.fits:
        return
    largest = found.largest
    need = f"{largest.name} needs {quantity(largest.peak, 1024)}B a device, {found.device} has"
    there = f"{quantity(found.memory, 1024)}B"
    raise UserError(f"does not fit: {need} {there}; {_what_to_change(found)}", field=found.lower)


def _what_to_change(found: DryRun) -> str:
    if not found.lower:
        return "take a device with more memory, or a run of smaller --size or --width"
    first, *others = found.lower
    batch = found.batch_that_fits
    about = f"lower {first} to about {batch}" if batch >= found.devices else f"lower {first}"
    return f"{about}, or else {' or '.join(others)}"
