"""Attack a trained run at chosen cuts, rung by rung, and score the reconstructions against floors."""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from gpz_jax import defences, runs
from gpz_jax.analysis.nulls import null_variables
from gpz_jax.config import AttackConfig, check_attack, resolve
from gpz_jax.data.batches import padded_batches
from gpz_jax.data.splits import Split
from gpz_jax.errors import UserError
from gpz_jax.inversion import decoder_training, lpips, metrics
from gpz_jax.inversion.ladder import Rung, rungs_of
from gpz_jax.reporting import figures, tables
from gpz_jax.taps import valid_cuts
from gpz_jax.workflow import attack_fitting
from gpz_jax.workflow.attack_fitting import Fitted, Target
from gpz_jax.workflow.common import progress_bar, say
from gpz_jax.workflow.loaded_run import LoadedRun
from gpz_jax.workflow.probe_command import calibration_batches

#: Training images over which the spread and range of z are taken that a defence is measured by.
REFERENCE_IMAGES = 1024

#: Images and classes at either end of the leak list.
LEAKS = 5


class Kept(NamedTuple):
    """A finished attack: its result, and the first test images with their reconstructions."""

    result: dict[str, Any]
    originals: np.ndarray
    reconstructions: np.ndarray


def attack_run(
    loaded: LoadedRun,
    options: AttackConfig = AttackConfig(),
    *,
    seed: int | None = None,
    resume: bool = False,
    shown: int = 10,
) -> list[dict[str, Any]]:
    """Attack a trained network at each cut, rung by rung, and score reconstructions of test images against the floors.

    Each finished attack is written to ``attacks/CUT-RUNG/`` (scores of every image, the leak list, the decoder, grids)
    before the next begins, so a kill costs the one under way. Attacks on the null model go to ``attacks-null``, on a
    defended edge to ``attacks-DEFENCE``. Tables are ``table.csv`` in those folders, and ``attacks.png`` (the best rung
    of every cut) and ``attacks-CUT.png`` (all rungs) under ``figures/``.

    Args:
      loaded: what :func:`load_run` opened; its auxiliary split is the attacker's.
      options: which cuts, which attackers, and how they are trained.
      seed: of the attacker; the run's own by default.
      resume: read attacks that were made with the same options instead of making them again.
      shown: test images in the grids.

    Returns:
      One dict an attack, those on one cut next to each other: cut, dimension, decoder (the rung), scores (means over
      test images), intervals, floors, leaks, flattened, last_gain, best (whether it is the best at its cut), ….

    Raises:
      UserError: an unknown or bypassed cut, rung, module, enrichment or defence, what cannot be built at a cut, weights
        of LPIPS that cannot be read (all before any attack starts); an attack whose loss is not finite.
    """
    options = check_attack(options)
    seed = loaded.run.config.seed if seed is None else seed
    resolve(dataclasses.replace(loaded.run.config, seed=seed))  # for its check of the seed
    ladder, defence = rungs_of(options), defences.parse(options.defence)
    cuts = _cuts_to_attack(loaded, options.cut)
    scorer = _scorer(loaded, options)
    if options.null:
        key = jax.random.fold_in(jax.random.key(seed), 1000)  # the probe's first null model
        null = null_variables(loaded.recipe.model, key, calibration_batches(loaded))
        loaded = loaded._replace(variables=null)
    home = attack_home(options)
    targets = {cut: _target(loaded, cut, defence, seed) for cut in cuts}
    for target in targets.values():
        for rung in ladder.values():
            attack_fitting.check_rung(rung, target, options)
    loaded.run.subfolder(home)
    # The images themselves, not their number or name: another --aux must not pass for this one.
    auxiliary = hashlib.sha256(loaded.splits.auxiliary.take()[0].tobytes()).hexdigest()
    asked = {"seed": seed, "auxiliary": auxiliary, "epoch_of_run": loaded.epoch, "shown": shown}
    asked["lpips"] = scorer.lpips is not None

    results, grid, originals = [], {}, None
    with progress_bar() as bar:
        for cut, target in targets.items():
            here: dict[str, Kept] = {}
            for label, rung in ladder.items():
                folder = loaded.run.subfolder(home, f"{_file_name(cut)}-{_file_name(label)}")
                of_rung = asked | {"cut": cut, **_settings(rung, options)}
                if rung.kind == "likelihood":
                    of_rung["below"] = list(here)  # it starts where the best of them ended
                kept = _finished(folder, of_rung) if resume else None
                if kept is None:
                    if (folder / "result.json").is_file():
                        say(f"{folder} holds another attack, which is replaced; --into NAME keeps both")
                    fitted = _fit(rung, target, options, label, here, bar)
                    kept = _score(loaded, target, label, rung, fitted, scorer, folder, of_rung, options)
                else:
                    say(f"{label} on {cut}: already done, read from {folder}")
                here[label] = kept
            # By all test images; where one rung saw the first of them only, by those.
            alike = len({kept.result["test_images"] for kept in here.values()}) == 1
            best = min(here, key=lambda label: _error(here[label].result, all_images=alike))
            results += [{**kept.result, "best": label == best} for label, kept in here.items()]
            originals, grid[cut] = here[best].originals[:shown], here[best].reconstructions[:shown]
            if len(here) > 1:
                rows = {label: kept.reconstructions[:shown] for label, kept in here.items()}
                file = f"{home}-{_file_name(cut)}.png"
                figures.reconstruction_grid(originals, rows, loaded.run.subfolder("figures") / file)
    tables.write_csv([_flat(result) for result in results], loaded.run.subfolder(home) / "table.csv")
    if originals is not None:
        figures.reconstruction_grid(originals, grid, loaded.run.subfolder("figures") / f"{home}.png")
    return results


def _error(result: Mapping[str, Any], *, all_images: bool) -> float:
    return result["scores"]["mse"] if all_images else result["mse_first"]


def attack_home(options: AttackConfig) -> str:
    """Name of the folder, in the run's, that holds attacks with these options; grids have the same name.

    Example:
      >>> attack_home(AttackConfig()), attack_home(AttackConfig(null=True, defence="gaussian:0.5+uint8"))
      ('attacks', 'attacks-null-gaussian0.5+uint8')
    """
    defence = defences.parse(options.defence)
    defended = [_file_name(str(defence))] if defence.steps else []
    return "-".join(
        ["attacks", *([options.into] if options.into else []), *(["null"] if options.null else []), *defended]
    )


def _cuts_to_attack(loaded: LoadedRun, asked: tuple[str, ...]) -> tuple[str, ...]:
    example = jax.ShapeDtypeStruct((2, *loaded.splits.test.images.shape[1:]), jnp.uint8)
    valid = valid_cuts(loaded.network, loaded.variables, example)
    for cut in asked:
        if not valid[loaded.network.check(cut)]:
            good = ", ".join(name for name, ok in valid.items() if ok)
            raise UserError(f"cut {cut!r} is bypassed: the logits know the input by another way; valid cuts: {good}")
    return tuple(dict.fromkeys(asked)) or tuple(cut for cut in loaded.network.cuts if valid[cut])


def _target(loaded: LoadedRun, cut: str, defence: defences.Defence, seed: int) -> Target:
    edge, reference = decoder_training.Edge(loaded.network, cut, defence), None
    if defence.steps:
        train = loaded.splits.train
        some = dataclasses.replace(train, indices=train.indices[:REFERENCE_IMAGES])
        masks = [mask for _, _, mask in padded_batches(some, 256)]
        sent = decoder_training.sent_batches(edge, loaded.variables, some)
        reference = defences.reference(z[mask] for z, mask in zip(sent, masks, strict=True))
    return Target(edge, loaded.variables, loaded.splits.auxiliary, loaded.recipe.size, reference, seed, loaded.mesh)


#: Settings that do not change what an attack of a given rung finds, beyond what is kept of it elsewhere.
APART = ("cut", "ladder", "rung", "stages", "enrich", "decoder_depth", "lpips_weights", "into")


def _settings(rung: Rung, options: AttackConfig) -> dict[str, Any]:
    """What an attack of this rung depends on: another must not be read in its place."""
    apart = {*APART, *(() if rung.kind == "likelihood" else ("restarts", "tv"))}
    settings = {name: value for name, value in dataclasses.asdict(options).items() if name not in apart}
    return {**settings, "rung": dataclasses.asdict(rung)}


def _fit(
    rung: Rung, target: Target, options: AttackConfig, label: str, here: Mapping[str, Kept], bar: Progress
) -> Fitted:
    name = f"{label} on {target.edge.cut}"
    if rung.kind == "linear":
        return attack_fitting.fit_linear(target, options)
    if rung.kind == "decoder":
        task = bar.add_task(name, total=options.epochs)
        fitted = attack_fitting.fit_decoder(rung, target, options, on_epoch=_advance(bar, task, name))
        bar.update(task, completed=options.epochs)  # it may have stopped early
        return fitted
    steps = options.steps or attack_fitting.LIKELIHOOD_STEPS
    task = bar.add_task(name, total=steps if here else steps * options.restarts)
    start = min(here.values(), key=lambda kept: kept.result["mse_first"]).reconstructions if here else None
    return attack_fitting.fit_likelihood(
        target, options, start=start, on_step=lambda done: bar.update(task, completed=done)
    )


# Scores --------------------------------------------------------------------------------------------------------------


class _Scorer(NamedTuple):
    """Scores and floors of test images, one number an image."""

    floors: Callable[[jax.Array, np.ndarray, np.ndarray], dict[str, jax.Array]]
    predicted: np.ndarray
    lpips: lpips.Weights | None

    def __call__(self, x: jax.Array, x_hat: jax.Array, labels: np.ndarray, at: int) -> dict[str, np.ndarray]:
        scored = metrics.score(x, x_hat)
        if self.lpips is not None:
            scored["lpips"] = lpips.lpips(self.lpips, _at_least_64(x), _at_least_64(x_hat))
        predicted = self.predicted[at : at + len(x)]
        floors = {f"floor_{name}": value for name, value in self.floors(x, labels, predicted).items()}
        return {name: np.asarray(value, np.float64) for name, value in {**scored, **floors}.items()}


def _at_least_64(x: jax.Array) -> jax.Array:
    """Images of 64 pixels a side, as the paper's: on smaller ones AlexNet's last layers see one position, or none."""
    side = max(64, *x.shape[1:3])
    return jax.image.resize(x, (len(x), side, side, x.shape[3]), "bilinear")


def _scorer(loaded: LoadedRun, options: AttackConfig) -> _Scorer:
    """Load LPIPS, and make the floors ready.

    What no z at all gives (mean image) and what the label gives (class mean), from the target's training images; and
    the decoder that sees only the label: the mean of the attacker's images that the classifier puts in the same class,
    the best answer there is, in squared error, to the predicted label alone.
    """
    file = lpips.weights_file(options.lpips_weights)
    weights = None if file is None else lpips.load(file)
    if weights is None:
        say(lpips.HOW_TO_GET)
    images, labels = loaded.splits.train.take()
    assert labels is not None  # the classifier was trained on them
    size, channels, num_classes = loaded.recipe.size, images.shape[-1], loaded.run.num_classes
    of_attacker = loaded.splits.auxiliary.take()[0]
    taken_for = _predictions(loaded, loaded.splits.auxiliary)
    by_label = np.array(metrics.class_means(of_attacker, taken_for, num_classes))
    missing = np.setdiff1d(np.arange(num_classes), taken_for)
    if len(missing):
        say(
            f"none of the attacker's images is taken for class {', '.join(map(str, missing[:5]))}"
            f"{' …' if len(missing) > 5 else ''}; the label-only floor answers with their mean there"
        )
        by_label[missing] = np.asarray(metrics.mean_image(of_attacker))

    def resized(images: Any) -> jax.Array:  # resizing is linear, so the mean of resized images is the resized mean
        return jax.image.resize(jnp.asarray(images), (len(images), size, size, channels), "bilinear")

    of_classes, of_labels = resized(metrics.class_means(images, labels, num_classes)), resized(by_label)
    of_all = resized(metrics.mean_image(images)[None])[0]

    def floors(x: jax.Array, labels: np.ndarray, predicted: np.ndarray) -> dict[str, jax.Array]:
        return {
            "mean_image": metrics.mean_image_floor(x, of_all),
            "class_mean": metrics.class_mean_floor(x, labels, of_classes),
            "label_only": metrics.class_mean_floor(x, predicted, of_labels),
        }

    return _Scorer(floors, _predictions(loaded, loaded.splits.test), weights)


def _predictions(loaded: LoadedRun, split: Split) -> np.ndarray:
    logits = [np.asarray(loaded.logits(images))[mask] for images, _, mask in padded_batches(split, 256)]
    return np.argmax(np.concatenate(logits), axis=1).astype(np.int32)


def _score(
    loaded: LoadedRun, target: Target, label: str, rung: Rung, fitted: Fitted, scorer: _Scorer, folder: Path,
    asked: dict[str, Any], options: AttackConfig,
) -> Kept:  # fmt: skip
    test = loaded.splits.test
    if rung.kind == "likelihood":
        test = dataclasses.replace(test, indices=test.indices[: options.likelihood_images])
    assert test.labels is not None  # every source has them
    labels = test.labels[test.indices]
    # As many as the likelihood attack may start from.
    first = max(asked["shown"], options.likelihood_images)
    kept: list[dict[str, np.ndarray]] = []
    originals, reconstructions, at = [], [], 0
    batch_psnr: list[tuple[float, int]] = []
    spread, spread_of_originals = metrics.Spread(), metrics.Spread()
    for x, x_hat in fitted.reconstruct(test):
        kept.append(scorer(x, x_hat, labels[at : at + len(x)], at))
        batch_psnr.append((float(metrics.psnr_paper(x, x_hat)), len(x)))
        spread, spread_of_originals = spread.add(x_hat), spread_of_originals.add(x)
        if at < first:
            originals.append(np.asarray(x)[: first - at])
            reconstructions.append(np.asarray(x_hat)[: first - at])
        at += len(x)
    columns = {name: np.concatenate([k[name] for k in kept]) for name in kept[0]}
    rows = [
        {"image": int(test.indices[i]), "label": int(labels[i]), **{name: columns[name][i] for name in columns}}
        for i in range(len(labels))
    ]
    # Written last, so that its presence says that all the rest is there and of one attack.
    (folder / "result.json").unlink(missing_ok=True)
    tables.write_csv(rows, folder / "scores.csv")
    originals, reconstructions = np.concatenate(originals), np.concatenate(reconstructions)
    np.savez(folder / "shown.npz", originals=originals, reconstructions=reconstructions)
    shown = asked["shown"]
    figures.reconstruction_grid(
        originals[:shown], {target.edge.cut: reconstructions[:shown]}, folder / "reconstructions.png"
    )
    if fitted.tree is not None:
        runs.save_tree(folder / "decoder", fitted.tree)
    leaks = _leaks(columns["mse"], labels, test)

    names = [name for name in ("mse", "mse_paper", "psnr", "ssim", "lpips", "cosine") if name in columns]
    means = {name: float(np.mean(columns[name])) for name in columns}
    shape = decoder_training.z_shape(target.edge, target.variables, target.auxiliary).shape[1:]
    state = fitted.chosen.get("state", {})  # what is known only once the images are attacked
    chosen = {name: value for name, value in fitted.chosen.items() if name != "state"}
    result = {
        "cut": target.edge.cut,
        "shape": list(shape),
        "dimension": int(np.prod(shape)),
        "decoder": label,
        "kind": rung.kind,
        "decoder_parameters": int(fitted.parameters),
        "scores": {
            **{name: means[name] for name in names},
            "psnr_paper": float(np.average([p for p, _ in batch_psnr], weights=[n for _, n in batch_psnr])),
            "ratio": means["mse"] / means["floor_class_mean"],
        },
        "intervals": {
            **{name: list(metrics.bootstrap_interval(columns[name])) for name in names},
            "ratio": list(metrics.bootstrap_ratio_interval(columns["mse"], columns["floor_class_mean"])),
        },
        "floors": {name.removeprefix("floor_"): means[name] for name in columns if name.startswith("floor_")},
        "prior_collapse": float(np.divide(spread.variance, spread_of_originals.variance)),
        "leaks": leaks,
        "mse_first": float(np.mean(columns["mse"][: options.likelihood_images])),
        "best_epoch": fitted.best_epoch,
        "selection_loss": fitted.selection_loss.tolist(),
        "flattened": bool(state.get("settled", fitted.flattened)),
        "last_gain": float(state.get("gain", fitted.last_gain)),
        "chosen": chosen,
        "test_images": len(labels),
        **_accuracy(loaded, target),
        "asked": asked,
    }
    _leak_figure(fitted, test, leaks, folder)
    runs.write_json(folder / "result.json", result)
    return Kept(json.loads(json.dumps(result)), originals, reconstructions)


def _leaks(error: np.ndarray, labels: np.ndarray, test: Split) -> dict[str, list[dict[str, Any]]]:
    """The images and classes that were inverted best and worst: {"best_images": [{"image", "label", "mse"}, …], …}."""
    order = np.argsort(error, kind="stable")

    def of(positions: np.ndarray) -> list[dict[str, Any]]:
        return [
            {"image": int(test.indices[i]), "position": int(i), "label": int(labels[i]), "mse": float(error[i])}
            for i in positions
        ]

    classes = [
        {"label": int(c), "images": int(np.sum(labels == c)), "mse": float(np.mean(error[labels == c]))}
        for c in np.unique(labels)
    ]
    classes.sort(key=lambda entry: entry["mse"])
    return {
        "best_images": of(order[:LEAKS]),
        "worst_images": of(order[::-1][:LEAKS]),
        "best_classes": classes[:LEAKS],
        "worst_classes": classes[::-1][:LEAKS],
    }


def _leak_figure(fitted: Fitted, test: Split, leaks: Mapping[str, Any], folder: Path) -> None:
    """Grids of the best and the worst inverted images, for attackers that can be asked again at no cost."""
    if "state" in fitted.chosen:
        return
    for end in ("best", "worst"):
        at = [entry["position"] for entry in leaks[f"{end}_images"]]
        pairs = list(fitted.reconstruct(dataclasses.replace(test, indices=test.indices[at])))
        x, x_hat = (np.concatenate([np.asarray(pair[i]) for pair in pairs]) for i in (0, 1))
        figures.reconstruction_grid(x, {f"{end} inverted": x_hat}, folder / f"{end}.png")


def _accuracy(loaded: LoadedRun, target: Target) -> dict[str, float]:
    """Test accuracy of the cloud on what a defended edge sends, and without the defence; nothing without a defence."""
    if target.reference is None:
        return {}
    test, cut = loaded.splits.test, target.edge.cut
    assert test.labels is not None
    right = {"accuracy": 0, "accuracy_undefended": 0}
    for i, (images, labels, mask) in enumerate(padded_batches(test, 256)):
        z = decoder_training.send_batch(target.variables, images, edge=target.edge)
        noise = jax.random.fold_in(jax.random.key(target.seed), i)
        for name, at_cut in (("accuracy", target.edge.defend(z, noise, target.reference)), ("accuracy_undefended", z)):
            logits = loaded.logits(images, replace={cut: at_cut})
            right[name] += int(np.sum((np.argmax(np.asarray(logits), axis=1) == labels)[mask]))
    return {name: count / len(test) for name, count in right.items()}


def _finished(folder: Path, asked: dict[str, Any]) -> Kept | None:
    """What is left of a finished attack; None if it is of other settings or damaged."""
    try:
        result = json.loads((folder / "result.json").read_text())
        if result["asked"] != json.loads(json.dumps(asked)):
            return None
        # Opened here, because np.load forgets to close what it cannot read.
        with (folder / "shown.npz").open("rb") as file, np.load(file, allow_pickle=False) as kept:
            return Kept(result, kept["originals"], kept["reconstructions"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def _advance(bar: Progress, task: Any, name: str) -> Callable[[int, float], None]:
    return lambda epoch, loss: bar.update(task, completed=epoch, description=f"{name}  mse {loss:.4f}")


def _flat(result: Mapping[str, Any]) -> dict[str, Any]:
    floors = {f"floor_{name}": value for name, value in result["floors"].items()}
    ends = {
        f"{name}_{end}": pair[i] for name, pair in result["intervals"].items() for i, end in enumerate(("low", "high"))
    }
    plain = {key: result[key] for key in ("cut", "dimension", "decoder", "decoder_parameters", "best", "test_images")}
    accuracy = {key: result[key] for key in ("accuracy", "accuracy_undefended") if key in result}
    return {
        **plain,
        **result["scores"],
        **ends,
        **floors,
        "prior_collapse": result["prior_collapse"],
        "flattened": result["flattened"],
        "last_gain": result["last_gain"],
        **accuracy,
    }


def _file_name(name: str) -> str:
    """A cut's or a rung's name as a file name: paths of foreign modules hold slashes."""
    return "".join(c if c.isalnum() or c in "._-+" else "_" for c in name.replace(",", ".").replace(":", ""))
