"""Figures, drawn without a display and without a device."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gpz_jax.atomic import replacing


def new_figure(rows: int, columns: int, size: tuple[float, float]):
    """A figure of ``size`` inches and its axes ``(rows, columns)``."""
    # The object interface: pyplot would keep every figure alive and pick a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure, file: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with replacing(file) as partial:
        figure.savefig(partial, dpi=120, format="png")


def set_logarithmic(axis, values) -> None:
    """A logarithmic y-axis, if any of ``values`` can be on it."""
    # With no positive value, as of one image a class, matplotlib would warn and draw nothing.
    if bool((values > 0).any()):
        axis.set_yscale("log")


def probe_figure(probe, file: Path) -> None:
    """R_c², ρ and the evidence at every cut, beside the null model; each rule's zone is marked.

    Args:
      probe: a ``gpz_jax.Probe`` of a run.
      file: a .png to write.
    """
    figure, ((radius, rho, evidence),) = new_figure(1, 3, (13.0, 4.0))
    cuts = list(probe.cuts)
    at = np.arange(len(cuts))
    seeds = len(probe.rho_null)

    radius.plot(at, probe.within, "o-", label="trained")
    rho.plot(at, probe.rho, "o-", label="trained")
    if seeds:
        radius.plot(at, probe.within_null.T, color="0.7", zorder=0)
        radius.plot([], [], color="0.7", label=f"untrained, {seeds} seeds")
        rho.plot(at, probe.rho_null.T, color="0.7", zorder=0)
    radius.set_title("within-class radius $R_c^2$ (squared units of z)", fontsize=10)
    rho.set_title(r"within-class fraction $\rho$", fontsize=10)
    rho.set_ylim(0, 1.05)
    set_logarithmic(radius, probe.within)
    radius.legend(fontsize=8)

    evidence.axhline(0, color="0.8", linewidth=1)
    if seeds:
        low, high = probe.evidence - probe.evidence_low, probe.evidence_high - probe.evidence
        # A bootstrap interval need not hold its point estimate; a bar cannot have a negative length.
        errors = np.nan_to_num(np.maximum(np.stack([low, high]), 0))
        evidence.errorbar(at, probe.evidence, yerr=errors, fmt="o-", capsize=3, label="evidence, 95 %")
    for number, rule in enumerate(probe.zones):
        places = [probe.place(rule, cut) for cut in cuts]
        colour = f"C{number + 1}"
        floor, ceiling = number / len(probe.zones), (number + 1) / len(probe.zones)  # each rule its own band
        inside = [i for i in at if places[i]]
        for i in inside:
            onset = places[i] == "onset"
            alpha = 0.35 if onset else 0.15
            evidence.axvspan(i - 0.4, i + 0.4, floor, ceiling, color=colour, alpha=alpha, linewidth=0)
        label = f"zone by rule '{rule}'" + ("" if inside else ": none")
        evidence.axvspan(np.nan, np.nan, color=colour, alpha=0.3, label=label)
    evidence.set_title(r"evidence $\ln\rho_{null} - \ln\rho$", fontsize=10)
    evidence.legend(fontsize=8, loc="upper left")
    for axis in (radius, rho, evidence):
        axis.set_xticks(at, cuts, rotation=45 if len(cuts) < 20 else 90, ha="right", fontsize=8)
    figure.suptitle(f"{probe.settings['run']}, {probe.settings['split']} images", fontsize=10, parse_math=False)
    save_figure(figure, file)


def training_figure(dynamics, file: Path) -> None:
    """Loss, accuracy, and R_c² and ρ of every cut, over the epochs.

    Args:
      dynamics: the ``xarray.Dataset`` of ``runs.epochs``.
      file: a .png to write.
    """
    figure, ((loss, accuracy, radius, share),) = new_figure(1, 4, (16.0, 3.6))
    for part, style in (("train", "--"), ("validation", "-")):
        loss.plot(dynamics.epoch, dynamics[f"{part}_loss"], style, label=part)
        accuracy.plot(dynamics.epoch, dynamics[f"{part}_accuracy"], style, label=part)
    for i, cut in enumerate(dynamics.cut.values):
        colour = f"C{i}" if dynamics.sizes["cut"] <= 10 else None
        radius.plot(dynamics.epoch, dynamics.within.isel(cut=i), color=colour, label=str(cut))
        share.plot(dynamics.epoch, dynamics.rho.isel(cut=i), color=colour)
    set_logarithmic(radius, dynamics.within)
    loss.set_title("loss (nats)", fontsize=10)
    accuracy.set_title("accuracy", fontsize=10)
    radius.set_title("$R_c^2$, validation images", fontsize=10)
    share.set_title(r"$\rho$, validation images", fontsize=10)
    for axis in (loss, accuracy, radius, share):
        axis.set_xlabel("epoch", fontsize=8)
    loss.legend(fontsize=8)
    radius.legend(fontsize=7, ncols=2)
    save_figure(figure, file)


def reconstruction_grid(originals: np.ndarray, rows: Mapping[str, np.ndarray] | Sequence, file: Path) -> None:
    """A row of originals over one row of reconstructions for each name, the mse of each below it.

    Args:
      originals: pixels in [0, 1], ``(n, H, W, C)``.
      rows: name -> reconstructions ``(m, H, W, C)`` of the first of them; where m < n the row ends early.
      file: a .png to write.
    """
    rows = {"original": originals, **{name: images[: len(originals)] for name, images in dict(rows).items()}}
    nothing = np.ones_like(originals)
    height, width, channels = originals.shape[1:]
    gap, below = max(1, width // 8), max(2, height // 4)  # beside a picture; below it, for its score
    # One picture of all of them: an axis an image takes seconds to lay out.
    framed = [
        [
            np.pad(image, ((0, below), (gap, 0), (0, 0)), constant_values=1.0)
            for image in (*images, *nothing[len(images) :])
        ]
        for images in rows.values()
    ]
    picture = np.concatenate(
        [np.concatenate(images, axis=1) for images in framed]
    )  # (rows (H + below), n (W + gap), C)
    figure, ((axis,),) = new_figure(1, 1, (0.9 * len(originals) + 1.2, 1.1 * len(rows)))
    grey = {"cmap": "gray"} if channels == 1 else {}
    axis.imshow(np.clip(picture[..., 0] if channels == 1 else picture, 0, 1), vmin=0, vmax=1, **grey)
    for i, images in list(enumerate(rows.values()))[1:]:
        for j, (x, x_hat) in enumerate(zip(originals, images, strict=False)):
            error = np.mean(np.square(x.astype(np.float64) - x_hat))
            at = gap + width / 2 + j * (width + gap), i * (height + below) + height + below / 2
            axis.text(*at, f"{error:.2g}", ha="center", va="center", fontsize=6, color="0.3")
    axis.set_yticks(height / 2 + (height + below) * np.arange(len(rows)), list(rows), fontsize=9)
    axis.tick_params(length=0)
    axis.set_xticks([])
    axis.spines[:].set_visible(False)
    save_figure(figure, file)


def cuts_figure(
    rows: Sequence[Mapping],
    file: Path,
    *,
    title: str,
    payload: str = "uint8",
    limits: Mapping[str, float] | None = None,
) -> None:
    """Privacy of every valid cut against the edge's share of the parameters, and against the payload.

    Privacy is the attack's mse over the class-mean floor's (up is private) where a cut was attacked, and rho on an
    axis that runs downward (up is private as well) where it was only probed. Of a bare model it is the depth of the
    cut. Cuts in the null rule's zone are filled, those beyond the budget pale; the recommended one is ringed.

    Args:
      rows: what ``workflow.price_run`` returns.
      file: a .png to write.
      title: of the figure.
      payload: "float32", "bfloat16" or "uint8".
      limits: budget on ``"edge_share"`` and ``"payload_…"``, drawn as lines.
    """
    rows = [row for row in rows if row["valid"]]
    attacked = np.array([row.get("ratio", np.nan) for row in rows], float)
    probed = np.where(np.isnan(attacked), [row.get("rho", np.nan) for row in rows], np.nan)  # each cut once
    privacy = {"attack: mse over the class-mean floor's": attacked, r"probe: $\rho$, axis downward": probed}
    privacy = {label: values for label, values in privacy.items() if np.isfinite(values).any()}
    privacy = privacy or {"depth: number of the cut": np.arange(1.0, 1.0 + len(rows))}
    figure, (panels,) = new_figure(1, 2, (13.0, 4.8))
    for panel, key, words in (
        (panels[0], "edge_share", "edge parameters, share of all (%)"),
        (panels[1], f"payload_{payload}", f"payload, bytes as {payload}"),
    ):
        unit = 100 if key == "edge_share" else 1
        price = unit * np.array([row[key] for row in rows], float)
        if bool((price > 0).all()):
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter("{x:g}")
        for number, (label, values) in enumerate(privacy.items()):
            axis = panel if number == 0 else panel.twinx()
            _draw_cuts(axis, rows, price, values, "os"[number], f"C{number}")
            axis.set_ylabel(label, fontsize=9, color=f"C{number}")
            axis.margins(x=0.1, y=0.1)
            if label.startswith("probe"):
                axis.invert_yaxis()
            if label.startswith("attack"):
                axis.axhline(1, color="0.8", linewidth=1, zorder=0)
        if limits and key in limits:
            panel.axvline(unit * limits[key], color="C3", linestyle="--", linewidth=1, label="budget")
        if any("zone_null" in row for row in rows):
            panel.plot([], [], "o", color="0.3", label="in the null rule's zone")
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8)
        panel.set_xlabel(words, fontsize=9)
    figure.suptitle(title, fontsize=10, parse_math=False)
    save_figure(figure, file)


def _draw_cuts(axis, rows: Sequence[Mapping], price: np.ndarray, privacy: np.ndarray, marker: str, colour: str) -> None:
    step = -(-len(rows) // 12)  # of many cuts every so many is named, else nothing could be read
    for i, (row, *at) in enumerate(zip(rows, price, privacy, strict=True)):
        if np.isnan(at[1]):
            continue
        pale = 1.0 if row["within_budget"] else 0.3
        fill = colour if row.get("zone_null", True) else "none"
        axis.plot(*at, marker, color=colour, mfc=fill, alpha=pale, markersize=6)
        if row["recommended"]:
            axis.plot(*at, "o", color="C3", mfc="none", markersize=13, markeredgewidth=2)
        if row["recommended"] or i % step == 0 or i == len(rows) - 1:
            axis.annotate(
                row["cut"], at, (5, 5), textcoords="offset points", fontsize=7, alpha=max(pale, 0.6), parse_math=False
            )
