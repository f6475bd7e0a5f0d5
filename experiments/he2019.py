"""A yardstick from the literature: the inverse network of He et al. 2019 on their six-convolution CIFAR network.

    python experiments/he2019.py --data-dir DIR               # 8,000 images, two cores, 509 s
    python experiments/he2019.py --data-dir DIR --size paper  # all images, an accelerator

Trains their network (``--model cnn6``, from the description) on CIFAR-10 and a deconvolution decoder at ``conv11`` and
``ReLU22``, and prints PSNR and SSIM beside those they published for the black-box inverse network: 49.9 dB / 0.999 and
19.8 dB / 0.69. Theirs was trained on CIFAR-10 itself, 40,000 or more images for 50 epochs; where DIR holds the
JPEG-compressed copy of CIFAR-10, so are the images here. Writes table.csv and a grid to --out.
"""

import dataclasses
import functools
from pathlib import Path

import common
from common import Outcome

from gpz_jax import workflow
from gpz_jax.config import AttackConfig, Config, DataConfig, ModelConfig, TrainingConfig

#: PSNR in dB and SSIM that He et al. (2019) report for the inverse network at these cuts.
PUBLISHED = {"conv11": (49.9, 0.999), "ReLU22": (19.8, 0.69)}

SIZES = {
    "tiny": (
        DataConfig(size=16),
        TrainingConfig(epochs=1),
        AttackConfig(epochs=1, steps=4, decoder_width=2),
    ),
    "laptop": (
        DataConfig(data="cifar10", aux="held-out", size=32, train_limit=8_000, auxiliary_fraction=0.4),
        TrainingConfig(epochs=6, lr=0.001),
        AttackConfig(epochs=25, patience=6, decoder_width=32, lr=3e-3),
    ),
    "paper": (
        DataConfig(data="cifar10", aux="held-out", size=32, auxiliary_fraction=0.4),
        TrainingConfig(epochs=50, lr=0.001),
        AttackConfig(epochs=50, decoder_width=64, lr=1e-3),
    ),
}


@dataclasses.dataclass(frozen=True)
class Flags(common.Flags):
    """Flags of the experiment."""

    out: str = "runs/he2019"
    """Folder for the run, the table and the grid; a killed experiment continues there."""


def experiment(flags: Flags, out: Path) -> Outcome:
    """Both cuts, beside what was published."""
    data, training, attack = SIZES[flags.size]
    data = dataclasses.replace(data, data_dir=flags.data_dir)
    config = Config(data=data, model=ModelConfig(model="cnn6"), training=training, seed=flags.seed)
    loaded = common.train(config, f"{flags.out}/{flags.size}-seed{flags.seed}")
    workflow.report_accuracy(loaded)
    options = dataclasses.replace(attack, cut=tuple(PUBLISHED))
    results = common.without_linear(workflow.attack_run(loaded, options, resume=True))
    rows = [row for result in results for row in result.rows()]
    for row in rows:
        row["psnr_published"], row["ssim_published"] = PUBLISHED[row["cut"]]
    common.draw_grid({result.cut: result.best for result in results}, out / "attacks.png")
    sheet = common.sheet_of(
        f"He et al. 2019, {data.data}, {flags.size}: inverse network",
        rows,
        {"cut": "cut", "PSNR": "psnr", "PSNR,\npaper": "psnr_published", "SSIM": "ssim",
         "SSIM,\npaper": "ssim_published", "LPIPS": "lpips", "mse": "mse", "/class\nmean": "ratio",
         "identi-\nfied": "identified", "flattened?": "flattened"},
        caption="paper: as they published it",
        wide=("LPIPS", "flattened?"),
    )  # fmt: skip
    said = [f"{row['cut']}: {row['psnr'] - row['psnr_published']:+.1f} dB against the published PSNR" for row in rows]
    return Outcome(rows, [sheet], said)


main = functools.partial(common.run, Flags, experiment)

if __name__ == "__main__":
    main()
