"""Images of any name: listed once each, in order, and named so that no two share an output."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samcli.cli.inputs import Inputs, Shard
from samcli.errors import SamcliError
from samcli.formats.names import check_unique, image_id, output_paths
from samcli.formats.record import read_error, read_head, read_record, write_error, write_record
from samcli.images import EXTENSIONS, ImageFile, list_images
from samcli.records import ImageRecord, InputFile, Run

RUN = Run("automask", "0", "tiny", "0" * 64, {}, "0" * 64)

# Few pieces, so that names meet: cases of a letter, composed and decomposed, and bytes that are no UTF-8.
PIECES = (
    "a", "A", "b", ".", "..", " ", "-", "--", "\n", "\r", "\t", "\\", '"', "'", "*", "~", "%", ":",
    "é", "e\u0301", "狗", "🐕", "\u202e", "\udcff", "\udcc3(", ".error", ".overlay", ".labelmap", ".json",
)  # fmt: skip
ENDINGS = (".png", ".PNG", ".jpg", ".JpEg", ".tar.png", ".error.png", ".error.json.jpg", ".overlay.jpg",
           ".labelmap.png", ".txt", ".json", "", ".", ".png ")  # fmt: skip

stems = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join)
files = st.tuples(stems, st.sampled_from(ENDINGS)).map("".join).filter(lambda name: name not in (".", ".."))
# Folders named as outputs are named (a.json, a.masks) meet those of a.png in the mirrored tree.
folders = stems.filter(lambda name: name not in (".", "..") and not name.endswith(".json"))
paths = st.tuples(st.lists(folders, max_size=2), files).map(lambda pair: "/".join((*pair[0], pair[1])))
trees = st.sets(paths, min_size=1, max_size=12)


@contextmanager
def tree(names: set[str]) -> Iterator[Path]:
    """A folder with these files, as far as they fit together and the file system takes them."""
    with tempfile.TemporaryDirectory() as top:
        for name in sorted(names):
            path = Path(top, "in", name)
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(name.encode("utf-8", "surrogateescape"))
        Path(top, "in").mkdir(exist_ok=True)
        yield Path(top)


def expected(folder: Path) -> list[str]:
    """The images of a folder, found another way: paths below it, each folder's names in order."""
    found = []
    for place, below, names in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            stem, dot, ending = name.rpartition(".")
            if stem and not name.startswith(".") and (dot + ending).lower() in EXTENSIONS:
                found.append(os.path.relpath(os.path.join(place, name), folder))  # noqa: PTH118
    return sorted(found, key=lambda path: path.split("/"))


def listing(top: Path) -> list[ImageFile]:
    """What is listed; nothing where there is no image."""
    if not expected(top / "in"):
        with pytest.raises(SamcliError, match="holds no image"):
            list_images([top / "in"], output=top / "out")
        return []
    return list(list_images([top / "in"], output=top / "out"))


@settings(deadline=None)
@given(trees)
@example({"a.png", "A.PNG", "a.error.png", "-o.png", ".hidden.png", " .png", "\n.png", "\udcff.png"})
def test_trees_are_listed_in_order_each_image_once(names: set[str]) -> None:
    with tree(names) as top:
        images = listing(top)
        assert [str(image.relative) for image in images] == expected(top / "in")
        for image in images:
            assert image.path == top / "in" / image.relative
            assert image.path.read_bytes() == os.fsencode(str(image.relative))
            assert image.problem is None


@settings(deadline=None)
@given(trees, st.booleans())
@example({"a.png", "a.error.png"}, False)
@example({"a.png", "a.PNG"}, False)
@example({"a.png", "a.tar.png", "b/a.png", "A.png", "a.overlay.jpg", "a .png"}, False)
@example({"a.jpg", "a.error.jpg", "a.error.json.jpg"}, True)
def test_no_two_images_share_an_output_unless_they_are_refused(names: set[str], keep: bool) -> None:
    with tree(names) as top:
        images = listing(top)
        outputs = [astuple(output_paths(Path("out"), i.relative, keep_extension=keep)) for i in images]
        for image, written in zip(images, outputs, strict=True):
            name = image.relative.name if keep else image.relative.name.rpartition(".")[0]
            assert written[0] == Path("out") / image.relative.parent / f"{name}.json"
            assert len(set(written)) == len(written)
            for path in written:
                assert os.path.normpath(path) == str(path)
                assert path.parent == Path("out") / image.relative.parent
                assert path.name not in ("", ".", "..")
        shared = {path for path, count in Counter(p for ps in outputs for p in ps).items() if count > 1}
        inputs = Inputs((top / "in",), top / "out", keep_extension=keep)
        pairs = [(image.path, image.relative) for image in images]
        if shared:
            with pytest.raises(SamcliError, match="would both write") as caught:
                check_unique(pairs, keep_extension=keep)
            assert any(
                f" would both write {path.relative_to('out')};" in str(caught.value) for path in shared
            )
            assert any(image.problem for image in inputs)
            with pytest.raises(SamcliError, match="would both write"):
                inputs.check(lambda image: None)
        elif images:
            check_unique(pairs, keep_extension=keep)
            assert list(inputs) == images
            assert inputs.check(lambda image: None) == len(images)


@settings(deadline=None)
@given(trees)
@example({"a.png", "sub/\udcff.png", "new\nline.png", "-x.PNG", "\r.png"})
def test_names_survive_lists_and_shards(names: set[str]) -> None:
    with tree(names) as top:
        images, out = listing(top), top / "out"
        (top / "list").write_bytes(b"".join(os.fsencode(image.path) + b"\0" for image in images))
        listed = list(Inputs((), out, top / "list", null=True, root=top / "in", keep_extension=True))
        assert [(i.path, i.relative) for i in listed] == [(i.path, i.relative) for i in images]
        parts = [
            list(Inputs((), out, top / "list", True, top / "in", True, shard=Shard(part, 3)))
            for part in (1, 2, 3)
        ]
        assert sorted(str(i.path) for part in parts for i in part) == sorted(str(i.path) for i in images)


@settings(deadline=None)
@given(paths)
@example("sub/\udcff\n.png")
def test_names_survive_records_and_notes_of_failure(name: str) -> None:
    relative = PurePosixPath(name)
    source = InputFile(str(relative), 1, "0" * 64)
    with tempfile.TemporaryDirectory() as top:
        written = output_paths(Path(top), relative)
        record = ImageRecord(RUN, source, image_id(relative), 3, 2, relative.as_posix(), annotations=())
        write_record(written.record, record)
        write_error(written.error, RUN, relative, None, f"{name} is damaged")
        assert read_record(written.record) == record
        head, failed = read_head(written.record), read_error(written.error)
        assert head is not None
        assert failed is not None
        assert (head.path, head.source) == (str(relative), source)
        assert (failed.path, failed.source, failed.reason) == (str(relative), None, f"{name} is damaged")
