"""The attacks that train a decoder from z to images, of any trunk, depth, attention and enrichment."""

import dataclasses
from functools import partial
from typing import ClassVar

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from gpz_jax import parallel
from gpz_jax.config import AttackSettings
from gpz_jax.inversion.attention import parse_stages
from gpz_jax.inversion.decoder import Decoder, Trunk, decoder_for, match_parameters, parameter_count, stages_of
from gpz_jax.inversion.decoder_training import decode, train_decoder
from gpz_jax.inversion.enrich import parse_enrichment
from gpz_jax.inversion.protocol import BATCH, Attack, Fitted, Progress, Reconstruction, Target, check_images, silent
from gpz_jax.inversion.results import Attempt, Training
from gpz_jax.memory import check_fits

#: Weak and shallow to strong and deep, as in the paper; a decoder of fewer stages has the last of them.
STAGES = "mha,aac+se,lsk,msca"


#: Of decoders up to this width nobody asks whether they fit.
_WIDE = 256


@dataclasses.dataclass(frozen=True)
class DecoderAttack(Attack):
    """A decoder that is trained on the attacker's images.

    Attributes:
      trunk: what a stage of it is.
      depth: further layers at each resolution, see ``decoder.Decoder``.
      stages: attention modules, as in the setting ``stages``; those of ``STAGES`` that fit where it is None.
      enrich: enrichment of z, as in the setting ``enrich``.
      takes: which of the settings ``stages`` and ``enrich`` it takes in a ladder.
    """

    trunk: Trunk = "deconvolution"
    depth: tuple[int, ...] = (0,)
    stages: str | None = ""
    enrich: str = "none"
    takes: tuple[str, ...] = dataclasses.field(default=(), compare=False)  # no other attack for it

    uses: ClassVar[tuple[str, ...]] = (
        "epochs", "patience", "steps", "batch_size", "lr", "decoder_width", "match_params", "tokens",
        "selection_fraction",
    )  # fmt: skip

    def configured(self, settings: AttackSettings, *, ladder: bool = False) -> "DecoderAttack":
        """With the stages, enrichment and depth of the settings, and their names behind its own.

        Raises :class:`UserError` for an unknown module or enrichment.
        """
        found = self
        for setting in ("stages", "enrich"):
            value = getattr(settings, setting)
            if value is not None and (not ladder or setting in self.takes):
                found = dataclasses.replace(found, **{setting: value, "name": f"{found.name}-{value}"})
        if settings.decoder_depth is not None:
            depth = settings.decoder_depth
            found = dataclasses.replace(found, depth=(depth,), name=f"{found.name}-depth{depth}")
        return dataclasses.replace(found, name=self.name) if ladder else found

    def decoder(self, settings: AttackSettings, z_shape: tuple[int, ...], x_shape: tuple[int, ...]) -> Decoder:
        """Its decoder from z to x, shapes without the batch, in the width or to the budget of the settings.

        Raises:
          UserError: what ``decoder.decoder_for`` and ``decoder.match_parameters`` raise.

        Example:
          >>> DecoderAttack("attention", stages=None).decoder(AttackSettings(), (8, 8, 32), (32, 32, 3)).stages
          (('lsk',), ('msca',))
        """
        most = stages_of(z_shape, x_shape, tokens=settings.tokens)
        decoder = decoder_for(
            z_shape,
            x_shape,
            width=settings.decoder_width,
            trunk=self.trunk,
            depth=self.depth,
            stages=parse_stages(STAGES)[-most:] if self.stages is None else parse_stages(self.stages),
            enrich=parse_enrichment(self.enrich),
            tokens=settings.tokens,
        )
        return decoder if settings.match_params is None else match_parameters(decoder, settings.match_params)

    def check(self, target: Target) -> None:
        """Raise :class:`UserError` for a decoder that cannot be built from z to the images."""
        check_images(self.name, target)
        decoder = self.decoder(target.settings, target.z_shape, target.x_shape)
        if decoder.width > _WIDE:  # parameters, gradient and two moments
            least = 16 * parameter_count(decoder)
            check_fits(least, f"a decoder of width {decoder.width} for {self.name}", "decoder_width")

    def fit(self, target: Target, *, best: Attempt | None = None, progress: Progress = silent) -> Fitted:
        """Train the decoder."""
        trained = train_decoder(
            target, self.decoder(target.settings, target.z_shape, target.x_shape), progress=progress
        )
        epochs = len(trained.selection_loss)
        training = Training(
            trained.selection_loss,
            trained.epoch,
            trained.flattened,
            trained.last_gain,
            {"width": trained.decoder.width, "epochs": epochs},
            "under 5 epochs" if epochs < 5 else "",
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"]))
        reconstruct = partial(_reconstruct, trained.decoder, trained.variables, target.mesh)
        return Fitted(reconstruct, training, trained.variables, count)


def _reconstruct(decoder: Decoder, variables: dict, mesh: Mesh, z: Array, start: Array | None = None) -> Reconstruction:
    # The last of several batches is filled up to one of them, so that the decoder is compiled once.
    missing, filled = max(BATCH - len(z), 0), z
    if missing:
        filled = np.pad(parallel.fetch(z), ((0, missing), *[(0, 0)] * (z.ndim - 1)), mode="edge")
    found = decode(variables, parallel.spread(filled, mesh), decoder=decoder)
    return Reconstruction(parallel.first(found, len(z), mesh))
