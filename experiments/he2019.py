"""A yardstick from the literature: the inverse network of He et al. 2019 on their six-convolution CIFAR network.

    python experiments/he2019.py --data-dir DIR               # 8,000 images, two cores
    python experiments/he2019.py --data-dir DIR --size paper  # all images, an accelerator

Trains their network (``--model cnn6``, from the description) on CIFAR-10 and a deconvolution decoder at ``conv11`` and
``ReLU22``, and prints PSNR and SSIM beside those they published for the black-box inverse network: 49.9 dB / 0.999 and
19.8 dB / 0.69. Theirs was trained on CIFAR-10 itself, 40,000 or more images for 50 epochs; where DIR holds the
JPEG-compressed copy of CIFAR-10, so are the images here. Writes table.csv and a grid to --out.
"""

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
from rich.table import Table
from targets import kept_images

from gpz_jax import presentation, workflow
from gpz_jax.config import AttackConfig, Config, DataConfig, ModelConfig, TrainingConfig
from gpz_jax.errors import UserError, did_you_mean, one_line_errors
from gpz_jax.flags import parse
from gpz_jax.reporting import figures, tables

#: PSNR in dB and SSIM that He et al. (2019) report for the inverse network at these cuts.
PUBLISHED = {"conv11": (49.9, 0.999), "ReLU22": (19.8, 0.69)}

SIZES = {
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
class Experiment:
    """Flags of the experiment."""

    data_dir: str = "data"
    """Folder that holds cifar10.npz."""
    size: str = "laptop"
    """laptop (two cores) or paper (an accelerator)."""
    seed: int = 0
    """Seed of everything."""
    out: str = "runs/he2019"
    """Folder for the run, the table and the grid; a killed experiment continues there."""


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(Experiment, argv, prog="python experiments/he2019.py", description=__doc__ or "")
    if flags.size not in SIZES:
        raise UserError(f"unknown --size {flags.size!r}{did_you_mean(flags.size, SIZES)}")
    data, training, attack = SIZES[flags.size]
    begun, out = time.monotonic(), Path(flags.out)
    config = Config(
        data=dataclasses.replace(data, data_dir=flags.data_dir), model=ModelConfig(model="cnn6"), training=training,
        seed=flags.seed,
    )  # fmt: skip
    run = workflow.train_run(config, folder=f"{flags.out}/{flags.size}-seed{flags.seed}", resume=True)
    loaded = workflow.load_run(str(run.folder))
    workflow.report_accuracy(loaded)
    results = workflow.attack_run(loaded, dataclasses.replace(attack, cut=tuple(PUBLISHED)), resume=True)
    table = Table(
        title=f"He et al. 2019, CIFAR-10, {flags.size}: inverse network", caption="paper: as they published it"
    )
    for head in ("cut", "PSNR", "PSNR, paper", "SSIM", "SSIM, paper", "LPIPS", "mse", "/class mean", "flattened?"):
        table.add_column(head, justify="left" if head == "cut" else "right")
    rows, grid, originals = [], {}, np.zeros(0)
    for result in results:
        scores, (psnr, ssim) = result["scores"], PUBLISHED[result["cut"]]
        rows.append({"cut": result["cut"], **scores, "psnr_published": psnr, "ssim_published": ssim})
        n = presentation.number
        table.add_row(
            result["cut"], f"{scores['psnr']:.1f}", str(psnr), f"{scores['ssim']:.3f}", str(ssim),
            n(scores["lpips"]) if "lpips" in scores else "", n(scores["mse"]), n(scores["ratio"]),
            "yes" if result["flattened"] else "NO",
        )  # fmt: skip
        x, x_hat = kept_images(loaded, attack, result)
        originals, grid[result["cut"]] = x[:10], x_hat[:10]
    tables.write_csv(rows, out / "table.csv")
    figures.reconstruction_grid(originals, grid, out / "attacks.png")
    tables.console().print(table)
    print(f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
