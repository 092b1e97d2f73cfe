"""The report in a real browser: hostile answers stay text, and search, filters, folds and themes work."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dualselect.reports import write_report

pytestmark = pytest.mark.slow

_PATIENCE = 60_000  # milliseconds: machines may be busy, and nothing here is about speed
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Yield Chromium; without one the tests are skipped, but fail where CI is set."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        found, missing = None, "playwright is not installed: pip install playwright"
    else:
        missing = "there is no Chromium: apt-get install chromium"
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def reports(run_folder: Path, compare_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the addresses of the two kinds of pages, with and without texts."""
    folder = tmp_path_factory.mktemp("reports")
    written = {
        "run": write_report(run_folder, folder / "run.html"),
        "compare": write_report(compare_folder, folder / "compare.html"),
        "run without texts": write_report(run_folder, folder / "bare-run.html", texts=False),
        "compare without texts": write_report(compare_folder, folder / "bare-compare.html", texts=False),
    }
    return {name: path.as_uri() for name, path in written.items()}


class Watched:
    """A page that remembers everything that should not happen."""

    def __init__(self, browser: Any, **context: Any) -> None:
        self.context = browser.new_context(reduced_motion="reduce", **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(_PATIENCE)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture
def open_page(browser: Any, reports: dict[str, str]) -> Iterator[Any]:
    """Return a function that opens a report; afterwards nothing may have been complained of or fetched."""
    watched = []

    def opened(name: str = "run", **context: Any) -> Any:
        watched.append(Watched(browser, **context))
        watched[-1].page.goto(reports[name])
        return watched[-1].page

    yield opened
    for one in watched:
        one.context.close()
        assert one.complaints == []
        assert one.requests == [url for url in one.requests if url in reports.values()]


def expect_rows(page: Any, count: int) -> None:
    """Wait for the search, which follows the typing a little later."""
    from playwright.sync_api import expect

    expect(page.locator(".qa")).to_have_count(count, timeout=_PATIENCE)


def assert_all_rows(page: Any, word: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator(".qa", has_not_text=word)).to_have_count(0, timeout=_PATIENCE)
    assert page.locator(".qa").count() > 1


def shown(page: Any) -> str:
    return page.locator("#count").inner_text()


@pytest.mark.parametrize("name", ["run", "compare"])
def test_hostile_answers_are_inert_on_every_page_and_in_every_fold(open_page, name):
    page = open_page(name)
    while True:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert page.locator("script").count() == 2
        assert page.locator("main img").count() == 0
        if page.locator("[data-turn='1']").first.is_disabled():
            break
        page.locator("[data-turn='1']").first.click()
    page.locator("#q").fill("<script>alert(1)</script>")
    expect_rows(page, 1)
    assert "<script>alert(1)</script>" in page.locator(".qa .text").first.text_content()


def test_search_takes_all_words_whatever_their_case(open_page):
    page = open_page()
    assert shown(page) == "164 of 164 prompts"
    page.locator("#q").fill("APPLES 79")
    expect_rows(page, 3)
    assert all("79" in row for row in page.locator(".qa").all_inner_texts())
    page.locator("#q").fill("no such words at all")
    expect_rows(page, 0)
    assert shown(page) == "0 of 164 prompts"


@pytest.mark.parametrize("name", ["run without texts", "compare without texts"])
def test_without_texts_search_finds_ids_categories_and_verdicts(open_page, name):
    page = open_page(name)
    count = shown(page)
    assert page.locator(".prompt, .text, .why, .qa details").count() == 0
    page.locator("#q").fill("violence-12 GUARD")
    expect_rows(page, 1)
    assert page.locator(".qa code").inner_text() == "violence-12"
    assert page.locator(".qa .chip").count() >= 4
    page.locator("#q").fill("computing" if name.startswith("run") else "fraud")
    assert_all_rows(page, "computing" if name.startswith("run") else "fraud")
    page.locator("#q").fill("no verdict")
    expect_rows(page, 1)
    page.locator("#q").fill("")
    expect_rows(page, 10)
    assert shown(page) == count


def test_filters_narrow_what_is_shown_and_combine(open_page):
    page = open_page()
    page.select_option("#f-suite", "unsafe-requests")
    assert shown(page) == "60 of 164 prompts"
    page.select_option("#f-category", "fraud")
    assert shown(page) == "10 of 164 prompts"
    page.check("#f-changed")
    changed = int(shown(page).split()[0])
    assert 0 < changed < 10
    assert page.locator(".chip.changed").count() == changed
    page.select_option("#f-verdict", "guard: no verdict")
    assert shown(page) == "0 of 164 prompts"
    page.select_option("#f-category", "")
    page.uncheck("#f-changed")
    assert shown(page) == "1 of 164 prompts"


def test_pages_turn_to_the_end_and_back(open_page):
    page = open_page()
    first = page.locator(".qa code").first.inner_text()
    assert page.locator(".qa").count() == 10
    for _ in range(16):
        page.locator("[data-turn='1']").first.click()
    assert page.locator("#page").inner_text() == "17 / 17"
    assert page.locator(".qa").count() == 4
    assert page.locator("[data-turn='1']").first.is_disabled()
    for _ in range(16):
        page.locator("[data-turn='-1']").first.click()
    assert page.locator(".qa code").first.inner_text() == first


def test_what_may_harm_is_folded_until_it_is_clicked(open_page):
    page = open_page()
    page.locator("#q").fill("violence-12")
    expect_rows(page, 1)
    prompt, answers = page.locator(".qa .prompt"), page.locator(".qa .answer")
    assert not prompt.is_visible()
    folded = answers.filter(has=page.locator("details"))
    assert folded.count() >= 1
    assert not folded.first.locator(".text").is_visible()
    page.locator(".qa summary", has_text="Unsafe request").click()
    folded.first.locator("summary").click()
    assert prompt.is_visible()
    assert folded.first.locator(".text").is_visible()


def test_everything_folded_can_be_opened_at_once(open_page):
    page = open_page()
    page.select_option("#f-suite", "unsafe-requests")
    folds = page.locator(".qa details:has(.prompt)")
    assert folds.count() == 10
    assert page.locator(".qa .prompt:visible").count() == 0
    page.check("#unfold")
    assert page.locator(".qa .prompt:visible").count() == 10
    page.locator("[data-turn='1']").first.click()
    assert page.locator(".qa details:not([open])").count() == 0
    page.uncheck("#unfold")
    assert page.locator(".qa details[open]").count() == 0


def test_refusals_and_harmless_answers_are_not_folded(open_page):
    page = open_page()
    page.select_option("#f-suite", "arithmetic")
    assert page.locator(".qa .answer .text").first.is_visible()
    page.select_option("#f-suite", "unsafe-requests")
    refusals = page.locator(".answer", has_text="rules refusal").filter(has_text="guard refusal")
    assert refusals.first.locator(".text").is_visible()


@pytest.mark.parametrize("name", ["run", "compare", "compare without texts"])
@pytest.mark.parametrize("width", [360, 768])
def test_the_page_never_scrolls_sideways(open_page, name, width):
    page = open_page(name, viewport={"width": width, "height": 740})
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(one => !one.closest('.scroll, svg, .hidden')"
        " && one.getBoundingClientRect().right > innerWidth + 1).length"
    )
    assert wide == 0


def test_boxes_that_scroll_can_be_reached_with_the_keyboard(open_page):
    page = open_page(viewport={"width": 360, "height": 740})
    assert page.locator(".scroll[tabindex='0']").count() > 0
    assert page.evaluate(
        "[...document.querySelectorAll('.scroll')]"
        ".every(box => (box.scrollWidth > box.clientWidth) === (box.tabIndex === 0))"
    )


def luminance(page: Any, selector: str, style: str) -> float:
    red, green, blue = page.evaluate(
        "([selector, style]) => { const canvas = document.createElement('canvas').getContext('2d');"
        " canvas.fillStyle = getComputedStyle(document.querySelector(selector))[style]; canvas.fillRect(0, 0, 1, 1);"
        " return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); }",
        [selector, style],
    )
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_are_legible_and_the_button_turns_one_into_the_other(open_page, scheme):
    page = open_page(color_scheme=scheme)

    def is_dark() -> bool:
        return luminance(page, "body", "backgroundColor") < 0.1

    assert is_dark() == (scheme == "dark")
    for _ in range(2):
        for front, back in ((".lede", "body"), (".card .sub", ".card"), (".verdict.good", ".verdict.good"),
                            (".verdict.bad", ".verdict.bad"), (".plot > svg text", ".plot")):  # fmt: skip
            colour = luminance(page, front, "fill" if front.endswith("text") else "color")
            lighter, darker = sorted((colour, luminance(page, back, "backgroundColor")), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (front, is_dark())  # WCAG 2, level AA
        before = is_dark()
        page.locator("#theme").click()
        assert is_dark() != before


def test_the_chosen_theme_is_remembered(open_page):
    page = open_page(color_scheme="light")
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_paper_shows_no_controls(open_page):
    page = open_page()
    page.emulate_media(media="print")
    assert not page.locator(".top").is_visible()
    assert not page.locator(".filters").is_visible()
    assert page.locator("#measures table").first.is_visible()


def test_without_javascript_the_figures_are_still_there(browser, reports):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(reports["run"])
    assert page.locator(".card").first.is_visible()
    assert page.locator("#no-script").is_visible()
    assert not page.locator(".filters").is_visible()
    context.close()
