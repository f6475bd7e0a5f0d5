"""Attack a cut of any tapped network: arrays in, one typed result out."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gpz_jax import defences, parallel
from gpz_jax.config import AttackSettings, check_settings
from gpz_jax.defences import Defence, Reference
from gpz_jax.errors import UserError
from gpz_jax.inversion import lpips as perceptual
from gpz_jax.inversion.attack_inputs import (
    Inputs,
    check_cut,
    check_kinds,
    check_labels_of,
    checked_inputs,
    is_float,
    what_is_rebuilt,
)
from gpz_jax.inversion.floors import Guesses, class_means, mean_image
from gpz_jax.inversion.identification import chosen_images
from gpz_jax.inversion.ladder import attacks_of, with_linear
from gpz_jax.inversion.metrics import as_pixels
from gpz_jax.inversion.pause import NEVER, Pause
from gpz_jax.inversion.protocol import BATCH, Attack, Edge, Progress, Target, defend, pieces, send, silent
from gpz_jax.inversion.results import Answers, AttackResult, Attempt, best_of, joined
from gpz_jax.inversion.scoring import Exam, Tally
from gpz_jax.seeds import check_key
from gpz_jax.taps import TappedNetwork
from gpz_jax.taps.batch_axis import batch_size, rows_of
from gpz_jax.targets import check_logits

#: Known inputs over which the spread and range of z are taken that a defence is measured by.
REFERENCE_IMAGES = 1024


def attack_cut(
    network: TappedNetwork,
    variables: Any,
    cut: str,
    auxiliary: Inputs,
    test: Inputs,
    *,
    attacks: Sequence[str | Attack] = ("linear",),
    key: Array,
    pixels: Callable[[Any], Array] | None = None,
    public: str | Iterable[str] = (),
    white_box: TappedNetwork | None = None,
    known: Inputs | None = None,
    settings: AttackSettings = AttackSettings(),
    defence: str | Defence = "none",
    lpips: perceptual.Weights | str | Path | None = None,
    keep: int = 64,
    mesh: Mesh | None = None,
    progress: Progress = silent,
) -> AttackResult:
    """Attack one cut of a tapped network with one attack or several, and score what they rebuild of the test inputs.

    Args:
      network: the tapped network.
      variables: its variables.
      cut: where z is taken.
      auxiliary: the attacker's inputs ``(N, …)``, as the network takes them, or a pair of them and their labels.
      test: inputs that neither has trained on, likewise; without labels the network's predictions stand for them.
      attacks: names of ``inversion.ladder.ATTACKS`` or attacks of your own, in order. "linear" takes any numbers, the
        others images; it is made whatever else is asked for.
      key: of the attacker's chance: ``jax.random.key(seed)`` gives what the command gives for that seed.
      pixels: inputs -> what is rebuilt, images ``(N, H, W, C)`` in [0, 1], or numbers of other axes: a function at
        module level, such as one that undoes a normalisation. Default: bytes are divided by 255, floats are taken as
        they are, and of an input of several arrays the one that is not public.
      public: names of those arrays of the input that the cloud may know (:func:`gpz_jax.valid_cuts`). The attacks here
        make no use of them.
      white_box: the tapped network from what is rebuilt, for "likelihood". Default: ``network``, where its inputs are
        floats and no ``pixels`` are given.
      known: the target's own training inputs and labels, for the floors. Default: the attacker's.
      settings: how attackers are made ready, and what they get of z.
      defence: what the edge does to z, such as "gaussian:0.5+uint8".
      lpips: weights of LPIPS, or their file; None leaves it out.
      keep: how many of the first test inputs are kept with their reconstructions.
      mesh: devices; all by default.
      progress: told how far each attack is.

    Returns:
      See :class:`~gpz_jax.inversion.results.AttackResult`.

    Raises:
      UserError: before anything runs, an unknown or bypassed cut, an unknown attack or one that does not fit the
        inputs, inputs or labels of a wrong kind or number, settings out of range, no key; later, an attack whose loss
        is not finite.

    Example:
      >>> import flax.linen as nn, jax.numpy as jnp
      >>> from gpz_jax.taps import tap
      >>> model, x = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)]), jax.random.normal(jax.random.key(1), (40, 8))
      >>> variables = model.init(jax.random.key(0), x)
      >>> found = attack_cut(tap(model, variables, x), variables, "layers_0", x[:30], x[30:], key=jax.random.key(0))
      >>> found.best.attack, found.shape, bool(found.best.scores.ratio < 0.01)
      ('linear', (8,), True)
    """
    check_key(key)
    check_settings(settings)
    if keep < 0:
        raise UserError(f"keep must be at least 0, got {keep}", field="keep")
    chosen = with_linear(attacks_of(attacks, settings))
    pixels = what_is_rebuilt(auxiliary, pixels, public)
    check_cut(network, variables, cut, checked_inputs("auxiliary", auxiliary)[0], public=public)
    sides = {"auxiliary": auxiliary, "test": test, **({} if known is None else {"known": known})}
    found = {name: checked_inputs(name, side) for name, side in sides.items()}
    images = check_kinds({name: x for name, (x, _) in found.items()}, pixels)
    check_labels_of(network, variables, found)
    if white_box is None and pixels is None and is_float(found["test"][0]):
        white_box = network
    pixels = as_pixels if pixels is None else pixels
    owned = found.get("known", found["auxiliary"])
    target = target_for(
        network, variables, cut, found["auxiliary"][0], owned[0], key=key, pixels=pixels, white_box=white_box,
        settings=settings, defence=defence, images=images, mesh=mesh,
    )  # fmt: skip
    check_attacks(target, chosen)
    exam = exam_for(
        network, target.variables, found["auxiliary"][0], found["test"], owned, pixels=pixels, images=images,
        lpips=lpips, mesh=target.mesh,
    )  # fmt: skip
    return attack_target(target, chosen, exam, keep=max(keep, settings.likelihood_images), progress=progress)


# What is attacked, and what it is scored with -------------------------------------------------------------------------


def target_for(
    network: TappedNetwork,
    variables: Any,
    cut: str,
    auxiliary: Any,
    owned: Any,
    *,
    key: Array,
    pixels: Callable[[Any], Array],
    white_box: TappedNetwork | None,
    settings: AttackSettings,
    defence: str | Defence = "none",
    images: bool = True,
    mesh: Mesh | None = None,
) -> Target:
    """The target at one cut; a defence is measured against z of the first ``owned`` inputs, the defender's."""
    defence = defences.parse(defence) if isinstance(defence, str) else defence
    edge = Edge(network, cut, defence, pixels, settings.probabilities, settings.top_k)
    mesh = parallel.data_mesh() if mesh is None else mesh
    variables = parallel.everywhere(variables, mesh)
    owned = rows_of(owned, slice(REFERENCE_IMAGES))
    reference = reference_of(edge, variables, owned, mesh) if defence.steps else None
    return Target(edge, variables, auxiliary, key, settings, reference, white_box, images, mesh)


def reference_of(edge: Edge, variables: Any, x: Any, mesh: Mesh) -> Reference:
    """What the edge's defence is measured against, from inputs; see :func:`gpz_jax.defences.reference`."""
    sent = ((send(variables, piece, edge=edge), count) for piece, count in pieces(x, mesh=mesh))
    return defences.reference(parallel.first(z, count, mesh) for z, count in sent)


def exam_for(
    network: TappedNetwork,
    variables: Any,
    auxiliary: Any,
    test: tuple[Any, np.ndarray | None],
    owned: tuple[Any, np.ndarray | None],
    *,
    pixels: Callable[[Any], Array],
    images: bool = True,
    lpips: perceptual.Weights | str | Path | None = None,
    mesh: Mesh | None = None,
) -> Exam:
    """What attacks are scored with: test inputs, and the answers of attackers without z.

    The mean image and the class means are of the ``owned`` inputs, the target's; the label-only answer is the mean of
    the attacker's inputs that the network puts in the same class: the best answer there is, in squared error, to the
    predicted label alone. Where labels are missing, the network's predictions stand for them.
    """
    mesh = parallel.data_mesh() if mesh is None else mesh
    predict = partial(_predictions, network, parallel.everywhere(variables, mesh), mesh)
    (predicted, num_classes), (taken_for, _) = predict(test[0]), predict(auxiliary)
    of_owned = predict(owned[0])[0] if owned[1] is None else owned[1]
    mean_of, means_of = (partial(function, pixels=pixels, mesh=mesh) for function in (mean_image, class_means))
    label_only = np.array(parallel.fetch(means_of(auxiliary, taken_for, num_classes)))
    missing = np.setdiff1d(np.arange(num_classes), taken_for)
    notes = ()
    if len(missing):
        label_only[missing] = parallel.fetch(mean_of(auxiliary))
        notes = (
            f"none of the attacker's images is taken for class {', '.join(map(str, missing[:5]))}"
            f"{' …' if len(missing) > 5 else ''}; the label-only floor answers with their mean there",
        )
    guesses = Guesses(mean_of(owned[0]), means_of(owned[0], of_owned, num_classes), jnp.asarray(label_only))
    weights = lpips if lpips is None or isinstance(lpips, perceptual.Weights) else perceptual.load(lpips)
    guesses, weights = parallel.everywhere((guesses, weights), mesh)
    if test[1] is None:
        return Exam(test[0], predicted, predicted, guesses, images, weights, notes, mesh=mesh)
    return Exam(test[0], test[1], predicted, guesses, images, weights, notes, _answers(predicted, test[1]), mesh)


def _answers(predicted: np.ndarray, labels: np.ndarray) -> Answers:
    commonest = np.max(np.bincount(labels)) / len(labels)
    return Answers(float(np.mean(predicted == labels)), float(commonest), len(labels))


@partial(jax.jit, static_argnames="network")
def _logits(variables, x, replace, *, network):
    logits = network(variables, x, replace=replace)[0]
    check_logits(logits)
    return logits


def _predictions(network: TappedNetwork, variables: Any, mesh: Mesh, x: Any) -> tuple[np.ndarray, int]:
    """The class that the network takes each input for, and the number of classes."""
    found = ((_logits(variables, piece, {}, network=network), count) for piece, count in pieces(x, mesh=mesh))
    logits = np.concatenate([parallel.fetch(batch)[:count] for batch, count in found])
    return np.argmax(logits, axis=1).astype(np.int32), logits.shape[1]


# The attacks ----------------------------------------------------------------------------------------------------------


def attack_target(
    target: Target,
    attacks: Sequence[Attack],
    exam: Exam,
    *,
    keep: int = 64,
    recall: Callable[[Attack, tuple[Attempt, ...]], Attempt | None] = lambda attack, before: None,
    on_attempt: Callable[[Attack, AttackResult], None] = lambda attack, result: None,
    progress: Progress = silent,
    pause: Callable[[Attack, tuple[Attempt, ...]], Pause] = lambda attack, before: NEVER,
) -> AttackResult:
    """Make every attack in turn.

    Args:
      target: what is attacked.
      attacks: which have been checked by :func:`check_attacks`.
      exam: what they are scored with.
      keep: how many of the first pictures are kept.
      recall: an attempt that was made before, given the attack and the attempts before it; None: make it.
      on_attempt: called after an attack was made, with the result so far, its own attempt last.
      progress: told how far each attack is.
      pause: where an attack can be left and gone on with, given what ``recall`` is given.
    """
    result = AttackResult(target.cut, target.z_shape, (), exam.notes, exam.answers, batch_size(target.auxiliary) or 0)
    for attack in attacks:
        found = recall(attack, result.attempts)
        if found is not None:
            result = joined(result, [found])
            continue
        aimed = dataclasses.replace(target, pause=pause(attack, result.attempts))
        made = make_attempt(aimed, attack, exam, result.attempts, keep=keep, progress=progress)
        result = joined(result, [made])
        on_attempt(attack, result)
    return result


def make_attempt(
    target: Target,
    attack: Attack,
    exam: Exam,
    before: tuple[Attempt, ...] = (),
    *,
    keep: int = 64,
    progress: Progress = silent,
) -> Attempt:
    """Fit one attack, let it rebuild the test inputs, and score that."""
    best = best_of(before) if before and attack.follows else None
    fitted = attack.fit(target, best=best, progress=progress)
    most = attack.test_images(target.settings)
    x = rows_of(exam.x, slice(most))
    tally = Tally(exam, keep, chosen=chosen_images(batch_size(x) or 0, target.seed))
    at, afterwards = 0, []
    for originals, z in target.batches(x, target.test_key(), "test" if most is None else None):
        start = None if best is None else jnp.asarray(best.reconstructions[at : at + len(z)])
        found = fitted.reconstruct(z, start if start is not None and len(start) == len(z) else None)
        tally, at = tally.add(originals, found.x), at + len(z)
        if found.flattened is not None and found.last_gain is not None:
            afterwards.append((found.flattened, found.last_gain))
    training = fitted.training
    if afterwards:
        flattened, gains = zip(*afterwards, strict=True)
        training = training._replace(flattened=all(flattened), last_gain=max(gains))
    defended = _accuracies(target, exam, before) if target.edge.defence.steps else ()
    return Attempt(
        attack.name,
        training=training,
        parameters=fitted.parameters,
        parameter_count=fitted.parameter_count,
        **tally.result()._asdict(),
        **dict(zip(("accuracy", "accuracy_undefended"), defended, strict=False)),
    )


def _accuracies(target: Target, exam: Exam, before: tuple[Attempt, ...]) -> tuple[float, float]:
    """Test accuracy of the network on what its defended edge sends, and without the defence; once a cut."""
    if before:
        return before[-1].accuracy, before[-1].accuracy_undefended
    right = np.zeros(2)
    for i, (piece, count) in enumerate(pieces(exam.x, mesh=target.mesh)):
        z = send(target.variables, piece, edge=target.edge)
        noise = jax.random.fold_in(target.key, i)
        labels = exam.labels[i * BATCH :][:count]
        for j, sent in enumerate((defend(z, noise, target.reference, edge=target.edge.receiver), z)):
            logits = _logits(target.variables, piece, {target.cut: sent}, network=target.edge.network)
            right[j] += np.sum(np.argmax(parallel.fetch(logits), axis=1)[:count] == labels)
    images = batch_size(exam.x) or 1
    return float(right[0] / images), float(right[1] / images)


# What is refused before anything runs ---------------------------------------------------------------------------------


def check_attacks(target: Target, attacks: Sequence[Attack]) -> None:
    """Raise :class:`UserError` for what cannot be built at this target."""
    target.check()
    for attack in attacks:
        attack.check(target)
