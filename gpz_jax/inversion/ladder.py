"""The table of attacks, from weak to strong: a name, and what it stands for.

A cut's resistance is what the best of them leaves of it. The ladder is the paper's stress test (a stronger decoder, an
enriched representation) with an honest lower end, the linear map, and an attack that trains nothing, the likelihood.
"""

from collections.abc import Iterable

from gpz_jax.config import AttackSettings
from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.inversion.attention import parse_stages
from gpz_jax.inversion.decoder import IR152_DEPTH
from gpz_jax.inversion.decoder_attack import DecoderAttack
from gpz_jax.inversion.enrich import parse_enrichment
from gpz_jax.inversion.likelihood_attack import LikelihoodAttack
from gpz_jax.inversion.linear_attack import LinearAttack
from gpz_jax.inversion.protocol import Attack

#: In order of strength, as supposed.
LADDER: tuple[Attack, ...] = (
    LinearAttack(),
    DecoderAttack("deconvolution"),
    DecoderAttack("residual", trunk="residual", depth=(1,)),
    DecoderAttack("attention", stages=None, takes=("stages",)),
    DecoderAttack("enriched", enrich="normalize+dropout_concat", takes=("enrich",)),
    LikelihoodAttack(),
)

#: Every attack by its name: the ladder's, then what is tried only when asked for.
ATTACKS: dict[str, Attack] = {
    attack.name: attack for attack in (*LADDER, DecoderAttack("residual-ir152", trunk="residual", depth=IR152_DEPTH))
}


def with_linear(attacks: tuple[Attack, ...]) -> tuple[Attack, ...]:
    """The attacks with the linear one, which comes last where it was not asked for, so that none begins at its answer.

    It takes seconds and cannot fail to converge: a decoder that stays behind it says nothing of the cut, and a cut that
    it reads is read. So every call makes it, and there is no flag against it.

    >>> [attack.name for attack in with_linear(attacks_of("deconvolution"))]
    ['deconvolution', 'linear']
    """
    return attacks if any(isinstance(attack, LinearAttack) for attack in attacks) else (*attacks, LinearAttack())


def attacks_of(
    asked: Iterable[str | Attack], settings: AttackSettings = AttackSettings(), *, ladder: bool = False
) -> tuple[Attack, ...]:
    """The attacks that are asked for, as the settings ask for them.

    Args:
      asked: names of :data:`ATTACKS`, or attacks.
      settings: their stages, enrichment and depth go into the names of the attacks that they change.
      ladder: the whole ladder in place of ``asked``; its attacks keep their names.

    Raises:
      UserError: an unknown attack, attention module or enrichment (with the nearest name); one attack twice, or none.

    Example:
      >>> [attack.name for attack in attacks_of((), ladder=True)]
      ['linear', 'deconvolution', 'residual', 'attention', 'enriched', 'likelihood']
      >>> [attack.name for attack in attacks_of(["residual"], AttackSettings(stages="se,lsk", enrich="normalize"))]
      ['residual-se,lsk-normalize']
    """
    parse_stages(settings.stages or "")
    parse_enrichment(settings.enrich or "")
    found: dict[str, Attack] = {}
    for attack in LADDER if ladder else (asked,) if isinstance(asked, str | Attack) else asked:
        if isinstance(attack, str):
            if attack not in ATTACKS:
                raise UserError(f"unknown attack {attack!r}{did_you_mean(attack, ATTACKS)}")
            attack = ATTACKS[attack]
        attack = attack.configured(settings, ladder=ladder)
        if attack.name in found:
            raise UserError(f"attack {attack.name!r} is given twice")
        found[attack.name] = attack
    if not found:
        raise UserError(f"no attack is given; known: {', '.join(ATTACKS)}")
    return tuple(found.values())
