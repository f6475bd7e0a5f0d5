"""A row of the ledger: everything that is kept of one training step, computed of arrays alone.

The ledger of a run and a :class:`gpz_jax.Tracker` in anyone's own loop take their rows from here.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from gpz_jax import parallel
from gpz_jax.analysis.contraction import feature_terms, interference
from gpz_jax.analysis.parameter_space import parameter_terms, realised_change
from gpz_jax.analysis.readings import readings
from gpz_jax.taps import TappedNetwork


def step_row(
    network: TappedNetwork,
    before: Any,
    after: Any,
    x: Any,
    labels: Int[Array, " N"],
    targets: Float[Array, "N K"] | None,
    step_size: float | Float[Array, ""] | None,
    parts: tuple[Any, Any] | None,
    *,
    num_classes: int,
    full: bool,
    interference_cuts: tuple[str, ...],
) -> dict[str, Array]:
    """What a training step did to R_c² of every cut and class, on a fixed batch.

    Args:
      network: the tapped network, in evaluation mode.
      before: its variables before the step.
      after: its variables after it.
      x: the probe batch, ``(N, …)``.
      labels: its classes, ``(N,)``.
      targets: q of the probe batch; None leaves out what depends on them.
      step_size: γ; None leaves out what depends on it.
      parts: ``gradient_parts`` of the training batch; None leaves out the parameters' correct and wrong terms.
      num_classes: K.
      full: whether the parameters' terms are wanted, beyond the realised change.
      interference_cuts: cuts at which the class x class interference is wanted.

    Returns:
      name -> array, of ``runs.VARIABLES``: ``(L, K)``, ``(L,)``, ``(K,)`` or as that table says.
    """

    def stack(of_cut: Mapping[str, Array]) -> Array:
        return jnp.stack([of_cut[cut] for cut in network.cuts])

    def columns(terms: Mapping[str, Any]) -> dict[str, Array]:
        found = {}
        for name in terms[network.cuts[0]]._fields:
            of_cut = {cut: getattr(terms[cut], name) for cut in network.cuts}
            if of_cut[network.cuts[0]] is not None:
                found[name] = stack(of_cut)
        return found

    one_hot = jax.nn.one_hot(labels, num_classes)
    at = readings(network, before, x, labels, one_hot if targets is None else targets)
    row = {"radius": stack(at.radius), "within": stack(at.within), "between": stack(at.between), "rho": stack(at.rho)}
    row |= {"output_entropy": at.entropy, "accuracy": at.accuracy}
    if targets is not None:
        row |= {"coefficient": at.coefficient, "past_flip": at.past_flip, "loss": at.loss}
    if targets is not None and step_size is not None:
        feature = columns(feature_terms(network, before, x, labels, targets, step_size=step_size))
        row |= {f"feature_{name}": column for name, column in feature.items()}
        given = (network, before, x, labels, targets)
        row["interference"] = jnp.stack([interference(*given, cut=c, step_size=step_size) for c in interference_cuts])
    if not full:
        change = realised_change(network, before, after, x, labels, num_classes=num_classes)
        return {**row, "realised": stack(change)}
    gamma = 0.0 if step_size is None else step_size  # without parts nothing is multiplied by it
    moved = columns(parameter_terms(network, before, after, x, labels, parts, num_classes=num_classes, step_size=gamma))
    renamed = {"correct": "parameter_correct", "wrong": "parameter_wrong"}
    return {**row, **{renamed.get(name, name): column for name, column in moved.items()}}


class PendingRows:
    """Rows on the device, on their way to the host: nothing is fetched while steps run."""

    def __init__(self):
        self._rows: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, row: dict[str, Any]) -> None:
        """Add a row: name -> array or number."""
        self._rows.append(row)

    def take(self) -> dict[str, np.ndarray]:
        """All rows, each variable ``(n, …)``; none are left. Empty if there were none."""
        rows, self._rows = parallel.fetch(self._rows), []
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}
