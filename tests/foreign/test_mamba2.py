"""Mamba-2 of mamba2-jax, an NNX language model, with random weights."""

from collections import defaultdict

import jax
import jax.numpy as jnp
from checks import Case, check, check_radius, needs
from flax import nnx

import gpz_jax

pytestmark = needs("mamba2_jax")


def test_mamba2(monkeypatch):
    import mamba2_jax

    sizes = {"vocab_size": 20, "hidden_size": 8, "state_size": 4, "head_dim": 4, "chunk_size": 4}
    model = mamba2_jax.Mamba2ForCausalLM(mamba2_jax.Mamba2Config(**sizes, num_hidden_layers=3), rngs=nnx.Rngs(0))
    ids = jax.random.randint(jax.random.key(1), (6, 8), 0, 20)
    cuts = ("backbone/embedder", "backbone/layers/*", "backbone/final_norm")
    names = ("backbone/embedder", *(f"backbone/layers/{n}[0]" for n in range(3)), "backbone/final_norm")
    case = Case(model, ids, cuts, names, (names[0], names[2], names[4]), {"output": lambda out: out["logits"]})
    network, variables = gpz_jax.tap_nnx(model, ids, cuts=cuts, **case.arguments)
    kept = intercepted_nnx(model, ids, monkeypatch)
    check(case, network, variables, kept)
    check_radius(case, network, variables, kept)
    # By default what is read of the backbone's output, and not the states that it keeps for the next token.
    assert gpz_jax.tap_nnx(model, ids, **case.arguments)[0].cuts == ('backbone["last_hidden_state"]', "logits")


def intercepted_nnx(model, ids, monkeypatch):
    """Path -> what every call of the module there returned: its classes are patched for the length of the test."""
    kept = defaultdict(list)
    paths = {id(module): "/".join(map(str, path)) for path, module in nnx.iter_modules(model)}
    for cls in {type(module) for _, module in nnx.iter_modules(model) if callable(module)}:

        def call(self, *args, _original=cls.__call__, **kwargs):
            value = _original(self, *args, **kwargs)
            kept[paths[id(self)]].append(value)
            return value

        monkeypatch.setattr(cls, "__call__", call)
    kept["logits"].append(jnp.asarray(model(ids)["logits"]))
    monkeypatch.undo()
    return kept
