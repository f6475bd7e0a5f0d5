"""Tables: on the terminal, and as CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def console() -> Console:
    """Where tables go; wide enough for all columns when the output is not a terminal."""
    wide = Console(emoji=False)  # ":100:" in a defence is no picture
    return wide if wide.is_terminal else Console(width=200, emoji=False)


def number(value: Any, digits: int = 3) -> str:
    """A number for people: ``digits`` significant ones; an empty string for NaN.

    Example:
      >>> number(0.012345), number(1234.5), number(float("nan")), number(7)
      ('0.0123', '1.23e+03', '', '7')
    """
    if isinstance(value, str | bool | np.bool_):
        return str(value)
    if isinstance(value, int | np.integer):
        return str(value)
    return "" if math.isnan(value) else f"{value:.{digits}g}"


def interval(low: float, high: float) -> str:
    """``[0.1, 0.2]``, or an empty string if there is none."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{low:.2f}, {high:.2f}]"


def probe_rows(record) -> list[dict[str, Any]]:
    """One row a cut of what a probe found; full precision, for the CSV.

    Args:
      record: the ``xarray.Dataset`` that a probe writes.
    """
    rows = []
    for i, cut in enumerate(record.cut.values):
        at = record.isel(cut=i)
        row = {
            "cut": str(cut),
            "shape": str(at["shape"].values),
            "D": int(at.dimension),
            "valid": bool(at.valid),
        }
        for name in (
            "radius", "radius_per_dimension", "share", "share_null", "evidence", "evidence_low", "evidence_high",
            "drop", "drop_null", "feature_bound", "decision_bound", "information_ceiling",
        ):  # fmt: skip
            row[name] = float(at[name])
        for rule in record.rule.values:
            row[f"zone_{rule}"] = str(at.mark.sel(rule=rule).values)
        rows.append(row)
    return rows


def probe_table(record) -> Table:
    """What a probe found, one row a cut."""
    labels = {"true": "", "predicted": ", predicted labels", "kmeans": ", k-means clusters"}[record.attrs["labels"]]
    table = Table(
        title=f"{escape(record.attrs['run'])}: {record.attrs['images']} {record.attrs['split']} images{labels}",
        caption="R_c^2 within-class radius; rho = W/(W+B); evidence = ln rho_null - ln rho, 95 % interval; "
        f"drop of R_c^2 from the cut before; h, H in nats; H(X|Z) drop: at most, sent as {record.attrs['quantiser']}",
    )
    rules = [str(rule) for rule in record.rule.values]
    heads = (
        "cut", "shape", "D", "R_c^2", "R_c^2/D", "rho", "rho_null", "evidence", "interval", "drop", "null drop",
        "h feature <=", "h decision <=", "H(X|Z) drop <=", *(f"zone: {rule}" for rule in rules),
    )  # fmt: skip
    for head in heads:
        table.add_column(head, justify="left" if head in ("cut", "shape") or head.startswith("zone") else "right")
    for row in probe_rows(record):
        table.add_row(
            escape(row["cut"]) + ("" if row["valid"] else " (bypassed)"), row["shape"], str(row["D"]),
            number(row["radius"]), number(row["radius_per_dimension"]), number(row["share"]), number(row["share_null"]),
            number(row["evidence"]), interval(row["evidence_low"], row["evidence_high"]),
            number(row["drop"]), number(row["drop_null"]),
            number(row["feature_bound"]), number(row["decision_bound"]), number(row["information_ceiling"]),
            *(row[f"zone_{rule}"] for rule in rules),
        )  # fmt: skip
    return table


ATTACK_COLUMNS = ("mse", "ratio", "mse_paper", "psnr", "psnr_paper", "ssim", "lpips", "cosine")


def attack_table(title: str, results: Sequence[Mapping[str, Any]]) -> Table:
    """What attacks scored on test images, one row an attack, and the floors below.

    Args:
      title: of the table.
      results: what ``workflow.attack_run`` returns.
    """
    ladder = len({result["cut"] for result in results}) < len(results)
    most = max((result["test_images"] for result in results), default=0)
    columns = [name for name in ATTACK_COLUMNS if any(name in result["scores"] for result in results)]
    caption = (
        "mse per element, pixels in [0, 1]; /class mean: mse over that of the class-mean floor, with its 95 % interval "
        "over images, 1 or more means that z gave no more than the label; _paper: as in the paper (summed over "
        "channels; PSNR of batches); collapse: variance of the reconstructions over that of the images"
    )
    if any(result["test_images"] < most for result in results):
        caption += "; (n images): on the first n test images only, compare by /class mean"
    table = Table(title=escape(title), caption=caption + ("; *: the best at its cut" if ladder else ""))
    for head in ("cut", "D", "decoder", "parameters"):
        table.add_column(head, justify="left" if head in ("cut", "decoder") else "right")
    for name in columns:
        table.add_column("/class mean" if name == "ratio" else name, justify="right")
    table.add_column("collapse", justify="right")
    table.add_column("loss flattened?")
    for before, result in zip([None, *results], results, strict=False):
        if ladder and before is not None and before["cut"] != result["cut"]:
            table.add_section()
        scores = [number(result["scores"][name]) if name in result["scores"] else "" for name in columns]
        # Scored on fewer images, it compares with the others by /class mean only: the floor is that of its images.
        few = "" if result["test_images"] == most else f" ({result['test_images']} images)"
        low, high = result["intervals"]["ratio"]
        scores[columns.index("ratio")] += f" [{number(low)}, {number(high)}]"
        table.add_row(
            escape(result["cut"]),
            str(result["dimension"]),
            escape(result["decoder"] + few + (" *" if ladder and result["best"] else "")),
            quantity(result["decoder_parameters"]).strip(),
            *scores,
            number(result["prior_collapse"]),
            _flattened(result),
        )
    if results:
        floors = results[0]["floors"]
        table.add_section()
        for name in ("class_mean", "label_only", "mean_image"):
            empty = [""] * len(columns)
            empty[columns.index("mse")] = number(floors[name])
            empty[columns.index("ratio")] = number(floors[name] / floors["class_mean"])
            table.add_row(f"floor: {name.replace('_', ' ')}", "", "", "", *empty)
    return table


def _flattened(result: Mapping[str, Any]) -> str:
    if result["kind"] == "linear":
        return "closed form"
    if result["kind"] == "decoder" and len(result["selection_loss"]) < 5:
        return "NO (under 5 epochs)"
    fell = f"last fifth: -{100 * result['last_gain']:.1f} %"
    return f"{'yes' if result['flattened'] else 'NO'} ({fell})"


def leak_table(title: str, results: Sequence[Mapping[str, Any]]) -> Table:
    """The images and classes that the best attack on each cut inverted best and worst.

    Args:
      title: of the table.
      results: what ``workflow.attack_run`` returns.
    """
    table = Table(title=escape(title), caption="number of the test image (its class): mse; class: mean mse")
    for head in ("cut", "decoder", "best inverted images", "worst", "best inverted classes", "worst"):
        table.add_column(head)
    for result in (result for result in results if result["best"]):
        leaks = result["leaks"]
        images, classes = (
            [[form(entry) for entry in leaks[f"{end}_{what}"][:3]] for end in ("best", "worst")]
            for what, form in (
                ("images", lambda e: f"{e['image']} ({e['label']}): {number(e['mse'])}"),
                ("classes", lambda e: f"{e['label']}: {number(e['mse'])}"),
            )
        )
        table.add_row(
            escape(result["cut"]), escape(result["decoder"]), *(", ".join(part) for part in (*images, *classes))
        )
    return table


def quantity(value: float | int, base: int = 1000) -> str:
    """Three digits and a prefix, ready for a unit: powers of 1000, or of 1024 for bytes; empty for NaN.

    Example:
      >>> quantity(6_945_103_114) + "FLOP", quantity(1_572_864, 1024) + "B", quantity(40, 1024) + "B"
      ('6.95 GFLOP', '1.5 MiB', '40 B')
    """
    if math.isnan(value):
        return ""
    prefixes = ("", "k", "M", "G", "T", "P") if base == 1000 else ("", "Ki", "Mi", "Gi", "Ti", "Pi")
    power = 0
    while abs(value) >= 999.5 and power < len(prefixes) - 1:  # 999.5 would be written 1e+03
        value, power = value / base, power + 1
    return f"{value:.3g} {prefixes[power]}"


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


def write_csv(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write rows of one set of keys, with a header; atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text.getvalue())
    partial.replace(file)
