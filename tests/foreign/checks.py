"""What holds for any model: activations, both halves and the radius, against what is found without this package."""

import importlib.util
import pathlib
import re
from collections import defaultdict
from importlib.metadata import version
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import pytest

import gpz_jax

PAGE = (pathlib.Path(__file__).parents[2] / "docs/howto/foreign_models.md").read_text()
LABELS = np.array([0, 1, 0, 1, 0, 1])


class Case(NamedTuple):
    """A model with everything that is needed to call it.

    Attributes:
      model: of Linen, or of NNX.
      x: six inputs.
      cuts: what to give to ``tap`` as ``cuts``.
      expected: names of the cuts between all blocks.
      split: three of them.
      arguments: further keyword arguments of ``tap``.
      public: names of the input's arrays that the cloud may know.
    """

    model: Any
    x: Any
    cuts: Any
    expected: tuple[str, ...]
    split: tuple[str, str, str]
    arguments: dict[str, Any] = {}  # noqa: RUF012
    public: tuple[str, ...] = ()


def needs(package, below=None):
    """Marks of a module of tests of models from ``package``; skips them where it is absent."""
    absent = importlib.util.find_spec(package) is None
    newer = not absent and below is not None and int(version(package).split(".")[0]) >= below
    reason = f"{package} {'is too new' if newer else 'is not installed'}: pip install 'gpz-jax[foreign]'"
    return [pytest.mark.foreign, pytest.mark.skipif(absent or newer, reason=reason)]


def tapped(case):
    """(network, variables) of a Linen model with random weights."""
    call = {name: value for name, value in case.arguments.items() if name != "output"}
    variables = jax.jit(lambda key: case.model.init(key, case.x, **call))(jax.random.key(0))
    return gpz_jax.tap(case.model, variables, case.x, cuts=case.cuts, **case.arguments), variables


def intercepted(case, variables):
    """Path -> what every call of the module there returned, by Flax alone; ``"logits"`` -> the logits."""
    kept = defaultdict(list)

    def keep(call, args, kwargs, context):
        value = call(*args, **kwargs)
        if context.method_name == "__call__":
            kept["/".join(context.module.path)].append(value)
        return value

    output = case.arguments.get("output", lambda out: out)
    call = {name: value for name, value in case.arguments.items() if name != "output"}
    with nn.intercept_methods(keep):
        kept["logits"].append(output(case.model.apply(variables, case.x, **call)))
    return kept


def reached(kept, cut):
    """The array that a name means: ``block:2[0]`` is the first of what the second call of ``block`` returned."""
    path, number, suffix = re.fullmatch(r"([\w/]+)(?::(\d+))?(.*)", cut).groups()
    return np.asarray(eval(f"value{suffix}", {"value": kept[path][int(number or 1) - 1]}))


def check_all(case):
    """All that the tests of this folder hold of a Linen model; returns its network and variables."""
    network, variables = tapped(case)
    kept = intercepted(case, variables)
    check(case, network, variables, kept)
    check_radius(case, network, variables, kept)
    return network, variables


def check(case, network, variables, kept):
    """All that the tests of this folder hold of a network."""
    assert network.cuts == (*case.expected, "logits")
    blocks = [f'"{pattern}"' for pattern in case.cuts or () if "*" in pattern and not case.public]
    assert all(pattern in PAGE for pattern in blocks)
    logits, taps = jax.jit(network)(variables, case.x)
    for cut in network.cuts:
        np.testing.assert_allclose(taps[cut], reached(kept, cut), atol=1e-5, err_msg=cut)
    valid = gpz_jax.valid_cuts(network, variables, case.x, public=case.public)
    assert all(valid.values()), valid
    for cut in case.split:
        edge, cloud = gpz_jax.split_at(network, variables, case.x, cut, public=case.public)
        known = ({name: case.x[name] for name in case.public},) if case.public else ()
        np.testing.assert_allclose(edge(variables, case.x), taps[cut], atol=1e-5)
        np.testing.assert_allclose(cloud(variables, taps[cut], *known), logits, atol=1e-5)


def check_radius(case, network, variables, kept):
    """The radius of the middle one of the three cuts, against numpy in float64; of a sequence's logits, of tokens."""
    cut, logits = case.split[1], kept["logits"][0]
    labels = LABELS if logits.ndim == 2 else (LABELS[:, None] + np.arange(logits.shape[1])) % 2
    moments = gpz_jax.measure(network, variables, [(case.x, labels, np.ones(6, bool))], 2)[cut]
    z = reached(kept, cut).astype(np.float64).reshape(labels.size, -1)
    of_class = [z[labels.ravel() == c] for c in range(2)]
    expected = [np.mean(np.sum((rows - rows.mean(axis=0)) ** 2, axis=1)) for rows in of_class]
    assert min(expected) > 0
    np.testing.assert_allclose(gpz_jax.radius(moments), expected, rtol=1e-4)
