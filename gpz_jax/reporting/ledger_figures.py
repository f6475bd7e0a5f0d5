"""Figures of the ledger of R_c² that a tracked run keeps; need no device."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpz_jax.reporting.figures import new_figure, save_figure, set_logarithmic


def _mark(axis, curves, colour: str = "0.4") -> None:
    if (turn := curves.attrs["turn"]) is not None:
        axis.axvline(turn, color=colour, linestyle=":", linewidth=1)


def _explain_mark(axis, records: Mapping[str, Any]) -> None:
    """A line of the legend for the dotted verticals, where there are any."""
    if any(curves.attrs["turn"] is not None for curves in records.values()):
        axis.plot([], [], ":", color="0.4", label="sign change of the mean coefficient")


def _smooth(values: np.ndarray) -> np.ndarray:
    """A running mean over about a fortieth of the steps; single steps are too noisy to be compared by eye."""
    width = max(1, len(values) // 40)
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def overview_figure(records: Mapping[str, Any], file: Path) -> None:
    """R_c² and ρ by step and cut, the coefficient, and the vortex: output entropy against the decision-level bound.

    Several runs are drawn over one another, each in its own line style; dotted verticals mark the sign change.

    Args:
      records: name of the run -> its curves (``attribution.over_ledger``).
      file: a .png to write.
    """
    figure, axes = new_figure(2, 2, (13.0, 8.0))
    (radius, rho), (coefficient, entropy) = axes
    bound = entropy.twinx()
    styles, cuts = ("-", "--", ":", "-."), list[str]()
    for number_of_run, (name, curves) in enumerate(records.items()):
        style, colour = styles[number_of_run % 4], f"C{number_of_run}"
        cuts = [str(cut) for cut in curves.cut.values]
        for i, cut in enumerate(cuts):
            line = {"color": _shade(i, len(cuts)), "linewidth": 1, "linestyle": style}
            radius.plot(curves.step, curves.within.values[:, i], label=None if number_of_run else cut, **line)
            rho.plot(curves.step, curves.rho.values[:, i], **line)
        if len(records) > 1:
            rho.plot([], [], style, color="0.3", label=name)
        coefficient.plot(curves.step, curves.coefficient.values, color=colour, label=name)
        coefficient.plot(curves.step, curves.past_flip.values, "--", color=colour, linewidth=1)
        entropy.plot(curves.step, curves.output_entropy.values, color=colour, label=name)
        at = str(curves.interference_cut.values[-1])
        bound.plot(curves.step, curves.decision_bound.sel(cut=at), "--", color=colour, linewidth=1)
        for axis in (radius, rho, coefficient, entropy):
            _mark(axis, curves, colour if len(records) > 1 else "0.4")
    set_logarithmic(radius, np.concatenate([curves.within.values.ravel() for curves in records.values()]))
    coefficient.axhline(0, color="0.8", linewidth=1, zorder=0)
    _explain_mark(coefficient, records)
    coefficient.plot([], [], "--", color="0.4", label="share past $p_c > 1-\\alpha$")
    radius.set_title("within-class radius $R_c^2$ (squared units of z)", fontsize=10)
    rho.set_title(r"within-class fraction $\rho$", fontsize=10)
    coefficient.set_title(r"mean correct-class coefficient $p_c - 1 + \alpha$", fontsize=10)
    at = str(next(iter(records.values())).interference_cut.values[-1])
    entropy.set_title(f"output entropy (line) and decision-level bound on h(z) at {at} (dashed)", fontsize=10)
    entropy.set_ylabel("output entropy (nats)", fontsize=8)
    bound.set_ylabel("bound (nats)", fontsize=8)
    if len(cuts) <= 12:
        radius.legend(fontsize=7, ncols=2)
    else:
        radius.annotate("light: first cuts, dark: last", (0.02, 0.03), xycoords="axes fraction", fontsize=7)
    for axis in (coefficient, entropy, *([rho] if len(records) > 1 else [])):
        axis.legend(fontsize=7)
    for axis in axes.flat:
        axis.set_xlabel("step", fontsize=8)
    save_figure(figure, file)


def _shade(i: int, count: int):
    from matplotlib import colormaps

    return colormaps["viridis_r"](0.1 + 0.9 * i / max(count - 1, 1))


FEATURE_LINES = {"feature_correct": "correct", "feature_wrong": "wrong"}
STEP_LINES = {"realised": "realised", "optimiser": "optimiser", "statistics": "statistics", "residual": "residual"}


def terms_figure(records: Mapping[str, Any], cuts: Sequence[str], file: Path) -> None:
    """The terms of ΔR_c² over the steps, as shares of R_c²: predicted in feature space, and what the step really did.

    Two rows a run (feature space; parameter space), a column a cut. Thick lines are running means, dotted verticals
    mark the sign change of the correct-class coefficient.

    Args:
      records: name of the run -> its curves (``attribution.over_ledger``).
      cuts: those to draw.
      file: a .png to write.
    """
    figure, axes = new_figure(2 * len(records), len(cuts), (3.2 * len(cuts) + 1, 5.0 * len(records)))
    for (name, curves), (above, below) in zip(records.items(), axes.reshape(-1, 2, len(cuts)), strict=True):
        known = [str(cut) for cut in curves.cut.values]
        radius = np.maximum(curves.radius.values, 1e-30)
        for line, lines in ((above, FEATURE_LINES), (below, STEP_LINES)):
            for axis, cut in zip(line, cuts, strict=True):
                i = known.index(cut)
                for order, (term, label) in enumerate(lines.items()):
                    if term not in curves:
                        continue
                    relative = curves[term].values[:, i] / radius[:, i]
                    axis.plot(curves.step, relative, color=f"C{order}", alpha=0.2, linewidth=0.6)
                    axis.plot(curves.step, _smooth(relative), color=f"C{order}", linewidth=1.5, label=label)
                    _limit(axis, _smooth(relative))
                axis.axhline(0, color="0.8", linewidth=1, zorder=0)
                _mark(axis, curves)
                axis.set_title(cut, fontsize=9, parse_math=False)
                axis.tick_params(labelsize=7)
                axis.set_xlabel("step", fontsize=7)
        above[0].set_ylabel(f"{name}\nfeature space, of R_c² a step", fontsize=8, parse_math=False)
        below[0].set_ylabel(f"{name}\nparameter space, of R_c² a step", fontsize=8, parse_math=False)
        for axis in (above[0], below[0]):
            _explain_mark(axis, {name: curves})
            axis.legend(fontsize=7)
    save_figure(figure, file)


def _limit(axis, values: np.ndarray) -> None:
    """Let the running means set the scale: the first steps, on radii near zero, would leave nothing of the rest."""
    low, high = np.nanpercentile(values, [2, 98]) if np.isfinite(values).any() else (0, 0)
    bottom, top = axis.get_ylim() if axis.get_autoscaley_on() is False else (0.0, 0.0)
    low, high = min(bottom, 1.3 * low), max(top, 1.3 * high)
    if low < high:
        axis.set_ylim(low, high)


def interference_figure(records: Mapping[str, Any], file: Path) -> None:
    """Which logit pulled which class, summed over the steps before and after the sign change; red grows R_c², blue
    shrinks it.

    Args:
      records: name of the run -> its curves (``attribution.over_ledger``).
      file: a .png to write.
    """
    figure, axes = new_figure(len(records), 2, (9.0, 4.2 * len(records)))
    for (name, curves), line in zip(records.items(), axes, strict=True):
        at = str(curves.interference_cut.values[-1])
        values = curves.interference.sel(interference_cut=at).fillna(0).values  # (T, K, K)
        turn = curves.attrs["turn"]
        split = len(values) if turn is None else int(np.searchsorted(curves.step.values, turn))
        for axis, part, words in ((line[0], values[:split], "before"), (line[1], values[split:], "after")):
            total = part.sum(axis=0)
            top = np.abs(total).max() or 1.0
            image = axis.imshow(total, cmap="RdBu_r", vmin=-top, vmax=top)
            figure.colorbar(image, ax=axis, shrink=0.8)
            axis.set_title(f"{name}, {at}: {words} the sign change ({len(part)} steps)", fontsize=8, parse_math=False)
            axis.set_xlabel("logit k", fontsize=8)
            _name_classes(axis, curves.attrs.get("class_names", ()))
        line[0].set_ylabel("class c", fontsize=8)
    save_figure(figure, file)


def _name_classes(axis, names: Sequence[str]) -> None:
    """Names in place of numbers on both axes, where there are some and they can be read."""
    if names and len(names) <= 20:
        places, short = range(len(names)), [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
        axis.set_xticks(places, short, rotation=90, fontsize=6, parse_math=False)
        axis.set_yticks(places, short, fontsize=6, parse_math=False)


def ledger_figure(records: Mapping[str, Any], cut: str, file: Path) -> None:
    """The ledger of one cut, a column a run: R_c² and ρ; the account of what really happened, added up over the
    steps; the two feature-space terms with the sign change.

    Args:
      records: title of the column -> curves.
      cut: which.
      file: a .png to write.
    """
    figure, axes = new_figure(3, len(records), (5.0 * len(records), 8.0))
    for column, (name, curves) in enumerate(records.items()):
        radius, account, terms = axes[:, column]
        i = [str(known) for known in curves.cut.values].index(cut)
        radius.plot(curves.step, curves.within.values[:, i], color="C0", label="$R_c^2$")
        set_logarithmic(radius, curves.within.values[:, i])
        rho = radius.twinx()
        rho.plot(curves.step, curves.rho.values[:, i], color="C1", label=r"$\rho$")
        rho.set_ylim(0, 1)
        radius.plot([], [], color="C1", label=r"$\rho$ (right axis)")
        radius.legend(fontsize=8, loc="center right")
        radius.set_title(f"{name}: {cut}", fontsize=10, parse_math=False)
        for order, (term, label) in enumerate(STEP_LINES.items()):
            if term in curves:
                total = np.cumsum(curves[term].values[:, i])
                account.plot(
                    curves.step, total, color=f"C{order}", linewidth=2.5 if term == "realised" else 1.2, label=label
                )
        account.axhline(0, color="0.8", linewidth=1, zorder=0)
        account.set_title("change of $R_c^2$ since the start, added up", fontsize=9)
        account.legend(fontsize=8)
        for order, (term, label) in enumerate(FEATURE_LINES.items()):
            values = curves[term].values[:, i]
            terms.plot(curves.step, values, color=f"C{order}", alpha=0.25, linewidth=0.6)
            terms.plot(curves.step, _smooth(values), color=f"C{order}", label=label)
        terms.axhline(0, color="0.8", linewidth=1, zorder=0)
        terms.set_title(r"feature space: predicted $\Delta R_c^2$ of a step", fontsize=9)
        terms.legend(fontsize=8)
        for axis in (radius, account, terms):
            _mark(axis, curves)
            axis.set_xlabel("step", fontsize=8)
    save_figure(figure, file)
