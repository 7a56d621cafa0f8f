"""Grounding DINO and MM-Grounding-DINO with random weights, beside transformers' own road through both."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from samcli.errors import SamcliError, StopError
from samcli.ground import grounding_dino, load, pretrained
from samcli.ground.detector import Detected, Detector, Thresholds
from samcli.ground.grounding_dino import GroundingDino, resized
from samcli.ground.load import detector_spec, load_detector

Folders = Callable[[str], Path]

ALL = Thresholds(0.0, 0.0)
USUAL = Thresholds(0.3, 0.25)
PHRASES = ("cat", "Red car", "tricycle", "a thing")
KINDS = ("grounding-dino", "mm-grounding-dino")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blocks of colours, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 20 + 1, width // 20 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(blocks.repeat(20, 0).repeat(20, 1)[:height, :width])


def same(a: Detected, b: Detected, tolerance: float = 1e-4) -> None:
    """Both found the same; of nearly equal scores the order may differ."""
    assert len(a) == len(b)
    first, second = (
        np.column_stack([one.phrases, one.boxes, one.scores])[
            np.lexsort((one.boxes[:, 1].round(1), one.boxes[:, 0].round(1), one.phrases))
        ]
        for one in (a, b)
    )
    np.testing.assert_allclose(first, second, atol=tolerance * 100)
    np.testing.assert_allclose(first[:, 5], second[:, 5], atol=tolerance)


@pytest.fixture(scope="module")
def detectors_by_kind(random_detector: Folders) -> dict[str, GroundingDino]:
    return {kind: load_detector(str(random_detector(kind)), device="cpu") for kind in KINDS}  # type: ignore


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def detector(kind: str, detectors_by_kind: dict[str, GroundingDino]) -> GroundingDino:
    return detectors_by_kind[kind]


def theirs(folder: Path, kind: str, image: np.ndarray, text: str, threshold: float) -> dict[str, Any]:
    """What transformers' processor and network make of an image: boxes, scores, text_labels."""
    import transformers
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
        GroundingDinoImageProcessorPil,
    )

    processor = transformers.GroundingDinoProcessor(
        GroundingDinoImageProcessorPil.from_pretrained(folder),
        transformers.BertTokenizer.from_pretrained(folder),
    )
    network = getattr(transformers, grounding_dino.NETWORKS[kind]).from_pretrained(folder).eval()
    inputs = processor(images=image, text=text, return_tensors="pt")
    with torch.no_grad():
        outputs = network(**inputs)
    return processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=threshold, text_threshold=0.25, target_sizes=[image.shape[:2]]
    )[0]


@pytest.mark.parametrize("size", [(90, 130), (300, 200), (100, 400)])
def test_boxes_and_scores_are_those_of_transformers(
    detector: GroundingDino, kind: str, random_detector: Folders, size: tuple[int, int]
) -> None:
    image = picture(*size)
    ours = detector.detect([image], PHRASES, Thresholds(0.3, 0.0))[0]
    result = theirs(random_detector(kind), kind, image, "cat. red car. tricycle. a thing.", 0.3)
    order = np.argsort(-result["scores"].numpy(), kind="stable")
    boxes = result["boxes"].numpy()[order].clip(0, (size[1], size[0]) * 2)
    assert len(ours) > 5
    np.testing.assert_allclose(ours.scores, result["scores"].numpy()[order], atol=1e-5)
    np.testing.assert_allclose(ours.boxes, boxes, atol=1e-2)
    assert len(set(ours.phrases.tolist())) > 1


def test_what_comes_out(detector: GroundingDino) -> None:
    image = picture(90, 130)
    (found,) = detector.detect([image], PHRASES, USUAL)
    assert len(found) > 5
    assert (found.boxes.dtype, found.scores.dtype, found.phrases.dtype) == (np.float64, np.float64, np.int64)
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores > 0.3).all()
    assert (found.boxes[:, :2] >= 0).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert (found.boxes[:, 2:] <= (130, 90)).all()
    assert set(found.phrases.tolist()) <= set(range(len(PHRASES)))
    (again,) = detector.detect([image], PHRASES, USUAL)
    assert (again.boxes == found.boxes).all()


def test_thresholds_only_leave_out(detector: GroundingDino) -> None:
    image = picture(90, 130)
    (every,) = detector.detect([image], PHRASES, ALL)
    (some,) = detector.detect([image], PHRASES, Thresholds(float(np.median(every.scores)), 0.0))
    assert 0 < len(some) == int((every.scores > np.median(every.scores)).sum())
    assert (some.boxes == every.boxes[: len(some)]).all()
    (none,) = detector.detect([image], PHRASES, Thresholds(1.0, 0.0))
    assert (len(none), none.boxes.shape) == (0, (0, 4))


def test_images_of_a_call_do_not_know_each_other(
    detector: GroundingDino, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of a size go through the network together, the others apart; each as if it were alone."""
    images = [
        picture(90, 130),
        picture(120, 80, 1),
        picture(90, 130, 2),
        picture(90, 130, 3),
        picture(30, 30),
    ]
    alone = [detector.detect([image], PHRASES, ALL)[0] for image in images]
    monkeypatch.setattr(detector, "images_per_call", 2)
    shapes: list[tuple[int, ...]] = []
    real = detector._ask
    monkeypatch.setattr(detector, "_ask", lambda *args: shapes.append(args[-1].shape) or real(*args))
    together = detector.detect(images, PHRASES, ALL)
    assert [shape[0] for shape in shapes] == [2, 1, 1, 1]
    for one, other in zip(alone, together, strict=True):
        same(one, other)


def test_no_images_or_phrases(detector: GroundingDino) -> None:
    assert detector.detect([], PHRASES, USUAL) == []
    (found,) = detector.detect([picture(90, 130)], [], USUAL)
    assert (len(found), found.boxes.shape, found.phrases.dtype) == (0, (0, 4), np.int64)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (700, 2)])
def test_images_of_any_shape(detector: GroundingDino, size: tuple[int, int]) -> None:
    (found,) = detector.detect([picture(*size)], PHRASES, ALL)
    assert (found.boxes[:, 2:] <= (size[1], size[0])).all()


def test_phrases_over_several_passes(detector: GroundingDino) -> None:
    """Spelled letter by letter 40 phrases do not fit into one caption; each pass is as it is alone."""
    image = picture(90, 130)
    phrases = [f"qu{chr(97 + i % 26)}{chr(97 + i // 26)}zork" for i in range(40)]
    first = 252 // 9  # of eight tokens each, and a dot
    (both,) = detector.detect([image], phrases, ALL)
    (one,) = detector.detect([image], phrases[:first], ALL)
    (two,) = detector.detect([image], phrases[first:], ALL)
    assert len(both) == len(one) + len(two)
    expected = pretrained.together([one, Detected(two.boxes, two.scores, two.phrases + first)])
    assert (both.scores == expected.scores).all()
    assert (both.boxes == expected.boxes).all()
    assert (both.phrases == expected.phrases).all()
    assert (np.diff(both.scores) <= 0).all()
    assert (both.phrases < first).any()
    assert (both.phrases >= first).any()


def test_case_and_marks_of_a_phrase(detector: GroundingDino) -> None:
    """Nothing in a phrase ends it, or passes for one of BERT's own tokens."""
    assert detector._tokens("RED car") == detector._tokens("red car")
    assert detector._tokens("red. car?") == detector._tokens("red car")
    inside = detector._tokens("cat [SEP] dog")
    assert not {101, 102, 1012, 1029} & set(inside)
    assert len(inside) > 3
    (plain,) = detector.detect([picture(90, 130)], ["red car"], ALL)
    (marked,) = detector.detect([picture(90, 130)], ["Red. car?"], ALL)
    assert (plain.boxes == marked.boxes).all()


@pytest.mark.parametrize("phrase", ["猫", "?", ".", "😀 😀", ""])
def test_a_phrase_that_cannot_be_read(detector: GroundingDino, phrase: str) -> None:
    with pytest.raises(SamcliError) as caught:
        detector.detect([picture(90, 130)], ["cat", phrase], USUAL)
    assert str(caught.value) == f"{detector.name} cannot read {phrase!r}; its words are English"


def test_what_it_knows(detector: GroundingDino) -> None:
    long = "cat " * 300
    for phrase, known in (
        ("cat", True),
        ("cat 猫", True),
        ("猫", False),
        ("", False),
        (".", False),
        (long, False),
    ):
        assert detector.knows(phrase) == known
        if known:
            detector.detect([picture(40, 40)], [phrase], ALL)
        else:
            with pytest.raises(StopError):
                detector.detect([picture(40, 40)], [phrase], ALL)


def test_a_phrase_that_is_too_long(detector: GroundingDino) -> None:
    with pytest.raises(SamcliError) as caught:
        detector.detect([picture(90, 130)], ["q" * 90 + " " + "z" * 90 + " " + "x" * 74], USUAL)
    assert str(caught.value) == (
        f"{detector.name} cannot look for '{'q' * 40}...': it has 254 tokens, at most 253 fit"
    )


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", "bf16"),
        pytest.param(
            "cuda",
            "fp16",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ),
    ],
)
def test_half_precision(
    kind: str, detector: GroundingDino, random_detector: Folders, device: str, dtype: str
) -> None:
    image = picture(90, 130)
    half = load_detector(str(random_detector(kind)), device=device, dtype=dtype)
    (found,), (exact,) = (one.detect([image], PHRASES, ALL) for one in (half, detector))
    assert len(found) == len(exact)
    assert np.median(np.abs(found.scores - exact.scores)) < 0.05
    apart = np.abs(found.boxes[:, None] - exact.boxes[None]).max(axis=2).min(axis=1)
    assert 0 < np.quantile(apart, 0.25) < 0.1  # pixels; rounding makes some queries come from other places


def test_numbers_that_overflow(detector: GroundingDino, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(**inputs: torch.Tensor) -> Any:
        class Answer:
            logits = torch.full((1, 30, 256), torch.nan)
            pred_boxes = torch.zeros(1, 30, 4)

        return Answer

    monkeypatch.setattr(detector, "_network", overflow)
    with pytest.raises(SamcliError, match=r"^the numbers of .* overflow in torch\.float32; use --d"):
        detector.detect([picture(90, 130)], PHRASES, USUAL)


def test_out_of_memory_halves(detector: GroundingDino, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [picture(90, 130, seed) for seed in range(3)]
    alone = [detector.detect([image], PHRASES, ALL)[0] for image in images]
    monkeypatch.setattr(detector, "images_per_call", 4)
    real, most = detector._ask, 1

    def small(*args: Any) -> list[Detected]:
        if len(args[-1]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args)

    monkeypatch.setattr(detector, "_ask", small)
    with pytest.warns(match="^out of memory: went on with 1 images at a time$"):
        found = detector.detect(images, PHRASES, ALL)
    for one, other in zip(alone, found, strict=True):
        same(one, other)
    most = 0
    with pytest.raises(SamcliError, match=r"^out of memory while looking at one image alone"):
        detector.detect(images[:1], PHRASES, ALL)


class TestPictures:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ((480, 640), (800, 1066)),
            ((640, 480), (1066, 800)),
            ((800, 800), (800, 800)),
            ((800, 1200), (800, 1200)),
            ((1000, 4000), (333, 1333)),
            ((2000, 4000), (666, 1333)),
            ((1, 5000), (1, 1333)),
        ],
    )
    def test_sizes(self, size: tuple[int, int], expected: tuple[int, int]) -> None:
        assert resized(size, 800, 1333) == expected

    def test_as_transformers_prepares_them(self, random_detector: Folders) -> None:
        folder = random_detector("grounding-dino")
        from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
            GroundingDinoImageProcessorPil,
        )

        detector = load_detector(str(folder), device="cpu")
        assert isinstance(detector, GroundingDino)
        processor = GroundingDinoImageProcessorPil.from_pretrained(folder)
        rng = np.random.default_rng(1)
        for height, width in rng.integers(20, 500, (40, 2)):
            image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            expected = processor(image, return_tensors="np")["pixel_values"][0]
            np.testing.assert_allclose(detector._picture(image).numpy(), expected, atol=1e-5)


class TestLoading:
    @pytest.fixture
    def copy(self, random_detector: Folders, tmp_path: Path) -> Path:
        return Path(shutil.copytree(random_detector("grounding-dino"), tmp_path / "mine"))

    def refusal(self, folder: Path) -> str:
        with pytest.raises(SamcliError) as caught:
            load_detector(str(folder), device="cpu")
        assert caught.value.code == 1
        message = str(caught.value)
        assert "\n" not in message
        return message.replace(str(folder), "F")

    def test_a_folder(self, copy: Path) -> None:
        spec = detector_spec(str(copy))
        assert (spec.name, spec.kind, spec.box, spec.text) == ("mine", "grounding-dino", 0.3, 0.25)
        detector = load_detector(str(copy), device="cpu")
        assert (detector.name, detector.images_per_call) == ("mine", 1)
        assert len(detector.sha256) == 64
        assert load_detector(str(copy), device=torch.device("cpu")).sha256 == detector.sha256
        (copy / "README.md").write_text("not of the detector")
        assert load_detector(str(copy), device="cpu").sha256 == detector.sha256
        (copy / "preprocessor_config.json").unlink()
        assert load_detector(str(copy), device="cpu").sha256 != detector.sha256

    def test_pictures_as_its_files_say_or_as_the_reference_has_them(self, copy: Path) -> None:
        def sides() -> object:
            return load_detector(str(copy), device="cpu")._sides  # type: ignore[attr-defined]

        assert sides() == (128, 213)
        (copy / "preprocessor_config.json").unlink()
        assert sides() == (800, 1333)
        size = {"shortest_edge": 64, "longest_edge": 100}
        (copy / "processor_config.json").write_text(json.dumps({"image_processor": {"size": size}}))
        assert sides() == (64, 100)

    @pytest.mark.parametrize("size", [800, {"height": 800, "width": 800}, {"shortest_edge": "x"}])
    def test_pictures_of_another_kind(self, copy: Path, size: object) -> None:
        (copy / "preprocessor_config.json").write_text(json.dumps({"size": size}))
        assert self.refusal(copy) == (
            f"the preprocessor of F has size {size!r}; give shortest_edge and longest_edge"
        )

    def test_pictures_of_other_colours(self, copy: Path) -> None:
        (copy / "preprocessor_config.json").write_text(json.dumps({"image_std": [0.5, "x"]}))
        assert self.refusal(copy) == "the preprocessor of F has image_std [0.5, 'x']; give three numbers"
        (copy / "preprocessor_config.json").write_text("{")
        assert self.refusal(copy).startswith("F/preprocessor_config.json is not a JSON file (Expecting ")

    def test_weights_must_fit(self, copy: Path) -> None:
        file = copy / "model.safetensors"
        state = load_file(file)
        del state["model.text_projection.bias"]
        state["extra.weight"] = torch.zeros(1)
        state["model.level_embed"] = torch.zeros(4, 8)
        save_file(state, file, {"format": "pt"})
        assert self.refusal(copy) == (
            "F/model.safetensors does not fit GroundingDinoForObjectDetection; keys "
            "1 missing: model.text_projection.bias; 1 unexpected: extra.weight; "
            "1 of another shape: model.level_embed (4, 8) not (4, 32)"
        )

    def test_buffers_of_older_releases_do_no_harm(self, copy: Path) -> None:
        before = load_detector(str(copy), device="cpu").detect([picture(90, 130)], PHRASES, ALL)[0]
        file = copy / "model.safetensors"
        state = load_file(file)
        state["model.text_backbone.embeddings.position_ids"] = torch.arange(512)[None]
        save_file(state, file, {"format": "pt"})
        (after,) = load_detector(str(copy), device="cpu").detect([picture(90, 130)], PHRASES, ALL)
        assert (before.boxes == after.boxes).all()

    def test_damaged_weights(self, copy: Path) -> None:
        file = copy / "model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
        assert self.refusal(copy).startswith("F cannot be loaded as a detector: ")

    def test_no_pickles(self, copy: Path) -> None:
        state = load_file(copy / "model.safetensors")
        torch.save(state, copy / "pytorch_model.bin")
        (copy / "model.safetensors").unlink()
        assert self.refusal(copy) == (
            "F has no model.safetensors; save the detector there with save_pretrained"
        )

    def test_no_code_of_the_folder_is_run(self, copy: Path, tmp_path: Path) -> None:
        config = json.loads((copy / "config.json").read_text())
        config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
        (copy / "config.json").write_text(json.dumps(config))
        (copy / "evil.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\nclass Evil: ...\n")
        load_detector(str(copy), device="cpu")
        assert not (tmp_path / "owned").exists()

    @pytest.mark.parametrize(
        "change",
        [
            {"backbone": "microsoft/resnet-50", "use_pretrained_backbone": True, "backbone_config": None},
            {"backbone": "resnet50", "use_timm_backbone": True, "backbone_config": None},
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet50"}},
        ],
    )
    def test_no_backbone_from_elsewhere(self, copy: Path, change: dict[str, Any]) -> None:
        """transformers would fetch it."""
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | change))
        assert self.refusal(copy) == (
            "F/config.json names a backbone from elsewhere; it must describe all of the network"
        )

    def test_no_tokenizer(self, copy: Path) -> None:
        (copy / "tokenizer.json").unlink()
        assert self.refusal(copy) == (
            "F has no tokenizer: tokenizer.json or vocab.txt; save it there with save_pretrained"
        )

    def test_a_list_of_words_is_a_tokenizer(self, copy: Path) -> None:
        words = json.loads((copy / "tokenizer.json").read_text())["model"]["vocab"]
        whole = load_detector(str(copy), device="cpu")
        (copy / "tokenizer.json").unlink()
        (copy / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)) + "\n")
        listed = load_detector(str(copy), device="cpu")
        for phrase in ("red car", "tricycle", "a_thing"):
            assert listed._tokens(phrase) == whole._tokens(phrase)  # type: ignore[attr-defined]

    def test_another_tokenizer(self, copy: Path) -> None:
        tokenizer = json.loads((copy / "tokenizer.json").read_text())
        words = tokenizer["model"]["vocab"]
        words["."], words["?"] = words["?"], words["."]
        (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
        assert self.refusal(copy) == "the tokenizer in F is not BERT's; Grounding DINO needs that one"

    def test_no_detector(self, tmp_path: Path) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        assert self.refusal(empty) == "F holds no detector: config.json is not there"
        (empty / "config.json").write_text("{")
        assert self.refusal(empty).startswith("cannot read F/config.json: Expecting property name")
        (empty / "config.json").write_text('{"model_type": "sam"}')
        assert self.refusal(empty) == (
            "F/config.json is of model type 'sam'; known: grounding-dino, mm-grounding-dino, owlv2"
        )

    def test_a_configuration_that_makes_no_sense(self, copy: Path) -> None:
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"d_model": "large"}))
        assert self.refusal(copy).startswith("F cannot be loaded as a detector: ")

    def test_unknown_names(self, tmp_path: Path) -> None:
        known = ", ".join(load.DETECTORS)
        with pytest.raises(SamcliError) as caught:
            load_detector("nope", device="cpu")
        assert str(caught.value) == f"unknown detector 'nope'; known: {known}; or give a detector's folder"
        with pytest.raises(SamcliError, match=r"^unknown detector ''; known: "):
            load_detector("", device="cpu")
        with pytest.raises(SamcliError, match=r"^detector ~nobody/mine does not exist; "):
            load_detector("~nobody/mine", device="cpu")
        with pytest.raises(SamcliError) as caught:
            detector_spec("runs/mine")
        assert str(caught.value) == (f"detector runs/mine does not exist; give its folder or a name: {known}")
        file = tmp_path / "a.safetensors"
        file.touch()
        with pytest.raises(SamcliError, match=r"is not a folder; give a detector's folder or a name: "):
            detector_spec(str(file))

    def test_unknown_dtype(self, copy: Path) -> None:
        with pytest.raises(SamcliError, match=r"^unknown dtype 'int8'; known: fp32, bf16, fp16$"):
            load_detector(str(copy), device="cpu", dtype="int8")
        with pytest.raises(SamcliError, match=r"^unknown device 'auto'; known: cpu, mps, cuda, cuda:N$"):
            load_detector(str(copy), device="auto")
        with pytest.raises(SamcliError, match=r"^dtype fp16 needs a GPU; use bf16 or fp32 on the CPU$"):
            load_detector(str(copy), device="cpu", dtype="fp16")

    def test_without_transformers(self, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        assert self.refusal(copy) == "mine needs transformers; install it with: pip install 'samcli[ground]'"

    def test_nothing_is_printed(self, copy: Path) -> None:
        code = (
            "import numpy, sys; from samcli.ground.load import load_detector\n"
            "from samcli.ground.detector import Thresholds\n"
            "detector = load_detector(sys.argv[1], device='cpu')\n"
            "image = numpy.zeros((50, 60, 3), numpy.uint8)\n"
            "print(len(detector.detect([image], ['cat', 'car'], Thresholds(0, 0))))\n"
        )
        done = subprocess.run([sys.executable, "-c", code, copy], capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("1\n", "")


def test_it_is_a_detector(detector: GroundingDino) -> None:
    taken: Detector = detector
    assert taken.images_per_call == 1
