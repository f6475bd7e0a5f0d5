"""Whose images the paper's attacker trains on, for each target data set."""

import dataclasses
import pathlib

from gpz_jax.config import DataConfig

#: Target -> auxiliary data sets, the first that is at hand; a set that is not listed gives a held-out part of itself
#: (in the paper: CIFAR-10, ChestX-ray).
PAIRINGS: dict[str, tuple[str, ...]] = {
    "facescrub": ("celeb_a",),
    "mnist": ("kmnist",),
    "kmnist": ("mnist", "emnist_letters"),
    "lfw": ("lfw_aux",),
}

HELD_OUT = "held-out"


def resolve_auxiliary(data: DataConfig) -> tuple[DataConfig, str]:
    """Work out ``--aux auto``: the paper's pairing if that data set lies in the data directory, else held-out.

    Nothing is downloaded for it. Returns the settings with ``aux`` a name, or None for a held-out part, and a line that
    says which it is (empty where the user chose).

    >>> resolve_auxiliary(DataConfig(data="digits"))[0].aux is None
    True
    >>> resolve_auxiliary(DataConfig(data="mnist", data_dir="nowhere"))[1]
    "the attacker's images: a held-out part of 'mnist' (the paper's, kmnist, is not in nowhere)"
    """
    if data.aux == HELD_OUT:
        return dataclasses.replace(data, aux=None), ""
    if data.aux != "auto":
        return data, ""
    names = PAIRINGS.get(data.data, ())
    folder = pathlib.Path(data.data_dir).expanduser()
    for name in names:
        if (folder / f"{name}.npz").is_file() or (folder / name / "train").is_dir():
            said = f"the attacker's images: {name!r}, as in the paper (a part of {data.data!r}: --aux {HELD_OUT})"
            return dataclasses.replace(data, aux=name), said
    why = f" (the paper's, {' or '.join(names)}, is not in {data.data_dir})" if names else ""
    said = f"the attacker's images: a held-out part of {data.data!r}{why}" if names else ""
    return dataclasses.replace(data, aux=None), said
