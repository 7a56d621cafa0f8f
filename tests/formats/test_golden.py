"""Every format, to the letter: tests/golden/ holds what the records of tests/specimens.py become.

After a wanted change, `python tests/formats/test_golden.py` writes it anew; read the difference, then commit.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from specimens import golden, write_photos, write_records

from samcli.cli import main
from samcli.formats.table import FORMATS

GOLDEN = Path(__file__).parents[1] / "golden"

CASES = {
    **{name: ["--to", name] for name in FORMATS},
    "coco-polygons": ["--to", "coco", "--polygons"],
    "coco-labels": ["--to", "coco", "--labels", "dog,object", "--min-area", "2"],
    "coco-panoptic-merged": ["--to", "coco-panoptic", "--merge-category", "--background", "rest"],
    "labelmap-merged": ["--to", "labelmap", "--merge-category", "--background", "rest"],
    "labelmap-score": ["--to", "labelmap", "--flatten", "score"],
    "cutout-tight": ["--to", "cutout", "--tight"],
    "labelstudio-prefix": ["--to", "labelstudio", "--image-prefix", "/data/local-files/?d=photos/"],
}


def convert(case: str, work: Path) -> Path:
    """What a case writes, in a new folder of `work`."""
    records = write_records(work / "records", golden())
    photos = write_photos(work / "photos", golden())
    images = ["--images", photos] if case.startswith(("cutout", "yolo", "labelme")) else []
    place = work / case
    place.mkdir()
    assert main([str(word) for word in ["convert", records, "-o", place, *images, *CASES[case], "-q"]]) == 0
    for path in [*place.glob("images/**/*.png")]:
        path.unlink()  # yolo's photos are no work of ours
    return place


def content(path: Path, place: Path) -> object:
    """What counts in a file: text, or mode and pixels of a picture."""
    if path.suffix in (".png", ".tif"):
        image = Image.open(path)
        palette = image.getpalette() if image.mode == "P" else None
        return image.mode, palette, np.asarray(image).tolist()
    text = path.read_text(encoding="utf-8").replace(str(place.resolve()), "PLACE")
    return re.sub('"mask": "([^"]*)"', pixels, text)


def pixels(match: re.Match[str]) -> str:
    """LabelMe's pictures within text; how zlib packs them is its own matter."""
    image = Image.open(io.BytesIO(base64.b64decode(match[1])))
    return f'"mask": {image.mode} {np.asarray(image).tolist()}'


def files(place: Path) -> dict[str, object]:
    paths = [path for path in sorted(place.rglob("*")) if path.is_file()]
    return {path.relative_to(place).as_posix(): content(path, place) for path in paths}


@pytest.mark.parametrize("case", CASES)
def test_golden(case, tmp_path):
    assert files(convert(case, tmp_path)) == files(GOLDEN / case)


def test_nothing_golden_is_left_over():
    assert {path.name for path in GOLDEN.iterdir()} == set(CASES)


def regenerate() -> None:
    for case in CASES:
        with tempfile.TemporaryDirectory() as work:
            place = convert(case, Path(work))
            shutil.rmtree(GOLDEN / case, ignore_errors=True)
            shutil.copytree(place, GOLDEN / case)
            data = GOLDEN / case / "data.yaml"
            if data.exists():
                data.write_text(data.read_text(encoding="utf-8").replace(str(place.resolve()), "PLACE"))


if __name__ == "__main__":
    regenerate()
