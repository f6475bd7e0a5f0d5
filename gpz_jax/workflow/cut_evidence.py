"""What a run's probe and attacks found at each cut, to stand beside its price."""

import math
from typing import Any

from gpz_jax import runs
from gpz_jax.errors import UserError
from gpz_jax.workflow.common import say
from gpz_jax.workflow.loaded_run import LoadedRun


def evidence(loaded: LoadedRun) -> dict[str, dict[str, Any]]:
    """What the run's probe and attacks say of each cut: within, rho, zone_RULE, mse, ratio, flattened.

    NaN where nothing was measured; ``flattened`` is False for an attack that was still improving when it ended.
    Of several probes the one of the test images is read, else the first by name. Of several attacks on a cut the
    strongest counts, the one with the lowest ratio.
    """
    cuts = loaded.network.cuts
    probed, attacked = _probed(loaded), _attacked(loaded)
    columns = {name: "" if name.startswith("zone_") else math.nan for row in probed.values() for name in row}
    none = {"within": math.nan, "rho": math.nan, **columns, "mse": math.nan, "ratio": math.nan, "flattened": True}
    return {cut: {**none, **probed.get(cut, {}), **attacked.get(cut, {})} for cut in cuts}


def _probed(loaded: LoadedRun) -> dict[str, dict[str, Any]]:
    for folder in runs.probe_folders(loaded.run.folder / "probe"):
        try:
            record = runs.read_probe(folder)
            found = {
                str(cut): {
                    "within": float(record.within.sel(cut=cut)),
                    "rho": float(record.rho.sel(cut=cut)),
                    **{f"zone_{rule}": str(record.zone.sel(rule=rule, cut=cut).values) for rule in record.rule.values},
                }
                for cut in record.cut.values
                if str(cut) in loaded.network.cuts
            }
        except UserError:  # of a newer schema
            raise
        except Exception as error:  # whatever xarray and zarr make of a damaged store: another is tried
            say(f"the probe in {folder} cannot be read ({type(error).__name__}); make it again with gpz_jax.probe")
            continue
        _note_epoch(f"the probe in {folder.name}", record.attrs.get("epoch"), loaded)
        return found
    return {}


def _attacked(loaded: LoadedRun) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for file in sorted((loaded.run.folder / "attacks").glob("*/result.json")):
        try:
            result = runs.read_result(file)
            cut, scores = str(result["cut"]), {name: float(result["scores"][name]) for name in ("mse", "ratio")}
            scores["flattened"] = bool(result["flattened"])
            epoch = result["asked"]["epoch_of_run"]
        except UserError:  # of a newer schema
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            say(f"the attack in {file} cannot be read ({type(error).__name__}); it is left out")
            continue
        if cut in loaded.network.cuts and not scores["ratio"] >= found.get(cut, {}).get("ratio", math.inf):
            found[cut] = scores
            _note_epoch(f"the attack on {cut}", epoch, loaded)
    return found


def _note_epoch(what: str, epoch: Any, loaded: LoadedRun) -> None:
    if epoch is not None and epoch != loaded.epoch:
        say(f"{what} is of epoch {epoch}, the run's best is now {loaded.epoch}; make it again")
