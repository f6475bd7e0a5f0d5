"""The verdict of a cut: the words, and the situations in which a tool must not call a cut safe."""

import dataclasses

import numpy as np
import pytest
from made_attacks import attempt

from gpz_jax.inversion.identification import Identification
from gpz_jax.inversion.results import Answers, AttackResult, Training
from gpz_jax.inversion.verdict import faults_of, leaks, verdict_of


def verdict(*attempts, answers=Answers(0.99, 0.1, 359), **more):
    return verdict_of(AttackResult("block_3", (4, 4, 8), attempts, answers=answers, **more))


def test_a_weak_decoder_does_not_hide_what_the_linear_attack_reads():
    """A decoder of five epochs at 1.06 of the floor beside a linear attack at 0.3: the cut leaks, readably."""
    weak = attempt("deconvolution", 1.06, training=Training(np.full(5, 0.05), best_epoch=5, flattened=True))
    found = verdict(attempt("linear", 0.3), weak)
    assert str(found) == "leaks: readable"
    assert found.best == "linear"
    assert set(found.faults["deconvolution"]) >= {"not_converged", "below_linear"}
    assert found.sentence.startswith("block_3 leaks: readable. By linear: mse 0.3")


def test_a_weak_decoder_alone_is_not_tested_enough():
    weak = attempt("deconvolution", 1.06, training=Training(np.full(5, 0.05), best_epoch=5, flattened=True))
    found = verdict(weak)
    assert found.word == "not tested enough"
    assert found.missing == (
        "run the attack 'linear'",
        "train a decoder until it converges (more epochs)",
        "run one more attack, such as residual or likelihood",
    )
    assert "safe" not in found.sentence


def test_what_is_poor_in_mse_and_names_its_images_leaks():
    found = verdict(attempt("linear", 1.0, named=0.6))
    assert str(found) == "leaks: traces"
    assert "60 % [53, 67] of 200 images named (by the label alone 5.0 %)" in found.sentence


def test_no_leak_found_names_what_was_tried():
    tried = attempt("linear", 1.0), attempt("deconvolution", 1.0), attempt("residual", 1.0)
    found = verdict(*tried, auxiliary=2400)
    assert found.word == "no leak found"
    assert found.sentence == "block_3: no leak found, by linear, deconvolution, residual; 2,400 auxiliary images."
    assert verdict(*tried[:2]).word == "not tested enough"
    assert verdict(*tried[1:]).missing == ("run the attack 'linear'",)


def test_a_collapsed_decoder_proves_nothing():
    collapsed = attempt("deconvolution", 1.2, collapse=0.01)
    assert faults_of(collapsed, attempt("linear", 1.0)) == ("below_linear", "below_label", "collapsed")
    found = verdict(attempt("linear", 1.0), collapsed, attempt("residual", 1.0))
    assert found.word == "not tested enough"
    assert found.missing == ("run one more attack, such as residual or likelihood",)


def test_a_network_near_chance_has_no_verdict():
    near = Answers(0.33, 0.30, 359)
    found = verdict(attempt("linear", 0.2), answers=near)
    assert found.word == "no verdict"
    assert "0.330, is within three standard errors of the commonest class, 0.300" in found.sentence
    assert verdict(attempt("linear", 0.2), answers=Answers(0.45, 0.30, 359)).word == "leaks"


def test_an_attack_that_has_not_converged_may_prove_a_leak():
    going = Training(np.linspace(0.05, 0.02, 40), best_epoch=40, flattened=False, last_gain=0.1)
    found = verdict(attempt("linear", 1.0), attempt("deconvolution", 0.6, training=going))
    assert str(found) == "leaks: partly"
    assert found.best == "deconvolution"
    assert found.faults["deconvolution"] == ("not_converged",)


@pytest.mark.parametrize(("ratio", "grade"), [(0.34, "readable"), (0.6, "partly"), (0.9, "traces")])
def test_grades(ratio, grade):
    assert verdict(attempt("linear", ratio, spread=0.01)).grade == grade


def test_the_papers_mse_makes_a_leak_readable():
    small = attempt("linear", 0.45)  # 0.45 of 0.04 is under 0.02 in the paper's convention
    assert small.scores.mse_paper < 0.02
    assert verdict(small).grade == "readable"


def test_a_decoder_that_never_beat_the_mean_image_has_not_converged():
    idle = Training(np.full(40, 0.06), best_epoch=40, flattened=True)
    assert faults_of(attempt("deconvolution", 1.0, training=idle), attempt("linear", 1.0)) == ("not_converged",)


def test_within_the_interval_is_no_leak():
    assert not leaks(attempt("linear", 1.0))
    assert not leaks(attempt("linear", 1.0, named=0.06))  # the label alone names 5 %
    assert leaks(attempt("linear", 1.0, named=0.15))


def test_old_results_without_the_linear_attack_are_not_tested_enough():
    """Neither names nor answers were kept by earlier versions: nothing is made up in their place."""
    old = dataclasses.replace(attempt("deconvolution", 1.0), identified=Identification())
    found = verdict(old, dataclasses.replace(old, attack="residual"), answers=Answers())
    assert found.word == "not tested enough"
    assert found.missing == ("run the attack 'linear'",)
