"""The ladder of attackers, from weak to strong: what each rung is made of at a cut.

A cut's resistance is what the best of them leaves of it. The ladder is the paper's stress test (a stronger decoder, an
enriched representation) with an honest lower rung, the linear map, and an attack that trains nothing, the likelihood.
"""

import dataclasses
from typing import Literal

from gpz_jax.config import AttackConfig
from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.inversion.attention import parse_stages
from gpz_jax.inversion.decoder import IR152_DEPTH, Decoder, Trunk, decoder_for, match_parameters, stages_of
from gpz_jax.inversion.enrich import parse_enrichment

#: Weak and shallow to strong and deep, as in the paper; a decoder of fewer stages has the last of them.
STAGES = "mha,aac+se,lsk,msca"
ENRICHMENT = "normalize+dropout_concat"


@dataclasses.dataclass(frozen=True)
class Rung:
    """One attacker.

    Attributes:
      name: as in ``--rung`` and in the run folder.
      kind: a ridge regression, a decoder that is trained, or the optimisation of each image.
      trunk: of a decoder.
      depth: of a decoder, see ``decoder.Decoder``.
      stages: attention modules of a decoder, as in ``--stages``; those of ``STAGES`` that fit where it is None.
      enrich: enrichment of z, as in ``--enrich``.
    """

    name: str
    kind: Literal["linear", "decoder", "likelihood"] = "decoder"
    trunk: Trunk = "deconvolution"
    depth: tuple[int, ...] = (0,)
    stages: str | None = ""
    enrich: str = "none"


#: In order of strength, as supposed; the ladder's own first, then what is tried only when asked for.
LADDER = (
    Rung("linear", "linear"),
    Rung("deconvolution"),
    Rung("residual", trunk="residual", depth=(1,)),
    Rung("attention", stages=None),
    Rung("enriched", enrich=ENRICHMENT),
    Rung("likelihood", "likelihood"),
)
RUNGS = {rung.name: rung for rung in (*LADDER, Rung("residual-ir152", trunk="residual", depth=IR152_DEPTH))}


def rungs_of(options: AttackConfig) -> dict[str, Rung]:
    """The attackers that were asked for, by the name of their folder.

    Raises:
      UserError: an unknown rung, attention module or enrichment (with the nearest name).

    Example:
      >>> list(rungs_of(AttackConfig(ladder=True)))
      ['linear', 'deconvolution', 'residual', 'attention', 'enriched', 'likelihood']
      >>> list(rungs_of(AttackConfig(rung=("residual",), stages="se,lsk", enrich="normalize")))
      ['residual-se,lsk-normalize']
    """
    parse_stages(options.stages or "")
    parse_enrichment(options.enrich or "")
    found = {}
    for name in [rung.name for rung in LADDER] if options.ladder else options.rung or ("deconvolution",):
        if name not in RUNGS:
            raise UserError(f"unknown rung {name!r}{did_you_mean(name, RUNGS)}")
        rung, label = RUNGS[name], name
        if rung.kind != "decoder":
            found[label] = rung
            continue
        if options.stages is not None and (not options.ladder or name == "attention"):
            rung, label = dataclasses.replace(rung, stages=options.stages), f"{label}-{options.stages}"
        if options.enrich is not None and (not options.ladder or name == "enriched"):
            rung, label = dataclasses.replace(rung, enrich=options.enrich), f"{label}-{options.enrich}"
        if options.decoder_depth is not None:
            rung, label = (
                dataclasses.replace(rung, depth=(options.decoder_depth,)),
                f"{label}-depth{options.decoder_depth}",
            )
        found[name if options.ladder else label] = rung
    return found


def decoder_of(rung: Rung, options: AttackConfig, z_shape: tuple[int, ...], x_shape: tuple[int, ...]) -> Decoder:
    """The decoder of a rung from z to x, shapes without the batch, in the width or to the budget of ``options``.

    Raises:
      UserError: what ``decoder.decoder_for`` and ``decoder.match_parameters`` raise.

    Example:
      >>> decoder_of(RUNGS["attention"], AttackConfig(), (8, 8, 32), (32, 32, 3)).stages
      (('lsk',), ('msca',))
    """
    most = stages_of(z_shape, x_shape, tokens=options.tokens)
    stages = parse_stages(STAGES)[-most:] if rung.stages is None else parse_stages(rung.stages)
    decoder = decoder_for(
        z_shape,
        x_shape,
        width=options.decoder_width,
        trunk=rung.trunk,
        depth=rung.depth,
        stages=stages,
        enrich=parse_enrichment(rung.enrich),
        tokens=options.tokens,
        probabilities=options.probabilities,
        top_k=options.top_k,
    )
    return decoder if options.match_params is None else match_parameters(decoder, options.match_params)
