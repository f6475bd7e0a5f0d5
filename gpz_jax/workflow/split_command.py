"""Write both halves of a trained run as files, and measure what is lost on the way through them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gpz_jax import parallel
from gpz_jax.data.batches import padded_batches
from gpz_jax.data.splits import Split
from gpz_jax.deployment import halves_folder
from gpz_jax.deployment.halves import export_halves
from gpz_jax.inversion.verdict import verdict_of
from gpz_jax.workflow.common import PROBE_BATCH, probe_batches, say, short
from gpz_jax.workflow.cut_evidence import answers_of, attacked
from gpz_jax.workflow.loaded_run import LoadedRun, report_accuracy


def split_run(
    loaded: LoadedRun, cut: str, folder: str | Path, *, payload: str = "uint8", platforms: Sequence[str] = ("cpu",)
) -> dict[str, Any]:
    """Write the edge and the cloud half of a run to a folder, read them back and measure them on the test images.

    Args:
      loaded: what :func:`load_run` opened; ``uint8`` is calibrated on its training images.
      cut: where to cut.
      folder: where to write; new, empty, or halves to be replaced.
      payload: how z is sent, ``float32``, ``bfloat16`` or ``uint8``.
      platforms: where the files will run, of ``cpu``, ``tpu`` and ``cuda``. If this machine is none of these, the files
        are not measured.

    Returns:
      What halves.json says: shapes, sizes, hashes, and ``accuracy`` on test of the ``whole`` network and of the
      ``halves`` (None where not measured).

    Raises:
      UserError: a folder that holds something else; an unknown or bypassed cut.
    """
    halves_folder.check_folder(folder)
    test = loaded.splits.test
    example = jax.ShapeDtypeStruct((1, *test.images.shape[1:]), jnp.uint8)
    made = export_halves(
        loaded.network, loaded.variables, example, cut,
        payload=payload, calibration=_training_images(loaded), platforms=platforms,
    )  # fmt: skip
    whole = report_accuracy(loaded)
    halves_folder.save_halves(made, folder)
    edge, cloud, metadata = halves_folder.load_halves(folder)
    through_files = None
    if edge.runs_here():
        through_files = _accuracy(lambda images: cloud(edge(images)), test, loaded.mesh)
    else:
        say(f"the files are not measured: this machine is none of {', '.join(platforms)}; add it with --platform")
    accuracy = {"whole": whole, "halves": through_files, "split": "test", "images": len(test)}
    names = None if loaded.run.class_names is None else list(loaded.run.class_names)
    of_run = {"run": loaded.run.folder.name, "epoch": loaded.epoch, "class_names": names}
    metadata = {**of_run, **metadata, "accuracy": accuracy}
    metadata["verdict"] = _verdict(loaded, cut, whole)
    halves_folder.save_halves(made._replace(metadata=metadata), folder)
    return metadata


def _verdict(loaded: LoadedRun, cut: str, accuracy: float) -> dict[str, str]:
    """What the run's attacks say of the cut, for those who get the files without the run."""
    verdict = verdict_of(attacked(loaded, answers_of(loaded, accuracy))[cut])
    return {"word": verdict.word, "grade": verdict.grade, "sentence": verdict.sentence}


def _training_images(loaded: LoadedRun) -> Iterator[Any]:
    # Batches are filled up with an image of the split itself, which changes no minimum and no maximum.
    return (images for images, _, _ in probe_batches(loaded.splits.train, loaded.recipe, loaded.mesh))


def _accuracy(predict: Callable[[Any], Any], split: Split, mesh: Mesh) -> float:
    hits = 0
    for images, labels, mask in padded_batches(split, PROBE_BATCH, multiple=mesh.size):
        logits = parallel.fetch(predict(parallel.spread(images, mesh)))
        hits += int(np.sum((np.argmax(logits, axis=-1) == labels) & mask))
    return hits / len(split)


def report_split(metadata: dict[str, Any], folder: str | Path) -> None:
    """Print what :func:`split_run` wrote and measured, and the script that runs it."""
    path = Path(folder)
    sent, accuracy = metadata["payload"], metadata["accuracy"]
    print(f"{metadata['run']} cut at {metadata['cut']}, for {', '.join(metadata['platforms'])}: {short(path)}")
    for name, takes, gives in (("edge", "input", "payload"), ("cloud", "payload", "output")):
        half = metadata[name]
        print(
            f"  {name}.stablehlo  {half['bytes']:,} bytes, {half['parameters']:,} parameters, "
            f"{_text(metadata[takes])} -> {_text(metadata[gives])}"
        )
    image = int(np.prod(metadata["input"]["shape"][1:])) * np.dtype(metadata["input"]["dtype"]).itemsize
    print(f"payload: {sent['bytes_per_image']:,} bytes an image (the image itself: {image:,})")
    line = f"test accuracy on {accuracy['images']} images: {accuracy['whole']:.4f} whole network"
    if accuracy["halves"] is not None:
        lost = accuracy["whole"] - accuracy["halves"]
        line += f", {accuracy['halves']:.4f} through the files (drop {lost:.4f})"
    print(line)
    print(metadata["verdict"]["sentence"])
    print(
        f"run them with jax alone: python {short(path / halves_folder.SCRIPT)} [IMAGES.npy]\n",
        halves_folder.RUN_HALVES,
        sep="\n",
        end="",
    )


def _text(array: dict[str, Any]) -> str:
    return f"{array['dtype']} ({', '.join(map(str, array['shape']))})"
