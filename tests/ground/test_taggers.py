"""Taggers of transformers with random weights, beside transformers' own road; loading and refusing."""

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
from PIL import Image

from samcli.errors import SamcliError
from samcli.ground import captioners, nouns
from samcli.ground.captioners import Blip, Florence2
from samcli.ground.load import load_tagger, tagger_spec
from samcli.ground.siglip import Siglip, sentence
from samcli.records import Tag

Folders = Callable[[str], Path]
EXAMPLES = Path(__file__).parents[2] / "examples"
LABELS = ("cat", "dog", "猫", "собака", "ένα αυτοκίνητο", "Fire  Hydrant")
DTYPES = [
    ("cpu", "bf16"),
    pytest.param(
        "cuda", "fp16", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    return [
        np.asarray(Image.open(EXAMPLES / f"{name}.jpg").convert("RGB").resize(size))
        for name, size in (("coffee", (90, 60)), ("astronaut", (200, 300)), ("rocket", (64, 64)))
    ]


def load(folder: Path, **options: Any) -> Any:
    return load_tagger(str(folder), device="cpu", threshold=0, most=1000, **options)


@pytest.fixture(scope="module")
def blip(random_tagger: Folders) -> Blip:
    return load(random_tagger("blip"))


@pytest.fixture(scope="module")
def florence2(random_tagger: Folders) -> Florence2:
    return load(random_tagger("florence-2"))


@pytest.fixture(scope="module")
def siglip(random_tagger: Folders) -> Siglip:
    return load(random_tagger("siglip"), labels=LABELS)


class TestBlip:
    def test_as_transformers(self, random_tagger: Folders, blip: Blip, photos: list[np.ndarray]) -> None:
        from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipProcessor
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

        folder = random_tagger("blip")
        processor = BlipProcessor(
            BlipImageProcessorPil.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        )
        network = BlipForConditionalGeneration.from_pretrained(folder).eval()
        captions = []
        for photo in photos:
            inputs = processor(images=photo, return_tensors="pt")
            ours = blip._picture(photo)[None]
            np.testing.assert_allclose(ours, inputs["pixel_values"], atol=1e-6)
            with torch.no_grad():
                tokens = network.generate(**inputs, num_beams=3, max_new_tokens=captioners.BLIP_TOKENS)
            captions.append(processor.decode(tokens[0], skip_special_tokens=True))
            own = blip._say(inputs["pixel_values"])[0].tokens
            assert own == [token for token in tokens[0].tolist() if token not in (0, 102, 1100)]
        tagged = blip.tag(photos)
        assert [one.caption for one in tagged] == captions
        assert len(set(captions)) > 1
        for one in tagged:
            assert [tag.word for tag in one.tags] == list(nouns.things(one.caption or ""))
            assert len({tag.score for tag in one.tags}) == 1

    def test_the_score_is_the_mean_probability_of_the_tokens(
        self, random_tagger: Folders, blip: Blip, photos: list[np.ndarray]
    ) -> None:
        """Computed anew: the whole caption at once, given the picture."""
        from transformers import BlipForConditionalGeneration

        network = BlipForConditionalGeneration.from_pretrained(random_tagger("blip")).eval()
        pictures = blip._picture(photos[0])[None]
        said = blip._say(pictures)[0]
        text = network.config.text_config
        with torch.no_grad():
            logits = network.text_decoder(
                input_ids=torch.tensor([[text.bos_token_id, *said.tokens]]),
                encoder_hidden_states=network.vision_model(pixel_values=pictures)[0],
            ).logits[0]
        probabilities = logits.softmax(-1)[range(len(said.tokens)), said.tokens]
        assert said.probabilities == pytest.approx(probabilities.tolist(), abs=1e-5)
        (tagged,) = blip.tag(photos[:1])
        assert tagged.tags[0].score == pytest.approx(float(probabilities.mean()), abs=1e-5)

    def test_pickled_weights_are_the_same(
        self, random_tagger: Folders, blip: Blip, photos: list[np.ndarray], tmp_path: Path
    ) -> None:
        from dataclasses import replace

        from samcli.ground.tagger import Limits

        shutil.copytree(random_tagger("blip"), tmp_path / "F")
        (tmp_path / "F" / "model.safetensors").unlink()
        place = replace(blip._place, folder=tmp_path / "F", weights="pytorch_model.bin")
        assert Blip(place, Limits(0, 1000)).tag(photos) == blip.tag(photos)

    def test_an_empty_caption_names_nothing(
        self, blip: Blip, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nothing = captioners.Said([], [])
        monkeypatch.setattr(blip, "_say", lambda pictures: [nothing] * len(pictures))
        (tagged,) = blip.tag(photos[:1])
        assert tagged == ((), "")

    @pytest.mark.parametrize(("device", "dtype"), DTYPES)
    def test_half_precision(
        self, random_tagger: Folders, photos: list[np.ndarray], device: str, dtype: str
    ) -> None:
        tagger = load_tagger(str(random_tagger("blip")), device=device, dtype=dtype)
        assert all(one.caption for one in tagger.tag(photos))


class TestFlorence2:
    def test_as_transformers(
        self, random_tagger: Folders, florence2: Florence2, photos: list[np.ndarray]
    ) -> None:
        from transformers import (
            Florence2ForConditionalGeneration,
            Florence2Processor,
            PreTrainedTokenizerFast,
        )
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        folder = random_tagger("florence-2")
        pictures = CLIPImageProcessorPil.from_pretrained(folder)
        pictures.image_seq_length = json.loads((folder / "preprocessor_config.json").read_text())[
            "image_seq_length"
        ]
        processor = Florence2Processor(pictures, PreTrainedTokenizerFast.from_pretrained(folder))
        network = Florence2ForConditionalGeneration.from_pretrained(folder).eval()
        tasks = {
            "<DETAILED_CAPTION>": (captioners.CAPTION, captioners.CAPTION_TOKENS),
            "<OD>": (captioners.DETECTION, captioners.DETECTION_TOKENS),
        }
        for photo in photos:
            for task, (prompt, most) in tasks.items():
                inputs = processor(text=task, images=Image.fromarray(photo), return_tensors="pt")
                ours = florence2._picture(photo)[None]
                np.testing.assert_allclose(ours, inputs["pixel_values"], atol=1e-6)
                assert florence2._prompt(prompt).tolist() == inputs["input_ids"].tolist()
                with torch.no_grad():
                    tokens = network.generate(**inputs, num_beams=3, max_new_tokens=most)
                kept = [token for token in tokens[0].tolist() if token not in (0, 1, 2)]
                assert florence2._say(prompt, most, ours)[0].tokens == kept
                assert kept

    def test_names_of_things_and_their_scores(self, florence2: Florence2) -> None:
        tokenizer = florence2._tokenizer
        place = tokenizer.convert_tokens_to_ids("<loc_3>")
        cat, car, red = (tokenizer(f" {word}")["input_ids"][0] for word in ("cat", "car", "red"))
        tokens = [cat, place, place, place, place, red, car, place, place, car]
        sure = [0.5, 1.0, 1.0, 1.0, 1.0, 0.2, 0.6, 1.0, 1.0, 0.9]
        names = florence2._names(captioners.Said(tokens, sure))
        assert names == [Tag("cat", 0.5), Tag("car", pytest.approx(0.4))]

    def test_a_word_of_both_answers_has_the_better_score(
        self, florence2: Florence2, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokenizer = florence2._tokenizer
        place = tokenizer.convert_tokens_to_ids("<loc_3>")
        cat, dog, car = (tokenizer(f" {word}")["input_ids"][0] for word in ("cat", "dog", "car"))
        said = {
            captioners.DETECTION: captioners.Said([cat, place, dog, place], [0.9, 1, 0.3, 1]),
            captioners.CAPTION: captioners.Said([dog, *tokenizer(",")["input_ids"], car], [0.5, 0.5, 0.5]),
        }
        monkeypatch.setattr(florence2, "_say", lambda prompt, most, pictures: [said[prompt]] * len(pictures))
        (tagged,) = florence2.tag(photos[:1])
        assert tagged.tags == (Tag("cat", 0.9), Tag("dog", 0.5), Tag("car", 0.5))
        assert tagged.caption == "dog, car"

    @pytest.mark.parametrize("size", [{"height": 70, "width": 70}, {"shortest_edge": 64}, 64])
    def test_pictures_that_it_cannot_take(self, random_tagger: Folders, tmp_path: Path, size: Any) -> None:
        folder = shutil.copytree(random_tagger("florence-2"), tmp_path / "F")
        file = folder / "preprocessor_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "size": size}))
        with pytest.raises(SamcliError) as caught:
            load(folder)
        assert str(caught.value) == (
            f"the preprocessor of {folder} has size {size!r}; give height and width, both a multiple of 32"
        )


class TestSiglip:
    def test_as_transformers(self, random_tagger: Folders, siglip: Siglip, photos: list[np.ndarray]) -> None:
        from transformers import PreTrainedTokenizerFast, SiglipModel, SiglipProcessor
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        folder = random_tagger("siglip")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        processor = SiglipProcessor(SiglipImageProcessorPil.from_pretrained(folder), tokenizer)
        network = SiglipModel.from_pretrained(folder).eval()
        texts = [sentence(label) for label in LABELS]
        inputs = processor(
            text=texts, images=photos, padding="max_length", max_length=64, return_tensors="pt"
        )
        np.testing.assert_allclose(
            torch.stack([siglip._picture(photo) for photo in photos]), inputs["pixel_values"], atol=1e-6
        )
        assert siglip._tokens().tolist() == inputs["input_ids"].tolist()
        with torch.no_grad():
            scores = network(**inputs).logits_per_image.sigmoid()
        for tagged, expected in zip(siglip.tag(photos), scores.tolist(), strict=True):
            assert [tag.score for tag in tagged.tags] == pytest.approx(
                sorted(expected, reverse=True), abs=1e-5
            )
            assert {tag.word: tag.score for tag in tagged.tags} == pytest.approx(
                dict(zip(LABELS, expected, strict=True)), abs=1e-5
            )
            assert tagged.caption is None

    def test_scores_do_not_depend_on_the_other_labels(
        self, random_tagger: Folders, siglip: Siglip, photos: list[np.ndarray]
    ) -> None:
        labels = (*LABELS, *(f"thing {i}" for i in range(500)))
        (many,), (few,) = (
            one.tag(photos[:1]) for one in (load(random_tagger("siglip"), labels=labels), siglip)
        )
        scores = {tag.word: tag.score for tag in many.tags}
        assert len(scores) == 506
        assert {tag.word: tag.score for tag in few.tags} == pytest.approx(
            {label: scores[label] for label in LABELS}, abs=1e-5
        )

    def test_threshold_and_most(
        self, random_tagger: Folders, siglip: Siglip, photos: list[np.ndarray]
    ) -> None:
        (every,) = siglip.tag(photos[:1])
        third = every.tags[2].score
        some = load_tagger(str(random_tagger("siglip")), device="cpu", labels=LABELS, threshold=third, most=2)
        assert some.tag(photos[:1])[0].tags == every.tags[:2]
        some = load_tagger(str(random_tagger("siglip")), device="cpu", labels=LABELS, threshold=third)
        assert some.tag(photos[:1])[0].tags == every.tags[:3]

    def test_text_goes_through_the_network_once(
        self, siglip: Siglip, photos: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(siglip._network, "get_text_features", None)
        assert len(siglip.tag(photos)) == 3

    def test_a_label_that_is_too_long(self, random_tagger: Folders) -> None:
        with pytest.raises(SamcliError) as caught:
            load(random_tagger("siglip"), labels=["cat", "q" * 60])
        assert str(caught.value) == (
            f"siglip cannot look for {'q' * 40!r}: its sentence has 81 tokens, at most 64 fit"
        )

    def test_a_token_of_the_vocabulary_in_a_label_is_letters(self, random_tagger: Folders) -> None:
        plain, marked = (load(random_tagger("siglip"), labels=[label]) for label in ("pad", "<pad>"))
        assert (marked._tokens() != 0).sum() == (plain._tokens() != 0).sum() + 2

    @pytest.mark.parametrize(("device", "dtype"), DTYPES)
    def test_half_precision(
        self, random_tagger: Folders, siglip: Siglip, photos: list[np.ndarray], device: str, dtype: str
    ) -> None:
        half = load_tagger(
            str(random_tagger("siglip")), device=device, dtype=dtype, labels=LABELS, threshold=0
        )
        for one, exact in zip(half.tag(photos), siglip.tag(photos), strict=True):
            scores = {tag.word: tag.score for tag in exact.tags}
            assert {tag.word: tag.score for tag in one.tags} == pytest.approx(scores, abs=0.1)


@pytest.mark.parametrize("kind", ["blip", "florence-2", "siglip"])
class TestAll:
    def options(self, kind: str) -> dict[str, Any]:
        return {"labels": LABELS} if kind == "siglip" else {}

    def test_images_of_a_call_do_not_know_each_other(
        self, random_tagger: Folders, photos: list[np.ndarray], kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tagger = load(random_tagger(kind), **self.options(kind))
        alone = [tagger.tag([photo])[0] for photo in photos]
        monkeypatch.setattr(tagger, "images_per_call", 2)
        together = tagger.tag(photos)
        assert [one.caption for one in together] == [one.caption for one in alone]
        for one, other in zip(together, alone, strict=True):
            assert [tag.word for tag in one.tags] == [tag.word for tag in other.tags]
            assert [t.score for t in one.tags] == pytest.approx([t.score for t in other.tags], abs=1e-4)
        assert tagger.tag([]) == []

    def test_damaged_weights_are_one_line(self, random_tagger: Folders, tmp_path: Path, kind: str) -> None:
        folder = shutil.copytree(random_tagger(kind), tmp_path / "F")
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(SamcliError, match=rf"^{folder} cannot be loaded as a tagger: .+$"):
            load(folder, **self.options(kind))

    def test_weights_that_do_not_fit(self, random_tagger: Folders, tmp_path: Path, kind: str) -> None:
        from safetensors.torch import load_file, save_file

        folder = shutil.copytree(random_tagger(kind), tmp_path / "F")
        tensors = load_file(folder / "model.safetensors")
        name = sorted(name for name in tensors if "layer_norm" in name or "layernorm" in name)[0]
        tensors["more"] = tensors.pop(name)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(
            SamcliError, match=r"model\.safetensors does not fit .*1 missing: .*1 unexpected: m"
        ):
            load(folder, **self.options(kind))

    def test_no_tokenizer(self, random_tagger: Folders, tmp_path: Path, kind: str) -> None:
        folder = shutil.copytree(random_tagger(kind), tmp_path / "F")
        (folder / "tokenizer.json").unlink()
        with pytest.raises(SamcliError, match=r"has no tokenizer: tokenizer\.json; save it there with"):
            load(folder, **self.options(kind))

    def test_transformers_missing_is_one_line(
        self, random_tagger: Folders, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = random_tagger(kind)
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(SamcliError) as caught:
            load(folder, **self.options(kind))
        assert str(caught.value) == (
            f"{kind} needs transformers; install it with: pip install 'samcli[ground]'"
        )


@pytest.mark.parametrize("kind", ["blip", "florence-2"])
def test_a_missing_textblob_is_said_before_work_starts(
    random_tagger: Folders, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = random_tagger(kind)
    for name in ("textblob", "textblob.en", "textblob.taggers"):
        monkeypatch.setitem(sys.modules, name, None)
    nouns._textblob.cache_clear()
    with pytest.raises(
        SamcliError, match=r"^captions become words by textblob; install it with: pip install"
    ):
        load(folder)


class TestNaming:
    def test_unknown(self, tmp_path: Path) -> None:
        known = "tiny, blip, florence-2, siglip2"
        for given, line in (
            ("nope", f"unknown tagger 'nope'; known: {known}; or give a tagger's folder"),
            ("no/pe", f"tagger no/pe does not exist; give its folder or a name: {known}"),
            (str(tmp_path), f"{tmp_path} holds no tagger: config.json is not there"),
        ):
            for call in (tagger_spec, lambda name: load_tagger(name, device="cpu")):
                with pytest.raises(SamcliError) as caught:
                    call(given)
                assert str(caught.value) == line

    def test_a_detector_is_no_tagger(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "owlv2"}')
        with pytest.raises(SamcliError, match=r"is of model type 'owlv2'; known: blip, florence2, siglip$"):
            tagger_spec(str(tmp_path))

    def test_labels_where_they_belong(self) -> None:
        for name, labels, line in (
            ("blip", ["cat"], "blip takes no labels, its words are its own; leave --labels out"),
            ("siglip2", None, "siglip2 only chooses from labels; give --labels"),
            ("siglip2", [], "siglip2 only chooses from labels; give --labels"),
            ("siglip2", ["cat", " "], "a label has no words; leave it out"),
        ):
            with pytest.raises(SamcliError) as caught:
                load_tagger(name, device="cpu", labels=labels)
            assert str(caught.value) == line
        assert [tagger_spec(name).chooses for name in ("tiny", "siglip2")] == [False, True]

    @pytest.mark.parametrize("limits", [{"threshold": 1.5}, {"threshold": -0.1}, {"most": 0}])
    def test_limits(self, limits: dict[str, Any]) -> None:
        with pytest.raises(SamcliError, match="the tagger"):
            load_tagger("tiny", device="cpu", **limits)

    def test_of_a_folder(self, random_tagger: Folders) -> None:
        spec = tagger_spec(str(random_tagger("florence-2")))
        assert (spec.kind, spec.repository, spec.licence, spec.most) == ("florence-2", "", "unknown", 20)

    def test_known_without_torch(self) -> None:
        code = (
            "import sys\nfrom samcli.ground.load import tagger_spec\n"
            "print(tagger_spec('blip').licence, {'torch', 'transformers', 'textblob'} & set(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "BSD-3-Clause set()\n"
