"""The page of a run in a real browser, from disk: nothing in its console, figures that are drawn, text that fits."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_folders import write_run

from smolalign.run_page.collect import collect
from smolalign.run_page.page import render_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian: apt-get install chromium"),
]

SIZES = {"desk": (1280, 900), "phone": (360, 740)}

# Elements that end beyond the page's right edge, other than inside a box that scrolls by itself.
BEYOND = """() => [...document.querySelectorAll("body *")]
  .filter((one) => !one.closest(".wide, pre, .hidden") && one.getBoundingClientRect().right > innerWidth + 0.5)
  .map((one) => one.outerHTML.slice(0, 80))"""
# Text of a figure that sticks out of its drawing, or lies on other text of it.
CLIPPED = """() => [...document.querySelectorAll("figure svg")].flatMap((svg) => {
  const outer = svg.getBoundingClientRect();
  const boxes = [...svg.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
  const out = boxes.filter(([, box]) => box.left < outer.left - 1 || box.right > outer.right + 1
    || box.top < outer.top - 1 || box.bottom > outer.bottom + 1);
  const shared = (a, b, from, to) => Math.min(a[to], b[to]) - Math.max(a[from], b[from]);
  const over = boxes.filter(([, a], i) => boxes.slice(i + 1).some(([, b]) =>
    shared(a, b, "left", "right") > 1 && shared(a, b, "top", "bottom") > 3));
  return [...out, ...over].map(([text]) => `${svg.getAttribute("aria-label")}: ${text}`);
})"""
# Words of the page that their element cuts off.
CUT = """() => [...document.querySelectorAll("h1, h2, h3, p, li, dt, dd, summary, figcaption, th, td, a")]
  .filter((one) => one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display !== "inline"
    && getComputedStyle(one).overflow !== "visible")
  .map((one) => one.textContent.slice(0, 60))"""

# A colour of the page, as red, green and blue.
COLOUR = """(name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim().slice(1).match(/../g)
  .map((part) => parseInt(part, 16))"""
# How many pixels of a picture are nearly of each of some colours.
COUNTED = """async ([picture, colours]) => {
  const image = new Image();
  image.src = `data:image/png;base64,${picture}`;
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  const drawing = canvas.getContext("2d");
  drawing.drawImage(image, 0, 0);
  const data = drawing.getImageData(0, 0, image.width, image.height).data;
  return colours.map((colour) => {
    let counted = 0;
    for (let i = 0; i < data.length; i += 4) counted += colour.every((part, j) => Math.abs(part - data[i + j]) < 24);
    return counted;
  });
}"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(render_run(collect(write_run(tmp_path_factory.mktemp("runs") / "nano"))), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")
    with sync_api.sync_playwright() as driver:
        # Chromium's own sandbox does not run as root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


class Shown:
    """A page in a window of its own, and everything that went wrong in it."""

    def __init__(self, browser: Any, file: Path, size: str, theme: str, **more: Any) -> None:
        width, height = SIZES[size]
        self.wrong: list[str] = []
        options = {"viewport": {"width": width, "height": height}, "color_scheme": theme, "offline": True}
        self.page = browser.new_page(**options, **more)
        self.page.on("console", lambda message: self.wrong.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", lambda request: self.wrong.append(f"failed: {request.url}"))
        self.asked: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())


@pytest.fixture
def show(browser: Any) -> Iterator[Any]:
    """Opens pages, and closes them at the end; fails where anything stands in a console."""
    opened: list[Shown] = []

    def open_page(file: Path, size: str = "desk", theme: str = "light", **more: Any) -> Any:
        opened.append(Shown(browser, file, size, theme, **more))
        return opened[-1].page

    yield open_page
    for shown in opened:
        shown.page.close()
        assert shown.wrong == []
        assert len(shown.asked) == 1, shown.asked


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desk", "phone"])
def test_the_page_fits_its_window_and_draws_its_figures(
    show: Any, page_file: Path, tmp_path: Path, size: str, theme: str
) -> None:
    page = show(page_file, size, theme)
    # With everything opened, too.
    for _ in range(2):
        width, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert (width, page.evaluate(BEYOND)) == (inner, [])
        assert page.evaluate(CUT) == []
        assert page.evaluate(CLIPPED) == []
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    lengths = page.evaluate("[...document.querySelectorAll('.curve path')].map((path) => path.getTotalLength())")
    assert len(lengths) == 28 + 5 + 1
    assert min(lengths) > 100
    heights = page.evaluate("[...document.querySelectorAll('svg rect.out')].map((bar) => bar.getBBox().height)")
    assert max(heights) > 50
    shot = page.screenshot(full_page=True, path=tmp_path / f"{size}-{theme}.png")
    assert len(shot) > 50_000
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 27)"}[theme]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_curves_are_seen_on_a_picture_of_the_page(show: Any, browser: Any, page_file: Path, theme: str) -> None:
    page = show(page_file, "phone", theme)
    picture = base64.b64encode(page.locator("figure.curve").first.screenshot()).decode()
    colours = [page.evaluate(COLOUR, name) for name in ("--kept", "--gone")]
    # A page without a policy decodes the picture.
    counting = browser.new_page()
    counts = counting.evaluate(COUNTED, [picture, colours])
    counting.close()
    assert counts[0] > 150
    assert counts[1] > 60


def test_curves_are_read_off_by_pointer_and_by_keys(show: Any, page_file: Path) -> None:
    page = show(page_file)
    figure = page.locator("figure.curve").first
    output, cursor = figure.locator("output"), figure.locator(".cursor")
    last = output.text_content()
    assert last.endswith("at step 200")
    figure.locator("svg").hover(position={"x": 120, "y": 60})
    assert output.text_content() != last
    assert cursor.get_attribute("visibility") == "visible"
    page.mouse.move(5, 5)
    assert (output.text_content(), cursor.get_attribute("visibility")) == (last, "hidden")
    figure.focus()
    page.keyboard.press("Home")
    assert output.text_content() == "train 6.906 (step 2), held out 7.1 at step 0"
    page.keyboard.press("ArrowRight")
    assert output.text_content().endswith("held out 7.1 (step 0) at step 2")
    page.keyboard.press("End")
    assert output.text_content() == last
    page.keyboard.press("Escape")
    assert cursor.get_attribute("visibility") == "hidden"


def test_everything_can_be_reached_by_keys_in_the_order_of_the_page(show: Any, page_file: Path) -> None:
    page = show(page_file)
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getBoundingClientRect().top + scrollY"))
        style = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(style) != "none"
    assert page.evaluate("document.activeElement.tagName") == "FIGURE"
    assert reached[-1] > reached[10] > reached[0]


def test_without_scripts_all_but_the_reading_off_is_there(show: Any, page_file: Path) -> None:
    page = show(page_file, java_script_enabled=False)
    assert page.locator("figure.curve path").count() == 34
    assert page.locator("details.group summary").first.is_visible()
    assert page.locator(".card").first.is_visible()
    page.locator("#recipes summary").first.click()
    assert page.locator("#recipes pre").first.is_visible()


def test_the_page_prints(show: Any, page_file: Path) -> None:
    page = show(page_file)
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.pdf().startswith(b"%PDF")


def test_a_script_that_got_onto_the_page_would_not_run(browser: Any, page_file: Path, tmp_path: Path) -> None:
    html = page_file.read_text(encoding="utf-8").replace("</main>", "<script>document.title = 'taken'</script></main>")
    (tmp_path / "taken.html").write_text(html, encoding="utf-8")
    assert html.count("<script>") == 2
    blocked: list[str] = []
    page = browser.new_page()
    page.on("console", lambda message: blocked.append(message.text))
    page.goto((tmp_path / "taken.html").as_uri())
    assert page.title() == "nano: report on a run"
    assert any("Content Security Policy" in text for text in blocked)
    page.close()
