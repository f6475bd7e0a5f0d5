"""The file of weights that LPIPS reads: ``python -m gpz_jax.inversion.lpips_weights lpips_alex.npz`` makes it.

A file of its own, since a module that is imported with the package cannot also be run as a command without a warning.
"""

import sys
from pathlib import Path

import numpy as np

from gpz_jax.errors import UserError, one_line_errors
from gpz_jax.inversion import lpips


def convert(out: str | Path) -> None:
    """Write the file of weights from torchvision's AlexNet (IMAGENET1K_V1) and the package lpips (version 0.1).

    Those two packages fetch and read their own weights, the former from the network when it is first used.

    Raises:
      UserError: a name that does not end in .npz, no such folder, torchvision or lpips not installed, or AlexNet's
        weights out of reach.

    >>> convert("lpips_alex.pth")
    Traceback (most recent call last):
    ...
    gpz_jax.errors.UserError: lpips_alex.pth: give the file a name that ends in .npz
    """
    out = Path(out)
    if out.suffix != ".npz":
        raise UserError(f"{out}: give the file a name that ends in .npz")
    if not out.parent.is_dir():
        raise UserError(f"no folder {out.parent}; create it first")
    arrays = _from_torch()
    lpips.from_arrays(arrays, where="installed weights")
    np.savez(out, **arrays)  # pyright: ignore[reportArgumentType]  # its stub takes names for allow_pickle


def _from_torch() -> dict[str, np.ndarray]:
    """Arrays in the file's names and shapes, from the packages that publish them."""
    try:
        from lpips import LPIPS  # pyright: ignore  # which takes this file for that package
        from torchvision.models import AlexNet_Weights, alexnet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"the weights come with torchvision and lpips ({error}): {lpips.PIP}") from None
    try:
        convolutions = alexnet(weights=AlexNet_Weights.IMAGENET1K_V1).features.state_dict()
    except OSError as error:  # which urllib's errors are
        raise UserError(f"torchvision could not fetch AlexNet's weights ({error}); try again with a network") from error
    # pnet_rand: its own AlexNet stays random, since the convolutions are those above.
    rest = LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False).state_dict()
    arrays = {}
    for i, place in enumerate((0, 3, 6, 8, 10), 1):  # of the convolutions among torchvision's layers
        arrays[f"conv{i}_w"] = convolutions[f"{place}.weight"].numpy()
        arrays[f"conv{i}_b"] = convolutions[f"{place}.bias"].numpy()
    for i in range(5):
        arrays[f"lin{i}_w"] = rest[f"lin{i}.model.1.weight"].numpy().reshape(-1)
    for name in ("shift", "scale"):
        arrays[name] = rest[f"scaling_layer.{name}"].numpy().reshape(-1)
    return arrays


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    argv = sys.argv[1:] if argv is None else argv
    usage = f"{lpips.COMMAND} lpips_alex.npz"
    if argv in (["--help"], ["-h"]):
        print("Make the file of weights that LPIPS needs, from the packages that publish them.\n")
        print(f"  {lpips.PIP}\n  {usage}")
        return
    if len(argv) != 1 or argv[0].startswith("-"):
        raise UserError(f"give one file to write, such as: {usage}")
    convert(argv[0])
    print(f"wrote {argv[0]}; now: export {lpips.VARIABLE}={Path(argv[0]).resolve()}")


if __name__ == "__main__":
    main()
