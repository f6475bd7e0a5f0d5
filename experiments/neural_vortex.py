"""Is the Neural Vortex what happens? The ledger of R_c² under one-hot, LS+ and LS-, several seeds, in one table.

    python experiments/neural_vortex.py --data-dir DIR                       # digits and MNIST, 3 seeds
    python experiments/neural_vortex.py --setting digits --seeds 0           # no data needed but the bundled
    python experiments/neural_vortex.py --setting mnist-vgg19 --setting cifar10-ir152 --data-dir DIR

The paper says: under label smoothing the correct-class coefficient p_c - 1 + α changes sign once p_c > 1 - α, and from
there on R_c² keeps falling. So every run keeps its ledger (python -m gpz_jax.train --track-every), and the table asks,
over the second half of training, when LS+ has its images around p_c = 1 - α: did R_c² fall, which term did it, and does
the feature-space prediction agree with what was realised, in sign and size? When the mean coefficient first turned
positive, if ever, and how many images were past p_c > 1 - α stands below the table. R_c² and ρ at the end are given on
training and on test images, because much of a falling radius can be scale.

Writes table.csv, and for every setting overview.png, terms.png and ledger.png (one layer under one-hot and LS+) into
--out. A killed experiment continues where it stopped. Settings whose images are not in --data-dir are skipped.
On a GPU or TPU networks and images have the paper's size, and every step is entered.
"""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table

from gpz_jax import presentation, workflow
from gpz_jax.analysis.attribution import summarise_ledger
from gpz_jax.config import Config, DataConfig, ModelConfig, ProbeConfig, TrackConfig, TrainingConfig
from gpz_jax.errors import UserError, did_you_mean, one_line_errors
from gpz_jax.flags import parse
from gpz_jax.reporting import ledger_figures, tables
from gpz_jax.workflow.vortex_command import Read, read_ledgers

#: The paper's three label distributions.
ALPHAS = {"one-hot": 0.0, "LS+": 0.3, "LS-": -0.05}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained on, for two cores: width and depth of the sibling, epochs, and how often a step is entered."""

    data: str
    model: str
    width: int
    depth: float = 1.0
    epochs: int = 6
    train_limit: int | None = 6000
    track_every: int = 1


SETTINGS = {
    "digits": Setting("digits", "cnn", 16, epochs=32, train_limit=None),
    "mnist": Setting("mnist", "cnn", 16),
    "mnist-vgg19": Setting("mnist", "vgg19", 8, track_every=10),
    "mnist-ir152": Setting("mnist", "ir152", 8, depth=0.25, track_every=10),
    "cifar10": Setting("cifar10", "cnn", 16, epochs=15),
    "cifar10-vgg19": Setting("cifar10", "vgg19", 8, epochs=15, track_every=10),
    "cifar10-ir152": Setting("cifar10", "ir152", 8, depth=0.25, epochs=15, track_every=10),
}


@dataclasses.dataclass(frozen=True)
class NeuralVortex:
    """Flags of the experiment."""

    setting: tuple[str, ...] = ()
    """Data set and model: digits, mnist, mnist-vgg19, mnist-ir152, cifar10, cifar10-vgg19 or cifar10-ir152; repeat the
    flag for several. Default: digits and mnist."""
    seeds: tuple[int, ...] = ()
    """Seed of a repetition; repeat the flag for several. Default: 0, 1 and 2."""
    data_dir: str = "data"
    """Folder that holds mnist.npz and cifar10.npz."""
    probe_size: int = 160
    """Training images on which the ledger measures R_c^2."""
    out: str = "runs/neural-vortex"
    """Folder for the runs, the table and the figures."""


def config_of(flags: NeuralVortex, setting: Setting, alpha: float, seed: int) -> Config:
    """The configuration of one run."""
    config = Config(
        data=DataConfig(data=setting.data, data_dir=flags.data_dir, train_limit=setting.train_limit, aux="held-out"),
        model=ModelConfig(model=setting.model, width=setting.width, depth=setting.depth),
        training=TrainingConfig(ls=alpha, epochs=setting.epochs),
        track=TrackConfig(track_every=setting.track_every, probe_size=flags.probe_size),
        seed=seed,
    )
    if jax.default_backend() == "cpu":
        return config
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, size=64, train_limit=None),
        model=ModelConfig(model=setting.model, width=64),
        track=dataclasses.replace(config.track, track_every=1),
    )


def one_run(flags: NeuralVortex, name: str, targets: str, seed: int) -> tuple[Read, dict[str, Any]]:
    """Train one network; its ledger, and R_c² and ρ of every layer on test images at its best epoch."""
    config = config_of(flags, SETTINGS[name], ALPHAS[targets], seed)
    run = workflow.train_run(config, folder=f"{flags.out}/{name}/{targets}-seed{seed}", resume=True)
    loaded = workflow.load_run(str(run.folder))
    accuracy = workflow.report_accuracy(loaded)
    test = workflow.probe_run(loaded, ProbeConfig(null_seeds=0, bootstrap=1)).to_xarray()
    (read,) = read_ledgers([str(run.folder)])
    return read, {"accuracy": accuracy, "test": test}


def rows_of(name: str, targets: str, seed: int, read: Read, ended: dict, window: slice) -> list[dict[str, Any]]:
    """A row a layer: what moved R_c² within the window, as shares of R_c² at its beginning."""
    rows = []
    for row in summarise_ledger(read.curves, {"late": window}):
        at_test = ended["test"].sel(cut=row["cut"])
        start = row["radius_first"]
        rows.append(
            {
                "setting": name,
                "cut": row["cut"],
                "targets": targets,
                "seed": seed,
                "accuracy": ended["accuracy"],
                "window_first_step": row["first_step"],
                "turn": read.curves.attrs["turn"],
                "past_flip": float(read.curves.past_flip.values[window].mean()),
                "radius_first": start,
                "radius_last": row["radius_last"],
                "rho_first": row["rho_first"],
                "rho_last": row["rho_last"],
                "radius_test": float(at_test.within),
                "rho_test": float(at_test.rho),
                "falling": row["falling"],
                **{key: row[f"sum_{key}"] / start for key in ("realised", "optimiser", "statistics", "residual")},
                **{key: row[f"sum_feature_{key}"] / start for key in ("correct", "wrong", "second")},
                **{f"feature_{key}": row[f"feature_{key}"] for key in ("correlation", "size", "same_sign")},
                **{f"optimiser_{key}": row[f"optimiser_{key}"] for key in ("correlation", "size", "same_sign")},
            }
        )
    return rows


def one_setting(flags: NeuralVortex, name: str, seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    """Every run of a setting; its rows, and its figures of the first seed."""
    rows, shown = [], {}
    for seed in seeds:
        found = {targets: one_run(flags, name, targets, seed) for targets in ALPHAS}
        for targets, (read, ended) in found.items():
            steps = read.curves.sizes["step"]
            rows += rows_of(name, targets, seed, read, ended, slice(steps // 2, steps))
        shown = shown or {targets: read.curves for targets, (read, _) in found.items()}
    folder = Path(flags.out) / name
    at = str(shown["LS+"].interference_cut.values[-1])
    ledger_figures.overview_figure(shown, folder / "overview.png")
    known = [str(layer) for layer in shown["LS+"].cut.values]
    spread = np.unique(np.linspace(0, len(known) - 1, min(6, len(known))).astype(int))
    ledger_figures.terms_figure(shown, [known[i] for i in spread], folder / "terms.png")
    ledger_figures.ledger_figure({targets: shown[targets] for targets in ("one-hot", "LS+")}, at, folder / "ledger.png")
    return rows


def mean(rows: list[dict[str, Any]], column: str, percent: bool = False) -> str:
    """Mean over seeds."""
    value = np.mean([row[column] for row in rows]) * (100 if percent else 1)
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else presentation.number(value, 2)


def spread(rows: list[dict[str, Any]], column: str, percent: bool = False) -> str:
    """``mean±standard deviation`` over seeds."""
    values = np.array([row[column] for row in rows], float) * (100 if percent else 1)
    return mean(rows, column, percent) + (f"±{presentation.number(values.std(ddof=1), 1)}" if len(values) > 1 else "")


def table_of(name: str, rows: list[dict[str, Any]]) -> Table:
    """The answer of one setting: a line a layer and label distribution."""
    table = Table(
        title=f"{name}: the second half of training, from step {rows[0]['window_first_step']}; means over seeds",
        caption="%: sums over those steps, of R_c^2 at their beginning; optimiser + statistics + residual = realised; "
        "falls: seeds whose R_c^2 fell; feature: what the paper predicts in feature space; r, size, sign: its "
        "agreement with the realised change, step by step; ±: s.d. over seeds",
    )
    heads = ["cut", "targets", "R_c^2", "at the end", "falls", "realised %", "optimiser %", "statistics %"]
    heads += ["residual %", "feature %:\ncorrect", "\nwrong", "\nr", "\nsize", "\nsign"]
    heads += ["rho at\nthe end", "R_c^2\ntest", "rho\ntest"]
    for head in heads:
        table.add_column(head, justify="left" if head in ("cut", "targets") else "right", no_wrap=True)
    for layer in dict.fromkeys(row["cut"] for row in rows):
        for targets in ALPHAS:
            some = [row for row in rows if row["cut"] == layer and row["targets"] == targets]
            falls = sum(row["radius_last"] < row["radius_first"] for row in some)
            table.add_row(
                layer, targets, mean(some, "radius_first"), mean(some, "radius_last"), f"{falls} of {len(some)}",
                spread(some, "realised", True),
                *(mean(some, key, True) for key in ("optimiser", "statistics", "residual", "correct", "wrong")),
                *(mean(some, f"feature_{key}") for key in ("correlation", "size", "same_sign")),
                mean(some, "rho_last"), mean(some, "radius_test"), mean(some, "rho_test"),
            )  # fmt: skip
        table.add_section()
    return table


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(NeuralVortex, argv, prog="python experiments/neural_vortex.py", description=__doc__ or "")
    settings, seeds = flags.setting or ("digits", "mnist"), flags.seeds or (0, 1, 2)
    for name in settings:
        if name not in SETTINGS:
            raise UserError(f"unknown setting {name!r}{did_you_mean(name, SETTINGS)}")
    begun, rows = time.monotonic(), []
    for name in settings:
        data = SETTINGS[name].data
        if data != "digits" and not (Path(flags.data_dir) / f"{data}.npz").is_file():
            workflow.say(f"{name} is skipped: {flags.data_dir}/{data}.npz is not there (see --data-dir)")
            continue
        rows += one_setting(flags, name, seeds)
        tables.write_csv(rows, Path(flags.out) / "table.csv")
        tables.console().print(table_of(name, [row for row in rows if row["setting"] == name]))
        for targets in ALPHAS:
            ran = [r for r in rows if (r["setting"], r["targets"], r["cut"]) == (name, targets, "logits")]
            turns = ", ".join("never" if row["turn"] is None else f"step {row['turn']}" for row in ran)
            accuracy, past = (np.mean([row[key] for row in ran]) for key in ("accuracy", "past_flip"))
            print(
                f"{targets}: test accuracy {accuracy:.3f}; mean coefficient first positive: {turns}; images past "
                f"p_c > 1 - alpha in the second half: {past:.0%}"
            )
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
