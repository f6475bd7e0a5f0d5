"""What cuts cost, as a table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gpz_jax.presentation import number, quantity
from gpz_jax.reporting.tables import Column, Sheet

Rows = Sequence[Mapping[str, Any]]

CAPTION = "share: edge parameters of all; FLOP: 2 a multiply-add; memory: peak of the activations without fusion"


def cuts_table(title: str, rows: Rows, *, payload: str = "uint8", wide: bool = False) -> Sheet:
    """What cuts cost, one row for each that is within budget, the recommended one marked with an asterisk.

    Args:
      title: of the table.
      rows: what ``workflow.price_run`` returns.
      payload: how z is sent.
      wide: show all columns, not only those that decide.
    """
    shown = [row for row in rows if row["within_budget"]]
    cut = Column("cut", [row["cut"] + _marks(row) for row in shown])
    columns = [cut, *_price_columns(shown, payload), *_found_columns(rows, shown)]
    # What was not measured is not shown; that no cut here lies in a zone was measured.
    columns = [column for column in columns if any(column.cells) or column.head.startswith("zone:")]
    bold = frozenset(i for i, row in enumerate(shown) if row["recommended"])
    return Sheet(title, columns, _caption(columns, shown, len(rows), wide), wide, bold=bold)


def _price_columns(rows: Rows, payload: str) -> list[Column]:
    def of(key: str, unit: str = "", base: int = 1000) -> list[str]:
        return [f"{quantity(row[key], base)}{unit}" for row in rows]

    payloads = [
        Column(f"payload\n{dtype}", of(f"payload_{dtype}", "B", 1024), wide=dtype != payload)
        for dtype in ("float32", "bfloat16", "uint8")
    ]
    return [
        Column("shape", [row["shape"] for row in rows], wide=True, words=True),
        Column("values", [f"{row['values']:,}" for row in rows], wide=True),
        Column("edge\nparameters", [f"{row['edge_parameters']:,}" for row in rows]),
        Column("share\n(%)", [f"{100 * row['edge_share']:.2f}" for row in rows], wide=True),
        Column("cloud\nparameters", [f"{row['cloud_parameters']:,}" for row in rows], wide=True),
        Column("edge\nFLOP", of("edge_flops"), wide=True),
        Column("cloud\nFLOP", of("cloud_flops"), wide=True),
        *payloads,
        Column("edge\nmemory", of("edge_memory", "B", 1024), wide=True),
        Column("edge ms", [number(row["edge_ms"]) for row in rows], wide=any(map(_timed_over, rows))),
        Column("cloud ms", [number(row["cloud_ms"]) for row in rows], wide=True),
        Column("end to\nend ms", [number(row.get("end_to_end_ms", math.nan)) for row in rows]),
    ]


def _found_columns(rows: Rows, shown: Rows) -> list[Column]:
    def of(key: str) -> list[str]:
        return [number(row.get(key, math.nan)) for row in shown]

    zones = [key for key in rows[0] if key.startswith("zone_")]
    return [
        Column("R_c^2", of("within"), wide=True),
        Column("rho", of("rho"), wide=True),
        *(
            Column(f"zone:\n{key.removeprefix('zone_')}", [row[key] for row in shown], key != "zone_null", words=True)
            for key in zones
        ),
        Column("mse", of("mse"), wide=True),
        Column("/class\nmean", [_ratio(row) for row in shown]),
        Column("identi-\nfied", of("identified"), wide=True),
        Column("in class", of("identified_within"), wide=True),
        Column("rests on", [str(row.get("basis", "")) for row in shown], wide=True, words=True),
        Column("verdict", [_in_two(str(row.get("verdict", ""))) for row in shown], words=True),
    ]


def _caption(columns: Sequence[Column], shown: Rows, count: int, wide: bool) -> str:
    cells = {column.head: column.cells for column in columns}
    caption = CAPTION if wide else ""
    if "edge ms" in cells:
        caption += "; ms: by pieces, each compiled by itself"
    if "end to\nend ms" in cells:
        caption += "; end to end: both halves and the network between them"
    if "/class\nmean" in cells:
        caption += "; /class mean: mse of the attack over that of the class-mean floor"
    if any(cell.endswith("?") for cell in cells.get("/class\nmean", ())):
        caption += " (? while its loss still fell)"
    if not all(row["valid"] for row in shown):
        caption += "; the halves of a bypassed cut overlap: together they exceed the total"
    if any(row["recommended"] for row in shown):
        caption += "; * recommended"
    if len(shown) < count:
        caption += f"; {len(shown)} of {count} cuts are within budget"
    return caption.removeprefix("; ")


def near_table(near: Sequence[tuple[str, str, Sequence[str]]]) -> Sheet:
    """The cuts that came nearest to budget and limits: name, verdict, and what each of them misses."""
    cuts, verdicts, misses = zip(*near, strict=True)
    columns = [
        Column("cut", cuts, words=True),
        Column("verdict", verdicts, words=True),
        Column("misses", ["\n".join(words).replace(" (--", "\n  (--") for words in misses], words=True),
    ]
    return Sheet("near misses: what would have to give", columns)


def _marks(row: Mapping[str, Any]) -> str:
    return ("" if row["valid"] else " (bypassed)") + (" *" if row["recommended"] else "")


def _timed_over(row: Mapping[str, Any]) -> bool:
    return not math.isnan(row.get("end_to_end_ms", math.nan))


def _in_two(verdict: str) -> str:
    """On two lines, so that the table fits a terminal of 80 characters."""
    words = verdict.split(" ")
    return verdict if len(words) < 2 else f"{' '.join(words[:-1])}\n{words[-1]}"


def _ratio(row: Mapping[str, Any]) -> str:
    return number(row.get("ratio", math.nan)) + ("" if row.get("flattened", True) else "?")
