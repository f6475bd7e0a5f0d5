"""What a probe found at every cut: :class:`Probe`, a labelled record, rows, and words."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gpz_jax.analysis.views import changes
from gpz_jax.analysis.zone import Zone
from gpz_jax.errors import UserError
from gpz_jax.presentation import html_table, interval, number, text_table


@dataclass(frozen=True, eq=False, repr=False)
class Probe:
    """What :func:`gpz_jax.probe_network` found: L cuts in their order of computation, K classes, S untrained copies.

    Attributes:
      cuts: the L names.
      shapes: of what is measured of one image's z at each cut.
      valid: (L,) False where information bypasses the cut.
      count: (K,) N_c, images of each class; tokens, where every token has a class.
      radius: (L, K) R_c², squared units of z; NaN for a class without two images.
      within: (L,) W, the count-weighted mean of R_c².
      between: (L,) B.
      rho: (L,) ρ = W/(W + B).
      within_null: (S, L) W of each untrained copy.
      rho_null: (S, L) its ρ.
      zones: rule -> what it says, with its evidence.
      feature_bound: (L,) nats; h(Z) ≤ this, by the total variance.
      decision_bound: (L,) nats; h(Z) ≤ this, by the radii.
      information_ceiling: (L,) nats; H(X) - H(X|Z) ≤ this where z is sent through ``quantiser``.
      quantiser: how z is sent: "uint8", "bfloat16" or "float32".
      settings: all else that the numbers depend on, by name: images, unbiased, bootstrap, seed, view, token_mask, and
        what whoever probed adds (a command: run, split, labels, epoch).
    """

    cuts: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    valid: Bool[np.ndarray, " L"]
    count: Int[np.ndarray, " K"]
    radius: Float[np.ndarray, "L K"]
    within: Float[np.ndarray, " L"]
    between: Float[np.ndarray, " L"]
    rho: Float[np.ndarray, " L"]
    within_null: Float[np.ndarray, "S L"]
    rho_null: Float[np.ndarray, "S L"]
    zones: Mapping[str, Zone]
    feature_bound: Float[np.ndarray, " L"]
    decision_bound: Float[np.ndarray, " L"]
    information_ceiling: Float[np.ndarray, " L"]
    quantiser: str
    settings: Mapping[str, Any]

    @property
    def dimension(self) -> Int[np.ndarray, " L"]:
        """D of each cut, (L,): numbers in one image's z."""
        return np.array([math.prod(shape) for shape in self.shapes])

    @property
    def within_per_dimension(self) -> Float[np.ndarray, " L"]:
        """W/D, (L,)."""
        return self.within / self.dimension

    @property
    def drop(self) -> Float[np.ndarray, " L"]:
        """(W_{j-1} - W_j)/W_{j-1}, (L,); NaN at the first cut."""
        return _drop(self.within)

    @property
    def drop_null(self) -> Float[np.ndarray, "S L"]:
        """The same of each untrained copy, (S, L)."""
        return np.array([_drop(within) for within in self.within_null]).reshape(self.within_null.shape)

    @property
    def dead(self) -> dict[str, str]:
        """Cuts that say nothing, and why.

        "not finite"; "constant" where no two images differ; "too few images" where no class has two.
        """

        def why(within: float, between: float) -> str:
            if not math.isfinite(within + between):
                return "not finite"
            return "constant" if within + between == 0 and self.count.max(initial=0) > 1 else "too few images"

        values = zip(self.cuts, self.within, self.between, self.rho, strict=True)
        return {cut: why(within, between) for cut, within, between, rho in values if not math.isfinite(rho)}

    @property
    def marked(self) -> list[str]:
        """The cuts' names for people, with a word behind those that are dead or bypassed."""
        why = {**{cut: "bypassed" for cut, valid in zip(self.cuts, self.valid, strict=True) if not valid}, **self.dead}
        return [f"{cut} ({why[cut]})" if cut in why else cut for cut in self.cuts]

    @property
    def evidence(self) -> Float[np.ndarray, " L"]:
        """mean_s ln ρ_null - ln ρ, nats, (L,), of rule 'null'; NaN where that was not applied."""
        return self._of_null_rule("evidence")

    @property
    def evidence_low(self) -> Float[np.ndarray, " L"]:
        """Lower end of the 95 % bootstrap interval of the evidence, (L,)."""
        return self._of_null_rule("low")

    @property
    def evidence_high(self) -> Float[np.ndarray, " L"]:
        """Upper end."""
        return self._of_null_rule("high")

    def _of_null_rule(self, name: str) -> np.ndarray:
        return getattr(self.zones["null"], name) if "null" in self.zones else np.full(len(self.cuts), np.nan)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What each rule says, with the numbers that decided; a caution first where R_c² falls by a pooling alone."""
        caution = changes(dict(zip(self.cuts, self.shapes, strict=True)))
        return (
            *([caution] if caution else []),
            *(f"rule {rule!r}: {zone.reason}" for rule, zone in self.zones.items()),
        )

    def place(self, rule: str, cut: str) -> str:
        """Where a cut lies by a rule: "onset", "zone", or "" outside.

        Raises:
          UserError: the rule was not applied.
        """
        if rule not in self.zones:
            raise UserError(f"rule {rule!r} was not applied; applied: {', '.join(self.zones) or 'none'}")
        zone = self.zones[rule]
        return "onset" if cut == zone.onset else "zone" if cut in zone.cuts else ""

    def rows(self) -> list[dict[str, Any]]:
        """One flat row a cut, of means over the untrained copies where there are several: what the CSV holds."""
        per_cut = {name: getattr(self, name) for name in _OF_ROWS}
        per_cut |= {name: _mean(getattr(self, name)) for name in ("rho_null", "drop_null")}
        return [
            {
                "cut": cut,
                "shape": "x".join(map(str, self.shapes[i])),
                "dimension": int(self.dimension[i]),
                "valid": bool(self.valid[i]),
                **{name: float(per_cut[name][i]) for name in _ORDER},
                **{f"zone_{rule}": self.place(rule, cut) for rule in self.zones},
            }
            for i, cut in enumerate(self.cuts)
        ]

    def to_xarray(self):
        """A labelled record, an ``xarray.Dataset`` of dims cut, class, null, rule; ``settings`` are its attributes."""
        import xarray as xr

        return xr.Dataset(
            dict(self._variables()),
            coords={"cut": list(self.cuts), "class": np.arange(len(self.count)), "rule": list(self.zones)},
            attrs={
                **{name: int(value) if isinstance(value, bool) else value for name, value in self.settings.items()},
                "quantiser": self.quantiser,
                **{f"reason_{rule}": zone.reason for rule, zone in self.zones.items()},
            },
        )

    def _variables(self) -> Iterator[tuple[str, Any]]:
        yield "shape", ("cut", ["x".join(map(str, shape)) for shape in self.shapes])
        yield "zone", (("rule", "cut"), self._places())
        for name, (dims, attributes) in _VARIABLES.items():
            yield name, (dims, getattr(self, name), attributes)

    def _places(self) -> np.ndarray:
        places = [[self.place(rule, cut) for cut in self.cuts] for rule in self.zones]
        return np.array(places, dtype=str).reshape(len(self.zones), len(self.cuts))

    def to_pandas(self):
        """:meth:`rows` as a ``pandas.DataFrame`` with the cuts as its index."""
        try:
            import pandas as pd
        except ImportError:
            raise UserError("to_pandas needs pandas: pip install pandas") from None
        return pd.DataFrame(self.rows()).set_index("cut")

    def _shown(self) -> tuple[str, dict[str, list[str]], list[str]]:
        rows = self.rows()
        columns = {
            "cut": self.marked,
            "R_c^2": [number(row["within"]) for row in rows],
            "rho": [number(row["rho"]) for row in rows],
            "evidence": [number(row["evidence"]) for row in rows],
            "95 %": [interval(row["evidence_low"], row["evidence_high"]) for row in rows],
            **{rule: [row[f"zone_{rule}"] for row in rows] for rule in self.zones},
        }
        columns = {head: cells for head, cells in columns.items() if any(cells) or head in self.zones}
        title = f"Probe of {len(self.cuts)} cuts: {int(self.count.sum())} images of {len(self.count)} classes"
        view = self.settings.get("view", "tokens")
        seen = "" if view == "tokens" else f", view {view!r}"
        return f"{title}, {len(self.rho_null)} untrained copies{seen}", columns, list(self.sentences)

    def __repr__(self) -> str:
        return text_table(*self._shown())

    def _repr_html_(self) -> str:
        return html_table(*self._shown())


_SQUARES = "squared units of z"

#: Variables of the record: dims and attributes.
_VARIABLES: dict[str, tuple[Any, dict[str, str]]] = {
    "dimension": ("cut", {"long_name": "D"}),
    "valid": ("cut", {}),
    "count": ("class", {"long_name": "N_c"}),
    "radius": (("cut", "class"), {"long_name": "R_c^2 of each class", "units": _SQUARES}),
    "within": ("cut", {"long_name": "W, R_c^2 with all images weighing the same", "units": _SQUARES}),
    "within_per_dimension": ("cut", {"long_name": "W / D", "units": _SQUARES}),
    "between": ("cut", {"long_name": "between-class scatter B", "units": _SQUARES}),
    "rho": ("cut", {"long_name": "rho = W / (W + B)", "units": "1"}),
    "within_null": (("null", "cut"), {"long_name": "W of the untrained copies", "units": _SQUARES}),
    "rho_null": (("null", "cut"), {"long_name": "rho of the untrained copies", "units": "1"}),
    "evidence": ("cut", {"long_name": "mean of ln rho_null - ln rho", "units": "nats"}),
    "evidence_low": ("cut", {"units": "nats"}),
    "evidence_high": ("cut", {"units": "nats"}),
    "drop": ("cut", {"long_name": "(W_{j-1} - W_j) / W_{j-1}", "units": "1"}),
    "drop_null": (("null", "cut"), {"units": "1"}),
    "feature_bound": ("cut", {"units": "nats"}),
    "decision_bound": ("cut", {"units": "nats"}),
    "information_ceiling": ("cut", {"units": "nats", "long_name": "H(X) - H(X|Z) is at most this"}),
}

#: Columns of a row, in their order.
_ORDER = (
    "within", "within_per_dimension", "between", "rho", "rho_null", "evidence", "evidence_low", "evidence_high",
    "drop", "drop_null", "feature_bound", "decision_bound", "information_ceiling",
)  # fmt: skip
_OF_ROWS = tuple(name for name in _ORDER if name not in ("rho_null", "drop_null"))


def _drop(values: np.ndarray) -> np.ndarray:
    before = values[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.concatenate([[np.nan], (before - values[1:]) / before])


def _mean(of_nulls: np.ndarray) -> np.ndarray:
    """Over the untrained copies; NaN if there are none."""
    return np.mean(of_nulls, axis=0) if len(of_nulls) else np.full(of_nulls.shape[1], np.nan)
