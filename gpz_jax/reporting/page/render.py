"""Contents to one HTML file: templates filled in, style and script put in, and the policy that names their hashes."""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from gpz_jax.presentation import number, quantity
from gpz_jax.reporting.page import charts, cut_panels, picture_rows, words
from gpz_jax.reporting.page.compared import compared
from gpz_jax.reporting.page.contents import Absent, Contents, RunRecord
from gpz_jax.reporting.page.pictures import ALLOWANCES, Allowance, fitting

#: Classes up to which the whole confusion matrix is shown, and pairs that are listed beyond.
MATRIX, PAIRS = 20, 15

#: Bytes of a page, at most, as long as what it says without images is less.
BYTES = 4_800_000

#: Widths of the aligned figure in pixels: on a desk, on a phone.
WIDE, NARROW = 860, 350


def render(contents: Contents) -> str:
    """The page of some runs.

    Args:
      contents: what there is to say.

    Returns:
      HTML that asks for nothing: style, script, images and figures are in it.
    """
    painter = picture_rows.Painter()
    without = len(_filled(contents, painter, ALLOWANCES[-1]).encode())
    allowance = fitting(lambda asked: picture_rows.uris(painter, contents, asked), BYTES - without)
    return _filled(contents, painter, allowance)


def _filled(contents: Contents, painter: picture_rows.Painter, allowance: Allowance) -> str:
    """The page with so many images."""
    style, script = _resource("style.css"), _resource("script.js")
    panels = cut_panels.panels(contents)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            contents=contents,
            runs=contents.runs,
            alone=len(contents.runs) == 1,
            galleries=[
                [picture_rows.gallery(painter, run, cut, allowance) for cut in run.cuts] for run in contents.runs
            ],
            allowance=allowance,
            ranks=_ranks(contents.runs),
            shared=[said for said in contents.runs[0].caveats if all(said in run.caveats for run in contents.runs)],
            wide=charts.aligned(panels, contents.cuts, WIDE),
            narrow=charts.aligned(panels, contents.cuts, NARROW),
            legend=cut_panels.legend(contents),
            together=compared(contents.runs),
            priced=any(cut.cost is not None for run in contents.runs for cut in run.cuts),
            timed=_timed(contents),
            style=_markup(style),
            script=_markup(script),
            policy=policy(style, script),
        )
    )


def policy(style: str, script: str) -> str:
    """A Content-Security-Policy under which this style and script run, images are data, and nothing else happens."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _resource(name: str) -> str:
    return resources.files("gpz_jax.reporting.page").joinpath("templates", name).read_text(encoding="utf-8")


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # of this package, not of a run


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": number, "quantity": _quantity, "percent": percent, "tone": words.tone, "confused": confused,
        "plotted": charts.plotted, "ends": ends,
    }  # fmt: skip
    environment.globals |= {
        "words": words, "absent": lambda value: isinstance(value, Absent), "finite": math.isfinite,
        "marker": charts.marker,
    }  # fmt: skip
    return environment


def _quantity(value: float | int, base: int = 1000) -> str:
    """As :func:`quantity`, in one piece."""
    return quantity(value, base).replace(" ", "\u00a0")


def percent(share: float | int) -> str:
    """A share for people.

    >>> percent(0.123), percent(0.002), percent(0.0), percent(float("nan"))
    ('12 %', '0.2 %', '0 %', '')
    """
    if math.isnan(share):
        return ""
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.2g} %"


def ends(pair: tuple[float | int, float | int], scale: float | int = 1) -> str:
    """``[0.2, 0.3]``, or nothing.

    >>> ends((0.2, 0.3), 100), ends((float("nan"), 1.0))
    ('[20, 30]', '')
    """
    return "" if any(map(math.isnan, pair)) else f"[{scale * pair[0]:.3g}, {scale * pair[1]:.3g}]"


def _timed(contents: Contents) -> bool:
    """Whether the latency of any edge is known."""
    costs = [cut.cost for run in contents.runs for cut in run.cuts if cut.cost is not None]
    return any(math.isfinite(cost.edge_ms) for cost in costs)


def _ranks(runs: Sequence[RunRecord]) -> list[list[int]]:
    """Of every cut of every run its place by how little it gives away, from 1; 0 for one that is not proposed."""
    found = []
    for run in runs:
        ranks = words.ranks(run.cuts)
        order = sorted(rank for rank in ranks if rank is not None)
        found.append([0 if rank is None else 1 + order.index(rank) for rank in ranks])
    return found


class Confused(NamedTuple):
    """A confusion matrix for people.

    Attributes:
      rows: class -> counts by predicted class, with the share of the row as a shade from 0 to 9; empty where there are
        too many classes.
      pairs: (class, taken for, images), the most frequent mistakes.
    """

    rows: list[tuple[str, list[tuple[int, int]]]]
    pairs: list[tuple[str, str, int]]


def confused(run: RunRecord) -> Confused:
    """The confusion matrix of a run, whole or as its most frequent mistakes."""
    counts = np.zeros((0, 0)) if run.confusion is None else np.asarray(run.confusion)
    names: Mapping[int, str] = dict(enumerate(run.class_names))
    rows = []
    if len(counts) <= MATRIX:
        totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        shades = np.ceil(9 * counts / totals).astype(int)
        rows = [
            (names.get(i, str(i)), [(int(n), int(s)) for n, s in zip(counts[i], shades[i], strict=True)])
            for i in range(len(counts))
        ]
    off = counts - np.diag(np.diag(counts)) if len(counts) else counts
    order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
    places = zip(*np.unravel_index(order, off.shape), strict=True) if off.size else ()
    pairs = [(names.get(int(i), str(i)), names.get(int(j), str(j)), int(off[i, j])) for i, j in places if off[i, j] > 0]
    return Confused(rows, pairs)
