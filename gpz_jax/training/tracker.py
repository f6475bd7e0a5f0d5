"""The ledger in anyone's own training loop: any tapped network, Linen or NNX, and any optimiser."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpz_jax import presentation, runs
from gpz_jax.analysis.attribution import over_ledger, summarise_ledger
from gpz_jax.analysis.class_sums import missing_classes
from gpz_jax.analysis.parameter_space import split_variables
from gpz_jax.atomic import make_folder
from gpz_jax.errors import UserError
from gpz_jax.taps import TappedNetwork, tap_shapes
from gpz_jax.targets import check_labels, soft_targets
from gpz_jax.training.step_row import PendingRows, step_row

_row = partial(jax.jit, static_argnames=("network", "num_classes", "full", "interference_cuts"))(step_row)


class _First(NamedTuple):
    """The first step: shapes of its variables by path, names of the arguments it was given, and D of every cut."""

    variables: dict[str, str]
    given: frozenset[str]
    dimensions: tuple[int, ...]


class Tracker:
    """What moved the within-class radius R_c² of every cut, step by step, on a fixed batch of images.

    Call :meth:`step` after every training step. What is kept of it depends on what it is given, and is the same at
    every step:

    - ``before`` and ``after`` alone: R_c², W, B and ρ of every cut, accuracy and output entropy; the realised change of
      R_c², and how much of it is the optimiser's step to first order, the statistics of batch norms, the residual;
    - ``alpha`` (or ``targets``) as well: the loss, and the correct-class coefficient p_c - q_c;
    - and ``step_size``: the paper's feature-space terms and the class x class interference;
    - and ``parts``: what the two parts of the gradient did.

    Args:
      network: the tapped network, in evaluation mode.
      probe_batch: ``(x, labels)`` or ``(x, labels, mask)``, fixed, on which everything is measured; what the mask
        leaves out is dropped. Two images of every class at least, or that class is NaN.
      num_classes: K.
      every: keep one step in so many.
      interference: cuts at which the interference is kept; default: the last before the logits.
      parameter_terms: False leaves out ``optimiser``, ``statistics``, ``residual`` and what the parts of the gradient
        did, which cost about three times as much as the rest.
      first_step: number of the first step, where training continues from a checkpoint.

    Raises:
      UserError: labels outside 0 … K - 1, or not one an image; ``every`` below 1; a cut that the network does not have.

    Example:
      >>> import flax.linen as nn, gpz_jax, jax, jax.numpy as jnp, optax
      >>> x, labels = jax.random.normal(jax.random.key(0), (30, 5)), jnp.arange(30) % 3
      >>> model, optimiser, q = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)]), optax.sgd(0.1), jnp.eye(3)[labels]
      >>> variables = model.init(jax.random.key(1), x)
      >>> network, state = gpz_jax.tap(model, variables, x), optimiser.init(variables["params"])
      >>> tracker = gpz_jax.Tracker(network, (x, labels), 3)
      >>> for _ in range(4):
      ...     logits_of = lambda params: model.apply({"params": params}, x)
      ...     parts = gpz_jax.gradient_parts(logits_of, variables["params"], labels, q)
      ...     updates, state = optimiser.update(jax.tree.map(jnp.add, *parts), state)
      ...     after = {"params": optax.apply_updates(variables["params"], updates)}
      ...     tracker.step(variables, after, parts, alpha=0.0, step_size=0.1)
      ...     variables = after
      >>> ledger = tracker.to_xarray()
      >>> ledger.radius.dims, ledger.radius.shape
      (('step', 'cut', 'class'), (4, 3, 3))
      >>> sides = ledger.parameter_correct + ledger.parameter_wrong, ledger.optimiser     # the same for plain SGD
      >>> bool(abs(sides[0] - sides[1]).max() < 1e-4 * abs(sides[1]).max())
      True
    """

    def __init__(
        self,
        network: TappedNetwork,
        probe_batch: Any,
        num_classes: int,
        *,
        every: int = 1,
        interference: Sequence[str] = (),
        parameter_terms: bool = True,
        first_step: int = 0,
    ):
        if every < 1 or first_step < 0:
            raise UserError(f"every must be at least 1 and first_step at least 0, got {every} and {first_step}")
        for cut in interference:
            network.check(cut)
        self.network, self.num_classes, self.every, self.first_step = network, num_classes, every, first_step
        self.x, self.labels = _probe(probe_batch, num_classes)
        self.interference = tuple(interference) or ((network.cuts[:-1] or network.cuts)[-1],)
        self.parameter_terms = parameter_terms
        self.next_step = first_step
        self._pending, self._chunks = PendingRows(), list[dict[str, np.ndarray]]()
        self._first: _First | None = None
        self._records: dict[Path, tuple[runs.StepRecord, int]] = {}

    @property
    def due(self) -> bool:
        """Whether the next step is one that is kept: only then are ``parts`` looked at."""
        return self.next_step % self.every == 0

    def step(
        self,
        before: Any,
        after: Any,
        parts: Any = None,
        *,
        alpha: Any = None,
        targets: Any = None,
        step_size: Any = None,
        epoch: int | None = None,
    ) -> None:
        """A training step was taken; nothing is fetched from the device.

        Args:
          before: the network's variables before it: all of them, or the ``nnx.State``. Where the step writes over them
            (a donated buffer, an NNX model) give a copy: ``jax.tree.map(jnp.copy, nnx.state(model))``.
          after: its variables after it.
          parts: what :func:`gpz_jax.gradient_parts` made of the training batch at ``before``.
          alpha: label smoothing in force, 0 for one-hot labels.
          targets: soft targets of the probe images, ``(N, K)``, in place of ``alpha``.
          step_size: γ, the learning rate.
          epoch: that the step belongs to, to be kept beside it.

        Raises:
          UserError: variables of another structure or other shapes than at the first step; parts that do not fit them,
            or without a step size; targets of another shape; other arguments than at the first step.
        """
        if not self.due:
            self.next_step += 1
            return
        optional = {"parts": parts, "alpha": alpha, "targets": targets, "step_size": step_size, "epoch": epoch}
        given = frozenset(name for name, value in optional.items() if value is not None)
        first = self._first or self._begun(before, given)
        self._check(first, before, after, given, parts, targets)
        if alpha is not None:
            targets = soft_targets(self.labels, self.num_classes, alpha)
        row = _row(
            self.network, before, after, self.x, self.labels, targets, step_size, parts,
            num_classes=self.num_classes, full=self.parameter_terms, interference_cuts=self.interference,
        )  # fmt: skip
        numbers = {name: optional[name] for name in ("alpha", "step_size", "epoch") if name in given}
        self._pending.append({**row, **numbers, "step": self.next_step})
        self._first, self.next_step = first, self.next_step + 1
        if len(self._pending) == runs.CHUNK:
            self._chunks.append(self._pending.take())

    def _begun(self, before: Any, given: frozenset[str]) -> "_First":
        """What the first step is, to which the others are held."""
        if {"alpha", "targets"} <= given:
            raise UserError("give alpha or targets, not both")
        if "parts" in given and "step_size" not in given:
            raise UserError("parts need a step_size: they say what a step of that size along each of them does")
        example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self.x)
        shapes = tap_shapes(self.network, before, example)
        return _First(_shapes(before), given, tuple(math.prod(shape) for shape in shapes.values()))

    def _check(self, first: "_First", before: Any, after: Any, given: frozenset[str], parts: Any, targets: Any) -> None:
        """Raise :class:`UserError` for what :meth:`step` refuses."""
        if given != first.given:
            now, then = (", ".join(sorted(names)) or "nothing" for names in (given, first.given))
            raise UserError(f"this step was given {now} beside the variables, the first one {then}; give the same")
        for name, variables in (("before", before), ("after", after)):
            if differ := _difference(_shapes(variables), first.variables):
                raise UserError(f"{name} is not of the variables that the tracker began with: {differ}")
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        if all(old is new for old, new in pairs):
            raise UserError(
                "before and after are the same arrays, so nothing can be said of the step; of an NNX model take a copy "
                "before it: jax.tree.map(jnp.copy, nnx.state(model))"
            )
        expected = (len(self.labels), self.num_classes)
        if targets is not None and np.shape(targets) != expected:
            raise UserError(f"targets must be those of the probe images, {expected}, got {np.shape(targets)}")
        if parts is not None:
            _check_parts(parts, before)

    # Reading ----------------------------------------------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """How many steps are kept."""
        return len(self._pending) + sum(len(chunk["step"]) for chunk in self._chunks)

    def _rows(self) -> dict[str, np.ndarray]:
        if rows := self._pending.take():
            self._chunks.append(rows)
        self._chunks = [{name: np.concatenate([chunk[name] for chunk in self._chunks]) for name in self._chunks[0]}]
        return self._chunks[0]

    def _layout(self, rows: dict[str, np.ndarray]) -> runs.Layout:
        assert self._first is not None
        return runs.Layout(
            cuts=self.network.cuts,
            dimensions=self._first.dimensions,
            count=np.bincount(np.asarray(self.labels), minlength=self.num_classes).tolist(),
            interference_cuts=self.interference,
            variables=[name for name in runs.VARIABLES if name in rows or name == "decision_bound"],
            attributes={"images": len(self.labels), "track_every": self.every},
        )

    def to_xarray(self):
        """All steps kept so far, as an ``xarray.Dataset``: variables and dims of a run's ``dynamics.zarr/steps``.

        Raises:
          UserError: no step is kept yet.
        """
        if not self.kept:
            raise UserError("the tracker has no step yet; call step(before, after, …) after each of the training's")
        rows = self._rows()
        return runs.steps_dataset(self._layout(rows), rows)

    def to_pandas(self):
        """The same as a ``pandas.DataFrame``: a row a step and cut, classes averaged with images weighing the same.

        Raises:
          UserError: no step is kept yet; pandas is not installed.
        """
        try:
            import pandas  # noqa: F401  (xarray makes the frame; this says what is missing)
        except ImportError:
            raise UserError("to_pandas needs pandas: pip install pandas") from None
        curves = over_ledger(self.to_xarray())
        kept = [name for name, values in curves.data_vars.items() if values.dims == ("step", "cut")]
        return curves[kept].drop_vars("dimension").to_dataframe().reset_index()

    def append_to(self, path: str | Path) -> Path:
        """Append the steps that are not there yet to ``PATH/dynamics.zarr/steps``, as the ledger of a run is kept.

        Call it as often as you save a checkpoint, before that: a kill at any time leaves whole steps alone. A tracker
        with a ``first_step`` continues the record, without what it holds from that step on (a checkpoint lies before
        it, and those steps are taken again). ``python -m gpz_jax.vortex PATH`` reads it.

        Returns:
          The folder of the record; it opens with ``xarray.open_zarr(folder, consolidated=False)``.

        Raises:
          UserError: no step is kept yet; a folder that cannot be written; one that holds another ledger.
        """
        if not self.kept:
            raise UserError("the tracker has no step yet; call step(before, after, …) after each of the training's")
        rows, folder = self._rows(), Path(path).absolute()
        if folder not in self._records:
            self._records[folder] = (self._opened(folder, self._layout(rows)), 0)
        record, done = self._records[folder]
        if done < self.kept:
            record.append({name: values[done:] for name, values in rows.items()})
            self._records[folder] = (record, self.kept)
        return runs.steps_folder(folder)

    def _opened(self, folder: Path, layout: runs.Layout) -> runs.StepRecord:
        """The record in a folder, cut back to this tracker's first step."""
        if (runs.steps_folder(folder) / "zarr.json").is_file():
            held = runs.read_steps(folder)
            if held.sizes["step"] and not self.first_step:
                raise UserError(
                    f"{folder} holds a ledger of {held.sizes['step']} steps; continue it with a Tracker of its "
                    "first_step, or choose another folder"
                )
            other = {*held.data_vars} ^ {*layout.variables}
            if self.first_step and other:
                raise UserError(f"{folder} holds a ledger of other variables: {', '.join(sorted(map(str, other)))}")
        return runs.StepRecord.open(make_folder(folder), layout, keep_steps=self.first_step)

    # For people -------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        """What moved R_c² of every cut so far, in 80 columns."""
        return presentation.text_table(*self._table())

    def _repr_html_(self) -> str:
        return presentation.html_table(*self._table())

    def _table(self) -> tuple[str, dict[str, list[str]], list[str]]:
        steps = f"{self.kept} step{'' if self.kept == 1 else 's'}"
        title = f"Tracker: {steps}, one in {self.every}, on {len(self.labels)} images"
        if not self.kept:
            return title, {"cut": list(self.network.cuts)}, []
        found = summarise_ledger(over_ledger(self.to_xarray()), {"all": slice(0, self.kept)})

        def column(key: str) -> list[str]:
            return [presentation.number(row[key]) for row in found]

        columns = {
            "cut": [row["cut"] for row in found],
            "R_c^2": column("radius_first"),
            "now": column("radius_last"),
            "rho": column("rho_first"),
            "rho now": column("rho_last"),
            "realised": column("sum_realised"),
        }
        if self.parameter_terms:
            columns |= {name: column(f"sum_{name}") for name in ("optimiser", "statistics")}
        notes = ["changes of R_c^2 summed over the steps kept, squared units of z"]
        few = missing_classes(np.asarray(self.labels), self.num_classes)
        return title, columns, notes + ([few] if few else [])


def _probe(batch: Any, num_classes: int) -> tuple[Any, jax.Array]:
    """Images and labels of the probe batch, without what its mask leaves out."""
    if not isinstance(batch, Sequence) or len(batch) not in (2, 3):
        raise UserError("probe_batch must be (x, labels) or (x, labels, mask)")
    x, labels, *mask = batch
    labels = np.asarray(labels)
    sizes = {len(leaf) for leaf in jax.tree.leaves(x)}
    if labels.ndim != 1 or sizes != {len(labels)} or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels must be one integer an image, got {labels.dtype} {labels.shape} for {sizes} images")
    if mask:
        kept = np.asarray(mask[0])
        if kept.shape != labels.shape or kept.dtype != bool:
            raise UserError(f"the mask must be one boolean an image, got {kept.dtype} {kept.shape}")
        x, labels = jax.tree.map(lambda leaf: leaf[kept], x), labels[kept]
    if not len(labels):
        raise UserError("the probe batch holds no image")
    check_labels(labels, num_classes)
    return jax.tree.map(jnp.asarray, x), jnp.asarray(labels, jnp.int32)


def _shapes(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype} {list(leaf.shape)}" for path, leaf in leaves}


def _difference(ours: dict[str, str], theirs: dict[str, str]) -> str | None:
    """The first leaf in which two trees of shapes differ, in words."""
    for name in {**theirs, **ours}:
        if ours.get(name) != theirs.get(name):
            return f"{name} is {ours.get(name, 'missing')}, it was {theirs.get(name, 'not there')}"
    return None


def _check_parts(parts: Any, before: Any) -> None:
    wanted = _shapes(split_variables(before)[0])
    if not isinstance(parts, tuple) or len(parts) != 2:
        raise UserError("parts must be the pair (correct, wrong) that gradient_parts gives")
    for name, part in zip(("correct", "wrong"), parts, strict=True):
        if differ := _difference(_shapes(part), wanted):
            raise UserError(f"the {name} part is no gradient in the network's parameters: {differ}")
