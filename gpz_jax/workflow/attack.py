"""Attack a trained run at chosen cuts, and score the reconstructions against floors."""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from gpz_jax.config import AttackConfig, check_attack, resolve
from gpz_jax.errors import UserError
from gpz_jax.inversion import metrics
from gpz_jax.reporting import figures, tables
from gpz_jax.taps import valid_cuts
from gpz_jax.training import attacker, runs
from gpz_jax.workflow.common import progress_bar, say
from gpz_jax.workflow.victim import Victim


def attack_run(
    victim: Victim,
    options: AttackConfig = AttackConfig(),
    *,
    seed: int | None = None,
    resume: bool = False,
    shown: int = 10,
) -> list[dict[str, Any]]:
    """Attack a trained network at each cut and score the reconstructions of test images against the floors.

    Each finished cut is written to ``attacks/CUT-deconvolution/`` (scores of every image, the decoder, a grid)
    before the next begins, so a kill costs the cut under way.

    Args:
      victim: what :func:`load_run` opened; its auxiliary split is the attacker's.
      options: which cuts, and how the decoder is trained.
      seed: of the attacker; the run's own by default.
      resume: read cuts that were attacked with the same options instead of attacking them again.
      shown: test images in the grid.

    Returns:
      One dict a cut: cut, dimension, decoder, scores (means over test images), floors, flattened, last_gain, ….

    Raises:
      UserError: an unknown or bypassed cut (before any attack starts); an attack whose loss is not finite.
    """
    options = check_attack(options)
    seed = victim.run.config.seed if seed is None else seed
    resolve(dataclasses.replace(victim.run.config, seed=seed))  # for its check of the seed
    cuts = _cuts_to_attack(victim, options.cut)
    floors = _floors(victim)
    results, grid = [], {}
    originals = None
    # The images themselves, not their number or name: another --aux must not pass for this one.
    auxiliary = hashlib.sha256(victim.splits.auxiliary.take()[0].tobytes()).hexdigest()
    with progress_bar() as bar:
        for cut in cuts:
            asked = {**dataclasses.asdict(dataclasses.replace(options, cut=())), "seed": seed, "cut": cut}
            asked |= {"auxiliary": auxiliary, "epoch_of_victim": victim.epoch, "shown": shown}
            folder = victim.run.subfolder("attacks", f"{_file_name(cut)}-deconvolution")
            kept = _finished(folder, asked) if resume else None
            if kept is None:
                task = bar.add_task(f"attack on {cut}", total=options.epochs)
                trained = attacker.train_attacker(
                    attacker.Edge(victim.network, cut),
                    victim.variables,
                    victim.splits.auxiliary,
                    attack=options,
                    size=victim.recipe.size,
                    seed=seed,
                    mesh=victim.mesh,
                    on_epoch=_advance(bar, task, cut),
                )
                result, originals, grid[cut] = _score(victim, cut, trained, floors, folder, asked, shown)
            else:
                say(f"attack on {cut}: already done, read from {folder}")
                result, originals, grid[cut] = kept
            results.append(result)
    tables.write_csv([_flat(result) for result in results], victim.run.subfolder("attacks") / "table.csv")
    if originals is not None:
        figures.reconstruction_grid(originals, grid, victim.run.subfolder("figures") / "attacks.png")
    return results


def _cuts_to_attack(victim: Victim, asked: tuple[str, ...]) -> tuple[str, ...]:
    example = jax.ShapeDtypeStruct((2, *victim.splits.test.images.shape[1:]), jnp.uint8)
    valid = valid_cuts(victim.network, victim.variables, example)
    for cut in asked:
        if not valid[victim.network.check(cut)]:
            good = ", ".join(name for name, ok in valid.items() if ok)
            raise UserError(f"cut {cut!r} is bypassed: the logits know the input by another way; valid cuts: {good}")
    return tuple(dict.fromkeys(asked)) or tuple(cut for cut in victim.network.cuts if valid[cut])


def _floors(victim: Victim) -> Callable[[jax.Array, np.ndarray], dict[str, jax.Array]]:
    """What no z at all (mean image) and the label alone (class mean) give; means of the target's training images."""
    images, labels = victim.splits.train.take()
    assert labels is not None  # the classifier was trained on them
    size, channels = victim.recipe.size, images.shape[-1]
    of_classes = metrics.class_means(images, labels, victim.run.num_classes)
    # Resizing is linear, so the mean of resized images is the resized mean.
    of_classes = jax.image.resize(of_classes, (len(of_classes), size, size, channels), "bilinear")
    of_all = jax.image.resize(metrics.mean_image(images), (size, size, channels), "bilinear")
    return lambda x, labels: {
        "mean_image": metrics.mean_image_floor(x, of_all),
        "class_mean": metrics.class_mean_floor(x, labels, of_classes),
    }


def _score(victim, cut, trained: attacker.Trained, floors, folder, asked, shown):
    test = victim.splits.test
    assert test.labels is not None  # every source has them
    labels = test.labels[test.indices]
    kept: list[dict[str, np.ndarray]] = []
    originals, reconstructions, at = [], [], 0
    batch_psnr: list[tuple[float, int]] = []
    pairs = attacker.reconstruct(
        attacker.Edge(victim.network, cut), victim.variables, trained.decoder, trained.variables, test,
        size=victim.recipe.size,
    )  # fmt: skip
    for x, x_hat in pairs:
        y = labels[at : at + len(x)]
        scored = {**metrics.score(x, x_hat), **{f"floor_{k}": v for k, v in floors(x, y).items()}}
        kept.append({name: np.asarray(value, np.float64) for name, value in scored.items()})
        batch_psnr.append((float(metrics.psnr_paper(x, x_hat)), len(x)))
        if at < shown:
            originals.append(np.asarray(x)[: shown - at])
            reconstructions.append(np.asarray(x_hat)[: shown - at])
        at += len(x)
    columns = {name: np.concatenate([k[name] for k in kept]) for name in kept[0]}
    rows = [
        {
            "image": int(test.indices[i]),
            "label": int(labels[i]),
            **{name: columns[name][i] for name in columns},
        }
        for i in range(len(labels))
    ]
    # Written last, so that its presence says that all the rest is there and of one attack.
    (folder / "result.json").unlink(missing_ok=True)
    tables.write_csv(rows, folder / "scores.csv")
    originals, reconstructions = np.concatenate(originals), np.concatenate(reconstructions)
    np.savez(folder / "shown.npz", originals=originals, reconstructions=reconstructions)
    figures.reconstruction_grid(originals, {cut: reconstructions}, folder / "reconstructions.png")
    runs.save_tree(folder / "decoder", trained.variables)

    means = {name: float(np.mean(columns[name])) for name in columns}
    shape = trained.decoder.z_shape
    result = {
        "cut": cut,
        "shape": list(shape),
        "dimension": int(np.prod(shape)),
        "decoder": "deconvolution",
        "decoder_parameters": int(sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"]))),
        "scores": {
            **{name: means[name] for name in ("mse", "mse_paper", "psnr", "ssim", "cosine")},
            "psnr_paper": float(np.average([p for p, _ in batch_psnr], weights=[n for _, n in batch_psnr])),
            "ratio": means["mse"] / means["floor_class_mean"],
        },
        "floors": {name: means[f"floor_{name}"] for name in ("mean_image", "class_mean")},
        "best_epoch": trained.epoch,
        "selection_loss": trained.selection_loss.tolist(),
        "flattened": bool(trained.flattened),
        "last_gain": trained.last_gain,
        "test_images": len(labels),
        "asked": asked,
    }
    runs.write_json(folder / "result.json", result)
    return result, originals, reconstructions


def _finished(folder, asked: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray, np.ndarray] | None:
    """Result, originals and reconstructions of a finished attack; None if it is of other settings or damaged."""
    try:
        result = json.loads((folder / "result.json").read_text())
        if result["asked"] != json.loads(json.dumps(asked)):
            return None
        # Opened here, because np.load forgets to close what it cannot read.
        with (folder / "shown.npz").open("rb") as file, np.load(file, allow_pickle=False) as kept:
            return result, kept["originals"], kept["reconstructions"]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def _advance(bar: Progress, task: Any, cut: str) -> Callable[[int, float], None]:
    return lambda epoch, loss: bar.update(task, completed=epoch, description=f"attack on {cut}  mse {loss:.4f}")


def _flat(result: dict[str, Any]) -> dict[str, Any]:
    floors = {f"floor_{name}": value for name, value in result["floors"].items()}
    plain = {key: result[key] for key in ("cut", "dimension", "decoder", "decoder_parameters")}
    return {
        **plain,
        **result["scores"],
        **floors,
        "flattened": result["flattened"],
        "last_gain": result["last_gain"],
    }


def _file_name(cut: str) -> str:
    """A cut's name as a file name: paths of foreign modules hold slashes."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in cut)
