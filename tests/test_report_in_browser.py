"""The report's page in Chromium: the slider moves, keys work, limits filter, nothing is asked for, axe finds no fault.

Needs the extra [browser] and a Chromium of the system; skipped where one is missing.
"""

import dataclasses
import shutil

import pytest
import report_samples as samples

from gpz_jax.reporting.page import render

pytestmark = pytest.mark.browser

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SIZES = {"desk": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'gpz-jax[browser]'")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=program, args=list(FLAGS))
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pages of one run and of three."""
    home = tmp_path_factory.mktemp("pages")
    guaranteed = tuple(dataclasses.replace(one, guarantee=samples.GUARANTEE) for one in samples.run().cuts)
    told = dataclasses.replace(samples.run(names=(samples.SCRIPT, "dog", "owl")), cuts=guaranteed)
    pages = {
        "one": samples.contents(told),
        "three": samples.contents(*(samples.run(name, ratio=r) for name, r in (("a", 0.3), ("b", 0.6), ("c", 0.95)))),
    }
    for name, contents in pages.items():
        (home / f"{name}.html").write_text(render.render(contents))
    return {name: (home / f"{name}.html").as_uri() for name in pages}


@pytest.fixture
def opened(browser, files):
    """Opens a page; whatever it complains of or asks for fails the test."""
    contexts, faults = [], []

    def open_page(which="one", *, size="desk", scheme="light", script=True):
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=script
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda asked: (
                None if asked.url == files[which] or asked.url.startswith("data:") else faults.append(asked.url)
            ),
        )
        page.goto(files[which])
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def shown(page):
    return page.locator("article.cut:visible h3").all_text_contents()


def test_the_slider_moves_through_the_cuts(opened):
    page = opened()
    assert shown(page) == ["block_1"]
    slider = page.get_by_label("Cut", exact=False).and_(page.locator("input"))
    slider.fill("1")
    assert shown(page) == ["block_2"]
    assert page.locator("#cut-name").text_content() == "block_2"
    assert slider.get_attribute("aria-valuetext") == "block_2"
    page.get_by_role("button", name="Next cut").click()
    assert shown(page) == ["fc"]
    page.get_by_role("button", name="Previous cut").click()
    assert shown(page) == ["block_2"]
    assert page.locator(".wide-only .column.current").get_attribute("data-cut") == "1"


def test_keys_move_it_too(opened):
    page = opened()
    for key, cut in (
        ("ArrowRight", "block_2"),
        ("ArrowRight", "fc"),
        ("ArrowLeft", "block_2"),
        ("4", "block_2"),  # digits count in the section of the images alone
    ):
        page.keyboard.press(key)
        assert shown(page) == [cut], key
    page.locator("#cut-slider").focus()
    for key, cut in (("4", "logits"), ("9", "logits"), ("1", "block_1"), ("End", "logits"), ("Home", "block_1")):
        page.keyboard.press(key)
        assert shown(page) == [cut], key
    assert shown(page) == ["block_1"]
    page.keyboard.press("ArrowRight")
    assert shown(page) == ["block_2"]
    page.locator("#limit-payload").focus()
    page.keyboard.press("1")  # belongs to the field
    assert shown(page) == ["block_2"]


def test_a_link_of_the_verdicts_leads_to_its_cut(opened):
    page = opened()
    page.get_by_role("link", name="fc", exact=True).click()
    assert shown(page) == ["fc"]
    assert page.evaluate("document.activeElement.id") == "cut-2"


def test_limits_filter_the_cuts(opened):
    page = opened()
    fits = page.locator("#fits")
    assert fits.text_content().startswith("3 of 3 cuts fit: block_1, block_2, fc.")
    assert "the one that gives away least: block_2 (leaks: partly)" in fits.text_content()
    page.get_by_label("Edge parameters").fill("50")
    assert fits.text_content().startswith("2 of 3 cuts fit: block_1, block_2.")
    page.get_by_label("Bytes sent").fill("300")
    assert fits.text_content().startswith("1 of 3 cuts fit: block_2.")
    page.get_by_label("sent as").select_option("bfloat16")
    assert fits.text_content() == "No cut fits; one of the limits must give."
    assert "bytes are sent" in page.locator('.cut-line[data-cut="1"] .why-out').text_content()
    page.get_by_role("button", name="No limits").click()
    page.wait_for_function("document.getElementById('fits').textContent.startsWith('3 of 3')")
    page.get_by_label("Error").fill("0.4")
    assert fits.text_content().startswith(
        "1 of 3 cuts fit: block_2."
    )  # fc was never attacked: it meets no limit of leaks
    page.get_by_label("Images named").fill("40")
    assert fits.text_content().startswith("No cut fits")


def test_several_runs_are_judged_one_by_one(opened):
    page = opened("three")
    page.get_by_label("Error").fill("0.5")
    line = page.locator('.cut-line[data-cut="1"]')
    assert line.locator(".verdicts > li.out").count() == 1
    assert "b: block_2 (leaks: partly); c: block_2 (leaks: traces)" in page.locator("#fits").text_content()


def test_without_script_everything_is_there(opened):
    page = opened(script=False)
    assert shown(page) == list(samples.CUTS)
    assert not page.locator("#budgets").is_visible()
    assert not page.locator("#slider").is_visible()


def test_it_prints_whole(opened):
    page = opened()
    page.emulate_media(media="print")
    assert shown(page) == list(samples.CUTS)
    assert not page.locator("#slider").is_visible()


@pytest.mark.parametrize("which", ["one", "three"])
def test_it_fits_a_phone(opened, which):
    page = opened(which, size="phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES["phone"][0]
    assert page.locator(".narrow-only svg").is_visible()
    assert not page.locator(".wide-only svg").is_visible()


def test_names_with_markup_are_text(opened):
    page = opened()
    assert samples.SCRIPT in page.locator("table.confusion").text_content()
    assert page.locator("script").count() == 1


def test_focus_is_seen(opened):
    page = opened()
    for _ in range(4):
        page.keyboard.press("Tab")
        width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert float(width.removesuffix("px")) >= 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["one", "three"])
def test_axe_finds_no_fault(opened, which, scheme, size):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'gpz-jax[browser]'")
    page = opened(which, scheme=scheme, size=size)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    page.get_by_label("Edge parameters").fill("20")  # so that cuts beyond the limits are looked at too
    found = axe.Axe().run(page)
    assert [
        (fault["id"], [node["html"][:120] for node in fault["nodes"]][:4]) for fault in found.response["violations"]
    ] == []
