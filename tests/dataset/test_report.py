"""The report: what is in it, that names cannot break out of it, its size, and datasets at their edges."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from samcli.dataset import samples
from samcli.dataset.plots import MOST_BARS, plots
from samcli.dataset.report import RULES, write_report
from samcli.dataset.samples import MOST, MOST_BYTES, samples_per_class
from samcli.dataset.summary import BINS, SAMPLES, ClassSummary, Sample, Split, Summary
from samcli.errors import SamcliError
from samcli.masks import encode_rle
from samcli.records import MaskRecord
from samcli.viz.sheet import NEUTRAL

SIZE = (120, 160)
HOSTILE = "</style><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>\0\udcff\u202e{{nav}}"
ROOT = Path(__file__).parents[2]


class Pixels:
    """Photos by name. `samcli.formats.table.Photos`."""

    def __init__(self, **found: NDArray[np.uint8]) -> None:
        self.found = found
        self.asked: list[str] = []

    def path(self, file_name: str) -> Path:
        raise SamcliError("no files here")

    def size(self, file_name: str) -> tuple[int, int]:
        return self.pixels(file_name).shape[:2]  # type: ignore[return-value]

    def pixels(self, file_name: str) -> NDArray[np.uint8]:
        self.asked.append(file_name)
        if file_name not in self.found:
            raise SamcliError(f"{file_name} does not exist")
        return self.found[file_name]

    def named(self, stem: PurePosixPath) -> str:
        return stem.as_posix()


def photo(height: int = SIZE[0], width: int = SIZE[1]) -> NDArray[np.uint8]:
    return np.full((height, width, 3), (250, 20, 20), np.uint8)


def sample(
    name: str = "a",
    box: tuple[int, int, int, int] = (40, 30, 50, 40),
    label: str = "cat",
    score: float | None = 0.875,
    size: tuple[int, int] = SIZE,
) -> Sample:
    """box: x, y, width, height of the mask, a rectangle."""
    x, y, width, height = box
    bits = np.zeros(size, bool)
    bits[y : y + height, x : x + width] = True
    return Sample(name, MaskRecord(encode_rle(bits), box, int(bits.sum()), category=label, score=score))


def one_class(name: str = "cat", samples: Sequence[Sample] = (), **counts: int) -> ClassSummary:
    given = {"accepted": 5, "to_review": 3, "existing": 2, "images": 4, **counts}
    return ClassSummary(name, samples=tuple(samples), **given)


def bins(**filled: int) -> tuple[int, ...]:
    return tuple(filled.get(f"b{i}", 0) for i in range(BINS))


def summary(*classes: ClassSummary, **given: Any) -> Summary:
    values: dict[str, Any] = {
        "images": 1234, "empty": 17, "scores": bins(b12=4, b17=1), "review_scores": bins(b5=3),
        "sizes": bins(b0=1, b6=9), "dropped": {}, "duplicates": (), "skipped": False, "failures": (),
        "splits": (), "settings": (), **given,
    }  # fmt: skip
    return Summary(classes=classes, **values)


EMPTY = Summary(0, 0, (), bins(), bins(), bins(), {}, (), False, (), (), ())

VOID = {"meta", "link", "img", "br"}
DRAWN = {"rect", "line"}  # of SVG; they close themselves


class Page(HTMLParser):
    """A page as its elements; fails for what is not nested well."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.found.append((tag, dict(attrs)))
        if tag == "p":
            assert "p" not in self.open
        if tag == "tr":
            self.cells.append([])
        if tag in ("th", "td"):
            self.cells[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in DRAWN
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)
            if {"td", "th"} & {*self.open}:
                self.cells[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for found, attrs in self.found if found == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def report(place: Path, given: Summary, photos: Pixels | None = None) -> Page:
    files = write_report(place, given, photos)
    assert files[-1] == place / "report.html"
    assert {*files} == {path for path in place.rglob("*") if path.is_file()}
    text = (place / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    ids = [attrs["id"] for _, attrs in page.found if "id" in attrs]
    assert len(ids) == len({*ids})
    for _, attrs in page.found:
        assert not {"style", "onclick", "srcset"} & attrs.keys(), "a strict policy lets none through"
        if (attrs.get("href") or "").startswith("#"):
            assert (attrs["href"] or "")[1:] in ids
        if "aria-labelledby" in attrs:
            assert attrs["aria-labelledby"] in ids
    for attrs in page.all("img"):
        assert "alt" in attrs
        assert (attrs["src"] or "").startswith("data:image/jpeg;base64,")
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attrs.get("scope") in ("row", "col") for attrs in page.all("th"))
    assert page.all("script") == []
    assert not re.search(r"https?://|url\(|@import", text)
    assert text.count("{{") == text.count("{{nav}}"), "every place is filled"
    return page


def pictures(page: Page) -> list[NDArray[np.uint8]]:
    data = [(attrs["src"] or "").partition(",")[2] for attrs in page.all("img")]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in data]


# What is in it


def test_numbers_and_classes(tmp_path: Path) -> None:
    dog = one_class("dog", accepted=2000, to_review=0, existing=0, images=900)
    page = report(tmp_path, summary(dog, one_class("cat")))
    assert "Images 1,234 17 without annotations" in page.text
    assert "Annotations 2,007 of 2 classes" in page.text
    assert "Accepted 2,005 over 99%" in page.text
    assert "Existing 2 under 1%" in page.text
    assert "To review 3 not yet annotations" in page.text
    assert "Failures 0" in page.text
    assert page.cells[:3] == [
        ["Class", "Accepted", "Existing", "To review", "Images"],
        ["dog", "2,000", "0", "0", "900"],
        ["cat", "5", "2", "3", "4"],
    ]
    bars = [attrs for attrs in page.all("rect") if attrs["height"] == "1" and "class" in attrs]
    assert [(bar["class"], bar["x"], bar["width"]) for bar in bars] == [
        ("accepted", "0.00", "100.00"),
        ("accepted", "0.00", "0.25"),
        ("existing", "0.25", "0.10"),
        ("to-review", "0.35", "0.15"),
    ]


def test_kinds_that_there_are_none_of_have_no_column(tmp_path: Path) -> None:
    page = report(tmp_path, summary(one_class(to_review=0, existing=0)))
    assert page.cells[:2] == [["Class", "Accepted", "Images"], ["cat", "5", "4"]]


def test_histograms_say_their_numbers(tmp_path: Path) -> None:
    page = report(tmp_path, summary(one_class()))
    assert ["0.60 to 0.65", "4", "0"] in page.cells
    assert ["0.25 to 0.30", "0", "3"] in page.cells
    assert "Median of 8: 0.60 to 0.65." in page.text
    assert ["30% to 35%", "9"] in page.cells
    assert "Median of 10: 30% to 35%." in page.text


def test_what_was_left_out_and_why(tmp_path: Path) -> None:
    page = report(
        tmp_path, summary(one_class(), dropped={"score": 3, "conflicts": 40, "area": 0, "odd_one": 1})
    )
    assert page.cells[-4:] == [
        ["Reason", "Rule", "Proposals"],
        ["conflicts", RULES["conflicts"], "40"],
        ["score", RULES["score"], "3"],
        ["odd one", "", "1"],
    ]
    assert "44 proposals are not in the dataset." in page.text
    assert "Every proposal was taken." in report(tmp_path, summary(one_class())).text


def test_every_reason_has_its_rule() -> None:
    curate = pytest.importorskip("samcli.dataset.curate")
    assert {*curate.REASONS} == {*RULES}


def test_splits_failures_and_settings(tmp_path: Path) -> None:
    settings = {
        "model": "vit_h",
        "config": {"tagger": "blip", "least": None, "tile": False, "labels": ["a", "b"]},
    }
    page = report(
        tmp_path,
        summary(
            one_class(),
            splits=(Split("train", 997, 40), Split("val", 3, 2)),
            failures=(("b/x.jpg", "b/x.jpg is empty (0 bytes); copy it again"),),
            settings=(settings, {**settings, "model": "vit_b"}),
        ),
    )
    assert page.cells[-12:] == [
        ["Split", "Images", "Share", "Annotations"],
        ["train", "997", "over 99%", "40"],
        ["val", "3", "under 1%", "2"],
        ["Photo", "Reason"],
        ["b/x.jpg", "b/x.jpg is empty (0 bytes); copy it again"],
        ["Setting", "Value"],
        ["model", "vit_h"],
        ["tagger", "blip"],
        ["tile", "no"],
        ["labels", "a, b"],
        ["Setting", "Value"],
        ["model", "vit_b"],
    ]


def test_samples_are_lit_up_in_their_photos(tmp_path: Path) -> None:
    photos = Pixels(a=photo(), wrong=photo(60, 80))
    shots = [sample("a"), sample("gone"), sample("wrong", score=None)]
    page = report(tmp_path, summary(one_class(samples=shots)), photos)
    found, gone, wrong = pictures(page)
    middle, corner = found[len(found) // 2, len(found) // 2], found[3, 3]
    assert np.abs(middle.astype(int) - (250, 20, 20)).max() < 12, "the photo's own colour"
    assert np.abs(corner.astype(int) - (125, 10, 10)).max() < 12, "darker around"
    for alone in (gone, wrong):
        assert np.abs(alone[3, 3].astype(int) - NEUTRAL).max() < 12
    assert "2 masks are shown alone" in page.text
    assert "a 0.88 gone 0.88 wrong" in page.text
    assert page.all("img")[0]["alt"] == "cat"


@pytest.mark.parametrize(
    ("classes", "names"),
    [(1, [str(i) for i in range(SAMPLES)]), (MOST // 3, ["0", "6", "11"]), (MOST, ["0"])],
)
def test_of_many_classes_samples_are_few_but_spread(classes: int, names: list[str]) -> None:
    first = one_class("cat", [sample(str(i), score=1 - i / 12) for i in range(SAMPLES)])
    found = samples.draw(summary(first, *[one_class("dog")] * (classes - 1)), None).samples
    assert [shot.sample.file_name for shot in found[0]] == names


def test_each_photo_is_read_once(tmp_path: Path) -> None:
    photos = Pixels(a=photo(), b=photo())
    classes = [one_class(name, [sample("a"), sample("b")]) for name in ("cat", "dog")]
    report(tmp_path, summary(*classes, duplicates=(("b", "a"),)), photos)
    assert sorted(photos.asked) == ["a", "b"]


def test_photos_that_look_alike(tmp_path: Path) -> None:
    groups = (("a", "b"), ("a", "gone"), ("x", "y"))
    page = report(tmp_path, summary(duplicates=groups, skipped=True), Pixels(a=photo(600, 300), b=photo()))
    assert [one.shape for one in pictures(page)] == [(160, 80, 3), (120, 160, 3), (160, 80, 3)]
    assert "6 photos in 3 groups that look alike. The first of each group is in the dataset" in page.text
    assert "Look-alikes 6 in 3 groups, 3 left out" in page.text
    assert "Also: gone" in page.text
    assert page.text.endswith("x , y Failures There were none.")
    assert "--skip-duplicates" in report(tmp_path, summary(duplicates=groups)).text


# Names of others


def test_names_are_only_text(tmp_path: Path) -> None:
    page = report(
        tmp_path,
        summary(
            one_class(HOSTILE, [sample(HOSTILE, label=HOSTILE)]),
            failures=((HOSTILE, HOSTILE),),
            duplicates=((HOSTILE, "b"),),
            dropped={HOSTILE: 1},
            splits=(Split(HOSTILE, 1, 1),),
            settings=({HOSTILE: HOSTILE, "labels": [HOSTILE]},),
        ),
    )
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert len(page.all("img")) == 1
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<script") == 0
    assert text.count("</style>") == 1
    assert not re.search("[\0-\x08\x0b-\x1f\u202e\ud800-\udfff]", text)


def test_right_to_left_names_stand_apart(tmp_path: Path) -> None:
    report(tmp_path, summary(one_class("خودرو\u200cها")))
    assert "<bdi>خودرو\u200cها</bdi>" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (("cat", "Cat", "CAT"), ("cat", "cat-2", "cat-3")),
        (("traffic light", "traffic-light", "a/b\\c:d"), ("traffic-light", "traffic-light-2", "a-b-c-d")),
        (("猫", "собака", "قطة", "कुत्ता"), ("猫", "собака", "قطة", "कुत्ता")),
        (("..", "", "   ", "🐈"), ("class", "class-2", "class-3", "class-4")),
        (("con", "nul.txt", "LPT1"), ("con-2", "nul-txt", "lpt1-2")),
        (("x" * 300, "猫" * 300), ("x" * 80, "猫" * 26)),
        (("e\u0301", "\u00e9"), ("\u00e9", "\u00e9-2")),
        (("cat-2", "cat", "cat"), ("cat-2", "cat", "cat-3")),
    ],
)
def test_sheets_have_names_of_their_own(tmp_path: Path, names: Sequence[str], files: Sequence[str]) -> None:
    write_report(tmp_path, summary(*(one_class(name, [sample()]) for name in names)), None)
    found = {path.name for path in (tmp_path / "report" / "samples").iterdir()}
    assert found == {f"{file}.png" for file in files}


# The same bytes, and only our files


def test_the_same_summary_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = summary(one_class(samples=[sample("a"), sample("b")]), one_class("猫", [sample("a", label="猫")]))
    first = write_report(tmp_path / "one", given, Pixels(a=photo()))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    second = write_report(tmp_path / "two" / "deep", given, Pixels(a=photo()))
    assert len(first) == len(second) == 6
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_sheets_of_classes_that_are_gone_are_removed(tmp_path: Path) -> None:
    write_report(tmp_path, summary(one_class("cat", [sample()]), one_class("dog", [sample()])), None)
    folder = tmp_path / "report" / "samples"
    Image.new("RGB", (9, 9)).save(folder / "mine.png")
    (folder / "notes.txt").write_text("mine")
    write_report(tmp_path, summary(one_class("dog", [sample()])), None)
    assert sorted(path.name for path in folder.iterdir()) == ["dog.png", "mine.png", "notes.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("")
    with pytest.raises(SamcliError, match=r"classes\.png: a file stands where a folder is needed"):
        write_report(tmp_path, EMPTY, None)


# Edges


def test_nothing_at_all(tmp_path: Path) -> None:
    page = report(tmp_path, EMPTY)
    assert "There are no annotations, so there are no classes." in page.text
    assert page.text.count("There are none.") == 2
    assert not (tmp_path / "report" / "samples").exists()


def test_classes_without_annotations(tmp_path: Path) -> None:
    page = report(tmp_path, summary(one_class(accepted=0, to_review=0, existing=0, images=0)))
    assert page.cells[:2] == [["Class", "Accepted", "Images"], ["cat", "0", "0"]]


@pytest.mark.parametrize(
    ("size", "box"),
    [
        (SIZE, (7, 5, 1, 1)),
        (SIZE, (0, 0, 160, 120)),
        (SIZE, (159, 119, 1, 1)),
        (SIZE, (0, 60, 160, 1)),
        (SIZE, (0, 0, 0, 0)),
        ((1, 1), (0, 0, 1, 1)),
        ((1, 9000), (10, 0, 8000, 1)),
        ((9000, 1), (0, 4000, 1, 3)),
    ],
)
def test_masks_of_any_size_and_place(tmp_path: Path, size: tuple[int, int], box: tuple[int, ...]) -> None:
    shot = sample("a", box, size=size)  # type: ignore[arg-type]
    page = report(
        tmp_path, summary(one_class(samples=[shot, sample("gone", box, size=size)])), Pixels(a=photo(*size))
    )  # type: ignore[arg-type]
    for found in pictures(page):
        assert max(found.shape) == 320
    if box[2]:
        drawn = pictures(page)[0].astype(int)
        assert (np.abs(drawn - (250, 20, 20)).max(axis=2) < 60).any(), "the mask is seen"


def test_five_hundred_classes_fit(tmp_path: Path) -> None:
    shots = [sample("a", (3 * i, 9, 40, 50), score=1 - i / 12) for i in range(SAMPLES)]
    page = report(
        tmp_path, summary(*(one_class(f"class {i} " * 20, shots) for i in range(500))), Pixels(a=photo())
    )
    assert (tmp_path / "report.html").stat().st_size < 15e6
    assert len(page.all("img")) == 500 * samples_per_class(500) == 1000
    assert sum(cells[0].startswith("class ") for cells in page.cells) == 500
    assert len({*(tmp_path / "report" / "samples").iterdir()}) == 500


def test_the_samples_have_so_many_bytes_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (*SIZE, 3), np.uint8)  # JPEG can make nothing of it
    classes = [one_class(f"c{i}", [sample("a")] * SAMPLES) for i in range(10)]
    free = samples.draw(summary(*classes), Pixels(a=noise))
    monkeypatch.setattr(samples, "MOST_BYTES", 240_000)
    bound = samples.draw(summary(*classes), Pixels(a=noise))
    assert sum(len(one) for shots in free.samples for _, one in shots) > 2_000_000
    assert all(100 < len(one) <= 2000 for shots in bound.samples for _, one in shots)
    assert MOST_BYTES * 4 / 3 < 14e6, "as base64"


def test_more_classes_than_samples_may_be(tmp_path: Path) -> None:
    classes = [one_class(f"c{i}", [sample()] if i in (0, MOST) else []) for i in range(MOST + 1)]
    assert len(report(tmp_path, summary(*classes)).all("img")) == 1


def test_many_failures_and_groups_are_counted(tmp_path: Path) -> None:
    failures = tuple((f"{i}.jpg", "x" * 5000) for i in range(3000))
    groups = tuple((f"{i}a.jpg", *(f"{i}b{j}.jpg" for j in range(50))) for i in range(3000))
    page = report(tmp_path, summary(one_class(), failures=failures, duplicates=groups), Pixels())
    assert "And 2,500 more." in page.text
    assert "And 2,500 more groups." in page.text
    assert "and 31 more" in page.text
    assert (tmp_path / "report.html").stat().st_size < 3e6


# Plots


def pixels_of(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_plots_show_their_bars() -> None:
    found = {name: pixels_of(png) for name, png in plots(summary(one_class(), one_class("dog"))).items()}
    blue, amber, green = (0x1F, 0x5F, 0xD0), (0xCF, 0x7A, 0), (0x5F, 0x7D, 0x72)
    seen = {
        name: [int((one == color).all(axis=2).sum()) for color in (blue, amber, green)]
        for name, one in found.items()
    }
    accepted, review, existing = seen["classes.png"]
    assert accepted / review == pytest.approx(5 / 3, rel=0.1)
    assert accepted / existing == pytest.approx(5 / 2, rel=0.1)
    assert seen["scores.png"][0] / seen["scores.png"][1] == pytest.approx(5 / 3, rel=0.1)
    assert seen["sizes.png"][1:] == [0, 0]


@pytest.mark.parametrize(
    "label", ["$x^2$", "\\frac{", "猫" * 50, "قطة سوداء", "😀", "a\0b\udcff\nc", "w" * 999, "", "ไทย"]
)
def test_any_label_can_be_plotted(label: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = plots(summary(one_class(label)))["classes.png"]
    assert pixels_of(png).shape[1] == 1152
    assert png[:256].count(b"Software\0samcli annotate") == 1
    assert b"matplotlib" not in png


def test_a_plot_of_many_classes_stays_readable() -> None:
    few, many = (
        plots(summary(*(one_class(f"c{i}") for i in range(n))))["classes.png"] for n in (MOST_BARS, 500)
    )
    assert pixels_of(few).shape == pixels_of(many).shape
    assert pixels_of(few).shape[0] < 2000


def test_matplotlib_keeps_quiet_and_its_settings_stay(tmp_path: Path) -> None:
    """With a home that cannot be written, and settings of the user's own that would spoil the plots."""
    (tmp_path / "matplotlibrc").write_text(
        "axes.facecolor: black\nfont.size: 40\nno.such: 3\nbackend: TkAgg\n"
    )
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_report import *\n"
        "assert 'matplotlib' not in sys.modules\n"
        "print(*(hashlib.sha256(png).hexdigest() for png in plots(summary(one_class())).values()))\n"
        "import matplotlib\n"
        "assert matplotlib.rcParams['font.size'] == 40\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    environment.pop("MPLCONFIGDIR", None)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        environment[name] = "/dev/null/home"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [
        hashlib.sha256(png).hexdigest() for png in plots(summary(one_class())).values()
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["matplotlibrc"]
