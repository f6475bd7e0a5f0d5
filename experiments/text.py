"""Does a text classifier have a Golden Partition Zone, and by which view of its tokens? The paper leaves text open.

    python experiments/text.py                     # no data needed; 443 s on two busy cores
    python experiments/text.py --size tiny         # seconds

Trains a transformer on the sentences of a small grammar under one-hot targets and LS+, and probes every cut by three
views: all tokens, their mean, the first (class) token. At every cut a linear map and a decoder, made ready on other
sentences, read the words from all that is sent (view tokens) and from the view alone. A block sends all its tokens, so
a zone by another view protects only if the words are gone from those as well. Writes table.csv and a figure a network.
"""

import dataclasses
import functools
from pathlib import Path

import common
import jax
from common import ALPHAS, Outcome, Row, where
from text_answer import answers
from text_attackers import prepared
from text_target import SIZES, TOPICS, train

import gpz_jax
from gpz_jax.presentation import interval

VIEWS = ("tokens", "mean", "first")


@dataclasses.dataclass(frozen=True)
class Flags(common.Flags):
    """Flags of the experiment."""

    out: str = "runs/text"
    """Folder for the table and the figures."""


def one_network(flags: Flags, name: str) -> list[Row]:
    """Train, probe and attack one network: a row for every view and cut."""
    shared = prepared(SIZES[flags.size], flags.seed)
    test, network, nulls = shared.test, shared.network, shared.nulls
    variables = train(network.model, shared.known, ALPHAS[name], epochs=SIZES[flags.size].epochs, seed=flags.seed)
    attacked, predicted = shared.attacks(variables, views=VIEWS)
    said, rows = {"targets": name, "accuracy": (predicted == test.labels).mean()}, []
    for view in VIEWS:
        probe = gpz_jax.probe_network(
            network, variables, [(test.x, test.labels)], TOPICS, nulls=nulls, key=jax.random.key(flags.seed),
            view=view, token_mask="mask", public="mask",
        )  # fmt: skip
        for row in probe.rows():
            copy = shared.untrained[row["cut"], "tokens"]
            of_copy = {"untrained": copy["best"], "untrained_more": copy.get("more_best", "")}
            rows.append({**said, "view": view, **row, **attacked[row["cut"], view], **of_copy})
    return rows


def experiment(flags: Flags, out: Path) -> Outcome:
    """Both networks."""
    names = ("one-hot", "LS+")
    rows = [row for name in names for row in one_network(flags, name)]
    panels = {"rho": r"$\rho$", "evidence": "evidence, nats", "decoder": "words recovered by the decoder"}
    for name in names:
        levels = {"decoder": ["label_only", "unigram"]}
        common.draw_by_cut(where(rows, targets=name), panels, out / f"{name}.png", group="view", levels=levels)
    columns = {"view": "view", "cut": "cut", "R_c^2": "within", "rho": "rho", "evi-\ndence": "evidence"}
    columns |= {"95 %": lambda row: interval(row["evidence_low"], row["evidence_high"])}
    columns |= {"null": "zone_null", "paper": "zone_paper", "linear": "linear", "de-\ncoder": "decoder"}
    columns |= {"label\nonly": "label_only", "unigram": "unigram", "any\norder": "words_decoder"}
    columns |= {"untrained": "untrained", "more": "more_best", "more, any\norder": "more_words_decoder"}
    sheets = [
        common.sheet_of(
            f"Text, {name}: {SIZES[flags.size].test} test sentences", where(rows, targets=name), columns,
            caption="linear to any order: share of the words recovered, by these attackers or without z; untrained: of "
            "an untrained copy, the better; more: the better with more sentences",
            wide=("95 %", "linear", "unigram", *list(columns)[-4:]), section="view",
        )
        for name in names
    ]  # fmt: skip
    return Outcome(rows, sheets, [said for name in names for said in answers(rows, name)])


main = functools.partial(common.run, Flags, experiment)

if __name__ == "__main__":
    main()
