"""The package as a Python library: what `import samcli` gives."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from colour_detector import ColourDetector

import samcli


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_samcli_does_not_import_torch():
    result = run(
        "import sys, samcli; samcli.automask; samcli.Prompt; dir(samcli); print('torch' in sys.modules)"
    )
    assert (result.stdout, result.stderr) == ("False\n", "")


def test_the_version_is_the_distributions():
    assert samcli.__version__ == version("samcli")


def test_every_public_name_resolves():
    for name in samcli.__all__:
        assert getattr(samcli, name) is not None
    assert set(samcli.__all__) <= set(dir(samcli))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'samcli' has no attribute 'segment'"):
        samcli.segment  # noqa: B018


def test_automask_stays_a_function_when_its_module_is_imported():
    result = run(
        "import samcli, samcli.automask; from samcli.automask import PRESETS; print(samcli.automask.__name__)"
    )
    assert (result.stdout, result.stderr) == ("generate\n", "")


def test_ground_stays_a_function_when_its_package_is_imported():
    result = run("import samcli.ground.load, samcli.ground.merge; print(samcli.ground.__name__)")
    assert (result.stdout, result.stderr) == ("ground\n", "")


def test_from_words_to_masks(random_tiny, pixels):
    predictor = samcli.load(random_tiny, device="cpu")
    config = samcli.GroundConfig(box_threshold=0.1)
    masks = samcli.ground(predictor, ColourDetector(), pixels, ["tomato", "#28a03c"], config)
    assert sorted(mask.category_id for mask in masks) == [1, 2]
    assert samcli.load_detector.__module__ == "samcli.ground.load"


def test_from_a_picture_to_masks(random_tiny, pixels):
    predictor = samcli.load(random_tiny, device="cpu")
    embedding = predictor.embed(pixels)
    prediction = predictor.predict(embedding, samcli.Prompt(points=[(30, 30)]))
    assert isinstance(prediction, samcli.Prediction)
    assert prediction.masks.shape == (3, 60, 90)
    two = predictor.predict(
        embedding, [samcli.Prompt(box=samcli.Box(15, 15, 45, 45)), samcli.Prompt(points=[(70, 30)])]
    )
    assert [len(p.masks) for p in two] == [1, 3]
    config = samcli.AutomaskConfig(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0)
    masks = samcli.automask(predictor, pixels, config)
    assert all(isinstance(mask, samcli.MaskRecord) for mask in masks)
