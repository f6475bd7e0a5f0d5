"""The report command: a page of a real run, of several, of battered ones; what cannot stand on one is one line."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import report_samples as samples
import tiny_runs
from tiny_runs import CUTS, refused

from gpz_jax import report, runs, workflow
from gpz_jax.atomic import make_folder
from gpz_jax.inversion.guarantee_result import Guarantee
from gpz_jax.inversion.results import Answers, AttackResult
from gpz_jax.inversion.verdict import NOT_TESTED
from gpz_jax.reporting.page import render
from gpz_jax.reporting.page.contents import Absent
from gpz_jax.workflow import report_measures
from gpz_jax.workflow.report_command import MOST, gather, opened


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        yield


@pytest.fixture(autouse=True, scope="module")
def priced_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_measures, "price_traced", tiny_runs.once_a_program(report_measures.price_traced))
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run with a ledger, and with records of attacks on two cuts; not to be changed."""
    home = tmp_path_factory.mktemp("home")
    tiny_runs.trained(home / "lsplus")
    with jax.numpy_dtype_promotion("standard"):
        epoch = workflow.load_run(str(home / "lsplus")).epoch
    for name in ("block_3", "fc"):
        folder = make_folder(runs.attack_folder(home / "lsplus" / "attacks", name, "linear"))
        made = (samples.attempt("linear", 0.5, side=16),)
        result = AttackResult(name, (8,), made, answers=Answers(0.9, 0.1, 359), auxiliary=300)
        runs.write_attempt(folder, result, {"epoch_of_run": epoch})
    write_ledger(home / "lsplus")
    return home


def write_ledger(folder):
    """Four steps of a ledger."""
    names = ("radius", "within", "rho", "decision_bound", "coefficient", "past_flip", "output_entropy")
    layout = runs.Layout(CUTS, [8] * len(CUTS), [2] * 10, ["fc"], names, {})
    record = runs.StepRecord.open(folder, layout, keep_steps=0)
    rows = {name: np.ones((4, *layout.shape_of(name)), np.float32) for name in names if name != "decision_bound"}
    rows["coefficient"] *= np.array([-1, -1, 1, 1], np.float32)[:, None]
    record.append({**rows, "step": np.arange(4)})


@pytest.fixture
def copy(home, tmp_path):
    return shutil.copytree(home / "lsplus", tmp_path / "lsplus")


def test_as_a_process(copy):
    done = tiny_runs.command("report", "lsplus", cwd=copy.parent)
    assert done.returncode == 0, done.stderr
    assert "page: lsplus/report.html" in done.stderr
    assert done.stdout.startswith("lsplus: ")
    page = (copy / "report.html").read_text()
    assert len(page) < 5_000_000
    for cut in CUTS:
        assert f">{cut}</a>" in page
    assert "gpz attack lsplus --cut block_1" in page
    assert "Bound on h(z) at" in page
    assert page.count("data:image/png") > 30


def test_what_is_gathered(home):
    (run,) = gather(opened([str(home / "lsplus")])).runs
    assert tuple(cut.name for cut in run.cuts) == CUTS
    by_name = {cut.name: cut for cut in run.cuts}
    assert by_name["block_1"].verdict.word == NOT_TESTED
    assert by_name["fc"].attempts[0].attack == "linear"
    assert len(by_name["fc"].attempts[0].best_inverted.originals) == 1
    assert run.confusion.sum() == run.images == 359
    assert run.accuracy == np.trace(run.confusion) / 359
    assert by_name["logits"].cost.edge_share == 1
    assert by_name["logits"].cost.payload["float32"] == 40
    assert [plot.title for plot in run.ledger][:2] == ["Output entropy", "Bound on h(z) at fc"]
    assert run.ledger[0].marked == (2.0, "sign change")
    assert run.absent == {}
    assert run.left_out == ()
    assert any("auxiliary images" in caveat for caveat in run.caveats)
    assert any("Never attacked: block_1" in caveat for caveat in run.caveats)


def test_a_battered_run_is_shown_as_far_as_it_can_be_read(copy):
    evil = "<script>alert(1)</script>"
    tiny_runs.change_json(copy / "config.json", class_names=[evil, *map(str, range(1, 10))])
    shutil.rmtree(copy / "probe")
    shutil.rmtree(copy / "dynamics.zarr")
    pictures = copy / "attacks" / "block_3-linear" / "reconstructions.npz"
    pictures.write_bytes(pictures.read_bytes()[:200])
    (copy / "attacks" / "fc-broken").mkdir()
    (copy / "attacks" / "fc-broken" / "scores.csv").write_text("image")
    runs.write_guarantees(copy / "attacks", {"fc": (Guarantee("fc", 359, mse_floor=0.01, nats=3.0), {})})
    old = make_folder(copy / "attacks" / "logits-linear")
    made = AttackResult("logits", (10,), (samples.attempt("linear", 0.5, side=16),))
    runs.write_attempt(old, made, {"epoch_of_run": 7})
    contents = gather(opened(["lsplus"]))
    (run,) = contents.runs
    assert len(run.left_out) == 3, run.left_out
    assert "the attack linear on logits is of epoch 7, the run's best is now" in run.left_out[2]
    assert "attacks/block_3-linear" in run.left_out[0]
    assert "attacks/fc-broken" in run.left_out[1]
    assert run.class_names[0] == evil
    assert run.absent["probe"].command == "gpz probe lsplus"
    command = run.ledger.command  # with the settings of this run
    assert all(flag in command for flag in ("--size 16", "--width 4", "--epochs 2", "--ls 0.3", "--track-every 1"))
    guaranteed = {cut.name: cut.guarantee for cut in run.cuts if cut.guarantee}
    assert list(guaranteed) == ["fc"]
    assert guaranteed["fc"].mse_floor == 0.01
    page = render.render(contents)
    assert evil not in page
    assert "gpz probe lsplus" in page
    assert "Left out:" in page


def test_a_run_without_attacks_and_checkpoints_still_has_a_page(copy):
    shutil.rmtree(copy / "attacks")
    shutil.rmtree(copy / "checkpoints")
    contents = gather(opened(["lsplus"]))
    (run,) = contents.runs
    assert {cut.verdict.word for cut in run.cuts} == {NOT_TESTED}
    assert "gpz attack lsplus --attack deconvolution" in run.absent["attacks"].command
    assert "has no checkpoint yet" in run.absent["cost"].why
    assert run.confusion is None
    page = render.render(contents)
    assert "Nothing can be said yet" in page
    assert "gpz attack lsplus --cut fc" in page


def test_runs_that_cannot_stand_on_one_page(copy, capsys):
    other = shutil.copytree(copy, copy.with_name("other"))
    tiny_runs.change_json(other / "config.json", fingerprint="0" * 64)
    line = refused(capsys, report.main, "lsplus", "other")
    assert line.startswith("lsplus and other are runs of different data (digits, digits; fingerprints ")
    assert "report them one by one" in line
    assert refused(capsys, report.main, "lsplus", "lsplus/") == "run lsplus is given twice"
    assert refused(capsys, report.main).startswith("a run folder is missing")
    assert refused(capsys, report.main, "nowhere").startswith("nowhere is not a run folder")
    assert "--out . is a folder" in refused(capsys, report.main, "lsplus", "--out", ".")
    for i in range(MOST + 1):
        (copy.parent / "many" / str(i)).mkdir(parents=True)
        shutil.copy(copy / "config.json", copy.parent / "many" / str(i))
    assert refused(capsys, report.main, "many").startswith(f"{MOST + 1} runs are too many for one page")
    for part in ("checkpoints", "probe"):
        shutil.rmtree(copy / part)
    (copy / "metrics.jsonl").unlink()
    assert refused(capsys, report.main, "lsplus").startswith("lsplus holds nothing to report yet")


def test_runs_of_other_cuts_are_refused(copy, capsys, monkeypatch):
    shutil.copytree(copy, copy.with_name("other"))
    found = {}

    def record(run, *, data_dir=None):
        kept = found.setdefault("first", run)
        made = dataclasses.replace(samples.run(), name=run.folder.name, folder=run.folder.name)
        return made if run is kept else dataclasses.replace(made, cuts=made.cuts[:1])

    from gpz_jax.workflow import report_command

    monkeypatch.setattr(report_command, "run_record", record)
    line = refused(capsys, report.main, "lsplus", "other")
    assert line.startswith("lsplus and other have different cuts (")


@pytest.mark.slow
def test_a_folder_of_runs_stands_for_all_of_them(copy, capsys):
    sweep = copy.parent / "sweep"
    sweep.mkdir()
    for name in ("a", "b"):
        shutil.copytree(copy, sweep / name)
    report.main(["sweep", "--out", "pages/both.html"])
    page = (copy.parent / "pages" / "both.html").read_text()
    assert "The numbers of a" in page
    assert "The numbers of b" in page
    assert "page: pages/both.html" in capsys.readouterr().err


def test_old_records_get_their_accuracy_from_the_network(copy):
    for file in (copy / "attacks").glob("*/result.json"):
        tiny_runs.change_json(file, answers=None, files={})
        kept = dict(np.load(file.with_name("reconstructions.npz")))
        np.savez(
            file.with_name("reconstructions.npz"), **{name: kept[name] for name in ("originals", "reconstructions")}
        )
    (run,) = gather(opened(["lsplus"])).runs
    fc = next(cut for cut in run.cuts if cut.name == "fc")
    assert fc.result.answers.accuracy == pytest.approx(run.accuracy)
    assert not len(fc.attempts[0].best_inverted.originals)
    assert not isinstance(run.training, Absent)
    assert run.class_names == tuple(map(str, range(10)))
