"""What a probe found, as a table."""

from gpz_jax.presentation import interval, number
from gpz_jax.reporting.tables import Column, Sheet

CAPTION = (
    "R_c^2 within-class radius; rho = W/(W+B); evidence = ln rho_null - ln rho [95 % interval]; zone: by the rule of "
    "that name"
)
WIDE = "; drop of R_c^2 from the cut before; h, H in nats; H(X|Z) drop: at most, sent as {quantiser}"


def probe_table(probe, *, wide: bool = False) -> Sheet:
    """What a probe found, one row a cut.

    Args:
      probe: a ``gpz_jax.Probe`` of a run.
      wide: show every column.
    """
    rows, settings = probe.rows(), probe.settings
    labels = {"true": "", "predicted": ", predicted labels", "kmeans": ", k-means clusters"}[settings["labels"]]

    def numbers(head: str, name: str, wide: bool = True) -> Column:
        return Column(head, [number(row[name]) for row in rows], wide=wide)

    columns = [
        Column("cut", probe.marked, words=True),
        Column("shape", [row["shape"] for row in rows], wide=True, words=True),
        Column("D", [str(row["dimension"]) for row in rows]),
        numbers("R_c^2", "within", wide=False),
        numbers("R_c^2/D", "within_per_dimension"),
        numbers("rho", "rho", wide=False),
        numbers("rho_null", "rho_null"),
        Column("evidence", [_evidence(row) for row in rows]),
        *(Column(f"zone:\n{rule}", [row[f"zone_{rule}"] for row in rows], words=True) for rule in probe.zones),
        numbers("drop", "drop"),
        numbers("null drop", "drop_null"),
        numbers("h feature <=", "feature_bound"),
        numbers("h decision <=", "decision_bound"),
        numbers("H(X|Z) drop <=", "information_ceiling"),
    ]
    caption = CAPTION + (WIDE.format(quantiser=probe.quantiser) if wide else "")
    view = settings.get("view", "tokens")
    view = "" if view == "tokens" else f", view {view!r}"
    title = f"{settings['run']}: {settings['images']} {settings['split']} images{labels}{view}"
    return Sheet(title, columns, caption, wide=wide)


def _evidence(row) -> str:
    return f"{number(row['evidence'])} {interval(row['evidence_low'], row['evidence_high'])}".strip()
