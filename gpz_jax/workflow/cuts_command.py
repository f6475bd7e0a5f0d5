"""Price every cut of a network, and recommend one within a budget."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from gpz_jax import presentation
from gpz_jax.analysis import latency
from gpz_jax.analysis.budget import Limit, hold, parse_parameters, recommend
from gpz_jax.analysis.price import BYTES, Price, price_traced
from gpz_jax.analysis.program import Traced, trace
from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.models import MODELS, build
from gpz_jax.reporting import cuts_table, figures, tables
from gpz_jax.taps import TappedNetwork, tap
from gpz_jax.workflow.common import progress_bar
from gpz_jax.workflow.cut_evidence import evidence
from gpz_jax.workflow.loaded_run import LoadedRun, load_run


@dataclasses.dataclass(frozen=True)
class BareModel:
    """An untrained network (only for a MODEL; a RUN has its own)."""

    width: int | None = None
    """Channels of the first block; of the ViT's tokens. Default: the paper's, 64 and 128."""
    depth: float = 1.0
    """Factor on the layers of every stage (on the ViT's blocks)."""
    patch: int = 4
    """Side of the ViT's patches in pixels."""
    heads: int = 8
    """Heads of the ViT's attention."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the convolutions: 'auto' is bfloat16 on GPUs and TPUs, float32 on CPUs."""
    size: int = 64
    """Side of the images in pixels, a multiple of 16."""
    channels: int = 3
    """Of the images."""
    classes: int = 10
    """Number of classes."""


@dataclasses.dataclass(frozen=True)
class CutsConfig:
    """What a cut may cost, and what is measured."""

    budget_params: str | None = None
    """The most parameters that the edge may hold: a number, or a share of all such as 10%."""
    budget_payload: int | None = None
    """The most bytes that may be sent for a batch, as --payload."""
    payload: Literal["float32", "bfloat16", "uint8"] = "uint8"
    """How z is sent: 4, 2 or 1 bytes a value."""
    budget_ms: float | None = None
    """The most milliseconds that the edge may take for a batch on this device (by pieces)."""
    cut: tuple[str, ...] = ()
    """Also time the two whole halves at this cut, as is done for the recommended one; repeat the flag for several."""
    batch_size: int = 1
    """Images that are sent at once; FLOPs, payload, memory and latency are the batch's."""
    repeats: int = 20
    """Timed runs behind every median."""
    no_latency: bool = False
    """Time nothing; what is left is worked out from the traced program in seconds."""


class Priced(NamedTuple):
    """What cuts cost.

    Attributes:
      title: the network, in words.
      rows: one dict a cut, in order: what ``cuts.csv`` holds.
      payload: how z is sent.
      choice: name of the recommended cut, or None.
      words: sentences for the person who asked: the recommendation, what fusion changes.
    """

    title: str
    rows: list[dict[str, Any]]
    payload: str
    choice: str | None
    words: list[str]


def price(
    what: str,
    options: CutsConfig = CutsConfig(),
    *,
    bare: BareModel = BareModel(),
    data_dir: str | None = None,
    out: str | None = None,
) -> Priced:
    """Price the cuts of a model by name or of a run folder; a name of ``MODELS`` is the model (``./vit`` a folder).

    Args:
      what: the one or the other.
      options: budget and measurements.
      bare: the model's settings.
      data_dir: where the run's images are now, if they have moved.
      out: folder for ``cuts.csv`` and ``cuts.png``; without it, the run's own, or none for a model.

    Raises:
      UserError: neither a model nor a folder; settings of the one given with the other; as :func:`price_run`.
    """
    folder = None if out is None else _made(Path(out))
    if what in MODELS:
        if data_dir is not None:
            raise UserError(f"--data-dir is for a run; {what!r} is a model and has no images")
        return price_model(what, bare, options, folder=folder)
    if not Path(what).is_dir():
        runs = sorted(str(path.parent) for path in Path("runs").glob("*/config.json"))
        raise UserError(f"{what!r} is neither a model nor a run folder{did_you_mean(what, [*MODELS, *runs])}")
    given = [f.name for f in dataclasses.fields(bare) if getattr(bare, f.name) != f.default]
    if given:
        raise UserError(f"--{given[0]} is for a bare model; {what!r} is a run and has its own")
    return price_run(load_run(what, data_dir=data_dir), options, folder=folder)


def price_model(
    name: str, bare: BareModel = BareModel(), options: CutsConfig = CutsConfig(), *, folder: Path | None = None
) -> Priced:
    """Price the cuts of an untrained model, from normalised images; arguments as :func:`price`.

    Its variables are shapes alone, filled with random numbers where latency is measured.
    """
    for flag in ("channels", "classes"):
        if getattr(bare, flag) < 1:
            raise UserError(f"--{flag} must be at least 1, got {getattr(bare, flag)}")
    dtype = bare.dtype
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    model = build(
        name,
        num_classes=bare.classes,
        size=bare.size,
        width=MODELS[name].paper_width if bare.width is None and name in MODELS else bare.width,
        dtype=dtype,
        depth=bare.depth,
        patch=bare.patch,
        heads=bare.heads,
    )
    _check(options)
    x = jax.ShapeDtypeStruct((options.batch_size, bare.size, bare.size, bare.channels), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    network = tap(model, variables, x, train=False)
    files = None if folder is None else (folder / "cuts.csv", folder / "cuts.png")
    return _price(name, network, variables, x, options, {}, files)


def price_run(loaded: LoadedRun, options: CutsConfig = CutsConfig(), *, folder: Path | None = None) -> Priced:
    """Price the cuts of a trained run, from the images as they are sent in, beside what a probe and attacks found.

    Args:
      loaded: what :func:`load_run` opened.
      options: budget and measurements.
      folder: where ``cuts.csv`` and ``cuts.png`` go; default: the run folder and its ``figures/``.

    Returns:
      One row a cut, and the recommended cut within the budget.

    Raises:
      UserError: an unknown or bypassed ``cut``; a budget that no valid cut meets (the closest is named).
    """
    _check(options)
    x = jax.ShapeDtypeStruct((options.batch_size, *loaded.splits.test.images.shape[1:]), jnp.uint8)
    found = evidence(loaded)
    own = (loaded.run.folder / "cuts.csv", loaded.run.subfolder("figures") / "cuts.png")
    files = own if folder is None else (folder / "cuts.csv", folder / "cuts.png")
    return _price(loaded.run.folder.name, loaded.network, loaded.variables, x, options, found, files)


def _check(options: CutsConfig) -> None:
    for flag in ("batch_size", "repeats", "budget_payload"):
        value = getattr(options, flag)
        if value is not None and value < 1:
            raise UserError(f"--{flag.replace('_', '-')} must be at least 1, got {value}")
    if options.budget_ms is not None and not options.budget_ms > 0:
        raise UserError(f"--budget-ms must be a positive number, got {options.budget_ms:g}")
    for flag, given in (("--budget-ms", options.budget_ms is not None), ("--cut", bool(options.cut))):
        if options.no_latency and given:
            raise UserError(f"{flag} needs what --no-latency leaves out; give one of the two")


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to folder {folder}: {error.strerror or error}; choose another --out") from None
    return folder


def _price(
    name: str,
    network: TappedNetwork,
    variables: Any,
    x: jax.ShapeDtypeStruct,
    options: CutsConfig,
    found: Mapping[str, Mapping[str, Any]],
    files: tuple[Path, Path] | None,
) -> Priced:
    traced = trace(network, variables, x)
    rows = [_row(priced, found.get(priced.cut, {})) for priced in price_traced(traced)]
    total = rows[-1]
    for row in rows:
        row["edge_share"] = row["edge_parameters"] / max(total["edge_parameters"], 1)
    _check_cuts(network, rows, options.cut)
    limits = _limits(options, total["edge_parameters"])
    hold(rows, [limit for limit in limits if limit.key != "edge_ms"], name)  # refuse before anything is timed
    title = (
        f"{name}: {total['edge_parameters']:,} parameters, {presentation.quantity(total['edge_flops'])}FLOP, "
        f"{'x'.join(map(str, x.shape[1:]))} images ({presentation.quantity(math.prod(x.shape[1:]), 1024)}B), "
        f"batch of {options.batch_size}"
    )
    inputs = None if options.no_latency else (_values(variables), _images(x))
    if inputs is not None:
        title += f"; median of {options.repeats} runs on {jax.devices()[0].device_kind}"
        _time_pieces(traced, inputs, rows, options.repeats)
        hold(rows, limits, name)
    # A bare model without a budget leaves nothing to weigh: the deepest cut is always the logits.
    choice, why = recommend(rows) if found or limits else (None, "")
    words = [] if choice is None else _recommendation(rows, choice, why, limits)
    for row in rows:
        if inputs is not None and (row["recommended"] or row["cut"] in options.cut):
            words.append(_time_halves(traced, inputs, row, options.repeats))
    if files is not None:
        tables.write_csv(rows, files[0])
        drawn = {limit.key: limit.most for limit in limits}
        if "edge_parameters" in drawn:
            drawn["edge_share"] = drawn["edge_parameters"] / max(total["edge_parameters"], 1)
        figures.cuts_figure(rows, files[1], title=title, payload=options.payload, limits=drawn)
    return Priced(title, rows, options.payload, choice, words)


def _check_cuts(network: TappedNetwork, rows: list[dict[str, Any]], asked: tuple[str, ...]) -> None:
    good = [row["cut"] for row in rows if row["valid"]]
    for cut in asked:
        if network.check(cut) not in good:
            raise UserError(
                f"cut {cut!r} is bypassed, so no cloud half runs from its z alone; valid cuts: {', '.join(good)}"
            )


def _row(priced: Price, found: Mapping[str, Any]) -> dict[str, Any]:
    """A cut as a row of ``cuts.csv``; what is measured later is NaN until then."""
    return {
        "cut": priced.cut,
        "shape": "x".join(map(str, priced.shape)),
        "values": priced.values,
        "valid": priced.valid,
        "edge_parameters": priced.edge_parameters,
        "edge_share": math.nan,
        "cloud_parameters": priced.cloud_parameters,
        "edge_flops": priced.edge_flops,
        "cloud_flops": priced.cloud_flops,
        **{f"payload_{dtype}": priced.payload(dtype) for dtype in BYTES},
        "edge_memory": priced.edge_memory,
        **dict.fromkeys(("edge_ms", "cloud_ms", "edge_ms_whole", "cloud_ms_whole"), math.nan),
        **found,
        "within_budget": True,
        "recommended": False,
    }


def _limits(options: CutsConfig, parameters: int) -> list[Limit]:
    limits = []
    if options.budget_params is not None:
        most = parse_parameters(options.budget_params, parameters)
        limits.append(
            Limit("edge_parameters", most, f"--budget-params {options.budget_params}", "{:,} edge parameters")
        )
    if options.budget_payload is not None:
        flag = f"--budget-payload {options.budget_payload} as {options.payload}"
        limits.append(Limit(f"payload_{options.payload}", float(options.budget_payload), flag, "{:,} bytes to send"))
    if options.budget_ms is not None:
        limits.append(
            Limit("edge_ms", options.budget_ms, f"--budget-ms {options.budget_ms:g}", "{:.3g} ms on the edge")
        )
    return limits


def _recommendation(rows: list[dict[str, Any]], choice: str, why: str, limits: list[Limit]) -> list[str]:
    """Mark the row, and say why it, and what to beware of."""
    within = f" within {' and '.join(limit.flag for limit in limits)}" if limits else ""
    words = [f"recommended cut{within}: {choice} ({why})"]
    row = next(row for row in rows if row["cut"] == choice)
    row["recommended"] = True
    if math.isfinite(row.get("ratio", math.nan)) and not row["flattened"]:
        words.append(f"the attack on {choice} was still improving: give it more --epochs before you trust its failure")
    if row["cloud_flops"] == 0:
        words.append(f"{choice} leaves the cloud nothing to do; --budget-params or --budget-ms bounds the edge")
    return words


# What is timed -------------------------------------------------------------------------------------------------------


def _time_pieces(traced: Traced, inputs: tuple[Any, Any], rows: list[dict[str, Any]], repeats: int) -> None:
    with progress_bar() as bar:
        task = bar.add_task("timing", total=sum(row["valid"] for row in rows) + repeats)
        timed = latency.time_pieces(traced, *inputs, repeats=repeats, on_piece=lambda: bar.advance(task))
    for row in rows:
        if row["cut"] in timed:
            row["edge_ms"], row["cloud_ms"] = (1000 * seconds for seconds in timed[row["cut"]])


def _time_halves(traced: Traced, inputs: tuple[Any, Any], row: dict[str, Any], repeats: int) -> str:
    halves = latency.time_halves(traced, *inputs, row["cut"], repeats=repeats)
    row["edge_ms_whole"], row["cloud_ms_whole"] = (1000 * seconds for seconds in halves)
    edge, cloud, edge_whole, cloud_whole = (
        presentation.number(row[key]) for key in ("edge_ms", "cloud_ms", "edge_ms_whole", "cloud_ms_whole")
    )
    return (
        f"{row['cut']}: edge {edge} ms, cloud {cloud} ms by pieces; {edge_whole} ms and {cloud_whole} ms as two whole "
        "halves"
    )


def _values(variables: Any) -> Any:
    """Variables to time: a run's own; shapes become random numbers of a size that neither explodes nor vanishes.

    Not the model's own initialisation: a latency does not depend on it, and compiling IR-152's takes 17 s.
    """
    rng = np.random.default_rng(0)

    def value(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        uniform = rng.random(leaf.shape, np.float32)
        if len(leaf.shape) < 2:  # scales, variances, biases
            return (0.5 + uniform).astype(leaf.dtype)
        return ((2 * uniform - 1) * math.sqrt(3 / math.prod(leaf.shape[:-1]))).astype(leaf.dtype)

    return jax.tree.map(value, variables)


def _images(x: jax.ShapeDtypeStruct) -> np.ndarray:
    rng = np.random.default_rng(0)
    if x.dtype == jnp.uint8:
        return rng.integers(0, 256, x.shape, np.uint8)
    return rng.standard_normal(x.shape, np.float32)


def report_cuts(priced: Priced, console: Console, *, wide: bool = False) -> None:
    """Print the table of cuts and what is recommended, in words."""
    console.print(cuts_table.cuts_table(priced.title, priced.rows, payload=priced.payload, wide=wide))
    for sentence in priced.words:
        console.print(sentence, markup=False, highlight=False)
