"""pycocotools reads COCO's instances and results; COCOeval finds them perfect against themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from reading import bits

pytestmark = pytest.mark.slow
coco = pytest.importorskip("pycocotools.coco")


@pytest.mark.parametrize("options", [[], ["--polygons"]])
def test_instances(export, records, options):
    read = coco.COCO(export("coco", *options) / "annotations.json")
    assert [image["file_name"] for image in read.loadImgs(read.getImgIds())] == [
        record.file_name for record in records
    ]
    for number, record in enumerate(records, start=1):
        annotations = read.loadAnns(read.getAnnIds(imgIds=[number]))
        assert len(annotations) == len(record.annotations)
        for annotation, mask, own in zip(annotations, record.annotations, bits(record), strict=True):
            assert (read.annToMask(annotation).astype(bool) == own).all()
            assert read.loadCats([annotation["category_id"]])[0]["name"] == mask.category
            assert annotation["area"] == own.sum()
            assert annotation["bbox"] == list(mask.bbox)


@pytest.mark.parametrize("options", [[], ["--polygons"]])
def test_results_are_perfect_against_themselves(export, options):
    from pycocotools.cocoeval import COCOeval

    truth = coco.COCO(export("coco", *options) / "annotations.json")
    like = ["--like", export("coco") / "annotations.json"]
    results = export("coco-results", *like) / "results.json"
    assert all("bbox" not in result for result in json.loads(results.read_bytes()))
    found = truth.loadRes(str(results))
    evaluation = COCOeval(truth, found, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    stats = np.array(evaluation.stats)
    assert (stats[[0, 1, 2, 8]] == 1).all()
    assert all(v in (1, -1) for v in stats[[3, 4, 5]])  # small, medium, large; -1: there are none
