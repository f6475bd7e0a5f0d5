"""Classes for the probe where the true labels are unknown or not wanted: predictions, or clusters."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from gpz_jax import parallel
from gpz_jax.analysis.labelled_batches import Batch, with_mask
from gpz_jax.errors import UserError
from gpz_jax.taps import LOGITS, TappedNetwork, check_real
from gpz_jax.targets import check_logits


@partial(jax.jit, static_argnames=("network", "cut"))
def _read(network, variables, x, *, cut):
    z = network(variables, x)[1][cut]
    check_real({cut: z})
    if cut == LOGITS:
        check_logits(z)
    return z.reshape(z.shape[0], -1).astype(jnp.float32)


def predicted_labels(network: TappedNetwork, variables: Any, batches: Iterable[Batch]) -> Int32[np.ndarray, " N"]:
    """The class the network predicts for every image, ``(N,)`` (what the paper's released probe uses).

    Args:
      network: the tapped network.
      variables: its variables.
      batches: ``(x, labels)`` or ``(x, labels, mask)``, as for ``radius.measure``; the labels are not looked at.
    """
    found = [
        parallel.fetch(jnp.argmax(_read(network, variables, x, cut=LOGITS), axis=1))[parallel.fetch(mask)]
        for x, _, mask in map(with_mask, batches)
    ]
    if not found:
        raise UserError("there are no images to predict labels for")
    return np.concatenate(found).astype(np.int32)


def cluster_labels(
    network: TappedNetwork,
    variables: Any,
    batches: Callable[[], Iterable[Batch]],
    num_clusters: int,
    *,
    cut: str,
    seed: int = 0,
) -> Int32[np.ndarray, " N"]:
    """K clusters of the representations at ``cut`` in place of labels, ``(N,)`` (mini-batch k-means, Sculley 2010).

    Two passes, one to fit and one to assign; only about a batch of representations is held at a time. Clusters
    carry no class names, and their radius is smaller than that of classes, because they are fitted to be tight.

    Args:
      network: the tapped network.
      variables: its variables.
      batches: makes the batches ``(x, labels)`` or ``(x, labels, mask)`` afresh for each pass; the labels do not
        matter.
      num_clusters: K.
      cut: where to cluster; the cut before the logits is a good place.
      seed: of the initial centres.

    Raises:
      UserError: an unknown cut; fewer images than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    network.check(cut)

    def representations():
        for x, _, mask in map(with_mask, batches()):
            yield parallel.fetch(_read(network, variables, x, cut=cut))[parallel.fetch(mask)]

    means = MiniBatchKMeans(num_clusters, random_state=seed, n_init="auto")
    waiting: list[np.ndarray] = []  # partial_fit needs at least K images at first
    fitted = False
    for z in representations():
        waiting.append(z)
        if sum(map(len, waiting)) >= 10 * num_clusters:
            means.partial_fit(np.concatenate(waiting))
            waiting, fitted = [], True
    if not fitted:
        few = np.concatenate(waiting)
        if len(few) < num_clusters:
            raise UserError(f"{len(few)} images cannot form {num_clusters} clusters; give more images")
        means.partial_fit(few)
    return np.concatenate([means.predict(z) for z in representations()]).astype(np.int32)
