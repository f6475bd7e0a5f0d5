"""The whole story in one table on the bundled digits: one-hot, LS+ and LS-, probed and attacked at every cut.

    python experiments/tour.py                       # 3 seeds; 625 s on two cores
    python experiments/tour.py --seed 0 --out runs/tour-quick

Trains nine width-16 CNNs (3 label distributions x 3 seeds), probes each on test and on training images, attacks each
at every cut with the deconvolution decoder, and prints means over seeds (± standard deviation). Writes table.csv and
tour.png into --out. A killed tour continues where it stopped.
"""

import dataclasses
import functools
import itertools
from pathlib import Path

import common
from common import ALPHAS, Outcome, Row, where

from gpz_jax import workflow
from gpz_jax.config import AttackConfig, Config, DataConfig, ModelConfig, ProbeConfig, TrainingConfig

#: Data and model, epochs, attackers, their epochs on maps (which give the image away early) and on vectors (where a
#: weak attacker would flatter the defence), and untrained copies behind rho_null.
SIZES = {
    "tiny": (DataConfig(size=16), ModelConfig(width=4), 1, AttackConfig(decoder_width=2, steps=4), (1, 1), 2),
    "laptop": (DataConfig(), ModelConfig(), 40, AttackConfig(lr=6e-3, decoder_width=8), (20, 60), 5),
    "paper": (DataConfig(size=64), ModelConfig(width=64), 300, AttackConfig(decoder_width=64), (100, 100), 5),
}


@dataclasses.dataclass(frozen=True)
class Flags(common.SeedsFlags):
    """Flags of the tour."""

    out: str = "runs/tour"
    """Folder for the runs, the table and the figure."""


def one_run(flags: Flags, name: str, seed: int) -> list[Row]:
    """Train, probe and attack one network; a row for every cut."""
    data, model, epochs, attack, (of_maps, of_vectors), nulls = SIZES[flags.size]
    config = Config(data=data, model=model, training=TrainingConfig(ls=ALPHAS[name], epochs=epochs), seed=seed)
    loaded = common.train(config, f"{flags.out}/{name}-seed{seed}")
    found = {"accuracy": workflow.report_accuracy(loaded)}
    test = workflow.probe_run(loaded, ProbeConfig(null_seeds=nulls)).to_xarray()
    train = workflow.probe_run(loaded, ProbeConfig(split="train", null_seeds=0)).to_xarray()
    maps = tuple(str(cut) for cut in test.cut.values if "x" in str(test["shape"].sel(cut=cut).values))
    vectors = tuple(str(cut) for cut in test.cut.values if cut not in maps)
    rows = []
    for cuts, epochs in ((maps, of_maps), (vectors, of_vectors)):
        options = dataclasses.replace(attack, cut=cuts, epochs=epochs)
        for result in common.without_linear(workflow.attack_run(loaded, options, resume=True)):
            at_test, at_train = test.sel(cut=result.cut), train.sel(cut=result.cut)
            found |= {"radius_test": float(at_test.within), "radius_train": float(at_train.within)}
            found |= {"rho_test": float(at_test.rho), "rho_train": float(at_train.rho)}
            zone = str(at_test.zone.sel(rule="null").values)
            found |= {"rho_null": float(at_test.rho_null.mean()), "zone_null": zone}
            rows.append({"targets": name, "seed": seed, "cut": result.cut, **found, **result.best.row()})
    return rows


def experiment(flags: Flags, out: Path) -> Outcome:
    """All runs, and means over seeds: a line for every cut and label distribution."""
    rows = [row for seed in flags.seeds() for name in ALPHAS for row in one_run(flags, name, seed)]
    panels = {"radius_test": "$R_c^2$, test images, log", "rho_test": r"$\rho$, test images", "mse": "attack: mse"}
    levels = {"rho_test": ["rho_null"], "mse": ["floor_class_mean", "floor_mean_image"]}
    common.draw_by_cut(rows, panels, out / "tour.png", group="targets", levels=levels, apart={"radius_test": "LS-"})
    columns = {"accuracy": "accuracy", "R_c^2\ntest": "radius_test", "R_c^2\ntrain": "radius_train"}
    columns |= {"rho\ntest": "rho_test", "rho\ntrain": "rho_train", "rho\nnull": "rho_null"}
    columns |= {"attack\nmse": "mse", "/class\nmean": "ratio", "identi-\nfied": "identified"}
    lines = []
    for cut, name in itertools.product(dict.fromkeys(row["cut"] for row in rows), ALPHAS):
        some = where(rows, cut=cut, targets=name)
        inside = sum(row["zone_null"] != "" for row in some)
        line = {"cut": cut, "targets": name, "in null\nzone": f"{inside} of {len(some)}"}
        lines.append(line | {head: common.spread(some, key) for head, key in columns.items()})
    sheet = common.sheet_of(
        "Digits, CNN: mean ± s.d. over seeds", lines, {head: head for head in ("cut", "targets", *columns, *lines[0])},
        caption="attack mse per element on test images; /class mean: over that floor",
        wide=("accuracy", "R_c^2\ntrain", "rho\ntrain", "attack\nmse"), section="cut",
    )  # fmt: skip
    mse = {name: sum(row["mse"] for row in where(rows, cut="logits", targets=name)) for name in ALPHAS}
    said = f"attack mse from the logits, LS+ over one-hot: {mse['LS+'] / mse['one-hot']:.2f}x"
    return Outcome(rows, [sheet], [said])


main = functools.partial(common.run, Flags, experiment)

if __name__ == "__main__":
    main()
