"""Whose images the paper's attacker trains on, for each target data set."""

import dataclasses
import pathlib

from gpz_jax.config import DataConfig
from gpz_jax.data.npz_file import brings_auxiliary

#: Target -> auxiliary data sets, the first that is at hand; a set that is not listed gives a held-out part of itself
#: (in the paper: CIFAR-10, ChestX-ray). LFW's is not the paper's: its people with too few images to be classes.
PAIRINGS: dict[str, tuple[str, ...]] = {
    "facescrub": ("celeb_a",),
    "facescrub20": ("celeb_a",),
    "facescrub20_32": ("celeb_a",),
    "mnist": ("kmnist", "kmnist10k"),
    "kmnist": ("mnist", "emnist_letters"),
    "kmnist10k": ("mnist", "emnist_letters"),
    "lfw": ("lfw_aux", "lfw_aux64"),
    "lfw_id64": ("lfw_aux64", "lfw_aux"),
}

HELD_OUT = ("held-out", "none")


def resolve_auxiliary(data: DataConfig) -> tuple[DataConfig, str]:
    """Work out ``aux="auto"``: the paper's pairing if that data set lies in the data directory, else held-out.

    Images for the attacker inside the data set's own .npz are a part held out by whoever wrote it, and come before the
    pairing. Nothing is downloaded. Returns the settings with ``aux`` a name, or None for a held-out part, and a line
    that says which it is (empty where the user chose, or the paper's choice is a held-out part).

    >>> resolve_auxiliary(DataConfig(data="digits"))[0].aux is None
    True
    >>> resolve_auxiliary(DataConfig(data="mnist", data_dir="nowhere"))[1]
    "the attacker's images: a held-out part of 'mnist' (its pairing, kmnist or kmnist10k, is not in nowhere)"
    """
    if data.aux in HELD_OUT:
        return dataclasses.replace(data, aux=None), ""
    if data.aux != "auto":
        return data, ""
    names = PAIRINGS.get(data.data, ())
    folder = pathlib.Path(data.data_dir).expanduser()
    own = folder / f"{data.data}.npz"
    if brings_auxiliary(own):
        return dataclasses.replace(data, aux=None), f"the attacker's images: those that {own} brings"
    for name in names:
        if (folder / f"{name}.npz").is_file() or (folder / name / "train").is_dir():
            said = f"the attacker's images: {name!r}, the pairing of {data.data!r}"
            return dataclasses.replace(data, aux=name), said
    why = f" (its pairing, {' or '.join(names)}, is not in {data.data_dir})" if names else ""
    said = f"the attacker's images: a held-out part of {data.data!r}{why}" if names else ""
    return dataclasses.replace(data, aux=None), said
