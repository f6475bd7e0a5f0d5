"""What the edge has for the attacker's and the test inputs at many cuts, in few passes of the network and not in many.

A pass up to a deep cut computes every cut before it, and every attack on a cut asks for the same inputs. So a group of
cuts is asked in one pass, and what comes of it serves all attacks on them.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from gpz_jax.inversion.protocol import Part, Target, pieces
from gpz_jax.taps import TappedNetwork
from gpz_jax.taps.batch_axis import batch_size, with_batch

#: Of what is asked ahead so many bytes are held, of one group of cuts; a cut that alone has more is asked each time.
MOST_BYTES = 2**30


class Capture:
    """z of groups of cuts before any defence, asked when it is first wanted; that of one group at most is held.

    The groups follow from the cuts and the inputs alone, so that a command that goes on asks for the same programs.

    Example:
      >>> import flax.linen as nn, numpy as np
      >>> from gpz_jax import parallel, tap
      >>> model, x = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)]), np.ones((8, 2), np.float32)
      >>> variables = model.init(jax.random.key(0), x)
      >>> network = tap(model, variables, x)
      >>> capture = Capture(network, variables, network.cuts, {"test": x}, parallel.data_mesh())
      >>> [z.shape for z in capture("test", "layers_0")], capture.groups
      ([(8, 4)], (('layers_0', 'layers_2', 'logits'),))
    """

    def __init__(
        self,
        network: TappedNetwork,
        variables: Any,
        cuts: Sequence[str],
        inputs: Mapping[Part, Any],
        mesh: Mesh,
        most: int = MOST_BYTES,
    ) -> None:
        """Nothing is asked yet.

        Args:
          network: the tapped network.
          variables: its variables.
          cuts: to ask for, in the order of the network.
          inputs: ``(N, …)`` of every part, as the network takes them.
          mesh: devices.
          most: bytes of z that are held.
        """
        self._ask = partial(_at_cuts, variables, network=network)
        self._inputs, self._mesh = inputs, mesh
        self.groups = groups_of(_sizes(network, variables, cuts, inputs), most)
        self._group: tuple[str, ...] = ()
        self._held: dict[Part, dict[str, list[Array]]] = {}

    def __call__(self, part: Part, cut: str) -> list[Array] | None:
        """What a part sends at a cut, float32 z, batches as :func:`pieces` has them; None if the cut is in no group."""
        group = next((group for group in self.groups if cut in group), ())
        if group != self._group:  # the former goes before the next is asked
            self._group, self._held = group, {}
        if not group or part not in self._inputs:
            return None
        if part not in self._held:
            self._held[part] = self._asked(group, part)
        return self._held[part][cut]

    def _asked(self, group: tuple[str, ...], part: Part) -> dict[str, list[Array]]:
        found: dict[str, list[Array]] = {cut: [] for cut in group}
        for piece, _ in pieces(self._inputs[part], mesh=self._mesh):
            for cut, z in self._ask(piece, cuts=group).items():
                found[cut].append(z)
        return found


def _sizes(network: TappedNetwork, variables: Any, cuts: Sequence[str], inputs: Mapping[Part, Any]) -> dict[str, int]:
    """Bytes of z of all inputs at every cut."""
    number = sum(batch_size(x) or 0 for x in inputs.values())
    some = next(iter(inputs.values()))
    example = with_batch(some, batch_size(some), 2)
    shapes = jax.eval_shape(lambda x: network(variables, x)[1], example)
    return {cut: 4 * number * math.prod(shapes[cut].shape[1:]) for cut in cuts}


def groups_of(sizes: Mapping[str, int], most: int) -> tuple[tuple[str, ...], ...]:
    """Neighbouring cuts whose z fit together, from the bytes of each; without those that alone do not.

    >>> groups_of({"a": 9, "b": 2, "c": 1, "d": 3}, 4)
    (('b', 'c'), ('d',))
    """
    groups: list[list[str]] = []
    left = 0
    for cut, size in sizes.items():
        if size > most:
            continue
        if size > left:
            groups.append([])
            left = most
        groups[-1].append(cut)
        left -= size
    return tuple(map(tuple, groups))


@partial(jax.jit, static_argnames=("network", "cuts"))
def _at_cuts(variables, x, *, network, cuts):
    taps = network(variables, x)[1]
    return {cut: taps[cut].astype(jnp.float32) for cut in cuts}


def captured_together(targets: Sequence[Target], test: Any) -> list[Target]:
    """Targets at several cuts of one network, whose z is asked for together; on several devices they stay as they are.

    There each device holds its own part of a batch, and asking again moves nothing.

    Args:
      targets: alike but for their cuts.
      test: inputs that are to be rebuilt.
    """
    first = targets[0]
    if first.mesh.size > 1:
        return list(targets)
    fit, selection = first.fit_and_selection()
    inputs: dict[Part, Any] = {"fit": fit, "selection": selection, "test": test}
    capture = Capture(first.edge.network, first.variables, [target.cut for target in targets], inputs, first.mesh)
    return [dataclasses.replace(target, captured=capture) for target in targets]
