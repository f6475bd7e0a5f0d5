"""The whole story in one table on the bundled digits: one-hot, LS+ and LS-, probed and attacked at every cut.

    python experiments/tour.py                       # 3 seeds
    python experiments/tour.py --seeds 0 --out runs/tour-quick

Trains nine width-16 CNNs (3 label distributions x 3 seeds), probes each on test and on training images, attacks each
at every cut with the deconvolution decoder, and prints means over seeds (± standard deviation). Writes table.csv and
tour.png into --out. A killed tour continues where it stopped: finished runs and attacks are read, not run again.
"""

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
from rich.table import Table

from gpz_jax import presentation, workflow
from gpz_jax.config import AttackConfig, Config, ProbeConfig, TrainingConfig
from gpz_jax.errors import one_line_errors
from gpz_jax.flags import parse
from gpz_jax.reporting import tables

#: The paper's three label distributions.
ALPHAS = {"one-hot": 0.0, "LS+": 0.3, "LS-": -0.05}


@dataclasses.dataclass(frozen=True)
class Tour:
    """Flags of the tour."""

    seeds: tuple[int, ...] = ()
    """Seed of a repetition; repeat the flag for several. Default: 0, 1 and 2."""
    epochs: int = 40
    """Epochs of each classifier."""
    attack_epochs: int = 60
    """Epochs of the attackers of vectors (the decision level), where a weak attacker would flatter the defence."""
    spatial_attack_epochs: int = 20
    """Epochs of the attackers of feature maps, which give the image away early."""
    attack_lr: float = 6e-3
    """Learning rate of the attackers."""
    decoder_width: int = 8
    """Channels of the attackers' last stage: half of the attack command's, so that the tour takes minutes."""
    null_seeds: int = 5
    """Untrained copies behind rho_null."""
    out: str = "runs/tour"
    """Folder for the runs, the table and the figure."""


def one_run(tour: Tour, name: str, alpha: float, seed: int) -> list[dict]:
    """Train, probe and attack one network; a row for every cut."""
    config = Config(training=TrainingConfig(ls=alpha, epochs=tour.epochs), seed=seed)
    run = workflow.train_run(config, folder=f"{tour.out}/{name}-seed{seed}", resume=True)
    loaded = workflow.load_run(str(run.folder))
    accuracy = workflow.report_accuracy(loaded)
    test = workflow.probe_run(loaded, ProbeConfig(null_seeds=tour.null_seeds)).to_xarray()
    train = workflow.probe_run(loaded, ProbeConfig(split="train", null_seeds=0)).to_xarray()
    attack = AttackConfig(lr=tour.attack_lr, decoder_width=tour.decoder_width)
    spatial = tuple(str(cut) for cut in test.cut.values if "x" in str(test["shape"].sel(cut=cut).values))
    vectors = tuple(str(cut) for cut in test.cut.values if cut not in spatial)
    attacks = []
    for cuts, epochs in ((spatial, tour.spatial_attack_epochs), (vectors, tour.attack_epochs)):
        attacks += workflow.attack_run(loaded, dataclasses.replace(attack, cut=cuts, epochs=epochs), resume=True)
    rows = []
    for attack in attacks:
        at_test, at_train = test.sel(cut=attack["cut"]), train.sel(cut=attack["cut"])
        rows.append(
            {
                "targets": name,
                "seed": seed,
                "cut": attack["cut"],
                "accuracy": accuracy,
                "radius_test": float(at_test.within),
                "radius_train": float(at_train.within),
                "rho_test": float(at_test.rho),
                "rho_train": float(at_train.rho),
                "rho_null": float(at_test.rho_null.mean()),
                "zone_null": str(at_test.zone.sel(rule="null").values),
                "mse": attack["scores"]["mse"],
                "ratio": attack["scores"]["ratio"],
                "ssim": attack["scores"]["ssim"],
                "floor_class_mean": attack["floors"]["class_mean"],
                "floor_mean_image": attack["floors"]["mean_image"],
                "flattened": attack["flattened"],
            }
        )
    return rows


def over_seeds(rows: list[dict], cut: str, targets: str, column: str) -> np.ndarray:
    """One column's values for a cut and a label distribution, a value a seed."""
    return np.array([row[column] for row in rows if row["cut"] == cut and row["targets"] == targets], float)


def summary(rows: list[dict]) -> Table:
    """Means over seeds, a line for every cut and label distribution."""
    table = Table(title="Digits, width-16 CNN: mean ± s.d. over seeds", caption="mse per element on test images")
    for head in ("cut", "targets", "accuracy", "R_c^2 test", "R_c^2 train", "rho test", "rho train", "rho null"):
        table.add_column(head, justify="left" if head in ("cut", "targets") else "right")
    for head in ("attack mse", "/class mean", "in null zone"):
        table.add_column(head, justify="right")
    for cut in dict.fromkeys(row["cut"] for row in rows):
        for targets in ALPHAS:
            columns = ("accuracy", "radius_test", "radius_train", "rho_test", "rho_train", "rho_null", "mse", "ratio")
            cells = []
            for column in columns:
                values = over_seeds(rows, cut, targets, column)
                spread = f" ± {presentation.number(values.std(ddof=1), 1)}" if len(values) > 1 else ""
                cells.append(presentation.number(values.mean()) + spread)
            inside = [row["zone_null"] != "" for row in rows if row["cut"] == cut and row["targets"] == targets]
            table.add_row(cut, targets, *cells, f"{sum(inside)} of {len(inside)}")
        table.add_section()
    return table


def draw(rows: list[dict], file: Path) -> None:
    """R_c², ρ and the attack's MSE against the floors, at every cut, for the three label distributions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    cuts = list(dict.fromkeys(row["cut"] for row in rows))
    panels = ("radius_test", "rho_test", "mse")
    for axis, column in zip(axes, panels, strict=True):
        for targets in ALPHAS:
            values = np.stack([over_seeds(rows, cut, targets, column) for cut in cuts])  # (L, seeds)
            axis.errorbar(cuts, values.mean(1), yerr=values.std(1), fmt="o-", capsize=3, label=targets)
    axes[0].set_yscale("log")
    axes[1].plot(cuts, [over_seeds(rows, cut, "one-hot", "rho_null").mean() for cut in cuts], "0.6", label="untrained")
    for floor, style in (("class_mean", "--"), ("mean_image", ":")):
        value = np.mean([row[f"floor_{floor}"] for row in rows])
        axes[2].axhline(value, color="0.4", linestyle=style, label=f"floor: {floor.replace('_', ' ')}")
    titles = ("$R_c^2$, test images", r"$\rho$, test images", "attack: mse per element, test images")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.legend(fontsize=8)
    figure.savefig(file, dpi=120)


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    tour = parse(
        Tour, sys.argv[1:] if argv is None else argv, prog="python experiments/tour.py", description=__doc__ or ""
    )
    begun = time.monotonic()
    rows = [
        row
        for seed in tour.seeds or (0, 1, 2)
        for name, alpha in ALPHAS.items()
        for row in one_run(tour, name, alpha, seed)
    ]
    out = Path(tour.out)
    tables.write_csv(rows, out / "table.csv")
    draw(rows, out / "tour.png")
    tables.console().print(summary(rows))
    logits = {name: over_seeds(rows, "logits", name, "mse").mean() for name in ALPHAS}
    gained = logits["LS+"] / logits["one-hot"]
    print(f"attack mse from the logits, LS+ over one-hot: {gained:.2f}x ({time.monotonic() - begun:.0f} s)")


if __name__ == "__main__":
    main()
