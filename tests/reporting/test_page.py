"""The report's page as text: what it says, that it escapes, asks for nothing and stays small; and its drawings."""

import dataclasses
import html.parser
import importlib.resources
import re

import numpy as np
import pytest
import report_samples as samples
from hypothesis import given
from hypothesis import strategies as st

from gpz_jax.inversion.verdict import NO_LEAK_FOUND, NO_VERDICT, Verdict
from gpz_jax.reporting.page import charts, cut_panels, pictures, render, words
from gpz_jax.reporting.page.compared import compared
from gpz_jax.reporting.page.contents import Absent, Line, Plot
from gpz_jax.reporting.page.scales import scale_for

VOID = {"meta", "link", "img", "input", "br"}


class Outline(html.parser.HTMLParser):
    """Tags of a page with their attributes; whether each was closed; the text of every heading."""

    def __init__(self, text):
        super().__init__()
        self.found, self.stack, self.headings = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture(scope="module")
def page():
    return render.render(samples.contents())


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page)


def test_what_it_says(page):
    text = re.sub("<style>.*?</style>|<script>.*?</script>", "", page, flags=re.S)
    for said in (
        "Of 3 cuts, 2 leak (readable: 1, partly: 1) and 1 is not tested enough.",
        "block_2 gives away least (leaks: partly)",
        "block_1 leaks: readable. By linear: mse 0.1 [0.09, 0.11] of the class-mean floor",
        "fc: not tested enough; no attack was made. Run <code>gpz attack RUN --cut fc</code>",
        "no cut", "(more than the image itself)", "abc123", "jax 0.10", "gpz train --track-every 1", "owl",
    ):  # fmt: skip
        assert said in text, said
    for word in words.MEANINGS:
        assert f"<dt>{word}</dt>" in text


def test_every_tag_is_closed_and_the_outline_is_in_order(outline):
    assert outline.stack == []
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))


def test_what_a_screen_reader_needs(outline):
    (page,) = outline.all("html")
    assert page["lang"] == "en"
    assert all(image["alt"] for image in outline.all("img"))
    assert all(drawing.get("aria-label") or drawing.get("aria-hidden") for drawing in outline.all("svg"))
    assert all(cell.get("scope") in ("row", "col") for cell in outline.all("th"))
    ids = [attrs["id"] for _, attrs in outline.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    labelled = {attrs.get("for") for attrs in outline.all("label")}
    inputs = [attrs for attrs in outline.all("input") if attrs["type"] == "range"]
    assert all(attrs["id"] in labelled for attrs in inputs)
    for name in ("main", "header", "footer", "nav"):
        assert len(outline.all(name)) >= 1


def test_it_asks_for_nothing(page, outline):
    for tag, attrs in outline.found:
        assert not [name for name in attrs if name.startswith("on") or name == "style"], tag
        for name in ("src", "href"):
            assert attrs.get(name, "#").startswith(("#", "data:")), attrs
    assert "://" not in page
    assert "@import" not in page
    assert "url(" not in page


def test_the_policy_names_its_style_and_script(page):
    import base64
    import hashlib

    (policy,) = re.findall('Content-Security-Policy" content="([^"]*)"', page)
    policy = policy.replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_the_files_are_found_in_the_package():
    files = importlib.resources.files("gpz_jax.reporting.page") / "templates"
    names = {file.name for file in files.iterdir()}
    assert {"page.html.j2", "style.css", "script.js"} <= names


def test_markup_in_names_is_text():
    evil = samples.SCRIPT
    cuts = tuple(dataclasses.replace(one, name=evil) if i == 0 else one for i, one in enumerate(samples.run().cuts))
    run = dataclasses.replace(
        samples.run(), name=evil, class_names=(evil, '"><img src=x onerror=alert(1)>', "owl"), cuts=cuts,
        caveats=(evil,), left_out=(evil,), settings={evil: {evil: evil}}, versions={evil: evil}, fingerprint=evil,
        about=evil, folder=evil,
    )  # fmt: skip
    page = render.render(samples.contents(run))
    outline = Outline(page)
    assert len(outline.all("script")) == 1
    assert not [attrs for attrs in outline.all("img") if not attrs["src"].startswith("data:image/png")]
    assert evil not in page
    assert "&lt;script&gt;" in page


def test_several_runs_are_compared_cut_by_cut():
    page = render.render(samples.contents(samples.run("onehot", ratio=0.3), samples.run("lsplus", ratio=0.7)))
    outline = Outline(page)
    assert outline.stack == []
    for name in ("onehot", "lsplus"):
        assert page.count(f"{name}: digits") == 1
        assert f"The numbers of {name}" in page
    assert "Accuracy (validation)" in page
    assert page.count("A verdict speaks of the attacks that were made.") == 1  # it holds for both
    assert all(after <= before + 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))


def test_nothing_known_is_said_with_the_command():
    bare = tuple(dataclasses.replace(one, probed=None, cost=None, result=None) for one in samples.run().cuts[2:])
    absent = {name: Absent(f"no {name}", f"gpz {name} RUN") for name in ("attacks", "probe", "cost", "confusion")}
    run = dataclasses.replace(samples.run(), cuts=bare, absent=absent, training=Absent("none"), confusion=None)
    page = render.render(samples.contents(run))
    assert "Nothing can be said yet" in page
    for name in absent:
        assert f"no {name}" in page
        assert f"gpz {name} RUN" in page


def test_guarantees_are_shown_where_there_are_some():
    cuts = tuple(dataclasses.replace(one, guarantee=samples.GUARANTEE) for one in samples.run().cuts)
    page = render.render(samples.contents(dataclasses.replace(samples.run(), cuts=cuts)))
    assert "Guarantee: least mse, unbiased" in page
    assert "Guarantee:" not in render.render(samples.contents())


def test_a_large_result_stays_a_small_page():
    large = tuple(
        samples.cut(
            f"stage/{i}", [samples.attempt(f"attack{k}", 0.5, images=10, side=64, channels=3) for k in range(3)]
        )
        for i in range(40)
    )
    names = tuple(f"class {i}" for i in range(1000))
    run = dataclasses.replace(
        samples.run(), cuts=large, class_names=names, confusion=np.random.default_rng(0).integers(0, 3, (1000, 1000)),
        training=(Plot("Loss", "", (Line("train", range(100_000), np.linspace(2, 1, 100_000).tolist()),), "epoch"),),
    )  # fmt: skip
    page = render.render(samples.contents(run))
    assert len(page.encode()) < 5_000_000
    assert "data:image/png" in page


@pytest.mark.slow
def test_many_runs_of_many_cuts_do_too():
    one = samples.cut("", [samples.attempt("linear", 0.5, images=10, side=64, channels=3)])
    cuts = tuple(dataclasses.replace(one, name=f"stage/{i}") for i in range(53))
    runs = [dataclasses.replace(samples.run(f"seed{i}"), cuts=cuts) for i in range(12)]
    page = render.render(samples.contents(*runs))
    assert len(page.encode()) < 5_000_000


# The parts ------------------------------------------------------------------------------------------------------------


def test_pictures_are_png_and_shrunk():
    import base64
    import io

    from PIL import Image

    for shape in ((200, 100, 3), (8, 8, 1), (8, 8), (8, 8, 2)):
        uri = pictures.data_uri(np.full(shape, 0.5))
        image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        assert max(image.size) <= pictures.SIDE
        assert np.unique(np.asarray(image)).tolist() == [128]


def test_the_allowance_is_the_largest_that_fits():
    def weigh(allowance):
        return ["x" * 100] * (allowance.images * allowance.attacks)

    weight = 100 + pictures.AROUND
    assert pictures.fitting(weigh, 10**6) == pictures.ALLOWANCES[0]
    assert pictures.fitting(weigh, 25 * weight) == pictures.Allowance(8, 3, 3)
    assert pictures.fitting(weigh, 0) == pictures.ALLOWANCES[-1]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.booleans())
def test_a_scale_holds_its_values(values, log):
    scale = scale_for(values, 100.0, 0.0, log=log)
    assert scale.high > scale.low
    for value in values:
        if not scale.log:
            little = 1e-6 * (scale.high - scale.low)
            assert scale.low - little <= value <= scale.high + little
        assert -1e-6 <= scale.place(value) <= 100.000001
    assert 2 <= len(scale.ticks) <= 8
    places = [at for at, _ in scale.ticks]
    assert places == sorted(places, reverse=True)


def test_cuts_lie_above_one_another():
    drawing = charts.aligned(cut_panels.panels(samples.contents()), samples.CUTS, 860)
    assert len(drawing.columns) == 4
    middles = {column.middle for column in drawing.columns}
    for frame in drawing.frames:
        for mark in frame.marks:
            if mark.classes.startswith("marker look0"):
                x = float(re.match(r"M([\d.]+)", mark.d)[1]) + 4
                assert min(abs(x - middle) for middle in middles) < 0.2
    tops = [frame.top for frame in drawing.frames]
    assert tops == sorted(tops)
    assert drawing.frames[-1].bottom < drawing.height


def test_a_panel_without_numbers_is_left_out():
    cuts = tuple(dataclasses.replace(one, probed=None, result=None) for one in samples.run().cuts)
    found = cut_panels.panels(samples.contents(dataclasses.replace(samples.run(), cuts=cuts)))
    assert [panel.title.split(":")[0] for panel in found] == ["Price", "Price"]


def test_curves_are_thinned_and_nan_is_left_out():
    y = [1.0, 3.0] * 2500
    drawing = charts.plotted(Plot("x", "", (Line("a", range(5000), y), Line("b", (), ())), "step"))
    (line,) = drawing.frames[0].marks
    assert line.d.count("L") < charts.POINTS
    nothing = charts.plotted(Plot("x", "", (Line("a", [1, 2], [np.nan, np.nan]),), "step"))
    assert nothing.frames[0].marks == []


def test_ranks_never_propose_what_leaks_readably_or_was_not_tested():
    run = samples.run(ratio=0.5)
    assert [rank is None for rank in words.ranks(run.cuts)] == [True, False, True, True]
    assert words.least(run.cuts).name == "block_2"
    assert "None can be proposed" in words.answer(samples.run(ratio=0.2))


def test_no_leak_found_comes_before_any_leak_and_chance_is_no_verdict():
    cuts = samples.run().cuts
    clean = dataclasses.replace(cuts[0], verdict=Verdict("block_1", NO_LEAK_FOUND, "", "linear", "", {}))
    run = dataclasses.replace(samples.run(), cuts=(clean, *cuts[1:]))
    assert words.least(run.cuts).name == "block_1"
    assert "at 1 no leak was found" in words.answer(run)
    chance = tuple(dataclasses.replace(one, verdict=Verdict(one.name, NO_VERDICT, "", "", "", {})) for one in cuts)
    assert words.answer(dataclasses.replace(run, cuts=chance)).startswith("No verdict: the network")
    assert words.least(chance) is None


def test_compared_keeps_the_order_of_the_runs():
    one, two = samples.run("one"), dataclasses.replace(samples.run("two"), training=Absent("none"))
    assert compared((one, two)) == ()
    (plot,) = compared((one, two, samples.run("three")))
    assert [line.name for line in plot.lines] == ["one", "two", "three"]
    assert [len(line.x) for line in plot.lines] == [3, 0, 3]
