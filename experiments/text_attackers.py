"""Attackers that read the words of a sentence from what is sent (not an experiment): a linear map and a decoder.

Both give scores ``(N, T, V)`` of every word at every place, and so do the floors, which know no z; one function counts
what any of them gets right. The mask is public: how long a sentence is, everybody knows.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from text_target import (
    LONGEST,
    TOPICS,
    VOCABULARY,
    Block,
    Fit,
    Sentences,
    Size,
    TextClassifier,
    activations,
    fit,
    rows_of,
    splits,
)

import gpz_jax
from gpz_jax.analysis.views import View
from gpz_jax.inversion import linear
from gpz_jax.inversion.intervals import bootstrap_ratio_interval
from gpz_jax.taps import LOGITS

X = dict[str, np.ndarray]

#: The cut at which a sentence becomes one vector.
POOLED = "class_token"


class Recovered(NamedTuple):
    """What was right of each sentence, ``(N,)`` each.

    Attributes:
      tokens: words at their places.
      words: distinct words, wherever they stand, among as many as the sentence has: those of highest summed score.
    """

    tokens: np.ndarray
    words: np.ndarray


def words_of(x: X) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask ``(N, T)`` of the words alone, without the class token."""
    return x["ids"][:, 1:], x["mask"][:, 1:].astype(bool)


def one_hot(ids: np.ndarray) -> np.ndarray:
    """``(…, V)`` float32."""
    return np.eye(VOCABULARY, dtype=np.float32)[ids]


def present(x: X) -> np.ndarray:
    """``(N, V)``: whether a word stands in a sentence."""
    ids, real = words_of(x)
    return (one_hot(ids) * real[..., None]).max(1) > 0


def recovered(scores: np.ndarray, x: X) -> Recovered:
    """How much of each sentence the scores ``(N, T, V)`` get right."""
    ids, real = words_of(x)
    right = (scores.argmax(-1) == ids) & real
    there = present(x)
    somewhere = 1 - np.prod(1 - np.clip(scores, 0, 1) * real[..., None], axis=1)
    places = np.argsort(np.argsort(-somewhere, axis=1, kind="stable"), axis=1)
    return Recovered(right.sum(1), (there & (places < there.sum(1, keepdims=True))).sum(1))


def frequencies(x: X, groups: np.ndarray, num_groups: int) -> np.ndarray:
    """``(K, T, V)``: how often a word stands at a place in each group of sentences; ties go to the group's commonest.

    In a group without sentences all sentences count.
    """
    ids, real = words_of(x)
    counts = np.zeros((num_groups, LONGEST, VOCABULARY), np.float32)
    sentence, place = np.nonzero(real)
    np.add.at(counts, (groups[sentence], place, ids[real]), 1)
    counts[counts.sum((1, 2)) == 0] = counts.sum(0)
    of_group = counts.sum(1, keepdims=True)
    counts += of_group / of_group.sum(-1, keepdims=True)
    return counts / counts.sum(-1, keepdims=True)


def floors(auxiliary: X, taken_for: np.ndarray, predicted: np.ndarray, num_classes: int) -> dict[str, np.ndarray]:
    """Scores of attackers without z: "unigram" says the commonest words, "label_only" those of a class at a place.

    Args:
      auxiliary: the attacker's sentences.
      taken_for: the class that the network puts each in.
      predicted: the class that it puts each test sentence in.
      num_classes: K.
    """
    ids, real = words_of(auxiliary)
    everywhere = np.bincount(ids[real], minlength=VOCABULARY) / real.sum()
    return {
        "unigram": np.broadcast_to(everywhere, (len(predicted), LONGEST, VOCABULARY)),
        "label_only": frequencies(auxiliary, taken_for, num_classes)[predicted],
    }


def linear_scores(known: tuple[np.ndarray, X], held: tuple[np.ndarray, X], z: np.ndarray) -> np.ndarray:
    """Ridge regression in closed form, its penalty chosen on what was held out.

    Of tokens ``(N, 1 + T, C)`` one map for all places, from a token to its word; of vectors ``(N, D)`` a map for each.
    """
    ridge, *_ = linear.fit_best(*_rows(*known), *_rows(*held), clip=False)
    rows = z[:, 1:].reshape(-1, z.shape[-1]) if z.ndim == 3 else z
    return np.asarray(ridge(rows)).reshape(len(z), LONGEST, VOCABULARY)


def _rows(z: np.ndarray, x: X) -> tuple[np.ndarray, np.ndarray]:
    ids, real = words_of(x)
    if z.ndim == 3:
        return z[:, 1:][real], one_hot(ids[real])
    return z, (one_hot(ids) * real[..., None]).reshape(len(z), -1)


class WordDecoder(nn.Module):
    """A transformer from tokens ``(N, 1 + T, C)``, or a vector at every place, to scores of words ``(N, T, V)``."""

    width: int
    blocks: int = 1

    @nn.compact
    def __call__(self, z: Array, mask: Array) -> Array:
        """Return the logits of the words."""
        h = nn.Dense(self.width)(z)
        h = (h if z.ndim == 3 else h[:, None]) + self.param(
            "positions", nn.initializers.normal(0.1), (1, 1 + LONGEST, self.width)
        )
        attend = nn.make_attention_mask(mask, mask)
        for _ in range(self.blocks):
            h = Block(4)(h, attend)
        return nn.Dense(VOCABULARY)(nn.LayerNorm()(h))[:, 1:]


def decoder_loss(model: nn.Module, variables: Any, rows: tuple[Array, X]) -> Array:
    """Mean cross-entropy of the words, padding left out."""
    z, x = rows
    real = x["mask"][:, 1:]
    scores: Any = model.apply(variables, z, x["mask"])
    errors = optax.softmax_cross_entropy_with_integer_labels(scores, x["ids"][:, 1:])
    return jnp.sum(errors * real) / jnp.sum(real)


def decoder_scores(
    known: tuple[np.ndarray, X],
    held: tuple[np.ndarray, X],
    z: np.ndarray,
    x: X,
    *,
    width: int,
    epochs: int,
    seed: int,
    rate: float = 5e-3,
) -> tuple[np.ndarray, Fit]:
    """A decoder trained by cross-entropy, its epoch chosen on what was held out: probabilities, and how it went."""
    axes = tuple(range(known[0].ndim - 1))
    mean, deviation = known[0].mean(axes), known[0].std(axes) + 1e-6
    model = WordDecoder(width)
    (first, of_first), (second, of_second) = (((of - mean) / deviation, given) for of, given in (known, held))
    variables = _fresh(model, z.shape[1:], seed)  # pyright: ignore[reportArgumentType]  # modules do have a hash
    found = fit(
        model,
        decoder_loss,
        variables,
        (first, of_first),
        (second, of_second),
        epochs=epochs,
        patience=3,
        seed=seed,
        rate=rate,
        batch=32,
    )
    return np.asarray(_answer(model, found.variables, (z - mean) / deviation, x["mask"])), found


@partial(jax.jit, static_argnames="model")
def _answer(model, variables, z, mask):
    return jax.nn.softmax(model.apply(variables, z, mask))


@cache
def _fresh(model: nn.Module, shape: tuple[int, ...], seed: int) -> Any:
    """Variables to begin at, which depend on nothing else; made once, for that takes longer than a short training."""
    return model.init(jax.random.key(seed), jnp.zeros((2, *shape)), jnp.ones((2, 1 + LONGEST), bool))


def attack(
    z: np.ndarray, x: X, z_test: np.ndarray, x_test: X, guesses: dict[str, np.ndarray], **settings: int
) -> dict[str, Any]:
    """Both attackers at one z: shares of the test words, with 95 % intervals over sentences, beside the floors.

    Args:
      z: of the attacker's own sentences; a fifth of them is held out to choose on.
      x: those sentences.
      z_test: of the test sentences.
      x_test: those.
      guesses: scores of the floors.
      **settings: of :func:`decoder_scores`.

    Returns:
      "linear", "decoder", and each floor: the share of words at their places; with "words_" before it, of distinct
      words wherever they stand; "excess": what the better attacker has above the floor "label_only", paired.
    """
    fifth = len(z) // 5
    held, known = (rows_of((z, x), rows) for rows in (slice(fifth), slice(fifth, None)))
    decoded, how = decoder_scores(known, held, z_test, x_test, **settings)
    scores = {"linear": linear_scores(known, held, z_test), "decoder": decoded, **guesses}
    right = {name: recovered(values, x_test) for name, values in scores.items()}
    tokens, words = words_of(x_test)[1].sum(1), present(x_test).sum(1)
    row: dict[str, Any] = {"decoder_epochs": how.epochs, "decoder_flattened": how.best < how.epochs}
    for name, (of_tokens, of_words) in right.items():
        row |= {name: of_tokens.sum() / tokens.sum(), f"words_{name}": of_words.sum() / words.sum()}
        row |= _interval(name, of_tokens, tokens)
    best = max(("linear", "decoder"), key=row.__getitem__)
    above = right[best].tokens - right["label_only"].tokens
    return row | {"best": row[best], "excess": above.sum() / tokens.sum(), **_interval("excess", above, tokens)}


def attack_views(
    network: gpz_jax.TappedNetwork,
    variables: Any,
    own: Sentences,
    test: Sentences,
    more: Sentences,
    views: Sequence[str],
    **settings: int,
) -> tuple[dict[tuple[str, str], dict[str, Any]], np.ndarray]:
    """(cut, view) -> what :func:`attack` finds there, and the classes of the test sentences by the network.

    A vector looks the same in every view and is attacked once. The class token, the first cut that is one, is attacked
    again by whoever has ``more`` sentences: its "more_best" and "more_excess" say whether the others lacked z or data.
    """
    z, z_test = (activations(network, variables, side.x) for side in (own, test))
    predicted, found = z_test[LOGITS].argmax(1), {}
    guesses = floors(own.x, z[LOGITS].argmax(1), predicted, TOPICS)
    for cut, view in itertools.product(network.cuts, views):
        if z[cut].ndim < 3 and view != views[0]:
            found[cut, view] = found[cut, views[0]]
            continue
        ours, theirs = (
            np.asarray(_viewed(a, side.x, view=View(view, "mask"))) for a, side in ((z[cut], own), (z_test[cut], test))
        )
        found[cut, view] = attack(ours, own.x, theirs, test.x, guesses, **settings)
    z = activations(dataclasses.replace(network, cuts=(POOLED, LOGITS)), variables, more.x)
    guesses = floors(more.x, z[LOGITS].argmax(1), predicted, TOPICS)
    again = attack(z[POOLED], more.x, z_test[POOLED], test.x, guesses, **settings)
    found[POOLED, views[0]].update({f"more_{name}": value for name, value in again.items()})
    return found, predicted


@partial(jax.jit, static_argnames="view")
def _viewed(z, x, *, view):
    return view.of("", z, x)


def _interval(name: str, right: np.ndarray, of: np.ndarray) -> dict[str, float]:
    low, high = bootstrap_ratio_interval(right.astype(float), of.astype(float))
    return {f"{name}_low": low, f"{name}_high": high}


class Prepared(NamedTuple):
    """What the networks of a size and seed share.

    Attributes:
      known: sentences to train on.
      test: sentences to test on.
      network: the tapped network.
      nulls: variables of untrained copies.
      attacks: :func:`attack_views` of variables and ``views=``.
      untrained: what the attackers find in all that the first copy sends.
    """

    known: Sentences
    test: Sentences
    network: gpz_jax.TappedNetwork
    nulls: list[Any]
    attacks: Callable[..., Any]
    untrained: dict[tuple[str, str], dict[str, Any]]


@cache
def prepared(size: Size, seed: int) -> Prepared:
    """Write the sentences, make the network and its untrained copies, and attack a copy."""
    known, own, test, more = splits(size, seed)
    model, some = TextClassifier(size.width, size.blocks), known.part(0, 2).x
    keys = jax.random.split(jax.random.key(seed + 1), size.copies)
    nulls = [gpz_jax.null_variables(model, key, [some]) for key in keys]
    network = gpz_jax.tap(model, nulls[0], some)
    options = {"width": size.decoder_width, "epochs": size.decoder_epochs, "seed": seed}
    attacks = partial(attack_views, network, own=own, test=test, more=more, **options)
    return Prepared(known, test, network, nulls, attacks, attacks(nulls[0], views=["tokens"])[0])
