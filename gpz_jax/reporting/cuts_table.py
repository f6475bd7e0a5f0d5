"""What cuts cost, as a table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from gpz_jax.presentation import number, quantity

#: Columns that a narrow terminal goes without, the first of them first: most follow from those that stay.
SPARED_CUT_COLUMNS = (
    "payload\nbfloat16", "cloud\nparameters", "cloud\nFLOP", "zone:\npaper", "payload\nfloat32", "mse", "R_c^2",
    "payload\nuint8", "shape", "cloud ms\nby pieces", "values", "edge\nFLOP", "edge\nmemory",
)  # fmt: skip


def cuts_table(title: str, rows: Sequence[Mapping[str, Any]], *, payload: str = "uint8", width: int = 200) -> Table:
    """What cuts cost, one row for each that is within budget, the recommended one marked with an asterisk.

    Args:
      title: of the table.
      rows: what ``workflow.price_run`` returns.
      payload: how z is sent; that column always stays.
      width: characters to fit in; columns of ``SPARED_CUT_COLUMNS`` are left out until the table does.
    """
    shown = [row for row in rows if row["within_budget"]]
    rules = [key for key in rows[0] if key.startswith("zone_")]
    columns = {
        "cut": [escape(row["cut"]) + _cut_marks(row) for row in shown],
        "shape": [row["shape"] for row in shown],
        "values": [f"{row['values']:,}" for row in shown],
        "edge\nparameters": [f"{row['edge_parameters']:,}" for row in shown],
        "share\n(%)": [f"{100 * row['edge_share']:.2f}" for row in shown],
        "cloud\nparameters": [f"{row['cloud_parameters']:,}" for row in shown],
        "edge\nFLOP": [quantity(row["edge_flops"]) for row in shown],
        "cloud\nFLOP": [quantity(row["cloud_flops"]) for row in shown],
        **{
            f"payload\n{dtype}": [f"{quantity(row[f'payload_{dtype}'], 1024)}B" for row in shown]
            for dtype in ("float32", "bfloat16", "uint8")
        },
        "edge\nmemory": [f"{quantity(row['edge_memory'], 1024)}B" for row in shown],
        "edge ms\nby pieces": [number(row["edge_ms"]) for row in shown],
        "cloud ms\nby pieces": [number(row["cloud_ms"]) for row in shown],
        "R_c^2": [number(row.get("radius", math.nan)) for row in shown],
        "rho": [number(row.get("share", math.nan)) for row in shown],
        **{f"zone:\n{key.removeprefix('zone_')}": [row[key] for row in shown] for key in rules},
        "mse": [number(row.get("mse", math.nan)) for row in shown],
        "/class\nmean": [_ratio(row) for row in shown],
    }
    # What was not measured is not shown; that no cut here lies in a zone was measured.
    columns = {head: cells for head, cells in columns.items() if any(cells) or head.startswith("zone:")}
    spared = []
    for head in SPARED_CUT_COLUMNS:
        if head == f"payload\n{payload}":
            continue
        if sum(3 + max(map(len, (*head.split("\n"), *cells))) for head, cells in columns.items()) < width:
            break
        if columns.pop(head, None):
            spared.append(head.replace("\n", " "))
    caption = _cuts_caption(columns, shown)
    if len(shown) < len(rows):
        caption += f"; {len(shown)} of {len(rows)} cuts are within budget"
    if spared:
        caption += f"; left out for width: {', '.join(spared)}"
    table = Table(title=escape(title), caption=caption)
    for head in columns:
        words = head in ("cut", "shape") or head.startswith("zone")
        table.add_column(head, justify="left" if words else "right", no_wrap=True)
    for row, cells in zip(shown, zip(*columns.values(), strict=True), strict=True):
        table.add_row(*cells, style="bold" if row["recommended"] else None)
    return table


def _cuts_caption(columns: Mapping[str, Sequence[str]], shown: Sequence[Mapping[str, Any]]) -> str:
    caption = "share: edge parameters of all; FLOP: 2 a multiply-add; memory: peak of the activations without fusion"
    if "edge ms\nby pieces" in columns:
        caption += "; by pieces: each compiled by itself"
    if "/class\nmean" in columns:
        caption += "; /class mean: mse of the attack over that of the class-mean floor"
    if any(cell.endswith("?") for cell in columns.get("/class\nmean", ())):
        caption += " (? while its loss still fell)"
    if not all(row["valid"] for row in shown):
        caption += "; the halves of a bypassed cut overlap: together they exceed the total"
    if any(row["recommended"] for row in shown):
        caption += "; * recommended"
    return caption


def _cut_marks(row: Mapping[str, Any]) -> str:
    return ("" if row["valid"] else " (bypassed)") + (" *" if row["recommended"] else "")


def _ratio(row: Mapping[str, Any]) -> str:
    return number(row.get("ratio", math.nan)) + ("" if row.get("flattened", True) else "?")
