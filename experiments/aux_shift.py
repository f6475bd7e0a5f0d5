"""What do reconstructions show when the attacker's images are of another kind? KMNIST, attacked with digits or letters.

    python experiments/aux_shift.py --data-dir DIR               # a sibling on two cores
    python experiments/aux_shift.py --data-dir DIR --size paper  # IR-152, on an accelerator

DIR holds kmnist.npz (or kmnist10k.npz), mnist.npz and emnist_letters.npz. The paper says: beyond the zone, an attacker
trained on MNIST draws every character as "0", one trained on EMNIST as "D". Here a network trained on KMNIST is
attacked at a feature- and a decision-level cut with a held-out part of KMNIST, with MNIST and with EMNIST letters; a
classifier trained on the attacker's set names each reconstruction, and as a control each original. Prints how often the
commonest names come, beside the error and the prior collapse (variance of the reconstructions over that of the
originals). Writes table.csv, names.csv, names.png (the histograms) and a grid to --out; a killed experiment continues
where it stopped.
"""

import dataclasses
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.table import Table
from targets import SIZES, Flags, kept_images

from gpz_jax import presentation, workflow
from gpz_jax.config import Config, DataConfig, ModelConfig, TrainingConfig
from gpz_jax.errors import UserError, did_you_mean, one_line_errors
from gpz_jax.flags import parse
from gpz_jax.reporting import figures, tables

#: The attacker's sets, and what their classes are called.
AUXILIARY = {"held-out": "", "mnist": "0123456789", "emnist_letters": "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


@dataclasses.dataclass(frozen=True)
class Experiment(Flags):
    """Flags of the experiment."""

    network: tuple[str, ...] = ("ir152",)
    """Network to attack."""
    target: str = "kmnist"
    """Name of the target data set's file."""
    out: str = "runs/aux-shift"
    """Folder for the tables and the figures."""


def namer(flags: Experiment, name: str) -> workflow.LoadedRun:
    """A classifier of the attacker's set, a small CNN."""
    config = Config(
        data=DataConfig(data=name, data_dir=flags.data_dir, aux="held-out", size=32, train_limit=10_000),
        model=ModelConfig(model="cnn", width=16),
        training=TrainingConfig(epochs=8, lr=0.003),
    )
    run = workflow.train_run(config, folder=f"{flags.runs}/names-{name}", resume=True)
    opened = workflow.load_run(str(run.folder))
    workflow.report_accuracy(opened)
    return opened


def names_of(classifier: workflow.LoadedRun, x: np.ndarray) -> np.ndarray:
    """The class that the classifier gives each image, pixels in [0, 1] (N, H, W, C)."""
    found = []
    for start in range(0, len(x), 256):
        images = jnp.asarray(np.round(255 * x[start : start + 256]).astype(np.uint8))
        found.append(np.argmax(np.asarray(classifier.logits(images)), axis=1))
    return np.concatenate(found)


def attack(flags: Experiment) -> tuple[list[dict], dict[str, np.ndarray], np.ndarray]:
    """Every auxiliary set at both cuts: rows of the table with the counts of the names, and a grid."""
    if flags.size not in SIZES:
        raise UserError(f"unknown --size {flags.size!r}{did_you_mean(flags.size, SIZES)}")
    size = SIZES[flags.size]
    rows, grid, originals = [], {}, np.zeros(0)
    for name in flags.network:
        network = size.networks[name]
        config = Config(
            data=DataConfig(data=flags.target, data_dir=flags.data_dir, aux="held-out", size=size.side),
            model=network.model,
            training=dataclasses.replace(network.training, epochs=min(10, network.training.epochs)),
            seed=flags.seed,
        )
        run = workflow.train_run(config, folder=f"{flags.runs}/{flags.target}-{flags.size}-{name}", resume=True)
        held_out = 0
        for auxiliary, classes in AUXILIARY.items():
            target = workflow.load_run(str(run.folder), aux=auxiliary)
            workflow.report_accuracy(target)
            classifier = namer(flags, auxiliary) if classes else None
            # As many images of every set as the held-out part has, which comes first: only their kind differs.
            held_out = held_out or len(target.splits.auxiliary)
            few = dataclasses.replace(target.splits.auxiliary, indices=target.splits.auxiliary.indices[:held_out])
            target = target._replace(splits=target.splits._replace(auxiliary=few))
            for level, cut in (("feature", network.feature), ("decision", network.decision)):
                options = dataclasses.replace(
                    size.attack, cut=(cut,), rung=("deconvolution",), likelihood_images=2000, into=auxiliary
                )  # so many reconstructions are kept, and named
                (result,) = workflow.attack_run(target, options, resume=True)
                x, x_hat = kept_images(target, options, result)
                originals, grid[f"{cut}, {auxiliary}"] = x[:10], x_hat[:10]
                row = {"network": name, "level": level, "cut": cut, "auxiliary": auxiliary, **result["scores"]}
                row |= {"collapse": result["prior_collapse"], "flattened": result["flattened"]}
                if classifier is not None:
                    for what, images in (("reconstructions", x_hat), ("originals", x)):
                        counts = np.bincount(names_of(classifier, images), minlength=len(classes))
                        row[what] = {classes[i]: int(counts[i]) for i in np.argsort(-counts, kind="stable")}
                rows.append(row)
    return rows, grid, originals


def commonest(counts: dict[str, int], first: int = 3) -> str:
    """The commonest names and their shares, in per cent."""
    total = sum(counts.values())
    return ", ".join(f"{name} {100 * n / total:.0f} %" for name, n in list(counts.items())[:first])


def shown(rows: list[dict], flags: Experiment) -> Table:
    """The table."""
    table = Table(
        title=f"{flags.target}, attacked with images of another kind, {flags.size}",
        caption="named: what a classifier of the attacker's set calls the reconstructions, and the originals; "
        "collapse: variance of the reconstructions over that of the originals; /class mean: of the target's classes",
    )
    for head in ("network", "cut", "level", "auxiliary", "mse", "/class mean", "collapse", "named", "originals named"):
        table.add_column(head, justify="right" if head in ("mse", "/class mean", "collapse") else "left")
    for row in rows:
        numbers = [presentation.number(row[key]) for key in ("mse", "ratio", "collapse")]
        named = [commonest(row[what]) if what in row else "" for what in ("reconstructions", "originals")]
        table.add_row(row["network"], row["cut"], row["level"], row["auxiliary"], *numbers, *named)
    return table


def verdict(rows: list[dict]) -> list[str]:
    """Whether the reconstructions drift to "0" and to "D", more than the originals do."""
    said = []
    for row in rows:
        if "reconstructions" not in row:
            continue
        letter = "0" if row["auxiliary"] == "mnist" else "D"
        shares = {what: row[what].get(letter, 0) / sum(row[what].values()) for what in ("reconstructions", "originals")}
        top = next(iter(row["reconstructions"]))
        said.append(
            f"{row['network']}, {row['cut']} ({row['level']}), {row['auxiliary']}: named {letter!r} are "
            f"{100 * shares['reconstructions']:.0f} % of the reconstructions and {100 * shares['originals']:.0f} % of "
            f"the originals; the commonest name is {top!r}"
        )
    return said


def draw(rows: list[dict], file: Path) -> None:
    """The histograms: a panel for each cut and set."""
    named = [row for row in rows if "reconstructions" in row]
    figure, axes = figures.new_figure(len(named), 1, (10, 2.3 * len(named)))
    for axis, row in zip(np.ravel(axes), named, strict=True):
        classes = AUXILIARY[row["auxiliary"]]
        for i, what in enumerate(("reconstructions", "originals")):
            total = sum(row[what].values())
            heights = [row[what].get(name, 0) / total for name in classes]
            axis.bar(np.arange(len(classes)) + 0.4 * i, heights, 0.38, label=what)
        axis.set_xticks(np.arange(len(classes)) + 0.2, list(classes))
        axis.set_title(
            f"{row['network']}, {row['cut']} ({row['level']}), attacker's images: {row['auxiliary']}", fontsize=9
        )
        axis.set_ylabel("share")
        axis.legend(fontsize=8)
    figure.savefig(file, dpi=120)


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(Experiment, argv, prog="python experiments/aux_shift.py", description=__doc__ or "")
    begun, out = time.monotonic(), Path(flags.out)
    out.mkdir(parents=True, exist_ok=True)
    rows, grid, originals = attack(flags)
    plain = [{k: v for k, v in row.items() if k not in ("reconstructions", "originals")} for row in rows]
    tables.write_csv(plain, out / "table.csv")
    names = [
        {"cut": row["cut"], "auxiliary": row["auxiliary"], "images": what, "name": name, "count": count}
        for row in rows
        for what in ("reconstructions", "originals")
        for name, count in row.get(what, {}).items()
    ]
    tables.write_csv(names, out / "names.csv")
    draw(rows, out / "names.png")
    figures.reconstruction_grid(originals, grid, out / "attacks.png")
    tables.console().print(shown(rows, flags))
    for line in verdict(rows):
        print(line)
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
