"""The guarantees under the attacks on a run's cuts, and where they are kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpz_jax import processes
from gpz_jax.atomic import make_folder
from gpz_jax.inversion import attacking
from gpz_jax.inversion.guarantee_result import Guarantee
from gpz_jax.inversion.guarantees import PROBES, SLOPES, guarantees_at
from gpz_jax.inversion.payload_noise import noise_of
from gpz_jax.inversion.protocol import Edge, Target
from gpz_jax.runs.guarantees import read_guarantees, write_guarantees
from gpz_jax.workflow.common import say
from gpz_jax.workflow.loaded_run import LoadedRun

#: How z is sent where guarantees are asked for, whatever the attackers are given.
PAYLOAD = "uint8"


#: Of what attacks depend on, what guarantees do: not what the attackers own, nor how they are scored.
_DEPENDS = ("seed", "epoch_of_run", "defence", "null")


def keep_guarantee(
    home: Path, loaded: LoadedRun, target: Target, asked: Mapping[str, Any], *, resume: bool
) -> Guarantee:
    """Work out the guarantee at a cut on the test images, and write it beside those of other cuts.

    Args:
      home: the folder of the attacks.
      loaded: the run.
      target: the cut, as it is attacked.
      asked: what the attacks depend on.
      resume: take the one that lies there, if it was asked for alike.

    Raises:
      UserError: those that lie there are of a newer schema than this package knows.
    """
    depends = {name: asked[name] for name in _DEPENDS} | {"payload": PAYLOAD, "probes": PROBES, "slopes": SLOPES}
    kept = processes.every(lambda: read_guarantees(home, lambda why: say(f"{why}; it is made anew")))
    earlier = kept.get(target.cut)
    if resume and earlier is not None and earlier[1] == depends:
        return earlier[0]
    found = guarantee_of(loaded, target)
    processes.led(lambda: write_guarantees(make_folder(home), {**kept, target.cut: (found, depends)}))
    return found


def guarantee_of(loaded: LoadedRun, target: Target, *, payload: str = PAYLOAD) -> Guarantee:
    """The guarantee at a target's cut on the run's test images, as if z were sent as ``payload``."""
    reference, edge = target.reference, Edge(target.edge.network, target.cut)
    if reference is None:
        train = loaded.splits.train
        owned = train.images[train.indices[: attacking.REFERENCE_IMAGES]]
        reference = attacking.reference_of(edge, target.variables, owned, target.mesh)
    images, labels = loaded.splits.test.take()
    return guarantees_at(
        target.edge.network,
        target.variables,
        target.cut,
        (images, labels),
        noise=noise_of(target.edge.defence, reference, payload=payload),
        key=target.key,
        pixels=target.edge.pixels,
        white_box=target.white_box,
        mesh=target.mesh,
    )


def guarantees_beside(loaded: LoadedRun, home: str) -> dict[str, Guarantee]:
    """The guarantees that lie in a folder of attacks of the run's, by cut."""
    return {cut: found for cut, (found, _) in read_guarantees(loaded.run.folder / home).items()}
