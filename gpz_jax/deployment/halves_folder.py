"""Both halves in a folder: written, read back and checked.

OUT/
  edge.stablehlo    images -> payload
  cloud.stablehlo   payload -> logits
  halves.json       what they take and give, the quantiser, hashes, sizes, versions, accuracy
  run_halves.py     a script that runs them with jax and NumPy alone

The hashes tell damage, not malice: who can change a file can change its hash. Running a half runs its program, so read
halves only from those whose programs you would run.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import jax
from jax import Array, export

from gpz_jax.atomic import write_json
from gpz_jax.deployment.halves import FORMAT, Halves, described
from gpz_jax.errors import UserError
from gpz_jax.json_files import read_json
from gpz_jax.taps.input_leaves import leaf_names

EDGE, CLOUD, RECORD, SCRIPT = "edge.stablehlo", "cloud.stablehlo", "halves.json", "run_halves.py"

#: Written beside the halves, so that they can be run where neither this package nor Flax is.
RUN_HALVES = '''\
"""Run both halves with jax alone (and the flatbuffers with which it reads them): python run_halves.py [IMAGES.npy]"""
import pathlib, sys
import numpy as np
from jax import export
files = (pathlib.Path(__file__).with_name(f"{half}.stablehlo") for half in ("edge", "cloud"))
edge, cloud = (export.deserialize(bytearray(file.read_bytes())) for file in files)
random = np.random.default_rng(0).integers(0, 256, (4, *edge.in_avals[0].shape[1:])).astype(edge.in_avals[0].dtype)
images = np.load(sys.argv[1]) if sys.argv[1:] else random  # (any number, H, W, C), as the data set holds them
payload = edge.call(images)  # on the device; this is what is sent
logits = cloud.call(payload)  # in the cloud
print(f"{images.dtype} {images.shape} -> {payload.dtype} {payload.shape}; classes {logits.argmax(axis=1)}")
'''

#: The same for an input of several arrays.
RUN_HALVES_OF_SEVERAL = '''\
"""Run both halves with jax alone (and the flatbuffers with which it reads them): python run_halves.py [INPUT.npz]"""
import pathlib, sys
import jax, numpy as np
from jax import export
files = (pathlib.Path(__file__).with_name(f"{half}.stablehlo") for half in ("edge", "cloud"))
edge, cloud = (export.deserialize(bytearray(file.read_bytes())) for file in files)
sizes = [tuple(n if isinstance(n, int) else 4 for n in a.shape) for a in edge.in_avals]
ones = [np.ones(size, a.dtype) for size, a in zip(sizes, edge.in_avals)]
x = dict(np.load(sys.argv[1])) if sys.argv[1:] else jax.tree.unflatten(edge.in_tree, ones)[0][0]
payload = edge.call(x)  # on the device; this is what is sent
public = jax.tree.unflatten(cloud.in_tree, cloud.in_avals)[0][1:]  # what the cloud is to know beside it, by name
logits = cloud.call(payload, *({name: x[name] for name in names} for names in public))  # in the cloud
takes = "; ".join(f"{a.dtype} {a.shape}" for a in jax.tree.leaves(x))
print(f"{takes} -> {payload.dtype} {payload.shape}; classes {logits.argmax(axis=-1)}")
'''


def check_folder(folder: str | Path) -> Path:
    """Return ``folder`` as a path if halves may be written there: it is new, empty, or holds halves to be replaced.

    Nothing is made or changed.

    Raises:
      UserError: it is none of these, or cannot be written to.
    """
    path = Path(folder)
    if path.is_dir():
        names = {entry.name for entry in path.iterdir() if not entry.name.endswith(".partial")}
        foreign = sorted(names - {EDGE, CLOUD, RECORD, SCRIPT})
        if foreign and not _is_export(path):
            raise UserError(f"{path} exists and is no export of halves ({foreign[0]} is in it); choose another folder")
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to folder {path}: {nearest} is not a folder that can be written to")
    return path


def save_halves(halves: Halves, folder: str | Path) -> Path:
    """Write the two halves, halves.json and run_halves.py; replaces halves that are there.

    Args:
      halves: what :func:`export_halves` made.
      folder: where; made if it is not there.

    Raises:
      UserError: as :func:`check_folder`.
    """
    path = check_folder(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to folder {path}: {error.strerror or error}") from None
    # Last comes the record, whole or not at all: its presence says that all the rest is there.
    (path / RECORD).unlink(missing_ok=True)
    for half in path.glob(f"{RECORD}*.partial"):  # of an export that was killed
        half.unlink()
    (path / EDGE).write_bytes(halves.edge)
    (path / CLOUD).write_bytes(halves.cloud)
    (path / SCRIPT).write_text(
        RUN_HALVES if "shape" in halves.metadata["input"] else RUN_HALVES_OF_SEVERAL, encoding="utf-8"
    )
    write_json(path / RECORD, halves.metadata)
    return path


class Half:
    """One half, read back: ``edge(x)``, ``cloud(payload)``, compiled anew for every batch size that it meets.

    A cloud half of a cut with public inputs takes them too: ``cloud(payload, {"mask": mask})``.

    Attributes:
      name: ``edge`` or ``cloud``.
      takes: its arguments, pytrees of ``jax.ShapeDtypeStruct``, with a symbol for the batch.
    """

    def __init__(self, name: str, exported: export.Exported):
        self.name = name
        self.takes: tuple[Any, ...] = arguments_of(exported)
        self._platforms = exported.platforms
        self._call = jax.jit(exported.call)

    def __call__(self, *x: Any) -> Array:
        """Run it. Raises :class:`UserError` for another shape, dtype or platform than it was exported for."""
        if len(x) != len(self.takes):
            also = f" and a dict of {', '.join(self.takes[1])}" if self.takes[1:] else ""
            raise UserError(f"the {self.name} half takes its input{also}, got {len(x)} arguments")
        for wanted, given in zip(self.takes, x, strict=True):
            self._check(wanted, given)
        if not self.runs_here():
            raise UserError(
                f"the {self.name} half was exported for {', '.join(self._platforms)}, not for this machine's "
                f"{jax.default_backend()}; export it with another platform",
                field="platform",
            )
        return self._call(*x)

    def _check(self, wanted: Any, given: Any) -> None:
        expected = dict(zip(leaf_names(wanted), jax.tree.leaves(wanted), strict=True))
        single = isinstance(wanted, jax.ShapeDtypeStruct)
        found = {"x": given} if single else dict(zip(leaf_names(given), jax.tree.leaves(given), strict=True))
        if found.keys() != expected.keys():
            raise UserError(f"the {self.name} half takes arrays {', '.join(expected)}, got {', '.join(found)}")
        for name, leaf in expected.items():
            shape, dtype = getattr(found[name], "shape", ()), getattr(found[name], "dtype", type(found[name]).__name__)
            fits = len(shape) == len(leaf.shape) and all(
                b == a if isinstance(a, int) else b >= 1 for a, b in zip(leaf.shape, shape, strict=True)
            )
            if str(dtype) != str(leaf.dtype) or not fits:
                sizes = ", ".join(str(n) if isinstance(n, int) else "batch" for n in leaf.shape)
                what = "" if single else f"{name} as "
                raise UserError(f"the {self.name} half takes {what}{leaf.dtype} ({sizes}), got {dtype} {tuple(shape)}")

    def runs_here(self) -> bool:
        """Whether it was exported for what this machine computes on."""
        return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend()) in self._platforms


def arguments_of(exported: export.Exported) -> tuple[Any, ...]:
    """The arguments of an exported function, as pytrees of ``jax.ShapeDtypeStruct``."""
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in exported.in_avals]
    return jax.tree.unflatten(exported.in_tree, shapes)[0]


def load_halves(folder: str | Path) -> tuple[Half, Half, dict[str, Any]]:
    """Read halves that :func:`save_halves` wrote.

    The names of the files are fixed: nothing in halves.json is taken for a path.

    Args:
      folder: where they are.

    Returns:
      ``(edge, cloud, metadata)``: ``cloud(edge(images))`` are the logits, or ``cloud(edge(x), {"mask": x["mask"]})``
      where the record names ``"public": ["mask"]``; the metadata are those of halves.json.

    Raises:
      UserError: a file that is missing, damaged, or not the one that halves.json was written for.
    """
    path = Path(folder)
    record = _read_record(path)
    edge, cloud = _read_half(path, EDGE, record), _read_half(path, CLOUD, record)
    (x,), (sent, *known) = arguments_of(edge), arguments_of(cloud)
    found = {"input": described(x), "payload": described(sent), "output": described(cloud.out_avals[0])}
    for what, told in found.items():
        if {key: record[what].get(key) for key in told} != told:
            raise UserError(f"{path / RECORD} is damaged: its {what} is not that of the files; export it again")
    if sorted(record.get("public", [])) != sorted(known[0] if known else []):
        raise UserError(f"{path / RECORD} is damaged: its public inputs are not those of the files; export it again")
    if described(edge.out_avals[0]) != found["payload"]:
        raise UserError(f"{path / EDGE} and {path / CLOUD} are not of one cut; export it again")
    return Half("edge", edge), Half("cloud", cloud), record


def _read_record(path: Path) -> dict[str, Any]:
    file = path / RECORD
    if not file.exists():
        raise UserError(f"{path} holds no {RECORD}; write it with save_halves, or the command split")
    try:
        record = read_json(file)
    except UserError as error:
        raise UserError(f"{error}; export it again") from None
    if not isinstance(record, dict) or "format" not in record:
        raise UserError(f"{file} is damaged: it names no format; export it again")
    if record["format"] != FORMAT:
        raise UserError(f"{file} is of format {record['format']!r}, this gpz_jax reads {FORMAT}; export it again")
    for name in ("input", "payload", "output", "edge", "cloud"):
        if not isinstance(record.get(name), dict):
            raise UserError(f"{file} is damaged: it has no {name!r}; export it again")
    return record


def _is_export(path: Path) -> bool:
    try:
        return bool(_read_record(path))
    except UserError:
        return False


def _read_half(path: Path, name: str, record: dict[str, Any]) -> export.Exported:
    file = path / name
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}); export it again") from None
    if hashlib.sha256(data).hexdigest() != record[name.removesuffix(".stablehlo")].get("sha256"):
        raise UserError(f"{file} does not match its SHA-256 in {RECORD}; export it again")
    try:
        return export.deserialize(bytearray(data))
    except Exception as error:  # whatever another version of jax makes of it
        raise UserError(f"{file} cannot be read by jax {jax.__version__} ({type(error).__name__})") from None
