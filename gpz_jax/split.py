"""Write a trained run as two files, edge and cloud: ``python -m gpz_jax.split RUN --cut block_4 OUT``."""

import dataclasses
import sys
from typing import Annotated, Literal

import tyro

from gpz_jax import workflow
from gpz_jax.compile_log import compiling
from gpz_jax.config import Compiling, RunIdentity
from gpz_jax.errors import UserError, one_line_errors
from gpz_jax.flags import parse

DESCRIPTION = """Cut a trained run into the half that runs on the device and the half that runs in the cloud, each a
file with only the weights that it needs. The edge half takes images as the data set holds them (uint8; resizing and
normalising are inside) and gives the payload; the cloud half takes the payload and gives the logits. Both take any
number of images and need jax alone (with flatbuffers). Prints the accuracy on test images of the whole network and
through the written files, the bytes sent and the sizes; writes

  OUT/edge.stablehlo  OUT/cloud.stablehlo   the halves
  OUT/halves.json                           shapes, quantiser, SHA-256 of both files, versions, accuracy
  OUT/run_halves.py                         a script that loads and runs them

Examples:

  python -m gpz_jax.split runs/digits-cnn16-ls0.3-seed0 --cut block_4 halves
  python -m gpz_jax.split runs/digits-cnn16-ls0.3-seed0 --cut block_4 --payload bfloat16 halves
  python -m gpz_jax.split runs/digits-cnn16-ls0.3-seed0 --cut fc --platform cpu --platform tpu halves
"""


@dataclasses.dataclass(frozen=True)
class Split:
    """Flags of the split command."""

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, as made by python -m gpz_jax.train."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")] = ""
    """Folder to write (required): new, empty, or halves to be replaced."""
    cut: str = ""
    """Where to cut (required): a valid cut of the run such as block_4 or fc; python -m gpz_jax.probe RUN lists them."""
    payload: Literal["float32", "bfloat16", "uint8"] = "uint8"
    """How a number of z is sent: float32 (4 bytes), bfloat16 (2), or uint8 (1: 256 levels over each channel's range
    on the training images; what lies outside is clipped)."""
    platform: tuple[Literal["cpu", "tpu", "cuda"], ...] = ()
    """Where the files will run; repeat the flag for several. Default: cpu. This machine need be none of them, but then
    the files are not measured."""
    identity: RunIdentity = RunIdentity()
    data_dir: str | None = None
    """Folder that holds the images now, if they have moved since training."""
    compiling: Compiling = Compiling()


@one_line_errors
def main(argv: list[str] | None = None, *, prog: str = "python -m gpz_jax.split") -> None:
    """Run the command."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parse(Split, argv, prog=prog, description=DESCRIPTION)
    for name, given in (("--cut CUT", flags.cut), ("OUT", flags.out)):
        if not given:
            raise UserError(f"{name} is missing: python -m gpz_jax.split RUN --cut CUT OUT (see --help)")
    with compiling(flags.compiling, workflow.say), workflow.all_at_hand([flags.folder], flags.out) as [folder]:
        loaded = workflow.load_run(folder, data_dir=flags.data_dir, expected=flags.identity)
        metadata = workflow.split_run(
            loaded, flags.cut, flags.out, payload=flags.payload, platforms=flags.platform or ("cpu",)
        )
        workflow.report_split(metadata, flags.out)


if __name__ == "__main__":
    main()
