"""Where outputs lie, and which inputs would share one."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from samcli import images
from samcli.errors import SamcliError
from samcli.formats.names import check_unique, image_id, output_paths


def test_the_tree_is_mirrored():
    paths = output_paths(Path("out"), PurePosixPath("a/b.c/d.e.JPG"))
    folder = Path("out/a/b.c")
    assert paths.record == folder / "d.e.json"
    assert paths.error == folder / "d.e.error.json"
    assert paths.overlay == folder / "d.e.overlay.jpg"
    assert paths.labelmap == folder / "d.e.labelmap.png"
    assert paths.masks == folder / "d.e.masks"
    assert paths.cutout == folder / "d.e.cutout"
    assert paths.cutout_png == folder / "d.e.cutout.png"
    assert paths.embedding == folder / "d.e.safetensors"


def test_keep_extension():
    paths = output_paths(Path("out"), PurePosixPath("a/b.jpg"), keep_extension=True)
    assert paths.record == Path("out/a/b.jpg.json")
    assert paths.masks == Path("out/a/b.jpg.masks")


def test_the_listing_knows_our_pictures():
    """samcli.images leaves out what a run writes beside its inputs; the names are ours."""
    paths = output_paths(Path(), PurePosixPath("a.jpg"))
    by_view = paths.overlay.with_suffix(".png")
    known = {paths.overlay.name, by_view.name, paths.labelmap.name, paths.cutout_png.name}
    assert {f"a{suffix}" for suffix in images.OUTPUT_SUFFIXES} == known
    assert {f"a{suffix}" for suffix in images.OUTPUT_FOLDERS} == {paths.masks.name, paths.cutout.name}


def pairs(*names: str) -> list[tuple[Path, PurePosixPath]]:
    return [(Path("in") / name, PurePosixPath(name)) for name in names]


def test_inputs_that_share_an_output_are_refused():
    with pytest.raises(SamcliError) as caught:
        check_unique(pairs("x.jpg", "a/b.jpg", "a/b.png"))
    assert str(caught.value) == (
        "in/a/b.jpg and in/a/b.png would both write a/b.json; "
        "rename one, or name outputs by --root or --keep-extension"
    )
    with pytest.raises(SamcliError) as caught:
        check_unique([(Path("p/a.jpg"), PurePosixPath("a.jpg")), (Path("q/a.jpg"), PurePosixPath("a.jpg"))])
    assert str(caught.value) == (
        "p/a.jpg and q/a.jpg would both write a.json; "
        "rename one, or name outputs by --root or --keep-extension"
    )


def test_a_record_and_a_failure_may_not_share_a_name():
    with pytest.raises(SamcliError, match=r"would both write a\.error\.json;"):
        check_unique(pairs("a.jpg", "a.error.jpg"))


def test_inputs_that_share_nothing():
    check_unique(pairs("a.jpg", "b.jpg", "c/a.jpg"))
    check_unique(pairs("a.jpg", "a.png"), keep_extension=True)
    check_unique(pairs("a.jpg") * 2)


def test_image_id_is_52_bits_of_the_relative_paths_sha256():
    assert image_id(PurePosixPath("a/b.jpg")) == 0x4A51636246E7C  # printf a/b.jpg | sha256sum
    assert image_id(PurePosixPath("a/b.jpg")) != image_id(PurePosixPath("b.jpg"))
    assert 0 <= image_id(PurePosixPath("\udcff.jpg")) < 2**52
