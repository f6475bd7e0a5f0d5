"""Sentences and a classifier of them (not an experiment): what text.py trains, probes and attacks.

A small probabilistic grammar writes the sentences, so nothing is downloaded: clauses of noun phrases and verbs, joined
by conjunctions, 8 to 24 words. A noun, verb or adjective is drawn from its topic's own words or, as often as
``SHARED`` says, from all of that kind; determiners, prepositions and conjunctions know no topic.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import gpz_jax

#: Classes, and the words of a sentence: least and most.
TOPICS, SHORTEST, LONGEST = 6, 8, 24

#: Ids of padding and of the class token, which stands first.
PAD, CLASS = 0, 1

#: Kind of word -> how many there are; their ids follow one another from 2 on.
KINDS = {"determiner": 6, "preposition": 10, "conjunction": 8, "noun": 96, "verb": 48, "adjective": 30}
VOCABULARY = 2 + sum(KINDS.values())

#: Kinds with a sixth of their words for each topic, and how often such a word is drawn without regard to the topic.
OF_TOPICS, SHARED = ("noun", "verb", "adjective"), 0.4


class Sentences(NamedTuple):
    """Sentences as the classifier takes them: ``ids`` and ``mask`` ``(N, 25)``, the class token first, and topics."""

    x: dict[str, np.ndarray]
    labels: np.ndarray

    def part(self, start: int, count: int) -> "Sentences":
        """So many of them from one on."""
        return rows_of(self, slice(start, start + count))


class Size(NamedTuple):
    """Sentences to train on, the attacker's, to test on, and of an attacker with more; classifier; decoder; copies."""

    train: int
    auxiliary: int
    test: int
    more: int
    width: int
    blocks: int
    epochs: int
    decoder_width: int
    decoder_epochs: int
    copies: int


SIZES = {
    "tiny": Size(100, 60, 40, 60, 8, 1, 1, 8, 2, 2),
    "laptop": Size(4000, 2000, 1000, 12_000, 48, 4, 8, 64, 12, 5),
    "paper": Size(40_000, 20_000, 4000, 120_000, 128, 6, 20, 256, 60, 5),
}


def splits(size: Size, seed: int) -> list[Sentences]:
    """Sentences to train on, the attacker's, those to test on and the further attacker's; none is in two of them."""
    counts = size[:4]
    written = sentences(sum(counts), seed)
    return [written.part(sum(counts[:i]), count) for i, count in enumerate(counts)]


def sentences(count: int, seed: int) -> Sentences:
    """That many sentences of random topics, no two alike."""
    random = np.random.default_rng(seed)
    cumulative = {topic: {kind: np.cumsum(_frequencies(kind, topic)) for kind in KINDS} for topic in range(TOPICS)}
    firsts = dict(zip(KINDS, 2 + np.cumsum([0, *KINDS.values()]), strict=False))
    found: dict[tuple[int, ...], int] = {}
    while len(found) < count:
        topic = int(random.integers(TOPICS))
        kinds = _sentence(random)
        if SHORTEST <= len(kinds) <= LONGEST:
            drawn = zip(kinds, random.random(len(kinds)), strict=True)
            # The last sum may lie a rounding below 1.
            words = (
                firsts[kind] + min(np.searchsorted(cumulative[topic][kind], u), KINDS[kind] - 1) for kind, u in drawn
            )
            found.setdefault(tuple(int(word) for word in words), topic)
    ids = np.full((count, 1 + LONGEST), PAD, np.int32)
    ids[:, 0] = CLASS
    for row, words in zip(ids, found, strict=True):
        row[1 : 1 + len(words)] = words
    return Sentences({"ids": ids, "mask": ids != PAD}, np.array(list(found.values()), np.int32))


def _frequencies(kind: str, topic: int) -> np.ndarray:
    """Of the words of a kind in a topic: Zipf's law over all of them and, in kinds of topics, over every sixth."""
    everyone = 1 / np.arange(1, KINDS[kind] + 1)
    own = np.where(np.arange(KINDS[kind]) % TOPICS == topic, everyone, 0)
    everyone /= everyone.sum()
    return SHARED * everyone + (1 - SHARED) * own / own.sum() if kind in OF_TOPICS else everyone


def _sentence(random: np.random.Generator) -> list[str]:
    """Kinds of its words."""
    kinds = _clause(random)
    for _ in range(random.integers(3)):
        kinds += ["conjunction", *_clause(random)]
    return kinds


def _clause(random: np.random.Generator) -> list[str]:
    kinds = [*_noun_phrase(random), "verb", *_noun_phrase(random)]
    return [*kinds, "preposition", *_noun_phrase(random)] if random.random() < 0.5 else kinds


def _noun_phrase(random: np.random.Generator) -> list[str]:
    optional = {"determiner": 0.8, "adjective": 0.4}
    return [*(kind for kind, often in optional.items() if random.random() < often), "noun"]


class Block(nn.Module):
    """Attention and a perceptron, each after a norm and beside a shortcut: ``(N, T, C)`` and who attends to whom."""

    heads: int

    @nn.compact
    def __call__(self, z: Array, attend: Array) -> Array:
        """Return the tokens after the block."""
        z = z + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(z), mask=attend)
        return z + nn.Dense(z.shape[-1])(nn.gelu(nn.Dense(2 * z.shape[-1])(nn.LayerNorm()(z))))


class TextClassifier(nn.Module):
    """Words and learned positions, pre-norm blocks, one dense layer on the class token.

    Cuts: ``block_n``, all tokens after each block; ``class_token``, that token alone after the last norm; ``logits``.
    """

    width: int
    blocks: int
    heads: int = 4

    @nn.compact
    def __call__(self, x: dict[str, Array]) -> Array:
        """Return the logits ``(N, 6)`` of ``ids`` and ``mask``."""
        z = nn.Embed(VOCABULARY, self.width, name="words")(x["ids"])
        z = z + self.param("positions", nn.initializers.normal(0.02), (1, 1 + LONGEST, self.width))
        attend = nn.make_attention_mask(x["mask"], x["mask"])
        for n in range(1, self.blocks + 1):
            z = gpz_jax.Tap(name=f"block_{n}")(Block(self.heads, name=f"transformer_{n}")(z, attend))
        z = gpz_jax.Tap(name="class_token")(nn.LayerNorm(name="norm")(z)[:, 0])
        return nn.Dense(TOPICS, name="head")(z)


def rows_of(arrays: Any, rows: Any) -> Any:
    """Rows of every array of a pytree."""
    return jax.tree.map(lambda leaf: leaf[rows], arrays)


class Fit(NamedTuple):
    """What training came to: the variables of the epoch that was chosen, its number, and how many there were."""

    variables: Any
    best: int
    epochs: int


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, Any, Any], Array],
    variables: Any,
    known: Any,
    held: Any,
    *,
    epochs: int,
    patience: int,
    seed: int,
    rate: float = 2e-3,
    batch: int = 50,
) -> Fit:
    """Train with Adam and choose the epoch of least loss on what was held out.

    Args:
      model: the module.
      loss: of the module, its variables and arrays of rows; at module level, so that it compiles once.
      variables: to begin at.
      known: arrays of rows to train on, a pytree.
      held: arrays to choose on.
      epochs: at most.
      patience: epochs without a better one after which it ends.
      seed: of the order.
      rate: step size.
      batch: rows a step.
    """
    rows = len(jax.tree.leaves(known)[0])
    batch = min(batch, rows)
    random, state = np.random.default_rng(seed), optax.adam(rate).init(variables)
    least, chosen, best, epoch = np.inf, variables, 0, 0
    for epoch in range(1, epochs + 1):
        order = random.permutation(rows)[: rows // batch * batch].reshape(-1, batch)
        variables, state, error = _epoch(variables, state, known, order, held, model=model, loss=loss, rate=rate)
        if error < least:
            least, chosen, best = float(error), variables, epoch
        if epoch - best >= patience:
            break
    return Fit(chosen, best, epoch)


@partial(jax.jit, static_argnames=("model", "loss", "rate"))
def _epoch(variables, state, known, order, held, *, model, loss, rate):
    def step(carry, rows):
        variables, state = carry
        gradient = jax.grad(loss, 1)(model, variables, rows_of(known, rows))
        update, state = optax.adam(rate).update(gradient, state)
        return (optax.apply_updates(variables, update), state), None

    (variables, state), _ = jax.lax.scan(step, (variables, state), order)
    return variables, state, loss(model, variables, held)


def classifier_loss(model: nn.Module, variables: Any, rows: tuple[Any, Array]) -> Array:
    """Mean cross-entropy to soft targets, of inputs and those."""
    x, targets = rows
    logits: Any = model.apply(variables, x)
    return jnp.mean(gpz_jax.cross_entropy(logits, targets))


def train(
    model: TextClassifier, split: Sentences, alpha: float, *, epochs: int, seed: int, held: float = 0.1
) -> dict[str, Any]:
    """Variables of the classifier under targets of label smoothing ``alpha``, chosen on a tenth of the sentences."""
    targets = np.asarray(gpz_jax.soft_targets(split.labels, TOPICS, alpha))
    count = round((1 - held) * len(targets))
    every = (split.x, targets)
    known, unseen = (rows_of(every, rows) for rows in (slice(count), slice(count, None)))
    variables = model.init(jax.random.key(seed), split.part(0, 2).x)
    found = fit(model, classifier_loss, variables, known, unseen, epochs=epochs, patience=epochs, seed=seed)
    return found.variables


@partial(jax.jit, static_argnames="network")
def _forward(variables, x, *, network):
    return network(variables, x)


def activations(
    network: gpz_jax.TappedNetwork, variables: Any, x: dict[str, np.ndarray], batch: int = 250
) -> dict[str, np.ndarray]:
    """Cut -> z of sentences; "logits" are among the cuts."""
    pieces = [rows_of(x, slice(start, start + batch)) for start in range(0, len(x["ids"]), batch)]
    found = [jax.device_get(_forward(variables, piece, network=network)[1]) for piece in pieces]
    return {cut: np.concatenate([piece[cut] for piece in found]) for cut in network.cuts}
