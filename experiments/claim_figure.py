"""The attack's curve of every network on one axis of depth (not an experiment)."""

from collections.abc import Mapping
from pathlib import Path

from claim_numbers import CALLED, Record, attacked, curve_of
from claim_verdicts import CURVES

from gpz_jax.reporting import figures


def draw(records: Mapping[str, Record], file: Path) -> bool:
    """Error over the class mean's by relative depth, a line a seed; a panel of architectures, one of data sets.

    Returns whether there was anything to draw.
    """
    curves: dict[tuple[str, str], list[Record]] = {}
    for record in records.values():
        if record.get("targets") == "one-hot" and len(attacked(record) if "zones" in record else ()) > 3:
            curves.setdefault((record["network"], record["data"]), []).append(record)
    if not curves:
        return False
    figure, (axes,) = figures.new_figure(1, 2, (11.0, 4.0))
    panels = (("CIFAR-10, by network", lambda n, d: d == "cifar10"), ("VGG19, by data set", lambda n, d: n == "vgg19"))
    for axis, (title, shown) in zip(axes, panels, strict=True):
        here = [key for key in CURVES if key in curves and shown(*key)]
        for network, data in here:
            colour = f"C{CURVES.index((network, data))}"  # the same in both panels, whatever else there is
            for i, record in enumerate(curves[network, data]):
                name = f"{CALLED[network]}, {data}" if network == "vgg19" else CALLED[network]
                axis.plot(
                    *curve_of(record), "o-", color=colour, markersize=2, linewidth=0.8, label=name if i == 0 else None
                )
        axis.axhline(1.0, color="0.5", linestyle="--", linewidth=1)
        axis.set(title=title, xlabel="relative depth", ylabel="best attack's mse / class mean's", ylim=(0, 1.1))
        if here:
            axis.legend(fontsize=8)
    figure.savefig(file, dpi=80)
    return True
