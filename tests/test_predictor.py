from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from samcli.errors import SamcliError, SamcliNote
from samcli.masks import decode_rle
from samcli.models.small import build_tiny
from samcli.predictor import Predictor, find_device, load, load_embedding, save_embedding
from samcli.records import Box, Prompt
from samcli.upscale import Upscaling
from samcli.weights import MODELS

SIDE = 64  # pixels; a small square input, with 16 x 16 low-res logits


def build(**options):
    """A predictor with random weights, scaled so that masks differ between prompts and have edges."""
    torch.manual_seed(3)
    sam = build_tiny(SIDE)
    for mlp in sam.mask_decoder.output_hypernetworks_mlps:
        mlp.layers[-1].weight.data *= 40
    sam.mask_decoder.iou_prediction_head.layers[-1].weight.data *= 10
    return Predictor(sam, MODELS["tiny"], "a" * 64, **options)


@pytest.fixture
def predictor():
    return build()


@pytest.fixture(scope="module")
def image():
    """(48, 75, 3): neither side goes evenly into the model's input."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    return np.array(small.resize((75, 48), Image.Resampling.BICUBIC))


@pytest.fixture
def embedding(predictor, image):
    return predictor.embed(image)


def test_the_model_input_is_resized_normalised_then_padded(predictor, image):
    seen = []
    encode = predictor.sam.encode_image
    predictor.sam.encode_image = lambda pixels: seen.append(pixels) or encode(pixels)
    predictor.embed(image)
    resized = Image.fromarray(image).resize((64, 41), Image.Resampling.BILINEAR)
    expected = np.zeros((3, SIDE, SIDE))
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    expected[:, :41] = ((np.asarray(resized) - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(seen[0][0], expected, atol=1e-6)


def test_an_embedding_says_where_it_comes_from(predictor, image):
    embedding = predictor.embed(image)
    assert embedding.original_size == (48, 75)
    assert embedding.input_size == (41, 64)
    assert (embedding.model, embedding.weights_sha256) == ("tiny", "a" * 64)
    assert embedding.image_sha256 == hashlib.sha256(image.tobytes()).hexdigest()
    assert predictor.embed(image, image_sha256="of the file").image_sha256 == "of the file"


def test_images_of_any_sizes_are_embedded_together(predictor, image):
    images = [image, image[:20, :30], image[:1, :1]]
    for alone, together in zip(map(predictor.embed, images), predictor.embed_many(images), strict=True):
        assert alone.original_size == together.original_size
        assert alone.image_sha256 == together.image_sha256
        for a, b in zip(
            (alone.features, *alone.high_res), (together.features, *together.high_res), strict=True
        ):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_rgb_image_is_refused(predictor, bad):
    with pytest.raises(SamcliError) as error:
        predictor.embed(bad)
    given = f"{bad.shape} {bad.dtype}"
    assert str(error.value) == f"an image array is {given}; give (height, width, 3) uint8, RGB"


def prompts_of_every_kind(predictor, embedding):
    mask = np.zeros((48, 75), dtype=bool)
    mask[10:30, 20:50] = True
    drawn = predictor.mask_prompt(embedding, mask)
    point, other, box = (20.0, 10.0), (60.5, 40.0), Box(5, 6, 40, 41)
    return [
        Prompt(points=[point]),
        Prompt(box=box),
        Prompt(points=[point, other], labels=[1, 0]),
        Prompt(points=[other]),
        Prompt(points=[point], box=box),
        Prompt(mask=drawn),
        Prompt(points=[point], mask=drawn),
        Prompt(box=Box(30, 5, 70, 45)),
        Prompt(box=box, mask=drawn),
        Prompt(points=[other, point]),
    ]


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours.low_res_logits, theirs.low_res_logits, atol=1e-4)
    np.testing.assert_allclose(ours.predicted_iou, theirs.predicted_iou, atol=1e-4)
    assert ours.masks.shape == theirs.masks.shape
    assert (ours.masks != theirs.masks).mean() < 1e-3
    assert ours.point_coords == theirs.point_coords


def test_prompts_of_all_kinds_together_are_answered_as_one_by_one(predictor, embedding):
    prompts = prompts_of_every_kind(predictor, embedding)
    together = predictor.predict(embedding, prompts)
    assert [len(answer.masks) for answer in together] == [3, 1, 1, 3, 1, 1, 1, 1, 1, 1]
    for prompt, answer in zip(prompts, together, strict=True):
        assert_same(answer, predictor.predict(embedding, prompt))
    logits = [answer.low_res_logits[0] for answer in together]
    assert np.std(logits) > 1
    assert min(np.abs(a - b).max() for i, a in enumerate(logits) for b in logits[:i]) > 0.1


def test_prompts_of_one_layout_share_a_call(predictor, embedding):
    calls = []
    answers = predictor._answers
    predictor._answers = lambda *args: calls.append(args[2].tolist()) or answers(*args)
    prompts = prompts_of_every_kind(predictor, embedding)
    predictor.predict(embedding, [*prompts[:5], prompts[7]])
    assert calls == [
        [[1, -1], [1, -1]],  # points without a box get a padding token
        [[2, 3], [2, 3]],
        [[1, 0, -1]],
        [[1, 2, 3]],
    ]


def test_answers_come_one_by_one(predictor, embedding, monkeypatch):
    prompts = prompts_of_every_kind(predictor, embedding)
    made = []
    masks = Upscaling.masks
    monkeypatch.setattr(Upscaling, "masks", lambda *args: made.append(1) or masks(*args))
    answers = predictor.predict_each(embedding, prompts)
    assert made == []
    first = next(answers)
    assert len(made) == 1
    rest = list(answers)
    for answer, other in zip([first, *rest], predictor.predict(embedding, prompts), strict=True):
        assert_same(answer, other)


@pytest.mark.parametrize(("multimask", "count"), [(None, 3), (True, 3), (False, 1)])
def test_masks_come_best_first(predictor, embedding, multimask, count):
    answer = predictor.predict(embedding, Prompt(points=[(20, 10)]), multimask=multimask)
    assert answer.masks.shape == (count, 48, 75)
    assert answer.masks.dtype == bool
    assert answer.low_res_logits.shape == (count, 16, 16)
    assert all(
        a.dtype == np.float32 for a in (answer.predicted_iou, answer.stability_score, answer.low_res_logits)
    )
    assert list(answer.predicted_iou) == sorted(answer.predicted_iou, reverse=True)


def test_masks_and_stability_are_those_of_the_full_logits(predictor, embedding):
    answer = predictor.predict(embedding, Prompt(points=[(20, 10)]))
    full = predictor.upscale(torch.from_numpy(answer.low_res_logits), embedding).numpy()
    np.testing.assert_array_equal(answer.masks, full > 0)
    offset = predictor.stability_offset
    stability = (full > offset).sum((1, 2)) / (full > -offset).sum((1, 2))
    np.testing.assert_allclose(answer.stability_score, stability, atol=1e-3)
    assert answer.masks.any()
    assert not answer.masks.all()


def test_records_describe_the_masks(predictor, embedding):
    answer = predictor.predict(embedding, Prompt(points=[(20, 10)]))
    records = answer.records()
    assert [record.id for record in records] == [1, 2, 3]
    for record, mask, iou in zip(records, answer.masks, answer.predicted_iou, strict=True):
        np.testing.assert_array_equal(decode_rle(record.segmentation), mask)
        assert record.area == mask.sum()
        assert record.predicted_iou == record.score == float(iou)
        assert record.point_coords == ((20.0, 10.0),)
        assert record.crop_box is None
    assert predictor.predict(embedding, Prompt(box=Box(1, 1, 9, 9))).records()[0].point_coords is None


def test_no_prompts_no_answers(predictor, embedding):
    assert predictor.predict(embedding, []) == []


def test_a_mask_without_a_pixel(predictor, embedding):
    predictor._answers = lambda *_: (torch.full((3, 16, 16), -5.0), torch.ones(1, 3))
    answer = predictor.predict(embedding, Prompt(points=[(20, 10)]))
    assert not answer.masks.any()
    assert answer.stability_score.tolist() == [0, 0, 0]
    assert [(r.bbox, r.area) for r in answer.records()] == [((0, 0, 0, 0), 0)] * 3


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (900, 2)])
def test_extreme_sizes(predictor, size):
    embedding = predictor.embed(np.full((*size, 3), 90, np.uint8))
    point = (size[1] - 0.5, 0.5)
    assert predictor.predict(embedding, Prompt(points=[point])).masks.shape == (3, *size)


def test_prompts_outside_the_image_are_refused(predictor, embedding):
    with pytest.raises(SamcliError, match="point 76,10 lies outside the image, which is 75x48 pixels"):
        predictor.predict(embedding, Prompt(points=[(76, 10)]))


# Mask prompts


def test_a_mask_prompt_is_the_mask_in_the_padded_frame(predictor, embedding):
    everything = predictor.mask_prompt(embedding, np.ones((48, 75), dtype=bool))
    assert everything.shape == (16, 16)
    assert everything.dtype == np.float32
    np.testing.assert_allclose(everything[:10], 8)
    np.testing.assert_allclose(everything[10], 8 * (2 / 4 - 1))  # 41 rows of 64: a quarter of that cell
    np.testing.assert_allclose(everything[11:], -8)
    nothing = predictor.mask_prompt((48, 75), np.zeros((48, 75), dtype=bool))
    np.testing.assert_allclose(nothing, -8)


def test_a_mask_prompt_comes_back_as_the_mask(predictor, embedding):
    mask = np.zeros((48, 75), dtype=bool)
    mask[8:31, 20:50] = True
    logits = torch.from_numpy(predictor.mask_prompt(embedding, mask))[None]
    again = predictor.upscale(logits, embedding)[0].numpy() > 0
    assert (again & mask).sum() / (again | mask).sum() > 0.9


def test_a_mask_of_another_size_is_refused(predictor, embedding):
    with pytest.raises(SamcliError) as error:
        predictor.mask_prompt(embedding, np.zeros((75, 48), dtype=bool))
    assert str(error.value) == "the mask is 48x75 but the image 75x48 pixels; give a mask of the image's size"


def test_logits_of_a_round_are_the_next_rounds_mask(predictor, embedding):
    first = predictor.predict(embedding, Prompt(points=[(20, 10)]))
    second = predictor.predict(
        embedding, Prompt(points=[(20, 10), (60, 40)], labels=[1, 0], mask=first.low_res_logits[0])
    )
    assert second.masks.shape == (1, 48, 75)


def test_logits_of_another_model_are_refused(predictor, embedding):
    with pytest.raises(SamcliError) as error:
        predictor.predict(embedding, Prompt(mask=np.zeros((256, 200), np.float32)))
    assert str(error.value) == (
        "the mask prompt is 200x256 logits, but tiny takes 16x16; "
        "use its own low-res logits or Predictor.mask_prompt"
    )


# Memory

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
    MemoryError(),
]


def fails_above(limit, function, error, sizes):
    """`function` as if memory ran out above `limit` prompts or images; `sizes` gets what was tried."""

    def limited(*args, **kwargs):
        count = len(args[1] if len(args) > 1 else args[0])
        sizes.append(count)
        if count > limit:
            raise error
        return function(*args, **kwargs)

    return limited


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:24] or "MemoryError")
def test_out_of_memory_halves_the_prompts_and_keeps_what_worked(predictor, embedding, error):
    prompts = [Prompt(points=[(5 * i, 4 * i)]) for i in range(11)]
    expected = predictor.predict(embedding, prompts)
    sizes = []
    predictor._answers = fails_above(3, predictor._answers, error, sizes)
    predictor.prompts_per_call = 8
    with pytest.warns(SamcliNote) as notes:
        answers = predictor.predict(embedding, prompts)
    assert [str(note.message) for note in notes] == ["out of memory: went on with 2 prompts at a time"]
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 1]
    for ours, theirs in zip(answers, expected, strict=True):
        assert_same(ours, theirs)
    with warnings.catch_warnings():  # the size is kept, and nothing is left to say
        warnings.simplefilter("error", SamcliNote)
        predictor.predict(embedding, prompts[:3])
    assert sizes[8:] == [2, 1]


def test_out_of_memory_halves_the_images(predictor, image):
    sizes = []
    predictor.images_per_call = 8  # a CPU's is 1
    predictor.sam.encode_image = fails_above(
        1, predictor.sam.encode_image, torch.OutOfMemoryError("out of memory"), sizes
    )
    with pytest.warns(SamcliNote, match="went on with 1 images at a time"):
        embeddings = predictor.embed_many([image, image[:9], image])
    assert sizes == [3, 1, 1, 1]
    assert [e.original_size for e in embeddings] == [(48, 75), (9, 75), (48, 75)]


def test_a_single_prompt_that_does_not_fit_is_an_error(predictor, embedding):
    predictor._answers = fails_above(0, predictor._answers, torch.OutOfMemoryError("out of memory"), [])
    with pytest.raises(SamcliError) as error:
        predictor.predict(embedding, Prompt(points=[(1, 1)]))
    assert (
        str(error.value)
        == "out of memory with one of the prompts alone; use a smaller model, or --device cpu"
    )


def test_other_errors_pass_through(predictor, embedding):
    predictor._answers = fails_above(0, predictor._answers, RuntimeError("shapes do not match"), [])
    with pytest.raises(RuntimeError, match="shapes do not match"):
        predictor.predict(embedding, Prompt(points=[(1, 1)]))


# Saved embeddings


def test_an_embedding_survives_the_disk(predictor, embedding, tmp_path):
    path = tmp_path / "deep" / "image.safetensors"
    save_embedding(embedding, path)
    loaded = load_embedding(path, predictor, image_sha256=embedding.image_sha256)
    for name in ("original_size", "input_size", "model", "weights_sha256", "image_sha256"):
        assert getattr(loaded, name) == getattr(embedding, name)
    assert len(loaded.high_res) == 2
    for a, b in zip(
        (loaded.features, *loaded.high_res), (embedding.features, *embedding.high_res), strict=True
    ):
        assert torch.equal(a, b)
    prompt = Prompt(points=[(20, 10)])
    ours, theirs = predictor.predict(loaded, prompt), predictor.predict(embedding, prompt)
    np.testing.assert_array_equal(ours.low_res_logits, theirs.low_res_logits)


def test_an_embedding_of_another_image_is_refused(embedding, tmp_path):
    path = tmp_path / "a.safetensors"
    save_embedding(embedding, path)
    with pytest.raises(SamcliError) as error:
        load_embedding(path, image_sha256="b" * 64)
    assert str(error.value) == f"{path} is the embedding of another image; run samcli embed again"


def test_an_embedding_of_other_weights_is_refused(embedding, tmp_path):
    path = tmp_path / "a.safetensors"
    other = build()
    other.weights_sha256 = "b" * 64
    save_embedding(embedding, path)
    with pytest.raises(SamcliError) as error:
        load_embedding(path, other)
    assert str(error.value) == (
        f"{path} was made by tiny with other weights than tiny's; "
        "run samcli embed again, or name the model it was made with"
    )
    with pytest.raises(SamcliError, match="the embedding was made by tiny with other weights than tiny's"):
        other.predict(embedding, Prompt(points=[(1, 1)]))


@pytest.mark.parametrize("kind", ["text", "weights", "sizes"])
def test_what_is_no_embedding_is_refused(embedding, tmp_path, kind):
    path = tmp_path / "a.safetensors"
    if kind == "text":
        path.write_text("no tensors in here")
    elif kind == "weights":
        save_file({"features": torch.zeros(1)}, path)
    else:
        save_embedding(replace(embedding, original_size=(1, 2, 3)), path)
    with pytest.raises(SamcliError) as error:
        load_embedding(path)
    assert str(error.value) == f"{path} is not an embedding that samcli wrote; run samcli embed again"


def test_a_missing_embedding_is_named(tmp_path):
    with pytest.raises(SamcliError, match=r"a\.safetensors cannot be read: No such file"):
        load_embedding(tmp_path / "a.safetensors")


# Devices and dtypes


def test_bf16_answers_in_fp32_and_agrees(image):
    exact, coarse = build(), build(dtype=torch.bfloat16)
    assert coarse.sam.pixel_mean.dtype == torch.float32
    prompts = prompts_of_every_kind(exact, exact.embed(image))
    embedding = coarse.embed(image)
    assert embedding.features.dtype == torch.bfloat16
    for prompt in prompts:
        ours = coarse.predict(embedding, prompt, multimask=False)
        theirs = exact.predict(exact.embed(image), prompt, multimask=False)
        assert ours.low_res_logits.dtype == np.float32
        difference = np.abs(ours.low_res_logits - theirs.low_res_logits).max()
        assert difference < 0.1 * np.abs(theirs.low_res_logits).max()


def test_an_embedding_of_another_dtype_is_refused(embedding, tmp_path):
    path = tmp_path / "a.safetensors"
    save_embedding(embedding, path)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["dtype"] == "fp32"
    with pytest.raises(SamcliError) as error:
        load_embedding(path, build(dtype=torch.bfloat16))
    assert str(error.value) == (
        f"{path} was computed in fp32, but the model runs in bf16; "
        "run samcli embed again, or give the dtype it was made with"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_cuda_agrees_with_the_cpu(image, dtype):
    cpu, cuda = build(), build(device=torch.device("cuda"), dtype=dtype)
    prompts = prompts_of_every_kind(cpu, cpu.embed(image))
    answers = cuda.predict(cuda.embed(image), prompts), cpu.predict(cpu.embed(image), prompts)
    for ours, theirs in zip(*answers, strict=True):
        difference = np.abs(
            np.sort(ours.low_res_logits, axis=0) - np.sort(theirs.low_res_logits, axis=0)
        ).max()
        assert difference < 0.05 * np.abs(theirs.low_res_logits).max()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "unknown device 'gpu'; known: auto, cpu, mps, cuda, cuda:N"),
        ("cuda:x", "unknown device 'cuda:x'; known: auto, cpu, mps, cuda, cuda:N"),
        ("cuda:-1", "unknown device 'cuda:-1'; known: auto, cpu, mps, cuda, cuda:N"),
        ("cpu:0", "unknown device 'cpu:0'; known: auto, cpu, mps, cuda, cuda:N"),
        ("all", "unknown device 'all'; known: auto, cpu, mps, cuda, cuda:N"),
        ("mps", "device mps is not available here; use --device cpu"),
        ("cuda", "device cuda is not available here, there are 0 CUDA devices; use --device auto"),
        ("cuda:3", "device cuda:3 is not available here, there are 0 CUDA devices; use --device auto"),
    ],
)
def test_devices_that_are_unknown_or_not_there(name, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SamcliError) as error:
        find_device(name)
    assert str(error.value) == message


def test_devices_that_are_there(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [find_device(n).type for n in ("auto", "cpu", "mps")] == ["mps", "cpu", "mps"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(find_device(n)) for n in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float"}, "unknown dtype 'float'; known: fp32, bf16, fp16"),
        ({"dtype": "fp16", "device": "cpu"}, "dtype fp16 needs a GPU; use bf16 or fp32 on the CPU"),
        ({"threads": 0}, "threads is 0; give at least 1"),
    ],
)
def test_load_refuses_what_it_cannot_do(options, message):
    with pytest.raises(SamcliError) as error:
        load("tiny", **options)
    assert str(error.value) == message
