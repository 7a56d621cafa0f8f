"""A shared image in low rank gives what the cells give, and is used where it pays."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import reduced
import torch
from torch import Tensor

from samcli.models.lowrank import LowRankImage, SharedDecoder
from samcli.models.prompt_encoder import BOTTOM_RIGHT, FOREGROUND, PADDING, TOP_LEFT
from samcli.models.sam import Sam
from samcli.models.transformer import CellImage
from samcli.predictor import Predictor
from samcli.records import Box, Prompt
from samcli.weights import MODELS

KINDS = {"a click": (FOREGROUND, PADDING), "a box": (TOP_LEFT, BOTTOM_RIGHT), "a box and a click": (2, 3, 1)}


@pytest.fixture
def sam() -> Sam:
    """Norms and biases that show."""
    sam = reduced.build("vit_b").eval()
    generator = torch.Generator().manual_seed(5)
    for parameter in sam.mask_decoder.parameters():
        if parameter.ndim == 1:
            parameter.data += torch.randn(parameter.shape, generator=generator) / 5
    return sam


def answers(sam: Sam, kind: str, prompts: int, low_rank: bool, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Logits of some of the prompts, and the predicted IoU of all."""
    features = sam.encode_image(reduced.images(1)).embedding
    coords, labels = reduced.prompts(prompts, *KINDS[kind])
    sparse, dense = sam.prompt_encoder(coords, labels, None)
    positions, decoder = sam.prompt_encoder.get_dense_pe(), sam.mask_decoder
    cells = decoder.see(features, dense, positions)
    image = SharedDecoder(decoder, positions).see(features + dense) if low_rank else cells
    found = decoder.answer(image, sparse, multimask=None)
    return decoder.draw(found, rows, (features.shape[-2], features.shape[-1])), found.iou


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompts", [1, 5])
@torch.inference_mode()
def test_it_gives_what_the_cells_give(sam: Sam, kind: str, prompts: int) -> None:
    every = list(range(prompts))
    expected, expected_iou = answers(sam, kind, prompts, False, every)
    logits, iou = answers(sam, kind, prompts, True, every)
    assert expected.std() > 0.01
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (iou - expected_iou).abs().max() <= 1e-5 * expected_iou.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("large", ["answers", "what they cancel"])
@torch.inference_mode()
def test_in_16_bits_large_values_are_as_good_as_in_cells(sam: Sam, dtype: torch.dtype, large: str) -> None:
    block = sam.mask_decoder.transformer.blocks[0].cross_attn_image_to_token
    shift = torch.zeros(1, 256, 1, 1)
    if large == "answers":  # whose squares, summed over channels, are beyond fp16
        block.v_proj.weight *= 30
        block.out_proj.weight *= 30
    else:  # a constant in the cells that the answers take away: the variance is a small difference
        change = 2 * torch.randn(128, generator=torch.Generator().manual_seed(6))
        block.v_proj.bias -= change
        shift = (block.out_proj.weight @ change).view(1, 256, 1, 1)
    features = sam.encode_image(reduced.images(1)).embedding + shift
    coords, labels = reduced.prompts(3, *KINDS["a click"])
    found = {}
    for name, kind in (("exact", torch.float32), ("cells", dtype), ("low rank", dtype)):
        decoder = sam.mask_decoder.to(kind)
        sparse, dense = (x.to(kind) for x in sam.prompt_encoder(coords, labels, None))
        positions = sam.prompt_encoder.get_dense_pe().to(kind)
        cells = decoder.see(features.to(kind), dense, positions)
        shared = SharedDecoder(decoder, positions).see(features.to(kind) + dense)
        answers = decoder.answer(shared if name == "low rank" else cells, sparse, multimask=None)
        found[name] = decoder.draw(answers, range(3), (16, 16)).float()
    errors = {name: float((found[name] - found["exact"]).norm() / found["exact"].norm()) for name in found}
    assert errors["low rank"] <= 3 * errors["cells"] + 0.02, errors


@pytest.mark.parametrize("low_rank", [False, True])
@torch.inference_mode()
def test_only_the_prompts_asked_for_are_drawn(sam: Sam, low_rank: bool) -> None:
    every, _ = answers(sam, "a click", 6, low_rank, [0, 1, 2, 3, 4, 5])
    some, _ = answers(sam, "a click", 6, low_rank, [1, 2, 5])
    assert torch.equal(some, every[[1, 2, 5]])
    none, _ = answers(sam, "a click", 6, low_rank, [])
    assert none.numel() == 0


@pytest.mark.parametrize("together", [100, 10**9])  # cells: less than an image, all prompts at once
@torch.inference_mode()
def test_how_much_is_drawn_at_once_changes_nothing(
    sam: Sam, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = answers(sam, "a box", 4, True, [0, 1, 3])
    monkeypatch.setattr("samcli.models.mask_decoder.CPU_CELLS", together)
    drawn, _ = answers(sam, "a box", 4, True, [0, 1, 3])
    torch.testing.assert_close(drawn, expected, rtol=1e-5, atol=1e-5)


def view(predictor: Predictor, *prompts: Prompt) -> list[type]:
    """How the predictor looks at the image for these prompts."""
    seen = []
    answer = predictor.sam.mask_decoder.answer
    predictor.sam.mask_decoder.answer = (  # type: ignore[method-assign]
        lambda image, *args, **kwargs: seen.append(type(image)) or answer(image, *args, **kwargs)  # type: ignore[func-returns-value]
    )
    embedding = predictor.embed(np.zeros((40, 60, 3), np.uint8))
    predictor.predict(embedding, prompts)
    return seen


def test_it_is_used_for_few_tokens_without_a_mask(sam: Sam) -> None:
    predictor = Predictor(sam, MODELS["vit_b"], "a" * 64)
    assert view(predictor, Prompt(points=[(3, 4)]), Prompt(box=Box(1, 1, 9, 9))) == [LowRankImage] * 2
    many = Prompt(points=[(x, 2) for x in range(20)])
    masked = Prompt(box=Box(1, 1, 9, 9), mask=np.zeros(predictor.low_res_size, np.float32))
    assert view(predictor, many, masked) == [CellImage] * 2


def test_not_where_points_change_the_cells() -> None:
    predictor = Predictor(reduced.build("tiny"), MODELS["tiny"], "a" * 64)
    assert view(predictor, Prompt(points=[(3, 4)])) == [CellImage]


def test_an_image_is_prepared_once_and_never_taken_for_another(sam: Sam) -> None:
    predictor = Predictor(sam, MODELS["vit_b"], "a" * 64)
    rng = np.random.default_rng(0)
    first, second = (predictor.embed(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)) for _ in range(2))
    prompt = Prompt(points=[(30, 20)])
    logits = [predictor.predict(embedding, prompt).low_res_logits for embedding in (first, second, first)]
    assert np.array_equal(logits[0], logits[2])
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_answers_of_low_predicted_iou_are_not_drawn(sam: Sam) -> None:
    predictor = Predictor(sam, MODELS["vit_b"], "a" * 64)
    embedding = predictor.embed(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    points = np.random.default_rng(1).uniform(0, 40, (9, 1, 2))
    every, iou = predictor.decode(embedding, points, np.ones((9, 1)), multimask=True)
    assert every.shape == (27, *predictor.low_res_size)
    limit = float(iou.median())
    drawn, same_iou = predictor.decode(embedding, points, np.ones((9, 1)), multimask=True, min_iou=limit)
    assert torch.equal(iou, same_iou)
    assert torch.equal(drawn, every.unflatten(0, iou.shape)[iou > limit])
    none, _ = predictor.decode(embedding, points, np.ones((9, 1)), multimask=True, min_iou=1e9)
    assert len(none) == 0


def test_a_predictor_that_was_used_can_be_pickled(sam: Sam) -> None:
    predictor = Predictor(sam, MODELS["vit_b"], "a" * 64)
    embedding = predictor.embed(np.zeros((40, 60, 3), np.uint8))
    expected = predictor.predict(embedding, Prompt(points=[(3, 4)]))
    again = pickle.loads(pickle.dumps(predictor)).predict(embedding, Prompt(points=[(3, 4)]))
    assert np.array_equal(again.low_res_logits, expected.low_res_logits)
