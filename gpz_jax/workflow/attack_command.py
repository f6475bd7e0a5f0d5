"""Attack a trained run at chosen cuts, attack by attack, and keep what comes of it in the run folder."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gpz_jax import defences, processes, runs
from gpz_jax.atomic import make_folder
from gpz_jax.config import AttackConfig, check_attack, resolve
from gpz_jax.data.batches import Pixels, normalise
from gpz_jax.inversion import attacking, lpips
from gpz_jax.inversion.capture import captured_together
from gpz_jax.inversion.ladder import attacks_of, with_linear
from gpz_jax.inversion.protocol import Attack, Target
from gpz_jax.inversion.results import AttackResult, Attempt
from gpz_jax.inversion.scoring import Exam
from gpz_jax.presentation import number
from gpz_jax.reporting import figures
from gpz_jax.taps import valid_cuts
from gpz_jax.workflow.attack_pause import AttackPause
from gpz_jax.workflow.clock import Every
from gpz_jax.workflow.common import progress_bar, say
from gpz_jax.workflow.guarantees_of_run import keep_guarantee
from gpz_jax.workflow.loaded_run import LoadedRun
from gpz_jax.workflow.probe_command import null_of


def attack_run(
    loaded: LoadedRun,
    options: AttackConfig = AttackConfig(),
    *,
    seed: int | None = None,
    resume: bool = False,
    pictures: int = 10,
    checkpoint_every: str | None = None,
    guarantees: bool = True,
) -> list[AttackResult]:
    """Attack a trained network at each cut, attack by attack, and score what is rebuilt of the test images.

    Each finished attack is written to ``attacks/CUT-ATTACK/`` (scores of every image, the leak list, what was fitted,
    grids) before the next begins. One that is stopped by SIGTERM or SIGINT keeps how far it is and is gone on with by
    ``resume``; a kill costs what was done since it was last saved. Attacks on the null model go to ``attacks-null``,
    on a defended edge to ``attacks-DEFENCE``. Tables are ``table.csv`` in those folders, of all that lies there, and
    ``attacks.png`` (the best attack on every cut) and ``attacks-CUT.png`` (all attacks on it) under ``figures/``.

    Args:
      loaded: what :func:`load_run` opened; its auxiliary split is the attacker's.
      options: which cuts, which attacks, and how they are made ready.
      seed: of the attacker; the run's own by default.
      resume: read attacks that were made with the same options instead of making them again.
      pictures: test images in the grids.
      checkpoint_every: save an attack on its way every so many steps ("500") or minutes ("10min").
      guarantees: whether the two estimates without an attack are made, too; they ask the network again at every cut.

    Returns:
      One result a cut; its attempts without what was fitted, which is on disk.

    Raises:
      UserError: an unknown or bypassed cut, attack, module, enrichment or defence, what cannot be built at a cut,
        weights of LPIPS that cannot be read (all before any attack starts); an attack whose loss is not finite.
    """
    every = None if checkpoint_every is None else Every.parse(checkpoint_every)
    options = check_attack(options)
    seed = loaded.run.config.seed if seed is None else seed
    resolve(dataclasses.replace(loaded.run.config, seed=seed))  # for its check of the seed
    attacks = with_linear(attacks_of(options.attack or ("deconvolution",), options, ladder=options.ladder))
    defences.parse(options.defence)
    cuts = cuts_to_attack(loaded, options.cut)
    exam = _exam(loaded, options)
    targets = captured_together(_targets(loaded, options, cuts, jax.random.key(seed)), exam.x)
    for target in targets:
        attacking.check_attacks(target, attacks)
    with runs.owned(loaded.run.folder):
        home = loaded.run.subfolder(attack_home(options))
        # The images themselves, not their number or name: another --aux must not pass for this one.
        auxiliary = hashlib.sha256(targets[0].auxiliary.tobytes()).hexdigest()
        keep = max(pictures, options.likelihood_images)
        asked = {"seed": seed, "auxiliary": auxiliary, "epoch_of_run": loaded.epoch, "pictures": keep}
        asked |= {"lpips": exam.lpips is not None, "defence": options.defence, "null": options.null}
        processes.every(lambda: runs.read_guarantees(home))  # of a newer schema: refused before anything runs
        results = []
        for target in targets:
            shelf = _Shelf(home, target, asked, resume, pictures, every)
            results.append(_attack(target, attacks, exam, shelf, keep))
            if guarantees:
                keep_guarantee(home, loaded, target, asked, resume=resume)
        processes.led(lambda: _report(loaded, home, results, pictures))
        runs.push(home)
    return results


def attack_home(options: AttackConfig) -> str:
    """Name of the folder, in the run's, that holds attacks with these options; grids have the same name.

    Example:
      >>> attack_home(AttackConfig()), attack_home(AttackConfig(null=True, defence="gaussian:0.5+uint8"))
      ('attacks', 'attacks-null-gaussian0.5+uint8')
    """
    defence = defences.parse(options.defence)
    defended = [runs.file_name(str(defence))] if defence.steps else []
    return "-".join(
        ["attacks", *([options.into] if options.into else []), *(["null"] if options.null else []), *defended]
    )


# What is attacked -----------------------------------------------------------------------------------------------------


def cuts_to_attack(loaded: LoadedRun, asked: tuple[str, ...]) -> tuple[str, ...]:
    """The cuts asked for, each once; every valid one where none is. Raises :class:`UserError` for an unknown one."""
    images = loaded.splits.test.images
    for cut in asked:
        attacking.check_cut(loaded.network, loaded.variables, cut, images)
    if asked:
        return tuple(dict.fromkeys(asked))
    example = jax.ShapeDtypeStruct((2, *images.shape[1:]), jnp.uint8)
    return tuple(cut for cut, ok in valid_cuts(loaded.network, loaded.variables, example).items() if ok)


def _targets(loaded: LoadedRun, options: AttackConfig, cuts: tuple[str, ...], key: Array) -> list[Target]:
    """A target a cut; with ``null`` an untrained copy of the network."""
    variables = loaded.variables
    if options.null:
        of_null = jax.random.fold_in(key, 1000)  # the probe's first null model
        variables = null_of(loaded, of_null)
    train, auxiliary = loaded.splits.train, loaded.splits.auxiliary.take()[0]
    owned = train.images[train.indices[: attacking.REFERENCE_IMAGES]]
    return [
        attacking.target_for(
            loaded.network, variables, cut, auxiliary, owned,
            key=key, pixels=Pixels(loaded.recipe.size), settings=options, defence=options.defence, mesh=loaded.mesh,
            white_box=dataclasses.replace(loaded.network, prepare=normalise),
        )
        for cut in cuts
    ]  # fmt: skip


def _exam(loaded: LoadedRun, options: AttackConfig) -> Exam:
    """The test images, and the floors from the target's own training images."""
    weights = lpips.weights_file(options.lpips_weights)
    if weights is None:
        say(lpips.HOW_TO_GET)
    splits = loaded.splits
    exam = attacking.exam_for(
        loaded.network, loaded.variables, splits.auxiliary.take()[0], splits.test.take(), splits.train.take(),
        pixels=Pixels(loaded.recipe.size), lpips=weights, mesh=loaded.mesh,
    )  # fmt: skip
    for note in exam.notes:
        say(note)
    return exam


# The attacks, and where they are kept ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Shelf:
    """Where attempts on one cut are kept, and read again if they were asked for with the same settings."""

    home: Path
    target: Target
    asked: dict[str, Any]
    resume: bool
    pictures: int
    every: Every | None = None

    def folder(self, attack: Attack) -> Path:
        return runs.attack_folder(self.home, self.target.cut, attack.name)

    def settings(self, attack: Attack, before: tuple[Attempt, ...]) -> dict[str, Any]:
        """All that an attempt depends on: another must not be read in its place."""
        edge, settings = self.target.edge, self.target.settings
        own = {field.name: getattr(attack, field.name) for field in dataclasses.fields(attack) if field.compare}
        return {
            **self.asked,
            "cut": edge.cut,
            "probabilities": edge.probabilities,
            "top_k": edge.top_k,
            "attack": own,
            **{name: getattr(settings, name) for name in attack.uses},
            **({"after": [attempt.attack for attempt in before]} if attack.follows else {}),
        }

    def recall(self, attack: Attack, before: tuple[Attempt, ...]) -> Attempt | None:
        """The attempt as it was finished, with ``resume``."""
        folder = self.folder(attack)
        asked = self.settings(attack, before)
        found = processes.every(lambda: runs.read_attempt(folder, asked)) if self.resume else None
        processes.check_same(found is not None, f"as to whether {folder.name} is finished")
        if found is not None:
            say(f"{attack.name} on {self.target.cut}: already done, read from {folder}")
        elif (folder / "result.json").is_file():
            say(f"{folder} holds another attack, which is replaced; --into NAME keeps both")
        return found

    def pause(self, attack: Attack, before: tuple[Attempt, ...]) -> AttackPause:
        """Where the attack is left when it is asked to stop, and gone on with by ``resume``."""
        name = f"{attack.name} on {self.target.cut}"
        asked = self.settings(attack, before)
        return AttackPause(self.folder(attack), asked, resume=self.resume, every=self.every, name=name)

    def keep(self, attack: Attack, result: AttackResult) -> None:
        """Write the last attempt, and its grids."""
        *before, attempt = result.attempts
        folder = self.folder(attack)
        processes.led(lambda: self._draw(make_folder(folder), result.cut, attempt))
        runs.write_attempt(folder, result, self.settings(attack, tuple(before)))
        self.pause(attack, tuple(before)).finished()
        runs.push(folder)

    def _draw(self, folder: Path, cut: str, attempt: Attempt) -> None:
        runs.forget_attempt(folder)
        first = attempt.first
        rows = {cut: first.reconstructions[: self.pictures]}
        figures.reconstruction_grid(first.originals[: self.pictures], rows, folder / "reconstructions.png")
        for end, found in (("best", attempt.best_inverted), ("worst", attempt.worst_inverted)):
            rows = {f"{end} inverted": found.reconstructions}
            figures.reconstruction_grid(found.originals, rows, folder / f"{end}.png")


def _attack(target: Target, attacks: tuple[Attack, ...], exam: Exam, shelf: _Shelf, keep: int) -> AttackResult:
    """Every attack on one cut, with a bar that says how far each is; what was fitted stays on disk alone."""
    with progress_bar() as bar:
        task = bar.add_task(target.cut, total=None)

        def recall(attack: Attack, before: tuple[Attempt, ...]) -> Attempt | None:
            bar.reset(task, total=None, description=f"{attack.name} on {target.cut}")
            return shelf.recall(attack, before)

        def progress(done: int, total: int, words: str) -> None:
            name, _, _ = bar.tasks[0].description.partition("  ")
            bar.update(task, completed=done, total=total, description=f"{name}  {words}".rstrip())

        def on_attempt(attack: Attack, so_far: AttackResult) -> None:
            shelf.keep(attack, so_far)
            if bar.disable:
                _say_scores(target.cut, so_far.attempts[-1], bar.tasks[0].elapsed)

        result = attacking.attack_target(
            target, attacks, exam, keep=keep, recall=recall, on_attempt=on_attempt, progress=progress, pause=shelf.pause
        )
    fitted_on_disk = (dataclasses.replace(attempt, parameters=None) for attempt in result.attempts)
    return dataclasses.replace(result, attempts=tuple(fitted_on_disk))


def _say_scores(cut: str, attempt: Attempt, seconds: float | None) -> None:
    """One line an attack, where no bar is drawn."""
    took = "" if seconds is None else f", {seconds:.0f} s"
    mse, ratio = number(attempt.scores.mse), number(attempt.scores.ratio)
    say(f"{attempt.attack} on {cut}: mse {mse}, {ratio} of the class-mean floor{took}")


def _report(loaded: LoadedRun, home: Path, results: list[AttackResult], pictures: int) -> None:
    """The table of all attacks in the folder, and a grid for each cut and for all cuts."""
    earlier = runs.write_table(home, results, lambda file, why: say(f"{why}; it is left out of {home.name}/table.csv"))
    if earlier:
        rows = "1 row" if earlier == 1 else f"{earlier} rows"
        say(f"{home.name}/table.csv keeps {rows} of earlier calls, beside those of this one")
    drawn = loaded.run.subfolder("figures")
    for result in results:
        if len(result.attempts) > 1:
            rows = {_scored(one.attack, one): one.reconstructions[:pictures] for one in result.attempts}
            file = drawn / f"{home.name}-{runs.file_name(result.cut)}.png"
            figures.reconstruction_grid(result.originals[:pictures], rows, file)
    rows = {_scored(result.cut, result.best): result.best.reconstructions[:pictures] for result in results}
    figures.reconstruction_grid(results[-1].originals[:pictures], rows, drawn / f"{home.name}.png")


def _scored(name: str, attempt: Attempt) -> str:
    """A row's name in a grid, with its score."""
    return f"{name}\nratio {number(attempt.scores.ratio, 2)}"
