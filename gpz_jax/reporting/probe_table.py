"""What a probe found, as rows and as a table."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from gpz_jax.presentation import interval, number


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
