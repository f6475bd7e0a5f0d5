"""Price every cut of a network, and recommend one within a budget."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console

from gpz_jax import presentation, runs
from gpz_jax.analysis.budget import (
    Limit,
    NearMiss,
    deepest_within,
    hold,
    least_ratio,
    most_identified,
    near_misses,
    parse_parameters,
)
from gpz_jax.analysis.link import parse_link
from gpz_jax.analysis.price import BYTES, Price, price_traced
from gpz_jax.analysis.program import trace
from gpz_jax.config import check_range
from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.models import MODELS, build
from gpz_jax.reporting import cuts_table, figures, tables
from gpz_jax.taps import TappedNetwork, tap
from gpz_jax.workflow import cut_timing
from gpz_jax.workflow.advice import TRUST, recommend, words_on_payload
from gpz_jax.workflow.common import short
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
    min_ratio: Annotated[float | None, tyro.conf.arg(aliases=["--max-ratio"])] = None
    """The least that the best attack must be left with: mse over the class-mean floor's, in (0, 2]. Cuts where an
    attack gets below it are not recommended. (--max-ratio is taken for the same: a lower ratio leaks more.)"""
    max_identified: str | None = None
    """The largest share of test images that reconstructions may name, such as 0.1 or 10%."""
    bandwidth: str | None = None
    """Of the network from edge to cloud, such as 5Mbps: adds the time from image to answer to every cut."""
    rtt: str | None = None
    """Its round trip, such as 20ms. Default: 0."""
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
      near: valid cuts that miss a budget or a limit, where nothing is recommended; nearest first.
    """

    title: str
    rows: list[dict[str, Any]]
    payload: str
    choice: str | None
    words: list[str]
    near: list[NearMiss]


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
    _check(options)  # before the run's images are read
    return price_run(load_run(what, data_dir=data_dir), options, folder=folder)


def price_model(
    name: str, bare: BareModel = BareModel(), options: CutsConfig = CutsConfig(), *, folder: Path | None = None
) -> Priced:
    """Price the cuts of an untrained model, from normalised images; arguments as :func:`price`.

    Its variables are shapes alone, filled with random numbers where latency is measured.
    """
    check_range(1, channels=bare.channels, classes=bare.classes, width=bare.width)
    check_range(None, size=bare.size, patch=bare.patch, heads=bare.heads)  # below: by the model
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
      One row a cut, and the recommended cut within the budget, or why there is none.

    Raises:
      UserError: an unknown or bypassed ``cut``; settings out of range.
    """
    _check(options)
    x = jax.ShapeDtypeStruct((options.batch_size, *loaded.splits.test.images.shape[1:]), jnp.uint8)
    found = evidence(loaded)
    own = (loaded.run.folder / "cuts.csv", loaded.run.subfolder("figures") / "cuts.png")
    files = own if folder is None else (folder / "cuts.csv", folder / "cuts.png")
    run = str(short(loaded.run.folder))
    return _price(loaded.run.folder.name, loaded.network, loaded.variables, x, options, found, files, run)


def _check(options: CutsConfig) -> None:
    check_range(1, batch_size=options.batch_size, repeats=options.repeats, budget_payload=options.budget_payload)
    if options.budget_ms is not None and not options.budget_ms > 0:
        raise UserError(f"--budget-ms must be a positive number, got {options.budget_ms:g}")
    parse_link(options.bandwidth, options.rtt)
    _limits_of_leaks(options)
    if options.budget_params is not None:
        parse_parameters(options.budget_params, 10**18)  # its form; of how many, the network says
    for flag, given in (
        ("--budget-ms", options.budget_ms is not None),
        ("--bandwidth", options.bandwidth is not None),
        ("--cut", bool(options.cut)),
    ):
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
    run: str = "RUN",
) -> Priced:
    traced = trace(network, variables, x)
    rows = [_row(priced, found.get(priced.cut, {})) for priced in price_traced(traced)]
    total = rows[-1]
    for row in rows:
        row["edge_share"] = row["edge_parameters"] / max(total["edge_parameters"], 1)
    _check_cuts(network, rows, options.cut)
    limits = _limits(options, total["edge_parameters"], attacked=bool(found))
    image = math.prod(x.shape)  # in bytes, as images come in
    title = (
        f"{name}: {total['edge_parameters']:,} parameters, {presentation.quantity(total['edge_flops'])}FLOP, "
        f"{'x'.join(map(str, x.shape[1:]))} images ({presentation.quantity(math.prod(x.shape[1:]), 1024)}B), "
        f"batch of {options.batch_size}"
    )
    inputs = None
    if hold(rows, limits) and not options.no_latency:  # where nothing is within the budget nothing is timed
        inputs = cut_timing.random_values(variables), cut_timing.random_images(x)
        title += f"; median of {options.repeats} runs on {jax.devices()[0].device_kind}"
        cut_timing.time_pieces(traced, inputs, rows, options.repeats)
        hold(rows, limits)
        words_of_link = cut_timing.add_link(rows, parse_link(options.bandwidth, options.rtt), options.payload, image)
    else:
        words_of_link = []
    choice, words = _advice(name, rows, limits, found, run)
    for row in rows:
        if inputs is not None and (row["cut"] == choice or row["cut"] in options.cut):
            words.append(cut_timing.time_halves(traced, inputs, row, options.repeats))
    words += [*words_of_link, *filter(None, [words_on_payload(rows, options.payload, image, choice)])]
    if files is not None:
        _write(rows, files, limits, title, options.payload, total["edge_parameters"])
    recommended = next((row["cut"] for row in rows if row["recommended"]), None)
    fits = choice is not None and not found  # of a bare model the deepest cut
    near = [] if recommended or fits else near_misses(rows, limits)
    return Priced(title, rows, options.payload, recommended, words, near)


def _write(
    rows: list[dict[str, Any]], files: tuple[Path, Path], limits: list[Limit], title: str, payload: str, total: int
) -> None:
    tables.write_csv(rows, files[0])
    runs.write_edge_milliseconds(files[0].parent, {row["cut"]: row["edge_ms"] for row in rows})
    drawn = {limit.key: limit.bound for limit in limits if not limit.leak}
    if "edge_parameters" in drawn:
        drawn["edge_share"] = drawn["edge_parameters"] / max(total, 1)
    figures.cuts_figure(rows, files[1], title=title, payload=payload, limits=drawn)


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
        **dict.fromkeys(cut_timing.TIMES, math.nan),
        **found,
        "within_budget": True,
        "recommended": False,
    }


def _limits(options: CutsConfig, parameters: int, *, attacked: bool) -> list[Limit]:
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
    leaks = _limits_of_leaks(options)
    if leaks and not attacked:
        flag = leaks[0].flag.split()[0]
        raise UserError(f"{flag} is for a run that was attacked; a bare model has no verdict")
    limits += leaks
    return limits


def _limits_of_leaks(options: CutsConfig) -> list[Limit]:
    return [
        *([] if options.min_ratio is None else [least_ratio(options.min_ratio)]),
        *([] if options.max_identified is None else [most_identified(options.max_identified)]),
    ]


# What to do -----------------------------------------------------------------------------------------------------------


def _advice(
    name: str,
    rows: list[dict[str, Any]],
    limits: list[Limit],
    found: Mapping[str, Mapping[str, Any]],
    run: str,
) -> tuple[str | None, list[str]]:
    """The cut to look at, and what to say of it; marks the recommended one. Of a bare model none is recommended."""
    inside = [row["cut"] for row in rows if row["valid"] and row["within_budget"]]
    costs = " and ".join(limit.flag for limit in limits if not limit.leak)
    if not inside:
        share = any(limit.key == "edge_parameters" and limit.bound <= 100 and "%" not in limit.flag for limit in limits)
        hint = f" (a share is written with %: --budget-params {limits[0].bound:g}%)" if share else ""
        return None, [f"no cut of {name} is within {costs}{hint}; the nearest are below"]
    if not found:
        if not limits:  # the deepest cut is always the logits
            return None, []
        first = deepest_within(rows)
        if first is None:
            return None, [f"what is within {costs} leaves the cloud nothing to do: {', '.join(inside)}"]
        return first, [
            f"deepest cut within {costs} that leaves the cloud something to do: {first}. What it "
            "gives away nobody knows before a network is trained and attacked: python -m gpz_jax.train, then python -m "
            "gpz_jax.attack RUN",
            TRUST,
        ]
    advice = recommend(rows, limits, run=run)
    words = list(advice.words)
    if advice.choice is not None:
        row = next(row for row in rows if row["cut"] == advice.choice)
        row["recommended"] = True
    return advice.choice or advice.test_first or None, words


def report_cuts(priced: Priced, console: Console, *, wide: bool = False) -> None:
    """Print the table of cuts and what is recommended, in words."""
    if any(row["within_budget"] for row in priced.rows):
        console.print(cuts_table.cuts_table(priced.title, priced.rows, payload=priced.payload, wide=wide))
    for sentence in priced.words:
        console.print(sentence, markup=False, highlight=False)
    if priced.near:
        console.print(cuts_table.near_table(priced.near))
