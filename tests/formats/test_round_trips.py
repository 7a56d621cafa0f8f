"""What comes back from each format is what it can carry, and that to the bit; what it loses is said here."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from specimens import RUN

from samcli.errors import SamcliError
from samcli.formats.names import image_id
from samcli.formats.polygons import fill_contours, pixel_contour
from samcli.formats.select import category_of, label_map, mask_of, score_of
from samcli.formats.table import FORMATS, Categories, Export, Item, Unreadable
from samcli.masks import decode_rle, encode_rle
from samcli.records import ImageRecord, InputFile, MaskRecord

HOSTILE = [
    "no",
    "1",
    "a: b",
    "#x",
    "~",
    "null",
    "- a",
    "'",
    '"',
    "\n",
    "a\tb",
    "\x7f",
    "\x85",
    "\u2028",
    "é☕",
    "👩‍🚀",
    ".a",
    "a/b",
    "x" * 300,
    "[",
    "{a}",
    "%41",
    "&a",
    "*",
    "!x",
    "|",
    ">",
    "\\",
    " a ",
    "?d=b",
]
names = st.one_of(
    st.sampled_from([n for n in HOSTILE if n]), st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
)
# A file's name: no slash, not hidden, no backslash (which others mean as a slash), not too long.
parts = names.map(lambda text: "a" + "".join(c for c in text if c not in "/\\\0")[:40])
paths = st.lists(parts, min_size=1, max_size=3).map(lambda found: "/".join(found) + ".jpg")
scores = st.none() | st.floats(0, 1)
coordinates = st.floats(-5, 50)


@st.composite
def masks(draw: st.DrawFn, size: tuple[int, int]) -> MaskRecord:
    bits = draw(arrays(bool, size))
    if draw(st.booleans()):  # one pixel, or all
        bits = np.zeros(size, bool)
        bits[draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))] = True
        bits |= draw(st.booleans())
    return replace(
        mask_of(
            encode_rle(bits),
            id=draw(st.none() | st.integers(0, 5)),
            category=draw(st.none() | names),
            category_id=draw(st.none() | st.integers(-1, 4)),
            score=draw(scores),
        ),
        predicted_iou=draw(scores),
        stability_score=draw(scores),
        detector_score=draw(scores),
        phrase=draw(st.none() | names),
        point_coords=draw(st.none() | st.lists(st.tuples(coordinates, coordinates), max_size=3).map(tuple)),
        crop_box=draw(st.none() | st.tuples(*[coordinates] * 4)),
    )


@st.composite
def records(draw: st.DrawFn) -> ImageRecord:
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    found = draw(st.lists(masks(size), max_size=4))
    name = draw(paths)
    return ImageRecord(
        RUN, InputFile(name, 5, "3" * 64), image_id(PurePosixPath(name)), size[1], size[0], name, tuple(found)
    )


class Photos:
    """Photos that are there only by name and size."""

    def __init__(self, record: ImageRecord) -> None:
        self.record = record

    def path(self, file_name: str) -> Path:
        raise SamcliError("no photo")

    def size(self, file_name: str) -> tuple[int, int]:
        return self.record.height, self.record.width

    def pixels(self, file_name: str) -> np.ndarray:
        return np.full((self.record.height, self.record.width, 3), 77, np.uint8)

    def named(self, stem: PurePosixPath) -> str:
        return f"{stem}.jpg"


@contextmanager
def written(name: str, record: ImageRecord, export: Export) -> Iterator[Path]:
    """What a format makes of a record: its file or folder."""
    format_ = FORMATS[name]
    item = Item(PurePosixPath(record.file_name).with_suffix(""), record)
    with TemporaryDirectory() as folder:
        place = Path(folder) / (format_.file or "place")
        if format_.file:
            with place.open("wb") as file, format_.write_file(file, export) as write:
                write(item)
        else:
            place.mkdir()
            with format_.write_folder(place, export) as write:
                write(item)
        yield place


def round_trip(name: str, record: ImageRecord, **options: object) -> ImageRecord:
    photos = Photos(record)
    export = Export(photos=photos if name == "cutout" else None, **options)
    with written(name, record, export) as place:
        (item,) = FORMATS[name].read(place, photos)
    assert not isinstance(item, Unreadable), item.reason
    if name != "coco-results":
        assert item.name == PurePosixPath(record.file_name).with_suffix("")
    return item.record


def foreign(record: ImageRecord, *kept: MaskRecord) -> ImageRecord:
    """The image without what made its masks, with those that are kept."""
    return replace(record, run=None, input=None, annotations=tuple(kept))


def only(mask: MaskRecord, *fields: str, **values: object) -> MaskRecord:
    """The pixels of a mask, these of its fields, and these values."""
    return replace(mask_of(mask.segmentation), **{name: getattr(mask, name) for name in fields}, **values)


def numbered(record: ImageRecord) -> list[tuple[MaskRecord, int]]:
    """Masks with the numbers that their categories get."""
    categories = Categories()
    return [(mask, categories.number(mask)) for mask in record.annotations]


def seen(record: ImageRecord) -> list[tuple[int, MaskRecord, MaskRecord]]:
    """By number from 1: masks that others do not hide, and what of them is seen."""
    labels = label_map(record.annotations, (record.height, record.width), "area")
    found = [(i, mask, labels == i) for i, mask in enumerate(record.annotations, start=1)]
    return [(i, mask, mask_of(encode_rle(bits))) for i, mask, bits in found if bits.any()]


COCO = ("predicted_iou", "stability_score", "point_coords", "crop_box", "phrase", "detector_score", "score")


def from_all(record: ImageRecord) -> ImageRecord:
    return record


def from_amg(record: ImageRecord) -> ImageRecord:
    fields = ("predicted_iou", "stability_score", "point_coords", "crop_box")
    return foreign(record, *(only(m, *fields, id=i) for i, m in enumerate(record.annotations, start=1)))


def from_amg_png(record: ImageRecord) -> ImageRecord:
    first = [m.point_coords[:1] if m.point_coords else None for m in record.annotations]
    fields = ("predicted_iou", "stability_score", "crop_box")
    return foreign(
        record,
        *(only(m, *fields, id=i + 1, point_coords=first[i]) for i, m in enumerate(record.annotations)),
    )


def from_coco(record: ImageRecord) -> ImageRecord:
    found = enumerate(numbered(record), start=1)
    return foreign(
        record, *(only(m, *COCO, id=i, category=category_of(m), category_id=n) for i, (m, n) in found)
    )


def from_results(record: ImageRecord) -> ImageRecord:
    found = [
        only(m, id=i, category_id=n, score=1.0 if (s := score_of(m)) is None else s)
        for i, (m, n) in enumerate(numbered(record), start=1)
    ]
    return replace(foreign(record, *found), file_name="1.jpg", image_id=image_id(PurePosixPath("1.jpg")))


def from_panoptic(record: ImageRecord) -> ImageRecord:
    kept = seen(record)
    fields = ("predicted_iou", "stability_score", "phrase", "detector_score", "score")
    categories = Categories()
    return foreign(
        record,
        *(
            replace(
                only(m, *fields, id=i, category=category_of(m), category_id=categories.number(m)),
                segmentation=own.segmentation,
                bbox=own.bbox,
                area=own.area,
            )
            for i, m, own in kept
        ),
    )


def from_map(record: ImageRecord) -> ImageRecord:
    return foreign(record, *(replace(own, id=i) for i, _, own in seen(record)))


def from_labelme(record: ImageRecord) -> ImageRecord:
    fields = (*COCO, "category_id")
    kept = [m for m in record.annotations if m.area]
    return foreign(
        record,
        *(
            only(m, *fields, id=i if m.id is None else m.id, category=category_of(m))
            for i, m in enumerate(kept, start=1)
        ),
    )


def from_labelstudio(record: ImageRecord) -> ImageRecord:
    fields = ("predicted_iou", "stability_score", "point_coords", "crop_box", "phrase", "detector_score")
    return foreign(
        record,
        *(
            only(m, *fields, id=i if m.id is None else m.id, category=category_of(m), score=score_of(m))
            for i, m in enumerate(record.annotations, start=1)
        ),
    )


def from_yolo(record: ImageRecord) -> ImageRecord:
    """Gaps between parts are drawn: the mask that comes back holds the one that was written."""
    classes: dict[str, int] = {}
    found = []
    for m in record.annotations:
        if m.area:
            bits = decode_rle(m.segmentation)
            drawn = encode_rle(fill_contours([pixel_contour(bits)], bits.shape))
            assert (decode_rle(drawn) >= bits).all()
            name = category_of(m)
            number = classes.setdefault(name, len(classes)) + 1
            found.append(mask_of(drawn, id=len(found) + 1, category=name, category_id=number))
    return foreign(record, *found)


LOSSES: dict[str, Callable[[ImageRecord], ImageRecord]] = {
    "sa1b": from_all,
    "jsonl": from_all,
    "amg": from_amg,
    "amg-png": from_amg_png,
    "coco": from_coco,
    "coco-panoptic": from_panoptic,
    "labelmap": from_map,
    "tiff": from_map,
    "palette": from_map,
    "labelme": from_labelme,
    "labelstudio": from_labelstudio,
    "yolo": from_yolo,
}


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=10, deadline=None)
@given(record=records())
def test_round_trip(name, record):
    assert round_trip(name, record) == LOSSES[name](record)


@settings(max_examples=10, deadline=None)
@given(record=records())
def test_coco_polygons(record):
    assert round_trip("coco", record, polygons=True) == from_coco(record)


@settings(max_examples=10, deadline=None)
@given(record=records().filter(lambda record: record.annotations))
def test_coco_results(record):
    assert round_trip("coco-results", record) == from_results(record)


def test_coco_results_of_nothing_are_refused():
    nothing = ImageRecord(None, None, 1, 3, 2, "a.jpg")
    with pytest.raises(SamcliError) as caught:
        round_trip("coco-results", nothing)
    assert str(caught.value) == (
        "there are no masks; COCO results of none cannot be loaded, so nothing is written"
    )


@pytest.mark.parametrize("name", ["png", "cutout"])
@settings(max_examples=10, deadline=None)
@given(record=records())
def test_pictures_of_masks(name, record):
    """File names carry id and category, as far as they can; masks of one id and category lose their ids."""
    back = round_trip(name, record)
    assert back == foreign(record, *back.annotations)
    assert sorted(m.segmentation["counts"] for m in back.annotations) == sorted(
        m.segmentation["counts"] for m in record.annotations
    )
    ids = [i if m.id is None else m.id for i, m in enumerate(record.annotations, start=1)]
    if len(set(ids)) == len(ids):
        plain = set(string.ascii_letters + "é☕ .#'&!{[")
        for i, own in zip(ids, record.annotations, strict=True):
            (mask,) = [mask for mask in back.annotations if mask.id == i]
            lost = own.category is not None and not set(own.category) <= plain
            category = mask.category if lost or len(own.category or "") > 50 else own.category or None
            assert mask == only(own, id=i, category=category)


@pytest.mark.parametrize("name", ["labelmap", "tiff", "palette"])
@settings(max_examples=8, deadline=None)
@given(record=records())
def test_merged_maps_keep_categories(name, record):
    from samcli.formats.select import Selection

    merged = Selection(merge=True).apply(record)
    back = round_trip(name, merged, merged=True)
    numbers = {category_of(m): n for m, n in numbered(merged)}
    for mask in back.annotations:
        assert mask.category_id == numbers[mask.category]
    expected = {category_of(m): own.segmentation for _, m, own in seen(merged)}
    assert {m.category: m.segmentation for m in back.annotations} == expected


@pytest.mark.parametrize(
    "name", ["sa1b", "coco", "coco-results", "coco-panoptic", "labelmap", "palette", "labelstudio"]
)
def test_thousands_of_masks_on_one_image(name):
    size = (60, 60)
    found = []
    for i in range(3000):
        bits = np.zeros(size, bool)
        bits[i // 60, i % 60] = True
        found.append(mask_of(encode_rle(bits), id=i + 1, score=0.5))
    record = ImageRecord(
        RUN, InputFile("a.jpg", 5, "3" * 64), image_id(PurePosixPath("a.jpg")), 60, 60, "a.jpg", tuple(found)
    )
    if name == "palette":
        with pytest.raises(SamcliError) as caught:
            round_trip(name, record)
        assert str(caught.value) == (
            "a: 3000 masks do not fit a map of values up to 255; filter them, or choose another format"
        )
        return
    back = round_trip(name, record)
    assert [m.segmentation for m in back.annotations] == [m.segmentation for m in record.annotations]


def test_a_category_of_number_0_is_no_background():
    mask = mask_of(encode_rle(np.ones((2, 3), bool)), id=1, category="cat")
    record = ImageRecord(None, None, 1, 3, 2, "a.jpg", (mask,))
    with pytest.raises(SamcliError) as caught:
        round_trip("labelmap", record, merged=True, category_ids={"cat": 0})
    assert str(caught.value) == "a: a category has the number 0, which is the background of a map"


def test_hidden_names_are_written_but_not_found():
    record = ImageRecord(None, None, 1, 3, 2, ".a.jpg")
    with written("sa1b", record, Export()) as place:
        assert (place / ".a.json").is_file()
        assert [*FORMATS["sa1b"].read(place, None)] == []


def test_backslashes_are_slashes():
    record = ImageRecord(None, None, 1, 3, 2, "a\\b.jpg")
    with written("coco", record, Export()) as place:
        (item,) = FORMATS["coco"].read(place, None)
    assert (str(item.name), item.record.file_name) == ("a/b", "a/b.jpg")


@pytest.mark.parametrize(
    "prefix", ["", "photos/", "/data/local-files/?d=", "https://x.org/", "/data/local-files/?d=a b/"]
)
@settings(max_examples=10, deadline=None)
@given(path=paths)
def test_addresses_in_label_studio(prefix, path):
    record = ImageRecord(None, None, 1, 3, 2, path)
    with written("labelstudio", record, Export(prefix=prefix)) as place:
        (item,) = FORMATS["labelstudio"].read(place, Photos(record))
    inner = prefix.rpartition("=")[2].removeprefix("https://x.org/")
    assert item.record.file_name == inner + path


@settings(max_examples=40, deadline=None)
@given(text=names)
def test_names_of_classes_in_yaml(text):
    mask = mask_of(encode_rle(np.ones((2, 3), bool)), id=1, category=text)
    record = ImageRecord(None, None, 1, 3, 2, "a.jpg", (mask,))
    assert round_trip("yolo", record).annotations[0].category == text
