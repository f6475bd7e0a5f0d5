"""What cuts cost, as a person asks for it: of a model by name, of a run, within a budget, and what is refused."""

import csv
import io
import math
import shutil

import jax
import numpy as np
import pytest
import tiny_runs
import xarray as xr
from made_attacks import attempt
from PIL import Image
from tiny_runs import CUTS, TINY, refused

from gpz_jax import attack, cuts, presentation, runs, train, workflow
from gpz_jax.analysis import latency
from gpz_jax.analysis.budget import most_identified
from gpz_jax.atomic import make_folder
from gpz_jax.config import Config, DataConfig, ModelConfig, resolve
from gpz_jax.data.sources import fingerprint
from gpz_jax.inversion.results import Answers, AttackResult, joined
from gpz_jax.reporting import cuts_table, figures
from gpz_jax.training import classifier
from gpz_jax.workflow import BareModel, CutsConfig, cuts_command
from gpz_jax.workflow.advice import TRUST, recommend, words_on_payload

GOOD = Answers(0.9, 0.1, 359)
SMALL = ("cnn", "--size", "16", "--width", "4")
QUICK = ("--no-latency",)


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one epoch without its training, a probe and an attack as they are written; not to be changed."""
    with jax.numpy_dtype_promotion("standard"):
        config = resolve(Config(DataConfig(size=16), ModelConfig(width=4, dtype="float32")))
        dealt, source = workflow.load_data(config.data, config.seed)
        folder = str(tmp_path_factory.mktemp("home") / "run")
        recipe = classifier.recipe_for(config, dealt.num_classes, 1)
        shapes = jax.eval_shape(lambda: classifier.init_state(jax.random.key(0), recipe, 1))
        state = jax.tree.map(lambda s: jax.numpy.full(s.shape, 1, s.dtype), shapes)
        with runs.start(
            config, folder=folder, resume=False, fingerprint=fingerprint(source), num_classes=10, channels=1
        ) as found:
            measured = {"validation_accuracy": 0.5, "validation_loss": 1.0}
            runs.Checkpoints(found).save(1, state, measured=measured, candidate=True)
    values = np.arange(1.0, 7.0)
    record = xr.Dataset(
        {
            "within": ("cut", 100 / values),
            "rho": ("cut", 1 - values / 10),
            "dimension": ("cut", [256, 128, 64, 32, 50, 10]),
            "zone": (("rule", "cut"), [["", "onset", "", "", "", ""], ["", "", "", "", "onset", "zone"]]),
        },
        coords={"cut": list(CUTS), "rule": ["paper", "null"]},
        attrs={"epoch": 1},
    )
    runs.write_zarr(record, found.subfolder("probe") / "test.zarr")
    attacked(found.folder, "logits", linear=0.75)
    return found.folder


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


@pytest.fixture(autouse=True, scope="module")
def priced_once():
    """Most of these tests are of one network: each program is priced once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts_command, "price_traced", tiny_runs.once_a_program(cuts_command.price_traced))
        yield


@pytest.fixture
def not_drawn(monkeypatch):
    monkeypatch.setattr(figures, "cuts_figure", lambda *a, **k: None)


CONVINCING = {"linear": 1.0, "deconvolution": 1.0, "residual": 1.0}


def attacked(folder, cut, epoch=1, *, answers=GOOD, **ratios):
    """Write attacks that were left with so much of the class-mean floor each, and name 1 - ratio of the images."""
    made = AttackResult(cut, (8,), (), answers=answers, auxiliary=2400)
    for name, ratio in (ratios or CONVINCING).items():
        made = joined(made, [attempt(name, ratio, named=max(0.05, 1 - ratio))])
        home = make_folder(runs.attack_folder(folder / "attacks", cut, name))
        runs.write_attempt(home, made, {"epoch_of_run": epoch})


def rewritten(folder, **changed):
    """The run's probe with other columns in place of its own."""
    file = folder / "probe" / "test.zarr"
    with xr.open_zarr(file) as record:
        record.load()
    for name, values in changed.items():
        record[name] = (record[name].dims, values)
    runs.write_zarr(record, file)


def table(text, lines_of_head=2):
    """First cell -> head (its lines joined by a space) -> first line of the cell, of the table that was printed."""
    lines = [[cell.strip() for cell in line.strip().strip("┃│").split("┃" if "┃" in line else "│")]
             for line in text.splitlines() if line.lstrip().startswith(("┃", "│"))]  # fmt: skip
    heads = [" ".join(words).strip() for words in zip(*lines[:lines_of_head], strict=True)]
    return {row[0]: dict(zip(heads, row, strict=True)) for row in lines[lines_of_head:] if row[0]}


def printed(capsys, *argv):
    capsys.readouterr()
    cuts.main([str(word) for word in argv])
    return capsys.readouterr().out


def read(file):
    with file.open() as opened:
        return {row["cut"]: row for row in csv.DictReader(opened)}


def assert_png(file):
    with Image.open(file) as image:
        image.load()
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).std() > 1


# A model -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_papers_deepest_network_in_one_table(capsys, tmp_path):
    said = printed(capsys, "ir152", *QUICK, "--wide", "--out", "o")
    assert "62,091,978 parameters, 6.95 GFLOP, 64x64x3 images (12 KiB), batch of 1" in said
    rows = table(said)
    assert list(rows) == [*(f"block_{n}" for n in range(1, 52)), "embedding", "logits"]
    assert rows["block_49"] == {
        "cut": "block_49", "shape": "4x4x512", "values": "8,192", "edge parameters": "48,447,680",
        "share (%)": "78.03", "cloud parameters": "13,644,298", "edge FLOP": "6.73 G", "cloud FLOP": "218 M",
        "payload float32": "32 KiB", "payload bfloat16": "16 KiB", "payload uint8": "8 KiB", "edge memory": "4.25 MiB",
    }  # fmt: skip
    assert rows["logits"]["cloud parameters"] == "0"
    assert "recommended" not in said
    for row in read(tmp_path / "o" / "cuts.csv").values():
        assert int(row["edge_parameters"]) + int(row["cloud_parameters"]) == 62_091_978
        assert int(row["edge_flops"]) + int(row["cloud_flops"]) == 6_945_103_114


@pytest.mark.slow
def test_a_models_settings_reach_it():
    def edges(**settings):
        priced = workflow.price("vit", CutsConfig(no_latency=True), bare=BareModel(size=16, **settings))
        return priced.rows

    assert edges(depth=0.1)[-1]["edge_parameters"] == edges(depth=0.1, width=128)[-1]["edge_parameters"]  # the paper's
    small = edges(width=8, heads=2, depth=0.5, patch=8, channels=1, classes=3)
    assert [row["cut"] for row in small] == ["block_1", "block_2", "block_3", "class_token", "logits"]
    assert small[0]["shape"] == "5x8"  # 4 patches and the class token
    assert small[-1]["values"] == 3
    patches, positions = 8 * 8 * 1 * 8 + 8, 5 * 8 + 8
    block = 2 * 16 + 4 * (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8)
    assert small[0]["edge_parameters"] == patches + positions + block
    [first, *_] = workflow.price_model(
        "cnn", BareModel(size=16, width=4), CutsConfig(no_latency=True, batch_size=3)
    ).rows
    assert first["payload_bfloat16"] == 3 * 2 * first["values"]


@pytest.mark.thorough
def test_a_bare_model_is_timed_by_pieces_and_where_asked_as_whole_halves(capsys, tmp_path):
    said = printed(capsys, *SMALL, "--repeats", "2", "--cut", "block_3", "--cut", "block_1", "--out", "there")
    assert "batch of 1; median of 2 runs on cpu" in said
    words = [line for line in said.splitlines() if "as two whole halves" in line]
    assert [line.split(":")[0] for line in words] == ["block_1", "block_3"]
    rows, shown = read(tmp_path / "there" / "cuts.csv"), table(said)
    assert tuple(rows) == tuple(shown) == CUTS
    total = float(rows["logits"]["edge_ms"])
    for cut, row in rows.items():
        assert float(row["edge_ms"]) + float(row["cloud_ms"]) == pytest.approx(total)
        assert shown[cut]["edge ms"] == presentation.number(float(row["edge_ms"]))
        assert math.isfinite(float(row["edge_ms_whole"])) == (cut in ("block_1", "block_3"))
    assert rows["logits"]["cloud_ms"] == "0.0"
    assert_png(tmp_path / "there" / "cuts.png")


def test_no_latency_times_and_fills_nothing(capsys, monkeypatch):
    for name in ("time_pieces", "time_halves"):
        monkeypatch.setattr(latency, name, lambda *a, **k: pytest.fail("it timed"))
    monkeypatch.setattr(
        "gpz_jax.workflow.cut_timing.random_values", lambda *a: pytest.fail("it filled the network with numbers")
    )
    assert "ms" not in printed(capsys, *SMALL, *QUICK)


ROW = {
    "cut": "block_4", "shape": "16x16x128", "values": 32768, "valid": True, "edge_parameters": 1_234_567,
    "edge_share": 0.123, "cloud_parameters": 2_345_678, "edge_flops": 1.2e9, "cloud_flops": 3e9,
    "payload_float32": 131072, "payload_bfloat16": 65536, "payload_uint8": 32768, "edge_memory": 2**21,
    "edge_ms": 12.3, "cloud_ms": 23.4, "within": 123.4, "rho": 0.5, "zone_paper": "", "zone_null": "onset",
    "mse": 0.0123, "ratio": 0.456, "flattened": False, "identified": 0.25, "identified_within": 0.5,
    "basis": "verdict", "verdict": "leaks: partly", "within_budget": True, "recommended": True,
}  # fmt: skip
DECIDING = ["edge parameters", "edge ms", "zone: null", "/class mean", "verdict"]


@pytest.mark.parametrize("payload", ["uint8", "float32"])
def test_what_decides_fits_80_columns_and_the_rest_is_named(payload):
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    console.print(cuts_table.cuts_table("a [title]", [ROW], payload=payload))
    said = console.export_text()
    heads = table(said)["block_4 *"]
    assert {*DECIDING, f"payload {payload}"} == set(heads) - {"cut"}
    assert "with --wide also: shape, values, share (%)" in " ".join(said.split())
    assert "…" not in said
    assert "a [title]" in said
    assert heads["/class mean"] == "0.456?"
    assert heads["zone: null"] == "onset"


def test_wide_has_every_column():
    from rich.console import Console

    console = Console(width=300, record=True, file=io.StringIO())
    console.print(cuts_table.cuts_table("t", [ROW], wide=True))
    heads = table(console.export_text())["block_4 *"]
    assert {
        "payload float32",
        "payload bfloat16",
        "payload uint8",
        "mse",
        "R_c^2",
        "rho",
        "identi- fied",
        "zone: paper",
    } <= set(heads)


# A run ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_runs_table_carries_price_probe_and_attack(capsys, tmp_path):
    train.main([*TINY, "--epochs", "1", "--run", "real"])
    attack.main(["real", "--cut", "logits", "--epochs", "1", "--decoder-width", "4"])
    assert_table_carries_price_probe_and_attack(tmp_path / "real", capsys)


def test_a_runs_table_carries_price_probe_and_attack(copy, capsys):
    said = assert_table_carries_price_probe_and_attack(copy, capsys)
    assert "no cut is recommended: none that could be has been tested enough." in said
    assert "Begin with fc, the deepest of them: " in said


def assert_table_carries_price_probe_and_attack(copy, capsys):
    said = printed(capsys, copy, *QUICK, "--wide")
    shown, rows = table(said), read(copy / "cuts.csv")
    assert "8x8x1 images (64 B)" in said  # as they are sent in, before they are resized
    assert tuple(rows) == CUTS
    with xr.open_zarr(copy / "probe" / "test.zarr") as record:
        record.load()
    for cut, row in rows.items():
        at = record.sel(cut=cut)
        assert float(row["within"]) == float(at.within)
        assert float(row["rho"]) == float(at.rho)
        assert [row["zone_paper"], row["zone_null"]] == [
            str(at.zone.sel(rule=rule).values) for rule in ("paper", "null")
        ]
        line = shown[f"{cut} *" if f"{cut} *" in shown else cut]
        assert line["rho"] == presentation.number(float(at.rho))
        assert int(row["values"]) == at.dimension
    (result,) = runs.read_results(copy / "attacks", pytest.fail)
    row = rows.pop("logits")
    assert [float(row["mse"]), float(row["ratio"])] == [result.best.scores.mse, result.best.scores.ratio]
    assert float(row["identified"]) == max(one.identified.top1 for one in result.attempts)
    assert row["basis"] == "verdict"
    assert {(row["ratio"], row["verdict"], row["basis"]) for row in rows.values()} == {
        ("nan", "not tested enough", "probe only")
    }
    assert_png(copy / "figures" / "cuts.png")
    # The edge of a run begins at its uint8 images: it resizes and normalises, a bare model's does not.
    bare = workflow.price_model("cnn", BareModel(size=16, width=4, channels=1), CutsConfig(no_latency=True)).rows
    assert bare[0]["edge_parameters"] == int(rows["block_1"]["edge_parameters"])
    assert bare[0]["edge_flops"] < int(rows["block_1"]["edge_flops"])
    assert bare[0]["cloud_flops"] == int(rows["block_1"]["cloud_flops"])
    return said


@pytest.mark.thorough
def test_a_run_is_timed_with_its_own_variables(copy, capsys):
    said = printed(capsys, copy, "--repeats", "1", "--budget-ms", "1e6", "--batch-size", "2", "--out", "elsewhere")
    assert "batch of 2; median of 1 runs" in said
    assert "none within --budget-ms 1e+06 that could be has been tested enough" in said
    assert "fc: edge " in said
    assert "more to send than the image itself (128 bytes), as uint8: block_1, block_2\n" in said
    assert not (copy / "cuts.csv").exists()
    assert math.isfinite(float(read(copy.parent / "elsewhere" / "cuts.csv")["fc"]["edge_ms_whole"]))


def test_a_cut_that_sends_more_than_the_image_says_how_many_times():
    rows = [
        {"cut": cut, "valid": True, "payload_uint8": sent, "cloud_flops": left}
        for cut, sent, left in (("a", 400, 9), ("b", 300, 5), ("c", 90, 1), ("logits", 10, 0))
    ]
    assert words_on_payload(rows, "uint8", 500) == ""
    said = "more to send than the image itself (100 bytes), as uint8: a, b"
    assert words_on_payload(rows, "uint8", 100, "c") == words_on_payload(rows, "uint8", 100) == said
    named = words_on_payload(rows, "uint8", 100, "b")
    assert named.startswith("b sends 300 bytes as uint8, 3 times the image itself; ")
    assert named.endswith(f"the first that sends no more is c. {said}")
    assert "sends no more is none." in words_on_payload(rows, "uint8", 50, "b")  # not the logits


def said_of(folder, capsys, *flags):
    """What is said below the table, and the near misses."""
    said = printed(capsys, folder, *QUICK, *flags)
    said, _, near = said.partition("near misses")
    return said, table(near, lines_of_head=1) if near else {}


@pytest.mark.usefixtures("not_drawn")
def test_only_what_has_a_verdict_is_recommended(copy, capsys):
    """By verdict, then by what is named within the class, then by ratio; never what can be read, here or further on."""
    shutil.rmtree(copy / "attacks")
    attacked(copy, "block_1", linear=0.9, deconvolution=0.9)
    attacked(copy, "block_2", linear=0.3, deconvolution=1.0)
    attacked(copy, "block_3", linear=0.6, deconvolution=0.6)
    attacked(copy, "block_4", linear=0.7, deconvolution=0.7)
    attacked(copy, "fc", linear=0.95)  # no decoder
    attacked(copy, "logits")
    said, near = said_of(copy, capsys)
    assert "recommended cut: block_4. block_4 leaks: partly. By " in said
    assert "It may leak more: run one more attack, such as residual or likelihood." in said
    assert "ruled out, since they or a cut behind them give away too much: block_1, block_2\n" in said
    assert "not tested enough to be compared with it: fc\n" in said  # and logits leave the cloud nothing to do
    assert near == {}
    assert (
        "recommended cut within --budget-payload 64 as uint8: block_4"
        in said_of(copy, capsys, "--budget-payload", "64")[0]
    )
    assert "what is within leaves the cloud nothing to do" in said_of(copy, capsys, "--budget-payload", "10")[0]
    attacked(copy, "fc")
    assert (
        "recommended cut: fc. fc: no leak found, by linear, deconvolution, residual; 2,400 auxiliary images."
        in (said_of(copy, capsys)[0])
    )


@pytest.mark.thorough
@pytest.mark.usefixtures("not_drawn")
def test_limits_of_leaks_and_near_misses(copy, capsys):
    shutil.rmtree(copy / "attacks")
    for cut, ratio in zip(CUTS, (0.2, 0.3, 0.6, 0.7, 0.9, 0.95), strict=True):
        attacked(copy, cut, linear=ratio, deconvolution=ratio)
    assert "--min-ratio 0.8: fc." in said_of(copy, capsys, "--min-ratio", "0.8")[0]
    assert "--max-identified 0.2: fc." in said_of(copy, capsys, "--max-identified", "0.2")[0]
    assert "--max-identified 20%: fc." in said_of(copy, capsys, "--max-identified", "20%")[0]
    said, near = said_of(copy, capsys, "--min-ratio", "0.8", "--budget-params", "20%")
    assert "no cut is recommended: none within --budget-params 20% and --min-ratio 0.8 keeps back enough." in said
    assert "ruled out, since they or a cut behind them give away too much: block_1, block_2" in said
    assert set(near) == {"block_1", "block_2", "block_3", "block_4", "fc"}  # the logits leave the cloud nothing to do
    assert near["fc"]["misses"].endswith(" edge parameters")
    assert near["block_2"]["misses"] == "0.3 of the class-mean floor"
    assert printed(capsys, copy, *QUICK, "--min-ratio", "0.98").count("(--min-ratio 0.98)") == 5
    assert near["block_1"]["verdict"] == "leaks: readable"


@pytest.mark.usefixtures("not_drawn")
def test_a_network_near_chance_has_no_cut_to_recommend(copy, capsys):
    """Its parameters are all one: it answers one class, whatever an attack says of its cuts."""
    shutil.rmtree(copy / "attacks")
    said = printed(capsys, copy, *QUICK, "--budget-params", "60%", "--budget-payload", "1100")
    assert "no cut is recommended. block_1: no verdict. The network's accuracy, 0." in said
    assert "is within three standard errors of the commonest class" in said
    assert {row["verdict"] for row in read(copy / "cuts.csv").values()} == {"no verdict"}


def test_recommend_prefers_what_is_valid_and_within_budget():
    good = {"valid": True, "within_budget": True, "verdict": "leaks: traces", "sentence": "", "rho": 0.5}
    rows = [
        {**good, "cut": "a", "ratio": 0.5, "identified_within": 0.25},
        {**good, "cut": "b", "ratio": 0.9, "identified_within": 0.0, "valid": False},
        {**good, "cut": "c", "ratio": 0.9, "identified_within": 0.0, "within_budget": False},
        {**good, "cut": "d", "ratio": 0.6, "identified_within": 0.25},
        {**good, "cut": "e", "ratio": 0.9, "identified_within": 0.5},
    ]
    assert recommend(rows, [], run="r").choice == "d"
    rows[4]["verdict"] = "no leak found"
    assert recommend(rows, [], run="r").choice == "e"
    assert recommend(rows, [most_identified("0.3")], run="r").choice is None  # nobody measured it
    rows[4]["identified"] = 0.4  # no leak was found, but the label alone names as many
    assert recommend(rows, [most_identified("0.5")], run="r").choice == "e"
    assert recommend(rows, [most_identified("0.3")], run="r").words[0] == (
        "no cut is recommended: none within --max-identified 0.3 keeps back enough."
    )
    for row in rows:
        row["verdict"] = "leaks: readable"
    choice, words, first = recommend(rows, [], run="r")
    assert (choice, first) == (None, "")
    assert words[0] == "no cut is recommended: none keeps back enough."


def test_a_link_adds_its_time(capsys, tmp_path, monkeypatch):
    timed = {cut: latency.Latency(0.004 + 0.001 * i, 0.1 - 0.001 * i) for i, cut in enumerate(CUTS)}
    monkeypatch.setattr(latency, "time_pieces", lambda *a, **k: timed)
    monkeypatch.setattr(figures, "cuts_figure", lambda *a, **k: None)
    said = printed(capsys, *SMALL, "--bandwidth", "80kbps", "--rtt", "20ms", "--out", "o")
    rows = read(tmp_path / "o" / "cuts.csv")
    for row in rows.values():  # 10 bytes a millisecond
        assert float(row["transfer_ms"]) == pytest.approx(20 + int(row["payload_uint8"]) / 10)
        assert float(row["end_to_end_ms"]) == pytest.approx(104 + float(row["transfer_ms"]))
    least = min(float(row["end_to_end_ms"]) for cut, row in rows.items() if cut != "logits")  # these are no cut
    assert f"fastest from image to answer: block_4, {least:.3g} ms" in said
    assert table(said)["logits"]["end to end ms"] == "125"


def test_a_budget_keeps_the_rows_that_meet_it(capsys, tmp_path):
    said = printed(capsys, *SMALL, *QUICK, "--budget-params", "6%", "--payload", "float32", "--budget-payload", "1000",
                   "--out", "o")  # fmt: skip
    rows = read(tmp_path / "o" / "cuts.csv")
    limit = 0.06 * int(rows["logits"]["edge_parameters"])
    inside = [
        cut for cut, row in rows.items() if int(row["edge_parameters"]) <= limit and int(row["payload_float32"]) <= 1000
    ]
    assert inside == ["block_2"]
    assert list(table(said)) == ["block_2"]
    assert [cut for cut, row in rows.items() if row["within_budget"] == "True"] == inside
    assert "1 of 6 cuts are within budget" in " ".join(said.split())
    assert "deepest cut within --budget-params 6% and --budget-payload 1000 as float32 that leaves the cloud" in said
    assert "something to do: block_2. What it" in " ".join(said.split())
    assert list(table(printed(capsys, *SMALL, *QUICK, "--budget-params", rows["block_1"]["edge_parameters"]))) == [
        "block_1"
    ]


def test_of_a_bare_model_the_deepest_cut_that_leaves_the_cloud_something_is_named(capsys):
    said = " ".join(printed(capsys, *SMALL, *QUICK, "--budget-params", "100%").split())
    assert "deepest cut within --budget-params 100% that leaves the cloud something to do: fc. What it gives" in said
    assert TRUST in said
    said = printed(capsys, *SMALL, *QUICK, "--budget-payload", "10")
    assert "what is within --budget-payload 10 as uint8 leaves the cloud nothing to do: logits\n" in said
    assert TRUST not in " ".join(said.split())
    assert "fc" in table(said[said.index("near misses") :], 1)


def test_where_attacks_are_missing_the_deepest_cut_is_named_with_why():
    row = {"valid": True, "within_budget": True, "verdict": "not tested enough", "sentence": ""}
    rows = [row | {"cut": "a"}, row | {"cut": "b"}, row | {"cut": "c", "within_budget": False}]
    choice, words, first = recommend(rows, [], run="r")
    assert (choice, first) == (None, "b")
    assert words[1].startswith("Begin with b, the deepest of them: python -m gpz_jax.attack r --cut b ")
    assert words[2] == TRUST
    rows[1]["cloud_flops"] = 0.0
    assert recommend(rows, [], run="r").test_first == "a"


@pytest.mark.usefixtures("not_drawn")
def test_the_test_images_probe_is_read_first_and_a_damaged_one_passed_over(copy, capsys):
    first = copy / "probe" / "auxiliary.zarr"
    shutil.copytree(copy / "probe" / "test.zarr", first)
    rewritten(copy, rho=[0.95, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert workflow.price(str(copy), CutsConfig(no_latency=True)).rows[0]["rho"] == 0.95
    (copy / "probe" / "test.zarr" / "zarr.json").write_text("no JSON")
    (copy / "attacks" / "logits-linear" / "result.json").write_text('{"cut": "logits"}')
    capsys.readouterr()
    rows = workflow.price(str(copy), CutsConfig(no_latency=True)).rows
    said = capsys.readouterr().err
    assert "test.zarr/zarr.json is damaged: no JSON" in said
    assert "result.json cannot be read (KeyError" in said
    with xr.open_zarr(first) as record:
        assert [row["rho"] for row in rows] == list(record.rho.values)
    assert all(math.isnan(row["ratio"]) for row in rows)


@pytest.mark.usefixtures("not_drawn")
def test_what_was_found_of_another_epoch_is_left_out(copy, capsys):
    attacked(copy, "fc", 7, linear=0.5)
    rows = workflow.price(str(copy), CutsConfig(no_latency=True)).rows
    said = capsys.readouterr().err
    assert "the attack linear on fc is of epoch 7, the run's best is now 1: make it again; it is left out" in said
    assert math.isnan(rows[4]["ratio"])
    assert "the probe" not in said


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["ir125"], "'ir125' is neither a model nor a run folder; did you mean 'ir152'?"),
        (["runs/nothing"], "'runs/nothing' is neither a model nor a run folder; known: cnn, cnn6, resnet18"),
        (["."], "is not a run folder"),
        ([], "a run folder is missing"),
        ([*SMALL, "--cut", "block4"], "unknown cut 'block4'; did you mean 'block_4'?"),
        ([*SMALL, "--size", "20"], "--size must be a positive multiple of 16"),
        ([*SMALL, "--depth", "2"], "--depth 2: the cnn has one depth"),
        ([*SMALL, "--classes", "0"], "--classes must be at least 1, got 0"),
        ([*SMALL, "--channels", "-1"], "--channels must be at least 1, got -1"),
        ([*SMALL, "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        ([*SMALL, "--repeats", "0"], "--repeats must be at least 1, got 0"),
        ([*SMALL, "--budget-payload", "0"], "--budget-payload must be at least 1, got 0"),
        ([*SMALL, "--budget-ms", "0"], "--budget-ms must be a positive number, got 0"),
        ([*SMALL, "--budget-ms", "nan"], "--budget-ms must be a positive number, got nan"),
        ([*SMALL, "--budget-params", "lots"], "--budget-params must be 1 parameter or more, or such a share as 10%"),
        ([*SMALL, "--budget-params", "0%"], "--budget-params must be 1 parameter or more, or such a share as 10%"),
        ([*SMALL, "--budget-params", "0.1"], "such a share as 10%, got '0.1' (for a share: 10%)"),
        ([*SMALL, "--budget-params", "500%"], "--budget-params is 500%; a share of the parameters is 100% at most"),
        ([*SMALL, "--budget-params", "nan%"], "--budget-params must be 1 parameter or more, or such a share as 10%"),
        ([*SMALL, "--budget-ms", "1", *QUICK], "--budget-ms needs what --no-latency leaves out"),
        ([*SMALL, "--bandwidth", "5Mbps", *QUICK], "--bandwidth needs what --no-latency leaves out"),
        ([*SMALL, "--bandwidth", "5"], "--bandwidth must be a positive number with a unit of bps, kbps, Mbps, Gbps"),
        ([*SMALL, "--bandwidth", "0Mbps"], "--bandwidth must be a positive number with a unit"),
        ([*SMALL, "--bandwidth", "5Mbps", "--rtt", "-2ms"], "--rtt"),
        ([*SMALL, "--bandwidth", "5Mbps", "--rtt", "20"], "--rtt must be a number with a unit of us, ms, s, such as"),
        ([*SMALL, "--rtt", "20ms"], "--rtt needs --bandwidth beside it"),
        ([*SMALL, "--min-ratio", "0.9"], "--min-ratio is for a run that was attacked; a bare model has no verdict"),
        ([*SMALL, "--cut", "fc", *QUICK], "--cut needs what --no-latency leaves out"),
        ([*SMALL, "--payload", "int8"], "int8"),
        ([*SMALL, "--data-dir", "x"], "--data-dir is for a run; 'cnn' is a model"),
        ([*SMALL, "--budget-param", "1"], "unknown flag '--budget-param'; did you mean '--budget-params'?"),
    ],
)  # fmt: skip
def test_refused(capsys, monkeypatch, flags, said):
    monkeypatch.setattr(latency, "time_pieces", lambda *a, **k: pytest.fail("it timed"))
    assert said in refused(capsys, cuts.main, *flags)


def test_a_run_takes_no_settings_of_a_model(run, capsys):
    said = refused(capsys, cuts.main, run, "--width", "4")
    assert said == f"--width is for a bare model; {str(run)!r} is a run and has its own"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--min-ratio", "0"], "--min-ratio must lie in (0, 2], got 0"),
        (["--max-ratio", "2.5"], "--min-ratio must lie in (0, 2], got 2.5"),
        (["--min-ratio", "nan"], "--min-ratio must lie in (0, 2], got nan"),
        (["--max-identified", "1.5"], "--max-identified must be a share in (0, 1], such as 0.1 or 10%, got '1.5'"),
        (["--max-identified", "few"], "--max-identified must be a share in (0, 1], such as 0.1 or 10%, got 'few'"),
    ],
)
@pytest.mark.usefixtures("not_drawn")
def test_limits_out_of_range(run, capsys, flags, said):
    assert refused(capsys, cuts.main, run, *QUICK, *flags) == said


def test_a_folder_that_cannot_be_made(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert "choose another --out" in refused(capsys, cuts.main, *SMALL, *QUICK, "--out", "file/below")


@pytest.mark.usefixtures("not_drawn")
def test_a_budget_that_nothing_meets_shows_what_would_have_to_give(capsys, monkeypatch):
    def near(*flags):
        said = printed(capsys, *SMALL, *flags)
        assert "no cut of cnn is within --budget-" in said
        return {cut: cells["misses"] for cut, cells in table(said[said.index("near misses") :], 1).items()}

    monkeypatch.setattr(latency, "time_pieces", lambda *a, **k: pytest.fail("it timed"))
    edge = workflow.price_model("cnn", BareModel(size=16, width=4), CutsConfig(no_latency=True)).rows[0]
    first = next(iter(near("--budget-params", "50").items()))
    assert first == ("block_1", f"{edge['edge_parameters']} edge parameters")
    found = near("--budget-params", str(edge["edge_parameters"]), "--budget-payload", "10")
    assert next(iter(found)) in ("block_1", "logits")  # each misses one of the two
    timed = {cut: latency.Latency(0.004 + 0.001 * i, 0.1) for i, cut in enumerate(CUTS)}
    monkeypatch.setattr(latency, "time_pieces", lambda *a, **k: timed)
    assert near("--budget-ms", "2")["block_1"] == "4 ms on the edge"


def test_a_bypassed_cut_is_shown_but_neither_timed_nor_recommended(capsys, monkeypatch):
    import flax.linen as nn

    from gpz_jax.taps import Tap

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            h = nn.Dense(4, name="stem")(x.reshape(x.shape[0], -1))
            h = h + Tap(name="branch")(nn.Dense(4, name="inner")(h))
            return nn.Dense(10, name="head")(Tap(name="joined")(h))

    monkeypatch.setattr("gpz_jax.workflow.cuts_command.build", lambda *a, **k: Net())
    said = printed(capsys, *SMALL, "--repeats", "1", "--budget-params", "99%")
    rows = table(said)
    assert list(rows) == ["branch (bypassed)", "joined"]
    assert rows["branch (bypassed)"]["edge ms"] == ""
    assert "the halves of a bypassed cut overlap" in " ".join(said.split())
    said = refused(capsys, cuts.main, *SMALL, "--cut", "branch")
    assert said == "cut 'branch' is bypassed, so no cloud half runs from its z alone; valid cuts: joined, logits"


# Help and figures ----------------------------------------------------------------------------------------------------


def test_help_teaches(tmp_path):
    said = tiny_runs.command("cuts", "--help", cwd=tmp_path)
    assert said.returncode == 0
    assert said.stderr == ""
    flags = """--budget-params --budget-payload --payload --budget-ms --min-ratio --max-identified --bandwidth --rtt
        --cut --batch-size --repeats --no-latency --width --depth --patch --heads --dtype --size --channels --classes
        --data-dir --out"""
    assert [flag for flag in flags.split() if flag not in said.stdout.split()] == []
    assert "python -m gpz_jax.cuts " in said.stdout.split("Examples:")[1]
    assert "MODEL-or-RUN" in said.stdout


def drawn(tmp_path, monkeypatch, rows, **options):
    """The axes of the figure."""
    found = []
    new = figures.new_figure
    monkeypatch.setattr(figures, "new_figure", lambda *a: found.append(new(*a)) or found[-1])
    figures.cuts_figure(rows, tmp_path / "f.png", title="cost$5$\\bad{", **options)
    assert_png(tmp_path / "f.png")
    return found[0][0].axes


def test_the_figure_shows_attacks_and_where_there_are_none_rho(tmp_path, monkeypatch):
    plain = {"valid": True, "within_budget": True, "recommended": False, "payload_uint8": 64, "zone_null": ""}
    rows = [
        {**plain, "cut": "a", "edge_share": 0.1, "ratio": 0.2, "rho": 0.9},
        {**plain, "cut": "b", "edge_share": 0.2, "ratio": math.nan, "rho": 0.5},
        {
            **plain,
            "cut": "c$",
            "edge_share": 1.0,
            "ratio": 0.8,
            "rho": 0.1,
            "recommended": True,
            "zone_null": "onset",
        },
        {**plain, "cut": "d", "edge_share": 0.3, "ratio": 9.0, "rho": 0.1, "valid": False},
    ]
    axes = drawn(tmp_path, monkeypatch, rows, limits={"edge_share": 0.5, "payload_uint8": 100})
    left, right, left_rho, right_rho = axes
    assert [text.get_text() for text in left.texts] == [text.get_text() for text in right.texts] == ["a", "c$"]
    assert [text.get_text() for text in left_rho.texts] == [text.get_text() for text in right_rho.texts] == ["b"]
    assert left_rho.yaxis_inverted()
    assert not left.yaxis_inverted()
    points = [tuple(map(float, line.get_xydata()[0])) for line in left.lines if len(line.get_xydata()) == 1]
    assert points == [(10.0, 0.2), (100.0, 0.8), (100.0, 0.8)]  # the last is ringed
    budgets = [line.get_xdata()[0] for line in (*left.lines, *right.lines) if line.get_label() == "budget"]
    assert budgets == [50, 100]


def test_the_figure_of_a_bare_model_shows_depth_and_names_few_of_many(tmp_path, monkeypatch):
    row = {"valid": True, "within_budget": True, "recommended": False}
    rows = [{**row, "cut": f"n{i}", "edge_share": i / 60, "payload_bfloat16": 60 - i} for i in range(60)]
    left, _ = drawn(tmp_path, monkeypatch, rows, payload="bfloat16")
    assert left.get_ylabel().startswith("depth")
    assert left.get_xscale() == "linear"  # an edge without parameters has no place on a logarithmic axis
    assert 10 <= len(left.texts) <= 14
    assert {left.texts[0].get_text(), left.texts[-1].get_text()} == {"n0", "n59"}
