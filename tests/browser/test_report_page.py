"""A dataset's report in Chromium: nothing leaks, it is readable light and dark, and fits a phone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from samcli.dataset.report import write_report
from samcli.dataset.summary import BINS, ClassSummary, Sample, Split, Summary
from samcli.errors import SamcliError
from samcli.masks import encode_rle
from samcli.records import MaskRecord

sync = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed"),
]

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
SIZE = (150, 200)
EVIL = "</style><script>alert(1)</script><img src=x onerror=alert(2)>"
LONG = "averylongnamewithoutanyplacetobreakit" * 8

LOW_CONTRAST = """() => {
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = numbers(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
  };
  const bad = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim()) continue;
    seen += 1;
    const pair = [numbers(getComputedStyle(element).color), behind(element)].map(light).sort((a, b) => b - a);
    const contrast = (pair[0] + .05) / (pair[1] + .05);
    if (contrast < 4.5) bad.push([walk.currentNode.data, contrast]);
  }
  return [seen, bad];
}"""
BAR_CONTRAST = LOW_CONTRAST.replace("while (walk", "while (false && walk").replace(
    "return [seen, bad]",
    """return [...document.querySelectorAll(".bar rect, .plot rect")].map((rect) => {
      const pair = [numbers(getComputedStyle(rect).fill), behind(rect)].map(light).sort((a, b) => b - a);
      return (pair[0] + .05) / (pair[1] + .05);
    })""",
)


class Photos:
    """Photos by name; of others there are none. `samcli.formats.table.Photos`."""

    def path(self, file_name: str) -> Path:
        raise SamcliError("no files here")

    def size(self, file_name: str) -> tuple[int, int]:
        return SIZE

    def pixels(self, file_name: str) -> NDArray[np.uint8]:
        if file_name == "gone.jpg":
            raise SamcliError("gone.jpg does not exist")
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        return np.stack([60 + x % 150, 40 + y % 170, 90 + (x + y) % 120], axis=2).astype(np.uint8)

    def named(self, stem: PurePosixPath) -> str:
        return stem.as_posix()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with all that there can be, sixty classes and names that would break it."""
    place = tmp_path_factory.mktemp("dataset")
    names = ["cat", EVIL, LONG, "قطة سوداء", "猫", *(f"class {i}" for i in range(55))]
    classes = []
    for i, name in enumerate(names):
        bits = np.zeros(SIZE, bool)
        bits[20 : 60 + i, 30:130] = True
        mask = MaskRecord(encode_rle(bits), (30, 20, 100, 40 + i), int(bits.sum()), category=name, score=0.75)
        samples = tuple(Sample(file, mask) for file in ("a/b.jpg", "gone.jpg", f"{LONG}.jpg"))
        classes.append(ClassSummary(name, 900 // (i + 1), 60 - i, 7 * (i < 9), 40, samples))
    bins = tuple(i * i for i in range(BINS))
    summary = Summary(
        321, 12, tuple(classes), bins, bins[::-1], bins,
        {"score": 12, "conflicts": 3, LONG: 1},
        (("a.jpg", "b.jpg"), tuple(f"{i}.jpg" for i in range(9)), ("gone.jpg", f"{LONG}.jpg")),
        False,
        ((EVIL, EVIL), (LONG, LONG)),
        (Split("train", 300, 900), Split("val", 21, 40)),
        ({"model": "tiny", "config": {"detector": "tiny", "labels": names, "sha256": "0" * 64}},),
    )  # fmt: skip
    write_report(place, summary, Photos())
    return place / "report.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(
    params=[("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390), ("light", 320)], ids=str
)
def tab(chromium: Any, page: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page in light or dark, wide or narrow; no message in its console and no request may come of it."""
    scheme, width = request.param
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    tab = context.new_page()
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    tab.wait_for_load_state("load")
    yield tab
    context.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}


def open_all(tab: Any) -> None:
    tab.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")


def test_it_fits_and_can_be_read(tab: Any) -> None:
    for _ in range(2):
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        beyond = "(e) => e.getBoundingClientRect().right > innerWidth"
        out = (
            f"[...document.querySelectorAll('main *')].filter({beyond}).map((e) => e.outerHTML.slice(0, 99))"
        )
        assert tab.evaluate(out) == []
        open_all(tab)
    seen, bad = tab.evaluate(LOW_CONTRAST)
    assert seen > 500
    assert bad == []
    bars = tab.evaluate(BAR_CONTRAST)
    assert len(bars) > 100
    assert min(bars) >= 3, "as shapes need"


def test_pictures_and_bars_are_drawn(tab: Any) -> None:
    open_all(tab)
    tab.wait_for_function("[...document.images].every((image) => image.complete)")
    assert tab.evaluate("[...document.images].filter((image) => !image.naturalWidth).length") == 0
    assert tab.evaluate("document.images.length") == 60 * 3 + 2 + 6 + 1
    first = tab.locator(".bar").first.bounding_box()
    assert first["width"] > 200 or tab.viewport_size["width"] < 800
    ratio = "(rects) => rects.map((rect) => rect.getBoundingClientRect().width)"
    accepted, existing, review = tab.locator(".bar").first.locator("rect").evaluate_all(ratio)
    assert accepted / review == pytest.approx(900 / 60, rel=0.05)
    assert accepted / existing == pytest.approx(900 / 7, rel=0.2)
    tall = (
        tab.locator(".plot")
        .nth(1)
        .locator("rect")
        .evaluate_all("(rects) => rects.map((rect) => rect.getBoundingClientRect().height)")
    )
    assert tall == sorted(tall)
    assert tall[-1] / tall[8] == pytest.approx(19**2 / 9**2, rel=0.02)


def test_names_are_only_text(tab: Any) -> None:
    assert (
        tab.evaluate(
            "document.querySelectorAll('script, [onerror], img:not([src^=\"data:image/jpeg\"])').length"
        )
        == 0
    )
    assert tab.locator("#class-2-title bdi").inner_text() == EVIL


def test_a_class_leads_to_its_samples_by_keys(tab: Any) -> None:
    tab.locator("summary").nth(0).focus()
    tab.keyboard.press("Enter")
    link = tab.locator("a[href='#class-55']")
    link.focus()
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    tab.wait_for_function(
        "() => { const at = document.getElementById('class-55').getBoundingClientRect();"
        " return at.height > 0 && at.top >= 0 && at.top < innerHeight; }"
    )
